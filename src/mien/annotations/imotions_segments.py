"""Stimuli and people's marks of an iMotions sensor export: what each of its rows belongs to, and segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHOWN_AFTER = {"StartSlide", "StartMedia"}
"""A stimulus is shown from one of these events of `SlideEvent` up to another event (`EndMedia`, `EndSlide`)."""

TextColumn = tuple[NDArray[np.int64], Sequence[str]]
"""Codes of the rows, and the texts that they stand for."""


class _Change(NamedTuple):
    time_s: float
    respondent: int
    stimulus: int
    text: int


class RowStates:
    """Follows through a file's rows, block by block, whose they are and what was shown.

    Rows between stimuli (before `StartSlide`, after `EndMedia`; slides of a type with `Interslide` in its name) belong
    to no stimulus.

    Attributes:
        keys: Respondent and stimulus, by the number that `add` gives to rows.
    """

    def __init__(self, *, roles: Mapping[str, int], marks: Sequence[int], respondent: str) -> None:
        """Start before the first row.

        Args:
            roles: Positions of the columns, see `imotions_columns.ROLES`.
            marks: Positions of columns in which people's marks are active.
            respondent: Whom the preamble names, for rows that name nobody.
        """
        self.keys: list[tuple[str, str]] = []
        self._roles, self._marks, self._respondent = roles, marks, respondent
        self._texts: dict[str, int] = {"": 0}
        self._pairs: dict[tuple[int, int], int] = {}
        self._carried: dict[str, int] = {}
        self._changes: list[_Change] = []
        self._marked: dict[int, list[_Change]] = {position: [] for position in marks}
        self._first_s, self._last_s, self._num_rows = np.nan, np.nan, 0

    def columns(self) -> list[int]:
        """Return positions of the columns that `add` needs."""
        names = ("respondent", "stimulus", "slide_type", "slide_event")
        return [*(self._roles[name] for name in names if name in self._roles), *self._marks]

    def add(self, texts: Mapping[int, TextColumn], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Take the next rows, all of which have a time, and return the number of each row's key."""
        if not times_s.size:
            return np.zeros(0, dtype=np.int64)
        respondents = self._ids(texts, "respondent", size=times_s.size)
        respondents[respondents == 0] = self._intern(self._respondent)
        events = self._ids(texts, "slide_event", size=times_s.size)
        stimuli = self._ids(texts, "stimulus", size=times_s.size)
        if "slide_event" in self._roles:
            events, stimuli = self._forward("event", events), self._forward("stimulus", stimuli)
            shown = np.isin(events, [self._intern(name) for name in sorted(SHOWN_AFTER)])
        else:
            types = self._ids(texts, "slide_type", size=times_s.size)
            between = [number for text, number in self._texts.items() if "interslide" in text.lower()]
            shown = ~np.isin(types, between)
        stimuli = np.where(shown, stimuli, 0)
        self._record("rows", self._changes, (respondents, stimuli, events), times_s=times_s)
        for position, changes in self._marked.items():
            marks = self._intern_all(texts[position])
            self._record(f"mark {position}", changes, (respondents, stimuli, marks), times_s=times_s)
        self._first_s = times_s[0] if np.isnan(self._first_s) else self._first_s
        self._last_s, self._num_rows = times_s[-1], self._num_rows + times_s.size
        return self._numbers(respondents, stimuli)

    def segments(self) -> list[dict[str, object]]:
        """Return stimuli (the segment's name is the stimulus'), then marks, as rows of `exports.SEGMENT_COLUMNS`.

        The last of them ends one mean row interval after the last row.
        """
        step_s = (self._last_s - self._first_s) / (self._num_rows - 1) if self._num_rows > 1 else 0.0
        end_s = self._last_s + max(step_s, 0.0)
        names = {number: text for text, number in self._texts.items()}
        rows = [
            self._segment(names, change, end, name)
            for change, end in _spans(self._without_media_delay(names), end_s=end_s)
            if (name := names[change.stimulus])
        ]
        for changes in self._marked.values():
            for change, end in _spans(changes, end_s=end_s):
                # Marks that overlap are joined by a bar.
                parts = [part.strip() for part in names[change.text].split("|")]
                rows += [self._segment(names, change, end, part) for part in parts if part]
        return rows

    def _segment(self, names: Mapping[int, str], change: _Change, end_s: float, name: str) -> dict[str, object]:
        return {
            "respondent": names[change.respondent],
            "stimulus": names[change.stimulus],
            "onset_s": change.time_s,
            "offset_s": end_s,
            "segment": name,
        }

    def _without_media_delay(self, names: Mapping[int, str]) -> list[_Change]:
        """Drop the start of a slide where its media start after it: the picture or video is what was shown."""
        kept: list[_Change] = []
        for change in self._changes:
            same = bool(kept) and kept[-1][1:3] == change[1:3]
            if same and names[kept[-1].text] == "StartSlide" and names[change.text] == "StartMedia":
                kept.pop()
            kept.append(change)
        return kept

    def _numbers(self, respondents: NDArray[np.int64], stimuli: NDArray[np.int64]) -> NDArray[np.int64]:
        pairs, first, inverse = np.unique(
            np.stack([respondents, stimuli]), axis=1, return_index=True, return_inverse=True
        )
        names = {number: text for text, number in self._texts.items()}
        numbers = np.zeros(first.size, dtype=np.int64)
        for place in np.argsort(first):
            pair = (int(pairs[0, place]), int(pairs[1, place]))
            if pair not in self._pairs:
                self._pairs[pair] = len(self.keys)
                self.keys.append((names[pair[0]], names[pair[1]]))
            numbers[place] = self._pairs[pair]
        return numbers[inverse.ravel()]

    def _ids(self, texts: Mapping[int, TextColumn], role: str, *, size: int) -> NDArray[np.int64]:
        if role not in self._roles:
            return np.zeros(size, dtype=np.int64)
        return self._intern_all(texts[self._roles[role]])

    def _intern(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _intern_all(self, column: TextColumn) -> NDArray[np.int64]:
        codes, values = column
        return np.array([self._intern(value) for value in values], dtype=np.int64)[codes]

    def _forward(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fill empty rows (0) with the text before them; some versions write it in the row of the event alone."""
        last = np.maximum.accumulate(np.where(ids != 0, np.arange(ids.size), -1))
        filled = np.where(last >= 0, ids[last], self._carried.get(name, 0))
        self._carried[name] = int(filled[-1])
        return filled

    def _record(
        self,
        name: str,
        changes: list[_Change],
        states: Sequence[NDArray[np.int64]],
        *,
        times_s: NDArray[np.float64],
    ) -> None:
        state = np.stack(states)
        before = np.array([[self._carried.get(f"{name} {number}", -1)] for number in range(len(states))])
        changed = np.flatnonzero((state != np.concatenate([before, state[:, :-1]], axis=1)).any(axis=0))
        changes += [_Change(float(times_s[row]), *map(int, state[:, row])) for row in changed]
        self._carried.update({f"{name} {number}": int(value) for number, value in enumerate(state[:, -1])})


def _spans(changes: Sequence[_Change], *, end_s: float) -> Iterable[tuple[_Change, float]]:
    """Pair each state with its end; one of another respondent ends where the next begins, even if clocks restart."""
    ends = [*(change.time_s for change in changes[1:]), end_s][: len(changes)]
    return [(change, end) for change, end in zip(changes, ends, strict=True) if end > change.time_s]
