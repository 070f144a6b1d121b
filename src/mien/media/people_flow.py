"""Faces carried from one sampled frame to the next by optical flow, so that not every frame needs the detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face

FACE_PX = 96
"""Size at which a face is followed: flow then costs the same for every recording, a third of the detector."""

SURROUNDINGS = 2.0
"""Side of the followed region over the box's longer side: a head moves less between samples."""

GRID = 6
"""Points per axis that are followed in the box, beside the landmarks."""

WINDOW_PX, LEVELS = 15, 3

MAX_RETURN_PX = 1.0
"""A point followed there and back that ends farther from its start (at 96 px) was lost (Kalal et al. 2010,
doi:10.1109/ICPR.2010.675)."""

MIN_KEPT = 0.6
"""Share of points that must come back; less, and the face was covered, turned away, or the scene was cut."""

MAX_STRETCH, MAX_TURN = 1.25, 0.3
"""A face that grows by more or turns by more (radians) between two samples has slipped."""

MIN_LIKENESS = 0.8
"""Correlation that the followed face must have with the face before."""

NEAR = 1.5
"""Faces whose centres are nearer than so many sides of the larger box may cover one another: the detector looks."""


def carry_faces(
    before: NDArray[np.uint8], after: NDArray[np.uint8], faces: list[Face], *, scale: float = 1.0
) -> list[Face] | None:
    """Carry the faces of one picture to the next.

    Args:
        before: (H, W) grey, the picture that shows `faces`.
        after: (H, W) grey, the next one.
        faces: In px of the whole pictures.
        scale: px of `before` per px of the whole pictures.

    Returns:
        The same faces where they are now; None where one was lost or two may cover each other, so that the detector
        has to look.
    """
    if before.shape != after.shape or any_near(faces):
        return None
    carried = []
    for face in faces:
        moved = _carry(before, after, face, scale=scale)
        if moved is None:
            return None
        carried.append(moved)
    return None if any_near(carried) else carried


def any_near(faces: Sequence[Face]) -> bool:
    """Tell whether two faces are so near that one may cover the other."""
    for number, first in enumerate(faces):
        for second in faces[:number]:
            sides = [float((f.box_xyxy[2:] - f.box_xyxy[:2]).max()) for f in (first, second)]
            centres = [(f.box_xyxy[2:] + f.box_xyxy[:2]) / 2 for f in (first, second)]
            if np.hypot(*(centres[0] - centres[1])) < NEAR * max(sides):
                return True
    return False


def _carry(before: NDArray[np.uint8], after: NDArray[np.uint8], face: Face, *, scale: float) -> Face | None:
    box = np.asarray(face.box_xyxy, np.float64)
    side = float((box[2:] - box[:2]).max())
    to_region = _region_matrix(box * scale, side_px=side * scale, shape=before.shape)
    if to_region is None:
        return None
    (left, top, right, bottom), zoom = to_region
    size = (max(8, round((right - left) * zoom)), max(8, round((bottom - top) * zoom)))
    regions = [_resized(picture[top:bottom, left:right], size) for picture in (before, after)]
    factor, corner = zoom * scale, np.array([left, top]) * zoom
    inner = np.linspace(0.1, 0.9, GRID)
    grid = np.stack(np.meshgrid(box[0] + inner * (box[2] - box[0]), box[1] + inner * (box[3] - box[1])), -1)
    points = np.concatenate([np.asarray(face.landmarks_xy, np.float64), grid.reshape(-1, 2)]) * factor - corner
    moved, kept = _flow(regions[0], regions[1], points)
    if kept.mean() < MIN_KEPT:
        return None
    matrix: Any = cv2.estimateAffinePartial2D(points[kept], moved[kept], method=cv2.LMEDS)[0]
    if matrix is None:
        return None
    stretch, turn = float(np.hypot(matrix[0, 0], matrix[1, 0])), float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    if not (1 / MAX_STRETCH < stretch < MAX_STRETCH and abs(turn) < MAX_TURN):
        return None
    if _likeness(regions[0], regions[1], box=box * factor - np.tile(corner, 2), matrix=matrix) < MIN_LIKENESS:
        return None
    return _moved(face, box=box, points=points, moved=moved, kept=kept, matrix=matrix, factor=factor, corner=corner)


def _region_matrix(
    box: NDArray[np.float64], *, side_px: float, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int, int], float] | None:
    """Return the region around a box in whole px of the picture, and the zoom that makes its face `FACE_PX`."""
    centre, half = (box[:2] + box[2:]) / 2, SURROUNDINGS * side_px / 2
    left, top = (int(max(0, value)) for value in np.floor(centre - half))
    right, bottom = (int(min(a, b)) for a, b in zip(np.ceil(centre + half), shape[1::-1], strict=True))
    if right - left < 8 or bottom - top < 8:
        return None
    return (left, top, right, bottom), FACE_PX / max(side_px, 1.0)


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    method = cv2.INTER_AREA if size[0] < picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=method), np.uint8)


def _flow(
    before: NDArray[np.uint8], after: NDArray[np.uint8], points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Follow points (N, 2) there and back; return where they are, and which came back (N,)."""
    start: Any = points.astype(np.float32)[:, None]
    follow: Any = cv2.calcOpticalFlowPyrLK  # its stub doesn't know that the points may be None
    window = (WINDOW_PX, WINDOW_PX)
    there, found, _ = follow(before, after, start, None, winSize=window, maxLevel=LEVELS)
    back, returned, _ = follow(after, before, there, None, winSize=window, maxLevel=LEVELS)
    error = np.hypot(*(np.asarray(back) - start)[:, 0].T)
    kept = (np.asarray(found)[:, 0] == 1) & (np.asarray(returned)[:, 0] == 1) & (error <= MAX_RETURN_PX)
    return np.asarray(there, np.float64)[:, 0], np.asarray(kept, np.bool_)


def _likeness(
    before: NDArray[np.uint8], after: NDArray[np.uint8], *, box: NDArray[np.float64], matrix: NDArray[np.float64]
) -> float:
    """Return the zero-mean correlation of the face before with the one that it should have become."""
    height, width = before.shape
    back = cv2.warpAffine(after, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    (x0, y0), (x1, y1) = (np.clip(np.round(corner), 0, (width, height)).astype(int) for corner in (box[:2], box[2:]))
    first, second = (picture[y0:y1, x0:x1].astype(np.float64).ravel() for picture in (before, np.asarray(back)))
    if first.size == 0 or first.std() == 0 or second.std() == 0:
        return -1.0
    return float(np.corrcoef(first, second)[0, 1])


def _moved(
    face: Face,
    *,
    box: NDArray[np.float64],
    points: NDArray[np.float64],
    moved: NDArray[np.float64],
    kept: NDArray[np.bool_],
    matrix: NDArray[np.float64],
    factor: float,
    corner: NDArray[np.float64],
) -> Face:
    """Return the face where the flow took it: its box as a whole, each landmark that was followed by itself."""
    turned = points @ matrix[:, :2].T + matrix[:, 2]
    landmarks = np.where(kept[:5, None], moved[:5], turned[:5])
    stretch = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    centre = ((box[:2] + box[2:]) / 2 * factor - corner) @ matrix[:, :2].T + matrix[:, 2]
    half = (box[2:] - box[:2]) / 2 * stretch
    middle = (centre + corner) / factor
    return Face(
        box_xyxy=np.concatenate([middle - half, middle + half]).astype(np.float32),
        landmarks_xy=((landmarks + corner) / factor).astype(np.float32),
        score=face.score,
    )
