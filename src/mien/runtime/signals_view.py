"""Sensor signals as a network sees them: a few values per second, each channel on the scale of its own recording.

Per channel and recording (x - median) / spread, where the spread is the interquartile range over 1.349 (a normal
distribution's standard deviation), or the standard deviation where half of all values are equal (counts of peaks); cut
off at 8. Skin conductance differs tenfold between people, and only its changes speak of the moment. No label is looked
at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.core.channels import find_channel
from mien.media.signals import SignalTable

VIEW_HZ = 8.0
"""Values per second: skin conductance and gaze features change within seconds, a heart beats at up to 3 Hz."""

LIMIT = 8.0
"""Robust standard deviations; an electrode that comes off would otherwise drown everything else."""

NORMAL_QUARTILES = 1.349
SPEECH = "Speech"
"""The channel that `prepare` hears in the recording's own sound: to a network it would be sound, not a sensor."""


@dataclass(frozen=True)
class SignalView:
    """The channels of one recording on a regular grid.

    Attributes:
        values: (S, L) float32, robust z-scores; NaN where a channel isn't known.
        start_s: Time of the first column on the recording's clock, s; column i is i / `VIEW_HZ` later.
    """

    values: NDArray[np.float32]
    start_s: float


def usable_channels(names: Sequence[str]) -> tuple[str, ...]:
    """Return the channels that are measured by a sensor, in alphabetical order.

    Left out are `Speech`, which is heard, and what tools rate in the face (AFFDEX's `Joy`, `Joy Evidence`, `AU12`): a
    label that such a tool made would be predicted from itself.

    >>> usable_channels(["Speech", "GSR Conductance CAL", "Joy Evidence", "AU04_r", "Fixation Density"])
    ('Fixation Density', 'GSR Conductance CAL')
    """
    return tuple(sorted(name for name in names if not _is_rating(name)))


def _is_rating(name: str) -> bool:
    plain = re.sub(r"\s*\(.*\)$", "", name)
    found = find_channel(plain)
    if plain == SPEECH or found is not None:
        return found is None or found.kind != "sensor"
    return any(find_channel(word) is not None for word in plain.split())


def view_signals(table: SignalTable, *, names: Sequence[str]) -> SignalView | None:
    """Put channels on the grid of networks, and on their own scale.

    Args:
        table: The signals of one recording.
        names: Channels, in this order; one that the recording lacks is NaN throughout.

    Returns:
        None where none of the channels has a value.
    """
    if not len(table.times_s):
        return None
    columns = [
        table.values[:, table.names.index(name)] if name in table.names else np.full(len(table.times_s), np.nan)
        for name in names
    ]
    start_s = float(table.times_s[0])
    binned = [_binned(np.asarray(values, np.float64), table.times_s - start_s) for values in columns]
    values = np.stack([_robust(channel) for channel in binned])
    return SignalView(values.astype(np.float32), start_s=start_s) if np.isfinite(values).any() else None


def _binned(values: NDArray[np.float64], times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means around the times of the view's grid; where samples are rarer than it, the latest one."""
    size = int(np.floor(times_s[-1] * VIEW_HZ + 0.5)) + 1
    place = np.minimum(np.floor(times_s * VIEW_HZ + 0.5).astype(np.int64), size - 1)
    known = np.isfinite(values)
    counts = np.bincount(place[known], minlength=size)
    sums = np.bincount(place[known], weights=values[known], minlength=size)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    sampled = np.bincount(place, minlength=size) > 0
    latest = np.maximum.accumulate(np.where(sampled, np.arange(size), 0))
    return np.asarray(means[latest])


def _robust(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    low, middle, high = np.percentile(known, [25, 50, 75])
    spread = (high - low) / NORMAL_QUARTILES
    if not spread > 0:
        spread = float(known.std())
    return np.asarray(np.clip((values - middle) / (spread if spread > 0 else 1.0), -LIMIT, LIMIT))
