"""Several processes that share each batch fit what one process fits."""

from __future__ import annotations

import pickle
from itertools import chain

import numpy as np
import pytest
import torch

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.clips import build_clips
from mien.models.registry import build_model
from mien.runtime.material import Material
from mien.training import shared_fit
from mien.training.config import TrainConfig
from mien.training.devices import DealtBatches, filler
from mien.training.fit import fit_network, predict_logits
from mien.training.frame_sets import make_frame_set
from mien.training.loaders import FrameBatches, FrameSet, RecordingBatches, ShuffledBatches

SIZE = 32
SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")
# Without dropout, which each process draws for itself. 42 frames in batches of 8: the last batch has 2.
CONFIG: dict[str, object] = {
    "image_size": SIZE,
    "batch_size": 8,
    "epochs": 2,
    # Ten times the rate, and AdamW turns the last digit of a gradient into 1e-3 of a logit.
    "scratch_lr": 2e-4,
    "dropout": 0.0,
    "precision": "32",
    "frames_per_recording": 2,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_frames(num: int, *, seed: int, per_recording: int = 8) -> FrameSet:
    generator = np.random.default_rng(seed)
    bright = generator.integers(0, 2, num)
    pixels = (generator.integers(0, 200, (num, SIZE, SIZE, 3)) + 30 * bright[:, None, None, None]).astype(np.uint8)
    targets = np.where(np.arange(num) % 7 == 0, -1, bright)
    recordings = np.arange(num) // per_recording
    return FrameSet(lambda rows: pixels[rows], targets, recordings, recordings // 2, np.full(num, "", object))


def fit(devices: int, *, baseline: str = "recording", config: dict[str, object] | None = None):
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE, seed=3)
    lines: list[str] = []
    result = fit_network(
        built,
        train=make_frames(42, seed=0),
        validation=make_frames(30, seed=1),
        scheme=SMILE,
        config=TrainConfig(**(CONFIG | (config or {}) | {"devices": devices})),
        baseline=baseline,
        seed=5,
        on_epoch=lines.append,
    )
    logits = predict_logits(built.classifier, make_frames(40, seed=2), baseline=baseline, batch_size=16)
    return logits, result, lines


def test_two_processes_fit_what_one_fits():
    # With the personal baseline, so that a recording's frames have to stay together.
    (one, result, lines), (two, its_result, its_lines) = fit(1), fit(2)
    start = predict_logits(
        build_model("vit_scratch", num_outputs=1, image_size=SIZE, seed=3).classifier,
        make_frames(40, seed=2),
        baseline="recording",
        batch_size=16,
    )
    assert np.abs(one - start).max() > 0.05, "a fit that moves nothing would be the same, too"
    assert np.abs(one - two).max() < 1e-4
    assert [row["epoch"] for row in its_result.history] == [1, 2]
    for mine, its in zip(result.history, its_result.history, strict=True):
        assert its["validation_loss"] == pytest.approx(mine["validation_loss"], abs=1e-4)
        assert its["running_loss"] == pytest.approx(mine["running_loss"], abs=1e-4)
    assert len(its_lines) == len(lines) and its_result.batch_size == 8


@pytest.mark.slow
def test_what_a_process_raises_reaches_the_caller():
    with pytest.raises(UserError, match="lower the learning rates"):
        fit(2, baseline="none", config={"scratch_lr": 1e30, "clip_norm": 0, "epochs": 1})


def test_batches_halve_in_all_processes_when_memory_runs_out_in_one(monkeypatch):
    tried = []

    def launch(task, *, say):
        tried.append(task.batch_size)
        if task.batch_size > 2:
            raise shared_fit._OutOfMemoryError

    monkeypatch.setattr(shared_fit, "_launch", launch)
    monkeypatch.setattr(shared_fit, "_take_over", lambda *_: None)
    _, result, lines = fit(2)
    assert tried == [8, 4, 2] and result.batch_size == 2
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["4", "2"]

    def never(task, *, say):
        raise shared_fit._OutOfMemoryError

    monkeypatch.setattr(shared_fit, "_launch", never)
    with pytest.raises(UserError, match="one picture per device"):
        fit(2)


def test_pixels_reach_another_process_as_they_are(tmp_path):
    frames = make_frames(20, seed=0)
    sent = pickle.loads(pickle.dumps(shared_fit._sendable(frames, tmp_path / "pixels.npy")))
    rows = np.array([19, 0, 7, 7])
    np.testing.assert_array_equal(sent.load(rows), frames.load(rows))
    assert sent.targets.tolist() == frames.targets.tolist()


def test_pixels_of_a_dataset_reach_another_process_through_its_cache(tmp_path, drawn_dataset):
    clips = build_clips(drawn_dataset, target="Smile")
    material = Material(drawn_dataset, clips)
    frames = make_frame_set(
        material, material.frames_of(sorted(set(clips.table["participant_id"]))[:2]), size_px=SIZE, crop=1.15
    )
    sent = pickle.loads(pickle.dumps(shared_fit._sendable(frames, tmp_path / "pixels.npy")))
    rows = np.array([len(frames) - 1, 0, 3])
    np.testing.assert_array_equal(sent.load(rows), frames.load(rows))
    assert not (tmp_path / "pixels.npy").exists()


def test_settings_that_several_devices_dont_take():
    with pytest.raises(UserError, match="can't be shared by 3 devices"):
        fit(3, config={"batch_size": 2})
    with pytest.raises(UserError, match="devices must be at least 1"):
        TrainConfig(devices=0)


def test_batches_are_dealt_without_loss_and_recordings_stay_together():
    frames = make_frames(42, seed=0)
    whole = ShuffledBatches(frames.labelled, batch_size=8, seed=1)
    parts = [DealtBatches(whole, recordings=None, rank=rank, num_ranks=3) for rank in range(3)]
    dealt = []
    for part in parts:
        part.set_epoch(4)
        dealt.append(list(part))
    whole.set_epoch(4)
    for batch, *mine in zip(whole, *dealt, strict=True):
        real = [[row for row in rows if row >= 0] for rows in mine]
        assert sorted(chain(*real)) == sorted(batch)
        assert max(map(len, real)) - min(map(len, real)) <= 1
    grouped = RecordingBatches(frames, batch_size=16, frames_per_recording=4, seed=1)
    parts = [DealtBatches(grouped, recordings=frames.recordings, rank=rank, num_ranks=2) for rank in range(2)]
    dealt = []
    for part in parts:
        part.set_epoch(0)
        dealt.append(list(part))
    grouped.set_epoch(0)
    for batch, mine, its in zip(grouped, *dealt, strict=True):
        assert sorted([*mine, *its]) == sorted(batch) or filler(batch[0]) in (mine[0], its[0])
        assert not {int(code) for code in frames.recordings[mine]} & {int(code) for code in frames.recordings[its]}


def test_a_filler_teaches_nothing():
    frames = make_frames(10, seed=0)
    batch = FrameBatches(frames, inputs=lambda rows: torch.from_numpy(rows))[[filler(3), 4]]
    assert batch["inputs"].tolist() == [3, 4]
    assert batch["targets"].tolist() == [-1, int(frames.targets[4])]
