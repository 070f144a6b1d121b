"""Overfitting: how much worse the loss is on the inner validation participants than on the training participants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

# The design's rule: a model whose validation loss exceeds its training loss by more than this is flagged.
OVERFITTING_GAP_PERCENT = 20.0

Epoch = Mapping[str, Any]


def overfitting(histories: Mapping[int, Sequence[Epoch]]) -> dict[str, Any] | None:
    """Measure the loss gap of one model over its folds.

    The gap is 100 * (validation - training) / training, at the epoch with the lowest validation loss (the one whose
    weights are kept) and at the last epoch. Both losses are measured alike: at the end of the epoch, without dropout
    and augmentation, on as many training frames as there are validation frames (the running mean of the steps, which
    is measured with both on, is `running_loss` and isn't used here). So a healthy gap is near 0, either way; near a
    training loss of 0 the percentage grows without meaning much.

    Args:
        histories: Per fold its epochs in order (all phases after each other), each with `train_loss` and
            `validation_loss`; an epoch without both, as numbers, is left out. Folds without epochs are left out.

    Returns:
        `gap_percent` and `last_gap_percent` (medians over folds, at the kept and at the last epoch), `detected`
        (`gap_percent` above `OVERFITTING_GAP_PERCENT`), `per_fold` (fold, best_epoch counted from 0 over all phases,
        epochs, gap_percent, last_gap_percent). None where no fold has a history: a probe that is solved, not trained.

    >>> result = overfitting({0: [{"train_loss": 0.5, "validation_loss": 0.55}]})
    >>> round(result["gap_percent"], 1), result["detected"]
    (10.0, False)
    """
    per_fold = [row for fold, history in sorted(histories.items()) if (row := _fold_gap(fold, history)) is not None]
    if not per_fold:
        return None
    gap = _median_of(per_fold, "gap_percent")
    return {
        "gap_percent": gap,
        "detected": gap > OVERFITTING_GAP_PERCENT,
        "last_gap_percent": _median_of(per_fold, "last_gap_percent"),
        "per_fold": per_fold,
    }


def best_epoch(history: Sequence[Epoch]) -> int | None:
    """Return the index of the epoch with the lowest validation loss (the first of equals), None where there is none."""
    losses = [
        (loss, index) for index, epoch in enumerate(history) if (loss := _loss(epoch, "validation_loss")) is not None
    ]
    return min(losses)[1] if losses else None


def _fold_gap(fold: int, history: Sequence[Epoch]) -> dict[str, Any] | None:
    complete = [
        (index, epoch)
        for index, epoch in enumerate(history)
        if _loss(epoch, "train_loss") is not None and _loss(epoch, "validation_loss") is not None
    ]
    chosen = best_epoch([epoch for _, epoch in complete])
    if chosen is None:
        return None
    best_index, best = complete[chosen]
    return {
        "fold": fold,
        "best_epoch": best_index,
        "epochs": len(history),
        "gap_percent": _gap_percent(best),
        "last_gap_percent": _gap_percent(complete[-1][1]),
    }


def _gap_percent(epoch: Epoch) -> float:
    train, validation = float(epoch["train_loss"]), float(epoch["validation_loss"])
    return 100.0 * (validation - train) / train if train > 0 else float("nan")


def _loss(epoch: Epoch, key: str) -> float | None:
    value = epoch.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _median_of(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [row[key] for row in rows if math.isfinite(row[key])]
    return float(median(values)) if values else float("nan")
