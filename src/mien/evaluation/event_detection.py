"""From probabilities over time to events: when something began, when it ended, and how well both are known.

Hysteresis (Schmitt 1938, Journal of Scientific Instruments 15:24-26; in both directions, as the edge detector of Canny
1986, IEEE TPAMI 8:679-698): an event is a stretch in which the probability stays at or above `off` and reaches `on`.
One threshold would cut an event to pieces wherever the probability trembles around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.evaluation.events import EVENT_COLUMNS, sampling_interval

EDGE_COLUMNS = ("onset_low_s", "onset_high_s", "offset_low_s", "offset_high_s")
DETECTED_COLUMNS = (*EVENT_COLUMNS, "confidence", *EDGE_COLUMNS)

SAMPLE_SLACK = 1.8
"""Samples further apart than so many sampling intervals aren't neighbours: something between them wasn't seen. A lost
sample makes 2 intervals; recorders jitter by less."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EventSettings:
    """How events are made of probabilities.

    Attributes:
        on: Probability that an event reaches somewhere.
        off: Probability that it doesn't fall below; the edges lie where it passes the middle between `off` and `on`.
        min_duration_s: Shorter events are dropped.
        merge_gap_s: Events this near to one another are one: dips, and times at which nothing was seen.
        smoothing_s: Width of the moving average that is taken before; 0 for none.
        onset_margin_s: What is added on both sides of where the onset may be; `tune_events` fits it.
        offset_margin_s: The same for the offset.

    Raises:
        UserError: Thresholds or times that can't be.
    """

    on: float = 0.6
    off: float = 0.4
    min_duration_s: float = 0.25
    merge_gap_s: float = 0.25
    smoothing_s: float = 0.0
    onset_margin_s: float = 0.0
    offset_margin_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.off <= self.on < 1.0:
            raise UserError(
                f"Events with the thresholds on {self.on:g} and off {self.off:g}; needed: 0 < off <= on < 1."
            )
        for name in ("min_duration_s", "merge_gap_s", "smoothing_s", "onset_margin_s", "offset_margin_s"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise UserError(f"Events with {name} = {value:g}; needed: 0 s or more.")

    @property
    def edge(self) -> float:
        """Probability at which an event begins and ends."""
        return (self.on + self.off) / 2

    def to_json(self) -> dict[str, float]:
        """Return the settings as a JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EventSettings:
        """Return the settings that `to_json` wrote; keys of other things beside them are ignored.

        Raises:
            UserError: A setting is missing or isn't a number.
        """
        names = [field.name for field in fields(EventSettings)]
        wrong = [name for name in names if not isinstance(values.get(name), (int, float))]
        if wrong:
            raise UserError(f"Settings of events without a number for {', '.join(wrong)}; needed: {', '.join(names)}.")
        return EventSettings(**{name: float(values[name]) for name in names})


@dataclass(frozen=True)
class SeenSamples:
    """The samples of one recording at which something was seen, as detection reads them.

    Attributes:
        times_s: (N,) when they were taken, s, increasing.
        ends_s: (N,) until when they count.
        probabilities: (N,) 0..1.
        first: (N,) whether there is no neighbour before: the recording's first, or the first behind a gap.
        last: (N,) whether there is none after.
        begin_s: When the recording begins.
        end_s: When it ends.
        step_s: Its sampling interval.
    """

    times_s: Floats
    ends_s: Floats
    probabilities: Floats
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    begin_s: float
    end_s: float
    step_s: float

    def smoothed(self, width_s: float) -> SeenSamples:
        """Return them with each probability the mean of its neighbours within half a width, never over a gap."""
        if width_s <= 0.0 or not len(self.times_s):
            return self
        stretch = np.cumsum(self.first) - 1
        starts = np.flatnonzero(self.first)[stretch]
        stops = np.flatnonzero(self.last)[stretch] + 1
        reach_s = width_s / 2 + 1e-9  # of samples exactly half a width away both count
        low = np.maximum(np.searchsorted(self.times_s, self.times_s - reach_s), starts)
        high = np.minimum(np.searchsorted(self.times_s, self.times_s + reach_s, side="right"), stops)
        sums = np.concatenate([[0.0], np.cumsum(self.probabilities)])
        means = np.clip((sums[high] - sums[low]) / (high - low), 0.0, 1.0)
        return SeenSamples(**{**vars(self), "probabilities": means})


def seen_samples(rows: pd.DataFrame, *, column: str) -> SeenSamples:
    """Return the samples of one recording.

    Args:
        rows: start_s, end_s, and the column, NaN where nothing was seen; a row that isn't there wasn't seen either.
        column: The probability.
    """
    ordered = rows.sort_values("start_s", kind="stable")
    starts, ends, values = (ordered[name].to_numpy(dtype=np.float64) for name in ("start_s", "end_s", column))
    known = ~np.isnan(values)
    times_s = starts[known]
    # The interval of all samples, so that gaps in what was seen don't stretch it.
    step_s = sampling_interval(starts) if len(starts) > 1 else float(np.sum(ends - starts))
    apart = np.diff(times_s) > SAMPLE_SLACK * step_s
    edge = np.ones(min(len(times_s), 1), bool)
    return SeenSamples(
        times_s=times_s,
        ends_s=ends[known],
        probabilities=values[known],
        first=np.concatenate([edge, apart]),
        last=np.concatenate([apart, edge]),
        begin_s=float(starts[0]) if len(starts) else 0.0,
        end_s=float(ends[-1]) if len(ends) else 0.0,
        step_s=step_s,
    )


def detect_events(table: pd.DataFrame, settings: EventSettings, *, column: str) -> pd.DataFrame:
    """Make events of probabilities.

    In this order: the moving average; stretches of neighbouring samples at or above `off` that reach `on`; those with
    at most `merge_gap_s` between them are joined; those shorter than `min_duration_s` are dropped (after joining, so
    that no long event is lost piece by piece).

    An edge is where the probability passes the middle between the thresholds, interpolated between the two samples
    around it: predictions are of moments, and between neighbours the probability has to pass the middle somewhere. At a
    gap in what was seen nothing is interpolated: the event ends with its last sample, begins with its first. A gap is
    bridged like a dip, by `merge_gap_s`: a face that is away for so short has hardly stopped and begun again in the
    meantime; after a longer one nobody knows, so there are two events.

    Each edge has a range: from where the probability passes one threshold to where it passes the other, at a gap to
    the sample on the other side of it, at least half a sampling interval to each side of the edge, plus the margin;
    never beyond the recording. Without a margin the range says how steep the probability is, not how often it is right.

    Args:
        table: recording_id, start_s, end_s and the column, a row per sample in any order; samples at which nothing was
            seen are NaN or left out.
        settings: The thresholds and times.
        column: The probability.

    Returns:
        `DETECTED_COLUMNS`, sorted by recording and start; confidence is the mean probability (before smoothing) of the
        samples from start to end.

    Raises:
        UserError: Missing columns, or a probability outside 0..1.
    """
    check_probabilities(table, column=column)
    found: list[tuple[Any, ...]] = []
    for recording_id, rows in table.groupby("recording_id", sort=True):
        seen = seen_samples(rows, column=column)
        events = joined(raw_events(seen.smoothed(settings.smoothing_s), settings), settings)
        for row in with_margins(events, seen, settings).tolist():
            inside = (seen.times_s >= row[0]) & (seen.times_s <= row[1])
            confidence = float(seen.probabilities[inside].mean())
            found.append((str(recording_id), row[0], row[1], confidence, *row[2:]))
    return pd.DataFrame(found, columns=list(DETECTED_COLUMNS)).astype(dict.fromkeys(DETECTED_COLUMNS[1:], float))


def check_probabilities(table: pd.DataFrame, *, column: str) -> None:
    """Refuse a table that isn't one of probabilities.

    Raises:
        UserError: Missing columns, or a probability outside 0..1.
    """
    missing = [name for name in (*EVENT_COLUMNS, column) if name not in table]
    if missing:
        raise UserError(f"The table of samples lacks {', '.join(missing)}; events need {', '.join(EVENT_COLUMNS)}.")
    values = table[column].to_numpy(dtype=np.float64)
    wrong = values[(values < 0.0) | (values > 1.0)]
    if wrong.size:
        raise UserError(f"{column} holds {wrong[0]:g}; events are made of probabilities, 0 to 1.")


def raw_events(seen: SeenSamples, settings: EventSettings) -> Floats:
    """Return the stretches above the thresholds (E, 6), before joining: onset, offset and `EDGE_COLUMNS`, s.

    Args:
        seen: One recording, smoothed.
        settings: The thresholds.
    """
    above = seen.probabilities >= settings.off
    begins = np.flatnonzero(above & (seen.first | ~np.append(False, above)[:-1]))
    ends = np.flatnonzero(above & (seen.last | ~np.append(above, False)[1:]))
    rows = []
    for begin, end in zip(begins, ends, strict=True):
        reached = begin + np.flatnonzero(seen.probabilities[begin : end + 1] >= settings.on)
        if reached.size:
            onset_s, *onset_range = _edge(seen, settings, bound=int(begin), reached=int(reached[0]), side=-1)
            offset_s, *offset_range = _edge(seen, settings, bound=int(end), reached=int(reached[-1]), side=1)
            rows.append((onset_s, offset_s, *onset_range, *offset_range))
    # A probability that touches a single threshold once begins and ends at the same time: nothing that lasts.
    return np.array([row for row in rows if row[1] > row[0]], np.float64).reshape(-1, 6)


def joined(events: Floats, settings: EventSettings) -> Floats:
    """Return the events (F, 6) of one recording: near ones joined, then short ones dropped."""
    kept: list[Floats] = []
    for event in events:
        if kept and event[0] - kept[-1][1] <= settings.merge_gap_s + 1e-9:
            kept[-1] = np.concatenate([kept[-1][:1], event[1:2], kept[-1][2:4], event[4:]])
        else:
            kept.append(event)
    lasting = [event for event in kept if event[1] - event[0] >= settings.min_duration_s - 1e-9]
    return np.array(lasting, np.float64).reshape(-1, 6)


def with_margins(events: Floats, seen: SeenSamples, settings: EventSettings) -> Floats:
    """Return the events (E, 6) with the margins added to their ranges, within the recording."""
    margins = np.array([settings.onset_margin_s] * 2 + [settings.offset_margin_s] * 2)
    ranges = events[:, 2:] + margins * (-1, 1, -1, 1)
    return np.hstack([events[:, :2], np.clip(ranges, seen.begin_s, seen.end_s)])


def _edge(
    seen: SeenSamples, settings: EventSettings, *, bound: int, reached: int, side: int
) -> tuple[float, float, float]:
    """Return one edge of a stretch, and the earliest and latest that it may have been, s.

    Args:
        seen: The samples.
        settings: The thresholds.
        bound: The stretch's last sample at or above `off` on this side.
        reached: Its last at or above `on` on this side.
        side: -1 for the onset, 1 for the offset.
    """
    times_s, values = seen.times_s, seen.probabilities
    cut = bool((seen.first if side < 0 else seen.last)[bound])
    middle = reached
    while middle != bound and values[middle + side] >= settings.edge:
        middle += side

    def passes(inside: int, level: float) -> float:
        if cut and inside == bound:
            return float(times_s[bound])
        outside = inside + side
        share = (values[inside] - level) / (values[inside] - values[outside])
        return float(times_s[inside] + share * (times_s[outside] - times_s[inside]))

    edge_s = float(seen.ends_s[bound]) if cut and middle == bound and side > 0 else passes(middle, settings.edge)
    outer_s, inner_s = passes(bound, settings.off), passes(reached, settings.on)
    if cut and 0 <= bound + side < len(times_s):
        outer_s = float(times_s[bound + side])  # nobody saw when, up to there
    half_s = seen.step_s / 2
    return edge_s, min(outer_s, inner_s, edge_s - half_s), max(outer_s, inner_s, edge_s + half_s)
