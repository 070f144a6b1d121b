"""Exports of other tools in a study: which recording they belong to, and what they become there."""

import json

import numpy as np
import pandas as pd
import pytest

from media_fixtures import write_video
from mien.annotations.elan_writer import write_elan
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig
from mien.data.study import find_study

HUMAN = "label_source: human\n"
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
2
<exists>
1
"IntervalTier"
"Smile"
0
2
2
0
0.5
""
0.5
1.25
"yes"
"""
OPENFACE = "frame, timestamp, confidence, success, AU12_r, AU12_c\n" + "".join(
    f"{i + 1}, {i / 10:.3f}, 0.98, 1, {3.0 * (4 <= i < 9):.2f}, {int(4 <= i < 9)}.00\n" for i in range(20)
)
SENSORS = (
    "#HEADER\nRespondent Name,AB 1\nRespondent Age,25\nRespondent Gender,MALE\n#METADATA\n"
    "FieldName,Timestamp,EventSource,GSR Conductance CAL\nDataType,Double,Integer,Double\nUnits,ms,,microSiemens\n"
    "#DATA\nRow,Timestamp,EventSource,GSR Conductance CAL\n"
)


def make(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def rows(study, recording_id):
    table = study.annotations[study.annotations["recording_id"] == recording_id]
    return [
        (row.scheme, round(row.onset_s, 3), round(row.offset_s, 3), row.source)
        for row in table.sort_values(["scheme", "onset_s"]).itertuples()
    ]


def elan(path, *, media):
    intervals = pd.DataFrame({"label": ["Smile", "Joy"], "onset_s": [0.5, 1.0], "offset_s": [1.0, 1.75]})
    write_elan(path, intervals, media=media, annotator="Kim")


def test_a_file_of_the_recordings_name_is_its_export(tmp_path):
    study = make(
        tmp_path,
        {
            "study.yaml": HUMAN,
            "recordings.csv": "media,participant,recording\nv/P01.mp4,P1,\nv/P02.mp4,P2,second\n",
            "v/P01.mp4": "",
            "v/P02.mp4": "",
            "second.TextGrid": TEXTGRID,
            "openface/P01.csv": OPENFACE,
        },
    )
    elan(tmp_path / "P01.eaf", media=tmp_path / "v/P01.mp4")
    found = find_study(study)
    # AU12 is what the label scheme calls a smile; a tool's smile has no vote among people's.
    assert rows(found, "P01") == [
        ("Joy", 1.0, 1.75, "human"),
        ("Smile", 0.5, 1.0, "human"),
        ("Smile (OpenFace)", 0.4, 0.9, "tool:OpenFace"),
    ]
    assert rows(found, "second") == [("Smile", 0.5, 1.25, "human")]
    assert set(found.annotations["annotator"]) >= {"Kim", "OpenFace"}
    assert [source.path.name for source in found.signals["P01"]] == ["P01.csv"]
    assert not found.problems


def test_exports_that_are_listed_and_those_that_are_not_there(tmp_path):
    study = make(
        tmp_path,
        {
            "study.yaml": HUMAN,
            "recordings.csv": 'media,participant,exports\nP01.mp4,P1,"coded/a.TextGrid; coded/b.TextGrid"\n',
            "P01.mp4": "",
            "coded/a.TextGrid": TEXTGRID,
            "P01.txt": "notes of the session, nothing else",
        },
    )
    found = find_study(study)
    assert rows(found, "P01") == [("Smile", 0.5, 1.25, "human")]
    reasons = sorted(problem.reason for problem in found.problems)
    assert len(reasons) == 2
    assert "P01.txt is of no format" in reasons[0]
    assert "lists the export coded/b.TextGrid" in reasons[1]


def test_clock_file_moves_exports_onto_the_recordings_clock(tmp_path):
    study = make(
        tmp_path,
        {
            "study.yaml": HUMAN,
            "recordings.csv": "media,participant\nP01.mp4,P1\nP02.mp4,P2\n",
            "P01.mp4": "",
            "P02.mp4": "",
            "P01.TextGrid": TEXTGRID,
            "P02.TextGrid": TEXTGRID,
            "clock.csv": "recording,export_offset_s\n*,0.25\nP2,-0.5\nnobody,1\n",
        },
    )
    found = find_study(study)
    assert rows(found, "P01") == [("Smile", 0.75, 1.5, "human")]
    assert rows(found, "P02") == [("Smile", 0.0, 0.75, "human")]
    assert [problem.recording for problem in found.problems] == ["clock.csv"]
    assert "line 4" in found.problems[0].reason


def test_clock_file_moves_expression_tables_too(tmp_path):
    header = "Respondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset"
    study = make(
        tmp_path,
        {
            "RespCam_AB 1_S1_(21,FEMALE,1).mp4": "",
            "FEAExpressionTable.csv": f"{header}\nAB_1,S1,Smile,1000,2000\n",
            "clock.csv": "recording,export_offset_s\nAB 1,0.7\n",
        },
    )
    assert rows(find_study(study), "AB-1_s1_camera") == [("Smile", 1.7, 2.7, "tool:AFFDEX")]


def test_an_export_in_utc_needs_the_recordings_start(tmp_path):
    e4 = {"e4/EDA.csv": "1551453301.0\n4.0\n" + "0.1\n" * 40, "e4/TEMP.csv": "1551453301.0\n4.0\n" + "30.5\n" * 40}
    table = "media,participant,exports,start_utc\nP01.mp4,P1,e4,{}\n"
    files = {"study.yaml": HUMAN, "P01.mp4": "", **e4}
    without = find_study(make(tmp_path / "a", {**files, "recordings.csv": table.format("")}))
    assert not without.signals
    assert any("start_utc" in problem.advice for problem in without.problems)
    # The wristband was started 2 s before the camera.
    given = find_study(make(tmp_path / "b", {**files, "recordings.csv": table.format("2019-03-01T15:15:03Z")}))
    assert given.signals["P01"][0].shift_s == pytest.approx(-2.0)
    wrong = find_study(make(tmp_path / "c", {**files, "recordings.csv": table.format("yesterday")}))
    assert any("which is no time" in problem.reason for problem in wrong.problems)


def test_silence_of_an_export_that_looked_is_negative(tmp_path):
    """A recording in which a coder found nothing counts as annotated; one without an export doesn't."""
    empty = TEXTGRID.replace('"yes"', '""')
    study = make(
        tmp_path,
        {
            "study.yaml": HUMAN,
            "recordings.csv": "media,participant\n" + "".join(f"P0{i}.mp4,P{i}\n" for i in (1, 2, 3)),
            **{f"P0{i}.mp4": "" for i in (1, 2, 3)},
            "P01.TextGrid": TEXTGRID,
            "P02.TextGrid": empty,
        },
    )
    found = find_study(study)
    assert set(found.coded["recording_id"]) == {"P01", "P02"}
    assert set(found.coded["label"]) == {"Smile"}


def test_numbered_frames_get_the_times_of_the_recording(tmp_path):
    """A tool that numbers frames meets a variable frame rate."""
    times_s = [0.0, 0.04, 0.08, 0.5, 0.9, 1.3]
    write_video(tmp_path / "P01.mp4", times_s=times_s)
    table = "frame,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore,AU12\n"
    table += "".join(f"{i},1,1,9,9,0.99,{0.1 * i:.1f}\n" for i in range(6))
    make(
        tmp_path,
        {"study.yaml": HUMAN, "recordings.csv": "media,participant\nP01.mp4,P1\n", "P01.csv": table},
    )
    from mien.annotations.formats import read_export
    from mien.data.exports import read_with_frames

    assert read_export(tmp_path / "P01.csv").needs_frame_times
    export = read_with_frames(tmp_path / "P01.csv", media=tmp_path / "P01.mp4")
    (channel,) = [signal for signal in export.signals if signal.name == "Smile"]
    np.testing.assert_allclose(channel.times_s, times_s, atol=1e-6)


def test_imotions_sensors_become_signals_of_their_respondent(tmp_path):
    write_video(tmp_path / "RespCam_AB 1_S1_(21,FEMALE,1).mp4", times_s=[i / 25 for i in range(50)])
    write_video(tmp_path / "RespCam_CD 2_S1_(22,MALE,2).mp4", times_s=[i / 25 for i in range(50)])
    values = "".join(f"{i},{31.25 * i},3,{2 + i / 100:.2f}\n" for i in range(48))
    header = "Respondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset"
    make(
        tmp_path,
        {
            "FEAExpressionTable.csv": f"{header}\nAB_1,S1,Smile,500,1000\nCD_2,S1,Smile,500,1000\n",
            "001_AB 1.csv": SENSORS + values,
            "002_ZZ 9.csv": SENSORS.replace("AB 1", "ZZ 9") + values,
            "GSRPeakTable.csv": "Respondent Name,Stimulus Name,Peak Time,Peak Amplitude\nAB 1,S1,700,0.2\n",
        },
    )
    out = tmp_path / "dataset"
    config = PrepareConfig(fps=2.0, size_px=32, workers=1, crop="none", signals_hz=8.0)
    dataset = prepare(tmp_path, out=out, config=config)
    table = dataset.signals("AB-1_s1_camera")
    assert table is not None
    assert dataset.signals("CD-2_s1_camera") is None
    conductance = table.values[:, table.names.index("GSR Conductance CAL")]
    # 2 + t * 0.32 per second, where there are samples; nothing is made up behind the last one (1.47 s).
    np.testing.assert_allclose(conductance[1:10], 2 + 0.32 * table.times_s[1:10], atol=0.01)
    assert np.isnan(conductance[-2:]).all()
    assert any("ZZ 9" in reason for reason in dataset.failures["reason"])
    assert dataset.signal_units["GSR Conductance CAL"] == "microSiemens"
    # Again: nothing is resampled, and nothing changes.
    before = (out / "recordings/AB-1_s1_camera/signals.parquet").stat().st_mtime_ns
    again = prepare(tmp_path, out=out, config=config)
    assert (out / "recordings/AB-1_s1_camera/signals.parquet").stat().st_mtime_ns == before
    assert again.content_hash == dataset.content_hash
    # An export that changes is read again.
    (tmp_path / "001_AB 1.csv").write_text(SENSORS + values.replace(",3,", ",3,1"), encoding="utf-8")
    changed = prepare(tmp_path, out=out, config=config)
    assert changed.content_hash != dataset.content_hash
    facts = json.loads((out / "recordings/AB-1_s1_camera/signals.json").read_text())
    assert facts["rate_hz"] == 8.0


def test_files_are_described(tmp_path):
    from mien.data.inspect_files import describe_files

    write_video(tmp_path / "P01.mp4", times_s=[0.0, 0.04, 0.08, 0.5])
    make(tmp_path, {"P01.TextGrid": TEXTGRID, "notes.txt": "hello"})
    rows = {row["file"].rsplit("/", 1)[-1]: row for row in describe_files([tmp_path], measure=True)}
    assert "4 frames 0.000 to 0.500 s" in rows["P01.mp4"]["found"][0]
    assert "1 intervals of 1 labels, 0.500 to 1.250 s: Smile" in rows["P01.TextGrid"]["found"][0]
    assert rows["notes.txt"]["kind"] == "unknown" and rows["notes.txt"]["problems"]


def test_parts_that_were_prepared_apart_are_joined(tmp_path):
    """What docs/scaling.md says of clusters: folders are moved together, and nothing is decoded again."""
    import shutil

    for name in ("P01", "P02"):
        write_video(tmp_path / f"{name}.mp4", times_s=[i / 25 for i in range(30)])
    config = PrepareConfig(fps=2.0, size_px=32, workers=1, crop="none")
    rows = {"a": "P01.mp4,P1\n", "b": "P02.mp4,P2\n", "whole": "P01.mp4,P1\nP02.mp4,P2\n"}
    for part, table in rows.items():
        folder = make(tmp_path / part, {"study.yaml": HUMAN, "recordings.csv": "media,participant\n" + table})
        for line in table.split():
            media = line.split(",")[0]
            shutil.copy(tmp_path / media, folder / media)
    for part in ("a", "b"):
        prepare(tmp_path / part, out=tmp_path / f"out-{part}", config=config)
    joined = tmp_path / "joined/recordings"
    joined.mkdir(parents=True)
    for part, name in (("a", "P01"), ("b", "P02")):
        shutil.move(tmp_path / f"out-{part}/recordings/{name}", joined / name)
    before = {path: path.stat().st_mtime_ns for path in joined.rglob("crops.npy")}
    dataset = prepare(tmp_path / "whole", out=tmp_path / "joined", config=config)
    assert {path: path.stat().st_mtime_ns for path in joined.rglob("crops.npy")} == before
    assert len(before) == 2
    straight = prepare(tmp_path / "whole", out=tmp_path / "straight", config=config)
    assert dataset.content_hash == straight.content_hash
