"""`mien purge`: what would go, and letting it go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.core.progress import progress
from mien.core.storage import read_json
from mien.data.dataset import INFO_FILE
from mien.purge.dataset import files_of, find_person, hashes_of, purge_dataset, remove
from mien.purge.outputs import purge_output
from mien.purge.person import Person
from mien.purge.results import Results, Source, find_results, mark_bundle, purge_run


@dataclass(frozen=True)
class Purge:
    """What holds a person.

    Attributes:
        dataset: The dataset.
        person: Who leaves.
        files: Folders and files of the dataset that hold nothing but the person, and what killed writers left.
        results: What was made from the dataset.
    """

    dataset: Path
    person: Person
    files: tuple[Path, ...]
    results: Results

    @property
    def runs(self) -> tuple[Path, ...]:
        """Runs of the dataset."""
        return self.results.runs

    @property
    def bundles(self) -> tuple[Path, ...]:
        """Bundles that were trained on the person."""
        return self.results.bundles

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON-able mapping."""
        outputs = self.results.outputs
        return {
            "participant": self.person.participant_id,
            "recordings": list(self.person.recording_ids),
            "dataset": str(self.dataset),
            "files": [str(path) for path in (*self.files, *self.results.leftovers)],
            "runs": [str(path) for path in self.runs],
            "bundles": [str(path) for path in self.bundles],
            "outputs": [str(path) for output in outputs for path in output.files],
            "kept": [str(path) for output in outputs for path in output.kept],
            "exports": [str(path) for path in self.results.exports],
            "same_person": list(self.results.same),
        }


def find_purge(dataset: Path, participant: str, *, search: Sequence[Path] = ()) -> Purge:
    """Find what holds a person; nothing is changed.

    Args:
        dataset: What `mien prepare` wrote.
        participant: Their id.
        search: Folders below which results are looked for; none: the one that holds the dataset.

    Raises:
        UserError: Not a dataset, or nobody of this name in it.
    """
    person = find_person(dataset, participant)
    study = read_json(dataset / INFO_FILE).get("study", {})
    source = Source(dataset, person, hashes_of(dataset), str(study.get("name", "")))
    results = find_results(search or [dataset.resolve().parent], source=source)
    return Purge(dataset, person, tuple(files_of(dataset, person)), results)


def run_purge(purge: Purge) -> None:
    """Let a person go from all that was found; killed in between, finding and running it again goes on."""
    results, person = purge.results, purge.person
    total = len(results.outputs) + len(results.runs) + len(results.bundles) + 1
    with progress("Removing", total=total) as advance:
        for path in results.leftovers:
            remove(path)
        for output in results.outputs:
            purge_output(output, person)
            advance(str(output.record))
        for run in results.runs:
            purge_run(run, person)
            advance(str(run))
        for bundle in results.bundles:
            mark_bundle(bundle, person)
            advance(str(bundle))
        purge_dataset(purge.dataset, person)
        advance(str(purge.dataset))
