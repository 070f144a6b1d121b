"""Who leaves, and where texts and file names speak of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from mien.core.storage import digest_of
from mien.data.layouts import file_safe

REMOVED = "(removed)"
"""What stands in texts where the person was named."""

_WHO = r"participants?|recordings?|persons?|people|respondents?|subjects?|actors?|ids?"
_TOKEN = r"['\"]?\w(?:[\w.-]*\w)?['\"]?"
_NEXT = r"(?:\s*[,;=&]\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+)"
_ENUMERATION = re.compile(rf"(?i)\b(?:{_WHO}):?\s+({_TOKEN}(?:{_NEXT}{_TOKEN})*)")
"""People by number, such as "participants 3, 12 and 14"; the whole list is the group."""

_COUNTED = re.compile(r"\s*%|\s+(?:of|s|ms|Hz|px|seconds?|clips?|frames?|files?|recordings?|people|participants?)\b")
"""After a number of a list that counts something, such as "recording 7 and 12 clips"."""


@dataclass(frozen=True)
class Person:
    """Who leaves.

    Attributes:
        participant_id: The person.
        recording_ids: Their recordings, also those that couldn't be prepared.
        media: Paths of their files, as the study has them.
        files: Names of files that are nobody else's.
        others: Ids of everyone else and of their recordings: they stay, also where they contain an id of the person.
    """

    participant_id: str
    recording_ids: tuple[str, ...]
    media: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All ids that stand for the person."""
        return (self.participant_id, *self.recording_ids)

    @property
    def digest(self) -> str:
        """What stands for the person where a second purge has to know that the first one counted them."""
        return digest_of(["removed", self.participant_id])

    @property
    def alias(self) -> str:
        """Name of a group that was called after the person."""
        return f"removed-{self.digest[:8]}"

    def is_plain_number(self, name: str) -> bool:
        """Return whether a name may stand for anything: "3 of 12 people" speaks of nobody, "a" is a word."""
        return len(name) == 1 or name.replace(".", "").isdigit()

    def scrub_text(self, text: str) -> str:
        """Replace the person's ids and file names in a sentence.

        An id that is a number is replaced only where the text calls it a participant or a recording, also in a list:
        "participants 3, 12 and 14".
        """
        text = self._literal.sub(lambda found: REMOVED if self._is_own(found) else found[0], text)
        return _ENUMERATION.sub(self._without_numbers, text) if self._numbers else text

    def is_named_in(self, text: str) -> bool:
        """Return whether a text or the name of a file names the person."""
        if self.scrub_text(text) != text:
            return True
        return any(re.search(form, text) for number in self._numbers for form in _file_names_of(number))

    def is_alone_in(self, text: str) -> bool:
        """Return whether a text names the person and nobody else."""
        known = [name for name in self.others if not self.is_plain_number(name)]
        return self.is_named_in(text) and not any(name in text for name in known if name not in self.participant_id)

    @cached_property
    def _numbers(self) -> frozenset[str]:
        return frozenset(name for name in self.names if self.is_plain_number(name))

    @cached_property
    def _literal(self) -> re.Pattern[str]:
        """The person's names that are no plain numbers, and those of others that contain one: the longest first."""
        own = [name for name in self.names if name not in self._numbers]
        files = [text for file in self.files for text in self._file_names(file)]
        forms = [(len(text), f"(?P<own{number}>{re.escape(text)})") for number, text in enumerate(files)]
        forms += [(len(name), _form_of(name, group=f"name{number}")) for number, name in enumerate(own)]
        known = {text.casefold() for text in [*own, *files]}
        near = [_plain(name) for name in own]
        forms += [
            (len(name), rf"(?<![^\W_]){re.escape(name)}(?![^\W_])")
            for name in set(self.others)
            if name.casefold() not in known and any(part in _plain(name) for part in near)
        ]
        # Of two names at one place the longer one is meant; a pattern of nothing would match everywhere.
        return re.compile("|".join(form for _, form in sorted(forms, reverse=True)) or r"(?!)")

    def _file_names(self, file: str) -> list[str]:
        stem = PurePath(file).stem
        # A stem such as "video" is a word; one with the person's id in it isn't, and may hold their age as well.
        own = [_plain(item) for item in self.names if item not in self._numbers]
        return [file, stem] if any(item in _plain(stem) for item in own) else [file]

    def _is_own(self, found: re.Match[str]) -> bool:
        return found.lastgroup is not None

    def _without_numbers(self, found: re.Match[str]) -> str:
        text, parts, end = found.string, [found[0][: found.start(1) - found.start()]], found.start(1)
        for token in re.finditer(_TOKEN, found[1]):
            start, stop = found.start(1) + token.start(), found.start(1) + token.end()
            is_own = token[0].strip("'\"") in self._numbers and not _COUNTED.match(text, stop)
            parts += [text[end:start], REMOVED if is_own else token[0]]
            end = stop
        return "".join([*parts, text[end : found.end()]])


def _plain(name: str) -> str:
    """Return a name as ids are compared: `ar_2298`, `AR-2298` and `AR 2298` are the same."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _form_of(name: str, *, group: str) -> str:
    """Return a pattern for a name; as a part of a file's name it stands between `_`.

    What begins with letters and holds a digit, such as `AR 2298`, is found however its parts are joined. A word is
    somebody's name only as it is spelled, and "Anna-Lena" is somebody else.
    """
    start, exact = r"(?<![^\W_])", f"{re.escape(name)}|{re.escape(file_safe(name))}"
    if not re.search(r"\d", name):
        return rf"{start}(?<!-)(?P<{group}>{exact})(?![^\W_])(?!-\w)"
    if re.match(r"[^\W\d_]", name):
        exact = r"[\s_-]+".join(re.escape(part) for part in re.split(r"[\s_-]+", name) if part)
    # "P1-2" may be somebody else; a six-digit number after a hyphen is a frame's.
    return rf"{start}(?P<{group}>(?i:{exact}))(?![^\W_])(?!-\d{{1,3}}(?!\d))"


def _file_names_of(number: str) -> tuple[str, ...]:
    """Return patterns of file names and recording ids that begin with a number, or hold it between `_`."""
    exact = re.escape(number)
    return (
        rf"(?:^|[\s/('\"]){exact}(?:_|\.[A-Za-z]\w{{1,3}}\b)",
        rf"\w_{exact}_",
        # Files of RAVDESS end with the actor's number.
        rf"(?<![\d-])\d\d(?:-\d\d){{5}}-{exact}(?![\d-])",
    )
