"""Tables as labs write them: any of three separators, a preamble of any length, and rows that are wrong.

A wrong row is left out and reported as a `Problem`; it never stops the rest. A missing column stops it, because then
no row can be read.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mien.core.errors import UserError
from mien.core.types import Problem

SEPARATORS = (",", "\t", ";")
BINARY_BYTES = 4096
"""A zero byte in so many means that a file isn't text; further on a logger that lost power may have left some."""

MAX_NAMES, MAX_NAME = 40, 60
"""A message names at most so many columns, each by so many characters."""

NUM_LINES_NAMED = 5
"""Problems name so many lines of a table, then count the rest."""


@dataclass(frozen=True)
class Row:
    """One row of a table, as text.

    Attributes:
        line: Number of its line in the file, from 1.
        cells: Stripped text by column name.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class RawTable:
    """A table as text.

    Attributes:
        path: The file.
        header: Column names as the file writes them.
        columns: The same in the same order, known columns under their own name.
        rows: Rows that aren't blank, in the file's order.
        preamble: Cells of the lines before the header.
        separator: What separates the cells.
    """

    path: Path
    header: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    preamble: tuple[tuple[str, ...], ...]
    separator: str


def normalise_id(text: str) -> str:
    """Return an id with white space and underscores collapsed to one space.

    >>> normalise_id("AR  2298 "), normalise_id("AR_2298")
    ('AR 2298', 'AR 2298')
    """
    return re.sub(r"[\s_]+", " ", text).strip()


def read_raw_table(
    path: Path, *, wanted: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
) -> RawTable:
    """Read a table whose header row is wherever the wanted columns are named.

    Args:
        path: UTF-8 (with or without BOM), UTF-16 with BOM or Windows-1252; separated by comma, tab or semicolon.
        wanted: Names that each needed column may have in the file, compared without case, white space and unit.
        optional: The same for columns that may be absent.

    Raises:
        UserError: The file can't be read, or no row names all wanted columns.
    """
    lines = read_lines(path)
    names = {**wanted, **(optional or {})}
    best: tuple[int, int, list[str]] = (0, 0, [])
    for index, line in enumerate(lines):
        for separator in SEPARATORS:
            cells = _split(line, separator=separator)
            columns = _name_columns(cells, names=names)
            if len(cells) >= min(2, len(wanted)) and set(wanted) <= set(columns):
                _refuse_doubled(path, columns)
                return RawTable(
                    path=path,
                    header=tuple(cells),
                    columns=tuple(columns),
                    rows=_read_rows(lines, first=index + 1, columns=columns, separator=separator),
                    preamble=tuple(tuple(_split(before, separator=separator)) for before in lines[:index]),
                    separator=separator,
                )
            best = max(best, (len(set(wanted) & set(columns)), len(cells), cells), key=lambda item: item[:2])
    # What a file that is no table calls a column may be anything.
    found = ", ".join("".join(c for c in cell if c.isprintable())[:MAX_NAME] for cell in best[2][:MAX_NAMES] if cell)
    found = found or "none"
    needed = ", ".join(options[0] for options in wanted.values())
    raise UserError(
        f"{path.name} has no row that names all needed columns. Columns found: {found}. Columns needed: {needed}. "
        f"Export the table again with these columns, or rename them in {path}."
    )


def read_lines(path: Path) -> list[str]:
    """Read a text file's lines, whatever its line ends and encoding.

    Raises:
        UserError: The file can't be read, or holds no text.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    is_utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not is_utf16 and b"\x00" in raw[:BINARY_BYTES]:
        # Its bytes would be "columns" of a message, and a terminal would obey some of them.
        raise UserError(f"{path.name} isn't text: it holds bytes that no table has. Save it as CSV (UTF-8) in {path}.")
    if is_utf16:
        text = raw.decode("utf-16", errors="replace")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            # Excel on Windows writes "CSV" in the machine's code page; every byte has a meaning there or a mark.
            text = raw.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_number(text: str, *, separator: str = ",") -> float:
    """Return a cell's number, NaN where it isn't a finite one; a decimal comma counts where commas don't separate.

    >>> read_number("2236"), read_number("1,5", separator=";"), read_number("n/a")
    (2236.0, 1.5, nan)
    """
    try:
        number = float(text.replace(",", ".") if separator != "," else text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def check_interval(onset: float, offset: float) -> str | None:
    """Return why [onset, offset) isn't an interval, None where it is one."""
    if math.isnan(onset) or math.isnan(offset):
        return "a time that isn't a number"
    return "an end before the start" if offset < onset else None


def report_rows(path: Path, *, rows: Mapping[str, Sequence[int]]) -> list[Problem]:
    """Return one problem per reason, with the lines it was found in.

    Args:
        path: The table.
        rows: Line numbers by reason.
    """
    problems = []
    for reason, lines in rows.items():
        named = ", ".join(map(str, lines[:NUM_LINES_NAMED])) + (", ..." if len(lines) > NUM_LINES_NAMED else "")
        problems.append(
            Problem(
                recording=path.name,
                stage="annotations",
                reason=f"{len(lines)} row{'s' if len(lines) > 1 else ''} with {reason} (line {named}), left out",
                advice="Correct the rows and prepare again, or leave them if they don't matter.",
            )
        )
    return problems


def read_intervals(
    path: Path,
    *,
    start: str,
    end: str,
    text: Sequence[str],
    optional: Sequence[str] = (),
    problems: list[Problem] | None = None,
) -> pd.DataFrame:
    """Read a plain study's table of intervals (`annotations.csv`, `coded.csv` or `segments.csv`).

    Args:
        path: The table.
        start: Column of the start, s.
        end: Column of the end (not included), s.
        text: Columns that every row must fill in.
        optional: Columns that may be absent or empty.
        problems: Where rows that were left out are reported.

    Returns:
        Columns `text`, `start`, `end`, `optional` (empty text where absent), rows in the file's order.

    Raises:
        UserError: The file can't be read or lacks a column.
    """
    required = (*text, start, end)
    table = read_raw_table(
        path, wanted={name: (name,) for name in required}, optional={name: (name,) for name in optional}
    )
    kept: list[dict[str, object]] = []
    bad: dict[str, list[int]] = {}
    for row in table.rows:
        onset, offset = (read_number(row.cells[name], separator=table.separator) for name in (start, end))
        empty = [name for name in text if not row.cells[name]]
        reason = f"no {empty[0]}" if empty else check_interval(onset, offset)
        if reason:
            bad.setdefault(reason, []).append(row.line)
            continue
        cells = {name: row.cells.get(name, "") for name in (*text, *optional)}
        kept.append({**cells, start: onset, end: offset})
    if problems is not None:
        problems.extend(report_rows(path, rows=bad))
    return pd.DataFrame(kept, columns=[*required, *optional])


def _split(line: str, *, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _name_columns(cells: Sequence[str], *, names: Mapping[str, Sequence[str]]) -> list[str]:
    known = {plain_name(option): name for name, options in names.items() for option in options}
    return [known.get(plain_name(cell), cell) for cell in cells]


def plain_name(name: str) -> str:
    """Return a column's name without case, unit in brackets, underscores and repeated white space.

    >>> plain_name("Start_time  (s)")
    'start time'
    """
    return normalise_id(re.sub(r"[\[(].*?[\])]", "", name)).lower()


def _refuse_doubled(path: Path, columns: Sequence[str]) -> None:
    doubled = sorted({name for name in columns if name and columns.count(name) > 1})
    if doubled:
        raise UserError(f"{path.name} has the column {doubled[0]!r} more than once. Keep one of them in {path}.")


def _read_rows(lines: Sequence[str], *, first: int, columns: Sequence[str], separator: str) -> tuple[Row, ...]:
    rows = []
    # A reader over all lines, because a quoted cell may hold a line break.
    reader = csv.reader((line + "\n" for line in lines[first:]), delimiter=separator, skipinitialspace=True)
    for raw in reader:
        cells = [cell.strip() for cell in raw]
        if any(cells):
            padded = cells + [""] * (len(columns) - len(cells))
            rows.append(Row(line=first + reader.line_num, cells=dict(zip(columns, padded, strict=False))))
    return tuple(rows)
