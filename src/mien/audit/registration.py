"""Bring one aligned face over another to a fraction of a px, then compare them.

A detector puts the landmarks of the same face up to 3 px apart after a change of light, so that true copies correlated
by as little as .4 without this; different people of the smile study reached .86. Registered, the two part.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.media.alignment import local_normalise

__all__ = ["local_normalise", "registered_zncc", "shrink"]

MATCH_SIGMA_PX = 2.5
"""Of the local mean and sd that the correlation is taken of. At the 6 px of EVALUATION.md section 2, faces that lie on
each other correlate by what all faces share: different people of the smile study reached .89. At 2.5 px they stay
below .79 (.81 where a face is 28 px wide), and copies (light, contrast, hue, JPEG 30, a third of the size, turned,
mirrored, cut) above .90."""

LEVELS = ((32, 3.0, 10), (64, MATCH_SIGMA_PX, 4))
"""Side (px), sigma of the local normalisation (px) and Gauss-Newton steps of each level, the coarse one first."""

MARGIN = 1 / 16
"""Rim of a picture that isn't compared, as a share of its side."""

MAX_SHIFT, MAX_TURN, MAX_STRETCH = 0.2, 0.4, 1.4
"""Farther (share of the side, radians, factor) than landmarks of one face differ: then nothing was found."""

MIN_OVERLAP = 0.6
"""Share of the picture that both must show."""

BLOCK = 64
"""Pairs at a time: their gradients stay in the processor's cache."""

Stack = NDArray[np.float32]


def shrink(pictures: NDArray[np.uint8], *, side: int) -> NDArray[np.uint8]:
    """Resize pictures (N, S, S) to (N, side, side)."""
    if pictures.shape[1] == side:
        return pictures
    result = np.empty((len(pictures), side, side), np.uint8)
    for row, picture in enumerate(pictures):
        result[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return result


def registered_zncc(fixed: NDArray[np.uint8], moving: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the zero-mean normalised cross-correlation of pairs of pictures, each registered by a similarity.

    Args:
        fixed: (N, 64, 64) grey.
        moving: (N, 64, 64) grey.

    Returns:
        (N,); -1 where no similarity brings one over the other.
    """
    assert fixed.shape == moving.shape, "pictures come in pairs"
    starts = range(0, len(fixed), BLOCK)
    parts = [_registered_block(fixed[start : start + BLOCK], moving[start : start + BLOCK]) for start in starts]
    return np.concatenate([np.empty(0), *parts])


def _registered_block(fixed: NDArray[np.uint8], moving: NDArray[np.uint8]) -> NDArray[np.float64]:
    warps = np.tile(np.array([1.0, 0.0], np.complex128), (len(fixed), 1))
    for side, sigma_px, steps in LEVELS:
        still, mobile = (local_normalise(shrink(p, side=side), sigma_px=sigma_px) for p in (fixed, moving))
        warps = _descend(still, mobile, warps, steps=steps)
    side = fixed.shape[1]
    moved, inside = np.empty_like(moving), np.zeros(moving.shape, bool)
    solid, rim = np.ones((side, side), np.uint8), round(side * MARGIN)
    middle = (slice(rim, side - rim), slice(rim, side - rim))
    for row, warp in enumerate(warps):
        moved[row] = _warp(moving[row], warp)
        inside[row][middle] = _warp(solid, warp, border=cv2.BORDER_CONSTANT)[middle] > 0
    pair = [local_normalise(stack, sigma_px=MATCH_SIGMA_PX) for stack in (fixed, moved)]
    zncc = _masked_zncc(*pair, mask=inside)
    turn, stretch = np.angle(warps[:, 0]), np.abs(warps[:, 0])
    lost = (np.abs(warps[:, 1]) > MAX_SHIFT) | (np.abs(turn) > MAX_TURN) | (inside.mean(axis=(1, 2)) < MIN_OVERLAP)
    zncc[lost | (stretch > MAX_STRETCH) | (stretch < 1 / MAX_STRETCH)] = -1.0
    return zncc


def _masked_zncc(a: Stack, b: Stack, *, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    count = np.maximum(mask.sum(axis=(1, 2)), 1)[:, None, None]
    a, b = (np.where(mask, v - (v * mask).sum(axis=(1, 2), keepdims=True) / count, 0) for v in (a, b))
    power = (a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2))
    return np.asarray((a * b).sum(axis=(1, 2)) / np.sqrt(np.maximum(power, 1e-12)), np.float64)


def _descend(fixed: Stack, moving: Stack, warps: NDArray[np.complex128], *, steps: int) -> NDArray[np.complex128]:
    """Improve the similarities z -> a z + b (N, 2) from `fixed` to `moving`, in sides from the picture's middle.

    Gauss-Newton on the squared difference, in the inverse compositional form (Baker & Matthews 2004): gradients and
    normal equations are those of `fixed`, so that a step costs one resampling.
    """
    count, side = fixed.shape[:2]
    rim = round(side * MARGIN)
    inner = slice(rim, side - rim)
    place = ((np.arange(side) + 0.5) / side - 0.5)[inner].astype(np.float32)
    x, y = place[None, :], place[:, None]
    gx = (np.gradient(fixed, axis=2) * side)[:, inner, inner]
    gy = (np.gradient(fixed, axis=1) * side)[:, inner, inner]
    # Of z -> (1 + p + iq) z + (s + it): the derivatives by p, q, s, t at the identity.
    steepest = np.stack([gx * x + gy * y, gy * x - gx * y, gx, gy], axis=1).reshape(count, 4, -1)
    normal = np.asarray(steepest @ steepest.transpose(0, 2, 1), np.float64)
    # A ridge keeps flat pictures, whose equations are singular, where they are.
    ridge = 2.5e-4 * np.trace(normal, axis1=1, axis2=2) + 1e-9
    inverse = np.linalg.inv(normal + ridge[:, None, None] * np.eye(4))
    warped = np.empty_like(moving)
    for _ in range(steps):
        for row in range(count):
            warped[row] = _warp(moving[row], warps[row])
        error = (warped - fixed)[:, inner, inner].reshape(count, -1, 1)
        step = (inverse @ (steepest @ error))[:, :, 0]
        a, b = 1 + step[:, 0] + 1j * step[:, 1], step[:, 2] + 1j * step[:, 3]
        # A step that would turn the picture over is none.
        a = np.where(np.abs(a) < 0.5, 1.0, a)
        # The warp after the inverse of the step: z -> A (z - b) / a + B.
        warps = np.stack([warps[:, 0] / a, warps[:, 1] - warps[:, 0] * b / a], axis=1)
    return warps


def _warp(picture: NDArray[Any], warp: NDArray[np.complex128], *, border: int = cv2.BORDER_REPLICATE) -> NDArray[Any]:
    """Resample a picture (S, S) through a similarity; OpenCV's is from px to px, their middles at whole numbers."""
    side = picture.shape[0]
    a, b = complex(warp[0]), complex(warp[1]) * side
    middle = (side - 1) / 2
    x = b.real + middle - (a.real - a.imag) * middle
    y = b.imag + middle - (a.imag + a.real) * middle
    matrix = np.array([[a.real, -a.imag, x], [a.imag, a.real, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, matrix, (side, side), flags=flags, borderMode=border))
