"""What a target means: its classes, how logits become probabilities, and who annotated it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TargetKind = Literal["binary", "multiclass"]
Unit = Literal["frame", "segment", "recording", "participant"]


@dataclass(frozen=True)
class LabelScheme:
    """The classes of one target.

    Attributes:
        target: Name of the target, such as "Smile".
        kind: `binary` has one output (a sigmoid), `multiclass` one output per class (a softmax).
        classes: Class names in the order of their integer codes; for a binary target `("not X", "X")`.
        label_source: Who annotated it: `human`, `tool:NAME`, `self-report`, `stimulus`, `synthetic`, or `attribute` for
            what the study's table of recordings says.
        unit: What one label describes.
    """

    target: str
    kind: TargetKind
    classes: tuple[str, ...]
    label_source: str
    unit: Unit = "frame"

    @property
    def num_outputs(self) -> int:
        """Number of outputs that a network has for this target."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Class that each output stands for; tables call their columns `prob_<name>` and `logit_<name>`."""
        return (self.classes[1],) if self.kind == "binary" else self.classes

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits (N, num_outputs) into probabilities of the same shape."""
        scores = np.asarray(logits, dtype=np.float64)
        if self.kind == "binary":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def predicted(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """Turn probabilities (N, num_outputs) into class codes (N,); binary targets at the threshold 0.5."""
        if self.kind == "binary":
            return np.asarray(probabilities[:, 0] >= 0.5, dtype=np.int64)
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def annotated_by(label_source: str | None) -> str:
    """Say who annotated the target.

    >>> annotated_by("tool:AFFDEX")
    'as coded by AFFDEX (a tool, not a person)'
    """
    if label_source is None:
        return "as annotated by a source that the run didn't record"
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
