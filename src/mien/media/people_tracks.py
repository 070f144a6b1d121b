"""Who is who from frame to frame, and which stretches of a recording show the same person.

Evidence that a face continues a track is a sum of three parts in nats, each bounded so that none outvotes the others
alone: how alike the faces are, how alike hair and clothes are, how near it is to where the track should be. Faces are
assigned to tracks so that the sum over a frame is largest (the assignment problem); at the end, tracks that never
share a frame and look alike are joined. The parts' scales were set on the smile study (see `people_appearance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mien.core.types import Face
from mien.media.people_appearance import Appearance, Views, patch_likeness

FACE_EVEN, FACE_SCALE, FACE_BOUNDS = 0.75, 0.05, (-3.0, 4.0)
"""Likeness of patches at which nothing is said, per nat, and how far it may go. The lower bound is small because a
turned head looks like nobody."""

COLOUR_EVEN, COLOUR_SCALE, COLOUR_BOUNDS = 0.88, 0.05, (-2.0, 1.0)
"""The same for colours. People may wear the same shirt, so it says little in favour."""

MOTION_BOUND = 3.0
"""Evidence of a face exactly where it is expected; as much against where it is 1.4 times the reach away."""

REACH, REACH_PER_S = 0.35, 0.5
"""How far a head may be from where it is expected, in sides of its box, and how that grows with time."""

SIZE_REACH, SIZE_REACH_PER_S = 0.25, 0.25
"""The same for the logarithm of its size."""

MOTION_MEMORY_S = 4.0
"""Time constant with which a place is forgotten: faces are then told apart by looks alone."""

MAX_GAP_S = 4.0
"""A track unseen for longer isn't continued at once but joined at the end, when all of it is known."""

MAX_VELOCITY_AGE_S = 0.4
"""Two sightings farther apart say nothing of a head's velocity."""

PLACE_BOUND, PLACE_REACH = 1.5, 0.75
"""Evidence for joining two tracks at the same place and size (people come back to their chairs), and sides of a box."""

ALONE = 2.0
"""A face is learnt from where no other one is within so many sides: nearer, the other's head or shoulders may cover
some of it. (At 1.3 a person's tracks before and after a crossing weren't joined in 8 of 10 pairs at 10 fps.)"""

LATEST_S, LATEST_BOUND = 1.0, 1.0
"""How long a face's latest look counts beside its track's views, and the most that it can say: a face that comes out
from behind somebody is like itself a moment ago, before it is like any view."""

MAX_JOINED = 300
"""Tracks that are looked through for the same person, the longest ones: the work grows with their square."""


@dataclass
class Tracklet:
    """A stretch of one person's face.

    Attributes:
        views: What it looks like, learnt where nobody was near.
        latest: What it looked like last.
        frames: Numbers of the frames that show it.
        box: Its last box (4,), px.
        last_s: When it was last seen.
        velocity: Of the centre, px per s.
        place: Sums over its faces of centre x, y and log size, for their means.
    """

    views: Views
    latest: Appearance
    frames: list[int]
    box: NDArray[np.float64]
    last_s: float
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    place: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def expected(self, pts_s: float) -> NDArray[np.float64]:
        """Return where the centre should be (2,), px."""
        return centre_of(self.box) + self.velocity * min(pts_s - self.last_s, MAX_VELOCITY_AGE_S)

    def evidence(self, box: NDArray[np.float64], look: Appearance, *, pts_s: float) -> float:
        """Return what speaks for a face to be the next of this track, nats."""
        faces, colours = self.views.likeness(look)
        looks = looks_evidence(faces, colours)
        if pts_s - self.last_s <= LATEST_S:
            latest = float(patch_likeness(look.patch, [self.latest.patch])[0])
            looks = max(looks, min(LATEST_BOUND, looks_evidence(latest, float(look.colours @ self.latest.colours))))
        return looks + motion_evidence(self, box, pts_s=pts_s)

    def follow(self, box: NDArray[np.float64], look: Appearance, *, frame: int, pts_s: float) -> None:
        """Go on with a face."""
        gap_s = pts_s - self.last_s
        moved = centre_of(box) - centre_of(self.box)
        self.velocity = moved / gap_s if 0 < gap_s <= MAX_VELOCITY_AGE_S else np.zeros(2)
        self.box, self.last_s, self.latest = box, pts_s, look
        self.frames.append(frame)
        self.place += (*centre_of(box), math.log(size_of(box)))


class Tracker:
    """Assigns the faces of each frame to tracks."""

    def __init__(self) -> None:
        self.tracklets: list[Tracklet] = []

    def add(self, faces: Sequence[Face], appearances: Sequence[Appearance], *, frame: int, pts_s: float) -> list[int]:
        """Return the number of the track that each face of a frame continues or starts."""
        boxes = [np.asarray(face.box_xyxy, np.float64) for face in faces]
        recent = [n for n, t in enumerate(self.tracklets) if pts_s - t.last_s <= MAX_GAP_S]
        evidence = np.array(
            [
                [
                    self.tracklets[n].evidence(box, look, pts_s=pts_s)
                    for box, look in zip(boxes, appearances, strict=True)
                ]
                for n in recent
            ]
        ).reshape(len(recent), len(faces))
        found = {column: recent[row] for row, column in _assigned(evidence)}
        others = [self.tracklets[n].expected(pts_s) for n in recent if n not in found.values()]
        numbers = []
        for column, (box, look) in enumerate(zip(boxes, appearances, strict=True)):
            near = [*others, *(centre_of(other) for place, other in enumerate(boxes) if place != column)]
            alone = all(np.hypot(*(centre_of(box) - point)) > ALONE * size_of(box) for point in near)
            number = found.get(column)
            if number is None:
                number = len(self.tracklets)
                self.tracklets.append(Tracklet(Views(look), look, [], box, pts_s))
            elif alone:
                self.tracklets[number].views.add(look)
            self.tracklets[number].follow(box, look, frame=frame, pts_s=pts_s)
            numbers.append(number)
        return numbers


def _assigned(evidence: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (track, face) of the largest sum of evidence (T, F), of those with any."""
    if not evidence.size:
        return []
    if min(evidence.shape) == 1:
        row, column = np.unravel_index(int(evidence.argmax()), evidence.shape)
        return [(int(row), int(column))] if evidence[row, column] > 0 else []
    # Imported here: a third of a second and 40 MB that one person in the picture doesn't need.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-np.maximum(evidence, 0))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if evidence[r, c] > 0]


def centre_of(box_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centre (2,) of a box."""
    return (box_xyxy[:2] + box_xyxy[2:]) / 2


def size_of(box_xyxy: NDArray[np.float64]) -> float:
    """Return the geometric mean of a box's sides, px."""
    width, height = box_xyxy[2:] - box_xyxy[:2]
    return float(np.sqrt(max(width * height, 1e-6)))


def looks_evidence(faces: float, colours: float) -> float:
    """Return what looks say for the same person, nats."""
    return float(
        np.clip((faces - FACE_EVEN) / FACE_SCALE, *FACE_BOUNDS)
        + np.clip((colours - COLOUR_EVEN) / COLOUR_SCALE, *COLOUR_BOUNDS)
    )


def motion_evidence(track: Tracklet, box: NDArray[np.float64], *, pts_s: float) -> float:
    """Return what place and size say for a face to continue a track, nats; less and less as time passes."""
    gap_s, size = pts_s - track.last_s, size_of(track.box)
    away = np.hypot(*(centre_of(box) - track.expected(pts_s))) / size / (REACH + REACH_PER_S * gap_s)
    grown = math.log(size_of(box) / size) / (SIZE_REACH + SIZE_REACH_PER_S * gap_s)
    raw = MOTION_BOUND * (1 - away**2 - grown**2)
    return float(np.clip(raw, -MOTION_BOUND, MOTION_BOUND) * math.exp(-gap_s / MOTION_MEMORY_S))


def join_tracklets(tracklets: Sequence[Tracklet]) -> list[int]:
    """Join tracks of the same person: the most alike first, none that share a frame.

    Returns:
        (T,) number of the person of each track, in the order of appearance.
    """
    longest = sorted(range(len(tracklets)), key=lambda n: -len(tracklets[n].frames))[:MAX_JOINED]
    people = {n: _Person([n], tracklets[n].views, set(tracklets[n].frames), tracklets[n].place.copy()) for n in longest}
    pairs = {(a, b): _join_evidence(people[a], people[b]) for a in people for b in people if a < b}
    while pairs:
        (a, b), evidence = max(pairs.items(), key=lambda item: (item[1], item[0]))
        if evidence <= 0:
            break
        people[a].join(people.pop(b))
        pairs = {pair: value for pair, value in pairs.items() if b not in pair and a not in pair}
        pairs |= {(min(a, c), max(a, c)): _join_evidence(people[a], people[c]) for c in people if c != a}
    owner = {n: person.members[0] for person in people.values() for n in person.members}
    first = {n: min(person) for n, person in _groups(owner, count=len(tracklets)).items()}
    order = {name: number for number, name in enumerate(sorted(set(first.values())))}
    return [order[first[n]] for n in range(len(tracklets))]


def _groups(owner: dict[int, int], *, count: int) -> dict[int, list[int]]:
    """Return for each track those of the same person."""
    members: dict[int, list[int]] = {}
    for n in range(count):
        members.setdefault(owner.get(n, n), []).append(n)
    return {n: members[owner.get(n, n)] for n in range(count)}


@dataclass
class _Person:
    members: list[int]
    views: Views
    frames: set[int]
    place: NDArray[np.float64]

    def join(self, other: _Person) -> None:
        self.members += other.members
        self.views.join(other.views)
        self.frames |= other.frames
        self.place += other.place


def _join_evidence(first: _Person, second: _Person) -> float:
    if not first.frames.isdisjoint(second.frames):
        return -math.inf
    a, b = first.place / len(first.frames), second.place / len(second.frames)
    away = np.hypot(*(a[:2] - b[:2])) / math.exp(min(a[2], b[2])) / PLACE_REACH
    grown = (a[2] - b[2]) / SIZE_REACH
    return looks_evidence(*first.views.compared(second.views)) + PLACE_BOUND * math.exp(-(away**2) - grown**2)
