"""A person's recordings, and what was computed from them, out of a dataset."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Hashable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from mien.core.errors import UserError, unknown_name
from mien.core.storage import digest_of, read_json, write_json
from mien.data.dataset import INFO_FILE
from mien.data.layouts import AUDIO_SUFFIXES, VIDEO_SUFFIXES
from mien.data.process import FACTS_FILE
from mien.purge.person import Person
from mien.purge.scrub import count_removed, is_failure_of, scrub_json, scrub_table

RECORDINGS_FILE, FAILURES_FILE = "recordings.parquet", "failures.csv"
TABLES = ("annotations.parquet", "coded.parquet", "segments.parquet")
MADE_AGAIN = ("audit.json", "audit.html")
"""What names people in its sentences and is made again by `mien audit`."""

_MEDIA_FILE = re.compile(rf"(?i)^(.+?(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES | AUDIO_SUFFIXES)))}))\b")
"""The file that a sentence of `failures.csv` begins with."""


def find_person(dataset: Path, participant: str) -> Person:
    """Return the person with their recordings, also those that couldn't be prepared.

    Raises:
        UserError: Not a dataset, or nobody of this name in it.
    """
    if not (dataset / INFO_FILE).is_file():
        raise UserError(f"{dataset} isn't a dataset (it has no {INFO_FILE}). Name what `mien prepare` wrote.")
    recordings = pd.read_parquet(dataset / RECORDINGS_FILE)
    is_own = recordings["participant_id"].astype(str) == participant
    own, left = recordings[is_own], recordings[~is_own]
    shared = {*map(_name, _column(left, "media"))}
    person = Person(
        participant,
        recording_ids=tuple(_column(own, "recording_id")),
        media=tuple(_column(own, "media")),
        files=tuple(dict.fromkeys(name for name in map(_name, _column(own, "media")) if name not in shared)),
        others=tuple(dict.fromkeys([*_column(left, "participant_id"), *_column(left, "recording_id")])),
    )
    failed = _failures_of(dataset, person)
    if own.empty and not failed:
        raise unknown_name(
            "participant",
            got=participant,
            allowed=sorted(recordings["participant_id"].astype(str).unique()),
            hint=f"Ids are case-sensitive; `mien inspect DATASET` lists them. Nothing in {FAILURES_FILE} names them.",
        )
    return _with_failed(person, failed)


def _name(path: str) -> str:
    return PurePath(path).name


def _column(table: pd.DataFrame, name: str) -> list[str]:
    return [str(value) for value in table[name].dropna()] if name in table else []


def _failures_of(dataset: Path, person: Person) -> list[dict[Hashable, Any]]:
    """Return the rows of `failures.csv` that name the person alone: recordings that failed are in no other table."""
    path = dataset / FAILURES_FILE
    rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") if path.is_file() else []
    return [row for row in rows if is_failure_of(row, person=person) or row.get("recording") in person.recording_ids]


def _with_failed(person: Person, rows: list[dict[Hashable, Any]]) -> Person:
    """Return the person with the recordings and files of rows that say why they couldn't be prepared."""
    # The cell may hold a table of the whole study as well.
    names = [name for name in (str(row.get("recording", "")) for row in rows) if person.is_named_in(name)]
    files = [found[1] for row in rows if (found := _MEDIA_FILE.match(str(row.get("reason", ""))))]
    named = [file for file in files if person.is_named_in(file)]
    return replace(
        person,
        recording_ids=tuple(dict.fromkeys([*person.recording_ids, *names])),
        files=tuple(dict.fromkeys([*person.files, *named])),
    )


def files_of(dataset: Path, person: Person) -> Iterator[Path]:
    """Yield the folders and files of a dataset that hold nothing but the person, and what killed writers left.

    A kill between the two renames of `atomic_directory` leaves a recording hidden and whole.
    """
    for recording_id in person.recording_ids:
        folder = dataset / "recordings" / recording_id
        if folder.is_dir():
            yield folder
        yield from sorted((dataset / "cache").glob(f"**/{glob.escape(recording_id)}@*"))
        yield from sorted((dataset / "cache").glob(f"**/.{glob.escape(recording_id)}@*"))
    yield from leftovers(dataset)
    yield from leftovers(dataset / "recordings")
    of_person = tuple(f".{name}@" for name in person.recording_ids)
    for folder in sorted(path for path in (dataset / "cache").glob("**") if path.is_dir()):
        yield from (path for path in leftovers(folder) if not path.name.startswith(of_person))
    yield from (dataset / name for name in MADE_AGAIN if (dataset / name).is_file())


def leftovers(folder: Path, *, of: str = "") -> list[Path]:
    """Return what killed writers left in a folder, as `mien.core.storage.remove_leftovers` knows it."""
    return sorted(folder.glob(f".{glob.escape(of)}.*" if of else ".*.*"))


def hashes_of(dataset: Path) -> frozenset[str]:
    """Return the content hashes that a dataset has and had before others left it."""
    info = read_json(dataset / INFO_FILE)
    return frozenset([str(info["content_hash"]), *map(str, info.get("previous_hashes", ()))])


def remove(path: Path) -> None:
    """Delete a file or a folder; one that isn't there any more is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def purge_dataset(dataset: Path, person: Person) -> None:
    """Delete a person from a dataset; killed in between, the same call goes on and counts nobody twice.

    Whose recordings they are stands in `recordings.parquet`, and of those that failed in `failures.csv`, so these lose
    them last.
    """
    for path in list(files_of(dataset, person)):
        remove(path)
    for name in TABLES:
        if (dataset / name).is_file():
            scrub_table(dataset / name, person=person)
    for path in sorted((dataset / "recordings").glob(f"*/{FACTS_FILE}")):
        # Of somebody else, whose group may be called after the person.
        scrub_json(path, person=person)
    _note_in_info(dataset, person)
    # A person of whom nothing could be prepared is known by the failures alone.
    for name in (FAILURES_FILE, RECORDINGS_FILE):
        if (dataset / name).is_file():
            scrub_table(dataset / name, person=person)


def _note_in_info(dataset: Path, person: Person) -> None:
    info = read_json(dataset / INFO_FILE)
    counted = count_removed(info, person)
    if not counted:
        return
    left = pd.read_parquet(dataset / RECORDINGS_FILE)
    left = left[~left["recording_id"].astype(str).isin(person.recording_ids)]
    before = info["content_hash"]
    info |= {
        "num_recordings": len(left),
        "num_participants": int(left["participant_id"].nunique()),
        # Runs and bundles of before are of another dataset than what is left; the next purge has to find them.
        "content_hash": digest_of([before, "without", digest_of(list(person.names))], length=64),
        "previous_hashes": [*info.get("previous_hashes", ()), before],
        **counted,
    }
    if "num_failures" in info:
        info["num_failures"] = max(0, int(info["num_failures"]) - len(_failures_of(dataset, person)))
    write_json(dataset / INFO_FILE, info)
