"""The pictures that are cut out of a frame: around a face, a panel, or the whole."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.types import CropKind


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
    square = _square(rgb, left=round((x0 + x1) / 2 - side / 2), top=round((y0 + y1) / 2 - side / 2), side=side)
    return _resize(square, width_px=size_px, height_px=size_px)


def _square(rgb: NDArray[np.uint8], *, left: int, top: int, side: int) -> NDArray[np.uint8]:
    """Return a square (side, side, 3) of a picture, a view of it where it lies inside."""
    height, width = rgb.shape[:2]
    # Clipped so that at least one row and column of the picture remains: the border's, which is repeated.
    x0, x1 = (int(value) for value in np.clip([left, left + side], [0, 1], [width - 1, width]))
    y0, y1 = (int(value) for value in np.clip([top, top + side], [0, 1], [height - 1, height]))
    inside = rgb[y0:y1, x0:x1]
    if inside.shape[:2] == (side, side):
        return inside
    before, above = min(max(0, x0 - left), side - 1), min(max(0, y0 - top), side - 1)
    after, below = side - before - (x1 - x0), side - above - (y1 - y0)
    padded = cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REPLICATE)
    return np.asarray(padded, dtype=np.uint8)


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
