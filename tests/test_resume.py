"""A fit that is killed in the middle of an epoch goes on from its last finished one, and ends with the same weights."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.core.labels import LabelScheme
from mien.core.storage import remove_leftovers
from mien.crossval.folds import fit_all
from mien.crossval.setup import Comparison, plan_comparison
from mien.models.pretrained import write_random_backbone
from mien.models.registry import build_model
from mien.training.checkpoints import PROGRESS_FILE, Checkpoints, Progress, frames_digest
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.fit import fit_network
from mien.training.loaders import FrameSet
from mien.training.settings import FitSettings

SIZE = 32
SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")
NETWORK = {"image_size": SIZE, "batch_size": 8, "epochs": 3, "head_epochs": 3, "scratch_lr": 2e-3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Processes are forked here, and the threads of a parent's pool don't live on in a child.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def every_epoch(monkeypatch):
    # Epochs this short are over before a checkpoint is worth its cost.
    monkeypatch.setattr("mien.training.checkpoints.TIMES_ITS_COST", 0.0)


class Killer:
    """Kills its process when the third batch after so many epochs is read."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.lines: list[str] = []
        self.reads = 0

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.reads = 0

    def read(self) -> None:
        self.reads += 1
        if sum(" epoch " in line for line in self.lines) == self.after and self.reads == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def make_frames(num: int, *, seed: int, killer: Killer) -> FrameSet:
    generator = np.random.default_rng(seed)
    bright = generator.integers(0, 2, num)
    pixels = (generator.integers(0, 200, (num, SIZE, SIZE, 3)) + 30 * bright[:, None, None, None]).astype(np.uint8)

    def load(rows):
        killer.read()
        return pixels[rows]

    recordings = np.arange(num) // 8
    return FrameSet(load, bright, recordings, recordings // 2, np.array([str(i) for i in range(num)], object))


def fit(folder: Path, *, model: str, config: dict[str, Any], backbone: str | None, baseline: str, after: int = -1):
    killer = Killer(after)
    built = build_model(model, num_outputs=1, image_size=SIZE, backbone=backbone, seed=3)
    result = fit_network(
        built,
        train=make_frames(48, seed=0, killer=killer),
        validation=make_frames(30, seed=1, killer=killer),
        scheme=SMILE,
        config=TrainConfig(**(NETWORK | config)),
        baseline=baseline,
        seed=5,
        on_epoch=killer.say,
        checkpoints=Checkpoints(folder, identity="test", every_s=0.0),
    )
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    return built.classifier.state_dict(), history, result.best_epoch, killer.lines


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory) -> str:
    return str(write_random_backbone(tmp_path_factory.mktemp("vit") / "vit", architecture="vit_base", tiny=True))


@pytest.mark.parametrize(
    ("model", "config", "baseline", "done"),
    [
        ("improved_cnn", {"augment": True}, "none", 2),
        # Phase 1 has 3 epochs, so that 4 are over in the second of phase 2.
        ("vit_pretrained", {"unfreeze": "gradual", "mixup": 0.4, "head_lr": 1e-3}, "recording", 4),
        ("vit_pretrained", {"phase1": "augmented", "layer_decay": 0.5, "sampling": "participants"}, "none", 1),
    ],
)
def test_a_killed_fit_ends_with_the_same_weights(tmp_path, every_epoch, tiny_vit, model, config, baseline, done):
    backbone = tiny_vit if model == "vit_pretrained" else None
    task = {"model": model, "config": {"frames_per_recording": 4} | config, "baseline": baseline, "backbone": backbone}
    weights, history, best_epoch, _ = fit(tmp_path / "undisturbed", **task)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=fit, args=(tmp_path / "c",), kwargs={**task, "after": done})
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    there = json.loads((tmp_path / "c" / PROGRESS_FILE).read_text())["progress"]
    assert len(there["history"]) == done and len(list((tmp_path / "c").glob("*.safetensors"))) == 1
    resumed, its_history, its_best, lines = fit(tmp_path / "c", **task)
    assert lines[0].endswith(f"going on after epoch {done}")
    assert sum(" epoch " in line for line in lines[1:]) == len(history) - done
    assert (its_history, its_best) == (history, best_epoch)
    assert weights.keys() == resumed.keys()
    assert [name for name in weights if not torch.equal(weights[name], resumed[name])] == []


def test_a_fit_killed_after_its_last_epoch_trains_no_more(tmp_path, every_epoch):
    task = {"model": "improved_cnn", "config": {"epochs": 2}, "baseline": "none", "backbone": None}
    weights, history, _, _ = fit(tmp_path / "c", **task)
    again, its_history, _, lines = fit(tmp_path / "c", **task)
    assert its_history == history and lines == ["improved_cnn: going on after epoch 2"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    # Another seed, another fit: the checkpoint is told of, and not used.
    _, _, _, lines = fit(tmp_path / "c", **(task | {"config": {"epochs": 1}}))
    assert "another fit" in lines[0] and "epoch 1" in lines[1]


# --- commands


def killed_after_writes(monkeypatch, call: Callable[[], object], *, num: int) -> None:
    """Run a call in a process of its own that is killed once so many checkpoints are written."""
    write, written = Checkpoints.write, []

    def write_and_die(self, progress):
        write(self, progress)
        written.append(progress)
        if len(written) == num:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "write", write_and_die)
        child = multiprocessing.get_context("fork").Process(target=call)
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL


CNN = FitSettings(training=TrainConfig(image_size=SIZE, epochs=3, batch_size=16))


def test_a_killed_comparison_goes_on_in_the_middle_of_a_fit(tmp_path, monkeypatch, every_epoch, drawn_dataset):
    monkeypatch.setattr("mien.training.checkpoints.EVERY_S", 0.0)

    def plan(out: str) -> Comparison:
        return plan_comparison(
            drawn_dataset.path, target="Smile", models="improved_cnn", out=tmp_path / out, folds=3, settings=CNN
        )

    def folds(comparison: Comparison) -> Path:
        return comparison.fold_path(comparison.choices[0], comparison.splits[0]).parent

    undisturbed, killed = plan("undisturbed"), plan("killed")
    assert fit_all(undisturbed) == []
    # Three epochs in a fold: in the second fold, after its second epoch.
    killed_after_writes(monkeypatch, lambda: fit_all(killed), num=5)
    assert sorted(path.name for path in folds(killed).iterdir()) == [".checkpoint-1", "0"]
    assert fit_all(killed) == []
    assert sorted(path.name for path in folds(killed).iterdir()) == ["0", "1", "2"]
    for name in ("validation.parquet", "weights.safetensors"):
        assert (folds(killed) / "1" / name).read_bytes() == (folds(undisturbed) / "1" / name).read_bytes()


@pytest.mark.slow
def test_a_killed_training_goes_on(tmp_path, monkeypatch, every_epoch, drawn_dataset, capsys):
    monkeypatch.setattr("mien.training.checkpoints.EVERY_S", 0.0)

    def train(out: str) -> Path:
        plan = plan_training(drawn_dataset.path, target="Smile", model="improved_cnn", out=tmp_path / out, settings=CNN)
        train_bundle(plan)
        return tmp_path / out

    undisturbed = train("one")
    killed_after_writes(monkeypatch, lambda: train("two"), num=2)
    assert (tmp_path / ".checkpoint-two").is_dir() and not (tmp_path / "two").exists()
    capsys.readouterr()
    resumed = train("two")
    assert "going on after epoch 2" in "".join(capsys.readouterr())
    assert (resumed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


# --- the checkpoint itself


def progress(**changes: object) -> Progress:
    weights = {"head.weight": torch.arange(6.0).reshape(2, 3), "encoder.running": torch.tensor(3)}
    values = {
        "phase": 1, "epochs": 2, "finished": False, "batch_size": 16, "seconds": 1.5, "lowest": float("inf"),
        "waited": 1, "best_loss": 0.1 + 0.2, "best_epoch": 1, "history": [{"epoch": 1, "validation_loss": 1 / 3}],
        "weights": weights, "best": {"head.weight": torch.ones(2, 3)},
        "moments": {0: {"step": torch.tensor(4.0), "exp_avg": torch.full((2, 3), 1 / 3)}},
    }  # fmt: skip
    return Progress(**(values | changes))


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoints = Checkpoints.beside(tmp_path / "0", identity="a")
    assert checkpoints.read(say=print) is None
    checkpoints.write(progress(epochs=1))
    checkpoints.write(progress())
    back = checkpoints.read(say=print)
    assert back is not None
    plain = [field.name for field in dataclasses.fields(Progress) if field.name not in ("weights", "best", "moments")]
    assert [getattr(back, name) for name in plain] == [getattr(progress(), name) for name in plain]
    assert torch.equal(back.weights["head.weight"], progress().weights["head.weight"])
    assert back.weights["encoder.running"].dtype == torch.int64
    assert torch.equal(back.best["head.weight"], torch.ones(2, 3))
    assert torch.equal(back.moments[0]["exp_avg"], torch.full((2, 3), 1 / 3)) and back.moments[0]["step"] == 4.0
    remove_leftovers(tmp_path)
    assert checkpoints.read(say=print) is not None, "who cleans up after killed writers leaves checkpoints alone"
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_fit_or_a_broken_one_is_not_used(tmp_path):
    lines: list[str] = []
    checkpoints = Checkpoints(tmp_path / "c", identity="a")
    checkpoints.write(progress())
    other = checkpoints.of({"seed": 1})
    assert other.identity != checkpoints.of({"seed": 2}).identity
    assert other.read(say=lines.append) is None
    assert "another fit" in lines[0]
    tensors = next((tmp_path / "c").glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:40])
    assert checkpoints.read(say=lines.append) is None
    (tmp_path / "c" / PROGRESS_FILE).write_text("{")
    assert checkpoints.read(say=lines.append) is None
    assert ["can't be read" in line for line in lines] == [False, True, True]


def test_checkpoints_cost_a_fiftieth_of_the_time_at_most(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", identity="a")
    assert not checkpoints.due, "a fit of seconds writes none"
    checkpoints.every_s = 0.0
    assert checkpoints.due
    checkpoints.write(progress())
    checkpoints._cost_s = 10.0  # s
    assert not checkpoints.due


def test_identity_sees_labels_order_and_names():
    def digest(targets, ids):
        columns = (np.array(targets), np.zeros(2, np.int64), np.zeros(2, np.int64))
        return frames_digest(FrameSet(lambda rows: rows, *columns, ids=np.array(ids, object)))

    assert digest([0, 1], ["a", "b"]) == digest([0, 1], ["a", "b"])
    others = [digest([1, 1], ["a", "b"]), digest([0, 1], ["b", "a"]), digest([0, 1], ["a", "c"])]
    assert digest([0, 1], ["a", "b"]) not in others and len(set(others)) == 3


def test_settings_are_part_of_the_identity():
    one, two = (Checkpoints(Path("c"), identity="a").of(dataclasses.asdict(TrainConfig(epochs=n))) for n in (3, 4))
    assert one.identity != two.identity
