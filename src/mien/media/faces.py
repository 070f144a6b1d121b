"""Which face of a picture is the participant's, and the pictures that are cut around it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.types import CropKind, Face, FaceChoice

MIN_AREA_RATIO = 0.25
"""Faces below this share of the largest one's area are posters and passers-by, not partners of an interview."""


def choose_face(faces: Sequence[Face], *, choice: FaceChoice = "main") -> Face | None:
    """Return the participant's face, None where there is no face.

    Args:
        faces: Faces of one picture.
        choice: `main` has the largest area times score; `left` and `right` (as seen in the picture) go by the centre
            of the box, among faces of at least a quarter of the largest area.

    Raises:
        UserError: Another choice.
    """
    if choice not in ("main", "left", "right"):
        raise unknown_name("face choice", got=choice, allowed=("main", "left", "right"))
    if not faces:
        return None
    if choice == "main":
        return max(faces, key=lambda face: _area(face) * face.score)
    largest = max(_area(face) for face in faces)
    candidates = [face for face in faces if _area(face) >= MIN_AREA_RATIO * largest]
    by_centre = sorted(candidates, key=lambda face: float(face.box_xyxy[0] + face.box_xyxy[2]))
    return by_centre[0 if choice == "left" else -1]


def _area(face: Face) -> float:
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    return max(0.0, x1 - x0) * max(0.0, y1 - y0)


def crop_frame(
    rgb: NDArray[np.uint8], box_xyxy: NDArray[np.floating] | None, *, kind: CropKind, margin: float, size_px: int
) -> NDArray[np.uint8] | None:
    """Cut out of a frame what a dataset keeps of it; `prepare` and `predict` both call this, so their crops agree.

    Args:
        rgb: (H, W, 3) uint8.
        box_xyxy: (4,) px: the face of this frame, or the panel of the recording; None where there is none.
        kind: `face` and `panel` cut around the box, `none` keeps the whole picture.
        margin: Side of the square over the box's longer side.
        size_px: Side of the result.

    Returns:
        (size_px, size_px, 3) uint8; None where there is no box to cut around.
    """
    if kind == "none":
        return crop_whole(rgb, size_px=size_px)
    return None if box_xyxy is None else crop_square(rgb, box_xyxy, margin=margin, size_px=size_px)


def crop_square(
    rgb: NDArray[np.uint8], box_xyxy: NDArray[np.floating], *, margin: float, size_px: int
) -> NDArray[np.uint8]:
    """Cut a square around a box's centre; outside the picture its border is repeated.

    Args:
        rgb: (H, W, 3) uint8.
        box_xyxy: (4,) px; it may reach over the border.
        margin: Side of the square over the box's longer side.
        size_px: Side of the result.

    Returns:
        (size_px, size_px, 3) uint8.

    Raises:
        UserError: The box isn't finite or has no area, or `margin` or `size_px` isn't positive.
    """
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    longer = max(x1 - x0, y1 - y0)
    if not (np.isfinite([x0, y0, x1, y1]).all() and longer > 0):
        raise UserError(f"A box must be finite with x0 < x1 or y0 < y1, got {[x0, y0, x1, y1]}.")
    if margin <= 0:
        raise UserError(f"margin must be positive, got {margin}.")
    side = max(1, round(margin * longer))
    columns = _indices((x0 + x1) / 2, side=side, length=rgb.shape[1])
    rows = _indices((y0 + y1) / 2, side=side, length=rgb.shape[0])
    return _resize(rgb.take(rows, axis=0).take(columns, axis=1), width_px=size_px, height_px=size_px)


def _indices(centre: float, *, side: int, length: int) -> NDArray[np.int64]:
    """Return the rows or columns of a square (side,), those outside replaced by the border's."""
    first = round(centre - side / 2)
    return np.clip(np.arange(first, first + side, dtype=np.int64), 0, length - 1)


def crop_whole(rgb: NDArray[np.uint8], *, size_px: int) -> NDArray[np.uint8]:
    """Resize the whole picture to (size_px, size_px, 3); its aspect ratio isn't kept, so that nothing is cut off."""
    return _resize(rgb, width_px=size_px, height_px=size_px)


def context_picture(rgb: NDArray[np.uint8], *, width_px: int = 160) -> NDArray[np.uint8]:
    """Resize a picture (H, W, 3) to `width_px` px across with its aspect ratio kept: (h, width_px, 3)."""
    height_px = max(1, round(rgb.shape[0] * width_px / rgb.shape[1]))
    return _resize(rgb, width_px=width_px, height_px=height_px)


def _resize(rgb: NDArray[np.uint8], *, width_px: int, height_px: int) -> NDArray[np.uint8]:
    if width_px < 1 or height_px < 1:
        raise UserError(f"A picture's size must be positive, got {width_px} x {height_px} px.")
    shrinks = width_px * height_px < rgb.shape[0] * rgb.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, (width_px, height_px), interpolation=method), dtype=np.uint8)


def median_panel(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the fixed region of a recording's face: the median of its face boxes, corner by corner.

    A composite screen recording keeps the respondent in one panel; the median stays there when single detections hit
    a face in the stimulus.

    Args:
        boxes_xyxy: (N, 4) px; rows with NaN (no face) are left out.

    Returns:
        (4,) float32, px.

    Raises:
        UserError: There is no box.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    found = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(found):
        raise UserError(
            "No face was found in the whole recording, so there is no panel to cut out: use the whole picture."
        )
    return np.median(found, axis=0).astype(np.float32)
