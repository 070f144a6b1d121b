"""The frames that are explained, and which answer of the model each map is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.runtime.baseline import PersonalBaseline


@dataclass(frozen=True)
class ExplainedFrame:
    """One picture with the model's answer.

    Attributes:
        recording_id: The recording, or the name of the file.
        participant_id: The person; the recording where nobody is named.
        row: Number of the sampled frame within its recording.
        time_s: Presentation time in seconds; None for a picture without one.
        pixels: (S, S, 3) uint8 RGB as the encoder sees it.
        reference: (D,) what the personal baseline subtracts from this frame's features; a constant, not a variable.
        logits: (num_outputs,) of the bundle.
        answer: Code of the class that is explained: the predicted one.
        probability: Of that class.
    """

    recording_id: str
    participant_id: str
    row: int
    time_s: float | None
    pixels: NDArray[np.uint8]
    reference: NDArray[np.float64]
    logits: NDArray[np.float64]
    answer: int
    probability: float


class Subject(Protocol):
    """What is explained: pixels to features to logits, whatever computes them."""

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, D) of pictures (N, S, S, 3) uint8."""
        ...

    def logits(self, personal: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) of features (N, D), the personal baseline subtracted."""
        ...


def directions(answers: NDArray[np.int64], *, scheme: LabelScheme) -> NDArray[np.float64]:
    """Return how the score of each answer (N,) is read off the logits: score = logits @ direction.

    A binary target has one logit: its sign is turned where the answer is the negative class.

    Returns:
        (N, num_outputs).

    Raises:
        UserError: A kind of target that can't be explained.
    """
    if scheme.kind == "binary":
        return np.where(np.asarray(answers)[:, None] == 1, 1.0, -1.0)
    if scheme.kind == "multiclass":
        return np.asarray(np.eye(scheme.num_outputs)[answers])
    raise UserError(f"`mien explain` explains binary and multiclass targets; {scheme.target!r} is {scheme.kind}.")


def answers_of(frames: Sequence[ExplainedFrame]) -> NDArray[np.int64]:
    """Return the code of each frame's answer (N,)."""
    return np.array([frame.answer for frame in frames], np.int64)


def answer_probabilities(
    logits: NDArray[np.floating], *, answers: NDArray[np.int64], scheme: LabelScheme
) -> NDArray[np.float64]:
    """Return the probability (N,) of the class `answers` (N,) at logits (N, num_outputs)."""
    probabilities = scheme.probabilities(logits)
    if scheme.kind == "binary":
        positive = probabilities[:, 0]
        return np.asarray(np.where(answers == 1, positive, 1.0 - positive))
    return np.asarray(probabilities[np.arange(len(answers)), answers])


def with_references(
    frames: Sequence[ExplainedFrame], *, subject: Subject, baseline: PersonalBaseline
) -> list[ExplainedFrame]:
    """Return the frames with the personal baseline of another subject: over the given frames of each recording.

    A network with randomised weights has other features, so the trained one's baseline means nothing to it. The
    frames of a recording have to be in order of time.
    """
    result = list(frames)
    if baseline.kind == "none":
        return result
    for name in dict.fromkeys(frame.recording_id for frame in frames):
        rows = [index for index, frame in enumerate(frames) if frame.recording_id == name]
        features = subject.features(np.stack([frames[row].pixels for row in rows])).astype(np.float64)
        times = np.array([frames[row].time_s or 0.0 for row in rows])
        references = features - baseline.subtract(features, pts_s=times)
        for row, reference in zip(rows, references, strict=True):
            result[row] = replace(frames[row], reference=reference)
    return result


def most_confident(answers: NDArray[np.int64], probabilities: NDArray[np.floating], *, count: int) -> NDArray[np.int64]:
    """Return which frames to explain: the most confident of each answer in turn, until there are `count`.

    Args:
        answers: (N,) predicted classes.
        probabilities: (N,) of the predicted classes.
        count: How many are wanted; fewer where there are fewer.

    Returns:
        (M,) rows, increasing.

    >>> most_confident(np.array([1, 1, 1, 0]), np.array([0.9, 0.7, 0.8, 0.6]), count=3).tolist()
    [0, 2, 3]
    """
    order = np.argsort(-probabilities, kind="stable")
    # The highest class first: of a binary target that is the one that the target is named after.
    queues = [list(order[answers[order] == code]) for code in sorted(set(answers.tolist()), reverse=True)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(answers)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(int(queue.pop(0)))
    return np.array(sorted(chosen), np.int64)
