"""Tables of intervals of no known program: what was seen, when it began, when it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mien.annotations.exports import Export, interval_table
from mien.annotations.imotions import UNITS_PER_SECOND
from mien.annotations.tables import (
    RawTable,
    Row,
    check_interval,
    plain_name,
    read_number,
    read_raw_table,
    report_rows,
)
from mien.annotations.tiers import report_points, settle_values
from mien.core.errors import UserError

UNITS = tuple(UNITS_PER_SECOND)


def _with_units(*names: str) -> tuple[str, ...]:
    return tuple(spelling for name in names for spelling in (name, *(f"{name}_{unit}" for unit in UNITS)))


ONSET = _with_units("onset", "start", "start time", "begin", "begin time", "from", "onset time", "tmin", "xmin")
OFFSET = _with_units("offset", "end", "end time", "stop", "stop time", "to", "offset time", "tmax", "xmax")
DURATION = _with_units("duration")

LABEL = ("label", "scheme", "expression", "expression type", "behavior", "behaviour", "emotion", "code", "event")
LABEL_OF_OTHERS = ("trial_type", "category", "tier", "annotation", "text", "name")
"""Names that are the label where none of `LABEL` is there; `trial_type` is that of BIDS events."""

OPTIONAL = {
    "participant": ("participant", "participant id", "respondent", "respondent name", "subject", "person"),
    "recording": ("recording", "recording id"),
    "media": ("media", "media file", "file", "file name", "filename", "video"),
    "stimulus": ("stimulus", "stimulus name", "session"),
    "value": ("value", "intensity", "rating"),
    "annotator": ("annotator", "coder", "rater"),
    "confidence": ("confidence", "probability"),
    "face": ("face",),
}
"""Columns that may be there, the first of their names that is."""


def read_interval_csv(path: Path) -> Export:
    """Read a table of intervals by the usual names of its columns.

    Args:
        path: Separated by comma, tab or semicolon; a column for the start, one for the end (or the duration) and one
            for the label. Times are seconds unless the column's name says ms (`onset_ms`, `Onset (ms)`).

    Returns:
        Intervals: respondent is the participant, or the recording or media file where no participant is named.

    Raises:
        UserError: The file can't be read or lacks a column.
    """
    table, end = _read_table(path)
    columns = {name: column for name, options in OPTIONAL.items() if (column := _column(table, options)) is not None}
    label = _column(table, (*LABEL, *LABEL_OF_OTHERS))
    if label is None:
        raise UserError(
            f"{path.name} has times, but no column that says what was seen. Columns found: "
            f"{', '.join(filter(None, table.header))}. Call it 'label'."
        )
    per_second = {name: _units_per_second(table.header[table.columns.index(name)]) for name in ("onset_s", end)}
    rows: list[dict[str, object]] = []
    left_out: dict[str, list[int]] = {}
    for row in table.rows:
        times = {
            name: read_number(row.cells[name], separator=table.separator) / units for name, units in per_second.items()
        }
        onset_s, end_s = times["onset_s"], times[end]
        offset_s = onset_s + end_s if end == "duration" else end_s
        reason = check_interval(onset_s, offset_s) if row.cells[label] else "no label"
        if reason:
            left_out.setdefault(reason, []).append(row.line)
        else:
            rows.append(_interval(row, onset_s, offset_s, label=label, columns=columns, separator=table.separator))
    problems = [
        *report_rows(path, rows=left_out),
        *report_points(path, ((float(str(row["onset_s"])), float(str(row["offset_s"]))) for row in rows)),
        *settle_values(path, rows),
    ]
    return Export(
        path=path,
        format="interval table",
        intervals=interval_table(rows),
        media=tuple(dict.fromkeys(str(row["media"]) for row in rows if row["media"])),
        labels=tuple(dict.fromkeys(str(row["label"]) for row in rows)),
        problems=tuple(problems),
    )


def _read_table(path: Path) -> tuple[RawTable, str]:
    """Return the table and its column for the end: `offset_s`, or `duration` where it has no end."""
    try:
        return read_raw_table(path, wanted={"onset_s": ONSET, "offset_s": OFFSET}), "offset_s"
    except UserError as error:
        failure = error
    try:
        return read_raw_table(path, wanted={"onset_s": ONSET, "duration": DURATION}), "duration"
    except UserError:
        raise failure from None


def _interval(
    row: Row, onset_s: float, offset_s: float, *, label: str, columns: Mapping[str, str], separator: str
) -> dict[str, object]:
    def cell(name: str) -> str:
        return row.cells.get(columns[name], "") if name in columns else ""

    media = re.split(r"[/\\]", cell("media"))[-1]
    return {
        "respondent": cell("participant") or cell("recording") or media,
        "stimulus": cell("stimulus"),
        "label": row.cells[label],
        "onset_s": onset_s,
        "offset_s": offset_s,
        "value": cell("value"),
        "annotator": cell("annotator"),
        "confidence": read_number(cell("confidence"), separator=separator) if cell("confidence") else math.nan,
        "face": cell("face"),
        "media": media,
    }


def _column(table: RawTable, options: Sequence[str]) -> str | None:
    """Return the first of several columns that a table has."""
    by_name = {plain_name(name): name for name in reversed(table.columns) if name}
    return next((by_name[plain_name(option)] for option in options if plain_name(option) in by_name), None)


def _units_per_second(header: str) -> float:
    """Return how many of a column's units make a second, by its name; seconds where it says nothing.

    >>> _units_per_second("Onset (ms)"), _units_per_second("start_ms"), _units_per_second("start")
    (1000.0, 1000.0, 1.0)
    """
    words = re.findall(r"[a-z]+", header.lower())
    return next((UNITS_PER_SECOND[word] for word in reversed(words) if word in UNITS_PER_SECOND), 1.0)
