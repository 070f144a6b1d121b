"""How often the ranges of edges hold the true onset and offset of people who had no part in it.

Drawn people whose predicted edges are off by known noise: what all edges of a person share, and what each edge adds.
How high a person's probabilities rise and how fast differs, too, so that settings matter. Everything else is what
`compare` and `train` do: settings and margins are chosen on a few people and applied to others.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from mien.evaluation.event_detection import detect_events
from mien.evaluation.event_margins import COVERAGE, EDGES, MIN_PEOPLE
from mien.evaluation.event_scoring import matched_edges
from mien.evaluation.event_truth import EventTruth
from mien.evaluation.event_tuning import tune_events

from .rows import Row

SEED = 1010
NEW_PEOPLE = 20
RATE_HZ = 10.0
PLACE_S = 6.0  # one event, or none
PLACES = 5
SLOWNESS_S = (0.03, 0.15)  # how long a person's probability takes to rise, as the scale of a logistic curve
RISE = (0.5, 0.85)  # how far it rises
TREMBLE = 0.12  # sd of each probability
COLUMNS = ["recording_id", "start_s", "end_s"]
# Inner people, sd of what a person's edges share (s), scale of what each edge adds (s), and its degrees of freedom.
STUDIES = {
    "11 people, edges of one person alike": (11, 0.25, 0.03, math.inf),
    "11 people, heavy tails": (11, 0.05, 0.06, 2.0),
    "20 people, both": (20, 0.1, 0.05, 3.0),
    "5 people, edges of one person alike": (5, 0.25, 0.03, math.inf),
}


def event_edges(rounds: int) -> list[Row]:
    """The margins of `tune_events`, and what they would be over events, on the people whose settings were chosen."""
    rows = []
    for number, (setting, (people, *noise)) in enumerate(STUDIES.items()):
        generator = np.random.default_rng([SEED, number])
        studies = np.array([_shares(generator, people=people, noise=noise) for _ in range(rounds)])
        shares, errors = studies.mean(axis=0), studies.std(axis=0) / math.sqrt(rounds)
        expected = {"expected": ".87–.95", "low": 0.87, "high": 0.95}
        if people < MIN_PEOPLE:
            expected |= {"expected": f"{people}/{people + 1}–.95", "low": people / (people + 1)}
        rows += [
            Row(setting, "tune_events", shares[0], rounds, spread=errors[0], **expected),
            Row(setting, "naive: over events of the same people", shares[1], rounds, spread=errors[1]),
        ]
    return rows


def _shares(generator, *, people, noise):
    """Return the share of new people's edges in range, by the margins of mien and by the naive ones."""
    table, truth = drawn_people(generator, people=people, noise=noise)
    settings = tune_events(table, truth, column="prob_X", samples_per_s=RATE_HZ).settings
    inner, new = (
        _outside(*drawn, settings=dataclasses.replace(settings, onset_margin_s=0.0, offset_margin_s=0.0))
        for drawn in ((table, truth), drawn_people(generator, people=NEW_PEOPLE, noise=noise))
    )
    margins = np.array([settings.onset_margin_s, settings.offset_margin_s])
    rank = min(math.ceil((len(inner) + 1) * COVERAGE), len(inner))
    naive = np.maximum(np.sort(inner[list(EDGES)], axis=0)[rank - 1], 0.0)
    held = [(new[list(EDGES)] <= own + 1e-9).groupby(new["recording_id"]).mean() for own in (margins, naive)]
    return [share.to_numpy().mean() for share in held]


def _outside(table, truth, *, settings):
    """Return how far the true edges lie outside of the range that the settings give (columns `EDGES`), s."""
    edges = matched_edges(detect_events(table, settings, column="prob_X"), truth)
    for name in EDGES:
        true = edges[f"true_{name}_s"]
        edges[name] = np.maximum(edges[f"{name}_low_s"] - true, true - edges[f"{name}_high_s"])
    return edges


def drawn_people(generator, *, people, noise):
    """Return a table of probabilities (`prob_X`), and the true events: one to five per person, 1.5 to 3 s long."""
    shared_s, own_s, freedom = noise
    times = np.arange(0.0, PLACE_S * PLACES, 1 / RATE_HZ)
    tables, events = [], []
    for person in range(people):
        count = generator.integers(1, PLACES + 1)
        starts = 1.5 + PLACE_S * np.sort(generator.permutation(PLACES)[:count]) + generator.random(count)
        true = np.column_stack([starts, starts + generator.uniform(1.5, 3.0, count)])
        own = (
            generator.standard_normal((count, 2)) if math.isinf(freedom) else generator.standard_t(freedom, (count, 2))
        )
        seen = true + np.clip(shared_s * generator.standard_normal(2) + own_s * own, -0.7, 0.7)
        curves = 1 / (1 + np.exp(-np.clip((times[:, None, None] - seen) / generator.uniform(*SLOWNESS_S), -500, 500)))
        inside = (curves[..., 0] - curves[..., 1]).sum(axis=1)
        values = np.clip(0.1 + generator.uniform(*RISE) * inside + generator.normal(0, TREMBLE, times.size), 0, 1)
        ids = {"recording_id": f"r{person:02}", "participant_id": f"p{person:02}"}
        tables.append(pd.DataFrame({"start_s": times, "end_s": times + 1 / RATE_HZ, "prob_X": values}).assign(**ids))
        events += [(f"r{person:02}", *span) for span in true.tolist()]
    stretches = pd.DataFrame([(f"r{person:02}", 0.0, PLACE_S * PLACES) for person in range(people)], columns=COLUMNS)
    return pd.concat(tables, ignore_index=True), EventTruth(pd.DataFrame(events, columns=COLUMNS), stretches)
