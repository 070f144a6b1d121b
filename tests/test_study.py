"""Finding studies: who took part, which files are used, which annotations belong to them, what is reported."""

import math
from pathlib import Path

import pytest

from mien.core.errors import UserError
from mien.data.imotions_study import split_name
from mien.data.study import find_study

SHARED = Path(__file__).parents[2] / "shared/data"
HEADER = "Respondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset"
FACTS = "label_source: human\n"


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def ids(study) -> list[str]:
    return [recording.recording_id for recording in study.recordings]


def labels(study, recording_id: str) -> list[tuple[str, float]]:
    rows = study.annotations[study.annotations["recording_id"] == recording_id]
    return list(zip(rows["scheme"], rows["onset_s"], strict=True))


@pytest.fixture
def imotions(tmp_path):
    table = [HEADER, "AR_2298,Screen recording 1,Smile,1000,2000", "LE 3299,Screen recording 1,Joy,0,500"]
    return make(
        tmp_path,
        {
            "a/RespCam_AR  2298_Screen recording 1_(21,FEMALE,1029).mp4": "",
            "a/RespCam_BB 1_Screen recording 1_(0,MALE,7).mov": "",
            "b/Screen recording 1 - AR 2298.mp4": "",
            "b/Screen recording 1 - LE 3299.avi": "",
            "b/._Screen recording 1 - LE 3299.avi": "",
            "b/stimulus.mp4": "",
            "x/FEAExpressionTable.csv": "\n".join(table),
        },
    )


def test_imotions_names_become_participants_sessions_and_attributes(imotions):
    study = find_study(imotions, media="all")
    assert study.layout == "imotions"
    assert study.label_source == "tool:AFFDEX"
    assert ids(study) == [
        "AR-2298_screen-recording-1_camera",
        "AR-2298_screen-recording-1_screen",
        "BB-1_screen-recording-1_camera",
        "LE-3299_screen-recording-1_screen",
    ]
    first = study.recordings[0]
    assert (first.participant_id, first.session, first.camera, first.group) == (
        "AR 2298",
        "Screen recording 1",
        "camera",
        "AR 2298",
    )
    # A person's attributes come with every recording of theirs; age 0 means that none was entered.
    assert [dict(recording.attributes) for recording in study.recordings] == [
        {"age": 21.0, "gender": "female"},
        {"age": 21.0, "gender": "female"},
        {"gender": "male"},
        {},
    ]
    assert [problem.recording for problem in study.problems] == ["stimulus.mp4"]


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        ("auto", ["AR-2298 camera", "BB-1 camera", "LE-3299 screen"]),
        ("camera", ["AR-2298 camera", "BB-1 camera"]),
        ("screen", ["AR-2298 screen", "LE-3299 screen"]),
    ],
)
def test_imotions_media_choice(imotions, media, expected):
    found = [name.replace("_screen-recording-1_", " ") for name in ids(find_study(imotions, media=media))]
    assert found == expected


def test_imotions_annotations_follow_the_normalised_participant(imotions):
    study = find_study(imotions, media="all")
    assert labels(study, "AR-2298_screen-recording-1_camera") == [("Smile", 1.0)]
    assert labels(study, "AR-2298_screen-recording-1_screen") == [("Smile", 1.0)]
    assert labels(study, "BB-1_screen-recording-1_camera") == []
    assert set(study.annotations["annotator"]) == {"AFFDEX"}


def test_imotions_annotations_follow_the_session_where_there_are_several(tmp_path):
    rows = ["A 1,Interview,Smile,1000,2000", "A 1,Task,Smile,5000,6000", "B 2,Task,Joy,1,2", "C 3,Other,Joy,0,9"]
    make(
        tmp_path,
        {
            "RespCam_A 1_Interview_(20,MALE,1).mp4": "",
            "RespCam_A 1_Task_(20,MALE,2).mp4": "",
            "RespCam_A 1_Rest_(20,MALE,3).mp4": "",
            "RespCam_C 3_Interview_(20,MALE,4).mp4": "",
            "FEAExpressionTable.csv": "\n".join([HEADER, *rows[:2]]),
            "more/FEAExpressionTable_2.csv": "\n".join([HEADER, *rows]),
        },
    )
    study = find_study(tmp_path)
    assert labels(study, "A-1_interview_camera") == [("Smile", 1.0)]
    assert labels(study, "A-1_task_camera") == [("Smile", 5.0)]
    assert labels(study, "A-1_rest_camera") == []
    # One session and one stimulus belong together whatever they are called.
    assert labels(study, "C-3_interview_camera") == [("Joy", 0.0)]
    assert [(problem.recording, problem.stage) for problem in study.problems] == [
        ("A-1_rest_camera", "annotations"),
        ("B 2", "annotations"),
    ]


def test_imotions_participants_csv_and_study_yaml(imotions):
    (imotions / "participants.csv").write_text("Respondent,Age,site\nar_2298,44,01\nBB 1,,02\n")
    (imotions / "study.yaml").write_text("name: GENEX\nlabel_source: human\nconsent: yes\n")
    study = find_study(imotions)
    assert (study.name, study.label_source, study.consent) == ("GENEX", "human", "yes")
    assert [dict(recording.attributes) for recording in study.recordings] == [
        {"age": 44.0, "gender": "female", "site": "01"},
        {"gender": "male", "site": "02"},
        {},
    ]


@pytest.mark.parametrize(
    ("text", "people", "sessions", "expected"),
    [
        ("AR 2298_Video 1", [], [], ("AR 2298", "Video 1")),
        ("AR_2298_Video 1", ["ar 2298"], [], ("AR_2298", "Video 1")),
        ("AR_2298_Screen recording 1", [], [], ("AR_2298", "Screen recording 1")),
        ("AR 2298_Video_1", [], ["video 1"], ("AR 2298", "Video_1")),
        ("AR", [], [], ("AR", "")),
    ],
)
def test_names_with_underscores_on_both_sides(text, people, sessions, expected):
    assert split_name(text, people=people, sessions=sessions) == expected


@pytest.fixture
def plain(tmp_path):
    return make(
        tmp_path,
        {
            "study.yaml": "name: S\nlabel_source: human\nunit: segment\n",
            "recordings.csv": "media,participant,recording,camera,group,age,cond\n"
            "v/a.mp4,P_1,r1,front,dyad 1,21,01\nv/a2.mp4,P 1,r1,side,dyad 1,21,01\nv\\b.wav,P2,r2,,,30,02\n"
            "v/none.mp4,P3,r3,,,40,02\n,P4,r4,,,1,2\n",
            "v/a.mp4": "",
            "v/a2.mp4": "",
            "v/b.wav": "",
            "annotations.csv": "recording,onset_s,offset_s,label,value,annotator\nr1,0,1,Smile,,ann\nr9,0,1,Smile,,\n"
            "r2,0,1,tone,high,\nr2,3,2,tone,low,\n",
            "coded.csv": "recording,from_s,to_s\nr1,0,10\n",
            "segments.csv": "recording,onset_s,offset_s,segment\nr2,0,4,rest\n",
        },
    )


def test_plain_study_tables(plain):
    study = find_study(plain)
    assert (study.layout, study.name, study.unit) == ("plain", "S", "segment")
    assert [(r.recording_id, r.participant_id, r.camera, r.group) for r in study.recordings] == [
        ("r1", "P 1", "camera", "dyad 1"),
        ("r1_side", "P 1", "camera", "dyad 1"),
        ("r2", "P2", "audio", "P2"),
    ]
    assert dict(study.recordings[0].attributes) == {"age": 21.0, "cond": "01"}
    # Two views are one recording: what is annotated in it holds for both.
    assert list(study.annotations["recording_id"]) == ["r1", "r1_side", "r2"]
    assert list(study.annotations["value"].fillna("-")) == ["-", "-", "high"]
    assert study.annotations["source"].unique().tolist() == ["human"]
    assert study.coded[["recording_id", "from_s", "to_s", "label"]].values.tolist() == [
        ["r1", 0.0, 10.0, ""],
        ["r1_side", 0.0, 10.0, ""],
    ]
    assert study.segments["segment"].tolist() == ["rest"]


def test_plain_study_reports_what_it_left_out(plain):
    found = [(problem.recording, problem.stage, problem.reason) for problem in find_study(plain).problems]
    assert found == [
        ("r3", "find", "recordings.csv names v/none.mp4 (line 5), which isn't there"),
        ("recordings.csv", "find", "line 6 of recordings.csv has no media"),
        ("annotations.csv", "annotations", "1 row with an end before the start (line 5), left out"),
        (
            "annotations.csv",
            "annotations",
            "1 row of annotations.csv names the recording 'r9', which recordings.csv doesn't list",
        ),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"study.yaml": ""}, "label_source.*human, tool:NAME"),
        ({"study.yaml": "label_source: me"}, "'me'; allowed: human"),
        ({"study.yaml": "label_source: 'tool:'"}, "'tool:'; allowed"),
        ({"study.yaml": FACTS + "unit: day"}, "'day', allowed: 'frame'"),
        ({"study.yaml": FACTS + "lable: 1"}, "Unknown key in study.yaml 'lable'"),
        ({"recordings.csv": "media,person\nv/a.mp4,P1\n"}, "Columns found: media, person. Columns needed: media, part"),
        ({"recordings.csv": "media,participant,recording\nv/a.mp4,P1,r\nv/b.wav,P2,r\n"}, "for two participants"),
        ({"recordings.csv": "media,participant,recording\nv/a.mp4,P1,r\nv/b.wav,P1,r\n"}, "'r' twice"),
        ({"recordings.csv": "media,participant,group\nv/a.mp4,P1,g\nv/b.wav,P1,h\n"}, "groups 'g' and 'h'"),
        ({"recordings.csv": "media,participant,recording,Smile\nv/a.mp4,P1,r1,1\n"}, "'Smile' is a column"),
        ({"recordings.csv": "media,participant\nv/x.mp4,P1\n"}, "v/x.mp4"),
        ({"annotations.csv": "recording,onset_s,offset_s,label,face\nr1,0,1,Smile,up\n"}, "face is 'up'"),
    ],
)
def test_plain_study_mistakes_are_user_errors(plain, files, message):
    make(plain, files)
    with pytest.raises(UserError, match=message):
        find_study(plain)


def test_plain_recordings_without_names_are_called_after_their_files(tmp_path):
    make(
        tmp_path,
        {
            "study.yaml": FACTS,
            "recordings.csv": "media;participant\na/cam.mp4;P1\nb/cam.mp4;P2\ntalk.mp4;P3\n",
            "a/cam.mp4": "",
            "b/cam.mp4": "",
            "talk.mp4": "",
            "annotations.csv": "recording,onset_s,offset_s,label\ntalk,0,1,Smile\nb/cam.mp4,1,2,Smile\n",
        },
    )
    study = find_study(tmp_path)
    assert ids(study) == ["a-cam", "b-cam", "talk"]
    assert sorted(study.annotations["recording_id"]) == ["b-cam", "talk"]


def test_ravdess_names(tmp_path):
    make(tmp_path, {"Actor_02/01-01-03-02-01-01-02.mp4": "", "Actor_01/03-01-08-01-02-02-01.wav": "", "x.wav": ""})
    study = find_study(tmp_path)
    assert (study.layout, study.label_source, study.unit) == ("ravdess", "stimulus", "recording")
    assert [(r.participant_id, r.camera, r.attributes["gender"]) for r in study.recordings] == [
        ("02", "camera", "female"),
        ("01", "audio", "male"),
    ]
    assert study.annotations[["scheme", "value", "onset_s", "offset_s"]].values.tolist() == [
        ["emotion", "surprised", 0.0, math.inf],
        ["emotion", "happy", 0.0, math.inf],
    ]
    assert [problem.recording for problem in study.problems] == ["x.wav"]


def test_what_is_no_study(tmp_path):
    with pytest.raises(UserError, match="doesn't exist"):
        find_study(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no media files.*recordings\.csv.*RespCam_.*MM-VC"):
        find_study(tmp_path)
    make(tmp_path, {"talk.mp4": ""})
    with pytest.raises(UserError, match="its media file has another name"):
        find_study(tmp_path)
    make(tmp_path, {"study.yaml": "label_source: human\n"})
    for layout in ("auto", "plain"):
        with pytest.raises(UserError, match=r"study\.yaml is here, but recordings\.csv is missing"):
            find_study(tmp_path, layout=layout)
    with pytest.raises(UserError, match="is a file"):
        find_study(tmp_path / "talk.mp4")
    with pytest.raises(UserError, match=r"Unknown layout 'plan'\. Known: plain"):
        find_study(tmp_path, layout="plan")
    make(tmp_path, {"Screen recording 1 - A.mp4": ""})
    with pytest.raises(UserError, match="no recordings for media 'camera'; it has: screen"):
        find_study(tmp_path, media="camera")


@pytest.mark.real
def test_the_smile_study():
    root = SHARED / "smile_study"
    if not root.is_dir():
        pytest.skip("the shared smile study isn't here")
    study = find_study(root)
    assert len(study.recordings) == 75
    assert study.label_source == "synthetic"
    assert study.problems == ()
    assert len(study.annotations) == 1432
    screens = [r.participant_id for r in study.recordings if r.camera == "screen"]
    assert screens == ["QX 0001", "QX 0002", "QX 0003"]
    both = find_study(root, media="all")
    assert len(both.recordings) == 85
    assert len({r.participant_id for r in both.recordings} - set(screens)) == 72
    missing_age = [r.participant_id for r in study.recordings if r.camera == "camera" and "age" not in r.attributes]
    assert missing_age == ["FR 2410"]


@pytest.mark.real
def test_the_ravdess_part_agrees_with_its_manifest():
    root = SHARED / "speech/ravdess"
    if not root.is_dir():
        pytest.skip("the shared RAVDESS part isn't here")
    import pandas as pd

    manifest = pd.read_csv(root / "manifest.csv", dtype=str).set_index("file")
    study = find_study(root)
    emotions = dict(zip(study.annotations["recording_id"], study.annotations["value"], strict=True))
    assert len(study.recordings) == len(manifest) == 288
    for recording in study.recordings:
        row = manifest.loc[recording.path.name]
        assert recording.participant_id == row["actor"]
        assert recording.attributes["gender"] == row["gender"]
        assert emotions[recording.recording_id] == row["emotion"]
