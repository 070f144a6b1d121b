"""`prepare`: what a dataset holds, what happens to broken recordings, and that a killed run ends the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from media_fixtures import grey_of, grey_pictures, tone, write_sound, write_video
from mien.core.errors import UserError
from mien.data.prepare import PrepareConfig, prepare

SHARED = Path(__file__).parents[2] / "shared/data"
CONFIG = PrepareConfig(fps=5, crop="none", size_px=16, context_width_px=32, workers=1, detector="mtcnn")
NUM_FRAMES = 13  # at 12.5 per second: 1.04 s

SCRIPT = """
import os, signal, sys
from pathlib import Path
import mien.data.process as process
from mien.data.prepare import PrepareConfig, prepare

mode, study, out = sys.argv[1:4]
real, calls = process.sha256_file, []

def hash_or_die(path):
    calls.append(path)
    if mode == "kill-third" and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "crash" and path.stem == "p2":
        os._exit(9)
    if mode == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        import time
        time.sleep(60)
    if mode == "slow":
        with Path(study, "started.txt").open("a") as file:
            file.write(path.name + "\\n")
        import time
        time.sleep(60)
    return real(path)

process.sha256_file = hash_or_die
if __name__ == "__main__":
    workers = 1 if mode == "kill-third" else 2
    prepare(Path(study), out=Path(out), config=PrepareConfig(
        fps=5, crop="none", size_px=16, context_width_px=32, workers=workers, detector="mtcnn"))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Four people of 1.04 s each, the first with sound, the last without a picture, and an empty file."""
    root = tmp_path_factory.mktemp("study")
    times_s = [index / 12.5 for index in range(NUM_FRAMES)]
    for number in (1, 2, 3):
        write_video(root / f"p{number}.mp4", times_s=times_s, sound=tone(1.0) if number == 1 else None)
    write_sound(root / "p4.wav", parts=[(0.0, tone(0.5))])
    (root / "p5.mp4").touch()
    rows = "".join(f"p{n}.{'wav' if n == 4 else 'mp4'},P{n},{'fm'[n % 2]},{n * 10}\n" for n in range(1, 6))
    (root / "recordings.csv").write_text("media,participant,gender,duration_s\n" + rows)
    (root / "study.yaml").write_text("name: Small\nlabel_source: synthetic\n")
    table = "p1,0.2,0.5,Smile,\np2,0.4,0.6,Smile,\np3,0,1,Smile,left\np1,0,1,Joy,main\np5,0,1,Joy,\n"
    (root / "annotations.csv").write_text("recording,onset_s,offset_s,label,face\n" + table)
    return root


@pytest.fixture(scope="module")
def dataset(study, tmp_path_factory):
    return prepare(study, out=tmp_path_factory.mktemp("whole") / "D", config=CONFIG)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_samples_have_their_own_times_and_pictures(dataset):
    frames = dataset.frames("p2")
    # 5 per second of 12.5: instants 0, .2, .4, .6, .8; the first frame at or after each.
    assert frames["pts_s"].round(3).tolist() == [0.0, 0.24, 0.4, 0.64, 0.8]
    assert frames["frame"].tolist() == [0, 1, 2, 3, 4]
    assert not frames["face_found"].any()
    assert frames[["score", "x0", "y1", "l4y"]].isna().all(axis=None)
    crops, context = dataset.crops("p2"), dataset.context("p2")
    assert crops.shape == (5, 16, 16, 3) and crops.dtype == np.uint8
    assert context.shape == (5, 24, 32, 3)
    expected = [grey_of(index) for index in (0, 3, 5, 8, 10)]
    assert np.abs(crops.mean(axis=(1, 2, 3)) - expected).max() < 2
    assert np.abs(context.mean(axis=(1, 2, 3)) - expected).max() < 2


def test_what_is_known_of_each_recording(dataset):
    table = dataset.recordings.set_index("recording_id")
    assert list(table.index) == ["p1", "p2", "p3", "p4"]
    assert table["num_frames"].tolist() == [5, 5, 5, 0]
    assert table.loc["p2", ["width", "height", "codec"]].tolist() == [64, 48, "h264"]
    assert table.loc["p2", "fps_measured"] == pytest.approx(12.5)
    assert table.loc["p2", "duration_s"] == pytest.approx(1.04)
    assert table.loc["p4", "duration_s"] == pytest.approx(0.5, abs=0.01)
    assert table.loc["p4", "camera"] == "audio"
    assert table["gender"].tolist() == ["m", "f", "m", "f"]
    # A column of the study that has the name of one of ours keeps its values under another name.
    assert table["duration_s_given"].tolist() == [10.0, 20.0, 30.0, 40.0]
    assert dataset.attributes == ("duration_s_given", "gender")
    assert dataset.is_synthetic and dataset.label_source == "synthetic"


def test_sound_keeps_its_samples_and_its_start(dataset):
    audio = dataset.audio("p4")
    assert audio.rate_hz == 16000 and audio.start_s == 0.0
    assert audio.samples.dtype == np.int16 and abs(len(audio.samples) - 8000) < 100
    assert dataset.audio("p1") is not None
    assert dataset.audio("p2") is None
    with pytest.raises(UserError, match="p4 has no picture"):
        dataset.crops("p4")
    with pytest.raises(UserError, match="Unknown recording 'p9'"):
        dataset.frames("p9")


def test_failures_have_reason_and_advice_and_stop_nothing(dataset):
    assert dataset.failures[["recording", "stage"]].values.tolist() == [["p5", "video"], ["p3", "annotations"]]
    assert "p5.mp4 is empty" in dataset.failures["reason"][0]
    assert "'left', not of 'main'" in dataset.failures["reason"][1]
    assert (dataset.failures["advice"] != "").all()
    assert sorted(zip(dataset.annotations["recording_id"], dataset.annotations["scheme"], strict=True)) == [
        ("p1", "Joy"),
        ("p1", "Smile"),
        ("p2", "Smile"),
    ]


@pytest.mark.slow
def test_workers_and_a_second_run_change_nothing(study, dataset, tmp_path):
    again = prepare(study, out=tmp_path / "D", config=PrepareConfig(**{**vars(CONFIG), "workers": 3}))
    first, second = contents(dataset.path), contents(again.path)
    assert first == second
    assert again.content_hash == dataset.content_hash
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "D/recordings").rglob("*")}
    prepare(study, out=tmp_path / "D", config=CONFIG)
    assert contents(tmp_path / "D") == first
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_run_that_was_killed_goes_on_and_ends_the_same(study, dataset, tmp_path):
    out = tmp_path / "D"
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    killed = subprocess.run(
        [sys.executable, script, "kill-third", study, out], capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "dataset.json").exists()
    done = [path for path in (out / "recordings").iterdir() if not path.name.startswith(".")]
    leftovers = [path for path in (out / "recordings").iterdir() if path.name.startswith(".")]
    assert [path.name for path in sorted(done)] == ["p1", "p2"] and len(leftovers) == 1
    before = {path: path.stat().st_mtime_ns for path in done}
    resumed = prepare(study, out=out, config=CONFIG)
    assert contents(out) == contents(dataset.path)
    assert resumed.content_hash == dataset.content_hash
    assert {path: path.stat().st_mtime_ns for path in done} == before


def test_who_withdrew_stays_known_when_a_dataset_is_prepared_again(study, tmp_path, monkeypatch):
    out = tmp_path / "dataset"
    prepared = prepare(study, out=out, config=CONFIG)
    facts = {"previous_hashes": ["abc"], "removed_participants": 1, "removed_digests": ["d"]}
    (out / "dataset.json").write_text(json.dumps(prepared.info | facts))
    shutil.rmtree(out / "recordings" / prepared.recordings["recording_id"].iloc[0])

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mien.data.prepare.write_parquet", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(study, out=out, config=CONFIG)
    assert not (out / "dataset.json").exists()
    again = prepare(study, out=out, config=CONFIG)
    assert {name: again.info[name] for name in facts} == facts
    assert not (out / ".withdrawn").exists()
    assert {name: prepare(study, out=out, config=CONFIG).info[name] for name in facts} == facts


def test_a_removed_folder_and_a_changed_file_are_prepared_again(study, tmp_path):
    copy = Path(shutil.copytree(study, tmp_path / "S"))
    out = tmp_path / "D"
    first = prepare(copy, out=out, config=CONFIG)
    whole = contents(out)
    shutil.rmtree(out / "recordings/p2")
    (out / "recordings/.p2.abc").mkdir()
    (out / "dataset.json").unlink()
    (out / "cache").mkdir()  # what other commands keep beside it is left alone
    assert prepare(copy, out=out, config=CONFIG).content_hash == first.content_hash
    assert contents(out) == whole
    # Touched, not changed: known by its content.
    os.utime(copy / "p2.mp4", ns=(1, 1))
    crops = (out / "recordings/p2/crops.npy").stat().st_mtime_ns
    assert prepare(copy, out=out, config=CONFIG).content_hash == first.content_hash
    assert (out / "recordings/p2/crops.npy").stat().st_mtime_ns == crops
    write_video(copy / "p2.mp4", times_s=[0.0, 0.5], pictures=grey_pictures(2))
    changed = prepare(copy, out=out, config=CONFIG)
    assert changed.recordings.set_index("recording_id").loc["p2", "num_frames"] == 2
    assert changed.content_hash != first.content_hash
    # A recording that the study no longer has leaves the dataset.
    lines = (copy / "recordings.csv").read_text().splitlines()
    (copy / "recordings.csv").write_text("\n".join(line for line in lines if "p3" not in line))
    assert prepare(copy, out=out, config=CONFIG).recordings["recording_id"].tolist() == ["p1", "p2", "p4"]
    assert not (out / "recordings/p3").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["crash", "orphan"])
def test_processes_that_die(study, tmp_path, mode):
    """A worker that dies takes one recording along; workers die with a killed parent."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    # The pipe closes only when the last process that inherited it has ended.
    run = subprocess.run(
        [sys.executable, script, mode, study, tmp_path / "D"], capture_output=True, timeout=120, check=False, text=True
    )
    if mode == "orphan":
        assert run.returncode == -signal.SIGKILL
        assert not (tmp_path / "D/dataset.json").exists()
        return
    assert run.returncode == 0, run.stderr
    failures = pd.read_csv(tmp_path / "D/failures.csv")
    assert failures[["recording", "stage"]].values.tolist() == [
        ["p2", "process"],
        ["p5", "video"],
        ["p3", "annotations"],
    ]
    assert "p2.mp4 died" in failures["reason"][0]
    assert pd.read_parquet(tmp_path / "D/recordings.parquet")["recording_id"].tolist() == ["p1", "p3", "p4"]


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_at_once(study, tmp_path):
    copy = Path(shutil.copytree(study, tmp_path / "S"))
    script, started = tmp_path / "run.py", copy / "started.txt"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script, "slow", copy, tmp_path / "D"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with the interrupt ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until_s = time.monotonic() + 60
    while not (started.exists() and len(started.read_text().split()) == 2) and time.monotonic() < until_s:
        time.sleep(0.05)
    # As a terminal does: to the workers, too. The pipe closes only when the last of them has ended.
    os.killpg(run.pid, signal.SIGINT)
    sent_s = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert time.monotonic() - sent_s < 10  # two seconds on an idle machine; each recording takes 60
    assert run.returncode in (-signal.SIGINT, 130)
    assert errors.count("Stopping; what is finished is kept.") == 1
    assert errors.count("Traceback") == 1, errors  # this process's own, none of a worker
    assert len(started.read_text().split()) == 2
    assert not (tmp_path / "D/dataset.json").exists()


@pytest.mark.parametrize("others", [0, 1, 3])
def test_annotations_after_the_end_are_reported(study, tmp_path, others):
    """p1 has times in ms; so have the others that are asked for."""
    root = Path(shutil.copytree(study, tmp_path / "S"))
    times = {number: "100,200" if number <= others + 1 else "0.1,0.2" for number in (2, 3, 4)}
    rows = ["p1,0,500,A", "p1,300,800,B", "p1,900,1000,B", *(f"p{n},{text},A" for n, text in times.items())]
    (root / "annotations.csv").write_text("recording,onset_s,offset_s,label\n" + "\n".join(rows) + "\n")
    made = prepare(root, out=tmp_path / "D", config=CONFIG)
    late = made.failures[made.failures["reason"].str.contains("start after")]
    first = "2 of 3 annotations start after the end of the recording (1.0 s); are the times in ms?"
    expected = {
        0: [("p1", first)],
        1: [("p1", first), ("p2", first.replace("2 of 3", "1 of 1"))],
        3: [
            (
                "all recordings",
                "5 of 6 annotations start after the end of their recordings, in 4 of 4 recordings; "
                "are the times in ms?",
            )
        ],
    }
    assert list(zip(late["recording"], late["reason"], strict=True)) == expected[others]
    assert late["advice"].str.contains("Correct the times").all()
    assert len(made.annotations) == 6  # they stay


def test_other_settings_and_other_folders_are_refused(study, dataset, tmp_path):
    with pytest.raises(UserError, match=r"crop 'none' there, 'face' asked.*Choose another --out"):
        prepare(study, out=dataset.path, config=PrepareConfig(**{**vars(CONFIG), "crop": "face"}))
    (tmp_path / "holiday.txt").write_text("keep me")
    with pytest.raises(UserError, match="isn't empty and isn't a dataset"):
        prepare(study, out=tmp_path, config=CONFIG)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/.notes.txt").touch()
    with pytest.raises(UserError, match="isn't empty and isn't a dataset"):
        prepare(study, out=tmp_path, config=CONFIG)
    assert (tmp_path / "recordings/.notes.txt").exists()
    with pytest.raises(UserError, match="is the study itself"):
        prepare(study, out=study, config=CONFIG)
    other = tmp_path / "other"
    other.mkdir()
    (other / "study.yaml").write_text("label_source: human\n")
    (other / "recordings.csv").write_text("media,participant\nx.mp4,P1\n")
    (other / "x.mp4").touch()
    with pytest.raises(UserError, match=r"None of the 1 recordings.*x\.mp4 is empty"):
        prepare(other, out=tmp_path / "none", config=CONFIG)
    (other / "x.mp4").write_bytes((study / "p2.mp4").read_bytes())
    with pytest.raises(UserError, match="study 'Small' there, 'other' asked"):
        prepare(other, out=dataset.path, config=CONFIG)


@pytest.mark.parametrize("name", ["fps", "size_px", "margin", "workers"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(UserError, match=r"allowed: more than (0|15),"):
        PrepareConfig(**{name: 0})


def test_a_dry_run_writes_nothing(study, tmp_path):
    estimate = prepare(study, out=tmp_path / "D", config=CONFIG, dry_run=True)
    assert not (tmp_path / "D").exists()
    assert (estimate.num_recordings, estimate.num_unreadable) == (4, 1)
    assert estimate.minutes == pytest.approx(3 * 1.04 / 60, rel=0.05)
    assert estimate.num_samples == pytest.approx(15, abs=1)
    assert estimate.seconds > 0
    assert estimate.disk_bytes == pytest.approx(3.12 * (5 * 3 * (16 * 16 + 32 * 24) + 32000), rel=0.05)


@pytest.fixture
def photo() -> np.ndarray:
    path = next((SHARED / "faces/cc0").glob("*.jpg"), None)
    if path is None:
        pytest.skip("the shared photos of faces aren't here")
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    scale = 240 / max(picture.shape[:2])
    width, height = (round(length * scale / 2) * 2 for length in (picture.shape[1], picture.shape[0]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.real
def test_panel_crops_show_one_fixed_place_and_face_crops_only_faces(photo, tmp_path):
    root = tmp_path / "S"
    root.mkdir()
    blank = np.zeros_like(photo)
    write_video(root / "a.mp4", times_s=[0.0, 0.5, 1.0], pictures=[photo, blank, photo])
    write_video(root / "b.mp4", times_s=[0.0, 0.5], pictures=[blank, blank])
    (root / "study.yaml").write_text("label_source: human\n")
    (root / "recordings.csv").write_text("media,participant\na.mp4,A\nb.mp4,B\n")
    settings = {"fps": 2, "size_px": 32, "workers": 1, "detector": "mtcnn"}
    face = prepare(root, out=tmp_path / "face", config=PrepareConfig(crop="face", **settings))
    panel = prepare(root, out=tmp_path / "panel", config=PrepareConfig(crop="panel", **settings))
    assert face.frames("a")["face_found"].tolist() == [True, False, True]
    assert face.crops("a").max(axis=(1, 2, 3)).tolist()[1] == 0
    assert face.recordings["num_faces"].tolist() == [2, 0]
    # The blank frame is cut at the same place, and a recording without any face has no panel.
    assert panel.crops("a").shape == (3, 32, 32, 3)
    assert np.abs(panel.crops("a")[0].astype(int) - face.crops("a")[0]).mean() < 3
    assert panel.recordings["recording_id"].tolist() == ["a"]
    assert panel.failures[["recording", "stage"]].values.tolist() == [["b", "video"]]
    assert json.loads((tmp_path / "panel/recordings/a/recording.json").read_text())["num_faces"] == 2
