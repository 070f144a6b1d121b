"""A comparison that is checked and ready to run: who is one person, who is tested when, which models, what settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mien.audit.check import check_overrides
from mien.audit.run import Audit, audit_people
from mien.core.errors import UserError, unknown_name
from mien.core.storage import check_output_folder, digest_of, read_json
from mien.core.types import Split
from mien.crossval.plan import Confirmatory, check_plan
from mien.data.clips import ClipIndex, build_clips
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.models.choice import ModelChoice, parse_models
from mien.training.checks import check_baseline, check_model, weights_digest
from mien.training.settings import FitSettings


@dataclass(frozen=True)
class Comparison:
    """A comparison that is ready to run, or to go on.

    Attributes:
        dataset: What it is run on.
        clips: The clips of the target, participants that are copies of one another merged.
        choices: The models.
        splits: The folds; none where the audit refuses before anybody can be split.
        settings: How models are fitted.
        seed: The seed that all others are derived from.
        out: The run's folder.
        audit: What was checked so far: people and labels. The rest needs the folds, and is checked by the run.
        reference: The model that all others are held against.
        confirmatory: Whether a plan is followed, which, and why not (see `mien.crossval.plan`).
    """

    dataset: Dataset
    clips: ClipIndex
    choices: tuple[ModelChoice, ...]
    splits: tuple[Split, ...]
    settings: FitSettings
    seed: int
    out: Path
    audit: Audit
    reference: ModelChoice
    confirmatory: Confirmatory | None = None

    def configuration(self) -> dict[str, Any]:
        """Return what decides the result; two runs with the same have the same predictions."""
        return {
            "dataset_hash": self.dataset.content_hash,
            "target": self.clips.scheme.target,
            "unit": self.clips.scheme.unit,
            "models": [choice.text for choice in self.choices],
            "baselines": [str(choice.baseline) for choice in self.choices],
            "folds": len(self.splits),
            "splits": [dataclasses.asdict(split) for split in self.splits],
            "seed": self.seed,
            "settings": self.settings.to_json(),
            "weights": [weights_digest(choice, settings=self.settings) for choice in self.choices],
            "merged_participants": [list(ids) for ids in self.audit.merged],
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
    overrides: Sequence[str] = (),
    reference: str | None = None,
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
        overrides: Checks of the audit whose failure shall not stop the comparison.
        reference: The model that all others are held against; the first linear probe by default, else the first model.

    Returns:
        The comparison. Where the audit refuses it (`audit.refusals`), `run_comparison` says so and fits nothing.

    Raises:
        UserError: Anything wrong: dataset, target, models, weights, folds, an edited plan, or a run folder of another
            comparison.
        RefusedError: A personal baseline where the label is constant per recording.
    """
    settings = settings or FitSettings()
    check_output_folder(out, marker="run.json", what="run")
    choices = tuple(parse_models(models, default_baseline=baseline))
    dataset = Dataset.open(dataset_path)
    for choice in choices:
        check_model(choice, dataset=dataset, settings=settings)
    held_against = _reference(choices, name=reference)
    audit = audit_people(
        dataset, clips=build_clips(dataset, target=target), overrides=check_overrides(overrides), seed=seed
    )
    assert audit.clips is not None, "an audit with a target has its clips"
    if audit.refusals:
        refused = Comparison(dataset, audit.clips, choices, (), settings, seed, out, audit, held_against)
        _check_run_folder(refused)
        return refused
    splits = tuple(make_folds(audit.clips, folds=folds, seed=seed))
    for choice in choices:
        check_baseline(choice, dataset=dataset, clips=audit.clips)
    plan = check_plan(dataset.path, target=target, models=choices, folds=len(splits), seed=seed, settings=settings)
    comparison = Comparison(dataset, audit.clips, choices, splits, settings, seed, out, audit, held_against, plan)
    _check_run_folder(comparison)
    return comparison


def model_folder(choice: ModelChoice) -> str:
    """Return a readable folder name that no other model has."""
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in choice.label)
    return f"{safe}-{digest_of([choice.name, choice.backbone, str(choice.baseline)], length=6)}"


def _reference(choices: Sequence[ModelChoice], *, name: str | None) -> ModelChoice:
    if name is None:
        return next((choice for choice in choices if choice.is_probe), choices[0])
    found = next((choice for choice in choices if choice.text == name.strip()), None)
    if found is None:
        raise unknown_name("reference model", got=name, allowed=[choice.text for choice in choices])
    return found


def _check_run_folder(comparison: Comparison) -> None:
    manifest = comparison.out / "run.json"
    if not manifest.is_file():
        return
    there = read_json(manifest)
    if there.get("refused") or there.get("run_id") == comparison.run_id:
        return  # a refusal holds no fits that could be mixed up
    asked = comparison.configuration()
    others = (
        ", ".join(key for key, value in _digests(asked).items() if _digests(there).get(key) != value) or "a version"
    )
    raise UserError(
        f"{comparison.out} holds another comparison (it differs in: {others}). "
        "Give another --out, or remove that folder."
    )


def _digests(configuration: dict[str, Any]) -> dict[str, str]:
    """Return a digest per key of a configuration, so that two can be told apart key by key."""
    return {key: digest_of({key: value}) for key, value in configuration.items()}
