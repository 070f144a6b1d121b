"""Events of a timeline: when what the model was trained to see begins and ends, and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mien.core.progress import say
from mien.core.storage import write_csv
from mien.evaluation.event_detection import EDGE_COLUMNS, EventSettings, detect_events
from mien.evaluation.event_margins import COVERAGE
from mien.evaluation.events import MIN_SAMPLES_PER_S, sampling_rate, why_too_few
from mien.predict.recording import counted
from mien.runtime.bundle import ModelSpec

EVENT_DIGITS = 3  # ms, a thirtieth of a frame of most cameras
SPARSE_SHARE = 0.75
"""Share of the rate that events need at which they are still made of a recording: of a camera's 24 frames per second
every fifth is taken where 5 samples are asked for, and webcams jitter."""
EVENT_FILE_COLUMNS = ("onset_s", "offset_s", "label", "confidence", *EDGE_COLUMNS)


@dataclass(frozen=True)
class TimelineEvents:
    """The events of one recording.

    Attributes:
        table: `EVENT_FILE_COLUMNS`, by onset; None where there are no events of this model or recording.
        reason: Why there are none; empty where there are.
        of_recording: Whether it is this recording's fault, not the bundle's.
    """

    table: pd.DataFrame | None
    reason: str = ""
    of_recording: bool = False


def why_no_events(spec: ModelSpec) -> str | None:
    """Say why a bundle predicts no events, None where it does."""
    labels = spec.labels
    if labels.kind not in ("binary", "multilabel"):
        what = "is a number" if labels.kind == "continuous" else f"has {len(labels.classes)} classes"
        return f"No events: {labels.target} {what}; events are those of a target that is there or isn't."
    if labels.unit != "frame":
        return f"No events: one label of {labels.target} describes a {labels.unit}, so it has no onsets."
    if why_too_few(spec.sampling.fps) is not None:
        return (
            f"No events: {spec.label} looks at {spec.sampling.fps:g} frames per second, and many expressions last less "
            f"than a second. Train it on a dataset that was prepared with --fps {MIN_SAMPLES_PER_S:g} or more."
        )
    return None


def announce_events(spec: ModelSpec) -> None:
    """Say once for all videos that there are no events, or that their ranges promise less than `COVERAGE`."""
    reason = why_no_events(spec)
    if reason is not None:
        say(reason)
        return
    own = {name: spec.events.get(name) for name in spec.labels.output_names}
    untuned = [name for name, found in own.items() if found is None or (found.get("inner") or {}).get("note")]
    if untuned:
        say(
            f"Events of {', '.join(untuned)} are made with the default settings, whose ranges promise no share: "
            "the bundle holds none that were chosen for it."
        )
    for name, found in own.items():
        inner = (found or {}).get("inner") or {}
        if name in untuned or inner.get("edge_coverage") == COVERAGE:
            continue
        if "edge_coverage" not in inner:
            say(
                f"Ranges of the edges of {name} are those of an earlier mien, which held less often than in "
                f"{100 * COVERAGE:.0f} % of events. Train the bundle again."
            )
        else:
            say(
                f"Ranges of the edges of {name} were fitted on {inner['edge_participants']} people: they promise "
                f"{100 * inner['edge_coverage']:.0f} % of a new person's true edges, not {100 * COVERAGE:.0f} %."
            )


def timeline_events(timeline: pd.DataFrame, *, spec: ModelSpec) -> TimelineEvents:
    """Make the events of a timeline with the settings of its bundle (docs/events.md says how).

    Args:
        timeline: As `predict_timeline` returns it.
        spec: The bundle's.
    """
    reason = why_no_events(spec)
    if reason is not None:
        return TimelineEvents(None, reason)
    if why_too_few(sampling_rate(timeline) / SPARSE_SHARE) is not None:
        frames = f"{len(timeline)} sampled frames, fewer than {MIN_SAMPLES_PER_S:g} per second of recording"
        return TimelineEvents(None, f"No events: {frames}.", of_recording=True)
    # What the model doesn't know well enough to be believed is as if nothing had been seen.
    columns = [f"prob_{name}" for name in spec.labels.output_names]
    believed = timeline.assign(**{name: timeline[name].where(counted(timeline)) for name in columns})
    parts = []
    for name in spec.labels.output_names:
        own = spec.events.get(name)
        settings = EventSettings() if own is None else EventSettings.from_json(own)
        parts.append(detect_events(believed, settings, column=f"prob_{name}").assign(label=name))
    found = pd.concat(parts, ignore_index=True).rename(columns={"start_s": "onset_s", "end_s": "offset_s"})
    ordered = found.sort_values(["onset_s", "label"], kind="stable", ignore_index=True)
    return TimelineEvents(ordered[list(EVENT_FILE_COLUMNS)])


def write_events(path: Path, events: TimelineEvents, *, video: Path) -> str | None:
    """Write the events of a video and return the path; without any that can be said, remove those of an earlier model.

    Args:
        path: The CSV.
        events: From `timeline_events`.
        video: Named where it's the recording that is sampled too rarely.
    """
    if events.table is not None:
        write_csv(path, events.table.round(EVENT_DIGITS))
        return str(path)
    path.unlink(missing_ok=True)
    if events.of_recording:
        say(f"{video.name}: {events.reason}")
    return None
