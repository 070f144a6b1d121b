"""Against chance: a model that knows nothing, on labels and features that vary slowly in time."""

from __future__ import annotations

import numpy as np

from mien.core.labels import LabelScheme
from mien.evaluation.chance import circular_shift_test

from .classifier import balanced_accuracies, markov_labels, ridge_predictions
from .estimators import rejected
from .identity import predictions_table
from .nulls import AUTOCORRELATION, FOLDS, FRAMES_T2, SIGNAL, block_of_features
from .rows import Row

SEED = 505
DRAWS = 199
SCHEME = LabelScheme("Drawn", "binary", ("not Drawn", "Drawn"), "synthetic")


def against_chance_null(rounds: int) -> list[Row]:
    """Circular shifts, and naively permuted frames, of a model that knows nothing; power at a weak signal."""
    rows = []
    for participants in (10, 20):
        fixed, _ = _p_values(participants, rounds=rounds, kind="fixed")
        retrained, permuted = _p_values(participants, rounds=rounds, kind="retrained")
        power, _ = _p_values(participants, rounds=rounds, kind="signal")
        naive = "naive: frames permuted within recordings"
        rows += [
            Row(f"P = {participants}, fixed model", "circular_shift_test", fixed, rounds, "≤ .06", 0, 0.06),
            Row(
                f"P = {participants}, retrained",
                "circular_shift_test",
                retrained,
                rounds,
                "≤ .08, set after measuring",
                0,
                0.08,
            ),
            Row(f"P = {participants}, retrained", naive, permuted, rounds, "> .1", 0.1, 1),
            Row(f"P = {participants}, retrained, weak signal", "circular_shift_test: power", power, rounds),
        ]
    return rows


def _p_values(participants, *, rounds, kind):
    """Share of studies with p at most .05, by circular shifts and by permuted frames."""
    generator = np.random.default_rng([SEED, participants, *kind.encode()])
    found = np.array([_one_study(generator, participants, kind=kind) for _ in range(rounds)])
    return rejected(found[:, 0]), rejected(found[:, 1])


def _one_study(generator, participants, *, kind):
    labels = markov_labels(generator, participants=participants, frames=FRAMES_T2, autocorrelation=AUTOCORRELATION)
    features = block_of_features(generator, labels, signal=SIGNAL if kind == "signal" else 0.0)
    if kind == "fixed":  # weights from elsewhere: no label of this study went into them
        predicted = (features @ generator.normal(size=features.shape[1]) > 0).astype(np.int64)
    else:
        fold_of = np.repeat(generator.permutation(participants) % FOLDS, FRAMES_T2)
        predicted = ridge_predictions(features, labels.ravel(), fold_of)
    people = np.repeat(np.arange(participants), FRAMES_T2)
    table = predictions_table(people, labels=labels.ravel(), predicted=predicted)
    honest = circular_shift_test(table, SCHEME, draws=DRAWS, seed=0).p
    return honest, permuted_frames_p(labels, predicted.reshape(labels.shape), generator=generator)


def permuted_frames_p(labels, predicted, *, generator):
    """Naive p: the frames of each recording (P, m) permuted freely, so hits are hypergeometric."""
    observed = np.nanmean(balanced_accuracies(labels, predicted))
    positive, said, frames = labels.sum(axis=1), predicted.sum(axis=1), labels.shape[1]
    both = (positive > 0) & (positive < frames)
    positive, said = positive[both], said[both]
    hits = generator.hypergeometric(positive, frames - positive, said, size=(DRAWS, positive.size))
    negative = frames - positive
    null = ((hits / positive + (negative - (said - hits)) / negative) / 2).mean(axis=1)
    return (1 + np.sum(null >= observed - 1e-9)) / (1 + DRAWS)
