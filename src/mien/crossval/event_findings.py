"""Events of a comparison: per fold settings chosen on its inner split, applied to its test participants, and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.core.labels import LabelScheme
from mien.core.storage import write_csv
from mien.core.types import Split
from mien.data.dataset import Dataset
from mien.evaluation.comparisons import holm
from mien.evaluation.event_detection import DETECTED_COLUMNS, EDGE_COLUMNS, detect_events
from mien.evaluation.event_scoring import score_events
from mien.evaluation.event_truth import EventTruth, event_truth, why_no_truth
from mien.evaluation.event_tuning import tune_events
from mien.evaluation.events import NULL_DRAWS, sampling_rate, why_too_few

EVENTS_FILE = "events.csv"
STRETCH, ANNOTATED, PREDICTED = "stretch", "annotated", "predicted"
TIME_COLUMNS = ("onset_s", "offset_s", "confidence", *EDGE_COLUMNS)
TABLE_COLUMNS = (
    *("label", "model", "fold", "participant_id", "recording_id", "kind"),
    *TIME_COLUMNS,
)


@dataclass(frozen=True)
class EventFindings:
    """What the models' events are worth.

    Attributes:
        by_model: Per model what `score_events` says, and the `settings` of each fold; empty where
            there are no events.
        table: `TABLE_COLUMNS`: `kind` is `stretch` (annotated time), `annotated`, or `predicted`; only the latter has a
            model, a confidence and ranges.
        reason: Why there are no events; None where there are.
    """

    by_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(TABLE_COLUMNS)))
    reason: str | None = None


def event_findings(
    dataset: Dataset,
    *,
    scheme: LabelScheme,
    splits: Sequence[Split],
    predictions: pd.DataFrame,
    inner: pd.DataFrame,
    names: Sequence[str],
    seed: int,
    draws: int = NULL_DRAWS,
) -> EventFindings:
    """Detect and score the events of a binary target, or of one channel of several on its binary view.

    Args:
        dataset: Whose annotation intervals are the truth.
        scheme: The target.
        splits: The folds.
        predictions: Test predictions of all models.
        inner: Their predictions of the inner splits, by weights that never saw them.
        names: The models.
        seed: Seed of the null that predictions are held against.
        draws: How many draws of it.
    """
    reason = why_no_truth(dataset, scheme.target) or why_too_few(sampling_rate(dataset.samples))
    if reason is not None:
        return EventFindings(reason=reason)
    all_truth = event_truth(dataset, scheme.target)
    truth = all_truth.of(set(predictions["recording_id"]))
    if truth.events.empty:
        return EventFindings(reason=f"No tested recording has an annotated event of {scheme.target!r}.")
    people = predictions.drop_duplicates("recording_id").set_index("recording_id")[["fold", "participant_id"]]
    found, parts = {}, []
    for name in names:
        own, own_inner = (table[table["model"] == name] for table in (predictions, inner))
        detected, settings = _per_fold(own, own_inner, truth=all_truth, scheme=scheme, splits=splits, dataset=dataset)
        scored = score_events(
            detected,
            truth,
            participants=people["participant_id"],
            samples_per_s=sampling_rate(dataset.samples),
            folds=len(splits),
            seed=seed,
            draws=draws,
        )
        found[name] = {**scored, "settings": settings}
        parts.append(_rows(detected, kind=PREDICTED, people=people, model=name))
    _add_holm(found)
    parts += [_rows(truth.stretches, kind=STRETCH, people=people), _rows(truth.events, kind=ANNOTATED, people=people)]
    table = pd.concat(parts, ignore_index=True).assign(label=scheme.target)
    return EventFindings(found, table[list(TABLE_COLUMNS)])


def write_events(out: Path, findings: Sequence[EventFindings]) -> None:
    """Write the events of a run's targets beside its scores, or remove those of an earlier one."""
    tables = [each.table for each in findings if each.reason is None]
    if tables:
        write_csv(out / EVENTS_FILE, pd.concat(tables, ignore_index=True).round(dict.fromkeys(TIME_COLUMNS, 3)))
    else:
        (out / EVENTS_FILE).unlink(missing_ok=True)


def _per_fold(
    predictions: pd.DataFrame,
    inner: pd.DataFrame,
    *,
    truth: EventTruth,
    scheme: LabelScheme,
    splits: Sequence[Split],
    dataset: Dataset,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return one model's events of all test participants, and each fold's settings."""
    column, rate = f"prob_{scheme.output_names[0]}", sampling_rate(dataset.samples)
    parts, chosen = [], []
    for split in splits:
        own = inner[inner["fold"] == split.fold]
        tuned = tune_events(own, truth, column=column, samples_per_s=rate)
        chosen.append({"fold": split.fold, **tuned.to_json()})
        parts.append(detect_events(predictions[predictions["fold"] == split.fold], tuned.settings, column=column))
    return pd.concat(parts, ignore_index=True)[list(DETECTED_COLUMNS)], chosen


def _add_holm(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Add `p_holm` to each F1, corrected for the number of models."""
    for rows in zip(*(scored["f1"] for scored in found.values()), strict=True):
        for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = p


def _rows(events: pd.DataFrame, *, kind: str, people: pd.DataFrame, model: str = "") -> pd.DataFrame:
    named = events.rename(columns={"start_s": "onset_s", "end_s": "offset_s"})
    missing = {name: np.nan for name in ("confidence", *EDGE_COLUMNS) if name not in named}
    return named.assign(
        **missing,
        model=model,
        kind=kind,
        fold=named["recording_id"].map(people["fold"]),
        participant_id=named["recording_id"].map(people["participant_id"]),
    )
