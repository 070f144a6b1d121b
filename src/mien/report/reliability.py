"""What a report shows of probabilities: calibration, abstention, groups of people, other prevalences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mien.evaluation.abstention import LEAST_COVERAGE
from mien.evaluation.groups import MIN_GROUP
from mien.report import charts
from mien.report.page import Nullable

SHOWN_COVERAGE = 0.8
"""Coverage at which the note below a curve says whom silence falls on: nobody should keep less than half there."""


def reliability_context(models: Sequence[Mapping[str, Any]], *, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what the template `reliability.html.j2` shows.

    Args:
        models: The models of `comparison.json`, absent keys null; a model without a part is left out of it.
        names: What each model is called on the page.
    """
    labelled = [(names[str(model["name"])], model) for model in models]
    calibrated = [(model["calibration"] or {}).get("calibrated") for model in models]
    return {
        "any_calibrated": any(calibrated),
        "calibrations": [
            _calibration(label, model["calibration"], index=index)
            for index, (label, model) in enumerate(labelled)
            if model["calibration"] and model["calibration"]["raw"]
        ],
        "abstentions": [
            _abstention(label, model["abstention"], index=index)
            for index, (label, model) in enumerate(labelled)
            if model["abstention"] and model["abstention"]["curve"]
        ],
        "groups": _groups(models),
        "sweeps": _sweeps(labelled),
        "baselined_without_redraw": [
            label for label, model in labelled if _has_baseline(model) and not model["resampled_sweep"]
        ],
    }


def _calibration(label: str, calibration: Mapping[str, Any], *, index: int) -> dict[str, Any]:
    given = [("as given", calibration["raw"]), ("calibrated", calibration["calibrated"])]
    rows = [(what, row) for what, row in given if row]
    series = [(what == "calibrated", row["reliability"] or []) for what, row in rows]
    title = f"Reliability of the probabilities of {label}"
    notes = [fold["note"] for fold in calibration["folds"] or [] if fold["note"]]
    note = ""
    if notes:
        note = f"{len(notes)} of {len(calibration['folds'])} folds kept the probabilities as they are. {notes[0]}"
    svg = Markup(charts.reliability_chart(series, name=f"reliability{index}", title=title))
    return {"label": label, "rows": rows, "svg": svg, "note": note}


def _abstention(label: str, abstention: Mapping[str, Any], *, index: int) -> dict[str, Any]:
    curve = abstention["curve"]
    title = f"Balanced accuracy of {label} against the share of clips that is kept"
    near = min(curve, key=lambda row: abs(row["coverage"] - SHOWN_COVERAGE))
    silenced = (
        f"At {100 * near['coverage']:.0f} % kept, {near['participants_below_half'] or 0} of "
        f"{abstention['participants']} people keep less than {100 * LEAST_COVERAGE:.0f} % of their time, "
        f"{near['participants_silent'] or 0} of them nothing."
    )
    svg = Markup(charts.coverage_chart(curve, name=f"coverage{index}", title=title))
    coverages = [row["coverage"] for row in curve]
    most = max((int((row["balanced_accuracy"] or {}).get("n") or 0) for row in curve), default=0)
    shown = {"label": label, "svg": svg, "silenced": silenced, "coverages": coverages, "most_people": most}
    return Nullable({**abstention, **shown})


def _groups(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per group, with each model's score of it (None where a model has none)."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for index, model in enumerate(models):
        for group in model["groups"] or []:
            key = (str(group["attribute"]), str(group["group"]))
            scored = (group["balanced_accuracy"] or {}).get("n", group["n"])
            facts = {"attribute": key[0], "group": key[1], "n": group["n"], "claim": group["claim"]}
            facts["few"] = scored < MIN_GROUP
            row = rows.setdefault(key, {**facts, "scores": [None] * len(models)})
            row["claim"] = row["claim"] or group["claim"]
            row["scores"][index] = group["balanced_accuracy"]
    return list(rows.values())


def _sweeps(labelled: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """(model, how, rows): every model reweighted, and those with a personal baseline drawn anew."""
    sweeps = []
    for label, model in labelled:
        if model["prevalence_sweep"]:
            sweeps.append((label, "reweighted", model["prevalence_sweep"]))
        if model["resampled_sweep"]:
            sweeps.append((label, f"drawn anew, baseline {model['baseline']}", model["resampled_sweep"]))
    return sweeps


def _has_baseline(model: Mapping[str, Any]) -> bool:
    return model["baseline"] not in (None, "", "none")
