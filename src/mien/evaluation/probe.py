"""The linear probe: logistic regression on frozen features, the baseline that every bigger model has to beat.

Standardised features, classes balanced, participants weighted equally (a long recording is still one person), and a
strong L2 penalty, since there are more features than participants.
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
        C: Inverse strength of the L2 penalty. .001 was the best of .0001 to 1 over three feature kinds on a study of
            72 people; it is fixed, not tuned on the data at hand.
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
    targets: NDArray[np.integer],
    participants: NDArray[np.object_],
    scheme: LabelScheme,
    config: ProbeConfig,
) -> Probe:
    """Fit a probe.

    Args:
        features: (N, D) of the training participants, the personal baseline already subtracted.
        targets: (N,) class codes.
        participants: (N,) participant ids.
        scheme: The target.
        config: Settings.

    Raises:
        UserError: The clips show one class only.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(targets)) < 2:
        raise UserError(
            f"The training participants show one class of {scheme.target!r} only; a model needs two. Use more "
            "participants, another target, or fewer folds."
        )
    values = np.asarray(features, np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    # A feature that never varies carries nothing; dividing by 1 leaves it at 0.
    scale = np.where(scale > 1e-8, scale, 1.0)
    model = LogisticRegression(C=config.C, max_iter=config.max_iter)
    model.fit((values - mean) / scale, targets, sample_weight=balanced_weights(targets, participants))
    coef, intercept = model.coef_, model.intercept_
    if scheme.kind == "multiclass" and len(model.classes_) < len(scheme.classes):
        # A class that no training participant shows gets a logit that never wins.
        full, bias = np.zeros((len(scheme.classes), values.shape[1])), np.full(len(scheme.classes), -30.0)
        if len(model.classes_) == 2:
            coef, intercept = np.vstack([-coef / 2, coef / 2]), np.concatenate([-intercept / 2, intercept / 2])
        full[model.classes_], bias[model.classes_] = coef, intercept
        coef, intercept = full, bias
    return Probe(mean=mean, scale=scale, coef=np.asarray(coef), intercept=np.asarray(intercept))
