"""Two models on the same participants: is one better, by how much, and how sure can one be?

Every test here takes one difference per participant. Never McNemar over frames, never a paired t-test over folds of
frames: a person's frames repeat each other, and both call two equal models different in a quarter of all studies
(simulation T1 in docs/evaluation.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test
from scipy.stats import t as student_t

from mien.core.errors import UserError
from mien.evaluation.intervals import EQUAL_WITHIN, variance_inflation
from mien.evaluation.power import ALPHA, detectable_difference, participants_needed, sign_flip_floor

TestName = Literal["Nadeau-Bengio over participants", "sign-flip over participants"]
RopeVerdict = Literal["worse", "same", "better", "inconclusive"]

CONFIDENCE = 0.95
ROPE_HALF_WIDTH = 0.02  # less than two hundredths of balanced accuracy changes no study's conclusion
ROPE_CERTAINTY = 0.95  # the posterior probability from which a verdict is given
SIGN_FLIP_EXACT_MAX = 14  # 2 ** 14 flips take 50 ms; beyond, as many random ones give p to about .002 at .05
SIGN_FLIP_DRAWS = 2**14 - 1
SIGN_FLIP_SEED = 0


@dataclass(frozen=True)
class MeanTest:
    """A test of the mean difference against 0.

    Attributes:
        mean: Mean difference over participants; NaN without any.
        low: Lower end of the 95 % interval; NaN where no spread can be estimated.
        high: Upper end.
        t: The statistic; NaN where no spread can be estimated.
        p: Two-sided p; NaN likewise.
        n: Participants with a defined difference.
    """

    mean: float
    low: float
    high: float
    t: float
    p: float
    n: int


@dataclass(frozen=True)
class Rope:
    """Posterior probability that the true mean difference is below, within and above a region of practical equivalence.

    Attributes:
        worse: P(difference < -half_width); NaN where no spread can be estimated, as are the others then.
        same: P(-half_width <= difference <= half_width).
        better: P(difference > half_width).
        half_width: Half the region, in units of the score.
    """

    worse: float
    same: float
    better: float
    half_width: float

    @property
    def verdict(self) -> RopeVerdict:
        """The one of the three that has a probability of at least `ROPE_CERTAINTY`, else `inconclusive`."""
        shares: tuple[tuple[RopeVerdict, float], ...] = (
            ("worse", self.worse),
            ("same", self.same),
            ("better", self.better),
        )
        return next((name for name, share in shares if share >= ROPE_CERTAINTY), "inconclusive")


@dataclass(frozen=True)
class PairedComparison:
    """Two models compared over participants.

    Attributes:
        mean: Mean difference; NaN without participants.
        low: Lower end of the 95 % interval of the mean difference (Student's t, corrected where models were retrained);
            NaN where no spread can be estimated.
        high: Upper end.
        n: Participants with a defined difference.
        p: Two-sided p of `test`; None where it can't be shown.
        p_note: Why not, and what would be needed; or that p is held at the smallest one that so many participants can
            honestly give. Empty where p is what the test says.
        effect_size: Cohen's d_z, mean / sd of the differences; NaN where no spread can be estimated.
        rope: The Bayesian view.
        detectable: True difference that would be found with 80 % power at the observed sd and n; NaN likewise.
        test: Name of the test.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float | None
    p_note: str
    effect_size: float
    rope: Rope
    detectable: float
    test: TestName


def nadeau_bengio(differences: NDArray[np.floating], *, folds: int | None) -> MeanTest:
    """Test whether two models that were retrained per fold differ, over participants.

    t = mean(d) / (sd(d) * sqrt((1 + K / (K - 1)) / P)), df = P - 1, for the differences d of P participants and K
    folds. The factor is that of Nadeau and Bengio (2003, Machine Learning 52:239-281), made for a mean over folds
    whose training sets overlap. Carrying it to participants is a heuristic, not a theorem: participants of one fold
    share one pair of models, those of different folds share most training data, so their differences aren't
    independent, and the plain t-test finds too much. In simulation T2 (docs/evaluation.md) two equal models are called
    different in 2-3 % of studies instead of 5: it is conservative, and costs power.

    Limits: it assumes that each participant is tested once; that the differences are near enough to normal (with few
    participants and rare large differences they aren't); that another seed gives similar models. It tests the
    procedure of training at this size of study, not the one model that is shipped.

    Args:
        differences: (P,) score of one model minus that of the other, per participant; NaN is dropped.
        folds: K; leave-one-out: the number of participants. None for fixed models: the plain one-sample t-test.

    Returns:
        The test; t, p and the ends are NaN for fewer than 2 participants or equal differences.

    Raises:
        UserError: Fewer than 2 folds.

    >>> round(nadeau_bengio(np.array([0.1, 0.2, 0.3]), folds=5).t, 4)
    2.3094
    """
    inflation = variance_inflation(folds)
    defined = _defined(differences)
    count, nan = int(defined.size), float("nan")
    mean = float(defined.mean()) if count else nan
    if not _has_spread(defined):
        return MeanTest(mean, nan, nan, nan, nan, count)
    error = float(defined.std(ddof=1)) * math.sqrt(inflation / count)
    statistic = mean / error
    half_width = float(student_t.ppf((1.0 + CONFIDENCE) / 2.0, count - 1)) * error
    p = float(2.0 * student_t.sf(abs(statistic), count - 1))
    return MeanTest(mean, mean - half_width, mean + half_width, statistic, p, count)


def sign_flip(differences: NDArray[np.floating]) -> float:
    """Return the two-sided p of the sign-flip test: two fixed models on new participants.

    Were the models equal, each participant's difference could as well have the other sign; p is the share of all
    2 ** P sign patterns with a mean at least as far from 0 (Fisher 1935; `scipy.stats.permutation_test` with
    `permutation_type="samples"`). It is exact up to `SIGN_FLIP_EXACT_MAX` participants; above, it is the share among
    `SIGN_FLIP_DRAWS` random patterns (fixed seed) with the observed one counted in. It needs differences that are
    symmetric around 0 under the null, not normal ones; and independent ones, which models that were retrained per fold
    don't have (simulation T2: it is wrong in 10-11 % of studies there).

    Args:
        differences: (P,) per participant; NaN is dropped.

    Returns:
        p, never below `sign_flip_floor(P)`; 1 where all differences are 0; NaN without participants.

    >>> sign_flip(np.array([0.1, 0.2, 0.3]))
    0.25
    """
    defined = _defined(differences)
    if not defined.size:
        return float("nan")
    if defined.size == 1:
        return 1.0  # either sign is as far from 0; scipy wants two observations
    exact = defined.size <= SIGN_FLIP_EXACT_MAX
    result = permutation_test(
        (defined,),
        _mean_along,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**defined.size if exact else SIGN_FLIP_DRAWS,
        alternative="two-sided",
        rng=np.random.default_rng(SIGN_FLIP_SEED),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p values for being many, by Holm's step-down method (1979, Scandinavian Journal of Statistics 6:65-70).

    The i-th smallest of m (from 1) becomes the largest of (m - j + 1) * p_j over j <= i, at most 1. The chance of any
    false finding stays below the level, however the tests depend on each other.

    Args:
        p_values: One per test; None is a test without a p (it stays None and isn't counted).

    Raises:
        UserError: A p that isn't a number in 0..1.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    given = [(value, index) for index, value in enumerate(p_values) if value is not None]
    wrong = [value for value, _ in given if not 0.0 <= value <= 1.0]
    if wrong:
        raise UserError(f"p values are numbers in 0..1, or None; got {', '.join(map(str, wrong))}.")
    corrected: list[float | None] = [None] * len(p_values)
    reached = 0.0
    for rank, (value, index) in enumerate(sorted(given)):
        reached = max(reached, min(1.0, (len(given) - rank) * value))
        corrected[index] = reached
    return corrected


def rope(differences: NDArray[np.floating], *, folds: int | None, half_width: float = ROPE_HALF_WIDTH) -> Rope:
    """Return how probable it is that one model is worse, practically the same, or better.

    The posterior of the mean difference is Student-t(P - 1) around the observed mean, scaled by the same corrected
    standard error as `nadeau_bengio`: the Bayesian correlated t-test of Corani and Benavoli (2015, Machine Learning
    100:285-304; Benavoli et al. 2017, JMLR 18:77), with a flat prior, carried from folds to participants by the same
    heuristic. Unlike a p, it can say that two models are the same.

    Args:
        differences: (P,) per participant; NaN is dropped.
        folds: K of the retrained cross-validation; None for fixed models.
        half_width: Half the region that counts as the same.

    Raises:
        UserError: A half width that isn't above 0, or fewer than 2 folds.

    >>> rope(np.array([0.1, 0.2, 0.3]), folds=5).verdict
    'inconclusive'
    """
    if not half_width > 0.0:
        raise UserError(f"The region of equivalence has the half width {half_width:g}; it must be above 0.")
    inflation = variance_inflation(folds)
    defined = _defined(differences)
    if not _has_spread(defined):
        return Rope(float("nan"), float("nan"), float("nan"), half_width)
    error = float(defined.std(ddof=1)) * math.sqrt(inflation / defined.size)
    posterior = student_t(defined.size - 1, loc=float(defined.mean()), scale=error)
    worse, better = float(posterior.cdf(-half_width)), float(posterior.sf(half_width))
    return Rope(worse, max(0.0, 1.0 - worse - better), better, half_width)


def compare_paired(differences: NDArray[np.floating], *, folds: int | None) -> PairedComparison:
    """Compare two models over participants: `nadeau_bengio` where they were retrained per fold, else `sign_flip`.

    A p is shown only from `participants_needed()` = 6 participants on: below, even differences that all have the same
    sign don't reach .05 without trusting a distribution that nobody could check. For the same reason a smaller p than
    `sign_flip_floor(n)` is raised to it, and `p_note` says so. Where all differences are equal there is no spread: the
    corrected test, its interval, the effect size and the ROPE are undefined (NaN).
    The interval of two fixed models is Student's t and may disagree with the sign-flip p where p is near .05.

    Args:
        differences: (P,) score of one model minus that of the other, per participant; NaN (undefined for one of them)
            is dropped.
        folds: K of the retrained cross-validation (leave-one-out: the number of participants); None for fixed models.

    Raises:
        UserError: Fewer than 2 folds.

    >>> compare_paired(np.array([0.1, 0.2, 0.3]), folds=5).p is None
    True
    """
    defined = _defined(differences)
    test = nadeau_bengio(defined, folds=folds)
    spread = _has_spread(defined)
    p: float | None = None
    note = _why_no_p(defined, retrained=folds is not None)
    if not note:
        p, floor = test.p if folds is not None else sign_flip(defined), sign_flip_floor(test.n)
        if p < floor:
            p, note = floor, f"Held at {floor:.2g}, the smallest p that {test.n} participants can honestly give."
    sd = float(defined.std(ddof=1)) if spread else float("nan")
    return PairedComparison(
        mean=test.mean,
        low=test.low,
        high=test.high,
        n=test.n,
        p=p,
        p_note=note,
        effect_size=test.mean / sd,
        rope=rope(defined, folds=folds),
        detectable=detectable_difference(test.n, sd=sd, folds=folds),
        test="sign-flip over participants" if folds is None else "Nadeau-Bengio over participants",
    )


def _why_no_p(defined: NDArray[np.float64], *, retrained: bool) -> str:
    count, needed = int(defined.size), participants_needed()
    if count < needed:
        people = f"{count} participant{'' if count == 1 else 's'} with both scores"
        floor = f"; with so few the smallest honest p is {sign_flip_floor(count):.3g}" if count else ""
        return f"{people}{floor}: at least {needed} are needed for p to reach {ALPHA:g}."
    if retrained and not _has_spread(defined):
        return f"All {count} differences are equal ({defined[0]:g}): there is no spread to test against."
    return ""


def _defined(differences: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1:
        raise UserError(f"Differences have the shape {values.shape}; one number per participant is needed.")
    return values[~np.isnan(values)]


def _has_spread(defined: NDArray[np.float64]) -> bool:
    return defined.size > 1 and float(np.ptp(defined)) > EQUAL_WITHIN


def _mean_along(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(np.mean(values, axis=axis))
