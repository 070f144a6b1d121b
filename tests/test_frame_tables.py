"""OpenFace, Py-Feat and Affectiva: ratings per frame on real times, per face, of frames with a face."""

import json
from pathlib import Path

import numpy as np
import pytest

from mien.annotations.affectiva import read_affectiva
from mien.annotations.openface import read_openface
from mien.annotations.pyfeat import read_pyfeat
from mien.core.errors import UserError

OPENFACE = "frame, timestamp, confidence, success, pose_Rx, x_0, AU01_r, AU04_r, AU04_c, AU28_c"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def signals(export) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    return {
        (signal.name, signal.face): (signal.times_s.tolist(), [round(float(value), 4) for value in signal.values])
        for signal in export.signals
    }


def intervals(export) -> list[tuple[object, ...]]:
    return list(export.intervals[["label", "onset_s", "offset_s", "face"]].itertuples(index=False, name=None))


def frame(number: int, time_s: float, success: int, *, brow: float = 0.0, present: int = 0) -> str:
    return f"{number}, {time_s}, 0.9, {success}, 0.1, 250, {number}, {brow}, {present}, 0"


def test_openface_rates_frames_with_a_face(tmp_path):
    """The third frame has no face: it has a confidence and nothing else."""
    lines = [frame(1, 0.0, 1), frame(2, 0.04, 1, brow=2.5, present=1), frame(3, 0.08, 0, brow=9), frame(4, 0.12, 1)]
    export = read_openface(write(tmp_path / "a.csv", OPENFACE, *lines))
    found = signals(export)
    assert {name for name, _ in found} == {"confidence", "pose_Rx", "AU01", "Brow Furrow"}
    assert found["Brow Furrow", ""] == ([0.0, 0.04, 0.12], [0.0, 2.5, 0.0])
    assert found["confidence", ""][0] == [0.0, 0.04, 0.08, 0.12]
    assert {signal.unit for signal in export.signals if signal.name == "pose_Rx"} == {"rad"}
    assert (export.annotator, export.tool, export.labels) == ("OpenFace", True, ("Brow Furrow", "Lip Suck"))
    assert not export.problems


def test_openface_presence_by_runs_of_frames(tmp_path):
    """A run ends at the next frame without it; where the face is lost, one frame's duration after its last frame."""
    present = {5, 6, 7, 20, 21}
    numbers = [*range(1, 22), *range(40, 50)]
    lines = [frame(number, number / 25, 1, present=int(number in present)) for number in numbers]
    export = read_openface(write(tmp_path / "a.csv", OPENFACE, *lines))
    found = export.intervals
    assert found["label"].tolist() == ["Brow Furrow", "Brow Furrow"]
    assert found["value"].isna().all()
    assert found["onset_s"].tolist() == pytest.approx([5 / 25, 20 / 25])
    assert found["offset_s"].tolist() == pytest.approx([8 / 25, 22 / 25])


def test_openface_tells_faces_apart(tmp_path):
    header = "frame,face_id,timestamp,confidence,success,AU04_r,AU04_c"
    lines = [f"{number},{face},{number / 10},0.9,1,{face},{int(face == 1)}" for number in range(3) for face in (0, 1)]
    export = read_openface(write(tmp_path / "a.csv", header, *lines))
    found = signals(export)
    assert found["Brow Furrow", "0"][1] == [0, 0, 0] and found["Brow Furrow", "1"][1] == [1, 1, 1]
    assert intervals(export) == [("Brow Furrow", 0.0, pytest.approx(0.3), "1")]


def test_openface_on_the_medias_own_times(tmp_path):
    lines = [frame(1, 0.0, 1), frame(2, 0.001, 1), frame(3, 0.002, 1)]
    path = write(tmp_path / "a.csv", OPENFACE, *lines)
    assert "its times are 1 ms apart" in read_openface(path).problems[0].reason
    export = read_openface(path, frame_times_s=np.array([0.5, 0.54]))
    assert signals(export)["AU01", ""] == ([0.5, 0.54], [1.0, 2.0])
    assert [problem.reason for problem in export.problems] == [
        "1 rows name a frame that the media doesn't have (2 frames), left out"
    ]


def test_openface_rows_that_are_wrong_cost_themselves_only(tmp_path):
    lines = [
        frame(1, 0.0, 1),
        frame(2, 0.04, 1, brow="?"),
        frame(3, 0.02, 1),
        frame(4, "x", 1),
        frame(5, 0.16, 1) + ",7,8",
    ]
    export = read_openface(write(tmp_path / "a.csv", OPENFACE, *lines, frame(6, 0.2, 1), "7, 0.24, 0.9, 1, 0"))
    found = signals(export)
    assert found["Brow Furrow", ""][0] == [0.0, 0.2]
    assert found["AU01", ""][0] == [0.0, 0.04, 0.2]
    reasons = " ".join(problem.reason for problem in export.problems)
    for what in (
        "2 rows with more or fewer cells than the others",
        "1 rows without a time",
        "1 rows at or before the time",
    ):
        assert what in reasons


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,b", "1,2"], "isn't OpenFace's"),
        (["face, confidence, AU01_r", "0, 0.9, 1"], "FaceLandmarkImg writes such files for single pictures"),
        ([OPENFACE], "has a header and no row"),
        ([""], "has no header|can't be read as a table"),
    ],
)
def test_what_isnt_openface_is_refused(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read_openface(write(tmp_path / "a.csv", *lines))


PYFEAT = "frame,FaceRectX,FaceScore,AU01,AU12,Pitch,anger,happiness,input,approx_time"


def test_pyfeat_needs_the_medias_times(tmp_path):
    path = write(
        tmp_path / "a.csv",
        PYFEAT,
        "0,5,0.9,0.1,0.2,3,0.5,0.4,d/v.mp4,00:00",
        "1,,,,,,,,d/v.mp4,00:00",
        "2,5,1,.3,.4,3,.1,.1,d/v.mp4,00:00",
    )
    waiting = read_pyfeat(path)
    assert waiting.needs_frame_times and not waiting.signals
    assert "3 rows are numbered frames without times" in waiting.problems[0].reason
    export = read_pyfeat(path, frame_times_s=np.array([0.1, 0.13, 0.2, 0.3]))
    assert not export.needs_frame_times and not export.problems
    found = signals(export)
    assert found["Smile", ""] == ([0.1, 0.2], [0.2, 0.4])
    assert found["Anger", ""] == ([0.1, 0.2], [0.5, 0.1])
    assert {name for name, _ in found} == {"FaceScore", "AU01", "Smile", "Pitch", "Anger", "happiness"}
    assert (export.media, export.tool, export.annotator) == (("v.mp4",), True, "Py-Feat")


def test_pyfeat_with_a_column_of_seconds(tmp_path):
    path = write(tmp_path / "a.csv", "frame,pts_s,AU01", "0,0.1,1", "30,1.4,2")
    assert signals(read_pyfeat(path)) == {("AU01", ""): ([0.1, 1.4], [1.0, 2.0])}


@pytest.mark.parametrize(("names", "faces"), [(("A", "B"), {"A", "B"}), (None, {"0", "1"})])
def test_pyfeat_with_several_faces(tmp_path, names, faces):
    column = ",Identity" if names else ""
    cells = [[str(number), "1"] + ([name] if names else []) for number in (0, 1) for name in names or ("", "")]
    path = write(tmp_path / "a.csv", f"frame,AU01{column}", *map(",".join, cells))
    export = read_pyfeat(path, frame_times_s=np.array([0.0, 0.1]))
    assert {face for _, face in signals(export)} == faces
    assert bool(export.problems) == (names is None)


def test_pyfeat_of_other_media_is_reported(tmp_path):
    path = write(tmp_path / "a.csv", "frame,AU01", "0,1", "7,1")
    export = read_pyfeat(path, frame_times_s=np.array([0.0]))
    assert "1 rows name a frame that the media doesn't have" in export.problems[0].reason


def test_pyfeat_rows_without_a_frame_cost_themselves_only(tmp_path):
    path = write(tmp_path / "a.csv", "frame,AU01", "?,1", "1,2")
    assert signals(read_pyfeat(path, frame_times_s=np.array([0.0, 0.5]))) == {("AU01", ""): ([0.5], [2.0])}
    path = write(tmp_path / "b.csv", "frame,AU01", "?,1")
    assert not read_pyfeat(path, frame_times_s=np.array([0.0])).signals


def test_pyfeat_of_another_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="isn't Py-Feat's"):
        read_pyfeat(write(tmp_path / "a.csv", "frame,x", "0,1"))


FRAMES = [
    {"Timestamp": 0, "FileName": "v.mp4", "joy": 99.5, "browFurrow": 0, "valence": -3, "smile": None},
    {"Timestamp": 0.2, "FileName": "v.mp4", "joy": 10, "smile": 4},
]


@pytest.mark.parametrize("form", ["list", "lines", "one"])
def test_affectiva(tmp_path, form):
    path = tmp_path / "a.json"
    texts = {"list": json.dumps(FRAMES), "lines": "\n".join(map(json.dumps, FRAMES)), "one": json.dumps(FRAMES[0])}
    path.write_text(texts[form])
    found = signals(read_affectiva(path))
    if form == "one":
        assert found["Joy", ""] == ([0.0], [99.5])
    else:
        assert found["Joy", ""] == ([0.0, 0.2], [99.5, 10.0])
        assert found["Smile", ""] == ([0.2], [4.0])
    assert found["Brow Furrow", ""] == ([0.0], [0.0]) and found["valence", ""] == ([0.0], [-3.0])


def test_affectiva_in_groups_with_faces_and_wrong_frames(tmp_path):
    frames = [
        {"timestamp": 1, "faceId": 3, "emotions": {"joy": 1, "name": "x"}, "expressions": {"browRaise": 2}},
        {"timestamp": 1, "faceId": 4, "emotions": {"joy": 5}},
        {"timestamp": 1, "faceId": 4, "emotions": {"joy": 6}},
        {"emotions": {"joy": 5}},
        {"timestamp": 2},
        "text",
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(frames))
    export = read_affectiva(path)
    assert signals(export) == {
        ("Joy", "3"): ([1.0], [1.0]),
        ("Brow Raise", "3"): ([1.0], [2.0]),
        ("Joy", "4"): ([1.0], [5.0]),
    }
    reasons = [problem.reason for problem in export.problems]
    assert reasons == [
        "3 of 6 frames without a time or ratings, left out",
        "1 of 6 frames at the time of an earlier one, left out",
    ]


@pytest.mark.parametrize(
    "text", ["", "[1, 2", "[" * 100_000, '{"Timestamp": 1}', "3", "[NaN]", '{"Timestamp": 1e999, "joy": 1}']
)
def test_what_isnt_affectiva_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"whole JSON|no object with a Timestamp"):
        read_affectiva(path)


@pytest.mark.real
def test_real_files(shared_data):
    folder = shared_data / "exports/openface_affectiva"
    openface = read_openface(folder / "OpenFace_Test.csv")
    assert len(openface.signals) == 30 and {len(signal.values) for signal in openface.signals} == {100}
    assert "its times are 1 ms apart" in openface.problems[0].reason
    pyfeat = read_pyfeat(folder / "Feat_Test.csv", frame_times_s=np.array([0.25]))
    assert len(pyfeat.signals) == 31 and pyfeat.media == ("single_face.jpg",)
    affectiva = read_affectiva(folder / "sample_affectiva-api-app_output.json")
    assert signals(affectiva)["Joy", ""] == ([0.0], [pytest.approx(99.9306, abs=1e-4)])
    assert len(affectiva.signals) == 30
