"""Hair and beards of the drawn people."""

from __future__ import annotations

import cv2
import numpy as np

from mien.demo.paint import Grid, Plane, edge, head_radius, noise, step, tinted
from mien.demo.person import HairStyle, Person

FALL: dict[HairStyle, float] = {"long": 1.36, "wavy": 1.18, "bob": 0.80}
"""How far down hair falls, head units, where it does."""


def hair_masks(person: Person, grid: Grid) -> tuple[Plane, Plane]:
    """Say where hair is behind and before the head: two of 0..1, (H, W)."""
    style = person.hair_style
    bulk = {"buzz": 1.025, "bun": 1.05, "short": 1.09, "parted": 1.12, "curly": 1.22}.get(style, 1.13)
    wobble = 0.04 * np.sin(11 * np.arctan2(grid.x, grid.y + 0.2)) if style == "curly" else 0.0
    cap = edge(bulk + wobble - head_radius(person, grid), grid.scale)
    front = cap * edge(_hairline(person, grid) - grid.y, grid.scale)
    back = cap * edge(0.05 - grid.y, grid.scale)
    fall = FALL.get(style)
    if fall is not None:
        swing = 0.17 if style == "wavy" else 0.0
        wave = swing * np.sin(7 * (grid.y + 0.3)) * np.clip(grid.y + 0.3, 0, 0.3)
        down = np.clip(grid.y + 0.35, 0, 1.5)
        outer = person.head_aspect * (bulk - 0.02 + 0.12 * np.sin(1.3 * down)) + wave
        inner = person.head_aspect * (0.95 - 0.16 * down**1.5 / 1.5) + wave * 0.5
        lock = np.minimum(outer - np.abs(grid.x), np.abs(grid.x) - inner)
        tips = fall - grid.y - 0.55 * (np.abs(grid.x) / person.head_aspect - 0.85) ** 2
        front = np.maximum(front, edge(np.minimum(np.minimum(lock, tips), grid.y + 0.35), grid.scale))
    if style == "bun":
        back = np.maximum(back, edge(0.30 - np.hypot(grid.x, (grid.y + 1.14) * 1.1), grid.scale))
    return back.astype(np.float32), front.astype(np.float32)


def _hairline(person: Person, grid: Grid) -> Plane:
    """How far down the hair on the forehead reaches: y in head units for each pixel, (H, W)."""
    sweep = 1 if person.texture_seed % 2 else -1
    x = sweep * grid.x / person.head_aspect
    across = np.abs(x)
    right, left = np.clip(x + 0.2, 0, 2), np.clip(-0.2 - x, 0, 1)
    parting = 0.34 * np.clip(x - 0.3, 0, 1) + 0.26 * np.clip(0.3 - x, 0, 2) ** 1.4
    line: dict[HairStyle, Plane] = {
        "short": -0.10 + 0.10 * x + 0.06 * np.abs(np.sin(9 * x)) + 0.62 * across**7,
        "parted": -0.16 + parting + 0.4 * across**8,
        "long": -0.10 + 0.95 * np.abs(across - 0.02) ** 2.0,
        "wavy": -0.14 + 0.3 * right**1.5 + 0.55 * left + 0.3 * across**6,
        "bob": 0.13 + 0.16 * across**3,
        "curly": -0.04 + 0.045 * np.sin(15 * x) + 0.45 * across**5,
        "bun": -0.10 + 0.50 * across**3.5,
        "buzz": -0.12 + 0.04 * np.cos(5 * x) + 0.60 * across**8,
    }
    return np.asarray(person.hairline + line[person.hair_style], dtype=np.float32)


def hair_texture(person: Person, grid: Grid) -> Plane:
    """Hair as if it were everywhere: RGB, (H, W, 3)."""
    style = person.hair_style
    if style in ("curly", "buzz"):
        size = grid.scale * (0.045 if style == "curly" else 0.012)
        fine = cv2.GaussianBlur(noise(person, grid, salt=1), (0, 0), size)
        fine = (0.7 if style == "curly" else 0.22) * fine / fine.std()
    else:
        sweep = 1 if person.texture_seed % 2 else -1
        # Strands fan out from the crown, or from the parting.
        crown = {"parted": (0.30, -1.15), "wavy": (-0.2, -1.3), "short": (-0.5, -1.3)}.get(style, (0.0, -1.6))
        angle = np.arctan2(grid.x - sweep * crown[0] * person.head_aspect, grid.y - crown[1])
        waves = np.random.default_rng([person.texture_seed, 1]).normal(0, 1, (1, 384)).astype(np.float32)
        waves = cv2.GaussianBlur(waves, (0, 0), 1.2)[0]
        fine = 0.8 * np.interp(angle, np.linspace(-np.pi, np.pi, 384), waves / waves.std())
    relief = np.sqrt(np.clip(1 - (head_radius(person, grid) / 1.35) ** 2, 0.05, 1))
    across, down, _ = person.light
    lit = 0.62 + 0.42 * relief + 0.16 * (across * grid.x + down * grid.y)
    band = 0.22 * np.exp(-(((grid.y + 0.88 - 0.35 * grid.x**2) / 0.10) ** 2)) * (1 + 0.7 * fine)
    light = np.clip(lit + 0.13 * fine + band, 0.25, 1.7)
    return tinted(person.hair_rgb, person, light.astype(np.float32))


def beard_mask(person: Person, grid: Grid, *, smile: float) -> Plane:
    """Say where a beard covers the skin, leaving the lips free: 0..1, (H, W)."""
    if person.beard <= 0:
        return np.zeros_like(grid.x)
    lower = step(grid.y - (person.nose_y + 0.10 + 0.03 * np.cos(6 * grid.x)), 0.05)
    cheeks = step(grid.y - (0.66 - 0.85 * np.abs(grid.x) ** 1.2) * 0.95, 0.08)
    across = np.clip(np.abs(grid.x) / person.mouth_width, 0, 1.3)
    y = grid.y - person.mouth_y + 0.12 * smile * person.smile_strength * (across**2.1 - 0.34)
    from_lips = np.hypot(grid.x / person.mouth_width, (y - 0.01) / 0.085)
    lips = 1 - step(1.05 - from_lips, 0.25)
    moustache = 1.7 * np.exp(-((across / 0.95) ** 2) - ((y + 0.095) / 0.05) ** 2)
    mask = np.maximum(cheeks * lower, moustache) * lips
    return np.asarray(person.beard * np.clip(mask, 0, 1), dtype=np.float32)


def beard_colour(person: Person, texture: Plane, light: Plane) -> Plane:
    """Mix a beard from hair, (H, W, 3), under the light on the face, (H, W): RGB, (H, W, 3)."""
    even = tinted(person.hair_rgb, person, 0.8 * light)
    skin = tinted(person.skin, person, light)
    return np.asarray(0.62 * even + 0.24 * texture + 0.14 * skin, dtype=np.float32)
