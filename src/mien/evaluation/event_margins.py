"""How much an edge's range has to be widened, so that it holds for new people as often as it says.

The band between the thresholds says how steep a probability is, not how often the true edge lies in it. So the band is
widened by what was needed on people with known edges: split-conformal prediction (Romano, Patterson and Candès 2019,
NeurIPS 32). Three things make such a margin too small, and did here: edges of one person are alike, so the unit that
is exchangeable is the person; few people need a rank that allows for how few they are; and people on whom settings were
chosen have smaller errors than others (`event_tuning` sees to that).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mien.evaluation.event_detection import Floats

COVERAGE = 0.9
"""Share of found events whose edges shall lie in the range that is given for them."""

MIN_PEOPLE = math.ceil(COVERAGE / (1 - COVERAGE) - 1e-9)
"""Fewer people than 9 can't promise `COVERAGE`: a new one is the worst of P + 1 with a chance of 1 / (P + 1)."""

EDGES = ("onset", "offset")


@dataclass(frozen=True)
class EdgeMargins:
    """Margins and what they promise.

    Attributes:
        onset_s: What is added on both sides of where the onset may be, s, in whole ms.
        offset_s: The same for the offset.
        participants: People on whose edges they were fitted.
        coverage: Least share of a new person's found events whose edge lies in its range, as far as people are
            exchangeable: `COVERAGE`, with fewer than `MIN_PEOPLE` P / (P + 1), with nobody 0.
    """

    onset_s: float
    offset_s: float
    participants: int
    coverage: float


def fit_margins(edges: pd.DataFrame) -> EdgeMargins:
    """Fit the margins of onset and offset.

    Args:
        edges: A row per found event: participant_id, `EDGE_COLUMNS`, true_onset_s and true_offset_s, as
            `event_scoring.matched_edges` returns them; ranges without a margin, made with settings that were chosen
            without this person.
    """
    margins, people = {}, int(edges["participant_id"].nunique())
    for name in EDGES:
        columns = (f"true_{name}_s", f"{name}_low_s", f"{name}_high_s")
        true, low, high = (edges[column].to_numpy(dtype=np.float64) for column in columns)
        outside = pd.Series(np.maximum(low - true, true - high))
        own = [values.to_numpy() for _, values in outside.groupby(edges["participant_id"].to_numpy())]
        # Upwards, so that rounding doesn't leave the edge out that decided.
        margins[f"{name}_s"] = max(math.ceil(1000 * person_quantile(own) - 1e-6) / 1000, 0.0) if own else 0.0
    coverage = COVERAGE if people >= MIN_PEOPLE else people / (people + 1)
    return EdgeMargins(**margins, participants=people, coverage=coverage)


def person_quantile(values: Sequence[Floats], *, coverage: float = COVERAGE) -> float:
    """Return what a value of a new person doesn't exceed with the probability `coverage`.

    One value drawn from each of P people, and one from a new person, are exchangeable, however alike the values of one
    person are: the new one is at most the r-th smallest of the P with the probability r / (P + 1) (single subsampling;
    Dunn, Wasserman and Ramdas 2023, JASA 118:2491-2502). Where (P + 1) coverage lies between two ranks, the rank is
    drawn so that it is met on average: of 18 people the largest value would hold for .95, the next one for .89. What
    is drawn would be chance, so the median over all draws of values and rank is taken; it is exact, by the
    distribution of order statistics (Poisson binomial). What is proven holds for a single draw; that the median keeps
    it is measured (docs/evaluation.md, simulation `edges`).

    Args:
        values: Per person their values (E,), at least one; at least one person.
        coverage: Above 0 and below 1. Above P / (P + 1) nobody can promise it: the largest of all values is returned.

    Returns:
        One of the values.

    >>> person_quantile([np.array([0.1]), np.array([0.3]), np.array([0.2, 0.2])], coverage=0.5)
    0.2
    """
    people = len(values)
    at = np.unique(np.concatenate(values))
    position = (people + 1) * coverage
    if position > people + 1e-9:
        return float(at[-1])
    lower = math.floor(position + 1e-9)
    # counted[n] (V,): probability that n of the people's draws are at most each value
    counted = np.zeros((people + 1, len(at)))
    counted[0] = 1.0
    for own in values:
        share = np.searchsorted(np.sort(own), at, side="right") / len(own)
        counted[1:] = counted[1:] * (1 - share) + counted[:-1] * share
        counted[0] *= 1 - share
    # Of the lower rank, and less by how often the higher one is drawn and isn't reached.
    reached = counted[lower:].sum(axis=0) - max(position - lower, 0.0) * counted[lower]
    return float(at[np.flatnonzero(reached >= 0.5 - 1e-9)[0]])
