"""`comparison.json`: what scripts read and the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mien.audit.run import Audit, audit_json
from mien.core.types import Split
from mien.crossval.appendix import appendix_items
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.overfitting import overfitting
from mien.evaluation.prevalence import prevalence_sweep
from mien.evaluation.scores import summarise_model
from mien.evaluation.verdict import ALPHA, Verdict, refuse
from mien.models.choice import ModelChoice
from mien.models.registry import describe_models


@dataclass(frozen=True)
class Findings:
    """What a finished comparison found, beside the scores.

    Attributes:
        chance: Per model its test against chance; empty for a mean over channels, which are tested one by one.
        calibration: Per model.
        abstention: Per model; None where one label describes more than a clip.
        groups: Per model its scores by group of people.
        sweeps: Per model with a personal baseline, its scores at resampled prevalences.
        differences: Every model against the reference.
        recommended: name, label, why.
        chosen: Which model the selected pipeline took in each fold; empty where there was one model.
        verdict: What may be claimed.
        confirmatory: Whether a plan was followed, which, and why not.
        configurations: How many were tried: this_run, on_this_target.
        coders: How far several coders agree (`mien.evaluation.ceiling.coder_facts`); None where there is one.
        events: Per model what its events are worth (`mien.crossval.event_findings`).
        no_events: Why there are none; None where there are.
    """

    chance: Mapping[str, Mapping[str, Any]]
    calibration: Mapping[str, Any]
    abstention: Mapping[str, Any]
    groups: Mapping[str, Any]
    sweeps: Mapping[str, Any]
    differences: Sequence[Mapping[str, Any]]
    recommended: Mapping[str, Any]
    chosen: Sequence[Mapping[str, Any]]
    verdict: Verdict
    confirmatory: Mapping[str, Any]
    configurations: Mapping[str, int]
    coders: Mapping[str, Any] | None = None
    events: Mapping[str, Any] = field(default_factory=dict)
    no_events: str | None = None


@dataclass(frozen=True)
class ComparedModels:
    """The models of a finished comparison.

    Attributes:
        choices: Those that were fitted.
        scores: A row per model and participant, baselines and the selected pipeline among them.
        fits: Per model its `fit.json`s, in order of the folds.
        failed: Models that failed, with the reason.
        labels: Per model its short name.
        baselines: Names in `scores` that are baselines, with what a person reads.
    """

    choices: Sequence[ModelChoice]
    scores: pd.DataFrame
    fits: Mapping[str, Sequence[Mapping[str, Any]]]
    failed: Sequence[Mapping[str, str]]
    labels: Mapping[str, str]
    baselines: Mapping[str, str] = field(default_factory=dict)


def build_comparison(
    *,
    dataset: Dataset,
    clips: ClipIndex,
    splits: Sequence[Split],
    models: ComparedModels,
    audit: Audit,
    findings: Findings,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together what is known of a finished comparison.

    Args:
        dataset: What it was run on.
        clips: The clips of the target.
        splits: The folds.
        models: The models, their scores and fits.
        audit: What was checked.
        findings: What the scores show.
        facts: `run.json`.

    Returns:
        A JSON-able mapping with the keys of the contract.
    """
    by_model = dict(iter(models.scores.groupby("model")))
    folds = len(splits)
    gaps = audit.leakage_gaps
    result = study_facts(dataset, clips=clips, audit=audit, verdict=findings.verdict, facts=facts)
    result |= {
        "folds": folds,
        "recommended": dict(findings.recommended),
        "confirmatory": dict(findings.confirmatory),
        "configurations": dict(findings.configurations),
        "coders": findings.coders,
        "no_events": findings.no_events,
        "models": [
            model_row(choice, scores=by_model[choice.text], models=models, folds=folds)
            | found_row(choice, findings=findings, gaps=gaps)
            for choice in models.choices
        ],
        "selected": summarise_model(by_model["selected"], folds=folds) | {"chosen": list(findings.chosen)}
        if findings.chosen
        else None,
        "baselines": {
            name: summarise_model(by_model[name], folds=folds) | {"label": label}
            for name, label in models.baselines.items()
        },
        "differences": list(findings.differences),
        "leakage_gap": gaps[0] if gaps else None,
        "failed_models": list(models.failed),
        "not_run": models_without_weights(models.choices),
    }
    return result | {"appendix": appendix_items(result)}


def build_refusal(*, dataset: Dataset, clips: ClipIndex, audit: Audit, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what a refused comparison may say: the reasons, and no score.

    Args:
        dataset: What it was to be run on.
        clips: The clips of the target.
        audit: What was checked, and refuses.
        facts: `run.json`.
    """
    verdict = refuse(audit.refusal_reasons())
    empty: dict[str, Any] = {"models": [], "selected": None, "baselines": {}, "differences": None, "leakage_gap": None}
    return study_facts(dataset, clips=clips, audit=audit, verdict=verdict, facts=facts) | empty


def models_without_weights(choices: Sequence[ModelChoice]) -> list[dict[str, str]]:
    """List the pretrained models that weren't asked for and whose weights aren't on this machine."""
    asked = {choice.name for choice in choices}
    return [
        {"name": model["name"], "reason": model["weights"]}
        for model in describe_models()
        if model["name"] not in asked and str(model["weights"]).startswith("missing")
    ]


def study_facts(
    dataset: Dataset, *, clips: ClipIndex, audit: Audit, verdict: Verdict, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a comparison says of study, target, audit and verdict, whether it was refused or not."""
    table = clips.table
    lengths_s = table["end_s"] - table["start_s"]
    seconds = lengths_s.groupby(table["participant_id"]).sum()
    positive = table["target"] == 1
    positive_s = lengths_s.where(positive, 0.0).groupby(table["participant_id"]).sum()
    binary = clips.scheme.kind == "binary"
    checked = audit_json(audit, dataset=dataset)
    return {
        "verdict": verdict.verdict,
        "permitted_claim": verdict.permitted_claim,
        "verdict_reasons": list(verdict.reasons),
        "not_permitted": list(verdict.not_permitted),
        "title": clips.scheme.target,
        "participants": int(table["participant_id"].nunique()),
        "independent": int(table["group"].nunique()),
        "label_source": clips.scheme.label_source,
        "target": clips.scheme.target,
        "kind": clips.scheme.kind,
        "classes": list(clips.scheme.classes),
        "unit": clips.scheme.unit,
        "alpha": ALPHA,
        "overrides": list(audit.overrides),
        "merged_participants": checked["merged_participants"],
        "study": {**dataset.study_facts, "synthetic": dataset.is_synthetic},
        "seed": facts["seed"],
        "clips": len(table),
        "minutes": float(seconds.sum() / 60),
        "positives": int(positive.sum()) if binary else None,
        "median_seconds_per_participant": float(seconds.median()),
        "median_positive_seconds_per_participant": float(positive_s.median()) if binary else None,
        "fps": dataset.fps,
        "audit": {key: checked[key] for key in ("verdict", "checks", "sampled")},
        "exclusions": exclusions(dataset, clips),
        "excluded": clips.excluded.to_dict("records"),
        "failures": dataset.failures_told.to_dict("records"),
        "command": facts["command"],
        "device": facts["device"],
        "versions": facts["versions"],
        "dataset": {"path": facts["dataset"], "hash": facts["dataset_hash"]},
    }


def exclusions(dataset: Dataset, clips: ClipIndex) -> list[dict[str, Any]]:
    """List who and what is left at each step from the study's files to the scored clips, and what was left out why."""
    recordings = dataset.recordings
    steps: list[dict[str, Any]] = [
        {"step": "prepare", "reason": row["reason"], "count": 1, "unit": f"file ({row['recording']})"}
        for row in dataset.failures_told.to_dict("records")
    ]
    steps.append(
        {
            "step": "prepared",
            "reason": f"{len(recordings)} recordings of {recordings['participant_id'].nunique()} participants",
            "count": int(recordings["num_frames"].sum()),
            "unit": "sampled frames",
        }
    )
    steps += [
        {"step": "target", "reason": row["reason"], "count": int(row["count"]), "unit": "frames left out"}
        for row in clips.excluded.to_dict("records")
    ]
    people = clips.table["participant_id"].nunique()
    steps.append(
        {"step": "scored", "reason": f"clips of {people} participants", "count": len(clips.table), "unit": "clips"}
    )
    return steps


def model_row(choice: ModelChoice, *, scores: pd.DataFrame, models: ComparedModels, folds: int) -> dict[str, Any]:
    """Return what a comparison says of one model and its scores."""
    fits = models.fits[choice.text]
    histories = {int(fit["fold"]): fit["history"] for fit in fits}
    return {
        "name": choice.text,
        "label": models.labels[choice.text],
        "baseline": str(choice.baseline),
        **fits[0]["model_facts"],
        **summarise_model(scores, folds=folds),
        "prevalence_sweep": prevalence_sweep(scores),
        "overfitting": overfitting(histories),
        "fit_seconds": float(np.sum([fit["seconds"] for fit in fits])),
        "device": fits[0]["device"],
    }


def found_row(choice: ModelChoice, *, findings: Findings, gaps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a comparison found of one model beside its scores."""
    name = choice.text
    own = [gap for gap in gaps if gap["backbone"] == choice.backbone] or list(gaps)
    gap = next((gap for gap in own if gap["baseline"] == str(choice.baseline)), own[0] if own else None)
    return {
        "chance": findings.chance.get(name),
        "calibration": findings.calibration.get(name),
        "abstention": findings.abstention.get(name),
        "groups": findings.groups.get(name, []),
        "resampled_sweep": findings.sweeps.get(name),
        "events": findings.events.get(name),
        "leakage_gap": gap,
    }
