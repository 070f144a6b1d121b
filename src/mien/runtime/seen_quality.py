"""How well faces could be seen in what a model was trained on, and where a new recording shows them worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.media.quality import QUALITY_COLUMNS

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value of each of `QUALITY_COLUMNS` that a model knows."""


@dataclass(frozen=True)
class _Measure:
    """How one measure is judged.

    Attributes:
        below: What is said of a face below the range; empty where less is no worse.
        above: What is said above it; empty where more is no worse.
        least_slack: What the range is widened by on each side at least; of a ratio its logarithm.
        is_ratio: Whether it is compared by factors.
    """

    below: str
    above: str
    least_slack: float
    is_ratio: bool = False


# The slack keeps a model of one calm room usable in another: half the edge contrast (a quarter of its variance), half
# the face's side (crops are resized anyway), as far as somebody who speaks turns (a third of the way to where the nose
# is under an eye), nods (pitch .55 +- .15) and tilts (10 degrees), and half a stop of light around middle grey.
# Measured: with the ranges of 50 people of the smile study none of the frames of the other 22 is left out (4 draws),
# with those of 10 people 0 to 1.6 %. Of another camera's face of 220 px what is left out is one blurred by a sigma of
# 6 px, a fifth as bright, a quarter as large, or tilted by 30 degrees; 3 px, two fifths, half, 15 degrees count.
MEASURES = {
    "sharpness": _Measure("blurred", "", float(np.log(4.0)), is_ratio=True),
    "face_px": _Measure("face too small", "", float(np.log(2.0)), is_ratio=True),
    "yaw_proxy": _Measure("turned aside", "turned aside", 0.33),
    "pitch_proxy": _Measure("looks up", "looks down", 0.15),
    "roll_deg": _Measure("head tilted", "head tilted", 10.0),
    "brightness": _Measure("too dark", "too bright", 40.0),
}
assert tuple(MEASURES) == QUALITY_COLUMNS

PERCENTILES = (1.0, 99.0)
"""A person's range leaves out the frames in which the detector missed."""

SLACK_SHARE = 0.25
"""Share of the range that it is widened by on each side: the people of a study don't show all that people do."""


def seen_ranges(tables: Iterable[pd.DataFrame]) -> Ranges:
    """Return the range of each measure in which a model saw at least one of its participants.

    Args:
        tables: Per participant, `QUALITY_COLUMNS` of frames with a face.

    Returns:
        From the lowest 1st to the highest 99th percentile of a participant, without slack; empty without a face.
    """
    lows, highs = [], []
    for table in tables:
        values = table[list(QUALITY_COLUMNS)].to_numpy(dtype=np.float64)
        values = values[np.isfinite(values).all(axis=1)]
        if len(values):
            low, high = np.percentile(values, PERCENTILES, axis=0)
            lows.append(low)
            highs.append(high)
    if not lows:
        return {}
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    return {name: (float(low[at]), float(high[at])) for at, name in enumerate(QUALITY_COLUMNS)}


def why_worse(quality: pd.DataFrame, *, ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.object_]:
    """Say for each frame (N,) why its face is seen worse than a model knows it; empty where it isn't, or isn't known.

    Args:
        quality: `QUALITY_COLUMNS`; NaN where there is no face.
        ranges: From `seen_ranges`; empty: nothing is judged.
    """
    found = np.full(len(quality), "", object)
    for name, measure in MEASURES.items():
        if name not in ranges:
            continue
        low, high = limits(ranges[name], measure=measure)
        values = quality[name].to_numpy(dtype=np.float64)
        for wrong, what in ((values < low, measure.below), (values > high, measure.above)):
            for row in np.flatnonzero(wrong) if what else ():
                found[row] = f"{found[row]}, {what}" if found[row] else what
    return found


def limits(seen: tuple[float, float], *, measure: _Measure) -> tuple[float, float]:
    """Return the lowest and highest value at which a face counts as seen well enough.

    >>> limits((100.0, 100.0), measure=MEASURES["face_px"])
    (50.0, 200.0)
    """
    low, high = (np.log(np.maximum(seen, 1e-9)) if measure.is_ratio else np.asarray(seen)).tolist()
    slack = max(measure.least_slack, SLACK_SHARE * (high - low))
    ends = (low - slack, high + slack)
    return (round(float(np.exp(ends[0])), 6), round(float(np.exp(ends[1])), 6)) if measure.is_ratio else ends
