"""A person out of what was made from a dataset: runs with their reports, and bundles."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from mien.core.storage import read_json, sha256_file, write_json, write_text
from mien.purge.scrub import Person, scrub, scrub_json, scrub_table
from mien.report.audit_report import write_audit_report
from mien.report.comparison_report import write_comparison_report

RUN_FILE, BUNDLE_FILE, CARD_FILE = "run.json", "bundle.json", "MODEL_CARD.md"
SKIPPED = frozenset({".git", ".venv", "node_modules", "__pycache__", "recordings", "cache"})
DEPTH = 4
"""How deep runs and bundles are looked for below the folders that are searched."""

Kind = Literal["run", "bundle"]
Found = tuple[Kind, Path]

CARD_NOTE = """
## A participant withdrew

{count} of the participants whom this model was trained on withdrew since. The weights still hold what was learnt from
them: train the bundle again on what is left of the dataset, and delete this one.
"""


def find_results(folders: Iterable[Path], *, person: Person, dataset: Path, content_hash: str) -> Iterator[Found]:
    """Yield the runs and bundles below some folders that were made from a dataset with the person in it.

    Args:
        folders: Where to look, `DEPTH` levels deep.
        person: Who leaves.
        dataset: The dataset; a run of an earlier content of it counts as well.
        content_hash: Of the dataset as it is.
    """
    seen: set[Path] = set()
    for folder in folders:
        for path in _below(folder.resolve(), depth=DEPTH):
            if path.parent in seen:
                continue
            seen.add(path.parent)
            values = read_json(path)
            if path.name == RUN_FILE and _is_run_of(values, dataset=dataset, content_hash=content_hash):
                yield "run", path.parent
            elif path.name == BUNDLE_FILE and _is_bundle_of(values, person=person, content_hash=content_hash):
                yield "bundle", path.parent


def _below(folder: Path, *, depth: int) -> Iterator[Path]:
    for name in (RUN_FILE, BUNDLE_FILE):
        if (folder / name).is_file():
            yield folder / name
            return
    if depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink() and child.name not in SKIPPED:
                yield from _below(child, depth=depth - 1)


def _is_run_of(values: dict[str, Any], *, dataset: Path, content_hash: str) -> bool:
    named = str(values.get("dataset") or "")
    return values.get("dataset_hash") == content_hash or bool(named and Path(named).resolve() == dataset.resolve())


def _is_bundle_of(values: dict[str, Any], *, person: Person, content_hash: str) -> bool:
    made_of = values.get("spec", {}).get("provenance", {})
    return made_of.get("dataset_hash") == content_hash or person.participant_id in made_of.get("participants", ())


def purge_run(run: Path, person: Person) -> None:
    """Take a person out of a run: rows, names in texts, the weights that were fitted on them; write its report again.

    Scores that were averaged over everybody stay as they were measured, and the report says for how many people.
    """
    for folder in [*run.glob("folds/*/.checkpoint-*"), *run.glob("logs")]:
        shutil.rmtree(folder, ignore_errors=True)
    for weights in run.glob("folds/*/*/weights.safetensors"):
        weights.unlink()
    for path in [*run.glob("*.csv"), *run.glob("*.parquet"), *run.glob("folds/*/*/*.parquet")]:
        scrub_table(path, person=person)
    for path in [*run.glob("*.json"), *run.glob("folds/*/*/*.json")]:
        scrub_json(path, person=person)
    if (run / "audit.json").is_file():
        write_audit_report(run / "audit.json")
    if (run / "comparison.json").is_file():
        result = read_json(run / "comparison.json")
        write_json(run / "comparison.json", result | {"removed_participants": _count(result)})
        write_comparison_report(run)


def mark_bundle(bundle: Path, person: Person) -> None:
    """Take a person's names out of a bundle, and say in it and on its card that it was trained on them."""
    manifest = read_json(bundle / BUNDLE_FILE)
    made_of = manifest["spec"]["provenance"]
    if person.participant_id in made_of.get("participants", ()):
        made_of["removed_participants"] = _count(made_of)
    count = made_of.get("removed_participants", 0)
    manifest["spec"]["provenance"] = scrub(made_of, person=person)
    card = bundle / CARD_FILE
    if card.is_file():
        text = card.read_text(encoding="utf-8").split(CARD_NOTE.split("\n\n")[0])[0].rstrip() + "\n"
        write_text(card, person.scrub_text(text) + (CARD_NOTE.format(count=count) if count else ""))
        manifest["files"][CARD_FILE] = sha256_file(card)
    write_json(bundle / BUNDLE_FILE, manifest)


def _count(values: dict[str, Any]) -> int:
    return int(values.get("removed_participants") or 0) + 1
