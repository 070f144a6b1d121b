"""Grids in head units and the soft brushes that the drawn people are painted with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.demo.person import Colour, Person

Plane = NDArray[np.floating[Any]]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Grid:
    """Coordinates of a canvas's pixels.

    Attributes:
        x: head units, (H, W).
        y: head units, (H, W).
        scale: pixels per head unit.
    """

    x: Plane
    y: Plane
    scale: float

    @classmethod
    def over(cls, x0: float, y0: float, *, width_px: int, height_px: int, scale: float) -> Grid:
        """Lay a grid of pixels with its first pixel's centre at (x0, y0)."""
        columns = (x0 + np.arange(width_px) / scale).astype(np.float32)
        rows = (y0 + np.arange(height_px) / scale).astype(np.float32)
        x, y = np.meshgrid(columns, rows)
        return cls(x=x, y=y, scale=scale)


def outline(person: Person, grid: Grid) -> Plane:
    """Say where the head is, hair and ears apart: 0..1, (H, W)."""
    return edge((1 - head_radius(person, grid)) * 0.85, grid.scale)


def head_radius(person: Person, grid: Grid) -> Plane:
    """1 on the head's outline, 0 in its middle: a superellipse whose lower half narrows to the jaw."""
    taper = 1 - person.jaw * np.clip(grid.y[:, :1] + 0.1, 0, 1.3) ** 1.6
    power = 2.25
    across = np.abs(grid.x) / (person.head_aspect * taper)
    down = np.abs(grid.y[:, :1]) ** power
    radius = cv2.pow(cv2.pow(across.astype(np.float32), power) + down, 1 / power)
    return np.asarray(radius, dtype=np.float32)


def tinted(colour: Colour, person: Person, light: Plane) -> Plane:
    """A colour under the person's lamp: RGB, (H, W, 3). Shadows keep some warmth, as they do on skin."""
    base = np.array(colour, np.float32) * np.array(person.light_rgb, np.float32) * person.brightness
    shade = np.clip(light, 0.02, 1).astype(np.float32)
    shades = np.stack([cv2.pow(shade, 0.88), shade, cv2.pow(shade, 1.06)], axis=-1)
    return np.asarray(base * shades * np.maximum(light, 1)[..., None], dtype=np.float32)


def blob(grid: Grid, x: float, y: float, half_width: float, half_height: float) -> Plane:
    """A soft spot: 1 in its middle, 1/e at its half width and half height (head units), (H, W)."""
    across = np.exp(-(((grid.x[0] - x) / half_width) ** 2))
    return np.outer(np.exp(-(((grid.y[:, 0] - y) / half_height) ** 2)), across).astype(np.float32)


def edge(inside: Plane, scale: float) -> Plane:
    """0..1 over one pixel, where `inside` is a distance in head units that is positive within."""
    return np.asarray(np.clip(0.5 + inside * scale, 0, 1), dtype=np.float32)


def step(inside: Plane, softness: float) -> Plane:
    """0..1 over twice `softness`, where `inside` is positive within; both in head units."""
    return np.asarray(np.clip(0.5 + inside / (2 * softness), 0, 1), dtype=np.float32)


def noise(person: Person, grid: Grid, *, salt: int) -> Plane:
    """Noise that belongs to a person: mean 0, sd 1, (H, W); another for each `salt`."""
    return np.random.default_rng([person.texture_seed, salt]).normal(0, 1, grid.x.shape).astype(np.float32)


def over(below: Plane, above: Plane, mask: Plane) -> Plane:
    """Lay one RGB picture over another where a mask (H, W) says so: (H, W, 3)."""
    return np.asarray(below + (above - below) * mask[..., None], dtype=np.float32)


def to_picture(picture: Plane) -> Picture:
    """Round 0..255 to bytes; what is brighter or darker is clipped."""
    return np.asarray(np.clip(picture + 0.5, 0, 255), dtype=np.uint8)
