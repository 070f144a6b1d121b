"""Fits over windows: killed and gone on with, balanced, mixed; their draws depend on the seed and the epoch alone."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.registry import MODELS, build_sequence_network
from mien.models.sequence_parts import HeadShape
from mien.runtime.sound import HOP_S, NUM_MELS, LogMel
from mien.runtime.windows import RecordingView, WindowSpec
from mien.training.checkpoints import PROGRESS_FILE, Checkpoints
from mien.training.mixup import Mixture
from mien.training.sequence_batches import WindowSet
from mien.training.sequence_config import SequenceConfig
from mien.training.sequence_draws import RandomClips, mix_windows
from mien.training.sequence_training import SequenceFit

SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")
MODALITIES = ("video", "audio", "signals")
SPEC = WindowSpec(MODALITIES, 3, 0.2, feature_dim=5, signal_names=("GSR",), recording_frames=4)
BRIEF = SequenceConfig(epochs=4, batch_size=16, clips_per_recording=8, modality_dropout=0.5)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Processes are forked here, and the threads of a parent's pool don't live on in a child.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(recordings: dict[str, str], *, num: int = 12, seed: int = 0) -> WindowSet:
    """Frames and sound that know the target, of recordings by participant."""
    generator = np.random.default_rng(seed)
    views, rows = {}, []
    for name, person in recordings.items():
        targets = generator.integers(0, 2, num)
        features = generator.normal(0, 1, (num, 5)) + 2 * targets[:, None]
        steps = np.arange(0, num, HOP_S).astype(int).clip(0, num - 1)
        sound = generator.normal(0, 1, (NUM_MELS, len(steps))) + targets[steps]
        views[name] = RecordingView(
            np.arange(float(num)), features.astype(np.float32), LogMel(sound.astype(np.float32), start_s=0.0), None
        )
        rows += [(f"{name}@{frame}", name, person, frame, target) for frame, target in enumerate(targets)]
    clips = pd.DataFrame(rows, columns=["clip_id", "recording_id", "participant_id", "frame", "target"])
    return WindowSet.of_views(clips, views, spec=SPEC)


def fit(folder: Path, *, config: SequenceConfig, after: int = -1):
    """Fit; killed in the third batch after so many epochs."""
    lines: list[str] = []
    network = build_sequence_network(
        "multimodal_fusion", shape=HeadShape.of(SPEC, num_outputs=1, fusion="cross_attention"), seed=3
    )
    sides = [made_up({f"{name}{i}": f"{name}{i // 2}" for i in range(6)}, seed=i) for i, name in enumerate("tv")]
    task = SequenceFit(network, train=sides[0], validation=sides[1], scheme=SMILE, config=config, seed=5)
    drawn = task.clips.drop_modalities

    def drop(inputs, **given):
        if len(task.history) == after and given["batch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return drawn(inputs, **given)

    task.clips.drop_modalities = drop  # type: ignore[method-assign]
    task.run(lines.append, checkpoints=Checkpoints(folder, identity="test", every_s=0.0))
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in task.history]
    return network.state_dict(), history, task.best_epoch, lines


@pytest.mark.parametrize(
    ("changes", "done"), [({}, 1), ({"mixup": 0.4}, 2), ({"sampling": "participants", "patience": 1}, 1)]
)
def test_a_killed_fit_ends_with_the_same_weights(tmp_path, monkeypatch, changes, done):
    monkeypatch.setattr("mien.training.checkpoints.TIMES_ITS_COST", 0.0)
    config = dataclasses.replace(BRIEF, **changes)
    weights, history, best_epoch, _ = fit(tmp_path / "undisturbed", config=config)
    child = multiprocessing.get_context("fork").Process(
        target=fit, args=(tmp_path / "c",), kwargs={"config": config, "after": done}
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    there = json.loads((tmp_path / "c" / PROGRESS_FILE).read_text())["progress"]
    assert len(there["history"]) == done and not there["finished"]
    resumed, its_history, its_best, lines = fit(tmp_path / "c", config=config)
    assert lines[0] == f"going on after epoch {done}"
    assert sum(line.startswith("epoch ") for line in lines) == len(history) - done
    assert (its_history, its_best) == (history, best_epoch)
    assert [name for name in weights if not torch.equal(weights[name], resumed[name])] == []


def test_every_participant_comes_equally_often():
    windows = made_up({"a0": "a", "a1": "a", "a2": "a", "b0": "b"})
    rows = np.concatenate(RandomClips(windows, config=BRIEF, seed=0).epoch(1))
    assert np.bincount(rows // 12).tolist() == [8, 8, 8, 8]
    balanced = RandomClips(windows, config=dataclasses.replace(BRIEF, sampling="participants"), seed=0)
    rows = np.concatenate(balanced.epoch(1))
    people = windows.clips["participant_id"].to_numpy()[rows]
    # As many as before, half of each; b has 12 clips for 16 places.
    assert ((people == "a").sum(), (people == "b").sum()) == (16, 16)
    assert np.bincount(rows[people == "b"] - 36).tolist().count(2) == 4
    assert balanced.weights_of(windows, scheme=SMILE).tolist() == [1.0] * 48
    assert len(set(RandomClips(windows, config=BRIEF, seed=0).weights_of(windows, scheme=SMILE).tolist())) == 2


def test_mixed_windows_know_what_both_know():
    inputs = {
        "features": torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]]]),
        "frame_mask": torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
        "audio": torch.tensor([[[4.0]], [[0.0]]]),
        "audio_mask": torch.tensor([[1.0], [0.0]]),
    }
    mixed = mix_windows(inputs, modalities=("video", "audio"), mixture=Mixture(torch.tensor([1, 0]), share=0.75))
    assert mixed["features"][:, :, 0].tolist() == [[1.5, 0.0], [2.5, 0.0]]
    assert mixed["frame_mask"].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert mixed["audio"].flatten().tolist() == [0.0, 0.0] and mixed["audio_mask"].flatten().tolist() == [0.0, 0.0]


def test_windows_with_nothing_in_common_are_not_mixed():
    clips = RandomClips(made_up({"a": "a"}), config=dataclasses.replace(BRIEF, mixup=0.4), seed=0)
    inputs = {"frame_mask": torch.tensor([[1.0], [0.0], [0.0]]), "audio_mask": torch.tensor([[0.0], [1.0], [1.0]])}
    given = {"modalities": ("video", "audio"), "targets": torch.tensor([0, 1, 0])}
    drawn = [clips.mixture(inputs, **given, epoch=epoch, batch=0) for epoch in range(20)]
    assert all(mixture is not None and mixture.partners[0] == 0 for mixture in drawn)
    assert any(mixture is not None and mixture.partners[1] == 2 for mixture in drawn)
    assert RandomClips(made_up({"a": "a"}), config=BRIEF, seed=0).mixture(inputs, **given, epoch=1, batch=0) is None


def test_settings_that_make_no_sense_are_refused():
    for changes, message in (
        ({"devices": 2}, "trains on one device"),
        ({"mixup": -1}, "mixup must be at least 0"),
        ({"recording_frames": -1}, "recording_frames must be at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            SequenceConfig(**changes)
    assert SequenceConfig().recording_frames_of(MODELS["temporal_vit"]) == 48  # type: ignore[arg-type]
    assert SequenceConfig(recording_frames=0).recording_frames_of(MODELS["temporal_vit"]) == 0  # type: ignore[arg-type]
