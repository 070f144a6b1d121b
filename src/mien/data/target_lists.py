"""Several targets asked for together, `Smile,Speaking` or `all`: one model learns them, each is a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mien.core.errors import NothingToLearnError, UserError, unknown_name
from mien.core.labels import TargetKind
from mien.data.ratings import Numbers, label_numbers
from mien.data.targets import (
    TargetSpec,
    TargetTables,
    find_target,
    label_samples,
    number_names,
    summarise_targets,
    target_names,
)
from mien.data.votes import Codes

SEPARATOR = ","
ALL = "all"
"""Asks for every annotation scheme that is there or not and that varies."""

LISTED = (
    "Together can be asked for: schemes that are there or not (such as Smile,Speaking), or ratings in numbers (such as "
    "Valence,Arousal)."
)


@dataclass(frozen=True)
class AskedTarget:
    """What `--target` asks for.

    Attributes:
        name: Name of the target; of several, their names joined by commas, in the order in which they were asked for.
        kind: Of all of them together.
        specs: One per channel; one where a single target of classes is asked for.
    """

    name: str
    kind: TargetKind
    specs: tuple[TargetSpec, ...]

    @property
    def has_channels(self) -> bool:
        """Whether each spec is a channel with labels of its own."""
        return self.kind in ("multilabel", "continuous")


def find_asked(tables: TargetTables, text: str) -> AskedTarget:
    """Return what is asked for.

    A target of exactly that name comes first. Else the text is split at commas; a name that holds commas itself is
    found, as the longest that fits.

    Args:
        tables: What targets are made of.
        text: A target's name, several separated by commas, or `all`.

    Raises:
        UserError: An unknown or empty name, one named twice, or targets that can't be asked for together.
        NothingToLearnError: `all`, and none varies.
    """
    schemes = [str(name) for name in tables.annotations["scheme"].unique()]
    known = {*schemes, *tables.attributes, *tables.rated}
    if text in known or (SEPARATOR not in text and text != ALL):
        spec = find_target(tables, text)
        return AskedTarget(spec.name, spec.kind, (spec,))
    names = _everything(tables) if text == ALL else _split(text, known=known, tables=tables)
    specs = tuple(find_target(tables, name) for name in names)
    return AskedTarget(SEPARATOR.join(names), _kind_of(specs), specs)


def channel_values(tables: TargetTables, spec: TargetSpec) -> tuple[Numbers, Codes]:
    """Return a channel's label of each sample (N,), NaN where it is missing, and its code as `label_samples` gives it.

    Args:
        tables: What targets are made of.
        spec: A target that is there or not (0, 1), or a number.
    """
    if spec.kind == "continuous":
        return label_numbers(tables, spec)
    codes = label_samples(tables, spec)
    return np.where(codes >= 0, codes, np.nan).astype(np.float64), codes


def _everything(tables: TargetTables) -> list[str]:
    found = [
        summary.name
        for summary in summarise_targets(tables)
        if summary.varies and find_target(tables, summary.name).presence
    ]
    if not found:
        raise NothingToLearnError(
            "--target all asks for every annotation scheme that is there or not, and none of this dataset varies. "
            "`mien inspect` shows what can be asked."
        )
    return found


def _split(text: str, *, known: set[str], tables: TargetTables) -> list[str]:
    """Split a list at commas, the longest known name first; say of what is left which name isn't known."""
    parts = text.split(SEPARATOR)
    names: list[str] = []
    start = 0
    while start < len(parts):
        ends = range(len(parts), start, -1)
        end = next((end for end in ends if _joined(parts[start:end]) in known), start + 1)
        names.append(_joined(parts[start:end]))
        start = end
    for name in names:
        if not name:
            raise UserError(f"--target {text!r} has an empty name in its list. Write names between commas, or one.")
        if name not in known:
            allowed = [*target_names(tables), *number_names(tables)]
            hint = "`mien inspect` shows them."
            raise unknown_name("target", got=name, allowed=allowed, hint=hint)
        if names.count(name) > 1:
            raise UserError(f"--target {text!r} names {name!r} twice. Name each once.")
    return names


def _joined(parts: Sequence[str]) -> str:
    return SEPARATOR.join(parts).strip()


def _kind_of(specs: Sequence[TargetSpec]) -> TargetKind:
    there = [spec for spec in specs if spec.presence]
    numbers = [spec for spec in specs if spec.kind == "continuous"]
    others = [spec for spec in specs if not spec.presence and spec.kind != "continuous"]
    if others:
        said = ", ".join(_described(spec) for spec in others)
        raise UserError(f"In a list of targets can't stand: {said}. {LISTED} Ask for the others on their own.")
    if there and numbers:
        raise UserError(
            f"The list mixes what is there or not ({_names(there)}) and numbers ({_names(numbers)}): they have "
            f"different losses and scores. {LISTED} Ask for the two separately."
        )
    if len({spec.unit for spec in specs}) > 1:
        said = ", ".join(f"{spec.name!r} per {spec.unit}" for spec in specs)
        raise UserError(f"The labels of the list describe different units ({said}). Ask for each unit separately.")
    return "continuous" if numbers else "multilabel"


def _described(spec: TargetSpec) -> str:
    if spec.source == "attribute":
        return f"{spec.name!r} (an attribute, the same for a whole {spec.unit})"
    return f"{spec.name!r} (classes {', '.join(spec.classes)})"


def _names(specs: Sequence[TargetSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in specs)
