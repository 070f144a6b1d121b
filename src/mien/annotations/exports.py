"""What any export of an annotation tool or sensor is read into, whatever its vendor: one type for all readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mien.core.types import Problem, Signal

INTERVAL_COLUMNS = (
    "respondent",
    "stimulus",
    "label",
    "onset_s",
    "offset_s",
    "value",
    "annotator",
    "confidence",
    "face",
    "media",
)
"""Columns of `Export.intervals`; `media` names the media file or observation whose clock an interval is on, where an
export covers several, and is empty where it covers one."""

SEGMENT_COLUMNS = ("respondent", "stimulus", "onset_s", "offset_s", "segment")
"""Columns of `Export.segments`."""


def interval_table(rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
    """Return intervals with every column of `INTERVAL_COLUMNS`; absent text is empty, absent numbers are missing."""
    table = pd.DataFrame(rows, columns=list(INTERVAL_COLUMNS))
    numbers = {"onset_s": "float64", "offset_s": "float64", "confidence": "float64"}
    texts = ("respondent", "stimulus", "label", "annotator", "face", "media")
    # As objects first: a column that no row fills in is one of numbers to pandas.
    kinds = {**numbers, **dict.fromkeys((*texts, "value"), "object")}
    return table.astype(kinds).fillna(dict.fromkeys(texts, ""))


def segment_table(rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
    """Return segments with every column of `SEGMENT_COLUMNS`; absent text is empty."""
    table = pd.DataFrame(rows, columns=list(SEGMENT_COLUMNS))
    texts = ("respondent", "stimulus", "segment")
    kinds = {"onset_s": "float64", "offset_s": "float64", **dict.fromkeys(texts, "object")}
    return table.astype(kinds).fillna(dict.fromkeys(texts, ""))


@dataclass(frozen=True)
class Export:
    """The content of one export, on the export's own clock.

    Attributes:
        path: The file or folder.
        format: What it was recognised as, such as "ELAN 3.0" or "iMotions sensors 6.1".
        intervals: `INTERVAL_COLUMNS`, half-open [onset_s, offset_s); one row per annotated interval.
        segments: `SEGMENT_COLUMNS`: questions, tasks and stimuli that the export marks.
        signals: Channels sampled in time.
        media: Names of the media files that the export says it describes.
        start_utc_s: When its clock starts, in seconds since 1970 (UTC); None where it doesn't say.
        annotator: Who or what annotated, such as "AFFDEX", "OpenFace" or a coder's name; empty where it doesn't say.
        tool: Whether a program rated the faces (`annotator` is its name): its silence where there is no face isn't a
            negative.
        attributes: What it says of the respondent, such as age and gender (one respondent only).
        labels: Everything that it codes, in its own order: also a tier or behaviour that never occurs, which was looked
            for and not seen. Empty where the format doesn't say more than its intervals do.
        needs_frame_times: Whether its rows are numbered frames without times, so that it has neither signals nor
            intervals yet: read it again with the times of its media's frames (`frame_times_s`).
        problems: Rows and parts that were left out, and why.
    """

    path: Path
    format: str
    intervals: pd.DataFrame = field(default_factory=lambda: interval_table([]))
    segments: pd.DataFrame = field(default_factory=lambda: segment_table([]))
    signals: tuple[Signal, ...] = ()
    media: tuple[str, ...] = ()
    start_utc_s: float | None = None
    annotator: str = ""
    tool: bool = False
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    needs_frame_times: bool = False
    problems: tuple[Problem, ...] = ()
