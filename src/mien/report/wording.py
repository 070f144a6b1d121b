"""The words and numbers of the report: what a result may be called, and how a figure is written."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MISSING = "–"  # a score that isn't defined, or a fact that the run didn't record
EXPLORATORY_BELOW_PARTICIPANTS = 20  # EVALUATION.md, section 3: fewer can't support a claim

NOT_PERMITTED = (
    "a claim about what anybody feels; about other people, places or stimuli than those of this study; "
    "about any group of fewer than 10 people."
)


@dataclass(frozen=True)
class Verdict:
    """The first line of the headline box.

    Attributes:
        tone: `open`, `exploratory`, `refused` or `supported`: the colour of the box.
        heading: The verdict in a few words.
        sentence: What it means for the reader.
    """

    tone: str
    heading: str
    sentence: str


def verdict_of(comparison: Mapping[str, Any]) -> Verdict:
    """Say how far the result can be believed; a result without a verdict is not audited."""
    verdict = comparison.get("verdict")
    if verdict == "supported":
        return Verdict(
            "supported", "Supported: no leak was found by these checks", "No tool certifies what a label means."
        )
    if verdict == "refused":
        return Verdict("refused", "Refused: no score is printed", "The rules of evidence don't allow a result here.")
    if verdict == "exploratory":
        return Verdict("exploratory", "Exploratory", "A first look that supports no claim by itself.")
    sentence = (
        "The audit of this dataset (copied people, overlap, labels drawn into the picture, nuisances, clocks) and the "
        "statistics of this result (tests against chance and between models) have not been run. Read the scores as a "
        "first look."
    )
    participants = comparison.get("participants")
    if participants is not None and participants < EXPLORATORY_BELOW_PARTICIPANTS:
        sentence += f" With {participants} participants it could at most be exploratory; a claim needs 20 or more."
    return Verdict("open", "Not audited: exploratory", sentence)


def report_title(comparison: Mapping[str, Any]) -> str:
    """Return the title; where a tool made the labels it says that a score is agreement with that tool.

    >>> report_title({"target": "Smile", "label_source": "tool:AFFDEX"})
    'Smile: agreement with AFFDEX'
    """
    title = str(comparison.get("title") or comparison.get("target") or "Comparison of models")
    source = str(comparison.get("label_source") or "")
    agreement = f"agreement with {source.removeprefix('tool:')}"
    if source.startswith("tool:") and agreement.lower() not in title.lower():
        return f"{title}: {agreement}"
    return title


def display_name(model: Mapping[str, Any]) -> str:
    """Return a model's short name; one whose pretrained weights were absent is called so wherever it stands."""
    label = str(model.get("label") or model.get("name") or "unnamed model")
    random_init = "random init" in str(model.get("weights_note") or "").lower()
    return f"{label} (random init)" if random_init and "random init" not in label.lower() else label


def display_names(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what each model is called on the page: its short name, or its full one where two share the short one.

    >>> display_names([{"name": "p@a/m.onnx", "label": "p@m"}, {"name": "p@b/m.onnx", "label": "p@m"}])
    {'p@a/m.onnx': 'p@a/m.onnx', 'p@b/m.onnx': 'p@b/m.onnx'}
    """
    labels = {str(model.get("name")): display_name(model) for model in models}
    taken = Counter(labels.values())
    return {
        name: display_name({**model, "label": None}) if taken[labels[name]] > 1 else labels[name]
        for model in models
        for name in [str(model.get("name"))]
    }


def score_columns(thing: str) -> list[tuple[str, str, str]]:
    """Return the scores that have an interval, in the order of the table: key, heading, what it is.

    Args:
        thing: What one label describes: "moment", "recording" or "participant".
    """
    return [
        ("balanced_accuracy", "Balanced accuracy", "mean of the hit rates of the classes"),
        ("f1", "F1", "harmonic mean of precision and recall"),
        ("auroc", "AUROC", f"chance that a positive {thing} is ranked above a negative one"),
        ("accuracy", "Accuracy", f"share of {thing}s that are right; flattered by rare classes"),
        ("precision", "Precision", f"share of the {thing}s predicted positive that are annotated so"),
        ("recall", "Recall", f"share of the {thing}s annotated positive that are found"),
    ]


def short_number(value: float | None, *, digits: int = 2, signed: bool = False) -> str:
    """Write a share without its leading zero, as statistics tables do; a missing one as a dash.

    >>> short_number(0.837), short_number(1.0), short_number(-0.05), short_number(0.02, signed=True), short_number(None)
    ('.84', '1.00', '−.05', '+.02', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    sign = "" if float(text) == 0 else "−" if value < 0 else "+" if signed else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def breakable(name: str) -> Markup:
    """Let a model's name break after `@`, `+` and `/`, nowhere else; the rest is escaped.

    >>> str(breakable("probe@hog<b>"))
    'probe@<wbr>hog&lt;b&gt;'
    """
    return Markup(re.sub(r"([@+/])(?=.)", r"\1<wbr>", str(escape(name))))


def brackets(score: Mapping[str, Any] | None) -> str:
    """Write an interval, empty where there is none.

    >>> brackets({"mean": 0.84, "low": 0.8, "high": 0.87})
    '[.80, .87]'
    """
    if not score or score.get("low") is None or score.get("high") is None:
        return ""
    return f"[{short_number(score['low'])}, {short_number(score['high'])}]"


def count(value: float | None) -> str:
    """Write a count.

    >>> count(1699841)
    '1,699,841'
    """
    return MISSING if value is None else f"{round(value):,}"


def decimal(value: float | None, digits: int = 1) -> str:
    """Write a number with a fixed number of decimals, a missing one as a dash."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def scaled(value: float | None) -> str:
    """Write a large number with a unit prefix.

    >>> scaled(4.1e9), scaled(None)
    ('4.1 G', '–')
    """
    if value is None:
        return MISSING
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f} {prefix}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Write a duration.

    >>> duration(4.26), duration(200), duration(7500)
    ('4.3 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def flattened(value: Any, *, prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as (dotted key, text) rows.

    >>> flattened({"seed": 0, "phase": {"rate": 0.001, "steps": [1, 2]}})
    [('seed', '0'), ('phase.rate', '0.001'), ('phase.steps', '1, 2')]
    """
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in flattened(item, prefix=f"{prefix}.{key}".lstrip("."))]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(map(str, value)) or MISSING)]
    return [(prefix, MISSING if value is None else str(value))]
