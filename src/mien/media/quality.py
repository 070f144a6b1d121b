"""How well a face can be seen in a frame: sharpness, size, pose, brightness."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face
from mien.media.faces import crop_square

QUALITY_COLUMNS = ("sharpness", "face_px", "yaw_proxy", "pitch_proxy", "roll_deg", "brightness")

FACE_SIDE_PX = 112
"""Side of the picture that sharpness and brightness are measured on: of fixed size, because the variance of the
Laplacian falls with the picture's size."""


def face_quality(rgb: NDArray[np.uint8], face: Face) -> tuple[float, ...]:
    """Measure how well a face can be seen.

    Args:
        rgb: (H, W, 3) uint8.
        face: A face of this picture.

    Returns:
        `QUALITY_COLUMNS`. `sharpness`: variance of the Laplacian of the face's square, grey, at 112 px
        (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548). `face_px`: the longer side of its box, px.
        `brightness`: mean luma of that square, 0..255 (Rec. 601). The others as in `pose_proxies`.
    """
    square = crop_square(rgb, face.box_xyxy, margin=1.0, size_px=FACE_SIDE_PX)
    grey = np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), np.uint8)
    laplacian = np.asarray(cv2.Laplacian(grey, cv2.CV_32F), np.float32)
    x0, y0, x1, y1 = (float(value) for value in face.box_xyxy)
    yaw, pitch, roll = pose_proxies(face.landmarks_xy)
    return float(laplacian.var()), max(x1 - x0, y1 - y0), yaw, pitch, roll, float(grey.mean())


def pose_proxies(landmarks_xy: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return what five landmarks say of a head's pose; no angles but of the roll, because depth isn't known.

    With the face turned upright (eyes level), e the point between the eyes, m between the corners of the mouth, and n
    the nose: yaw = (n_x - e_x) / (half the eyes' distance), 0 where the nose is in the middle, 1 where it is under the
    eye to the right in the picture; pitch = (n_y - e_y) / (m_y - e_y), about .5 to .6 for a level head, less where it
    looks up, more where it looks down.

    Args:
        landmarks_xy: (5, 2) px; order as in `Face`.

    Returns:
        yaw, pitch, and roll: degrees, positive where the eye to the right is lower; NaN where landmarks coincide.

    >>> points = np.array([[0, 0], [2, 0], [1, 1], [0.5, 2], [1.5, 2]], dtype=float)
    >>> pose_proxies(points)
    (0.0, 0.5, 0.0)
    """
    points = np.asarray(landmarks_xy, np.float64)
    across = points[1] - points[0]
    distance = float(np.hypot(*across))
    if not distance > 0:
        return math.nan, math.nan, math.nan
    unit = across / distance
    axes = np.stack([unit, [-unit[1], unit[0]]])
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    nose_x, nose_y = (float(value) for value in axes @ (points[2] - eyes))
    depth = float((axes @ (mouth - eyes))[1])
    pitch = nose_y / depth if depth != 0 else math.nan
    return nose_x / (distance / 2), pitch, math.degrees(math.atan2(unit[1], unit[0]))
