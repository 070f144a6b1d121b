"""Small grey faces in a fixed place, by landmarks: what copies of people are looked for in.

A copy that was shifted, turned, rescaled or cut differently shows the same aligned face. A recording that shows no face
gives its whole pictures instead, which say nothing of people and so never merge any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.dataset import Dataset
from mien.data.process import BOX_COLUMNS, LANDMARK_COLUMNS
from mien.media.alignment import SIDE_PX, TEMPLATE, align_faces, landmarks_in_square, similarity_to_template
from mien.media.faces import median_panel
from mien.runtime.cache import PIXEL_BLOCK, cache_path, load_array, write_array

PANEL_REACH = 0.5
"""How far a face in a screen recording may be from the median one, in sides of its box. Respondents sway within their
panel by about .2; an actor in the stimulus is elsewhere."""

MIN_EYE_DISTANCE_PX = 10.0
"""Eyes nearer to each other than this, in the stored picture, are a face of some 25 px: stretched to 64 px it is a blur
that looks like anybody's. Two people of a composite screen recording kept at 64 px (eyes 3 px apart) passed as one."""

MIN_PANEL_SHARE = 0.5
"""Share of a screen recording's frames that must show a face there. Below, it isn't a panel of the respondent but
something that a stimulus showed: the rule is that an actor on a screen never merges people."""


__all__ = [
    "SIDE_PX",
    "TEMPLATE",
    "Aligned",
    "align_faces",
    "aligned_recording",
    "landmarks_in_square",
    "similarity_to_template",
]


@dataclass(frozen=True)
class Aligned:
    """What a recording gives to compare.

    Attributes:
        recording_id: The recording.
        kind: `face`: aligned faces; `picture`: whole pictures, because no frame shows a face of the participant;
            `small`: nothing, because all faces are smaller than `MIN_EYE_DISTANCE_PX` asks. Whole pictures of such
            recordings would be compared by what surrounds a face, such as one stimulus on many screens.
        frames: Rows of the recording's sampled frames that can be compared (M,).
        pts_s: Their times (M,), s.
        pixels: All its sampled frames (N, 64, 64) uint8 grey, memory-mapped; rows that aren't in `frames` are zero.
    """

    recording_id: str
    kind: Literal["face", "picture", "small"]
    frames: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    pixels: NDArray[np.uint8]


def aligned_recording(dataset: Dataset, recording_id: str) -> Aligned | None:
    """Return the aligned faces of a recording, or its whole pictures; None where it has no picture.

    They are made once and kept in the dataset's cache.
    """
    table = dataset.frames(recording_id)
    if not len(table) or not dataset.has_pictures(recording_id):
        return None
    landmarks, there = _landmarks_in_crops(dataset, recording_id, table=table)
    with np.errstate(invalid="ignore"):
        usable = there & (np.hypot(*(landmarks[:, 1] - landmarks[:, 0]).T) >= MIN_EYE_DISTANCE_PX)
    usable &= np.isfinite(similarity_to_template(landmarks)).all(axis=(1, 2))
    if there.any() and not usable.any():
        nothing = np.zeros((0, SIDE_PX, SIDE_PX), np.uint8)
        return Aligned(recording_id, "small", frames=np.zeros(0, np.int64), pts_s=np.zeros(0), pixels=nothing)
    landmarks[~usable] = np.nan
    kind: Literal["face", "picture"] = "face" if usable.any() else "picture"
    path = cache_path(dataset, recording_id, kind=f"{'aligned' if kind == 'face' else 'whole'}-{SIDE_PX}")
    if not path.is_file():
        pictures = dataset.crops(recording_id) if kind == "face" else dataset.context(recording_id)

        def write(temporary: Path) -> None:
            shape = (len(table), SIDE_PX, SIDE_PX)
            target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(table), PIXEL_BLOCK):
                rows = slice(start, start + PIXEL_BLOCK)
                block = np.asarray(pictures[rows])
                target[rows] = align_faces(block, landmarks[rows]) if kind == "face" else _shrink(block)
            target.flush()

        write_array(path, write)
    frames = np.flatnonzero(usable) if kind == "face" else np.arange(len(table))
    pts_s = table["pts_s"].to_numpy(dtype=np.float64)[frames]
    return Aligned(recording_id=recording_id, kind=kind, frames=frames, pts_s=pts_s, pixels=load_array(path))


def _landmarks_in_crops(
    dataset: Dataset, recording_id: str, *, table: pd.DataFrame
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return landmarks in px of the crops (N, 5, 2), NaN where no face counts, and which frames have one (N,)."""
    boxes = table[list(BOX_COLUMNS)].to_numpy(dtype=np.float32)
    landmarks = table[list(LANDMARK_COLUMNS)].to_numpy(dtype=np.float64).reshape(-1, 5, 2)
    facts = dataset.recordings.set_index("recording_id").loc[recording_id]
    size = dataset.size_px
    if dataset.crop == "none":
        stretch = size / np.array([facts["width"], facts["height"]], dtype=np.float64)
        inside = (landmarks + 0.5) * stretch - 0.5
    else:
        cut = boxes
        panel = dataset.panel_box(recording_id)
        if panel is not None:
            cut = np.broadcast_to(panel, boxes.shape)
        assert dataset.margin is not None or dataset.crop == "panel", "a face crop has a margin"
        inside = landmarks_in_square(landmarks, cut, margin=float(dataset.info["config"]["margin"]), size_px=size)
    with np.errstate(invalid="ignore"):
        # A face outside a panel's crop is another one's.
        usable = ((inside > -1) & (inside < size)).all(axis=(1, 2))
    if facts["camera"] == "screen":
        usable &= _in_panel(boxes)
    inside[~usable] = np.nan
    return inside, np.asarray(usable)


def _in_panel(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which faces of a screen recording (N,) lie where most do; none where there is no such place."""
    found = np.asarray(np.isfinite(boxes_xyxy).all(axis=1), dtype=bool).reshape(-1)
    nowhere = np.zeros(len(boxes_xyxy), dtype=np.bool_)
    if not found.any():
        return nowhere
    panel = median_panel(boxes_xyxy)
    side = max(panel[2] - panel[0], panel[3] - panel[1])
    away = np.abs((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:] - panel[:2] - panel[2:]) / 2).max(axis=1)
    # A comparison with NaN is false: a frame without a face is nowhere.
    near = found & np.asarray(away <= PANEL_REACH * side)
    return near if near.mean() >= MIN_PANEL_SHARE else nowhere


def _shrink(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn whole pictures (N, h, w, 3) into (N, 64, 64) grey; their aspect ratio isn't kept."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    return np.stack([cv2.resize(g, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for g in grey]).astype(np.uint8)
