"""How wide ranges of edges are made: by hand, by enumeration, and how often they hold for new people."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from mien.evaluation.event_detection import EventSettings, detect_events
from mien.evaluation.event_margins import COVERAGE, MIN_PEOPLE, fit_margins, person_quantile
from mien.evaluation.event_scoring import matched_edges
from mien.evaluation.event_truth import EventTruth
from mien.evaluation.event_tuning import tune_events
from simulations.event_edges import drawn_people

NOISE = (0.1, 0.05, math.inf)


def by_enumeration(values, *, coverage):
    """The median over every draw of one value per person, and of the rank between the two around the position."""
    position = (len(values) + 1) * coverage
    lower = math.floor(position + 1e-9)
    drawn, weights = [], []
    for draw in product(*values):
        ordered = sorted(draw)
        for rank, share in ((lower, 1 - position + lower), (lower + 1, position - lower)):
            if share > 1e-9:
                drawn.append(ordered[rank - 1] if rank else -math.inf)
                weights.append(share)
    order = np.argsort(drawn, kind="stable")
    reached = np.cumsum(np.array(weights)[order]) / np.sum(weights)
    return np.array(drawn)[order][np.flatnonzero(reached >= 0.5 - 1e-9)[0]]


class TestQuantile:
    @pytest.mark.parametrize("coverage", [0.3, 0.5, 0.62, 0.8])
    def test_it_is_the_median_over_all_draws(self, coverage):
        generator = np.random.default_rng(0)
        for people in (4, 5, 7):
            values = [generator.normal(size=generator.integers(1, 4)).round(1) for _ in range(people)]
            assert person_quantile(values, coverage=coverage) == by_enumeration(values, coverage=coverage)

    def test_of_one_value_each_it_is_the_conformal_rank(self):
        values = [np.array([float(value)]) for value in range(1, 20)]
        assert person_quantile(values) == 18.0  # ceil(20 * .9)

    def test_nine_people_are_the_fewest_that_can_promise_it(self):
        assert MIN_PEOPLE == 9
        alike = [np.full(3, float(value)) for value in range(1, 10)]
        assert person_quantile(alike) == 9.0
        # of fewer, the largest that was ever needed, though few draws have it
        assert person_quantile([np.array([0.1, 0.1, 0.1, 5.0]), *[np.array([0.2])] * 7]) == 5.0

    def test_who_has_many_values_weighs_no_more_than_others(self):
        one = [np.array([0.1])] * 18
        assert person_quantile([np.full(100, 9.0), *one]) == 0.1
        assert np.quantile(np.concatenate([np.full(100, 9.0), *one]), COVERAGE) == 9.0

    @pytest.mark.parametrize("people", [9, 11, 14, 18, 30])
    @pytest.mark.parametrize(("shared", "own"), [(1.0, 0.1), (0.1, 1.0), (0.5, 0.5)])
    def test_a_new_persons_value_is_below_it_as_often_as_it_says(self, people, shared, own):
        """Heavy tails, one to five values each; the quantile over all values holds less often where these are alike."""
        generator = np.random.default_rng([people, int(10 * shared)])
        held, naive = [], []
        for _ in range(200):
            drawn = []
            for _ in range(people + 5):
                count = generator.integers(1, 6)
                drawn.append(np.abs(shared * generator.standard_t(3) + own * generator.standard_t(3, count)))
            inner, new = drawn[:people], drawn[people:]
            pooled = np.sort(np.concatenate(inner))
            bounds = (person_quantile(inner), pooled[min(math.ceil((len(pooled) + 1) * COVERAGE), len(pooled)) - 1])
            shares = [np.mean([np.mean(values <= bound) for values in new]) for bound in bounds]
            held.append(shares[0])
            naive.append(shares[1])
        assert 0.87 <= np.mean(held) <= 0.95
        if shared > own and people < 20:
            assert np.mean(naive) < np.mean(held)


def edges(rows):
    """Onsets: (participant, true, low, high); offsets always in the middle of their range."""
    table = pd.DataFrame(rows, columns=["participant_id", "true_onset_s", "onset_low_s", "onset_high_s"])
    return table.assign(true_offset_s=5.0, offset_low_s=4.9, offset_high_s=5.1)


class TestMargins:
    def test_what_lies_outside_is_what_is_added_rounded_up_to_ms(self):
        found = fit_margins(edges([("p", 1.0, 1.1234, 1.2), ("q", 2.0, 1.5, 1.8), ("q", 2.0, 1.9, 2.1)]))
        assert found.onset_s == 0.2  # q's, .2 too early
        assert found.offset_s == 0.0  # never narrower than the band
        assert (found.participants, found.coverage) == (2, pytest.approx(2 / 3))
        assert fit_margins(edges([("p", 1.0, 1.1234, 1.2)])).onset_s == 0.124

    def test_from_nine_people_on_the_aim_is_promised_and_of_nobody_nothing(self):
        rows = [(f"p{index}", 1.0, 1.1, 1.2) for index in range(MIN_PEOPLE)]
        assert fit_margins(edges(rows)).coverage == COVERAGE
        assert fit_margins(edges(rows[1:])).coverage == pytest.approx(8 / 9)
        nobody = fit_margins(edges(rows).iloc[:0])
        assert (nobody.onset_s, nobody.offset_s, nobody.participants, nobody.coverage) == (0.0, 0.0, 0, 0.0)


class TestCrossFitting:
    def test_each_persons_edges_are_made_with_settings_that_the_others_chose(self):
        table, truth = drawn_people(np.random.default_rng(5), people=3, noise=NOISE)
        tuned = tune_events(table, truth, column="prob_X", samples_per_s=10.0)
        parts, chosen = [], set()
        for person in table["participant_id"].unique():
            own, others = table[table["participant_id"] == person], table[table["participant_id"] != person]
            settings = tune_events(others, truth, column="prob_X", samples_per_s=10.0).settings
            bare = dataclasses.replace(settings, onset_margin_s=0.0, offset_margin_s=0.0)
            parts.append(matched_edges(detect_events(own, bare, column="prob_X"), truth).assign(participant_id=person))
            chosen.add(bare)
        assert len(chosen) > 1  # else leaving people out would say nothing
        expected = fit_margins(pd.concat(parts))
        assert tuned.settings.onset_margin_s == expected.onset_s > 0
        assert tuned.settings.offset_margin_s == expected.offset_s
        assert tuned.to_json()["inner"]["edge_participants"] == 3
        assert tuned.to_json()["inner"]["edge_coverage"] == pytest.approx(3 / 4)

    def test_a_single_person_is_judged_by_the_default_settings(self):
        table, truth = drawn_people(np.random.default_rng(3), people=1, noise=NOISE)
        tuned = tune_events(table, truth, column="prob_X", samples_per_s=10.0)
        found = matched_edges(detect_events(table, EventSettings(), column="prob_X"), truth)
        assert tuned.settings.onset_margin_s == fit_margins(found.assign(participant_id="p00")).onset_s
        assert tuned.edge_coverage == 0.5

    def test_nothing_found_promises_nothing(self):
        table, truth = drawn_people(np.random.default_rng(3), people=2, noise=NOISE)
        tuned = tune_events(table.assign(prob_X=0.01), truth, column="prob_X", samples_per_s=10.0)
        assert (tuned.edge_participants, tuned.edge_coverage) == (0, 0.0)
        none = EventTruth(truth.events.iloc[:0], truth.stretches)
        assert tune_events(table, none, column="prob_X", samples_per_s=10.0).edge_coverage == 0.0
