"""Intervals over participants: the participant is the unit, whatever the number of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from scipy.stats import t as student_t

from mien.core.errors import UserError

EQUAL_WITHIN = 1e-12  # scores that differ by rounding alone count as equal


@dataclass(frozen=True)
class Interval:
    """A mean over participants with its interval.

    Attributes:
        mean: Mean over the participants for whom the score is defined; NaN where there are none.
        low: Lower end; NaN where no interval can be given.
        high: Upper end; NaN where no interval can be given.
        n: Number of participants for whom the score is defined; of a share, the participants that it is of.
    """

    mean: float
    low: float
    high: float
    n: int


def participant_interval(
    values: NDArray[np.floating],
    *,
    folds: int | None,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Return the mean of one score per participant and a Student-t interval over participants (df = P - 1).

    The standard error is sd * sqrt(c / P). For predictions of a fixed model c = 1. Under cross-validation that
    retrains a model per fold the folds share training participants, and c = 1 + K / (K - 1): the correction of Nadeau
    and Bengio (2003, Machine Learning 52:239-281), carried from folds to participants. That is a heuristic, not a
    theorem; it errs on the wide side (simulated, the plain standard error is 1.2-1.3 times too small, and this one is
    1.5 times the plain one at K = 5).

    Scores live within `bounds`, and so does their true mean: an end that falls outside is moved to the bound, which
    can't cost coverage. Near a bound the t-interval of a fixed model is too optimistic (at a mean of .94 it covers
    .84-.92 instead of .95 in simulation).

    Equal scores have no spread to estimate an interval from. Where all P are at a bound, the exact binomial one is
    used: the mean is at least the share of people at the upper bound, and P of P such people say that this share is
    above (alpha / 2) ** (c / P), alpha = 1 - confidence. Where they are equal elsewhere (a constant predictor has a
    balanced accuracy of .5 for everybody), `low` and `high` are NaN.

    Args:
        values: (P,) one score per participant; NaN where undefined for that participant, dropped here.
        folds: K of the retrained cross-validation (leave-one-out: the number of participants); None where one fixed
            model made all predictions.
        confidence: Nominal coverage.
        bounds: Smallest and largest possible score.

    Returns:
        The interval; `low` and `high` are NaN for fewer than 2 defined scores.

    Raises:
        UserError: Fewer than 2 folds, or a score outside the bounds.

    >>> participant_interval(np.array([0.6, 0.8]), folds=None).n
    2
    """
    if folds is not None and folds < 2:
        raise UserError(f"Got {folds} folds; retrained cross-validation has at least 2 (None: one fixed model).")
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    count = int(scores.size)
    nan = float("nan")
    if count == 0:
        return Interval(nan, nan, nan, 0)
    lower_bound, upper_bound = bounds
    if scores.min() < lower_bound - EQUAL_WITHIN or scores.max() > upper_bound + EQUAL_WITHIN:
        raise UserError(f"Scores lie in {scores.min():g}..{scores.max():g}; allowed: {lower_bound:g}..{upper_bound:g}.")
    mean = float(np.clip(scores.mean(), lower_bound, upper_bound))
    if count < 2:
        return Interval(mean, nan, nan, count)
    inflation = 1.0 if folds is None else 1.0 + folds / (folds - 1)
    if np.ptp(scores) < EQUAL_WITHIN:
        share = ((1.0 - confidence) / 2.0) ** (inflation / count)
        return Interval(mean, *_equal_scores(mean, share=share, bounds=bounds), count)
    half_width = float(
        student_t.ppf((1.0 + confidence) / 2.0, count - 1) * scores.std(ddof=1) * math.sqrt(inflation / count)
    )
    return Interval(mean, max(mean - half_width, lower_bound), min(mean + half_width, upper_bound), count)


def binomial_interval(
    hits: NDArray[np.integer] | NDArray[np.floating],
    totals: NDArray[np.integer] | NDArray[np.floating],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of K shares of participants, each participant counted once, with an exact interval.

    For one share it is Clopper and Pearson's (1934, Biometrika 26:404-413). For the mean of several (balanced accuracy
    is the mean of the hit rates of the classes) the ends are the means of the shares' ends at the confidence
    1 - (1 - confidence) / K each: by Bonferroni all K hold at once with at least `confidence`, so the mean does too.
    That is conservative. Neither knows that models of several folds share training participants.

    Args:
        hits: (K,) participants who are right, per share; a fraction where they are a mean over draws.
        totals: (K,) participants that the share is of, each above 0.
        confidence: Least coverage.

    Returns:
        The interval, its n the sum of `totals`; NaN and 0 for K = 0.

    Raises:
        UserError: A share of nobody, or with more hits than participants.

    >>> binomial_interval(np.array([10]), np.array([10])).low.__round__(3)
    0.692
    """
    found, people = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    nan = float("nan")
    if not people.size:
        return Interval(nan, nan, nan, 0)
    if found.shape != people.shape or (people < 1).any() or (found < 0).any() or (found > people + 1e-9).any():
        raise UserError(f"Got {found.tolist()} hits of {people.tolist()}; allowed: 0 up to as many as there are.")
    found = np.minimum(found, people)  # sums of fractions differ by rounding
    tail = (1.0 - confidence) / people.size / 2.0
    # At 0 hits the lower end is 0 and at all hits the upper one 1; the beta distribution isn't defined there.
    low = np.where(found > 0, beta.ppf(tail, np.maximum(found, 1), people - found + 1), 0.0)
    high = np.where(found < people, beta.ppf(1.0 - tail, found + 1, np.maximum(people - found, 1)), 1.0)
    return Interval(float((found / people).mean()), float(low.mean()), float(high.mean()), round(float(people.sum())))


def _equal_scores(mean: float, *, share: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Ends of the interval where every participant has the same score and `share` is the least share that has it."""
    lower_bound, upper_bound = bounds
    reach = (1.0 - share) * (upper_bound - lower_bound)
    if mean >= upper_bound - EQUAL_WITHIN:
        return upper_bound - reach, upper_bound
    if mean <= lower_bound + EQUAL_WITHIN:
        return lower_bound, lower_bound + reach
    return float("nan"), float("nan")
