"""Drawn faces: what the demonstration records instead of people.

A face is a lit relief (`mien.demo.layers`) with eyes, brows and mouth drawn on it for each picture, then
moved and turned into its place in the room by one resampling. Nobody's picture is needed, and the truth
about each frame is known.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from mien.demo.features import Canvas, draw_brow, draw_eye, draw_glasses, draw_mouth
from mien.demo.layers import head_layer, room_layer, turn_depth
from mien.demo.paint import Grid, Picture
from mien.demo.person import Expression, Person

__all__ = ["Expression", "FacePainter", "Person", "draw_face", "head_box_xyxy"]

_REACH = 0.2
"""How far the head may move from its place, head units; farther, its rim would be cut off."""

_YAW_REACH = 0.13
"""How far the middle of the face moves at full yaw, head units (about 20 degrees on a head of this depth)."""


def draw_face(person: Person, expression: Expression, *, width: int = 320, height: int = 240) -> Picture:
    """Draw one picture of a person.

    Args:
        person: who is drawn.
        expression: what their face does.
        width: of the picture, px.
        height: of the picture, px.

    Returns:
        RGB, (height, width, 3).
    """
    return _painter(person, width, height).draw(expression)


def head_box_xyxy(
    person: Person, expression: Expression, *, width: int = 320, height: int = 240
) -> tuple[float, float, float, float]:
    """Say where the head (hair and ears apart) is in the picture, px."""
    unit = person.size * height
    x = person.centre_x * width + expression.offset_x * unit
    y = person.centre_y * height + expression.offset_y * unit
    return (x - person.head_aspect * unit, y - unit, x + person.head_aspect * unit, y + unit)


@lru_cache(maxsize=2)
def _painter(person: Person, width: int, height: int) -> FacePainter:
    return FacePainter(person, width=width, height=height)


class FacePainter:
    """Draws pictures of one person; keeps what doesn't change between them.

    Args:
        person: who is drawn.
        width: of the pictures, px.
        height: of the pictures, px.
    """

    def __init__(self, person: Person, *, width: int, height: int) -> None:
        self.person = person
        self._room = room_layer(person, width=width, height=height)
        self._head = head_layer(person, height=height)
        unit = person.size * height
        x0, y0, x1, y1 = self._head.extent_xyxy
        left = max(0, math.floor(person.centre_x * width + (x0 - _REACH) * unit))
        right = min(width, math.ceil(person.centre_x * width + (x1 + _REACH) * unit))
        top = max(0, math.floor(person.centre_y * height + (y0 - _REACH) * unit))
        bottom = min(height, math.ceil(person.centre_y * height + (y1 + _REACH) * unit))
        self._window = (slice(top, bottom), slice(left, right))
        grid = Grid.over(
            (left - person.centre_x * width) / unit,
            (top - person.centre_y * height) / unit,
            width_px=right - left,
            height_px=bottom - top,
            scale=unit,
        )
        self._grid = grid
        self._depth = turn_depth(person, grid)

    def draw(self, expression: Expression) -> Picture:
        """Draw one picture.

        Args:
            expression: what the face does.

        Returns:
            RGB, (height, width, 3).
        """
        smile = min(max(expression.smile, 0.0), 1.0)
        head = self._head
        face: Any = cv2.addWeighted(head.neutral, 1 - smile, head.smiling, smile, 0)
        canvas = Canvas(face, light=head.light, scale=head.scale, origin=head.origin)
        draw_mouth(canvas, self.person, expression)
        for side in (-1, 1):
            draw_eye(canvas, self.person, expression, side=side)
            draw_brow(canvas, self.person, expression, side=side)
        if self.person.glasses:
            draw_glasses(canvas, self.person)
        picture: Any = self._place(face, expression)
        if expression.light != 1:
            picture = cv2.convertScaleAbs(picture, alpha=expression.light)
        return np.asarray(picture, dtype=np.uint8)

    def _place(self, face: Picture, expression: Expression) -> Picture:
        """Turn, tilt and move the head into the room with one resampling."""
        scale, (x0, y0) = self._head.scale, self._head.origin
        cos, sin = math.cos(expression.roll) * scale, math.sin(expression.roll) * scale
        # The inverse of: rotate about the head's middle, then shift.
        shift_x = -expression.offset_x * cos - expression.offset_y * sin - x0 * scale
        shift_y = expression.offset_x * sin - expression.offset_y * cos - y0 * scale
        map_x: Any = cv2.addWeighted(self._grid.x, cos, self._grid.y, sin, shift_x)
        map_y: Any = cv2.addWeighted(self._grid.x, -sin, self._grid.y, cos, shift_y)
        if expression.yaw:
            map_x = cv2.scaleAdd(self._depth, -expression.yaw * _YAW_REACH * scale, map_x)
        if expression.pitch:
            map_y = cv2.scaleAdd(self._depth, -expression.pitch * _YAW_REACH * scale, map_y)
        # Beyond the canvas is nothing: black, and clear.
        head: Any = cv2.remap(face, map_x, map_y, cv2.INTER_LINEAR)
        alpha: Any = cv2.remap(self._head.alpha, map_x, map_y, cv2.INTER_LINEAR)
        clear = cv2.bitwise_not(alpha)
        picture = self._room.copy()
        behind: Any = cv2.multiply(picture[self._window], cv2.merge([clear, clear, clear]), scale=1 / 255)
        picture[self._window] = cv2.add(behind, head)
        return picture
