"""Sensor exports of iMotions: any version's layout to signals that hold fresh samples only, and stimuli as segments.

**Time.** `Timestamp` counts: milliseconds since the recording began (some 6.4 exports write dates instead; they count
from `#TestRunDate`). It runs through the whole session. `MediaTime` and `FrameTime` restart with every stimulus, as the
camera's file of a stimulus does: a moment of `RespCam_ID_STIMULUS_...` is a signal's time minus the onset of that
stimulus' segment.

**Memory.** The file is read in blocks (`imotions_blocks`), and only fresh samples are kept: float32, with one time per
row of a sensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import Export, segment_table
from mien.annotations.imotions_blocks import Block, BlockReader
from mien.annotations.imotions_columns import (
    Columns,
    Group,
    check_readable,
    make_groups,
    no_time,
    read_columns,
    unexplained,
)
from mien.annotations.imotions_preamble import Preamble, read_attributes, read_preamble
from mien.annotations.imotions_segments import RowStates
from mien.core.types import Problem, Signal

TOOLS = ("AFFDEX", "FACET")
"""Sources that are programs which rate faces."""


def read_imotions_sensors(path: Path) -> Export:
    """Read an iMotions sensor export of any version.

    Times are seconds on the clock that `Timestamp` counts. Signals are split by respondent and stimulus; between
    stimuli and where the export names none, `stimulus` is empty. Samples of one channel that share a time (devices that
    send packets) are averaged.

    Args:
        path: Tab-separated text (5.x to 7.x) or CSV (8 and later, and plain tables), in any of the encodings and
            separators of `tables.read_lines`, with any preamble.

    Returns:
        Signals; stimuli and people's marks as segments; the respondent's age and gender where there is one respondent;
        what was left out. A table without times has no signals, and says so.

    Raises:
        UserError: The file can't be read, is empty, has no channel, or has an unknown time unit.
    """
    preamble = read_preamble(Path(path))
    columns = read_columns(preamble)
    if columns is None:
        return Export(path=preamble.path, format=preamble.format, problems=(no_time(preamble),))
    check_readable(columns, preamble=preamble)
    reader = BlockReader(preamble, times=() if columns.wall_clock else (columns.time,))
    values = _event_values(reader, columns)
    shares = _change_shares(reader, columns, values=values)
    groups, problems = make_groups(columns, values=values, change_shares=shares, path=preamble.path.name)
    samples = reader.read(lambda: _Samples(preamble, columns, groups))
    signals = samples.signals()
    problems += [*reader.problems(), *samples.problems()]
    tools = sorted({signal.source for signal in signals} & set(TOOLS))
    return Export(
        path=preamble.path,
        format=preamble.format,
        segments=segment_table(samples.states.segments()),
        signals=tuple(signals),
        start_utc_s=samples.start_utc_s,
        annotator=tools[0] if len(tools) == 1 else "",
        tool=bool(tools),
        attributes=samples.attributes(),
        problems=tuple(problems),
    )


class _Values:
    """Collects what `EventSource` says in any row."""

    def __init__(self, event: int) -> None:
        self.event = event
        self.texts: Sequence[int] = (event,)
        self.numbers: Sequence[int] = ()
        self.values: dict[str, None] = {}

    def add(self, block: Block) -> None:
        codes, values = block.texts[self.event]
        self.values.update(dict.fromkeys(values[code] for code in np.unique(codes) if values[code]))


def _event_values(reader: BlockReader, columns: Columns) -> list[str]:
    if columns.event is None:
        return []
    event = columns.event
    return list(reader.read(lambda: _Values(event)).values)


class _Changes:
    """Counts, per value of `EventSource`, in how many of its rows each column takes a new value."""

    def __init__(self, event: int, positions: Sequence[int]) -> None:
        self.event, self.positions = event, positions
        self.texts: Sequence[int] = (event,)
        self.numbers: Sequence[int] = tuple(positions)
        self.num_rows: dict[str, int] = {}
        self.num_changes: dict[str, NDArray[np.int64]] = {}
        self._last: NDArray[np.float64] | None = None

    def add(self, block: Block) -> None:
        table = np.stack([block.numbers[position] for position in self.positions])
        before = table[:, :1] if self._last is None else self._last
        earlier = np.concatenate([before, table[:, :-1]], axis=1)
        self._last = table[:, -1:]
        changed = np.isfinite(table) & (table != earlier)
        codes, values = block.texts[self.event]
        for code in np.unique(codes):
            rows = codes == code
            value = values[code]
            self.num_rows[value] = self.num_rows.get(value, 0) + int(rows.sum())
            self.num_changes[value] = self.num_changes.get(value, 0) + changed[:, rows].sum(axis=1)


def _change_shares(reader: BlockReader, columns: Columns, *, values: Sequence[str]) -> dict[int, dict[str, float]]:
    positions = [column.position for column in unexplained(columns, values=values)]
    if columns.event is None or not positions:
        return {}
    event = columns.event
    changes = reader.read(lambda: _Changes(event, positions))
    return {
        position: {value: changes.num_changes[value][number] / changes.num_rows[value] for value in values}
        for number, position in enumerate(positions)
    }


@dataclass
class _Gathered:
    """Fresh rows of one group, block by block: times, keys, and values (n, columns)."""

    times_s: list[NDArray[np.float64]] = field(default_factory=list)
    keys: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)


class _Samples:
    """Gathers fresh samples and what rows belong to, block by block."""

    def __init__(self, preamble: Preamble, columns: Columns, groups: Sequence[Group]) -> None:
        self.preamble, self.columns, self.groups = preamble, columns, groups
        self.states = RowStates(roles=columns.roles, marks=columns.annotations, respondent=preamble.respondent)
        person = [columns.roles[role] for role in ("age", "gender") if role in columns.roles]
        events = {group.event for group in groups if group.event is not None}
        clock = [columns.time] if columns.wall_clock else []
        self.texts: Sequence[int] = tuple({*self.states.columns(), *person, *events, *clock})
        times = () if columns.wall_clock else (columns.time,)
        self.numbers: Sequence[int] = tuple({*times, *(column.position for column in columns.sensors)})
        self.start_utc_s = preamble.start_utc_s
        self._origin_s: float | None = None if columns.wall_clock else 0.0
        self._gathered = [_Gathered() for _ in groups]
        self._people: dict[tuple[str, str], None] = {}
        self._num_untimed = self._num_shared = self._num_samples = 0

    def add(self, block: Block) -> None:
        times_s = self._times_s(block)
        timed = np.isfinite(times_s)
        self._num_untimed += int((~timed).sum())
        times_s = times_s[timed]
        texts = {position: (codes[timed], values) for position, (codes, values) in block.texts.items()}
        keys = self.states.add(texts, times_s)
        roles = self.columns.roles
        people = [texts[roles[role]] if role in roles else None for role in ("age", "gender")]
        if people[0] is not None and len(people[0][0]):
            self._people[(_text(people[0], 0), _text(people[1], 0))] = None
        for group, gathered in zip(self.groups, self._gathered, strict=True):
            rows = _fresh_rows(group, texts, size=times_s.size)
            gathered.times_s.append(times_s[rows])
            gathered.keys.append(keys[rows])
            positions = [column.position for column in group.columns]
            picked = [block.numbers[position][timed][rows].astype(np.float32) for position in positions]
            gathered.values.append(np.stack(picked, axis=1))

    def signals(self) -> list[Signal]:
        """Return what was gathered, by group, respondent and stimulus, and give its memory back."""
        signals = []
        for group in self.groups:
            gathered = self._gathered.pop(0)
            if not gathered.times_s:
                continue
            times_s, keys = np.concatenate(gathered.times_s), np.concatenate(gathered.keys)
            values = np.concatenate(gathered.values)
            del gathered
            for key in np.unique(keys):
                rows = keys == key
                respondent, stimulus = self.states.keys[key]
                own_s = times_s[rows]
                for number, column in enumerate(group.columns):
                    moments, samples = self._distinct(own_s, values[rows, number])
                    if moments.size:
                        signals.append(
                            Signal(column.name, column.unit, moments, samples, group.source, respondent, stimulus)
                        )
        return signals

    def attributes(self) -> Mapping[str, str | float]:
        """Return age and gender, from the preamble or from the rows where these are of one respondent."""
        respondents = {respondent for respondent, _ in self.states.keys}
        if self.preamble.attributes or len(respondents) > 1 or len(self._people) != 1:
            return self.preamble.attributes if len(respondents) <= 1 else {}
        return read_attributes(*next(iter(self._people)))

    def problems(self) -> list[Problem]:
        name, advice = self.preamble.path.name, "Nothing need be done where it is few; else export it again."
        reasons = []
        if self._num_untimed:
            reasons.append(f"{self._num_untimed} rows without a time, left out")
        if self._num_shared:
            reasons.append(
                f"{self._num_shared} of {self._num_samples} samples have the time of another sample of their channel "
                "(sent in packets?), averaged"
            )
        if self.columns.wall_clock and not self.columns.utc and self.preamble.start_local_s is None:
            reasons.append("times are dates and the preamble has no #TestRunDate, so they count from the first row")
        if self.columns.sensors and not self._num_samples:
            reasons.append("no number in any channel")
        return [Problem(name, "annotations", reason, advice) for reason in reasons]

    def _times_s(self, block: Block) -> NDArray[np.float64]:
        if not self.columns.wall_clock:
            return block.numbers[self.columns.time] / self.columns.per_second
        codes, values = block.texts[self.columns.time]
        dates = pd.to_datetime(pd.Series(values, dtype="str"), format="%Y%m%d_%H%M%S%f", errors="coerce")
        seconds = ((dates - pd.Timestamp(0)) / pd.Timedelta(seconds=1)).to_numpy(np.float64)[codes]
        if self._origin_s is None:
            begun_s = self.preamble.start_utc_s if self.columns.utc else self.preamble.start_local_s
            first_s = next(iter(seconds[np.isfinite(seconds)]), None)
            self._origin_s = begun_s if begun_s is not None else first_s
            if self.columns.utc:
                self.start_utc_s = self._origin_s
        return seconds - (self._origin_s if self._origin_s is not None else 0.0)

    def _distinct(
        self, times_s: NDArray[np.float64], values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return samples by strictly increasing time; those that share one are averaged."""
        there = np.isfinite(values)
        if not there.all():  # else all channels of the sensor share one array of times
            times_s, values = times_s[there], values[there]
        self._num_samples += times_s.size
        if times_s.size and not (np.diff(times_s) > 0).all():
            moments, places = np.unique(times_s, return_inverse=True)
            counts = np.bincount(places)
            means = np.bincount(places, weights=values) / counts
            self._num_shared += int(counts[counts > 1].sum() - (counts > 1).sum())
            return moments, means.astype(np.float32)
        return times_s, values


def _text(column: tuple[NDArray[np.int64], Sequence[str]] | None, row: int) -> str:
    return "" if column is None else column[1][column[0][row]]


def _fresh_rows(
    group: Group, texts: Mapping[int, tuple[NDArray[np.int64], Sequence[str]]], *, size: int
) -> NDArray[np.bool_]:
    if group.event is None:
        return np.ones(size, dtype=np.bool_)
    codes, values = texts[group.event]
    return np.array([group.is_fresh(value) for value in values], dtype=np.bool_)[codes]
