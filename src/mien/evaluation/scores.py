"""From predictions to one row of scores per participant, and from those rows to a model's summary."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.intervals import participant_interval
from mien.evaluation.metrics import (
    confusion,
    false_alarms_per_minute,
    prevalence_agreement,
    score_participant,
)
from mien.evaluation.units import (
    KEY_COLUMNS,
    balanced_accuracy_of,
    confusion_of,
    group_column,
    independent_means,
    independent_of,
    scored_per,
    summed_counts,
    unit_metrics,
    unit_predictions,
)

# Scores within 0..1 that a summary gives with an interval over participants.
INTERVAL_METRICS = ("balanced_accuracy", "f1", "macro_f1", "auroc", "auprc", "accuracy", "precision", "recall")
# Scores that stand beside them as plain means over the participants for whom they are defined.
MEAN_METRICS = ("sensitivity", "specificity", "false_alarms_per_minute", "log_loss")


def participant_scores(predictions: pd.DataFrame, scheme: LabelScheme) -> pd.DataFrame:
    """Score every participant of every model; clips without a target are missing and left out.

    A label that describes a segment, a recording or a participant is scored once per segment, recording or participant:
    the clips' probabilities are averaged first, else a long recording would count as many agreements. Models don't
    depend on each other: scoring them one by one gives the same rows.

    Args:
        predictions: The predictions table: model, fold, clip_id, recording_id, participant_id, start_s, end_s,
            prob_<output> for each output, target (nullable); segment_id where one label describes a segment; group
            (optional: each participant is one).
        scheme: What the target's codes and outputs mean, and the unit that one label describes.

    Returns:
        One row per model, fold and participant, sorted so: the metrics of `score_participant`,
        `false_alarms_per_minute` (binary targets whose unit is shorter than a recording, else NaN), and the confusion
        counts as `count_<true code>_<predicted code>`. A participant without any target has n = 0 and NaN elsewhere.
        `group` is what counts as independent (see `independent_means`).
        `scored_per` says how to sum them up (see `mien.evaluation.units`): unless it is `participant mean`, each
        participant is one unit, and `prob_<output>` is its mean probability.

    Raises:
        UserError: Whatever `check_predictions` finds, or two targets in one unit.
    """
    check_predictions(predictions, scheme)
    outputs = [f"prob_{name}" for name in scheme.output_names]
    group_of = dict(zip(predictions["participant_id"], group_column(predictions), strict=True))
    known = predictions.loc[predictions["target"].notna(), _needed_columns(scheme)]
    per = scored_per(known, scheme)
    known = unit_predictions(known, scheme)
    rows = []
    by_participant = dict(iter(known.groupby(list(KEY_COLUMNS), sort=False)))
    for keys in sorted(set(predictions.loc[:, list(KEY_COLUMNS)].itertuples(index=False, name=None))):
        clips = by_participant.get(keys, known.iloc[:0])
        row = dict(zip(KEY_COLUMNS, keys, strict=True)) | {"group": group_of[keys[2]]}
        row |= _score_clips(clips, outputs, scheme) | {"scored_per": per}
        if per != "participant mean":
            row |= {name: float(clips[name].mean()) for name in outputs}
        rows.append(row)
    return pd.DataFrame(rows)


def check_predictions(predictions: pd.DataFrame, scheme: LabelScheme) -> None:
    """Refuse predictions that can't be scored; called with one model at a time it spares the others.

    Args:
        predictions: The predictions table, of one or several models.
        scheme: What the target's codes and outputs mean.

    Raises:
        UserError: Missing columns, or a clip with a target whose probability isn't a number in 0..1: the first such
            model is named.
    """
    needed = _needed_columns(scheme)
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise UserError(f"The predictions lack the columns {', '.join(missing)}; they need {', '.join(needed)}.")
    known = predictions[predictions["target"].notna()]
    values = known[[f"prob_{name}" for name in scheme.output_names]].to_numpy(dtype=np.float64)
    wrong = np.asarray(~((values >= 0) & (values <= 1)).all(axis=1), dtype=np.bool_)
    if wrong.any():
        models = known["model"].to_numpy()
        own = models == models[wrong][0]
        raise UserError(
            f"{models[wrong][0]}: {int((wrong & own).sum())} of {int(own.sum())} clips with a target have a "
            "probability that isn't a number in 0..1. The model probably diverged: train it again with a lower "
            "learning rate."
        )


def summarise_model(scores: pd.DataFrame, *, folds: int | None) -> dict[str, Any]:
    """Summarise the participants of one model.

    Args:
        scores: Rows of `participant_scores` of one model.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).

    Returns:
        For each of `INTERVAL_METRICS`, `sensitivity_interval` and `specificity_interval` a dict of mean, low, high, n;
        for each of `MEAN_METRICS` a mean; `scored_per`; `independent` (`unit`: participant, or group where a group
        holds several; `n`: how many of them are scored); `participants` (with at least one scored clip),
        `participants_defined` (with a balanced accuracy), `participants_without_target`; `confusion` (counts over all
        clips, row = true class) and `confusion_normalised` (each row divided by its sum, NaN where a class never
        occurs); `prevalence` (slope, bias; for multiclass targets `per_class`); `per_fold` (fold, participants,
        balanced_accuracy, log_loss: means over its participants), `fold_mean` and `fold_sd` of the balanced accuracies
        of the folds. A predictor that always says one class has no interval (NaN) where all its scores are equal.

        Means and intervals are over groups, each the mean of its participants: where every participant is a group of
        their own, over participants.

        Where `scored_per` is `participants` or `recordings`, each participant is one row with one label, and the
        metrics are over all rows instead (`unit_metrics`): exact binomial intervals, conservative ones for balanced
        accuracy, none (NaN) for F1, AUROC and AUPRC. `folds` doesn't widen them. The slope of the prevalence is NaN
        then: a person is positive or isn't.

    Raises:
        UserError: Rows of no or several models, or a participant that is tested more than once.
    """
    models = scores["model"].unique().tolist()
    if len(models) != 1:
        raise UserError(f"A summary is of one model; got {', '.join(map(str, models)) or 'none'}. Select its rows.")
    repeated = scores.loc[scores["participant_id"].duplicated(), "participant_id"].unique().tolist()
    if repeated:
        raise UserError(
            f"{models[0]}: {', '.join(map(str, repeated[:5]))} tested more than once; each participant counts once, "
            "so give every participant to the test set of one fold only."
        )
    scored = scores[scores["n"] > 0]
    per = str(scores["scored_per"].iloc[0])
    summary = _participant_means(scored, folds=folds) if per == "participant mean" else _over_units(scored)
    counts = confusion_of(scored)
    totals = counts.sum(axis=1, keepdims=True)
    return summary | {
        "scored_per": per,
        "independent": independent_of(scored),
        "participants": len(scored),
        "participants_defined": _num_defined(scored, per=per, summary=summary),
        "participants_without_target": len(scores) - len(scored),
        "confusion": counts.tolist(),
        "confusion_normalised": np.where(totals > 0, counts / np.maximum(totals, 1), np.nan).tolist(),
        "prevalence": _prevalence(scored, per=per),
        **_folds(scored, per=per),
    }


def _participant_means(scored: pd.DataFrame, *, folds: int | None) -> dict[str, Any]:
    counts = summed_counts(scored)
    # Who always says one class has the same F1, recall or specificity with everybody by construction: no sample.
    constant = (counts.sum(axis=0) > 0).sum() == 1 < (counts.sum(axis=1) > 0).sum()

    def interval(name: str) -> dict[str, Any]:
        values = independent_means(scored, name).to_numpy(dtype=np.float64)
        found = participant_interval(values, folds=folds)
        if constant and scored[name].nunique() == 1:
            found = replace(found, low=float("nan"), high=float("nan"))
        return asdict(found)

    summary: dict[str, Any] = {name: interval(name) for name in INTERVAL_METRICS}
    summary |= {f"{name}_interval": interval(name) for name in ("sensitivity", "specificity")}
    return summary | {name: _mean_defined(independent_means(scored, name)) for name in MEAN_METRICS}


def _num_defined(scored: pd.DataFrame, *, per: str, summary: dict[str, Any]) -> int:
    """Participants with a balanced accuracy; where all are scored together, all or none."""
    if per == "participant mean":
        return int(scored["balanced_accuracy"].notna().sum())
    return len(scored) if np.isfinite(summary["balanced_accuracy"]["mean"]) else 0


def _over_units(scored: pd.DataFrame) -> dict[str, Any]:
    metrics = unit_metrics(scored)
    summary: dict[str, Any] = {name: metrics[name] for name in INTERVAL_METRICS}
    summary |= {f"{name}_interval": metrics[name] for name in ("sensitivity", "specificity")}
    shares = {name: metrics[name]["mean"] for name in ("sensitivity", "specificity")}
    return summary | shares | {"false_alarms_per_minute": float("nan"), "log_loss": metrics["log_loss"]}


def _needed_columns(scheme: LabelScheme) -> list[str]:
    outputs = [f"prob_{name}" for name in scheme.output_names]
    segment = ["segment_id"] if scheme.unit == "segment" else []
    return [*KEY_COLUMNS, "recording_id", *segment, "start_s", "end_s", "target", *outputs]


def _score_clips(clips: pd.DataFrame, outputs: list[str], scheme: LabelScheme) -> dict[str, float]:
    targets = clips["target"].to_numpy(dtype=np.int64)
    probabilities = clips[outputs].to_numpy(dtype=np.float64)
    metrics = score_participant(targets, probabilities, scheme)
    predicted = scheme.predicted(probabilities)
    metrics["false_alarms_per_minute"] = float("nan")
    if scheme.kind == "binary" and scheme.unit in ("frame", "segment"):
        metrics["false_alarms_per_minute"] = false_alarms_per_minute(
            targets,
            predicted,
            recording_ids=clips["recording_id"].to_numpy(dtype=object),
            start_s=clips["start_s"].to_numpy(dtype=np.float64),
            end_s=clips["end_s"].to_numpy(dtype=np.float64),
        )
    counts = confusion(targets, predicted, len(scheme.classes))
    return metrics | {f"count_{i}_{j}": int(count) for (i, j), count in np.ndenumerate(counts)}


def _mean_defined(values: pd.Series[Any]) -> float:
    kept = values.dropna().to_numpy(dtype=np.float64)
    return float(kept.mean()) if kept.size else float("nan")


def _prevalence(scores: pd.DataFrame, *, per: str) -> dict[str, Any]:
    def agreement(suffix: str) -> dict[str, float]:
        true, predicted = scores[f"true_prevalence{suffix}"], scores[f"predicted_prevalence{suffix}"]
        result = prevalence_agreement(true.to_numpy(dtype=np.float64), predicted.to_numpy(dtype=np.float64))
        return result if per == "participant mean" else result | {"slope": float("nan")}

    prefix = "true_prevalence_"
    classes = [str(column).removeprefix(prefix) for column in scores if str(column).startswith(prefix)]
    if not classes:
        return dict(agreement(""))
    return {**agreement(""), "per_class": {name: agreement(f"_{name}") for name in classes}}


def _folds(scores: pd.DataFrame, *, per: str) -> dict[str, Any]:
    per_fold = []
    for fold in sorted(scores["fold"].unique().tolist()):
        rows = scores[scores["fold"] == fold]
        means_of_fold = {name: _mean_defined(rows[name]) for name in ("balanced_accuracy", "log_loss")}
        if per != "participant mean":
            means_of_fold["balanced_accuracy"] = balanced_accuracy_of(summed_counts(rows))
        per_fold.append({"fold": int(fold), "participants": len(rows), **means_of_fold})
    means = np.array([row["balanced_accuracy"] for row in per_fold], dtype=np.float64)
    means = means[~np.isnan(means)]
    return {
        "per_fold": per_fold,
        "fold_mean": float(means.mean()) if means.size else float("nan"),
        "fold_sd": float(means.std(ddof=1)) if means.size > 1 else float("nan"),
    }
