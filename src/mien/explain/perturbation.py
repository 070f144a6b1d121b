"""Deletion and insertion (Petsiuk, Das & Saenko 2018, RISE): does the answer hang on the places that a map names?

Deletion blurs the highest places of the map first: the faster the answer's probability falls, the better the map.
Insertion starts from the blurred picture and puts the highest places back. A map counts for what it gains over maps
that know nothing: random ones as coarse as itself, and a Gaussian in the centre, where faces are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.labels import LabelScheme
from mien.explain.frames import ExplainedFrame, Subject, answer_probabilities
from mien.explain.occlusion import blurred

FRACTIONS = np.linspace(0.0, 1.0, 11)
NUM_RANDOM = 3
"""Random maps per frame: their mean's error then adds little to the spread between people."""
CENTRE_SIGMA = 0.25
"""Standard deviation of the centred Gaussian over the picture's side; half of it lies in the central quarter."""


@dataclass(frozen=True)
class Gains:
    """What a map's curves gain over maps that know nothing; positive is better. Each (N,), one per frame.

    Attributes:
        deletion_random: Area under the random maps' deletion curve minus the map's.
        deletion_centre: The same with the centred Gaussian.
        insertion_random: Area under the map's insertion curve minus the random maps'.
        insertion_centre: The same with the centred Gaussian.
    """

    deletion_random: NDArray[np.float64]
    deletion_centre: NDArray[np.float64]
    insertion_random: NDArray[np.float64]
    insertion_centre: NDArray[np.float64]


def centre_map(size_px: int) -> NDArray[np.float64]:
    """Return a Gaussian (S, S) in the centre."""
    offset = (np.arange(size_px) + 0.5) / size_px - 0.5
    return np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * CENTRE_SIGMA**2))


def enlarged(values: NDArray[np.floating], *, size_px: int) -> NDArray[np.float64]:
    """Return a map (g, g) at the picture's size (S, S), bilinear."""
    return np.asarray(
        cv2.resize(np.asarray(values, np.float64), (size_px, size_px), interpolation=cv2.INTER_LINEAR), np.float64
    )


def ranks(values: NDArray[np.floating], *, ties: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return each pixel's rank (S, S) in 0..1, the highest value first; equal values in the order of `ties` (S, S).

    A map that is 0 in half of the picture would otherwise delete it line by line from the top.
    """
    order = np.lexsort((-ties.ravel(), -values.ravel()))
    result = np.empty(order.size)
    result[order] = (np.arange(order.size) + 0.5) / order.size
    return result.reshape(values.shape)


def perturbation_gains(
    subject: Subject,
    frames: Sequence[ExplainedFrame],
    *,
    maps: NDArray[np.float64],
    scheme: LabelScheme,
    seed: int,
) -> Gains:
    """Score maps (N, g, g) of N frames.

    Args:
        subject: What predicts: the bundle.
        frames: The frames.
        maps: Their maps.
        scheme: The target's classes.
        seed: Of the random maps.
    """
    rows = [
        _frame_gains(subject, frame, values=values, scheme=scheme, rng=np.random.default_rng([seed, number]))
        for number, (frame, values) in enumerate(zip(frames, maps, strict=True))
    ]
    return Gains(*np.array(rows).T)


def _frame_gains(
    subject: Subject,
    frame: ExplainedFrame,
    *,
    values: NDArray[np.float64],
    scheme: LabelScheme,
    rng: np.random.Generator,
) -> tuple[float, float, float, float]:
    size = frame.pixels.shape[0]

    def noise() -> NDArray[np.float64]:
        # As coarse as the map, so that both cut out places of the same size.
        return enlarged(rng.normal(size=values.shape), size_px=size)

    orders = [ranks(enlarged(values, size_px=size), ties=noise()), ranks(centre_map(size), ties=noise())]
    orders += [ranks(noise(), ties=noise()) for _ in range(NUM_RANDOM)]
    deletion, insertion = _areas(subject, frame, orders=orders, scheme=scheme)
    return (
        float(deletion[2:].mean() - deletion[0]),
        float(deletion[1] - deletion[0]),
        float(insertion[0] - insertion[2:].mean()),
        float(insertion[0] - insertion[1]),
    )


def _areas(
    subject: Subject, frame: ExplainedFrame, *, orders: Sequence[NDArray[np.float64]], scheme: LabelScheme
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas under the deletion and insertion curves of each order (M,)."""
    hidden = blurred(frame.pixels)
    inner = FRACTIONS[1:-1]
    pictures = [frame.pixels, hidden]
    for order in orders:
        for fraction in inner:
            chosen = (order < fraction)[..., None]
            pictures += [np.where(chosen, hidden, frame.pixels), np.where(chosen, frame.pixels, hidden)]
    features = subject.features(np.stack(pictures))
    logits = subject.logits(features - frame.reference)
    answers = np.full(len(logits), frame.answer)
    probabilities = answer_probabilities(logits, answers=answers, scheme=scheme)
    whole, nothing = probabilities[:2]
    curves = probabilities[2:].reshape(len(orders), len(inner), 2)
    ends = np.ones((len(orders), 1))
    deletion = np.hstack([ends * whole, curves[..., 0], ends * nothing])
    insertion = np.hstack([ends * nothing, curves[..., 1], ends * whole])
    return (
        np.asarray(np.trapezoid(deletion, FRACTIONS, axis=1), np.float64),
        np.asarray(np.trapezoid(insertion, FRACTIONS, axis=1), np.float64),
    )
