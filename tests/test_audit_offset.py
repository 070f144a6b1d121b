"""Offsets between picture, export and sound: planted ones are found, and nothing is found where there is nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from mien.audit.clock import check_clock, clock_table
from mien.audit.offset import DRIFT_S, MIN_FPS, export_offset, measure_offset, peaks_of, sound_offset
from mien.audit.offset_curves import GRID_S, MAX_ROWS, SEARCH_S, Recorded, correlations, lagged
from mien.audit.offset_sources import mouth_features, of_another, shifted_in_a_circle
from mien.data.dataset import FORMAT, RECORDING_COLUMNS, Dataset
from mien.data.layouts import ANNOTATION_COLUMNS, empty_table
from mien.data.process import BOX_COLUMNS, FRAME_COLUMNS, LANDMARK_COLUMNS

FPS = 10.0


def events(rng, *, duration_s, mean_s=2.5):
    """Half-open intervals with pauses between them."""
    spans, time_s = [], float(rng.uniform(0.5, 2.5))
    while time_s < duration_s - 1:
        end_s = time_s + float(rng.uniform(0.8, 1.5 * mean_s))
        spans.append((time_s, min(end_s, duration_s - 0.3)))
        time_s = end_s + float(rng.uniform(0.8, 1.5 * mean_s))
    return spans


def height(spans, times_s, *, ramp_s=0.4):
    """How far an event has come at each time: half of it at its annotated ends."""
    inside = [np.clip(np.minimum(times_s - on, off - times_s) / ramp_s + 0.5, 0, 1) for on, off in spans]
    return np.max(inside, axis=0) if inside else np.zeros(len(times_s))


def grid_of(spans, *, duration_s):
    times_s = np.arange(0.0, duration_s, GRID_S)
    inside = np.zeros(len(times_s), bool)
    for on, off in spans:
        inside |= (times_s >= on) & (times_s < off)
    return inside.astype(np.float32)


def recorded(number, *, offset_s=0.0, duration_s=20.0, related=True, stretch=1.0, noise=1.0, seed=0):
    """One person: features in which what happens is hidden, and what an export says of it."""
    rng = np.random.default_rng([seed, number])
    spans = events(rng, duration_s=duration_s)
    times_s = np.arange(0.0, duration_s, 1 / FPS)
    shown = height(spans if related else events(rng, duration_s=duration_s), times_s)
    mixing = np.random.default_rng(99).normal(size=12)
    features = shown[:, None] * mixing + rng.normal(0, noise, (len(times_s), 12)) + rng.normal(0, 3, 12)
    said = [(on * stretch + offset_s, off * stretch + offset_s) for on, off in spans]
    grid = grid_of(said, duration_s=duration_s)[:, None]
    return Recorded(f"r{number:02d}", f"p{number:02d}", times_s, features.astype(np.float32), 0.0, grid)


def measure(people, *, channels=("Smile",), seed=0):
    wrong = shifted_in_a_circle(people, seed=seed)
    return measure_offset("export", people, channels=channels, null=wrong, half_frame_s=0.05, seed=seed)


# ---- the estimate


@pytest.mark.parametrize("planted_s", [-0.7, -0.3, 0.0, 0.3, 0.7])
def test_a_planted_offset_is_found(planted_s):
    found = measure([recorded(number, offset_s=planted_s) for number in range(10)])
    assert found.offset is not None, found.reason
    assert found.offset.value_s == pytest.approx(planted_s, abs=0.1)
    assert found.offset.low_s < planted_s < found.offset.high_s
    assert found.channels == ("Smile",) and found.groups == 10
    assert found.correlation > 2 * found.by_chance
    assert found.apart(0.1) == []
    assert found.offset.beyond(0.1) == (abs(planted_s) >= 0.3)


def test_what_isnt_in_the_face_is_not_measurable():
    reasons = [
        measure([recorded(number, related=False, seed=seed) for number in range(10)], seed=seed).reason
        for seed in range(1, 6)
    ]
    assert all(reason.startswith("not measurable") for reason in reasons), reasons


def test_channels_that_arent_in_the_face_dont_count():
    people = [recorded(number, offset_s=0.3) for number in range(10)]
    others = [recorded(number + 50, seed=3).grid for number in range(10)]
    both = [
        dataclasses.replace(one, grid=np.hstack([other, one.grid])) for one, other in zip(people, others, strict=True)
    ]
    found = measure(both, channels=("Arousal", "Smile"))
    assert found.channels == ("Smile",)
    assert found.offset.value_s == pytest.approx(0.3, abs=0.1)


def test_a_channel_that_few_people_vary_in_doesnt_count():
    people = [recorded(number) for number in range(10)]
    people = [dataclasses.replace(one, grid=one.grid * (n < 3)) for n, one in enumerate(people)]
    found = measure(people)
    assert found.offset is None and found.reason.startswith("not measurable")


@pytest.mark.parametrize("planted_s", [-0.7, 0.7])
def test_a_single_recording_with_another_start_is_found(planted_s):
    people = [recorded(number, offset_s=planted_s if number == 4 else 0.0) for number in range(12)]
    found = measure(people)
    assert found.offset.value_s == pytest.approx(0.0, abs=0.1)
    assert [one.recording_id for one in found.apart(0.1)] == ["r04"]
    assert found.apart(0.1)[0].offset.value_s == pytest.approx(planted_s, abs=0.15)
    assert found.apart(1.0) == []


def test_every_recording_with_a_clock_of_its_own():
    planted_s = np.random.default_rng(5).uniform(-1, 1, 16)
    found = measure([recorded(number, offset_s=offset_s, noise=0.3) for number, offset_s in enumerate(planted_s)])
    errors_s = [one.offset.value_s - planted_s[int(one.recording_id[1:])] for one in found.own]
    assert len(errors_s) >= 10
    assert np.median(np.abs(errors_s)) < 0.1
    assert len(found.apart(0.1)) >= 5
    for one in found.own:
        assert one.offset.low_s < planted_s[int(one.recording_id[1:])] < one.offset.high_s


def test_clocks_that_run_apart():
    # Half of 240 s is 120 s from the middle of one half to that of the other.
    length_s = DRIFT_S + 60
    people = [recorded(number, duration_s=length_s, stretch=1.004) for number in range(6)]
    found = measure(people)
    assert found.drift is not None
    assert found.drift.value_s == pytest.approx(0.004 * length_s / 2, abs=0.1)
    assert found.drift.low_s > 0.2
    honest = measure([recorded(number, duration_s=length_s) for number in range(6)])
    assert abs(honest.drift.value_s) < 0.05 and not honest.drift.beyond(0.1)
    assert measure([recorded(number) for number in range(6)]).drift is None, "20 s are too short to drift"


def test_too_few_people_and_too_short_recordings():
    assert "5 people" in measure([recorded(number) for number in range(4)]).reason
    assert "5 people" in measure([]).reason
    short = recorded(0, duration_s=2 * SEARCH_S + 5)
    assert not short.long_enough
    long = recorded(0, duration_s=(MAX_ROWS + 500) / FPS)
    assert len(long.rows) == MAX_ROWS and long.rows[-1] > MAX_ROWS


def test_the_same_seed_gives_the_same_numbers():
    people = [recorded(number) for number in range(6)]
    assert measure(people).to_json() == measure(people).to_json()
    json.dumps(measure(people).to_json())


def test_peaks_at_the_ends_are_none():
    lags_s = np.arange(-10, 11) * 0.1
    assert np.isnan(peaks_of(lags_s, lags_s)) and np.isnan(peaks_of(-lags_s, lags_s))
    assert peaks_of(np.exp(-((lags_s - 0.14) ** 2)), lags_s) == pytest.approx(0.14, abs=0.01)


def test_targets_at_a_lag():
    grid = np.arange(500, dtype=np.float32)[:, None] * GRID_S
    grid[:10] = np.nan
    at = lagged(grid, np.array([1.0, 2.0]), np.array([0.0, 0.5]))
    assert at.shape == (2, 2)
    np.testing.assert_allclose(at, [[-0.5, -0.5], [0.5, 0.5]], atol=1e-6)
    unknown = lagged(grid, np.array([0.1, 2.0]), np.array([0.0]))
    assert unknown.ravel().tolist() == [0.0, 0.0], "what isn't known says nothing"


def test_correlations_of_what_doesnt_vary():
    values = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
    found = correlations(values, values)
    assert found[0] == pytest.approx(1.0) and np.isnan(found[1])


# ---- mouths and sound


def draw_face(*, smile, opening, tone):
    """A face whose landmarks lie where aligned ones do."""
    face = np.full((64, 64), tone, np.uint8)
    for x in (21, 41):
        cv2.circle(face, (x, 29), 3, 40, -1)
    cv2.line(face, (31, 33), (31, 41), tone - 40, 2)
    cv2.ellipse(face, (31, 52), (round(7 + 4 * smile), 2 + round(6 * opening)), 0, 0, 360, 60, -1)
    return face


def draw_person(rng, *, spans, speech, times_s):
    tone = int(rng.integers(150, 210))
    smiles = height(spans, times_s)
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * 3.7 * times_s)
    openings = height(speech, times_s, ramp_s=0.1) * syllables
    faces = [draw_face(smile=s, opening=o, tone=tone) for s, o in zip(smiles, openings, strict=True)]
    noisy = np.stack(faces).astype(float) + rng.normal(0, 3, (len(times_s), 64, 64))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def voice(rng, *, speech, duration_s, rate_hz=8000):
    times_s = np.arange(0.0, duration_s, 1 / rate_hz)
    tone = sum(np.sin(2 * np.pi * 140 * k * times_s) / k for k in range(1, 8))
    loud = height(speech, times_s, ramp_s=0.1) * (0.55 - 0.45 * np.cos(2 * np.pi * 3.7 * times_s))
    return np.round(4000 * loud * tone + rng.normal(0, 20, len(times_s))).astype(np.int16)


TEMPLATE_64 = ((21.0, 29.2), (41.3, 29.2), (31.2, 40.8), (22.9, 52.5), (39.5, 52.5))


def write_dataset(path, *, people=8, duration_s=18.0, fps=FPS, label_source="human"):
    """A dataset of simple faces: smiles are annotated, mouths move with the voice."""
    facts, annotations = [], []
    times_s = np.arange(0.0, duration_s, 1 / fps)
    for number in range(people):
        rng = np.random.default_rng([7, number])
        name, spans, speech = f"r{number}", events(rng, duration_s=duration_s), events(rng, duration_s=duration_s)
        folder = path / "recordings" / name
        folder.mkdir(parents=True)
        faces = draw_person(rng, spans=spans, speech=speech, times_s=times_s)
        np.save(folder / "crops.npy", np.repeat(faces[..., None], 3, axis=3))
        np.save(folder / "audio.npy", voice(rng, speech=speech, duration_s=duration_s))
        table = pd.DataFrame({"frame": np.arange(len(times_s)), "pts_s": times_s, "face_found": True, "score": 1.0})
        # Boxes of 40 px with a margin of 1.6: the crop of 64 px is the picture.
        table[list(BOX_COLUMNS)] = (12.0, 12.0, 52.0, 52.0)
        table[list(LANDMARK_COLUMNS)] = np.ravel(TEMPLATE_64)
        table[list(FRAME_COLUMNS)].to_parquet(folder / "frames.parquet", index=False)
        recording = {"sha256": name, "config_digest": "d", "audio_rate_hz": 8000, "audio_start_s": 0.0}
        (folder / "recording.json").write_text(json.dumps(recording))
        fact = dict.fromkeys(RECORDING_COLUMNS, "") | {"recording_id": name, "participant_id": f"p{number}"}
        fact |= {"group": f"p{number}", "camera": "camera", "media": f"{name}.mp4", "sha256": name, "codec": "h264"}
        fact |= {"duration_s": duration_s, "duration_declared_s": duration_s, "fps_declared": fps, "fps_measured": fps}
        fact |= {"width": 64, "height": 64, "num_frames": len(times_s), "num_faces": len(times_s)}
        facts.append(fact | {"audio_start_s": 0.0, "audio_rate_hz": 8000})
        for onset_s, offset_s in spans:
            row = dict.fromkeys(ANNOTATION_COLUMNS, None) | {"recording_id": name}
            row |= {"onset_s": onset_s, "offset_s": offset_s}
            annotations.append(row | {"scheme": "Smile", "annotator": "", "source": "human"})
    pd.DataFrame(facts).astype(RECORDING_COLUMNS).to_parquet(path / "recordings.parquet", index=False)
    table = pd.concat([empty_table(ANNOTATION_COLUMNS), pd.DataFrame(annotations)], ignore_index=True)
    table.astype({"onset_s": float, "offset_s": float}).to_parquet(path / "annotations.parquet", index=False)
    config = {"fps": fps, "size_px": 64, "margin": 1.6, "crop": "face", "face": "main", "detector": "none"}
    study = {"name": "s", "layout": "plain", "label_source": label_source, "unit": "frame"}
    info = {"format": FORMAT, "config": config, "study": study, "attributes": [], "content_hash": "h"}
    (path / "dataset.json").write_text(json.dumps(info))
    return Dataset.open(path)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The dataset of simple faces, with what was computed of it."""
    dataset = write_dataset(tmp_path_factory.mktemp("faces") / "d")
    export_offset(dataset)
    return dataset


@pytest.fixture
def copied(faces, tmp_path):
    """The same, to be changed."""
    shutil.copytree(faces.path, tmp_path / "d")
    return Dataset.open(tmp_path / "d")


def shift_export(dataset, shift_s, *, recording=None):
    table = dataset.annotations.copy()
    rows = table["recording_id"].notna() if recording is None else table["recording_id"] == recording
    # What lies beyond the recording isn't in its export.
    ends_s = float(dataset.recordings["duration_s"].iloc[0])
    table.loc[rows, ["onset_s", "offset_s"]] = (table.loc[rows, ["onset_s", "offset_s"]] + shift_s).clip(0.0, ends_s)
    table.to_parquet(dataset.path / "annotations.parquet", index=False)
    return Dataset.open(dataset.path)


def test_motion_of_mouths_is_timed_at_its_frame():
    faces = np.stack([draw_face(smile=0, opening=float(n == 10), tone=180) for n in range(21)])
    motion = mouth_features(faces)
    assert motion.shape == (21, 13)
    np.testing.assert_allclose(motion[10 - 5 : 10], motion[11 : 11 + 5][::-1], atol=1e-5)
    assert motion[:, -1].argmax() == 10
    assert mouth_features(faces[:0]).shape == (0, 13)
    # Light that changes all of it isn't motion.
    assert mouth_features(np.stack([faces[0], faces[0] + 20])).max() < 0.1


@pytest.mark.parametrize("planted_s", [-0.4, 0.0, 0.5])
def test_sound_against_moving_mouths(copied, planted_s):
    for path in copied.path.glob("recordings/*/recording.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"audio_start_s": planted_s}))
    found = sound_offset(copied)
    assert found.offset is not None, found.reason
    assert found.offset.value_s == pytest.approx(planted_s, abs=0.1)
    assert found.offset.low_s < planted_s < found.offset.high_s


def test_sound_that_mouths_dont_move_with_is_not_measurable(copied):
    sounds = sorted(copied.path.glob("recordings/*/audio.npy"))
    heard = [np.load(path) for path in sounds]
    for place, path in enumerate(sounds):
        np.save(path, heard[place - 1])
    found = sound_offset(copied)
    assert found.offset is None and "mouths don't move" in found.reason


def test_nulls_never_give_a_recording_its_own():
    people = [recorded(number) for number in range(5)]
    another, turned = of_another(people, seed=0), shifted_in_a_circle(people, seed=0)
    for number, one in enumerate(people):
        for draw in range(5):
            assert another(number, draw) is not one.grid
            assert not np.array_equal(turned(number, draw), one.grid)
            assert turned(number, draw).sum() == one.grid.sum()


# ---- the check


@pytest.mark.parametrize(
    ("shift_s", "severity", "advice"),
    [(0.0, "ok", ""), (0.8, "fail", "'*,-0.8"), (-0.8, "fail", "'*,0.8"), (-0.35, "warn", "'*,0.3")],
)
def test_the_clock_says_how_to_shift_an_export(copied, shift_s, severity, advice):
    check = check_clock(shift_export(copied, shift_s))
    assert check.severity == severity, check.detail
    assert advice in check.advice
    found = check.measured["offset_export_s"]
    assert found["value"] == pytest.approx(shift_s, abs=0.1)
    assert found["low"] < shift_s < found["high"]
    assert "Smile" in check.detail
    assert len(check.evidence["offset_export"]["recordings"]) >= 4
    json.dumps(check.evidence)


def test_one_export_with_another_start_warns(copied):
    check = check_clock(shift_export(copied, -0.9, recording="r3"))
    assert check.severity == "warn", check.detail
    assert "r3 -0.9" in check.detail or "r3 -0.8" in check.detail
    assert "another moment" in check.advice


def test_what_isnt_checked_is_said(tmp_path):
    slow = write_dataset(tmp_path / "slow", fps=MIN_FPS - 1, people=2)
    check = check_clock(slow)
    assert "was not checked: it needs at least 5 samples per second, the dataset has 4" in check.detail
    assert check.measured["offset_export_s"] is None and check.measured["offset_sound_s"] is None
    assert not (slow.path / "cache").exists(), "nothing is computed for it"
    stimulus = write_dataset(tmp_path / "stimulus", label_source="stimulus", people=2)
    assert "stimulus" in export_offset(stimulus).reason
    few = check_clock(stimulus)
    assert few.severity == "ok" and few.detail.count("not checked") == 2


def test_recordings_without_faces_sound_or_annotations_are_left_out(copied):
    dataset = copied
    for name, frames in (("r0", "face_found"), ("r1", "audio")):
        folder = dataset.path / "recordings" / name
        if frames == "audio":
            (folder / "audio.npy").unlink()
            continue
        table = pd.read_parquet(folder / "frames.parquet")
        table["face_found"] = False
        table.loc[:, [*BOX_COLUMNS, *LANDMARK_COLUMNS]] = np.nan
        table.to_parquet(folder / "frames.parquet", index=False)
        np.save(folder / "context.npy", np.zeros((len(table), 90, 160, 3), np.uint8))
    annotations = dataset.annotations[dataset.annotations["recording_id"] != "r2"]
    annotations.to_parquet(dataset.path / "annotations.parquet", index=False)
    dataset = Dataset.open(dataset.path)
    assert export_offset(dataset).groups == 6
    assert sound_offset(dataset).groups == 6
    assert not {"r0", "r2"} & {one.recording_id for one in export_offset(dataset).own}


def test_sound_that_ends_early_warns(copied):
    path = copied.path / "recordings" / "r1" / "audio.npy"
    np.save(path, np.load(path)[: -8000 * 2])
    assert clock_table(copied)["sound"].tolist() == pytest.approx([0.0, 1.9, *[0.0] * 6])
    check = check_clock(copied)
    assert check.severity == "warn"
    assert [row["recording"] for row in check.evidence["recordings"]] == ["r1"]


# ---- real faces


@pytest.fixture(scope="module")
def fourteen_people(shared_data, tmp_path_factory):
    """Fourteen of the smile study at 5 samples per second, as a plain study."""
    from mien.data.prepare import prepare
    from mien.data.settings import PrepareConfig

    folder, analysis = tmp_path_factory.mktemp("offset"), shared_data / "smile_study/Analysis"
    media = sorted((analysis / "Respondent Cameras").glob("RespCam_*.mp4"))
    of_name = {" ".join(path.stem.replace("_", " ").split()[1:3]): path for path in media}
    people = sorted(of_name)[:14]
    lines = (analysis / "Facial Coding/FEAExpressionTable.csv").read_text("utf-8-sig").splitlines()[6:]
    rows = [row for row in csv.DictReader(lines) if row["Respondent Name"] in people]
    with (folder / "recordings.csv").open("w", newline="") as stream:
        # Their names have commas.
        csv.writer(stream).writerows(
            [("media", "participant", "recording"), *((of_name[name].absolute(), name, name) for name in people)]
        )
    with (folder / "annotations.csv").open("w") as stream:
        stream.write("recording,onset_s,offset_s,label\n")
        for row in rows:
            on, off = (float(row[f"Expression {end}"]) / 1000 for end in ("Onset", "Offset"))
            stream.write(f"{row['Respondent Name']},{on},{off},{row['Expression Type']}\n")
    (folder / "study.yaml").write_text("name: t\npurpose: test\nconsent: public\nlabel_source: human\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
        return prepare(folder, out=folder / "d", config=PrepareConfig(fps=5.0, workers=1))


@pytest.mark.real
@pytest.mark.slow
def test_an_export_off_by_700_ms_is_found_from_real_faces(fourteen_people):
    table = fourteen_people.annotations.copy()
    for planted_s in (-0.7, -0.3, 0.0, 0.3, 0.7):
        fourteen_people.__dict__["annotations"] = table.assign(
            onset_s=table["onset_s"] + planted_s, offset_s=table["offset_s"] + planted_s
        )
        found = export_offset(fourteen_people)
        print(planted_s, found.offset, found.channels, found.correlation)
        assert abs(found.offset.value_s - planted_s) < 0.1
        assert found.offset.low_s < planted_s < found.offset.high_s
        # Fourteen people at 5 samples per second don't tell .7 from .5 s for sure.
        assert found.offset.beyond(0.1) or abs(planted_s) < 0.7
        assert planted_s or not found.offset.beyond(0.1)
        assert "Speaking" not in found.channels
        assert found.apart(0.1) == []


@pytest.mark.real
@pytest.mark.slow
def test_real_mouths_that_dont_move_with_the_sound_say_nothing(fourteen_people):
    found = sound_offset(fourteen_people)
    assert found.offset is None and found.reason.startswith("not measurable")
