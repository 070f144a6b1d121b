"""One line of dots per model: a dot per participant, the mean and its interval, on one scale for all rows.

Written as SVG by hand: positions are percentages and sizes are px, so the same picture fits a wide page and a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from mien.core.numbers import short_number

Kind = Literal["model", "selected", "baseline"]

HEIGHT_PX = {"model": 28, "selected": 28, "baseline": 16}
DOT_PX = 2.4  # radius
STACK_STEP_PX = 3.6  # between dots that would cover each other
FAN_WITHIN = 0.011  # dots nearer than this, in score, would cover each other
AXIS_PX = 16
LEAST_FLOOR = 0.4  # where nobody scores less, the scale starts here: chance and what lies above it share the width
PADDING = 0.02


@dataclass(frozen=True)
class Scale:
    """Scores from `low` at the left end to `high` at the right end of every row."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Scale:
        """Return the scale on which all values can be seen: whole tenths, from `LEAST_FLOOR` or lower, up to 1."""
        known = [value for value in values if value is not None]
        floor = min([LEAST_FLOOR, *(float(np.floor(10 * value + 1e-9) / 10) for value in known)])
        return cls(max(floor, 0.0) - PADDING, 1.0 + PADDING)

    @property
    def ticks(self) -> list[float]:
        """Every whole tenth."""
        first, last = round(10 * (self.low + PADDING)), round(10 * (self.high - PADDING))
        return [tenth / 10 for tenth in range(first, last + 1)]

    def at(self, value: float) -> str:
        """Return where a score lies, in percent of the width."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def dot_strip(
    values: Sequence[float],
    *,
    mean: float | None,
    low: float | None,
    high: float | None,
    scale: Scale,
    kind: Kind,
    title: str,
) -> Markup:
    """Draw one row.

    Args:
        values: One score per participant; may be empty.
        mean: Mean over participants, None where undefined.
        low: Lower end of its interval, None where there is none.
        high: Upper end.
        scale: The scale of all rows.
        kind: A baseline's row is thin and grey, and its mean a diamond.
        title: What a screen reader says.
    """
    height = HEIGHT_PX[kind]
    bar = height - 6.0 if values and kind != "baseline" else height / 2
    parts = [
        f'<line class="grid" x1="{scale.at(tick)}" x2="{scale.at(tick)}" y1="0" y2="{height}"/>' for tick in scale.ticks
    ]
    if kind != "baseline":
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        middle = (bar - 5.0) / 2 + 0.5
        for value, offset in zip(ordered, _fanned(ordered, room_px=bar - 5.0), strict=True):
            parts.append(f'<circle class="dot" cx="{scale.at(value)}" cy="{middle + offset:.1f}" r="{DOT_PX}"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="bar" x1="{scale.at(low)}" x2="{scale.at(high)}" y1="{bar}" y2="{bar}"/>')
    if mean is not None:
        # A nested svg moves its content by a percentage, which no path could be placed at.
        shape = '<path d="M0-5 5 0 0 5-5 0Z"/>' if kind == "baseline" else '<circle r="5"/>'
        parts.append(f'<svg class="mean" x="{scale.at(mean)}" y="{bar}">{shape}</svg>')
    content = "".join(parts)
    return Markup(
        f'<svg class="strip {kind}" style="height:{height}px" role="img" aria-label="{escape(title)}">{content}</svg>'
    )


def axis(scale: Scale) -> Markup:
    """Draw the numbers below the rows."""
    labels = "".join(
        f'<text x="{scale.at(tick)}" y="12" text-anchor="middle">{short_number(tick, digits=1)}</text>'
        for tick in scale.ticks
    )
    return Markup(f'<svg class="strip axis" style="height:{AXIS_PX}px" aria-hidden="true">{labels}</svg>')


def _fanned(values: NDArray[np.float64], *, room_px: float) -> NDArray[np.float64]:
    """Vertical offsets (P,), px, of sorted values (P,): near neighbours fan out around 0, within the room."""
    offsets = np.zeros(values.size)
    bins = np.round(values / FAN_WITHIN)
    for chosen in np.unique(bins):
        members = np.flatnonzero(bins == chosen)
        step = min(STACK_STEP_PX, (room_px - 2 * DOT_PX) / max(members.size - 1, 1))
        offsets[members] = (np.arange(members.size) - (members.size - 1) / 2) * step
    return offsets
