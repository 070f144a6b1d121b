"""The settings of event detection, chosen on participants whom the model's weights never saw; and what edges are worth.

Where a range says "the onset lies in here", it should hold as often as it says. What settings are chosen on is too few
people to be split in two, so margins are cross-fitted: each inner person's edges are made with settings chosen
on the others (the jackknife; Barber, Candès, Ramdas and Tibshirani 2021, Annals of Statistics 49:486-507), and
`event_margins` says how wide ranges have to be for one more person. `edge_coverage` measures it on people who had no
part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
from mien.evaluation.event_margins import EdgeMargins, fit_margins
from mien.evaluation.event_scoring import matched_edges
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
        edge_participants: Participants on whose found events the margins were fitted.
        edge_coverage: What the ranges of edges promise (`EdgeMargins.coverage`).
        note: Why the settings are the default ones; empty where they were chosen.
    """

    settings: EventSettings
    f1: float
    onset_error_s: float
    participants: int
    events: int
    edge_participants: int = 0
    edge_coverage: float = 0.0
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
    people hadn't needed, F1 on 22 new people of the smile study fell from .95 to .82.

    Margins are then fitted so that `COVERAGE` of a new person's found events have their edge in its range. Settings fit
    the people whom they were chosen on better than others: so the choice is repeated without each person, and the edges
    are those that the person's recordings have with the others' settings.

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
        return TunedEvents(EventSettings(), math.nan, math.nan, 0, 0, note=note)
    grid = _Grid(recordings, people, samples_per_s)
    everybody = np.ones(people, bool)
    chosen = grid.best(everybody)
    assert chosen is not None, "somebody has an annotated event"
    others = [grid.best(everybody & (np.arange(people) != person)) for person in range(people)]
    names = sorted(inner["participant_id"].unique())
    margins = _cross_fitted_margins(
        inner,
        truth,
        settings={
            name: EventSettings() if found is None else grid.settings[found]
            for name, found in zip(names, others, strict=True)
        },
        column=column,
    )
    settings = replace(grid.settings[chosen], onset_margin_s=margins.onset_s, offset_margin_s=margins.offset_s)
    f1, error_s = float(np.nanmean(grid.f1[chosen])), grid.error_s(chosen, everybody)
    error_s = error_s if math.isfinite(error_s) else math.nan
    return TunedEvents(settings, f1, error_s, smilers, events, margins.participants, margins.coverage)


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


class _Grid:
    """Every combination of settings on every inner person, so that a choice without one of them costs next to nothing.

    Attributes:
        settings: The combinations (S).
        f1: (S, P) of each person; NaN without an annotated event.
    """

    def __init__(self, recordings: Sequence[_Inner], people: int, samples_per_s: float) -> None:
        self._recordings, self._people, self._samples_per_s = recordings, people, samples_per_s
        # Most settings give a recording the same events as others do.
        self._hits: dict[tuple[int, bytes], list[tuple[Stretch, int]]] = {}
        self._errors_s: dict[tuple[int, bytes], list[float]] = {}
        self._medians_s: dict[int, Floats] = {}
        tried = list(self._tried())
        self.settings = [settings for settings, _, _ in tried]
        self._found = [found for _, found, _ in tried]
        self.f1 = np.array([f1 for _, _, f1 in tried])

    def best(self, chosen_on: NDArray[np.bool_]) -> int | None:
        """Return the number of the settings that are best for some of the people (P,); None where nobody has events."""
        known = chosen_on & ~np.isnan(self.f1[0])
        if not known.any():
            return None
        f1 = self.f1[:, known].mean(axis=1)
        tied = np.flatnonzero(f1 >= f1.max() - 1e-9).tolist()

        def order(index: int) -> tuple[float, tuple[float, ...]]:
            return _in_intervals(self.error_s(index, known), self._samples_per_s), _oddness(self.settings[index])

        return int(min(tied, key=order))

    def error_s(self, index: int, people: NDArray[np.bool_]) -> float:
        """Return the mean over people of the median distance of onsets, s; infinite where nothing was found."""
        if index not in self._medians_s:
            self._medians_s[index] = self._onset_medians(self._found[index])
        medians_s = self._medians_s[index][people]
        known = medians_s[~np.isnan(medians_s)]
        # As in `event_scores`, what was sampled every r seconds can't show an error below r: no setting gains by noise.
        least_s = round(1.0 / self._samples_per_s, 3)
        return max(round(float(known.mean()), 3), least_s) if known.size else math.inf

    def _tried(self) -> Iterator[tuple[EventSettings, list[Floats], Floats]]:
        """Yield settings, the events of each recording, and the F1 of each person."""
        for smoothing_s, (off, on) in product(SMOOTHINGS_S, THRESHOLDS):
            base = EventSettings(on=on, off=off, smoothing_s=smoothing_s)
            raw = [raw_events(each.seen.smoothed(smoothing_s), base) for each in self._recordings]
            for gap_s, least_s in product(MERGE_GAPS_S, MIN_DURATIONS_S):
                settings = replace(base, merge_gap_s=gap_s, min_duration_s=least_s)
                found = [joined(events, settings) for events in raw]
                judged = [pair for index, events in enumerate(found) for pair in self._judged(index, events)]
                stretches, hits = [stretch for stretch, _ in judged], [count for _, count in judged]
                yield settings, found, f1_per_participant(stretches, hits, self._people)

    def _judged(self, index: int, events: Floats) -> list[tuple[Stretch, int]]:
        key = (index, events[:, :2].tobytes())
        if key not in self._hits:
            stretches = self._recordings[index].judged(events)
            hits = [(each, len(match_events(each.truth, each.predicted, iou=TUNING_IOU))) for each in stretches]
            self._hits[key] = hits
        return self._hits[key]

    def _onset_medians(self, found: Sequence[Floats]) -> Floats:
        """Median distance of onsets per person (P,), s; NaN where none was found."""
        own: list[list[float]] = [[] for _ in range(self._people)]
        for index, events in enumerate(found):
            own[self._recordings[index].participant] += self._onset_errors(index, events)
        return np.array([np.median(errors_s) if errors_s else math.nan for errors_s in own])

    def _onset_errors(self, index: int, events: Floats) -> list[float]:
        key = (index, events[:, :2].tobytes())
        if key not in self._errors_s:
            self._errors_s[key] = [
                abs(float(each.predicted[b, 0] - each.truth[a, 0]))
                for each in self._recordings[index].judged(events)
                for a, b in match_events(each.truth, each.predicted, iou=TIMING_IOU)
            ]
        return self._errors_s[key]


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


def _cross_fitted_margins(
    inner: pd.DataFrame, truth: EventTruth, *, settings: Mapping[str, EventSettings], column: str
) -> EdgeMargins:
    """Fit margins on the edges of people (participant_id) by the settings that were chosen without them."""
    truth = truth.of(set(inner["recording_id"]))
    person_of = inner.drop_duplicates("recording_id").set_index("recording_id")["participant_id"]
    given = inner["participant_id"].map(settings)
    parts = []
    for own in dict.fromkeys(settings.values()):
        edges = matched_edges(detect_events(inner[given == own], own, column=column), truth)
        parts.append(edges.assign(participant_id=edges["recording_id"].map(person_of)))
    return fit_margins(pd.concat(parts, ignore_index=True))
