"""How often the interval of Krippendorff's alpha holds the alpha of all such people."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from mien.evaluation.agreement import krippendorff_alpha

from .rows import Row

SEED = 909
FRAMES = 100
PARTICIPANTS = (6, 10, 20, 40)
PEOPLE_OF_TRUTH = 4000
CONFIDENCE = 0.95
RESAMPLES = 999
# Prevalence per person, and the hit rate of either class per person and coder, as parameters of beta distributions.
STUDIES = {
    "usual": ((2, 4), (18, 2)),
    "rare class": ((1, 12), (18, 2)),
    "coders who differ by person": ((1, 3), (4, 1)),
}


def alpha_coverage(rounds: int) -> list[Row]:
    """The expanded percentiles, the plain ones, and what frames drawn without regard to people give."""
    rows = []
    for name, study in STUDIES.items():
        true = krippendorff_alpha(_codes(np.random.default_rng([SEED, 0]), PEOPLE_OF_TRUTH, study=study)).alpha.mean
        for participants in PARTICIPANTS:
            generator = np.random.default_rng([SEED, participants, *name.encode()])
            held = np.array([_held(generator, participants, study=study, true=true) for _ in range(rounds)])
            setting = f"{name}, P = {participants}"
            share = held.mean(axis=0)
            rows += [
                Row(setting, "krippendorff_alpha", share[0], rounds, "≥ .90, set after measuring", 0.9, 1),
                Row(setting, "plain percentiles", share[1], rounds),
                Row(setting, "naive: frames drawn", share[2], rounds),
            ]
    return rows


def _held(generator, participants, *, study, true):
    codes = _codes(generator, participants, study=study)
    people = np.repeat(np.arange(participants), FRAMES).astype(str).astype(object)
    # The confidence at which krippendorff_alpha, which widens what it is asked for, takes the plain 2.5 and 97.5 %.
    plain = norm.ppf((1 + CONFIDENCE) / 2) / (participants / (participants - 1)) ** 0.5
    confidences = (CONFIDENCE, 2 * student_t.cdf(plain, participants - 1) - 1)
    intervals = [krippendorff_alpha(codes, participants=people, confidence=level).alpha for level in confidences]
    ends = [(interval.low, interval.high) for interval in intervals]
    return [low <= true <= high for low, high in [*ends, _over_frames(generator, codes)]]


def _over_frames(generator, codes):
    """Percentiles over frames drawn anew, whosever they are: of two coders and two classes there are four kinds."""
    kinds = np.bincount((2 * codes[0] + codes[1]).astype(np.int64), minlength=4)
    drawn = generator.multinomial(kinds.sum(), kinds / kinds.sum(), size=RESAMPLES)
    differing, ones = drawn[:, 1] + drawn[:, 2], drawn[:, 1] + drawn[:, 2] + 2 * drawn[:, 3]
    ratings = 2 * kinds.sum()
    alphas = 1 - 2 * differing * (ratings - 1) / (2 * ones * (ratings - ones))
    return np.quantile(alphas, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])


def _codes(generator, participants, *, study):
    """What two coders say (2, participants * FRAMES) of people who differ in prevalence and in how they are read."""
    (a, b), (c, d) = study
    shows = generator.random((participants, FRAMES)) < generator.beta(a, b, (participants, 1))
    hits = generator.beta(c, d, (2, 2, participants, 1))  # coder, class, person
    draws = generator.random((2, participants, FRAMES))
    codes = np.where(shows, draws < hits[:, 1], draws >= hits[:, 0])
    return codes.reshape(2, -1).astype(np.float64)
