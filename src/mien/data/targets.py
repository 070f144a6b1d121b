"""Targets: what annotations and attributes say of each sampled frame, and where they say nothing.

Missing is not negative. A frame is missing where its recording isn't annotated, where nobody coded, where a scheme of
several classes has no interval, where as many coders say one thing as another, where it is in no segment though one
label describes a segment, and where a tool that reads faces had no face to read.

Values that are numbers (`mien.data.ratings`) make a continuous target. Several targets can be asked for together
(`mien.data.target_lists`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.labels import TargetKind, Unit
from mien.data.layouts import SEGMENT_COLUMNS, empty_table
from mien.data.ratings import ToolRatings, label_numbers, mean_ratings
from mien.data.segments import NO_SEGMENT, segments_of
from mien.data.votes import NO_ATTRIBUTE, NOT_ANNOTATED, OUTSIDE_SEGMENTS, Codes, votes_on

MAX_CLASSES = 20
"""More classes than this are text or numbers, not categories that a study of people can tell apart."""

TargetSource = Literal["annotation", "attribute", "signal"]

RATED_ENDING = " (rated)"
"""Ends the name of a tool's channel where a scheme (made of it by a threshold) or an attribute has the name."""

NUMBERS = "numbers, not categories"
"""Why most attributes that are no targets aren't, in the message that says so."""


@dataclass(frozen=True)
class TargetTables:
    """What targets are made of.

    Attributes:
        recordings: One row per recording, with its attributes.
        annotations: Intervals by recording and scheme.
        coded: What was looked at; empty where the study doesn't say.
        samples: All sampled frames (recording_id, frame, pts_s, end_s, face_found), by increasing time per recording.
        attributes: Columns of `recordings` that can be targets.
        unit: What one annotation describes.
        needs_face: Whether a sample without a face can't be used, whatever the target: its crop is empty.
        segments: Questions, tasks, rest; they matter where the unit is the segment.
        annotator: The coder whose labels are the target; empty: what most coders say.
        ratings: What tools rate at every frame.
        sound_only: Recordings that have no picture.
    """

    recordings: pd.DataFrame
    annotations: pd.DataFrame
    coded: pd.DataFrame
    samples: pd.DataFrame
    attributes: tuple[str, ...]
    unit: Unit
    needs_face: bool
    segments: pd.DataFrame = field(default_factory=lambda: empty_table(SEGMENT_COLUMNS))
    annotator: str = ""
    ratings: ToolRatings = field(default_factory=ToolRatings)
    sound_only: frozenset[str] = frozenset()

    @cached_property
    def ratings_of_samples(self) -> pd.DataFrame:
        """The mean of each tool's channel over the interval of each sample (N rows), NaN where it isn't known."""
        return mean_ratings(self.samples, self.ratings)

    @property
    def rated(self) -> dict[str, str]:
        """The targets that are tools' channels: name of the channel in the signals, by the target's."""
        taken = {*self.annotations["scheme"], *self.attributes}
        return {(f"{name}{RATED_ENDING}" if name in taken else name): name for name in self.ratings.tools}

    def source_of(self, scheme: str) -> str:
        """Return who annotated a scheme; several, joined by "and", are one label that isn't known."""
        rows = self.annotations["scheme"] == scheme
        return " and ".join(sorted(self.annotations.loc[rows, "source"].fillna("").unique()))


@dataclass(frozen=True)
class TargetSpec:
    """A target's classes.

    Attributes:
        name: Annotation scheme, attribute, or channel of a tool.
        kind: `binary` for two classes, `continuous` for numbers.
        classes: Class names in the order of their codes; of numbers, the name alone.
        source: Where the labels come from.
        unit: What one label describes.
        presence: An interval means the second class, its absence the first; else the value is the class.
        signal: The channel's name in the signals, where it is a tool's.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...]
    source: TargetSource
    unit: Unit
    presence: bool = False
    signal: str = ""

    def annotated_by(self, tables: TargetTables) -> str:
        """Return who annotated it, as `LabelScheme.label_source` has it."""
        if self.source == "signal":
            return f"tool:{tables.ratings.tools[self.signal]}"
        # Nobody annotated an attribute: the study's table says it.
        return "attribute" if self.source == "attribute" else tables.source_of(self.name)


@dataclass(frozen=True)
class TargetSummary:
    """What can be asked of a dataset.

    Attributes:
        name: The target.
        kind: `binary`, `multiclass` or `continuous`.
        classes: Class names in the order of their codes.
        source: `annotation`, `attribute`, or `signal` for a tool's channel.
        prevalence: Share of positives among the frames that can be used; None for several classes or no frame.
        num_participants: Participants with a frame that can be used.
        num_participants_positive: Participants with a positive; for several classes, of the class with the fewest; for
            numbers, those in whom it moves.
        varies: Whether more than one class occurs; else nothing can be learnt from it.
        low: Lowest number; None for categories.
        high: Highest number; None for categories.
    """

    name: str
    kind: TargetKind
    classes: tuple[str, ...]
    source: TargetSource
    prevalence: float | None
    num_participants: int
    num_participants_positive: int
    varies: bool
    low: float | None = None
    high: float | None = None


def target_names(tables: TargetTables) -> list[str]:
    """Return the names of all targets that are categories: annotation schemes first, then attributes."""
    unusable = {name for name, _ in unusable_targets(tables)} | set(number_names(tables))
    return [name for name in _all_names(tables) if name not in unusable]


def number_names(tables: TargetTables) -> list[str]:
    """Return the names of all targets that are numbers: annotation schemes first, then tools' channels."""
    schemes = tables.annotations.groupby("scheme")["value"]
    return [*(str(name) for name, values in schemes if _are_numbers(values)), *sorted(tables.rated)]


def unusable_targets(tables: TargetTables) -> list[tuple[str, str]]:
    """Return the name of every scheme and attribute that can't be a target, and why."""
    unusable = []
    for name in _all_names(tables):
        try:
            find_target(tables, name)
        except UserError as error:
            unusable.append((name, str(error).removeprefix(f"Target {name!r}").lstrip(": ")))
    return unusable


def _all_names(tables: TargetTables) -> list[str]:
    schemes = [str(name) for name in sorted(tables.annotations["scheme"].unique())]
    return [*schemes, *(name for name in tables.attributes if name not in schemes)]


def find_target(tables: TargetTables, name: str) -> TargetSpec:
    """Return the classes of a target.

    Raises:
        UserError: There is no such target, or it is neither a category of 1 to 20 classes nor a rating in numbers.
    """
    if name in set(tables.annotations["scheme"]):
        return _scheme(tables, name)
    if name in tables.attributes:
        return _attribute(tables, name)
    if name in tables.rated:
        return TargetSpec(name, "continuous", (name,), "signal", "frame", signal=tables.rated[name])
    allowed = [*target_names(tables), *number_names(tables)]
    raise unknown_name("target", got=name, allowed=allowed, hint="`mien inspect` shows them.")


def label_samples(tables: TargetTables, spec: TargetSpec) -> Codes:
    """Return the class code of each sample (N,), or a negative code of `REASONS` where it is missing.

    The code of a number (`label_numbers`) is 0.

    Each coder who looked has one vote (`mien.data.votes` says who looked where): the class is that of most coders, and
    missing where as many say something else. Where the study names one annotator, it is what that one says.
    """
    samples = tables.samples
    if spec.kind == "continuous":
        return label_numbers(tables, spec)[1]
    if spec.source == "attribute":
        by_recording = dict(zip(tables.recordings["recording_id"], _codes(tables, spec), strict=True))
        return samples["recording_id"].map(by_recording).to_numpy(dtype=np.int64)
    votes = votes_on(tables, spec)
    codes = votes.of_coder(tables.annotator) if tables.annotator else votes.majority(len(spec.classes))
    if spec.unit == "segment":
        outside = segments_of(samples, tables.segments)["segment_id"].to_numpy() == NO_SEGMENT
        # Why a recording as a whole is missing says more.
        codes[outside & (codes != NOT_ANNOTATED)] = OUTSIDE_SEGMENTS
    return codes


def usable(tables: TargetTables, codes: Codes, *, spec: TargetSpec) -> NDArray[np.bool_]:
    """Return which samples can be used (N,): they have a class, and a face where the crop or the label needs one.

    A tool that reads faces can't have seen one where none was found, so that its silence isn't a negative, whatever the
    crops show.
    """
    by_tool = spec.source == "annotation" and tables.source_of(spec.name).startswith("tool:")
    needs_face = tables.needs_face or by_tool
    faces = tables.samples["face_found"].to_numpy(dtype=bool)
    # Of sound alone no face can be asked for, and no tool can have read one.
    unseen = tables.samples["recording_id"].isin(tables.sound_only).to_numpy(dtype=bool)
    return (codes >= 0) & (faces | unseen | (not needs_face))


def summarise_targets(tables: TargetTables) -> list[TargetSummary]:
    """Return a summary of every target, those that are numbers last."""
    numbers = [_summarise_numbers(tables, find_target(tables, name)) for name in number_names(tables)]
    return [*(_summarise(tables, find_target(tables, name)) for name in target_names(tables)), *numbers]


def _summarise(tables: TargetTables, spec: TargetSpec) -> TargetSummary:
    codes = label_samples(tables, spec)
    kept = usable(tables, codes, spec=spec)
    people = dict(zip(tables.recordings["recording_id"], tables.recordings["participant_id"], strict=True))
    used = pd.DataFrame({"person": tables.samples["recording_id"].map(people)[kept], "code": codes[kept]})
    shown = used.groupby("code")["person"].nunique().reindex(range(max(2, len(spec.classes))), fill_value=0)
    binary = spec.kind == "binary"
    return TargetSummary(
        name=spec.name,
        kind=spec.kind,
        classes=spec.classes,
        source=spec.source,
        prevalence=float((used["code"] == 1).mean()) if binary and len(used) and len(spec.classes) == 2 else None,
        num_participants=int(used["person"].nunique()),
        num_participants_positive=int(shown.iloc[1] if binary else shown.min()),
        varies=bool(used["code"].nunique() > 1),
    )


def _summarise_numbers(tables: TargetTables, spec: TargetSpec) -> TargetSummary:
    values, codes = label_numbers(tables, spec)
    kept = usable(tables, codes, spec=spec)
    people = dict(zip(tables.recordings["recording_id"], tables.recordings["participant_id"], strict=True))
    used = pd.DataFrame({"person": tables.samples["recording_id"].map(people)[kept], "value": values[kept]})
    moves = used.groupby("person")["value"].nunique() > 1
    return TargetSummary(
        name=spec.name,
        kind=spec.kind,
        classes=spec.classes,
        source=spec.source,
        prevalence=None,
        num_participants=len(moves),
        num_participants_positive=int(moves.sum()),
        varies=bool(used["value"].nunique() > 1),
        low=float(used["value"].min()) if len(used) else None,
        high=float(used["value"].max()) if len(used) else None,
    )


def _scheme(tables: TargetTables, name: str) -> TargetSpec:
    values = tables.annotations.loc[tables.annotations["scheme"] == name, "value"]
    given = values.dropna()
    if len(given) not in (0, len(values)):
        raise UserError(
            f"Target {name!r}: {len(values) - len(given)} of its {len(values)} annotations have no value, the others "
            "have one. Fill in all or none: without values, an interval means that it is present."
        )
    if given.nunique() < 2:
        classes: tuple[str, ...] = (f"not {name}", name)
        return TargetSpec(name, "binary", classes, "annotation", tables.unit, presence=True)
    if _are_numbers(values):
        return TargetSpec(name, "continuous", (name,), "annotation", tables.unit)
    classes = _ordered(given.unique())
    if len(classes) > MAX_CLASSES:
        raise _not_a_category(name, classes=classes)
    return TargetSpec(name, _kind(classes), classes, "annotation", tables.unit)


def _attribute(tables: TargetTables, name: str) -> TargetSpec:
    given = tables.recordings[["participant_id", name]].dropna()
    continuous = pd.api.types.is_float_dtype(given[name]) and bool((given[name] % 1 != 0).any())
    classes = _ordered(_texts(given[name]).unique())
    if continuous or len(classes) > MAX_CLASSES:
        raise _not_a_category(name, classes=classes)
    constant = bool((given.groupby("participant_id")[name].nunique() <= 1).all())
    return TargetSpec(name, _kind(classes), classes, "attribute", "participant" if constant else "recording")


def _not_a_category(name: str, *, classes: tuple[str, ...]) -> UserError:
    what = NUMBERS if all(_is_number(text) for text in classes) else "free text, not categories"
    return UserError(
        f"Target {name!r} takes {len(classes)} different values: {what}. "
        f"Allowed: 2 to {MAX_CLASSES} classes. Put it into classes (such as low, high) in the study's table."
    )


def _are_numbers(values: pd.Series[Any]) -> bool:
    """Return whether the values of a scheme are a rating in numbers: all given, more than classes can be, or parts."""
    if values.isna().any():
        return False
    texts = [str(value) for value in values.unique()]
    if len(texts) < 2 or not all(_is_number(text) for text in texts):
        return False
    numbers = np.array([float(text) for text in texts])
    return bool(np.isfinite(numbers).all() and (len(texts) > MAX_CLASSES or (numbers % 1 != 0).any()))


def _kind(classes: tuple[str, ...]) -> TargetKind:
    return "binary" if len(classes) <= 2 else "multiclass"


def _ordered(values: object) -> tuple[str, ...]:
    """Return class names sorted, numbers by size."""
    texts = [str(value) for value in np.asarray(values, dtype=object)]
    if all(_is_number(text) for text in texts):
        return tuple(sorted(texts, key=lambda text: (float(text), text)))
    return tuple(sorted(texts))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _texts(values: pd.Series[Any]) -> pd.Series[str]:
    return values.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))


def _codes(tables: TargetTables, spec: TargetSpec) -> list[int]:
    """Return the class code of each recording."""
    code_of = {name: code for code, name in enumerate(spec.classes)}
    column = tables.recordings[spec.name]
    texts = _texts(column)
    return [NO_ATTRIBUTE if missing else code_of[text] for text, missing in zip(texts, column.isna(), strict=True)]
