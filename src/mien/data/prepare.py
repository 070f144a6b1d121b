"""`prepare`: a study folder to a dataset. It can be killed at any moment; started again, it goes on where it was."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, overload

import pandas as pd

from mien.core.errors import UserError
from mien.core.progress import progress
from mien.core.purpose import check_purpose
from mien.core.storage import digest_of, read_json, remove_leftovers, write_csv, write_json, write_parquet
from mien.core.types import Problem
from mien.data.dataset import FORMAT, INFO_FILE, RECORDING_COLUMNS, Dataset
from mien.data.estimate import Estimate, estimate_work
from mien.data.layouts import ANNOTATION_COLUMNS
from mien.data.process import FACTS_FILE, Job, finished_facts
from mien.data.settings import PrepareConfig
from mien.data.signals import write_all_signals
from mien.data.study import Study, find_study
from mien.data.workers import run_jobs
from mien.media.detectors import make_detector
from mien.media.people import PICTURES_VERSION
from mien.media.speech import check_speech_detector

__all__ = ["Estimate", "PrepareConfig", "prepare"]

Facts = dict[str, Any]


@overload
def prepare(
    study_root: Path, *, out: Path, config: PrepareConfig | None = ..., dry_run: Literal[False] = ...
) -> Dataset: ...
@overload
def prepare(study_root: Path, *, out: Path, config: PrepareConfig | None = ..., dry_run: Literal[True]) -> Estimate: ...
def prepare(
    study_root: Path, *, out: Path, config: PrepareConfig | None = None, dry_run: bool = False
) -> Dataset | Estimate:
    """Turn a study into a dataset, or go on with one that isn't finished.

    Args:
        study_root: Folder of the study.
        out: Folder of the dataset; it may hold the same dataset, finished or not.
        config: Settings; None for the defaults.
        dry_run: Only estimate the work; nothing is written.

    Returns:
        The dataset, or the estimate.

    Raises:
        UserError: No study, an `out` that holds something else, or no recording that can be used.
        RefusedError: The study's purpose is hiring, employment or education.
    """
    study_root, out, config = Path(study_root), Path(out), config or PrepareConfig()
    study = find_study(study_root, layout=config.layout, media=config.media, keep_key=not dry_run)
    check_purpose(study.purpose, where="study.yaml")
    if dry_run:
        return estimate_work(study, config=config)
    if config.speech != "none":
        check_speech_detector(config.speech)
    detector = make_detector(config.detector).name
    _check_out(out, study=study, settings=config.resolved(detector=detector))
    folders = out / "recordings"
    folders.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    remove_leftovers(folders)
    facts, problems = _prepare_recordings(study, folders=folders, config=config, detector=detector)
    if not facts:
        first = problems[-1]
        raise UserError(
            f"None of the {len(study.recordings)} recordings of {study_root} can be used. "
            f"{first.recording}: {first.reason}. {first.advice}"
        )
    _remove_strangers(folders, known={fact["recording_id"] for fact in facts})
    signals = write_all_signals(
        study.signals,
        folders=folders,
        ends_s={fact["recording_id"]: fact["duration_s"] for fact in facts},
        rate_hz=config.signals_hz,
        problems=problems,
    )
    settings = config.resolved(detector=detector)
    _write_tables(out, study=study, facts=facts, problems=problems, settings=settings, signals=signals)
    return Dataset.open(out)


def _check_out(out: Path, *, study: Study, settings: Mapping[str, Any]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Name a folder.")
    if out.resolve() == study.root.resolve():
        raise UserError(f"--out {out} is the study itself. Name another folder: recordings are only read.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / INFO_FILE).is_file():
        if not _is_unfinished(out):
            raise UserError(f"--out {out} isn't empty and isn't a dataset of mien. Choose another --out.")
        return
    before = read_json(out / INFO_FILE)
    stored = before.get("config", {})
    changed = [
        f"{name} {stored.get(name)!r} there, {value!r} asked"
        for name, value in settings.items()
        if stored.get(name) != value
    ]
    if before.get("format") != FORMAT:
        changed.append(f"format {before.get('format')!r} there, {FORMAT!r} now")
    if before.get("pictures", 1) != PICTURES_VERSION:
        changed.append("faces found as by another version of mien")
    if before.get("study", {}).get("name") != study.name:
        changed.append(f"study {before.get('study', {}).get('name')!r} there, {study.name!r} asked")
    if before.get("study", {}).get("ids_key", "") != study.ids_key:
        changed.append("ids hashed with another key (participants.key), or only one of both hashed")
    if changed:
        raise UserError(
            f"{out} holds a finished dataset with other settings ({'; '.join(changed)}). Choose another --out."
        )


def _is_unfinished(out: Path) -> bool:
    """Return whether a folder without dataset.json is what a killed run left: anything else isn't written into."""
    folders = out / "recordings"
    if not folders.is_dir():
        return False
    visible = [path for path in folders.iterdir() if not path.name.startswith(".")]
    if visible:
        return all((path / FACTS_FILE).is_file() for path in visible)
    return all(path == folders or path.name.startswith(".") for path in out.iterdir())


def _prepare_recordings(
    study: Study, *, folders: Path, config: PrepareConfig, detector: str
) -> tuple[list[Facts], list[Problem]]:
    """Prepare what isn't prepared yet; return the facts of all that can be used, by id, and what went wrong."""
    jobs = [Job(r, root=study.root, folder=folders / r.recording_id, config=config) for r in study.recordings]
    pending = [job for job in jobs if finished_facts(job, detector=detector) is None]
    waiting = {job.recording.recording_id for job in pending}
    problems = list(study.problems)
    failed: dict[str, Problem] = {}
    with progress("prepare", total=len(jobs)) as advance:
        for job in jobs:
            if job.recording.recording_id not in waiting:
                advance(job.recording.recording_id)

        def done(job: Job, problem: Problem | None) -> None:
            if problem is not None:
                failed[job.recording.recording_id] = problem
                # What an earlier run made with other settings, or of the file as it was.
                shutil.rmtree(job.folder, ignore_errors=True)
            advance(job.recording.recording_id)

        if pending:
            # A dataset whose recordings change isn't finished until its tables are written again.
            _set_aside(folders.parent)
        run_jobs(pending, detector=config.detector, num_workers=config.num_workers, done=done)
    facts = [read_json(job.folder / FACTS_FILE) for job in jobs if job.recording.recording_id not in failed]
    for fact in facts:
        problems.extend(Problem(**problem) for problem in fact["problems"])
    # Sorted, because recordings finish in any order.
    return facts, [*problems, *(failed[name] for name in sorted(failed))]


def _remove_strangers(folders: Path, *, known: Iterable[str]) -> None:
    """Remove recordings that an earlier run prepared and the study no longer has."""
    keep = set(known)
    for folder in sorted(folders.iterdir()):
        if folder.name not in keep and (folder / FACTS_FILE).is_file():
            shutil.rmtree(folder)


def _write_tables(
    out: Path,
    *,
    study: Study,
    facts: Sequence[Facts],
    problems: Sequence[Problem],
    settings: Mapping[str, Any],
    signals: Mapping[str, Facts],
) -> None:
    # Without dataset.json the folder isn't a dataset, so a kill between two tables can't leave a mixed one.
    _set_aside(out)
    recordings, attributes = _recordings_table(facts)
    annotations, other_faces = _annotations_table(study, facts=facts, face=settings["face"])
    problems = [*problems, *other_faces]
    coded = _ended(study.coded, "to_s", facts=facts)
    tables = {"annotations": annotations, "coded": coded, "segments": study.segments}
    used = set(recordings["recording_id"])
    tables = {name: table[table["recording_id"].isin(used)].reset_index(drop=True) for name, table in tables.items()}
    write_parquet(out / "recordings.parquet", recordings)
    write_csv(out / "failures.csv", pd.DataFrame([asdict(p) for p in problems], columns=_PROBLEM_COLUMNS))
    for name, table in tables.items():
        if name == "annotations" or len(table):
            write_parquet(out / f"{name}.parquet", table)
        else:
            (out / f"{name}.parquet").unlink(missing_ok=True)
    info = {
        "format": FORMAT,
        "mien": version("mien"),
        "pictures": PICTURES_VERSION,
        "study": {name: getattr(study, name) for name in _STUDY_FACTS},
        "config": dict(settings),
        "attributes": attributes,
        "signals": _signal_units(signals),
        "signal_sources": _signal_sources(signals),
        "num_recordings": len(recordings),
        "num_participants": recordings["participant_id"].nunique(),
        "num_failures": len(problems),
        "content_hash": _content_hash(study, facts=facts, tables=tables, settings=settings, signals=signals),
    }
    withdrawn = out / WITHDRAWN_FILE
    write_json(out / INFO_FILE, info | (read_json(withdrawn) if withdrawn.is_file() else {}))
    withdrawn.unlink(missing_ok=True)


def _set_aside(out: Path) -> None:
    """Make a dataset an unfinished one; what it says of participants who withdrew is kept for when it is finished."""
    if not (out / INFO_FILE).is_file():
        return
    info = read_json(out / INFO_FILE)
    if kept := {name: info[name] for name in WITHDRAWN_FACTS if name in info}:
        write_json(out / WITHDRAWN_FILE, kept)
    (out / INFO_FILE).unlink()


def _content_hash(
    study: Study,
    *,
    facts: Sequence[Facts],
    tables: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
    signals: Mapping[str, Facts],
) -> str:
    content = {
        "recordings": [[fact[name] for name in _CONTENT] for fact in facts],
        "pictures": PICTURES_VERSION,
        "config": dict(settings),
        # Named only where one is: datasets of before keep their hash.
        "study": [study.label_source, study.unit, *filter(None, [study.annotator])],
        "signals": {name: fact["digest"] for name, fact in signals.items()},
        "tables": {name: json.loads(table.to_json(orient="values")) for name, table in tables.items()},
    }
    return digest_of(content, length=64)


def _signal_units(signals: Mapping[str, Facts]) -> dict[str, str]:
    """Return the unit of every channel that any recording has."""
    units: dict[str, str] = {}
    for fact in signals.values():
        for name, unit in zip(fact["names"], fact["units"], strict=True):
            units.setdefault(name, unit)
    return dict(sorted(units.items()))


def _signal_sources(signals: Mapping[str, Facts]) -> dict[str, str]:
    """Return the sensor or tool of every channel that any recording has."""
    sources: dict[str, str] = {}
    for fact in signals.values():
        for name, source in zip(fact["names"], fact["sources"], strict=True):
            sources.setdefault(name, source)
    return dict(sorted(sources.items()))


def _ended(table: pd.DataFrame, column: str, *, facts: Sequence[Facts]) -> pd.DataFrame:
    """Return intervals without an end as ending with their recording."""
    ends_s = {fact["recording_id"]: fact["duration_s"] for fact in facts}
    open_ended = table[column] == math.inf
    return table.assign(**{column: table[column].where(~open_ended, table["recording_id"].map(ends_s))})


_LATE = (
    "They are kept, but no frame can have them. Correct the times (a plain study's are in s from the start of the "
    "recording) or the match of table and recording, and run prepare again."
)
NEAR_S = 0.5
"""Clocks of exports are off by so much; what they put before the recording by less is cut without a word."""

FAR_S = 60.0
"""An annotation that ends by more than this, and by more than the recording's length, after it has an end that nobody
saw: a typing error, or a time in ms. By less it may be of another cut; the audit's clock check fails then."""

_OUTSIDE = "Correct the times (s from the start of the recording) and run prepare again, or leave it if that is meant."
_PROBLEM_COLUMNS = ["recording", "stage", "reason", "advice"]
_STUDY_FACTS = ("name", "layout", "label_source", "purpose", "consent", "licence", "unit", "annotator", "ids_key")
WITHDRAWN_FACTS = ("previous_hashes", "removed_participants", "removed_digests")
"""What `mien purge` adds to `dataset.json`: by it results are found that were made before somebody withdrew."""
WITHDRAWN_FILE = ".withdrawn"
"""One dot: files with two are leftovers of killed writers."""

_CONTENT = ("recording_id", "participant_id", "group", "session", "camera", "attributes", "sha256")


def _recordings_table(facts: Sequence[Facts]) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per recording, and the names of the attribute columns."""
    table = pd.DataFrame([{name: fact.get(name) for name in RECORDING_COLUMNS} for fact in facts])
    table = table.astype(RECORDING_COLUMNS)
    given = sorted({name for fact in facts for name in fact["attributes"]})
    attributes = []
    for name in given:
        values = [fact["attributes"].get(name) for fact in facts]
        column = f"{name}_given" if name in RECORDING_COLUMNS else name
        numeric = all(value is None or isinstance(value, float) for value in values)
        texts = [value if value is None or isinstance(value, str) else f"{value:g}" for value in values]
        table[column] = pd.Series(values, dtype="float64") if numeric else pd.Series(texts, dtype="object")
        attributes.append(column)
    return table, attributes


def _annotations_table(study: Study, *, facts: Sequence[Facts], face: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the annotations of the chosen face, those without an end ending with their recording, and what is odd."""
    ends_s = {fact["recording_id"]: fact["duration_s"] for fact in facts}
    table = study.annotations[study.annotations["recording_id"].isin(list(ends_s))]
    other = table[~table["face"].isin(["", face])]
    problems = [
        Problem(
            str(recording_id),
            "annotations",
            f"{len(rows)} annotations are of the face {' and '.join(sorted(set(rows['face'])))!r}, not of {face!r}",
            "Prepare with that --face into another --out, or leave the cell empty where there is one face.",
        )
        for recording_id, rows in other.groupby("recording_id")
    ]
    table = table.drop(index=other.index)[list(ANNOTATION_COLUMNS)].reset_index(drop=True)
    table = _ended(table, "offset_s", facts=facts).astype({"offset_s": "float64"})
    problems = [*problems, *_starts_after_end(table, ends_s=ends_s)]
    table, outside = _within_recordings(table, ends_s=ends_s)
    return table, [*problems, *outside]


def _within_recordings(table: pd.DataFrame, *, ends_s: Mapping[str, float]) -> tuple[pd.DataFrame, list[Problem]]:
    """Return annotations cut to their recordings, and a problem per recording where that changed much.

    What ends a little later than its recording stays: that is how far its clock is off, and the audit measures it. One
    that lies after its recording as a whole stays, too: no frame can have it, and `_starts_after_end` has told of it.
    """
    last_s = table["recording_id"].map(ends_s).astype("float64")
    inside = (table["onset_s"] < last_s) & (table["offset_s"] > 0)
    early = (table["onset_s"] < 0) & inside
    endless = (table["offset_s"] > last_s + last_s.clip(lower=FAR_S)) & inside
    told = {
        "start before the recording, and were cut at its start": early & (table["onset_s"] < -NEAR_S),
        "end long after the recording, and were cut at its end": endless,
        "lie before the recording, so that no frame can have them": table["offset_s"] < -NEAR_S,
    }
    problems = []
    for name, rows in table.groupby("recording_id").groups.items():
        counts = {said: int(mask.loc[rows].sum()) for said, mask in told.items()}
        found = "; ".join(f"{count} of {len(rows)} annotations {said}" for said, count in counts.items() if count)
        if found:
            reason = f"{found} (it is {ends_s[str(name)]:.1f} s long)"
            problems.append(Problem(str(name), "annotations", reason, _OUTSIDE))
    onsets_s, offsets_s = table["onset_s"].mask(early, 0.0), table["offset_s"].mask(endless, last_s)
    return table.assign(onset_s=onsets_s, offset_s=offsets_s), problems


def _starts_after_end(table: pd.DataFrame, *, ends_s: Mapping[str, float]) -> list[Problem]:
    """Return a problem per recording with annotations that no frame can have; one in all where most have them."""
    late = table["onset_s"] >= table["recording_id"].map(ends_s).astype("float64")
    rows = [
        (str(name), int(part.sum()), len(part), f"the end of the recording ({ends_s[str(name)]:.1f} s)")
        for name, part in late.groupby(table["recording_id"])
        if part.any()
    ]
    num_annotated = table["recording_id"].nunique()
    if len(rows) > 1 and len(rows) > num_annotated / 2:
        where = f"the end of their recordings, in {len(rows)} of {num_annotated} recordings"
        rows = [("all recordings", int(late.sum()), len(table), where)]
    return [
        Problem(name, "annotations", f"{count} of {total} annotations start after {end}; are the times in ms?", _LATE)
        for name, count, total, end in rows
    ]
