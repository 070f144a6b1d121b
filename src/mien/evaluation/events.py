"""Scores of events: were they found, how many false alarms, how far off are their beginnings and ends.

Events are half-open intervals in seconds. Frames that follow each other are one event, so frame scores say nothing
about how often somebody smiled, or when a smile began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mien.core.errors import UserError
from mien.evaluation.intervals import Interval, participant_interval
from mien.evaluation.jackknife import student_interval

IOUS = (0.1, 0.25, 0.5)
# Timing errors come from the loosest match: at an IoU of .5 an event can't be off by more than its own length, and the
# error would look small because the large ones were cut away.
TIMING_IOU = min(IOUS)
# Most expressions last .5 to 4 s (Ekman 2003, Emotions Revealed); at fewer samples the onset of a short one is off by
# a good part of its length.
MIN_SAMPLES_PER_S = 5.0
NULL_DRAWS = 999  # the smallest p is .001
POSITIVE = (0.0, np.inf)
EVENT_COLUMNS = ("recording_id", "start_s", "end_s")
RECORDING_COLUMNS = ("recording_id", "participant_id", "start_s", "end_s")

Spans = NDArray[np.float64]  # (E, 2): start and end, seconds


@dataclass(frozen=True)
class Stretch:
    """One recording: its events as they were annotated and as they were predicted, in seconds from its start."""

    participant: int
    length_s: float
    truth: Spans
    predicted: Spans


def events_from_samples(samples: pd.DataFrame, *, column: str) -> pd.DataFrame:
    """Join positive samples that follow each other into events.

    A run ends at the first sample that isn't positive, at one that is missing (nobody knows whether it went on), and at
    a gap longer than the sample before it. An event lasts from the start of its first to the end of its last sample.

    Args:
        samples: One row per frame or clip: recording_id, start_s, end_s (not included), and the column.
        column: 1 or true where the expression is there, 0 or false where it isn't, missing where nobody annotated.

    Returns:
        `EVENT_COLUMNS`, sorted by recording and start.

    Raises:
        UserError: Missing columns.
    """
    _need(samples, (*EVENT_COLUMNS, column), what="samples")
    found: list[tuple[str, float, float]] = []
    for recording_id, rows in samples.groupby("recording_id", sort=True):
        ordered = rows.sort_values("start_s", kind="stable")
        active = pd.to_numeric(ordered[column]).astype("Float64").fillna(0.0).to_numpy(dtype=np.float64) > 0
        starts, ends = (ordered[name].to_numpy(dtype=np.float64) for name in ("start_s", "end_s"))
        joined = np.concatenate([[False], active[:-1] & (starts[1:] - ends[:-1] <= (ends - starts)[:-1])])
        first = np.flatnonzero(active & ~joined)
        last = np.flatnonzero(active & ~np.append((active & joined)[1:], False))
        found += [(str(recording_id), float(starts[a]), float(ends[b])) for a, b in zip(first, last, strict=True)]
    return pd.DataFrame(found, columns=list(EVENT_COLUMNS)).astype({"start_s": float, "end_s": float})


def match_events(truth: Spans, predicted: Spans, *, iou: float) -> list[tuple[int, int]]:
    """Match annotated and predicted events of one recording one to one.

    As many pairs as possible whose IoU (seconds in both / seconds in either) is at least `iou`; among these matchings
    the one with the largest sum of IoU. It is the optimal assignment (Jonker and Volgenant 1987, by
    `scipy.optimize.linear_sum_assignment`), so it doesn't depend on the order of events, as greedy matching does.

    Args:
        truth: (E, 2) start and end, seconds.
        predicted: (F, 2).
        iou: Least overlap, above 0.

    Returns:
        Pairs of row numbers (truth, predicted), in the order of the truth.

    >>> match_events(np.array([[0.0, 2.0]]), np.array([[5.0, 6.0], [1.0, 2.0]]), iou=0.5)
    [(0, 1)]
    """
    return _assign(_iou(np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)), iou=iou)


def sampling_interval(times_s: NDArray[np.float64]) -> float:
    """Return how far samples lie apart, s; NaN for fewer than two.

    It is the median of the mean of two neighbouring steps: of a camera with 15 frames per second, 10 samples per second
    are .07 and .13 s apart in turn.

    Args:
        times_s: (N,) when they were taken, increasing.

    >>> round(sampling_interval(np.array([0.0, 0.13, 0.2, 0.33, 0.4, 0.53])), 3)
    0.1
    """
    if len(times_s) < 3:
        return float(times_s[1] - times_s[0]) if len(times_s) == 2 else float("nan")
    return float(np.median(times_s[2:] - times_s[:-2])) / 2


def sampling_rate(samples: pd.DataFrame) -> float:
    """Return how many samples per second recordings really have: a video may have fewer frames than were asked for.

    Args:
        samples: All sampled frames, also those without a face: recording_id, and pts_s or start_s.

    Returns:
        The median over recordings; NaN where none has two samples.
    """
    times = samples["pts_s" if "pts_s" in samples else "start_s"].groupby(samples["recording_id"])
    steps_s = np.array([sampling_interval(np.sort(own.to_numpy(dtype=np.float64))) for _, own in times])
    known = steps_s[~np.isnan(steps_s)]
    return 1.0 / float(np.median(known)) if known.size else float("nan")


def why_too_few(samples_per_s: float) -> str | None:
    """Say why there are no events at a sampling rate, None where there are."""
    # Of 1/3 s sampled thrice a second the rate differs from 3 by rounding.
    if samples_per_s >= MIN_SAMPLES_PER_S * (1 - 1e-6):
        return None
    if np.isnan(samples_per_s):
        return "A single sample has no onsets; events need at least two."
    return (
        f"Events sampled {samples_per_s:.3g} times per second; needed: at least {MIN_SAMPLES_PER_S:g}, since many "
        "expressions last less than a second. Prepare the study at a higher rate, or score frames instead."
    )


def event_scores(
    truth: pd.DataFrame,
    predicted: pd.DataFrame,
    *,
    recordings: pd.DataFrame,
    samples_per_s: float,
    folds: int | None,
    seed: int,
    draws: int = NULL_DRAWS,
) -> dict[str, Any]:
    """Score predicted events per participant, then averaged over participants with an interval.

    `f1`: segment F1 (Lea et al. 2017, CVPR, there with greedy matching) of the participant's recordings that have an
    annotated event: 2 TP / (2 TP + FP + FN), matched one to one. `false_alarms_per_minute`: predicted events per minute
    of the recordings that have none; every prediction there is false, so F1 would be 0 for one or a hundred of them.

    Onset and offset errors are predicted minus annotated time of the events that match at an IoU of `TIMING_IOU`:
    positive is too late. Each participant's median, then the mean over participants; signed (a lag) and absolute. What
    was sampled every r seconds can't show an error below r: an absolute mean below `resolution_s` is returned as
    `resolution_s` with `at_most_one_sampling_interval` true and no lower end, a lag within +-r as NaN. Missed events
    have no error: read the errors beside F1.

    The null shifts the predicted events of each recording by an independent random time, circularly (an event that
    passes the end goes on at the start, as one event). It keeps how many there are, how long, and how they follow each
    other, and breaks only their tie to the truth. p = (1 + draws with an F1 at least as high) / (1 + draws), of the
    mean F1 over participants. The draws don't refit a model. Where all people react to the same moment of a stimulus,
    a prediction from the clock alone beats this null: it is not evidence that faces were read.

    Args:
        truth: Annotated events: recording_id, start_s, end_s. Touching or overlapping ones stay separate events.
        predicted: Predicted events, likewise.
        recordings: recording_id, participant_id, start_s, end_s of what was annotated and predicted. Where there are
            gaps in the annotation, give each annotated stretch its own recording_id.
        samples_per_s: Rate at which targets and predictions were sampled, the lower of both.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).
        seed: Seed of the shifts.
        draws: How many shifts.

    Returns:
        `f1`, a list with per IoU `iou`, mean, low, high, n, `p` (NaN without an F1), `null_mean`;
        `false_alarms_per_minute` (mean, low, high, n); `onset_error_s` and `offset_error_s`, each `absolute` and
        `signed` (mean, low, high, n), `at_most_one_sampling_interval` and `statement`; `resolution_s`, `smallest_p`,
        `events`, `predicted_events`, `matched_events` (at `TIMING_IOU`), `participants`,
        `recordings_without_events`, `minutes`.

    Raises:
        UserError: Fewer than `MIN_SAMPLES_PER_S` samples, missing columns, an event outside its recording or that
            doesn't end after it starts, a recording listed twice, or fewer than 1 draw.
    """
    reason = why_too_few(samples_per_s)
    if reason is not None:
        raise UserError(reason)
    if draws < 1:
        raise UserError(f"Got {draws} draws of the null; at least 1 is needed.")
    stretches = _stretches(truth, predicted, recordings)
    people = len({stretch.participant for stretch in stretches})
    resolution_s = 1.0 / samples_per_s
    pairs = [match_events(each.truth, each.predicted, iou=TIMING_IOU) for each in stretches]
    silent = [stretch for stretch in stretches if not len(stretch.truth)]
    return {
        "f1": _f1_against_null(stretches, people, folds=folds, seed=seed, draws=draws),
        "false_alarms_per_minute": _false_alarms(silent, people, folds=folds),
        "onset_error_s": _timing(stretches, pairs, edge=0, resolution_s=resolution_s, folds=folds),
        "offset_error_s": _timing(stretches, pairs, edge=1, resolution_s=resolution_s, folds=folds),
        "resolution_s": resolution_s,
        "smallest_p": 1.0 / (draws + 1),
        "events": sum(len(stretch.truth) for stretch in stretches),
        "predicted_events": sum(len(stretch.predicted) for stretch in stretches),
        "matched_events": sum(map(len, pairs)),
        "participants": people,
        "recordings_without_events": len(silent),
        "minutes": sum(stretch.length_s for stretch in stretches) / 60.0,
    }


def _need(table: pd.DataFrame, columns: Sequence[str], *, what: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"The table of {what} lacks {', '.join(missing)}; it needs {', '.join(columns)}.")


def _stretches(truth: pd.DataFrame, predicted: pd.DataFrame, recordings: pd.DataFrame) -> list[Stretch]:
    _need(truth, EVENT_COLUMNS, what="annotated events")
    _need(predicted, EVENT_COLUMNS, what="predicted events")
    _need(recordings, RECORDING_COLUMNS, what="recordings")
    ids = recordings["recording_id"].astype(str)
    if ids.duplicated().any():
        raise UserError(f"Recording {ids[ids.duplicated()].iloc[0]!r} is listed twice; list each once.")
    for name, table in (("annotated", truth), ("predicted", predicted)):
        stray = sorted(set(table["recording_id"].astype(str)) - set(ids))
        if stray:
            raise UserError(f"Recording {stray[0]!r} has {name} events but isn't listed; add it to the recordings.")
    people = pd.factorize(recordings["participant_id"].astype(str), sort=True)[0]
    begins, ends = (recordings[name].to_numpy(dtype=np.float64) for name in ("start_s", "end_s"))
    made = []
    by_recording = [dict(iter(table.groupby(table["recording_id"].astype(str)))) for table in (truth, predicted)]
    for name, person, begin, end in zip(ids, people, begins, ends, strict=True):
        if not end > begin:
            raise UserError(f"Recording {name!r} lasts from {begin:g} to {end:g} s; its end must be after its start.")
        spans = [_spans(rows.get(name), name, begin=begin, end=end) for rows in by_recording]
        made.append(Stretch(int(person), float(end - begin), *spans))
    return made


def _spans(rows: pd.DataFrame | None, name: str, *, begin: float, end: float) -> Spans:
    if rows is None:
        return np.zeros((0, 2))
    spans = rows[["start_s", "end_s"]].to_numpy(dtype=np.float64)
    # Times that were read from text differ from the recording's own by rounding.
    wrong = ~((spans[:, 0] >= begin - 1e-6) & (spans[:, 1] <= end + 1e-6) & (spans[:, 1] > spans[:, 0]))
    if wrong.any():
        first = spans[wrong][0]
        raise UserError(
            f"Recording {name!r} has an event from {first[0]:g} to {first[1]:g} s; allowed: within {begin:g} to "
            f"{end:g} s, the end after the start. Clip events to what was annotated."
        )
    return np.asarray(np.clip(spans, begin, end) - begin)


def _overlap(truth: Spans, predicted: Spans) -> NDArray[np.float64]:
    ends = np.minimum(truth[:, None, 1], predicted[None, :, 1])
    return np.asarray(np.maximum(ends - np.maximum(truth[:, None, 0], predicted[None, :, 0]), 0.0))


def _iou(truth: Spans, predicted: Spans, *, around_s: float | None = None) -> NDArray[np.float64]:
    """IoU of each pair (E, F); with `around_s` a predicted event that passes this time goes on at 0."""
    shared = _overlap(truth, predicted)
    if around_s is not None:
        shared = shared + _overlap(truth, predicted - around_s)
    lengths = np.diff(truth, axis=1) + np.diff(predicted, axis=1).T
    return np.asarray(shared / (lengths - shared))


def _assign(overlaps: NDArray[np.float64], *, iou: float) -> list[tuple[int, int]]:
    allowed = overlaps >= iou - 1e-9  # half of .6 s and .3 s differ by rounding
    if not allowed.any():
        return []
    # One more pair is worth more than all the overlap that could be gained without it.
    worth = np.where(allowed, 1.0 + overlaps / (min(overlaps.shape) + 1), 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if allowed[a, b]]


def f1_per_participant(stretches: Sequence[Stretch], hits: Sequence[int], people: int) -> NDArray[np.float64]:
    """F1 (P,) of the recordings with events; NaN for participants without any."""
    twice, total = np.zeros(people), np.zeros(people)
    for stretch, found in zip(stretches, hits, strict=True):
        if len(stretch.truth):
            twice[stretch.participant] += 2.0 * found
            total[stretch.participant] += len(stretch.truth) + len(stretch.predicted)
    return np.asarray(np.divide(twice, total, out=np.full(people, np.nan), where=total > 0))


def _f1_against_null(
    stretches: Sequence[Stretch], people: int, *, folds: int | None, seed: int, draws: int
) -> list[dict[str, Any]]:
    def scores(overlaps: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        hits = [[len(_assign(each, iou=iou)) for each in overlaps] for iou in IOUS]
        return np.array([f1_per_participant(stretches, found, people) for found in hits])

    stretches = [stretch for stretch in stretches if len(stretch.truth)]
    observed = scores([_iou(each.truth, each.predicted) for each in stretches])
    intervals = [participant_interval(values, folds=folds) for values in observed]
    if not stretches:
        nan = float("nan")
        return [
            {"iou": iou, **asdict(found), "p": nan, "null_mean": nan}
            for iou, found in zip(IOUS, intervals, strict=True)
        ]
    generator = np.random.default_rng(seed)
    null = np.empty((draws, len(IOUS)))
    for draw in range(draws):
        shifts = generator.uniform(0.0, [each.length_s for each in stretches])
        shifted = [_shifted(each, float(by)) for each, by in zip(stretches, shifts, strict=True)]
        null[draw] = np.nanmean(scores(shifted), axis=1)
    reached = (null >= np.nanmean(observed, axis=1) - 1e-12).sum(axis=0)
    return [
        {"iou": iou, **asdict(found), "p": float((1 + count) / (1 + draws)), "null_mean": float(mean)}
        for iou, found, count, mean in zip(IOUS, intervals, reached, null.mean(axis=0), strict=True)
    ]


def _shifted(stretch: Stretch, by_s: float) -> NDArray[np.float64]:
    begins = (stretch.predicted[:, :1] + by_s) % stretch.length_s
    moved = np.hstack([begins, begins + np.diff(stretch.predicted, axis=1)])
    return _iou(stretch.truth, moved, around_s=stretch.length_s)


def _false_alarms(silent: Sequence[Stretch], people: int, *, folds: int | None) -> dict[str, Any]:
    alarms, minutes = np.zeros(people), np.zeros(people)
    for stretch in silent:
        alarms[stretch.participant] += len(stretch.predicted)
        minutes[stretch.participant] += stretch.length_s / 60.0
    rates = np.divide(alarms, minutes, out=np.full(people, np.nan), where=minutes > 0)
    return asdict(participant_interval(rates, folds=folds, bounds=POSITIVE))


def _timing(
    stretches: Sequence[Stretch],
    pairs: Sequence[list[tuple[int, int]]],
    *,
    edge: int,
    resolution_s: float,
    folds: int | None,
) -> dict[str, Any]:
    errors: dict[int, list[float]] = {}
    for stretch, matched in zip(stretches, pairs, strict=True):
        late = [float(stretch.predicted[b, edge] - stretch.truth[a, edge]) for a, b in matched]
        errors.setdefault(stretch.participant, []).extend(late)
    own = [np.array(late) for late in errors.values() if late]
    absolute = participant_interval(np.array([np.median(np.abs(late)) for late in own]), folds=folds, bounds=POSITIVE)
    signed = student_interval(np.array([np.median(late) for late in own]), folds=folds)
    nan = float("nan")
    # An error of exactly one interval, too, differs from it by rounding.
    too_fine = bool(absolute.n) and absolute.mean <= resolution_s * (1 + 1e-9)
    if too_fine:
        absolute = Interval(resolution_s, nan, max(absolute.high, resolution_s), absolute.n)
    if signed.n and abs(signed.mean) <= resolution_s * (1 + 1e-9):
        signed = Interval(nan, nan, nan, signed.n)
    if not absolute.n:
        statement = "no event was matched"
    elif too_fine:
        statement = f"at most one sampling interval ({resolution_s:.3g} s)"
    else:
        statement = f"{absolute.mean:.3g} s"
    return {
        "absolute": asdict(absolute),
        "signed": asdict(signed),
        "at_most_one_sampling_interval": too_fine,
        "statement": statement,
    }
