"""Scores of many channels that are each there or not, most of them rarely: per channel, then over the channels.

With a prevalence of 9 % a predictor that never says yes is right 91 % of the time, and one that always does has an F1
of .165. So accuracy stands beside both, and the scores to read are average precision above what chance gives, and F1
at thresholds that were chosen on other people.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mien.core.errors import UserError
from mien.evaluation.intervals import participant_interval
from mien.evaluation.jackknife import jackknife_interval

# A channel that fewer people ever show is about these people: the 95 % t-interval over 4 scores is 1.6 standard
# deviations to either side.
MIN_POSITIVE_PARTICIPANTS = 5


@dataclass(frozen=True)
class ChannelThresholds:
    """Thresholds that were chosen on training participants.

    Attributes:
        values: (C,) a clip is positive where its probability is at least this; NaN where no training participant has a
            positive clip of the channel, so that there was nothing to choose by.
        training_f1: (C,) F1 at the threshold on the training participants (too good: it was maximised there).
        positive_participants: (C,) training participants with a positive clip.
    """

    values: NDArray[np.float64]
    training_f1: NDArray[np.float64]
    positive_participants: NDArray[np.int64]


def choose_thresholds(
    targets: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    training: Collection[str],
) -> ChannelThresholds:
    """Choose for each channel the threshold with the highest F1 on the training participants, and on nobody else.

    F1 is 2 TP / (2 TP + FP + FN) of weighted counts, in which each training participant's annotated clips weigh 1
    together. A threshold lies half-way between the lowest probability that it accepts and the next lower one; of equals
    the highest is taken (fewest alarms). Where the probabilities carry no skill, the best threshold is near 0 and says
    yes to nearly everything (Lipton, Elkan and Naryanaswamy 2014, ECML PKDD): compare F1 with all-positive.

    Args:
        targets: (N, C) 1, 0 or NaN for what nobody annotated.
        probabilities: (N, C), each 0..1 where there is a target.
        participants: (N,) participant of each clip.
        training: Participants of the inner training set; clips of others aren't looked at.

    Raises:
        UserError: Shapes that don't fit, values outside 0..1, or no clip of a training participant.
    """
    truth, scores, people = _checked(targets, probabilities, participants)
    inner = np.isin(people, [str(name) for name in training])
    if not inner.any():
        raise UserError(
            f"None of the {len(training)} training participants has a clip here; thresholds are chosen on training "
            "participants only, so give the table that holds them."
        )
    truth, scores, people = truth[inner], scores[inner], people[inner]
    columns = range(truth.shape[1])
    chosen = np.array([_best_threshold(truth[:, c], scores[:, c], people) for c in columns]).reshape(-1, 2)
    return ChannelThresholds(
        values=chosen[:, 0],
        training_f1=chosen[:, 1],
        positive_participants=np.array([_people_with_positive(truth[:, c], people) for c in columns], dtype=np.int64),
    )


def multilabel_scores(
    targets: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    channels: Sequence[str],
    thresholds: NDArray[np.floating],
    folds: int | None,
) -> dict[str, Any]:
    """Score every channel per participant, and the channels that are not too rare together.

    Per channel, each a mean over the participants for whom it is defined with an interval over them (mean, low, high,
    n): `ap_minus_prevalence` and `ap_minus_chance` (both classes needed), `f1` (a positive clip needed; 0 where none is
    found), `specificity` (a negative clip needed: it holds those without positives too), `accuracy`. `f1_pooled` is
    that of the counts of all clips.

    Average precision of a random order is above the prevalence where clips are few: its expectation over n clips with r
    positives is ((r - 1) / (n - 1) * (n - H_n) + H_n) / n, H_n the n-th harmonic number (Bestgen 2015, Natural Language
    Engineering 21). For 9 of 100 it is .13, not .09. `ap_minus_chance` takes that away; no skill gives 0. A constant
    probability orders nothing: its average precision is the prevalence, and `ap_minus_chance` slightly below 0.

    `macro_f1` is the mean over the channels' `f1` (and `macro_ap_minus_chance` likewise) without the channels that are
    too rare, those with fewer than `MIN_POSITIVE_PARTICIPANTS` participants with a positive clip, and without those
    that have no threshold; its interval leaves out one participant at a time (`jackknife_interval`).

    Args:
        targets: (N, C) 1, 0 or NaN: what nobody annotated is missing, never negative.
        probabilities: (N, C), each 0..1 where there is a target.
        participants: (N,) participant of each clip.
        channels: C names.
        thresholds: (C,), or (N, C) where folds chose their own: those of the clip's fold. See `choose_thresholds`; NaN
            where none could be chosen, which leaves the clip out of F1, specificity and accuracy.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).

    Returns:
        `channels`, a list with per channel `channel`, `too_rare`, `participants` (with a target),
        `participants_with_positive`, `prevalence` (mean over participants), the scores above, and the trivial
        predictors `all_negative` and `all_positive` (each `accuracy`, `f1`: means over the same participants).
        `macro_f1`, `macro_ap_minus_chance`, `macro_f1_all_positive` (a plain mean), `channels_scored` (how many the
        macro scores are over), `too_rare` (names), `participants`.

    Raises:
        UserError: Shapes that don't fit, or a target or probability that can't be.
    """
    truth, scores, people = _checked(targets, probabilities, participants)
    if len(channels) != truth.shape[1]:
        raise UserError(f"Got {len(channels)} channel names for {truth.shape[1]} channels; give one per column.")
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in (truth.shape[1:], truth.shape):
        raise UserError(f"Thresholds have the shape {limits.shape}; allowed: {truth.shape[1:]} or {truth.shape}.")
    limits = np.broadcast_to(limits, truth.shape)
    names, code = np.unique(people, return_inverse=True)
    tables = [
        np.array(
            [_participant_row(truth[own, c], scores[own, c], limits[own, c]) for own in _rows_of(code, names.size)],
            dtype=np.float64,
        ).reshape(names.size, len(_COLUMNS))
        for c in range(truth.shape[1])
    ]
    rows = [_channel(name, table, folds=folds) for name, table in zip(channels, tables, strict=True)]
    scored = [
        table for row, table in zip(rows, tables, strict=True) if not row["too_rare"] and np.isfinite(row["f1"]["mean"])
    ]
    return {
        "channels": rows,
        "macro_f1": _macro(scored, "f1", folds=folds, bounds=(0.0, 1.0)),
        "macro_ap_minus_chance": _macro(scored, "ap_minus_chance", folds=folds, bounds=(-1.0, 1.0)),
        "macro_f1_all_positive": _mean([_mean(_column(table, "all_positive_f1")) for table in scored]),
        "channels_scored": len(scored),
        "too_rare": [row["channel"] for row in rows if row["too_rare"]],
        "participants": int(names.size),
    }


def chance_average_precision(num_clips: int, num_positive: int) -> float:
    """Return the expected average precision of a random order (Bestgen 2015); NaN without a positive clip.

    >>> round(chance_average_precision(10, 1), 3)  # the mean of 1/1, 1/2 ... 1/10
    0.293
    """
    if num_positive < 1:
        return float("nan")
    if num_positive == num_clips:
        return 1.0
    harmonic = float(np.sum(1.0 / np.arange(1, num_clips + 1)))
    return ((num_positive - 1) / (num_clips - 1) * (num_clips - harmonic) + harmonic) / num_clips


_COLUMNS = (
    "n", "prevalence", "ap_minus_prevalence", "ap_minus_chance", "f1", "specificity", "accuracy",
    "all_negative_f1", "all_positive_f1", "hits", "misses", "false_alarms", "positives",
)  # fmt: skip


def _column(table: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    return np.asarray(table[:, _COLUMNS.index(name)])


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    return float(kept.mean()) if kept.size else float("nan")


def _rows_of(code: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
    order = np.argsort(code, kind="stable")
    return list(np.split(order, np.searchsorted(code[order], np.arange(1, count)))) if count else []


def _checked(
    targets: NDArray[np.floating], probabilities: NDArray[np.floating], participants: NDArray[np.object_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    truth, scores = np.asarray(targets, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    people = np.asarray(participants).astype(str)
    if truth.ndim != 2 or scores.shape != truth.shape or people.shape != truth.shape[:1]:
        raise UserError(
            f"Targets {truth.shape}, probabilities {scores.shape} and participants {people.shape} don't fit; needed: "
            "(N, C), (N, C) and (N,)."
        )
    known = np.isfinite(truth)
    wrong = truth[known][~np.isin(truth[known], (0.0, 1.0))]
    if wrong.size:
        raise UserError(f"A target is {wrong[0]:g}; allowed: 1 (there), 0 (not there), NaN (nobody annotated it).")
    impossible = int(np.sum(known & ~((scores >= 0) & (scores <= 1))))
    if impossible:
        raise UserError(
            f"{impossible} of {int(known.sum())} annotated values have a probability that isn't a number in 0..1. The "
            "model probably diverged: train it again with a lower learning rate."
        )
    return truth, scores, people


def _people_with_positive(truth: NDArray[np.float64], people: NDArray[np.str_]) -> int:
    return int(np.unique(people[truth == 1]).size)


def _best_threshold(
    truth: NDArray[np.float64], scores: NDArray[np.float64], people: NDArray[np.str_]
) -> tuple[float, float]:
    """Threshold with the highest participant-weighted F1, and that F1."""
    known = np.isfinite(truth)
    truth, scores, people = truth[known], scores[known], people[known]
    if not (truth == 1).any():
        return float("nan"), float("nan")
    _, code, counts = np.unique(people, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[code]
    order = np.argsort(-scores, kind="stable")
    truth, scores, weights = truth[order], scores[order], weights[order]
    accepted, hits = np.cumsum(weights), np.cumsum(weights * truth)
    # Equal probabilities are accepted together: only the last clip of each value is a place to cut.
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    f1 = 2.0 * hits[last] / (accepted[last] + hits[-1])
    best = int(np.flatnonzero(f1 >= f1.max() - 1e-12)[0])
    below = scores[last[best + 1]] if best + 1 < last.size else 0.0
    middle = 0.5 * (scores[last[best]] + below)
    # Between two neighbouring floats the middle can round down to the lower one, which must stay outside.
    return float(middle if middle > below or best + 1 == last.size else scores[last[best]]), float(f1[best])


def _participant_row(
    truth: NDArray[np.float64], scores: NDArray[np.float64], limits: NDArray[np.float64]
) -> tuple[float, ...]:
    """Values of `_COLUMNS` for one participant and channel."""
    nan = float("nan")
    known = np.isfinite(truth)
    there, scores, limits = truth[known] == 1, scores[known], limits[known]
    n, positives = there.size, int(there.sum())
    above_prevalence = above_chance = nan
    if 0 < positives < n:
        precision = float(average_precision_score(there, scores))
        above_prevalence = precision - positives / n
        above_chance = precision - chance_average_precision(n, positives)
    decided = np.isfinite(limits)
    there, said = there[decided], scores[decided] >= limits[decided]
    decisions, wanted = there.size, int(there.sum())
    hits, alarms = int(np.sum(there & said)), int(np.sum(~there & said))
    silent = decisions - wanted
    return (
        n,
        positives / n if n else nan,
        above_prevalence,
        above_chance,
        2.0 * hits / (wanted + hits + alarms) if wanted else nan,
        1.0 - alarms / silent if silent else nan,
        (hits + silent - alarms) / decisions if decisions else nan,
        0.0 if positives else nan,
        2.0 * positives / (positives + n) if positives else nan,
        hits,
        wanted - hits,
        alarms,
        positives,
    )


def _channel(name: str, table: NDArray[np.float64], *, folds: int | None) -> dict[str, Any]:
    def interval(column: str, bounds: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
        return asdict(participant_interval(_column(table, column), folds=folds, bounds=bounds))

    with_positive = int(np.sum(_column(table, "positives") > 0))
    hits, misses, alarms = (float(_column(table, each).sum()) for each in ("hits", "misses", "false_alarms"))
    prevalence = _mean(_column(table, "prevalence"))
    return {
        "channel": name,
        "too_rare": with_positive < MIN_POSITIVE_PARTICIPANTS,
        "participants": int(np.sum(_column(table, "n") > 0)),
        "participants_with_positive": with_positive,
        "prevalence": prevalence,
        "ap_minus_prevalence": interval("ap_minus_prevalence", (-1.0, 1.0)),
        "ap_minus_chance": interval("ap_minus_chance", (-1.0, 1.0)),
        **{score: interval(score) for score in ("f1", "specificity", "accuracy")},
        "f1_pooled": 2.0 * hits / (2.0 * hits + misses + alarms) if hits + misses > 0 else float("nan"),
        "all_negative": {"accuracy": 1.0 - prevalence, "f1": _mean(_column(table, "all_negative_f1"))},
        "all_positive": {"accuracy": prevalence, "f1": _mean(_column(table, "all_positive_f1"))},
    }


def _macro(
    tables: Sequence[NDArray[np.float64]], column: str, *, folds: int | None, bounds: tuple[float, float]
) -> dict[str, Any]:
    """Mean over channels of the mean over participants, with the interval that leaves out one participant at a time."""
    if not tables:
        return asdict(jackknife_interval(np.zeros(0), score=float("nan"), folds=folds))
    values = np.column_stack([_column(table, column) for table in tables])
    values = values[np.isfinite(values).any(axis=1)]  # who has no value in any channel has no say
    left_out = np.array([_macro_of(np.delete(values, row, axis=0)) for row in range(len(values))])
    return asdict(jackknife_interval(left_out, score=_macro_of(values), folds=folds, bounds=bounds))


def _macro_of(values: NDArray[np.float64]) -> float:
    return _mean([_mean(column) for column in values.T])
