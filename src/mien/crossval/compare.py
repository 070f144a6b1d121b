"""`mien compare`: the audit, every model on the same participant-wise folds, the statistics, one report.

The audit runs first. Where it refuses, `comparison.json` and the report hold its reasons and no score.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from mien.audit.overlap import BackboneFact
from mien.audit.run import Audit, audit_content, write_audit
from mien.core.errors import RefusedError, UserError
from mien.core.storage import (
    remove_leftovers,
    write_csv,
    write_json,
    write_parquet,
)
from mien.crossval.attempts import count_configurations, model_name, record_attempts
from mien.crossval.comparison import ComparedModels, Findings, build_comparison, build_refusal
from mien.crossval.evidence import (
    abstention_of,
    calibrate,
    chance_tests,
    coders_of,
    differences_to,
    groups_of,
    recommend,
    sweeps_of,
    verdict_on,
)
from mien.crossval.folds import collect_predictions, fit_all, fit_facts
from mien.crossval.selection import SELECTED, choose_per_fold, selected_predictions
from mien.crossval.setup import Comparison, model_folder, plan_comparison
from mien.evaluation.baselines import trivial_scores
from mien.evaluation.scores import participant_scores
from mien.models.choice import ModelChoice
from mien.models.registry import PRETRAINED
from mien.report.audit_report import write_audit_report
from mien.report.comparison_report import write_comparison_report
from mien.training.checks import open_encoder

__all__ = ["model_folder", "plan_comparison", "run_comparison"]

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


def run_comparison(comparison: Comparison, *, command: str = "") -> Path:
    """Audit, fit what isn't fitted yet, score, and write the report.

    Args:
        comparison: From `plan_comparison`.
        command: The command line, written into the run so that it can be repeated.

    Returns:
        Path of `report.html`.

    Raises:
        RefusedError: The audit refuses; its reasons are in `comparison.json` and the report.
        MienError: Every model failed; the reason of the first.
    """
    out = comparison.out
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    facts = _run_facts(comparison, command=command)
    audit = comparison.audit if comparison.audit.refusals else _audit_content(comparison)
    write_json(out / "run.json", facts | {"refused": bool(audit.refusals), "overrides": list(audit.overrides)})
    write_audit(audit, dataset=comparison.dataset, path=out / "audit.json")
    write_audit_report(out / "audit.json", picture=comparison.dataset.picture)
    if audit.refusals:
        _write_refusal(comparison, audit=audit, facts=facts)
        raise RefusedError([*audit.refusal_reasons(), f"The audit: {out / 'audit.html'}."])
    record_attempts(
        comparison.dataset.path,
        target=comparison.clips.scheme.target,
        run_id=comparison.run_id,
        models=[model_name(choice) for choice in comparison.choices],
        settings={"fit": comparison.settings.to_json(), "weights": comparison.configuration()["weights"]},
        seed=comparison.seed,
    )
    failed = fit_all(comparison)
    fitted = [choice for choice in comparison.choices if choice.text not in {item["name"] for item in failed}]
    if not fitted:
        message = f"Every model failed. {failed[0]['name']}: {failed[0]['reason']}"
        # Wrong input and bugs have different exit statuses.
        raise RuntimeError(message) if all("log" in item for item in failed) else UserError(message)
    result = _score(comparison, audit=audit, fitted=fitted, failed=failed, facts=facts)
    write_json(out / "comparison.json", result)
    return write_comparison_report(out)


def _audit_content(comparison: Comparison) -> Audit:
    encoders = {}
    for choice in comparison.choices:
        if choice.has_frozen_encoder and choice.backbone is not None:
            encoders[choice.backbone] = open_encoder(choice)
    return audit_content(
        comparison.audit,
        dataset=comparison.dataset,
        splits=comparison.splits,
        baselines=list(dict.fromkeys(choice.baseline for choice in comparison.choices)),
        encoders=encoders,
        backbones=_backbones(comparison),
        seed=comparison.seed,
    )


def _backbones(comparison: Comparison) -> list[BackboneFact]:
    """List the weights that were trained elsewhere: nobody knows whether on people who are tested here."""
    names = [
        choice.backbone or choice.name
        for choice in comparison.choices
        if (choice.has_frozen_encoder and choice.backbone != "hog")
        or (choice.name in PRETRAINED and not comparison.settings.random_init)
    ]
    return [BackboneFact(name, None) for name in dict.fromkeys(names)]


def _write_refusal(comparison: Comparison, *, audit: Audit, facts: dict[str, Any]) -> None:
    out = comparison.out
    for stale in ("predictions.parquet", "scores.csv"):
        (out / stale).unlink(missing_ok=True)
    refusal = build_refusal(dataset=comparison.dataset, clips=comparison.clips, audit=audit, facts=facts)
    write_json(out / "comparison.json", refusal)
    write_comparison_report(out)


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


def _score(
    comparison: Comparison,
    *,
    audit: Audit,
    fitted: Sequence[ModelChoice],
    failed: Sequence[dict[str, str]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write predictions and scores; return `comparison.json`."""
    assert comparison.confirmatory is not None, "a comparison that is scored was planned with its folds"
    scheme, splits, folds = comparison.clips.scheme, comparison.splits, len(comparison.splits)
    names = [choice.text for choice in fitted]
    predictions = collect_predictions(comparison, fitted)
    inner = collect_predictions(comparison, fitted, inner=True)
    calibrated, calibration = [], {}
    for name in names:
        own = predictions[predictions["model"] == name]
        table, calibration[name] = calibrate(
            own, inner[inner["model"] == name], scheme=scheme, splits=splits, seed=comparison.seed
        )
        calibrated.append(table)
    write_parquet(comparison.out / "predictions.parquet", predictions.join(pd.concat(calibrated)))
    chosen = choose_per_fold(inner, scheme=scheme, choices=fitted) if len(fitted) > 1 else []
    scores = _score_table(comparison, audit=audit, predictions=predictions, chosen=chosen)
    write_csv(comparison.out / "scores.csv", scores)
    fits = {choice.text: fit_facts(comparison, choice) for choice in fitted}
    labels = _labels(fitted, fits=fits)
    baselines = {name: name for name in dict.fromkeys(scores["model"]) if name not in names and name != SELECTED}
    models = ComparedModels(fitted, scores, fits, failed, labels, baselines)
    chance = chance_tests(predictions, scheme=scheme, names=names, seed=comparison.seed)
    reference = comparison.reference.text if comparison.reference.text in names else names[0]
    recommended = recommend(fitted, scores=scores, labels=labels, folds=folds)
    attributes = comparison.dataset.recordings[["participant_id", *comparison.dataset.attributes]]
    by_model = dict(iter(predictions.groupby("model")))
    rows_of = dict(iter(scores.groupby("model")))
    findings = Findings(
        chance=chance,
        calibration=calibration,
        abstention={name: abstention_of(by_model[name], scheme=scheme, folds=folds) for name in names},
        groups={name: groups_of(rows_of[name], attributes=attributes, folds=folds) for name in names},
        sweeps=sweeps_of(fits),
        differences=differences_to(
            reference, recommended=recommended["name"], scores=scores, names=names, labels=labels, folds=folds
        ),
        recommended=recommended,
        chosen=chosen,
        verdict=verdict_on(recommended, models=models, chance=chance, audit=audit, comparison=comparison),
        confirmatory=comparison.confirmatory.to_json(),
        configurations={
            "this_run": len(comparison.choices),
            "on_this_target": count_configurations(comparison.dataset.path, scheme.target),
        },
        coders=coders_of(comparison),
    )
    return build_comparison(
        dataset=comparison.dataset,
        clips=comparison.clips,
        splits=splits,
        models=models,
        audit=audit,
        findings=findings,
        facts=facts,
    )


def _score_table(
    comparison: Comparison, *, audit: Audit, predictions: pd.DataFrame, chosen: Sequence[dict[str, Any]]
) -> pd.DataFrame:
    """Rows per model and participant: the models, the selected pipeline, and all that they are held against."""
    clips = comparison.clips
    tables = [participant_scores(predictions, clips.scheme)]
    if chosen:
        tables.append(participant_scores(selected_predictions(predictions, chosen=chosen), clips.scheme))
    there = set(predictions["model"])
    references = audit.references[~audit.references["model"].isin(there)]
    if len(references):
        tables.append(participant_scores(references, clips.scheme))
    tables.append(
        trivial_scores(clips=clips.table, splits=comparison.splits, scheme=clips.scheme, seed=comparison.seed)
    )
    return pd.concat(tables, ignore_index=True)


def _labels(fitted: Sequence[ModelChoice], *, fits: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, str]:
    """Return each model's short name, or its full one where two share the short one."""
    short = [choice.label for choice in fitted]
    labels = {choice.text: choice.label if short.count(choice.label) == 1 else choice.text for choice in fitted}
    notes = {name: str(facts[0]["model_facts"].get("weights_note", "")) for name, facts in fits.items()}
    return {name: f"{label} (random init)" if notes[name] == "random init" else label for name, label in labels.items()}
