"""Takes a person out of JSON and tables, whatever their layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mien.core.storage import read_json, write_csv, write_json, write_parquet
from mien.purge.person import REMOVED, Person

__all__ = ["REMOVED", "Person", "count_removed", "is_failure_of", "scrub", "scrub_json", "scrub_table"]

FAILURES = ("failures", "exclusions")
"""Lists in JSON, and the file, that say of which recordings something was left out."""

GROUP = "group"

_SIDE = r"(?:_id)?(?:_[ab])?"
_ONE = re.compile(rf"(?!(?:\w+_)?per_)(?:\w+_)?(?:participant|person|respondent|subject){_SIDE}")
_ONE_RECORDING = re.compile(rf"(?!(?:\w+_)?per_)(?:\w+_)?recording{_SIDE}")
_PLACED = re.compile(r"(?:worst|best|who)(?:_\w+)?")
_PEOPLE = r"(?:participants?|persons?|people|respondents?|subjects?|recordings?|merged|ids?)(?:_ids?)?(?:_[ab])?"
_MANY = re.compile(rf"(?:\w+_)?{_PEOPLE}|train|validation|test|held_out")
"""Keys under which one person is named, one recording, the one at an end, and lists of them. What is told per
participant is no id."""

_BARE = re.compile(rf"{_PEOPLE}|merged_participants|train|validation|test|held_out")
"""Keys under which a JSON number may be an id: `num_participants` and their like count."""

_CLASSES = re.compile(r"classes|labels|confusion|per_class|counts|prevalence|values|outputs|sources|channels|folds")
"""Keys under which a number is a class or a fold, not a person."""


def count_removed(values: Mapping[str, Any], person: Person) -> dict[str, Any]:
    """Return what a file that says how many people left it has to say now; who was counted before isn't again."""
    counted = list(values.get("removed_digests", ()))
    if person.digest in counted:
        return {}
    return {
        "removed_participants": int(values.get("removed_participants") or 0) + 1,
        "removed_digests": [*counted, person.digest],
    }


def scrub(value: Any, *, person: Person) -> Any:
    """Return a JSON value without the person: list items and mappings that stand for them go, texts lose their ids.

    A number is taken for the id "12" where a key says that people are meant, and for nothing else.
    """
    return _scrubbed(value, person=person, key="")


def _scrubbed(value: Any, *, person: Person, key: str) -> Any:
    if isinstance(value, dict):
        if _stands_for(value, person=person):
            return REMOVED
        return {
            name: _scrubbed_value(item, person=person, key=name, within=value)
            for name, item in value.items()
            if not _is_of_key(name, within=value, key=key, person=person)
            and not (isinstance(item, dict) and _stands_for(item, person=person))
        }
    if isinstance(value, list):
        kept_items = [item for item in value if not _is_item_of(item, within=value, key=key, person=person)]
        return [_scrubbed(item, person=person, key=key) for item in kept_items]
    return person.scrub_text(value) if isinstance(value, str) else value


def _scrubbed_value(item: Any, *, person: Person, key: str, within: Mapping[str, Any]) -> Any:
    if isinstance(item, dict | list):
        return _scrubbed(item, person=person, key=key)
    if key == GROUP and item == person.participant_id and "attribute" not in within:
        return person.alias
    named = _PLACED.fullmatch(key) and isinstance(item, str) and item in person.names
    if named or _names_one(key, item, person=person):
        return REMOVED
    return person.scrub_text(item) if isinstance(item, str) else item


def _names_one(key: str, item: Any, *, person: Person) -> bool:
    """Return whether a key with its value names the person, or a recording of theirs."""
    if isinstance(item, bool) or not (isinstance(item, str) or (isinstance(item, int) and _BARE.fullmatch(key))):
        return False
    if _ONE.fullmatch(key):
        return str(item) == person.participant_id
    return bool(_ONE_RECORDING.fullmatch(key)) and str(item) in person.recording_ids


def _stands_for(values: Mapping[str, Any], *, person: Person) -> bool:
    return any(_names_one(key, item, person=person) for key, item in values.items())


def _is_of_key(name: str, *, within: Mapping[str, Any], key: str, person: Person) -> bool:
    if name not in person.names:
        return False
    if not person.is_plain_number(name):
        return True
    if _MANY.fullmatch(key):
        # How many participants each class has.
        return not all(isinstance(item, int) for item in within.values())
    # {"1": .3, "2": .7} may be classes, or a mapping of people.
    is_numbered = all(person.is_plain_number(other) for other in within)
    return not _CLASSES.fullmatch(key) and (not is_numbered or _are_people(within, person=person))


def _is_item_of(item: Any, *, within: list[Any], key: str, person: Person) -> bool:
    if isinstance(item, dict):
        return _stands_for(item, person=person) or (key in FAILURES and is_failure_of(item, person=person))
    if isinstance(item, bool) or not isinstance(item, str | int) or str(item) not in person.names:
        return False
    if not isinstance(item, str):
        return bool(_BARE.fullmatch(key))
    if _MANY.fullmatch(key):
        return True
    return not person.is_plain_number(item) or (
        not _CLASSES.fullmatch(key) and _are_people([str(other) for other in within], person=person)
    )


def _are_people(names: Iterable[str], *, person: Person) -> bool:
    return {*names} <= {*person.names, *person.others}


def is_failure_of(row: Mapping[Any, Any], *, person: Person) -> bool:
    """Return whether a row that says what was left out speaks of the person's files alone."""
    count = row.get("count")
    if str(row.get("recording", "")) in person.others or (isinstance(count, int) and count > 1):
        return False
    return person.is_alone_in("\n".join(item for item in row.values() if isinstance(item, str)))


def scrub_json(path: Path, *, person: Person) -> bool:
    """Take the person out of a JSON file; return whether it named them."""
    before = read_json(path)
    after = scrub(before, person=person)
    if after != before:
        write_json(path, after)
    return bool(after != before)


def scrub_table(path: Path, *, person: Person) -> int:
    """Take the person out of a `.parquet` or `.csv`: their rows, and their ids in the texts of others'.

    Returns:
        How many rows there were.
    """
    is_csv = path.suffix == ".csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if is_csv else pd.read_parquet(path)
    mine = _rows_of(table, person=person)
    if path.stem in FAILURES:
        mine |= pd.Series(
            [is_failure_of(row, person=person) for row in table.to_dict("records")], index=table.index, dtype="bool"
        )
    kept, is_changed = table[~mine].reset_index(drop=True), bool(mine.any())
    for column in kept.columns[[str(kind) in ("object", "str", "string") for kind in kept.dtypes]]:
        texts = {text: text for text in kept[column].unique() if isinstance(text, str)}
        new = {text: _cell(str(column), text, person=person) for text in texts}
        changed = {text: other for text, other in new.items() if text != other}
        if changed:
            is_changed = True
            cells = [changed.get(cell, cell) if isinstance(cell, str) else cell for cell in kept[column]]
            kept[column] = pd.Series(cells, index=kept.index, dtype=kept[column].dtype)
    if is_changed:
        write_csv(path, kept) if is_csv else write_parquet(path, kept)
    return int(mine.sum())


def _rows_of(table: pd.DataFrame, *, person: Person) -> pd.Series:
    mine = pd.Series(False, index=table.index)
    for column in table.columns:
        if _ONE.fullmatch(str(column)):
            mine |= table[column].astype(str) == person.participant_id
        elif _ONE_RECORDING.fullmatch(str(column)):
            mine |= table[column].astype(str).isin(person.recording_ids)
    return mine


def _cell(column: str, text: str, *, person: Person) -> str:
    # A group that was called after the person is somebody else's as well: it keeps together under another name.
    if column == GROUP and text == person.participant_id:
        return person.alias
    return person.scrub_text(text)
