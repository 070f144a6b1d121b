"""The audit's mechanical checks: overlays, clock, overlap of splits, lineage."""

from __future__ import annotations

import dataclasses
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from media_fixtures import write_video
from mien.audit.aligned import landmarks_in_square
from mien.audit.clock import FAIL_S, WARN_S, check_clock, clock_table
from mien.audit.overlap import BackboneFact, check_lineage, check_split_overlap
from mien.audit.overlays import MIN_FRACTION, check_overlays, line_fraction
from mien.core.types import Split
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.prepare import prepare
from mien.data.process import BOX_COLUMNS, LANDMARK_COLUMNS
from mien.data.settings import PrepareConfig
from mien.data.splits import make_folds
from mien.runtime.encoders import view_crops


@pytest.fixture
def dataset(drawn_dataset, tmp_path):
    """The drawn dataset, to be changed."""
    shutil.copytree(drawn_dataset.path, tmp_path / "d", ignore=shutil.ignore_patterns("cache"))
    return Dataset.open(tmp_path / "d")


def change(dataset, name, edit):
    path = dataset.path / f"{name}.parquet"
    table = pd.read_parquet(path)
    edit(table)
    table.to_parquet(path, index=False)
    return Dataset.open(dataset.path)


# ---- overlays


OVERLAYS = ("points", "mesh", "box", "text")


def draw_overlay(crop, landmarks, *, kind, rng):
    """What facial coding programs draw: dots along features, a mesh between them, a box, names with numbers."""
    crop = crop.copy()
    points = [tuple(int(v) for v in point) for point in landmarks]
    if kind == "points":
        for _ in range(34):
            x, y = landmarks[rng.integers(5)] + rng.normal(0, 0.05 * len(crop), 2)
            cv2.circle(crop, (int(x), int(y)), 2, (255, 255, 0), -1)
    elif kind == "mesh":
        for a, b in ((0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4), (0, 3), (1, 4)):
            cv2.line(crop, points[a], points[b], (0, 255, 0), 1)
    elif kind == "box":
        low, high = round(0.2 * len(crop)), round(0.8 * len(crop))
        cv2.rectangle(crop, (low, low), (high, high), (0, 255, 255), 1)
    else:
        for text, down, colour in (("JOY 0.87", 0.3, (255, 255, 255)), ("SMILE", 0.4, (0, 255, 0))):
            place = (round(0.27 * len(crop)), round(down * len(crop)))
            cv2.putText(crop, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)
    # Recordings halve the colours; so does JPEG.
    return cv2.imdecode(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_COLOR)


def crops_with_landmarks(dataset):
    """Return the crop in the middle of each recording, with its landmarks in px of it."""
    for name in dataset.recordings["recording_id"]:
        table = dataset.frames(name)
        row = int(np.flatnonzero(table["face_found"])[len(table) // 2 - 1])
        points = table[list(LANDMARK_COLUMNS)].to_numpy(float).reshape(-1, 5, 2)
        boxes = table[list(BOX_COLUMNS)].to_numpy(float)
        inside = landmarks_in_square(points, boxes, margin=dataset.margin, size_px=dataset.size_px)
        yield np.asarray(dataset.crops(name)[row]), inside[row]


def fractions_of(dataset, kind):
    rng = np.random.default_rng(0)
    crops = [
        crop if kind == "none" else draw_overlay(crop, landmarks, kind=kind, rng=rng)
        for crop, landmarks in crops_with_landmarks(dataset)
    ]
    return line_fraction(view_crops(np.stack(crops), margin=dataset.margin, crop=1.15, size_px=160))


def test_overlays_on_drawn_faces(dataset):
    assert check_overlays(dataset).severity == "ok"
    names = list(dataset.recordings["recording_id"][:2])
    rng = np.random.default_rng(0)
    for name in names:
        crops = np.array(dataset.crops(name))
        for row in range(len(crops)):
            crops[row] = draw_overlay(crops[row], np.full((5, 2), 48.0), kind="box", rng=rng)
        np.save(dataset.path / "recordings" / name / "crops.npy", crops)
    check = check_overlays(dataset)
    assert check.severity == "warn"
    assert [row["recording"] for row in check.evidence["recordings"]] == names
    assert check.measured["recordings"] == 2


def test_overlays_arent_looked_for_in_whole_pictures(dataset):
    dataset.info["config"]["crop"] = "none"
    assert check_overlays(dataset).severity == "not checked"


def test_a_broad_red_mouth_is_no_overlay():
    picture = np.full((160, 160, 3), (190, 150, 130), np.uint8)
    cv2.ellipse(picture, (80, 110), (30, 12), 0, 0, 360, (200, 30, 40), -1)
    lined = picture.copy()
    cv2.line(lined, (20, 40), (140, 40), (0, 255, 0), 1)
    mouth, line = line_fraction(np.stack([picture, lined]))
    assert mouth < MIN_FRACTION < line


@pytest.mark.real
@pytest.mark.slow
def test_overlays_on_72_real_people(smile_study_dataset):
    check = check_overlays(smile_study_dataset)
    assert check.severity == "ok"
    honest = fractions_of(smile_study_dataset, "none")
    assert len(honest) == 72
    print("honest", np.quantile(honest, [0, 0.5, 0.95, 1]).round(5))
    assert honest.max() < MIN_FRACTION / 2
    for kind in OVERLAYS:
        drawn = fractions_of(smile_study_dataset, kind)
        print(kind, np.quantile(drawn, [0, 0.05, 0.5, 0.95, 1]).round(5), (drawn >= MIN_FRACTION).mean().round(3))
        assert (drawn >= MIN_FRACTION).mean() > 0.9


# ---- clock


@pytest.mark.real
@pytest.mark.slow
def test_the_clock_of_72_real_recordings_with_dropped_frames(smile_study_dataset):
    check = check_clock(smile_study_dataset)
    assert check.severity == "ok", check.detail
    assert (smile_study_dataset.recordings["fps_measured"] < 24).any(), "some have dropped frames"


@pytest.mark.real
@pytest.mark.slow
def test_honest_recordings_with_variable_rates_dont_fail(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    files = sorted(
        path for path in (shared_data / "clips").rglob("*") if path.suffix in (".mov", ".mp4", ".avi", ".mkv")
    )
    assert len(files) >= 5
    (tmp_path / "study.yaml").write_text("name: clips\npurpose: test\nconsent: public\nlabel_source: human\n")
    rows = [f"{path},P{number}" for number, path in enumerate(files)]
    (tmp_path / "recordings.csv").write_text("\n".join(["media,participant", *rows]) + "\n")
    clips = prepare(tmp_path, out=tmp_path / "d", config=PrepareConfig(fps=2.0, size_px=64))
    print(clock_table(clips).to_string())
    assert check_clock(clips).severity != "fail"


def test_the_clock_of_drawn_recordings_is_right(dataset):
    check = check_clock(dataset)
    assert check.severity == "ok"
    assert check.threshold == {"warn_s": WARN_S, "fail_s": FAIL_S}
    assert "not checked" in check.detail
    assert len(clock_table(dataset)) == len(dataset.recordings)


@pytest.mark.parametrize(
    ("off_s", "severity"), [(0.05, "ok"), (-0.35, "warn"), (0.35, "warn"), (-0.8, "fail"), (4.0, "fail")]
)
def test_declared_against_measured_duration(dataset, off_s, severity):
    def edit(table):
        table.loc[0, "duration_declared_s"] += off_s

    check = check_clock(change(dataset, "recordings", edit))
    assert check.severity == severity
    listed = [row["recording"] for row in check.evidence["recordings"]]
    assert listed == ([] if severity == "ok" else [dataset.recordings["recording_id"].iloc[0]])
    if severity != "ok":
        # One frame (0.1 s) is allowed, because nothing says how long the last one lasts.
        assert check.measured["duration"] == pytest.approx(abs(off_s) - 0.1, abs=0.02)


@pytest.mark.parametrize(("late_s", "severity"), [(0.02, "ok"), (0.3, "warn"), (0.7, "fail")])
@pytest.mark.parametrize("kind", ["annotations", "coded"])
def test_annotations_and_coding_after_the_end(dataset, kind, late_s, severity):
    name, end_s = dataset.recordings[["recording_id", "duration_s"]].iloc[2]
    if kind == "coded":
        coded = pd.DataFrame(
            [{"recording_id": name, "from_s": 0.0, "to_s": end_s + late_s, "annotator": "", "label": ""}]
        )
        coded.to_parquet(dataset.path / "coded.parquet", index=False)
        check = check_clock(Dataset.open(dataset.path))
    else:

        def edit(table):
            rows = table.index[table["recording_id"] == name]
            table.loc[rows[0], "offset_s"] = end_s + late_s

        check = check_clock(change(dataset, "annotations", edit))
    assert check.severity == severity
    assert check.measured[kind] == pytest.approx(late_s, abs=1e-6)


def test_a_wrong_rate_and_a_gap_warn_and_never_fail(tmp_path):
    times_s = [i / 10 for i in range(100) if not 30 <= i < 75]
    write_video(tmp_path / "a.mp4", times_s=times_s)
    (tmp_path / "study.yaml").write_text("name: gap\npurpose: test\nconsent: none\nlabel_source: human\n")
    (tmp_path / "recordings.csv").write_text("media,participant\na.mp4,A\n")
    dataset = prepare(tmp_path, out=tmp_path / "d", config=PrepareConfig(fps=1.0, size_px=32, crop="none", workers=1))
    check = check_clock(dataset)
    assert check.severity == "warn"
    # 2.9 s to 7.5 s: samples at 2 and 8 s (7.5 is the first of its slot), less two intervals.
    assert check.measured["gap"] == pytest.approx(3.5, abs=0.01)
    assert check.measured["duration"] <= WARN_S

    def edit(table):
        table["fps_declared"] = 30.0

    check = check_clock(change(dataset, "recordings", edit))
    assert check.severity == "warn"
    assert check.measured["rate"] > FAIL_S


def test_what_a_sound_cant_tell_is_named(dataset):
    def edit(table):
        table["num_frames"] = 0

    check = check_clock(change(dataset, "recordings", edit))
    assert check.measured["duration"] is None
    assert "declared against measured duration not checked" in check.detail


# ---- overlap of splits, lineage


@pytest.fixture
def folds(drawn_dataset):
    clips = build_clips(drawn_dataset, target="Smile")
    return clips, make_folds(clips, folds=3, seed=0)


def test_our_own_splits_overlap_in_nothing(folds, drawn_dataset):
    clips, splits = folds
    check = check_split_overlap(splits, clips, drawn_dataset)
    assert check.severity == "ok"
    assert check_lineage(clips, splits).severity == "ok"
    for nothing in (check_split_overlap([], clips, drawn_dataset), check_lineage(clips, [])):
        assert nothing.severity == "not checked"


def with_table(clips, **columns):
    return dataclasses.replace(clips, table=clips.table.assign(**columns))


def test_a_group_on_both_sides_fails(folds, drawn_dataset):
    clips, splits = folds
    a, b = splits[0].train[0], splits[0].test[0]
    group = clips.table["participant_id"].map(lambda name: "dyad" if name in (a, b) else name)
    check = check_split_overlap(splits, with_table(clips, group=group), drawn_dataset)
    assert check.severity == "fail"
    assert {"fold": 0, "what": "group", "value": "dyad", "sides": ["train", "test"]} in check.evidence["overlaps"]


def test_a_file_on_both_sides_fails(folds, dataset):
    clips, splits = folds

    def edit(table):
        rows = table["participant_id"].isin([splits[0].train[0], splits[0].test[0]])
        table.loc[rows, "sha256"] = "same"

    check = check_split_overlap(splits, clips, change(dataset, "recordings", edit))
    assert check.severity == "fail"
    assert {row["what"] for row in check.evidence["overlaps"]} == {"sha256"}


def test_one_persons_recordings_under_two_ids_fail(folds, dataset):
    clips, splits = folds
    person = splits[0].test[0]
    first = clips.table["participant_id"] == person
    # Half of one declared participant's clips were given to somebody on the other side.
    ids = clips.table["participant_id"].mask(first & (clips.table["frame"] % 2 == 0), splits[0].train[0])
    check = check_split_overlap(splits[:1], with_table(clips, participant_id=ids), dataset)
    assert check.severity == "fail"
    assert "declared" in {row["what"] for row in check.evidence["overlaps"]}


def test_backbones_that_know_who_is_tested(folds, drawn_dataset):
    clips, splits = folds
    person = splits[0].test[0]
    hub, ours = BackboneFact("org/vit", None), BackboneFact("bundle", ("somebody else",))
    check = check_split_overlap(splits, clips, drawn_dataset, backbones=[hub, ours])
    assert check.severity == "ok"
    assert "unknown for org/vit" in check.detail
    check = check_split_overlap(splits, clips, drawn_dataset, backbones=[BackboneFact("bundle", (person, "X"))])
    assert check.severity == "fail"
    assert check.evidence["backbones"] == [{"backbone": "bundle", "participants": [person]}]


def test_a_merged_participant_is_known_by_each_declared_id(folds, drawn_dataset):
    clips, _ = folds
    people = sorted(clips.table["participant_id"].unique())
    merged = with_table(clips, participant_id=clips.table["participant_id"].replace(people[1], people[0]))
    split = Split(fold=0, train=tuple(people[2:4]), validation=tuple(people[4:]), test=(people[0],), seed=0)
    check = check_split_overlap([split], merged, drawn_dataset, backbones=[BackboneFact("bundle", (people[1],))])
    assert check.severity == "fail"


def test_a_source_on_both_sides_fails(folds):
    clips, splits = folds
    table = clips.table
    source = table.loc[table["participant_id"] == splits[0].train[0], "clip_id"].iloc[0]
    derived = table["source_id"].mask(table["participant_id"] == splits[0].test[0], source)
    check = check_lineage(with_table(clips, source_id=derived), splits)
    assert check.severity == "fail"
    assert check.evidence["overlaps"][0]["value"] == source
    own = table.loc[table["participant_id"] == splits[0].test[0], "clip_id"].iloc[0]
    beside = table["source_id"].mask(table["participant_id"] == splits[0].test[0], own)
    assert check_lineage(with_table(clips, source_id=beside), splits).severity == "ok"
