"""Pictures whose face is hidden: where the cover lies, and what an encoder sees in the rest.

The cover is the same in all pictures of a recording: one that followed the face would tell where the face is, and how
large its box became when it smiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.storage import digest_of
from mien.data.dataset import Dataset
from mien.runtime.cache import PIXEL_BLOCK, cache_path, load_array, write_array
from mien.runtime.encoders import DEFAULT_CROP, Encoder

COVER_FACTOR = 1.3
"""Side of the cover over that of the face box. A detector's box ends at the chin, the cheeks and the hairline, and all
three move with a smile; .15 on each side covers them and the jitter of the box. More would hide overlays beside the
face; on 72 people 1.0, 1.3 and 1.6 gave scores within .03 of each other."""

FILL = 128
"""Grey of the cover: the same everywhere, so that it tells nothing of the face, the person or the light."""

NEAR = 2.0
"""A face whose centre lies outside this multiple of the recording's median box is another face, or a false one."""

View = Literal["whole picture", "stored crop"]
"""What is looked at. A `stored crop` is what the models are shown: a face crop, a panel, or under `crop=none` the whole
picture at the size that they see it in. `whole picture` is the small picture that is kept of every frame."""


def view_of(dataset: Dataset, *, camera: str) -> View:
    """Return what is looked at: all of a camera's picture, of a screen what the models are shown of it.

    Anything in the room may give a label away; what a crop cuts off a screen can't be learnt.
    """
    return "stored crop" if camera == "screen" or dataset.crop == "none" else "whole picture"


def visible_share(dataset: Dataset, recording_id: str, *, view: View, crop: float = DEFAULT_CROP) -> float:
    """Return the share of a recording's pictures that the common cover leaves to look at."""
    inside = np.clip(_cover(dataset, recording_id, view=view, crop=crop), 0.0, 1.0)
    return 1.0 - float(np.prod(inside[2:] - inside[:2]))


def hidden_features(
    dataset: Dataset, recording_id: str, *, encoder: Encoder, view: View, crop: float = DEFAULT_CROP
) -> NDArray[np.float32]:
    """Return the features (N, D) of a recording's sampled frames with the face hidden, kept in the dataset's cache.

    Args:
        dataset: The dataset.
        recording_id: One of its recordings.
        encoder: What reads the picture.
        view: What is looked at.
        crop: Widest square that a model looks at, as a multiple of the face box (for stored face crops).
    """
    how = digest_of([view, crop if dataset.margin else None, COVER_FACTOR, FILL, NEAR], length=8)
    path = cache_path(dataset, recording_id, kind=f"hidden-{how}-{encoder.spec.name}-{encoder.digest}")
    if not path.is_file():
        num_frames, size_px = len(dataset.context(recording_id)), encoder.spec.size_px

        def write(temporary: Path) -> None:
            width = encoder.encode(np.empty((0, size_px, size_px, 3), np.uint8)).shape[1]
            features = np.zeros((num_frames, width), np.float32)
            for start in range(0, num_frames, PIXEL_BLOCK):
                rows = slice(start, start + PIXEL_BLOCK)
                pictures = hidden_pictures(dataset, recording_id, rows=rows, view=view, crop=crop)
                method = cv2.INTER_AREA if pictures.shape[2] >= size_px else cv2.INTER_LINEAR
                sized = [cv2.resize(picture, (size_px, size_px), interpolation=method) for picture in pictures]
                features[rows] = encoder.encode(np.stack(sized).astype(np.uint8))
            with temporary.open("wb") as stream:
                np.save(stream, features)

        write_array(path, write)
    return np.asarray(load_array(path), np.float32)


def hidden_pictures(
    dataset: Dataset, recording_id: str, *, rows: slice, view: View, crop: float = DEFAULT_CROP
) -> NDArray[np.uint8]:
    """Return pictures (N, h, w, 3) of a recording with the face covered.

    The cover is the same in all pictures of the recording: one that followed the face would tell where the face is.
    Only a face far from the others (see `NEAR`) gets a cover of its own, beside the common one.

    Args:
        dataset: The dataset.
        recording_id: One of its recordings.
        rows: Which sampled frames.
        view: What is looked at.
        crop: Widest square that a model looks at, as a multiple of the face box (for stored face crops).
    """
    source = dataset.context(recording_id) if view == "whole picture" else dataset.crops(recording_id)
    pictures = np.array(source[rows])
    if view == "stored crop" and dataset.margin is not None and crop < dataset.margin:
        start, seen = _centre(pictures.shape[1], share=crop / dataset.margin)
        pictures = pictures[:, start : start + seen, start : start + seen]
    _paint(pictures, _cover(dataset, recording_id, view=view, crop=crop))
    boxes = _boxes(dataset, recording_id, view=view, crop=crop)
    for picture, box, far in zip(pictures, boxes[rows], _far(boxes)[rows], strict=True):
        if far:
            _paint(picture[None], _enlarged(box))
    return pictures


def _centre(side: int, *, share: float) -> tuple[int, int]:
    seen = max(1, round(side * share))
    return (side - seen) // 2, seen


def _boxes(dataset: Dataset, recording_id: str, *, view: View, crop: float) -> NDArray[np.float64]:
    """Return the face boxes (N, 4) as x0, y0, x1, y1 in shares of the picture that is looked at; NaN without a face."""
    boxes = dataset.frames(recording_id)[["x0", "y0", "x1", "y1"]].to_numpy(dtype=np.float64)
    if view == "whole picture" or dataset.crop == "none":
        own = dataset.recordings["recording_id"] == recording_id
        size = dataset.recordings.loc[own, ["width", "height"]].to_numpy(dtype=np.float64)[0]
        return np.asarray(boxes / np.tile(size, 2))
    if dataset.margin is not None:
        # A face crop is centred on its box, so all that is left of the box is its shape.
        sides = boxes[:, 2:] - boxes[:, :2]
        half = sides / (2.0 * min(crop, dataset.margin) * sides.max(axis=1, keepdims=True))
        return np.concatenate([0.5 - half, 0.5 + half], axis=1)
    panel = np.asarray(dataset.panel_box(recording_id), np.float64)
    side = float(dataset.info["config"]["margin"]) * float((panel[2:] - panel[:2]).max())
    corner = (panel[:2] + panel[2:]) / 2 - side / 2
    return (boxes - np.tile(corner, 2)) / side


def _far(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which boxes (N,) are of a face elsewhere than the recording's other faces."""
    known = np.asarray(np.isfinite(boxes).all(axis=1))
    if not known.any():
        return known
    median = np.median(boxes[known], axis=0)
    centre, half = (median[:2] + median[2:]) / 2, (median[2:] - median[:2]) / 2
    offset = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - centre)
    return np.asarray(known & (offset > NEAR * half).any(axis=1))


def _cover(dataset: Dataset, recording_id: str, *, view: View, crop: float) -> NDArray[np.float64]:
    """Return the box (4,) that hides the face in all pictures: the union of the near boxes, enlarged; empty without."""
    boxes = _boxes(dataset, recording_id, view=view, crop=crop)
    near = boxes[np.isfinite(boxes).all(axis=1) & ~_far(boxes)]
    if not len(near):
        return np.zeros(4)
    sides = near[:, 2:] - near[:, :2]
    spare = (COVER_FACTOR - 1.0) / 2 * np.median(sides, axis=0)
    return np.concatenate([near[:, :2].min(axis=0) - spare, near[:, 2:].max(axis=0) + spare])


def _enlarged(box: NDArray[np.float64]) -> NDArray[np.float64]:
    spare = (COVER_FACTOR - 1.0) / 2 * (box[2:] - box[:2])
    return np.concatenate([box[:2] - spare, box[2:] + spare])


def _paint(pictures: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
    """Cover a box (4,) in shares of the picture in all pictures (N, h, w, 3), whole pixels and rather one too many."""
    height, width = pictures.shape[1:3]
    scale = np.array([width, height])
    x0, y0 = np.clip(np.floor(box[:2] * scale), 0, scale).astype(int)
    x1, y1 = np.clip(np.ceil(box[2:] * scale), 0, scale).astype(int)
    pictures[:, y0:y1, x0:x1] = FILL
