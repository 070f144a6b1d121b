"""Abstention: what a model scores if it may stay silent where it is unsure, and whom that silences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.intervals import participant_interval
from mien.evaluation.jackknife import jackknife_interval
from mien.evaluation.metrics import confusion, count_metrics

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
LEAST_COVERAGE = 0.5  # who keeps less is mostly silenced: the model's word is about others


def risk_coverage(
    targets: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    scheme: LabelScheme,
    folds: int | None,
    coverages: Sequence[float] = COVERAGES,
) -> dict[str, Any]:
    """Score a model on the clips that it is surest of, at falling coverage.

    The confidence of a clip is its highest class probability. One threshold holds for everybody, as it would in use:
    the highest at which the mean of the participants' coverages is still at least what was asked for. Clips of equal
    confidence are kept or dropped together, so more may be kept than asked. At a coverage of .5 about half of the
    people keep less than half if all are equally hard; at .8 nobody should, and who keeps nothing at all is silenced.

    AURC is the area under error rate against coverage (Geifman and El-Yaniv 2017, NeurIPS): the error among the surest
    clips, averaged over all coverages, each participant weighing 1. Clips of equal confidence count with their mean
    error, so the order of rows doesn't matter. A confidence that knows nothing gives the error rate at full coverage.

    The thresholds come from the clips that are scored, without their targets. Who lacks a class among the clips that
    are kept has no balanced accuracy there: watch its n, since the people it is of change with coverage.

    Args:
        targets: (N,) class codes; NaN is missing and left out.
        probabilities: (N, num_outputs), each 0..1 where there is a target.
        participants: (N,) participant of each clip.
        scheme: What the codes and outputs mean.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).
        coverages: Shares of clips to keep, each above 0 and at most 1.

    Returns:
        `curve`, a list with per coverage `coverage` (asked), `kept` (mean over participants), `threshold`,
        `balanced_accuracy` and `accuracy` (means over participants with mean, low, high, n), `per_participant`
        (coverage: min, median), `participants_below_half` (keep less than `LEAST_COVERAGE`), `participants_silent`
        (keep nothing). `aurc` (mean, low, high, n; see `jackknife_interval`), `error_rate` (at full coverage),
        `participants`, `n`. Without a target the curve is empty and the scores are NaN.

    Raises:
        UserError: Shapes that don't fit, a code or probability that can't be, or a coverage outside 0..1.
    """
    wrong = [value for value in coverages if not 0.0 < value <= 1.0]
    if wrong:
        raise UserError(f"Coverage {wrong[0]:g} isn't a share of clips to keep; allowed: above 0, up to 1.")
    codes, outputs, people = _checked(targets, probabilities, participants, scheme)
    names, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    binary = scheme.kind == "binary"
    confidence = np.maximum(outputs, 1.0 - outputs)[:, 0] if binary else outputs.max(axis=1, initial=0.0)
    predicted = scheme.predicted(outputs)
    errors = (predicted != codes).astype(np.float64)
    weights = 1.0 / counts[person] if names.size else np.zeros(0)

    def area_without(each: int) -> float:
        others = person != each
        return _area(confidence[others], errors[others], weights[others])

    aurc = jackknife_interval(
        np.array([area_without(each) for each in range(names.size)]),
        score=_area(confidence, errors, weights),
        folds=folds,
    )
    curve = []
    for asked in coverages if names.size else ():
        threshold = _threshold(confidence, weights, share=float(asked))
        found = _kept_scores(confidence >= threshold, codes, predicted, person, scheme=scheme, folds=folds)
        curve.append({"coverage": float(asked), "threshold": threshold, **found})
    return {
        "curve": curve,
        "aurc": asdict(aurc),
        "error_rate": float(weights @ errors / weights.sum()) if names.size else float("nan"),
        "participants": int(names.size),
        "n": int(codes.size),
    }


def _kept_scores(
    kept: NDArray[np.bool_],
    codes: NDArray[np.int64],
    predicted: NDArray[np.int64],
    person: NDArray[np.int64],
    *,
    scheme: LabelScheme,
    folds: int | None,
) -> dict[str, Any]:
    """Score the clips that are kept, and say how many of each person's that are; `person` (N,) counts from 0."""
    coverage = np.bincount(person[kept], minlength=person.max() + 1) / np.bincount(person)
    scores = [
        count_metrics(confusion(codes[own], predicted[own], len(scheme.classes)), scheme)
        for own in (kept & (person == each) for each in range(coverage.size))
    ]
    means = {
        name: asdict(participant_interval(np.array([score[name] for score in scores]), folds=folds))
        for name in ("balanced_accuracy", "accuracy")
    }
    return {
        "kept": float(coverage.mean()),
        **means,
        "per_participant": {"min": float(coverage.min()), "median": float(np.median(coverage))},
        "participants_below_half": int(np.sum(coverage < LEAST_COVERAGE)),
        "participants_silent": int(np.sum(coverage == 0)),
    }


def _checked(
    targets: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    participants: NDArray[np.object_],
    scheme: LabelScheme,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.str_]]:
    wanted, outputs = np.asarray(targets, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    people = np.asarray(participants).astype(str)
    if wanted.ndim != 1 or outputs.shape != (wanted.size, scheme.num_outputs) or people.shape != wanted.shape:
        raise UserError(
            f"Targets {wanted.shape}, probabilities {outputs.shape} and participants {people.shape} don't fit; needed: "
            f"(N,), (N, {scheme.num_outputs}) and (N,)."
        )
    known = np.isfinite(wanted)
    if not np.isin(wanted[known], np.arange(len(scheme.classes))).all():
        raise UserError(f"Targets of {scheme.target!r} hold a code outside 0..{len(scheme.classes) - 1}.")
    impossible = int(np.sum(~((outputs[known] >= 0) & (outputs[known] <= 1)).all(axis=1)))
    if impossible:
        raise UserError(
            f"{impossible} of {int(known.sum())} clips with a target have a probability that isn't a number in 0..1. "
            "The model probably diverged: train it again with a lower learning rate."
        )
    return wanted[known].astype(np.int64), outputs[known], people[known]


def _groups(confidence: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distinct confidences, highest first, and the number of its value for each clip."""
    values, group = np.unique(-confidence, return_inverse=True)
    return -values, group


def _threshold(confidence: NDArray[np.float64], weights: NDArray[np.float64], *, share: float) -> float:
    values, group = _groups(confidence)
    kept = np.cumsum(np.bincount(group, weights=weights)) / weights.sum()
    kept[-1] = 1.0
    return float(values[np.flatnonzero(kept >= share - 1e-12)[0]])


def _area(confidence: NDArray[np.float64], errors: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Error among the clips kept so far, averaged over coverage."""
    if not confidence.size:
        return float("nan")
    _, group = _groups(confidence)
    weight = np.bincount(group, weights=weights)
    kept, wrong = np.cumsum(weight), np.cumsum(np.bincount(group, weights=weights * errors))
    before, wrong_before = kept - weight, wrong - np.bincount(group, weights=weights * errors)
    rate = (wrong - wrong_before) / weight
    # Within equal confidences errors come at their mean rate r: the risk at coverage c is r + (w - r k) / c, w errors
    # and k clips before them; its integral over c from k to k + weight is exact, and doesn't depend on the order.
    offset = wrong_before - rate * before
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.where(before > 0, offset * np.log(kept / before), 0.0)
    return float((rate * weight + tail).sum() / kept[-1])
