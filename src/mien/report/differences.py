"""Models against each other and against chance: rows of tables, and the few words that stand beside a score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mien.core.numbers import brackets, short_number
from mien.evaluation.comparisons import ROPE_CERTAINTY
from mien.report.wording import p_value

SWAPPED = {"worse": "better", "same": "same", "better": "worse"}


@dataclass(frozen=True)
class RopeBar:
    """The Bayesian view of a difference.

    Attributes:
        shares: (word, probability) of worse, same, better, in this order.
        word: Which of them reaches `ROPE_CERTAINTY`, else "inconclusive".
        text: The word with its probability; of "inconclusive" the most probable one.
    """

    shares: tuple[tuple[str, float], ...]
    word: str
    text: str

    @classmethod
    def of(cls, rope: Mapping[str, Any] | None, *, swapped: bool = False) -> RopeBar | None:
        """Return the view, from the other model's side where `swapped`; None where there is none."""
        if not rope or any(rope.get(word) is None for word in SWAPPED):
            return None
        shares = tuple((word, float(rope[SWAPPED[word] if swapped else word])) for word in SWAPPED)
        likeliest, share = max(shares, key=lambda item: item[1])
        if share >= ROPE_CERTAINTY:
            return cls(shares, likeliest, f"{likeliest} {_probability(share)}")
        # Rounded down: .949 must not look as if it reached the .95 that it misses.
        return cls(shares, "inconclusive", f"inconclusive ({likeliest} {short_number(math.floor(100 * share) / 100)})")


def reference_of(comparison: Mapping[str, Any]) -> str | None:
    """Return the model that the others stand beside: the recommended one, else the one that most were tested against.

    >>> reference_of({"recommended": None, "differences": [{"a": "x", "b": "y"}, {"a": "z", "b": "y"}]})
    'y'
    """
    recommended = comparison["recommended"]
    if recommended:
        return str(recommended["name"])
    tested = Counter(str(row["b"]) for row in comparison["differences"] or [])
    return tested.most_common(1)[0][0] if tested else None


def against(comparison: Mapping[str, Any], name: str, *, reference: str | None) -> str:
    """Write the difference of a model to the reference; empty where it wasn't tested.

    The sign is that of the row: minus means that this model scores lower than the reference.
    """
    for row in comparison["differences"] or []:
        if {str(row["a"]), str(row["b"])} == {name, reference}:
            return _written(row, swapped=str(row["a"]) != name)
    return ""


def _written(row: Mapping[str, Any], *, swapped: bool) -> str:
    mean, low, high = (row.get(key) for key in ("mean", "low", "high"))
    if swapped:
        mean, low, high = (None if value is None else -float(value) for value in (mean, high, low))
    what = f"Δ {short_number(mean, signed=True)} {brackets({'low': low, 'high': high})}".strip()
    parts = [what if row.get("metric") in (None, "balanced_accuracy") else f"{what} in {row['metric']}"]
    if row.get("p_holm") is not None:
        parts.append(f"p {p_value(row['p_holm'])}")
    elif row.get("p") is None:
        parts.append("no p")
    bar = RopeBar.of(row.get("rope"), swapped=swapped)
    return ", ".join([*parts, bar.text] if bar else parts)


def difference_rows(comparison: Mapping[str, Any], *, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the table of differences: what was tested (`row`), both names, and its `RopeBar` (`bar`)."""
    return [
        {
            "row": row,
            "a_name": names.get(str(row["a"])) or row["a_label"] or row["a"],
            "b_name": names.get(str(row["b"])) or row["b_label"] or row["b"],
            "bar": RopeBar.of(row["rope"]),
        }
        for row in comparison["differences"] or []
    ]


def chance_rows(models: Sequence[Mapping[str, Any]], *, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of the table of tests against chance; models without one are left out."""
    return [
        {
            "name": names[str(model["name"])],
            "score": model["balanced_accuracy"],
            "test": model["chance"],
            "open": _holds_chance(model["balanced_accuracy"], chance=model["chance"]),
        }
        for model in models
        if model["chance"]
    ]


def _holds_chance(score: Mapping[str, Any] | None, *, chance: Mapping[str, Any]) -> bool:
    """Say whether the interval over participants holds chance, so that a small p alone doesn't carry a claim."""
    low, by_chance = (score or {}).get("low"), chance.get("null_mean")
    return low is not None and by_chance is not None and float(low) <= float(by_chance)


def _probability(share: float) -> str:
    """A posterior of Student's t is never 0 or 1, so it isn't written so."""
    return ">\N{NO-BREAK SPACE}.99" if share > 0.995 else short_number(share)
