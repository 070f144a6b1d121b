"""The people of a recording: each one's face through all sampled frames, and which of them is the participant.

Everything by which people are told apart stays in memory and ends with the recording.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import unknown_name
from mien.core.types import Face, FaceChoice, FaceTrack
from mien.media.detectors import FaceDetector
from mien.media.people_appearance import describe
from mien.media.people_flow import carry_faces
from mien.media.people_regions import find_again
from mien.media.people_tracks import Tracker, join_tracklets

PICTURES_VERSION = 2
"""Raised whenever the same recording gives other crops than before, since a model that was trained on those answers a
little differently on these. 1: the detector looked at whole pictures alone."""

DETECTIONS_PER_S = 5.0
"""From twice as many samples per second on, not every one gets a detector's look (`automatic_interval`). Measured at 10
per second, every second frame detected, against all of them (YuNet; smile study, 8 recordings; clips): no face lost or
added in 2,506 frames, boxes overlap by .99 (IoU; 5 % below .96), landmarks differ by .004 of the box's side, which is
less than they jump from frame to frame where all are detected (.010 to .022). Every fifth: .975 (.94), .010. MTCNN,
whose boxes jump more: .978 (.92), .003."""

LOOK_AROUND_S = 1.0
"""So long the detector may look where faces were, before it looks at the whole picture again: somebody who joins
another is found so late at most; where nobody is seen it always looks at the whole. Measured at 5 per second against
whole pictures always (smile study, 8 recordings; clips): no face lost or added in 1,255 frames; landmarks differ by
.005 of the box's side with MTCNN and .009 with YuNet, where they jump by .013 from frame to frame; boxes overlap by .95
and .96 (IoU). Following takes MTCNN a third of the time, YuNet two thirds."""

MAX_PAUSE_S = 0.3
"""After a longer time since the sample before a face may be anywhere, and the whole picture is looked at."""

FLOW_LONGER_SIDE_PX = 640
"""Size at which pictures are kept for the next one's optical flow."""

MAX_OVERLAP = 0.5
"""Two boxes that share more of the smaller one are the same face seen twice by the detector."""

MIN_PRESENCE = 0.25
"""Share of the frames of the most present person that others need to be `left` or `right`: less are passers-by."""

MIN_AREA_RATIO = 0.25
"""Faces below this share of the largest person's (median area) are posters and passers-by, not partners of an
interview."""

STILL_SPREAD = 0.02
"""A face that strays less than this (the middle nine tenths of its landmarks' means, in sides of its box) is a picture.
Photos put into the smile study's recordings strayed by at most .008 (detectors jitter), its people by at least .15."""

MIN_STILL_FRAMES = 8
"""Fewer frames don't show that a face never moves."""

CLOSE_RATIO = 0.5
"""From this ratio of weights on, the choice between the two leading people is called close."""


def automatic_interval(fps: float) -> int:
    """Return every how many sampled frames the detector looks: at most `DETECTIONS_PER_S` where that skips any.

    >>> [automatic_interval(fps) for fps in (1, 5, 10, 25, 30)]
    [1, 1, 2, 5, 6]
    """
    return max(1, math.floor(fps / DETECTIONS_PER_S))


@dataclass(frozen=True)
class SeenFace:
    """A face of one frame.

    Attributes:
        face: Where it is.
        row: Its number among all faces of the recording.
        track: Number of the stretch that it belongs to; `People.owners` says whose that is in the end.
    """

    face: Face
    row: int
    track: int


@dataclass(frozen=True)
class People:
    """The people of a recording.

    Attributes:
        tracks: One per person, in the order of appearance.
        owners: (T,) the person of each stretch.
        rows: Per person, the numbers of its faces (N,) in the order of `tracks`.
    """

    tracks: tuple[FaceTrack, ...]
    owners: tuple[int, ...]
    rows: tuple[NDArray[np.int64], ...]


class PeopleFinder:
    """Finds the faces of each sampled frame, and who is who; memory is about 100 bytes per face.

    Args:
        detector: The face detector.
        detect_every: The detector looks at frames 0, n, 2 n, ...; between them faces are followed by optical flow, and
            where that loses one, or there is none, the detector looks at once.
        look_around_s: It looks at whole pictures at least so often, between them where faces were; 0: always whole.
    """

    def __init__(self, detector: FaceDetector, *, detect_every: int = 1, look_around_s: float = LOOK_AROUND_S) -> None:
        assert detect_every >= 1, detect_every
        self.num_detected = self.num_whole = self.num_frames = 0
        self._detector = detector
        self._detect_every = detect_every
        self._tracker = Tracker()
        self._look_around_s = look_around_s
        self._faces: list[Face] = []
        self._grey: NDArray[np.uint8] | None = None
        self._pts_s = self._whole_s = -math.inf
        self._frames, self._tracks = array("q"), array("q")
        self._times, self._values = array("d"), array("f")

    def add(self, rgb: NDArray[np.uint8], *, pts_s: float) -> list[SeenFace]:
        """Return the faces of the next sampled frame (H, W, 3) uint8."""
        faces = self._find(rgb, pts_s=pts_s)
        self._faces, self._pts_s = faces, pts_s
        looks = [describe(rgb, face) for face in faces]
        tracks = self._tracker.add(faces, looks, frame=self.num_frames, pts_s=pts_s)
        seen = []
        for face, track in zip(faces, tracks, strict=True):
            seen.append(SeenFace(face=face, row=len(self._tracks), track=track))
            self._frames.append(self.num_frames)
            self._tracks.append(track)
            self._times.append(pts_s)
            self._values.extend((face.score, *map(float, face.box_xyxy), *map(float, face.landmarks_xy.ravel())))
        self.num_frames += 1
        return seen

    def finish(self) -> People:
        """Join stretches of the same person and return all people."""
        owners = join_tracklets(self._tracker.tracklets)
        numbers, frames = np.array(self._tracks, np.int64), np.array(self._frames, np.int64)
        times, values = np.array(self._times, np.float64), np.array(self._values, np.float32).reshape(-1, 15)
        people = np.array(owners, np.int64)[numbers] if len(numbers) else numbers
        rows = tuple(np.flatnonzero(people == number) for number in range(len(set(owners))))
        tracks = tuple(
            FaceTrack(
                track=number,
                frames=frames[own],
                pts_s=times[own],
                boxes_xyxy=values[own, 1:5],
                landmarks_xy=values[own, 5:].reshape(-1, 5, 2),
                score=values[own, 0],
            )
            for number, own in enumerate(rows)
        )
        return People(tracks=tracks, owners=tuple(owners), rows=rows)

    def _find(self, rgb: NDArray[np.uint8], *, pts_s: float) -> list[Face]:
        if self._detect_every == 1:
            return self._detect(rgb, pts_s=pts_s)
        scale = min(1.0, FLOW_LONGER_SIDE_PX / max(rgb.shape[:2]))
        small = cv2.resize(rgb, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
        before, self._grey = self._grey, np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
        faces: list[Face] | None = None
        if before is not None and self._faces and self.num_frames % self._detect_every:
            faces = carry_faces(before, self._grey, self._faces, scale=scale)
        return self._detect(rgb, pts_s=pts_s) if faces is None else faces

    def _detect(self, rgb: NDArray[np.uint8], *, pts_s: float) -> list[Face]:
        self.num_detected += 1
        # Half a millisecond, because times are rounded.
        is_soon = pts_s - self._pts_s <= MAX_PAUSE_S and pts_s - self._whole_s < self._look_around_s - 0.0005
        if is_soon and self._faces and (again := find_again(self._detector, rgb, self._faces)) is not None:
            return without_doubles(again)
        self.num_whole += 1
        self._whole_s = pts_s
        return without_doubles(self._detector.detect(rgb))


def without_doubles(faces: Sequence[Face]) -> list[Face]:
    """Return faces, the best score first, without those that overlap a better one by more than `MAX_OVERLAP`."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        if all(_overlap(face, other) <= MAX_OVERLAP for other in kept):
            kept.append(face)
    return kept


def _overlap(first: Face, second: Face) -> float:
    """Return the shared area of two boxes over the smaller one's."""
    low = np.maximum(first.box_xyxy[:2], second.box_xyxy[:2])
    high = np.minimum(first.box_xyxy[2:], second.box_xyxy[2:])
    areas = [float(np.prod(np.maximum(0, f.box_xyxy[2:] - f.box_xyxy[:2]))) for f in (first, second)]
    return float(np.prod(np.maximum(0, high - low))) / max(min(areas), 1e-6)


@dataclass(frozen=True)
class Choice:
    """Who the participant is.

    Attributes:
        track: Number of the person, None where no face was found.
        rival: The person who came next, None where there is none.
        ratio: Weight of the rival over that of the participant, 0 without a rival.
    """

    track: int | None
    rival: int | None
    ratio: float

    @property
    def is_close(self) -> bool:
        """Whether another rule or a few more frames might have chosen the rival."""
        return self.ratio >= CLOSE_RATIO


def choose_participant(tracks: Sequence[FaceTrack], *, choice: FaceChoice = "main") -> Choice:
    """Choose the participant among the people of a recording, once for the whole recording.

    A person's weight is the sum, over the frames that show them, of the face box's area times its score. `main` is the
    heaviest. `left` and `right` go by the median over the frames of the box's centre, as seen in the picture, among
    people who are present in at least a quarter of the frames of the most present one and whose median area is at
    least a quarter of the largest. Pictures on a wall or a screen, which never move, come after everyone who does.

    Args:
        tracks: The people.
        choice: The rule.

    Raises:
        UserError: Another rule.
    """
    if choice not in ("main", "left", "right"):
        raise unknown_name("face choice", got=choice, allowed=("main", "left", "right"))
    moving = [track for track in tracks if not is_still(track)] or list(tracks)
    if not moving:
        return Choice(track=None, rival=None, ratio=0.0)
    weights = {track.track: _weight(track) for track in moving}
    if choice == "main":
        ranked = sorted(moving, key=lambda track: (-weights[track.track], track.track))
    else:
        longest = max(len(track.frames) for track in moving)
        present = [track for track in moving if len(track.frames) >= MIN_PRESENCE * longest]
        largest = max(_median_area(track) for track in present)
        partners = [track for track in present if _median_area(track) >= MIN_AREA_RATIO * largest]
        ranked = sorted(partners, key=lambda track: _median_centre(track) * (1 if choice == "left" else -1))
    first = ranked[0].track
    if len(ranked) == 1:
        return Choice(track=first, rival=None, ratio=0.0)
    rival = ranked[1].track
    if choice == "main":
        return Choice(track=first, rival=rival, ratio=weights[rival] / max(weights[first], 1e-9))
    # Left of whom? Close where the two overlap: their places, in widths of a face, hardly differ.
    apart = abs(_median_centre(ranked[0]) - _median_centre(ranked[1])) / math.sqrt(largest)
    return Choice(track=first, rival=rival, ratio=max(0.0, 1.0 - apart))


def is_still(track: FaceTrack) -> bool:
    """Tell whether a face never moves: a photo on the wall, a picture on the screen."""
    if len(track.frames) < MIN_STILL_FRAMES:
        return False
    points = np.asarray(track.landmarks_xy, np.float64)
    side = float(np.median((track.boxes_xyxy[:, 2:] - track.boxes_xyxy[:, :2]).max(axis=1)))
    # The middle nine tenths, so that one slipped detection doesn't make a photo move.
    low, high = np.quantile(points.mean(axis=1), (0.05, 0.95), axis=0)
    return bool(np.hypot(*(high - low)) / side < STILL_SPREAD)


def _areas(track: FaceTrack) -> NDArray[np.float64]:
    sides = np.asarray(track.boxes_xyxy[:, 2:] - track.boxes_xyxy[:, :2], np.float64)
    return np.asarray(sides.prod(axis=1))


def _weight(track: FaceTrack) -> float:
    return float((_areas(track) * track.score).sum())


def _median_area(track: FaceTrack) -> float:
    return float(np.median(_areas(track)))


def _median_centre(track: FaceTrack) -> float:
    return float(np.median((track.boxes_xyxy[:, 0] + track.boxes_xyxy[:, 2]) / 2))
