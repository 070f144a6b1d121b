"""What anything is fitted on: the frames of participants with their features, minus the personal baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import cached_features
from mien.runtime.encoders import Encoder

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

    def frames_of(self, participants: Sequence[str]) -> pd.DataFrame:
        """Return all frames with a crop of the participants' recordings, labelled or not, in order of time.

        The personal baseline needs those that have no label, too.

        Returns:
            Columns recording_id, participant_id, frame, pts_s, target (`UNLABELLED` where there is none), and row (in
            the clip index, `UNLABELLED` where it is no clip).
        """
        wanted = self.clips.table[self.clips.table["participant_id"].isin(participants)]
        parts = []
        for recording_id, rows in wanted.groupby("recording_id", sort=True):
            name = str(recording_id)
            frames = self.dataset.frames(name)[["frame", "pts_s"]]
            part = frames[self.dataset.has_crop(name)].copy()
            part["recording_id"] = name
            part["participant_id"] = rows["participant_id"].iloc[0]
            position = pd.Series(rows.index.to_numpy(), index=rows["frame"].to_numpy())
            part["row"] = part["frame"].map(position).fillna(UNLABELLED).astype(np.int64)
            targets = pd.Series(rows["target"].to_numpy(), index=rows["frame"].to_numpy())
            part["target"] = part["frame"].map(targets).fillna(UNLABELLED).astype(np.int64)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


def probe_features(
    material: Material, participants: Sequence[str], *, encoder: Encoder, baseline: PersonalBaseline
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return all frames with a crop and their features (N, D), the personal baseline subtracted."""
    frames = material.frames_of(participants)
    parts = [
        np.asarray(cached_features(material.dataset, str(name), encoder=encoder)[rows["frame"].to_numpy()])
        for name, rows in frames.groupby("recording_id", sort=False)
    ]
    return frames, subtract_baseline(np.concatenate(parts), frames, baseline=baseline)


def subtract_baseline(
    features: NDArray[np.floating], frames: pd.DataFrame, *, baseline: PersonalBaseline
) -> NDArray[np.float64]:
    """Subtract the personal baseline recording by recording from features (N, D) of the frames (N rows)."""
    result = np.array(features, dtype=np.float64)
    for rows in frames.groupby("recording_id", sort=False).indices.values():
        result[rows] = baseline.subtract(result[rows], pts_s=frames["pts_s"].to_numpy()[rows])
    return result
