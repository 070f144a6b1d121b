"""A person out of what was made from a dataset: runs with their reports, and bundles."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.core.errors import UserError
from mien.core.progress import say
from mien.core.storage import read_json, sha256_file, write_json, write_text
from mien.data.dataset import INFO_FILE
from mien.predict.outputs import STAMP
from mien.purge.dataset import leftovers, remove
from mien.purge.outputs import EXPLANATIONS, PARITY, Output, explained, exported, place_of, predicted
from mien.purge.person import Person
from mien.purge.scrub import count_removed, scrub, scrub_json, scrub_table
from mien.report.audit_report import write_audit_report
from mien.report.comparison_report import write_comparison_report

RUN_FILE, BUNDLE_FILE, CARD_FILE = "run.json", "bundle.json", "MODEL_CARD.md"
RECORDS = (RUN_FILE, BUNDLE_FILE, EXPLANATIONS)
SKIPPED = frozenset({".git", ".venv", "node_modules", "__pycache__", "recordings", "cache", "folds", "logs"})
_LEFTOVER = re.compile(r"\..+\..+")
"""Names of folders that `atomic_directory` leaves where it is killed."""

DEPTH = 4
"""How deep results are looked for below the folders that are searched."""

CARD_NOTE = """
## A participant withdrew

{count} of the participants whom this model was trained on withdrew since. The weights still hold what was learnt from
them: train the bundle again on what is left of the dataset, and delete this one.
"""


@dataclass(frozen=True)
class Source:
    """What results are recognised by.

    Attributes:
        dataset: The dataset.
        person: Who leaves it.
        hashes: Its content hash, and those of before others left it.
        study: Name of its study.
    """

    dataset: Path
    person: Person
    hashes: Collection[str]
    study: str


@dataclass(frozen=True)
class Results:
    """What was made from a dataset with the person in it.

    Attributes:
        runs: Runs, a folder each.
        bundles: Bundles, a folder each.
        outputs: What `mien explain` and `mien predict` wrote of the person.
        exports: ONNX files of the bundles.
        leftovers: Runs, bundles and explanations that a killed writer left hidden.
        same: Ids in the dataset whom an audit took for the same person.
    """

    runs: tuple[Path, ...]
    bundles: tuple[Path, ...]
    outputs: tuple[Output, ...]
    exports: tuple[Path, ...]
    leftovers: tuple[Path, ...]
    same: tuple[str, ...]


def find_results(folders: Iterable[Path], *, source: Source) -> Results:
    """Find what was made from a dataset with the person in it.

    Args:
        folders: Where to look, `DEPTH` levels deep.
        source: What it is recognised by.
    """
    records = dict.fromkeys(path for folder in folders for path in _below(folder.resolve(), depth=DEPTH))
    runs, bundles, outputs, parities, hidden = [], [], list[Output](), list[tuple[Path, dict[str, Any]]](), []
    same = set[str]()
    for path in records:
        values = _read(path)
        if values is None:
            continue
        output = _output_of(path, values, source=source)
        is_run = path.name == RUN_FILE and _is_run_of(path, values, source=source)
        is_bundle = path.name == BUNDLE_FILE and _is_bundle_of(path, values, source=source)
        if path.name in RECORDS and _LEFTOVER.fullmatch(path.parent.name) and (output or is_run or is_bundle):
            hidden.append(path.parent)
        elif output:
            outputs.append(output)
        elif is_run:
            runs.append(path.parent)
        elif is_bundle:
            bundles.append(path.parent)
        elif path.name.endswith(PARITY):
            parities.append((path, values))
        if is_run or is_bundle:
            same |= {str(name) for ids in _merged(values) if source.person.participant_id in ids for name in ids}
    exports = exported(parities, bundles=bundles)
    return Results(
        tuple(runs),
        tuple(bundles),
        tuple(outputs),
        exports,
        leftovers=tuple(dict.fromkeys(hidden)),
        same=tuple(sorted(same & set(source.person.others))),
    )


def _below(folder: Path, *, depth: int) -> Iterator[Path]:
    """Yield the files that say what a folder, or what lies beside them, was made of."""
    if not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.name in RECORDS or child.name.endswith((STAMP, PARITY)):
            if child.is_file():
                yield child
        elif depth and child.name not in SKIPPED and child.is_dir() and not child.is_symlink():
            yield from _below(child, depth=depth - 1)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = read_json(path)
    except (UserError, UnicodeDecodeError) as error:
        say(f"{path} can't be read, so nobody knows whether it names the person: {error}")
        return None
    return values if isinstance(values, dict) else None


def _output_of(path: Path, values: dict[str, Any], *, source: Source) -> Output | None:
    if path.name == EXPLANATIONS:
        place = place_of(str(values.get("input") or ""), beside=path.parent, holding=INFO_FILE)
        # A dataset that is nowhere any more was moved; recording ids say enough then.
        is_of_dataset = place in (None, source.dataset.resolve())
        return explained(path, values, person=source.person, is_of_dataset=is_of_dataset)
    return predicted(path, values, person=source.person) if path.name.endswith(STAMP) else None


def _is_at(named: str, *, beside: Path, dataset: Path) -> bool:
    return place_of(named, beside=beside, holding=INFO_FILE) == dataset.resolve()


def _is_run_of(path: Path, values: dict[str, Any], *, source: Source) -> bool:
    # By its place as well: the dataset may have been prepared again since, and have another hash.
    named = str(values.get("dataset") or "")
    return values.get("dataset_hash") in source.hashes or _is_at(named, beside=path.parent, dataset=source.dataset)


def _is_bundle_of(path: Path, values: dict[str, Any], *, source: Source) -> bool:
    made_of = _provenance(values)
    if made_of.get("dataset_hash") in source.hashes:
        return True
    if not _was_trained_on(made_of, source.person):
        return False
    # The same study prepared otherwise has another hash; in another study the same id is somebody else.
    named = str(made_of.get("dataset") or "")
    return made_of.get("study", source.study) == source.study or _is_at(
        named, beside=path.parent, dataset=source.dataset
    )


def _was_trained_on(made_of: dict[str, Any], person: Person) -> bool:
    """Return whether a bundle's training had the person, also under the id of somebody they were merged with."""
    if person.digest in made_of.get("removed_digests", ()) or person.participant_id in made_of.get("participants", ()):
        return True
    return any(person.participant_id in ids for ids in _merged(made_of))


def _provenance(values: dict[str, Any]) -> dict[str, Any]:
    spec = values.get("spec")
    made_of = spec.get("provenance") if isinstance(spec, dict) else None
    return made_of if isinstance(made_of, dict) else {}


def _merged(values: dict[str, Any]) -> list[list[str]]:
    """Return the sets of ids that an audit took for one person each, of `run.json`, `bundle.json` or its provenance."""
    made_of = _provenance(values) or values
    audit = made_of.get("audit")
    holder = audit if isinstance(audit, dict) else made_of
    return [list(ids) for ids in holder.get("merged_participants") or () if isinstance(ids, list)]


def purge_run(run: Path, person: Person) -> None:
    """Take a person out of a run: rows, names in texts, the weights that were fitted on them; write its report again.

    Scores that were averaged over everybody stay as they were measured, and the report says for how many people.
    """
    inside = [path for folder in (run, *run.glob("folds/**")) if folder.is_dir() for path in leftovers(folder)]
    for path in [*run.glob("folds/*/.checkpoint-*"), *run.glob("logs"), *inside, *leftovers(run.parent, of=run.name)]:
        remove(path)
    for weights in run.glob("folds/*/*/weights.safetensors"):
        weights.unlink()
    for path in [*run.glob("*.csv"), *run.glob("*.parquet"), *run.glob("folds/*/*/*.parquet")]:
        scrub_table(path, person=person)
    for path in [*run.glob("*.json"), *run.glob("folds/*/*/*.json")]:
        # What the outputs of other commands say is theirs.
        if path.name != EXPLANATIONS and not path.name.endswith((STAMP, PARITY)):
            scrub_json(path, person=person)
    if (run / "audit.json").is_file():
        write_audit_report(run / "audit.json")
    if (run / "comparison.json").is_file():
        result = read_json(run / "comparison.json")
        write_json(run / "comparison.json", result | count_removed(result, person))
        write_comparison_report(run)


def mark_bundle(bundle: Path, person: Person) -> None:
    """Take a person's names out of a bundle, and say in it and on its card that it was trained on them.

    Killed in between, the bundle opens: its manifest doesn't vouch for the card while that is written. The next call
    finds it again, counts nobody twice, and vouches for the card.
    """
    hidden = bundle.with_name(f".checkpoint-{bundle.name.replace('.', '-')}")
    for path in [hidden, *leftovers(bundle), *leftovers(bundle.parent, of=bundle.name)]:
        remove(path)
    manifest = read_json(bundle / BUNDLE_FILE)
    made_of = manifest["spec"]["provenance"]
    if _was_trained_on(made_of, person):
        made_of |= count_removed(made_of, person)
    count = made_of.get("removed_participants", 0)
    manifest["spec"]["provenance"] = scrub(made_of, person=person)
    card = bundle / CARD_FILE
    if card.is_file():
        manifest["files"].pop(CARD_FILE, None)
        write_json(bundle / BUNDLE_FILE, manifest)
        text = card.read_text(encoding="utf-8").split(CARD_NOTE.split("\n\n")[0])[0].rstrip() + "\n"
        write_text(card, person.scrub_text(text) + (CARD_NOTE.format(count=count) if count else ""))
        manifest["files"][CARD_FILE] = sha256_file(card)
    write_json(bundle / BUNDLE_FILE, manifest)
