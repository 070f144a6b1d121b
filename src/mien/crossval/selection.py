"""The selected pipeline: what choosing the best of several models really gives.

The best of several scores is flattered by the choice (picking the best of 6 equal models adds about .03 at 20
participants). Here the choice is part of what is tested: in each fold the model is taken that is best on the inner
split, which no weights saw, and only that model's predictions of the fold's test participants count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mien.core.labels import LabelScheme
from mien.evaluation.scores import participant_scores, summarise_model
from mien.evaluation.views import mean_over_channels
from mien.models.choice import ModelChoice

SELECTED = "selected"
"""Name of the row in every table."""


def choose_per_fold(
    inner: pd.DataFrame, *, scheme: LabelScheme, choices: Sequence[ModelChoice]
) -> list[dict[str, Any]]:
    """Choose a model in each fold by its balanced accuracy on the inner split.

    Args:
        inner: Predictions of the inner splits: model, fold, and what a predictions table holds.
        scheme: The target.
        choices: The models in the order in which ties are resolved: the first of equals is the simplest listed.

    Returns:
        Per fold: fold, model, label, inner_score (None where no participant of the inner split has all classes in
        any model; the first model is taken then).
    """
    tables = dict(iter(inner.groupby("fold", sort=True)))

    def scores_in(fold: int, choice: ModelChoice) -> pd.DataFrame:
        rows = tables[fold]
        return participant_scores(rows[rows["model"] == choice.text], scheme)

    return _chosen([int(str(fold)) for fold in tables], choices=choices, scores_in=scores_in)


def choose_over_channels(
    inner: Mapping[str, pd.DataFrame],
    *,
    schemes: Mapping[str, LabelScheme],
    folds: Sequence[int],
    choices: Sequence[ModelChoice],
) -> list[dict[str, Any]]:
    """Choose a model in each fold for all channels, by the mean over channels of its balanced accuracy.

    Args:
        inner: Per channel its binary predictions of the inner splits.
        schemes: Per channel its binary view.
        folds: Numbers of the folds.
        choices: The models, as for `choose_per_fold`.

    Returns:
        As `choose_per_fold`.
    """

    def scores_in(fold: int, choice: ModelChoice) -> pd.DataFrame:
        own = {
            channel: participant_scores(rows, schemes[channel])
            for channel, table in inner.items()
            if len(rows := table[(table["fold"] == fold) & (table["model"] == choice.text)])
        }
        return mean_over_channels(own) if own else pd.DataFrame()

    return _chosen(folds, choices=choices, scores_in=scores_in)


def _chosen(
    folds: Sequence[int], *, choices: Sequence[ModelChoice], scores_in: Callable[[int, ModelChoice], pd.DataFrame]
) -> list[dict[str, Any]]:
    chosen = []
    for fold in folds:
        best, best_score = choices[0], float("-inf")
        for choice in choices:
            own = scores_in(fold, choice)
            score = summarise_model(own, folds=None)["balanced_accuracy"]["mean"] if len(own) else float("nan")
            if np.isfinite(score) and score > best_score:
                best, best_score = choice, float(score)
        known = best_score if np.isfinite(best_score) else None
        chosen.append({"fold": fold, "model": best.text, "label": best.label, "inner_score": known})
    return chosen


def selected_predictions(predictions: pd.DataFrame, *, chosen: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the test predictions of the model that was chosen in each fold, as those of one model."""
    parts = [
        predictions[(predictions["fold"] == item["fold"]) & (predictions["model"] == item["model"])] for item in chosen
    ]
    table: pd.DataFrame = pd.concat(parts, ignore_index=True).assign(model=SELECTED)
    return table
