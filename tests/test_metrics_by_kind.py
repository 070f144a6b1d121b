"""Metrics of many channels, continuous targets, events, abstention and groups: by hand, and against what must hold."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import to_jsonable
from mien.evaluation.abstention import risk_coverage
from mien.evaluation.continuous import ccc, continuous_scores, rmse
from mien.evaluation.events import event_scores, events_from_samples, match_events
from mien.evaluation.groups import MIN_GROUP, age_band, scores_by_group, skipped_attributes
from mien.evaluation.intervals import participant_interval
from mien.evaluation.jackknife import jackknife_interval, student_interval
from mien.evaluation.multilabel import (
    MIN_POSITIVE_PARTICIPANTS,
    chance_average_precision,
    choose_thresholds,
    multilabel_scores,
)
from mien.evaluation.scores import participant_scores

BINARY = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
THREE = LabelScheme("Mood", "multiclass", ("calm", "glad", "sad"), "human")
NAN = float("nan")


def people_of(*counts: int):
    """Participants p0, p1 ... with so many clips each."""
    return np.repeat([f"p{i}" for i in range(len(counts))], counts).astype(object)


def one_channel(targets, probabilities, participants, *, threshold=0.5):
    found = multilabel_scores(
        np.asarray(targets, float)[:, None],
        np.asarray(probabilities, float)[:, None],
        participants,
        channels=["Smile"],
        thresholds=np.array([threshold]),
        folds=None,
    )
    return found, found["channels"][0]


class TestJackknife:
    def test_of_a_mean_it_is_student_t(self):
        values = np.array([0.4, 0.5, 0.7, 0.45, 0.6])
        left_out = np.array([np.delete(values, i).mean() for i in range(5)])
        for folds in (None, 5):
            found = jackknife_interval(left_out, score=values.mean(), folds=folds)
            plain = participant_interval(values, folds=folds)
            assert (found.mean, found.low, found.high) == pytest.approx((plain.mean, plain.low, plain.high))
            assert found.n == 5

    def test_the_ends_stay_within_the_bounds(self):
        found = jackknife_interval(np.array([0.9, 0.2, 0.95]), score=0.7, folds=None)
        assert (found.low, found.high) == (0.0, 1.0)

    @pytest.mark.parametrize(("left_out", "score"), [([0.5, 0.6], 0.55), ([0.5, NAN, 0.6], 0.55), ([], NAN)])
    def test_what_rests_on_one_person_has_no_interval(self, left_out, score):
        found = jackknife_interval(np.array(left_out), score=score, folds=None)
        assert np.isnan([found.low, found.high]).all()

    def test_equal_or_single_values_have_no_ends(self):
        assert np.isnan(student_interval(np.array([2.0, 2.0]), folds=None).low)
        assert student_interval(np.array([2.0, NAN]), folds=None).n == 1


class TestMultilabel:
    def test_trivial_predictors_at_nine_percent(self):
        targets = np.tile([1.0] * 9 + [0.0] * 91, 6)
        _, never = one_channel(targets, np.zeros(600), people_of(*[100] * 6))
        _, always = one_channel(targets, np.ones(600), people_of(*[100] * 6))
        assert never["accuracy"]["mean"] == never["all_negative"]["accuracy"] == pytest.approx(0.91)
        assert never["f1"]["mean"] == never["all_negative"]["f1"] == 0
        assert always["accuracy"]["mean"] == always["all_positive"]["accuracy"] == pytest.approx(0.09)
        assert always["f1"]["mean"] == always["all_positive"]["f1"] == pytest.approx(0.165, abs=0.0005)
        # A constant orders nothing: its average precision is the prevalence.
        assert always["ap_minus_prevalence"]["mean"] == pytest.approx(0)

    def test_by_hand(self):
        # p0: 1 0 | .9 .8; p1: 1 1 0 | .2 .7 .6; p2 has no positive clip
        found, channel = one_channel(
            [1, 0, 1, 1, 0, 0, 0], [0.9, 0.8, 0.2, 0.7, 0.6, 0.6, 0.1], people_of(2, 3, 2), threshold=0.5
        )
        # average precision 1 and (1/1 + 2/3) / 2
        assert channel["ap_minus_prevalence"]["mean"] == pytest.approx(np.mean([1 - 1 / 2, 5 / 6 - 2 / 3]))
        # chance: 3/4 for 1 of 2; for 2 of 3 the mean of 1, 5/6 and (1/2 + 2/3) / 2
        chance = [3 / 4, np.mean([1, 5 / 6, 7 / 12])]
        assert channel["ap_minus_chance"]["mean"] == pytest.approx(np.mean([1 - chance[0], 5 / 6 - chance[1]]))
        assert channel["f1"]["mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
        assert channel["f1"]["n"] == 2
        assert channel["f1_pooled"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 3))
        assert channel["specificity"]["n"] == 3
        assert channel["specificity"]["mean"] == pytest.approx((0 + 0 + 1 / 2) / 3)
        assert channel["accuracy"]["mean"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
        assert (channel["participants"], channel["participants_with_positive"]) == (3, 2)
        assert channel["too_rare"]
        assert found["too_rare"] == ["Smile"]
        assert found["channels_scored"] == 0
        assert np.isnan(found["macro_f1"]["mean"])

    def test_chance_average_precision_is_the_mean_over_all_orders(self):
        from sklearn.metrics import average_precision_score

        for n, positives in ((5, 1), (6, 2), (6, 5), (4, 4)):
            orders = [set(chosen) for chosen in itertools.combinations(range(n), positives)]
            labels = [[int(i in chosen) for i in range(n)] for chosen in orders]
            mean = np.mean([average_precision_score(each, np.arange(n, 0, -1)) for each in labels])
            assert chance_average_precision(n, positives) == pytest.approx(mean)
        assert chance_average_precision(100, 9) == pytest.approx(0.13, abs=0.005)
        assert np.isnan(chance_average_precision(5, 0))

    def test_no_skill_has_average_precision_above_the_prevalence_but_not_above_chance(self):
        generator = np.random.default_rng(0)
        targets = np.tile([1.0] * 3 + [0.0] * 27, 400)
        _, channel = one_channel(targets, generator.random(targets.size), people_of(*[30] * 400))
        assert channel["ap_minus_prevalence"]["low"] > 0.05
        assert channel["ap_minus_chance"]["low"] < 0 < channel["ap_minus_chance"]["high"]

    def test_missing_is_not_negative(self):
        full = one_channel([1, 0, 0, 1, 0], [0.9, 0.2, 0.6, 0.7, 0.8], people_of(3, 2))[1]
        holed = one_channel([1, NAN, 0, NAN, 0, 1, 0], [0.9, 0.99, 0.2, NAN, 0.6, 0.7, 0.8], people_of(5, 2))[1]
        assert to_jsonable(holed) == to_jsonable(full)  # NaN isn't equal to itself
        as_negative = one_channel([1, 0, 0, 0, 0, 1, 0], [0.9, 0.99, 0.2, 0.0, 0.6, 0.7, 0.8], people_of(5, 2))[1]
        assert as_negative["prevalence"] < full["prevalence"]

    def test_a_participant_without_any_target_isnt_counted(self):
        channel = one_channel([1, 0, NAN, NAN], [0.9, 0.1, 0.5, 0.5], people_of(2, 2))[1]
        assert channel["participants"] == channel["accuracy"]["n"] == 1

    def test_macro_is_over_the_channels_that_are_not_too_rare(self):
        people = people_of(*[4] * 6)
        common = np.tile([1.0, 0, 0, 0], 6)
        enough, rare = common.copy(), common.copy()
        enough[4 * MIN_POSITIVE_PARTICIPANTS :] = 0
        rare[4 * (MIN_POSITIVE_PARTICIPANTS - 1) :] = 0
        generator = np.random.default_rng(1)
        found = multilabel_scores(
            np.column_stack([common, enough, rare]),
            generator.random((24, 3)),
            people,
            channels=["common", "enough", "rare"],
            thresholds=np.full(3, 0.5),
            folds=3,
        )
        assert found["too_rare"] == ["rare"]
        assert found["channels_scored"] == 2
        expected = np.mean([channel["f1"]["mean"] for channel in found["channels"][:2]])
        assert found["macro_f1"]["mean"] == pytest.approx(expected)
        assert found["macro_f1"]["low"] < expected < found["macro_f1"]["high"]
        assert found["macro_f1"]["n"] == 6
        assert found["macro_f1_all_positive"] == pytest.approx(0.4)
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_thresholds_of_each_clips_own_fold(self):
        targets, scores, people = [1, 0, 1, 0], [0.9, 0.8, 0.3, 0.1], people_of(2, 2)
        found = multilabel_scores(
            np.array(targets, float)[:, None],
            np.array(scores)[:, None],
            people,
            channels=["Smile"],
            thresholds=np.array([[0.85], [0.85], [0.2], [0.2]]),
            folds=2,
        )
        assert found["channels"][0]["f1"]["mean"] == 1
        assert one_channel(targets, scores, people, threshold=0.85)[1]["f1"]["mean"] == 0.5

    def test_without_a_threshold_there_is_ranking_but_no_f1(self):
        channel = one_channel([1, 0, 1, 0], [0.9, 0.8, 0.3, 0.1], people_of(2, 2), threshold=NAN)[1]
        assert channel["f1"]["n"] == channel["accuracy"]["n"] == 0
        assert channel["ap_minus_prevalence"]["n"] == 2

    @pytest.mark.parametrize("targets", [[], [NAN, NAN]])
    def test_nothing_to_score(self, targets):
        found, channel = one_channel(targets, [0.5] * len(targets), people_of(len(targets))[: len(targets)])
        assert channel["participants"] == 0
        assert channel["too_rare"]
        assert np.isnan(channel["f1"]["mean"])
        json.dumps(to_jsonable(found), allow_nan=False)

    @pytest.mark.parametrize(
        ("targets", "probabilities", "message"),
        [([1, 2], [0.1, 0.2], "A target is 2"), ([1, 0], [0.1, NAN], "1 of 2 annotated"), ([1, 0], [0.1], "don't fit")],
    )
    def test_impossible_input_is_refused(self, targets, probabilities, message):
        with pytest.raises(UserError, match=message):
            one_channel(targets, probabilities, people_of(2))


class TestThresholds:
    def choose(self, targets, probabilities, participants, training):
        return choose_thresholds(
            np.asarray(targets, float)[:, None],
            np.asarray(probabilities, float)[:, None],
            participants,
            training=training,
        )

    def test_the_best_of_all_cuts(self):
        generator = np.random.default_rng(2)
        people = people_of(20, 20, 20)
        targets = (generator.random(60) < 0.2).astype(float)
        scores = np.round(np.clip(0.2 * targets + generator.random(60) * 0.8, 0, 1), 2)
        found = self.choose(targets, scores, people, ["p0", "p1", "p2"])

        def f1(threshold):
            said = scores >= threshold
            return 2 * np.sum(said & (targets == 1)) / (said.sum() + targets.sum())

        assert found.training_f1[0] == pytest.approx(max(f1(each) for each in np.linspace(0, 1, 1001)))
        assert f1(found.values[0]) == pytest.approx(found.training_f1[0])

    def test_only_training_participants_are_looked_at(self):
        targets, scores = [0, 1, 0, 1, 1, 0], [0.1, 0.4, 0.2, 0.6, 0.01, 0.99]
        one = self.choose(targets, scores, people_of(2, 2, 2), ["p0", "p1"])
        other = self.choose([*targets[:4], 0, 1], [*scores[:4], 0.5, 0.5], people_of(2, 2, 2), ["p0", "p1"])
        assert one.values == other.values == pytest.approx(0.3)  # half-way between .2 and .4
        assert one.training_f1[0] == 1
        with pytest.raises(UserError, match="training participants"):
            self.choose(targets, scores, people_of(2, 2, 2), ["p9"])

    def test_a_long_recording_is_still_one_person(self):
        # p0 is best cut at .5; p1 is best cut at .1, and has ten times as many clips
        few_targets, few_scores = [1, 0, 0, 0], [0.6, 0.4, 0.4, 0.4]
        long_targets, long_scores = few_targets * 10, few_scores * 10
        scores = [*few_scores, *(0.5 * np.array(long_scores))]
        found = self.choose([*few_targets, *long_targets], scores, people_of(4, 40), ["p0", "p1"])
        # weights 1/4 and 1/40: cut above .4 hits 1/4, misses 1/4: F1 2/3; cut at .3 adds 3/4 alarms: F1 4/7
        assert found.training_f1[0] == pytest.approx(2 / 3)
        assert found.values[0] == pytest.approx(0.5)

    def test_without_skill_it_says_yes_to_all(self):
        found = self.choose([1, 0, 0, 0], [0.5] * 4, people_of(4), ["p0"])
        assert found.values[0] < 0.5
        assert found.training_f1[0] == pytest.approx(0.4)

    def test_nothing_to_choose_by(self):
        found = self.choose([0, 0, NAN], [0.5, 0.6, 0.7], people_of(3), ["p0"])
        assert np.isnan(found.values[0])
        assert found.positive_participants[0] == 0

    def test_neighbouring_floats_are_told_apart(self):
        high, low = np.nextafter(0.5, 1), 0.5
        found = self.choose([1, 0], [high, low], people_of(2), ["p0"])
        assert low < found.values[0] <= high


class TestContinuous:
    def test_ccc_by_hand(self):
        # variances 2/3, covariance 2/3, means 1 apart: (4/3) / (4/3 + 1)
        assert ccc(np.array([0.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(4 / 7)
        assert ccc(np.array([0.0, 1, 2]), np.array([0.0, 1, 2])) == 1
        assert ccc(np.array([0.0, 1, 2]), np.array([2.0, 1, 0])) == -1
        # a correlation of 1 with half the scale: 2 * 1/3 / (2/3 + 1/6 + 1/4)
        assert ccc(np.array([0.0, 1, 2]), np.array([0.0, 0.5, 1])) == pytest.approx((2 / 3) / (2 / 3 + 1 / 6 + 1 / 4))

    def test_what_does_not_move(self):
        assert np.isnan(ccc(np.full(3, 0.1), np.full(3, 0.1)))  # perfect, and there was nothing to follow
        assert np.isnan(ccc(np.full(3, 0.1), np.array([0.0, 0.1, 0.2])))
        assert ccc(np.array([0.0, 0.1, 0.2]), np.full(3, 0.1)) == 0
        assert np.isnan(ccc(np.array([1.0]), np.array([1.0])))

    def test_rmse(self):
        assert rmse(np.array([0.0, 0]), np.array([3.0, 4])) == pytest.approx(np.sqrt(12.5))
        assert np.isnan(rmse(np.array([]), np.array([])))

    def test_person_means_alone_have_a_pooled_ccc_of_three_quarters(self):
        generator = np.random.default_rng(0)
        people, frames = 400, 50
        level = np.repeat(generator.normal(0, np.sqrt(0.6), people), frames)
        targets = level + generator.normal(0, np.sqrt(0.4), level.size)
        noise = level + generator.normal(0, 1e-9, level.size)  # moves, and follows nothing
        found = continuous_scores(targets, noise, people_of(*[frames] * people), folds=None)
        assert found["person_mean"]["ccc_pooled"]["mean"] == pytest.approx(0.75, abs=0.03)
        assert found["ccc_pooled"]["mean"] == pytest.approx(0.75, abs=0.03)
        share = found["between_share"]
        assert found["person_mean"]["ccc_pooled"]["mean"] == pytest.approx(2 * share / (1 + share))
        assert found["ccc_within"]["mean"] == pytest.approx(0, abs=0.001)
        assert found["person_mean"]["ccc_within"]["mean"] == 0
        assert found["person_mean"]["rmse"]["mean"] == pytest.approx(np.sqrt(0.4), abs=0.02)

    def test_within_first(self):
        # p0 follows, p1 runs the other way, p2 never moves, p3 isn't annotated
        targets = np.array([0.0, 1, 2, 0, 1, 2, 5, 5, 5, NAN])
        predictions = np.array([0.0, 1, 2, 2, 1, 0, 5, 5, 5, NAN])
        found = continuous_scores(targets, predictions, people_of(3, 3, 3, 1), folds=None)
        assert found["ccc_within"]["mean"] == pytest.approx(0)
        assert found["ccc_within"]["n"] == 2
        assert (found["participants"], found["participants_constant"], found["n"]) == (3, 1, 9)
        assert found["rmse"]["mean"] == pytest.approx(np.sqrt(8 / 3) / 3)
        json.dumps(to_jsonable(found), allow_nan=False)

    @pytest.mark.parametrize("targets", [[], [NAN, NAN]])
    def test_nothing_to_score(self, targets):
        found = continuous_scores(np.array(targets), np.array(targets), people_of(len(targets)), folds=None)
        assert found["participants"] == found["n"] == 0
        assert np.isnan(found["ccc_pooled"]["mean"])
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_one_participant_has_no_interval(self):
        found = continuous_scores(np.arange(4.0), np.arange(4.0), people_of(4), folds=None)
        assert found["ccc_pooled"]["mean"] == found["ccc_within"]["mean"] == 1
        assert np.isnan(found["ccc_pooled"]["low"])

    def test_impossible_input_is_refused(self):
        with pytest.raises(UserError, match="aren't finite"):
            continuous_scores(np.array([1.0]), np.array([NAN]), people_of(1), folds=None)
        with pytest.raises(UserError, match="don't fit"):
            continuous_scores(np.array([1.0]), np.array([1.0, 2.0]), people_of(1), folds=None)


def events(*rows):
    return pd.DataFrame(list(rows), columns=["recording_id", "start_s", "end_s"])


def recordings(*rows):
    return pd.DataFrame(list(rows), columns=["recording_id", "participant_id", "start_s", "end_s"])


def scored(truth, predicted, listed, **changed):
    given = {"recordings": listed, "samples_per_s": 10.0, "folds": None, "seed": 0, "draws": 19} | changed
    return event_scores(truth, predicted, **given)


class TestEvents:
    def test_samples_become_events(self):
        rows = [
            ("a", 0.0, 0), ("a", 0.1, 1), ("a", 0.2, 1), ("a", 0.3, 0), ("a", 0.4, 1), ("a", 0.5, None),
            ("a", 0.6, 1), ("b", 0.7, 1), ("b", 2.0, 1),
        ]  # fmt: skip
        samples = pd.DataFrame(rows, columns=["recording_id", "start_s", "smile"]).astype({"smile": "Int64"})
        samples["end_s"] = samples["start_s"] + 0.1
        shuffled = samples.sample(frac=1, random_state=0)
        found = events_from_samples(shuffled, column="smile").to_numpy().tolist()
        expected = [("a", 0.1, 0.3), ("a", 0.4, 0.5), ("a", 0.6, 0.7), ("b", 0.7, 0.8), ("b", 2.0, 2.1)]
        assert [tuple(row) for row in found] == [(name, pytest.approx(a), pytest.approx(b)) for name, a, b in expected]
        assert events_from_samples(samples.iloc[:0], column="smile").empty
        with pytest.raises(UserError, match="lacks frown"):
            events_from_samples(samples, column="frown")

    def test_frames_of_an_uneven_video_are_one_event(self):
        starts = np.array([0.0, 0.033, 0.067, 0.101])
        samples = pd.DataFrame({"recording_id": "a", "start_s": starts, "end_s": starts + 0.033, "on": True})
        assert len(events_from_samples(samples, column="on")) == 1

    def test_matching_is_optimal_and_one_to_one(self):
        # Greedy by order takes (0, 0) and leaves the second truth alone.
        truth = np.array([[0.0, 4.0], [4.0, 6.0]])
        predicted = np.array([[2.0, 6.0], [0.0, 2.0]])
        assert match_events(truth, predicted, iou=0.25) == [(0, 1), (1, 0)]
        assert match_events(truth[::-1], predicted[::-1], iou=0.25) == [(0, 1), (1, 0)]
        assert match_events(np.array([[0.0, 4.0]]), np.array([[0.0, 2.0], [2.0, 4.0]]), iou=0.5) == [(0, 0)]

    def test_two_loose_pairs_beat_one_tight_pair(self):
        truth = np.array([[0.0, 1.0], [1.0, 11.0]])
        predicted = np.array([[0.0, 11.0], [10.0, 20.0]])
        # (1, 0) alone has IoU 10/11; (0, 0) has 1/11 and (1, 1) 1/19
        assert match_events(truth, predicted, iou=0.05) == [(0, 0), (1, 1)]

    def test_iou_at_the_edge_counts(self):
        assert match_events(np.array([[0.1, 0.7]]), np.array([[0.4, 0.7]]), iou=0.5) == [(0, 0)]
        assert match_events(np.array([[0.0, 1.0]]), np.array([[1.0, 2.0]]), iou=0.1) == []  # half-open: they only touch
        assert match_events(np.zeros((0, 2)), np.array([[0.0, 1.0]]), iou=0.5) == []

    def test_by_hand(self):
        truth = events(("a", 10, 12), ("a", 20, 22), ("b", 5, 6))
        predicted = events(("a", 10.5, 12.5), ("a", 30, 31), ("b", 5.8, 6.8), ("c", 1, 2), ("c", 3, 4), ("c", 8, 9))
        listed = recordings(("a", "ann", 0, 60), ("b", "bob", 0, 60), ("c", "ann", 0, 90))
        found = scored(truth, predicted, listed)
        by_iou = {row["iou"]: row for row in found["f1"]}
        # ann: IoU 1.5/2.5, F1 2/4; the recording without events isn't in it. bob: IoU .2/1.8 = .11
        assert by_iou[0.1]["mean"] == pytest.approx((0.5 + 1) / 2)
        assert by_iou[0.25]["mean"] == by_iou[0.5]["mean"] == pytest.approx((0.5 + 0) / 2)
        assert found["false_alarms_per_minute"]["mean"] == pytest.approx(3 / 1.5)
        assert found["false_alarms_per_minute"]["n"] == 1  # bob has no recording without events
        assert found["onset_error_s"]["absolute"]["mean"] == pytest.approx((0.5 + 0.8) / 2)
        assert found["onset_error_s"]["signed"]["mean"] == pytest.approx((0.5 + 0.8) / 2)
        assert found["onset_error_s"]["statement"] == "0.65 s"
        assert (found["events"], found["predicted_events"], found["matched_events"]) == (3, 6, 2)
        assert (found["participants"], found["recordings_without_events"]) == (2, 1)
        assert found["minutes"] == pytest.approx(3.5)
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_an_error_below_the_sampling_interval_is_not_claimed(self):
        truth = events(("a", 10, 12), ("b", 5, 6))
        predicted = events(("a", 10.05, 12.4), ("b", 4.98, 6.4))
        listed = recordings(("a", "ann", 0, 60), ("b", "bob", 0, 60))
        found = scored(truth, predicted, listed, samples_per_s=5.0)
        onset, offset = found["onset_error_s"], found["offset_error_s"]
        assert found["resolution_s"] == onset["absolute"]["mean"] == pytest.approx(0.2)
        assert onset["at_most_one_sampling_interval"]
        assert onset["statement"] == "at most one sampling interval (0.2 s)"
        assert np.isnan(onset["signed"]["mean"]) and np.isnan(onset["absolute"]["low"])
        assert onset["signed"]["n"] == 2
        assert not offset["at_most_one_sampling_interval"]
        assert offset["absolute"]["mean"] == offset["signed"]["mean"] == pytest.approx(0.4)

    def test_early_and_late_cancel_only_with_their_sign(self):
        truth, listed = events(("a", 10, 14), ("b", 10, 14)), recordings(("a", "ann", 0, 60), ("b", "bob", 0, 60))
        found = scored(truth, events(("a", 9, 14), ("b", 11, 14)), listed)["onset_error_s"]
        assert found["absolute"]["mean"] == pytest.approx(1)
        assert np.isnan(found["signed"]["mean"])  # 0 is within one sampling interval

    def many(self, *, lag_s=None, seed=0):
        """8 people with 4 events of 2 s each; predicted `lag_s` too late, or anywhere."""
        generator = np.random.default_rng(seed)
        truth, predicted, listed = [], [], []
        for person in range(8):
            begins = np.sort(generator.choice(np.arange(0, 110, 10.0), 4, replace=False))
            found = generator.uniform(0, 118, 4) if lag_s is None else begins + lag_s
            truth += [(f"r{person}", begin, begin + 2) for begin in begins]
            predicted += [(f"r{person}", begin, begin + 2) for begin in found]
            listed.append((f"r{person}", f"p{person}", 0, 120))
        return events(*truth), events(*predicted), recordings(*listed)

    def test_skill_beats_the_shifted_null_and_chance_does_not(self):
        skilled = scored(*self.many(lag_s=0.3), draws=199)
        assert [row["p"] for row in skilled["f1"]] == [pytest.approx(1 / 200)] * 3
        assert skilled["smallest_p"] == pytest.approx(1 / 200)
        chance = [scored(*self.many(seed=seed), draws=39)["f1"][0]["p"] for seed in range(40)]
        assert np.mean(np.array(chance) <= 0.05) <= 0.15  # .05 expected
        assert 0.3 < np.mean(chance) < 0.8

    def test_the_null_is_seeded_and_keeps_an_event_that_wraps_whole(self):
        truth, predicted, listed = self.many(lag_s=1.5)
        first, again = (to_jsonable(scored(truth, predicted, listed, seed=5)) for _ in range(2))
        assert first == again
        assert to_jsonable(scored(truth, predicted, listed, seed=6))["f1"] != first["f1"]
        # One event that fills the recording overlaps the truth alike wherever it is shifted to.
        whole = scored(events(("a", 2, 10)), events(("a", 0, 10)), recordings(("a", "ann", 0, 10)))["f1"]
        assert [(row["mean"], row["null_mean"], row["p"]) for row in whole] == [(1, pytest.approx(1), 1)] * 3

    def test_no_predictions_no_truth_nothing(self):
        listed = recordings(("a", "ann", 0, 60))
        silent = scored(events(("a", 1, 2)), events(), listed)
        assert (silent["f1"][0]["mean"], silent["f1"][0]["p"]) == (0, 1)
        assert silent["onset_error_s"]["statement"] == "no event was matched"
        without = scored(events(), events(("a", 1, 2)), listed)
        assert np.isnan(without["f1"][0]["mean"]) and np.isnan(without["f1"][0]["p"])
        assert without["false_alarms_per_minute"]["mean"] == 1
        nothing = scored(events(), events(), recordings())
        assert nothing["participants"] == 0
        for each in (silent, without, nothing):
            json.dumps(to_jsonable(each), allow_nan=False)

    def test_times_count_from_the_start_of_the_recording(self):
        late = scored(events(("a", 101, 102)), events(("a", 101, 102)), recordings(("a", "ann", 100, 160)))
        assert late["f1"][2]["mean"] == 1

    @pytest.mark.parametrize(
        ("truth", "listed", "changed", "message"),
        [
            (events(), recordings(), {"samples_per_s": 4.9}, "at least 5"),
            (events(), recordings(), {"draws": 0}, "0 draws"),
            (events(("a", 2, 1)), recordings(("a", "ann", 0, 60)), {}, "from 2 to 1 s"),
            (events(("a", 59, 61)), recordings(("a", "ann", 0, 60)), {}, "within 0 to 60 s"),
            (events(("b", 1, 2)), recordings(("a", "ann", 0, 60)), {}, "isn't listed"),
            (events(), recordings(("a", "ann", 0, 60), ("a", "bob", 0, 60)), {}, "listed twice"),
            (events(), recordings(("a", "ann", 5, 5)), {}, "end must be after"),
        ],
    )
    def test_impossible_input_is_refused(self, truth, listed, changed, message):
        with pytest.raises(UserError, match=message):
            scored(truth, events(), listed, **changed)


class TestAbstention:
    def test_by_hand(self):
        # confidences .9 .8 .7 .6: right, right, wrong, wrong
        found = risk_coverage(
            np.array([1.0, 0, 1, 0]), np.array([[0.9], [0.2], [0.3], [0.6]]), people_of(4), scheme=BINARY, folds=None,
            coverages=(1.0, 0.75, 0.5),
        )  # fmt: skip
        full, three, half = found["curve"]
        assert (full["accuracy"]["mean"], full["kept"], full["threshold"]) == (0.5, 1, pytest.approx(0.6))
        assert (three["accuracy"]["mean"], three["kept"]) == (pytest.approx(2 / 3), 0.75)
        assert (half["accuracy"]["mean"], half["threshold"]) == (1, pytest.approx(0.8))
        assert half["balanced_accuracy"]["mean"] == 1
        # risk 0 up to .5, then (c - .5) / c: .5 - .5 ln 2
        assert found["aurc"]["mean"] == pytest.approx(0.5 - 0.5 * np.log(2))
        assert found["error_rate"] == 0.5

    def test_it_shows_who_is_silenced(self):
        # p0 and p1 are always sure, p2 never: at 2/3 everything that is dropped is p2's
        probabilities = np.array([[0.9]] * 20 + [[0.55]] * 10)
        targets = np.tile([1.0, 0], 15)
        found = risk_coverage(
            targets, probabilities, people_of(10, 10, 10), scheme=BINARY, folds=None, coverages=(1.0, 0.6)
        )
        first, last = found["curve"]
        assert first["per_participant"] == {"min": 1, "median": 1}
        assert (first["participants_below_half"], first["participants_silent"]) == (0, 0)
        assert last["per_participant"] == {"min": 0, "median": 1}
        assert (last["participants_below_half"], last["participants_silent"]) == (1, 1)
        assert last["kept"] == pytest.approx(2 / 3)  # equal confidences stay together
        assert last["balanced_accuracy"]["n"] == 2
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_a_confidence_that_knows_nothing_has_the_error_rate_as_area(self):
        constant = risk_coverage(
            np.array([1.0, 1, 0, 0, 0]), np.full((5, 1), 0.3), people_of(3, 2), scheme=BINARY, folds=None
        )
        assert constant["aurc"]["mean"] == pytest.approx(constant["error_rate"]) == pytest.approx((2 / 3 + 0) / 2)
        generator = np.random.default_rng(0)
        logits = generator.normal(0, 2, (4000, 1))
        chances = 1 / (1 + np.exp(-logits))
        people = people_of(*[100] * 40)
        honest = risk_coverage(
            (generator.random(4000) < chances[:, 0]).astype(float), chances, people, scheme=BINARY, folds=None
        )
        blind = risk_coverage(
            (generator.random(4000) < 0.7).astype(float), 0.5 + 0.5 * generator.random((4000, 1)), people,
            scheme=BINARY, folds=None,
        )  # fmt: skip
        assert honest["aurc"]["high"] < honest["error_rate"]
        accuracies = [row["accuracy"]["mean"] for row in honest["curve"]]
        assert accuracies == sorted(accuracies)
        assert blind["aurc"]["mean"] == pytest.approx(blind["error_rate"], abs=0.02)

    def test_the_area_is_that_of_the_curve_by_small_steps(self):
        generator = np.random.default_rng(3)
        count = 2000
        confidence = np.round(0.5 + 0.5 * generator.random(count), 4)
        targets = (generator.random(count) < confidence).astype(float)
        found = risk_coverage(targets, confidence[:, None], people_of(count), scheme=BINARY, folds=None)
        order = np.argsort(-confidence, kind="stable")
        by_step = np.mean(np.cumsum(targets[order] == 0) / np.arange(1, count + 1))
        assert found["aurc"]["mean"] == pytest.approx(by_step, abs=0.002)

    def test_multiclass_and_missing(self):
        probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8], [NAN, NAN, NAN]])
        found = risk_coverage(
            np.array([0, 2, 2, NAN]), probabilities, people_of(4), scheme=THREE, folds=None, coverages=(1.0, 0.6)
        )
        assert found["n"] == 3
        assert [row["accuracy"]["mean"] for row in found["curve"]] == [pytest.approx(2 / 3), 1]

    def test_nothing_to_score(self):
        found = risk_coverage(np.array([NAN]), np.array([[0.5]]), people_of(1), scheme=BINARY, folds=None)
        assert found["curve"] == []
        assert np.isnan(found["aurc"]["mean"])
        json.dumps(to_jsonable(found), allow_nan=False)

    @pytest.mark.parametrize(
        ("targets", "probability", "coverages", "message"),
        [([1.0], 0.5, (0.0,), "Coverage 0"), ([2.0], 0.5, (1.0,), "outside 0..1"), ([1.0], NAN, (1.0,), "1 of 1")],
    )
    def test_impossible_input_is_refused(self, targets, probability, coverages, message):
        with pytest.raises(UserError, match=message):
            risk_coverage(
                np.array(targets), np.array([[probability]]), people_of(1), scheme=BINARY, folds=None,
                coverages=coverages,
            )  # fmt: skip


def model_scores(participants, *, unit="frame", clips=4, seed=0):
    generator = np.random.default_rng(seed)
    scheme = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human", unit)
    rows = []
    for p, c in itertools.product(range(participants), range(clips)):
        target = p // 2 % 2 if unit == "participant" else c % 2
        probability = float(np.clip(0.5 + (target - 0.5) * 0.5 + generator.normal(0, 0.4), 0, 1))
        rows.append(
            {
                "model": "m", "fold": p % 2, "clip_id": f"{p}-{c}", "recording_id": f"r{p}", "participant_id": f"p{p}",
                "start_s": float(c), "end_s": c + 1.0, "prob_Smile": probability, "target": target,
            }
        )  # fmt: skip
    return participant_scores(pd.DataFrame(rows).astype({"target": "Int64"}), scheme)


def table(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"participant_id": [f"p{i}" for i in range(count)], **columns})


class TestGroups:
    def test_age_bands(self):
        ages = [17.9, 18, 29, 30, 44.5, 45, 59, 60, 99, 0, -1, NAN, None, "33", "unknown", pd.NA]
        bands = ["under 18", "18-29", "18-29", "30-44", "30-44", "45-59", "45-59", "60+", "60+"]
        assert [age_band(age) for age in ages] == [*bands, *["not given"] * 4, "30-44", "not given", "not given"]

    def test_by_hand(self):
        scores = model_scores(24)
        attributes = table(gender=["f"] * 11 + ["m"] * 9 + [None] * 4, age=[20.0] * 12 + [70.0] * 12)
        found = scores_by_group(scores, attributes, folds=2, chance=0.0)
        assert [(row["attribute"], row["group"], row["n"], row["claim"]) for row in found] == [
            ("gender", "f", 11, True),
            ("gender", "m", 9, False),
            ("gender", "not given", 4, False),
            ("age", "18-29", 12, True),
            ("age", "60+", 12, True),
        ]
        women = scores.loc[scores["participant_id"].isin([f"p{i}" for i in range(11)]), "balanced_accuracy"]
        expected = participant_interval(women.to_numpy(), folds=2)
        assert found[0]["balanced_accuracy"] == {
            "mean": expected.mean, "low": expected.low, "high": expected.high, "n": 11,
        }  # fmt: skip
        json.dumps(to_jsonable(found), allow_nan=False)

    def test_the_claim_rests_on_those_who_have_a_score(self):
        scores = model_scores(2 * MIN_GROUP)
        scores.loc[scores["participant_id"] == "p0", "balanced_accuracy"] = NAN
        found = scores_by_group(scores, table(site=["a", "b"] * MIN_GROUP), folds=None, chance=0.0)
        assert [(row["group"], row["n"], row["balanced_accuracy"]["n"], row["claim"]) for row in found] == [
            ("a", MIN_GROUP, MIN_GROUP - 1, False),
            ("b", MIN_GROUP, MIN_GROUP, True),
        ]

    def test_attributes_that_make_no_groups(self):
        scores = model_scores(30)
        attributes = table(
            name=[f"n{i}" for i in range(30)],
            weight=[float(i // 2 + i % 3 * 20) for i in range(30)],
            species=["human"] * 30,
            empty=[None] * 30,
            site=["a", "b"] * 15,
        )
        several = pd.concat([attributes, attributes.assign(site="a")], ignore_index=True)
        assert [row["attribute"] for row in scores_by_group(scores, attributes, folds=None)] == ["site", "site"]
        assert scores_by_group(scores, several, folds=None) == []
        reasons = skipped_attributes(scores, several)
        assert reasons["name"].startswith("has 30 values")
        assert reasons["weight"].startswith("has ")
        assert reasons["species"] == "is the same for all participants"
        assert reasons["empty"] == "is given for nobody"
        assert reasons["site"].startswith("differs within 15 participants, such as p1")

    def test_another_value_for_each_of_a_few(self):
        reasons = skipped_attributes(model_scores(6), table(code=list("abcdef"), age=[20, 35, 50, 70, 0, 0]))
        assert reasons == {"code": "has another value for each participant"}

    def test_values_are_the_same_whatever_their_type(self):
        attributes = table(hand=[1.0, 1.0, 2.0, NAN, " ", 2.0])
        found = scores_by_group(model_scores(6), attributes, folds=None)
        assert [(row["group"], row["n"]) for row in found] == [("1", 2), ("2", 2), ("not given", 2)]

    def test_participants_without_a_row_are_not_hidden(self):
        found = scores_by_group(model_scores(6), table(site=["a", "a", "b", "b"]), folds=None)
        assert [(row["group"], row["n"]) for row in found] == [("a", 2), ("b", 2), ("not given", 2)]

    def test_one_label_per_participant_is_scored_over_the_group(self):
        scores = model_scores(24, unit="participant")
        assert scores["balanced_accuracy"].isna().all()
        found = scores_by_group(scores, table(site=["a"] * 12 + ["b"] * 12), folds=2)
        assert [row["balanced_accuracy"]["n"] for row in found] == [12, 12]
        assert all(0 <= row["balanced_accuracy"]["mean"] <= 1 for row in found)

    def test_nobody(self):
        scores = model_scores(2)
        scores["n"] = 0.0
        assert scores_by_group(scores, table(site=["a", "b"]), folds=None) == []

    def test_impossible_input_is_refused(self):
        scores = model_scores(4)
        with pytest.raises(UserError, match="of one model"):
            scores_by_group(scores.iloc[:0], table(site=["a"]), folds=None)
        with pytest.raises(UserError, match="more than once"):
            scores_by_group(pd.concat([scores, scores]), table(site=["a"]), folds=None)
        with pytest.raises(UserError, match="participant_id"):
            scores_by_group(scores, pd.DataFrame({"site": ["a"]}), folds=None)
