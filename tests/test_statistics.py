"""Comparisons of models, tests against chance, power and intervals, against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GroupKFold, permutation_test_score

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.chance import (
    against_chance,
    circular_shift_test,
    participant_permutation_test,
    recording_permutation_test,
)
from mien.evaluation.comparisons import Rope, compare_paired, holm, nadeau_bengio, rope, sign_flip
from mien.evaluation.intervals import participant_interval, variance_inflation
from mien.evaluation.power import detectable_difference, participants_needed, permutation_floor, sign_flip_floor
from mien.evaluation.scores import participant_scores, summarise_model

BINARY = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
PER_PARTICIPANT = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="participant")
PER_RECORDING = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="recording")
THREE = LabelScheme("Mood", "multiclass", ("calm", "glad", "sad"), "human")


def table(rows, scheme=BINARY):
    """Predictions from (participant, recording, labels, predicted classes); a label may be None."""
    clips = []
    for participant, recording, labels, predicted in rows:
        for time, (label, said) in enumerate(zip(labels, predicted, strict=True)):
            probabilities = {scheme.classes[1]: said} if scheme.kind == "binary" else dict.fromkeys(scheme.classes, 0)
            if scheme.kind == "multiclass":
                probabilities[scheme.classes[said]] = 1
            clip = {"model": "m", "fold": 0, "participant_id": participant, "recording_id": recording, "target": label}
            outputs = {f"prob_{name}": float(value) for name, value in probabilities.items()}
            clips.append(clip | {"start_s": float(time), "end_s": time + 1.0} | outputs)
    return pd.DataFrame(clips).astype({"target": "Int64"})


def random_table(scheme, *, participants=8, recordings=2, clips=30, skill=0.4, seed=0):
    generator = np.random.default_rng(seed)
    classes = len(scheme.classes)
    rows = []
    for p, r in itertools.product(range(participants), range(recordings)):
        labels = generator.integers(classes, size=clips)
        guessed = generator.integers(classes, size=clips)
        rows.append((f"p{p}", f"p{p}r{r}", labels, np.where(generator.random(clips) < skill, labels, guessed)))
    return table(rows, scheme)


class TestNadeauBengio:
    def test_by_hand(self):
        # d = .1 .2 .3: mean .2, sd .1. c = 1 + 5/4 = 2.25, se = .1 * sqrt(2.25 / 3) = .0866025, t = 2.309401.
        # For df = 2 the distribution is known: p = 1 - t / sqrt(2 + t^2) = 1 - 2.309401 / sqrt(7.33333) = .147198.
        # t(.975, 2) = 4.302653: half width .372621.
        test = nadeau_bengio(np.array([0.1, 0.2, np.nan, 0.3]), folds=5)
        assert (test.mean, test.n) == (pytest.approx(0.2), 3)
        assert test.t == pytest.approx(2.309401, abs=1e-6)
        assert test.p == pytest.approx(0.147198, abs=1e-6)
        assert (test.low, test.high) == (pytest.approx(0.2 - 0.372621, abs=1e-6), pytest.approx(0.572621, abs=1e-6))

    def test_leave_one_out_counts_participants_as_folds(self):
        # c = 1 + 3/2 = 2.5; plain t = .2 / (.1 / sqrt 3) = 3.464102, so corrected t = 3.464102 / sqrt 2.5 = 2.190890.
        assert nadeau_bengio(np.array([0.1, 0.2, 0.3]), folds=3).t == pytest.approx(2.190890, abs=1e-6)
        assert nadeau_bengio(np.array([0.1, 0.2, 0.3]), folds=None).t == pytest.approx(3.464102, abs=1e-6)

    @pytest.mark.parametrize("differences", [[], [0.1], [np.nan, 0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
    def test_without_spread_nothing_is_claimed(self, differences):
        test = nadeau_bengio(np.array(differences), folds=5)
        assert np.isnan([test.low, test.high, test.t, test.p]).all()

    def test_wrong_input(self):
        with pytest.raises(UserError, match="at least 2"):
            nadeau_bengio(np.array([0.1, 0.2]), folds=1)
        with pytest.raises(UserError, match="shape"):
            nadeau_bengio(np.ones((2, 2)), folds=5)


class TestSignFlip:
    def test_by_hand(self):
        # Sums of +-.1 +-.2 +-.3: .6 .4 .2 0 0 -.2 -.4 -.6. At least .6 from 0: 2 of 8.
        assert sign_flip(np.array([0.1, 0.2, 0.3])) == 0.25
        # -.1 .2 .3: the sum is .4; .6 .4 -.4 -.6 are as far: 4 of 8.
        assert sign_flip(np.array([-0.1, 0.2, np.nan, 0.3])) == 0.5

    @pytest.mark.parametrize("count", [2, 6, 10])
    def test_one_sign_gives_the_floor(self, count):
        assert sign_flip(np.linspace(0.1, 0.2, count)) == pytest.approx(sign_flip_floor(count))

    def test_ends(self):
        assert sign_flip(np.zeros(8)) == 1.0
        assert sign_flip(np.array([0.3])) == 1.0
        assert math.isnan(sign_flip(np.array([np.nan])))

    def test_many_participants_are_drawn_reproducibly(self):
        differences = np.random.default_rng(2).normal(0.02, 0.1, 30)
        assert sign_flip(differences) == sign_flip(differences)
        assert sign_flip(differences) == pytest.approx(nadeau_bengio(differences, folds=None).p, abs=0.02)
        assert sign_flip(np.full(40, 0.1)) >= 1 / (1 + 2**14)


class TestHolm:
    def test_by_hand(self):
        # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, never falling: .04 .06 .06 .06.
        assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])

    def test_what_has_no_p_is_not_counted(self):
        assert holm([0.02, None, 0.5]) == [0.04, None, 0.5]
        assert holm([None]) == [None]
        assert holm([]) == []

    def test_at_most_one(self):
        assert holm([0.9, 0.8]) == [1.0, 1.0]

    def test_wrong_input(self):
        for value in (1.2, -0.1, float("nan")):
            with pytest.raises(UserError, match=r"0\.\.1"):
                holm([0.1, value])


class TestRope:
    def test_by_hand(self):
        # As above: mean .2, se .0866025. For df = 2, P(T > x) = 1/2 - x / (2 sqrt(2 + x^2)).
        # better: x = (.02 - .2) / .0866025 = -2.078461 -> .5 + 2.078461 / (2 * 2.513961) = .913384
        # worse: x = (.02 + .2) / .0866025 = 2.540341 -> .5 - 2.540341 / (2 * 2.907462) = .063131
        found = rope(np.array([0.1, 0.2, 0.3]), folds=5)
        assert (found.better, found.worse) == (pytest.approx(0.913384, abs=1e-5), pytest.approx(0.063131, abs=1e-5))
        assert found.better + found.same + found.worse == pytest.approx(1)
        assert found.verdict == "inconclusive"

    @pytest.mark.parametrize(("shift", "verdict"), [(0.1, "better"), (0.0, "same"), (-0.1, "worse")])
    def test_verdicts(self, shift, verdict):
        assert rope(shift + np.linspace(-0.02, 0.02, 20), folds=5).verdict == verdict

    def test_the_limit_of_a_verdict(self):
        assert Rope(0.0, 0.05, 0.95, 0.02).verdict == "better"
        assert Rope(0.0, 0.0501, 0.9499, 0.02).verdict == "inconclusive"

    def test_a_wider_region_holds_more(self):
        differences = np.linspace(-0.05, 0.07, 12)
        assert rope(differences, folds=5, half_width=0.05).same > rope(differences, folds=5).same
        with pytest.raises(UserError, match="above 0"):
            rope(differences, folds=5, half_width=0.0)

    def test_without_spread(self):
        found = rope(np.zeros(8), folds=5)
        assert np.isnan([found.worse, found.same, found.better]).all()
        assert found.verdict == "inconclusive"


class TestComparePaired:
    DIFFERENCES = np.array([0.02, 0.1, 0.05, np.nan, -0.03, 0.08, 0.06, 0.01])

    def test_retrained(self):
        found = compare_paired(self.DIFFERENCES, folds=5)
        test = nadeau_bengio(self.DIFFERENCES, folds=5)
        defined = self.DIFFERENCES[~np.isnan(self.DIFFERENCES)]
        assert (found.mean, found.low, found.high, found.p) == (test.mean, test.low, test.high, test.p)
        assert (found.n, found.p_note, found.test) == (7, "", "Nadeau-Bengio over participants")
        assert found.effect_size == pytest.approx(defined.mean() / defined.std(ddof=1))
        assert found.detectable == pytest.approx(detectable_difference(7, sd=defined.std(ddof=1), folds=5))
        assert found.rope == rope(self.DIFFERENCES, folds=5)

    def test_fixed(self):
        found = compare_paired(self.DIFFERENCES, folds=None)
        assert (found.p, found.test) == (sign_flip(self.DIFFERENCES), "sign-flip over participants")
        assert found.low > compare_paired(self.DIFFERENCES, folds=5).low

    @pytest.mark.parametrize("folds", [None, 5])
    def test_fewer_than_six_have_no_p(self, folds):
        found = compare_paired(np.array([0.1, 0.11, 0.12, 0.13, 0.14]), folds=folds)
        assert found.p is None
        assert "5 participants" in found.p_note and "0.0625" in found.p_note and "at least 6" in found.p_note
        assert found.low > 0  # the interval is shown, with its few degrees of freedom
        assert compare_paired(np.array([0.1, 0.11, 0.12, 0.13, 0.14, 0.15]), folds=folds).p is not None

    def test_a_smaller_p_than_so_few_can_give_is_held_at_the_floor(self):
        differences = 0.3 + np.linspace(-0.01, 0.01, 7)
        assert nadeau_bengio(differences, folds=5).p < 1e-5
        found = compare_paired(differences, folds=5)
        assert found.p == 2**-6
        assert "0.016" in found.p_note and "7 participants" in found.p_note

    def test_equal_differences_say_so(self):
        found = compare_paired(np.full(8, 0.1), folds=5)
        assert (found.mean, found.p) == (pytest.approx(0.1), None)
        assert "equal (0.1)" in found.p_note
        assert np.isnan([found.low, found.high, found.effect_size, found.detectable]).all()
        # The sign-flip needs no spread: eight times the same sign.
        assert compare_paired(np.full(8, 0.1), folds=None).p == pytest.approx(2**-7)
        assert compare_paired(np.zeros(8), folds=None).p == 1.0

    def test_nobody(self):
        found = compare_paired(np.array([np.nan]), folds=5)
        assert (found.n, found.p) == (0, None)
        assert math.isnan(found.mean)
        assert "0 participants" in found.p_note
        assert compare_paired(np.array([0.1]), folds=None).n == 1


class TestPower:
    def test_floors(self):
        assert [sign_flip_floor(n) for n in (1, 5, 6, 8, 10)] == [1, 0.0625, 0.03125, 0.0078125, 0.001953125]
        assert sign_flip_floor(0) == 1
        assert permutation_floor(6, 3) == 1 / 20
        assert permutation_floor(5, 0) == 1
        assert permutation_floor(4000, 2000) == 0.0  # below what a float holds, not an error
        with pytest.raises(UserError, match=r"0\.\.5"):
            permutation_floor(5, 6)

    @pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0625, 0.05, 0.03125, 0.01, 0.001])
    def test_participants_needed_is_the_fewest(self, alpha):
        needed = participants_needed(alpha)
        assert sign_flip_floor(needed) <= alpha
        assert needed == 1 or sign_flip_floor(needed - 1) > alpha

    @pytest.mark.parametrize(("participants", "difference"), [(6, 0.215), (20, 0.099), (40, 0.068)])
    def test_detectable_differences_of_the_rules(self, participants, difference):
        # EVALUATION.md, section 3, at sd .10: the corrected test with K = 5.
        assert detectable_difference(participants, sd=0.10, folds=5) == pytest.approx(difference, abs=5e-4)

    def test_it_has_that_power(self):
        generator = np.random.default_rng(5)
        difference = detectable_difference(12, sd=0.10, folds=None)
        data = generator.normal(difference, 0.10, (2000, 12))
        p = np.array([nadeau_bengio(row, folds=None).p for row in data])
        assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 2000))

    def test_ends(self):
        assert math.isnan(detectable_difference(1, sd=0.1, folds=5))
        assert math.isnan(detectable_difference(9, sd=float("nan"), folds=5))
        assert detectable_difference(9, sd=0.0, folds=5) == 0
        assert detectable_difference(2, sd=0.1, folds=None) > 1  # two people show nothing
        assert detectable_difference(5000, sd=0.1, folds=5) == pytest.approx(
            (1.959964 + 0.841621) * 0.15 / 5000**0.5, rel=0.01
        )
        for wrong in ({"power": 1.0}, {"power": 0.01}, {"sd": -0.1}):
            with pytest.raises(UserError):
                detectable_difference(9, **({"sd": 0.1, "folds": 5} | wrong))
        with pytest.raises(UserError, match="alpha"):
            participants_needed(0.0)


class TestCircularShifts:
    def test_by_hand(self):
        # One person, labels 1 0 0 0, predicted 1 0 0 0. Shifted by 0: all right, 1. By 1, 2 or 3: the positive is
        # missed and one of three negatives is an alarm: (0 + 2/3) / 2 = 1/3. Mean (1 + 3 * 1/3) / 4 = 1/2.
        found = circular_shift_test(table([("a", "a", [1, 0, 0, 0], [1, 0, 0, 0])]), BINARY, draws=4000, seed=0)
        assert found.observed == 1
        assert found.null_mean == pytest.approx(0.5, abs=3 * math.sqrt(1 / 12) / math.sqrt(4000))
        assert found.p == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 4000))
        assert (found.floor, found.n, found.draws) == (0.25, 1, 4000)
        assert found.null_high == 1

    @pytest.mark.parametrize("scheme", [BINARY, THREE])
    def test_it_scores_as_the_report_does(self, scheme):
        predictions = random_table(scheme)
        predictions.loc[predictions["participant_id"] == "p3", "target"] = 0  # undefined for one
        predictions.loc[predictions.index[::7], "target"] = pd.NA
        found = circular_shift_test(predictions, scheme, draws=99, seed=1)
        summary = summarise_model(participant_scores(predictions, scheme), folds=None)
        assert found.observed == pytest.approx(summary["balanced_accuracy"]["mean"], abs=1e-12)
        assert found.n == summary["balanced_accuracy"]["n"] == 7
        assert found.p == 0.01 == found.floor
        assert found.null_mean == pytest.approx(1 / len(scheme.classes), abs=0.02)

    @pytest.mark.parametrize("scheme", [BINARY, THREE])
    def test_the_null_is_that_of_shifted_labels(self, scheme):
        # Every shift of one recording, scored by participant_scores itself.
        predictions = random_table(scheme, participants=1, recordings=1, clips=12, skill=0.3)
        labels = predictions["target"].to_numpy(dtype=int)
        scored = [
            participant_scores(predictions.assign(target=pd.array(np.roll(labels, k), dtype="Int64")), scheme)
            for k in range(12)
        ]
        expected = {round(float(scores["balanced_accuracy"].iloc[0]), 9) for scores in scored}
        found = circular_shift_test(predictions, scheme, draws=3000, seed=2)
        values = [float(scores["balanced_accuracy"].iloc[0]) for scores in scored]
        assert found.null_mean == pytest.approx(np.mean(values), abs=4 * np.std(values) / math.sqrt(3000))
        assert round(found.observed, 9) in expected
        share = np.mean(np.array(values) >= found.observed - 1e-9)
        assert found.p == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 3000) + 1e-3)

    def test_neither_the_order_of_rows_nor_the_process_matters(self):
        predictions = random_table(BINARY, skill=0.05)
        shuffled = predictions.sample(frac=1, random_state=3)
        assert circular_shift_test(predictions, BINARY, draws=199, seed=4) == circular_shift_test(
            shuffled, BINARY, draws=199, seed=4
        )

    def test_a_constant_prediction_is_never_better_than_chance(self):
        found = against_chance(random_table(BINARY).assign(prob_Smile=1.0), BINARY, seed=0)
        assert (found.observed, found.p, found.null_high) == (0.5, 1.0, 0.5)

    def test_labels_that_never_change_allow_one_arrangement(self):
        # The unit should have been participant: shifting moves nothing.
        rows = [(f"p{p}", f"p{p}{r}", [r] * 5, [r] * 5) for p in range(8) for r in (0, 1)]
        found = against_chance(table(rows), BINARY, seed=0)
        assert (found.observed, found.floor, found.p) == (1, 1, None)
        assert "unit" in found.p_note

    def test_periodic_labels_count_their_distinct_shifts(self):
        # 1 0 1 0 has 2 distinct shifts, 1 1 0 has 3.
        rows = [("a", "a", [1, 0, 1, 0], [1, 0, 1, 0]), ("b", "b", [1, 1, 0], [1, 1, 0])]
        assert circular_shift_test(table(rows), BINARY, draws=999, seed=0).floor == pytest.approx(1 / 6)

    def test_wrong_input(self):
        predictions = random_table(BINARY, participants=2)
        with pytest.raises(UserError, match="got m, n"):
            circular_shift_test(pd.concat([predictions, predictions.assign(model="n")]), BINARY, draws=9, seed=0)
        with pytest.raises(UserError, match="0 draws"):
            circular_shift_test(predictions, BINARY, draws=0, seed=0)
        with pytest.raises(UserError, match="lack the columns"):
            against_chance(predictions.drop(columns="prob_Smile"), BINARY, seed=0)
        with pytest.raises(UserError, match="lack the columns"):
            against_chance(predictions.drop(columns="target"), BINARY, seed=0)


class TestOtherChanceTests:
    def people(self, labels, predicted, scheme=PER_PARTICIPANT):
        rows = [
            (f"p{i:02d}", f"p{i:02d}", [a] * 2, [b] * 2) for i, (a, b) in enumerate(zip(labels, predicted, strict=True))
        ]
        return table(rows, scheme)

    def test_participants_by_hand(self):
        # 3 of 6 are positive, all right: 1 of C(6, 3) = 20 arrangements is as good.
        found = against_chance(self.people([1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]), PER_PARTICIPANT, seed=0)
        assert (found.observed, found.p, found.floor) == (1, 1 / 20, 1 / 20)
        assert (found.exact, found.draws, found.n, found.null_mean) == (True, 20, 6, pytest.approx(0.5))

    def test_two_classes_are_fishers_exact_test(self):
        # 7 of 12 positive, 6 predicted so, 5 of them rightly: P(at least 5 hits), hypergeometric.
        labels, predicted = [1] * 7 + [0] * 5, [1] * 5 + [0] * 2 + [1] + [0] * 4
        found = participant_permutation_test(self.people(labels, predicted), PER_PARTICIPANT, draws=9, seed=0)
        assert found.p == pytest.approx(hypergeom.sf(4, 12, 7, 6))
        assert found.draws == math.comb(12, 7)

    def test_many_participants_are_drawn(self):
        labels, predicted = [1, 0] * 12, [1, 0] * 8 + [0, 1] * 4
        found = participant_permutation_test(self.people(labels, predicted), PER_PARTICIPANT, draws=4999, seed=0)
        expected = hypergeom.sf(7, 24, 12, 12)  # 8 of 12 positives are hit
        assert not found.exact
        assert found.p == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 4999))
        assert found.floor == 1 / 5000

    def test_three_classes(self):
        # 6! / (2! 2! 2!) = 90 arrangements.
        scheme = LabelScheme("Mood", "multiclass", THREE.classes, "self-report", unit="participant")
        found = against_chance(self.people([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], scheme), scheme, seed=0)
        assert (found.draws, found.p) == (90, pytest.approx(1 / 90))
        assert found.null_mean == pytest.approx(1 / 3)

    def test_no_p_where_it_could_not_reach_the_level(self):
        few = against_chance(self.people([1, 1, 0, 0, 0], [1, 1, 0, 0, 0]), PER_PARTICIPANT, seed=0)
        assert (few.p, few.observed) == (None, 1)
        assert "5 participants: at least 6" in few.p_note
        # 1 of 8 positive: 8 arrangements, the smallest p is .125.
        rare = against_chance(self.people([1] + [0] * 7, [1] + [0] * 7), PER_PARTICIPANT, seed=0)
        assert (rare.p, rare.floor) == (None, 1 / 8)
        assert "0.12" in rare.p_note
        one_class = against_chance(self.people([1] * 8, [1] * 8), PER_PARTICIPANT, seed=0)
        assert (one_class.p, one_class.n) == (None, 0)
        assert math.isnan(one_class.observed)

    def test_recordings_within_participants_by_hand(self):
        # 6 people with 3 recordings, one of them positive, all right: 1 of 3 ** 6 = 729 arrangements.
        rows = [(f"p{p}", f"p{p}{r}", [int(r == 0)] * 4, [int(r == 0)] * 4) for p in range(6) for r in range(3)]
        found = against_chance(table(rows), PER_RECORDING, seed=0)
        assert found.method == "permutations of recordings within participants"
        assert (found.observed, found.floor, found.n) == (1, pytest.approx(1 / 729), 6)
        assert found.p == pytest.approx(1 / 729, abs=3 / 1999)
        # One recording is chosen at random: a hit and (1 + 1) / 2 = 1 with chance 1/3, else (0 + 1/2) / 2 = 1/4.
        assert found.null_mean == pytest.approx(1 / 2, abs=0.02)
        summary = summarise_model(participant_scores(table(rows), PER_RECORDING), folds=None)
        assert summary["balanced_accuracy"]["mean"] == found.observed

    def test_recordings_of_one_label_each_person_are_people(self):
        rows = [(f"p{p}", f"p{p}{r}", [p % 2] * 3, [p % 2] * 3) for p in range(8) for r in range(2)]
        found = against_chance(table(rows), PER_RECORDING, seed=0)
        assert (found.method, found.n, found.p) == ("permutations of participants", 8, 1 / 70)

    def test_labels_that_vary_are_not_permuted_over_people(self):
        rows = [(f"p{p}", f"p{p}{r}", [r] * 3, [r] * 3) for p in range(6) for r in range(2)]
        with pytest.raises(UserError, match="varies within participants"):
            participant_permutation_test(table(rows), PER_RECORDING, draws=9, seed=0)
        with pytest.raises(UserError, match="several targets"):
            recording_permutation_test(table([("a", "a", [0, 1], [0, 1])]), PER_RECORDING, draws=9, seed=0)

    def test_scikit_learns_groups_permute_nothing_where_labels_are_constant(self):
        # Why `permutation_test_score(groups=)` isn't used: its null never leaves the observed score (issue 21543).
        people = np.repeat(np.arange(8), 5)
        score, null, p = permutation_test_score(
            DummyClassifier(strategy="uniform", random_state=0), np.zeros((40, 1)), people % 2, groups=people,
            n_permutations=20, cv=GroupKFold(4), random_state=0,
        )  # fmt: skip
        assert (null == score).all()
        assert p == 1
        # Without groups the same predictions do score differently: the test above could fail.
        _, free, _ = permutation_test_score(
            DummyClassifier(strategy="uniform", random_state=0), np.zeros((40, 1)), people % 2,
            n_permutations=20, cv=4, random_state=0,
        )  # fmt: skip
        assert np.ptp(free) > 0


class TestIntervalNearABound:
    SCORES = np.array([0.99, 0.98, 1.0, 0.97, 0.99, 0.96, 1.0, 0.98, 0.70, 0.99])

    def test_it_reaches_further_towards_the_few_bad_scores(self):
        found = participant_interval(self.SCORES, folds=None)
        mean, half = self.SCORES.mean(), 2.262157 * self.SCORES.std(ddof=1) / math.sqrt(10)  # t(.975, 9)
        assert found.low < mean - half
        assert found.high < mean + half
        assert found.mean == pytest.approx(mean)

    def test_the_ends_are_those_of_plain_resampling(self):
        # Bootstrap-t written out, with other draws: the ends agree to their Monte Carlo error.
        generator = np.random.default_rng(9)
        scores = np.random.default_rng(1).beta(20, 1.2, 30)
        drawn = scores[generator.integers(30, size=(20_000, 30))]
        t = (drawn.mean(axis=1) - scores.mean()) / (drawn.std(axis=1, ddof=1) / math.sqrt(30))
        error = scores.std(ddof=1) / math.sqrt(30)
        found = participant_interval(scores, folds=None)
        assert found.low == pytest.approx(scores.mean() - np.quantile(t, 0.975) * error, abs=0.3 * error)
        assert found.high == pytest.approx(scores.mean() - np.quantile(t, 0.025) * error, abs=0.3 * error)

    def test_it_is_mirrored_at_the_other_bound(self):
        high, low = participant_interval(self.SCORES, folds=None), participant_interval(1 - self.SCORES, folds=None)
        width = high.high - high.low
        assert (1 - low.high, 1 - low.low) == (
            pytest.approx(high.low, abs=0.2 * width),
            pytest.approx(high.high, abs=0.2 * width),
        )

    def test_it_is_the_same_every_time_and_in_any_order(self):
        assert participant_interval(self.SCORES, folds=5) == participant_interval(self.SCORES, folds=5)
        turned = participant_interval(self.SCORES[::-1].copy(), folds=5)
        assert turned.low == pytest.approx(participant_interval(self.SCORES, folds=5).low, abs=1e-12)

    def test_retraining_stretches_both_ends(self):
        scores = np.random.default_rng(1).beta(40, 3, 40)  # far enough from the bounds that none is cut
        fixed, five = participant_interval(scores, folds=None), participant_interval(scores, folds=5)
        assert five.high < 1
        assert (five.mean - five.low) / (fixed.mean - fixed.low) == pytest.approx(math.sqrt(variance_inflation(5)))
        assert (five.high - five.mean) / (fixed.high - fixed.mean) == pytest.approx(1.5)

    def test_the_choice_follows_the_mean_within_the_bounds(self):
        middling = self.SCORES - 0.2  # mean .756 of 0..1, but near the top of 0..0.8
        half = 2.262157 * middling.std(ddof=1) / math.sqrt(10)
        assert participant_interval(middling, folds=None).low == pytest.approx(middling.mean() - half, abs=1e-6)
        assert participant_interval(middling, folds=None, bounds=(0.0, 0.8)).low < middling.mean() - half - 1e-3

    def test_mostly_perfect_scores_have_finite_ends(self):
        found = participant_interval(np.array([1.0, 1.0, 1.0, 1.0, 0.99]), folds=None)
        assert 0.0 < found.low < 0.99
        assert found.high <= 1.0
