"""NumPy files written row by row, so that memory stays that of one row whatever the recording's length."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


class NpyWriter:
    """Writes rows of one shape to a `.npy` file, whose number of rows is known at the end only.

    The header is written twice in place: NumPy pads it so that the first axis can grow (`GROWTH_AXIS_MAX_DIGITS`).

    Args:
        path: The file.
        row_shape: Shape of a row.
    """

    def __init__(self, path: Path, *, row_shape: tuple[int, ...]) -> None:
        self.row_shape = row_shape
        self.num_rows = 0
        self._stream: BinaryIO = path.open("wb")
        self._write_header()
        self._header_length = self._stream.tell()

    def append(self, row: NDArray[np.uint8]) -> None:
        """Write one row (uint8, of the writer's shape)."""
        assert row.shape == self.row_shape and row.dtype == np.uint8, (row.shape, row.dtype)
        self._stream.write(np.ascontiguousarray(row).tobytes())
        self.num_rows += 1

    def close(self) -> None:
        """Write the number of rows into the header."""
        self._stream.seek(0)
        self._write_header()
        assert self._stream.tell() == self._header_length, "the header has room for any number of rows"
        self._stream.close()

    def _write_header(self) -> None:
        shape = (self.num_rows, *self.row_shape)
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
