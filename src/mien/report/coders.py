"""What the page says of several coders: how far they agree, how the target was formed, and who lies above them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.core.numbers import short_number, with_interval
from mien.report.wording import count

NUMBERS = ("no", "One", "Two", "Three", "Four", "Five", "Six")


def coder_line(coders: Mapping[str, Any] | None) -> str:
    """Write the first page's line on coders; empty where there is one.

    >>> alpha, score = {"value": 0.64}, {"mean": 0.81, "low": 0.77, "high": 0.85}
    >>> facts = {"annotators": ["A", "B"], "alpha": alpha, "ceiling": {"balanced_accuracy": score}, "ties": 9}
    >>> coder_line({**facts, "target_formed_by": "majority"})[:79]
    'Two coders agree with each other at .81 [.77, .85] on this metric (alpha .64). '
    """
    if not coders:
        return ""
    score, alpha = coders["ceiling"]["balanced_accuracy"], coders["alpha"]["value"]
    who = number_of(coders["annotators"])
    formed = _formed_short(coders)
    if score["mean"] is None and alpha is None:
        return f"{who} coders, but no time that two of them coded: how far they agree isn't known. {formed}"
    if score["mean"] is None:
        return f"{who} coders agree with an alpha of {short_number(alpha)}; no person has all classes by one. {formed}"
    each = "each other" if len(coders["annotators"]) == 2 else "one another"
    told = f"{with_interval(score)} on this metric (alpha {short_number(alpha)})"
    return f"{who} coders agree with {each} at {told}. {formed}"


def coder_context(comparison: Mapping[str, Any], *, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the section on coders shows; None where there was one.

    Args:
        comparison: `comparison.json`, absent keys null.
        names: What each model is called on the page.
    """
    coders = comparison["coders"]
    if not coders:
        return None
    named = str(coders["target_formed_by"]).removeprefix("annotator ")
    return {
        "facts": coders,
        "who": number_of(coders["annotators"]),
        "named": named if named != coders["target_formed_by"] else "",
        "above": above_ceiling(comparison, names=names),
        "ceiling": coders["ceiling"]["balanced_accuracy"],
        "several": len(coders["annotators"]) > 2,
    }


def above_ceiling(comparison: Mapping[str, Any], *, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """List the models (name on the page, score) whose mean lies above what coders reach with each other."""
    ceiling = ((comparison["coders"] or {}).get("ceiling") or {}).get("balanced_accuracy") or {}
    limit = ceiling.get("mean")
    if limit is None:
        return []
    scored = [(names[str(model["name"])], model["balanced_accuracy"] or {}) for model in comparison["models"] or []]
    return [
        (name, short_number(score["mean"]))
        for name, score in scored
        if score.get("mean") is not None and score["mean"] > limit
    ]


def number_of(annotators: list[str]) -> str:
    """Write how many coders there are, to begin a sentence.

    >>> number_of(["A", "B"]), number_of(list("ABCDEFGH"))
    ('Two', '8')
    """
    return NUMBERS[len(annotators)] if len(annotators) < len(NUMBERS) else str(len(annotators))


def _formed_short(coders: Mapping[str, Any]) -> str:
    formed = str(coders["target_formed_by"])
    if formed.startswith("annotator "):
        return f"Target: what {formed.removeprefix('annotator ')} says."
    return (
        f"Target: the majority, {count(coders['ties'])} ties left out." if coders["ties"] else "Target: the majority."
    )
