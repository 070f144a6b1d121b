"""The clips of a target: which sampled frames can be used, with their labels, and why the others can't."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import NothingToLearnError, UserError
from mien.core.labels import LabelScheme
from mien.data.dataset import Dataset
from mien.data.segments import segments_of
from mien.data.targets import TargetSpec, TargetTables, find_target, label_samples, usable
from mien.data.votes import DISAGREEMENT, REASONS, Codes

NO_FACE = "no face found"
NO_PICTURE = "recording without a picture"

CLIP_COLUMNS = (
    "clip_id",
    "recording_id",
    "participant_id",
    "group",
    "frame",
    "start_s",
    "end_s",
    "target",
    "face_found",
    "source_id",
    "segment",
    "segment_id",
)


@dataclass(frozen=True)
class ClipIndex:
    """The clips of one target.

    Attributes:
        scheme: The target's classes.
        table: `CLIP_COLUMNS`, one row per usable frame, by recording and time: `frame` is its row in the recording's
            crops, [start_s, end_s) its time, `target` its class code, `source_id` the sample that it is derived from,
            `segment` the name and `segment_id` the one occurrence of the segment that its time is in (empty: none).
        excluded: What was left out: reason, count (frames) and recordings (how many are touched).
    """

    scheme: LabelScheme
    table: pd.DataFrame
    excluded: pd.DataFrame


def build_clips(dataset: Dataset, *, target: str) -> ClipIndex:
    """Return the clips of a target.

    A frame is positive where an interval of the target contains its time; of several coders, where most of them have
    one. It is left out where its recording isn't annotated at all, nobody coded that time, coders are split evenly, it
    is in no segment though one label describes a segment, no face was found (under `crop=face`, or where a tool that
    reads faces annotated), or its class isn't known.

    Args:
        dataset: A prepared study.
        target: An annotation scheme or an attribute.

    Raises:
        UserError: No recording with a picture, an unknown target, one that isn't a category, that never varies, that
            no frame can be used for, that varies within what the study calls its unit, or a unit `segment` in a study
            without segments.
    """
    tables = dataset.tables()
    spec = find_target(tables, target)
    _check_pictures(tables)
    _check_segments(tables, spec)
    codes = label_samples(tables, spec)
    kept = usable(tables, codes, spec=spec)
    excluded = _excluded(tables, codes, kept=kept)
    _check_varies(dataset, spec, codes=codes[kept], excluded=excluded)
    scheme = LabelScheme(
        target=spec.name,
        kind=spec.kind,
        classes=spec.classes,
        # Nobody annotated an attribute: the study's table says it.
        label_source="attribute" if spec.source == "attribute" else tables.source_of(spec.name),
        unit=spec.unit,
    )
    table = _clip_table(tables, codes=codes, kept=kept)
    _check_unit(table, scheme)
    return ClipIndex(scheme=scheme, table=table, excluded=excluded)


def _check_pictures(tables: TargetTables) -> None:
    if (tables.recordings["num_frames"] > 0).any():
        return
    count = len(tables.recordings)
    what = "The only recording has no" if count == 1 else f"None of the {count} recordings has a"
    raise UserError(f"{what} picture, and the models of this version look at pictures only.")


def _check_segments(tables: TargetTables, spec: TargetSpec) -> None:
    if spec.unit == "segment" and tables.segments.empty:
        raise UserError(
            f"study.yaml says unit: segment, one label of {spec.name!r} per segment, but the study has no segments. "
            "Add segments.csv beside study.yaml (columns recording, onset_s, offset_s, segment; optional stimulus), or "
            "set unit: frame, and prepare the study again."
        )


def _clip_table(tables: TargetTables, *, codes: Codes, kept: NDArray[np.bool_]) -> pd.DataFrame:
    samples = tables.samples[kept]
    samples = samples.join(segments_of(samples, tables.segments)).rename(columns={"pts_s": "start_s"})
    table = samples.merge(
        tables.recordings[["recording_id", "participant_id", "group"]], on="recording_id", how="left", sort=False
    )
    clip_id = [
        f"{recording_id}@{start_s:.3f}"
        for recording_id, start_s in zip(table["recording_id"], table["start_s"], strict=True)
    ]
    return table.assign(clip_id=clip_id, source_id=clip_id, target=codes[kept])[list(CLIP_COLUMNS)]


def _excluded(tables: TargetTables, codes: Codes, *, kept: NDArray[np.bool_]) -> pd.DataFrame:
    recordings = tables.samples["recording_id"]
    faceless = (codes >= 0) & ~kept
    masks = {reason: codes == code for code, reason in REASONS.items()} | {NO_FACE: faceless}
    rows = [(reason, int(mask.sum()), int(recordings[mask].nunique())) for reason, mask in masks.items() if mask.any()]
    num_sounds = int((tables.recordings["num_frames"] == 0).sum())
    if num_sounds:
        rows.append((NO_PICTURE, 0, num_sounds))
    return pd.DataFrame(rows, columns=["reason", "count", "recordings"])


def _check_varies(dataset: Dataset, spec: TargetSpec, *, codes: Codes, excluded: pd.DataFrame) -> None:
    if not len(codes):
        reasons = "; ".join(
            f"{row['reason']}: {row['count']} frames in {row['recordings']} recordings"
            for row in excluded.to_dict("records")
        )
        raise UserError(f"No frame can be used for the target {spec.name!r} ({reasons or 'there are no frames'}).")
    present = np.unique(codes)
    if len(present) > 1:
        return
    others = ", ".join(summary.name for summary in dataset.targets() if summary.varies) or "none"
    ties = excluded.loc[excluded["reason"] == REASONS[DISAGREEMENT], "count"].sum()
    split = f" In {ties} frames coders are split evenly; 'annotator: NAME' in study.yaml takes one's." if ties else ""
    prevalence = f" (prevalence {100 * present[0]:.0f} %)" if spec.kind == "binary" else ""
    raise NothingToLearnError(
        f"Refused as a target: {spec.name!r} never varies: all {len(codes)} usable frames are "
        f"{spec.classes[present[0]]!r}{prevalence}, so nothing can be learnt from it. Targets that vary: {others}."
        f"{split}"
    )


def _check_unit(table: pd.DataFrame, scheme: LabelScheme) -> None:
    """Refuse a label that varies within what it is said to describe, before hours are spent on fits."""
    if scheme.unit == "frame":
        return
    column = f"{scheme.unit}_id"
    varies = table.groupby(column, sort=True)["target"].nunique() > 1
    if not varies.any():
        return
    first = varies.index[varies][0]
    own = table[table[column] == first]
    counts = own["target"].value_counts().sort_index()
    shown = ", ".join(f"{count} of {scheme.classes[int(code)]!r}" for code, count in counts.items())
    constant = bool((table.groupby("recording_id")["target"].nunique() <= 1).all())
    rest = "recording" if constant else "frame (or segment, where one label describes a stretch of time)"
    mend = "mend the annotations"
    if scheme.unit == "segment":
        first = f"{first} ({own['segment'].iloc[0]}, {own['start_s'].min():.1f}-{own['end_s'].max():.1f} s)"
        rest, mend = "frame", "let annotations and segments start and end together"
    raise UserError(
        f"study.yaml says unit: {scheme.unit}, one label per {scheme.unit}, but {scheme.target!r} varies within "
        f"{int(varies.sum())} of {len(varies)} {scheme.unit}s: {first} has clips {shown}. Set unit: {rest} and prepare "
        f"the study again, or {mend}."
    )
