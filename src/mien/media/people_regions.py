"""Known faces looked for where they were, which takes a detector a fraction of the time of a whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face
from mien.media.detectors import FaceDetector
from mien.media.people_flow import any_near

MAX_MOVE = 0.5
"""A face whose centre moved by more, in longer sides of its box, may be another one."""

MAX_STRETCH = 1.4
"""A face that grew or shrank by more may be another one, too."""


def find_again(detector: FaceDetector, rgb: NDArray[np.uint8], faces: Sequence[Face]) -> list[Face] | None:
    """Return the faces of the sample before where they are now.

    Args:
        detector: Looks where they were.
        rgb: (H, W, 3) uint8.
        faces: What the sample before showed.

    Returns:
        As many faces in the same order; None where one isn't found, or two are so near that they may cover each other:
        then the whole picture has to be looked at.
    """
    if any_near(faces):
        return None
    again = []
    for face in faces:
        found = detector.find_again(rgb, face)
        if found is None or not _is_same(face, found):
            return None
        again.append(found)
    return None if any_near(again) else again


def _is_same(before: Face, now: Face) -> bool:
    sides = [float((face.box_xyxy[2:] - face.box_xyxy[:2]).max()) for face in (before, now)]
    centres = [(face.box_xyxy[2:] + face.box_xyxy[:2]) / 2 for face in (before, now)]
    if min(sides) <= 0:
        return False
    near = np.hypot(*(centres[0] - centres[1])) <= MAX_MOVE * sides[0]
    return bool(near and 1 / MAX_STRETCH <= sides[1] / sides[0] <= MAX_STRETCH)
