"""The settings of event detection, chosen on participants whom the model's weights never saw; and what edges are worth.

Where a range says "the onset lies in here", it should hold as often as it says. The band of thresholds alone doesn't
know how often it does, so it is widened by what was needed on the inner participants: split-conformal prediction as
Romano, Patterson and Candès (2019, NeurIPS 32) do it for intervals. It promises `COVERAGE` where events are
exchangeable, which those of one person are only nearly; `edge_coverage` measures it on people who had no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from mien.core.errors import UserError
from mien.evaluation.event_detection import (
    EventSettings,
    Floats,
    SeenSamples,
    check_probabilities,
    detect_events,
    joined,
    raw_events,
    seen_samples,
)
from mien.evaluation.event_scoring import COVERAGE, matched_edges
from mien.evaluation.event_truth import EventTruth
from mien.evaluation.events import TIMING_IOU, Stretch, f1_per_participant, match_events, why_too_few

TUNING_IOU = 0.5
THRESHOLDS = tuple(
    (round(centre - half, 3), round(centre + half, 3))
    for centre in (0.3, 0.4, 0.5, 0.6, 0.7)
    for half in (0.0, 0.1, 0.2)
)
"""(off, on), with and without hysteresis. Probabilities of models that weigh classes equally lie around .5."""
# Expressions last from .5 s (Ekman 2003, Emotions Revealed), so that what is dropped, bridged or averaged is shorter.
MIN_DURATIONS_S = (0.0, 0.25, 0.5)
MERGE_GAPS_S = (0.0, 0.25, 0.5)
SMOOTHINGS_S = (0.0, 0.3, 0.5)


@dataclass(frozen=True)
class TunedEvents:
    """Settings, and what they gave on the participants that they were chosen on.

    Attributes:
        settings: The settings.
        f1: Mean F1 per participant at `TUNING_IOU`; NaN where nothing could be tuned.
        onset_error_s: Mean over participants of the median distance of onsets, s, at least one sampling interval; NaN
            where no event was found.
        participants: Participants with an annotated event.
        events: Their annotated events.
        note: Why the settings are the default ones; empty where they were chosen.
    """

    settings: EventSettings
    f1: float
    onset_error_s: float
    participants: int
    events: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON-able mapping; `EventSettings.from_json` reads the settings back."""
        rest = {key: value for key, value in asdict(self).items() if key != "settings"}
        return {**self.settings.to_json(), "inner": rest}


@dataclass(frozen=True)
class _Inner:
    """One recording of the inner participants."""

    participant: int
    seen: SeenSamples
    stretches: tuple[tuple[float, float, Floats], ...]  # from, to, and the events there

    def judged(self, events: Floats) -> Iterator[Stretch]:
        """Return each annotated stretch with its events."""
        for begin, end, truth in self.stretches:
            cut = np.clip(events[:, :2], begin, end)
            yield Stretch(self.participant, end - begin, truth, cut[cut[:, 1] > cut[:, 0]])


def tune_events(inner: pd.DataFrame, truth: EventTruth, *, column: str, samples_per_s: float) -> TunedEvents:
    """Choose the settings of detection on inner participants.

    Every combination of `THRESHOLDS`, `MIN_DURATIONS_S`, `MERGE_GAPS_S` and `SMOOTHINGS_S` is tried. The best has the
    highest mean F1 per participant at an IoU of `TUNING_IOU`, as `event_scores` has it; of equals the one with the
    least onset error (mean over participants of the median, events matched at `TIMING_IOU`; in whole sampling
    intervals, since no sample knows more), of those the one nearest to the default settings. A dozen inner people often
    leave a plateau of perfect settings, whose rim doesn't hold: without hysteresis and a least duration, which those
    people hadn't needed, F1 on 22 new people of the smile study fell from .95 to .82. Margins are then fitted so that
    `COVERAGE` of the found inner events have their edge in its range.

    Args:
        inner: Predictions by weights that never saw these people: recording_id, participant_id, start_s, end_s, column.
        truth: The annotated events; recordings that aren't among the predictions are ignored.
        column: The probability.
        samples_per_s: Rate of the predictions.

    Returns:
        The settings; the default ones, with a note, where no inner participant has an annotated event.

    Raises:
        UserError: Fewer than `MIN_SAMPLES_PER_S` samples, missing columns, or a probability outside 0..1.
    """
    reason = why_too_few(samples_per_s)
    if reason is not None:
        raise UserError(reason)
    check_probabilities(inner, column=column)
    recordings = _inner_recordings(inner, truth, column=column)
    people = 1 + max((each.participant for each in recordings), default=-1)
    spans = [(each.participant, len(events)) for each in recordings for _, _, events in each.stretches]
    smilers, events = len({person for person, count in spans if count}), sum(count for _, count in spans)
    if not events:
        note = "no inner participant has an annotated event: nothing to choose the settings on"
        return TunedEvents(EventSettings(), math.nan, math.nan, 0, 0, note)
    tried = list(_scored_grid(recordings, people))
    best = max(f1 for f1, _, _ in tried)
    tied = [(settings, found) for f1, settings, found in tried if f1 >= best - 1e-9]
    # As in `event_scores`, what was sampled every r seconds can't show an error below r: no setting gains by noise.
    errors = [
        max(round(_onset_error(recordings, found, people), 3), round(1.0 / samples_per_s, 3)) for _, found in tied
    ]
    chosen = min(
        range(len(tied)), key=lambda index: (_in_intervals(errors[index], samples_per_s), _oddness(tied[index][0]))
    )
    settings = _with_fitted_margins(inner, truth, settings=tied[chosen][0], column=column)
    error_s = errors[chosen] if math.isfinite(errors[chosen]) else math.nan
    return TunedEvents(settings, best, error_s, smilers, events)


def _inner_recordings(inner: pd.DataFrame, truth: EventTruth, *, column: str) -> list[_Inner]:
    if "participant_id" not in inner:
        raise UserError("The table of inner predictions lacks participant_id.")
    people = dict(zip(inner["participant_id"], pd.factorize(inner["participant_id"], sort=True)[0], strict=True))
    events = truth.within(truth.events)
    recordings = []
    for recording_id, rows in inner.groupby("recording_id", sort=True):
        own = truth.stretches[truth.stretches["recording_id"] == recording_id]
        stretches = tuple(
            (
                float(begin),
                float(end),
                events.loc[events["stretch"] == stretch, ["start_s", "end_s"]].to_numpy(dtype=np.float64),
            )
            for stretch, begin, end in own[["start_s", "end_s"]].itertuples()
        )
        participant = people[rows["participant_id"].iloc[0]]
        recordings.append(_Inner(int(participant), seen_samples(rows, column=column), stretches))
    return recordings


def _scored_grid(recordings: Sequence[_Inner], people: int) -> Iterator[tuple[float, EventSettings, list[Floats]]]:
    """Yield F1, settings and the events of each recording."""
    known: dict[tuple[int, bytes], list[tuple[Stretch, int]]] = {}

    def hits_of(index: int, events: Floats) -> list[tuple[Stretch, int]]:
        # Most settings give a recording the same events as others do.
        key = (index, events[:, :2].tobytes())
        if key not in known:
            stretches = recordings[index].judged(events)
            known[key] = [(each, len(match_events(each.truth, each.predicted, iou=TUNING_IOU))) for each in stretches]
        return known[key]

    for smoothing_s, (off, on) in product(SMOOTHINGS_S, THRESHOLDS):
        base = EventSettings(on=on, off=off, smoothing_s=smoothing_s)
        raw = [raw_events(each.seen.smoothed(smoothing_s), base) for each in recordings]
        for gap_s, least_s in product(MERGE_GAPS_S, MIN_DURATIONS_S):
            settings = replace(base, merge_gap_s=gap_s, min_duration_s=least_s)
            found = [joined(events, settings) for events in raw]
            judged = [pair for index, events in enumerate(found) for pair in hits_of(index, events)]
            stretches, hits = [stretch for stretch, _ in judged], [count for _, count in judged]
            yield float(np.nanmean(f1_per_participant(stretches, hits, people))), settings, found


def _stretches(recordings: Sequence[_Inner], found: Sequence[Floats]) -> list[Stretch]:
    return [stretch for each, events in zip(recordings, found, strict=True) for stretch in each.judged(events)]


def _onset_error(recordings: Sequence[_Inner], found: Sequence[Floats], people: int) -> float:
    """Mean over participants of the median distance of onsets, s; infinite where nothing was found."""
    errors: list[list[float]] = [[] for _ in range(people)]
    for each in _stretches(recordings, found):
        pairs = match_events(each.truth, each.predicted, iou=TIMING_IOU)
        errors[each.participant] += [abs(float(each.predicted[b, 0] - each.truth[a, 0])) for a, b in pairs]
    medians = [float(np.median(own)) for own in errors if own]
    return float(np.mean(medians)) if medians else math.inf


def _in_intervals(error_s: float, samples_per_s: float) -> float:
    """Return an error in whole sampling intervals, rounded up."""
    return math.ceil(error_s * samples_per_s - 1e-6) if math.isfinite(error_s) else math.inf


def _oddness(settings: EventSettings) -> tuple[float, ...]:
    """How far settings are from the default ones, in steps of the grid; then the settings, so that order is fixed."""
    usual = EventSettings()
    steps = (
        abs(settings.edge - usual.edge) / 0.1,
        abs((settings.on - settings.off) - (usual.on - usual.off)) / 0.2,
        abs(settings.min_duration_s - usual.min_duration_s) / 0.25,
        abs(settings.merge_gap_s - usual.merge_gap_s) / 0.25,
        abs(settings.smoothing_s - usual.smoothing_s) / 0.3,
    )
    parts = (settings.on, settings.off, settings.min_duration_s, settings.merge_gap_s, settings.smoothing_s)
    return (round(sum(steps), 6), *parts)


def _with_fitted_margins(
    inner: pd.DataFrame, truth: EventTruth, *, settings: EventSettings, column: str
) -> EventSettings:
    edges = matched_edges(detect_events(inner, settings, column=column), truth)
    margins = {}
    for name in ("onset", "offset"):
        columns = (f"true_{name}_s", f"{name}_low_s", f"{name}_high_s")
        true, low, high = (edges[column].to_numpy(dtype=np.float64) for column in columns)
        outside = np.maximum(low - true, true - high)
        # Of fewer than 9 events the quantile would be infinite; the widest that was needed is the best guess.
        rank = min(math.ceil((len(outside) + 1) * COVERAGE), len(outside))
        margins[f"{name}_margin_s"] = max(math.ceil(1000 * np.sort(outside)[rank - 1]) / 1000, 0.0) if rank else 0.0
    return replace(settings, **margins)
