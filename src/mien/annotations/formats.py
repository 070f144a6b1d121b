"""Every format of exports that is read, and how a file is recognised: by what it holds first, then by its suffix.

A format is one line of `FORMATS`. The order matters where a file could be two: the more particular comes first.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.annotations.affectiva import read_affectiva
from mien.annotations.boris import read_boris
from mien.annotations.elan import read_elan
from mien.annotations.empatica import read_empatica
from mien.annotations.exports import Export, interval_table
from mien.annotations.imotions import EXPRESSION_COLUMNS, read_expression_table
from mien.annotations.imotions_annotations import read_imotions_annotations
from mien.annotations.imotions_sensors import read_imotions_sensors
from mien.annotations.imotions_tables import read_fixations, read_gsr_peaks
from mien.annotations.interval_csv import DURATION, OFFSET, ONSET, read_interval_csv
from mien.annotations.openface import read_openface
from mien.annotations.praat import read_textgrid
from mien.annotations.pyfeat import read_pyfeat
from mien.annotations.tables import SEPARATORS, plain_name
from mien.annotations.tiers import TierText
from mien.core.errors import UserError
from mien.core.types import Problem

HEAD_BYTES = 1 << 17
"""A preamble and the header of an iMotions export with every sensor are below 40 kB."""

MAX_HEADER_LINES = 300
"""Preambles have up to a hundred lines; what is no table is given up after so many."""

NUM_NAMED = 5
"""Messages name so many files, keys or columns."""

EMPATICA_FILES = frozenset({"acc.csv", "bvp.csv", "eda.csv", "hr.csv", "ibi.csv", "temp.csv"})


@dataclass(frozen=True)
class Context:
    """What a reader may be told besides the path.

    Attributes:
        frame_times_s: Presentation times of the media's frames (F,), s: for tools that number frames.
        media: Name of the media file whose clock is wanted: for files that synchronise several.
        text: What the text of tiers is (see `annotations.tiers`).
    """

    frame_times_s: NDArray[np.float64] | None = None
    media: str = ""
    text: TierText = "auto"


@dataclass(frozen=True)
class Head:
    """The beginning of a file, or the names in a folder.

    Attributes:
        text: The first `HEAD_BYTES` as text; empty for a folder.
        files: Names of the files in the folder, lower case; empty for a file.
    """

    text: str = ""
    files: frozenset[str] = frozenset()

    @cached_property
    def rows(self) -> list[frozenset[str]]:
        """Cells of the first lines, as column names are compared, however they are separated."""
        return list(self._rows())

    @property
    def is_json(self) -> bool:
        """Whether it begins as JSON does."""
        return self.text.lstrip().startswith(("[", "{"))

    def has_row(self, *wanted: str) -> bool:
        """Return whether a line has all of these cells; several spellings of one are separated by |."""
        return any(all(row & set(names.split("|")) for names in wanted) for row in self.rows)

    def has_cell(self, pattern: str, *, beside: str) -> bool:
        """Return whether a line that has the cell `beside` has one that is like `pattern`."""
        return any(beside in row and any(re.fullmatch(pattern, cell) for cell in row) for row in self.rows)

    def _rows(self) -> Iterator[frozenset[str]]:
        for line in re.split(r"\r\n?|\n", self.text)[:MAX_HEADER_LINES]:
            for separator in SEPARATORS:
                if separator in line:
                    yield frozenset(plain_name(cell.strip().strip('"')) for cell in line.split(separator))


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: What it is called.
        suffixes: Its files' usual suffixes; empty for folders.
        recognises: Whether a head is this format's.
        read: Its reader.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Head], bool]
    read: Callable[[Path, Context], Export]


def read_export(
    path: Path, *, frame_times_s: NDArray[np.float64] | None = None, media: str = "", text: TierText = "auto"
) -> Export:
    """Read an export of any known format.

    Args:
        path: A file, or a folder where the format is one (Empatica).
        frame_times_s: Presentation times of the media's frames (F,), s; needed where an export numbers frames
            (`Export.needs_frame_times`).
        media: Name of the media file whose clock is wanted, where an export synchronises several.
        text: What the text of tiers is (see `annotations.tiers`).

    Raises:
        UserError: It can't be read, isn't whole, or is of no known format; the message says what it looks like.
    """
    head = read_head(path)
    known = [item for item in FORMATS if item.recognises(head)]
    known = known or [item for item in FORMATS if path.suffix.lower() in item.suffixes and path.is_file()]
    # By its suffix alone a file is read only where that leaves no doubt.
    by_suffix_alone = bool(known) and not known[0].recognises(head)
    if not known or (by_suffix_alone and (len(known) > 1 or not head.text.strip())):
        names = ", ".join(dict.fromkeys(item.name for item in FORMATS))
        raise UserError(
            f"{path.name} is of no format that is read: it looks like {_looks_like(path, head)}. Known: {names}. "
            "A table with the columns onset_s, offset_s and label is always read."
        )
    return known[0].read(path, Context(frame_times_s=frame_times_s, media=media, text=text))


def recognised_format(path: Path) -> str:
    """Return the name of the format that a path holds by its content, empty where it is of none.

    Raises:
        UserError: There is nothing there, or it can't be read.
    """
    head = read_head(path)
    return next((item.name for item in FORMATS if item.recognises(head)), "")


def read_head(path: Path) -> Head:
    """Return what a path begins with.

    Raises:
        UserError: There is nothing there, or it can't be read.
    """
    try:
        if path.is_dir():
            return Head(files=frozenset(item.name.lower() for item in path.iterdir() if item.is_file()))
        with path.open("rb") as stream:
            raw = stream.read(HEAD_BYTES)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return Head(raw.decode("utf-16", errors="replace"))
    try:
        # A multi-byte character may be cut at the end of the head.
        return Head(codecs.getincrementaldecoder("utf-8-sig")().decode(raw))
    except UnicodeDecodeError:
        return Head(raw.decode("cp1252", errors="replace"))


def _is_elan(head: Head) -> bool:
    return "<ANNOTATION_DOCUMENT" in head.text


def _is_textgrid(head: Head) -> bool:
    return (
        re.match(r"\W*(File type = )?\"?oo(Text|Binary)File", head.text) is not None and "TextGrid" in head.text[:300]
    )


def _is_imotions_annotations(head: Head) -> bool:
    return head.is_json and '"fragments"' in head.text and '"rangeStart"' in head.text


def _is_affectiva(head: Head) -> bool:
    return head.is_json and re.search(r'"timestamp"\s*:', head.text, re.IGNORECASE) is not None


def _is_openface(head: Head) -> bool:
    return any(
        head.has_cell(r"au\d\d [rc]|pose [tr][xyz]|gaze \d [xyz]", beside=name) for name in ("confidence", "success")
    )


def _is_pyfeat(head: Head) -> bool:
    return head.has_row("frame", "facerectx|input|facescore") or head.has_cell(r"au\d\d", beside="frame")


def _is_boris(head: Head) -> bool:
    tabular = head.has_row("behavior", "time", "status") or head.has_row("behavior", "time", "behavior type", "subject")
    return tabular or head.has_row("behavior", "start", "stop", "behavior type|observation id")


def _is_expression_table(head: Head) -> bool:
    return head.has_row(*("|".join(plain_name(name) for name in names) for names in EXPRESSION_COLUMNS.values()))


def _is_imotions(head: Head) -> bool:
    marks = re.search(r"^\W*#(study|header|metadata|data|info)\b", head.text, re.IGNORECASE | re.MULTILINE)
    return marks is not None or head.has_row("timestamp", "eventsource|row|rownumber|studyname|study name")


def _is_interval_table(head: Head) -> bool:
    ends = "|".join(plain_name(name) for name in (*OFFSET, *DURATION))
    return head.has_row("|".join(plain_name(name) for name in ONSET), ends)


def _read_expressions(path: Path) -> Export:
    """Read an expression table of iMotions as the export of the tool that wrote it."""
    problems: list[Problem] = []
    table = read_expression_table(path, problems=problems)
    return Export(
        path=path,
        format="iMotions expression table",
        intervals=interval_table(table.assign(value=None)),
        annotator="AFFDEX",
        tool=True,
        labels=tuple(dict.fromkeys(table["label"])),
        problems=tuple(problems),
    )


def _alone(read: Callable[[Path], Export]) -> Callable[[Path, Context], Export]:
    """Return a reader that needs to be told nothing but the path."""
    return lambda path, _: read(path)


FORMATS = (
    Format("ELAN", (".eaf",), _is_elan, lambda path, told: read_elan(path, media=told.media, text=told.text)),
    Format("Praat TextGrid", (".textgrid",), _is_textgrid, lambda path, told: read_textgrid(path, text=told.text)),
    Format("Empatica E4", (), lambda head: len(head.files & EMPATICA_FILES) > 1, _alone(read_empatica)),
    Format("iMotions annotations", (), _is_imotions_annotations, _alone(read_imotions_annotations)),
    Format("Affectiva JSON", (), _is_affectiva, _alone(read_affectiva)),
    Format("iMotions expression table", (), _is_expression_table, _alone(_read_expressions)),
    Format("iMotions fixations", (), lambda head: head.has_row("fixation start"), _alone(read_fixations)),
    Format("iMotions GSR peaks", (), lambda head: head.has_row("peak time", "peak amplitude"), _alone(read_gsr_peaks)),
    Format("iMotions sensors", (), _is_imotions, _alone(read_imotions_sensors)),
    Format("iMotions metrics", (), lambda head: head.has_row("startms", "durationms"), _alone(read_imotions_sensors)),
    Format("OpenFace", (), _is_openface, lambda path, told: read_openface(path, frame_times_s=told.frame_times_s)),
    Format("Py-Feat", (), _is_pyfeat, lambda path, told: read_pyfeat(path, frame_times_s=told.frame_times_s)),
    Format("BORIS", (), _is_boris, _alone(read_boris)),
    Format("interval table", (), _is_interval_table, _alone(read_interval_csv)),
)
"""All formats; `recognises` is asked in this order."""


def _looks_like(path: Path, head: Head) -> str:
    """Say what an unknown file looks like."""
    if path.is_dir():
        some = ", ".join(sorted(head.files)[:NUM_NAMED]) or "no file"
        return f"a folder with {some}{', ...' if len(head.files) > NUM_NAMED else ''}"
    text = head.text.strip()
    if not text:
        return "an empty file"
    controls = sum(1 for character in text[:1000] if ord(character) < 32 and character not in "\t\r\n\f")
    if controls > 0 or text[:1000].count("\ufffd") > 10:
        return "a binary file (a video, a spreadsheet, a picture)"
    if text.startswith("<"):
        found = re.search(r"<([A-Za-z][\w:.-]*)", text)
        return f"XML that begins with <{found.group(1)}>" if found else "XML"
    if text[0] in "[{":
        keys = list(dict.fromkeys(re.findall(r'"([^"\n]{1,40})"\s*:', text)))[:NUM_NAMED]
        return f"JSON with {', '.join(keys) or 'no names'}"
    lines = text.splitlines()
    row = max(lines[:MAX_HEADER_LINES], key=lambda line: max(line.count(separator) for separator in SEPARATORS))
    separator = max(SEPARATORS, key=row.count)
    if separator not in row:
        return f"text that begins with {lines[0][:60]!r}"
    cells = [cell.strip().strip('"') for cell in row.split(separator)]
    return f"a table with the columns {', '.join(filter(None, cells[: 2 * NUM_NAMED]))[:200]}"
