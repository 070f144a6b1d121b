"""Copies of people: photometric and geometric ones are found, different people stay apart (T5, T6)."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from copied_studies import COPIES, GEOMETRIC, ORIGINAL, PHOTOMETRIC, drawn_pictures, write_study
from mien.audit.aligned import TEMPLATE, align_faces, aligned_recording, landmarks_in_square, similarity_to_template
from mien.audit.copies import MIN_SHARE, MIN_ZNCC, check_contradictory_labels, check_copies
from mien.audit.identity import check_same_person, connected, merge_participants
from mien.audit.matching import Gallery, Matcher, mirror_sketches, sketch
from mien.audit.registration import registered_zncc
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig
from mien.media.faces import crop_square
from mien.media.video import sample_frames

FIVE = tuple(sorted([ORIGINAL, *COPIES]))


def prepared(study, out, **settings):
    return prepare(study, out=out, config=PrepareConfig(**{"fps": 1.0, "size_px": 112, "workers": 2} | settings))


def copy_of(dataset, out):
    """A copy whose tables a test may change."""
    shutil.copytree(dataset.path, out, ignore=shutil.ignore_patterns("cache"))
    return Dataset.open(out)


def change_frames(dataset, recording_id, change):
    path = dataset.path / "recordings" / recording_id / "frames.parquet"
    table = pd.read_parquet(path)
    change(table)
    table.to_parquet(path, index=False)


@pytest.fixture(scope="module")
def copied_dataset(copied_study, tmp_path_factory):
    return prepared(copied_study, tmp_path_factory.mktemp("copied") / "dataset")


# ---- aligned faces


def dots(points, *, shape=(200, 260)):
    picture = np.zeros((*shape, 3), np.uint8)
    for x, y in points:
        cv2.circle(picture, (round(x * 16), round(y * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    return picture


def centres(grey, near, *, reach):
    found = []
    for x, y in near:
        y0, x0 = max(0, round(y) - reach), max(0, round(x) - reach)
        part = grey[y0 : round(y) + reach + 1, x0 : round(x) + reach + 1].astype(float)
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
        found.append((x0 + (columns * part).sum() / part.sum(), y0 + (rows * part).sum() / part.sum()))
    return np.array(found)


POINTS = np.array([[101.3, 80.2], [141.9, 84.7], [120.5, 105.1], [103.2, 128.4], [136.7, 131.3]])


@pytest.mark.parametrize(
    ("box", "size_px"), [((85.5, 50.2, 155.1, 150.9), 224), ((84.0, 55.0, 157.0, 149.0), 96), ((5.2, 20, 200, 180), 64)]
)
def test_landmarks_lie_where_the_crop_shows_them(box, size_px):
    crop = crop_square(dots(POINTS), np.array(box), margin=1.6, size_px=size_px)
    inside = landmarks_in_square(POINTS[None], np.array([box]), margin=1.6, size_px=size_px)[0]
    reach = max(2, round(5 * size_px / (1.6 * max(box[2] - box[0], box[3] - box[1]))))
    assert np.abs(centres(crop[..., 0], inside, reach=reach) - inside).max() < 0.35


def test_aligned_landmarks_lie_at_the_template_however_the_face_lies():
    turn = cv2.getRotationMatrix2D((120, 100), 25, 1.7)
    size = 300
    # The template itself, turned and scaled: a similarity brings every point back.
    points = (TEMPLATE - TEMPLATE.mean(axis=0)) * 2.5 + 120
    moved = points @ turn[:, :2].T + turn[:, 2]
    aligned = align_faces(dots(moved, shape=(size, size))[None], moved[None])[0]
    assert np.abs(centres(aligned, TEMPLATE, reach=3) - TEMPLATE).max() < 0.3


def test_a_mirrored_face_is_aligned_to_the_mirror_image():
    picture = drawn_pictures(3, count=1)[0]
    width = picture.shape[1]
    points = TEMPLATE * 1.1 + (60, 30)
    mirrored = np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
    one, other = align_faces(np.stack([picture, picture[:, ::-1]]), np.stack([points, mirrored]))
    # OpenCV places samples to 1/32 px.
    assert np.abs(one.astype(int) - other[:, ::-1]).mean() < 1
    assert one.std() > 20


def test_impossible_landmarks_are_no_face():
    same_place = np.full((1, 5, 2), 50.0)
    missing = np.full((1, 5, 2), np.nan)
    crops = np.full((2, 64, 64, 3), 128, np.uint8)
    assert np.isnan(similarity_to_template(np.concatenate([same_place, missing]))).all()
    assert not align_faces(crops, np.concatenate([same_place, missing])).any()


def test_frames_without_a_face_are_left_out_and_the_cache_is_read_again(drawn_dataset, tmp_path):
    dataset = copy_of(drawn_dataset, tmp_path / "d")
    name = str(dataset.recordings["recording_id"].iloc[0])

    def lose(table):
        columns = [c for c in table.columns if c not in ("frame", "pts_s", "face_found")]
        table.loc[[1, 3], columns] = np.nan
        table.loc[[1, 3], "face_found"] = False

    change_frames(dataset, name, lose)
    first = aligned_recording(dataset, name)
    assert first is not None
    assert first.kind == "face"
    assert not {1, 3} & set(first.frames.tolist())
    assert not first.pixels[[1, 3]].any()
    assert first.pixels[first.frames].reshape(len(first.frames), -1).std(axis=1).min() > 10
    assert first.pts_s.tolist() == dataset.frames(name)["pts_s"].to_numpy()[first.frames].tolist()
    files = list((dataset.path / "cache").rglob("*.npy"))
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    again = aligned_recording(dataset, name)
    assert files[0].stat().st_mtime_ns == written
    assert np.array_equal(again.pixels, first.pixels)


def test_a_face_that_wanders_over_a_screen_is_no_panel(drawn_dataset, tmp_path):
    dataset = copy_of(drawn_dataset, tmp_path / "d")
    name = str(dataset.recordings["recording_id"].iloc[0])
    table = pd.read_parquet(dataset.path / "recordings.parquet").assign(camera="screen")
    table.to_parquet(dataset.path / "recordings.parquet", index=False)
    assert aligned_recording(dataset, name).kind == "face"

    def wander(frames):
        moved = frames.index % 3
        for column in frames.columns[frames.columns.str.match(r"x\d|l\dx")]:
            frames[column] += moved * 200

    change_frames(dataset, name, wander)
    shutil.rmtree(dataset.path / "cache")
    assert aligned_recording(Dataset.open(dataset.path), name).kind == "picture"


# ---- matching


def grey_pictures(count, *, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.normal(128, 60, (count, 64, 64))
    return np.stack([cv2.GaussianBlur(n, (0, 0), 2.5) * 4 - 384 for n in noise]).clip(0, 255).astype(np.uint8)


def moved(picture, *, turn=0.0, shift=(0.0, 0.0), scale=1.0):
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), turn, scale)
    matrix[:, 2] += shift
    return cv2.warpAffine(picture, matrix, (64, 64), borderMode=cv2.BORDER_REFLECT)


def test_registration_undoes_what_landmarks_get_wrong():
    rng = np.random.default_rng(5)
    pictures = grey_pictures(40)
    other = np.stack(
        [
            moved(p, turn=rng.uniform(-5, 5), shift=rng.uniform(-2.5, 2.5, 2), scale=rng.uniform(0.93, 1.07))
            for p in pictures
        ]
    )
    darker = (other * 0.6 + 10).astype(np.uint8)
    assert registered_zncc(pictures, pictures).min() > 0.999
    assert np.quantile(registered_zncc(pictures, darker), 0.1) > 0.9
    assert registered_zncc(pictures, np.roll(pictures, 1, axis=0)).max() < 0.6
    blank = np.full((1, 64, 64), 90, np.uint8)
    assert registered_zncc(blank, blank)[0] < 0.5


def test_a_mirrored_sketch_is_the_sketch_of_the_mirror_image():
    pictures = grey_pictures(5)
    assert np.abs(mirror_sketches(sketch(pictures)) - sketch(pictures[:, :, ::-1])).max() < 1e-3
    assert not sketch(np.full((1, 64, 64), 7, np.uint8)).any()


def test_matcher_finds_a_copy_in_any_part_and_never_oneself():
    pictures = grey_pictures(60)
    own, other = pictures[:10], pictures[10:20]
    parts = [
        (pictures[20:40], np.arange(0, 20, 2)),
        (np.concatenate([pictures[40:], own[3:5, :, ::-1]]), np.arange(22)),
    ]
    gallery = Gallery(parts)
    assert len(gallery) == 32
    assert np.array_equal(gallery.take(np.array([31, 1])), np.stack([pictures[4, :, ::-1], pictures[22]]))
    matcher = Matcher(np.concatenate([own, other]), owners=np.repeat([0, 1], 10), threshold=0.85)
    galleries = [Gallery([(own, np.arange(10))]), Gallery([(other, np.arange(10))]), gallery]
    found = matcher.find(galleries)
    assert [(m.query, m.gallery, m.item, m.mirrored) for m in found] == [(3, 2, 30, True), (4, 2, 31, True)]
    assert all(m.zncc > 0.99 for m in found)
    assert matcher.find(galleries[:2]) == []


# ---- participants


def test_union_find_and_merging(drawn_dataset):
    assert connected([("b", "a"), ("c", "d"), ("a", "c"), ("x", "x")]) == (("a", "b", "c", "d"),)
    clips = build_clips(drawn_dataset, target="Smile")
    people = sorted(clips.table["participant_id"].unique())
    assert merge_participants(clips, []) is clips
    merged = merge_participants(clips, [(people[3], people[1])])
    rows = merged.table[clips.table["participant_id"].isin([people[1], people[3]])]
    assert set(rows["participant_id"]) == set(rows["group"]) == {people[1]}
    rest = ~clips.table["participant_id"].isin([people[1], people[3]])
    pd.testing.assert_frame_equal(merged.table[rest], clips.table[rest])
    assert clips.table["participant_id"].nunique() == len(people), "the original stays as it was"


def test_merging_unites_groups_with_everybody_in_them(drawn_dataset):
    clips = build_clips(drawn_dataset, target="Smile")
    a, b, c, d, *_ = sorted(clips.table["participant_id"].unique())
    dyads = {a: "one", b: "two", c: "two", d: a}
    clips.table["group"] = clips.table["participant_id"].map(lambda name: dyads.get(name, name))
    table = merge_participants(clips, [(a, b)]).table
    group_of = table.groupby("participant_id")["group"].unique()
    assert group_of[a].tolist() == group_of[c].tolist()
    # d's own group happens to be named a; it isn't united with the others by that.
    assert group_of[d][0] != group_of[a][0]
    assert b not in group_of.index


def test_nobody_looked_for_one_person_under_two_ids():
    check = check_same_person()
    assert check.severity == "not checked"
    assert "consent" in check.advice


# ---- T6: the design's own dataset


def assert_all_five_are_one(dataset):
    assert dataset.recordings["participant_id"].nunique() == 5
    copies = check_copies(dataset, seed=0)
    assert copies.check.severity == "fail"
    assert copies.merged == (FIVE,)
    clips = build_clips(dataset, target="Adaptive Engagement")
    merged = merge_participants(clips, copies.merged)
    assert merged.table["participant_id"].unique().tolist() == [FIVE[0]]
    assert merged.table["group"].unique().tolist() == [FIVE[0]]
    return copies, clips


def test_the_designs_dataset_is_one_person(copied_dataset):
    copies, clips = assert_all_five_are_one(copied_dataset)
    contradictory = check_contradictory_labels(copies, clips)
    assert contradictory.severity == "fail"
    assert contradictory.measured > 20
    ends = contradictory.evidence["pairs"][0]
    assert ends["a"]["label"] != ends["b"]["label"]
    evidence = copies.check.evidence
    assert {(row["a"], row["b"]) for row in evidence["shares"]} <= {(a, b) for a in FIVE for b in FIVE if a < b}
    pair = evidence["pairs"][0]
    assert pair["zncc"] >= MIN_ZNCC
    assert pair["a"]["participant"] != pair["b"]["participant"]
    assert not pair["mirrored"]
    assert len(copied_dataset.frames(pair["a"]["recording"])) > pair["a"]["frame"]


def test_copies_of_some_of_the_people_only(copied_dataset):
    some = copied_dataset.recordings[copied_dataset.recordings["participant_id"].isin(FIVE[:2])]
    assert check_copies(copied_dataset, some, seed=0).merged == (FIVE[:2],)
    one = copied_dataset.recordings[copied_dataset.recordings["participant_id"] == FIVE[0]]
    alone = check_copies(copied_dataset, one, seed=0)
    assert alone.check.severity == "ok"
    clips = build_clips(copied_dataset, target="Adaptive Engagement")
    assert check_contradictory_labels(alone, clips).severity == "ok"


@pytest.mark.real
@pytest.mark.slow
def test_the_designs_dataset_with_a_real_person(real_copied_study, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    assert_all_five_are_one(prepared(real_copied_study, tmp_path / "d", size_px=224))


# ---- T5: recall of copies, no false merge


def with_copies(people, *, geometric=(), each=4):
    """Return people and their copies, and what belongs together; `each` photometric changes per person, in turn."""
    everybody, sets = {}, []
    for number, (name, pictures) in enumerate(people.items()):
        names = [list(PHOTOMETRIC)[(number + step) % len(PHOTOMETRIC)] for step in range(each)]
        hows = {how: PHOTOMETRIC[how] for how in names} | (GEOMETRIC if number in geometric else {})
        copies = {f"{name} {how}": [change(p) for p in pictures] for how, change in hows.items()}
        everybody |= {name: pictures} | copies
        sets.append(tuple(sorted([name, *copies])))
    return everybody, tuple(sorted(sets))


def distances(dataset, sets):
    """Return the smallest correlation of a copy with its original, and the largest of different people's likest."""
    aligned = {
        row.participant_id: aligned_recording(dataset, row.recording_id) for row in dataset.recordings.itertuples()
    }
    lowest = []
    for names in sets:
        original = aligned[min(names, key=len)]
        for name in names:
            other = aligned[name]
            rows = np.intersect1d(original.frames, other.frames)
            if "mirrored" not in name:
                lowest.extend(registered_zncc(original.pixels[rows], other.pixels[rows]))
    originals = [aligned[min(names, key=len)] for names in sets]
    pictures = np.concatenate([a.pixels[a.frames] for a in originals])
    owner = np.repeat(np.arange(len(originals)), [len(a.frames) for a in originals])
    alike = sketch(pictures) @ sketch(pictures).T
    alike[owner[:, None] >= owner] = -1
    a, b = np.unravel_index(np.argsort(-alike, axis=None)[:2000], alike.shape)
    different = registered_zncc(pictures[a[owner[a] < owner[b]]], pictures[b[owner[a] < owner[b]]])
    return min(lowest), max(different)


def test_drawn_people_stay_apart_and_their_copies_are_found(drawn_dataset, tmp_path):
    assert check_copies(drawn_dataset, seed=0).merged == ()
    people, sets = with_copies({f"P{i}": drawn_pictures(i, count=3) for i in range(3)}, geometric=[2])
    dataset = prepared(write_study(tmp_path / "study", people), tmp_path / "d")
    copies = check_copies(dataset, seed=0)
    print("drawn: lowest copy, likest different people:", distances(dataset, sets))
    assert copies.merged == sets


def first_pictures(path, *, count):
    frames = sample_frames(path, every=15, threads=1)
    return [next(frames).rgb for _ in range(count)]


@pytest.fixture(scope="module")
def real_people(shared_data):
    cameras = sorted((shared_data / "smile_study/Analysis/Respondent Cameras").glob("*.mp4"))
    people = {}
    for path in cameras:
        if "QX" not in path.name:  # those that don't open
            people[path.name.split("_")[1]] = first_pictures(path, count=3)
    assert len(people) == 72
    return people


@pytest.mark.real
@pytest.mark.slow
def test_t5_all_copies_of_72_real_people_are_found_and_nobody_else_is_merged(
    real_people, shared_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    people, sets = with_copies(real_people, geometric=range(0, 72, 9), each=2)
    study = write_study(tmp_path / "study", people)
    dataset = prepared(study, tmp_path / "d", size_px=224)
    originals = dataset.recordings[dataset.recordings["participant_id"].isin(list(real_people))]
    assert check_copies(dataset, originals, seed=0).merged == ()
    copies = check_copies(dataset, seed=0)
    missed = {name for names in sets for name in names} - {name for names in copies.merged for name in names}
    assert not missed
    assert copies.merged == sets
    lowest, likest = distances(dataset, sets)
    print(f"copies >= {lowest:.3f}, different people <= {likest:.3f}")
    assert likest < MIN_ZNCC - 0.03
    assert lowest > MIN_ZNCC


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("crop", ["face", "panel", "none"])
def test_t5_ten_screen_recordings_merge_nobody(crop, shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    dataset = prepared(shared_data / "smile_study", tmp_path / "d", fps=0.25, media="screen", crop=crop)
    assert len(dataset.recordings) == 10
    copies = check_copies(dataset, seed=0)
    assert copies.merged == ()
    # Of a whole screen at 112 px a face is 12 px: nobody can be told apart, nor be found alike.
    assert copies.check.severity == ("not checked" if crop == "none" else "ok")
    assert ("their faces are too small" in copies.check.detail) == (crop == "none")


# ---- what isn't a face


def pattern(seed):
    return [cv2.cvtColor(cv2.resize(p, (192, 144)), cv2.COLOR_GRAY2RGB) for p in grey_pictures(4, seed=seed)]


def test_pictures_without_faces_warn_and_the_same_file_is_a_copy(tmp_path):
    slides = pattern(1)
    people = {"A": slides, "B": [(p * 0.9).astype(np.uint8) for p in slides], "C": pattern(2), "D": pattern(3)}
    study = write_study(tmp_path / "study", people, camera="screen")
    apart = check_copies(prepared(study, tmp_path / "d", crop="none"), seed=0)
    assert apart.check.severity == "warn"
    assert apart.merged == ()
    assert {(r["a"], r["b"]) for r in apart.check.evidence["shares"]} == {("A", "B")}
    assert set(apart.pairs["kind"]) == {"picture"}
    shutil.copyfile(study / "C.mp4", study / "D.mp4")
    twice = check_copies(prepared(study, tmp_path / "d2", crop="none"), seed=0)
    assert twice.check.severity == "fail"
    assert twice.merged == (("C", "D"),)
    assert twice.check.measured["same_media"] == 1


def test_the_same_file_with_two_labels_contradicts_itself(tmp_path):
    study = write_study(tmp_path / "study", {"A": pattern(1), "B": pattern(1), "C": pattern(2)}, positive=["A"])
    shutil.copyfile(study / "A.mp4", study / "B.mp4")
    dataset = prepared(study, tmp_path / "d", crop="none")
    clips = build_clips(dataset, target="Adaptive Engagement")
    check = check_contradictory_labels(check_copies(dataset, seed=0), clips)
    assert check.severity == "fail"
    assert check.measured == 4


def test_one_frame_of_a_colleague_is_no_copy_and_copied_stills_are(tmp_path):
    own = drawn_pictures(21, count=30)
    people = {
        "A": own,
        "B": [*drawn_pictures(22, count=29), own[0]],
        "C": [drawn_pictures(23, count=1)[0]] * 12,
        "D": [PHOTOMETRIC["darker"](p) for p in [drawn_pictures(23, count=1)[0]] * 12],
    }
    assert 1 / 30 < MIN_SHARE < 2 / 30
    dataset = prepared(write_study(tmp_path / "study", people), tmp_path / "d")
    first, second = sorted(dataset.recordings["recording_id"])[:2]
    # The tracker tells the colleague from B, so the frame isn't the participant's; as if it had not:
    assert dataset.frames(second)["face_found"].tolist() == [True] * 29 + [False]
    table, folder = dataset.frames(second), tmp_path / "d/recordings" / second
    table.loc[29, table.columns[2:]] = dataset.frames(first).loc[0, table.columns[2:]]
    table.astype(dataset.frames(second).dtypes).to_parquet(folder / "frames.parquet")
    np.load(folder / "crops.npy", mmap_mode="r+")[29] = dataset.crops(first)[0]
    result = check_copies(dataset, seed=0)
    met = result.pairs[result.pairs["participant_a"] == "A"]
    assert len(met) > 2, "several of A's frames are like the one in B"
    assert set(met["frame_b"]) == {29}
    assert result.merged == (("C", "D"),)
    assert "stay apart" in result.check.detail


def test_without_recordings_nothing_is_checked(tmp_path):
    study = write_study(tmp_path / "study", {"A": drawn_pictures(21, count=3)})
    dataset = prepared(study, tmp_path / "d")
    nobody = dataset.recordings.iloc[:0]
    assert check_copies(dataset, nobody, seed=0).check.severity == "not checked"
