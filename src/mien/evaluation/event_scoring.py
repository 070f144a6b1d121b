"""Detected events against the annotation: `event_scores` within what is annotated, and how often edges lie in range."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mien.evaluation.event_margins import COVERAGE, EDGES
from mien.evaluation.event_truth import EventTruth
from mien.evaluation.events import NULL_DRAWS, TIMING_IOU, event_scores, match_events
from mien.evaluation.intervals import participant_interval


def score_events(
    detected: pd.DataFrame,
    truth: EventTruth,
    *,
    participants: pd.Series[str],
    samples_per_s: float,
    folds: int | None,
    seed: int,
    draws: int = NULL_DRAWS,
) -> dict[str, Any]:
    """Score detected events against the annotation's own times, within what is annotated.

    Args:
        detected: From `detect_events`.
        truth: The annotated events of the same recordings.
        participants: Participant by recording_id.
        samples_per_s: Rate of the predictions.
        folds: K of the retrained cross-validation, None for one fixed model.
        seed: Seed of the null.
        draws: How many draws of it.

    Returns:
        What `event_scores` returns, and `edge_coverage`.
    """
    stretches = truth.stretches.assign(participant_id=truth.stretches["recording_id"].map(participants))
    return {
        **event_scores(
            _by_stretch(truth.within(truth.events)),
            _by_stretch(truth.within(detected)),
            recordings=stretches.assign(recording_id=[str(row) for row in stretches.index]),
            samples_per_s=samples_per_s,
            folds=folds,
            seed=seed,
            draws=draws,
        ),
        "edge_coverage": edge_coverage(detected, truth, participants=participants, folds=folds),
    }


def _by_stretch(events: pd.DataFrame) -> pd.DataFrame:
    return events.assign(recording_id=events["stretch"].astype(str))


def matched_edges(detected: pd.DataFrame, truth: EventTruth) -> pd.DataFrame:
    """Return every event that was found, beside the annotated one that it matches at `TIMING_IOU`.

    Args:
        detected: From `detect_events`.
        truth: The annotated events.

    Returns:
        The columns of `detected` (cut to the annotated stretch) and `true_onset_s`, `true_offset_s`.
    """
    found, annotated = truth.within(detected), truth.within(truth.events)
    parts = [found.iloc[:0].assign(true_onset_s=np.float64(), true_offset_s=np.float64())]
    for stretch, rows in annotated.groupby("stretch"):
        own = found[found["stretch"] == stretch]
        spans = [each[["start_s", "end_s"]].to_numpy(dtype=np.float64) for each in (rows, own)]
        pairs = np.array(match_events(*spans, iou=TIMING_IOU), np.int64).reshape(-1, 2)
        edges = spans[0][pairs[:, 0]]
        parts.append(own.iloc[pairs[:, 1]].assign(true_onset_s=edges[:, 0], true_offset_s=edges[:, 1]))
    return pd.concat(parts, ignore_index=True).drop(columns="stretch")


def edge_coverage(
    detected: pd.DataFrame, truth: EventTruth, *, participants: pd.Series[str], folds: int | None
) -> dict[str, Any]:
    """Return how often the true onset and offset of a found event lie in the range that is given for them.

    Args:
        detected: From `detect_events`.
        truth: The annotated events.
        participants: Participant by recording_id.
        folds: K of the retrained cross-validation, None for one fixed model.

    Returns:
        `stated` (`COVERAGE`), `events` (how many were found), and for `onset` and `offset` the share (mean, low, high,
        n: per participant, then over participants) and `median_width_s`, the width of the range.
    """
    edges = matched_edges(detected, truth)
    people = edges["recording_id"].map(participants)
    result: dict[str, Any] = {"stated": COVERAGE, "events": len(edges)}
    for name in EDGES:
        low, high = edges[f"{name}_low_s"], edges[f"{name}_high_s"]
        inside = edges[f"true_{name}_s"].between(low - 1e-9, high + 1e-9)
        shares = inside.astype(float).groupby(people).mean().to_numpy(dtype=np.float64)
        width_s = float((high - low).median()) if len(edges) else math.nan
        result[name] = {**asdict(participant_interval(shares, folds=folds)), "median_width_s": width_s}
    return result
