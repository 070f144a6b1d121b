"""Predictions to ELAN and back: as a person's where somebody took them over, as the model's where nobody did."""

import numpy as np
import pandas as pd
import pytest

from mien.annotations.elan import read_elan
from mien.core.labels import LabelScheme
from mien.data.study import find_study
from mien.evaluation.event_detection import EventSettings
from mien.predict.elan_timeline import announce_elan, predicted_intervals, write_elan_timeline
from mien.predict.timeline_events import timeline_events, write_events
from mien.runtime.bundle import ModelSpec, Sampling

SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
EMOTION = LabelScheme("emotion", "multiclass", ("joy", "anger", "fear"), "human")


TUNED = EventSettings(on=0.7, off=0.3, min_duration_s=0.25, merge_gap_s=0.2)


def timeline(probabilities, *, names, fps=2.0):
    table = pd.DataFrame(probabilities, columns=[f"prob_{name}" for name in names])
    start_s = np.arange(len(table)) / fps
    return table.assign(recording_id="v", start_s=start_s, end_s=start_s + 1 / fps)


def spec_of(labels, *, fps=10.0, events=()):
    """A bundle's, with settings of events for these outputs."""
    return ModelSpec(
        name="linear_probe@hog",
        label="linear_probe@hog",
        modalities=("video",),
        labels=labels,
        sampling=Sampling(fps, "face", "main", 96, 1.6, "mtcnn"),
        encoder=None,
        builtin_encoder=None,
        baseline="none",
        events={name: TUNED.to_json() for name in events},
    )


def write(path, table, *, spec):
    events = timeline_events(table.assign(face_found=True), spec=spec)
    write_elan_timeline(path, table, spec=spec, video=path.with_suffix(".mp4"), events=events)
    return events


def test_stretches_of_a_binary_target():
    table = timeline([[0.1], [0.8], [0.6], [np.nan], [0.9], [0.2]], names=["Smile"])
    found = predicted_intervals(table, labels=SMILE)
    # A sample without a face is in no stretch: nobody knows whether it went on.
    assert found[["onset_s", "offset_s"]].to_numpy().tolist() == [[0.5, 1.5], [2.0, 2.5]]
    np.testing.assert_allclose(found["confidence"], [0.7, 0.9])
    assert "value" not in found


def test_stretches_of_several_classes():
    rows = [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]
    found = predicted_intervals(timeline(rows, names=EMOTION.classes), labels=EMOTION)
    assert found[["onset_s", "offset_s", "value"]].to_numpy().tolist() == [
        [0.0, 1.0, "joy"],
        [1.0, 1.5, "anger"],
        [1.5, 2.0, "fear"],
    ]


def test_nothing_predicted_still_makes_a_tier(tmp_path):
    table = timeline([[0.1], [0.2]], names=["Smile"])
    write(tmp_path / "v.eaf", table, spec=spec_of(SMILE))
    assert 'TIER_ID="Smile"' in (tmp_path / "v.eaf").read_text()


def test_there_and_back(tmp_path):
    """What comes back as it was stays the model's; what a person took over is human."""
    table = timeline([[0.1], [0.8], [0.6], [0.2], [0.9], [0.9]], names=["Smile"])
    for name in ("P01", "P02"):
        (tmp_path / f"{name}.mp4").touch()
        write(tmp_path / f"{name}.eaf", table, spec=spec_of(SMILE, fps=2.0))
    (tmp_path / "study.yaml").write_text("label_source: human\n")
    (tmp_path / "recordings.csv").write_text("media,participant\nP01.mp4,P1\nP02.mp4,P2\n")
    corrected = (tmp_path / "P02.eaf").read_text().replace('ANNOTATOR="mien linear_probe@hog"', 'ANNOTATOR="Kim"')
    (tmp_path / "P02.eaf").write_text(corrected)
    found = find_study(tmp_path).annotations
    times = {name: rows[["onset_s", "offset_s"]].to_numpy().tolist() for name, rows in found.groupby("recording_id")}
    assert times["P01"] == times["P02"] == [[0.5, 1.5], [2.0, 3.0]]
    sources = found.groupby("recording_id")[["scheme", "source", "annotator"]].first()
    assert sources.loc["P01"].tolist() == [
        "Smile (mien linear_probe@hog)",
        "tool:mien linear_probe@hog",
        "mien linear_probe@hog",
    ]
    assert sources.loc["P02"].tolist() == ["Smile", "human", "Kim"]


TREMBLING = [0.1, 0.2, 0.55, 0.2, 0.1, 0.3, 0.8, 0.45, 0.9, 0.4, 0.2, 0.1]
"""At 10 per second: .5 is passed three times, but there is one event."""


def read_back(path):
    found = read_elan(path).intervals
    return found[["label", "onset_s", "offset_s", "confidence"]].reset_index(drop=True)


class TestEvents:
    def test_annotations_are_the_events_of_the_csv(self, tmp_path):
        table = timeline([[value] for value in TREMBLING * 3], names=["Smile"], fps=10.0)
        events = write(tmp_path / "v.eaf", table, spec=spec_of(SMILE, events=["Smile"]))
        write_events(tmp_path / "v.events.csv", events, video=tmp_path / "v.mp4")
        csv = pd.read_csv(tmp_path / "v.events.csv")
        found = read_back(tmp_path / "v.eaf")
        assert len(csv) == 3 < len(predicted_intervals(table, labels=SMILE))
        assert found["label"].tolist() == csv["label"].tolist()
        for column in ("onset_s", "offset_s", "confidence"):
            assert found[column].to_numpy() == pytest.approx(csv[column].to_numpy(), abs=1e-9)

    def test_without_settings_of_its_own_stretches_stay_and_it_says_so(self, tmp_path, capsys):
        table = timeline([[value] for value in TREMBLING], names=["Smile"], fps=10.0)
        write(tmp_path / "v.eaf", table, spec=spec_of(SMILE))
        expected = predicted_intervals(table, labels=SMILE)
        assert read_back(tmp_path / "v.eaf")["onset_s"].to_numpy() == pytest.approx(expected["onset_s"].to_numpy())
        assert len(expected) == 3
        announce_elan(spec_of(SMILE))
        assert "stretches in which the probability of Smile is .5 or more, not events" in capsys.readouterr().err
        announce_elan(spec_of(SMILE, events=["Smile"]))
        assert capsys.readouterr().err == ""
        announce_elan(spec_of(EMOTION))
        assert "stretches of the likeliest class of emotion, not events" in capsys.readouterr().err
        announce_elan(spec_of(LabelScheme("v,a", "continuous", ("v", "a"), "human")))
        assert "stretches in which v, a is above its median, not events" in capsys.readouterr().err

    def test_each_channel_as_its_bundle_has_settings(self, tmp_path, capsys):
        both = LabelScheme("Smile,Nod", "multilabel", ("Smile", "Nod"), "human")
        table = timeline([[value, value] for value in TREMBLING], names=["Smile", "Nod"], fps=10.0)
        spec = spec_of(both, events=["Nod"])
        write(tmp_path / "v.eaf", table, spec=spec)
        assert read_back(tmp_path / "v.eaf")["label"].value_counts().to_dict() == {"Smile": 3, "Nod": 1}
        announce_elan(spec)
        assert "the probability of Smile is .5 or more" in capsys.readouterr().err

    def test_a_video_with_too_few_frames_for_events_says_so(self, tmp_path, capsys):
        table = timeline([[0.1], [0.9], [0.9], [0.1]], names=["Smile"], fps=2.0)
        write(tmp_path / "v.eaf", table, spec=spec_of(SMILE, events=["Smile"]))
        assert read_back(tmp_path / "v.eaf")[["onset_s", "offset_s"]].to_numpy().tolist() == [[0.5, 1.5]]
        said = capsys.readouterr().err
        assert "v.eaf holds stretches with a probability of .5 or more instead of events. No events: 4 sampled" in said
