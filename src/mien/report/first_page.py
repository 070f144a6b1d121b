"""The first screen of a report, as EVALUATION.md section 5 draws it: verdict, claim, facts, rows of scores, audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from markupsafe import Markup

from mien.core.numbers import short_number, with_interval
from mien.report import strips, wording
from mien.report.audit_table import audit_line
from mien.report.coders import above_ceiling, coder_line
from mien.report.differences import against, reference_of

MAX_MODELS = 6
"""Rows of models on the first screen; with more, the screen no longer holds the audit line. The rest folds away."""

# What says most about a score comes first. Of one family the highest has the row, as the rule of the audit is: the
# larger score counts.
ROWS_OF_THEIR_OWN = ("linear_probe@hog", "linear_probe@logmel", "nuisances", "face hidden", "peer")
MEANINGS = {
    "linear_probe@hog": "what a bigger model has to beat",
    "linear_probe@logmel": "what a bigger model has to beat",
    "nuisances": "light or room, sharpness, face position or length, and time alone",
    "face hidden": "the picture without the face",
    "peer": "what the others' labels were at that moment",
    "majority": "always the most frequent class",
    "prior": "guesses at the class shares",
    "participant-mean": "who it is, never when",
}
MIXED = "With people mixed across folds it would show"
LEAST_GAP = 0.005  # below, both scores are written alike


@dataclass(frozen=True)
class ScoreRow:
    """One row of the first screen.

    Attributes:
        name: What the model or baseline is called.
        kind: `model`, `selected` or `baseline`.
        score: Mean and interval, such as ".84 [.80, .87]".
        people: "11 of 12 people" where the score isn't defined for all; else empty.
        beside: What stands beside it: the difference to the reference, or what the row is.
        strip: The dots.
    """

    name: str
    kind: strips.Kind
    score: str
    people: str
    beside: str
    strip: Markup


def first_page(
    comparison: Mapping[str, Any], *, names: Mapping[str, str], scores: pd.DataFrame | None
) -> dict[str, Any]:
    """Return what the first screen shows.

    Args:
        comparison: `comparison.json`, absent keys null.
        names: What each model is called on the page.
        scores: `scores.csv`, None where the run has none.
    """
    models = {str(model["name"]): model for model in comparison["models"] or []}
    baselines = {name: row for name, row in (comparison["baselines"] or {}).items() if row}
    selected = comparison["selected"]
    values = score_values(scores)
    shown, others = _families(baselines)
    dotted = models | ({"selected": selected} if selected else {})
    landmarks = [_mean(baselines[name]) for name in shown]
    scale = strips.Scale.of([*_extremes(dotted, values), *(mean for mean in landmarks if mean >= 0)])
    reference = reference_of(comparison)
    ordered = sorted(models, key=lambda name: (name != reference, -_mean(models[name])))

    def row(name: str, summary: Mapping[str, Any], *, kind: strips.Kind, beside: str) -> ScoreRow:
        people = _people(summary, participants=comparison["participants"])
        return _row(names.get(name, name), summary, kind, people, beside, values=values.get(name, ()), scale=scale)

    lines = [row(name, models[name], kind="model", beside=_beside(name, comparison, reference)) for name in ordered]
    below = [row(name, baselines[name], kind="baseline", beside=meaning_of(name)) for name in shown]
    if selected:
        below.insert(0, row("selected", selected, kind="selected", beside="what choosing the best model really gives"))
    told = {line.people for line in lines}
    common = told.pop() if len(told) == 1 and len(lines) > 1 else ""
    if common:  # said once, above the column
        lines = [replace(line, people="") for line in lines]
        below = [replace(line, people="") if line.people == common else line for line in below]
    return {
        "people": common,
        "rows": lines[:MAX_MODELS],
        "more": lines[MAX_MODELS:],
        "below": below,
        "others": [(name, short_number((baselines[name]["balanced_accuracy"] or {}).get("mean"))) for name in others],
        "axis": strips.axis(scale),
        "reference": names.get(reference or "", ""),
        "dots": bool(values),
        "coders": coder_line(comparison["coders"]),
        "above_coders": any(name == names.get(reference or "") for name, _ in above_ceiling(comparison, names=names)),
        "leakage": leakage_sentence(_gap(comparison, models.get(reference or ""))),
        "audit": audit_line(comparison["audit"], overrides=comparison["overrides"] or ()),
    }


def leakage_sentence(gap: Mapping[str, Any] | None) -> str:
    """Say what the same features would score with people mixed across folds; empty where it wasn't measured.

    >>> leakage_sentence({"frame_split": 0.84, "participant_split": 0.84, "features": "hog"})
    'With people mixed across folds it would show .84, no more than with people apart (probe on hog).'
    """
    if not gap or gap.get("frame_split") is None or gap.get("participant_split") is None:
        return ""
    mixed, apart = float(gap["frame_split"]), float(gap["participant_split"])
    features = f"probe on {gap['features']}" if gap.get("features") else "the same probe"
    if gap.get("baseline") not in (None, "none"):
        features += f", baseline {gap['baseline']}"
    if mixed - apart < LEAST_GAP:
        return f"{MIXED} {short_number(mixed)}, no more than with people apart ({features})."
    return (
        f"{MIXED} {short_number(mixed)}: identity and neighbouring frames, not skill on new people "
        f"({features}; {short_number(apart)} with people apart)."
    )


def _gap(comparison: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The gap that was measured under the personal baseline of the model that the reader looks at."""
    gap = (reference["leakage_gap"] if reference else None) or comparison["leakage_gap"]
    return dict(gap) if gap else None


def _row(
    label: str,
    summary: Mapping[str, Any],
    kind: strips.Kind,
    people: str,
    beside: str,
    *,
    values: Sequence[float],
    scale: strips.Scale,
) -> ScoreRow:
    score = summary["balanced_accuracy"] or {}
    # A baseline is a landmark: its mean is enough, and its interval would look like a model's.
    low, high = (None, None) if kind == "baseline" else (score.get("low"), score.get("high"))
    text = with_interval({"mean": score.get("mean"), "low": low, "high": high})
    title = f"{label}: balanced accuracy {text}"
    strip = strips.dot_strip(values, mean=score.get("mean"), low=low, high=high, scale=scale, kind=kind, title=title)
    return ScoreRow(label, kind, text, "" if kind == "baseline" else people, beside, strip)


def _people(summary: Mapping[str, Any], *, participants: int | None) -> str:
    found = (summary["balanced_accuracy"] or {}).get("n")
    return "" if found is None or participants in (None, found) else f"{found} of {participants} people"


def _beside(name: str, comparison: Mapping[str, Any], reference: str | None) -> str:
    if name != reference:
        return against(comparison, name, reference=reference)
    chance = next(model["chance"] for model in comparison["models"] if model["name"] == name) or {}
    p = chance.get("p_holm") if chance.get("p_holm") is not None else chance.get("p")
    tested = f"chance {short_number(chance.get('null_mean'))}, p {wording.p_value(p)}" if p is not None else ""
    role = "recommended" if (comparison["recommended"] or {}).get("name") == name else "reference"
    return f"{role}; {tested}" if tested else role


def _family(name: str) -> str:
    return name.partition("+")[0]


def meaning_of(name: str) -> str:
    """Say what a baseline is, empty where its name has to do.

    >>> meaning_of("face hidden+recording")
    'the picture without the face'
    """
    return MEANINGS.get(_family(name), "")


def _families(baselines: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Baselines with a row of their own, and all others, which share a line."""
    shown = []
    for family in ROWS_OF_THEIR_OWN:
        members = [name for name in baselines if _family(name) == family]
        if members:
            shown.append(max(members, key=lambda name: _mean(baselines[name])))
    return shown, [name for name in baselines if name not in shown]


def _mean(summary: Mapping[str, Any]) -> float:
    mean = (summary["balanced_accuracy"] or {}).get("mean")
    return -1.0 if mean is None else float(mean)


def score_values(scores: pd.DataFrame | None) -> dict[str, list[float]]:
    """Return the balanced accuracy of every participant who has one, by model."""
    if scores is None:
        return {}
    known = scores.dropna(subset=["balanced_accuracy"])
    return {str(name): own["balanced_accuracy"].astype(float).tolist() for name, own in known.groupby("model")}


def _extremes(
    summaries: Mapping[str, Mapping[str, Any]], values: Mapping[str, Sequence[float]]
) -> Iterable[float | None]:
    for name, summary in summaries.items():
        score = summary["balanced_accuracy"] or {}
        yield from (score.get("mean"), score.get("low"), *values.get(name, ()))
