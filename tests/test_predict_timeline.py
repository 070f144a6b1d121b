"""A timeline: tables of both kinds, calibrated probabilities, abstentions, and annotations beside it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import read_json
from mien.evaluation.calibration import Calibration
from mien.media.quality import QUALITY_COLUMNS
from mien.predict.elan_timeline import predicted_intervals
from mien.predict.predictor import predict_files, predict_timeline
from mien.predict.recording import calibrated, counted
from mien.predict.timeline_events import timeline_events
from mien.predict.timeline_page import timeline_page
from mien.predict.truth import add_truth, agreement, agreement_lines, annotations_of
from mien.runtime.bundle import Bundle, ModelSpec
from mien.runtime.seen_quality import seen_ranges, why_worse


@pytest.fixture
def bundle(probe_bundle):
    return Bundle.open(probe_bundle)


def with_spec(bundle, **changes):
    bundle.spec = dataclasses.replace(bundle.spec, **changes)
    return bundle


def scheme(kind="binary", classes=("not Smile", "Smile")):
    return LabelScheme("Smile", kind, classes, "human")


def test_the_parquet_is_the_csv(bundle, probe_video, tmp_path):
    (result,) = predict_files(bundle, videos=[probe_video], out=tmp_path)
    table = pd.read_csv(result["timeline"])
    assert list(table)[:5] == ["recording_id", "start_s", "end_s", "logit_Smile", "prob_Smile"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(result["timeline_parquet"]).drop(columns="abstained"), table.drop(columns="abstained")
    )


def test_logits_block_by_block_are_those_of_all_features(bundle, probe_video, monkeypatch):
    monkeypatch.setattr("mien.predict.seeing.CROP_BLOCK", 5)
    by_block = predict_timeline(bundle, probe_video)
    monkeypatch.setattr("mien.predict.seeing._Blocks.are_logits", False)
    whole = predict_timeline(bundle, probe_video)
    assert whole["logit_Smile"].notna().any()
    np.testing.assert_allclose(by_block["logit_Smile"], whole["logit_Smile"], atol=1e-5)


class TestCalibration:
    def test_few_people_leave_no_calibration_and_say_why(self, bundle, probe_video, probe_bundle):
        assert "are needed" in bundle.spec.calibration["Smile"]["note"]
        assert "are needed" in (probe_bundle / "MODEL_CARD.md").read_text()
        assert predict_timeline(bundle, probe_video)["calibrated_Smile"].isna().all()

    def test_the_map_is_applied_to_logits(self, bundle, probe_video):
        fitted = Calibration("binary", slope=0.5, intercepts=(-1.0,), participants=12)
        timeline = predict_timeline(with_spec(bundle, calibration={"Smile": fitted.to_json()}), probe_video)
        said = timeline.dropna(subset="logit_Smile")
        assert len(said)
        expected = 1 / (1 + np.exp(-(0.5 * said["logit_Smile"] - 1)))
        np.testing.assert_allclose(said["calibrated_Smile"], expected, atol=1e-9)
        np.testing.assert_allclose(said["prob_Smile"], 1 / (1 + np.exp(-said["logit_Smile"])), atol=1e-9)

    def test_channels_have_their_own_and_classes_one(self, bundle):
        logits = np.array([[0.0, 1.0], [np.nan, np.nan]])
        one = Calibration("binary", 2.0, (0.0,), 12).to_json()
        none = Calibration("binary", 1.0, (0.0,), 3, note="few").to_json()
        channels = with_spec(bundle, labels=scheme("multilabel", ("A", "B")), calibration={"A": none, "B": one}).spec
        found = calibrated(logits, spec=channels)
        assert np.isnan(found[:, 0]).all() and np.isnan(found[1, 1])
        assert found[0, 1] == pytest.approx(1 / (1 + np.exp(-2)))
        both = Calibration("multiclass", 1.0, (0.0, 0.0), 12).to_json()
        classes = with_spec(bundle, labels=scheme("multiclass", ("A", "B")), calibration={"Smile": both}).spec
        assert calibrated(logits, spec=classes)[0].sum() == pytest.approx(1.0)

    def test_a_bundle_of_an_earlier_version_opens(self, probe_bundle):
        values = read_json(probe_bundle / "bundle.json")["spec"]
        del values["calibration"], values["seen_quality"]
        spec = ModelSpec.from_json(values)
        assert spec.calibration == {} and spec.seen_quality == {}

    def test_a_damaged_one_is_said(self):
        with pytest.raises(UserError, match="can't be read"):
            Calibration.from_json({"kind": "binary"})


class TestAbstention:
    def frames(self, **changes):
        usual = {"sharpness": 200.0, "face_px": 120.0, "yaw_proxy": 0.0, "pitch_proxy": 0.55, "roll_deg": 0.0}
        return pd.DataFrame([{**usual, "brightness": 120.0, **changes}])[list(QUALITY_COLUMNS)]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({}, ""),
            ({"sharpness": 40.0}, "blurred"),
            ({"sharpness": 4000.0}, ""),
            ({"face_px": 50.0}, "face too small"),
            ({"yaw_proxy": -0.5}, "turned aside"),
            ({"pitch_proxy": 0.9}, "looks down"),
            ({"roll_deg": 20.0}, "head tilted"),
            ({"brightness": 20.0, "roll_deg": -20.0}, "head tilted, too dark"),
        ],
    )
    def test_a_face_worse_than_any_of_the_training_is_named(self, changes, reason):
        ranges = seen_ranges([pd.concat([self.frames()] * 5)])
        assert why_worse(self.frames(**changes), ranges=ranges).tolist() == [reason]

    def test_ranges_leave_out_a_detectors_slip(self):
        table = pd.concat([self.frames()] * 200 + [self.frames(roll_deg=80.0)])
        assert seen_ranges([table])["roll_deg"] == (0.0, 0.0)
        assert seen_ranges([]) == {}

    def test_what_is_seen_badly_is_given_and_marked(self, bundle, probe_video):
        ranges = dict(bundle.spec.seen_quality)
        assert set(ranges) == set(QUALITY_COLUMNS), "the bundle knows what it was trained on"
        assert counted(predict_timeline(bundle, probe_video)).all(), "a recording of the training counts"
        ranges["face_px"] = (1000.0, 1000.0)
        timeline = predict_timeline(with_spec(bundle, seen_quality=ranges), probe_video)
        assert (timeline.loc[timeline["face_found"], "abstained"] == "face too small").all()
        assert timeline.loc[timeline["face_found"], "prob_Smile"].notna().all()
        page = timeline_page(timeline, spec=bundle.spec, title="x")
        assert "100 % of the time" in page and "face too small: 6.0 s" in page and "<pattern" in page
        assert "No sampled frame counts" in page

    def test_no_events_nor_intervals_of_what_does_not_count(self, bundle):
        spec = dataclasses.replace(bundle.spec, sampling=dataclasses.replace(bundle.spec.sampling, fps=10.0))
        starts = np.arange(40) / 10
        timeline = pd.DataFrame({"recording_id": "r", "start_s": starts, "end_s": starts + 0.1, "face_found": True})
        timeline["prob_Smile"] = np.where((starts >= 1) & (starts < 3), 0.9, 0.1)
        timeline["abstained"] = np.where(starts >= 2, "blurred", "")
        (event,) = timeline_events(timeline, spec=spec).table.to_dict("records")
        assert event["offset_s"] <= 2.1
        (row,) = predicted_intervals(timeline, labels=spec.labels).to_dict("records")
        assert (row["onset_s"], row["offset_s"]) == pytest.approx((1.0, 2.0))

    def test_events_of_a_recording_with_a_little_fewer_frames(self, bundle):
        spec = dataclasses.replace(bundle.spec, sampling=dataclasses.replace(bundle.spec.sampling, fps=5.0))
        for rate, there in ((4.8, True), (3.0, False)):
            starts = np.arange(40) / rate
            timeline = pd.DataFrame({"recording_id": "r", "start_s": starts, "end_s": starts + 1 / rate})
            timeline = timeline.assign(face_found=True, prob_Smile=0.9, abstained="")
            assert (timeline_events(timeline, spec=spec).table is not None) is there


class TestPage:
    def timeline(self, bundle, *, starts, said):
        spec = dataclasses.replace(bundle.spec, sampling=dataclasses.replace(bundle.spec.sampling, fps=10.0))
        starts = np.asarray(starts, np.float64)
        ends = np.minimum(np.append(starts[1:], np.inf), starts + 0.1)
        table = pd.DataFrame({"recording_id": "r", "start_s": starts, "end_s": ends, "face_found": said})
        return table.assign(prob_Smile=np.where(said, 0.9, np.nan), abstained=np.where(said, "", "no face")), spec

    def test_the_time_of_frames_beside_the_instants_is_all_there(self, bundle):
        """Of 24 frames per second ten are taken: 2 or 3 frames apart."""
        frames = np.floor(np.arange(48) * 2.4 + 0.999).astype(int)
        timeline, spec = self.timeline(bundle, starts=frames / 24, said=frames >= 48)
        page = timeline_page(timeline, spec=spec, title="x", events=timeline_events(timeline, spec=spec))
        assert "for 4.8 s (48 frames" in page and "no face: 2.0 s" in page
        assert "A thin line there" not in page, "nothing is said where there is no face"

    def test_missing_frames_are_nobodys_time(self, bundle):
        timeline, spec = self.timeline(bundle, starts=[0.0, 0.1, 5.0, 5.1], said=np.array([True, True, True, False]))
        page = timeline_page(timeline, spec=spec, title="x")
        assert "for 0.4 s (4 frames" in page and "no face: 0.1 s" in page

    def test_where_nothing_counts_no_event_can_be_found(self, bundle):
        timeline, spec = self.timeline(bundle, starts=np.arange(20) / 10, said=np.zeros(20, bool))
        page = timeline_page(timeline, spec=spec, title="x", events=timeline_events(timeline, spec=spec))
        assert "None can be found: no sampled frame counts." in page and "None was found" not in page


class TestTruth:
    @pytest.fixture
    def export(self, tmp_path):
        path = tmp_path / "coder.csv"
        path.write_text("onset,offset,label\n0.0,2.0,Smile\n3.0,3.5,Frown\n")
        return path

    def test_an_export_is_shown_beside_the_prediction(self, bundle, probe_video, export, tmp_path, capsys):
        (result,) = predict_files(bundle, videos=[probe_video], out=tmp_path / "out", annotations=export)
        timeline = pd.read_csv(result["timeline"])
        assert timeline["truth_Smile"].tolist() == [1.0] * 4 + [0.0] * 8
        truth = pd.read_csv(result["truth"])
        assert truth["channel"].tolist() == ["Smile"] * 12
        np.testing.assert_allclose(truth["predicted"], timeline["prob_Smile"])
        said = capsys.readouterr().err
        assert "annotated in 33 %" in said and "no evidence" in said
        assert "no evidence" in (tmp_path / "out" / f"{probe_video.stem}.html").read_text()
        (row,) = result["agreement"]
        assert row["both"] + row["only_annotated"] == 4 and row["frames"] == 12

    def test_a_dataset_and_a_study_say_the_same(self, bundle, probe_video, drawn_dataset, drawn_study, tmp_path):
        columns = []
        for place in (drawn_dataset.path, drawn_study):
            out = tmp_path / place.name
            (result,) = predict_files(bundle, videos=[probe_video], out=out, annotations=place)
            assert not result["problem"]
            columns.append(pd.read_csv(result["timeline"])["truth_Smile"])
        assert 0 < columns[0].mean() < 1
        pd.testing.assert_series_equal(*columns)

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("onset,offset,label\n0.0,2.0,Frown\n", "Frown"),
            ("no table of anything", "Nothing is shown"),
            ("respondent,onset,offset,label\nA,0,1,Smile\nB,0,1,Smile\n", "which of these"),
        ],
    )
    def test_what_cannot_be_used_is_said_and_costs_no_prediction(self, bundle, probe_video, text, what, tmp_path):
        path = tmp_path / "coder.csv"
        path.write_text(text)
        (result,) = predict_files(bundle, videos=[probe_video], out=tmp_path / "out", annotations=path)
        assert what in result["problem"] and "truth" not in result
        assert "prob_Smile" in pd.read_csv(result["timeline"])
        assert what in pd.read_csv(tmp_path / "out/failures.csv")["reason"][0]

    def test_of_several_videos_an_export_has_to_say_which(self, bundle, probe_video, drawn_study, export, tmp_path):
        other = next(
            path for path in (drawn_study / "Analysis/Respondent Cameras").glob("*.mp4") if path.stat().st_size > 999
            and path != probe_video
        )  # fmt: skip
        results = predict_files(bundle, videos=[probe_video, other], out=tmp_path / "a", annotations=export)
        assert all("doesn't say which" in item.get("problem", "") for item in results if "error" not in item)
        named = tmp_path / "named.csv"
        named.write_text(f'media,onset,offset,label\n"{probe_video.name}",0.0,2.0,Smile\n')
        results = predict_files(bundle, videos=[probe_video, other], out=tmp_path / "b", annotations=named)
        assert "truth" in results[0] and "truth" not in results[1]

    def test_agreement_by_hand(self):
        timeline = pd.DataFrame(
            {
                "prob_Smile": [0.9, 0.9, 0.1, 0.1, 0.9, np.nan],
                "truth_Smile": [1.0, 0.0, 1.0, 0.0, np.nan, 1.0],
                "abstained": ["", "", "", "", "", "no face"],
            }
        )
        (row,) = agreement(timeline, labels=scheme())
        counts = {name: row[name] for name in ("both", "only_annotated", "only_predicted", "neither")}
        assert counts == dict.fromkeys(counts, 1) and row["frames"] == 4
        assert "annotated in 50 %" in agreement_lines([row])[0]

    def test_of_classes_each_and_of_numbers_the_correlation(self):
        classes = pd.DataFrame(
            {"prob_A": [0.9, 0.2], "prob_B": [0.1, 0.8], "truth_A": [1.0, 0.0], "truth_B": [0.0, 1.0]}
        )
        found = agreement(classes, labels=scheme("multiclass", ("A", "B")))
        assert [row["both"] for row in found] == [1, 1]
        numbers = pd.DataFrame({"value_Smile": [1.0, 2.0, 3.0], "truth_Smile": [2.0, 4.0, 6.0]})
        (row,) = agreement(numbers, labels=scheme("continuous", ("Smile",)))
        assert row["correlation"] == pytest.approx(1.0)
        (row,) = agreement(numbers.assign(truth_Smile=1.0), labels=scheme("continuous", ("Smile",)))
        assert row["correlation"] is None and "undefined" in agreement_lines([row])[0]


class TestRatings:
    """What a tool rated at every frame, beside a number that is predicted."""

    @pytest.fixture
    def openface(self, tmp_path):
        times = np.arange(180) / 30
        table = pd.DataFrame({"frame": np.arange(180) + 1, " timestamp": times, " confidence": 0.98, " success": 1})
        table[" AU04_r"], table[" AU04_c"] = np.where(times < 3, 1.0, 4.0), (times >= 3).astype(int)
        path = tmp_path / "clip_7.csv"
        table.to_csv(path, index=False)
        return path

    def timeline(self):
        starts = np.arange(12) / 2
        return pd.DataFrame({"start_s": starts, "end_s": starts + 0.5, "face_found": True})

    def test_a_bare_export_of_openface_gives_numbers_and_presence(self, openface, tmp_path):
        tables = annotations_of(openface, video=tmp_path / "clip_7.mp4")
        numbers = LabelScheme("Brow Furrow (rated)", "continuous", ("Brow Furrow (rated)",), "tool:OpenFace")
        truth = add_truth(self.timeline(), tables, labels=numbers)["truth_Brow Furrow (rated)"]
        np.testing.assert_allclose(truth, [1.0] * 6 + [4.0] * 6, atol=0.1)
        presence = LabelScheme("Brow Furrow", "binary", ("not Brow Furrow", "Brow Furrow"), "tool:OpenFace")
        assert (
            add_truth(self.timeline(), tables, labels=presence)["truth_Brow Furrow"].tolist() == [0.0] * 6 + [1.0] * 6
        )

    def test_of_several_videos_it_is_the_one_that_it_is_named_after(self, openface, tmp_path):
        assert annotations_of(openface, video=tmp_path / "Clip 7.mp4", is_alone=False).rated
        with pytest.raises(UserError, match="doesn't say which"):
            annotations_of(openface, video=tmp_path / "clip_8.mp4", is_alone=False)

    def test_what_is_not_rated_is_named_with_what_is(self, openface, tmp_path):
        tables = annotations_of(openface, video=tmp_path / "clip_7.mp4")
        numbers = LabelScheme("Smile", "continuous", ("Smile",), "tool:OpenFace")
        with pytest.raises(UserError, match=r"Brow Furrow \(rated\)"):
            add_truth(self.timeline(), tables, labels=numbers)
