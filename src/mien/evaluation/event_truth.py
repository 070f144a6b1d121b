"""When an expression really began and ended: the annotation's own times, not those of samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.data.dataset import Dataset
from mien.data.targets import TargetSpec, TargetTables, find_target, label_samples, usable
from mien.evaluation.events import EVENT_COLUMNS


@dataclass(frozen=True)
class EventTruth:
    """Annotated events of one target, and where somebody looked for them.

    Attributes:
        events: recording_id, start_s, end_s.
        stretches: The same columns: the times that are annotated, at least one stretch per recording that has any.
    """

    events: pd.DataFrame
    stretches: pd.DataFrame

    def of(self, recording_ids: set[str]) -> EventTruth:
        """Return the truth of some recordings."""
        events, stretches = (
            table[table["recording_id"].isin(recording_ids)].reset_index(drop=True)
            for table in (self.events, self.stretches)
        )
        return EventTruth(events, stretches)

    def within(self, events: pd.DataFrame) -> pd.DataFrame:
        """Cut events to the annotated stretches; an event that reaches over several is one event in each.

        Args:
            events: recording_id, start_s, end_s and anything else, which stays as it is.

        Returns:
            The same columns and `stretch`, the row of `stretches` that each part lies in.
        """
        rows = self.stretches.reset_index(names="stretch").rename(columns={"start_s": "from_s", "end_s": "to_s"})
        both = events.merge(rows, on="recording_id")
        both["start_s"] = both[["start_s", "from_s"]].max(axis=1)
        both["end_s"] = both[["end_s", "to_s"]].min(axis=1)
        inside = both[both["end_s"] > both["start_s"]]
        return inside.drop(columns=["from_s", "to_s"]).reset_index(drop=True)


def why_no_truth(dataset: Dataset, name: str) -> str | None:
    """Say why a target has no events, None where it has.

    Args:
        dataset: The dataset.
        name: The target.
    """
    try:
        spec = find_target(dataset.tables(), name)
    except UserError:
        return f"{name!r} isn't annotated as intervals, so it has no onsets."
    if spec.source != "annotation":
        return f"{name!r} is an attribute of recordings, so it has no onsets."
    if spec.kind != "binary":
        what = "is a number" if spec.kind == "continuous" else f"has {len(spec.classes)} classes"
        return f"{name!r} {what}; events are those of a target that is there or isn't."
    if spec.unit != "frame":
        return f"One label of {name!r} describes a {spec.unit}, so it has no onsets."
    return None


def event_truth(dataset: Dataset, name: str) -> EventTruth:
    """Return the annotated events of a binary target.

    The vote of the coders is what it is for samples (`mien.data.targets.label_samples`), taken at every moment at which
    it could change: the result is exact. Intervals that touch or overlap are one event: the target is there all the
    time. Time that nobody coded, on which coders disagree or, where a tool annotated, without a face, is in no stretch.

    Args:
        dataset: The dataset.
        name: The target.

    Raises:
        UserError: It isn't a binary target of intervals.
    """
    reason = why_no_truth(dataset, name)
    if reason is not None:
        raise UserError(reason)
    tables = dataset.tables()
    spec = find_target(tables, name)
    # Whether the crop shows a face is the model's affair; whether a tool that reads faces could see one isn't.
    moments = dataclasses.replace(tables, samples=_moments(tables, spec), needs_face=False)
    codes = label_samples(moments, spec)
    known = usable(moments, codes, spec=spec)
    parts = moments.samples.assign(code=codes)
    return EventTruth(_runs(parts[known & (codes == 1)]), _runs(parts[known]))


def _moments(tables: TargetTables, spec: TargetSpec) -> pd.DataFrame:
    """Return the stretches of each recording between which a vote could change, as samples: pts_s to end_s."""
    changes = {"annotations": ("onset_s", "offset_s"), "coded": ("from_s", "to_s"), "segments": ("onset_s", "offset_s")}
    annotations = tables.annotations[tables.annotations["scheme"] == spec.name]
    sources = {"annotations": annotations, "coded": tables.coded, "segments": tables.segments}
    times: dict[str, list[NDArray[np.float64]]] = {}
    for key, columns in changes.items():
        for recording_id, rows in sources[key].groupby("recording_id"):
            times.setdefault(str(recording_id), []).append(rows[list(columns)].to_numpy(dtype=np.float64).ravel())
    parts = []
    for recording_id, rows in tables.samples.groupby("recording_id", sort=True):
        pts_s, faces = rows["pts_s"].to_numpy(dtype=np.float64), rows["face_found"].to_numpy(dtype=bool)
        begin_s, end_s = float(pts_s[0]), float(rows["end_s"].iloc[-1])
        appears = pts_s[1:][faces[1:] != faces[:-1]]
        bounds = np.unique(np.concatenate([[begin_s, end_s], appears, *times.get(str(recording_id), [])]))
        bounds = bounds[(bounds >= begin_s) & (bounds <= end_s)]
        shown = faces[np.searchsorted(pts_s, bounds[:-1], side="right") - 1]
        part = pd.DataFrame({"pts_s": bounds[:-1], "end_s": bounds[1:], "face_found": shown})
        parts.append(part.assign(recording_id=str(recording_id), frame=np.arange(len(part))))
    return pd.concat(parts, ignore_index=True)


def _runs(parts: pd.DataFrame) -> pd.DataFrame:
    """Join parts that touch."""
    starts = parts["pts_s"].to_numpy(dtype=np.float64)
    previous = np.append(-np.inf, parts["end_s"].to_numpy(dtype=np.float64)[:-1])[: len(parts)]
    same = (parts["recording_id"] == parts["recording_id"].shift()).to_numpy()
    runs = np.cumsum(~(same & (starts == previous)))
    grouped = parts.groupby(runs, sort=True)
    joined = grouped.agg(recording_id=("recording_id", "first"), start_s=("pts_s", "first"), end_s=("end_s", "last"))
    return joined.reset_index(drop=True)[list(EVENT_COLUMNS)]
