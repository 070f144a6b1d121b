"""The linear probe: logistic regression on frozen features, the baseline that every bigger model has to beat.

Standardised features, classes balanced, participants weighted equally (a long recording is still one person), and a
strong L2 penalty, since there are more features than participants. Of a target of channels each has a regression of its
own, on the clips in which it is known; of numbers it is ridge regression under the same penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of the linear probe.

    Attributes:
        C: Inverse strength of the L2 penalty, of ridge regression too (its alpha is 1 / C). .001 was the best of .0001
            to 1 over three feature kinds on a study of 72 people; it is fixed, not tuned on the data at hand.
        max_iter: Most iterations of the solver (L-BFGS).
    """

    C: float = 0.001
    max_iter: int = 2000

    def __post_init__(self) -> None:
        if not self.C > 0 or self.max_iter < 1:
            raise UserError(
                f"Probe settings: C must be above 0 and max_iter at least 1, got {self.C}, {self.max_iter}."
            )


@dataclass(frozen=True)
class Probe:
    """A fitted probe: logits = ((features - mean) / scale) @ coef.T + intercept.

    Attributes:
        mean: (D,) of the training features.
        scale: (D,) standard deviation of the training features.
        coef: (num_outputs, D).
        intercept: (num_outputs,).
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) for features (N, D)."""
        standardised = (np.asarray(features, np.float64) - self.mean) / self.scale
        return np.asarray(standardised @ self.coef.T + self.intercept)


def balanced_weights(targets: NDArray[np.integer], participants: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return weights (N,) with mean 1 under which each class has equal weight, and each participant within it.

    Args:
        targets: (N,) class codes.
        participants: (N,) participant ids.

    >>> balanced_weights(np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "b"], object))
    array([0.5, 0.5, 1. , 2. ])
    """
    weights = np.zeros(len(targets))
    for code in np.unique(targets):
        rows = targets == code
        people, where, counts = np.unique(participants[rows].astype(str), return_inverse=True, return_counts=True)
        weights[rows] = 1.0 / (counts[where] * len(people))
    return np.asarray(weights / weights.mean())


def fit_probe(
    features: NDArray[np.floating],
    *,
    targets: NDArray[np.integer] | NDArray[np.floating],
    participants: NDArray[np.object_],
    scheme: LabelScheme,
    config: ProbeConfig,
) -> Probe:
    """Fit a probe.

    Args:
        features: (N, D) of the training participants, the personal baseline already subtracted.
        targets: (N,) class codes; of a target of channels (N, C) labels, NaN where missing.
        participants: (N,) participant ids.
        scheme: The target.
        config: Settings.

    Raises:
        UserError: The clips show one class only; of channels, none of them varies.
    """
    from sklearn.linear_model import LogisticRegression

    if scheme.channels:
        return _fit_channels(features, labels=targets, participants=participants, scheme=scheme, config=config)
    if len(np.unique(targets)) < 2:
        raise UserError(
            f"The training participants show one class of {scheme.target!r} only; a model needs two. Use more "
            "participants, another target, or fewer folds."
        )
    values = np.asarray(features, np.float64)
    mean, scale = _standards(values)
    model = LogisticRegression(C=config.C, max_iter=config.max_iter)
    codes = np.asarray(targets, np.int64)
    model.fit((values - mean) / scale, codes, sample_weight=balanced_weights(codes, participants))
    coef, intercept = model.coef_, model.intercept_
    if scheme.kind == "multiclass" and len(model.classes_) < len(scheme.classes):
        # A class that no training participant shows gets a logit that never wins.
        full, bias = np.zeros((len(scheme.classes), values.shape[1])), np.full(len(scheme.classes), -30.0)
        if len(model.classes_) == 2:
            coef, intercept = np.vstack([-coef / 2, coef / 2]), np.concatenate([-intercept / 2, intercept / 2])
        full[model.classes_], bias[model.classes_] = coef, intercept
        coef, intercept = full, bias
    return Probe(mean=mean, scale=scale, coef=np.asarray(coef), intercept=np.asarray(intercept))


def _standards(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and scale (D,) of features (N, D)."""
    mean, scale = values.mean(axis=0), values.std(axis=0)
    # A feature that never varies carries nothing; dividing by 1 leaves it at 0.
    return mean, np.where(scale > 1e-8, scale, 1.0)


def _fit_channels(
    features: NDArray[np.floating],
    *,
    labels: NDArray[np.integer] | NDArray[np.floating],
    participants: NDArray[np.object_],
    scheme: LabelScheme,
    config: ProbeConfig,
) -> Probe:
    """Fit a regression per channel, on the same standardised features."""
    values, given = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    if not any(len(np.unique(column[np.isfinite(column)])) > 1 for column in given.T):
        raise UserError(
            f"No channel of {scheme.target!r} varies in the training participants; a model needs one that does. Use "
            "more participants, other channels, or fewer folds."
        )
    mean, scale = _standards(values)
    standardised = (values - mean) / scale
    fit = _fit_numbers if scheme.kind == "continuous" else _fit_presence
    rows = [np.isfinite(column) for column in given.T]
    fitted = [
        fit(standardised[known], column[known], participants=participants[known], config=config)
        for known, column in zip(rows, given.T, strict=True)
    ]
    return Probe(
        mean=mean,
        scale=scale,
        coef=np.stack([coef for coef, _ in fitted]),
        intercept=np.array([intercept for _, intercept in fitted]),
    )


def _fit_presence(
    standardised: NDArray[np.float64],
    labels: NDArray[np.float64],
    *,
    participants: NDArray[np.object_],
    config: ProbeConfig,
) -> tuple[NDArray[np.float64], float]:
    """Return coefficients (D,) and intercept of a channel; constant where one side never shows.

    The constant is the log odds with half a clip added to either side (Haldane 1956): never certain, and the surer the
    more clips there were.
    """
    from sklearn.linear_model import LogisticRegression

    positive = float(labels.sum())
    if not 0 < positive < len(labels):
        return np.zeros(standardised.shape[1]), float(np.log((positive + 0.5) / (len(labels) - positive + 0.5)))
    codes = labels.astype(np.int64)
    model = LogisticRegression(C=config.C, max_iter=config.max_iter)
    model.fit(standardised, codes, sample_weight=balanced_weights(codes, participants))
    return np.asarray(model.coef_[0]), float(model.intercept_[0])


def _fit_numbers(
    standardised: NDArray[np.float64],
    labels: NDArray[np.float64],
    *,
    participants: NDArray[np.object_],
    config: ProbeConfig,
) -> tuple[NDArray[np.float64], float]:
    """Return coefficients (D,) and intercept of ridge regression, every participant counting the same."""
    from sklearn.linear_model import Ridge

    if not len(labels) or np.ptp(labels) == 0:
        return np.zeros(standardised.shape[1]), float(labels[0]) if len(labels) else 0.0
    # One class: what is balanced is participants.
    weights = balanced_weights(np.zeros(len(labels), np.int64), participants)
    centre = float(np.average(labels, weights=weights))
    spread = float(np.sqrt(np.average((labels - centre) ** 2, weights=weights)))
    model = Ridge(alpha=1.0 / config.C)
    # In standard deviations, so that the unit of the numbers doesn't matter.
    model.fit(standardised, (labels - centre) / spread, sample_weight=weights)
    return np.asarray(model.coef_) * spread, float(model.intercept_) * spread + centre
