"""A timeline as an ELAN file, for a person to correct: events are annotations, or else stretches of one class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mien.annotations.elan_writer import write_elan
from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.data.exports import PREDICTED_BY
from mien.evaluation.events import events_from_samples
from mien.predict.recording import counted
from mien.predict.timeline_events import EVENT_DIGITS, TimelineEvents, why_no_events
from mien.runtime.bundle import ModelSpec


def write_elan_timeline(
    path: Path, timeline: pd.DataFrame, *, spec: ModelSpec, video: Path, events: TimelineEvents
) -> None:
    """Write a timeline as an ELAN file.

    A target whose bundle has settings of events is one tier with the events that `<name>.events.csv` holds, from onset
    to offset. Without them (`announce_elan` says so) an annotation is a stretch of one predicted class: of a binary
    target where its probability is at least .5; a target of several classes is one tier whose annotations name the
    class. Of several channels each has its tier; on that of a number the annotations are the times at which it is above
    its own median in the recording. The annotator says which model predicted, so that a file which comes back as it was
    isn't taken for a person's.

    Args:
        path: The `.eaf` file.
        timeline: As `predict_timeline` returns it.
        spec: The bundle's.
        video: What was predicted; named in the file.
        events: Of this timeline, from `timeline_events`.
    """
    labels = spec.labels
    intervals = predicted_intervals(timeline, labels=labels)
    tiers = _event_tiers(spec)
    if tiers and events.table is not None:
        own = events.table[events.table["label"].isin(tiers)].round(EVENT_DIGITS)
        own = own.assign(label=own["label"].map(tiers))[["label", "onset_s", "offset_s", "confidence"]]
        others = intervals[~intervals["label"].isin(tiers.values())]
        intervals = pd.concat([own, others]).sort_values("onset_s", kind="stable", ignore_index=True)
    elif tiers:
        say(f"{path.name} holds stretches with a probability of .5 or more instead of events. {events.reason}")
    vocabularies = {labels.target: labels.classes} if labels.kind == "multiclass" else {}
    annotator = f"{PREDICTED_BY}{spec.label}"
    names = [labels.view(name).target for name in labels.channels] or [labels.target]
    write_elan(path, intervals, media=video, annotator=annotator, labels=names, vocabularies=vocabularies)


def announce_elan(spec: ModelSpec) -> None:
    """Say once for all videos which tiers will hold stretches of one predicted class instead of events."""
    tiers = _event_tiers(spec)
    without = [name for name in spec.labels.output_names if name not in tiers]
    if not without:
        return
    if spec.labels.kind == "binary" or spec.labels.kind == "multilabel":
        what = f"stretches in which the probability of {', '.join(without)} is .5 or more"
    elif spec.labels.kind == "continuous":
        what = f"stretches in which {', '.join(without)} is above its median"
    else:
        what = f"stretches of the likeliest class of {spec.labels.target}"
    say(f"ELAN files hold {what}, not events: the bundle has no settings for these.")


def _event_tiers(spec: ModelSpec) -> dict[str, str]:
    """Return the tier of each output whose events the bundle has settings for."""
    if why_no_events(spec) is not None:
        return {}
    labels = spec.labels
    names = labels.output_names
    tiers = names if labels.channels else (labels.target,)
    return {name: tier for name, tier in zip(names, tiers, strict=True) if name in spec.events}


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
