"""One coder scored against another on a model's own metric, and what a report says of several coders.

A model that is told what one coder says can't be expected to agree with another coder better than they with each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.labels import LabelScheme
from mien.data.coders import CoderRatings, coder_ratings, with_participants
from mien.data.targets import TargetTables, find_target, target_names
from mien.evaluation.agreement import Agreement, krippendorff_alpha
from mien.evaluation.intervals import Interval, participant_interval
from mien.evaluation.jackknife import jackknife_interval
from mien.evaluation.units import balanced_accuracy_of, scored_per

Counts = NDArray[np.float64]


def coder_facts(ratings: CoderRatings | None, *, scheme: LabelScheme, clips: pd.DataFrame) -> dict[str, Any] | None:
    """Return what `comparison.json` says of several coders.

    The units, participants and the metric are those of the models: what is scored once is rated once.

    Args:
        ratings: From `coder_ratings`.
        scheme: The target, with the unit that it is scored by.
        clips: Its clips, copied participants united: recording_id, participant_id, group, target.

    Returns:
        `annotators`, `target_formed_by`, `ties` (frames that are left out because coders are split evenly), `coded`
        (per coder name, minutes, participants), `alpha` (value, low, high), `agreement` (share of equal pairs),
        `per_class` (alpha of each of several classes), `ceiling` (`balanced_accuracy`: mean, low, high, n;
        `participants` and `minutes` that two coders coded), `pairs` (a, b, alpha, agreement, balanced_accuracy,
        participants, minutes). None where fewer than two coders coded.
    """
    if ratings is None:
        return None
    frames = with_participants(ratings, clips)
    per = scored_per(clips, scheme)
    units = frames.per_unit("participant" if per == "participants" else scheme.unit)
    once = per != "participant mean"
    minutes, participants = frames.coded_by()
    score = one_against_another(units, num_classes=len(scheme.classes), once=once)
    return {
        **_formed(frames),
        **_agreement(units, classes=scheme.classes),
        "ceiling": {"balanced_accuracy": asdict(score), "participants": participants, "minutes": minutes},
        "pairs": [
            _pair(frames, units, a=a, b=b, num_classes=len(scheme.classes), once=once)
            for a, b in itertools.combinations(range(len(frames.names)), 2)
        ],
    }


def coders_by_target(tables: TargetTables) -> dict[str, dict[str, Any]]:
    """Return what `mien inspect` says of several coders, by target; targets of one coder aren't in it.

    Returns:
        The keys of `coder_facts` up to `per_class`, and `minutes` and `participants` that two coders coded.
    """
    found = {}
    for name in target_names(tables):
        spec = find_target(tables, name)
        ratings = coder_ratings(tables, spec)
        if ratings is not None:
            minutes, participants = ratings.coded_by()
            found[name] = {
                **_formed(ratings),
                **_agreement(ratings.per_unit(spec.unit), classes=spec.classes),
                "minutes": minutes,
                "participants": participants,
            }
    return found


def one_against_another(ratings: CoderRatings, *, num_classes: int, once: bool) -> Interval:
    """Return the balanced accuracy of one coder's labels as predictions of another's.

    It is computed as a model's is: per participant, the mean over the ordered pairs of coders for which it is defined
    (a coder who saw one class in a person has no balanced accuracy there), then over participants, or groups where
    these hold several. What both directions of a pair have in common, the interval over participants keeps.

    Args:
        ratings: What is scored once, one sample each.
        num_classes: K.
        once: Whether each participant has one label, so that all are scored together (`mien.evaluation.units`); the
            interval then is the delete-one jackknife's.
    """
    pairs = list(itertools.permutations(range(len(ratings.names)), 2))
    counts = np.stack([_confusions(ratings, true=a, predicted=b, num_classes=num_classes) for a, b in pairs])
    group_of = ratings.table.groupby("participant_id", sort=True)["group"].first().astype(str)
    groups, of = np.unique(group_of.to_numpy(dtype=str), return_inverse=True)
    if once:
        return _scored_together(counts / np.bincount(of)[of][None, :, None, None], groups=of)
    scores = np.array([_mean([balanced_accuracy_of(table) for table in person]) for person in counts.swapaxes(0, 1)])
    means = [_mean(scores[of == group].tolist()) for group in range(len(groups))]
    return participant_interval(np.array(means), folds=None)


def _scored_together(counts: Counts, *, groups: NDArray[np.intp]) -> Interval:
    """Score all participants together (Q pairs, P, K, K), with the jackknife over their groups."""

    def score(kept: NDArray[np.bool_]) -> float:
        return _mean([balanced_accuracy_of(table) for table in counts[:, kept].sum(axis=1)])

    rated = np.unique(groups[counts.sum(axis=(0, 2, 3)) > 0])
    left_out = np.array([score(groups != group) for group in rated])
    return jackknife_interval(left_out, score=score(np.ones(len(groups), dtype=bool)), folds=None)


def _confusions(ratings: CoderRatings, *, true: int, predicted: int, num_classes: int) -> Counts:
    """Count per participant, by name, the samples by the class of one coder and of another (P, K, K)."""
    of, names = pd.factorize(ratings.table["participant_id"], sort=True)
    both = np.isfinite(ratings.codes[[true, predicted]]).all(axis=0)
    rows, columns = ratings.codes[[true, predicted]][:, both].astype(np.int64)
    flat = (of[both] * num_classes + rows) * num_classes + columns
    counted = np.bincount(flat, minlength=len(names) * num_classes**2)
    return counted.reshape(len(names), num_classes, num_classes).astype(np.float64)


def _pair(frames: CoderRatings, units: CoderRatings, *, a: int, b: int, num_classes: int, once: bool) -> dict[str, Any]:
    minutes, participants = frames.coded_by(a, b)
    two = units.of_coders(a, b)
    agreement = _alpha(two)
    return {
        "a": frames.names[a],
        "b": frames.names[b],
        "alpha": _value(agreement.alpha),
        "agreement": agreement.share,
        "balanced_accuracy": asdict(one_against_another(two, num_classes=num_classes, once=once)),
        "participants": participants,
        "minutes": minutes,
    }


def _formed(ratings: CoderRatings) -> dict[str, Any]:
    return {
        "annotators": list(ratings.names),
        "target_formed_by": ratings.target_formed_by,
        "ties": ratings.ties,
        "coded": [
            {"name": name, "minutes": minutes, "participants": participants}
            for name, minutes, participants in ratings.coded()
        ],
    }


def _agreement(ratings: CoderRatings, *, classes: Sequence[str]) -> dict[str, Any]:
    found = _alpha(ratings)
    several = found.per_value if len(classes) > 2 else {}
    return {
        "alpha": _value(found.alpha),
        "agreement": found.share,
        "per_class": {classes[int(code)]: _value(alpha) for code, alpha in several.items()},
    }


def _alpha(ratings: CoderRatings) -> Agreement:
    return krippendorff_alpha(ratings.codes, participants=ratings.table["group"].to_numpy(dtype=object))


def _value(interval: Interval) -> dict[str, float]:
    return {"value": interval.mean, "low": interval.low, "high": interval.high}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
