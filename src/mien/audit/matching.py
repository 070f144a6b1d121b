"""Which pictures of a few are among the many of another participant: cheap sketches nominate, registration decides.

All against all would take hours: a registered correlation costs a millisecond. Sketches (what is left of a face under a
strong low-pass) cost one matrix product; a query is registered with the likest frame of the few participants whose
sketches are likest, and all queries of a participant only where one of those is a match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from mien.audit.registration import local_normalise, registered_zncc, shrink

SKETCH_PX, SKETCH_SIGMA_PX, LOW = 32, 1.5, 12
"""Side of what a sketch is made of, sigma of its local normalisation (px), and cosines kept per axis. Of 3 to 10 px (in
64) and 8 to 24 cosines this ranked copies of the smile study best above other people, before any registration."""

MIN_SKETCH = 0.6
"""Sketches less alike aren't registered. Of 3024 photometric and geometric copies of the smile study 35 lie
below, of pairs of different people most do (median .52)."""

NEAREST = 10
"""Other participants that a query may be a copy of: those with the likest sketches. Where somebody was copied more
often, the copies are still connected with each other."""

SCOUTS = 3
"""Pairs per two participants that are registered to see whether there is a copy at all."""

CANDIDATES = 3
"""Frames per query that are registered once there is: the likest sketch may be of the frame before."""

MIN_CONTRAST = 4.0
"""Sd of a picture, steps of grey, below which it shows nothing: a black screen is no copy of another."""

GALLERY_BLOCK = 1024
QUERY_BLOCK = 8192

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Match:
    """A query and the frame of one gallery that is most like it.

    Attributes:
        query: Row of the query.
        gallery: Number of the gallery.
        item: Row in the gallery.
        zncc: Their registered correlation, of the better of the query and its mirror image.
        mirrored: Whether the mirror image was the better.
    """

    query: int
    gallery: int
    item: int
    zncc: float
    mirrored: bool


class Gallery:
    """The pictures of one participant, from several recordings, read where they are needed.

    Args:
        parts: Pictures (N, 64, 64) of each recording, and which rows of them count.
    """

    def __init__(self, parts: Sequence[tuple[Pictures, NDArray[np.int64]]]) -> None:
        self._parts = list(parts)
        self._first = np.cumsum([0, *(len(rows) for _, rows in self._parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def take(self, items: NDArray[np.int64]) -> Pictures:
        """Return pictures (n, 64, 64)."""
        result = np.empty((len(items), *self._parts[0][0].shape[1:]), np.uint8)
        part_of = np.searchsorted(self._first, items, side="right") - 1
        for part in np.unique(part_of):
            pictures, rows = self._parts[part]
            where = part_of == part
            result[where] = pictures[rows[items[where] - self._first[part]]]
        return result


def sketch(pictures: Pictures) -> NDArray[np.float32]:
    """Return sketches whose dot product says how alike pictures are, roughly and without registration.

    The `LOW` x `LOW` lowest cosines (DCT-II) of the locally normalised picture but the constant, unit norm.

    Args:
        pictures: (N, S, S) grey.

    Returns:
        (N, 144) float32; zeros where a picture shows nothing.
    """
    basis = dct(np.eye(SKETCH_PX), axis=0, norm="ortho")[:LOW].astype(np.float32)
    values = local_normalise(shrink(pictures, side=SKETCH_PX), sigma_px=SKETCH_SIGMA_PX)
    low = np.asarray(basis @ (values @ basis.T), np.float32).reshape(len(pictures), -1)
    low[:, 0] = 0
    low[pictures.reshape(len(pictures), -1).std(axis=1) < MIN_CONTRAST] = 0
    norm = np.linalg.norm(low, axis=1, keepdims=True)
    return np.asarray(low / np.where(norm > 0, norm, 1), np.float32)


def mirror_sketches(sketches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sketches of the mirrored pictures: the odd cosines across change their sign."""
    return sketches * np.tile((-1.0) ** np.arange(LOW), LOW).astype(np.float32)


class Matcher:
    """Looks for pictures that are copies of some of a set of queries.

    Its memory is that of the queries, of one block of a gallery, and of 9 bytes per query and gallery.

    Args:
        queries: (Q, 64, 64) grey.
        owners: Number of the gallery that each comes from (Q,): nobody is compared with themselves.
        threshold: Least correlation of a match.

    Attributes:
        num_registered: Pairs that were registered so far.
    """

    def __init__(self, queries: Pictures, *, owners: NDArray[np.int64], threshold: float) -> None:
        self.num_registered = 0
        self._queries = queries
        self._owners = owners
        self._threshold = threshold
        direct = _sketch_blocks(Gallery([(queries, np.arange(len(queries)))]))
        self._sketches = (direct, mirror_sketches(direct))

    def find(self, galleries: Sequence[Gallery]) -> list[Match]:
        """Return each query's best match in each gallery but its own; none below the threshold."""
        shape = (len(galleries), len(self._queries))
        likeness, items = np.full(shape, -1, np.float32), np.zeros(shape, np.int32)
        mirrored = np.zeros(shape, bool)
        for number, gallery in enumerate(galleries):
            found = self._nearest(_sketch_blocks(gallery))
            likeness[number], items[number], mirrored[number] = found
            likeness[number, self._owners == number] = -1
        matches: list[Match] = []
        numbers, rows = self._scouts(likeness)
        for number in np.unique(numbers):
            scouts = rows[numbers == number]
            nearest, flips = items[number, scouts].astype(np.int64), mirrored[number, scouts]
            zncc = self._register(scouts, galleries[number], items=nearest, mirrored=flips)
            copied = np.unique(self._owners[scouts[zncc >= self._threshold]])
            if len(copied):
                sketches = _sketch_blocks(galleries[number])
            for other in copied:
                matches += self._find_pair(int(other), int(number), galleries[number], sketches=sketches)
        return matches

    def _nearest(
        self, sketches: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each query the likeness of the likest sketch, whose it is, and whether mirrored; (Q,) each."""
        count = len(self._queries)
        best, item, flip = np.full(count, -1, np.float32), np.zeros(count, np.int64), np.zeros(count, bool)
        for first in range(0, len(sketches), GALLERY_BLOCK):
            block = sketches[first : first + GALLERY_BLOCK].T
            for start in range(0, count, QUERY_BLOCK):
                rows = slice(start, start + QUERY_BLOCK)
                for mirrored, own in zip((False, True), self._sketches, strict=True):
                    likeness = own[rows] @ block
                    place = likeness.argmax(axis=1)
                    value = likeness[np.arange(len(place)), place]
                    better = start + np.flatnonzero(value > best[rows])
                    best[better], item[better] = value[better - start], first + place[better - start]
                    flip[better] = mirrored
        return best, item, flip

    def _scouts(self, likeness: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return galleries and queries (n,) each that are registered: the likest of each query and of each two owners.

        Args:
            likeness: (galleries, Q).
        """
        count = min(NEAREST, len(likeness))
        near = np.argpartition(-likeness, count - 1, axis=0)[:count]
        numbers, rows = near.ravel(), np.tile(np.arange(likeness.shape[1]), count)
        values = likeness[numbers, rows]
        kept = values >= MIN_SKETCH
        numbers, rows, values = numbers[kept], rows[kept], values[kept]
        # The rank of each among those of the same two owners.
        pairs = self._owners[rows] * len(likeness) + numbers
        order = np.lexsort((rows, -values, pairs))
        rank = np.arange(len(order)) - np.searchsorted(pairs[order], pairs[order])
        chosen = order[rank < SCOUTS]
        return numbers[chosen], rows[chosen]

    def _find_pair(self, other: int, number: int, gallery: Gallery, *, sketches: NDArray[np.float32]) -> list[Match]:
        """Register every query of one owner with its likest pictures in the gallery of another."""
        queries = np.flatnonzero(self._owners == other)
        count = min(CANDIDATES, len(sketches))
        rows, items, flips = [], [], []
        for mirrored, own in zip((False, True), self._sketches, strict=True):
            likeness = own[queries] @ sketches.T
            likest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
            row, place = np.nonzero(np.take_along_axis(likeness, likest, axis=1) >= MIN_SKETCH)
            rows.append(queries[row])
            items.append(likest[row, place])
            flips.append(np.full(len(row), mirrored))
        row, item, flip = np.concatenate(rows), np.concatenate(items), np.concatenate(flips)
        zncc = self._register(row, gallery, items=item, mirrored=flip)
        best: dict[int, Match] = {}
        for place in np.argsort(-zncc, kind="stable"):
            if zncc[place] >= self._threshold:
                match = Match(int(row[place]), number, int(item[place]), float(zncc[place]), bool(flip[place]))
                best.setdefault(match.query, match)
        return [best[query] for query in sorted(best)]

    def _register(
        self, rows: NDArray[np.int64], gallery: Gallery, *, items: NDArray[np.int64], mirrored: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        self.num_registered += len(rows)
        result = np.empty(len(rows))
        for start in range(0, len(rows), GALLERY_BLOCK):
            part = slice(start, start + GALLERY_BLOCK)
            queries = self._queries[rows[part]]
            queries[mirrored[part]] = queries[mirrored[part]][:, :, ::-1]
            result[part] = registered_zncc(gallery.take(items[part]), queries)
        return result


def _sketch_blocks(gallery: Gallery) -> NDArray[np.float32]:
    starts = range(0, len(gallery), GALLERY_BLOCK)
    parts = [sketch(gallery.take(np.arange(start, min(start + GALLERY_BLOCK, len(gallery))))) for start in starts]
    return np.concatenate([np.empty((0, LOW * LOW), np.float32), *parts])
