"""What a report shows of events: how many were found, how far off their edges are, and some of them over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from mien.report import charts

EVENTS_FILE = "events.csv"
SHOWN_PEOPLE = 6
SHOWN_S = 120.0
"""Of longer recordings the picture shows so much, from shortly before the first annotated event."""
BEFORE_S = 5.0


def read_events(run: Path) -> pd.DataFrame | None:
    """Return the events of a run; None where it has none."""
    path = run / EVENTS_FILE
    if not path.is_file():
        return None
    text = dict.fromkeys(("label", "model", "participant_id", "recording_id", "kind"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"confidence": [""], "fold": [""]})


def event_context(
    comparison: Mapping[str, Any], *, names: Mapping[str, str], table: pd.DataFrame | None, prefix: str = "events"
) -> dict[str, Any]:
    """Return what the template `events.html.j2` shows, under `events` and `no_events`.

    Args:
        comparison: `comparison.json`, or one channel of it: target, unit, models, recommended, no_events; absent keys
            null.
        names: What each model is called on the page.
        table: The events of the run; None where there are none.
        prefix: Of ids in the picture, unique on the page.
    """
    scored = [model for model in comparison["models"] or [] if model["events"]]
    reason = comparison["no_events"] if comparison["unit"] == "frame" else None
    if not scored:
        return {"events": None, "no_events": reason}
    rows = [{"label": names[str(model["name"])], **model["events"]} for model in scored]
    recommended = (comparison["recommended"] or {}).get("name")
    shown = next((model for model in scored if model["name"] == recommended), scored[0])
    picture = None
    if table is not None:
        own = table[table["label"] == str(comparison["target"])]
        label = names[str(shown["name"])]
        picture = _picture(own, model=str(shown["name"]), label=label, prefix=prefix)
    first = rows[0]
    return {
        "events": {
            "rows": rows,
            "ious": [row["iou"] for row in first["f1"]],
            "facts": first,
            "shown": names[str(shown["name"])],
            "picture": picture,
            "target": comparison["target"],
        },
        "no_events": None,
    }


def _picture(table: pd.DataFrame, *, model: str, label: str, prefix: str) -> Markup | None:
    """Draw the events of people evenly spread over the ordered ids: nobody chose who is shown."""
    annotated, predicted = table[table["kind"] == "annotated"], table[table["model"] == model]
    people = sorted(annotated["participant_id"].unique())
    if not people:
        return None
    places = np.unique(np.linspace(0, len(people) - 1, min(SHOWN_PEOPLE, len(people))).round().astype(int))
    rows = []
    for person in (people[place] for place in places):
        recording = annotated.loc[annotated["participant_id"] == person, "recording_id"].iloc[0]
        true, found = (part[part["recording_id"] == recording] for part in (annotated, predicted))
        looked = table[(table["recording_id"] == recording) & (table["kind"] == "stretch")]
        begin_s, end_s = float(looked["onset_s"].min()), float(looked["offset_s"].max())
        if end_s - begin_s > SHOWN_S:
            begin_s = max(begin_s, float(true["onset_s"].min()) - BEFORE_S)
        end_s = min(end_s, begin_s + SHOWN_S)
        spans = [_within(part, begin_s=begin_s, end_s=end_s) for part in (looked, true, found)]
        rows.append((str(person), spans[0], spans[1], spans[2]))
    return Markup(charts.event_chart(rows, name=prefix, title=f"Annotated events and those that {label} predicts"))


def _within(events: pd.DataFrame, *, begin_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return the part of events that is shown: onset and offset, s since the begin."""
    spans = np.clip(events[["onset_s", "offset_s"]].to_numpy(dtype=np.float64), begin_s, end_s) - begin_s
    return [(float(onset), float(offset)) for onset, offset in spans if offset > onset]
