"""Tables of events that iMotions exports for several respondents: fixations and peaks of skin conductance.

Both give events, and the sensor features of an iMotions study per second (`core.channels.SENSOR`). Second k is
[k, k + 1) of the stimulus, its value stands at k + 0.5, and an event counts in the second in which it begins, so that
the counts add up to the table. Seconds run from the stimulus' start to the respondent's last event: there the sensor
recorded. A second without events has a count of 0 and no mean (an absent duration isn't one of 0 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import Export, interval_table
from mien.annotations.imotions import EXPRESSION_COLUMNS, table_units_per_second
from mien.annotations.tables import RawTable, check_interval, read_number, read_raw_table, report_rows
from mien.core.channels import SENSOR
from mien.core.types import Signal

PERSON = {name: EXPRESSION_COLUMNS[name] for name in ("respondent", "stimulus")}
DENSITY, DURATION, DISPERSION, PEAK_COUNT, AMPLITUDE = SENSOR
MS_PER_S = 1000.0


@dataclass(frozen=True)
class _Kind:
    """One of the tables.

    Attributes:
        name: Its format, for people.
        label: Label of its events.
        source: The sensor, as iMotions calls it.
        columns: Headers by our names for them; `start` and `end` may be the same.
        optional: The same of those that may be missing.
        start: Our name of the column of the beginning.
        end: Of the end.
        value: Of an event's value.
        no_value: What a row without a value is told as; empty where an event may have none.
        count: Channel of the events per second.
        means: Column of the events by the channel that is their mean per second.
    """

    name: str
    label: str
    source: str
    columns: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]
    start: str
    end: str
    value: str
    no_value: str
    count: str
    means: Mapping[str, str]


FIXATIONS = _Kind(
    name="iMotions fixations",
    label="Fixation",
    source="ET",
    columns={**PERSON, "start": ("Fixation Start",), "end": ("Fixation End",)},
    optional={"duration": ("Fixation Duration",), "dispersion": ("Fixation Dispersion",)},
    start="start",
    end="end",
    value="dispersion",
    no_value="",
    count=DENSITY.name,
    means={DURATION.name: "duration_ms", DISPERSION.name: "value"},
)
PEAKS = _Kind(
    name="iMotions GSR peaks",
    label="GSR Peak",
    source="GSR",
    columns={**PERSON, "time": ("Peak Time",), "amplitude": ("Peak Amplitude",)},
    optional={},
    start="time",
    end="time",
    value="amplitude",
    no_value="an amplitude that isn't a number",
    count=PEAK_COUNT.name,
    means={AMPLITUDE.name: "value"},
)


def read_fixations(path: Path) -> Export:
    """Read `FixationTable.csv`: fixations of an eye tracker, whatever the version's preamble and separator.

    Returns:
        Intervals `Fixation` (value: its dispersion, as the table gives it), and per respondent and stimulus the signals
        `Fixation Density`, `Average Fixation Duration` (ms) and `Gaze Dispersion` (mean dispersion); see the module.

    Raises:
        UserError: The file can't be read, lacks a column, or has an unknown time unit.
    """
    return _read_events(Path(path), kind=FIXATIONS)


def read_gsr_peaks(path: Path) -> Export:
    """Read `GSRPeakTable.csv`: peaks of skin conductance, whatever the version's preamble and separator.

    Returns:
        Intervals `GSR Peak` of no length (value: amplitude in microSiemens), and per respondent and stimulus the
        signals `GSR Peak Count` and `Average GSR Peak Amplitude`; see the module.

    Raises:
        UserError: The file can't be read, lacks a column, or has an unknown time unit.
    """
    return _read_events(Path(path), kind=PEAKS)


def _read_events(path: Path, *, kind: _Kind) -> Export:
    table = read_raw_table(path, wanted=kind.columns, optional=kind.optional)
    per_second = table_units_per_second(table, column=kind.start)
    bad: dict[str, list[int]] = {}
    kept: list[dict[str, object]] = []
    for row in table.rows:
        number = _numbers(table, row.cells)
        start, end, value = number(kind.start), number(kind.end), number(kind.value)
        reason = _no_name(row.cells) or check_interval(start, end)
        if reason or (kind.no_value and np.isnan(value)):
            bad.setdefault(reason or kind.no_value, []).append(row.line)
            continue
        duration = number("duration")
        duration_s = (end - start if np.isnan(duration) else duration) / per_second
        times_s = {"onset_s": start / per_second, "offset_s": end / per_second}
        kept.append({**_person(row.cells), **times_s, "value": value, "duration_ms": duration_s * MS_PER_S})
    events = pd.DataFrame(kept, columns=[*PERSON, "onset_s", "offset_s", "value", "duration_ms"])
    signals = [
        signal
        for _, group in events.groupby([*PERSON], sort=False)
        for signal in _per_second(group, count=kind.count, means=kind.means, source=kind.source)
    ]
    version = next((cells[1] for cells in table.preamble if len(cells) > 1 and cells[0] == "iMotions"), "")
    intervals = interval_table(events.drop(columns="duration_ms").assign(label=kind.label))
    return Export(
        path=table.path,
        format=f"{kind.name} {version}".strip(),
        intervals=intervals.assign(annotator=kind.source),
        signals=tuple(signals),
        annotator=kind.source,
        problems=tuple(report_rows(table.path, rows=bad)),
    )


def _per_second(events: pd.DataFrame, *, count: str, means: Mapping[str, str], source: str) -> list[Signal]:
    """Return a respondent's features per second: how many events begin, and the means of columns over them."""
    units = {channel.name: channel.unit for channel in SENSOR}
    respondent, stimulus = events["respondent"].iloc[0], events["stimulus"].iloc[0]
    seconds = np.floor(events["onset_s"].to_numpy(np.float64)).astype(np.int64)
    first = min(0, int(seconds.min()))
    last = max(int(seconds.max()), int(np.ceil(events["offset_s"].max())) - 1)
    places = seconds - first
    size = last - first + 1
    centres_s = np.arange(first, last + 1, dtype=np.float64) + 0.5
    counts = np.bincount(places, minlength=size)
    features: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {count: (centres_s, counts.astype(float))}
    for name, column in means.items():
        values = events[column].to_numpy(np.float64)
        there = np.isfinite(values)
        numbers = np.bincount(places[there], minlength=size)
        sums = np.bincount(places[there], weights=values[there], minlength=size)
        features[name] = (centres_s[numbers > 0], sums[numbers > 0] / numbers[numbers > 0])
    return [
        Signal(name, units[name], times_s, values.astype(np.float32), source, respondent, stimulus)
        for name, (times_s, values) in features.items()
        if times_s.size
    ]


def _numbers(table: RawTable, cells: Mapping[str, str]) -> Callable[[str], float]:
    return lambda name: read_number(cells.get(name, ""), separator=table.separator)


def _person(cells: Mapping[str, str]) -> dict[str, object]:
    return {name: cells[name] for name in PERSON}


def _no_name(cells: Mapping[str, str]) -> str | None:
    return None if cells["respondent"] else "no respondent"
