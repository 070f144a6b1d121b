"""Frames of participants as a network reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.runtime.cache import load_array, pixels_path
from mien.runtime.material import Material, labels_of
from mien.training.loaders import FrameSet, Origin


def make_frame_set(material: Material, frames: pd.DataFrame, *, size_px: int, crop: float) -> FrameSet:
    """Return frames as a network reads them: pixels are loaded batch by batch from the dataset's cache."""
    names, recordings = np.unique(frames["recording_id"].to_numpy(dtype=str), return_inverse=True)
    paths = [pixels_path(material.dataset, str(name), size_px=size_px, crop=crop) for name in names]
    positions = frames["frame"].to_numpy()

    def opened(code: int) -> NDArray[np.uint8]:
        if not paths[code].is_file():  # the cache may be deleted at any time
            pixels_path(material.dataset, str(names[code]), size_px=size_px, crop=crop)
        return load_array(paths[code])

    def load(rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        return np.stack([opened(recordings[row])[positions[row]] for row in rows])

    _, participants = np.unique(frames["participant_id"].to_numpy(dtype=str), return_inverse=True)
    ids = (frames["recording_id"] + "@" + frames["pts_s"].map("{:.3f}".format)).to_numpy(dtype=object)
    return FrameSet(
        load=load,
        targets=labels_of(frames, scheme=material.clips.scheme),
        recordings=recordings.astype(np.int64),
        participants=participants.astype(np.int64),
        ids=ids,
        origin=Origin(
            material.dataset,
            recording_ids=tuple(str(name) for name in names),
            frames=positions.astype(np.int64),
            size_px=size_px,
            crop=crop,
        ),
    )
