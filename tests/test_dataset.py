"""Targets and clips: which frames are positive, negative or missing, by hand-computed times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from media_fixtures import write_sound, write_video
from mien.cli.data_commands import show_dataset
from mien.core.errors import UserError
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.inspect import describe
from mien.data.prepare import PrepareConfig, prepare

SHARED = Path(__file__).parents[2] / "shared/data"
TIMES_S = [0.0, 0.5, 1.0, 1.5, 2.0]
CONFIG = PrepareConfig(fps=2, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")

RECORDINGS = """media,participant,recording,group,arm,score,age,constant
a.mp4,A,a,g1,drug,0,20.5,x
b.mp4,B,b,g1,placebo,1,30.5,x
c.mp4,C,c,,drug,1,40.5,x
c2.mp4,C,c2,,placebo,0,,x
d.mp4,D,d,,,,50.5,x
"""
ANNOTATIONS = """recording,onset_s,offset_s,label,value
a,0.5,1.5,Smile,
b,0,0.001,Joy,
c,2,9,Smile,
c2,0.6,0.9,Smile,
a,0,1,valence,low
a,1,2,valence,high
a,1.5,1.8,valence,low
b,0,2.5,valence,mid
a,0,3,Always,
b,0,3,Always,
c,0,3,Always,
c2,0,3,Always,
a,0,1,mixed,1
a,1,2,mixed,
"""


def make(root: Path, **tables: str) -> Path:
    root.mkdir()
    (root / "study.yaml").write_text("name: S\nlabel_source: human\n")
    for name, text in {"recordings": RECORDINGS, "annotations": ANNOTATIONS, **tables}.items():
        (root / f"{name}.csv").write_text(text)
    for name in ("a", "b", "c", "c2", "d"):
        write_video(root / f"{name}.mp4", times_s=TIMES_S)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    base = tmp_path_factory.mktemp("dataset")
    return prepare(make(base / "S"), out=base / "D", config=CONFIG)


def with_unit(dataset: Dataset, unit: str) -> Dataset:
    """Return the dataset as if its study said so, with a target "Session" that only the recording c2 has."""
    changed = Dataset(dataset.path, info={**dataset.info, "study": {**dataset.info["study"], "unit": unit}})
    session = dataset.annotations.query("recording_id == 'c2' and scheme == 'Always'").assign(scheme="Session")
    changed.__dict__["annotations"] = pd.concat([dataset.annotations, session], ignore_index=True)
    return changed


def with_faces(dataset: Dataset, found: dict[str, list[bool]], *, crop: str = "none") -> Dataset:
    """Return the dataset as if faces were found in these frames, and its crops were of this kind."""
    changed = Dataset(dataset.path, info={**dataset.info, "config": {**dataset.info["config"], "crop": crop}})
    parts = {name: changed.frames(name).assign(face_found=faces) for name, faces in found.items()}
    changed.frames = lambda name: parts[name] if name in parts else dataset.frames(name)
    samples = dataset.samples.copy()
    for name, faces in found.items():
        samples.loc[samples["recording_id"] == name, "face_found"] = faces
    changed.__dict__["samples"] = samples
    return changed


def shown(facts: dict, capsys) -> str:
    capsys.readouterr()
    show_dataset(facts)
    return capsys.readouterr().out


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of a printed table's rows, without its header."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def targets_of(clips, recording_id: str) -> dict[float, int]:
    rows = clips.table[clips.table["recording_id"] == recording_id]
    return dict(zip(rows["start_s"], rows["target"], strict=True))


def test_a_frame_is_positive_where_an_interval_contains_its_time(dataset):
    clips = build_clips(dataset, target="Smile")
    # Half-open: .5 belongs to [.5, 1.5), 1.5 doesn't.
    assert targets_of(clips, "a") == {0.0: 0, 0.5: 1, 1.0: 1, 1.5: 0, 2.0: 0}
    assert targets_of(clips, "c") == {0.0: 0, 0.5: 0, 1.0: 0, 1.5: 0, 2.0: 1}
    assert targets_of(clips, "c2") == dict.fromkeys(TIMES_S, 0)
    # Annotated, only with something else: negative. Not annotated at all: missing.
    assert targets_of(clips, "b") == dict.fromkeys(TIMES_S, 0)
    assert targets_of(clips, "d") == {}
    assert clips.excluded.to_dict("records") == [{"reason": "recording not annotated", "count": 5, "recordings": 1}]


def test_clips_carry_ids_times_and_lineage(dataset):
    clips = build_clips(dataset, target="Smile")
    assert clips.scheme.classes == ("not Smile", "Smile")
    assert (clips.scheme.kind, clips.scheme.unit, clips.scheme.label_source) == ("binary", "frame", "human")
    second = clips.table.iloc[1]
    assert second["clip_id"] == second["source_id"] == "a@0.500"
    assert (second["frame"], second["start_s"], second["end_s"]) == (1, 0.5, 1.0)
    assert clips.table["clip_id"].is_unique
    assert clips.table.drop_duplicates("recording_id")[["participant_id", "group"]].values.tolist() == [
        ["A", "g1"],
        ["B", "g1"],
        ["C", "C"],
        ["C", "C"],
    ]


def test_a_clip_ends_at_the_next_sample_or_after_an_interval(tmp_path):
    root = make(tmp_path / "S")
    write_video(root / "a.mp4", times_s=[0.0, 0.3, 0.6, 2.2])
    clips = build_clips(prepare(root, out=tmp_path / "D", config=CONFIG), target="Smile")
    rows = clips.table[clips.table["recording_id"] == "a"]
    assert rows["start_s"].round(3).tolist() == [0.0, 0.6, 2.2]
    assert rows["end_s"].round(3).tolist() == [0.5, 1.1, 2.7]


def test_frames_without_a_face_are_missing_under_face_crops(dataset):
    found = {name: [True, True, False, True, False] for name in ("a", "b", "c", "c2", "d")}
    changed = with_faces(dataset, found, crop="face")
    clips = build_clips(changed, target="Smile")
    assert targets_of(clips, "a") == {0.0: 0, 0.5: 1, 1.5: 0}
    assert clips.excluded.to_dict("records") == [
        {"reason": "recording not annotated", "count": 5, "recordings": 1},
        {"reason": "no face found", "count": 8, "recordings": 4},
    ]


def test_what_a_tool_did_not_see_is_missing_whatever_the_crops_show(dataset):
    # The crops are whole pictures; the tool annotated faces, and here found the first two of each recording.
    changed = with_faces(dataset, {name: [True, True, False, False, False] for name in ("a", "b", "c", "c2", "d")})
    changed.annotations = changed.annotations.assign(source="tool:AFFDEX")
    assert changed.crop == "none"
    clips = build_clips(changed, target="Smile")
    assert targets_of(clips, "a") == {0.0: 0, 0.5: 1}
    assert targets_of(clips, "b") == {0.0: 0, 0.5: 0}
    assert clips.excluded.to_dict("records") == [
        {"reason": "recording not annotated", "count": 5, "recordings": 1},
        {"reason": "no face found", "count": 12, "recordings": 4},
    ]
    smile = next(target for target in changed.targets() if target.name == "Smile")
    assert smile.prevalence == pytest.approx(1 / 8)
    # Nobody read the arm of the study off a face, and people annotate what they see of the rest.
    assert len(build_clips(changed, target="arm").table) == 20
    people = with_faces(dataset, {"a": [False] * 5}, crop="none")
    assert targets_of(build_clips(people, target="Smile"), "a") == targets_of(build_clips(dataset, target="Smile"), "a")


@pytest.mark.parametrize(
    ("unit", "target", "message"),
    [
        (
            "recording",
            "Smile",
            r"unit: recording, one label per recording, but 'Smile' varies within 2 of 4 recordings: "
            r"a has clips 3 of 'not Smile', 2 of 'Smile'. Set unit: frame \(or segment",
        ),
        ("participant", "Smile", r"varies within 2 of 3 participants: A has .* Set unit: frame"),
        ("participant", "Session", r"varies within 1 of 3 participants: C has .* Set unit: recording and prepare"),
    ],
)
def test_a_label_that_varies_within_its_unit_is_refused_before_any_fit(dataset, unit, target, message):
    with pytest.raises(UserError, match=message):
        build_clips(with_unit(dataset, unit), target=target)


def test_a_label_that_is_constant_in_its_unit_is_accepted(dataset):
    clips = build_clips(with_unit(dataset, "recording"), target="Session")
    assert (clips.scheme.unit, set(clips.table["target"])) == ("recording", {0, 1})


def test_classes_by_value_outside_and_on_disagreement(dataset):
    clips = build_clips(dataset, target="valence")
    assert clips.scheme.classes == ("high", "low", "mid")
    # At 1.5 one interval says high, another low.
    assert targets_of(clips, "a") == {0.0: 1, 0.5: 1, 1.0: 0}
    assert targets_of(clips, "b") == dict.fromkeys(TIMES_S, 2)
    assert dict(zip(clips.excluded["reason"], clips.excluded["count"], strict=True)) == {
        "recording not annotated": 5,
        "outside every interval of the scheme": 11,
        "coders disagree": 1,
    }


def test_attributes_are_targets(dataset):
    arm = build_clips(dataset, target="arm")
    assert (arm.scheme.kind, arm.scheme.classes, arm.scheme.unit) == ("binary", ("drug", "placebo"), "recording")
    assert targets_of(arm, "b") == dict.fromkeys(TIMES_S, 1)
    assert arm.excluded.to_dict("records") == [{"reason": "attribute not given", "count": 5, "recordings": 1}]
    score = build_clips(dataset, target="score")
    assert score.scheme.classes == ("0", "1")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Smil", r"Unknown target 'Smil'. Known: Smile"),
        (
            "Always",
            r"never varies: all 20 usable frames are 'Always' \(prevalence 100 %\).*vary: Joy, Smile, valence, arm",
        ),
        ("constant", "never varies"),
        ("age", "takes 4 different values: numbers, not categories"),
        ("mixed", "1 of its 2 annotations have no value"),
    ],
)
def test_targets_that_cannot_be_used(dataset, target, message):
    with pytest.raises(UserError, match=message):
        build_clips(dataset, target=target)


def test_what_can_be_asked(dataset):
    summaries = {summary.name: summary for summary in dataset.targets()}
    # Age is a number and "mixed" is contradictory: neither can be asked.
    assert list(summaries) == ["Always", "Joy", "Smile", "valence", "arm", "constant", "score"]
    smile = summaries["Smile"]
    assert smile.prevalence == pytest.approx(3 / 20)
    assert (smile.num_participants, smile.num_participants_positive, smile.varies) == (3, 2, True)
    assert (summaries["Always"].prevalence, summaries["Always"].varies) == (1.0, False)
    assert summaries["valence"].prevalence is None
    assert not summaries["constant"].varies


def test_what_cannot_be_asked_says_why(dataset, capsys):
    unusable = dict(dataset.unusable_targets())
    assert list(unusable) == ["mixed", "age"]
    assert unusable["mixed"].startswith("1 of its 2 annotations have no value")
    assert unusable["age"].startswith("takes 4 different values: numbers")
    facts = describe(dataset)
    assert [row["name"] for row in facts["unusable_targets"]] == ["mixed", "age"]
    text = shown(facts, capsys)
    assert "can't be a target: mixed: 1 of its 2 annotations" in text
    assert "not a category: age (numbers)" in text and "can't be a target: age" not in text


def test_shown_targets_say_what_is_positive(dataset, capsys):
    facts = describe(dataset)
    emotions = {**facts["targets"][3], "name": "emotion", "classes": list("abcdefgh")}
    nobody = {**facts["targets"][2], "name": "nobody", "prevalence": None, "num_participants": 0}
    text = shown({**facts, "targets": [*facts["targets"], emotions, nobody]}, capsys)
    cells = {row[0]: row for row in table_rows(text)}
    assert cells["arm"][2] == "positive: placebo"
    assert (cells["Smile"][2], cells["Smile"][3]) == ("", "0.150")
    assert cells["valence"][2] == "high, low, mid"
    assert cells["emotion"][2] == "a, b, c, d, e, f, ..."
    assert cells["nobody"][3] == ""


def test_failures_alike_are_shown_once_and_lost_recordings_first(dataset, capsys):
    keys = ("recording", "stage", "reason", "advice")
    odd = [(f"r{n}", "annotations", f"{n} annotations of another face", "Look.") for n in range(20)]
    rows = [dict(zip(keys, row, strict=True)) for row in [*odd, ("v", "video", "v.mp4 is empty", "Copy it again.")]]
    facts = describe(dataset)
    cells = table_rows(shown({**facts, "targets": [], "failures": rows}, capsys))
    assert [row[0] for row in cells] == ["v", "r0", "r1", "r2", "..."]
    assert cells[-1][2] == "... and 17 more like it; all are in failures.csv"
    few = table_rows(shown({**facts, "targets": [], "failures": rows[-12:]}, capsys))
    assert [row[0] for row in few] == ["v", *(f"r{n}" for n in range(9, 20))]


def test_uncoded_time_is_missing_not_negative(tmp_path):
    coded = "recording,from_s,to_s,label\na,0,1.2,Smile\na,0,9,Joy\nd,0.5,1.1,\n"
    dataset = prepare(make(tmp_path / "S", coded=coded), out=tmp_path / "D", config=CONFIG)
    smile = build_clips(dataset, target="Smile")
    assert targets_of(smile, "a") == {0.0: 0, 0.5: 1, 1.0: 1}
    assert targets_of(smile, "d") == {0.5: 0, 1.0: 0}
    assert set(smile.table["recording_id"]) == {"a", "d"}
    # All that anybody coded is missing or negative.
    with pytest.raises(UserError, match="never varies"):
        build_clips(dataset, target="Joy")


def test_describe_is_json_and_counts_people(dataset):
    text = describe(dataset)
    assert (text["participants"], text["groups"], text["recordings"], text["frames"]) == (4, 3, 5, 25)
    assert text["minutes"] == pytest.approx(5 * 2.5 / 60)
    assert text["faces_found"] == 0.0
    assert text["not_annotated"] == 1
    assert [target["name"] for target in text["targets"]][:3] == ["Always", "Joy", "Smile"]
    assert text["failures"] == []


def test_a_muted_recording_has_targets_but_no_clips(tmp_path, capsys):
    for number, emotion in enumerate(("03", "04"), start=1):
        tone = np.zeros(8000 * number, dtype=np.int16)
        write_sound(tmp_path / f"03-01-{emotion}-01-01-01-0{number}.wav", parts=[(0.0, tone)], rate_hz=16000)
    dataset = prepare(tmp_path, out=tmp_path / "D", config=CONFIG)
    emotion = next(target for target in dataset.targets() if target.name == "emotion")
    assert (emotion.varies, emotion.num_participants, emotion.classes) == (True, 2, ("happy", "sad"))
    # The emotion lasts as long as the recording.
    assert dataset.annotations["offset_s"].tolist() == [0.5, 1.0]
    with pytest.raises(UserError, match=r"^None of the 2 recordings has any sound\. Use models that look at pictures"):
        build_clips(dataset, target="emotion")
    with pytest.raises(UserError, match=r"^None of the 2 recordings has a picture\. The models that listen can be"):
        build_clips(dataset, target="emotion", needs={"video"})
    assert "no picture; labels" in shown(describe(dataset), capsys)


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(UserError, match="isn't a dataset"):
        Dataset.open(tmp_path)
    (tmp_path / "recordings").mkdir()
    with pytest.raises(UserError, match="isn't finished"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99"):
        Dataset.open(tmp_path)


@pytest.mark.real
def test_labels_of_the_smile_study_are_those_of_its_table(tmp_path):
    root = SHARED / "smile_study"
    if not root.is_dir():
        pytest.skip("the shared smile study isn't here")
    study = tmp_path / "S"
    study.mkdir()
    table = root / "Analysis/Facial Coding/FEAExpressionTable.csv"
    cameras = sorted((root / "Analysis/Respondent Cameras").glob("*.mp4"))[:2]
    for path in (table, *cameras):
        (study / path.name).symlink_to(path)
    dataset = prepare(study, out=tmp_path / "D", config=PrepareConfig(**{**vars(CONFIG), "fps": 0.5}))
    reference = pd.read_csv(table, skiprows=6)
    for target in ("Smile", "Speaking", "Adaptive Engagement"):
        clips = build_clips(dataset, target=target).table
        assert clips["participant_id"].nunique() == 2
        for row in clips.itertuples():
            mine = reference[
                (reference["Respondent Name"] == row.participant_id) & (reference["Expression Type"] == target)
            ]
            at_ms = row.start_s * 1000
            inside = (mine["Expression Onset"] <= at_ms) & (at_ms < mine["Expression Offset"])
            assert row.target == int(inside.any()), row
