"""A decoded picture: its time, its colours as RGB, and which way up it is shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

Axes = tuple[bool, bool, bool]
"""How a stored picture is turned for display: axes swapped, then mirrored left-right, then upside down."""


class Orientation:
    """How the pictures of a stream are turned, read once for each rotation that occurs.

    A picture whose side data is looked at refers to itself from then on (PyAV 18), so its memory stays until Python's
    garbage collector comes by, which may be hundreds of pictures later.
    """

    def __init__(self) -> None:
        self._axes: dict[int, Axes] = {}

    def of(self, picture: av.VideoFrame) -> Axes:
        """Return how a picture is turned."""
        axes = self._axes.get(picture.rotation)
        if axes is None:
            axes = self._axes[picture.rotation] = display_axes(picture)
        return axes


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame that isn't converted to RGB yet: most frames of a sampled video never are.

    Attributes:
        pts_s: Presentation time in seconds.
        index: Number of the frame, by time.
        picture: The decoder's own picture, as stored (not upright).
        tick_s: Length of one unit of the stream's clock in seconds.
        orientation: How pictures of its stream are turned.
    """

    pts_s: float
    index: int
    picture: av.VideoFrame
    tick_s: float
    orientation: Orientation

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) uint8, upright.

        Matrix and range are those that the frame declares, BT.601 and limited range where it doesn't, as FFmpeg does.
        """
        # One thread: files are what goes in parallel.
        stored = np.asarray(self.picture.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)
        return _turned(stored, self.orientation.of(self.picture))


def display_axes(picture: av.VideoFrame) -> Axes:
    """Read how a stored picture is turned for display.

    The matrix of ISO/IEC 14496-12 maps a pixel (x, y) to (a x + c y, b x + d y). Rotations by 90 degrees and mirrored
    pictures (front cameras of phones) are told apart by the signs; `frame.rotation` takes a mirrored one for turned.
    """
    side_data: Any = picture.side_data  # a mapping by type; its stub knows motion vectors only
    try:
        matrix = bytes(side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if swapped else (False, a < 0, d < 0)


def rotation_deg(axes: Axes) -> tuple[int, bool]:
    """Return what `display_axes` does, as degrees clockwise and then a flip left-right.

    >>> rotation_deg((True, True, False)), rotation_deg((False, True, False))
    ((90, False), (0, True))
    """
    swapped, left_right, upside_down = axes
    if swapped:
        # Swapped axes are a turn clockwise and a flip; reversing the columns undoes the flip.
        return (270 if upside_down else 90), left_right == upside_down
    return (180 if upside_down else 0), left_right != upside_down


def _turned(stored: NDArray[np.uint8], axes: Axes) -> NDArray[np.uint8]:
    swapped, mirrored, upside_down = axes
    picture = stored.transpose(1, 0, 2) if swapped else stored
    picture = picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return np.ascontiguousarray(picture)
