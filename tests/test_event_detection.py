"""Events from probabilities, by hand; their settings on inner participants; what annotations say of their truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.data.dataset import Dataset
from mien.evaluation.event_detection import DETECTED_COLUMNS, EventSettings, detect_events
from mien.evaluation.event_scoring import edge_coverage, matched_edges
from mien.evaluation.event_truth import EventTruth, event_truth, why_no_truth
from mien.evaluation.event_tuning import MERGE_GAPS_S, MIN_DURATIONS_S, SMOOTHINGS_S, THRESHOLDS, tune_events
from mien.evaluation.events import event_scores, sampling_rate, why_too_few

BARE = EventSettings(on=0.6, off=0.4, min_duration_s=0.0, merge_gap_s=0.0)


def samples(values, *, step_s=0.1, start_s=0.0, recording_id="r", participant_id="p"):
    starts = start_s + step_s * np.arange(len(values))
    return pd.DataFrame(
        {
            "recording_id": recording_id,
            "participant_id": participant_id,
            "start_s": starts,
            "end_s": starts + step_s,
            "prob_X": np.asarray(values, float),
        }
    )


def detect(values, settings=BARE, **place):
    return detect_events(samples(values, **place), settings, column="prob_X")


def spans(found):
    return [tuple(row) for row in found[["start_s", "end_s"]].round(6).to_numpy()]


class TestDetection:
    def test_edges_are_interpolated_where_the_probability_passes_the_middle(self):
        found = detect([0.0, 0.2, 0.7, 0.9, 0.4, 0.0])
        # .2 -> .7 passes .5 at .6 of the way from .1 to .2 s; .9 -> .4 at .8 of the way from .3 to .4 s
        assert spans(found) == [(pytest.approx(0.16), pytest.approx(0.38))]
        assert found["confidence"].tolist() == [pytest.approx((0.7 + 0.9) / 2)]

    def test_ranges_reach_from_one_threshold_to_the_other_and_half_an_interval_at_least(self):
        slow = detect([0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.0, 0.0])
        row = slow.iloc[0]
        assert (row["onset_low_s"], row["start_s"], row["onset_high_s"]) == pytest.approx((0.2, 0.25, 0.3))
        # .8 -> 0 passes .5 at .5375 s, and both thresholds within half an interval of it
        assert (row["offset_low_s"], row["end_s"], row["offset_high_s"]) == pytest.approx((0.4875, 0.5375, 0.5875))
        slower = detect([0.0, 0.1, 0.3, 0.45, 0.55, 0.7, 0.9, 0.0]).iloc[0]
        assert slower["onset_low_s"] == pytest.approx(0.2 + 0.1 * 2 / 3)
        assert slower["onset_high_s"] == pytest.approx(0.4 + 0.1 / 3)

    def test_margins_widen_the_ranges_but_never_beyond_the_recording(self):
        settings = dataclasses.replace(BARE, onset_margin_s=0.1, offset_margin_s=9.0)
        values = [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.0, 0.0]
        bare, wide = detect(values).iloc[0], detect(values, settings).iloc[0]
        assert wide["onset_low_s"] == pytest.approx(bare["onset_low_s"] - 0.1)
        assert wide["onset_high_s"] == pytest.approx(bare["onset_high_s"] + 0.1)
        assert (wide["offset_low_s"], wide["offset_high_s"]) == pytest.approx((0.0, 0.8))
        assert (wide["start_s"], wide["end_s"]) == (bare["start_s"], bare["end_s"])

    def test_hysteresis_neither_breaks_an_event_nor_starts_one(self):
        trembling = [0.0, 0.7, 0.45, 0.55, 0.45, 0.7, 0.0]
        assert len(detect(trembling)) == 1
        assert len(detect(trembling, dataclasses.replace(BARE, on=0.5, off=0.5))) == 3
        assert len(detect([0.0, 0.55, 0.59, 0.5, 0.0])) == 0

    def test_onset_is_the_last_passage_before_the_threshold_is_reached(self):
        found = detect([0.0, 0.52, 0.45, 0.45, 0.65, 0.65, 0.0])
        assert found["start_s"].tolist() == [pytest.approx(0.3 + 0.1 * 0.05 / 0.2)]
        assert found["onset_low_s"].iloc[0] < 0.1  # it may have begun where it first rose past `off`

    def test_near_events_are_joined_before_short_ones_are_dropped(self):
        flicker = [0.0, 0.9, 0.0, 0.9, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0]
        assert len(detect(flicker)) == 4
        settings = dataclasses.replace(BARE, merge_gap_s=0.15, min_duration_s=0.3)
        joined = detect(flicker, settings)
        assert len(joined) == 1
        assert spans(joined)[0] == pytest.approx((0.0555556, 0.5444444), abs=1e-6)
        assert detect(flicker, dataclasses.replace(BARE, min_duration_s=0.3)).empty

    def test_smoothing_is_the_mean_of_neighbours(self):
        values = [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1]
        assert len(detect(values)) == 2
        assert len(detect(values, dataclasses.replace(BARE, smoothing_s=0.2))) == 1  # (.1 + .9 + .1) / 3 = .37

    def test_smoothing_never_reaches_over_a_gap(self):
        table = samples([0.9, 0.9, 0.9, np.nan, np.nan, np.nan, 0.1, 0.1, 0.1])
        found = detect_events(table, dataclasses.replace(BARE, smoothing_s=0.9), column="prob_X")
        assert spans(found) == [(0.0, 0.3)]

    @pytest.mark.parametrize("left_out", [False, True])
    def test_gap_ends_an_event_and_its_ranges_say_that_nobody_saw(self, left_out):
        table = samples([0.0, 0.9, 0.9, np.nan, np.nan, np.nan, 0.9, 0.9, *[0.0] * 9])
        table = table[table["prob_X"].notna()] if left_out else table
        found = detect_events(table, BARE, column="prob_X")
        assert spans(found) == [(pytest.approx(0.055556, abs=1e-6), 0.3), (0.6, pytest.approx(0.744444, abs=1e-6))]
        assert found["offset_high_s"].iloc[0] == pytest.approx(0.6)  # the next time that something was seen
        assert found["offset_low_s"].iloc[0] == pytest.approx(0.2)  # the last time that it was seen to be there
        assert found["onset_low_s"].iloc[1] == pytest.approx(0.2)

    def test_short_gap_is_bridged_like_a_dip(self):
        table = samples([0.0, 0.9, 0.9, np.nan, np.nan, 0.9, 0.9, 0.0])
        assert len(detect_events(table, BARE, column="prob_X")) == 2
        bridged = detect_events(table, dataclasses.replace(BARE, merge_gap_s=0.2), column="prob_X")
        assert len(bridged) == 1
        assert bridged["confidence"].tolist() == [pytest.approx(0.9)]

    def test_one_lost_sample_is_no_gap_where_samples_jitter(self):
        table = samples([0.0, 0.9, 0.9, 0.9, 0.0])
        table["start_s"] = [0.0, 0.133, 0.2, 0.333, 0.4]  # what 10 per second are of 15 frames per second
        assert len(detect_events(table, BARE, column="prob_X")) == 1

    def test_event_at_both_ends_of_a_recording(self):
        found = detect([0.9, 0.9, 0.9], start_s=5.0)
        assert spans(found) == [(5.0, 5.3)]
        assert found[["onset_low_s", "offset_high_s"]].to_numpy().tolist() == [[5.0, pytest.approx(5.3)]]

    def test_rows_may_come_in_any_order_and_recordings_stay_apart(self):
        both = pd.concat([samples([0.0, 0.9, 0.9, 0.0], recording_id=name) for name in "ba"])
        found = detect_events(both.sample(frac=1.0, random_state=1), BARE, column="prob_X")
        assert found["recording_id"].tolist() == ["a", "b"]
        assert found["start_s"].nunique() == 1

    @pytest.mark.parametrize("values", [[], [np.nan, np.nan], [0.1], [0.0, 0.0]])
    def test_nothing_there(self, values):
        found = detect(values)
        assert found.empty
        assert list(found.columns) == list(DETECTED_COLUMNS)

    def test_single_sample_lasts_as_long_as_it_counts(self):
        assert spans(detect([0.9])) == [(0.0, 0.1)]

    def test_order_of_edges_and_least_width_hold_for_any_probabilities(self):
        generator = np.random.default_rng(3)
        for _ in range(12):
            values = np.clip(generator.normal(0.5, 0.3, 60).cumsum() % 1.0, 0.0, 1.0)
            values[generator.random(60) < 0.1] = np.nan
            low = float(generator.uniform(0.1, 0.5))
            settings = EventSettings(on=low + 0.3, off=low, min_duration_s=0.0, merge_gap_s=0.15, smoothing_s=0.2)
            found = detect(values, settings, start_s=10.0)
            assert (found["start_s"] < found["end_s"]).all()
            assert (found["start_s"].to_numpy()[1:] > found["end_s"].to_numpy()[:-1]).all()
            for edge, at in (("onset", "start_s"), ("offset", "end_s")):
                low_s = np.maximum(10.0, found[at] - 0.05) + 1e-9
                high_s = np.minimum(16.0, found[at] + 0.05) - 1e-9
                assert (found[f"{edge}_low_s"] <= low_s).all()
                assert (found[f"{edge}_high_s"] >= high_s).all()

    def test_bad_tables_and_settings_say_what_is_needed(self):
        with pytest.raises(UserError, match="lacks prob_Y"):
            detect_events(samples([0.1]), BARE, column="prob_Y")
        with pytest.raises(UserError, match=r"holds 1\.5; events are made of probabilities"):
            detect([0.1, 1.5])
        with pytest.raises(UserError, match="0 < off <= on < 1"):
            EventSettings(on=0.3, off=0.4)
        with pytest.raises(UserError, match="merge_gap_s = nan"):
            EventSettings(merge_gap_s=float("nan"))
        assert EventSettings.from_json({**BARE.to_json(), "inner": {}}) == BARE
        with pytest.raises(UserError, match="without a number for off"):
            EventSettings.from_json({**BARE.to_json(), "off": "low"})


def ramp(times, *, at):
    return 1 / (1 + np.exp(-(times - at) / 0.07))


def made_study(num_people=12, *, noise=0.12, shift_s=0.0, seed=0):
    """Predictions of made people at 10 per second, and the true events, which lie between samples."""
    generator = np.random.default_rng(seed)
    tables, events = [], []
    for person in range(num_people):
        starts = (3 + generator.random(), 9.3, 16.0)
        own = [(float(start), float(start + generator.uniform(1.0, 3.0))) for start in starts]
        times = 0.1 * np.arange(220)
        inside = sum(ramp(times, at=a + shift_s) - ramp(times, at=b) for a, b in own)
        values = np.clip(0.1 + 0.8 * inside + generator.normal(0, noise, 220), 0, 1)
        tables.append(samples(values, recording_id=f"r{person}", participant_id=f"p{person}"))
        events += [(f"r{person}", a, b) for a, b in own]
    table = pd.concat(tables, ignore_index=True)
    columns = ["recording_id", "start_s", "end_s"]
    stretches = pd.DataFrame([(f"r{person}", 0.0, 22.0) for person in range(num_people)], columns=columns)
    return table, EventTruth(pd.DataFrame(events, columns=columns), stretches)


def people_of(table):
    return table.drop_duplicates("recording_id").set_index("recording_id")["participant_id"]


class TestTuning:
    def test_chosen_settings_are_the_best_of_the_grid(self):
        table, truth = made_study(4, noise=0.25)
        tuned = tune_events(table, truth, column="prob_X", samples_per_s=10.0)
        f1 = []
        for off, on in THRESHOLDS[::3]:
            settings = EventSettings(on, off, min_duration_s=0.25, merge_gap_s=0.25, smoothing_s=0.3)
            scored = self.f1_of(detect_events(table, settings, column="prob_X"), truth)
            f1.append(scored)
        assert tuned.f1 >= max(f1) - 1e-9
        assert tuned.f1 == pytest.approx(self.f1_of(detect_events(table, tuned.settings, column="prob_X"), truth))
        assert (tuned.settings.off, tuned.settings.on) in THRESHOLDS
        assert tuned.settings.min_duration_s in MIN_DURATIONS_S
        assert tuned.settings.merge_gap_s in MERGE_GAPS_S
        assert tuned.settings.smoothing_s in SMOOTHINGS_S
        assert (tuned.participants, tuned.events, tuned.note) == (4, 12, "")

    @staticmethod
    def f1_of(detected, truth):
        names = truth.stretches.assign(participant_id=truth.stretches["recording_id"])
        given = {"recordings": names, "samples_per_s": 10.0, "folds": None, "seed": 0, "draws": 1}
        return event_scores(truth.events, detected, **given)["f1"][-1]["mean"]

    def test_of_equal_settings_the_one_nearest_to_the_defaults_is_taken(self):
        """What a few people hadn't needed, others do: the rim of a plateau doesn't hold."""
        table, truth = made_study(4, noise=0.0)
        settings = tune_events(table, truth, column="prob_X", samples_per_s=10.0).settings
        assert dataclasses.replace(settings, onset_margin_s=0.0, offset_margin_s=0.0) == EventSettings()

    def test_margins_make_ranges_hold_on_people_who_had_no_part_in_it(self):
        tuned = tune_events(*made_study(8, shift_s=0.25), column="prob_X", samples_per_s=10.0)
        assert tuned.settings.onset_margin_s > 0.05  # predictions lag by .25 s
        table, truth = made_study(30, shift_s=0.25, seed=1)
        bare = dataclasses.replace(tuned.settings, onset_margin_s=0.0, offset_margin_s=0.0)
        covered = [
            edge_coverage(
                detect_events(table, settings, column="prob_X"), truth, participants=people_of(table), folds=None
            )
            for settings in (tuned.settings, bare)
        ]
        assert covered[0]["onset"]["mean"] >= 0.8
        assert covered[0]["offset"]["mean"] >= 0.8
        assert covered[1]["onset"]["mean"] < 0.5

    def test_inner_people_without_events_leave_the_default_and_say_so(self):
        table, truth = made_study(2)
        nobody = EventTruth(truth.events.iloc[:0], truth.stretches)
        tuned = tune_events(table, nobody, column="prob_X", samples_per_s=10.0)
        assert tuned.settings == EventSettings()
        assert "no inner participant has an annotated event" in tuned.note
        assert tuned.to_json()["inner"]["note"] == tuned.note

    def test_no_event_found_is_no_error(self):
        table, truth = made_study(3)
        tuned = tune_events(table.assign(prob_X=0.01), truth, column="prob_X", samples_per_s=10.0)
        assert tuned.f1 == 0.0
        assert np.isnan(tuned.onset_error_s)

    @pytest.mark.parametrize("rate", [1.0, 4.9, float("nan")])
    def test_too_few_samples_are_refused(self, rate):
        table, truth = made_study(2)
        with pytest.raises(UserError, match=r"needed: at least 5|at least two"):
            tune_events(table, truth, column="prob_X", samples_per_s=rate)

    def test_people_have_to_be_named(self):
        table, truth = made_study(2)
        with pytest.raises(UserError, match="lacks participant_id"):
            tune_events(table.drop(columns="participant_id"), truth, column="prob_X", samples_per_s=10.0)


class TestScoring:
    def test_coverage_is_the_share_of_true_edges_in_range_per_person(self):
        columns = ["recording_id", "start_s", "end_s"]
        truth = EventTruth(
            pd.DataFrame([("a", 1.0, 2.0), ("a", 5.0, 6.0), ("b", 1.0, 2.0)], columns=columns),
            pd.DataFrame([("a", 0.0, 9.0), ("b", 0.0, 9.0)], columns=columns),
        )
        rows = [
            ("a", 1.1, 2.0, 0.9, 0.9, 1.2, 1.9, 2.1),  # onset in range
            ("a", 5.3, 6.0, 0.9, 5.1, 5.5, 5.9, 6.1),  # not
            ("a", 7.0, 8.0, 0.9, 6.9, 7.1, 7.9, 8.1),  # a false alarm has no true onset
            ("b", 1.0, 2.5, 0.9, 0.9, 1.1, 2.4, 2.6),
        ]
        detected = pd.DataFrame(rows, columns=list(DETECTED_COLUMNS))
        found = edge_coverage(detected, truth, participants=pd.Series({"a": "p", "b": "q"}), folds=None)
        assert found["events"] == 3
        assert found["onset"]["mean"] == pytest.approx((0.5 + 1.0) / 2)
        assert found["offset"]["mean"] == pytest.approx((1.0 + 0.0) / 2)
        assert found["onset"]["median_width_s"] == pytest.approx(0.3)
        assert matched_edges(detected, truth)["true_onset_s"].tolist() == [1.0, 5.0, 1.0]

    def test_only_annotated_time_counts(self):
        columns = ["recording_id", "start_s", "end_s"]
        truth = EventTruth(
            pd.DataFrame([("a", 1.0, 2.0)], columns=columns),
            pd.DataFrame([("a", 0.0, 4.0), ("a", 6.0, 9.0)], columns=columns),
        )
        detected = pd.DataFrame([("a", 1.0, 2.0), ("a", 4.2, 5.8), ("a", 3.5, 7.0)], columns=columns)
        inside = truth.within(detected)
        assert inside[["start_s", "end_s", "stretch"]].to_numpy().tolist() == [[1, 2, 0], [3.5, 4, 0], [6, 7, 1]]

    def test_real_sampling_rate(self):
        slow = samples([0.1] * 9, step_s=1 / 3)
        assert sampling_rate(slow) == pytest.approx(3.0)
        assert why_too_few(sampling_rate(slow)).startswith("Events sampled 3 times")
        assert why_too_few(sampling_rate(samples([0.1] * 9, step_s=0.2))) is None
        assert "at least two" in why_too_few(sampling_rate(samples([0.1])))


class TestTruth:
    """On the drawn study's dataset with other annotations."""

    @pytest.fixture
    def annotated(self, drawn_dataset):
        def make(rows, *, coded=None, annotator=""):
            dataset = Dataset(drawn_dataset.path, info={**drawn_dataset.info})
            dataset.info["study"] = {**dataset.info["study"], "annotator": annotator}
            columns = ["recording_id", "onset_s", "offset_s", "annotator"]
            table = pd.DataFrame(rows, columns=columns).assign(
                scheme="Nod", value=None, source="human", confidence=np.nan
            )
            dataset.__dict__["annotations"] = table
            if coded is not None:
                dataset.__dict__["coded"] = pd.DataFrame(
                    coded, columns=["recording_id", "from_s", "to_s", "annotator", "label"]
                )
            return dataset

        return make

    @pytest.fixture
    def first(self, drawn_dataset):
        return str(drawn_dataset.recordings["recording_id"].iloc[0])

    def test_times_are_the_annotations_own_and_touching_ones_are_one(self, annotated, first):
        rows = [(first, 1.234, 2.001, "a"), (first, 2.001, 2.5, "a"), (first, 3.0, 99.0, "a")]
        truth = event_truth(annotated(rows), "Nod")
        assert truth.events[["start_s", "end_s"]].to_numpy().tolist() == [
            [1.234, 2.5],
            [3.0, pytest.approx(6.0, abs=0.6)],
        ]
        assert truth.stretches["recording_id"].tolist() == [first]  # nobody annotated the others

    def test_most_coders_decide_and_ties_are_no_stretch(self, annotated, first):
        rows = [(first, 1.0, 3.0, "a"), (first, 1.5, 3.5, "b"), (first, 1.7, 2.7, "c")]
        truth = event_truth(annotated(rows), "Nod")
        assert truth.events[["start_s", "end_s"]].to_numpy().tolist() == [[1.5, 3.0]]
        two = event_truth(annotated(rows[:2]), "Nod")
        assert two.events[["start_s", "end_s"]].to_numpy().tolist() == [[1.5, 3.0]]
        bounds = two.stretches[["start_s", "end_s"]].to_numpy()
        assert bounds[:, 0].tolist() == [pytest.approx(0.0, abs=0.2), 1.5, 3.5]
        assert bounds[:2, 1].tolist() == [1.0, 3.0]

    def test_named_annotator_decides(self, annotated, first):
        rows = [(first, 1.0, 3.0, "a"), (first, 1.5, 3.5, "b")]
        truth = event_truth(annotated(rows, annotator="b"), "Nod")
        assert truth.events[["start_s", "end_s"]].to_numpy().tolist() == [[1.5, 3.5]]

    def test_time_that_nobody_coded_is_in_no_stretch(self, annotated, first):
        truth = event_truth(annotated([(first, 1.0, 3.0, "a")], coded=[(first, 0.5, 2.25, "a", "")]), "Nod")
        assert truth.events[["start_s", "end_s"]].to_numpy().tolist() == [[1.0, 2.25]]
        assert truth.stretches[["start_s", "end_s"]].to_numpy().tolist() == [[0.5, 2.25]]

    def test_what_has_no_onset_says_why(self, drawn_dataset):
        assert why_no_truth(drawn_dataset, "Smile") is None
        attribute = drawn_dataset.attributes[0]
        assert "no onsets" in why_no_truth(drawn_dataset, attribute)
        with pytest.raises(UserError, match="isn't annotated as intervals"):
            event_truth(drawn_dataset, "Nonsense")
