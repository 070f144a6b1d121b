"""A ridge classifier under grouped folds: fast enough for thousands of studies."""

from __future__ import annotations

import numpy as np


def ridge_predictions(features, labels, fold_of, *, penalty=1.0):
    """Predict (N,) 0/1 of the rows of each fold by a ridge regression on the rows of the others.

    Args:
        features: (N, D).
        labels: (N,) 0 or 1.
        fold_of: (N,) fold in which each row is tested.
        penalty: Added to the diagonal of the centred scatter matrix.
    """
    predicted = np.zeros(len(labels), dtype=np.int64)
    signed = 2.0 * labels - 1.0
    for fold in np.unique(fold_of):
        test = fold_of == fold
        train, given = features[~test], signed[~test]
        centre, middle = train.mean(axis=0), given.mean()
        scatter = (train - centre).T @ (train - centre) + penalty * np.eye(features.shape[1])
        weights = np.linalg.solve(scatter, (train - centre).T @ (given - middle))
        predicted[test] = (features[test] - centre) @ weights + middle > 0
    return predicted


def balanced_accuracies(labels, predicted):
    """Balanced accuracy (P,) of participants, one row each of labels and predictions (P, m); NaN where undefined."""
    positive, said = labels == 1, predicted == 1
    with np.errstate(invalid="ignore"):
        sensitivity = (said & positive).sum(axis=1) / positive.sum(axis=1)
        specificity = (~said & ~positive).sum(axis=1) / (~positive).sum(axis=1)
    return (sensitivity + specificity) / 2


def markov_labels(generator, *, participants, frames, autocorrelation):
    """Labels (P, m): a two-state chain, both states equally frequent, with the lag-1 autocorrelation given."""
    changes = generator.random((participants, frames - 1)) > (1 + autocorrelation) / 2
    first = generator.integers(2, size=(participants, 1))
    return np.concatenate([first, (first + np.cumsum(changes, axis=1)) % 2], axis=1)


def drifting_noise(generator, *, shape, autocorrelation):
    """Noise (P, m, ...) of variance 1, autoregressive of order 1 along the second axis."""
    noise = generator.normal(size=shape)
    for time in range(1, shape[1]):
        fresh = np.sqrt(1 - autocorrelation**2) * noise[:, time]
        noise[:, time] = autocorrelation * noise[:, time - 1] + fresh
    return noise
