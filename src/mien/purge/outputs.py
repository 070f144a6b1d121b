"""What `mien explain`, `mien predict` and `mien export` wrote of a person, or of a bundle that was fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mien.core.storage import read_json, sha256_file, write_json
from mien.predict.outputs import STAMP, SUFFIXES, USERS_OWN
from mien.purge.dataset import leftovers, remove
from mien.purge.person import Person
from mien.purge.scrub import scrub, scrub_table

EXPLANATIONS, PARITY, FAILURES_FILE = "explanations.json", ".parity.json", "failures.csv"
EXPLAINED_DATASET = "dataset"
"""The `input_kind` of an `explanations.json` whose pictures are of several people."""


@dataclass(frozen=True)
class Output:
    """What a command wrote of the person.

    Attributes:
        record: The JSON file that says what was written.
        files: What is of the person alone, and goes.
        kept: What lies where the command wrote, but was changed since or was never its own: nobody can say for whom.
    """

    record: Path
    files: tuple[Path, ...]
    kept: tuple[Path, ...] = ()


def explained(record: Path, values: dict[str, Any], *, person: Person, is_of_dataset: bool) -> Output | None:
    """Return the pictures of the person that `mien explain` drew; None where it drew none.

    Args:
        record: The `explanations.json`.
        values: What it holds.
        person: Who leaves.
        is_of_dataset: Whether its input was the dataset that they leave, where it was a dataset.
    """
    rows = [row for row in _rows(values) if "png" in row]
    if values.get("input_kind") == EXPLAINED_DATASET:
        own = [row for row in rows if is_of_dataset and str(row.get("recording")) in person.recording_ids]
        names = [str(row["png"]) for row in own]
        files = [record.parent / PurePath(name).name for name in names]
        return Output(record, tuple(files)) if own else None
    if not _is_file_of(str(values.get("input") or ""), person=person):
        return None
    names = [*(str(row["png"]) for row in rows), *filter(None, [values.get("video")])]
    files = [path for path in (record.parent / PurePath(str(name)).name for name in names) if path.is_file()]
    return Output(record, (*files, record))


def predicted(record: Path, values: dict[str, Any], *, person: Person) -> Output | None:
    """Return the results of `mien predict` for a recording of the person; None where they are of another.

    An ELAN file or an annotated copy that isn't byte for byte what was written may be the user's own, such as the
    recording itself; it stays.
    """
    video = values.get("video")
    named = str(values.get("path") or (video[0] if isinstance(video, list) and video else ""))
    if not _is_file_of(named, person=person):
        return None
    stem, digests = record.name.removesuffix(STAMP), values.get("files")
    digests = digests if isinstance(digests, dict) else {}
    there = {key: path for key, ending in SUFFIXES.items() if (path := record.with_name(stem + ending)).is_file()}
    kept = {key for key, path in there.items() if key in USERS_OWN and sha256_file(path) != digests.get(key)}
    files = [path for key, path in there.items() if key not in kept]
    hidden = [path for key in SUFFIXES for path in leftovers(record.parent, of=stem + SUFFIXES[key])]
    return Output(record, (*files, *hidden, record), tuple(there[key] for key in sorted(kept)))


def purge_output(output: Output, person: Person) -> None:
    """Delete what a command wrote of the person; its record goes last, so that the next call finds what a kill left."""
    for path in output.files:
        remove(path)
    if output.record.name == EXPLANATIONS and output.record.is_file():
        write_json(output.record, scrub(read_json(output.record), person=person))
    table = output.record.with_name(FAILURES_FILE)
    if output.record.name.endswith(STAMP) and table.is_file():
        scrub_table(table, person=person)


def exported(records: Sequence[tuple[Path, dict[str, Any]]], *, bundles: Sequence[Path]) -> tuple[Path, ...]:
    """Return the ONNX files of `mien export` that were made of some bundles; they hold what these learnt."""
    found = []
    for record, values in records:
        bundle = place_of(str(values.get("bundle") or ""), beside=record.parent, holding="bundle.json")
        if bundle is not None and bundle in bundles:
            found.append(record.with_name(record.name.removesuffix(PARITY) + ".onnx"))
    return tuple(found)


def place_of(named: str, *, beside: Path, holding: str) -> Path | None:
    """Return where a folder lies that a file names by an absolute path, or by one relative to where a command ran.

    Args:
        named: The path.
        beside: Folder of the file that names it. Where the command ran isn't known: the folders above are tried, the
            nearest first, then the present one.
        holding: A file that tells the folder from others.
    """
    if not named:
        return None
    # An absolute path takes the place of what it is joined to.
    for base in (beside, *beside.parents, Path.cwd()):
        if (base / named / holding).is_file():
            return (base / named).resolve()
    return None


def _rows(values: Any) -> list[dict[str, Any]]:
    lists = [item for item in values.values() if isinstance(item, list)]
    return [row for rows in lists for row in rows if isinstance(row, dict)]


def _is_file_of(named: str, *, person: Person) -> bool:
    """Return whether a path is that of one of the person's recordings: by the study's own path, or by its name."""
    path = PurePath(named)
    if not path.name:
        return False
    whole = f"/{path.as_posix()}"
    is_own = path.name in person.files or any(whole.endswith(f"/{media}") for media in person.media)
    return is_own or person.is_named_in(path.name)
