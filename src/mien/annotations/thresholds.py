"""Channels that a tool rates from moment to moment, turned into intervals: above a threshold, for long enough.

This is what coding software does with its detectors' output: iMotions counts an expression where its AFFDEX channel
(0..100) is at or above 50; OpenFace gives action units an intensity of 0..5, of which 1 is a trace (FACS level A).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import interval_table
from mien.core.errors import UserError
from mien.core.types import Signal

NUM_INTERVALS_OF_GAP = 5.0
"""Samples that are more than so many usual intervals apart have a gap between them, where the caller names no limit."""


def intervals_from_channels(
    signals: Sequence[Signal],
    *,
    threshold: float | Mapping[str, float],
    release: float | Mapping[str, float] | None = None,
    min_duration_s: float = 0.0,
    max_gap_s: float | None = None,
) -> pd.DataFrame:
    """Return the intervals in which channels are at or above their thresholds.

    A sample holds until the next one: an interval runs from its first sample at or above the threshold to the first
    sample below it, half-open. Where no sample follows within `max_gap_s` (no face, end of the recording) it ends one
    usual interval (the channel's median) after its last sample: nothing is claimed about a gap. A signal of a single
    sample has no usual interval, so it gives no interval.

    Args:
        signals: One or several channels; each is treated alone, with its respondent, stimulus and face.
        threshold: In the channels' own unit; for all, or by name of the channel (those that aren't named are left out).
        release: Where given, an interval that has begun goes on down to this value (hysteresis); it can't be above the
            threshold.
        min_duration_s: Intervals shorter than this are dropped, s.
        max_gap_s: Longest time between samples that isn't a gap, s; by default `NUM_INTERVALS_OF_GAP` usual intervals.

    Returns:
        `INTERVAL_COLUMNS`, in order of the signals, then of time; `value` is the highest value of the channel within
        the interval, `annotator` the signal's source. `confidence` is empty: an intensity is none.

    Raises:
        UserError: A threshold that isn't a number, a release above its threshold, a negative duration or gap.
    """
    if not (math.isfinite(min_duration_s) and min_duration_s >= 0):
        raise UserError(f"min_duration_s must be a number of seconds, 0 or more; got {min_duration_s}.")
    if max_gap_s is not None and not max_gap_s > 0:
        raise UserError(f"max_gap_s must be a positive number of seconds; got {max_gap_s}.")
    rows: list[dict[str, object]] = []
    for signal in signals:
        onset_at = _for_channel(threshold, name=signal.name)
        if onset_at is None:
            continue
        offset_at = _for_channel(release, name=signal.name) if release is not None else None
        offset_at = onset_at if offset_at is None else offset_at
        if not (math.isfinite(onset_at) and offset_at <= onset_at):
            raise UserError(
                f"{signal.name}: the threshold must be a number and the release at most the threshold; got threshold "
                f"{onset_at}, release {offset_at}."
            )
        for onset_s, offset_s, peak in _intervals(
            signal, onset_at=onset_at, offset_at=offset_at, min_duration_s=min_duration_s, max_gap_s=max_gap_s
        ):
            rows.append(
                {
                    "respondent": signal.respondent,
                    "stimulus": signal.stimulus,
                    "label": signal.name,
                    "onset_s": onset_s,
                    "offset_s": offset_s,
                    "value": peak,
                    "annotator": signal.source,
                    "face": signal.face,
                }
            )
    return interval_table(rows)


def sample_ends(times_s: NDArray[np.float64], *, max_gap_s: float | None) -> NDArray[np.float64]:
    """Return until when each sample holds: the next sample's time, or one usual interval where a gap follows.

    Args:
        times_s: (N,) strictly increasing, N >= 2.
        max_gap_s: As in `intervals_from_channels`.
    """
    steps_s = np.diff(times_s)
    usual_s = float(np.median(steps_s))
    limit_s = NUM_INTERVALS_OF_GAP * usual_s if max_gap_s is None else max_gap_s
    return np.asarray(times_s + np.append(np.where(steps_s > limit_s, min(usual_s, limit_s), steps_s), usual_s))


def _for_channel(value: float | Mapping[str, float], *, name: str) -> float | None:
    return value.get(name) if isinstance(value, Mapping) else float(value)


def _intervals(
    signal: Signal, *, onset_at: float, offset_at: float, min_duration_s: float, max_gap_s: float | None
) -> list[tuple[float, float, float]]:
    times_s = np.asarray(signal.times_s, dtype=np.float64)
    values = np.asarray(signal.values, dtype=np.float64)
    if times_s.size < 2:
        return []
    ends_s = sample_ends(times_s, max_gap_s=max_gap_s)
    held = values >= offset_at
    joined = held[1:] & held[:-1] & (ends_s[:-1] == times_s[1:])
    begins = np.flatnonzero(held & ~np.append(False, joined))
    lasts = np.flatnonzero(held & ~np.append(joined, False))
    found = []
    for begin, last in zip(begins, lasts, strict=True):
        # With hysteresis a run at or above the release counts from its first sample at or above the threshold.
        above = np.flatnonzero(values[begin : last + 1] >= onset_at)
        if not above.size:
            continue
        onset_s, offset_s = float(times_s[begin + above[0]]), float(ends_s[last])
        # Times in ms divided by 1000 aren't exact: an interval of just the minimum must not fall to rounding.
        if offset_s - onset_s >= min_duration_s - 1e-9:
            found.append((onset_s, offset_s, float(values[begin : last + 1].max())))
    return found
