"""`mien compare`: the audit, every model on the same participant-wise folds, the statistics, one report.

The audit runs first. Where it refuses, `comparison.json` and the report hold its reasons and no score.
"""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mien.audit.overlap import BackboneFact
from mien.audit.run import Audit, audit_content, write_audit
from mien.core.errors import RefusedError, UserError
from mien.core.storage import (
    remove_leftovers,
    write_csv,
    write_json,
    write_parquet,
)
from mien.crossval.channel_scores import refused_channels, score_channels
from mien.crossval.comparison import build_comparison, build_refusal
from mien.crossval.event_findings import EVENTS_FILE, write_events
from mien.crossval.evidence import differences_to, recommend, verdict_on
from mien.crossval.folds import collect_predictions, fit_all, fit_facts
from mien.crossval.judge import Fitted, facts_of_tries, measure, reference_name
from mien.crossval.selection import choose_per_fold
from mien.crossval.setup import Comparison, keep_finished, model_folder, plan_comparison
from mien.data.attempts import record_attempts
from mien.models.registry import PRETRAINED
from mien.report.audit_report import write_audit_report
from mien.report.comparison_report import write_comparison_report
from mien.runtime.sound_encoders import BUILTIN_SOUND
from mien.training.checks import open_encoder

__all__ = ["model_folder", "plan_comparison", "run_comparison"]

UNTRAINED = ("hog", *BUILTIN_SOUND)
"""Encoders that nobody trained on anybody."""

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
        UserError: It refuses, and the folder holds a finished comparison that was made under other overrides.
        MienError: Every model failed; the reason of the first.
    """
    out = comparison.out
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    facts = _run_facts(comparison, command=command)
    audit = comparison.audit if comparison.audit.refusals else _audit_content(comparison)
    if audit.refusals:
        keep_finished(comparison, audit=audit)
    write_json(out / "run.json", facts | {"refused": bool(audit.refusals), "overrides": list(audit.overrides)})
    write_audit(audit, dataset=comparison.dataset, path=out / "audit.json")
    write_audit_report(out / "audit.json", picture=comparison.dataset.picture)
    if audit.refusals:
        _write_refusal(comparison, audit=audit, facts=facts)
        raise RefusedError([*audit.refusal_reasons(), f"The audit: {out / 'audit.html'}."])
    # A channel that is refused teaches no model: it is dropped before the first fit.
    comparison = dataclasses.replace(comparison, clips=audit.clips or comparison.clips, audit=audit)
    for choice, weights in zip(comparison.choices, comparison.configuration()["weights"], strict=True):
        record_attempts(
            comparison.dataset.path,
            target=comparison.target,
            run_id=comparison.run_id,
            models=[choice.full_name],
            # Its own alone: a model is the same configuration in any company.
            settings={"fit": comparison.settings.to_json(), "weights": [weights]},
            seed=comparison.seed,
        )
    failed = fit_all(comparison)
    fitted = [choice for choice in comparison.choices if choice.text not in {item["name"] for item in failed}]
    if not fitted:
        message = f"Every model failed. {failed[0]['name']}: {failed[0]['reason']}"
        # Wrong input and bugs have different exit statuses.
        raise RuntimeError(message) if all("log" in item for item in failed) else UserError(message)
    fits = {choice.text: fit_facts(comparison, choice) for choice in fitted}
    result = _score(comparison, audit=audit, fitted=Fitted(fitted, fits, failed), facts=facts)
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
        if (choice.has_frozen_encoder and choice.backbone not in UNTRAINED)
        or (choice.name in PRETRAINED and not comparison.settings.random_init)
    ]
    heard = [
        comparison.settings.for_sequence(choice.name).audio_backbone
        for choice in comparison.choices
        if choice.is_sequence
    ]
    names += [name for name in heard if name is not None and name not in UNTRAINED]
    return [BackboneFact(name, None) for name in dict.fromkeys(names)]


def _write_refusal(comparison: Comparison, *, audit: Audit, facts: dict[str, Any]) -> None:
    out = comparison.out
    for stale in ("predictions.parquet", "scores.csv", EVENTS_FILE):
        (out / stale).unlink(missing_ok=True)
    refusal = build_refusal(dataset=comparison.dataset, clips=comparison.clips, audit=audit, facts=facts)
    refusal |= refused_channels(comparison, audit=audit)
    write_json(out / "comparison.json", refusal)
    write_comparison_report(out)


def _run_facts(comparison: Comparison, *, command: str) -> dict[str, Any]:
    import torch

    versions = {name: version(name) for name in VERSIONED} | {"python": platform.python_version()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({torch.get_num_threads()} threads)"
    return {
        "run_id": comparison.run_id,
        "command": command,
        "dataset": str(comparison.dataset.path.resolve()),
        "device": device,
        "versions": versions,
        **comparison.configuration(),
    }


def _score(
    comparison: Comparison,
    *,
    audit: Audit,
    fitted: Fitted,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write predictions and scores; return `comparison.json`."""
    if audit.channels:
        return score_channels(comparison, audit=audit, fitted=fitted, facts=facts)
    scheme, folds = comparison.clips.scheme, len(comparison.splits)
    predictions = collect_predictions(comparison, fitted.choices)
    inner = collect_predictions(comparison, fitted.choices, inner=True)
    chosen = choose_per_fold(inner, scheme=scheme, choices=fitted.choices) if len(fitted.choices) > 1 else []
    measured = measure(comparison, audit=audit, fitted=fitted, predictions=predictions, inner=inner, chosen=chosen)
    assert measured.calibrated is not None, "the answers to a target of classes are probabilities"
    write_parquet(comparison.out / "predictions.parquet", predictions.join(measured.calibrated))
    scores, labels = measured.models.scores, measured.models.labels
    write_csv(comparison.out / "scores.csv", scores)
    write_events(comparison.out, [measured.events])
    recommended = recommend(fitted.choices, scores=scores, labels=labels, folds=folds)
    findings = measured.findings(
        differences=differences_to(
            reference_name(comparison, names=fitted.names),
            recommended=recommended["name"],
            scores=scores,
            names=fitted.names,
            labels=labels,
            folds=folds,
        ),
        verdict=verdict_on(
            recommended, models=measured.models, chance=measured.chance, audit=audit, comparison=comparison
        ),
        given=facts_of_tries(comparison) | {"recommended": recommended, "chosen": chosen},
    )
    return build_comparison(
        dataset=comparison.dataset,
        clips=comparison.clips,
        splits=comparison.splits,
        models=measured.models,
        audit=audit,
        findings=findings,
        facts=facts,
    )
