"""A comparison that is checked and ready to run: who is one person, who is tested when, which models, what settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mien.audit.check import check_overrides
from mien.audit.run import Audit, audit_target
from mien.core.errors import UserError, unknown_name
from mien.core.labels import LabelScheme
from mien.core.storage import check_output_folder, digest_of, read_json
from mien.core.types import Split
from mien.crossval.plan import Confirmatory, check_plan
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.models.choice import ModelChoice, needs_of, parse_models
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
        asked: What was asked for. Of a target of several channels `clips` hold those that no check refuses.
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
    asked: LabelScheme | None = None

    @property
    def target(self) -> str:
        """The target that was asked for, its refused channels among it."""
        return self.clips.scheme.target if self.asked is None else self.asked.target

    def configuration(self) -> dict[str, Any]:
        """Return what decides the result; two runs with the same have the same predictions."""
        # Which channels are fitted follows from the data and from what is overridden.
        channels = {"overrides": list(self.audit.overrides)} if self.audit.channels else {}
        return channels | {
            "dataset_hash": self.dataset.content_hash,
            "target": self.target,
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
    clips, audit = audit_target(
        dataset, target=target, needs=needs_of(choices), overrides=check_overrides(overrides), seed=seed
    )
    assert audit.clips is not None, "an audit with a target has its clips"
    if audit.refusals:
        refused = Comparison(
            dataset, audit.clips, choices, (), settings, seed, out, audit, held_against, asked=clips.scheme
        )
        _check_run_folder(refused)
        return refused
    splits = tuple(make_folds(audit.clips, folds=folds, seed=seed))
    for choice in choices:
        check_baseline(choice, dataset=dataset, clips=audit.clips)
    planned = clips.scheme.target
    plan = check_plan(dataset.path, target=planned, models=choices, folds=len(splits), seed=seed, settings=settings)
    comparison = Comparison(
        dataset, audit.clips, choices, splits, settings, seed, out, audit, held_against, plan, clips.scheme
    )
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


def keep_finished(comparison: Comparison, *, audit: Audit) -> None:
    """Refuse to put a refusal in the place of scores that were made under other overrides.

    Args:
        comparison: The comparison.
        audit: Its audit, which refuses.

    Raises:
        UserError: The run's folder holds a finished comparison.
    """
    result = comparison.out / "comparison.json"
    if not result.is_file() or read_json(result).get("verdict") == "refused":
        return
    made, given = (
        ", ".join(f"--override {name}" for name in names) or "no override"
        for names in (read_json(comparison.out / "run.json").get("overrides") or (), audit.overrides)
    )
    refusing = ", ".join(check.name for check in audit.refusals)
    raise UserError(
        f"{comparison.out} holds a finished comparison that was made with {made}; with {given} the audit refuses it "
        f"({refusing}). Its scores are kept: repeat it with the same overrides, or give another --out."
    )


def _check_run_folder(comparison: Comparison) -> None:
    manifest = comparison.out / "run.json"
    if not manifest.is_file():
        return
    there = read_json(manifest)
    if there.get("refused") or there.get("run_id") == comparison.run_id:
        return  # fits that an earlier comparison left beside a refusal are known by their run_id (`folds.fit_all`)
    # Where the audit refuses before anybody can be split, nothing can be said of folds.
    unknown = () if comparison.splits else ("folds", "splits")
    asked = {key: value for key, value in comparison.configuration().items() if key not in unknown}
    differing = [key for key, value in _digests(asked).items() if _digests(there).get(key) != value]
    if comparison.audit.refusals and set(differing) <= {"overrides"}:
        keep_finished(comparison, audit=comparison.audit)
        return
    raise UserError(
        f"{comparison.out} holds another comparison (it differs in: {', '.join(differing) or 'a version'}). "
        "Give another --out, or remove that folder."
    )


def _digests(configuration: dict[str, Any]) -> dict[str, str]:
    """Return a digest per key of a configuration, so that two can be told apart key by key."""
    return {key: digest_of({key: value}) for key, value in configuration.items()}
