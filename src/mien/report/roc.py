"""ROC curves of a run, from its predictions: per participant, or over participants who have one label each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from mien.core.labels import LabelScheme
from mien.evaluation.units import scored_per, unit_predictions
from mien.report import charts

FALSE_ALARM_RATES = np.concatenate([[0.0], np.linspace(0.0, 1.0, 101)])  # 0 twice: a curve starts with a vertical step


def roc_charts(
    comparison: Mapping[str, Any], *, names: Mapping[str, str], predictions: pd.DataFrame
) -> list[tuple[str, str, Markup]]:
    """Draw the ROC curves of every model.

    Args:
        comparison: `comparison.json`; its kind, classes and unit say how predictions are read.
        names: What each model is called on the page.
        predictions: The predictions table of all models.

    Returns:
        Per model its name on the page, whom the curves are of, and the SVG.
    """
    scheme = LabelScheme(
        target=str(comparison.get("target")),
        kind=comparison.get("kind") or "binary",
        classes=tuple(str(name) for name in comparison.get("classes") or ()),
        label_source=str(comparison.get("label_source")),
        unit=comparison.get("unit") or "frame",
    )
    known = predictions[predictions["target"].notna()]
    charted = []
    for index, (name, label) in enumerate(names.items()):
        curves, whose = _curves(known[known["model"] == name], scheme)
        svg = charts.roc_chart(FALSE_ALARM_RATES, curves, name=f"roc{index}", title=f"ROC curves of {label}")
        charted.append((label, whose, Markup(svg)))
    return charted


def _curves(known: pd.DataFrame, scheme: LabelScheme) -> tuple[list[NDArray[np.float64]], str]:
    per = scored_per(known, scheme)
    rows = unit_predictions(known, scheme)
    if per == "participant mean":
        people = [rows for _, rows in rows.groupby("participant_id")]
        curves = [curve for clips in people if (curve := _hit_rates(clips, scheme)) is not None]
        classes = "both classes" if scheme.kind == "binary" else "two or more classes"
        return curves, f"{len(curves)} participants with {classes}"
    curve = _hit_rates(rows, scheme)
    return [] if curve is None else [curve], f"one curve over {len(rows)} participants, each counted once"


def _hit_rates(rows: pd.DataFrame, scheme: LabelScheme) -> NDArray[np.float64] | None:
    """Hit rates at `FALSE_ALARM_RATES`, mean over the classes present; None with one class."""
    targets = rows["target"].to_numpy(dtype=np.int64)
    if np.unique(targets).size < 2:
        return None
    codes = [1] if scheme.kind == "binary" else range(len(scheme.classes))
    curves = []
    for code, name in zip(codes, scheme.output_names, strict=True):
        if (targets == code).any():
            false_rate, hit_rate, _ = roc_curve(targets == code, rows[f"prob_{name}"].to_numpy(dtype=np.float64))
            curve = np.interp(FALSE_ALARM_RATES, false_rate, hit_rate)
            curve[0] = 0.0
            curves.append(curve)
    return np.asarray(np.mean(curves, axis=0))
