"""`mien train`: the final model on all participants, early stopping on an inner split by participant, to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.audit.check import check_overrides
from mien.audit.run import Audit, audit_content, audit_target, card_facts
from mien.audit.standalone import AUDIT_FOLDS
from mien.core.errors import RefusedError, UserError, WeightsError
from mien.core.progress import say
from mien.core.storage import check_output_folder, digest_of, read_json
from mien.core.types import Split
from mien.core.weights import WEIGHTS_VARIABLE, find_onnx
from mien.data.attempts import LOOKS, record_attempts
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.data.splits import MIN_GROUPS, holdout_split, make_folds
from mien.models.choice import ModelChoice, needs_of, parse_model
from mien.runtime.bundle import MANIFEST, Bundle
from mien.training.bundle_facts import fitted_calibration, trained_quality
from mien.training.bundle_writer import UseFacts, write_bundle
from mien.training.checkpoints import Checkpoints
from mien.training.checks import check_baseline, check_model, open_encoder, weights_digest
from mien.training.estimate import Estimate, estimate_fits
from mien.training.event_settings import tuned_events
from mien.training.inner_answers import InnerAnswers
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings


@dataclass(frozen=True)
class TrainingPlan:
    """A training that is checked and ready to run.

    Attributes:
        dataset: What it is trained on.
        clips: The clips of the target.
        choice: The model.
        split: Participants for training and inner validation.
        settings: How it is fitted.
        seed: Seed of the fit.
        out: Folder of the bundle.
        audit: What was checked of people and labels.
        quoted: What the model card quotes of a comparison that scored the same model; None without one.
    """

    dataset: Dataset
    clips: ClipIndex
    choice: ModelChoice
    split: Split
    settings: FitSettings
    seed: int
    out: Path
    audit: Audit
    quoted: dict[str, Any] | None

    @property
    def fit_id(self) -> str:
        """Digest of what decides the result; a bundle with the same is this one."""
        return digest_of(
            {
                "dataset_hash": self.dataset.content_hash,
                "target": self.clips.scheme.target,
                "model": [self.choice.text, str(self.choice.baseline)],
                "weights": weights_digest(self.choice, settings=self.settings),
                "seed": self.seed,
                "settings": self.settings.to_json(),
                "merged_participants": [list(ids) for ids in self.audit.merged],
            }
        )

    def estimate(self) -> Estimate:
        """Say what would be done and about how long it takes."""
        return estimate_fits(
            [self.choice], dataset=self.dataset, clips=self.clips, splits=[self.split], settings=self.settings
        )


def plan_training(
    dataset_path: Path,
    *,
    target: str,
    model: str,
    out: Path,
    seed: int = 0,
    baseline: str = "none",
    settings: FitSettings | None = None,
    overrides: Sequence[str] = (),
    run: Path | None = None,
) -> TrainingPlan:
    """Check everything that can be checked before the training starts.

    Args:
        dataset_path: What `mien prepare` wrote.
        target: Name of the target; several separated by commas, or `all`.
        model: `NAME[@BACKBONE][+BASELINE]`.
        out: Folder of the bundle.
        seed: Seed.
        baseline: Personal baseline where the model names none.
        settings: How it is fitted.
        overrides: Checks of the audit whose failure shall not stop the training.
        run: Run of `mien compare` whose score of the same model the model card quotes.

    Raises:
        UserError: Anything that came wrong: dataset, target, model, weights, run.
        RefusedError: The audit refuses, or a personal baseline where the label is constant per recording.
    """
    settings = settings or FitSettings()
    choice = parse_model(model, default_baseline=baseline)
    choice.baseline.check_new_recording()
    dataset = Dataset.open(dataset_path)
    check_output_folder(out, marker=MANIFEST, what="bundle")
    check_model(choice, dataset=dataset, settings=settings)
    if dataset.detector == "yunet" and find_onnx("yunet") is None:
        raise WeightsError(
            f"{dataset_path} was prepared with the face detector YuNet, which belongs into the bundle, but its ONNX "
            f"isn't on this machine. Name the weights directory that holds it with --weights-dir or {WEIGHTS_VARIABLE}."
        )
    found, audit = audit_target(
        dataset, target=target, needs=needs_of([choice]), overrides=check_overrides(overrides), seed=seed
    )
    asked = found.scheme.target  # a comparison is called after all channels that were asked for, refused ones too
    assert audit.clips is not None, "an audit with a target has its clips"
    clips = audit.clips
    if audit.refusals:
        raise RefusedError(audit.refusal_reasons())
    quoted = None if run is None else quote_run(run, model=choice, dataset=dataset, target=asked)
    check_baseline(choice, dataset=dataset, clips=clips)
    split = holdout_split(clips, seed=seed)
    plan = TrainingPlan(dataset, clips, choice, split, settings, seed, out, audit, quoted)
    if (out / MANIFEST).is_file():
        spec = read_json(out / MANIFEST).get("spec", {})
        if spec.get("provenance", {}).get("fit_id") != plan.fit_id:
            there = f"{spec.get('label')} for {spec.get('labels', {}).get('target')!r}"
            raise UserError(
                f"{out} holds another bundle ({there}, or one of other data, weights, seed or settings). "
                "Give another --out, or remove that folder."
            )
    return plan


def train_bundle(plan: TrainingPlan) -> dict[str, Any]:
    """Audit, train and write the bundle; where the same bundle is there already, nothing is done again.

    A training that was killed goes on from its last checkpoint, a hidden folder beside the bundle's.

    Returns:
        What `parity.json` holds.

    Raises:
        RefusedError: The audit refuses.
    """
    if (plan.out / MANIFEST).is_file():
        Bundle.open(plan.out)
        say(f"{plan.out} holds this bundle already.")
        parity: dict[str, Any] = read_json(plan.out / "parity.json")
        return parity
    audit = _audit_content(plan)
    if audit.refusals:
        raise RefusedError(audit.refusal_reasons())
    assert audit.clips is not None, "an audit with a target has its clips"
    for channel, reasons in audit.dropped().items():
        say(f"{channel} is left out: {' '.join(reasons)}")
    _record(plan, target=audit.target or plan.clips.scheme.target)
    checkpoints = Checkpoints.beside(plan.out, identity=plan.fit_id)
    fitted = fit_model(
        plan.choice,
        dataset=plan.dataset,
        clips=audit.clips,
        train=plan.split.train,
        validation=plan.split.validation,
        settings=plan.settings,
        seed=plan.seed,
        on_epoch=say,
        checkpoints=checkpoints,
    )
    facts = fitted.facts()
    note = facts["model_facts"].get("weights_note")
    label = f"{plan.choice.label} (random init)" if note == "random init" else plan.choice.label
    scheme, inner = audit.clips.scheme, InnerAnswers(fitted, participants=plan.split.validation)
    use = UseFacts(
        events=tuned_events(inner, dataset=plan.dataset, scheme=scheme),
        calibration=fitted_calibration(inner, scheme=scheme),
        seen_quality=trained_quality(plan.dataset, clips=audit.clips),
    )
    parity = write_bundle(fitted, out=plan.out, label=label, provenance=_provenance(plan, audit, facts), use=use)
    checkpoints.remove()
    return parity


def _record(plan: TrainingPlan, *, target: str) -> None:
    """Count the training as a look at the target: it prints how well it does on the inner split."""
    record_attempts(
        plan.dataset.path,
        target=target,
        run_id=f"{LOOKS['training']}{plan.fit_id}",
        models=[plan.choice.full_name],
        settings={
            "fit": plan.settings.to_json(),
            "weights": [weights_digest(plan.choice, settings=plan.settings)],
        },
        seed=plan.seed,
    )


def _provenance(plan: TrainingPlan, audit: Audit, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a bundle says of where it comes from."""
    return {
        "fit_id": plan.fit_id,
        "study": plan.dataset.study_facts.get("name", ""),
        "purpose": plan.dataset.study_facts.get("purpose", ""),
        "data": plan.dataset.data_facts,
        "dataset_hash": plan.dataset.content_hash,
        "dataset": str(plan.dataset.path.resolve()),
        "participants": sorted([*plan.split.train, *plan.split.validation]),
        "validation_participants": list(plan.split.validation),
        "seed": plan.seed,
        "settings": plan.settings.to_json(),
        "history": facts["history"],
        "audit": card_facts(audit),
        "dropped_channels": audit.dropped(),
        "comparison": plan.quoted,
    }


def quote_run(run: Path, *, model: ModelChoice, dataset: Dataset, target: str) -> dict[str, Any]:
    """Return what a model card quotes of a comparison: verdict, claim, and the score of the same model.

    Args:
        run: Folder of the run.
        model: The model of the bundle.
        dataset: What the bundle is trained on.
        target: Its target.

    Raises:
        UserError: No finished comparison there, or one of another dataset, target or without this model.
    """
    path = run / "comparison.json"
    if not path.is_file():
        raise UserError(f"{run} holds no finished comparison (no comparison.json). Run `mien compare` first.")
    result = read_json(path)
    if result["dataset"]["hash"] != dataset.content_hash or result["target"] != target:
        raise UserError(
            f"{run} compared models on {result['target']!r} of {result['dataset']['path']}, not on {target!r} of "
            f"{dataset.path}. Give the run of the same dataset and target."
        )
    found = next((row for row in result["models"] if row["name"] == model.text), None)
    if found is None:
        names = ", ".join(row["name"] for row in result["models"]) or "no model"
        raise UserError(f"{run} scored {names}, not {model.text}. Give the run that compared it.")
    claimed = (result.get("recommended") or {}).get("name") == model.text
    return {
        "run": str(run),
        "verdict": result["verdict"],
        "permitted_claim": result["permitted_claim"] if claimed else None,
        "verdict_reasons": result["verdict_reasons"],
        "not_permitted": result["not_permitted"],
        "balanced_accuracy": found["balanced_accuracy"],
        "chance": found["chance"],
        "participants": result["participants"],
        "folds": result["folds"],
    }


def _audit_content(plan: TrainingPlan) -> Audit:
    """Check what needs folds, although a bundle has none: as `mien audit` does."""
    groups = plan.clips.table["group"].nunique()
    if groups < MIN_GROUPS:
        return plan.audit
    choice = plan.choice
    return audit_content(
        plan.audit,
        dataset=plan.dataset,
        splits=make_folds(plan.clips, folds=min(AUDIT_FOLDS, groups), seed=plan.seed),
        baselines=[choice.baseline],
        encoders={choice.backbone: open_encoder(choice)} if choice.has_frozen_encoder and choice.backbone else {},
        seed=plan.seed,
    )
