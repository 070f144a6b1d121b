"""Metrics by hand, intervals by simulation, trivial predictors by what they must score."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import to_jsonable
from mien.core.types import Split
from mien.evaluation.baselines import trivial_predictions, trivial_scores
from mien.evaluation.intervals import binomial_interval, participant_interval
from mien.evaluation.metrics import confusion, false_alarms_per_minute, prevalence_agreement, score_participant
from mien.evaluation.overfitting import best_epoch, overfitting
from mien.evaluation.prevalence import prevalence_sweep
from mien.evaluation.scores import check_predictions, participant_scores, summarise_model
from mien.evaluation.units import confusion_of, scored_per

BINARY = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
THREE = LabelScheme("Mood", "multiclass", ("calm", "glad", "sad"), "human")


def column(*values: float):
    return np.array(values, dtype=np.float64)[:, None]


def predictions_table(model="m", *, participants, clips=4, folds=2, seed=0, unit_constant=False):
    """Predictions of a middling binary model: every participant has both classes unless `unit_constant`."""
    generator = np.random.default_rng(seed)
    rows = []
    for p in range(participants):
        for c in range(clips):
            target = p % 2 if unit_constant else c % 2
            prob = float(np.clip(0.5 + (target - 0.5) * 0.5 + generator.normal(0, 0.3), 0.01, 0.99))
            rows.append(
                {
                    "model": model, "fold": p % folds, "clip_id": f"r{p}-{c}", "recording_id": f"r{p}",
                    "participant_id": f"p{p:02d}", "start_s": float(c), "end_s": c + 1.0,
                    "logit_Smile": float(np.log(prob / (1 - prob))), "prob_Smile": prob,
                    "target": target, "face_found": True,
                }
            )  # fmt: skip
    return pd.DataFrame(rows).astype({"target": "Int64"})


class TestBinaryMetrics:
    def test_by_hand(self):
        # predicted 1 1 0 | 1 0 0 0: TP 2, FN 1, FP 1, TN 3
        scores = score_participant(np.array([1, 1, 1, 0, 0, 0, 0]), column(0.9, 0.6, 0.2, 0.7, 0.4, 0.3, 0.1), BINARY)
        assert scores["sensitivity"] == scores["recall"] == pytest.approx(2 / 3)
        assert scores["specificity"] == pytest.approx(3 / 4)
        assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 4) / 2)
        assert scores["precision"] == pytest.approx(2 / 3)
        assert scores["f1"] == pytest.approx(2 / 3)
        assert scores["macro_f1"] == pytest.approx((2 / 3 + 3 / 4) / 2)
        assert scores["accuracy"] == pytest.approx(5 / 7)
        # pairs (positive above negative): .9 beats 4, .6 beats 3, .2 beats 1 of 4
        assert scores["auroc"] == pytest.approx(8 / 12)
        # precision at each hit, in order of score: 1/1, 2/3, 3/6
        assert scores["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
        assert (scores["true_prevalence"], scores["predicted_prevalence"]) == (
            pytest.approx(3 / 7),
            pytest.approx(3 / 7),
        )
        assert (scores["positives"], scores["n"]) == (3, 7)
        expected_loss = -np.log([0.9, 0.6, 0.2, 0.3, 0.6, 0.7, 0.9]).mean()
        assert scores["log_loss"] == pytest.approx(expected_loss)

    def test_ties_count_half_in_auroc(self):
        assert score_participant(np.array([1, 0]), column(0.4, 0.4), BINARY)["auroc"] == 0.5

    def test_without_positives_only_the_negatives_are_scored(self):
        scores = score_participant(np.array([0, 0, 0]), column(0.9, 0.2, 0.1), BINARY)
        for name in ("balanced_accuracy", "f1", "macro_f1", "recall", "sensitivity", "auroc", "auprc"):
            assert np.isnan(scores[name]), name
        assert scores["specificity"] == scores["accuracy"] == pytest.approx(2 / 3)
        assert scores["precision"] == 0  # one alarm, and it is false
        assert scores["true_prevalence"] == 0

    def test_never_predicting_has_f1_zero_but_no_precision(self):
        scores = score_participant(np.array([1, 0, 0]), column(0.1, 0.1, 0.1), BINARY)
        assert scores["f1"] == 0
        assert scores["balanced_accuracy"] == 0.5
        assert np.isnan(scores["precision"])

    def test_only_positives_has_no_trivial_auprc(self):
        assert np.isnan(score_participant(np.array([1, 1]), column(0.9, 0.1), BINARY)["auprc"])

    def test_no_clips(self):
        scores = score_participant(np.array([], dtype=np.int64), np.zeros((0, 1)), BINARY)
        assert (scores.pop("n"), scores.pop("positives")) == (0, 0)
        assert all(np.isnan(value) for value in scores.values())

    @pytest.mark.parametrize(
        ("targets", "probabilities", "message"),
        [
            ([0, 1], column(0.5), "shape"),
            ([0, 2], column(0.5, 0.5), "allowed: 0..1"),
            ([0, 1], column(0.5, np.nan), "1 of 2 scored clips"),
            ([0, 1], column(0.5, 1.5), "1 of 2 scored clips"),
        ],
    )
    def test_impossible_input_is_refused(self, targets, probabilities, message):
        with pytest.raises(UserError, match=message):
            score_participant(np.array(targets), probabilities, BINARY)


class TestMulticlassMetrics:
    PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])

    def test_by_hand(self):
        # true calm calm glad glad sad; predicted calm glad glad glad sad
        scores = score_participant(np.array([0, 0, 1, 1, 2]), self.PROBABILITIES, THREE)
        assert scores["balanced_accuracy"] == scores["recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
        assert scores["f1"] == scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 1) / 3)
        assert scores["precision"] == pytest.approx((1 + 2 / 3 + 1) / 3)
        assert scores["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3)
        # calm: .8 .2 against .1 .3 .1 -> 5/6; glad: .8 .4 against .1 .7 .2 -> 5/6; sad: 1
        assert scores["auroc"] == pytest.approx((5 / 6 + 5 / 6 + 1) / 3)
        assert scores["true_prevalence_glad"] == pytest.approx(2 / 5)
        assert scores["predicted_prevalence_glad"] == pytest.approx(3 / 5)
        assert np.isnan(scores["true_prevalence"])
        assert np.isnan(scores["positives"])

    def test_a_missing_class_undefines_balanced_accuracy_alone(self):
        # true calm calm glad glad; predicted calm glad glad glad
        scores = score_participant(np.array([0, 0, 1, 1]), self.PROBABILITIES[:4], THREE)
        assert np.isnan(scores["balanced_accuracy"])
        assert scores["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert scores["recall"] == pytest.approx(3 / 4)
        assert scores["auroc"] == pytest.approx((3 / 4 + 3 / 4) / 2)  # .8 .2 v .1 .3; .8 .4 v .1 .7

    def test_one_class_has_no_ranking(self):
        scores = score_participant(np.array([1, 1]), self.PROBABILITIES[1:3], THREE)
        assert np.isnan([scores["auroc"], scores["auprc"], scores["f1"]]).all()


def test_confusion_rows_are_the_true_class():
    assert confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 2, 2]), 3).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]


class TestFalseAlarms:
    def rate(self, targets, predicted, starts, recordings=None, length=1.0):
        starts = np.array(starts, dtype=np.float64)
        names = np.array(recordings or ["r"] * len(starts), dtype=object)
        return false_alarms_per_minute(
            np.array(targets), np.array(predicted), recording_ids=names, start_s=starts, end_s=starts + length
        )

    def test_a_run_is_one_alarm(self):
        # negative 6 s of 8; alarms at 0-2 and 5-6; the hit in between is none
        assert self.rate([0, 0, 0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 0, 0], range(8)) == pytest.approx(2 / (6 / 60))

    def test_order_of_rows_does_not_matter(self):
        assert self.rate([0, 0, 0], [1, 0, 1], [0, 2, 1]) == pytest.approx(1 / (3 / 60))

    def test_a_gap_or_another_recording_ends_a_run(self):
        assert self.rate([0, 0], [1, 1], [0, 30]) == pytest.approx(2 / (2 / 60))
        assert self.rate([0, 0], [1, 1], [0, 1], ["a", "b"]) == pytest.approx(2 / (2 / 60))

    def test_overlapping_clips_count_their_time_once(self):
        assert self.rate([0, 0, 0], [0, 0, 1], [0, 1, 2], length=2.0) == pytest.approx(1 / (4 / 60))

    def test_without_negative_time_it_is_undefined(self):
        assert np.isnan(self.rate([1, 1], [1, 0], [0, 1]))


def test_prevalence_agreement():
    result = prevalence_agreement(np.array([0.1, 0.3, 0.5, np.nan]), np.array([0.2, 0.3, 0.4, 0.9]))
    assert result["slope"] == pytest.approx(0.5)
    assert result["bias"] == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(prevalence_agreement(np.array([0.1, 0.3]), np.array([0.2, 0.3]))["slope"])
    assert np.isnan(prevalence_agreement(np.full(4, 0.3), np.arange(4) / 4)["slope"])


class TestInterval:
    def test_fixed_predictions_by_hand(self):
        interval = participant_interval(np.array([0.6, 0.7, 0.8, np.nan]), folds=None)
        half = 4.302652729911275 * 0.1 / np.sqrt(3)  # t(.975, 2)
        assert (interval.mean, interval.n) == (pytest.approx(0.7), 3)
        assert (interval.low, interval.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))

    def test_retrained_folds_widen_it_by_the_correction(self):
        values = np.array([0.58, 0.62, 0.61, 0.59, 0.6])
        fixed, five = participant_interval(values, folds=None), participant_interval(values, folds=5)
        assert (five.high - five.mean) / (fixed.high - fixed.mean) == pytest.approx(np.sqrt(1 + 5 / 4))
        assert participant_interval(values, folds=2).low < five.low

    def test_it_stays_within_the_bounds(self):
        interval = participant_interval(np.array([0.99, 0.7, 1.0]), folds=5)
        assert interval.high == 1.0
        assert 0.0 <= interval.low < 0.9

    def test_perfect_scores_are_not_certain(self):
        # exact binomial: 20 of 20 says that at least .025 ** (1/20) of people score 1
        interval = participant_interval(np.ones(20), folds=None)
        assert (interval.low, interval.high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
        none = participant_interval(np.zeros(5), folds=None)
        assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 5)))

    def test_equal_scores_elsewhere_have_no_interval(self):
        interval = participant_interval(np.full(6, 0.5), folds=5)
        assert (interval.mean, interval.n) == (0.5, 6)
        assert np.isnan([interval.low, interval.high]).all()

    def test_too_few(self):
        one, none = participant_interval(np.array([0.7]), folds=5), participant_interval(np.full(2, np.nan), folds=5)
        assert (one.mean, one.n) == (0.7, 1)
        assert np.isnan([one.low, one.high, none.mean, none.low, none.high]).all()
        assert none.n == 0

    def test_wrong_input(self):
        with pytest.raises(UserError, match="at least 2"):
            participant_interval(np.array([0.5, 0.6]), folds=1)
        with pytest.raises(UserError, match=r"allowed: 0\.\.1"):
            participant_interval(np.array([0.5, 60.0]), folds=5)

    @pytest.mark.parametrize("participants", [5, 10, 20, 40])
    def test_coverage_of_fixed_models(self, participants):
        # EVALUATION.md, T4: true .70, participant sd .12, 200 clips each; the t-interval covers .94-.95.
        generator = np.random.default_rng(4)
        rounds = 1500
        skill = np.clip(generator.normal(0.70, 0.12, (rounds, participants)), 0, 1)
        scores = generator.binomial(200, skill) / 200
        intervals = [participant_interval(row, folds=None) for row in scores]
        coverage = np.mean([interval.low <= 0.70 <= interval.high for interval in intervals])
        assert 0.93 <= coverage <= 0.965  # the binomial error of 1500 rounds is .006


class TestBinomialInterval:
    @pytest.mark.parametrize(
        ("hits", "total", "low", "high"),
        [(8, 10, 0.4439, 0.9748), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129)],
    )
    def test_one_share_is_that_of_the_tables(self, hits, total, low, high):
        # Clopper-Pearson at 95 %, as R's binom.test prints it.
        interval = binomial_interval(np.array([hits]), np.array([total]))
        assert (interval.mean, interval.n) == (hits / total, total)
        assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))

    def test_a_mean_of_two_splits_the_error(self):
        both = binomial_interval(np.array([5, 2]), np.array([5, 8]))
        one = [binomial_interval(np.array([h]), np.array([n]), confidence=0.975) for h, n in ((5, 5), (2, 8))]
        assert both.mean == pytest.approx((1 + 0.25) / 2)
        assert both.low == pytest.approx((one[0].low + one[1].low) / 2)
        assert both.high == pytest.approx((1 + one[1].high) / 2)
        assert both.n == 13

    def test_it_covers_balanced_accuracy(self):
        generator = np.random.default_rng(1)
        hits = generator.binomial([10, 6], [0.8, 0.6], size=(600, 2))
        intervals = [binomial_interval(row, np.array([10, 6])) for row in hits]
        assert np.mean([interval.low <= 0.7 <= interval.high for interval in intervals]) >= 0.95

    def test_wrong_input(self):
        assert np.isnan(binomial_interval(np.zeros(0), np.zeros(0)).mean)
        for hits, totals in (([3], [2]), ([0], [0]), ([-1], [2])):
            with pytest.raises(UserError, match="allowed: 0 up to"):
                binomial_interval(np.array(hits), np.array(totals))


class TestTrivialPredictions:
    SPLITS = (
        Split(0, train=("c", "d"), validation=("b",), test=("a",), seed=0),
        Split(1, train=("a", "d"), validation=("c",), test=("b",), seed=0),
    )

    def clips(self, repeat=1):
        rows = []
        for person, targets in {"a": [1, 1, 1, None], "b": [0, 0, 0, 1], "c": [0, 0], "d": [1, 0]}.items():
            for index, target in enumerate(targets * repeat):
                rows.append([f"{person}{index}", person, person, index, index + 1, target, True])
        columns = ["clip_id", "recording_id", "participant_id", "start_s", "end_s", "target", "face_found"]
        return pd.DataFrame(rows, columns=columns).astype({"target": "Int64"})

    def predict(self, kind, **changes: object):
        given = {"clips": self.clips(), "splits": self.SPLITS, "scheme": BINARY, "seed": 0} | changes
        return trivial_predictions(kind, **given)

    def test_majority_follows_the_other_participants_of_the_fold(self):
        table = self.predict("majority")
        # fold 0 learns 2 of 8 positive; fold 1 learns 4 of 7
        assert table.loc[table["fold"] == 0, "prob_Smile"].max() < 1e-6
        assert table.loc[table["fold"] == 1, "prob_Smile"].min() > 1 - 1e-6
        assert table["clip_id"].tolist() == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
        assert table["model"].eq("majority").all()
        assert table["target"].isna().tolist() == [False] * 3 + [True] + [False] * 4

    def test_prior_draws_with_the_shares_of_the_fold(self):
        table = self.predict("prior", clips=self.clips(repeat=500))
        shares = table.groupby("fold")["prob_Smile"].mean()
        assert shares[0] == pytest.approx(2 / 8, abs=0.04)
        assert shares[1] == pytest.approx(4 / 7, abs=0.04)

    def test_scores_of_the_prior_are_the_mean_of_its_draws(self):
        given = {"clips": self.clips(repeat=5), "splits": self.SPLITS, "scheme": BINARY, "seed": 3}
        several = trivial_scores(**given, draws=40)
        assert several["model"].tolist() == ["majority"] * 2 + ["prior"] * 2 + ["participant-mean"] * 2
        alone = participant_scores(self.predict("majority", clips=given["clips"]), BINARY)
        pd.testing.assert_frame_equal(several[several["model"] == "majority"], alone, check_dtype=False)
        prior = several[several["model"] == "prior"].set_index("participant_id")
        # b has 15 negatives and 5 positives, and 4 of 7 of the others' clips are positive
        row = prior.loc["b"]
        assert (row["n"], row["positives"], row["fold"]) == (20, 5, 1)
        assert row["count_0_0"] + row["count_0_1"] == pytest.approx(15)
        assert row["count_1_1"] == pytest.approx(5 * 4 / 7, abs=0.6)
        assert row["balanced_accuracy"] == pytest.approx(0.5, abs=0.06)
        assert np.isnan(prior.loc["a", "balanced_accuracy"])  # never negative
        summary = summarise_model(several[several["model"] == "prior"], folds=2)
        assert np.sum(summary["confusion"], axis=1).tolist() == [15, 20]
        assert summary["balanced_accuracy"]["n"] == 1
        pd.testing.assert_frame_equal(several, trivial_scores(**given, draws=40))
        with pytest.raises(UserError, match="0 draws"):
            trivial_scores(**given, draws=0)

    def test_participant_mean_knows_who_and_not_when(self):
        scores = trivial_scores(clips=self.clips(repeat=5), splits=self.SPLITS, scheme=BINARY, seed=0)
        oracle = scores[scores["model"] == "participant-mean"].set_index("participant_id")
        # b is positive in 1 of 4 clips, a in all
        assert oracle["accuracy"].to_dict() == {"a": 1.0, "b": 0.75}
        assert (oracle.loc["b", "balanced_accuracy"], oracle.loc["b", "auroc"]) == (0.5, 0.5)
        assert oracle.loc["b", "log_loss"] == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))
        assert np.isnan(oracle.loc["a", "balanced_accuracy"])
        table = self.predict("participant-mean")
        assert table.groupby("participant_id")["prob_Smile"].first().to_dict() == {
            "a": pytest.approx(1.0),
            "b": pytest.approx(0.25),
        }
        clips = self.clips().assign(target=[0, 1, 2, 2, 2, 2, 2, 2, 0, 1, 2, 2])
        shares = self.predict("participant-mean", clips=clips, scheme=THREE)[["prob_calm", "prob_glad", "prob_sad"]]
        assert shares.iloc[0].tolist() == pytest.approx([0.25, 0.25, 0.5])

    def test_participant_mean_would_be_the_truth_of_who_has_one_label(self):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="participant")
        clips = self.people(num=6, clips=2)
        names = tuple(f"p{p}" for p in range(6))
        splits = [Split(0, train=names[:3], validation=(), test=names[3:], seed=0)]
        scores = trivial_scores(clips=clips, splits=splits, scheme=scheme, seed=0, draws=2)
        assert set(scores["model"]) == {"majority", "prior"}
        with pytest.raises(UserError, match="one label per participant"):
            self.predict("participant-mean", clips=clips, splits=splits, scheme=scheme)

    def test_many_draws_of_the_prior_are_at_chance_with_few_participants(self):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="participant")
        clips = self.people(num=12, clips=2)
        names = [f"p{p}" for p in range(12)]
        halves = (names[:6], names[6:])
        splits = [Split(i, train=tuple(halves[1 - i]), validation=(), test=tuple(halves[i]), seed=0) for i in (0, 1)]
        scores = trivial_scores(clips=clips, splits=splits, scheme=scheme, seed=0, draws=50)
        summary = summarise_model(scores[scores["model"] == "prior"], folds=2)
        assert summary["balanced_accuracy"]["mean"] == pytest.approx(0.5, abs=0.06)
        assert summary["recall"]["mean"] == pytest.approx(1 / 3, abs=0.08)
        # 4 of 12 are positive, a third of them is found, and a third of the 8 others is called positive
        assert summary["f1"]["mean"] == pytest.approx(1 / 3, abs=0.08)
        assert summary["auroc"]["mean"] == 0.5
        assert np.sum(summary["confusion"], axis=1).tolist() == [8, 4]
        assert summary["accuracy"]["low"] < summary["accuracy"]["mean"] < summary["accuracy"]["high"]
        assert summary["accuracy"]["n"] == 12

    def test_counts_that_are_means_are_rounded_to_the_sums_of_their_classes(self):
        cells = {"count_0_0": [0.35, 0.5], "count_0_1": [0.65, 0.5], "count_1_0": [1.25, 1.0], "count_1_1": [1.75, 0]}
        assert confusion_of(pd.DataFrame(cells)).tolist() == [[1, 1], [2, 2]]

    def test_who_always_says_one_class_has_no_interval_where_all_scores_are_equal(self):
        table = predictions_table(participants=6).assign(prob_Smile=0.1)
        summary = summarise_model(participant_scores(table, BINARY), folds=2)
        for name, mean in (("f1", 0.0), ("recall", 0.0), ("balanced_accuracy", 0.5), ("specificity_interval", 1.0)):
            assert summary[name]["mean"] == mean, name
            assert np.isnan([summary[name]["low"], summary[name]["high"]]).all(), name
        right = table.assign(prob_Smile=table["target"].astype(float))
        assert summarise_model(participant_scores(right, BINARY), folds=2)["f1"]["low"] < 1

    def test_draws_depend_on_the_seed_and_not_on_the_other_folds(self):
        clips = self.clips(repeat=50)
        both, alone = self.predict("prior", clips=clips), self.predict("prior", clips=clips, splits=self.SPLITS[1:])
        pd.testing.assert_frame_equal(both[both["fold"] == 1].reset_index(drop=True), alone)
        assert not both["prob_Smile"].equals(self.predict("prior", clips=clips, seed=1)["prob_Smile"])

    def people(self, *, num, clips, recordings=1):
        """Clips of people of whom every third is positive, all the time; the positive ones have five times as many."""
        rows = [
            [f"p{p}-{r}-{c}", f"p{p}-{r}", f"p{p}", c, c + 1, int(p % 3 == 0), True]
            for p in range(num)
            for r in range(recordings)
            for c in range(clips * (5 if p % 3 == 0 else 1))
        ]
        return pd.DataFrame(rows, columns=self.clips().columns).astype({"target": "Int64"})

    @pytest.mark.parametrize(("unit", "recordings"), [("participant", 1), ("recording", 1), ("recording", 3)])
    def test_one_draw_per_unit_with_the_shares_of_the_units(self, unit, recordings):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit=unit)
        clips = self.people(num=300, clips=2, recordings=recordings)
        names = [f"p{p}" for p in range(300)]
        splits = (
            Split(0, train=tuple(names[150:]), validation=(), test=tuple(names[:150]), seed=0),
            Split(1, train=tuple(names[:150]), validation=(), test=tuple(names[150:]), seed=0),
        )
        prior = self.predict("prior", clips=clips, splits=splits, scheme=scheme)
        assert prior.groupby("participant_id")["prob_Smile"].nunique().eq(1).all()
        # One participant of 3 is positive, though 5 of 7 clips are.
        shares = prior.groupby("participant_id")["prob_Smile"].first()
        assert shares.mean() == pytest.approx(1 / 3, abs=0.09)
        summary = summarise_model(participant_scores(prior, scheme), folds=2)
        assert summary["balanced_accuracy"]["mean"] == pytest.approx(0.5, abs=0.09)
        assert 0.1 < summary["recall"]["mean"] < 0.6
        majority = self.predict("majority", clips=clips, splits=splits, scheme=scheme)
        assert majority["prob_Smile"].max() < 1e-6

    def test_recordings_of_a_person_with_both_classes_are_drawn_apart(self):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="recording")
        clips = self.people(num=60, clips=3, recordings=2)
        clips["target"] = clips["recording_id"].str.endswith("-1").astype("Int64")
        names = [f"p{p}" for p in range(60)]
        splits = (Split(0, train=tuple(names[30:]), validation=(), test=tuple(names[:30]), seed=0),)
        prior = self.predict("prior", clips=clips, splits=splits, scheme=scheme)
        assert prior.groupby("recording_id")["prob_Smile"].nunique().eq(1).all()
        assert prior.groupby("participant_id")["prob_Smile"].nunique().max() == 2

    def test_the_same_code_scores_them(self):
        table = self.predict("majority", clips=self.clips(repeat=5))
        scores = participant_scores(table, BINARY).set_index("participant_id")
        assert scores.loc["b", "balanced_accuracy"] == 0.5
        assert np.isnan(scores.loc["a", "balanced_accuracy"])

    def test_multiclass_has_one_column_per_class(self):
        clips = self.clips().assign(target=[0, 1, 2, 2, 2, 2, 2, 2, 0, 1, 2, 2])
        table = self.predict("majority", clips=clips, scheme=THREE)
        assert table[["prob_calm", "prob_glad", "prob_sad"]].to_numpy().argmax(axis=1).tolist() == [2] * 8
        assert participant_scores(table, THREE)["accuracy"].tolist() == [0.5, 1.0]

    def test_nothing_to_learn_from(self):
        clips = self.clips()
        clips.loc[clips["participant_id"] != "a", "target"] = pd.NA
        with pytest.raises(UserError, match="no annotated clip"):
            self.predict("majority", clips=clips)

    def test_wrong_input(self):
        with pytest.raises(UserError, match="Known: majority, prior"):
            self.predict("mode")
        with pytest.raises(UserError, match="lacks target"):
            self.predict("prior", clips=self.clips().drop(columns="target"))


class TestOverfitting:
    def test_by_hand(self):
        flat = [{"train_loss": 0.50, "validation_loss": 0.55}, {"train_loss": 0.40, "validation_loss": 0.60}]
        steep = [{"train_loss": 0.50, "validation_loss": 0.70}, {"train_loss": 0.40, "validation_loss": 0.64}]
        result = overfitting({0: flat, 1: steep, 2: []})
        assert [row["gap_percent"] for row in result["per_fold"]] == [pytest.approx(10), pytest.approx(60)]
        assert [row["best_epoch"] for row in result["per_fold"]] == [0, 1]
        assert result["gap_percent"] == pytest.approx(35)
        assert result["last_gap_percent"] == pytest.approx(55)
        assert result["detected"] is True

    def test_a_small_gap_is_not_flagged(self):
        assert overfitting({0: [{"train_loss": 0.5, "validation_loss": 0.59}]})["detected"] is False

    def test_probes_have_none(self):
        assert overfitting({0: [], 1: []}) is None

    def test_epochs_without_numbers_are_left_out(self):
        history = [
            {"train_loss": None, "validation_loss": 0.1},
            {"train_loss": float("nan"), "validation_loss": 0.1},
            {"train_loss": 0.5, "validation_loss": 0.6},
        ]
        assert overfitting({0: history})["per_fold"][0]["best_epoch"] == 2
        assert best_epoch(history) == 0
        assert best_epoch([{"validation_loss": 0.0}, {"validation_loss": 0.2}]) == 0


class TestScores:
    def test_rows_and_summary_by_hand(self):
        table = predictions_table(participants=2, folds=2)
        table["prob_Smile"] = [0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1]  # p00 all right; p01 one of each wrong
        scores = participant_scores(table, BINARY)
        assert scores["balanced_accuracy"].tolist() == [1.0, 0.5]
        assert scores["false_alarms_per_minute"].tolist() == [0.0, 30.0]
        summary = summarise_model(scores, folds=2)
        assert summary["balanced_accuracy"]["mean"] == 0.75
        assert summary["balanced_accuracy"]["n"] == summary["participants_defined"] == 2
        assert summary["confusion"] == [[3, 1], [1, 3]]
        assert summary["confusion_normalised"] == [[0.75, 0.25], [0.25, 0.75]]
        assert [row["balanced_accuracy"] for row in summary["per_fold"]] == [1.0, 0.5]
        assert (summary["fold_mean"], summary["fold_sd"]) == (0.75, pytest.approx(np.std([1, 0.5], ddof=1)))
        assert summary["prevalence"]["bias"] == 0
        assert summary["false_alarms_per_minute"] == 15.0

    def test_participants_count_alike_however_long_they_are(self):
        long = predictions_table(participants=2, clips=40)
        long["prob_Smile"] = long["target"].astype(float)
        wrong = long["participant_id"].eq("p01") & (long["start_s"] < 4)
        long.loc[wrong, "prob_Smile"] = 1 - long.loc[wrong, "prob_Smile"]
        short = long[(long["participant_id"] == "p00") | (long["start_s"] < 4)]  # p01 keeps its wrong clips alone
        assert summarise_model(participant_scores(short, BINARY), folds=2)["accuracy"]["mean"] == 0.5

    def test_missing_targets_are_not_negatives(self):
        table = predictions_table(participants=3)
        table.loc[table["target"] == 1, "target"] = pd.NA
        table.loc[table["participant_id"] == "p02", "target"] = pd.NA
        table.loc[table["target"].isna(), "prob_Smile"] = np.nan  # what isn't scored need not be predicted
        scores = participant_scores(table, BINARY)
        assert dict(zip(scores["participant_id"], scores["n"], strict=True)) == {"p00": 2, "p01": 2, "p02": 0}
        assert scores["balanced_accuracy"].isna().all()
        summary = summarise_model(scores, folds=2)
        assert (summary["participants"], summary["participants_defined"]) == (2, 0)
        assert summary["participants_without_target"] == 1
        assert np.isnan(summary["balanced_accuracy"]["mean"])
        assert np.isnan(summary["confusion_normalised"][1]).all()

    def test_recording_labels_are_scored_once_per_recording(self):
        table = predictions_table(participants=2, clips=4, unit_constant=True)
        table["prob_Smile"] = [0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1]  # means .3 and .7: both right
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="recording")
        scores = participant_scores(table, scheme)
        assert (scores["n"].tolist(), scores["accuracy"].tolist()) == ([1, 1], [1, 1])
        assert scores["false_alarms_per_minute"].isna().all()
        with pytest.raises(UserError, match="several targets"):
            participant_scores(predictions_table(participants=2), scheme)

    def test_a_diverged_model_is_named_and_does_not_touch_the_others(self):
        good, bad = predictions_table(participants=2), predictions_table("net", participants=2)
        bad.loc[[0, 3], "prob_Smile"] = [np.nan, 1.5]
        with pytest.raises(UserError, match=r"^net: 2 of 8 clips with a target .* lower learning rate"):
            participant_scores(pd.concat([good, bad]), BINARY)
        with pytest.raises(UserError, match="net: 2 of 8"):
            check_predictions(bad, BINARY)
        check_predictions(good, BINARY)
        other = good.assign(model="other")
        alone = pd.concat([participant_scores(table, BINARY) for table in (good, other)], ignore_index=True)
        pd.testing.assert_frame_equal(alone, participant_scores(pd.concat([good, other]), BINARY))
        # A mean over the clips of a unit would pass over what is missing.
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "human", unit="participant")
        table = predictions_table("net", participants=2, unit_constant=True)
        table.loc[0, "prob_Smile"] = np.nan
        with pytest.raises(UserError, match="net: 1 of 8"):
            participant_scores(table, scheme)

    def test_multiclass_summary(self):
        generator = np.random.default_rng(0)
        table = predictions_table(participants=4, clips=6).drop(columns=["prob_Smile", "logit_Smile"])
        table["target"] = np.tile([0, 1, 2, 0, 1, 2], 4)
        table[["prob_calm", "prob_glad", "prob_sad"]] = generator.dirichlet([1, 1, 1], size=len(table))
        summary = summarise_model(participant_scores(table, THREE), folds=None)
        assert np.shape(summary["confusion"]) == (3, 3)
        assert np.sum(summary["confusion"]) == 24
        assert set(summary["prevalence"]["per_class"]) == {"calm", "glad", "sad"}
        assert summary["participants_defined"] == 4

    def test_the_summary_is_json(self):
        summary = summarise_model(participant_scores(predictions_table(participants=5), BINARY), folds=2)
        text = json.dumps(to_jsonable(summary), allow_nan=False)
        assert json.loads(text)["f1"].keys() == {"mean", "low", "high", "n"}

    def test_wrong_input(self):
        table = predictions_table(participants=2)
        with pytest.raises(UserError, match="lack the columns prob_Smile"):
            participant_scores(table.drop(columns="prob_Smile"), BINARY)
        both = pd.concat([table, table.assign(model="other")])
        with pytest.raises(UserError, match="got m, other"):
            summarise_model(participant_scores(both, BINARY), folds=2)
        twice = pd.concat([table, table.assign(fold=1 - table["fold"])])
        with pytest.raises(UserError, match="more than once"):
            summarise_model(participant_scores(twice, BINARY), folds=2)


class TestOneLabelPerParticipant:
    SCHEME = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="participant")

    def summary(self, probabilities, *, scheme=None, targets=None):
        """Summary of people with two clips each, whose mean probability is the one given; every second is positive."""
        count = len(probabilities)
        table = predictions_table(participants=count, clips=2, unit_constant=True)
        table["prob_Smile"] = np.repeat(probabilities, 2) + np.tile([-0.05, 0.05], count)
        if targets is not None:
            table["target"] = pd.array(np.repeat(targets, 2), dtype="Int64")
        scores = participant_scores(table, scheme or self.SCHEME)
        return scores, summarise_model(scores, folds=2)

    def test_always_positive_is_no_better_than_chance(self):
        scores, summary = self.summary([0.9] * 10)
        assert (len(scores), summary["participants"], summary["scored_per"]) == (10, 10, "participants")
        assert summary["f1"]["mean"] == pytest.approx(2 * 5 / (2 * 5 + 5))
        assert summary["balanced_accuracy"]["mean"] == 0.5
        assert summary["auroc"]["mean"] == 0.5
        assert (summary["accuracy"]["mean"], summary["recall"]["mean"], summary["specificity"]) == (0.5, 1.0, 0.0)
        assert summary["confusion"] == [[0, 5], [0, 5]]
        assert summary["participants_defined"] == 10

    def test_by_hand(self):
        # positive: .8 .7 .3; negative: .1 .6 .2 (participants alternate, the negative ones first)
        _, summary = self.summary([0.1, 0.8, 0.6, 0.7, 0.2, 0.3])
        assert summary["recall"]["mean"] == summary["sensitivity"] == pytest.approx(2 / 3)
        assert summary["specificity"] == summary["specificity_interval"]["mean"] == pytest.approx(2 / 3)
        assert summary["precision"]["mean"] == pytest.approx(2 / 3)
        assert summary["balanced_accuracy"]["mean"] == pytest.approx(2 / 3)
        assert summary["auroc"]["mean"] == pytest.approx((3 + 3 + 2) / 9)
        # Exact: 2 of 3 at 95 %, 4 of 6 at 95 %, and the mean of two 2 of 3 at 97.5 %.
        assert (summary["recall"]["low"], summary["recall"]["n"]) == (pytest.approx(0.0943, abs=1e-4), 3)
        assert summary["recall"] == summary["sensitivity_interval"]
        accuracy = binomial_interval(np.array([4]), np.array([6]))
        assert (summary["accuracy"]["low"], summary["accuracy"]["high"]) == (accuracy.low, accuracy.high)
        wide = binomial_interval(np.array([2]), np.array([3]), confidence=0.975)
        balanced = summary["balanced_accuracy"]
        assert (balanced["low"], balanced["high"]) == (pytest.approx(wide.low), pytest.approx(wide.high))
        assert balanced["n"] == 6
        for name in ("f1", "macro_f1", "auroc", "auprc"):
            assert np.isnan([summary[name]["low"], summary[name]["high"]]).all()
            assert summary[name]["n"] == 6
        # Folds hold every second participant, so one class each.
        assert np.isnan([row["balanced_accuracy"] for row in summary["per_fold"]]).all()
        assert np.isnan(summary["prevalence"]["slope"])
        assert summary["prevalence"]["bias"] == pytest.approx(0)

    def test_folds_are_scored_over_their_participants(self):
        _, summary = self.summary([0.1, 0.8, 0.6, 0.7], targets=[0, 0, 1, 1])
        assert [row["balanced_accuracy"] for row in summary["per_fold"]] == [1.0, 0.5]
        assert summary["fold_mean"] == 0.75

    def test_one_class_alone_has_no_balanced_accuracy(self):
        _, summary = self.summary([0.9, 0.1, 0.8], targets=[1, 1, 1])
        assert np.isnan(summary["balanced_accuracy"]["mean"])
        assert (summary["balanced_accuracy"]["n"], summary["auroc"]["n"]) == (0, 0)
        assert summary["accuracy"]["mean"] == pytest.approx(2 / 3)
        assert np.isnan(summary["specificity"])

    def test_nobody_has_a_target(self):
        table = predictions_table(participants=2, unit_constant=True).assign(target=pd.NA).astype({"target": "Int64"})
        summary = summarise_model(participant_scores(table, self.SCHEME), folds=2)
        assert (summary["participants"], summary["participants_without_target"]) == (0, 2)
        assert np.isnan(summary["accuracy"]["mean"])

    def test_multiclass(self):
        scheme = LabelScheme("Mood", "multiclass", THREE.classes, "self-report", unit="participant")
        table = predictions_table(participants=4, clips=1).drop(columns=["prob_Smile", "logit_Smile"])
        table["target"] = pd.array([0, 0, 1, 2], dtype="Int64")
        table[["prob_calm", "prob_glad", "prob_sad"]] = TestMulticlassMetrics.PROBABILITIES[[0, 1, 2, 4]]
        summary = summarise_model(participant_scores(table, scheme), folds=2)
        # true calm calm glad sad; predicted calm glad glad sad
        assert summary["balanced_accuracy"]["mean"] == pytest.approx((1 / 2 + 1 + 1) / 3)
        assert summary["precision"]["mean"] == pytest.approx((1 + 1 / 2 + 1) / 3)
        assert summary["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3)
        interval = binomial_interval(np.array([1, 1, 1]), np.array([2, 1, 1]))
        assert summary["balanced_accuracy"] == {**vars(interval)}
        assert summary["specificity_interval"]["n"] == 4
        assert summary["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]

    def test_recordings_count_once_where_everybody_has_one_class(self):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="recording")
        _, summary = self.summary([0.1, 0.9, 0.1, 0.9, 0.1, 0.9], scheme=scheme)
        assert (summary["scored_per"], summary["f1"]["mean"]) == ("recordings", 1.0)
        assert summary["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 6))
        # Two recordings of a person with the same label are not two people.
        table = predictions_table(participants=6, clips=2, unit_constant=True)
        table["recording_id"] = table["clip_id"]
        assert scored_per(table, scheme) == "participants"
        scores = participant_scores(table, scheme)
        assert scores["n"].tolist() == [1] * 6
        assert summarise_model(scores, folds=2)["accuracy"]["n"] == 6

    def test_recordings_that_differ_within_a_person_are_scored_per_participant(self):
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="recording")
        table = predictions_table(participants=3, clips=4)
        table["recording_id"] = table["clip_id"]
        table["prob_Smile"] = [0.1, 0.9] * 5 + [0.9, 0.1]
        summary = summarise_model(participant_scores(table, scheme), folds=2)
        assert summary["scored_per"] == "participant mean"
        assert summary["balanced_accuracy"]["mean"] == pytest.approx((1 + 1 + 0.5) / 3)
        assert summary["sensitivity_interval"]["n"] == 3


class TestPrevalenceSweep:
    def scores(self):
        table = predictions_table(participants=4, clips=10)
        table.loc[table["participant_id"] == "p03", "target"] = 0  # has one class
        return table, participant_scores(table, BINARY)

    def test_it_is_that_of_weighted_clips(self):
        table, scores = self.scores()
        for row in prevalence_sweep(scores, prevalences=(0.1, 0.3, 0.7, 1.0)):
            expected = []
            for _, clips in table[table["participant_id"] != "p03"].groupby("participant_id"):
                target, said = clips["target"].to_numpy(dtype=int), clips["prob_Smile"].to_numpy() >= 0.5
                q = row["prevalence"]
                weights = np.where(target == 1, q / (target == 1).sum(), (1 - q) / (target == 0).sum())
                expected.append(
                    [
                        accuracy_score(target, said, sample_weight=weights),
                        f1_score(target, said, sample_weight=weights),
                        weights @ said,
                    ]
                )
            assert row["participants"] == 3
            assert [row[name] for name in ("accuracy", "f1", "predicted_prevalence")] == pytest.approx(
                np.mean(expected, axis=0)
            )

    def test_ends(self):
        _, scores = self.scores()
        sweep = prevalence_sweep(scores)
        both = scores[scores["participant_id"] != "p03"]
        assert [row["prevalence"] for row in sweep] == [0, 0.1, 0.3, 0.7, 1]
        assert sweep[0]["accuracy"] == pytest.approx(both["specificity"].mean())
        assert np.isnan(sweep[0]["f1"])
        assert sweep[-1]["accuracy"] == sweep[-1]["predicted_prevalence"] == pytest.approx(both["sensitivity"].mean())
        assert json.loads(json.dumps(to_jsonable(sweep), allow_nan=False))[0]["f1"] is None

    def test_where_it_has_no_meaning(self):
        table = predictions_table(participants=4, unit_constant=True)
        nobody = prevalence_sweep(participant_scores(table, BINARY))
        assert nobody[2]["participants"] == 0
        assert np.isnan(nobody[2]["accuracy"])
        scheme = LabelScheme("Smile", "binary", BINARY.classes, "self-report", unit="participant")
        assert prevalence_sweep(participant_scores(table, scheme)) is None
        mood = table.drop(columns="prob_Smile").assign(prob_calm=0.2, prob_glad=0.5, prob_sad=0.3)
        assert prevalence_sweep(participant_scores(mood, THREE)) is None

    def test_wrong_input(self):
        table, scores = self.scores()
        with pytest.raises(UserError, match=r"1\.5 aren't shares"):
            prevalence_sweep(scores, prevalences=(0.5, 1.5))
        both = participant_scores(pd.concat([table, table.assign(model="other")]), BINARY)
        with pytest.raises(UserError, match="got m, other"):
            prevalence_sweep(both)
