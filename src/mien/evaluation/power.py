"""What a number of participants can show at all: the smallest p, and the smallest difference that is likely found."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student_t

from mien.core.errors import UserError
from mien.evaluation.intervals import variance_inflation

ALPHA = 0.05  # the usual level, two-sided


def sign_flip_floor(num_participants: int) -> float:
    """Return the smallest two-sided p of the exact sign-flip test: 2 ** -(n - 1), at most 1.

    All n differences have the same sign in 2 of 2 ** n flips. A p below it can't come from n participants without
    assumptions about their distribution.

    >>> sign_flip_floor(5), sign_flip_floor(6)
    (0.0625, 0.03125)
    """
    return min(1.0, 2.0 ** -(num_participants - 1))


def permutation_floor(num_units: int, num_positive: int) -> float:
    """Return the smallest p of a permutation of two classes over units: 1 / C(n, n1).

    Args:
        num_units: n, units with one label each (participants where the label is constant per participant).
        num_positive: n1, how many of them are positive.

    Raises:
        UserError: More positives than units, or fewer than 0.

    >>> permutation_floor(10, 5) == 1 / 252
    True
    """
    if not 0 <= num_positive <= num_units:
        raise UserError(f"Got {num_positive} positive of {num_units} units; allowed: 0..{num_units}.")
    return 1 / math.comb(num_units, num_positive)  # of whole numbers: a huge count gives 0, no overflow


def participants_needed(alpha: float = ALPHA) -> int:
    """Return the fewest participants whose sign-flip floor is at most `alpha`.

    Raises:
        UserError: An `alpha` outside 0..1.

    >>> participants_needed(0.05), participants_needed(0.01)
    (6, 8)
    """
    if not 0.0 < alpha <= 1.0:
        raise UserError(f"alpha is {alpha:g}; allowed: above 0 and at most 1.")
    return max(1, math.ceil(1.0 - math.log2(alpha) - 1e-9))  # 2 ** -5 is .03125 exactly, its logarithm nearly


def detectable_difference(
    num_participants: int, *, sd: float, folds: int | None, power: float = 0.8, alpha: float = ALPHA
) -> float:
    """Return the true mean difference that the corrected t-test finds with the given power.

    The noncentrality delta solves P(|T(P - 1, delta)| > t(1 - alpha/2, P - 1)) = power for a noncentral t, and the
    difference is delta * sd * sqrt(c / P), c of `variance_inflation`: the corrected standard error is taken at its
    word. At sd .10 and K = 5 it is .215 for 6 participants, .099 for 20, .068 for 40; for a fixed model (c = 1) two
    thirds of that. The correction errs on the wide side, so the true power is somewhat above what was asked for.

    Args:
        num_participants: P with a defined difference.
        sd: Standard deviation of the differences between participants; an observed one is itself uncertain.
        folds: K of the retrained cross-validation; None for fixed models.
        power: Chance of finding it.
        alpha: Two-sided level.

    Returns:
        The difference; NaN for fewer than 2 participants or an undefined sd, 0 where sd is 0.

    Raises:
        UserError: A power that isn't between alpha and 1, or a negative sd.

    >>> round(detectable_difference(20, sd=0.10, folds=5), 3)
    0.099
    """
    inflation = variance_inflation(folds)
    if not 0.0 < alpha < power < 1.0:
        raise UserError(f"power is {power:g} and alpha {alpha:g}; allowed: 0 < alpha < power < 1.")
    if sd < 0.0:
        raise UserError(f"sd is {sd:g}; a standard deviation is at least 0.")
    if num_participants < 2 or math.isnan(sd):
        return float("nan")
    df = num_participants - 1
    critical = float(student_t.ppf(1.0 - alpha / 2.0, df))

    def shortfall(noncentrality: float) -> float:
        # Far from 0 scipy's lower tail is NaN where it is 0 to every digit.
        lower = float(np.nan_to_num(nct.cdf(-critical, df, noncentrality)))
        return float(nct.sf(critical, df, noncentrality)) + lower - power

    upper = critical
    while shortfall(upper) < 0.0:
        upper *= 2.0
    return float(brentq(shortfall, 0.0, upper)) * sd * math.sqrt(inflation / num_participants)
