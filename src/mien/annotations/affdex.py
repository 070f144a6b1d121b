"""Raw AFFDEX channels (0..100) to intervals of expressions, as iMotions' thresholding does.

iMotions counts an expression where its channel is at or above a threshold, 50 unless the lab chose another. `Valence`
(-100..100) is three channels there: positive at or above the threshold, negative at or below its opposite, neutral in
between. Head positions of the expression tables aren't derived: their angles aren't published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mien.annotations.exports import interval_table
from mien.annotations.thresholds import intervals_from_channels
from mien.core.channels import find_channel
from mien.core.errors import UserError
from mien.core.types import Signal

SOURCE = "AFFDEX"
VALENCE = "Valence"
DEFAULT_THRESHOLD = 50.0


def affdex_intervals(
    signals: Sequence[Signal],
    *,
    threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
    min_duration_s: float = 0.0,
    max_gap_s: float | None = None,
) -> pd.DataFrame:
    """Return expression intervals of an export's raw AFFDEX channels.

    Args:
        signals: The export's; those of other sources, and AFFDEX's that are no channel of `core.channels` (engagement,
            angles), are left out.
        threshold: 0..100, for all channels, or by name (`Valence` for its three); channels that aren't named have
            `DEFAULT_THRESHOLD`.
        min_duration_s: Shorter intervals are dropped, s.
        max_gap_s: As in `intervals_from_channels`: where no face was found for longer, an interval ends.

    Returns:
        `INTERVAL_COLUMNS`; `value` is the channel's highest rating within the interval.

    Raises:
        UserError: A threshold outside 0..100, or another wrong number.
    """
    chosen = dict(threshold) if isinstance(threshold, Mapping) else {}
    default = DEFAULT_THRESHOLD if isinstance(threshold, Mapping) else float(threshold)
    for name, value in {**chosen, "all channels": default}.items():
        if not 0 < value <= 100:
            raise UserError(f"The threshold of {name} must be above 0 and at most 100, AFFDEX's range; got {value}.")
    tables = []
    for signal in signals:
        if signal.source != SOURCE:
            continue
        limit = chosen.get(signal.name, default)
        parts = _valence(signal, limit=limit) if signal.name == VALENCE else [(signal, limit)]
        tables += [
            intervals_from_channels([part], threshold=at, min_duration_s=min_duration_s, max_gap_s=max_gap_s)
            for part, at in parts
            if find_channel(part.name) is not None
        ]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else interval_table([])


def _valence(signal: Signal, *, limit: float) -> list[tuple[Signal, float]]:
    neutral = (np.abs(signal.values) < limit).astype(np.float32)
    return [
        (replace(signal, name="Positive Valence"), limit),
        (replace(signal, name="Negative Valence", values=-signal.values), limit),
        (replace(signal, name="Neutral Valence", values=neutral), 1.0),
    ]
