"""NumPy files written row by row, so that memory stays that of one row whatever the recording's length."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray


class NpyWriter:
    """Writes rows of one shape and type to a `.npy` file, whose number of rows is known at the end only.

    The header is written twice in place: NumPy pads it so that the first axis can grow (`GROWTH_AXIS_MAX_DIGITS`).

    Args:
        path: The file.
        row_shape: Shape of a row; () where a row is one number.
        dtype: Type of the numbers.

    Attributes:
        row_shape: Shape of a row.
        num_rows: Rows written so far.
        header_length: Where the first row starts, bytes.
    """

    def __init__(self, path: Path, *, row_shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        self.row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self.num_rows = 0
        self._stream: BinaryIO = path.open("wb")
        self._write_header()
        self.header_length = self._stream.tell()

    def append(self, row: NDArray[Any]) -> None:
        """Write one row (of the writer's shape and type)."""
        self.extend(row[None])

    def extend(self, rows: NDArray[Any]) -> None:
        """Write rows (n, *row_shape) of the writer's type."""
        assert rows.shape[1:] == self.row_shape and rows.dtype == self._dtype, (rows.shape, rows.dtype)
        self._stream.write(np.ascontiguousarray(rows).tobytes())
        self.num_rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header."""
        self._stream.seek(0)
        self._write_header()
        assert self._stream.tell() == self.header_length, "the header has room for any number of rows"
        self._stream.close()

    def _write_header(self) -> None:
        shape = (self.num_rows, *self.row_shape)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
