"""Covers faces: where everybody's face is at any time of a recording, and how it is made unrecognisable.

A detector misses faces. So each person's box is interpolated where the detector found nobody between two frames in
which it did, held for a moment before the first and after the last, and enlarged. A person whom the detector never
found, or who was seen only between two of its looks, isn't covered: a person has to look at the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.progress import progress
from mien.core.types import FaceTrack
from mien.media.detectors import FaceDetector
from mien.media.people import PeopleFinder
from mien.media.video import probe_video, sample_frames

COVER_FPS = 5.0
"""How often the detector looks for faces to cover, per second: in a fifth of a second a head that turns moves by a
fraction of the box, which `COVER_MARGIN` allows for."""

COVER_MARGIN = 1.4
"""Side of what is covered over the box that the detector found: hair line, chin, and movement between looks."""

BRIDGED_S = 3.0
"""Over so long a person's box is interpolated where nobody was found; later they may come back elsewhere."""

HELD_S = 0.6
"""So long a box is held before it was first found and after it was last: three looks."""

BLOCKS = 6
"""Blocks across a covered face: no feature is left to recognise, a smile included."""


@dataclass(frozen=True)
class FaceCover:
    """Where everybody's face is.

    Attributes:
        tracks: The people.
    """

    tracks: Sequence[FaceTrack]

    def boxes_at(self, pts_s: float) -> NDArray[np.float64]:
        """Return all boxes (N, 4) at a time, px, before they are enlarged."""
        found = [box for track in self.tracks if (box := box_at(track.pts_s, track.boxes_xyxy, pts_s)) is not None]
        return np.stack(found) if found else np.empty((0, 4))

    def cover(self, rgb: NDArray[np.uint8], *, pts_s: float) -> NDArray[np.uint8]:
        """Return a frame (H, W, 3) with all faces made of a few blocks."""
        covered = rgb.copy()
        for box in self.boxes_at(pts_s):
            _cover_box(covered, box)
        return covered


def find_faces(video: Path, *, detector: FaceDetector, fps: float = COVER_FPS) -> FaceCover:
    """Find everybody in a recording; memory is about 100 bytes per face.

    Args:
        video: The recording.
        detector: Looks at every sampled frame.
        fps: Frames per second that it looks at.

    Raises:
        MediaError: The recording can't be read.
    """
    finder = PeopleFinder(detector, look_around_s=0.0)  # nobody may be seen for a second before they are covered
    duration_s = probe_video(video).duration_s or 0.0
    with progress(f"Looking for faces in {video.name}", total=max(1, round(duration_s * fps))) as advance:
        for frame in sample_frames(video, fps=fps, threads=1):
            finder.add(frame.rgb, pts_s=frame.pts_s)
            advance("")
    return FaceCover(finder.finish().tracks)


def box_at(
    pts_s: NDArray[np.float64],
    boxes_xyxy: NDArray[np.floating],
    at_s: float,
    *,
    bridged_s: float = BRIDGED_S,
    held_s: float = HELD_S,
) -> NDArray[np.float64] | None:
    """Return a person's box at a time, between two at which it is known, or held beside one; None where it isn't known.

    Args:
        pts_s: (N,) increasing times at which it is known.
        boxes_xyxy: (N, 4) px.
        at_s: The time.
        bridged_s: Over so long a gap it is interpolated.
        held_s: So long it is held before and after.

    >>> box_at(np.array([0.0, 1.0]), np.array([[0, 0, 2, 2], [4, 0, 6, 2]]), 0.5).tolist()
    [2.0, 0.0, 4.0, 2.0]
    >>> box_at(np.array([0.0, 9.0]), np.array([[0, 0, 2, 2], [4, 0, 6, 2]]), 5.0) is None
    True
    """
    after = int(np.searchsorted(pts_s, at_s))
    before = after - 1
    if 0 < after < len(pts_s) and pts_s[after] - pts_s[before] <= bridged_s:
        share = (at_s - pts_s[before]) / (pts_s[after] - pts_s[before])
        return np.asarray((1 - share) * boxes_xyxy[before] + share * boxes_xyxy[after], np.float64)
    near = [place for place in (before, after) if 0 <= place < len(pts_s) and abs(pts_s[place] - at_s) <= held_s]
    if not near:
        return None
    return np.asarray(boxes_xyxy[min(near, key=lambda place: abs(float(pts_s[place]) - at_s))], np.float64)


def _cover_box(rgb: NDArray[np.uint8], box: NDArray[np.float64]) -> None:
    """Make a part of a frame unrecognisable, in place."""
    height, width = rgb.shape[:2]
    centre, half = (box[:2] + box[2:]) / 2, COVER_MARGIN * (box[2:] - box[:2]) / 2
    left, top = (int(value) for value in np.floor(np.maximum(centre - half, 0)))
    right, bottom = (int(value) for value in np.ceil(np.minimum(centre + half, (width, height))))
    if right <= left or bottom <= top:
        return
    part = rgb[top:bottom, left:right]
    side = max(right - left, bottom - top)
    blocks = (max(1, BLOCKS * (right - left) // side), max(1, BLOCKS * (bottom - top) // side))
    small = cv2.resize(part, blocks, interpolation=cv2.INTER_AREA)
    rgb[top:bottom, left:right] = cv2.resize(small, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
