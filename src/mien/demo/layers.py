"""The parts of a drawn person that don't move: head, ears, room and shoulders.

The head is a relief (an ellipsoid with nose, brow ridge, cheeks and chin raised on it) lit by one lamp, so
that its shading comes from the surface's normals. All of it is computed once per person.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.demo.hair import FALL, beard_colour, beard_mask, hair_masks, hair_texture
from mien.demo.paint import (
    Grid,
    Picture,
    Plane,
    blob,
    edge,
    head_radius,
    noise,
    outline,
    over,
    step,
    tinted,
    to_picture,
)
from mien.demo.person import Person

_CANVAS_XYXY = (-1.3, -1.42, 1.3, 1.4)
"""What is painted of a head with the most hair, head units."""

_CANVAS_SCALE = 1.25
"""Canvas pixels per picture pixel: enough for smooth edges after resampling, little more to draw."""


@dataclass(frozen=True)
class HeadLayer:
    """The head without its moving features, on a canvas of its own.

    Attributes:
        neutral: RGB at rest, (H, W, 3), multiplied by `alpha`.
        smiling: RGB with lifted cheeks, (H, W, 3), multiplied by `alpha`.
        alpha: 255 where the head covers the room, (H, W).
        light: brightness of the relief, (H, W), about 0.4..1.2.
        scale: canvas pixels per head unit.
        origin: the first pixel's centre, (x, y) in head units.
    """

    neutral: Picture
    smiling: Picture
    alpha: Picture
    light: Plane
    scale: float
    origin: tuple[float, float]

    @property
    def extent_xyxy(self) -> tuple[float, float, float, float]:
        """What the canvas covers, head units."""
        height, width = self.alpha.shape
        x, y = self.origin
        return (x, y, x + width / self.scale, y + height / self.scale)

    def trimmed(self) -> HeadLayer:
        """Cut off the empty rim, which would cost time in every frame."""
        x, y, width, height = cv2.boundingRect(self.alpha)
        window = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
        return HeadLayer(
            neutral=self.neutral[window].copy(),
            smiling=self.smiling[window].copy(),
            alpha=self.alpha[window].copy(),
            light=self.light[window].copy(),
            scale=self.scale,
            origin=(self.origin[0] + max(x - 1, 0) / self.scale, self.origin[1] + max(y - 1, 0) / self.scale),
        )


def head_layer(person: Person, *, height: int) -> HeadLayer:
    """Paint the head of a person.

    Args:
        person: who.
        height: of the picture, px.
    """
    scale = person.size * height * _CANVAS_SCALE
    x0, y0, x1, y1 = _CANVAS_XYXY
    size_px = (round((x1 - x0) * scale), round((y1 - y0) * scale))
    grid = Grid.over(x0, y0, width_px=size_px[0], height_px=size_px[1], scale=scale)
    face = outline(person, grid)
    hair_back, hair_front = hair_masks(person, grid)
    ears = _ears(person, grid)
    strands = hair_texture(person, grid)
    alpha = np.maximum.reduce([face, ears, hair_back, hair_front])
    painted: list[Picture] = []
    for smile in (0.0, 1.0):
        light = _light(_relief(person, grid, smile=smile), person)
        picture = np.broadcast_to(strands * 0.72, (*face.shape, 3)).astype(np.float32)
        picture = over(picture, _skin(person, grid, light * 0.86), ears)
        folds = _folds(person, grid, smile=smile)[..., None]
        picture = over(picture, _skin(person, grid, light) * folds, face)
        beard = face * beard_mask(person, grid, smile=smile)
        picture = over(picture, beard_colour(person, strands, light), beard)
        picture = over(picture * (1 - 0.35 * _soften(hair_front, scale)[..., None]), strands, hair_front)
        painted.append(to_picture(picture * alpha[..., None]))
    neutral, smiling = painted
    cover, corner = to_picture(alpha * 255), (x0, y0)
    layer = HeadLayer(neutral=neutral, smiling=smiling, alpha=cover, light=light, scale=scale, origin=corner)
    return layer.trimmed()


def room_layer(person: Person, *, width: int, height: int) -> Picture:
    """Paint the wall behind a person and their neck and shoulders.

    Returns:
        RGB, (height, width, 3).
    """
    scale = person.size * height
    grid = Grid.over(
        -person.centre_x * width / scale,
        -person.centre_y * height / scale,
        width_px=width,
        height_px=height,
        scale=scale,
    )
    picture = _wall(person, grid)
    fall = FALL.get(person.hair_style)
    if fall is not None:
        tips = fall - 0.06 - grid.y + 0.1 * grid.x**2
        behind = np.minimum(person.head_aspect * 0.98 - np.abs(grid.x), tips)
        where = edge(np.minimum(behind, grid.y), grid.scale)
        picture = over(picture, hair_texture(person, grid) * 0.5, where)
    neck_half = person.head_aspect * 0.52
    flare = 0.5 * np.clip(grid.y - 1.0, 0, 1) ** 2
    neck = edge((neck_half + flare - np.abs(grid.x)), grid.scale) * (grid.y > 0.2)
    roundness = np.clip(1 - 0.45 * (grid.x / neck_half) ** 2, 0.3, 1)
    chin_shadow = 1 - 0.42 * blob(grid, 0, 0.95, 0.75, 0.38)
    picture = over(picture, tinted(person.skin, person, 0.92 * roundness * chin_shadow), neck)
    return to_picture(over(picture, *_shirt(person, grid)) * 1.0)


def turn_depth(person: Person, grid: Grid) -> Plane:
    """Say how far points of the face move when the head turns: 0 at the rim, 1 in the middle, (H, W)."""
    depth = np.clip(1 - head_radius(person, grid) ** 2, 0, 1)
    nose = 0.35 * blob(grid, 0, person.nose_y, 0.2, 0.25)
    return (depth + nose).astype(np.float32)


def _relief(person: Person, grid: Grid, *, smile: float) -> Plane:
    """The face's height towards the camera, head units."""
    p, lift = person, smile * person.cheeks * person.smile_strength
    radius = head_radius(p, grid)
    height = p.head_aspect * np.sqrt(1 - np.minimum(radius, 0.97) ** 2)
    # Beyond the rim the surface goes on falling: were it flat there, it would face the camera and shine.
    height -= 3.0 * np.maximum(radius - 0.97, 0)
    bridge = np.clip((grid.y - p.eye_y + 0.1) / (p.nose_y - p.eye_y + 0.1), 0, 1)
    bridge = bridge * step(p.nose_y + 0.06 - grid.y, 0.05)
    width = p.nose_size * (0.42 + 0.25 * bridge)
    height += 0.17 * bridge * np.exp(-((grid.x / width) ** 2))
    height += 0.07 * blob(grid, 0, p.nose_y - 0.01, p.nose_size * 0.62, 0.075)
    for side in (-1, 1):
        eye_x = side * p.eye_spacing
        height += 0.035 * blob(grid, side * p.nose_size * 0.8, p.nose_y + 0.02, p.nose_size * 0.42, 0.06)
        height -= 0.060 * blob(grid, eye_x, p.eye_y + 0.01, p.eye_size * 1.25, 0.13)
        height += 0.040 * blob(grid, eye_x, p.eye_y - p.brow_y, p.eye_size * 1.4, 0.07)
        cheek_y = p.nose_y + 0.06 - 0.09 * lift
        height += (0.045 + 0.065 * lift) * blob(grid, side * p.head_aspect * 0.56, cheek_y, 0.17, 0.15)
    height += 0.045 * blob(grid, 0, 0.86, 0.16, 0.09)
    height += 0.03 * blob(grid, 0, p.mouth_y, p.mouth_width * 1.1, 0.11)
    return np.asarray(height, dtype=np.float32)


def _light(relief: Plane, person: Person) -> Plane:
    scale = _pixels_per_unit(relief)
    slope_y, slope_x = np.gradient(relief * scale)
    across, down, towards = person.light
    facing = (towards - slope_x * across - slope_y * down) / np.sqrt(1 + slope_x**2 + slope_y**2)
    # Wrapped light: windows reach round the edge, a point lamp would leave half of the face black.
    lit = np.clip((facing + 0.35) / 1.35, 0, 1)
    light = person.ambient + (1.06 - person.ambient) * lit
    return np.asarray(cv2.GaussianBlur(light.astype(np.float32), (0, 0), scale * 0.008), dtype=np.float32)


def _pixels_per_unit(relief: Plane) -> float:
    return float(relief.shape[0] / (_CANVAS_XYXY[3] - _CANVAS_XYXY[1]))


def _skin(person: Person, grid: Grid, light: Plane) -> Plane:
    picture = tinted(person.skin, person, light)
    red = np.zeros_like(light)
    for side in (-1, 1):
        red += person.blush * blob(grid, side * person.head_aspect * 0.58, person.nose_y + 0.05, 0.19, 0.14)
    red += 0.5 * person.blush * blob(grid, 0, person.nose_y, person.nose_size, 0.07)
    picture *= 1 - red[..., None] * np.array([0.0, 0.16, 0.14], np.float32)
    shine = 0.10 * blob(grid, 0.1 * person.light[0], -0.42, 0.30, 0.14)
    shine += 0.16 * blob(grid, 0.05 * person.light[0], person.nose_y - 0.03, 0.035, 0.04)
    picture += 235 * shine[..., None]
    if person.freckles > 0:
        spots = cv2.GaussianBlur(noise(person, grid, salt=3), (0, 0), grid.scale * 0.011)
        spots = np.clip(spots / spots.std() - 1.5, 0, 1) * person.freckles * 0.28
        spots *= blob(grid, 0, person.nose_y - 0.03, 0.42, 0.16)
        picture *= 1 - spots[..., None] * np.array([0.6, 1.0, 1.1], np.float32)
    return picture


def _folds(person: Person, grid: Grid, *, smile: float) -> Plane:
    """Shadows that the relief is too smooth to cast: 1 none, below 1 darker."""
    p, lift = person, smile * person.cheeks * person.smile_strength
    shade = np.ones_like(grid.x)
    for side in (-1, 1):
        eye_x = side * p.eye_spacing
        shade -= 0.17 * blob(grid, eye_x, p.eye_y - 0.03, p.eye_size * 1.3, 0.12)
        shade -= 0.10 * blob(grid, eye_x, p.eye_y + 0.13, p.eye_size * 1.1, 0.04)
        shade -= 0.50 * blob(grid, side * p.nose_size * 0.48, p.nose_y + 0.055, p.nose_size * 0.27, 0.022)
        shade -= 0.18 * blob(grid, side * p.nose_size * 1.02, p.nose_y + 0.02, 0.022, 0.05)
        # The fold from the wing of the nose to the corner of the mouth: faint at rest, deep in a smile.
        start, end = p.nose_size * 1.12, p.mouth_width * (1.18 + 0.12 * lift)
        down = np.clip((grid.y - p.nose_y) / (p.mouth_y - p.nose_y), 0, 1)
        path = side * (start + (end - start) * down**0.8)
        depth = (0.05 + 0.24 * lift) * np.sin(np.pi * down**0.7)
        shade -= depth * np.exp(-(((grid.x - path) / 0.028) ** 2))
    shade -= 0.20 * blob(grid, 0, p.nose_y + 0.085, p.nose_size * 0.8, 0.028)
    shade -= 0.16 * blob(grid, 0, p.mouth_y + 0.13 + p.lip * 0.5, p.mouth_width * 0.55, 0.03)
    shade -= 0.06 * blob(grid, 0, p.nose_y + 0.15, 0.022, 0.04)
    return np.clip(shade, 0.3, 1).astype(np.float32)


def _ears(person: Person, grid: Grid) -> Plane:
    if person.hair_style in FALL:
        return np.zeros_like(grid.x)
    ears = np.zeros_like(grid.x)
    for side in (-1, 1):
        distance = np.hypot((grid.x - side * person.head_aspect * 1.0) / 0.10, (grid.y - 0.08) / 0.20)
        ears = np.maximum(ears, edge((1 - distance) * 0.1, grid.scale))
    return ears


def _wall(person: Person, grid: Grid) -> Plane:
    """A blurred room: a wall with a gradient and a few things on it, RGB (H, W, 3)."""
    rng = np.random.default_rng([person.texture_seed, 2])
    shade = (1 + 0.10 * person.light[0] * grid.x - 0.07 * grid.y).astype(np.float32)
    picture = tinted(person.room_rgb, person, shade)
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(-2.4, 2.4), rng.uniform(-1.6, 0.8)
        half_width, half_height = rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.7)
        inside = np.minimum(half_width - np.abs(grid.x - x), half_height - np.abs(grid.y - y))
        colour = np.array(person.room_rgb, np.float32) * rng.uniform(0.65, 1.2) + rng.normal(0, 7, 3)
        thing = np.broadcast_to(colour, picture.shape)
        picture = over(picture, thing, 0.75 * edge(inside, 9))
    return picture


def _shirt(person: Person, grid: Grid) -> tuple[Plane, Plane]:
    """Clothes: RGB (H, W, 3) and where they are (H, W)."""
    half = person.head_aspect * 2.2
    reach = np.abs(grid.x) / half
    top = 1.20 + 0.26 * np.clip(reach, 0, 1) ** 1.6 + 1.1 * np.clip(reach - 0.62, 0, 1) ** 2.4
    neckline = 0.32 - 0.32 * np.clip(np.abs(grid.x) / (person.head_aspect * 0.70), 0, 1) ** 1.6
    where = edge(np.minimum(grid.y - top - neckline, 2 - reach), grid.scale)
    across = grid.x / half
    shade = np.maximum(0.88 - 0.22 * across**2, 0.4) + 0.14 * person.light[0] * across
    shade = shade + 0.05 * np.sin(3.1 * grid.x + 1.7 * grid.y)
    collar = 1 - 0.22 * np.exp(-(((grid.y - top - neckline - 0.07) / 0.02) ** 2))
    return tinted(person.shirt_rgb, person, (shade * collar).astype(np.float32)), where


def _soften(mask: Plane, scale: float) -> Plane:
    shifted = np.roll(mask, max(1, round(scale * 0.03)), axis=0)
    return np.asarray(cv2.GaussianBlur(shifted, (0, 0), scale * 0.035), dtype=np.float32)
