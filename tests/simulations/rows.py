"""One measured figure of a simulation, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ERRORS_ALLOWED = 3.0  # Monte Carlo standard errors: one honest check of 400 fails


@dataclass(frozen=True)
class Row:
    """A share of studies, or another figure, that was measured.

    Attributes:
        setting: The set-up, such as "P = 10".
        method: What was applied.
        measured: The figure.
        rounds: Number of independent studies that it is a share of (or a mean over).
        expected: What EVALUATION.md says, in words; empty where it says nothing.
        low: Least value that agrees with what is expected.
        high: Largest such value.
        spread: Standard error of `measured` where it isn't a share of the studies.
    """

    setting: str
    method: str
    measured: float
    rounds: int
    expected: str = ""
    low: float = 0.0
    high: float = 1.0
    spread: float | None = None

    @property
    def error(self) -> float:
        """Standard error; of a share of `rounds` the binomial one, at the bound that it lies outside of, if any."""
        if self.spread is not None:
            return self.spread
        nearest = min(max(self.measured, self.low), self.high)
        rate = min(max(nearest, 1 / self.rounds), 1 - 1 / self.rounds)  # an error of 0 would allow nothing at 0 or 1
        return math.sqrt(rate * (1 - rate) / self.rounds)

    @property
    def agrees(self) -> bool:
        """Whether the figure lies within what is expected, give or take the Monte Carlo error."""
        slack = ERRORS_ALLOWED * self.error
        return self.low - slack <= self.measured <= self.high + slack

    @property
    def within(self) -> bool:
        """Whether it lies within what is expected without any allowance."""
        return self.low <= self.measured <= self.high


def find(rows: Iterable[Row], *, method: str, setting: str = "") -> list[Row]:
    """Return the rows of one method whose setting contains a text; there must be some."""
    chosen = [row for row in rows if row.method == method and setting in row.setting]
    assert chosen, f"no row of {method!r} in {setting!r}"
    return chosen


def as_table(rows: Iterable[Row]) -> str:
    """Markdown table of rows."""
    lines = ["| set-up | method | measured | ± | studies | expected | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "" if not row.expected else "yes" if row.within else "within error" if row.agrees else "**no**"
        cells = (row.setting, row.method, f"{row.measured:.3f}", f"{row.error:.3f}", row.rounds, row.expected, verdict)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
