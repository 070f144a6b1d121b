"""Metrics of one participant, and how predicted prevalence follows true prevalence across participants.

A metric that the participant's data don't define is NaN, never 0 or 1: balanced accuracy without one of the classes,
precision without a positive prediction, F1 and recall without a positive clip. The reports say for how many
participants each is defined, so that nobody is hidden.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from mien.core.errors import UserError
from mien.core.labels import LabelScheme

LOSS_PROBABILITY_FLOOR = 1e-7  # a float32 sigmoid saturates near here; an infinite loss would hide every other clip


def score_participant(
    targets: NDArray[np.integer], probabilities: NDArray[np.floating], scheme: LabelScheme
) -> dict[str, float]:
    """Score the clips of one participant.

    Binary targets: `precision`, `recall`, `f1`, `auroc`, `auprc` and the prevalences are those of `classes[1]`;
    `sensitivity` equals `recall`, `specificity` is the recall of `classes[0]`, `balanced_accuracy` the mean of both.
    Multiclass targets: each is the unweighted mean over the classes that the participant has (one against the rest;
    a class that is never predicted has no precision and is left out of its mean), `true_prevalence`,
    `predicted_prevalence` and `positives` are NaN, and `true_prevalence_<class>` and `predicted_prevalence_<class>`
    hold the shares.

    Undefined, so NaN: `balanced_accuracy` unless the participant has every class; `macro_f1`, `auroc`, `auprc` with
    fewer than two classes (and multiclass `f1`, which is `macro_f1`); `recall` and binary `f1` without a positive
    clip; `precision` without a positive prediction; everything but `n` and `positives` without clips. F1 is 0 where
    there are positive clips and none is found.

    Args:
        targets: (N,) class codes, none missing.
        probabilities: (N, num_outputs), each 0..1.
        scheme: What the codes and outputs mean.

    Raises:
        UserError: Shapes that don't fit, a code outside the scheme, or a probability that isn't a number in 0..1.
    """
    codes = np.asarray(targets, dtype=np.int64)
    outputs = np.asarray(probabilities, dtype=np.float64)
    _check_inputs(codes, outputs, scheme)
    counts = confusion(codes, scheme.predicted(outputs), len(scheme.classes))
    class_probabilities = np.column_stack([1.0 - outputs[:, 0], outputs[:, 0]]) if scheme.kind == "binary" else outputs
    metrics = count_metrics(counts, scheme) | _ranking_metrics(codes, class_probabilities, scheme)
    metrics["log_loss"] = _log_loss(codes, class_probabilities)
    return metrics | _prevalences(counts, scheme)


def confusion(targets: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """Count clips by true class (rows) and predicted class (columns).

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.asarray(targets, dtype=np.int64) * num_classes + np.asarray(predicted, dtype=np.int64)
    return np.asarray(np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes), dtype=np.int64)


def false_alarms_per_minute(
    targets: NDArray[np.integer],
    predicted: NDArray[np.integer],
    *,
    recording_ids: NDArray[np.object_],
    start_s: NDArray[np.floating],
    end_s: NDArray[np.floating],
) -> float:
    """Count false alarms per minute of time without the expression (binary targets).

    One false alarm is a run of false positive clips of one recording that follow each other; a stretch longer than a
    clip that isn't scored ends the run. The minutes are those that negative clips cover, overlaps counted once. A
    predictor that is always positive has few, long alarms: read this beside specificity.

    Args:
        targets: (N,) 0 or 1, none missing.
        predicted: (N,) 0 or 1.
        recording_ids: (N,) recording of each clip.
        start_s: (N,) start of each clip, seconds.
        end_s: (N,) end of each clip (not included), seconds.

    Returns:
        False alarms per minute; NaN where no time is negative.
    """
    alarms = 0
    negative_s = 0.0
    for recording_id in np.unique(recording_ids.astype(str)):
        chosen = np.flatnonzero(recording_ids.astype(str) == recording_id)
        order = chosen[np.argsort(start_s[chosen], kind="stable")]
        starts, ends = start_s[order], end_s[order]
        negative = targets[order] == 0
        false_positive = negative & (predicted[order] == 1)
        adjacent = starts[1:] - ends[:-1] <= (ends - starts)[:-1]
        continued = np.concatenate([[False], false_positive[:-1] & adjacent])
        alarms += int(np.sum(false_positive & ~continued))
        negative_s += _covered_s(starts[negative], ends[negative])
    return alarms / (negative_s / 60.0) if negative_s > 0 else float("nan")


def prevalence_agreement(
    true_prevalence: NDArray[np.floating], predicted_prevalence: NDArray[np.floating]
) -> dict[str, float]:
    """Say how the predicted share of time follows the true share across participants.

    Args:
        true_prevalence: (P,) share of each participant's clips that are positive; NaN participants are dropped.
        predicted_prevalence: (P,) share predicted positive.

    Returns:
        `slope` of the least-squares line of predicted on true prevalence (1 is ideal; NaN for fewer than 3
        participants or equal true prevalences) and `bias`, the mean of predicted minus true (0 is ideal).

    >>> prevalence_agreement(np.array([0.0, 0.5, 1.0]), np.array([0.25, 0.5, 0.75]))["slope"]
    0.5
    """
    true = np.asarray(true_prevalence, dtype=np.float64)
    predicted = np.asarray(predicted_prevalence, dtype=np.float64)
    kept = np.isfinite(true) & np.isfinite(predicted)
    true, predicted = true[kept], predicted[kept]
    bias = float(np.mean(predicted - true)) if true.size else float("nan")
    # Two points always lie on a line: a slope needs a third.
    if true.size < 3 or np.ptp(true) == 0:
        return {"slope": float("nan"), "bias": bias}
    centred = true - true.mean()
    return {"slope": float(centred @ predicted / (centred @ centred)), "bias": bias}


def _check_inputs(codes: NDArray[np.int64], outputs: NDArray[np.float64], scheme: LabelScheme) -> None:
    expected = (codes.size, scheme.num_outputs)
    if codes.ndim != 1 or outputs.shape != expected:
        raise UserError(
            f"Probabilities have the shape {outputs.shape}; {codes.size} targets of {scheme.target!r} need {expected}."
        )
    if codes.size and (codes.min() < 0 or codes.max() >= len(scheme.classes)):
        raise UserError(
            f"Targets of {scheme.target!r} lie in {codes.min()}..{codes.max()}; allowed: 0..{len(scheme.classes) - 1}."
        )
    wrong = int(np.sum(~((outputs >= 0) & (outputs <= 1)).all(axis=1)))
    if wrong:
        raise UserError(
            f"{wrong} of {codes.size} scored clips have a probability that isn't a number in 0..1. The model probably "
            "diverged: train it again with a lower learning rate."
        )


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean_defined(values: NDArray[np.float64]) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")


def count_metrics(counts: NDArray[np.integer] | NDArray[np.floating], scheme: LabelScheme) -> dict[str, float]:
    """Metrics that follow from the confusion counts (K, K), row = true class."""
    table = counts.astype(np.float64)
    hits, true, predicted, total = np.diag(table), table.sum(axis=1), table.sum(axis=0), table.sum()
    present = true > 0
    recall, precision = _ratio(hits, true), _ratio(hits, predicted)
    specificity = _ratio(total - true - predicted + hits, total - true)
    f1 = np.where(present, _ratio(2 * hits, true + predicted), np.nan)
    macro_f1 = _mean_defined(f1) if present.sum() >= 2 else float("nan")
    shared = {
        "balanced_accuracy": float(recall.mean()) if present.all() else float("nan"),
        "macro_f1": macro_f1,
        "accuracy": float(hits.sum() / total) if total else float("nan"),
        "n": float(total),
    }
    if scheme.kind == "binary":
        return shared | {
            "f1": float(f1[1]),
            "precision": float(precision[1]),
            "recall": float(recall[1]),
            "sensitivity": float(recall[1]),
            "specificity": float(recall[0]),
            "positives": float(true[1]),
        }
    return shared | {
        "f1": macro_f1,
        "precision": _mean_defined(precision[present]),
        "recall": _mean_defined(recall),
        "sensitivity": _mean_defined(recall),
        "specificity": _mean_defined(specificity[present]),
        "positives": float("nan"),
    }


def _ranking_metrics(
    codes: NDArray[np.int64], class_probabilities: NDArray[np.float64], scheme: LabelScheme
) -> dict[str, float]:
    """AUROC and average precision, one class against the rest, mean over the classes that the participant has."""
    present = np.unique(codes)
    if present.size < 2:
        return {"auroc": float("nan"), "auprc": float("nan")}
    scored = [1] if scheme.kind == "binary" else present.tolist()
    return {
        "auroc": float(np.mean([_auroc(codes == k, class_probabilities[:, k]) for k in scored])),
        "auprc": float(np.mean([average_precision_score(codes == k, class_probabilities[:, k]) for k in scored])),
    }


def _auroc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic (ties count one half)."""
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    rank_sum = float(np.asarray(rankdata(scores))[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def _log_loss(codes: NDArray[np.int64], class_probabilities: NDArray[np.float64]) -> float:
    if not codes.size:
        return float("nan")
    given = class_probabilities[np.arange(codes.size), codes]
    return float(-np.log(np.clip(given, LOSS_PROBABILITY_FLOOR, 1.0)).mean())


def _prevalences(counts: NDArray[np.int64], scheme: LabelScheme) -> dict[str, float]:
    total = np.full(len(scheme.classes), float(counts.sum()))
    true = _ratio(counts.sum(axis=1).astype(np.float64), total)
    predicted = _ratio(counts.sum(axis=0).astype(np.float64), total)
    if scheme.kind == "binary":
        return {"true_prevalence": float(true[1]), "predicted_prevalence": float(predicted[1])}
    shares = {"true_prevalence": float("nan"), "predicted_prevalence": float("nan")}
    for name, true_share, predicted_share in zip(scheme.classes, true, predicted, strict=True):
        shares |= {f"true_prevalence_{name}": float(true_share), f"predicted_prevalence_{name}": float(predicted_share)}
    return shares


def _covered_s(starts: NDArray[np.floating], ends: NDArray[np.floating]) -> float:
    """Length of the union of intervals that are sorted by start, seconds."""
    if not starts.size:
        return 0.0
    reached = np.maximum.accumulate(ends)
    begins = np.concatenate([[starts[0]], np.maximum(starts[1:], reached[:-1])])
    return float(np.sum(np.maximum(ends - begins, 0.0)))
