"""The parts of a drawn face that move by themselves: mouth, eyes and brows (and glasses, which sit there)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.demo.paint import Picture, Plane
from mien.demo.person import Colour, Expression, Person

_FIXED_BITS = 4
"""Fractional bits of OpenCV's drawing coordinates: features move by fractions of a pixel between frames."""

_ALONG = np.linspace(-1, 1, 21, dtype=np.float32)
_TAPER = (1 - 0.75 * _ALONG**2) / 2
_ARCH = 1 - np.abs(_ALONG) ** 2.2
_MOUTH_RISE = np.abs(_ALONG) ** 2.1 - 0.34
_UPPER_LIP = _ARCH**0.8 * (1 - 0.28 * np.exp(-((_ALONG / 0.16) ** 2)))


class Canvas:
    """The head's canvas, drawn on in head units."""

    def __init__(
        self,
        picture: Picture,
        *,
        light: Plane,
        scale: float,
        origin: tuple[float, float],
    ) -> None:
        self.picture = picture
        self.light = light
        self.scale = scale
        self.origin = origin

    def to_px(self, x: float, y: float) -> tuple[float, float]:
        """Head units to canvas px."""
        return ((x - self.origin[0]) * self.scale, (y - self.origin[1]) * self.scale)

    def fixed(self, points: Plane) -> NDArray[np.int32]:
        """(N, 2) head units to OpenCV's fixed point px."""
        step = self.scale * (1 << _FIXED_BITS)
        shift = np.array([0.5 - self.origin[0] * step, 0.5 - self.origin[1] * step])
        return np.asarray(points * step + shift).astype(np.int32)

    def lit(self, colour: Colour, x: float, y: float) -> Colour:
        """A colour under the light that falls on the face at (x, y)."""
        column, row = self.to_px(x, y)
        light = float(self.light[int(row), int(column)])
        return (colour[0] * light, colour[1] * light, colour[2] * light)

    def fill(self, points: Plane, colour: Colour) -> None:
        """Fill the polygon through (N, 2) points."""
        cv2.fillPoly(self.picture, [self.fixed(points)], colour, cv2.LINE_AA, _FIXED_BITS)

    def line(self, x: Plane, y: Plane, colour: Colour, *, width: float) -> None:
        """Draw a mostly level line over the N points of `_ALONG`: `width` in its middle, thin at its ends."""
        taper = width * _TAPER
        self.fill(_loop(x, y - taper, y + taper), colour)

    def curve(self, points: Plane, colour: Colour, *, thickness_px: int, closed: bool = False) -> None:
        """Draw a line of even thickness through (N, 2) points."""
        path = [self.fixed(points)]
        cv2.polylines(self.picture, path, closed, colour, thickness_px, cv2.LINE_AA, _FIXED_BITS)


def draw_mouth(canvas: Canvas, person: Person, expression: Expression) -> None:
    """Draw lips, teeth and what is behind them."""
    p, strength = person, expression.smile * person.smile_strength
    opened = max(0.0, expression.mouth_open)
    half = p.mouth_width * (1 + 0.34 * strength - 0.16 * opened)
    bend = 0.085 * p.resting_curve + 0.155 * strength
    gap = 0.20 * opened + 0.085 * strength * p.teeth
    top_y = p.mouth_y - 0.03 * opened - 0.015 * strength
    x = half * _ALONG
    upper_line = top_y - bend * _MOUTH_RISE
    lower_line = upper_line + gap * _ARCH
    thin = 1 - 0.25 * strength
    upper_edge = upper_line - p.lip * 0.72 * thin * _UPPER_LIP
    lower_edge = lower_line + p.lip * thin * _ARCH
    skin = canvas.lit(p.skin, 0, top_y)
    upper, lower = _times(skin, (0.74, 0.52, 0.52)), _times(skin, (0.88, 0.62, 0.62))
    canvas.fill(_loop(x, upper_edge, upper_line), upper)
    canvas.fill(_loop(x, lower_line, lower_edge), lower)
    shine = 0.45 * lower_line + 0.55 * lower_edge
    canvas.line(0.33 * x, shine, _mix(lower, (255, 255, 255), 0.14), width=p.lip * 0.32)
    if gap > 0.012:
        canvas.fill(_loop(x, upper_line, lower_line), canvas.lit((82, 34, 36), 0, top_y))
        if strength * p.teeth > 0.12 or opened > 0.35:
            bottom = np.minimum(lower_line - 0.25 * gap * _ARCH, upper_line + 0.075 * _ARCH)
            inner = slice(2, -2)
            white = canvas.lit((236, 230, 220), 0, top_y)
            canvas.fill(_loop(0.97 * x[inner], upper_line[inner], bottom[inner]), white)
    canvas.line(1.03 * x, upper_line, _times(skin, (0.46, 0.28, 0.27)), width=0.026)


def draw_eye(canvas: Canvas, person: Person, expression: Expression, *, side: int) -> None:
    """Draw one eye; `side` is -1 for the one on the picture's left."""
    p = person
    strength = expression.smile * p.smile_strength
    centre_x = side * p.eye_spacing
    half, tall = p.eye_size, p.eye_size * p.eye_open
    along = side * _ALONG
    tilt = -math.tan(p.eye_tilt) * half * _ALONG
    low = p.eye_y + tilt + _ARCH * tall * (0.62 - 0.42 * strength * p.cheeks)
    high = p.eye_y + tilt - _ARCH * tall * (1.0 + 0.12 * expression.brow_raise - 0.10 * strength)
    closed = min(max(expression.blink, 0.0), 1.0)
    upper = high + closed * (low - high) * 0.96
    x = centre_x + half * along
    skin_here = canvas.lit(p.skin, centre_x, p.eye_y - 0.1)
    lash = _mix(_mix(p.hair_rgb, (30, 22, 20), 0.6), skin_here, 0.08)
    if closed > 0.02:
        canvas.fill(_loop(x, high, low), _scaled(skin_here, 0.86))
    if closed < 0.9:
        _draw_eyeball(canvas, p, expression, _loop(x, upper, low), centre_x=centre_x, tall=tall)
    canvas.line(x, low, _scaled(skin_here, 0.66), width=0.014)
    canvas.line(centre_x + (x - centre_x) * 1.06, upper - 0.006, lash, width=0.036)
    crease = high - 0.05 - 0.012 * expression.brow_raise
    canvas.line(centre_x + (x - centre_x) * 0.9, crease, _scaled(skin_here, 0.74), width=0.014)


def _draw_eyeball(
    canvas: Canvas, person: Person, expression: Expression, opening: Plane, *, centre_x: float, tall: float
) -> None:
    """Draw white, iris and pupil within the lids."""
    (x0, y0), (x1, y1) = opening.min(axis=0), opening.max(axis=0)
    left, top = (math.floor(v) - 1 for v in canvas.to_px(x0, y0))
    right, bottom = (math.ceil(v) + 2 for v in canvas.to_px(x1, y1))
    patch = canvas.picture[top:bottom, left:right]
    origin = (canvas.origin[0] + left / canvas.scale, canvas.origin[1] + top / canvas.scale)
    ball = np.empty_like(patch)
    ball[:] = np.clip(canvas.lit((238, 234, 230), centre_x, person.eye_y), 0, 255)
    eye = Canvas(ball, light=canvas.light, scale=canvas.scale, origin=origin)
    x = centre_x + 0.35 * person.eye_size * expression.gaze_x
    y = person.eye_y + tall * (0.4 * expression.gaze_y - 0.1)
    radius = 0.92 * tall
    iris = canvas.lit(person.iris_rgb, centre_x, person.eye_y)
    _disc(eye, (x, y), radius, _scaled(iris, 0.55))
    _disc(eye, (x, y), radius * 0.84, iris)
    _disc(eye, (x, y), radius * 0.46, (14.0, 10.0, 10.0))
    glint = (x + 0.3 * person.light[0] * radius, y - 0.35 * radius)
    _disc(eye, glint, radius * 0.22, (250.0, 250.0, 250.0))
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [eye.fixed(opening)], 255, cv2.LINE_AA, _FIXED_BITS)
    # The upper lid shades the top of the eyeball.
    shade = np.linspace(0.72, 1.06, len(ball), dtype=np.float32).clip(0, 1)[:, None, None]
    patch[:] = patch + (ball * shade - patch) * (mask[..., None].astype(np.float32) / 255)


def draw_brow(canvas: Canvas, person: Person, expression: Expression, *, side: int) -> None:
    """Draw one brow."""
    p = person
    half = p.eye_size * 1.32
    x = side * (p.eye_spacing + 0.01 + half * _ALONG)
    y = p.eye_y - p.brow_y - 0.085 * expression.brow_raise - math.tan(p.brow_tilt) * half * _ALONG
    y = y - 0.045 * (1 - _ALONG**2) * (1 + 0.5 * expression.brow_raise)
    y = y + 0.045 * np.clip(_ALONG - 0.3, 0, 1) ** 2
    skin = canvas.lit(p.skin, side * p.eye_spacing, p.eye_y - p.brow_y)
    canvas.line(x, y, _mix(_scaled(p.hair_rgb, 0.72), skin, 0.18), width=p.brow_weight * 1.5)


def draw_glasses(canvas: Canvas, person: Person) -> None:
    """Draw the frame of a pair of glasses."""
    p = person
    turn = np.linspace(0, 2 * np.pi, 33)[:-1]
    power = 1.0 if p.glasses == 1 else 0.55
    reach_x, reach_y = min(p.eye_spacing * 0.84, p.eye_size * 1.75), p.eye_size * 1.45
    colour = (44.0, 38.0, 40.0)
    thick = max(1, round(canvas.scale * 0.018))
    for side in (-1, 1):
        x = side * p.eye_spacing + reach_x * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
        y = p.eye_y + 0.02 + reach_y * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power
        canvas.curve(np.stack([x, y], axis=1), colour, thickness_px=thick, closed=True)
        hinge, ear = side * (p.eye_spacing + reach_x), side * p.head_aspect * 0.97
        canvas.curve(np.array([[hinge, p.eye_y], [ear, p.eye_y - 0.03]]), colour, thickness_px=thick)
    inner = p.eye_spacing - reach_x
    bridge = np.array([[-inner, p.eye_y], [0, p.eye_y - 0.03], [inner, p.eye_y]])
    canvas.curve(bridge, colour, thickness_px=thick)


def _disc(canvas: Canvas, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    one = 1 << _FIXED_BITS
    column, row = canvas.to_px(*centre)
    middle, size = (round(column * one), round(row * one)), round(radius * canvas.scale * one)
    cv2.circle(canvas.picture, middle, size, colour, -1, cv2.LINE_AA, _FIXED_BITS)


def _loop(x: Plane, first: Plane, second: Plane) -> Plane:
    """The closed outline between two curves over the same x: three of (N,) to (2N, 2)."""
    size = len(x)
    outline = np.empty((2 * size, 2), np.float32)
    outline[:size, 0], outline[:size, 1] = x, first
    outline[size:, 0], outline[size:, 1] = x[::-1], second[::-1]
    return outline


def _scaled(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _times(colour: Colour, factors: Colour) -> Colour:
    return (colour[0] * factors[0], colour[1] * factors[1], colour[2] * factors[2])


def _mix(first: Colour, second: Colour, part: float) -> Colour:
    a, b = first, second
    return (a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1]), a[2] + part * (b[2] - a[2]))
