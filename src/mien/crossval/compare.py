"""`mien compare`: every model on the same participant-wise folds, resumable fold by fold, to one report.

Each fold of each model is a folder that appears whole or not at all; a comparison that was killed goes on at the first
one that isn't there. Folds are independent by construction: a fresh model, and a seed derived from (seed, model, fold).
"""

from __future__ import annotations

import dataclasses
import platform
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mien.core.errors import MienError, UserError
from mien.core.progress import progress, say
from mien.core.storage import (
    atomic_directory,
    check_output_folder,
    digest_of,
    read_json,
    remove_leftovers,
    write_csv,
    write_json,
    write_parquet,
    write_text,
)
from mien.core.types import Split
from mien.crossval.comparison import build_comparison
from mien.data.clips import ClipIndex, build_clips
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.evaluation.baselines import trivial_scores
from mien.evaluation.scores import check_predictions, participant_scores
from mien.models.choice import ModelChoice, parse_models
from mien.report.comparison_report import write_comparison_report
from mien.training.checks import check_baseline, check_model, weights_digest
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings

VERSIONED = (
    "mien",
    "torch",
    "lightning",
    "transformers",
    "numpy",
    "scikit-learn",
    "onnxruntime",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class Comparison:
    """A comparison that is ready to run, or to go on.

    Attributes:
        dataset: What it is run on.
        clips: The clips of the target.
        choices: The models.
        splits: The folds.
        settings: How models are fitted.
        seed: The seed that all others are derived from.
        out: The run's folder.
    """

    dataset: Dataset
    clips: ClipIndex
    choices: tuple[ModelChoice, ...]
    splits: tuple[Split, ...]
    settings: FitSettings
    seed: int
    out: Path

    def configuration(self) -> dict[str, Any]:
        """Return what decides the result; two runs with the same have the same predictions."""
        return {
            "dataset_hash": self.dataset.content_hash,
            "target": self.clips.scheme.target,
            "models": [choice.text for choice in self.choices],
            "baselines": [str(choice.baseline) for choice in self.choices],
            "folds": len(self.splits),
            "splits": [dataclasses.asdict(split) for split in self.splits],
            "seed": self.seed,
            "settings": self.settings.to_json(),
            "weights": [weights_digest(choice, settings=self.settings) for choice in self.choices],
        }

    @property
    def run_id(self) -> str:
        """Digest of the configuration."""
        return digest_of(self.configuration())

    def fold_path(self, choice: ModelChoice, split: Split) -> Path:
        """Folder of one fit."""
        return self.out / "folds" / model_folder(choice) / str(split.fold)


def plan_comparison(
    dataset_path: Path,
    *,
    target: str,
    models: str | Sequence[str],
    out: Path,
    folds: int | Literal["loo"] = 5,
    seed: int = 0,
    baseline: str = "none",
    settings: FitSettings | None = None,
) -> Comparison:
    """Check everything that can be checked before anything is fitted.

    Args:
        dataset_path: What `mien prepare` wrote.
        target: Name of the target.
        models: Models as `NAME[@BACKBONE][+BASELINE]`, a list or separated by commas.
        out: The run's folder.
        folds: Number of folds, or `loo` (one group per fold).
        seed: Seed.
        baseline: Personal baseline of the models that don't name their own.
        settings: How models are fitted.

    Raises:
        UserError: Anything wrong: dataset, target, models, weights, folds, or a run folder of another comparison.
        RefusedError: A personal baseline where the label is constant per recording.
    """
    settings = settings or FitSettings()
    check_output_folder(out, marker="run.json", what="run")
    choices = tuple(parse_models(models, default_baseline=baseline))
    dataset = Dataset.open(dataset_path)
    clips = build_clips(dataset, target=target)
    splits = tuple(make_folds(clips, folds=folds, seed=seed))
    for choice in choices:
        check_model(choice, dataset=dataset, settings=settings)
        check_baseline(choice, clips=clips)
    comparison = Comparison(dataset, clips, choices, splits, settings, seed, out)
    _check_run_folder(comparison)
    return comparison


def run_comparison(comparison: Comparison, *, command: str = "") -> Path:
    """Fit what isn't fitted yet, score, and write the report.

    Args:
        comparison: From `plan_comparison`.
        command: The command line, written into the run so that it can be repeated.

    Returns:
        Path of `report.html`.

    Raises:
        MienError: Every model failed; the reason of the first.
    """
    out = comparison.out
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    write_json(out / "run.json", _run_facts(comparison, command=command))
    failed = _fit_all(comparison)
    fitted = [choice for choice in comparison.choices if choice.text not in {item["name"] for item in failed}]
    if not fitted:
        message = f"Every model failed. {failed[0]['name']}: {failed[0]['reason']}"
        # Wrong input and bugs have different exit statuses.
        raise RuntimeError(message) if all("log" in item for item in failed) else UserError(message)
    predictions = _collect_predictions(comparison, fitted)
    write_parquet(out / "predictions.parquet", predictions)
    clips = comparison.clips
    trivial = trivial_scores(clips=clips.table, splits=comparison.splits, scheme=clips.scheme, seed=comparison.seed)
    scores = pd.concat([participant_scores(predictions, clips.scheme), trivial], ignore_index=True)
    write_csv(out / "scores.csv", scores)
    fits = {choice.text: _fit_facts(comparison, choice) for choice in fitted}
    write_json(
        out / "comparison.json",
        build_comparison(
            dataset=comparison.dataset,
            clips=comparison.clips,
            splits=comparison.splits,
            choices=fitted,
            scores=scores,
            fits=fits,
            failed=failed,
            facts=read_json(out / "run.json"),
        ),
    )
    return write_comparison_report(out)


def model_folder(choice: ModelChoice) -> str:
    """Return a readable folder name that no other model has."""
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in choice.label)
    return f"{safe}-{digest_of([choice.name, choice.backbone, str(choice.baseline)], length=6)}"


def fold_seed(seed: int, *, model: str, fold: int) -> int:
    """Derive the seed of one fit.

    >>> fold_seed(0, model="vit_scratch", fold=1) == fold_seed(0, model="vit_scratch", fold=1)
    True
    """
    return int(digest_of([seed, model, fold], length=8), 16) % (2**31)


def _check_run_folder(comparison: Comparison) -> None:
    manifest = comparison.out / "run.json"
    if manifest.is_file() and read_json(manifest).get("run_id") != comparison.run_id:
        raise UserError(
            f"{comparison.out} holds another comparison (other data, models, weights, folds, seed or settings). "
            "Give another --out, or remove that folder."
        )


def _run_facts(comparison: Comparison, *, command: str) -> dict[str, Any]:
    import torch

    versions = {name: version(name) for name in VERSIONED} | {"python": platform.python_version()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"
    return {
        "run_id": comparison.run_id,
        "command": command,
        "dataset": str(comparison.dataset.path),
        "device": device,
        "versions": versions,
        **comparison.configuration(),
    }


def _fit_all(comparison: Comparison) -> list[dict[str, str]]:
    """Fit every fold of every model that isn't there; return the models that failed, and why."""
    pairs = [(choice, split) for choice in comparison.choices for split in comparison.splits]
    missing = [pair for pair in pairs if not (comparison.fold_path(*pair) / "fit.json").is_file()]
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


def _fit_fold(comparison: Comparison, choice: ModelChoice, split: Split, *, on_epoch: Callable[[str], None]) -> None:
    seed = fold_seed(comparison.seed, model=choice.text, fold=split.fold)
    path = comparison.fold_path(choice, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    fitted = fit_model(
        choice,
        dataset=comparison.dataset,
        clips=comparison.clips,
        train=split.train,
        validation=split.validation,
        settings=comparison.settings,
        seed=seed,
        on_epoch=on_epoch,
    )
    rows, logits = fitted.predict(split.test)
    predictions = predictions_table(rows, logits, comparison=comparison, choice=choice, fold=split.fold)
    # Here, so that a network that diverged is left out of the comparison instead of ending it.
    check_predictions(predictions, comparison.clips.scheme)
    with atomic_directory(path) as temporary:
        write_parquet(temporary / "predictions.parquet", predictions)
        fitted.save_weights(temporary / "weights.safetensors")
        write_json(temporary / "fit.json", {"model": choice.text, "fold": split.fold, "seed": seed, **fitted.facts()})


def predictions_table(
    rows: pd.DataFrame, logits: np.ndarray, *, comparison: Comparison, choice: ModelChoice, fold: int
) -> pd.DataFrame:
    """Return the predictions table of one fold (see docs/architecture.md for its columns)."""
    scheme = comparison.clips.scheme
    columns = ["clip_id", "recording_id", "participant_id", "start_s", "end_s"]
    table = rows[columns].reset_index(drop=True)
    table.insert(0, "run", comparison.run_id)
    table.insert(1, "model", choice.text)
    table.insert(2, "fold", fold)
    probabilities = scheme.probabilities(logits)
    for column, name in enumerate(scheme.output_names):
        table[f"logit_{name}"] = logits[:, column].astype(np.float64)
    for column, name in enumerate(scheme.output_names):
        table[f"prob_{name}"] = probabilities[:, column]
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


def _collect_predictions(comparison: Comparison, fitted: Sequence[ModelChoice]) -> pd.DataFrame:
    paths = [comparison.fold_path(choice, split) for choice in fitted for split in comparison.splits]
    return pd.concat([pd.read_parquet(path / "predictions.parquet") for path in paths], ignore_index=True)


def _fit_facts(comparison: Comparison, choice: ModelChoice) -> list[dict[str, Any]]:
    return [read_json(comparison.fold_path(choice, split) / "fit.json") for split in comparison.splits]
