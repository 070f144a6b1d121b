"""Occlusion: what a model's answer loses where a part of the picture is blurred (Zeiler & Fergus 2014).

It asks the model and nothing else, so it works for every model, ONNX extractors and HOG among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.labels import LabelScheme
from mien.explain.frames import ExplainedFrame, Subject, answers_of, directions

GRID = 8
"""Windows across: on a face's crop an eye or half a mouth each."""
WINDOW = 0.25
"""Side of a window over the picture's: twice the grid's step, so that neighbours overlap by half."""
BLUR = 0.1
"""Standard deviation of the blur over the picture's side: of a face remains a patch of skin with the right light."""


def blurred(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a picture (S, S, 3) is without its detail: what is left where something is hidden or deleted.

    Blurred rather than grey, because a grey patch is a new object with edges of its own.
    """
    sigma = BLUR * picture.shape[0]
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigmaX=sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


def windows(size_px: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each window, row by row; those at the border are cut off there.

    >>> windows(64)[0], windows(64)[-1]
    ((slice(0, 12, None), slice(0, 12, None)), (slice(52, 64, None), slice(52, 64, None)))
    """
    centres = (np.arange(GRID) + 0.5) * size_px / GRID
    half = WINDOW * size_px / 2
    spans = [slice(max(0, round(c - half)), min(size_px, round(c + half))) for c in centres]
    return [(rows, columns) for rows in spans for columns in spans]


def occluded(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture (S, S, 3) with each window blurred in turn: (GRID * GRID, S, S, 3)."""
    hidden = blurred(picture)
    spans = windows(picture.shape[0])
    result = np.repeat(picture[None], len(spans), axis=0)
    for row, (rows, columns) in enumerate(spans):
        result[row, rows, columns] = hidden[rows, columns]
    return result


def occlusion_maps(subject: Subject, frames: Sequence[ExplainedFrame], *, scheme: LabelScheme) -> NDArray[np.float64]:
    """Return how much the answer's logit falls where a window is blurred; negative where it rises.

    The logit, not the probability, which hardly moves where the model is sure.

    Returns:
        (N, GRID, GRID).
    """
    chosen = directions(answers_of(frames), scheme=scheme)
    maps = np.empty((len(frames), GRID, GRID))
    for row, frame in enumerate(frames):
        features = subject.features(np.concatenate([frame.pixels[None], occluded(frame.pixels)]))
        scores = subject.logits(features - frame.reference) @ chosen[row]
        maps[row] = (scores[0] - scores[1:]).reshape(GRID, GRID)
    return maps
