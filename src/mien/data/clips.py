"""The clips of a target: which sampled frames can be used, with their labels, and why the others can't."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import NothingToLearnError, UserError
from mien.core.labels import LabelScheme, joined_source
from mien.data.dataset import Dataset
from mien.data.perceivable import NO_PICTURE, check_there, lacking, usual_needs
from mien.data.segments import segments_of
from mien.data.target_lists import SEPARATOR, AskedTarget, channel_values, find_asked
from mien.data.targets import TargetSpec, TargetTables, label_samples, usable
from mien.data.votes import DISAGREEMENT, REASONS, Codes

NO_FACE = "no face found"

MOST_STRATA = 3
"""Of several channels: frames that show so many or more are alike to the folds. Rarer counts can't be spread evenly."""

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
            Where the target has channels, `scheme.target_columns` hold their labels (float, NaN where missing), a frame
            is usable where one of them is known, and `target` is what folds are stratified by: how many channels are
            there (at most `MOST_STRATA`), or whether the first number is above the participant's own median.
        excluded: What was left out: reason, count (frames) and recordings (how many are touched).
        channel_excluded: The same of each channel; empty without channels.
    """

    scheme: LabelScheme
    table: pd.DataFrame
    excluded: pd.DataFrame
    channel_excluded: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def view(self, channel: str) -> ClipIndex:
        """Return the binary index of one channel: the frames where it is known, as `LabelScheme.view` judges them.

        Raises:
            UserError: There is no such channel.
        """
        scheme = self.scheme.view(channel)
        values = self.table[f"target_{channel}"]
        known = self.table[values.notna()].drop(columns=list(self.scheme.target_columns))
        values = values[values.notna()]
        if self.scheme.kind == "continuous":
            values = above_own_median(values, participants=known["participant_id"])
        table = known.assign(target=values.astype(np.int64)).reset_index(drop=True)
        return ClipIndex(scheme, table, self.channel_excluded.get(channel, self.excluded))

    def only(self, channels: Sequence[str]) -> ClipIndex:
        """Return the index of some of the channels, in the order of the scheme: what is left when others are dropped.

        Raises:
            UserError: There is no such channel, or none is named.
        """
        for channel in channels:
            self.scheme.view(channel)
        kept = [name for name in self.scheme.channels if name in set(channels)]
        if not kept:
            raise UserError(f"No channel of {self.scheme.target!r} is left.")
        if len(kept) == len(self.scheme.channels):
            return self
        sources = tuple(self.scheme.source_of(name) for name in kept)
        differ = len(set(sources)) > 1
        scheme = replace(
            self.scheme,
            target=SEPARATOR.join(kept),
            classes=tuple(kept),
            label_source=joined_source(sources),
            sources=sources if differ else (),
        )
        dropped = [name for name in self.scheme.target_columns if name not in scheme.target_columns]
        table = self.table.drop(columns=dropped)
        table = table[table[list(scheme.target_columns)].notna().any(axis=1)].reset_index(drop=True)
        table["target"] = _strata(table, scheme)
        return ClipIndex(scheme, table, self.excluded, {name: self.channel_excluded[name] for name in kept})


def build_clips(
    dataset: Dataset,
    *,
    target: str,
    needs: Collection[str] | None = None,
    constant: Literal["refused", "kept"] = "refused",
) -> ClipIndex:
    """Return the clips of a target.

    A frame is positive where an interval of the target contains its time; of several coders, where most of them have
    one. It is left out where its recording isn't annotated at all, nobody coded that time, coders are split evenly, it
    is in no segment though one label describes a segment, no face was found (under `crop=face`, or where a tool that
    reads faces annotated), its recording lacks what is needed, or its class isn't known. Of a recording of sound alone
    the moments are clips (`Dataset.frames`), in which no face is needed.

    Of several targets asked for together a frame is a clip where one of them is known.

    Args:
        dataset: A prepared study.
        target: An annotation scheme, an attribute or a tool's channel; several separated by commas, or `all`
            (`mien.data.target_lists`).
        needs: Of `video` and `audio`, what every clip has to have, so that all models are scored on the same ones; None
            for what is usual, the picture, or the sound where no recording has a picture.
        constant: What becomes of a target that never varies. The audit keeps it, to say all that is wrong with it.

    Raises:
        UserError: No recording with what is needed, an unknown target, one that isn't a category, that never varies,
            that no frame can be used for, that varies within what the study calls its unit, or a unit `segment` in a
            study without segments.
    """
    tables = dataset.tables()
    asked = find_asked(tables, target)
    spec = asked.specs[0]
    needs = usual_needs(dataset) if needs is None else needs
    check_there(dataset, needs=needs)
    for each in asked.specs:
        _check_segments(tables, each)
    if asked.has_channels:
        clips = _channel_clips(dataset, tables, asked, needs=needs, constant=constant)
        for channel in clips.scheme.channels:
            _check_unit(clips.view(channel))
        return clips
    codes = label_samples(tables, spec)
    kept = usable(tables, codes, spec=spec)
    without = lacking(dataset, tables.samples["recording_id"], needs=needs)
    excluded = _excluded(tables, codes, kept=kept, without=without)
    kept = kept & ~np.any(list(without.values()), axis=0)
    _check_any(spec.name, count=int(kept.sum()), excluded=excluded)
    if constant == "refused":
        _check_varies(dataset, spec, codes=codes[kept], excluded=excluded)
    scheme = LabelScheme(
        target=spec.name,
        kind=spec.kind,
        classes=spec.classes,
        label_source=spec.annotated_by(tables),
        unit=spec.unit,
    )
    clips = ClipIndex(scheme=scheme, table=_clip_table(tables, codes=codes, kept=kept), excluded=excluded)
    _check_unit(clips)
    return clips


def _channel_clips(
    dataset: Dataset,
    tables: TargetTables,
    asked: AskedTarget,
    *,
    needs: Collection[str],
    constant: Literal["refused", "kept"],
) -> ClipIndex:
    """Return the clips of a target of channels: frames where one of them is known.

    A channel that never varies, or that nobody annotated, stays unless none is better: the audit says so and drops it.
    """
    without = lacking(dataset, tables.samples["recording_id"], needs=needs)
    there = ~np.any(list(without.values()), axis=0)
    sources = tuple(spec.annotated_by(tables) for spec in asked.specs)
    differ = len(set(sources)) > 1
    scheme = LabelScheme(
        target=asked.name,
        kind=asked.kind,
        classes=tuple(spec.name for spec in asked.specs),
        label_source=joined_source(sources),
        unit=asked.specs[0].unit,
        sources=sources if differ else (),
    )
    labels, channel_excluded = {}, {}
    why = np.zeros(len(tables.samples), dtype=np.int64)
    for spec, column in zip(asked.specs, scheme.target_columns, strict=True):
        values, codes = channel_values(tables, spec)
        kept = usable(tables, codes, spec=spec)
        channel_excluded[spec.name] = _excluded(tables, codes, kept=kept, without=without)
        labels[column] = np.where(kept & there, values, np.nan)
        # Where no channel is known, the first one's reason stands.
        why = np.where((why < 0) & (codes >= 0), codes, why) if spec is not asked.specs[0] else codes
    table = pd.DataFrame(labels)
    known = table.notna().any(axis=1).to_numpy()
    excluded = _excluded(tables, why, kept=known, without=without)
    _check_any(asked.name, count=int(known.sum()), excluded=excluded)
    if constant == "refused" and (table.nunique() <= 1).all():
        raise NothingToLearnError(
            f"Refused as a target: {asked.name!r} never varies, in none of its channels: in all {int(known.sum())} "
            "usable frames each is the same throughout, so nothing can be learnt from it. `mien inspect` shows what "
            "varies."
        )
    clips = _clip_table(tables, codes=np.zeros(len(known), dtype=np.int64), kept=known)
    clips = clips.join(table[known].reset_index(drop=True))
    clips["target"] = _strata(clips, scheme)
    return ClipIndex(scheme, clips, excluded, channel_excluded)


def above_own_median(values: pd.Series[float], *, participants: pd.Series[str]) -> pd.Series[bool]:
    """Return for each number (N,) whether it is above the median of its participant's."""
    return values > values.groupby(participants).transform("median")


def _strata(table: pd.DataFrame, scheme: LabelScheme) -> NDArray[np.int64]:
    """Return what folds are stratified by (N,): see `ClipIndex`."""
    labels = table[list(scheme.target_columns)]
    if scheme.kind == "multilabel":
        return np.asarray(labels.fillna(0.0).sum(axis=1).clip(upper=MOST_STRATA), dtype=np.int64)
    first = labels.iloc[:, 0]
    return np.asarray(above_own_median(first, participants=table["participant_id"]), dtype=np.int64)


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


def _excluded(
    tables: TargetTables, codes: Codes, *, kept: NDArray[np.bool_], without: Mapping[str, NDArray[np.bool_]]
) -> pd.DataFrame:
    recordings = tables.samples["recording_id"]
    there = ~np.any(list(without.values()), axis=0)
    masks = {reason: (codes == code) & there for code, reason in REASONS.items()}
    masks |= {NO_FACE: (codes >= 0) & ~kept & there}
    masks |= {reason: mask for reason, mask in without.items() if reason != NO_PICTURE}
    rows = [(reason, int(mask.sum()), int(recordings[mask].nunique())) for reason, mask in masks.items() if mask.any()]
    if NO_PICTURE in without and without[NO_PICTURE].any():
        # It has no frames that could be counted.
        rows.append((NO_PICTURE, 0, int(recordings[without[NO_PICTURE]].nunique())))
    return pd.DataFrame(rows, columns=["reason", "count", "recordings"])


def _check_varies(dataset: Dataset, spec: TargetSpec, *, codes: Codes, excluded: pd.DataFrame) -> None:
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


def _check_any(name: str, *, count: int, excluded: pd.DataFrame) -> None:
    if count:
        return
    reasons = "; ".join(
        f"{row['reason']}: {row['count']} frames in {row['recordings']} recordings"
        for row in excluded.to_dict("records")
    )
    raise UserError(f"No frame can be used for the target {name!r} ({reasons or 'there are no frames'}).")


def _check_unit(clips: ClipIndex) -> None:
    """Refuse a label that varies within what it is said to describe, before hours are spent on fits."""
    table, scheme = clips.table, clips.scheme
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
