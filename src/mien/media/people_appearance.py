"""What a person looks like within one recording: small aligned faces, and the colours of hair and clothing.

It tells the few people of a recording apart, not people in general, and stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face
from mien.media.alignment import align_faces, landmarks_in_square, local_normalise
from mien.media.faces import crop_square

PATCH_PX = 32
"""Side of a compared face. Of 64 and 32 px, with and without local normalisation, the normalised 32 px separated the
smile study's people about best (d' 2.8; 2.4 without normalisation) at a quarter of the work."""

PATCH_SIGMA_PX = 3.0
"""Of the local mean and sd of a patch."""

MAX_SHIFT_PX = 2
"""Patches are compared at shifts up to this far, because landmarks jitter: with it d' is 4.1, with 1 px 4.0, with 3 px
4.0 (smile study, 6 views of each person against faces of the other half of the recording)."""

REGION_PX, REGION_MARGIN = 112, 1.6
"""Side of the square that patches are made of, and its width over the face box."""

HAIR = (-0.35, 0.35, -0.7, -0.38)
CLOTHES = (-0.8, 0.8, 0.6, 0.85)
"""Where colours are taken: x0, x1 in widths and y0, y1 in heights of the face box, from its centre."""

COLOUR_BINS = 8
"""Per axis of L*a*b*: the same person's histograms then correlate above .95 in 99 % of frames, different people's
below .81 in 95 %."""

MIN_COLOUR_SHARE = 0.01
"""A person's colours are the mean over their faces; of hundreds of them the light may have changed."""

COLOURS_PX = 32
"""Longest side of what a histogram is made of; more px don't change it."""

NUM_VIEWS = 8
"""Views kept per person: frontal, turned, smiling, near, far, ... A person's best of 6 is above .81 in 99 % of faces,
another's below .80 in 99 %."""

NEW_VIEW = 0.9
"""A face less like all views than this is a new view."""


@dataclass(frozen=True)
class Appearance:
    """How a face looks in one frame.

    Attributes:
        patch: (32, 32) float32, the aligned face with local mean and sd taken out.
        colours: (2 * 512,) float32, square roots of the histograms of hair and clothes: their dot product is the
            Bhattacharyya coefficient. Where a part lies outside the picture the other counts alone.
    """

    patch: NDArray[np.float32]
    colours: NDArray[np.float32]


def describe(rgb: NDArray[np.uint8], face: Face) -> Appearance:
    """Return how a face looks in a picture (H, W, 3)."""
    box = np.asarray(face.box_xyxy, np.float64)
    region = crop_square(rgb, box, margin=REGION_MARGIN, size_px=REGION_PX)
    points = landmarks_in_square(face.landmarks_xy[None], box[None], margin=REGION_MARGIN, size_px=REGION_PX)
    aligned = align_faces(region[None], points)[0]
    small = cv2.resize(aligned, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    patch = local_normalise(np.asarray(small, np.uint8)[None], sigma_px=PATCH_SIGMA_PX)[0]
    parts = [_histogram(rgb, box, place=place) for place in (HAIR, CLOTHES)]
    weight = max(1, sum(part.any() for part in parts))
    return Appearance(patch=patch, colours=np.concatenate(parts) / np.float32(np.sqrt(weight)))


def _histogram(
    rgb: NDArray[np.uint8], box: NDArray[np.float64], *, place: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Return the root of the colours' shares (512,) at a place beside the face; zeros where it isn't in the picture."""
    (x0, y0), (x1, y1) = box[:2], box[2:]
    across = (x0 + x1) / 2 + np.array(place[:2]) * (x1 - x0)
    down = (y0 + y1) / 2 + np.array(place[2:]) * (y1 - y0)
    (left, right), (top, bottom) = (
        np.clip(across, 0, rgb.shape[1]).astype(int),
        np.clip(down, 0, rgb.shape[0]).astype(int),
    )
    step = max(1, (right - left) // COLOURS_PX, (bottom - top) // COLOURS_PX)
    part = np.ascontiguousarray(rgb[top:bottom:step, left:right:step])
    if not part.size:
        return np.zeros(COLOUR_BINS**3, np.float32)
    lab = cv2.cvtColor(part, cv2.COLOR_RGB2LAB).reshape(-1, 3) // (256 // COLOUR_BINS)
    cells = (lab[:, 0].astype(np.int64) * COLOUR_BINS + lab[:, 1]) * COLOUR_BINS + lab[:, 2]
    return np.sqrt(np.bincount(cells, minlength=COLOUR_BINS**3) / len(cells)).astype(np.float32)


def patch_likeness(patch: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the zero-mean correlation of a face with others (N,), each at its best shift; -1..1."""
    inner = patch[MAX_SHIFT_PX:-MAX_SHIFT_PX, MAX_SHIFT_PX:-MAX_SHIFT_PX]
    best = [float(np.max(_correlate(other, inner))) for other in others]
    return np.array(best, np.float32)


def _correlate(picture: NDArray[np.float32], inner: NDArray[np.float32]) -> Any:
    if picture.std() < 1e-6 or inner.std() < 1e-6:
        return np.zeros(1)  # OpenCV calls a flat picture a perfect match
    return cv2.matchTemplate(picture, inner, cv2.TM_CCOEFF_NORMED)


class Views:
    """The different views of one person seen so far, at most `NUM_VIEWS`, and how many faces were like each."""

    def __init__(self, first: Appearance) -> None:
        self.patches = [first.patch]
        self.counts = [1]
        self.colours = first.colours

    def likeness(self, appearance: Appearance) -> tuple[float, float]:
        """Return how like the person a face is: by its patch (-1..1) and by its colours (0..1)."""
        return float(patch_likeness(appearance.patch, self.patches).max()), float(self.colours @ appearance.colours)

    def add(self, appearance: Appearance) -> None:
        """Learn from a face that surely is the person's; a new view takes the place of the rarest one."""
        self._mix(appearance.colours, share=max(1 / (sum(self.counts) + 1), MIN_COLOUR_SHARE))
        likeness = patch_likeness(appearance.patch, self.patches)
        if likeness.max() >= NEW_VIEW:
            self.counts[int(likeness.argmax())] += 1
            return
        self._append(appearance.patch, count=1)

    def compared(self, other: Views) -> tuple[float, float]:
        """Return how like two people are, from the better side.

        It is the mean over one's faces of how like the other's best view they are, a view standing for its faces: views
        are the odd ones by construction, so each alone says less than a face.
        """
        table = np.stack([patch_likeness(patch, other.patches) for patch in self.patches])
        mine = float(np.average(table.max(axis=1), weights=self.counts))
        theirs = float(np.average(table.max(axis=0), weights=other.counts))
        return max(mine, theirs), float(self.colours @ other.colours)

    def join(self, other: Views) -> None:
        """Take along what the same person's other track showed; of all views the most frequent ones stay."""
        self._mix(other.colours, share=sum(other.counts) / (sum(self.counts) + sum(other.counts)))
        for patch, count in zip(other.patches, other.counts, strict=True):
            self._append(patch, count=count)

    def _append(self, patch: NDArray[np.float32], *, count: int) -> None:
        if len(self.patches) == NUM_VIEWS:
            rarest = int(np.argmin(self.counts))
            if self.counts[rarest] > count:
                return
            del self.patches[rarest], self.counts[rarest]
        self.patches.append(patch)
        self.counts.append(count)

    def _mix(self, colours: NDArray[np.float32], *, share: float) -> None:
        mixed = (1 - share) * self.colours + share * colours
        # Means of roots are shorter; normalised again, their product stays a coefficient.
        self.colours = (mixed / max(float(np.linalg.norm(mixed)), 1e-6)).astype(np.float32)
