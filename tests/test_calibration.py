"""Calibration: what the fit recovers, what it refuses to fit, and that a perfect model has no excess error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression

from mien.core.errors import UserError
from mien.core.storage import to_jsonable
from mien.evaluation.calibration import MIN_PARTICIPANTS, calibration_scores, fit_calibration

NAN = float("nan")


def study(generator, *, people, clips=60, steep=1.0, shift=0.0, level=0.0):
    """Targets drawn from true log-odds, which differ in level between people, and logits that are too steep."""
    ids = np.repeat(np.arange(people).astype(str), clips).astype(object)
    true = generator.normal(-1, 1.5, people * clips)
    targets = (generator.random(true.size) < expit(true + np.repeat(generator.normal(0, level, people), clips))) * 1.0
    return (steep * true + shift)[:, None], targets, ids


def log_loss(probabilities, targets):
    return -np.mean(np.log(np.where(targets == 1, probabilities[:, 0], 1 - probabilities[:, 0])))


class TestFit:
    def test_it_recovers_slope_and_intercept(self):
        logits, targets, people = study(np.random.default_rng(0), people=100, clips=200, steep=2.0, shift=1.0)
        found = fit_calibration(logits, targets, people)
        # logit = 2 * true + 1, so true = .5 * logit - .5
        assert found.slope == pytest.approx(0.5, abs=0.02)
        assert found.intercepts[0] == pytest.approx(-0.5, abs=0.05)
        assert (found.kind, found.participants, found.note) == ("binary", 100, "")
        assert found.apply(logits)[:, 0] == pytest.approx(expit(found.slope * logits[:, 0] + found.intercepts[0]))

    def test_it_is_weighted_logistic_regression(self):
        generator = np.random.default_rng(1)
        counts = generator.integers(10, 100, 30)
        people = np.repeat(np.arange(30).astype(str), counts).astype(object)
        logits = generator.normal(0, 2, (people.size, 1))
        targets = (generator.random(people.size) < expit(0.7 * logits[:, 0] - 1)) * 1.0
        weights = np.repeat(1 / counts, counts)
        plain = LogisticRegression(C=np.inf).fit(logits, targets, sample_weight=weights)
        found = fit_calibration(logits, targets, people)
        assert found.slope == pytest.approx(plain.coef_[0, 0], abs=0.01)
        assert found.intercepts[0] == pytest.approx(plain.intercept_[0], abs=0.01)

    def test_class_weights_are_taken_back(self):
        """At 10 %, training with balanced classes adds log(9) to the log-odds; the mean must be 10 % again."""
        generator = np.random.default_rng(2)
        people = np.repeat(np.arange(40).astype(str), 100).astype(object)
        targets = (generator.random(4000) < 0.1) * 1.0
        evidence = generator.normal(0, 1, 4000) + 2 * targets  # log-likelihood ratio: 2 x - 2
        balanced = (2 * evidence - 2)[:, None]
        assert expit(balanced).mean() > 0.2
        found = fit_calibration(balanced, targets, people)
        assert found.apply(balanced).mean() == pytest.approx(targets.mean(), abs=0.002)
        assert found.intercepts[0] == pytest.approx(-np.log(9), abs=0.25)
        assert found.slope == pytest.approx(1, abs=0.1)

    def test_class_weights_of_several_classes_are_taken_back(self):
        generator = np.random.default_rng(3)
        shares = np.array([0.8, 0.15, 0.05])
        codes = generator.choice(3, 6000, p=shares)
        people = np.repeat(np.arange(60).astype(str), 100).astype(object)
        evidence = generator.normal(0, 1, (6000, 3)) + 1.5 * np.eye(3)[codes]
        balanced = 2.0 * 1.5 * evidence  # twice too steep; the log-likelihood of class k is 1.5 x_k up to a constant
        found = fit_calibration(balanced, codes, people)
        assert found.kind == "multiclass"
        assert found.slope == pytest.approx(0.5, abs=0.03)
        assert sum(found.intercepts) == pytest.approx(0, abs=1e-4)
        assert found.apply(balanced).mean(axis=0) == pytest.approx(np.bincount(codes) / 6000, abs=0.002)
        assert found.apply(balanced) == pytest.approx(softmax(found.slope * balanced + found.intercepts, axis=1))
        # What a temperature alone can't do: with the intercepts left out the rare classes are said too often.
        assert softmax(found.slope * balanced, axis=1).mean(axis=0)[2] > 0.12

    def test_participants_count_alike(self):
        generator = np.random.default_rng(4)
        logits, targets, people = study(generator, people=20, level=1.0)
        long = people == "0"
        rows = np.concatenate([np.flatnonzero(~long), np.tile(np.flatnonzero(long), 50)])
        once, often = (
            fit_calibration(logits, targets, people),
            fit_calibration(logits[rows], targets[rows], people[rows]),
        )
        assert (often.slope, often.intercepts[0]) == pytest.approx((once.slope, once.intercepts[0]), abs=1e-4)

    def test_weights_of_clips_and_missing_targets(self):
        logits, targets, people = study(np.random.default_rng(5), people=12)
        weights = np.tile([1.0, 0.0], targets.size // 2)
        half = fit_calibration(logits[::2], targets[::2], people[::2])
        weighted = fit_calibration(logits, targets, people, weights=weights)
        missing = fit_calibration(
            np.where(weights[:, None] > 0, logits, NAN), np.where(weights > 0, targets, NAN), people
        )
        assert weighted.slope == pytest.approx(half.slope, abs=1e-6)
        assert missing == half

    def test_three_participants_are_noise(self):
        """What `MIN_PARTICIPANTS` rests on: how often a map makes the log-loss of new people worse than leaving it."""
        generator = np.random.default_rng(0)
        given = {"steep": 1.3, "level": 1.0}
        logits, targets, _ = study(generator, people=300, **given)
        plain = log_loss(expit(logits), targets)
        worse, spread = {}, {}
        for people in (3, MIN_PARTICIPANTS):
            maps = [fit_calibration(*study(generator, people=people, **given), min_participants=1) for _ in range(100)]
            worse[people] = np.mean([log_loss(each.apply(logits), targets) > plain for each in maps])
            spread[people] = np.std([each.intercepts[0] for each in maps])
        assert worse[3] > 0.25 > worse[MIN_PARTICIPANTS]
        assert spread[3] > 1.4 * spread[MIN_PARTICIPANTS]

    def test_too_few_participants_change_nothing(self):
        logits, targets, people = study(np.random.default_rng(6), people=MIN_PARTICIPANTS - 1, steep=3.0)
        found = fit_calibration(logits, targets, people)
        assert (found.slope, found.intercepts) == (1.0, (0.0,))
        assert "9 participants, and 10 are needed" in found.note
        assert found.apply(logits) == pytest.approx(expit(logits))

    def test_one_class_or_nothing_changes_nothing(self):
        logits, targets, people = study(np.random.default_rng(7), people=12)
        assert "one class only" in fit_calibration(logits, np.zeros_like(targets), people).note
        empty = fit_calibration(np.zeros((0, 3)), np.zeros(0), np.zeros(0, object))
        assert (empty.intercepts, empty.participants) == ((0.0, 0.0, 0.0), 0)
        json.dumps(empty.to_json(), allow_nan=False)

    def test_separated_classes_stay_finite_and_a_bad_model_isnt_turned_round(self):
        people = np.repeat(np.arange(12).astype(str), 10).astype(object)
        logits = np.tile([-2.0, 2.0], 60)[:, None]
        sure = fit_calibration(logits, np.tile([0.0, 1.0], 60), people)
        assert 1 < sure.slope < 20
        wrong = fit_calibration(logits, np.tile([1.0, 0.0], 60), people)
        assert 0 < wrong.slope < 0.1
        assert (np.diff(wrong.apply(logits[:2])[:, 0]) > 0).all()

    @pytest.mark.parametrize(
        ("logits", "targets", "weights", "message"),
        [
            ([[0.0], [NAN]], [0, 1], None, "1 of 2 clips"),
            ([[0.0], [0.0]], [0, 2], None, "outside 0..1"),
            ([[0.0]], [0, 1], None, "don't fit"),
            ([[0.0], [0.0]], [0, 1], [1.0, -1.0], "from 0 up"),
        ],
    )
    def test_impossible_input_is_refused(self, logits, targets, weights, message):
        with pytest.raises(UserError, match=message):
            fit_calibration(np.array(logits), np.array(targets), np.array(["a", "b"], object), weights=weights)

    def test_another_number_of_outputs_is_refused(self):
        found = fit_calibration(np.zeros((0, 1)), np.zeros(0), np.zeros(0, object))
        with pytest.raises(UserError, match="1 outputs"):
            found.apply(np.zeros((2, 3)))


class TestScores:
    def score(self, probabilities, targets, people, **changed):
        given = {"folds": None, "seed": 0, "draws": 50} | changed
        return calibration_scores(np.asarray(probabilities, float), np.asarray(targets, float), people, **given)

    def test_by_hand(self):
        people = np.array(["a", "a", "b"], object)
        found = self.score([[0.8], [0.4], [0.5]], [1, 0, 1], people, prior=np.array([0.5, 0.5]))
        # a: (.04 + .16) / 2, b: .25
        assert found["brier"]["mean"] == pytest.approx((0.1 + 0.25) / 2)
        assert found["brier_skill"]["mean"] == pytest.approx(1 - 0.175 / 0.25)
        assert found["log_loss"]["mean"] == pytest.approx(-(np.mean(np.log([0.8, 0.6])) + np.log(0.5)) / 2)
        # gaps .2 and .4 weigh 1/4 each, .5 weighs 1/2
        assert found["ece"] == pytest.approx(0.2 / 4 + 0.4 / 4 + 0.5 / 2)
        assert found["ece_excess"] == pytest.approx(found["ece"] - found["ece_calibrated"])
        filled = [row for row in found["reliability"] if row["count"]]
        assert [(row["low"], row["count"], row["participants"], row["observed"]) for row in filled] == [
            (0.4, 1, 1, 0), (0.5, 1, 1, 1), (0.8, 1, 1, 1),
        ]  # fmt: skip
        assert found["prior"] == "given"
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_the_prior_itself_has_no_skill(self):
        people = np.repeat(list("abcd"), 5).astype(object)
        targets = np.tile([1.0, 0, 0, 0, 0], 4)
        found = self.score(np.full((20, 1), 0.2), targets, people)
        assert found["prior"] == "scored participants"
        assert found["brier_skill"]["mean"] == pytest.approx(0)
        assert found["ece"] == pytest.approx(0)
        other = self.score(np.full((20, 1), 0.2), targets, people, prior=np.tile([0.5, 0.5], (20, 1)))
        assert other["brier_skill"]["mean"] == pytest.approx(1 - 0.16 / 0.25)

    @pytest.mark.parametrize("repeats", [1, 10])
    def test_a_perfect_model_has_an_error_but_no_excess(self, repeats):
        """Also where ten frames share their label: there, labels drawn per clip would leave most of the error."""
        generator = np.random.default_rng(0)
        found = []
        for _ in range(30):
            logits, targets, people = study(generator, people=20, clips=60 // repeats)
            rows = np.repeat(np.arange(targets.size), repeats)
            found.append(self.score(expit(logits[rows]), targets[rows], people[rows]))
        mean = {name: np.mean([each[name] for each in found]) for name in found[0] if name.startswith("ece")}
        assert mean["ece"] > 0.02
        assert abs(mean["ece_excess"]) < 0.1 * mean["ece"]
        if repeats == 1:
            assert mean["ece_calibrated_clips"] == pytest.approx(mean["ece"], rel=0.1)
            assert np.mean([each["slope"]["mean"] for each in found]) == pytest.approx(1, abs=0.05)
        else:
            assert mean["ece_calibrated_clips"] < 0.5 * mean["ece"]

    def test_too_sure_shows(self):
        logits, targets, people = study(np.random.default_rng(1), people=40, steep=3.0, shift=0.5)
        found = self.score(expit(logits), targets, people)
        assert found["slope"]["mean"] == pytest.approx(1 / 3, abs=0.05)
        assert found["slope"]["low"] < 1 / 3 < found["slope"]["high"] < 1
        assert found["intercepts"][0] == pytest.approx(-0.5 / 3, abs=0.1)
        assert found["ece"] > found["ece_calibrated_95"] > found["ece_calibrated"] > 0
        fixed = fit_calibration(logits, targets, people).apply(logits)
        mended = self.score(fixed, targets, people)
        assert mended["slope"]["mean"] == pytest.approx(1, abs=0.01)
        assert mended["ece_excess"] < 0.02 < found["ece_excess"]
        assert mended["brier"]["mean"] < found["brier"]["mean"]

    def test_the_slope_is_logistic_regression_on_the_log_odds(self):
        logits, targets, people = study(np.random.default_rng(2), people=10, steep=0.5)
        plain = LogisticRegression(C=np.inf, tol=1e-8).fit(logits, targets)
        found = self.score(expit(logits), targets, people)
        assert found["slope"]["mean"] == pytest.approx(plain.coef_[0, 0], abs=1e-3)
        assert found["intercepts"][0] == pytest.approx(plain.intercept_[0], abs=1e-3)

    def test_several_classes(self):
        generator = np.random.default_rng(3)
        true = generator.normal(0, 1.5, (3000, 3))
        chances = softmax(true, axis=1)
        codes = (generator.random((3000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
        people = np.repeat(np.arange(30).astype(str), 100).astype(object)
        perfect = self.score(chances, codes, people)
        sure = self.score(softmax(2 * true, axis=1), codes, people)
        assert perfect["slope"]["mean"] == pytest.approx(1, abs=0.08)
        assert sure["slope"]["mean"] == pytest.approx(0.5, abs=0.04)
        assert len(perfect["intercepts"]) == 3
        assert abs(perfect["ece_excess"]) < 0.01 < sure["ece_excess"]
        first = np.eye(3)[codes]
        assert perfect["brier"]["mean"] == pytest.approx(((chances - first) ** 2).sum(axis=1).mean())
        assert sum(row["count"] for row in perfect["reliability"]) == 3000
        assert all(row["count"] == 0 for row in perfect["reliability"][:3])  # the most probable of three is above 1/3

    def test_the_bootstrap_is_seeded(self):
        logits, targets, people = study(np.random.default_rng(4), people=8)
        one, same, other = (self.score(expit(logits), targets, people, seed=seed) for seed in (1, 1, 2))
        assert one["ece_calibrated"] == same["ece_calibrated"] != other["ece_calibrated"]

    def test_certain_and_wrong_is_finite(self):
        found = self.score([[0.0], [1.0]], [1, 0], np.array(["a", "b"], object))
        assert found["brier"]["mean"] == 1
        assert found["log_loss"]["mean"] == pytest.approx(-np.log(1e-7))
        assert np.isfinite(found["slope"]["mean"])

    def test_one_class_has_no_slope(self):
        found = self.score([[0.1], [0.2]], [0, 0], np.array(["a", "b"], object))
        assert np.isnan(found["slope"]["mean"]) and np.isnan(found["intercepts"]).all()
        assert found["brier"]["mean"] == pytest.approx(0.025)

    @pytest.mark.parametrize("count", [0, 3])
    def test_nothing_to_score(self, count):
        people = np.array(["a"] * count, object)
        found = self.score(np.full((count, 1), 0.5), np.full(count, NAN), people)
        assert (found["n"], found["participants"], found["brier"]["n"]) == (0, 0, 0)
        assert np.isnan(found["ece"]) and np.isnan(found["slope"]["mean"])
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_one_participant_has_no_interval(self):
        found = self.score([[0.3], [0.8]], [0, 1], np.array(["a", "a"], object))
        assert np.isnan(found["brier"]["low"]) and np.isnan(found["ece_excess"])
        assert found["brier"]["n"] == 1
        assert found["ece"] == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("probabilities", "changed", "message"),
        [
            ([[0.5], [1.2]], {}, "isn't in 0..1"),
            ([[0.5], [0.5]], {"draws": 0}, "0 draws"),
            ([[0.5], [0.5]], {"prior": np.array([0.2])}, "The prior has the shape"),
        ],
    )
    def test_impossible_input_is_refused(self, probabilities, changed, message):
        with pytest.raises(UserError, match=message):
            self.score(probabilities, [0, 1], np.array(["a", "b"], object), **changed)


def test_logit_of_the_calibrated_is_a_line():
    logits, targets, people = study(np.random.default_rng(9), people=15)
    found = fit_calibration(logits, targets, people)
    assert logit(found.apply(logits)) == pytest.approx(found.slope * logits + found.intercepts[0])
