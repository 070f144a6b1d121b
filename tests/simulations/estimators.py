"""Tests over many studies at once, and the naive ones that mien never uses. Each is checked against mien's own."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.stats import chi2, norm
from scipy.stats import t as student_t

ALPHA = 0.05
EXACT_FLIPS_MAX = 12
RANDOM_FLIPS = 1999


def sign_flip_p(differences, *, seed=0):
    """Two-sided p (R,) of the sign-flip test of R studies (R, P); NaN differences don't count.

    Up to `EXACT_FLIPS_MAX` participants all flips, as `comparisons.sign_flip`; above, the same random ones for all
    studies. A difference of 0 stands for a missing one: its sign changes no sum.
    """
    values = np.nan_to_num(differences)
    count = values.shape[1]
    if count <= EXACT_FLIPS_MAX:
        flips = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
    else:
        drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RANDOM_FLIPS, count))
        flips = np.concatenate([np.ones((1, count)), drawn])  # the observed signs count in
    sums = np.abs(flips @ values.T)
    return (sums >= np.abs(values.sum(axis=1)) - 1e-12).mean(axis=0)


def corrected_t_p(differences, *, folds):
    """Two-sided p (R,) of the t-test over participants with Nadeau and Bengio's factor (`folds` None: without it)."""
    count = np.sum(~np.isnan(differences), axis=1)
    factor = 1.0 if folds is None else 1.0 + folds / (folds - 1)
    error = np.nanstd(differences, axis=1, ddof=1) * np.sqrt(factor / count)
    return 2 * student_t.sf(np.abs(np.nanmean(differences, axis=1) / error), count - 1)


def paired_t_over_frame_folds_p(correct_a, correct_b, *, folds, generator):
    """Naive: paired t-test over K folds of frames that ignore participants. `correct` are (R, P, m)."""
    rounds = len(correct_a)
    per_frame = (correct_a.astype(float) - correct_b).reshape(rounds, -1)
    order = generator.permutation(per_frame.shape[1])  # P(correct) is drawn anew per study, so one order serves all
    means = np.stack([per_frame[:, part].mean(axis=1) for part in np.array_split(order, folds)], axis=1)
    return corrected_t_p(means, folds=None)


def mcnemar_p(correct_a, correct_b):
    """Naive: McNemar's chi-squared test (without continuity correction) over all frames as if independent."""
    only_a = (correct_a & ~correct_b).sum(axis=(1, 2))
    only_b = (~correct_a & correct_b).sum(axis=(1, 2))
    return chi2.sf((only_a - only_b) ** 2 / np.maximum(only_a + only_b, 1), 1)


def wilson_interval(hits, total, *, confidence=0.95):
    """Naive: Wilson's interval of a share of frames as if independent; ends of `hits` (R,)."""
    z = norm.ppf((1 + confidence) / 2)
    share = hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return centre - half, centre + half


def rejected(p_values):
    """Share of studies with p at most .05; an undefined p rejects nothing."""
    return float(np.mean(np.asarray(p_values, dtype=float) <= ALPHA))
