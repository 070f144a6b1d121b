"""Targets of several channels, one channel at a time: each is judged as a binary target of its own.

So the metrics per participant, the tests and the verdict that exist for binary targets hold for every channel as they
are. What belongs to the kind itself stands beside it: `mien.evaluation.multilabel` and `mien.evaluation.continuous`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.evaluation.continuous import continuous_scores
from mien.evaluation.multilabel import choose_thresholds, multilabel_scores
from mien.evaluation.scores import INTERVAL_METRICS, MEAN_METRICS
from mien.evaluation.units import KEY_COLUMNS

CARRIED_COLUMNS = ("clip_id", "recording_id", "segment_id", "participant_id", "group", "start_s", "end_s", "face_found")
"""What a predictions table says of a clip, beside the model's answer and the label."""

SHARES = ("true_prevalence", "predicted_prevalence")


def view_predictions(predictions: pd.DataFrame, *, scheme: LabelScheme, channel: str) -> pd.DataFrame:
    """Return the predictions of one channel as those of a binary target.

    Multilabel: the channel's own probability and logit. Continuous: a number has no probability, and what it should be
    held against is the participant's own level. So each clip's value is replaced by its place among the same model's
    values for that participant, (rank - .5) / n with ties in the middle, which lies within 0..1 and keeps their order:
    AUROC is that of the values themselves, and the threshold .5 asks whether the model puts the moment above its own
    median for that person, as the label (`LabelScheme.view`) says whether the annotation is above its own. It looks at
    all of a person's clips together, so it is a way of scoring, and no probability that a new recording could be given
    moment by moment. A model that says one number throughout has .5 everywhere: no skill.

    Args:
        predictions: The predictions table of a target with channels: model, fold, `CARRIED_COLUMNS`, target_<channel>
            (NaN where nobody annotated) and `scheme.output_columns`.
        scheme: The target.
        channel: One of `scheme.channels`.

    Returns:
        The clips whose label is known, with target (Int64), logit_<output> and prob_<output> of `scheme.view(channel)`.

    Raises:
        UserError: An unknown channel, missing columns, or a predicted value that isn't a finite number.
    """
    _check_channel(predictions, scheme=scheme, channel=channel)
    view = scheme.view(channel)
    output = view.output_names[0]
    known = predictions[predictions[f"target_{channel}"].notna()]
    carried = [name for name in ("run", "model", "fold", *CARRIED_COLUMNS) if name in known]
    table = known[carried].copy()
    labels = known[f"target_{channel}"].astype("float64")
    if scheme.kind == "continuous":
        by_person = [known[name] for name in KEY_COLUMNS]
        # The label is above the participant's own median whatever the model: each has the same clips.
        labels = (labels > labels.groupby(by_person).transform("median")).astype("float64")
        grouped = known[f"value_{channel}"].groupby(by_person)
        place = (grouped.rank(method="average") - 0.5) / grouped.transform("size")
        table[f"logit_{output}"] = np.log(place) - np.log1p(-place)
        table[f"prob_{output}"] = place
    else:
        table[f"logit_{output}"] = known[f"logit_{channel}"]
        table[f"prob_{output}"] = known[f"prob_{channel}"]
    table["target"] = labels.astype("Int64")
    return table


def check_answers(predictions: pd.DataFrame, *, scheme: LabelScheme) -> None:
    """Refuse predictions of a target with channels that can't be scored; called per model it spares the others.

    Args:
        predictions: As for `view_predictions`.
        scheme: The target.

    Raises:
        UserError: Missing columns, or an answer to a known label that isn't a number (in 0..1 for a probability).
    """
    for channel in scheme.channels:
        _check_channel(predictions, scheme=scheme, channel=channel)


def mean_over_channels(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average each participant's scores over the channels for which they are defined.

    Whether a score is defined depends on the labels alone, so a participant's mean is over the same channels for every
    model, and differences between models are fair. Participants differ in which channels they show.

    Args:
        scores: Per channel rows of `participant_scores`, each scored by participant.

    Returns:
        One row per model, fold and participant with the metrics of `INTERVAL_METRICS`, `MEAN_METRICS` and `SHARES`, `n`
        (labels, summed over channels), `positives` and the confusion counts likewise, `group` and `scored_per`.

    Raises:
        UserError: No channel, or one that isn't scored by participant: such scores are no numbers of a participant.
    """
    if not scores:
        raise UserError("There is no channel to average over.")
    for channel, table in scores.items():
        if (table["scored_per"] != "participant mean").any():
            raise UserError(
                f"{channel!r} has one label per {'/'.join(sorted(set(table['scored_per'])))}; compare it as a target "
                "of its own."
            )
    table = pd.concat(scores.values(), ignore_index=True)
    keys = [*KEY_COLUMNS, "group"]
    counts = [str(name) for name in table if str(name).startswith("count_")]
    summed = ["n", "positives", *counts]
    means = list(dict.fromkeys([*INTERVAL_METRICS, *MEAN_METRICS, *SHARES]))
    grouped = table.groupby(keys, sort=True)
    result = grouped[means].mean().join(grouped[summed].sum()).reset_index()
    return result.assign(scored_per="participant mean")


def multilabel_findings(
    predictions: pd.DataFrame,
    inner: pd.DataFrame,
    *,
    channels: Sequence[str],
    splits: Sequence[Split],
) -> dict[str, Any]:
    """Score one model's channels together: F1 at inner thresholds, AP minus prevalence, trivial predictors.

    In each fold the threshold of a channel is the one with the highest F1 on that fold's inner split, by weights that
    never saw it; the fold's tested people are scored at it (`choose_thresholds`, `multilabel_scores`).

    Args:
        predictions: Test predictions of one model.
        inner: Its predictions of the inner splits.
        channels: The channels that are scored.
        splits: The folds.

    Returns:
        What `multilabel_scores` returns, its `channels` as a mapping by name, each with `thresholds` (one per fold, NaN
        where nobody of the inner split shows the channel).
    """
    truth = predictions[[f"target_{name}" for name in channels]].to_numpy(dtype=np.float64)
    limits = np.full(truth.shape, np.nan)
    chosen = []
    for split in splits:
        own = inner[(inner["fold"] == split.fold) & inner["participant_id"].isin(split.validation)]
        values = np.full(len(channels), np.nan)
        if len(own):
            values = choose_thresholds(
                own[[f"target_{name}" for name in channels]].to_numpy(dtype=np.float64),
                own[[f"prob_{name}" for name in channels]].to_numpy(dtype=np.float64),
                own["participant_id"].to_numpy(dtype=object),
                training=split.validation,
            ).values
        chosen.append(values)
        limits[(predictions["fold"] == split.fold).to_numpy()] = values
    found = multilabel_scores(
        truth,
        predictions[[f"prob_{name}" for name in channels]].to_numpy(dtype=np.float64),
        predictions["participant_id"].to_numpy(dtype=object),
        channels=channels,
        thresholds=limits,
        folds=len(splits),
    )
    thresholds = np.array(chosen).T.tolist()
    rows = zip(found["channels"], thresholds, strict=True)
    return found | {"channels": {row["channel"]: row | {"thresholds": values} for row, values in rows}}


def continuous_findings(predictions: pd.DataFrame, *, channels: Sequence[str], folds: int) -> dict[str, dict[str, Any]]:
    """Score one model's numbers: CCC within participants and pooled, RMSE, and the person-mean predictor beside them.

    Args:
        predictions: Test predictions of one model.
        channels: The channels that are scored.
        folds: K of the cross-validation.

    Returns:
        Per channel what `continuous_scores` returns.
    """
    people = predictions["participant_id"].to_numpy(dtype=object)
    return {
        name: continuous_scores(*_pair(predictions, name), people, folds=folds)  # target, prediction
        for name in channels
    }


def _pair(predictions: pd.DataFrame, channel: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        predictions[f"target_{channel}"].to_numpy(dtype=np.float64),
        predictions[f"value_{channel}"].to_numpy(dtype=np.float64),
    )


def _check_channel(predictions: pd.DataFrame, *, scheme: LabelScheme, channel: str) -> None:
    if channel not in scheme.channels:
        raise unknown_name("channel", got=channel, allowed=scheme.channels)
    answer = f"{'value' if scheme.kind == 'continuous' else 'prob'}_{channel}"
    needed = [*KEY_COLUMNS, "recording_id", "start_s", "end_s", f"target_{channel}", f"logit_{channel}", answer]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise UserError(f"The predictions lack the columns {', '.join(missing)}; they need {', '.join(needed)}.")
    known = predictions[predictions[f"target_{channel}"].notna()]
    values = known[answer].to_numpy(dtype=np.float64)
    fine = np.isfinite(values) if scheme.kind == "continuous" else (values >= 0) & (values <= 1)
    if fine.all():
        return
    models = known["model"].to_numpy()
    own = models == models[~fine][0]
    what = "number" if scheme.kind == "continuous" else "probability"
    raise UserError(
        f"{models[~fine][0]}: {int((~fine & own).sum())} of {int(own.sum())} clips with a label of {channel!r} have a "
        f"{what} that isn't a {'finite number' if scheme.kind == 'continuous' else 'number in 0..1'}. The model "
        "probably diverged: train it again with a lower learning rate."
    )
