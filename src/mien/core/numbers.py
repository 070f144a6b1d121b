"""How numbers are written for people, the same in every report, card and table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"


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


def brackets(score: Mapping[str, Any] | None) -> str:
    """Write an interval, empty where there is none.

    >>> brackets({"mean": 0.84, "low": 0.8, "high": 0.87})
    '[.80, .87]'
    """
    if not score or any(score.get(end) is None or not math.isfinite(score[end]) for end in ("low", "high")):
        return ""
    return f"[{short_number(score['low'])}, {short_number(score['high'])}]"


def with_interval(score: Mapping[str, Any]) -> str:
    """Write a mean and, where there is one, its interval.

    >>> with_interval({"mean": 0.84, "low": None, "high": None})
    '.84'
    """
    return f"{short_number(score.get('mean'))} {brackets(score)}".strip()


def p_text(p: float) -> str:
    """Write a p-value; very small ones as a bound.

    >>> p_text(0.0312), p_text(0.00004)
    ('= .031', '< .001')
    """
    return "< .001" if p < 0.001 else f"= {short_number(p, digits=3)}"
