"""What anything is fitted on: the frames of participants with their features, minus the personal baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import RefusedError, UserError, unknown_name
from mien.core.labels import LabelScheme
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.data.segments import segments_of
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import cached_features
from mien.runtime.sound_encoders import AnyEncoder, SoundEncoder

Sense = Literal["video", "audio"]

UNLABELLED = -1
"""Target of a frame that has none. Such frames teach nothing, but count for the personal baseline."""


@dataclass(frozen=True)
class Material:
    """What a model is fitted on: a dataset and the clips of a target.

    Attributes:
        dataset: The dataset.
        clips: The clips of the target.
    """

    dataset: Dataset
    clips: ClipIndex

    @property
    def sense(self) -> Sense:
        """What the audit's reference models perceive: sound, where clips are of recordings without a picture."""
        names = self.clips.table["recording_id"].unique()
        return "video" if all(self.dataset.has_pictures(str(name)) for name in names) else "audio"

    def frames_of(self, participants: Sequence[str], *, sense: Sense | None = None) -> pd.DataFrame:
        """Return all frames with a crop of the participants' recordings, labelled or not, in order of time.

        The personal baseline needs those that have no label, too.

        Args:
            participants: Whose recordings.
            sense: `audio` for all moments of recordings that can be heard, instead of frames with a crop; None for what
                all clips have (`sense`).

        Returns:
            Columns recording_id, participant_id, frame, pts_s, target (`UNLABELLED` where there is none), row (in the
            clip index, `UNLABELLED` where it is no clip), and segment (the name of the one that it is in, else empty).
            Where the target has channels, their labels too (`LabelScheme.target_columns`, NaN where there is none).
        """
        wanted = self.clips.table[self.clips.table["participant_id"].isin(participants)]
        heard = (self.sense if sense is None else sense) == "audio"
        parts = []
        for recording_id, rows in wanted.groupby("recording_id", sort=True):
            name = str(recording_id)
            frames = self.dataset.frames(name)[["frame", "pts_s"]]
            shown = np.full(len(frames), self.dataset.has_sound(name)) if heard else self.dataset.has_crop(name)
            part = frames[shown].copy()
            part["recording_id"] = name
            part["participant_id"] = rows["participant_id"].iloc[0]
            position = pd.Series(rows.index.to_numpy(), index=rows["frame"].to_numpy())
            part["row"] = part["frame"].map(position).fillna(UNLABELLED).astype(np.int64)
            targets = pd.Series(rows["target"].to_numpy(), index=rows["frame"].to_numpy())
            part["target"] = part["frame"].map(targets).fillna(UNLABELLED).astype(np.int64)
            for column in self.clips.scheme.target_columns:
                labels = pd.Series(rows[column].to_numpy(), index=rows["frame"].to_numpy())
                part[column] = part["frame"].map(labels).astype(np.float64)
            parts.append(part)
        frames = pd.concat(parts, ignore_index=True)
        return frames.assign(segment=segments_of(frames, self.dataset.segments)["segment"])


def labels_of(table: pd.DataFrame, *, scheme: LabelScheme) -> NDArray[np.int64] | NDArray[np.float32]:
    """Return what is learnt from frames or clips: class codes (N,), or labels of channels (N, C), NaN where missing.

    Args:
        table: Column `target`, or where the target has channels `LabelScheme.target_columns`.
        scheme: The target.
    """
    if scheme.channels:
        return np.ascontiguousarray(table[list(scheme.target_columns)].to_numpy(dtype=np.float32))
    return table["target"].to_numpy(dtype=np.int64)


def is_labelled(targets: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which frames (N,) have a label: a class code (N,), or any of the channels (N, C) known.

    >>> is_labelled(np.array([[0.0, np.nan], [np.nan, np.nan]])).tolist(), is_labelled(np.array([1, -1])).tolist()
    ([True, False], [True, False])
    """
    if targets.ndim == 1:
        return np.asarray(targets != UNLABELLED)
    return np.asarray(np.isfinite(targets.astype(np.float64)).any(axis=1))


def probe_features(
    material: Material, participants: Sequence[str], *, encoder: AnyEncoder, baseline: PersonalBaseline
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return all frames with a crop and their features (N, D), the personal baseline subtracted.

    For an encoder that listens all moments with sound; its window is the one for what a label describes, unless it has
    one (`SoundEncoder.windowed`).

    Raises:
        UserError: No recording has what the encoder needs.
    """
    listens = isinstance(encoder, SoundEncoder)
    if isinstance(encoder, SoundEncoder):
        encoder = encoder.windowed(material.clips.scheme.unit)
    frames = material.frames_of(participants, sense="audio" if listens else "video")
    parts = [
        np.asarray(cached_features(material.dataset, str(name), encoder=encoder)[rows["frame"].to_numpy()])
        for name, rows in frames.groupby("recording_id", sort=False)
    ]
    if not parts:
        what = "can be heard" if listens else "has a picture"
        raise UserError(f"{encoder.spec.name}: no recording of {len(participants)} participants {what}.")
    features = np.concatenate(parts)
    if listens:
        # Where sound starts late or ends early, there is nothing around a moment.
        known = np.isfinite(features[:, 0])
        frames, features = frames[known].reset_index(drop=True), features[known]
    return frames, subtract_baseline(features, frames, baseline=baseline)


def subtract_baseline(
    features: NDArray[np.floating], frames: pd.DataFrame, *, baseline: PersonalBaseline
) -> NDArray[np.float64]:
    """Subtract the personal baseline recording by recording from features (N, D) of the frames (N rows).

    Args:
        features: (N, D).
        frames: As `Material.frames_of` gives them: recording_id and pts_s, and segment for the baseline `segment`.
        baseline: What to subtract.

    Raises:
        UserError: A baseline over a segment, and a recording without a frame in it.
    """
    result = np.array(features, dtype=np.float64)
    in_segment = (frames["segment"] == baseline.segment).to_numpy() if baseline.kind == "segment" else None
    for recording_id, rows in frames.groupby("recording_id", sort=False).indices.items():
        reference = None if in_segment is None else in_segment[rows]
        try:
            result[rows] = baseline.subtract(result[rows], pts_s=frames["pts_s"].to_numpy()[rows], reference=reference)
        except UserError as error:
            raise UserError(f"{recording_id}: {error}") from error
    return result


def check_rest_segment(material: Material, *, baseline: PersonalBaseline) -> None:
    """Refuse a baseline over a named segment where recordings have none, or too little of it with a face.

    Args:
        material: The dataset and the clips of the target: recordings without a clip don't matter.
        baseline: The personal baseline; any other kind than `segment` passes.

    Raises:
        UserError: No segment of the study has that name.
        RefusedError: A recording has less than `MIN_BASELINE_S` with a face in it; how many have, and which.
    """
    if baseline.kind != "segment":
        return
    names = sorted(material.dataset.segments["segment"].unique())
    if baseline.segment not in names:
        hint = "Segments are named in the study's segments.csv; `mien inspect` lists them."
        raise unknown_name("segment", got=baseline.segment, allowed=names, hint=hint)
    frames = material.frames_of(material.clips.table["participant_id"].unique().tolist())
    inside = frames["segment"] == baseline.segment
    seconds = inside.groupby(frames["recording_id"]).sum() / material.dataset.fps
    short = seconds[seconds < baseline.needed_s]
    if len(short):
        named = ", ".join(f"{name}: {value:.1f} s" for name, value in short.head(5).items())
        raise RefusedError(
            [
                f"The personal baseline {baseline} needs {baseline.needed_s:g} s with a face in that segment; "
                f"{len(short)} of {len(seconds)} recordings have less ({named}{', ...' if len(short) > 5 else ''}). "
                "Mark the segment in segments.csv, leave these recordings out, or use another baseline."
            ]
        )
