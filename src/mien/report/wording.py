"""The words and numbers of the report: what a result may be called, and how a figure is written."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from mien.core.numbers import MISSING, short_number
from mien.evaluation.verdict import MIN_SUPPORTED, NOT_PERMITTED

VERDICT_WORDS = {"supported": "SUPPORTED", "exploratory": "EXPLORATORY", "refused": "REFUSED"}
NOT_AUDITED = (
    "neither the audit (copied people, labels drawn into the picture, nuisances, clocks) nor the tests against chance "
    "and between models were run."
)
FIRST_LOOK = "What stands below is a first look, good for planning a study."


@dataclass(frozen=True)
class Headline:
    """The head of a report: how far the result can be believed, and what it permits.

    Attributes:
        tone: `open`, `exploratory`, `refused` or `supported`: the colour of the box.
        word: The verdict in capitals.
        why: What follows its colon.
        permits: The permitted claim, or "no claim" with the reason.
        not_permitted: What may not be claimed in any case.
    """

    tone: str
    word: str
    why: str
    permits: str
    not_permitted: str


def headline_of(comparison: Mapping[str, Any]) -> Headline:
    """Say how far a result can be believed and what it permits; one without a verdict is not audited.

    Where nothing may be claimed, the first of `verdict_reasons` says why (`mien.evaluation.verdict`).
    """
    verdict, claim = comparison.get("verdict"), comparison.get("permitted_claim")
    reasons = [str(reason) for reason in comparison.get("verdict_reasons") or []]
    forbidden = "; ".join(comparison.get("not_permitted") or NOT_PERMITTED) + "."
    if verdict == "refused":
        permits = "no claim. Mend what the audit names below, prepare the study again, and compare again."
        # Each reason is a paragraph with its advice; it stands below. The names of the checks are enough here.
        titles = [str(check.get("title") or check["name"]) for check in refusing(comparison)]
        why = "; ".join(titles) or " ".join(reasons) or "the rules of evidence don't allow a result here."
        return Headline("refused", VERDICT_WORDS["refused"], why, permits, forbidden)
    if verdict not in VERDICT_WORDS:
        why = NOT_AUDITED + _few(comparison.get("participants"))
        return Headline("open", "NOT AUDITED", why, f"no claim. {FIRST_LOOK}", forbidden)
    why = "no leak was found by these checks" if verdict == "supported" else ""
    permits = str(claim or "")
    if not claim:
        why_not = reasons[0].removeprefix("Nothing can be claimed: ") if reasons else FIRST_LOOK
        permits = f"no claim. {why_not}"
        reasons = reasons[1:]
    if verdict == "exploratory":
        why = " ".join(reasons) or ("a first look." if claim else "nothing may be claimed.")
    return Headline(str(verdict), VERDICT_WORDS[verdict], why, permits, forbidden)


def refusing(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the checks of the audit that fail and that nobody overrode."""
    overrides = comparison.get("overrides") or ()
    checks = (comparison.get("audit") or {}).get("checks") or []
    return [check for check in checks if check["severity"] == "fail" and check["name"] not in overrides]


def other_reasons(comparison: Mapping[str, Any]) -> list[str]:
    """Return the reasons of a refusal that aren't a failing check's: those begin with its title."""
    titles = tuple(str(check.get("title") or check["name"]) for check in refusing(comparison))
    return [str(reason) for reason in comparison.get("verdict_reasons") or [] if not str(reason).startswith(titles)]


def _few(participants: int | None) -> str:
    if participants is None or participants >= MIN_SUPPORTED:
        return ""
    return f" With {participants} participants it could at most be exploratory; {MIN_SUPPORTED} are needed."


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


def breakable(name: str) -> Markup:
    """Let a model's name break after `@`, `+` and `/`, nowhere else; the rest is escaped.

    >>> str(breakable("probe@hog<b>"))
    'probe@<wbr>hog&lt;b&gt;'
    """
    return Markup(re.sub(r"([@+/])(?=.)", r"\1<wbr>", str(escape(name))))


def prose(text: str | None) -> Markup:
    """Escape a sentence and set what stands between backticks as code, such as a command.

    >>> str(prose("Run `mien prepare` & look"))
    'Run <code>mien prepare</code> &amp; look'
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text or ""))))


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


def p_value(p: float | None) -> str:
    """Write a p-value for a table.

    >>> p_value(0.0312), p_value(0.00004), p_value(None)
    ('.031', '< .001', '–')
    """
    if p is None or not math.isfinite(p):
        return MISSING
    return "< .001" if p < 0.001 else short_number(p, digits=3)


def measured(value: Any, beside: Any = None) -> str:
    """Write what a check of the audit measured, or its threshold: a number, a text, or several with names.

    Args:
        value: What was measured.
        beside: The threshold that it stands beside: two numbers that differ are never written alike.

    >>> measured(0.0123), measured(3), measured({"pairs": 0, "largest_fraction": 0.004}), measured(None)
    ('.012', '3', 'pairs 0, largest fraction .0040', '–')
    >>> measured(0.547, 0.55), measured(0.61, 0.55)
    ('.547', '.61')
    """
    if value is None:
        return MISSING
    if isinstance(value, Mapping):
        texts = [f"{str(key).replace('_', ' ')} {measured(item, beside)}" for key, item in value.items()]
        return ", ".join(texts) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(map(measured, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return MISSING
        if value.is_integer():
            return count(value)
        digits = min(2 if abs(value) >= 0.1 else 1 - math.floor(math.log10(abs(value))), 6)
        if isinstance(beside, float) and beside != value:
            alike = (short_number(value, digits=few) == short_number(beside, digits=few) for few in range(digits, 6))
            digits = next((few for few, same in enumerate(alike, digits) if not same), 6)
        return short_number(value, digits=digits)
    return f"{value:,}" if isinstance(value, int) else str(value)
