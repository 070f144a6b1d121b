"""Scores of continuous targets, such as valence and arousal: agreement within a person first, pooled last.

People differ in their level. A predictor that knows nobody's moments but each person's mean has a pooled CCC of .75
where 60 % of the variance lies between people, so that predictor stands beside the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.evaluation.intervals import participant_interval
from mien.evaluation.jackknife import jackknife_interval

Pairs = NDArray[np.float64]  # (N, 2): target, prediction
RMSE_BOUNDS = (0.0, float("inf"))


def ccc(targets: NDArray[np.floating], predictions: NDArray[np.floating]) -> float:
    """Return the concordance correlation coefficient (Lin 1989, Biometrics 45:255-268).

    2 s_xy / (s_x^2 + s_y^2 + (m_x - m_y)^2), variances over N. It is 1 only where predictions equal targets: unlike a
    correlation it also counts a wrong level and a wrong scale.

    Constant targets give NaN, whatever was predicted: there is no movement to agree with, as there is no balanced
    accuracy without one of the classes (the formula would say 0 for the best possible prediction of such a person, and
    0/0 for a perfect one). Constant predictions of targets that move give 0, as the formula does: there was something
    to follow, and nothing was followed. NaN for fewer than 2 pairs.

    Args:
        targets: (N,) none missing.
        predictions: (N,) none missing.

    >>> ccc(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])).__round__(4)  # parallel, one too high
    0.5714
    """
    true, predicted = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if true.size < 2 or np.ptp(true) == 0:
        return float("nan")
    # The mean of .1, .1, .1 isn't .1 in binary: the formula would leave 1e-17 in place of 0.
    if np.ptp(predicted) == 0:
        return 0.0
    covariance = np.mean((true - true.mean()) * (predicted - predicted.mean()))
    return float(2.0 * covariance / (true.var() + predicted.var() + (true.mean() - predicted.mean()) ** 2))


def rmse(targets: NDArray[np.floating], predictions: NDArray[np.floating]) -> float:
    """Return the root of the mean squared error, in the unit of the target; NaN without pairs.

    >>> rmse(np.array([0.0, 0.0]), np.array([3.0, -3.0]))
    3.0
    """
    error = np.asarray(targets, dtype=np.float64) - np.asarray(predictions, dtype=np.float64)
    return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")


def continuous_scores(
    targets: NDArray[np.floating],
    predictions: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    folds: int | None,
) -> dict[str, Any]:
    """Score predictions of a continuous target within participants and pooled, beside a person-mean predictor.

    The person-mean predictor says, at each moment, the mean of that participant's own targets. No model of faces can
    know that mean of a new person exactly, so it is an upper bound of what identity alone gives: a pooled CCC of
    2 r / (1 + r), r the share of variance that lies between people, and 0 within every participant. What a model's
    pooled CCC adds to that, or has within people, is about moments.

    Args:
        targets: (N,) NaN where nobody annotated: missing, left out.
        predictions: (N,) a number wherever there is a target.
        participants: (N,) participant of each value.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).

    Returns:
        `ccc_within` (mean over the participants whose target moves; n says how many), `rmse` (mean over participants):
        dicts of mean, low, high, n. `ccc_pooled`, of all values together as most papers give it (a long recording
        counts more), with an interval that leaves out one participant at a time (`jackknife_interval`). `person_mean`:
        the same three of that predictor. `between_share`: r. `n`, `participants`, `participants_constant` (whose target
        never moves, or was given once: no CCC within them).

    Raises:
        UserError: Shapes that don't fit, or a prediction that isn't a finite number.
    """
    pairs, people = _checked(targets, predictions, participants)
    names, code = np.unique(people, return_inverse=True)
    means = _means(pairs[:, 0], code, names.size)
    baseline = np.column_stack([pairs[:, 0], means[code]]) if names.size else pairs
    own = _scores(pairs, code, count=names.size, folds=folds)
    total = float(pairs[:, 0].var()) if len(pairs) else float("nan")
    return own | {
        "person_mean": _scores(baseline, code, count=names.size, folds=folds),
        "between_share": float(baseline[:, 1].var()) / total if total > 0 else float("nan"),
        "n": len(pairs),
        "participants": int(names.size),
        "participants_constant": int(names.size) - int(own["ccc_within"]["n"]),
    }


def _scores(pairs: Pairs, code: NDArray[np.intp], *, count: int, folds: int | None) -> dict[str, Any]:
    def within(score: Callable[[Pairs, Pairs], float]) -> NDArray[np.float64]:
        return np.array([score(*pairs[code == each].T) for each in range(count)], dtype=np.float64)

    left_out = np.array([ccc(*pairs[code != each].T) for each in range(count)], dtype=np.float64)
    pooled = jackknife_interval(left_out, score=ccc(*pairs.T), folds=folds, bounds=(-1.0, 1.0))
    return {
        "ccc_within": asdict(participant_interval(within(ccc), folds=folds, bounds=(-1.0, 1.0))),
        "ccc_pooled": asdict(pooled),
        "rmse": asdict(participant_interval(within(rmse), folds=folds, bounds=RMSE_BOUNDS)),
    }


def _means(values: NDArray[np.float64], code: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """Mean per participant; exactly the value where it is constant."""
    means = np.empty(count, dtype=np.float64)
    for each in range(count):
        own = values[code == each]
        means[each] = own[0] if np.ptp(own) == 0 else own.mean()
    return means


def _checked(
    targets: NDArray[np.floating], predictions: NDArray[np.floating], participants: NDArray[np.object_]
) -> tuple[Pairs, NDArray[np.str_]]:
    true, predicted = np.asarray(targets, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    people = np.asarray(participants).astype(str)
    if true.ndim != 1 or predicted.shape != true.shape or people.shape != true.shape:
        raise UserError(
            f"Targets {true.shape}, predictions {predicted.shape} and participants {people.shape} don't fit; each must "
            "be (N,)."
        )
    known = np.isfinite(true)
    wrong = int(np.sum(~np.isfinite(predicted[known])))
    if wrong:
        raise UserError(
            f"{wrong} of {int(known.sum())} predictions with a target aren't finite numbers. The model probably "
            "diverged: train it again with a lower learning rate."
        )
    return np.column_stack([true, predicted])[known], people[known]
