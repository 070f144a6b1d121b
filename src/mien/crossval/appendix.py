"""The appendix of a report: items of reporting checklists that the software can answer, and those that only people can.

REFORMS: Kapoor et al. 2024, Science Advances 10:eadk3452 (reporting standards for machine-learning-based science).
TRIPOD+AI: Collins et al. 2024, BMJ 385:e078378 (reporting of prediction models).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.core.labels import annotated_by

AUTHORS = "for the authors to say"


def appendix_items(comparison: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return item, source and answer per row; what can't be known here says so.

    Args:
        comparison: `comparison.json` without its appendix.
    """
    study, audit = comparison["study"], comparison["audit"]
    checks = {check["name"]: check for check in audit["checks"]}
    not_checked = ", ".join(check["title"] for check in audit["checks"] if check["severity"] == "not checked")
    versions = ", ".join(f"{name} {version}" for name, version in comparison["versions"].items())
    rows = [
        ("REFORMS", "1 Scientific claim", comparison["permitted_claim"] or "none is permitted"),
        ("REFORMS", "2 Population", f"the participants of {study.get('name') or 'this study'}; {AUTHORS}"),
        ("REFORMS", "3 Motivation for machine learning", AUTHORS),
        ("REFORMS", "4 Dataset", f"{comparison['dataset']['path']}, content hash {comparison['dataset']['hash']}"),
        ("REFORMS", "5 Code and command", comparison["command"] or "called from Python"),
        ("REFORMS", "6 Computing environment", f"{comparison['device']}; {versions}"),
        ("REFORMS", "7 Data source and outcome", f"{comparison['target']}, {annotated_by(comparison['label_source'])}"),
        ("REFORMS", "8 Sample size", _sample(comparison)),
        ("REFORMS", "9 Missing data and exclusions", f"{len(comparison['exclusions'])} steps, listed in this report"),
        ("REFORMS", "10 Unit of analysis", f"one label per {comparison['unit']}; statistics over participants"),
        ("REFORMS", "11 Train and test separation", _check(checks, "split-overlap")),
        ("REFORMS", "12 Duplicates", _check(checks, "copies")),
        ("REFORMS", "13 Leakage: features", _check(checks, "label-in-pixels")),
        ("REFORMS", "14 Leakage: nuisances", _check(checks, "nuisances")),
        ("REFORMS", "15 Model selection", _selection(comparison)),
        ("REFORMS", "16 Metrics and uncertainty", _metrics(comparison)),
        ("REFORMS", "17 Baselines", ", ".join(comparison["baselines"])),
        ("REFORMS", "18 Generalisability", f"not measured beyond these people and stimuli; {AUTHORS}"),
        ("TRIPOD+AI", "Consent and ethics", study.get("consent") or f"not given in study.yaml; {AUTHORS}"),
        ("TRIPOD+AI", "Purpose and intended use", study.get("purpose") or f"not given in study.yaml; {AUTHORS}"),
        ("TRIPOD+AI", "Fairness: scores by group", _groups(comparison)),
        ("TRIPOD+AI", "Calibration", "reliability, Brier skill and calibration error are in this report"),
        ("TRIPOD+AI", "Registration", comparison["confirmatory"]["reason"]),
        ("TRIPOD+AI", "What was not checked", not_checked or "everything that mien checks was checked"),
    ]
    return [{"source": source, "item": item, "answer": str(answer)} for source, item, answer in rows]


def _sample(comparison: Mapping[str, Any]) -> str:
    detectable = [row["detectable"] for row in comparison["differences"] or [] if row["detectable"] is not None]
    smallest = f"; smallest detectable difference {min(detectable):.3f}" if detectable else ""
    people = f"{comparison['participants']} participants, {comparison['minutes']:.1f} min"
    return f"{people}, {comparison['clips']} clips{smallest}"


def _selection(comparison: Mapping[str, Any]) -> str:
    tried = comparison["configurations"]
    return (
        f"{tried['this_run']} configurations in this run, {tried['on_this_target']} ever on this target; the row "
        "'selected' chooses within training participants"
    )


def _metrics(comparison: Mapping[str, Any]) -> str:
    per = comparison["models"][0]["scored_per"] if comparison["models"] else "participant mean"
    how = "averaged over participants" if per == "participant mean" else f"over {per}"
    return f"balanced accuracy {how}, 95 % intervals, {comparison['folds']} folds by group, Holm's correction"


def _groups(comparison: Mapping[str, Any]) -> str:
    models = comparison["models"]
    attributes = sorted({row["attribute"] for row in models[0]["groups"]}) if models else []
    return f"by {', '.join(attributes)}" if attributes else "no attribute of participants was given"


def _check(checks: Mapping[str, Mapping[str, Any]], name: str) -> str:
    check = checks.get(name)
    return f"{check['severity']}: {check['detail']}" if check else "not checked"
