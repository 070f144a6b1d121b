"""Where a composite screen recording shows the participant's camera: a fixed region, found from a sparse sample.

The stimulus may show faces, too. The camera is the place that shows a face most of the time and that is alive all of
the time; its border, where there is one, is a rectangle of edges that stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import MediaError
from mien.core.types import Face, VideoFrame
from mien.media.container import DecodeLog
from mien.media.detectors import FaceDetector
from mien.media.faces import median_panel
from mien.media.video import probe_video, sample_frames

NUM_SAMPLES = 24
"""Frames that a panel is found from, spread over the recording."""

MIN_SAMPLES = 8
"""With fewer the container's duration was wrong, and the sample is drawn again by the last frame's time."""

UNKNOWN_DURATION_S = 120.0
"""Where a container has no duration, the sample is first drawn as if it were so long."""

PICTURE_PX = 640
"""Longer side of the pictures in which borders and changes are looked for."""

REACH, SIZE_RATIO = 0.5, 1.5
"""Faces of one place: centres within so many sides of the box, sizes within this factor. Respondents sway within their
panel by about .2."""

ALIVE_SIDE = 1.6
"""Side of the region whose change is measured over the face box's."""

ALIVE_CHANGE = 1.0
"""Mean change between two samples (steps of grey) above which a region is alive. Of still pictures the codec makes .0
to .4; of the smile study's panels the least is 2.5."""

EDGE_STEP = 4.0
"""Difference of neighbouring px (steps of grey) that counts as an edge."""

MIN_SIDE_SUPPORT, SURE_SIDE_SUPPORT = 0.6, 0.9
"""Share of a side of the panel's border that must be an edge, on average over the samples; and from which on nothing
else is asked. Between the two, what lies outside must be still: a wall behind the participant has edges, too, but the
camera's noise and movements are on both sides of them."""

STRIP = 0.08
"""Width of what is looked at outside a side, as a share of the panel's shorter side."""

MAX_STILL_SHARE = 0.5
"""Share of successive samples between which a still surrounding may change: a page that is turned now and then."""

PICTURE_BORDER_SUPPORT = 0.7
"""What the picture's own border counts as a side: less than an edge all along, else the whole picture would be best."""

MIN_REAL_SIDES = 2
NUM_LINES = 8
"""Candidates per side: the strongest lines beside the face."""

MIN_ASPECT, MAX_ASPECT = 0.4, 2.6
"""Width over height of cameras, upright phones to wide screens."""

MIN_FACES_PER_SIDE = 1.5
"""A border is at least so many times as long as the face: less is the face's own outline."""

INSET_PX = 2
"""How far a crop stays from the border, px of the recording: a line of the reduced picture is as inexact."""


@dataclass(frozen=True)
class Panel:
    """The camera's region in a screen recording.

    Attributes:
        box_xyxy: (4,) float32 px: what `crop_square` cuts around, the median face box where no border is near.
        face_xyxy: (4,) float32 px: the median face box there.
        border_xyxy: (4,) float32 px: the panel's border, None where it has none that could be found.
        face_share: Share of the sampled frames that show a face there.
    """

    box_xyxy: NDArray[np.float32]
    face_xyxy: NDArray[np.float32]
    border_xyxy: NDArray[np.float32] | None
    face_share: float

    def holds(self, box_xyxy: NDArray[np.floating]) -> bool:
        """Tell whether a face (4,) lies in the panel: inside its border, or near the median face without one."""
        box = np.asarray(box_xyxy, np.float64)
        centre = (box[:2] + box[2:]) / 2
        if self.border_xyxy is not None:
            return bool((centre >= self.border_xyxy[:2]).all() and (centre <= self.border_xyxy[2:]).all())
        return _same_place(box, np.asarray(self.face_xyxy, np.float64))


def find_panel(path: Path, *, detector: FaceDetector, margin: float) -> Panel:
    """Find the camera's panel of a screen recording from at most `NUM_SAMPLES` frames.

    Args:
        path: The recording.
        detector: The face detector.
        margin: Side of the crops over the box that they are cut around.

    Raises:
        MediaError: It can't be read, or shows no face in any frame looked at.
    """
    greys: list[NDArray[np.uint8]] = []
    faces: list[list[Face]] = []
    scale = 1.0
    for frame in _sparse_sample(path):
        scale = min(1.0, PICTURE_PX / max(frame.rgb.shape[:2]))
        grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        if greys and small.shape != greys[0].shape:
            continue  # some recorders change size on the way; one place is looked for in one size
        greys.append(small)
        faces.append(detector.detect(frame.rgb))
    panel = locate_panel(greys, faces, scale=scale, margin=margin)
    if panel is None:
        advice = "Use --crop none for the whole picture, or leave the recording out."
        raise MediaError(
            f"{path.name} shows no face in {len(greys)} frames spread over it, so it has no panel", advice=advice
        )
    return panel


def _sparse_sample(path: Path) -> Iterator[VideoFrame]:
    duration_s = probe_video(path).duration_s or UNKNOWN_DURATION_S
    log, frames = DecodeLog(), list[VideoFrame]()
    first_s = None
    for number, frame in enumerate(sample_frames(path, fps=NUM_SAMPLES / duration_s, threads=1, log=log)):
        first_s = frame.pts_s if first_s is None else first_s
        if number >= NUM_SAMPLES:
            return  # longer than its container says
        if number < MIN_SAMPLES:
            frames.append(frame)
            if len(frames) < MIN_SAMPLES:
                continue
            yield from frames
            frames = []
        else:
            yield frame
    if not frames:
        return
    assert first_s is not None and log.last_pts_s is not None, "there was a frame"
    really_s = log.last_pts_s - first_s
    if really_s <= 0 or really_s > duration_s / 2:
        yield from frames
        return
    del frames
    yield from itertools.islice(sample_frames(path, fps=NUM_SAMPLES / really_s, threads=1), NUM_SAMPLES)


def locate_panel(
    greys: Sequence[NDArray[np.uint8]], faces: Sequence[Sequence[Face]], *, scale: float, margin: float
) -> Panel | None:
    """Find the camera's panel in sampled frames.

    Args:
        greys: N pictures (h, w) of one size, in order.
        faces: The faces of each, in px of the recording.
        scale: px of `greys` per px of the recording.
        margin: Side of the crops over the box that they are cut around.

    Returns:
        The panel; None where there is no face at all.
    """
    boxes = [np.asarray([face.box_xyxy for face in found], np.float64).reshape(-1, 4) for found in faces]
    places = [_Place.around(box, boxes) for box in _distinct(np.concatenate(boxes) if boxes else np.empty((0, 4)))]
    if not places:
        return None
    # Presence alone would take a face on the screen that is shown for longer than the participant looks up.
    best = max(places, key=lambda place: (place.share * _alive_share(greys, _around(place.box * scale)), place.share))
    height, width = greys[0].shape
    border = _border(greys, best.box * scale)
    rectangle = None if border is None else (border / scale).astype(np.float32)
    whole = np.array([0, 0, width / scale, height / scale])
    box = _cut_box(best.box, rectangle, whole=whole, margin=margin)
    return Panel(
        box_xyxy=box.astype(np.float32),
        face_xyxy=best.box.astype(np.float32),
        border_xyxy=rectangle,
        face_share=best.share,
    )


@dataclass(frozen=True)
class _Place:
    """The median of the face boxes at one place (4,), and the share of the frames that show one there."""

    box: NDArray[np.float64]
    share: float

    @staticmethod
    def around(box: NDArray[np.float64], boxes: Sequence[NDArray[np.float64]]) -> _Place:
        there = [[other for other in found if _same_place(other, box)] for found in boxes]
        shown = [other for found in there for other in found]
        return _Place(
            box=median_panel(np.stack(shown)).astype(np.float64), share=sum(bool(found) for found in there) / len(boxes)
        )


def _distinct(boxes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return a box of each place."""
    kept: list[NDArray[np.float64]] = []
    for box in boxes:
        if not any(_same_place(box, other) for other in kept):
            kept.append(box)
    return kept


def _same_place(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    sides = [float((box[2:] - box[:2]).max()) for box in (first, second)]
    away = float(np.abs((first[:2] + first[2:] - second[:2] - second[2:]) / 2).max())
    return away <= REACH * max(sides) and max(sides) <= SIZE_RATIO * min(sides)


def _around(box: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Return the square around a face whose change is measured."""
    centre, half = (box[:2] + box[2:]) / 2, ALIVE_SIDE * float((box[2:] - box[:2]).max()) / 2
    x0, y0, x1, y1 = (round(float(value)) for value in (*(centre - half), *(centre + half)))
    return x0, y0, x1, y1


def _alive_share(greys: Sequence[NDArray[np.uint8]], box: tuple[int, int, int, int]) -> float:
    """Return the share of successive samples between which a region changes; 1 where that can't be told."""
    height, width = greys[0].shape
    x0, x1 = (min(max(value, 0), width) for value in box[::2])
    y0, y1 = (min(max(value, 0), height) for value in box[1::2])
    if len(greys) < 2 or x1 <= x0 or y1 <= y0:
        return 1.0
    parts = [grey[y0:y1, x0:x1].astype(np.int16) for grey in greys]
    changes = [float(np.abs(b - a).mean()) for a, b in itertools.pairwise(parts)]
    return float(np.mean(np.array(changes) > ALIVE_CHANGE))


def _border(greys: Sequence[NDArray[np.uint8]], face: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the rectangle of lasting edges around a face (4,), px; None where there is none.

    Edge i of an axis lies between its px i - 1 and i; those at 0 and at the end are the picture's own border.
    """
    height, width = greys[0].shape
    upright, level = np.zeros((height, width + 1)), np.zeros((height + 1, width))
    for grey in greys:
        values = grey.astype(np.int16)
        upright[:, 1:-1] += np.abs(np.diff(values, axis=1)) > EDGE_STEP
        level[1:-1] += np.abs(np.diff(values, axis=0)) > EDGE_STEP
    upright, level = _thick(upright / len(greys), axis=1), _thick(level / len(greys), axis=0).T
    x0, y0, x1, y1 = (round(float(value)) for value in np.clip(face, 0, [width, height, width, height]))
    across, down = slice(x0, max(x1, x0 + 1)), slice(y0, max(y1, y0 + 1))
    sums = [np.cumsum(np.vstack([np.zeros((1, part.shape[1])), part]), axis=0) for part in (upright, level)]
    left, right = _lines(upright[down].mean(axis=0), before=x0, after=x1)
    top, bottom = _lines(level[across].mean(axis=0), before=y0, after=y1)
    best: tuple[float, NDArray[np.float64]] | None = None
    for x_a, x_b, y_a, y_b in itertools.product(left, right, top, bottom):
        score = _rectangle_score(sums, (x_a, y_a, x_b, y_b), face=face, greys=greys)
        if score is not None and (best is None or score > best[0]):
            best = score, np.array([x_a, y_a, x_b, y_b], np.float64)
    return None if best is None else best[1]


def _thick(support: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Spread edges to their neighbours across, because reducing a picture smears a line over two px."""
    wide = np.pad(support, [(1, 1) if a == axis else (0, 0) for a in (0, 1)])
    parts = [np.take(wide, np.arange(k, k + support.shape[axis]), axis=axis) for k in range(3)]
    return np.asarray(np.maximum.reduce(parts))


def _lines(support: NDArray[np.float64], *, before: int, after: int) -> tuple[list[int], list[int]]:
    """Return where lines beside a face are, on either side, the picture's border among them."""
    found = []
    for candidates, border in (
        (np.arange(1, max(1, before)), 0),
        (np.arange(after + 1, len(support) - 1), len(support) - 1),
    ):
        strong = [int(i) for i in candidates if support[i] >= MIN_SIDE_SUPPORT]
        # A line is spread over its neighbours: its middle counts.
        runs = [list(run) for _, run in itertools.groupby(enumerate(strong), key=lambda item: item[1] - item[0])]
        thinned = [max((i for _, i in run), key=lambda i: support[i - 2 : i + 3].sum()) for run in runs]
        ranked = sorted(thinned, key=lambda i: -support[i])[:NUM_LINES]
        found.append([border, *ranked])
    return found[0], found[1]


def _rectangle_score(
    sums: Sequence[NDArray[np.float64]],
    box: tuple[int, int, int, int],
    *,
    face: NDArray[np.float64],
    greys: Sequence[NDArray[np.uint8]],
) -> float | None:
    """Return how well edges support a rectangle, its mean over the sides and a little for its area; None if badly."""
    x0, y0, x1, y1 = box
    wide, high = x1 - x0, y1 - y0
    face_side = float((face[2:] - face[:2]).max())
    if min(wide, high) < MIN_FACES_PER_SIDE * face_side or not MIN_ASPECT <= wide / high <= MAX_ASPECT:
        return None
    height, width = greys[0].shape
    strip = max(2, round(STRIP * min(wide, high)))
    outside = ((x0 - strip, y0, x0, y1), (x1, y0, x1 + strip, y1), (x0, y0 - strip, x1, y0), (x0, y1, x1, y1 + strip))
    ends = ((0, x0, y0, y1, width), (0, x1, y0, y1, width), (1, y0, x0, x1, height), (1, y1, x0, x1, height))
    supports, num_real = [], 0
    for (axis, line, start, end, last), beyond in zip(ends, outside, strict=True):
        if line in (0, last):
            supports.append(PICTURE_BORDER_SUPPORT)
            continue
        support = float(sums[axis][end, line] - sums[axis][start, line]) / (end - start)
        if support < MIN_SIDE_SUPPORT:
            return None
        if support < SURE_SIDE_SUPPORT and _alive_share(greys, beyond) > MAX_STILL_SHARE:
            return None
        supports.append(support)
        num_real += 1
    if num_real < MIN_REAL_SIDES:
        return None
    return float(np.mean(supports) + 0.05 * wide * high / (width * height))


def _cut_box(
    face: NDArray[np.float64], border: NDArray[np.float32] | None, *, whole: NDArray[np.float64], margin: float
) -> NDArray[np.float64]:
    """Return the box whose square, `margin` times as wide, shows the face and nothing outside the panel's border."""
    if border is None:
        return face
    # The picture's own border can be reached over: beyond it nothing else is shown.
    outer = np.asarray(border, np.float64) + INSET_PX * np.array([1, 1, -1, -1])
    outer = np.where(np.abs(border - whole) < 1, np.array([-np.inf, -np.inf, np.inf, np.inf]), outer)
    side = min(margin * float((face[2:] - face[:2]).max()), *(float(v) for v in outer[2:] - outer[:2]))
    centre = np.clip((face[:2] + face[2:]) / 2, outer[:2] + side / 2, outer[2:] - side / 2)
    half = side / margin / 2
    return np.concatenate([centre - half, centre + half])
