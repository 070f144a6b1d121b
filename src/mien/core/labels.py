"""What a target means: its classes or channels, how logits become answers, and who annotated it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name

TargetKind = Literal["binary", "multiclass", "multilabel", "continuous"]
Unit = Literal["frame", "segment", "recording", "participant"]

SOURCES_JOINED_BY = " and "
"""Between the sources of a label that several made."""


@dataclass(frozen=True)
class LabelScheme:
    """The classes or channels of one target.

    A target of several channels is fitted as a whole, and judged channel by channel on a binary `view`.

    Attributes:
        target: Name of the target, such as "Smile"; of several channels, their names joined by commas.
        kind: `binary` has one output (a sigmoid), `multiclass` one output per class (a softmax), `multilabel` one per
            channel that is there or not (a sigmoid each), `continuous` one per channel that is a number.
        classes: Class names in the order of their integer codes; for a binary target `("not X", "X")`; for multilabel
            and continuous targets the names of the channels.
        label_source: Who annotated it: `human`, `tool:NAME`, `self-report`, `stimulus`, `synthetic`, or `attribute` for
            what the study's table of recordings says; several, of channels that differ, joined by "and".
        unit: What one label describes.
        sources: Who annotated each channel, in the order of `classes`; empty where `label_source` holds for all.
    """

    target: str
    kind: TargetKind
    classes: tuple[str, ...]
    label_source: str
    unit: Unit = "frame"
    sources: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, each with labels of its own; empty for targets whose classes exclude each other."""
        return self.classes if self.kind in ("multilabel", "continuous") else ()

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a network has for this target."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Class or channel of each output; tables call their columns `prob_<name>` (or `value_`) and `logit_<name>`."""
        return (self.classes[1],) if self.kind == "binary" else self.classes

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Column of each output's answer in a table: `prob_<name>`, `value_<name>` for numbers."""
        prefix = "value" if self.kind == "continuous" else "prob"
        return tuple(f"{prefix}_{name}" for name in self.output_names)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Columns of a clip index that hold the labels of the channels, `target_<name>`; empty without channels."""
        return tuple(f"target_{name}" for name in self.channels)

    def source_of(self, channel: str) -> str:
        """Return who annotated one channel."""
        return self.sources[self._place(channel)] if self.sources else self.label_source

    def view(self, channel: str) -> LabelScheme:
        """Return the binary scheme by which one channel is judged.

        Of a multilabel target it is the channel's own, absent or present. A number is judged by the moments at which it
        is above the participant's own median: whether a model follows it says nothing of a person's level.

        Raises:
            UserError: There is no such channel.
        """
        source = self.source_of(self.channels[self._place(channel)])
        if self.kind == "multilabel":
            return LabelScheme(channel, "binary", (f"not {channel}", channel), source, self.unit)
        classes = (f"{channel} at or below own median", f"{channel} above own median")
        return LabelScheme(f"{channel} above the own median", "binary", classes, source, self.unit)

    def answers(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits (N, num_outputs) into what tables hold under `output_columns`: probabilities, or the numbers."""
        if self.kind == "continuous":
            return np.asarray(logits, dtype=np.float64)
        return self.probabilities(logits)

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits (N, num_outputs) into probabilities of the same shape.

        Raises:
            UserError: The target is continuous.
        """
        self._check_classes("probabilities")
        scores = np.asarray(logits, dtype=np.float64)
        if self.kind in ("binary", "multilabel"):
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def predicted(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Turn probabilities (N, num_outputs) into class codes (N,), of multilabel targets into 0 or 1 (N, C).

        Binary targets and channels are there from a probability of 0.5 on.

        Raises:
            UserError: The target is continuous.
        """
        self._check_classes("classes")
        if self.kind == "multilabel":
            return np.asarray(probabilities >= 0.5, dtype=np.int64)
        if self.kind == "binary":
            return np.asarray(probabilities[:, 0] >= 0.5, dtype=np.int64)
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)

    def _place(self, channel: str) -> int:
        if channel not in self.channels:
            raise unknown_name("channel", got=channel, allowed=self.channels, hint=f"The target is {self.target!r}.")
        return self.channels.index(channel)

    def _check_classes(self, what: str) -> None:
        if self.kind == "continuous":
            raise UserError(f"{self.target!r} is continuous: its predictions are numbers and have no {what}.")


def joined_source(sources: Sequence[str]) -> str:
    """Return the source of labels that several may have made.

    >>> joined_source(["tool:AFFDEX", "human", "human"])
    'human and tool:AFFDEX'
    """
    return SOURCES_JOINED_BY.join(sorted(set(sources)))


def annotated_by(label_source: str | None) -> str:
    """Say who annotated the target.

    >>> annotated_by("tool:AFFDEX")
    'as coded by AFFDEX (a tool, not a person)'
    """
    if label_source is None:
        return "as annotated by a source that the run didn't record"
    return SOURCES_JOINED_BY.join(_annotated_by_one(source) for source in label_source.split(SOURCES_JOINED_BY))


def _annotated_by_one(label_source: str) -> str:
    if label_source.startswith("tool:"):
        return f"as coded by {label_source.removeprefix('tool:')} (a tool, not a person)"
    known = {
        "human": "as annotated by human coders",
        "self-report": "as the participants reported it themselves",
        "stimulus": "as the stimulus was meant, not as anybody annotated the face",
        "attribute": "as given in the study's table of recordings",
        "synthetic": "as made by the program that built the study",
    }
    return known.get(label_source, f"as annotated by {label_source}")
