"""What an iMotions export says before its data: who, when, which version, and of each column its unit and device.

Three layouts are known, each with a preamble of any length:

* 5.x to 7.x: tab-separated text, `#Study : NAME` lines, then the header.
* 8 and later: CSV; `#HEADER` (or `#INFO`) with the respondent, `#METADATA` with rows about the columns, `#DATA`, then
  the header.
* tables without a preamble.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote

from mien.annotations.tables import SEPARATORS, normalise_id
from mien.core.errors import UserError

LINE_END = re.compile(r"\r\n|\n|\r")
BOM = "\ufeff"
NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
HEAD_BYTES = 1 << 20
"""Preambles that were seen are below 20 kB; a header that isn't within this is none."""

CHUNK_BYTES = 1 << 22
NUM_SAMPLED_ROWS = 50
"""So many rows are looked at for a decimal comma."""

TIME_NAMES = ("timestamp", "imotions synchronization timestamp")
HEADER_NAMES = {*TIME_NAMES, "row", "rownumber", "eventsource", "studyname", "study name", "respondent name"}
"""A line with one of these and no `#` is a header, where no `#DATA` says so."""


@dataclass(frozen=True)
class Preamble:
    """What stands before the data of an iMotions export.

    Attributes:
        path: The file.
        layout: `text` (5.x to 7.x), `metadata` (8 and later) or `plain` (no preamble).
        version: As the export writes it, empty where it doesn't say.
        header: Name of each column, stripped, by position; names may repeat.
        data_offset: Where the data begin, in bytes.
        separator: What separates the cells.
        encoding: `utf-8`, `utf-16-le`, `utf-16-be`, `cp1252` or `latin-1`.
        decimal: What separates the decimals.
        columns: Rows about the columns by their plain name (`units`, `device`, `group`), each a text per column.
        respondent: Whom the preamble names, empty where it names nobody.
        attributes: Age (0 means missing, so it's absent then) and gender in lower case.
        start_utc_s: When the clock starts, seconds since 1970; None where it doesn't say.
        start_local_s: The same as clocks showed it there, as if that were UTC.
        source: The sensor that the preamble names for the whole file, empty where it names none.
        sample: First rows after the header, as text.
    """

    path: Path
    layout: str
    version: str
    header: tuple[str, ...]
    data_offset: int
    separator: str
    encoding: str
    decimal: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    respondent: str = ""
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    start_utc_s: float | None = None
    start_local_s: float | None = None
    source: str = ""
    sample: tuple[tuple[str, ...], ...] = ()

    @property
    def format(self) -> str:
        """Name of the format, for `Export.format`."""
        return f"iMotions sensors {self.version}".strip() if self.layout != "plain" else "iMotions table"

    def about(self, position: int, *names: str) -> str:
        """Return what the preamble says of a column under the first of several names that isn't empty."""
        texts = (self.columns[name][position] for name in names if name in self.columns)
        return next((text for text in texts if text), "")


def read_preamble(path: Path) -> Preamble:
    """Read the preamble, and find where the data begin; the data themselves aren't read.

    Raises:
        UserError: The file can't be read, is empty, or has no header row.
    """
    path = Path(path)
    encoding = find_encoding(path)
    head = _read_head(path, encoding=encoding)
    lines = LINE_END.split(head.removeprefix(BOM))
    marker = next((number for number, line in enumerate(lines) if re.match(r'"?#DATA\b', line)), None)
    start = marker + 1 if marker is not None else _header_line(lines, path=path)
    while marker is not None and start < len(lines) and not lines[start].strip():
        start += 1
    if start >= len(lines) or not lines[start].strip():
        raise UserError(f"{path.name} ends before its header. Export it again.")
    separator = max(SEPARATORS, key=lines[start].count)
    header = _cells(lines[start], separator)
    before = [_cells(line, separator if marker is None else _separator_of(line)) for line in lines[:start]]
    sample = tuple(
        tuple(_cells(line, separator)) for line in lines[start + 1 : start + 1 + NUM_SAMPLED_ROWS] if line.strip()
    )
    # A data row may have more cells than the header (a closing separator): they have no name.
    width = max([len(header), *map(len, sample[:1])])
    layout = "metadata" if marker is not None else "text" if any(map(any, before)) else "plain"
    columns = _column_rows(before, header=header, width=width) if layout == "metadata" else {}
    facts = _facts(before)
    return Preamble(
        path=path,
        layout=layout,
        version=facts.get("version", "") or facts.get("imotions version", ""),
        header=tuple(header + [""] * (width - len(header))),
        data_offset=_offset(head, num_lines=start + 1, encoding=encoding),
        separator=separator,
        encoding=encoding,
        decimal="," if separator != "," and _has_decimal_comma(sample) else ".",
        columns=columns,
        respondent=facts.get("respondent name", ""),
        attributes=read_attributes(facts.get("respondent age", ""), facts.get("respondent gender", "")),
        start_utc_s=_start_utc_s(before, facts),
        start_local_s=utc_s(re.sub(r"\s*\([+-]\d+:\d+\)$", "Z", facts.get("testrundate", ""))),
        source=facts.get("samplename", ""),
        sample=sample,
    )


def find_encoding(path: Path) -> str:
    """Return how a text file is written, from all of it: UTF-16 (with BOM), UTF-8, Windows-1252, else Latin-1.

    Raises:
        UserError: The file can't be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            chunk = file.read(CHUNK_BYTES)
            if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                return "utf-16-le" if chunk.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(CHUNK_BYTES)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        # Windows writes "µSiemens" in the machine's code page; where a byte means nothing there, it isn't that page.
        return "latin-1" if _has_undefined_bytes(path) else "cp1252"
    return "utf-8"


def _has_undefined_bytes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(NOT_CP1252.search(chunk) for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def read_attributes(age: str, gender: str) -> dict[str, str | float]:
    """Return age and gender as a study's other tables spell them; iMotions writes 0 where no age was entered.

    >>> read_attributes("0", "MALE"), read_attributes("22", "")
    ({'gender': 'male'}, {'age': 22.0})
    """
    attributes: dict[str, str | float] = {}
    if re.fullmatch(r"\d+(\.0*)?", age.strip()) and float(age) > 0:
        attributes["age"] = float(age)
    if gender.strip():
        attributes["gender"] = gender.strip().lower()
    return attributes


def _read_head(path: Path, *, encoding: str) -> str:
    """Return the beginning of a file with its BOM, up to the last line end within it where the file goes on."""
    with path.open("rb") as file:
        raw = file.read(HEAD_BYTES)
    text = raw.decode(encoding, errors="replace")
    if len(raw) < HEAD_BYTES:
        return text
    last = max(text.rfind("\n"), text.rfind("\r", 0, -1))
    return text[: last + 1]


def _offset(head: str, *, num_lines: int, encoding: str) -> int:
    """Return the number of bytes up to the end of a line."""
    ends = [match.end() for match in itertools.islice(LINE_END.finditer(head), num_lines)]
    before = head[: ends[-1]] if len(ends) == num_lines else head
    return len(before.encode(encoding, errors="replace"))


def _header_line(lines: Sequence[str], *, path: Path) -> int:
    if any(re.match(r'"?#(HEADER|INFO|METADATA)\b', line) for line in lines):
        raise UserError(f"{path.name} ends within its preamble: no line says #DATA. Export it again.")
    for number, line in enumerate(lines):
        names = {_key(cell) for cell in _cells(line, _separator_of(line))}
        if not line.startswith("#") and len(names) > 1 and names & HEADER_NAMES:
            return number
    first = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise UserError(f"{path.name} has no table: it is empty, or ends within its preamble. Export it again.")
    return first


def _separator_of(line: str) -> str:
    return max(SEPARATORS, key=line.count)


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _key(text: str) -> str:
    return normalise_id(text.strip('#": ')).lower()


def _column_rows(before: Sequence[list[str]], *, header: Sequence[str], width: int) -> dict[str, tuple[str, ...]]:
    """Return the rows after `#METADATA`, one text per column of the header.

    Rows stand under their own header (`FieldName`), which lacks the row number that the data have; so cells are matched
    by the name of the field, in its order where it repeats, and by position where there is no such row.
    """
    opened = next((number for number, cells in enumerate(before) if cells and _key(cells[0]) == "metadata"), None)
    rows = [cells for cells in before[opened + 1 :] if cells] if opened is not None else []
    fields = next((cells[1:] for cells in rows if _key(cells[0]) == "fieldname"), None)
    places: list[int | None]
    if fields is None:
        places = list(range(width))
    else:
        left = list(enumerate(fields))
        places = []
        for name in header:
            found = next((item for item in left if item[1] == name), None)
            places.append(None if found is None else found[0] + 1)
            if found is not None:
                left.remove(found)
        places += [None] * (width - len(places))
    return {
        _key(cells[0]): tuple(cells[place] if place is not None and 0 < place < len(cells) else "" for place in places)
        for cells in rows
        if _key(cells[0])
    }


def _facts(before: Sequence[list[str]]) -> dict[str, str]:
    """Return what the preamble states of the whole file: `#Name : value`, `Name,value`, or JSON that is URL-encoded."""
    facts: dict[str, str] = {}
    for cells in before:
        if not cells:
            continue
        name, colon, value = cells[0].partition(" :")
        facts.setdefault(_key(name), value.strip() if colon else next(iter(cells[1:]), ""))
        if cells[0].startswith("%7B"):
            try:
                encoded = json.loads(unquote(cells[0]))
            except ValueError:
                continue
            facts.update({_key(key): value for key, value in encoded.items() if isinstance(value, str)})
    return facts


def _start_utc_s(before: Sequence[list[str]], facts: Mapping[str, str]) -> float | None:
    recording = next((cells for cells in before if cells and _key(cells[0]) == "recording time"), [])
    stated = {_key(name): value.strip() for name, colon, value in (cell.partition(":") for cell in recording) if colon}
    unix = re.search(r"\d{9,}(\.\d+)?", stated.get("unix time", ""))
    if unix:
        # Milliseconds since 1970 have 13 digits, seconds 10.
        return float(unix.group()) / (1000.0 if float(unix.group()) > 1e11 else 1.0)
    if facts.get("testrundate"):
        return utc_s(facts["testrundate"])
    if "date" in stated and "time" in stated:
        return utc_s(f"{stated['date']} {stated['time']}")
    return utc_s(facts.get("slideshowstartdatetime", ""))


def utc_s(text: str) -> float | None:
    """Return seconds since 1970 of a date with its offset from UTC; None without offset, for then nobody knows.

    >>> utc_s("20171005 11:27:18.071 (-04:00)"), utc_s("2022-11-29T08:29:32.3660000Z"), utc_s("20171005 11:27:18")
    (1507217238.071, 1669710572.366, None)
    """
    parts = re.fullmatch(
        r"(?P<date>[\d./-]+)[T ]+(?P<clock>\d+:\d+:\d+)(?P<share>\.\d+)?\s*\(?(?P<offset>Z|[+-]\d+:\d+)\)?",
        text.strip(),
    )
    if parts is None:
        return None
    date = parts["date"]
    # Windows writes dates as the machine's region does; dots are European, slashes American there.
    orders = {".": "%d.%m.%Y", "/": "%m/%d/%Y", "-": "%Y-%m-%d"}
    order = next((order for mark, order in orders.items() if mark in date), "%Y%m%d")
    offset = timedelta()
    if parts["offset"] != "Z":
        hours, minutes = parts["offset"][1:].split(":")
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if parts["offset"][0] == "-" else 1)
    try:
        moment = datetime.strptime(f"{date} {parts['clock']}", f"{order} %H:%M:%S").replace(tzinfo=timezone(offset))
    except ValueError:
        return None
    return moment.astimezone(UTC).timestamp() + float(parts["share"] or 0)


def _has_decimal_comma(rows: Sequence[Sequence[str]]) -> bool:
    return any(re.fullmatch(r"-?\d+,\d+", cell) for row in rows for cell in row)
