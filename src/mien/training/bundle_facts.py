"""What a bundle carries for new recordings: the calibration of its probabilities, and how faces were seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.calibration import fit_calibration
from mien.media.quality import QUALITY_COLUMNS
from mien.runtime.seen_quality import Ranges, seen_ranges
from mien.training.inner_answers import InnerAnswers


def fitted_calibration(inner: InnerAnswers, *, scheme: LabelScheme) -> dict[str, dict[str, Any]]:
    """Fit maps from logits to calibrated probabilities on the inner split, whom the weights never saw.

    Args:
        inner: What the model says of its inner split.
        scheme: Its target; each channel of several has its own map.

    Returns:
        `Calibration.to_json` by output, of several classes by the target (one map for all); empty for numbers.
    """
    if scheme.kind == "continuous":
        return {}
    rows, logits = inner.get()
    people = rows["participant_id"].to_numpy(dtype=object)
    if scheme.kind == "multilabel":
        outputs = {
            name: (logits[:, [place]], rows[f"target_{name}"].to_numpy(dtype=np.float64))
            for place, name in enumerate(scheme.output_names)
        }
    else:
        name = scheme.output_names[0] if scheme.kind == "binary" else scheme.target
        outputs = {name: (logits, rows["target"].to_numpy(dtype=np.float64))}
    maps = {}
    for name, (own, targets) in outputs.items():
        found = fit_calibration(own, targets, people)
        maps[name] = found.to_json()
        if found.note:
            say(f"{name} of this bundle. {found.note}")
    return maps


def trained_quality(dataset: Dataset, *, clips: ClipIndex) -> Ranges:
    """Return how well faces could be seen in the frames that a model was trained on.

    Returns:
        `seen_ranges`; empty where crops aren't of faces: what is around one then counts, too.
    """
    return seen_ranges(_quality_by_participant(dataset, clips=clips)) if dataset.crop == "face" else {}


def _quality_by_participant(dataset: Dataset, *, clips: ClipIndex) -> Iterator[pd.DataFrame]:
    for _, rows in clips.table.groupby("participant_id", sort=True):
        parts = []
        for recording_id, own in rows.groupby("recording_id", sort=True):
            if dataset.has_pictures(str(recording_id)):
                frames = dataset.frames(str(recording_id)).set_index("frame")
                parts.append(frames.loc[own["frame"].unique(), list(QUALITY_COLUMNS)])
        if parts:
            yield pd.concat(parts)
