"""The fits of a comparison: each fold of each model is a folder that appears whole or not at all.

A comparison that was killed goes on at the first fold that isn't there, and a network's fit that was killed in the
middle from its last checkpoint: a hidden folder beside the fold's, removed once that is there. Folds are independent by
construction: a fresh model, and a seed derived from (seed, model, fold).
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mien.core.errors import MienError
from mien.core.labels import LabelScheme
from mien.core.progress import progress, say
from mien.core.storage import (
    atomic_directory,
    digest_of,
    read_json,
    remove_leftovers,
    write_json,
    write_parquet,
    write_text,
)
from mien.core.types import Split
from mien.crossval.setup import Comparison, model_folder
from mien.evaluation.scores import check_predictions
from mien.evaluation.views import check_answers
from mien.models.choice import ModelChoice
from mien.training.checkpoints import Checkpoints
from mien.training.model_fit import fit_model

FIT_FILE = "fit.json"
"""What a fit was made by and of: its `run_id` is that of the comparison's configuration, so that no other uses it."""

VALIDATION_FILE = "validation.parquet"
"""Predictions of the inner split, by weights that never saw it: what may choose a model or calibrate it."""


def fold_seed(seed: int, *, model: str, fold: int) -> int:
    """Derive the seed of one fit.

    >>> fold_seed(0, model="vit_scratch", fold=1) == fold_seed(0, model="vit_scratch", fold=1)
    True
    """
    return int(digest_of([seed, model, fold], length=8), 16) % (2**31)


def fit_all(comparison: Comparison) -> list[dict[str, str]]:
    """Fit every fold of every model that isn't there; return the models that failed, and why."""
    _remove_others(comparison)
    pairs = [(choice, split) for choice in comparison.choices for split in comparison.splits]
    missing = [pair for pair in pairs if not (comparison.fold_path(*pair) / FIT_FILE).is_file()]
    if len(missing) < len(pairs):
        say(f"{len(pairs) - len(missing)} of {len(pairs)} fits are there already; going on with the rest.")
    failed: dict[str, dict[str, str]] = {}
    with progress("Fitting", total=len(missing)) as advance:
        for choice, split in missing:
            if choice.text not in failed:
                try:
                    _fit_fold(comparison, choice, split, on_epoch=advance.note)
                except Exception as error:  # one model that fails must not lose the others
                    failed[choice.text] = _record_failure(comparison, choice, error)
            advance(f"{choice.label} fold {split.fold}")
    return list(failed.values())


def _remove_others(comparison: Comparison) -> None:
    """Remove fits of another configuration, which a comparison that was refused later can have left here.

    A fit that doesn't say whose it is counts as another's: it is made again rather than believed.
    """
    others = [
        path.parent
        for path in sorted((comparison.out / "folds").glob(f"*/[0-9]*/{FIT_FILE}"))
        if read_json(path).get("run_id") != comparison.run_id
    ]
    if others:
        count = "1 fit" if len(others) == 1 else f"{len(others)} fits"
        say(f"{count} of another comparison in {comparison.out / 'folds'} can't be used here and will be replaced.")
    for folder in others:
        shutil.rmtree(folder)


def _fit_fold(comparison: Comparison, choice: ModelChoice, split: Split, *, on_epoch: Callable[[str], None]) -> None:
    seed = fold_seed(comparison.seed, model=choice.text, fold=split.fold)
    path = comparison.fold_path(choice, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    checkpoints = Checkpoints.beside(path, identity=digest_of([comparison.run_id, choice.text, split.fold]))
    fitted = fit_model(
        choice,
        dataset=comparison.dataset,
        clips=comparison.clips,
        train=split.train,
        validation=split.validation,
        settings=comparison.settings,
        seed=seed,
        on_epoch=on_epoch,
        checkpoints=checkpoints,
    )
    rows, logits = fitted.predict(split.test)
    predictions = predictions_table(rows, logits, comparison=comparison, choice=choice, fold=split.fold)
    # Here, so that a network that diverged is left out of the comparison instead of ending it.
    check = check_answers if comparison.clips.scheme.channels else check_predictions
    check(predictions, scheme=comparison.clips.scheme)
    inner_rows, inner_logits = fitted.predict_inner(split.validation)
    inner = predictions_table(inner_rows, inner_logits, comparison=comparison, choice=choice, fold=split.fold)
    with atomic_directory(path) as temporary:
        write_parquet(temporary / VALIDATION_FILE, inner)
        write_parquet(temporary / "predictions.parquet", predictions)
        fitted.save_weights(temporary / "weights.safetensors")
        facts = {"run_id": comparison.run_id, "model": choice.text, "fold": split.fold, "seed": seed}
        facts |= fitted.facts()
        if sweepable(choice, comparison.clips.scheme):
            facts["resampled_sweep"] = fitted.sweep(split.test, seed=seed).to_dict("records")
        write_json(temporary / FIT_FILE, facts)
    checkpoints.remove()


def sweepable(choice: ModelChoice, scheme: LabelScheme) -> bool:
    """Say whether a personal baseline's price can be shown: how scores fall as the expression gets more frequent."""
    return choice.baseline.kind != "none" and scheme.kind == "binary" and scheme.unit == "frame"


def predictions_table(
    rows: pd.DataFrame, logits: np.ndarray, *, comparison: Comparison, choice: ModelChoice, fold: int
) -> pd.DataFrame:
    """Return the predictions table of one fold (see docs/architecture.md for its columns)."""
    scheme = comparison.clips.scheme
    columns = ["clip_id", "recording_id", "segment_id", "participant_id", "group", "start_s", "end_s"]
    table = rows[columns].reset_index(drop=True)
    table.insert(0, "run", comparison.run_id)
    table.insert(1, "model", choice.text)
    table.insert(2, "fold", fold)
    answers = scheme.answers(logits)
    for column, name in enumerate(scheme.output_names):
        table[f"logit_{name}"] = logits[:, column].astype(np.float64)
    for column, name in enumerate(scheme.output_columns):
        table[name] = answers[:, column]
    # Where the target has channels, `target` is what folds were stratified by.
    for name in scheme.target_columns:
        table[name] = rows[name].to_numpy(dtype=np.float64)
    table["target"] = rows["target"].astype("Int64").to_numpy()
    table["face_found"] = rows["face_found"].to_numpy()
    return table


def _record_failure(comparison: Comparison, choice: ModelChoice, error: Exception) -> dict[str, str]:
    failure = {"name": choice.text, "reason": str(error) or type(error).__name__}
    if not isinstance(error, MienError):
        log = comparison.out / "logs" / f"{model_folder(choice)}.log"
        write_text(log, "".join(traceback.format_exception(error)))
        failure["log"] = str(log.relative_to(comparison.out))
        first_line = failure["reason"].splitlines()[0]
        failure["reason"] = f"{type(error).__name__}: {first_line} (traceback in {failure['log']})"
    say(f"{choice.label} failed and is left out: {failure['reason']}")
    return failure


def collect_predictions(comparison: Comparison, fitted: Sequence[ModelChoice], *, inner: bool = False) -> pd.DataFrame:
    """Return the predictions of all folds: of the tested participants, or of the inner splits."""
    name = VALIDATION_FILE if inner else "predictions.parquet"
    paths = [comparison.fold_path(choice, split) for choice in fitted for split in comparison.splits]
    return pd.concat([pd.read_parquet(path / name) for path in paths], ignore_index=True)


def fit_facts(comparison: Comparison, choice: ModelChoice) -> list[dict[str, Any]]:
    """Return what `fit.json` says of each fold."""
    return [read_json(comparison.fold_path(choice, split) / FIT_FILE) for split in comparison.splits]
