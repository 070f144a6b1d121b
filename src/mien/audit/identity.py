"""Participants that are one person: united for every later step, so that no fold has them on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from mien.audit.check import Check
from mien.data.clips import ClipIndex


def connected(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Return the sets of names that pairs connect, each sorted, in the order of their first names (union-find).

    >>> connected([("c", "b"), ("x", "y"), ("a", "b")])
    (('a', 'b', 'c'), ('x', 'y'))
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    sets: dict[str, list[str]] = {}
    for name in sorted(parent):
        sets.setdefault(root(name), []).append(name)
    return tuple(tuple(names) for names in sets.values() if len(names) > 1)


def merge_participants(clips: ClipIndex, merged: Sequence[Sequence[str]]) -> ClipIndex:
    """Return the clips with merged participants under one id, the first of each set in order of names.

    All recordings of a merged participant go with it. The groups (dyads, sites) of merged participants become one, with
    everybody in them, because a group on both sides of a split would still show one person twice; it is named after
    the first merged id.

    Args:
        clips: The clips of a target.
        merged: Sets of participant ids that are one person.
    """
    if not merged:
        return clips
    table = clips.table.copy()
    groups = table.groupby("participant_id")["group"].unique()
    links = []
    for names in merged:
        held = [str(group) for name in names if name in groups.index for group in groups[name]]
        links += [(held[0], group) for group in held]
    renamed = {name: min(names) for names in merged for name in names}
    new_names: dict[str, str] = {}
    present = {str(group) for group in table["group"]}
    linked = {group for pair in links for group in pair}
    for united in _components(links):
        people = [str(name) for name in table.loc[table["group"].isin(list(united)), "participant_id"].unique()]
        name = min(renamed[person] for person in people if person in renamed)
        while name in present - set(united):  # another group that happens to have this name
            name += "+"
        new_names |= dict.fromkeys(united, name)
    assert linked == set(new_names), "every linked group has a new name"
    table["participant_id"] = table["participant_id"].map(lambda name: renamed.get(name, name))
    table["group"] = table["group"].map(lambda name: new_names.get(name, name))
    return dataclasses.replace(clips, table=table)


def _components(links: Sequence[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return what links connect; a group that is linked with itself alone is one of them."""
    sets = connected(links)
    single = {group for pair in links for group in pair} - {group for names in sets for group in names}
    return [*sets, *((group,) for group in sorted(single))]


def check_same_person() -> Check:
    """Say that nobody looked for one person under two ids: that needs a face embedder, and none comes with mien."""
    return Check(
        "same-person",
        "not checked",
        measured=None,
        threshold=None,
        detail="Two recordings of one person that aren't copies of each other can only be told by a face embedder. "
        "None was given, so nobody looked.",
        advice="Make sure from the consent forms that nobody took part under two ids; put what can't be ruled out into "
        "one group (column group of recordings.csv).",
    )
