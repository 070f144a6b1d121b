"""T4: how often a 95 % interval over participants holds the true mean score."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student_t

from mien.evaluation.intervals import participant_interval

from .estimators import wilson_interval
from .rows import Row

SEED = 404
FRAMES = 200
PARTICIPANTS = (5, 10, 20, 40)
NORMAL_MEAN, NORMAL_SD = 0.70, 0.12
HIGH_MEAN, HIGH_SD = 0.94, 0.08
FAILING = 0.15  # share of people with whom a model that is otherwise near .985 fails


def coverage(rounds: int) -> list[Row]:
    """T4: the chosen interval, Student's t, and Wilson's over frames, for middling scores and for high ones."""
    rows = []
    for name, draw in SCORES.items():
        for participants in PARTICIPANTS:
            generator = np.random.default_rng([SEED, *name.encode(), participants])
            skill, truth = draw(generator, (rounds, participants))
            scores = generator.binomial(FRAMES, skill) / FRAMES
            rows += _methods(scores, truth=truth, name=name, setting=f"{name}, P = {participants}")
    return rows


def middling(generator, shape):
    """Skill of participants around .70, and its expectation."""
    return np.clip(generator.normal(NORMAL_MEAN, NORMAL_SD, shape), 0, 1), NORMAL_MEAN


def high(generator, shape):
    """Skill with the mean .94: a beta distribution, skewed as scores near 1 are."""
    strength = HIGH_MEAN * (1 - HIGH_MEAN) / HIGH_SD**2 - 1
    return generator.beta(HIGH_MEAN * strength, (1 - HIGH_MEAN) * strength, shape), HIGH_MEAN


def mostly_perfect(generator, shape):
    """Skill of .97 to 1 with most people, .5 to .9 with a few; and its expectation, .942."""
    fails = generator.random(shape) < FAILING
    skill = np.where(fails, generator.uniform(0.5, 0.9, shape), generator.uniform(0.97, 1, shape))
    return skill, FAILING * 0.7 + (1 - FAILING) * 0.985


SCORES = {"near .70": middling, "near .94": high, "most near 1, few fail": mostly_perfect}


def _methods(scores, *, truth, name, setting):
    rounds, participants = scores.shape
    intervals = [participant_interval(row, folds=None) for row in scores]
    chosen = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    half = student_t.ppf(0.975, participants - 1) * scores.std(axis=1, ddof=1) / np.sqrt(participants)
    plain = np.mean(np.abs(scores.mean(axis=1) - truth) <= half)
    low, up = wilson_interval(np.rint(scores.sum(axis=1) * FRAMES), participants * FRAMES)
    wilson = np.mean((low <= truth) & (truth <= up))
    middle = name == "near .70"
    expected = (".94–.95", 0.94, 0.95) if middle else ("≥ .90", 0.90, 1) if participants >= 20 else ("", 0, 1)
    of_t = (".94–.95", 0.94, 0.95) if middle else (".84–.92", 0.84, 0.92) if name == "near .94" else ("", 0, 1)
    of_wilson = ("about .38", 0.35, 0.41) if middle else ("", 0, 1)
    return [
        Row(setting, "participant_interval", float(chosen), rounds, *expected),
        Row(setting, "Student's t", float(plain), rounds, *of_t),
        Row(setting, "naive: Wilson over frames", float(wilson), rounds, *of_wilson),
    ]
