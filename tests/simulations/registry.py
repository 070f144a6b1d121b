"""Every simulation, with how many studies it draws in full and in the tests. To add one: one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .alpha import alpha_coverage
from .chance_nulls import against_chance_null
from .content_nulls import content_nulls
from .coverage import coverage
from .event_edges import event_edges
from .identity import identity_only
from .nulls import fixed_prediction_null, retrained_null
from .rows import Row
from .shuffled import shuffled_claims


@dataclass(frozen=True)
class Simulation:
    """One simulation.

    Attributes:
        title: What it is about.
        run: From a number of studies to what was measured; the same number gives the same figures.
        rounds: Number of studies of `make simulations`.
        seed: What its random numbers start from, as the table says.
        fast_rounds: Number of studies of the tests.
    """

    title: str
    run: Callable[[int], list[Row]]
    rounds: int
    seed: int
    fast_rounds: int


SIMULATIONS = {
    "T1": Simulation("two equal fixed models", fixed_prediction_null, 2000, 101, 400),
    "T2": Simulation("two equal models, retrained per fold", retrained_null, 2000, 202, 300),
    "T3": Simulation("identity only", identity_only, 500, 303, 60),
    "T4": Simulation("coverage of the 95 % interval", coverage, 2000, 404, 400),
    "chance": Simulation("a model that knows nothing, against chance", against_chance_null, 2000, 505, 80),
    "claims": Simulation("claims from shuffled labels", shuffled_claims, 100, 808, 8),
    "T7": Simulation("honest nulls of the audit: how often a check alarms", content_nulls, 200, 707, 24),
    "alpha": Simulation("coverage of the interval of Krippendorff's alpha", alpha_coverage, 400, 909, 20),
    "edges": Simulation("ranges of edges for new people", event_edges, 200, 1010, 5),
}
