"""Intervals of scores that are no mean of one number per participant: a pooled CCC, a calibration slope, a macro-F1."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from mien.evaluation.intervals import EQUAL_WITHIN, Interval, variance_inflation

MIN_PARTICIPANTS = 3  # the spread of leave-one-out values of 2 people is the spread of two scores of one person each


def jackknife_interval(
    left_out: NDArray[np.floating],
    *,
    score: float,
    folds: int | None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Return a score of several participants together, with an interval over participants.

    The delete-one jackknife (Tukey 1958; Efron and Stein 1981, Annals of Statistics 9:586-596): each participant's
    pseudo-value is P * score - (P - 1) * score_without_them, and their spread is that of a mean over participants, with
    Student's t around it. For a score that is such a mean the pseudo-values are the participants' own scores. They are
    moved so that their mean is the score itself: what is shown is what was computed, without the jackknife's correction
    of bias.

    It holds for smooth scores (ratios of means, correlations, regressions), not for medians.

    Args:
        left_out: (P,) the score without each participant in turn; NaN where it isn't defined.
        score: The score of all.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).
        bounds: Smallest and largest possible score; an end outside is moved to the bound.

    Returns:
        The interval, n the participants that it is of. `low` and `high` are NaN for fewer than `MIN_PARTICIPANTS`, or
        where the score isn't defined without one of them (it rests on that one person).
    """
    values = np.asarray(left_out, dtype=np.float64)
    nan = float("nan")
    if not np.isfinite(score) or values.size < MIN_PARTICIPANTS or not np.isfinite(values).all():
        return Interval(float(score), nan, nan, int(values.size) if np.isfinite(score) else 0)
    pseudo = score + (values.size - 1) * (values.mean() - values)
    found = student_interval(pseudo, folds=folds)
    low, high = np.clip([found.low, found.high], *bounds)
    return replace(found, mean=float(score), low=float(low), high=float(high))


def student_interval(values: NDArray[np.floating], *, folds: int | None, confidence: float = 0.95) -> Interval:
    """Return the mean of one value per participant that has no bounds, with a Student-t interval (df = P - 1).

    `participant_interval` is for scores between two bounds, and looks at how near to one the mean is.

    Args:
        values: (P,) NaN where undefined for that participant, dropped here.
        folds: K of the retrained cross-validation, None for one fixed model (see `variance_inflation`).
        confidence: Nominal coverage.

    Returns:
        The interval; `low` and `high` are NaN for fewer than 2 values or where all are equal.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    nan = float("nan")
    mean = float(kept.mean()) if kept.size else nan
    if kept.size < 2 or np.ptp(kept) < EQUAL_WITHIN:
        return Interval(mean, nan, nan, int(kept.size))
    error = float(kept.std(ddof=1)) * math.sqrt(variance_inflation(folds) / kept.size)
    half_width = float(student_t.ppf((1.0 + confidence) / 2.0, kept.size - 1)) * error
    return Interval(mean, mean - half_width, mean + half_width, int(kept.size))
