"""Predictions to ELAN and back: as a person's where somebody took them over, as the model's where nobody did."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from mien.core.labels import LabelScheme
from mien.data.study import find_study
from mien.predict.elan_timeline import predicted_intervals, write_elan_timeline

SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
EMOTION = LabelScheme("emotion", "multiclass", ("joy", "anger", "fear"), "human")


def timeline(probabilities, *, names):
    table = pd.DataFrame(probabilities, columns=[f"prob_{name}" for name in names])
    start_s = np.arange(len(table)) * 0.5
    return table.assign(recording_id="v", start_s=start_s, end_s=start_s + 0.5)


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
    spec = SimpleNamespace(labels=SMILE, label="linear_probe@hog")
    write_elan_timeline(tmp_path / "v.eaf", table, spec=spec, video=tmp_path / "v.mp4")
    assert 'TIER_ID="Smile"' in (tmp_path / "v.eaf").read_text()


def test_there_and_back(tmp_path):
    """What comes back as it was stays the model's; what a person took over is human."""
    table = timeline([[0.1], [0.8], [0.6], [0.2], [0.9], [0.9]], names=["Smile"])
    spec = SimpleNamespace(labels=SMILE, label="linear_probe@hog")
    for name in ("P01", "P02"):
        (tmp_path / f"{name}.mp4").touch()
        write_elan_timeline(tmp_path / f"{name}.eaf", table, spec=spec, video=tmp_path / f"{name}.mp4")
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
