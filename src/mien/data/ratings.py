"""Labels that are numbers: what coders give as values of intervals, and what tools rate at every frame.

A sample's number is the mean over its own interval, of the coders who gave one. Silence is missing, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.channels import FACE_TOOLS
from mien.data.segments import NO_SEGMENT, segments_of
from mien.data.votes import (
    NO_INTERVAL,
    NOT_ANNOTATED,
    NOT_CODED,
    NOT_RATED,
    OTHERS_ONLY,
    OUTSIDE_SEGMENTS,
    Codes,
    inside_any,
    same_annotator,
)
from mien.media.signals import SignalTable

if TYPE_CHECKING:
    from mien.data.targets import TargetSpec, TargetTables

Numbers = NDArray[np.float64]

RATED = 0
"""The code of a sample that has a number."""

MIN_RATED_SHARE = 0.5
"""A mean needs a value in at least this share of its sample's interval."""

TOLERANCE_S = 1e-6
"""Times that are equal but for rounding are equal."""


def _nothing(recording_id: str) -> SignalTable | None:  # noqa: ARG001 (the signature of a reader)
    return None


@dataclass(frozen=True)
class ToolRatings:
    """What tools say of every frame, beside the intervals that are made of it.

    Attributes:
        tools: Which tool each channel is of, by the channel's name in the signals.
        read: Gives a recording's signals.
    """

    tools: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], SignalTable | None] = _nothing


def tool_channels(sources: Mapping[str, str]) -> dict[str, str]:
    """Return which of the signals (source by name) are a tool's ratings of a face, with the tool."""
    return {name: source for name, source in sources.items() if source in FACE_TOOLS}


def label_numbers(tables: TargetTables, spec: TargetSpec) -> tuple[Numbers, Codes]:
    """Return the number of each sample (N,), NaN where it has none, and why: `RATED`, or a negative code of `REASONS`.

    Args:
        tables: What targets are made of.
        spec: A continuous target.
    """
    values, codes = _rated(tables, spec) if spec.source == "signal" else _annotated(tables, spec)
    if spec.unit == "segment":
        outside = segments_of(tables.samples, tables.segments)["segment_id"].to_numpy() == NO_SEGMENT
        codes[outside & (codes != NOT_ANNOTATED)] = OUTSIDE_SEGMENTS
    values[codes != RATED] = np.nan
    return values, codes


def _rated(tables: TargetTables, spec: TargetSpec) -> tuple[Numbers, Codes]:
    values = tables.ratings_of_samples[spec.signal].to_numpy(dtype=np.float64).copy()
    return values, np.where(np.isfinite(values), RATED, NOT_RATED).astype(np.int64)


def mean_ratings(samples: pd.DataFrame, ratings: ToolRatings) -> pd.DataFrame:
    """Return the mean of each tool's channel over the interval of each sample, N rows; NaN where too little is known.

    Args:
        samples: Columns recording_id, pts_s, end_s.
        ratings: The tools' channels.
    """
    names = list(ratings.tools)
    found = np.full((len(samples), len(names)), np.nan)
    starts_s, ends_s = (samples[name].to_numpy(dtype=np.float64) for name in ("pts_s", "end_s"))
    for recording_id, rows in samples.groupby("recording_id").indices.items() if names else ():
        table = ratings.read(str(recording_id))
        if table is not None and len(table.times_s):
            found[rows] = _means(table, names=names, starts_s=starts_s[rows], ends_s=ends_s[rows])
    return pd.DataFrame(found, columns=names, index=samples.index)


def _means(table: SignalTable, *, names: Sequence[str], starts_s: Numbers, ends_s: Numbers) -> Numbers:
    """Return means (n, L) over [start, end) of channels, those that a recording lacks NaN."""
    missing = np.full(len(table.times_s), np.nan)
    columns = [table.values[:, table.names.index(name)] if name in table.names else missing for name in names]
    values = np.stack(columns, axis=1).astype(np.float64)
    known = np.isfinite(values)
    zero = np.zeros((1, len(names)))
    sums = np.concatenate([zero, np.cumsum(np.where(known, values, 0.0), axis=0)])
    counts = np.concatenate([zero, np.cumsum(known, axis=0)])
    first = np.searchsorted(table.times_s, starts_s - TOLERANCE_S)
    # A grid that is coarser than the samples: at least the value at or after the sample's start.
    last = np.maximum(np.searchsorted(table.times_s, ends_s - TOLERANCE_S), np.minimum(first + 1, len(values)))
    total, count, length = sums[last] - sums[first], counts[last] - counts[first], (last - first)[:, None]
    enough = (count > 0) & (count >= MIN_RATED_SHARE * length)
    return np.where(enough, total / np.maximum(count, 1), np.nan)


def _annotated(tables: TargetTables, spec: TargetSpec) -> tuple[Numbers, Codes]:
    samples, annotations = tables.samples, tables.annotations
    values = np.full(len(samples), np.nan)
    codes = np.full(len(samples), NOT_ANNOTATED, dtype=np.int64)
    own = annotations[annotations["scheme"] == spec.name]
    annotated = set(annotations["recording_id"])
    concerned = tables.coded[tables.coded["label"].isin(["", spec.name])]
    starts_s, ends_s = (samples[name].to_numpy(dtype=np.float64) for name in ("pts_s", "end_s"))
    for name, rows in samples.groupby("recording_id").indices.items():
        theirs = own[own["recording_id"] == name]
        looked = np.ones(len(rows), dtype=bool)
        if len(tables.coded):
            looked = inside_any(
                starts_s[rows], concerned[concerned["recording_id"] == name], start="from_s", end="to_s"
            )
        elif name not in annotated:
            continue
        given, by_others = _mean_of_coders(theirs, tables.annotator, starts_s=starts_s[rows], ends_s=ends_s[rows])
        values[rows] = given
        silent = np.where(by_others, OTHERS_ONLY, NO_INTERVAL)
        codes[rows] = np.where(~looked, NOT_CODED, np.where(np.isfinite(given), RATED, silent))
    return values, codes


def _mean_of_coders(
    intervals: pd.DataFrame, annotator: str, *, starts_s: Numbers, ends_s: Numbers
) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return the mean over coders (n,) of each one's own mean, and where only others than the named one gave any."""
    means = [
        (str(name), _mean_of_intervals(rows, starts_s=starts_s, ends_s=ends_s))
        for name, rows in intervals.groupby(intervals["annotator"].fillna(""), sort=True)
    ]
    # Rows without an annotator are of every coder, the named one too.
    heard = [mean for name, mean in means if not annotator or name == "" or same_annotator(name, annotator)]
    everybody = np.zeros(len(starts_s), dtype=bool)
    for _, mean in means:
        everybody |= np.isfinite(mean)
    if not heard:
        return np.full(len(starts_s), np.nan), everybody
    stacked = np.stack(heard)
    counts = np.isfinite(stacked).sum(axis=0)
    given = np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)
    return given, everybody & (counts == 0)


def _mean_of_intervals(intervals: pd.DataFrame, *, starts_s: Numbers, ends_s: Numbers) -> Numbers:
    """Return the mean value (n,) of intervals, weighted by how long each overlaps [start, end); NaN where too little.

    Overlapping intervals of one coder share the time that they have in common.
    """
    weights, sums = np.zeros(len(starts_s)), np.zeros(len(starts_s))
    rows = zip(intervals["onset_s"], intervals["offset_s"], intervals["value"].astype(float), strict=True)
    for onset_s, offset_s, value in rows:
        overlap_s = np.clip(np.minimum(ends_s, offset_s) - np.maximum(starts_s, onset_s), 0.0, None)
        weights += overlap_s
        sums += overlap_s * value
    enough = (weights > 0) & (weights >= MIN_RATED_SHARE * (ends_s - starts_s) - TOLERANCE_S)
    return np.where(enough, sums / np.where(enough, weights, 1.0), np.nan)
