"""Sessions of an Empatica E4 wristband: a folder of CSV files, one per sensor.

Format (`info.txt` of each session): first row the start in seconds since 1970 (UTC), second row the rate in Hz, then
samples. Acceleration is in 1/64 g. `IBI.csv` has the start alone, then time since the start and interval between beats;
`tags.csv` has the moments at which the button was pressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.annotations.exports import Export, segment_table
from mien.annotations.tables import read_lines, read_number
from mien.core.errors import UserError
from mien.core.types import Problem, Signal

SOURCE = "Empatica E4"
G_PER_COUNT = 1 / 64
INTERVALS, TAGS = "IBI", "tags"
LATENCY_S = 10.0
"""Heart rate begins so much after the pulse wave that it is computed from; files that end further apart are odd."""


@dataclass(frozen=True)
class _Sensor:
    """Channels of a sampled file, their unit, and what a count of it is in that unit."""

    channels: tuple[str, ...]
    unit: str
    per_count: float = 1.0


SENSORS: Mapping[str, _Sensor] = {
    "ACC": _Sensor(("ACC x", "ACC y", "ACC z"), "g", G_PER_COUNT),
    "BVP": _Sensor(("BVP",), ""),
    "EDA": _Sensor(("EDA",), "microSiemens"),
    "TEMP": _Sensor(("TEMP",), "degrees Celsius"),
    "HR": _Sensor(("HR",), "beats per minute"),
}
"""Sampled files. The unit of the pulse wave (BVP) is arbitrary."""


class _OddFileError(Exception):
    """What is wrong with one file of the session; the others are read."""


def read_empatica(folder: Path) -> Export:
    """Read the session of an Empatica E4.

    Its clock starts with the earliest of the files (`start_utc_s`); files that start later (heart rate: after 10 s)
    have later times. Each press of the button begins a segment `tag 1`, `tag 2`, ..., which ends with the next one, or
    with the last sample of a sensor: labs press it where a task begins.

    Args:
        folder: The unpacked session.

    Returns:
        Signals, tags as segments, and files, rows and cells that were left out.

    Raises:
        UserError: It isn't a folder, or has none of the files of a session.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} isn't a folder. Unpack the E4's session and name its folder.")
    paths = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".csv"}
    if not set(paths) & {*SENSORS, INTERVALS}:
        wanted = ", ".join(f"{name}.csv" for name in (*SENSORS, INTERVALS))
        raise UserError(f"{folder} has none of the files of an E4 session: {wanted}.")
    problems: list[Problem] = []
    sampled: list[tuple[float, Signal]] = []
    for name in (*SENSORS, INTERVALS):
        if name not in paths:
            problems.append(_problem(folder, f"{name}.csv isn't there", "Nothing need be done where it isn't needed."))
            continue
        try:
            read = _read_intervals if name == INTERVALS else _read_sensor
            sampled += read(paths[name], problems=problems)
        except _OddFileError as error:
            problems.append(_problem(paths[name], str(error)))
    if not sampled:
        return Export(path=folder, format=SOURCE, problems=tuple(problems))
    start_utc_s = min(start_s for start_s, _ in sampled)
    signals = tuple(
        Signal(signal.name, signal.unit, signal.times_s + (start_s - start_utc_s), signal.values, SOURCE)
        for start_s, signal in sampled
    )
    ends_s = {signal.name: float(signal.times_s[-1]) for signal in signals}
    if max(ends_s.values()) - min(ends_s.values()) > LATENCY_S:
        told = ", ".join(f"{name} at {end_s:.1f} s" for name, end_s in ends_s.items())
        problems.append(_problem(folder, f"its files end at different times, so some were cut short: {told}"))
    tags_s = _read_tags(paths[TAGS], problems=problems) if TAGS in paths else np.zeros(0)
    return Export(
        path=folder,
        format=SOURCE,
        segments=segment_table(
            _segments(
                folder,
                tags_s - start_utc_s,
                end_s=max((ends_s[name] for name in ends_s if name != INTERVALS), default=ends_s.get(INTERVALS, 0.0)),
                problems=problems,
            )
        ),
        signals=signals,
        start_utc_s=start_utc_s,
        problems=tuple(problems),
    )


def _read_sensor(path: Path, *, problems: list[Problem]) -> list[tuple[float, Signal]]:
    sensor = SENSORS[path.stem]
    rows = _rows(path)
    start_s = _start_s(rows)
    rate_hz = rows[1][0] if len(rows) > 1 else np.nan
    if not rate_hz > 0:
        raise _OddFileError("its second row isn't a rate in Hz")
    table = _table(rows[2:], width=len(sensor.channels), path=path, problems=problems)
    # A sample that can't be read keeps its place: the time of those after it is their number over the rate.
    times_s = np.arange(len(table)) / rate_hz
    there = np.isfinite(table).all(axis=1)
    if not there.any():
        raise _OddFileError("it has no samples")
    values = (table[there] * sensor.per_count).astype(np.float32)
    return [
        (start_s, Signal(name, sensor.unit, times_s[there], values[:, number], SOURCE))
        for number, name in enumerate(sensor.channels)
    ]


def _read_intervals(path: Path, *, problems: list[Problem]) -> list[tuple[float, Signal]]:
    rows = _rows(path)
    start_s = _start_s(rows)
    table = _table(rows[1:], width=2, path=path, problems=problems)
    table = table[np.isfinite(table).all(axis=1)]
    rising = np.append(True, np.diff(table[:, 0]) > 0)[: len(table)]
    if not rising.all():
        problems.append(_problem(path, f"{int((~rising).sum())} beats aren't later than the one before, left out"))
    table = table[rising]
    if not len(table):
        raise _OddFileError("it has no beats")
    return [(start_s, Signal(INTERVALS, "s", table[:, 0], table[:, 1].astype(np.float32), SOURCE))]


def _read_tags(path: Path, *, problems: list[Problem]) -> NDArray[np.float64]:
    try:
        tags_s = np.array([row[0] for row in _rows(path)])
    except _OddFileError:
        return np.zeros(0)  # nobody pressed the button
    wrong = int(np.isnan(tags_s).sum())
    if wrong:
        problems.append(_problem(path, f"{wrong} rows aren't a time, left out"))
    return np.unique(tags_s[np.isfinite(tags_s)])


def _segments(
    folder: Path, tags_s: NDArray[np.float64], *, end_s: float, problems: list[Problem]
) -> list[dict[str, object]]:
    inside = tags_s[(tags_s >= 0) & (tags_s < end_s)]
    if len(inside) < len(tags_s):
        problems.append(
            _problem(folder / f"{TAGS}.csv", f"{len(tags_s) - len(inside)} tags outside the recording, left out")
        )
    ends_s = np.append(inside[1:], end_s)
    return [
        {"onset_s": onset_s, "offset_s": offset_s, "segment": f"tag {number}"}
        for number, (onset_s, offset_s) in enumerate(zip(inside, ends_s, strict=False), start=1)
    ]


def _rows(path: Path) -> list[list[float]]:
    """Return rows as numbers, NaN where a cell isn't one; a blank last line isn't a row."""
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise _OddFileError("it is empty")
    return [[read_number(cell) for cell in line.split(",")] for line in lines]


def _start_s(rows: list[list[float]]) -> float:
    start_s = rows[0][0]
    if not np.isfinite(start_s) or start_s <= 0:
        raise _OddFileError("its first row isn't a start in seconds since 1970")
    return start_s


def _table(rows: list[list[float]], *, width: int, path: Path, problems: list[Problem]) -> NDArray[np.float64]:
    """Return rows (n, width); one with a missing, further or unreadable cell is NaN, and reported."""
    table = np.full((len(rows), width), np.nan)
    for number, row in enumerate(rows):
        if len(row) == width:
            table[number] = row
    wrong = int((~np.isfinite(table)).any(axis=1).sum())
    if wrong:
        end = " (its last row among them: cut short?)" if np.isnan(table[-1]).any() else ""
        problems.append(_problem(path, f"{wrong} of {len(rows)} rows can't be read{end}, left out"))
    return table


def _problem(path: Path, reason: str, advice: str = "Copy the session from the device's site again.") -> Problem:
    name = path.name if path.suffix == "" else f"{path.parent.name}/{path.name}"
    return Problem(recording=name, stage="annotations", reason=reason, advice=advice)
