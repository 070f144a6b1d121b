"""The log of who looked at a target's scores: `DATASET/attempts.csv`, a line per run and model, only ever added to.

Trying twenty configurations and showing the best one is a common way to a result that doesn't hold. Whoever reads a
comparison is told how many there were. The log lies in the dataset: one that is prepared elsewhere starts at none.

Three commands look: `compare` and `train`, which try configurations, and `audit` with a target, which prints what its
reference probes score on people that they never saw. These are no configurations: nothing is chosen by them, and every
comparison shows them too. But whoever has seen them knows of the outcome, so that a plan written later comes too late.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from mien.core.errors import UserError
from mien.core.storage import digest_of
from mien.data.target_lists import SEPARATOR

ATTEMPTS_FILE = "attempts.csv"
COLUMNS = ("target", "run_id", "model", "settings", "seed", "when")

LOOKS = {"audit": "audit-", "training": "training-"}
"""By what is no comparison the beginning of its run_id."""


def utc_now() -> str:
    """Return the present time as ISO 8601 in UTC, to the millisecond: such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def record_attempts(
    dataset_path: Path,
    *,
    target: str,
    run_id: str,
    models: Sequence[str],
    settings: Any,
    seed: int,
    when: str | None = None,
) -> int:
    """Add the models of a run to the log, before the first of them is fitted (`mien audit`: before it scores).

    A run that is resumed adds nothing: lines are told apart by target, run and model. Lines are appended in one write,
    so two runs at once lose nothing, and a line that a kill left half written doesn't count.

    Args:
        dataset_path: Folder of the dataset.
        target: The target.
        run_id: The run; of an audit or a training it begins as `LOOKS` says.
        models: The models with their backbones and personal baselines, such as `linear_probe@hog+recording`.
        settings: All else that decides how they are fitted (JSON-able), so that a model with other settings counts as
            another configuration.
        seed: Seed of the run.
        when: Time in UTC (ISO 8601), None for now.

    Returns:
        How many lines were added.

    Raises:
        UserError: The log can't be written.
    """
    path = Path(dataset_path) / ATTEMPTS_FILE
    when = when or utc_now()
    there = {(row["target"], row["run_id"], row["model"]) for row in read_attempts(dataset_path).to_dict("records")}
    new = [
        (target, run_id, model, digest_of(settings), str(seed), when)
        for model in dict.fromkeys(models)
        if (target, run_id, model) not in there
    ]
    if not new:
        return 0
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(new)
    try:
        _append(path, text.getvalue())
    except OSError as error:
        raise UserError(
            f"Can't write {path} ({error.strerror}), where the configurations tried on a dataset are counted. Make the "
            "dataset's folder writable."
        ) from error
    return len(new)


def read_attempts(dataset_path: Path) -> pd.DataFrame:
    """Return the log: target, run_id, model, settings (digest), seed, when; each target, run and model once.

    Raises:
        UserError: The log can't be read.
    """
    path = Path(dataset_path) / ATTEMPTS_FILE
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Can't read {path} ({error}); restore it from a copy of the dataset.") from error
    # What isn't a whole line was cut off by a kill; two runs that began the file together both wrote its header.
    rows = [next(csv.reader([line]), []) for line in text.splitlines()]
    whole = [row for row in rows if len(row) == len(COLUMNS) and tuple(row) != COLUMNS]
    table = pd.DataFrame(whole, columns=list(COLUMNS), dtype="object")
    return table.drop_duplicates(["target", "run_id", "model"]).reset_index(drop=True)


def count_configurations(dataset_path: Path, target: str, *, before: str | None = None) -> int:
    """Return how many configurations were tried on a target: distinct models with their settings, whatever the seed.

    Reference probes of audits aren't among them (see above).

    Args:
        dataset_path: Folder of the dataset.
        target: The target.
        before: Count what was tried before this time (ISO 8601, UTC); None for all.
    """
    tried = _tried(dataset_path, target, before=before)
    tried = tried[~tried["run_id"].str.startswith(LOOKS["audit"])]
    return len(tried.drop_duplicates(["model", "settings"]))


def count_runs(dataset_path: Path, target: str, *, before: str | None = None) -> int:
    """Return how many comparisons, trainings and audits were run on a target (see `count_configurations`)."""
    return int(_tried(dataset_path, target, before=before)["run_id"].nunique())


def describe_runs(dataset_path: Path, target: str, *, before: str | None = None) -> str:
    """Return what was run on a target in words, such as "1 audit and 2 comparisons"; empty where nothing was."""
    runs = _tried(dataset_path, target, before=before)["run_id"].drop_duplicates()
    counts = {what: int(runs.str.startswith(begins).sum()) for what, begins in LOOKS.items()}
    counts["comparison"] = len(runs) - sum(counts.values())
    said = [f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items() if count]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def _tried(dataset_path: Path, target: str, *, before: str | None) -> pd.DataFrame:
    table = read_attempts(dataset_path)
    # Whoever tried Smile,Speaking has looked at Smile: targets that share a channel count for each other.
    asked = set(target.split(SEPARATOR))
    chosen = table["target"].map(lambda tried: tried == target or not asked.isdisjoint(tried.split(SEPARATOR)))
    chosen = chosen.astype(bool)
    return table[chosen if before is None else chosen & (table["when"] < before)]


def _append(path: Path, lines: str) -> None:
    """Append whole lines in one write; a header where the file is new, a line end where it lacks its last one."""
    header = ",".join(COLUMNS) + "\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size:
            os.lseek(handle, size - 1, os.SEEK_SET)
            header = "" if os.read(handle, 1) == b"\n" else "\n"
        os.write(handle, (header + lines).encode())
        os.fsync(handle)
    finally:
        os.close(handle)
