"""T1 and T2: two equal models. How often does each test call them different?"""

from __future__ import annotations

import numpy as np

from .classifier import balanced_accuracies, drifting_noise, markov_labels, ridge_predictions
from .estimators import (
    corrected_t_p,
    mcnemar_p,
    paired_t_over_frame_folds_p,
    rejected,
    sign_flip_p,
)
from .rows import Row

T1_SEED, T2_SEED = 101, 202
FRAMES_T1 = 100
FRAME_FOLDS = 10
FOLDS = 5
FRAMES_T2 = 40
AUTOCORRELATION = 0.8
FEATURES = 10  # of each block
SIGNAL = 0.1  # shift of each feature by the label: balanced accuracy about .55
OFFSET_SD = 1.0  # between participants, in each feature


def fixed_prediction_null(rounds: int) -> list[Row]:
    """T1: fixed models with equal skill on average; participants differ in which one suits them."""
    rows = []
    for participants in (10, 20, 40):
        generator = np.random.default_rng([T1_SEED, participants])
        a, b = fixed_predictions(generator, rounds=rounds, participants=participants)
        differences = a.mean(axis=2) - b.mean(axis=2)
        naive = paired_t_over_frame_folds_p(a, b, folds=FRAME_FOLDS, generator=generator)
        setting = f"P = {participants}"
        expected = "> .2 (P=10: .26)"
        rows += [
            Row(setting, "sign-flip", rejected(sign_flip_p(differences)), rounds, "≤ .06", 0, 0.06),
            Row(setting, "naive: paired t over 10 frame folds", rejected(naive), rounds, expected, 0.2, 1),
            Row(setting, "naive: McNemar over frames", rejected(mcnemar_p(a, b)), rounds, "about .29", 0.26, 0.32),
        ]
    return rows


def fixed_predictions(generator, *, rounds, participants):
    """Which frames each of two models gets right: two (R, P, m) arrays of bool."""
    shared, difference = generator.normal(0, 0.10, (2, rounds, participants))
    chances = [np.clip(0.7 + shared + sign * difference / 2, 0.02, 0.98) for sign in (1, -1)]
    frames = [generator.random((rounds, participants, FRAMES_T1), dtype=np.float32) < c[..., None] for c in chances]
    return frames[0], frames[1]


def retrained_null(rounds: int) -> list[Row]:
    """T2: the same classifier on two exchangeable blocks of features, retrained per fold."""
    rows = []
    for participants in (8, 20, 40):
        scores = retrained_scores(participants, rounds=rounds)
        differences = scores[0] - scores[1]
        corrected, plain = (corrected_t_p(differences, folds=folds) for folds in (FOLDS, None))
        setting = f"P = {participants}"
        rows += [
            Row(setting, "Nadeau-Bengio over participants", rejected(corrected), rounds, "≤ .06", 0, 0.06),
            Row(setting, "naive: sign-flip", rejected(sign_flip_p(differences)), rounds, ".08–.15", 0.08, 0.15),
            Row(setting, "naive: plain t over participants", rejected(plain), rounds),
        ]
        rows += _coverage(scores[0], setting=setting)
    return rows


def retrained_scores(participants, *, rounds):
    """Balanced accuracy of each participant under each of two feature blocks, (2, R, P); NaN without both classes."""
    generator = np.random.default_rng([T2_SEED, participants])
    found = np.empty((2, rounds, participants))
    for number in range(rounds):
        labels = markov_labels(generator, participants=participants, frames=FRAMES_T2, autocorrelation=AUTOCORRELATION)
        fold_of = np.repeat(generator.permutation(participants) % FOLDS, FRAMES_T2)
        for block in range(2):
            features = block_of_features(generator, labels)
            predicted = ridge_predictions(features, labels.ravel(), fold_of).reshape(labels.shape)
            found[block, number] = balanced_accuracies(labels, predicted)
    return found


def block_of_features(generator, labels, *, signal=SIGNAL):
    """Features (P * m, D) with a participant offset, drifting noise and a weak trace of the label."""
    shape = (*labels.shape, FEATURES)
    offsets = OFFSET_SD * generator.normal(size=(labels.shape[0], 1, FEATURES))
    noise = drifting_noise(generator, shape=shape, autocorrelation=AUTOCORRELATION)
    return (noise + offsets + signal * (2 * labels - 1)[..., None]).reshape(-1, FEATURES)


def _coverage(scores, *, setting):
    """How often the interval of one retrained model's mean score holds its expectation (the mean over all studies)."""
    count = np.sum(~np.isnan(scores), axis=1)
    means, errors = np.nanmean(scores, axis=1), np.nanstd(scores, axis=1, ddof=1) / np.sqrt(count)
    rounds = len(scores)
    centred = scores - means.mean()
    plain, corrected = (1 - rejected(corrected_t_p(centred, folds=folds)) for folds in (None, FOLDS))
    ratio = float(means.std(ddof=1) / np.sqrt(np.mean(errors**2)))
    return [
        Row(setting, "t-interval of one model, corrected: coverage", corrected, rounds, "≥ .95", 0.95, 1),
        Row(setting, "naive: t-interval of one model, plain: coverage", plain, rounds),
        Row(
            setting,
            "true standard error / plain one (a ratio)",
            ratio,
            rounds,
            "1.2–1.3",
            1.2,
            1.3,
            spread=ratio / np.sqrt(2 * rounds),
        ),
    ]
