"""A timeline as an ELAN file, for a person to correct: stretches of one predicted class are annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mien.annotations.elan_writer import write_elan
from mien.core.labels import LabelScheme
from mien.data.exports import PREDICTED_BY
from mien.evaluation.events import events_from_samples
from mien.predict.recording import counted
from mien.runtime.bundle import ModelSpec


def write_elan_timeline(path: Path, timeline: pd.DataFrame, *, spec: ModelSpec, video: Path) -> None:
    """Write a timeline as an ELAN file.

    A binary target is one tier with an annotation wherever it is predicted; a target of several classes is one tier
    whose annotations name the class. Of several channels each has its tier; on that of a number the annotations are the
    times at which it is above its own median in the recording. The annotator says which model predicted, so that a file
    which comes back as it was isn't taken for a person's.

    Args:
        path: The `.eaf` file.
        timeline: As `predict_timeline` returns it.
        spec: The bundle's.
        video: What was predicted; named in the file.
    """
    labels = spec.labels
    intervals = predicted_intervals(timeline, labels=labels)
    vocabularies = {labels.target: labels.classes} if labels.kind == "multiclass" else {}
    annotator = f"{PREDICTED_BY}{spec.label}"
    tiers = [labels.view(name).target for name in labels.channels] or [labels.target]
    write_elan(path, intervals, media=video, annotator=annotator, labels=tiers, vocabularies=vocabularies)


def predicted_intervals(timeline: pd.DataFrame, *, labels: LabelScheme) -> pd.DataFrame:
    """Return the stretches of one predicted class; samples that don't count (no face, or seen badly) are in none.

    Args:
        timeline: Columns recording_id, start_s, end_s and prob_*, or value_* of numbers; `abstained` where it says so.
        labels: The target; of two classes only the second has intervals, of a channel its presence, of numbers those
            above the own median.

    Returns:
        Columns label, onset_s, offset_s, confidence (mean probability of its samples; not of numbers), and value (the
        class) where there are several; sorted by onset.
    """
    if "abstained" in timeline:
        believed = {name: timeline[name].where(counted(timeline)) for name in labels.output_columns}
        return predicted_intervals(timeline.assign(**believed).drop(columns="abstained"), labels=labels)
    if labels.channels:
        parts = [
            predicted_intervals(_channel_timeline(timeline, labels=labels, channel=name), labels=labels.view(name))
            for name in labels.channels
        ]
        found = pd.concat(parts, ignore_index=True).sort_values("onset_s", kind="stable", ignore_index=True)
        return found.drop(columns="confidence") if labels.kind == "continuous" else found
    columns = [f"prob_{name}" for name in labels.output_names]
    probabilities = timeline[columns].to_numpy(dtype=np.float64)
    seen = ~np.isnan(probabilities).any(axis=1)
    codes = np.full(len(timeline), -1)
    codes[seen] = labels.predicted(probabilities[seen])
    classes = [1] if labels.kind == "binary" else range(len(labels.classes))
    parts = []
    for code in classes:
        own = probabilities[:, 0 if labels.kind == "binary" else code]
        events = events_from_samples(timeline.assign(active=(codes == code).astype(float)), column="active")
        starts_s = timeline["start_s"].to_numpy(dtype=np.float64)
        inside = [(starts_s >= a) & (starts_s < b) for a, b in zip(events["start_s"], events["end_s"], strict=True)]
        part = events.rename(columns={"start_s": "onset_s", "end_s": "offset_s"}).drop(columns="recording_id")
        part = part.assign(label=labels.target, confidence=[float(own[rows].mean()) for rows in inside])
        parts.append(part if labels.kind == "binary" else part.assign(value=labels.classes[code]))
    return pd.concat(parts, ignore_index=True).sort_values("onset_s", ignore_index=True)


def _channel_timeline(timeline: pd.DataFrame, *, labels: LabelScheme, channel: str) -> pd.DataFrame:
    """Return the timeline of one channel's binary view; a number is above its median or isn't, with no probability."""
    view = labels.view(channel)
    times = timeline[["recording_id", "start_s", "end_s"]]
    if labels.kind == "multilabel":
        return times.assign(**{f"prob_{channel}": timeline[f"prob_{channel}"]})
    values = timeline[f"value_{channel}"]
    above = (values > values.median()).astype(np.float64).where(values.notna())
    return times.assign(**{f"prob_{view.output_names[0]}": above})
