"""Takes a person out of JSON and tables, whatever their layout."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mien.core.storage import read_json, write_csv, write_json, write_parquet

REMOVED = "(removed)"
"""What stands in texts where the person was named."""

PERSON_COLUMNS = ("participant_id", "participant", "group")
RECORDING_COLUMNS = ("recording_id", "recording")


@dataclass(frozen=True)
class Person:
    """Who leaves.

    Attributes:
        participant_id: The person.
        recording_ids: Their recordings.
    """

    participant_id: str
    recording_ids: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All ids that stand for the person."""
        return (self.participant_id, *self.recording_ids)

    def scrub_text(self, text: str) -> str:
        """Replace the person's ids in a sentence.

        An id that is a number is replaced only where the text calls it a participant or a recording: "3 of 12 people"
        speaks of nobody.
        """
        for name in sorted(self.names, key=len, reverse=True):
            word = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
            if name.replace(".", "").isdigit():
                text = re.sub(rf"((?:participants?|recordings?|person|people) )(['\"]?){word}\2", rf"\1{REMOVED}", text)
            else:
                text = re.sub(word, REMOVED, text)
        return text


def scrub(value: Any, *, person: Person) -> Any:
    """Return a JSON value without the person: list items and mappings that stand for them go, texts lose their ids."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in person.names}
        return {key: scrub(item, person=person) for key, item in kept.items()}
    if isinstance(value, list):
        return [scrub(item, person=person) for item in value if not _is_of(item, names=person.names)]
    return person.scrub_text(value) if isinstance(value, str) else value


def _is_of(item: Any, *, names: Collection[str]) -> bool:
    if isinstance(item, str):
        return item in names
    if not isinstance(item, dict):
        return False
    return any(item.get(key) in names for key in (*PERSON_COLUMNS[:2], *RECORDING_COLUMNS))


def scrub_json(path: Path, *, person: Person) -> bool:
    """Take the person out of a JSON file; return whether it named them."""
    before = read_json(path)
    after = scrub(before, person=person)
    if after != before:
        write_json(path, after)
    return bool(after != before)


def scrub_table(path: Path, *, person: Person) -> int:
    """Take the person's rows out of a `.parquet` or `.csv`; return how many there were."""
    is_csv = path.suffix == ".csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if is_csv else pd.read_parquet(path)
    mine = pd.Series(False, index=table.index)
    for columns, names in ((PERSON_COLUMNS[:2], [person.participant_id]), (RECORDING_COLUMNS, person.recording_ids)):
        for column in columns:
            if column in table:
                mine |= table[column].astype(str).isin(names)
    if mine.any():
        kept = table[~mine].reset_index(drop=True)
        write_csv(path, kept) if is_csv else write_parquet(path, kept)
    return int(mine.sum())
