"""Metrics by hand, intervals by simulation, trivial predictors by what they must score."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import to_jsonable
from mien.core.types import Split
from mien.evaluation.baselines import trivial_predictions
from mien.evaluation.intervals import participant_interval
from mien.evaluation.metrics import confusion, false_alarms_per_minute, prevalence_agreement, score_participant
from mien.evaluation.overfitting import best_epoch, overfitting
from mien.evaluation.scores import participant_scores, summarise_model

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

    def test_draws_depend_on_the_seed_and_not_on_the_other_folds(self):
        clips = self.clips(repeat=50)
        both, alone = self.predict("prior", clips=clips), self.predict("prior", clips=clips, splits=self.SPLITS[1:])
        pd.testing.assert_frame_equal(both[both["fold"] == 1].reset_index(drop=True), alone)
        assert not both["prob_Smile"].equals(self.predict("prior", clips=clips, seed=1)["prob_Smile"])

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
