"""What is computed of a recording moment by moment, kept in a temporary file: memory doesn't grow with its length."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mien.runtime.baseline import PersonalBaseline

PREFIX = "mien-"


class StoredRows:
    """Rows (N, D) of one type in a temporary file that has no name: it goes when the process does, however it ends.

    Read and written, not mapped: pages of a mapping count as memory of the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix=PREFIX)  # noqa: SIM115 -- it lives as long as this object
        weakref.finalize(self, _close, self._file)
        self._dtype: np.dtype[np.generic] | None = None
        self.width = 0
        self.num_rows = 0

    def extend(self, rows: NDArray[np.generic]) -> None:
        """Write rows (n, D) behind the others; of one width and type, which the first ones say.

        Raises:
            OSError: The disk of temporary files is full.
        """
        if self._dtype is None:
            self._dtype, self.width = rows.dtype, int(rows.shape[1])
        assert rows.dtype == self._dtype and rows.shape[1] == self.width, (rows.dtype, rows.shape)
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(rows).data)
        self._file.flush()  # a full disk is noticed here, not by whoever reads
        self.num_rows += len(rows)

    def read(self, first: int, end: int) -> NDArray[np.generic]:
        """Return rows [first, end) as (n, D)."""
        assert self._dtype is not None and 0 <= first <= end <= self.num_rows, (first, end, self.num_rows)
        num_bytes = self.width * self._dtype.itemsize
        self._file.seek(first * num_bytes)
        values = np.frombuffer(bytearray(self._file.read((end - first) * num_bytes)), self._dtype)
        return values.reshape(end - first, self.width)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return rows (n,) of any order as (n, D); neighbours are read together."""
        wanted, back = np.unique(rows, return_inverse=True)
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
        parts = [self.read(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        return np.concatenate(parts)[back] if parts else self.read(0, 0)


def _close(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what a full disk didn't take isn't wanted any more
        file.close()


class StoredFeatures:
    """The features of one recording's sampled frames, the personal baseline subtracted where they are read.

    What is subtracted is known when the recording is over (`recording`, `first:S`) or at once (`none`, `running`), and
    is the same as `PersonalBaseline.subtract` of all features.

    Args:
        baseline: What is subtracted.
    """

    def __init__(self, baseline: PersonalBaseline) -> None:
        baseline.check_new_recording()
        self._baseline = baseline
        self._rows = StoredRows()
        self._sum: NDArray[np.float64] | None = None
        self._num_summed = 0
        self._first_s = 0.0
        self._places = np.empty(0, np.int64)

    def add(self, features: NDArray[np.floating], *, pts_s: NDArray[np.floating]) -> None:
        """Add the features (n, D) of the next frames that have any, and their times (n,), s."""
        if not len(features):
            return
        values = np.asarray(features, np.float64)
        if self._sum is None:
            self._sum, self._first_s = np.zeros(values.shape[1]), float(pts_s[0])
        if self._baseline.kind == "running":
            sums = np.cumsum(np.vstack([self._sum[None], values]), axis=0)[1:]
            counts = self._num_summed + 1 + np.arange(len(values))
            self._sum, self._num_summed = sums[-1], self._num_summed + len(values)
            features = values - sums / counts[:, None]
        elif self._baseline.kind in ("recording", "first"):
            chosen = np.ones(len(values), bool)
            if self._baseline.kind == "first":
                chosen = pts_s < self._first_s + self._baseline.seconds
            # Row by row, as the mean of all at once is summed.
            self._sum = np.add.reduce(np.vstack([self._sum[None], values[chosen]]), axis=0)
            self._num_summed += int(chosen.sum())
        self._rows.extend(np.asarray(features, np.float32))

    def finish(self, seen: NDArray[np.bool_]) -> None:
        """Say which of all sampled frames (N,) the features belong to."""
        assert int(seen.sum()) == self._rows.num_rows, "every frame that is seen has features"
        self._places = np.where(seen, np.cumsum(seen) - 1, -1)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def width(self) -> int:
        """D, 0 where no frame has features."""
        return self._rows.width

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which frames (N,) have features."""
        return np.asarray(self._places >= 0)

    def take(self, frames: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of frames (n,) minus the baseline, (n, D); NaN where a frame has none."""
        places = self._places[frames]
        known = places >= 0
        result = np.full((len(frames), self.width), np.nan, np.float32)
        if known.any():
            values = self._rows.take(places[known])
            if self._baseline.kind in ("recording", "first"):
                assert self._sum is not None, "there are features"
                values = values.astype(np.float64) - self._sum / self._num_summed
            result[known] = values
        return result
