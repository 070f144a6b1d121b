"""A person's recordings, and what was computed from them, out of a dataset."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mien.core.errors import UserError, unknown_name
from mien.core.storage import digest_of, read_json, write_json
from mien.data.dataset import INFO_FILE
from mien.purge.scrub import Person, scrub_table

TABLES = ("annotations.parquet", "coded.parquet", "segments.parquet", "failures.csv")
MADE_AGAIN = ("audit.json", "audit.html")
"""What names people in its sentences and is made again by `mien audit`."""


def find_person(dataset: Path, participant: str) -> Person:
    """Return the person with their recordings.

    Raises:
        UserError: Not a dataset, or nobody of this name in it.
    """
    if not (dataset / INFO_FILE).is_file():
        raise UserError(f"{dataset} isn't a dataset (it has no {INFO_FILE}). Name what `mien prepare` wrote.")
    recordings = pd.read_parquet(dataset / "recordings.parquet")
    own = recordings[recordings["participant_id"].astype(str) == participant]
    if own.empty:
        raise unknown_name(
            "participant",
            got=participant,
            allowed=sorted(recordings["participant_id"].astype(str).unique()),
            hint="Ids are case-sensitive; `mien inspect DATASET` lists them.",
        )
    return Person(participant, tuple(own["recording_id"].astype(str)))


def files_of(dataset: Path, person: Person) -> Iterator[Path]:
    """Yield the folders and files of a dataset that hold nothing but the person."""
    for recording_id in person.recording_ids:
        folder = dataset / "recordings" / recording_id
        if folder.is_dir():
            yield folder
        yield from sorted((dataset / "cache").glob(f"**/{glob.escape(recording_id)}@*"))
        yield from sorted((dataset / "cache").glob(f"**/.{glob.escape(recording_id)}@*"))
    yield from (dataset / name for name in MADE_AGAIN if (dataset / name).is_file())


def purge_dataset(dataset: Path, person: Person) -> None:
    """Delete a person from a dataset; killed in between, the same call goes on.

    Whose recordings they are stands in `recordings.parquet`, so that is what loses them last.
    """
    for path in files_of(dataset, person):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in TABLES:
        if (dataset / name).is_file():
            scrub_table(dataset / name, person=person)
    info = read_json(dataset / INFO_FILE)
    left = pd.read_parquet(dataset / "recordings.parquet")
    left = left[~left["recording_id"].astype(str).isin(person.recording_ids)]
    info |= {
        "num_recordings": len(left),
        "num_participants": int(left["participant_id"].nunique()),
        # Runs and bundles of before are of another dataset than what is left.
        "content_hash": digest_of([info["content_hash"], "without", digest_of(list(person.names))], length=64),
        "removed_participants": int(info.get("removed_participants", 0)) + 1,
    }
    write_json(dataset / INFO_FILE, info)
    scrub_table(dataset / "recordings.parquet", person=person)
