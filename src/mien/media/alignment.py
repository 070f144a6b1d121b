"""Faces brought to one place by their landmarks, as small grey pictures: what people are told apart by.

The tracker compares them within a recording, the audit between participants. Nothing here is trained on people.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 64
"""Side of an aligned face, from the rule (EVALUATION.md section 2)."""

_TEMPLATE_112 = ((37.73, 51.6), (73.27, 51.6), (55.5, 71.74), (40.91, 92.28), (70.09, 92.28))
"""Where ArcFace puts eyes, nose and corners of the mouth in 112 px (Deng et al. 2019), made symmetric here: the aligned
face of a mirrored copy is then the mirrored aligned face."""

TEMPLATE = (np.array(_TEMPLATE_112) + 0.5) * (SIDE_PX / 112) - 0.5
"""The five landmarks in an aligned face (5, 2), px."""

MIN_SCALE, MAX_SCALE = 0.02, 8.0
"""Aligned px per px of the crop. Beyond lies a face of under 5 px or five landmarks in one place."""

MIN_SD = 1.0
"""Floor of the local sd, steps of grey: flat skin isn't blown up to the noise of its 256 steps."""


def align_faces(crops: NDArray[np.uint8], landmarks_xy: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn, scale and shift faces so that their landmarks lie as near to `TEMPLATE` as a similarity can bring them.

    Args:
        crops: (N, S, S, 3) RGB.
        landmarks_xy: (N, 5, 2) px of the crops; NaN where there is no face.

    Returns:
        (N, 64, 64) uint8 grey; zeros where there is no face. Beyond the crop its border is repeated.
    """
    aligned = np.zeros((len(crops), SIDE_PX, SIDE_PX), np.uint8)
    matrices = similarity_to_template(landmarks_xy)
    for row in np.flatnonzero(np.isfinite(matrices).all(axis=(1, 2))):
        matrix = matrices[row]
        grey: NDArray[np.uint8] = np.asarray(cv2.cvtColor(crops[row], cv2.COLOR_RGB2GRAY), np.uint8)
        scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if scale < 1:
            # Sampling alone would let detail finer than the new px fold into noise that differs between copies.
            grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1) + 1e-3), np.uint8)
        size = (SIDE_PX, SIDE_PX)
        aligned[row] = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return aligned


def similarity_to_template(landmarks_xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the similarities that bring landmarks to `TEMPLATE`, least squares (Umeyama 1991, without reflection).

    In complex numbers the fit is w = a z + b with a = sum(conj(z) w) / sum(|z|^2) of centred z and w.

    Args:
        landmarks_xy: (N, 5, 2) px; NaN where there is no face.

    Returns:
        (N, 2, 3); NaN where there is no face or its landmarks can't be a face's.

    >>> np.round(similarity_to_template(TEMPLATE[None] * 2)[0, 0], 6).tolist()
    [0.5, 0.0, 0.0]
    """
    points = np.asarray(landmarks_xy, dtype=np.float64)
    z, w = points[..., 0] + 1j * points[..., 1], TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    z_mean, w_mean = z.mean(axis=1, keepdims=True), w.mean()
    spread = (np.abs(z - z_mean) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (np.conj(z - z_mean) * (w - w_mean)).sum(axis=1) / spread
        b = w_mean - a * z_mean[:, 0]
        possible = (np.abs(a) >= MIN_SCALE) & (np.abs(a) <= MAX_SCALE)
    matrices = np.stack([np.stack([a.real, -a.imag, b.real], axis=1), np.stack([a.imag, a.real, b.imag], axis=1)], 1)
    matrices[~possible] = np.nan
    return matrices


def landmarks_in_square(
    landmarks_xy: NDArray[np.floating], boxes_xyxy: NDArray[np.floating], *, margin: float, size_px: int
) -> NDArray[np.float64]:
    """Map landmarks from px of the frame into crops that `mien.media.faces.crop_square` cut, by its own rounding.

    Args:
        landmarks_xy: (N, 5, 2) px of the frame.
        boxes_xyxy: (N, 4) px: what each crop was cut around.
        margin: Side of the crops over the boxes' longer sides.
        size_px: Side of the crops.

    Returns:
        (N, 5, 2) px of the crop; NaN where the box or the landmarks are.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    extent = boxes[:, 2:] - boxes[:, :2]
    side = np.maximum(1.0, np.round(margin * extent.max(axis=1)))[:, None]
    first = np.round((boxes[:, :2] + boxes[:, 2:]) / 2 - side / 2)
    # The middle of pixel i is at i + 1/2 of either scale.
    factor = (size_px / side)[:, None]
    return np.asarray((np.asarray(landmarks_xy, np.float64) - first[:, None] + 0.5) * factor - 0.5)


def local_normalise(pictures: NDArray[np.uint8], *, sigma_px: float) -> NDArray[np.float32]:
    """Subtract the local mean and divide by the local sd (both Gaussian), so that light and tint don't count.

    Args:
        pictures: (N, S, S) grey.
        sigma_px: Of the Gaussian.

    Returns:
        (N, S, S) float32.
    """
    result = np.empty(pictures.shape, np.float32)
    for row, picture in enumerate(pictures):
        values: Any = picture.astype(np.float32)
        mean: Any = cv2.GaussianBlur(values, (0, 0), sigma_px)
        variance: Any = cv2.GaussianBlur(values * values, (0, 0), sigma_px) - mean * mean
        result[row] = (values - mean) / np.sqrt(np.maximum(variance, MIN_SD**2))
    return result
