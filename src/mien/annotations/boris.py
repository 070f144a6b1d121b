"""BORIS exports: tabular events (one row per START, STOP or point) and aggregated events (one row per interval).

Columns as BORIS 7 and 8 write them (its `export_events`): version 7 names `Media file`, `Total length`, `Modifiers`
and, for tabular events, `Status` after a head of its own; version 8 names `Source`, `Media file name`, `Media duration
(s)`, `Modifier #1` and puts START and STOP into `Behavior type`. BORIS: Friard & Gamba, "BORIS: a free, versatile
open-source event-logging software for video/audio coding and live observations", Methods in Ecology and Evolution 7,
2016.

**The clock.** BORIS adds the observation's `Time offset (s)` to the media's time of every event, and counts on where an
observation plays several files. Times here are those of the media file that is named: the offset is taken off, and so
are the durations of the files before it, where the export gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mien.annotations.exports import Export, interval_table
from mien.annotations.tables import RawTable, Row, check_interval, read_number, read_raw_table, report_rows
from mien.annotations.tiers import report_points, settle_values
from mien.core.errors import UserError
from mien.core.types import Problem

NO_SUBJECT = "no focal subject"
NOT_GIVEN = frozenset({"", "na", "nan", "none", "not found"})

AGGREGATED = {"behavior": ("Behavior",), "start": ("Start (s)",), "stop": ("Stop (s)",)}
TABULAR = {"behavior": ("Behavior",), "time": ("Time",), "status": ("Status",)}
TABULAR_8 = {"behavior": ("Behavior",), "time": ("Time",), "status": ("Behavior type",)}

OPTIONAL = {
    "observation": ("Observation id",),
    "subject": ("Subject",),
    "modifiers": ("Modifiers",),
    "source": ("Source",),
    "media": ("Media file name",),
    "media_7": ("Media file",),
    "media_path": ("Media file path",),
    "durations": ("Media duration (s)",),
    "total": ("Total length",),
    "shift": ("Time offset (s)",),
}

START, STOP, POINT = "START", "STOP", "POINT"

MAX_LATE_S = 1.0
"""Events may lie so far behind the declared end of their file; times of day (an option of BORIS) lie farther."""


@dataclass(frozen=True)
class _Event:
    """A row: what was seen of whom, on which clock.

    Times in seconds on the clock of the file `media`; `length_s` is how long that lasts (NaN: unknown), `num_files` how
    many files the row says that its observation plays.
    """

    line: int
    observation: str
    subject: str
    behavior: str
    modifiers: str
    media: str
    time_s: float
    end_s: float
    status: str
    length_s: float
    num_files: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.observation, self.subject, self.behavior, self.modifiers)


@dataclass
class _Found:
    """Intervals, and lines that were left out or mended, by reason."""

    intervals: list[_Event] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    unplaced: set[str] = field(default_factory=set)


def read_boris(path: Path) -> Export:
    """Read a BORIS export of events.

    Args:
        path: Tabular or aggregated events, CSV or TSV.

    Returns:
        Intervals: label = behaviour, respondent = subject (empty for "No focal subject"), value = its modifiers where
        all of a behaviour's intervals have some; `media` where the export covers several files or observations. A START
        without STOP ends where its media file does, where the export says how long that is, else it is left out. Points
        have no duration. All of that is reported.

    Raises:
        UserError: The file can't be read or names neither kind's columns.
    """
    table, kind = _read_table(path)
    head = {cells[0].casefold(): cells[1] for cells in table.preamble if len(cells) > 1}
    found = _Found()
    read = [event for row in table.rows if (event := _event(row, table=table, head=head, found=found)) is not None]
    events = _without_misplaced(read, found=found)
    if kind == "aggregated":
        found.intervals = events
    else:
        _pair(events, found=found)
    problems = report_rows(path, rows=found.left_out)
    problems.extend(report_points(path, ((event.time_s, event.end_s) for event in found.intervals)))
    problems.extend(_clock_problems(path, found=found))
    media = tuple(dict.fromkeys(event.media for event in read if event.media))
    rows = _rows(found.intervals, num_media=len(media))
    problems.extend(settle_values(path, rows))
    return Export(
        path=path,
        format=f"BORIS {kind} events",
        intervals=interval_table(rows),
        media=media,
        labels=tuple(dict.fromkeys(event.behavior for event in events)),
        problems=tuple(problems),
    )


def _read_table(path: Path) -> tuple[RawTable, str]:
    for kind, wanted in (("aggregated", AGGREGATED), ("tabular", TABULAR), ("tabular", TABULAR_8)):
        try:
            return read_raw_table(path, wanted=wanted, optional=OPTIONAL), kind
        except UserError as error:
            failure = error
    raise UserError(
        f"{path.name} is no export of BORIS events. Needed: Behavior, Start (s), Stop (s) (aggregated), or Behavior, "
        f"Time and Status or Behavior type (tabular). Export events again in BORIS. ({failure})"
    )


def _event(row: Row, *, table: RawTable, head: Mapping[str, str], found: _Found) -> _Event | None:
    """Return a row as an event on its media's clock, None where it can't be one."""

    def number(text: str) -> float:
        return read_number(text, separator=table.separator)

    cells = row.cells
    shift_s = number(_given(cells.get("shift", "")) or head.get("time offset (s)", "") or "0")
    begin_s = number(cells["time" if "time" in cells else "start"]) - shift_s
    status = cells.get("status", "").upper()
    end_s = number(cells["stop"]) - shift_s if "stop" in cells else begin_s
    reason = None if cells["behavior"] else "no behaviour"
    if "status" in cells and status not in (START, STOP, POINT):
        reason = reason or f"a status that is none of {START}, {STOP}, {POINT}"
    reason = reason or check_interval(begin_s, end_s)
    if reason:
        found.left_out.setdefault(reason, []).append(row.line)
        return None
    named = (cells.get("media", ""), cells.get("media_7", ""), cells.get("media_path", ""))
    media = next((name for name in map(_file_name, named) if name), "")
    queue = _queue(cells.get("source", "")) or ([media] if media else [])
    media = media or (queue[0] if len(queue) == 1 else "")
    durations = (cells.get("durations", "") or cells.get("total", "")).split("|")[0].split(";")
    begins_s, length_s = _place(media, queue=queue, durations_s=[number(text) for text in durations])
    observation = cells.get("observation", "") or head.get("observation id", "")
    if math.isnan(begins_s):
        found.unplaced.add(observation)
        begins_s, media = 0.0, ""
    begin_s, end_s = begin_s - begins_s, end_s - begins_s
    if begin_s > length_s + MAX_LATE_S:
        found.left_out.setdefault("a time after the end of its media file", []).append(row.line)
        return None
    subject = cells.get("subject", "")
    return _Event(
        line=row.line,
        observation=observation,
        subject="" if subject.casefold() == NO_SUBJECT else subject,
        behavior=cells["behavior"],
        modifiers=_modifiers(cells),
        media=media,
        time_s=begin_s,
        end_s=end_s,
        status=status,
        length_s=length_s,
        num_files=len(queue),
    )


def _without_misplaced(events: list[_Event], *, found: _Found) -> list[_Event]:
    """Take the media's name from events of version 7 whose observation plays several files.

    It names one file per row, but counts time from the start of the first.
    """
    media: dict[str, set[str]] = {}
    for event in events:
        media.setdefault(event.observation, set()).add(event.media)
    several = {event.observation for event in events if len(media[event.observation]) > 1 and event.num_files <= 1}
    found.unplaced |= several
    return [replace(event, media="") if event.observation in several else event for event in events]


def _queue(source: str) -> list[str]:
    """Return the files that the first player plays: `player #1:a.mp4;b.mp4|player #2:c.mp4`."""
    first = re.split(r"\|(?=player #)", source)[0]
    names = re.sub(r"^player #\d+:", "", first).split(";")
    return [name for name in map(_file_name, names) if name]


def _place(media: str, *, queue: list[str], durations_s: list[float]) -> tuple[float, float]:
    """Return when a file begins in its observation and how long it is; NaN for what can't be known."""
    if len(queue) <= 1:
        return 0.0, durations_s[0]
    if media not in queue or len(durations_s) < len(queue):
        return math.nan, math.nan
    number = queue.index(media)
    return sum(durations_s[:number]), durations_s[number]


def _pair(events: Iterable[_Event], *, found: _Found) -> None:
    """Turn STARTs and STOPs into intervals, in order of time."""
    open_events: dict[tuple[str, str, str, str], _Event] = {}
    for event in sorted(events, key=lambda event: (event.time_s, event.status != STOP)):
        begun = open_events.pop(event.key, None) if event.status != POINT else None
        if event.status == POINT:
            found.intervals.append(event)
        elif event.status == STOP and begun is not None:
            found.intervals.append(replace(begun, end_s=event.time_s))
        elif event.status == STOP:
            found.left_out.setdefault("a STOP without START", []).append(event.line)
        else:
            if begun is not None:
                found.left_out.setdefault("a START that follows another without STOP", []).append(begun.line)
            open_events[event.key] = event
    for event in open_events.values():
        if event.length_s >= event.time_s:
            found.intervals.append(replace(event, end_s=event.length_s))
            found.ended.append(event.line)
        else:
            found.left_out.setdefault("a START without STOP, of a media file of unknown length", []).append(event.line)
    found.intervals.sort(key=lambda event: (event.observation, event.time_s))


def _clock_problems(path: Path, *, found: _Found) -> list[Problem]:
    problems = []
    if found.ended:
        reason = f"{len(found.ended)} states without STOP: they end where their media file does"
        problems.append(Problem(path.name, "annotations", reason, "Add the STOP in BORIS and export again."))
    if found.unplaced:
        names = ", ".join(sorted(found.unplaced))
        reason = f"{names} plays several media files without their lengths: times count from the start of the first"
        problems.append(Problem(path.name, "annotations", reason, "Export with BORIS 8, or one observation per file."))
    return problems


def _rows(events: list[_Event], *, num_media: int) -> list[dict[str, object]]:
    several = num_media > 1 or len({event.observation for event in events}) > 1
    return [
        {
            "respondent": event.subject,
            "label": event.behavior,
            "onset_s": event.time_s,
            "offset_s": event.end_s,
            "value": event.modifiers,
            "media": (event.media or event.observation) if several else "",
        }
        for event in events
    ]


def _modifiers(cells: Mapping[str, str]) -> str:
    numbered = [text for name, text in cells.items() if re.fullmatch(r"modifier #\d+", name.casefold())]
    parts = [cells.get("modifiers", ""), *numbered]
    return "|".join(part for part in map(_given, parts) if part)


def _file_name(text: str) -> str:
    return re.split(r"[/\\]", _given(text))[-1]


def _given(text: str) -> str:
    return "" if text.strip().casefold() in NOT_GIVEN else text.strip()
