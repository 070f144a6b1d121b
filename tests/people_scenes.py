"""Scenes of made people whose places are known, and a detector that knows them: textures stand for faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face
from mien.media.alignment import TEMPLATE

WIDTH, HEIGHT = 320, 180
CLOCK_STEP = 3
"""The corner of frame i has grey 3 i: the detector reads from it which frame it sees, also after coding."""

MIN_VISIBLE = 0.6
Place = Callable[[int], tuple[float, float, float] | None]


@dataclass(frozen=True)
class Actor:
    """A made person.

    Attributes:
        seed: Of face and clothes.
        place: Frame to centre x, y and width of the face box (px), None where they are away.
    """

    seed: int
    place: Place

    def box(self, frame: int) -> NDArray[np.float64] | None:
        place = self.place(frame)
        if place is None:
            return None
        x, y, width = place
        return np.array([x - width / 2, y - 0.6 * width, x + width / 2, y + 0.6 * width])

    def draw(self, picture: NDArray[np.uint8], frame: int) -> None:
        box = self.box(frame)
        if box is None:
            return
        rng = np.random.default_rng(self.seed)
        hair, clothes = rng.integers(30, 220, (2, 3))
        side = box[2] - box[0]
        _fill(picture, (box[0] - 0.1 * side, box[1] - 0.4 * side, box[2] + 0.1 * side, box[3]), hair)
        _fill(picture, (box[0] - 0.5 * side, box[3], box[2] + 0.5 * side, box[3] + side), clothes)
        coarse = rng.integers(20, 236, (9, 8)).astype(np.float32)
        texture = np.clip(cv2.resize(coarse, (64, 77), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
        scale = side / 64
        matrix = np.array([[scale, 0, box[0]], [0, (box[3] - box[1]) / 77, box[1]]])
        size = (picture.shape[1], picture.shape[0])
        mask = cv2.warpAffine(np.full_like(texture, 255), matrix, size) > 127
        picture[mask] = cv2.warpAffine(texture, matrix, size)[mask][:, None]


def _fill(picture: NDArray[np.uint8], box: Sequence[float], colour: NDArray[np.int64]) -> None:
    x0, y0, x1, y1 = (max(0, round(float(value))) for value in box)
    picture[y0:y1, x0:x1] = colour


def scene(actors: Sequence[Actor], frame: int, *, background: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Draw a frame, the first actor in front."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8) if background is None else background.copy()
    for actor in reversed(actors):
        actor.draw(picture, frame)
    picture[:8, :8] = CLOCK_STEP * frame
    return picture


def visible(actors: Sequence[Actor], frame: int) -> list[int]:
    """Return which actors' faces are seen: those covered to less than 40 % by actors in front of them."""
    found = []
    for number, actor in enumerate(actors):
        box = actor.box(frame)
        if box is None:
            continue
        hidden = np.zeros((HEIGHT, WIDTH), bool)
        for other in actors[:number]:
            front = other.box(frame)
            if front is not None:
                side = front[2] - front[0]
                x0, y0, x1, y1 = (max(0, round(v)) for v in (front[0], front[1] - 0.4 * side, front[2], front[3]))
                hidden[y0:y1, x0:x1] = True
        x0, y0, x1, y1 = (max(0, round(float(v))) for v in box)
        if 1 - hidden[y0:y1, x0:x1].mean() >= MIN_VISIBLE:
            found.append(number)
    return found


class KnowingDetector:
    """Finds the faces of a scene by the frame's number in its corner, some px beside where they are."""

    name = "knowing"

    def __init__(self, actors: Sequence[Actor], *, jitter_px: float = 0.5) -> None:
        self.actors, self.jitter_px, self.calls = list(actors), jitter_px, list[int]()

    def detect(self, rgb: NDArray[np.uint8]) -> list[Face]:
        self.calls.append(self._frame(rgb))
        return self._faces(rgb)

    def find_again(self, rgb: NDArray[np.uint8], face: Face) -> Face | None:
        if self._frame(rgb) not in self.calls:
            self.calls.append(self._frame(rgb))

        def distance(other: Face) -> float:
            return float(np.hypot(*(other.box_xyxy[:2] - face.box_xyxy[:2])))

        return min(self._faces(rgb), key=distance, default=None)

    @staticmethod
    def _frame(rgb: NDArray[np.uint8]) -> int:
        return round(float(rgb[:8, :8].mean()) / CLOCK_STEP)

    def _faces(self, rgb: NDArray[np.uint8]) -> list[Face]:
        frame = self._frame(rgb)
        rng = np.random.default_rng(frame)
        faces = []
        for number in visible(self.actors, frame):
            box = self.actors[number].box(frame)
            assert box is not None
            shift = rng.normal(0, self.jitter_px, 2) if self.jitter_px else np.zeros(2)
            box = box + np.tile(shift, 2)
            side = box[2] - box[0]
            landmarks = box[:2] + side * (TEMPLATE / 64 * 0.8 + [0.1, 0.2])
            faces.append(Face(box.astype(np.float32), landmarks.astype(np.float32), 0.9))
        return faces


def standing(x: float, y: float, width: float, *, sway: float = 4.0) -> Place:
    """Return the place of somebody who sways."""
    return lambda frame: (x + sway * np.sin(frame / 3), y + sway / 2 * np.cos(frame / 4), width)
