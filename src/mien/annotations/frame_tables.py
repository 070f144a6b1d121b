"""Tables with one row per video frame and face, as OpenFace and Py-Feat write them.

They have hundreds of columns and a row per frame of hours, so that only the columns that are used are read, as numbers.
"""

from __future__ import annotations

import contextlib
import csv
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.channels import find_channel
from mien.core.errors import UserError
from mien.core.types import Problem, Signal

MIN_REAL_STEP_S = 0.002
"""No camera in a lab takes 500 pictures per second: times that are closer are counters, not times."""

READ: dict[str, Any] = {"skipinitialspace": True, "encoding": "utf-8-sig", "encoding_errors": "replace"}
"""How such tables are written: a blank after each comma, sometimes a byte order mark."""

BLANK = -1


@dataclass(frozen=True)
class FrameTable:
    """Rows of frames.

    Attributes:
        rows: The wanted columns by their stripped names; numbers, missing where a cell is none, but for `texts`.
        problems: What was left out.
    """

    rows: pd.DataFrame
    problems: tuple[Problem, ...]


def read_header(path: Path) -> list[str]:
    """Return the column names of a comma-separated table, as the file writes them.

    Raises:
        UserError: The file can't be read or has no header.
    """
    with _reading(path):
        columns = pd.read_csv(path, nrows=0, index_col=False, **READ).columns
    return [str(name) for name in columns]


def read_frame_table(path: Path, *, wanted: Callable[[str], bool], texts: Sequence[str] = ()) -> FrameTable:
    """Read a frame table.

    Args:
        path: Comma-separated, header in the first line; blanks around names and after commas don't count.
        wanted: Which columns are read, by their stripped names.
        texts: Those of them that stay text.

    Raises:
        UserError: The file can't be read, lacks every wanted column or has no row.
    """
    names = [name for name in read_header(path) if wanted(name.strip())]
    if not names:
        raise UserError(f"{path.name} has none of the columns that are read. Export it again, with all of its columns.")
    as_text = {name: str for name in names if name.strip() in texts}
    with _reading(path):
        odd = _odd_lines(path)
        rows = pd.read_csv(
            path, usecols=names, index_col=False, dtype=as_text, skiprows=odd, low_memory=False, **READ
        ).rename(columns=str.strip)
    rows = rows.loc[:, ~rows.columns.duplicated()]
    if not len(rows):
        raise UserError(f"{path.name} has a header and no row. Run the program that wrote it again.")
    problems = []
    if odd:
        reason = f"{len(odd)} rows with more or fewer cells than the others, left out"
        problems.append(Problem(path.name, "annotations", reason, "Export it again; the file may be damaged."))
    numbers = [name for name in rows.columns if name not in texts]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    return FrameTable(rows, tuple(problems))


def times_of_frames(
    path: Path, frames: pd.Series[float], frame_times_s: NDArray[np.float64], *, first: int, problems: list[Problem]
) -> NDArray[np.float64]:
    """Return the times of numbered frames (N,), NaN where the media has no such frame.

    Args:
        path: The file, for problems.
        frames: Numbers of frames (N,).
        frame_times_s: Presentation times of the media's frames (F,), s.
        first: Number of the first frame.
        problems: Where frames that the media doesn't have are reported.
    """
    numbers = frames.to_numpy(dtype=np.float64) - first
    known = np.isfinite(numbers) & (numbers >= 0) & (numbers < len(frame_times_s))
    times_s = np.full(len(numbers), np.nan)
    times_s[known] = np.asarray(frame_times_s, dtype=np.float64)[numbers[known].astype(np.int64)]
    if not known.all():
        reason = f"{int((~known).sum())} rows name a frame that the media doesn't have ({len(frame_times_s)} frames)"
        advice = "Check that it was made from this very file, then prepare again."
        problems.append(Problem(path.name, "annotations", f"{reason}, left out", advice))
    return times_s


def own_times(path: Path, column: pd.Series[float], *, problems: list[Problem]) -> NDArray[np.float64]:
    """Return the times that the rows themselves give (N,), NaN where they don't; report those."""
    without = int(column.isna().sum())
    if without:
        reason = f"{without} rows without a time, left out"
        problems.append(Problem(path.name, "annotations", reason, "Export it again if that is more than a few."))
    return np.asarray(column, dtype=np.float64)


def increasing(path: Path, times_s: NDArray[np.float64], *, problems: list[Problem]) -> NDArray[np.bool_]:
    """Return which rows of one face have a time, after the times of all rows before them (N,); report the others."""
    finite = np.where(np.isfinite(times_s), times_s, -np.inf)
    latest_before = np.concatenate([[-np.inf], np.maximum.accumulate(finite)[:-1]])
    kept = np.isfinite(times_s) & (finite > latest_before)
    left_out = int((np.isfinite(times_s) & ~kept).sum())
    if left_out:
        reason = f"{left_out} rows at or before the time of an earlier row, left out"
        problems.append(Problem(path.name, "annotations", reason, "Export it again if that is more than a few."))
    return kept


def check_steps(path: Path, times_s: NDArray[np.float64], *, problems: list[Problem]) -> None:
    """Report times that are counters and no times.

    Args:
        path: The file.
        times_s: Strictly increasing, s.
        problems: Where it is reported.
    """
    if len(times_s) > 1 and float(np.median(np.diff(times_s))) < MIN_REAL_STEP_S:
        reason = f"its times are {1000 * float(np.median(np.diff(times_s))):g} ms apart, as when pictures are counted"
        advice = "Run the program on the video file itself, not on single pictures, or leave this file out."
        problems.append(Problem(path.name, "annotations", reason, advice))


def make_signal(
    name: str, *, unit: str, source: str, face: str, times_s: NDArray[np.float64], values: pd.Series[float]
) -> Signal | None:
    """Return a column as a signal of its filled-in rows, None where it has none; times (N,) strictly increasing."""
    numbers = values.to_numpy(dtype=np.float64)
    filled = np.isfinite(numbers)
    if not filled.any():
        return None
    kept = (times_s, numbers) if filled.all() else (times_s[filled], numbers[filled])
    return Signal(name, unit, kept[0], kept[1].astype(np.float32), source, face=face)


def channel_name(name: str) -> str:
    """Return a rating's name as `core.channels` spells it where it is one of the channels, else as it is.

    >>> channel_name("AU04"), channel_name("AU01"), channel_name("anger")
    ('Brow Furrow', 'AU01', 'Anger')
    """
    channel = find_channel(name)
    return name if channel is None else channel.name


def _odd_lines(path: Path) -> list[int]:
    """Return the numbers of the lines (the header is 0) that don't have as many cells as most: cut, or run together.

    Where only some columns are read, pandas takes such lines for whole ones.
    """
    widths: list[int] = []
    with path.open("rb") as stream:
        for line in stream:
            if b'"' in line:
                cells = next(csv.reader([line.decode("utf-8", errors="replace")], skipinitialspace=True), [])
                widths.append(len(cells) - 1)
            else:
                widths.append(line.count(b",") if line.strip() else BLANK)
    usual = Counter(width for width in widths[1:] if width != BLANK).most_common(1)
    return [number for number, width in enumerate(widths) if number and width not in (BLANK, usual[0][0])]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # "Length of header doesn't match": rows may end in one more comma than the header.
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            yield
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except (ValueError, OverflowError, csv.Error) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path.name} can't be read as a table: {error}. Export it again.") from error
