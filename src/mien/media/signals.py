"""Signals of any sensor on one grid of times: what a model is given beside pixels and sound.

Between samples values are interpolated linearly; where the grid is coarser than the samples, a value is the mean of
that line over the grid's interval around the time (an anti-aliasing filter that uneven times and gaps don't disturb).
Nothing is known outside a channel's samples and within gaps, and nothing is made up there: the value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.core.channels import find_channel
from mien.core.errors import UserError
from mien.core.types import Signal

NUM_STEPS_OF_GAP = 5.0
"""Samples further apart than so many usual steps (the channel's median) have a gap between them."""

FEATURE_PERIOD_S = 1.0
"""Sensor features of `core.channels` are per second; their value stands in the middle of it."""

MIN_KNOWN_SHARE = 0.5
"""A mean needs at least this share of its interval; at a channel's first and last sample it is just half."""

TOLERANCE_S = 1e-6
"""Grid times and samples that are equal but for rounding are equal."""


@dataclass(frozen=True)
class SignalTable:
    """Channels on one grid.

    Attributes:
        names: L names; the channel's, with its source or face in brackets where the name alone isn't unique.
        units: L units as the exports give them.
        times_s: (S,) grid, s.
        values: (S, L) float32, NaN where not known.
        sources: L sensors or tools; empty where nobody asks for them.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    times_s: NDArray[np.float64]
    values: NDArray[np.float32]
    sources: tuple[str, ...] = ()


def resample(
    signals: Sequence[Signal], *, start_s: float, end_s: float, rate_hz: float, max_gap_s: float | None = None
) -> SignalTable:
    """Return channels of one person on the grid start_s, start_s + 1 / rate_hz, ... before end_s.

    Signals that agree in name, source, unit and face are one channel (exports split channels by stimulus). Features per
    second (`core.channels.SENSOR`) are held over their second instead of interpolated.

    Args:
        signals: On the recording's clock, each with strictly increasing times. Numbers that name something (ids,
            counts) have no value between two samples: don't give them here.
        start_s: First time of the grid, s.
        end_s: End of the grid (not included), s.
        rate_hz: Grid times per second.
        max_gap_s: Longest time between samples that isn't a gap, s; by default `NUM_STEPS_OF_GAP` usual steps of the
            channel.

    Returns:
        Channels in order of their first signal.

    Raises:
        UserError: No positive rate or gap, an end before the start, or signals of several respondents.
    """
    if not (math.isfinite(rate_hz) and rate_hz > 0):
        raise UserError(f"rate_hz must be a positive number of values per second; got {rate_hz}.")
    if not (math.isfinite(start_s) and math.isfinite(end_s) and end_s >= start_s):
        raise UserError(f"The grid must end after its start; got start_s={start_s}, end_s={end_s}.")
    if max_gap_s is not None and not max_gap_s > 0:
        raise UserError(f"max_gap_s must be a positive number of seconds; got {max_gap_s}.")
    respondents = sorted({signal.respondent for signal in signals})
    if len(respondents) > 1:
        raise UserError(f"These are signals of several respondents: {', '.join(respondents)}. Give those of one.")
    size = math.ceil((end_s - start_s) * rate_hz - TOLERANCE_S)
    grid_s = start_s + np.arange(max(size, 0)) / rate_hz
    channels: dict[tuple[str, str, str, str], list[Signal]] = {}
    for signal in signals:
        channels.setdefault((signal.name, signal.source, signal.unit, signal.face), []).append(signal)
    values = np.full((grid_s.size, len(channels)), np.nan, dtype=np.float32)
    for number, (name, *_) in enumerate(channels):
        times_s, samples = _joined(list(channels.values())[number])
        channel = find_channel(name)
        if not times_s.size or not grid_s.size:
            continue
        if channel is not None and channel.kind == "sensor":
            values[:, number] = _held(times_s, samples, grid_s)
        else:
            values[:, number] = _interpolated(times_s, samples, grid_s, step_s=1 / rate_hz, max_gap_s=max_gap_s)
    units, sources = tuple(unit for _, _, unit, _ in channels), tuple(source for _, source, _, _ in channels)
    return SignalTable(_names(list(channels)), units, grid_s, values, sources)


def _joined(parts: Sequence[Signal]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the samples of a channel's signals in order of time; those that share a time are averaged."""
    times_s = np.concatenate([np.asarray(part.times_s, dtype=np.float64) for part in parts])
    samples = np.concatenate([np.asarray(part.values, dtype=np.float64) for part in parts])
    if times_s.size and not (np.diff(times_s) > 0).all():
        times_s, places = np.unique(times_s, return_inverse=True)
        samples = np.bincount(places, weights=samples) / np.bincount(places)
    return times_s, samples


def _held(
    times_s: NDArray[np.float64], samples: NDArray[np.float64], grid_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the value of the second [t - 0.5, t + 0.5) of a sample t in which each grid time lies."""
    opened_s = times_s - FEATURE_PERIOD_S / 2
    place = np.searchsorted(opened_s, grid_s + TOLERANCE_S, side="right") - 1
    inside = (place >= 0) & (grid_s + TOLERANCE_S < opened_s[place] + FEATURE_PERIOD_S)
    return np.where(inside, samples[place], np.nan)


def _interpolated(
    times_s: NDArray[np.float64],
    samples: NDArray[np.float64],
    grid_s: NDArray[np.float64],
    *,
    step_s: float,
    max_gap_s: float | None,
) -> NDArray[np.float64]:
    if times_s.size == 1:
        return np.where(np.abs(grid_s - times_s[0]) <= TOLERANCE_S, samples[0], np.nan)
    lengths_s = np.diff(times_s)
    usual_s = float(np.median(lengths_s))
    known = lengths_s <= (NUM_STEPS_OF_GAP * usual_s if max_gap_s is None else max_gap_s) + TOLERANCE_S
    if step_s > usual_s + TOLERANCE_S:
        means = _means(times_s, samples, known, grid_s, step_s=step_s)
        # A lone sample between two gaps has no line around it, yet is known at its own time.
        return np.where(np.isnan(means), _points(times_s, samples, known, grid_s), means)
    return _points(times_s, samples, known, grid_s)


def _points(
    times_s: NDArray[np.float64], samples: NDArray[np.float64], known: NDArray[np.bool_], grid_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the line between samples at grid times, NaN within gaps and outside."""
    values = np.interp(grid_s, times_s, samples)
    before = np.clip(np.searchsorted(times_s, grid_s, side="right") - 1, 0, times_s.size - 2)
    within = known[before] & (grid_s >= times_s[0] - TOLERANCE_S) & (grid_s <= times_s[-1] + TOLERANCE_S)
    nearest = before + (np.abs(grid_s - times_s[before + 1]) < np.abs(grid_s - times_s[before]))
    at_sample = np.abs(grid_s - times_s[nearest]) <= TOLERANCE_S
    return np.where(within | at_sample, values, np.nan)


def _means(
    times_s: NDArray[np.float64],
    samples: NDArray[np.float64],
    known: NDArray[np.bool_],
    grid_s: NDArray[np.float64],
    *,
    step_s: float,
) -> NDArray[np.float64]:
    """Return the mean of the line between samples over [t - step / 2, t + step / 2) of each grid time t.

    The integrals of the line, and of what is known of it, are taken at both ends of the interval: O(N + S).
    """
    # About its mean, so that an hour's integral of a large constant doesn't cost the digits of small changes.
    centre = float(samples.mean())
    heights = samples - centre
    lengths_s = np.where(known, np.diff(times_s), 0.0)
    areas = np.append(0.0, np.cumsum(lengths_s * (heights[1:] + heights[:-1]) / 2))
    covered_s = np.append(0.0, np.cumsum(lengths_s))
    ends_s = np.clip(np.stack([grid_s - step_s / 2, grid_s + step_s / 2]), times_s[0], times_s[-1])
    before = np.clip(np.searchsorted(times_s, ends_s, side="right") - 1, 0, times_s.size - 2)
    into_s = np.where(known[before], ends_s - times_s[before], 0.0)
    slopes = (np.diff(heights) / np.diff(times_s))[before]
    area = areas[before] + into_s * (heights[before] + slopes * into_s / 2)
    length_s = np.diff(covered_s[before] + into_s, axis=0)[0]
    enough = length_s >= MIN_KNOWN_SHARE * step_s - TOLERANCE_S
    return np.where(enough, centre + np.diff(area, axis=0)[0] / np.where(enough, length_s, 1.0), np.nan)


def _names(channels: Sequence[tuple[str, str, str, str]]) -> tuple[str, ...]:
    """Return a unique name per channel: the shortest that tells it from its namesakes."""
    names = []
    for name, source, unit, face in channels:
        same = [other for other in channels if other[0] == name]
        telling = [
            text
            for text, position in ((source, 1), (unit, 2), (face, 3))
            if text and len({other[position] for other in same}) > 1
        ]
        names.append(f"{name} ({', '.join(telling)})" if telling else name)
    return tuple(names)
