"""Short versions of the simulations in `tests/simulations`: each honest method keeps its promise, each naive one fails.

Bounds are those of the rules of evidence, give or take three Monte Carlo standard errors of the number of studies drawn
(`Row.agrees`). A simulation in which the naive method didn't fail couldn't tell a good one from a bad one.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest

from mien.evaluation.comparisons import nadeau_bengio, sign_flip
from simulations import estimators
from simulations.__main__ import PAGE, replace_section, section
from simulations.nulls import fixed_predictions
from simulations.registry import SIMULATIONS
from simulations.rows import Row, find

pytestmark = pytest.mark.slow


# Share of alarms of an honest and a naive method (in T4 and alpha of coverage: the naive one is the lower), in the
# settings that contain a text, and a gap between them that is three standard errors below what was measured in full.
NAIVE_FAILS = {
    "T1": ("sign-flip", "naive: McNemar over frames", "", 0.2),
    "T2": ("Nadeau-Bengio over participants", "naive: sign-flip", "", 0.05),
    "T3": ("against_chance on grouped folds: p ≤ .05", "naive: binomial over frames, grouped folds", "", 0.1),
    "T4": ("naive: Wilson over frames", "participant_interval", "near .70", 0.5),
    "claims": (
        "labels shuffled over participants: claims",
        "naive: over participants, held against chance alone",
        "",
        0.2,
    ),
    "alpha": ("naive: frames drawn", "krippendorff_alpha", "differ by person", 0.2),
    "chance": ("circular_shift_test", "naive: frames permuted within recordings", "retrained", 0.02),
}


@lru_cache
def measured(name):
    return SIMULATIONS[name].run(SIMULATIONS[name].fast_rounds)


@pytest.mark.parametrize("name", sorted(SIMULATIONS))
def test_every_figure_is_what_is_expected(name):
    rows = measured(name)
    differing = [
        f"{row.setting}, {row.method}: {row.measured:.3f}, not {row.expected}" for row in rows if not row.agrees
    ]
    assert not differing, f"{name}: {differing}"
    assert any(row.expected for row in rows)


@pytest.mark.parametrize("name", sorted(NAIVE_FAILS))
def test_the_naive_method_fails_where_the_honest_one_holds(name):
    honest, naive, setting, gap = NAIVE_FAILS[name]
    kept, failed = (
        np.mean([row.measured for row in find(measured(name), method=method, setting=setting)])
        for method in (honest, naive)
    )
    assert failed - kept > gap


def test_frame_folds_fail_in_t1():
    alarms = [row.measured for row in find(measured("T1"), method="naive: paired t over 10 frame folds")]
    studies = len(alarms) * SIMULATIONS["T1"].fast_rounds
    assert np.mean(alarms) > 0.2 - 3 * np.sqrt(0.2 * 0.8 / studies)


def test_mixing_people_over_folds_is_what_scores_in_t3():
    frame, grouped = (
        find(measured("T3"), method=f"{name} 5-fold: accuracy")[0].measured for name in ("frame", "grouped")
    )
    assert frame > 0.99
    assert grouped < 0.6


def test_the_fast_estimators_are_those_of_mien():
    generator = np.random.default_rng(0)
    for count in (4, 9):
        differences = generator.normal(0.05, 0.1, (20, count))
        assert estimators.sign_flip_p(differences) == pytest.approx([sign_flip(row) for row in differences])
        corrected = [nadeau_bengio(row, folds=5).p for row in differences]
        assert estimators.corrected_t_p(differences, folds=5) == pytest.approx(corrected)
    differences[0, 3] = np.nan  # a participant without both classes
    assert estimators.sign_flip_p(differences)[0] == pytest.approx(sign_flip(differences[0]))
    assert estimators.corrected_t_p(differences, folds=5)[0] == pytest.approx(nadeau_bengio(differences[0], folds=5).p)


def test_naive_estimators_by_hand():
    # 8 frames that only A gets right, 2 that only B does: (8 - 2)^2 / 10 = 3.6 with one degree of freedom.
    a, b = np.zeros((1, 2, 20), dtype=bool), np.zeros((1, 2, 20), dtype=bool)
    a[0, 0, :8], b[0, 1, :2] = True, True
    assert estimators.mcnemar_p(a, b)[0] == pytest.approx(0.0578, abs=1e-4)
    # Wilson's interval of 8 of 10, as in his paper's formula: .4902 to .9433.
    assert np.array(estimators.wilson_interval(np.array([8]), 10)).ravel() == pytest.approx([0.4902, 0.9433], abs=1e-4)


def test_the_same_number_of_studies_gives_the_same_figures():
    first, second = (SIMULATIONS["T1"].run(50) for _ in range(2))
    assert first == second
    first, _ = fixed_predictions(np.random.default_rng(1), rounds=2, participants=3)
    assert first.shape == (2, 3, 100)


class TestTable:
    def test_a_figure_agrees_within_three_standard_errors(self):
        # At .06 and 400 studies the standard error is .01187: .095 is 2.95 of them above, .096 is 3.03.
        assert Row("", "", 0.095, 400, "≤ .06", 0, 0.06).agrees
        assert not Row("", "", 0.096, 400, "≤ .06", 0, 0.06).agrees
        assert not Row("", "", 0.0, 400, "> .2", 0.2, 1).agrees
        assert not Row("", "", 1.40, 400, "1.2–1.3", 1.2, 1.3, spread=0.02).agrees

    def test_sections_are_replaced_not_appended(self):
        rows = [Row("P = 10", "sign-flip", 0.04, 100, "≤ .06", 0, 0.06)]
        page = "before\n<!-- simulation T1 -->\nold\n<!-- end T1 -->\nafter\n"
        new = replace_section(page, "T1", section("T1", SIMULATIONS["T1"], rows))
        assert "old" not in new
        assert "| P = 10 | sign-flip | 0.040 | 0.020 | 100 | ≤ .06 | yes |" in new
        assert new.startswith("before\n")
        assert new.endswith("after\n")
        assert replace_section(new, "T1", section("T1", SIMULATIONS["T1"], rows)) == new
        assert replace_section(new, "T9", "x").count("<!-- end T9 -->") == 1

    def test_the_page_holds_every_simulation_once(self):
        page = PAGE.read_text(encoding="utf-8")
        assert sorted(re.findall(r"<!-- simulation (\w+) -->", page)) == sorted(SIMULATIONS)
        for name, simulation in SIMULATIONS.items():
            block = re.search(f"<!-- simulation {name} -->(.*?)<!-- end {name} -->", page, flags=re.DOTALL)
            assert f"{simulation.rounds} studies per row" in block[1], f"{name}: run `make simulations` again"
            assert "**no**" not in block[1]
