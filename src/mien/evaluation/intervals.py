"""Intervals over participants: the participant is the unit, whatever the number of clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta
from scipy.stats import t as student_t

from mien.core.errors import UserError

EQUAL_WITHIN = 1e-12  # scores that differ by rounding alone count as equal
# Where the mean lies in this part of the range, scores are symmetric enough for Student's t; elsewhere bootstrap-t. In
# simulation T4 the choice covers .94-.98 at 20 participants or more (docs/evaluation.md).
STUDENT_T_RANGE = (0.1, 0.9)
BOOTSTRAP_RESAMPLES = 1999  # (1 + resamples) * .025 is whole; the ends' Monte Carlo error is far below their width
BOOTSTRAP_SEED = 1988  # one seed for every interval: the same scores always have the same one
# A resample in which nearly all scores are equal has no spread, and its t has no end. Below this share of the sample's
# variance it is held there: at 5 participants near a bound coverage rises from .90 to .92 and widths stay finite.
MIN_RESAMPLE_VARIANCE = 0.01


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
    """Return the mean of one score per participant and an interval over participants.

    Where the mean lies within `STUDENT_T_RANGE` of the way between the bounds, it is Student's t (df = P - 1):
    mean -+ t * sd * sqrt(c / P). Nearer to a bound the scores are skewed and that interval is too short on the side
    of the few bad scores; there it is bootstrap-t (Efron and Tibshirani 1993, chapter 12; Hall 1988, Annals of
    Statistics 16:927-953): participants are drawn again with replacement, each draw's t = (its mean - mean) / (its
    standard error) is taken, and the quantiles of those replace the tabled ones. The draws are fixed by a seed and
    don't depend on the order of the participants. Simulated at a mean of .94 (T4 in docs/evaluation.md) the choice
    covers .96 from 10 participants on, Student's t .87-.93; at 5 participants, or where few people fail badly and by
    chance none of them took part, no interval can know.

    For predictions of a fixed model c = 1. Under cross-validation that retrains a model per fold see
    `variance_inflation`: both intervals are stretched around the mean by sqrt(c).

    Scores live within `bounds`, and so does their true mean: an end that falls outside is moved to the bound, which
    can't cost coverage.

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
    inflation = variance_inflation(folds)
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
    if np.ptp(scores) < EQUAL_WITHIN:
        share = ((1.0 - confidence) / 2.0) ** (inflation / count)
        return Interval(mean, *_equal_scores(mean, share=share, bounds=bounds), count)
    position = (mean - lower_bound) / (upper_bound - lower_bound)
    symmetric = STUDENT_T_RANGE[0] <= position <= STUDENT_T_RANGE[1]
    tail = (1.0 - confidence) / 2.0
    low_t, high_t = _student_quantiles(count, tail) if symmetric else _bootstrap_quantiles(scores, tail)
    error = float(scores.std(ddof=1)) * math.sqrt(inflation / count)
    return Interval(mean, max(mean - high_t * error, lower_bound), min(mean - low_t * error, upper_bound), count)


def variance_inflation(folds: int | None) -> float:
    """Return c, by which the variance of a mean over participants is multiplied where models were retrained per fold.

    c = 1 + K / (K - 1). Nadeau and Bengio (2003, Machine Learning 52:239-281) correct the variance of a mean over J
    train-test splits to (1/J + n_test/n_train) s^2; with J = K folds, n_test/n_train = 1 / (K - 1), this is c s^2 / K.
    Here it is carried from folds to participants. That is a heuristic, not a theorem, and it errs on the wide side:
    simulated, the plain standard error is 1.2-1.3 times too small, and this one is 1.5 times the plain one at K = 5.

    Args:
        folds: K (leave-one-out: the number of participants); None where one fixed model made all predictions: c = 1.

    Raises:
        UserError: Fewer than 2 folds.

    >>> variance_inflation(5), variance_inflation(None)
    (2.25, 1.0)
    """
    if folds is not None and folds < 2:
        raise UserError(f"Got {folds} folds; retrained cross-validation has at least 2 (None: one fixed model).")
    return 1.0 if folds is None else 1.0 + folds / (folds - 1)


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


def _student_quantiles(count: int, tail: float) -> tuple[float, float]:
    high = float(student_t.ppf(1.0 - tail, count - 1))
    return -high, high


def _bootstrap_quantiles(scores: NDArray[np.float64], tail: float) -> tuple[float, float]:
    """Quantiles of the t of the resamples of scores (P,) that aren't all equal."""
    count = scores.size
    centred = np.sort(scores) - scores.mean()  # sorted: the order of the participants must not matter
    shares = _resample_shares(count)
    means = shares @ centred
    variances = (shares @ centred**2 - means**2) * count / (count - 1)
    variances = np.maximum(variances, MIN_RESAMPLE_VARIANCE * scores.var(ddof=1))
    low, high = np.quantile(means / np.sqrt(variances / count), [tail, 1.0 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resample_shares(count: int) -> NDArray[np.float64]:
    """Share that each of `count` participants has in each resample, (BOOTSTRAP_RESAMPLES, count)."""
    drawn = np.random.default_rng([BOOTSTRAP_SEED, count]).integers(count, size=(BOOTSTRAP_RESAMPLES, count))
    rows = np.repeat(np.arange(BOOTSTRAP_RESAMPLES), count)
    counts = np.zeros((BOOTSTRAP_RESAMPLES, count), dtype=np.float64)
    np.add.at(counts, (rows, drawn.ravel()), 1.0)
    counts /= count
    counts.setflags(write=False)  # it is shared by every call
    return counts
