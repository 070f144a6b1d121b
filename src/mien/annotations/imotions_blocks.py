"""The data of an iMotions export, read in blocks, so that memory doesn't grow with the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from mien.annotations.imotions_preamble import Preamble
from mien.annotations.tables import read_number
from mien.core.errors import UserError
from mien.core.types import Problem

BLOCK_BYTES = 1 << 20
"""Text per block: the reader holds several at once, and larger ones were slower."""

NO_NUMBER = ("", "NaN", "nan", "NA", "N/A", "n/a", "null", "NULL", "None", "-", "-nan(ind)", "-1.#IND", "1.#QNAN")
"""Cells that say that there is no value: they are neither a number nor wrong."""


@dataclass(frozen=True)
class Block:
    """Some rows of the file.

    Attributes:
        texts: Columns read as text, by position: codes of the rows (n,), and the stripped texts that they stand for.
        numbers: Columns read as numbers, by position: (n,), NaN where there is none.
    """

    texts: Mapping[int, tuple[NDArray[np.int64], list[str]]]
    numbers: Mapping[int, NDArray[np.float64]]


class Accumulator(Protocol):
    """What takes a file's blocks in order."""

    @property
    def texts(self) -> Sequence[int]:
        """Positions of columns that are needed as text."""

    @property
    def numbers(self) -> Sequence[int]:
        """Positions of columns that are needed as numbers."""

    def add(self, block: Block) -> None:
        """Take the next block."""


Taken = TypeVar("Taken", bound=Accumulator)


class _SpoiltColumnError(Exception):
    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class BlockReader:
    """Reads a file from its beginning, as often as it is asked to.

    A column of numbers in which another text turns up is read again as text, and its numbers are kept.
    """

    def __init__(self, preamble: Preamble, *, times: Sequence[int] = ()) -> None:
        """Prepare to read.

        Args:
            preamble: The file's.
            times: Columns of times: a cell of theirs without a number is reported even where none has one.
        """
        self.preamble, self.times = preamble, times
        self._num_ragged = 0
        self._spoilt: dict[int, tuple[int, int]] = {
            position: (0, 0) for position in range(len(preamble.header)) if self._is_spoilt(position)
        }

    def read(self, make: Callable[[], Taken]) -> Taken:
        """Give all blocks to a new accumulator and return it.

        Raises:
            UserError: The file isn't a table.
        """
        while True:
            taken = make()
            self._num_ragged = 0
            self._spoilt.update(dict.fromkeys(set(self._spoilt) & set(taken.numbers), (0, 0)))
            try:
                for block in self._blocks(texts=taken.texts, numbers=taken.numbers):
                    taken.add(block)
            except _SpoiltColumnError as error:
                self._spoilt[error.position] = (0, 0)
            else:
                return taken

    def problems(self) -> list[Problem]:
        """Return what of the file couldn't be read."""
        reasons = []
        if self._num_ragged:
            rows = f"{self._num_ragged} row{'s' if self._num_ragged > 1 else ''}"
            reasons.append(f"{rows} with another number of cells than the header (cut short?), left out")
        for position, (num_good, num_bad) in sorted(self._spoilt.items()):
            # A column without any number holds text; that isn't wrong.
            if num_bad and (num_good or position in self.times):
                cells = f"{num_bad} cell{'s' if num_bad > 1 else ''}"
                reasons.append(f"{cells} of {self.preamble.header[position]!r} that aren't numbers, left out")
        advice = "Look at the end of the file and at these columns; export it again where they matter."
        return [Problem(self.preamble.path.name, "annotations", reason, advice) for reason in reasons]

    def _is_spoilt(self, position: int) -> bool:
        cells = [row[position] for row in self.preamble.sample if position < len(row)]
        separator = ";" if self.preamble.decimal == "," else ","
        return any(cell not in NO_NUMBER and np.isnan(read_number(cell, separator=separator)) for cell in cells)

    def _blocks(self, *, texts: Sequence[int], numbers: Sequence[int]) -> Iterator[Block]:
        wanted = sorted({*texts, *numbers})
        as_text = {*texts, *(set(numbers) & set(self._spoilt))}
        try:
            with self.preamble.path.open("rb") as file, self._open(file, wanted, as_text=as_text) as stream:
                for batch in stream:
                    if batch.num_rows:
                        yield self._block(dict(zip(wanted, batch.columns, strict=True)), texts, numbers)
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return
            found = re.search(r"column #(\d+):.*conversion error", str(error))
            if found is None:
                raise UserError(f"{self.preamble.path.name} isn't a table: {error}. Export it again.") from error
            raise _SpoiltColumnError(int(found.group(1))) from error

    def _open(self, file: BinaryIO, wanted: Sequence[int], *, as_text: set[int]) -> csv.CSVStreamingReader:
        file.seek(self.preamble.data_offset)
        return csv.open_csv(
            file,
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=[str(position) for position in range(len(self.preamble.header))],
                encoding=self.preamble.encoding,
            ),
            parse_options=csv.ParseOptions(
                delimiter=self.preamble.separator, invalid_row_handler=self._count_ragged_row
            ),
            convert_options=csv.ConvertOptions(
                include_columns=[str(position) for position in wanted],
                column_types={
                    str(position): pa.string() if position in as_text else pa.float64() for position in wanted
                },
                null_values=list(NO_NUMBER),
                strings_can_be_null=False,
                decimal_point=self.preamble.decimal,
            ),
        )

    def _count_ragged_row(self, _row: csv.InvalidRow) -> str:
        self._num_ragged += 1
        return "skip"

    def _block(self, columns: Mapping[int, pa.Array], texts: Sequence[int], numbers: Sequence[int]) -> Block:
        coded = {}
        for position in texts:
            distinct = pc.dictionary_encode(columns[position])
            values = [str(value).strip() for value in distinct.dictionary.to_pylist()]
            coded[position] = (distinct.indices.to_numpy(zero_copy_only=False).astype(np.int64), values)
        read = {}
        for position in numbers:
            column = columns[position]
            is_text = pa.types.is_string(column.type)
            read[position] = self._as_numbers(column, position) if is_text else column.to_numpy(zero_copy_only=False)
        return Block(coded, read)

    def _as_numbers(self, column: pa.Array, position: int) -> NDArray[np.float64]:
        text = column.to_pandas().astype("str").str.strip()
        there = ~text.isin(NO_NUMBER).to_numpy(np.bool_)
        plain = text.str.replace(",", ".", regex=False) if self.preamble.decimal == "," else text
        numbers = np.asarray(pd.to_numeric(plain.where(there), errors="coerce"), dtype=np.float64)
        num_good, num_bad = self._spoilt[position]
        good = int(np.isfinite(numbers).sum())
        self._spoilt[position] = (num_good + good, num_bad + int(there.sum()) - good)
        return numbers
