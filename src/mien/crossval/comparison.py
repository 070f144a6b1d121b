"""`comparison.json`: what scripts read and the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.baselines import TRIVIAL_KINDS
from mien.evaluation.overfitting import overfitting
from mien.evaluation.prevalence import prevalence_sweep
from mien.evaluation.scores import summarise_model
from mien.models.choice import ModelChoice
from mien.models.registry import describe_models


def build_comparison(
    *,
    dataset: Dataset,
    clips: ClipIndex,
    splits: Sequence[Split],
    choices: Sequence[ModelChoice],
    scores: pd.DataFrame,
    fits: Mapping[str, Sequence[Mapping[str, Any]]],
    failed: Sequence[Mapping[str, str]],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together what is known of a finished comparison.

    Args:
        dataset: What it was run on.
        clips: The clips of the target.
        splits: The folds.
        choices: The models that were fitted.
        scores: A row per model and participant.
        fits: Per model its `fit.json`s, in order of the folds.
        failed: Models that failed, with the reason.
        facts: `run.json`.

    Returns:
        A JSON-able mapping with the keys of the contract; those that the audit and the statistics fill are None.
    """
    table = clips.table
    seconds = (table["end_s"] - table["start_s"]).groupby(table["participant_id"]).sum()
    positive = table["target"] == 1
    positive_s = (table["end_s"] - table["start_s"]).where(positive, 0.0).groupby(table["participant_id"]).sum()
    binary = clips.scheme.kind == "binary"
    by_model = dict(iter(scores.groupby("model")))
    folds = len(splits)
    return {
        "verdict": None,
        "permitted_claim": None,
        "title": clips.scheme.target,
        "participants": int(table["participant_id"].nunique()),
        "label_source": clips.scheme.label_source,
        "target": clips.scheme.target,
        "kind": clips.scheme.kind,
        "classes": list(clips.scheme.classes),
        "unit": clips.scheme.unit,
        "study": {**dataset.study_facts, "synthetic": dataset.is_synthetic},
        "folds": folds,
        "seed": facts["seed"],
        "clips": len(table),
        "minutes": float(seconds.sum() / 60),
        "positives": int(positive.sum()) if binary else None,
        "median_seconds_per_participant": float(seconds.median()),
        "median_positive_seconds_per_participant": float(positive_s.median()) if binary else None,
        "fps": dataset.fps,
        "models": [
            _model(choice, scores=by_model[choice.text], fits=fits[choice.text], folds=folds) for choice in choices
        ],
        "baselines": {kind: summarise_model(by_model[kind], folds=folds) for kind in TRIVIAL_KINDS},
        "differences": None,
        "leakage_gap": None,
        "excluded": clips.excluded.to_dict("records"),
        "failures": dataset.failures.to_dict("records"),
        "failed_models": list(failed),
        "not_run": models_without_weights(choices),
        "command": facts["command"],
        "device": facts["device"],
        "versions": facts["versions"],
        "dataset": {"path": facts["dataset"], "hash": facts["dataset_hash"]},
    }


def models_without_weights(choices: Sequence[ModelChoice]) -> list[dict[str, str]]:
    """List the pretrained models that weren't asked for and whose weights aren't on this machine."""
    asked = {choice.name for choice in choices}
    return [
        {"name": model["name"], "reason": model["weights"]}
        for model in describe_models()
        if model["name"] not in asked and str(model["weights"]).startswith("missing")
    ]


def _model(
    choice: ModelChoice, *, scores: pd.DataFrame, fits: Sequence[Mapping[str, Any]], folds: int
) -> dict[str, Any]:
    described = dict(fits[0]["model_facts"])
    histories = {int(fit["fold"]): fit["history"] for fit in fits}
    return {
        "name": choice.text,
        "label": _label(choice, str(described.get("weights_note", ""))),
        "baseline": str(choice.baseline),
        **described,
        **summarise_model(scores, folds=folds),
        "prevalence_sweep": prevalence_sweep(scores),
        "overfitting": overfitting(histories),
        "fit_seconds": float(np.sum([fit["seconds"] for fit in fits])),
        "device": fits[0]["device"],
    }


def _label(choice: ModelChoice, weights_note: str) -> str:
    return f"{choice.label} (random init)" if weights_note == "random init" else choice.label
