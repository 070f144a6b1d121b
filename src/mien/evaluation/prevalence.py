"""What a model's scores would be if the expression were rarer or more frequent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mien.core.errors import UserError

PREVALENCES = (0.0, 0.1, 0.3, 0.7, 1.0)


def prevalence_sweep(
    scores: pd.DataFrame, *, prevalences: Sequence[float] = PREVALENCES
) -> list[dict[str, float]] | None:
    """Score a model's predictions at other shares of positive clips (binary targets), mean over participants.

    Each participant's positive clips get weights that sum to the prevalence, the negative ones weights that sum to the
    rest: what drawing clips at that prevalence gives on average, without the chance of a draw. With the sensitivity s
    and specificity c of the participant, at prevalence q: accuracy is q s + (1 - q) c, predicted prevalence
    d = q s + (1 - q) (1 - c), and F1 is 2 q s / (q + d). Balanced accuracy is the same at every prevalence.

    Only participants with both classes count, so that the same people stand behind every prevalence.

    The predictions stay as they are. That leaves out what a personal baseline does: subtracting the mean over a whole
    recording takes away part of the expression itself, the more of it there is, so sensitivity falls as prevalence
    rises. To see that, the features would have to be drawn anew, not their predictions: for a model with a personal
    baseline this sweep is too good at high prevalences.

    Args:
        scores: Rows of `participant_scores` of one model.
        prevalences: Shares of positive clips, each 0..1.

    Returns:
        Per prevalence `prevalence`, `accuracy`, `f1` (NaN at 0: there is nothing to find), `predicted_prevalence` and
        `participants` (how many have both classes; with none, the scores are NaN). None where a sweep has no meaning:
        several classes, or one label per participant.

    Raises:
        UserError: Rows of no or several models, or a prevalence outside 0..1.
    """
    models = scores["model"].unique().tolist()
    if len(models) != 1:
        raise UserError(f"A sweep is of one model; got {', '.join(map(str, models)) or 'none'}. Select its rows.")
    wrong = [value for value in prevalences if not 0.0 <= value <= 1.0]
    if wrong:
        raise UserError(f"Prevalences {', '.join(f'{value:g}' for value in wrong)} aren't shares; allowed: 0..1.")
    multiclass = bool((scores["n"] > 0).any()) and bool(scores["positives"].isna().all())
    if multiclass or scores["scored_per"].iloc[0] != "participant mean":
        return None
    rates = scores[["sensitivity", "specificity"]].dropna().to_numpy(dtype=np.float64)
    return [_at(float(value), sensitivity=rates[:, 0], specificity=rates[:, 1]) for value in prevalences]


def _at(prevalence: float, *, sensitivity: np.ndarray, specificity: np.ndarray) -> dict[str, float]:
    found = prevalence * sensitivity
    predicted = found + (1.0 - prevalence) * (1.0 - specificity)
    f1 = 2.0 * found / (prevalence + predicted) if prevalence > 0 else np.full(found.shape, np.nan)
    accuracy = found + (1.0 - prevalence) * specificity
    means = {"accuracy": accuracy, "f1": f1, "predicted_prevalence": predicted}
    return {
        "prevalence": prevalence,
        **{name: float(values.mean()) if values.size else float("nan") for name, values in means.items()},
        "participants": len(sensitivity),
    }
