"""Segments: which question, task or rest of `segments.csv` a time belongs to."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

NO_SEGMENT = ""
"""Name and id of a time outside every segment."""


def segments_of(times: pd.DataFrame, segments: pd.DataFrame) -> pd.DataFrame:
    """Return the segment of each time.

    A time in several segments belongs to the shortest, such as a question within a task; of equals to the later row.

    Args:
        times: Columns recording_id and pts_s (s), N rows.
        segments: Columns recording_id, onset_s, offset_s (not included) and segment.

    Returns:
        N rows with the index of `times`: `segment`, its name, and `segment_id`, unique per recording and occurrence
        (`r1#2` is the second segment to start in r1); both empty outside every segment.
    """
    names = np.full(len(times), NO_SEGMENT, dtype=object)
    ids = names.copy()
    pts_s = times["pts_s"].to_numpy(dtype=np.float64)
    by_recording = {str(name): _numbered(rows) for name, rows in segments.groupby("recording_id")}
    for recording_id, rows in times.groupby("recording_id").indices.items():
        # The longest first, so that a shorter one within it has the last word.
        for segment in by_recording.get(str(recording_id), []):
            inside = rows[(pts_s[rows] >= segment["onset_s"]) & (pts_s[rows] < segment["offset_s"])]
            names[inside], ids[inside] = segment["segment"], f"{recording_id}#{segment['number']}"
    return pd.DataFrame({"segment": names, "segment_id": ids}, index=times.index)


def _numbered(rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return a recording's segments, numbered from 1 in order of their start, the longest first."""
    ordered = rows.sort_values(["onset_s", "offset_s"], kind="stable").reset_index(drop=True)
    numbered = ordered.assign(number=ordered.index + 1, length_s=ordered["offset_s"] - ordered["onset_s"])
    return numbered.sort_values("length_s", ascending=False, kind="stable").to_dict("records")
