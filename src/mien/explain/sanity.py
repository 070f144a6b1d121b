"""The scores that test a set of maps, and what they permit to say (EVALUATION.md section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mien.core.numbers import short_number, with_interval
from mien.evaluation.intervals import Interval, participant_interval
from mien.explain.frames import ExplainedFrame
from mien.explain.perturbation import Gains

MAX_SPEARMAN = 0.2
"""Above it a map is nearly the same whatever the weights are, so it shows the picture, not the model."""
NUM_RANDOMISED = 10
"""Randomised models: by chance one of them agrees by up to .4 with maps of 8 x 8 places, their mean by about .1."""

Over = Literal["participants", "frames"]


@dataclass(frozen=True)
class Agreement:
    """How much maps resemble those of the same model with randomised weights (Adebayo et al. 2018).

    Attributes:
        spearman: Rank correlation, mean over frames and randomised models; of the values, or of their sizes where those
            agree more (a map that only changes its sign has not changed). NaN where no map varies.
        per_model: (R,) mean over frames for each randomised model, of the same.
        empty: (N,) which frames' maps are the same everywhere, so that they show nothing.
    """

    spearman: float
    per_model: NDArray[np.float64]
    empty: NDArray[np.bool_]

    @property
    def passes(self) -> bool:
        """Whether the maps depend on what was learnt."""
        return abs(self.spearman) < MAX_SPEARMAN


def agreement(maps: NDArray[np.float64], *, randomised: Sequence[NDArray[np.float64]]) -> Agreement:
    """Compare maps (N, g, g) with those of each randomised model.

    A map that is the same everywhere has no ranks: of the trained model it is left out (and reported as empty), of a
    randomised model it agrees with nothing, 0.
    """
    empty = np.array([bool(np.ptp(values) == 0) for values in maps])
    signed = np.array([_mean_spearman(maps[~empty], other[~empty]) for other in randomised])
    sizes = np.array([_mean_spearman(np.abs(maps[~empty]), np.abs(other[~empty])) for other in randomised])
    worse = sizes if abs(sizes.mean()) > abs(signed.mean()) else signed
    return Agreement(spearman=float(worse.mean()), per_model=worse, empty=empty)


def _mean_spearman(maps: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    if not len(maps):
        return math.nan
    values = [
        0.0 if np.ptp(first) == 0 or np.ptp(second) == 0 else float(spearmanr(first.ravel(), second.ravel()).statistic)
        for first, second in zip(maps, others, strict=True)
    ]
    return float(np.mean(values))


@dataclass(frozen=True)
class Sanity:
    """All scores of a set of maps.

    Attributes:
        agreement: With randomised models.
        randomised: What was randomised.
        deletion: Gain of the deletion curve over random maps and over the centred Gaussian.
        insertion: Gain of the insertion curve over the same two.
        over: What the intervals are over.
        class_specific: Whether the maps are about the model's answer.
    """

    agreement: Agreement
    randomised: str
    deletion: dict[str, Interval]
    insertion: dict[str, Interval]
    over: Over
    class_specific: bool

    @property
    def num_units(self) -> int:
        """Participants or frames that the intervals are over."""
        return next(iter(self.deletion.values())).n

    @property
    def failing(self) -> list[str]:
        """Which gains aren't above 0 for sure."""
        return [
            f"{kind} over {reference}"
            for kind, gains in (("deletion", self.deletion), ("insertion", self.insertion))
            for reference, gain in gains.items()
            if not gain.low > 0
        ]

    def verdict(self) -> str:
        """Say in a sentence or two what the maps are worth."""
        found = self.agreement.spearman
        spearman = f"Spearman {short_number(found)} with randomised weights"
        if math.isnan(found):
            return "The maps are the same everywhere: they explain nothing."
        if self.num_units < 2:
            what = f"One {self.over[:-1]} gives no interval, so nothing says that the map explains more than chance."
        elif self.failing:
            what = (
                "The maps explain nothing: they don't gain for sure over maps that know nothing ("
                + "; ".join(self._gain_text(name) for name in self.failing)
                + f"; over {self.num_units} {self.over})."
            )
        else:
            what = (
                f"The answer hangs on what the maps show more than on random or central places: {self._gains_text()}."
            )
        if self.agreement.passes:
            return f"{what} They depend on what was learnt ({spearman})."
        return (
            f"{what} They hardly depend on what was learnt ({spearman}, allowed: {short_number(MAX_SPEARMAN)}): don't "
            "read them as the model's reasons."
        )

    def short_verdict(self) -> str:
        """Say the same in a few words, for a picture."""
        if math.isnan(self.agreement.spearman):
            return "explains nothing (the same everywhere)"
        gains = "no interval" if self.num_units < 2 else "EXPLAINS NOTHING" if self.failing else "explains"
        weights = "weights matter" if self.agreement.passes else "weights hardly matter"
        return f"Sanity: {gains}, {weights} ({self._gains_text()}; Spearman {short_number(self.agreement.spearman)})"

    def to_json(self) -> dict[str, Any]:
        """Return what `explanations.json` holds."""
        return {
            "spearman_randomised": self.agreement.spearman,
            "spearman_threshold": MAX_SPEARMAN,
            "spearman_per_model": self.agreement.per_model,
            "randomised": self.randomised,
            "passes": self.agreement.passes,
            "deletion_gain": _facts(self._headline(self.deletion)),
            "insertion_gain": _facts(self._headline(self.insertion)),
            "deletion_gains": {name: _facts(gain) for name, gain in self.deletion.items()},
            "insertion_gains": {name: _facts(gain) for name, gain in self.insertion.items()},
            "over": self.over,
            "n": self.num_units,
            "explains": self.num_units >= 2 and not self.failing and not math.isnan(self.agreement.spearman),
            "verdict": self.verdict(),
        }

    @staticmethod
    def _headline(gains: dict[str, Interval]) -> Interval:
        """Return the gain over the harder of the two references."""
        return min(gains.values(), key=lambda gain: gain.mean)

    def _gain_text(self, name: str) -> str:
        kind, reference = name.split(" over ")
        return f"{name} {with_interval(_facts((self.deletion if kind == 'deletion' else self.insertion)[reference]))}"

    def _gains_text(self) -> str:
        return (
            f"deletion gain {with_interval(_facts(self._headline(self.deletion)))}, insertion gain "
            f"{with_interval(_facts(self._headline(self.insertion)))}, over {self.num_units} {self.over}"
        )


def _facts(gain: Interval) -> dict[str, float]:
    return {"mean": gain.mean, "low": gain.low, "high": gain.high}


def judge(
    gains: Gains,
    *,
    frames: Sequence[ExplainedFrame],
    found: Agreement,
    randomised: str,
    over: Over,
    class_specific: bool,
) -> Sanity:
    """Put intervals on gains: over participants, or over frames where one recording is all there is."""
    units = [frame.participant_id if over == "participants" else str(index) for index, frame in enumerate(frames)]
    interval = _over_units(units)
    return Sanity(
        agreement=found,
        randomised=randomised,
        deletion={
            "random maps": interval(gains.deletion_random),
            "a central Gaussian": interval(gains.deletion_centre),
        },
        insertion={
            "random maps": interval(gains.insertion_random),
            "a central Gaussian": interval(gains.insertion_centre),
        },
        over=over,
        class_specific=class_specific,
    )


def _over_units(units: Sequence[str]) -> Callable[[NDArray[np.float64]], Interval]:
    codes = np.unique(units, return_inverse=True)[1]
    counts = np.bincount(codes)

    def interval(values: NDArray[np.float64]) -> Interval:
        means = np.bincount(codes, weights=values) / counts
        return participant_interval(means, folds=None, bounds=(-1.0, 1.0))

    return interval
