"""What lies on both sides of a split: people, groups, files, sources of derived samples, training data of backbones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from mien.audit.check import Check
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset

MAX_SHOWN = 20
"""Overlaps that are listed."""


@dataclass(frozen=True)
class BackboneFact:
    """What is known of the data that a backbone was trained on.

    Attributes:
        name: As the user named it.
        trained_on_participants: Ids of the participants, where it is a bundle of ours; None for a hub model.
    """

    name: str
    trained_on_participants: tuple[str, ...] | None


def check_split_overlap(
    splits: Sequence[Split], clips: ClipIndex, dataset: Dataset, *, backbones: Sequence[BackboneFact] = ()
) -> Check:
    """Look for participants, groups and media files on two sides of a split, and for backbones that know who is tested.

    Args:
        splits: All folds.
        clips: The clips that they were made of.
        dataset: Where the clips come from; its ids are those before anybody was merged.
        backbones: What the models start from.
    """
    if not splits:
        return _no_splits("split-overlap")
    facts = dataset.recordings.set_index("recording_id")
    people = clips.table[["recording_id", "participant_id", "group"]].drop_duplicates()
    people = people.assign(
        sha256=people["recording_id"].map(facts["sha256"]), declared=people["recording_id"].map(facts["participant_id"])
    )
    overlaps = []
    for split in splits:
        for what in ("participant_id", "declared", "group", "sha256"):
            overlaps += _on_both_sides(split, people, column=what)
    known = _known_test_people(splits, people, backbones=backbones)
    unknown = [fact.name for fact in backbones if fact.trained_on_participants is None]
    found = len(overlaps) + len(known)
    detail = (
        f"{len(splits)} folds: {len(overlaps)} ids, groups or media files (sha256) on two sides of a split; "
        f"{len(known)} backbones trained on participants that are tested."
    )
    if unknown:
        detail += f" What was trained on whom is unknown for {', '.join(unknown)}."
    return Check(
        "split-overlap",
        "fail" if found else "ok",
        measured=found,
        threshold=0,
        detail=detail,
        advice="Put what belongs together into one group (column group of recordings.csv), give one person one id, and "
        "start from a backbone that wasn't trained on the people tested."
        if found
        else "",
        evidence={"overlaps": overlaps[:MAX_SHOWN], "backbones": known, "unknown_backbones": unknown},
    )


def check_lineage(clips: ClipIndex, splits: Sequence[Split]) -> Check:
    """Look for derived samples (augmented before the split) whose source is on the other side of a split.

    Args:
        clips: The clips; `source_id` is the sample that each is derived from, its own id where it is no derivative.
        splits: All folds.
    """
    if not splits:
        return _no_splits("augmentation-lineage")
    table = clips.table[["participant_id", "source_id"]].drop_duplicates()
    derived = int((clips.table["source_id"] != clips.table["clip_id"]).sum())
    overlaps = [row for split in splits for row in _on_both_sides(split, table, column="source_id")]
    return Check(
        "augmentation-lineage",
        "fail" if overlaps else "ok",
        measured=len(overlaps),
        threshold=0,
        detail=f"{derived} of {len(clips.table)} clips are derived from another; {len(overlaps)} sources are on two "
        f"sides of one of {len(splits)} splits.",
        advice="Augment inside training, after the split: leave derived samples out of the study." if overlaps else "",
        evidence={"overlaps": overlaps[:MAX_SHOWN]},
    )


def _no_splits(name: str) -> Check:
    return Check(
        name,
        "not checked",
        measured=None,
        threshold=0,
        detail="There are no folds without a target.",
        advice="Name a target: --target NAME.",
    )


def _on_both_sides(split: Split, table: pd.DataFrame, *, column: str) -> list[dict[str, Any]]:
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    values = {
        side: set(table.loc[table["participant_id"].isin(ids), column].dropna().astype(str))
        for side, ids in sides.items()
    }
    return [
        {"fold": split.fold, "what": column, "value": value, "sides": [a, b]}
        for a, b in combinations(values, 2)
        for value in sorted(values[a] & values[b])
    ]


def _known_test_people(
    splits: Sequence[Split], people: pd.DataFrame, *, backbones: Sequence[BackboneFact]
) -> list[dict[str, Any]]:
    tested = {person for split in splits for person in split.test}
    rows = people[people["participant_id"].isin(tested)]
    names = set(rows["participant_id"].astype(str)) | set(rows["declared"].astype(str))
    return [
        {"backbone": fact.name, "participants": sorted(names & set(fact.trained_on_participants))}
        for fact in backbones
        if fact.trained_on_participants is not None and names & set(fact.trained_on_participants)
    ]
