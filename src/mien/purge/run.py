"""`mien purge`: what would go, and letting it go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.core.progress import progress
from mien.core.storage import read_json
from mien.data.dataset import INFO_FILE
from mien.purge.dataset import files_of, find_person, purge_dataset
from mien.purge.results import find_results, mark_bundle, purge_run
from mien.purge.scrub import Person


@dataclass(frozen=True)
class Purge:
    """What holds a person.

    Attributes:
        dataset: The dataset.
        person: Who leaves.
        files: Folders and files of the dataset that hold nothing but the person.
        runs: Runs of the dataset.
        bundles: Bundles that were trained on the person.
    """

    dataset: Path
    person: Person
    files: tuple[Path, ...]
    runs: tuple[Path, ...]
    bundles: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON-able mapping."""
        return {
            "participant": self.person.participant_id,
            "recordings": list(self.person.recording_ids),
            "dataset": str(self.dataset),
            "files": [str(path) for path in self.files],
            "runs": [str(path) for path in self.runs],
            "bundles": [str(path) for path in self.bundles],
        }


def find_purge(dataset: Path, participant: str, *, search: Sequence[Path] = ()) -> Purge:
    """Find what holds a person; nothing is changed.

    Args:
        dataset: What `mien prepare` wrote.
        participant: Their id.
        search: Folders below which runs and bundles are looked for; none: the one that holds the dataset.

    Raises:
        UserError: Not a dataset, or nobody of this name in it.
    """
    person = find_person(dataset, participant)
    content_hash = str(read_json(dataset / INFO_FILE)["content_hash"])
    found = list(
        find_results(search or [dataset.resolve().parent], person=person, dataset=dataset, content_hash=content_hash)
    )
    runs = tuple(path for kind, path in found if kind == "run")
    bundles = tuple(path for kind, path in found if kind == "bundle")
    return Purge(dataset, person, tuple(files_of(dataset, person)), runs, bundles)


def run_purge(purge: Purge) -> None:
    """Let a person go from all that was found; killed in between, finding and running it again goes on."""
    with progress("Removing", total=len(purge.runs) + len(purge.bundles) + 1) as advance:
        for run in purge.runs:
            purge_run(run, purge.person)
            advance(str(run))
        for bundle in purge.bundles:
            mark_bundle(bundle, purge.person)
            advance(str(bundle))
        purge_dataset(purge.dataset, purge.person)
        advance(str(purge.dataset))
