"""What is scored once (a clip, segment, recording or participant, as one label describes it), and who is independent.

Where every participant has a single label, nobody has both classes: balanced accuracy and AUROC of a participant are
undefined, and F1 is the recall. Such targets are scored once over all participants, each a row of its own.

Participants of one group (a dyad, a family, a site) did and saw things together, so their scores aren't independent.
Where groups hold several participants, the group is what intervals and tests count.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.intervals import Interval, binomial_interval
from mien.evaluation.metrics import count_metrics, score_participant

ScoredPer = Literal["participant mean", "participants", "recordings"]
KEY_COLUMNS = ("model", "fold", "participant_id")
UnitColumn = Literal["clip_id", "segment_id", "recording_id", "participant_id"]
RANKING_METRICS = ("f1", "macro_f1", "auroc", "auprc")  # no count of independent hits, so no exact interval


def scored_per(table: pd.DataFrame, scheme: LabelScheme) -> ScoredPer:
    """Say over what a target is scored.

    `participant mean`: each participant gets scores, which are then averaged. `participants`: one row per participant,
    all scored together: the unit is the participant, or the segment or recording where no participant has more than
    one class but some have several segments or recordings (these repeat the person, so they aren't counted as
    independent). `recordings`: the same for one recording per participant.

    Args:
        table: Clips with recording_id, participant_id and target; clips without a target don't count.
        scheme: Says what one label describes.
    """
    if scheme.unit == "participant":
        return "participants"
    if scheme.unit == "frame":
        return "participant mean"
    people = table[table["target"].notna()].groupby("participant_id")
    if (people["target"].nunique() > 1).any():
        return "participant mean"
    one_each = scheme.unit == "recording" and (people["recording_id"].nunique() == 1).all()
    return "recordings" if one_each else "participants"


def unit_column(table: pd.DataFrame, scheme: LabelScheme) -> UnitColumn:
    """Return the column that tells the units of a target apart (see `scored_per`)."""
    if scheme.unit == "frame":
        return "clip_id"
    if scored_per(table, scheme) == "participants":
        return "participant_id"
    return "segment_id" if scheme.unit == "segment" else "recording_id"


def unit_predictions(predictions: pd.DataFrame, scheme: LabelScheme) -> pd.DataFrame:
    """Return one row per model and unit: the mean probability of its clips, and its target.

    Args:
        predictions: Clips with a target: model, fold, recording_id, participant_id, start_s, end_s, prob_<output>, and
            segment_id where one label describes a segment.
        scheme: Says what one label describes.

    Raises:
        UserError: Two targets in one unit.
    """
    column = unit_column(predictions, scheme)
    if column == "clip_id" or predictions.empty:
        return predictions
    keys = list(KEY_COLUMNS) if column == "participant_id" else [*KEY_COLUMNS, column]
    grouped = predictions.groupby(keys, sort=False)
    several = grouped["target"].nunique() > 1
    if several.any():
        raise UserError(
            f"The unit of {scheme.target!r} is {scheme.unit!r}, but "
            f"{'/'.join(map(str, several.index[several][0][2:]))} has several targets. Set the study's unit to what "
            "one label describes (frame or segment), or mend the labels."
        )
    how = {"recording_id": "first", "start_s": "min", "end_s": "max", "target": "first"}
    how |= {f"prob_{name}": "mean" for name in scheme.output_names}
    return grouped.agg({name: rule for name, rule in how.items() if name not in keys}).reset_index()


def group_column(scores: pd.DataFrame) -> pd.Series[Any]:
    """Return the group of each row; the participant where a table (an older run's) doesn't say."""
    return scores["group"] if "group" in scores else scores["participant_id"]


def independent_means(scores: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Return one value per group: the mean of its participants for whom the metric is defined.

    Where every participant is a group of their own, these are the participants' values. Intervals, and tests of paired
    differences (a column of differences is a metric, too), are over what this returns.

    Args:
        scores: Rows of `participant_scores` of one model.
        metric: A column of theirs.

    Returns:
        Values indexed by group, sorted by it; NaN for a group in which the metric is defined for nobody.

    >>> rows = pd.DataFrame({"participant_id": list("abc"), "group": list("xxy"), "f1": [0.2, 0.4, 0.6]})
    >>> independent_means(rows, "f1").round(6).to_dict()
    {'x': 0.3, 'y': 0.6}
    """
    return scores[metric].astype("float64").groupby(group_column(scores).rename("group")).mean()


def independent_of(scores: pd.DataFrame) -> dict[str, Any]:
    """Say what counts as independent among rows of `participant_scores`: `unit` (participant or group), and `n`."""
    num_groups = group_column(scores).nunique()
    return {"unit": "group" if num_groups < scores["participant_id"].nunique() else "participant", "n": num_groups}


def unit_metrics(rows: pd.DataFrame) -> dict[str, Any]:
    """Score participants of one label each, all together.

    Args:
        rows: Rows of `participant_scores` with one unit each: their confusion counts and mean probabilities.

    Returns:
        The metrics of `score_participant` over all rows. `accuracy`, `precision`, `recall`, `sensitivity`,
        `specificity` and `balanced_accuracy` as mean, low, high, n: exact binomial intervals (a mean over classes has
        the conservative one of `binomial_interval`), n the rows that the share is of, such as the positive ones.
        `RANKING_METRICS` likewise, with NaN ends: no exact interval of them exists. Other metrics are plain numbers.

        Where groups hold several participants, these shares give each group the weight of one participant, which its
        participants divide: as if they all said the same, the conservative end of what is possible.
    """
    counts = summed_counts(rows)
    probabilities = rows[[name for name in rows if str(name).startswith("prob_")]]
    classes = range(len(counts))
    codes = np.column_stack([rows[[f"count_{i}_{j}" for j in classes]].sum(axis=1) for i in classes]).argmax(axis=1)
    binary = probabilities.shape[1] == 1
    scheme = LabelScheme("units", "binary" if binary else "multiclass", tuple(map(str, classes)), "any")
    metrics: dict[str, Any] = score_participant(
        codes.astype(np.int64), probabilities.to_numpy(dtype=np.float64), scheme
    )
    # The counts of a trivial predictor are means over draws, which no threshold on a mean probability gives.
    metrics |= count_metrics(counts, scheme)
    num_groups = independent_of(rows)["n"]
    for name, (hits, totals) in _shares(group_counts(rows), binary=binary).items():
        # A share of less than one group can't be estimated with less doubt than one of one group.
        whole = np.maximum(totals, 1.0)
        interval = binomial_interval(hits / totals * whole, whole)
        metrics[name] = asdict(replace(interval, n=min(interval.n, num_groups)))
    nan = float("nan")
    for name in RANKING_METRICS:
        defined = num_groups if np.isfinite(metrics[name]) else 0
        metrics[name] = asdict(Interval(metrics[name], nan, nan, defined))
    return metrics


def balanced_accuracy_of(counts: NDArray[np.float64]) -> float:
    """Return the mean recall of all classes; NaN where one doesn't occur.

    >>> balanced_accuracy_of(np.array([[3, 1], [1, 1]]))
    0.625
    """
    true = counts.sum(axis=1)
    return float((np.diag(counts) / true).mean()) if true.size and (true > 0).all() else float("nan")


def summed_counts(scores: pd.DataFrame) -> NDArray[np.float64]:
    """Sum the confusion counts (K, K) of rows of `participant_scores`, row = true class; means over draws stay so."""
    columns = [column for column in scores if str(column).startswith("count_")]
    codes = range(round(len(columns) ** 0.5))
    sums = [[float(scores[f"count_{i}_{j}"].sum()) for j in codes] for i in codes]
    return np.array(sums, dtype=np.float64).round(9)  # 20 draws of .05 are 1


def group_counts(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Sum the confusion counts (K, K) of rows of one unit each so that every group adds up to 1.

    What an exact interval counts; where every participant is a group of their own, it is `summed_counts`.
    """
    groups = group_column(rows)
    shares = 1.0 / groups.map(groups.value_counts()).to_numpy(dtype=np.float64)
    columns = [name for name in rows if str(name).startswith("count_")]
    return summed_counts(rows.assign(**{str(name): rows[name] * shares for name in columns}))


def confusion_of(scores: pd.DataFrame) -> NDArray[np.int64]:
    """Sum the confusion counts (K, K) of rows of `participant_scores` to whole numbers, row = true class.

    Fractions (means over draws) are rounded so that each row keeps its sum: the largest remainders go up.
    """
    sums = summed_counts(scores)
    whole = np.floor(sums).astype(np.int64)
    for true, row in enumerate(sums):
        lacking = round(float(row.sum())) - int(whole[true].sum())
        whole[true, np.argsort(whole[true] - row, kind="stable")[:lacking]] += 1
    return whole


def _shares(counts: NDArray[np.float64], *, binary: bool) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Hits and totals of each metric that is a share, or a mean of one share per class."""
    hits, true, predicted, total = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0), counts.sum(keepdims=True)[0]
    absent, rejected = total - true, total - true - predicted + hits
    # A binary target's are those of its second class; its specificity is the share of the first that is rejected.
    chosen = np.array([1]) if binary else np.flatnonzero(true > 0)
    recall = _defined(hits[chosen], true[chosen])
    none = np.zeros(0, dtype=np.float64)
    return {
        "accuracy": _defined(hits.sum(keepdims=True), total),
        "balanced_accuracy": (hits, true) if (true > 0).all() else (none, none),
        "precision": _defined(hits[chosen], predicted[chosen]),
        "recall": recall,
        "sensitivity": recall,
        "specificity": _defined(rejected[chosen], absent[chosen]),
    }


def _defined(hits: NDArray[np.float64], totals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return hits[totals > 0], totals[totals > 0]
