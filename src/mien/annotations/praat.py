"""Praat TextGrids, in either text form.

Praat reads a text file as a row of free-standing numbers, quoted texts and flags and skips everything else, so that the
long form (`xmin = 0`) and the short one (`0`) are the same to it; so are they here.

Format: Praat manual, "TextGrid file formats" and "Text files".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mien.annotations.exports import Export, interval_table, segment_table
from mien.annotations.tables import read_lines
from mien.annotations.tiers import Span, Tier, TierText, read_tiers
from mien.core.errors import UserError
from mien.core.types import Problem

TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*+)(?P<end>"?)'  # a quote in a text is doubled; a text may run over several lines
    r"|(?P<flag><\w+>)"
    r"|(?<!\S)(?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)"
    r"|(?P<comment>!.*)"
)

INTERVAL_TIER, POINT_TIER = "IntervalTier", "TextTier"

Token = str | float
"""A text or a number; a flag is a text with a zero byte before it, so that a quoted one isn't taken for it."""


@dataclass
class _Tokens:
    """Tokens of a file, read one after the other."""

    items: list[Token]
    at: int = 0

    def text(self) -> str:
        item = self._next()
        if not isinstance(item, str):
            raise _UnexpectedEnd
        return item

    def number(self) -> float:
        item = self._next()
        if not isinstance(item, float):
            raise _UnexpectedEnd
        return item

    def count(self) -> int:
        number = self.number()
        if not number >= 0:
            raise _UnexpectedEnd
        return int(number)

    def _next(self) -> Token:
        if self.at >= len(self.items):
            raise _UnexpectedEnd
        self.at += 1
        return self.items[self.at - 1]


class _UnexpectedEnd(Exception):  # noqa: N818
    """The file ends, or goes on with something else, within a tier."""


def read_textgrid(path: Path, *, text: TierText = "auto") -> Export:
    """Read a Praat TextGrid.

    Args:
        path: Long or short text form; UTF-8, UTF-16 or Windows-1252 (which holds Latin-1).
        text: What the text of tiers is (see `annotations.tiers`).

    Returns:
        Intervals of the tiers as they mean them. An interval without text is no annotation: tiers of Praat have no
        gaps. Points have no duration. Tiers of the same name get a number, because they aren't the same. A file that
        ends too early gives what it holds, and a problem.

    Raises:
        UserError: The file can't be read or isn't a TextGrid in text form.
    """
    tokens = _Tokens(list(_tokens(_read_text(path))))
    problems: list[Problem] = []
    try:
        tokens.text(), tokens.text(), tokens.number(), tokens.number()
        has_tiers = tokens.text() == "\0<exists>"
        num_tiers = tokens.count() if has_tiers else 0
    except _UnexpectedEnd as error:
        raise UserError(f"{path.name} ends within its head: it holds no tiers. Save it again in Praat.") from error
    tiers = _read_tiers(path, tokens, num_tiers=num_tiers, problems=problems)
    tables = read_tiers(path, tiers, text=text)
    return Export(
        path=path,
        format="Praat TextGrid",
        intervals=interval_table(tables.intervals),
        segments=segment_table(tables.segments),
        labels=tuple(tables.labels),
        problems=(*problems, *tables.problems),
    )


def _read_text(path: Path) -> str:
    text = "\n".join(read_lines(path))
    first = text.lstrip()[:200]
    if first.startswith("ooBinaryFile"):
        raise UserError(f"{path.name} is a binary TextGrid. Save it in Praat as text (Save > Save as text file).")
    if "chronological" in first.split("\n")[0]:
        raise UserError(f"{path.name} is a chronological TextGrid. Save it in Praat with Save > Save as text file.")
    if "ooTextFile" not in first or "TextGrid" not in first:
        raise UserError(f"{path.name} isn't a Praat TextGrid: it doesn't begin with 'ooTextFile' and 'TextGrid'.")
    return text


def _tokens(text: str) -> Iterator[Token]:
    for match in TOKEN.finditer(text):
        if match["number"] is not None:
            number = float(match["number"])
            # "1e999" is no time. Praat writes "-0" for a start that was moved there.
            yield number + 0.0 if math.isfinite(number) else math.nan
        elif match["text"] is not None:
            if match["end"]:  # else the file ends within it
                yield match["text"].replace('""', '"')
        elif match["flag"] is not None:
            yield f"\0{match['flag']}"


def _read_tiers(path: Path, tokens: _Tokens, *, num_tiers: int, problems: list[Problem]) -> list[Tier]:
    tiers: list[Tier] = []
    counts: dict[str, int] = {}
    for number in range(1, num_tiers + 1):
        name, spans, whole = _read_tier(tokens)
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
            unique = name or f"tier {number}"
            tiers.append(Tier(unique if counts[name] == 1 else f"{unique} ({counts[name]})", tuple(spans)))
        if not whole:
            reason = f"it ends, or is damaged, in tier {number} of {num_tiers}; what comes after is lost"
            problems.append(Problem(path.name, "annotations", reason, "Save it again in Praat."))
            break
    doubled = sorted(name for name, count in counts.items() if count > 1)
    if doubled:
        reason = f"several tiers are called {', '.join(map(repr, doubled))}; they got a number: (2), (3), ..."
        problems.append(
            Problem(path.name, "annotations", reason, "Name tiers by what they code, or Scheme@Participant.")
        )
    return tiers


def _read_tier(tokens: _Tokens) -> tuple[str | None, list[Span], bool]:
    """Return a tier's name (None where it isn't one), its annotations with text, and whether it was whole."""
    name: str | None = None
    spans: list[Span] = []
    try:
        kind, title = tokens.text(), tokens.text()
        if kind not in (INTERVAL_TIER, POINT_TIER):
            return None, [], False
        tokens.number(), tokens.number()
        name = " ".join(title.split())
        for _ in range(tokens.count()):
            onset_s = tokens.number()
            offset_s = tokens.number() if kind == INTERVAL_TIER else onset_s
            text = tokens.text().strip()
            if text:
                spans.append(Span(onset_s, offset_s, text))
    except _UnexpectedEnd:
        return name, spans, False
    return name, spans, True
