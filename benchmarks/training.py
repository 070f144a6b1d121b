"""How fast networks are trained: `python benchmarks/training.py [--quick | --full] [--models NAMES] [--settings]`.

Ours (`mien.training.fit.fit_network` and `predict`, as `mien compare` calls them) against the straightforward loop:
plain PyTorch, the backbone's forward pass in every epoch and fold, pictures in memory, gradients for what is trained
only. Both have the same pictures, folds, initial weights, batches, optimiser, schedule, seeds and precision (float32),
neither augments, none stops early, and the scores of both are printed. The design's workload: 100 pictures of 10 drawn
people at 224 px, 5 folds by participant, 20 + 20 epochs, the real architectures with random weights.

Seconds are those of training, of measuring the validation loss after each epoch and of predicting the tested people.
Ours begins with an empty cache, and measures the train loss too. Building the network is the same in both and left out.

`phase1_NAME`: the head on the frozen backbone, 20 epochs. `last2_NAME`: that and 20 epochs of the last two blocks.
`all_NAME`: that and 20 epochs of the whole network. `scratch_NAME`: a network from scratch, which has nothing frozen.

Without `--full` only ours in phase 1 is run to its end: the rest would take hours on a CPU, is extrapolated, and says
so. Ours: two folds with two epochs of phase 2, and as many epochs and folds more as there are, each as long. The loop:
seconds per picture of a few steps, times the pictures. `--quick`: 30 pictures at 64 px, same folds and epochs; all is
run to its end but the epochs of whole pretrained networks. `--settings`: nothing but steps of each network in float32
and bf16, with and without channels_last, and the share of the time in which improved_cnn waits for its pictures.

`--clock cpu` counts the processor's seconds instead of the wall's: for machines on which others compute, too.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from mien.core.types import Split
from mien.data.clips import ClipIndex, build_clips
from mien.data.dataset import Dataset
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig
from mien.data.splits import make_folds
from mien.demo.study import write_demo_study
from mien.models.choice import ModelChoice, parse_model
from mien.models.classifier import BuiltModel, scale_dropout
from mien.models.pretrained import write_random_backbone
from mien.models.registry import MODELS, PRETRAINED, build_model
from mien.runtime.material import Material
from mien.training.activations import frozen_modules
from mien.training.config import TrainConfig, resolve_precision
from mien.training.fit import fit_network, predict_features
from mien.training.frame_sets import make_frame_set
from mien.training.lightning_module import DROPOUT, epoch_seed
from mien.training.loaders import FrameSet, ShuffledBatches, class_weights, participant_weights, read_pixels
from mien.training.model_fit import FittedNetwork
from mien.training.objective import Objective, balanced_accuracy
from mien.training.rates import parameter_groups

Mode = Literal["head", "last:2", "all", "scratch"]
NETWORKS = ("improved_cnn", "vit_scratch", "resnet50_pretrained", "vit_pretrained")
MODES: dict[Mode, str] = {"head": "phase1", "last:2": "last2", "all": "all"}
FOLDS, EPOCHS, PEOPLE = 5, 20, 10
SEED = 3
SAMPLED_EPOCHS = 2
SAMPLED_STEPS = 3
STEP_PICTURES = 8
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


@dataclass(frozen=True)
class Workload:
    """What is trained on.

    Attributes:
        dataset: The prepared pictures.
        clips: Their labels: every second picture of each person is positive.
        splits: The folds.
        size_px: Side of the pictures, px.
        backbones: Folder of random weights by pretrained model.
    """

    dataset: Dataset
    clips: ClipIndex
    splits: list[Split]
    size_px: int
    backbones: dict[str, str]

    def choice(self, name: str) -> ModelChoice:
        """Return a model with its backbone."""
        return parse_model(f"{name}@{self.backbones[name]}" if name in self.backbones else name)

    def frames(self, participants: tuple[str, ...]) -> FrameSet:
        """Return the labelled pictures of participants."""
        material = Material(self.dataset, self.clips)
        frames = make_frame_set(
            material, material.frames_of(participants), size_px=self.size_px, crop=TrainConfig().crop
        )
        return frames.subset(frames.labelled)

    def config(self, mode: Mode, *, epochs: int) -> TrainConfig:
        """Return the settings of both ways."""
        return TrainConfig(
            image_size=self.size_px,
            head_epochs=EPOCHS,
            epochs=epochs,
            unfreeze="all" if mode == "scratch" else mode,
            patience=10**6,
            augment=False,
            precision="32",
        )


@dataclass
class Taken:
    """What the folds of one network took.

    Attributes:
        fold_s: Seconds of each fold.
        difference: Largest difference of logits between what is stored and the plain path, with the same weights.
        logits: Those of each fold's tested people.
        note: What was extrapolated.
    """

    fold_s: list[float] = dataclasses.field(default_factory=list)
    difference: float = 0.0
    logits: list[NDArray[np.float64]] = dataclasses.field(default_factory=list)
    note: str = "measured"

    @property
    def total_s(self) -> float:
        """Seconds of all folds."""
        return sum(self.fold_s)


def make_workload(folder: Path, *, pictures: int, size_px: int) -> Workload:
    """Draw people, prepare them, label every second picture, and write random backbones."""
    per_person = pictures // PEOPLE
    study = write_demo_study(
        folder / "study", participants=PEOPLE, duration_s=float(max(2, per_person)), fps=5, width=256, height=192
    )
    config = PrepareConfig(fps=per_person / max(2, per_person), size_px=size_px, crop="none", workers=1)
    dataset = prepare(study, out=folder / "dataset", config=config)
    clips = build_clips(dataset, target="Smile")
    table = clips.table[clips.table.groupby("recording_id").cumcount() < per_person]
    table = table.assign(target=table.groupby("recording_id").cumcount() % 2)
    clips = dataclasses.replace(clips, table=table)
    backbones = {
        name: str(write_random_backbone(folder / name, architecture=wanted.architecture))
        for name, wanted in PRETRAINED.items()
    }
    return Workload(dataset, clips, make_folds(clips, folds=FOLDS, seed=0), size_px, backbones)


def ours(work: Workload, name: str, mode: Mode, *, folds: int = FOLDS, epochs: int = EPOCHS) -> tuple[Taken, float]:
    """Fit and predict folds from an empty cache; return what they took, and the seconds of one epoch of phase 2."""
    shutil.rmtree(work.dataset.path / "cache", ignore_errors=True)
    config = work.config(mode, epochs=epochs)
    choice, material = work.choice(name), Material(work.dataset, work.clips)
    taken, epoch_s = Taken(), []
    for split in work.splits[:folds]:
        built = build_model(name, num_outputs=1, image_size=work.size_px, backbone=choice.backbone, seed=SEED)
        train, validation = work.frames(split.train), work.frames(split.validation)
        ends: list[float] = []
        started = clock()
        result = fit_network(
            built,
            train=train,
            validation=validation,
            scheme=work.clips.scheme,
            config=config,
            baseline="none",
            seed=SEED,
            on_epoch=lambda _, ends=ends: ends.append(clock()),  # type: ignore[misc]
        )
        fitted = FittedNetwork(material, choice, built, result, model_facts={}, config=config)
        taken.logits.append(fitted.predict(split.test)[1])
        taken.fold_s.append(clock() - started)
        # The first epoch of a phase begins with what is computed once.
        first = sum(row["phase"] == "head" for row in result.history)
        epoch_s += np.diff(ends[first:]).tolist()
        if mode in ("head", "last:2"):
            taken.difference = max(taken.difference, _difference(work, fitted, split))
    return taken, statistics.median(epoch_s or [0.0])


def _difference(work: Workload, fitted: FittedNetwork, split: Split) -> float:
    frames = make_frame_set(
        fitted.material, fitted.material.frames_of(split.test), size_px=work.size_px, crop=fitted.crop
    )
    plain = predict_features(fitted.built.classifier, frames, batch_size=fitted.result.batch_size)
    stored = fitted._features(split.test)[1]
    return float(np.abs(fitted._head(plain) - fitted._head(stored)).max())


def ours_extrapolated(work: Workload, name: str, mode: Mode) -> Taken:
    """Fit two folds with few epochs of phase 2; add the epochs and folds that are left."""
    few, epoch_s = ours(work, name, mode, folds=2, epochs=SAMPLED_EPOCHS)
    # The first fold fills the cache, with the people that it tests, too; the others find it filled.
    more_s = epoch_s * (EPOCHS - SAMPLED_EPOCHS)
    fold_s = [few.fold_s[0] + more_s, *[few.fold_s[1] + more_s] * (FOLDS - 1)]
    note = f"extrapolated from 2 folds with {SAMPLED_EPOCHS} epochs of phase 2, {epoch_s:.2f} s each"
    return Taken(fold_s, few.difference, note=note)


class PlainLoop:
    """The straightforward loop on one fold of one network."""

    def __init__(self, work: Workload, name: str, mode: Mode, split: Split) -> None:
        self.config = work.config(mode, epochs=EPOCHS)
        self.mode = mode
        self.train, self.validation = work.frames(split.train), work.frames(split.validation)
        self.test = work.frames(split.test)
        self.pixels = {id(frames): read_pixels(frames, np.arange(len(frames))) for frames in self._sides}
        choice = work.choice(name)
        self.built: BuiltModel = build_model(
            name, num_outputs=1, image_size=work.size_px, backbone=choice.backbone, seed=SEED
        )
        self.network = self.built.classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        scale_dropout(self.network, factor=MODELS[name].dropout)
        self.batch_size = MODELS[name].batch_size
        weights = class_weights(self.train, scheme=work.clips.scheme)
        self.objective = Objective("binary", torch.from_numpy(weights))
        self.best_loss, self.best = float("inf"), copy.deepcopy(self.network.state_dict())

    @property
    def _sides(self) -> tuple[FrameSet, FrameSet, FrameSet]:
        return self.train, self.validation, self.test

    def phases(self) -> list[tuple[int | None, float | None, float, int]]:
        """Return open blocks (None: all), rate of the backbone (None: frozen), rate of the head, and seed."""
        config = self.config
        first, second = (int(number) for number in np.random.SeedSequence(SEED).generate_state(2))
        if self.mode == "scratch":
            rate = MODELS[self.built.name].scratch_lr
            assert rate is not None
            return [(None, rate, rate, first)]
        head = (0, None, config.head_lr_phase1, first)
        return [head] if self.mode == "head" else [head, (config.num_open, config.backbone_lr, config.head_lr, second)]

    def run_phase(self, phase: tuple[int | None, float | None, float, int], *, max_steps: int | None = None) -> None:
        """Train all epochs of a phase, or a few steps of its first one; the best weights stay."""
        num_open, encoder_lr, head_lr, seed = phase
        self.network.requires_grad_(True)
        frozen = [] if num_open is None else frozen_modules(self.network, num_open=num_open)
        for part in frozen:
            part.requires_grad_(False)
        groups = parameter_groups(self.network, encoder_lr=encoder_lr, head_lr=head_lr, config=self.config)
        optimizer = torch.optim.AdamW(groups, fused=True)
        schedule = CosineAnnealingWarmRestarts(
            optimizer, T_0=self.config.restart_epochs, T_mult=self.config.restart_factor, eta_min=self.config.min_lr
        )
        sampler = ShuffledBatches(self.train.labelled, batch_size=self.batch_size, seed=seed)
        weights = torch.from_numpy(participant_weights(self.train.participants, targets=self.train.targets))
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            torch.manual_seed(epoch_seed(seed, epoch, DROPOUT, 0))
            self.network.train()
            for part in frozen:
                part.eval()
            for step, batch in enumerate(sampler):
                rows = torch.as_tensor(batch)
                inputs = self.network.normalise(self.pixels[id(self.train)][rows])
                targets = torch.from_numpy(self.train.targets)[rows]
                loss = self.objective.mean(self.network(inputs), targets=targets, weights=weights[rows])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
                optimizer.step()
                if max_steps is not None and step + 1 >= max_steps:
                    return
            schedule.step()
            self._keep_the_best()
        self.network.load_state_dict(self.best)

    def _keep_the_best(self) -> None:
        frames = self.validation
        weights = torch.from_numpy(participant_weights(frames.participants, targets=frames.targets))
        loss = self.objective.mean(self.predict(frames), targets=torch.from_numpy(frames.targets), weights=weights)
        if float(loss) < self.best_loss:
            self.best_loss, self.best = float(loss), copy.deepcopy(self.network.state_dict())

    def predict(self, frames: FrameSet) -> Tensor:
        """Return the logits of frames."""
        self.network.eval()
        with torch.no_grad():
            blocks = self.pixels[id(frames)].split(self.batch_size)
            return torch.cat([self.network(self.network.normalise(block)) for block in blocks])


def plain(work: Workload, name: str, mode: Mode) -> Taken:
    """Run the straightforward loop on all folds."""
    taken = Taken()
    for split in work.splits:
        loop = PlainLoop(work, name, mode, split)
        started = clock()
        for phase in loop.phases():
            loop.run_phase(phase)
        taken.logits.append(loop.predict(loop.test).double().numpy())
        taken.fold_s.append(clock() - started)
    return taken


def plain_extrapolated(work: Workload, name: str, mode: Mode) -> Taken:
    """Time a few steps of the straightforward loop in each phase; multiply by the pictures of all epochs and folds."""
    loop = PlainLoop(work, name, mode, work.splits[0])
    count = len(loop.train)
    watched_s = min(_timed(lambda: loop.predict(loop.validation)) for _ in range(2)) / len(loop.validation)
    sizes = [
        tuple(len(work.frames(side)) for side in (split.train, split.validation, split.test)) for split in work.splits
    ]
    taken = Taken([tested * watched_s for *_, tested in sizes])
    words = []
    for phase in loop.phases():
        step_s = min(_timed(lambda phase=phase: loop.run_phase(phase, max_steps=1)) for _ in range(SAMPLED_STEPS))
        trained_s = step_s / min(loop.batch_size, count)
        words.append(f"{trained_s:.3f}")
        for fold, (trained, watched, _) in enumerate(sizes):
            taken.fold_s[fold] += EPOCHS * (trained * trained_s + watched * watched_s)
    taken.note = (
        f"extrapolated from {SAMPLED_STEPS} steps of {min(loop.batch_size, count)} pictures per phase: s per picture "
        f"{', '.join(words)} trained, {watched_s:.3f} predicted"
    )
    return taken


def _timed(call: Callable[[], object]) -> float:
    started = clock()
    call()
    return clock() - started


def score(work: Workload, taken: Taken) -> float:
    """Return the balanced accuracy over the tested pictures of all folds."""
    targets = np.concatenate([work.frames(split.test).targets for split in work.splits])
    predicted = (np.concatenate(taken.logits)[:, 0] >= 0).astype(np.int64)
    return balanced_accuracy(targets, predicted=predicted)


def compare(work: Workload, name: str, mode: Mode, *, real_ours: bool, real_plain: bool) -> float:
    """Run both ways, print what they took and scored, and return how many times faster ours is."""
    print(f"{name}, {mode}", flush=True)
    mine = ours(work, name, mode)[0] if real_ours else ours_extrapolated(work, name, mode)
    print(f"  ours                {mine.total_s:9.1f} s ({mine.note})", flush=True)
    its = plain(work, name, mode) if real_plain else plain_extrapolated(work, name, mode)
    print(f"  straightforward     {its.total_s:9.1f} s ({its.note})", flush=True)
    if mode in ("head", "last:2"):
        print(f"  same weights        logits differ by {mine.difference:.1e}, stored against plain", flush=True)
    if mine.logits and len(mine.logits) == len(its.logits):
        differ = max(float(np.abs(a - b).max()) for a, b in zip(mine.logits, its.logits, strict=True))
        print(
            f"  after the fits      logits differ by {differ:.1e}; balanced accuracy {score(work, mine):.3f} against "
            f"{score(work, its):.3f}",
            flush=True,
        )
    return its.total_s / mine.total_s


def step_settings(work: Workload, names: list[str]) -> None:
    """Print the seconds of a training step of each network by precision and layout, and what loading pictures takes."""
    for name in names:
        loop = PlainLoop(work, name, "all" if name in PRETRAINED else "scratch", work.splits[0])
        inputs = loop.network.normalise(loop.pixels[id(loop.train)][:STEP_PICTURES])
        loop.network.train()
        for channels_last in (False, True):
            layout = torch.channels_last if channels_last else torch.contiguous_format
            network, pixels = loop.network.to(memory_format=layout), inputs.contiguous(memory_format=layout)  # type: ignore[call-overload]
            for bf16 in (False, True):

                def step(network: torch.nn.Module = network, pixels: Tensor = pixels, bf16: bool = bf16) -> None:
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                        loss = network(pixels).float().square().mean()
                    loss.backward()

                step()
                seconds = min(_timed(step) for _ in range(SAMPLED_STEPS))
                words = f"{'bf16' if bf16 else 'float32'}{', channels_last' if channels_last else ''}"
                print(f"step {name:20s} {words:23s} {seconds / len(pixels) * 1e3:8.1f} ms per picture", flush=True)
    loop = PlainLoop(work, "improved_cnn", "scratch", work.splits[0])
    rows = np.arange(len(loop.train))
    read_pixels(loop.train, rows)
    loading_s = min(_timed(lambda: read_pixels(loop.train, rows)) for _ in range(SAMPLED_STEPS))
    epoch_s = ours(work, "improved_cnn", "scratch", folds=1, epochs=3)[1]
    print(f"waiting for pictures, improved_cnn: {loading_s / epoch_s:.1%} of an epoch of {epoch_s:.2f} s")


def processor() -> str:
    """Return the processor's name, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30 pictures at 64 px; minutes on two cores")
    parser.add_argument("--full", action="store_true", help="run everything to its end: hours on a CPU")
    parser.add_argument("--models", default=",".join(NETWORKS), help="which networks, comma-separated")
    parser.add_argument("--settings", action="store_true", help="steps by precision and layout instead")
    parser.add_argument("--modes", default="head,last:2,all", help="of pretrained networks: which, comma-separated")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="whose seconds are counted")
    parser.add_argument("--pictures", type=int, help="how many pictures, a multiple of 10 (default: 100, quick: 30)")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    names = [name for name in NETWORKS if name in options.models.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.pictures or (30 if options.quick else 100)
        work = make_workload(Path(folder), pictures=pictures, size_px=64 if options.quick else 224)
        print(
            f"{len(work.clips.table)} pictures at {work.size_px} px, {FOLDS} folds, {EPOCHS} + {EPOCHS} epochs, "
            f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"seconds by the {options.clock} clock; `precision: auto` is {resolve_precision('auto', device='cpu')} here"
        )
        if options.settings:
            step_settings(work, names)
            return
        ratios: dict[str, float] = {}
        real, all_real = options.quick or options.full, options.full
        for name in names:
            if name not in PRETRAINED:
                ratios[f"scratch_{name}"] = compare(work, name, "scratch", real_ours=real, real_plain=real)
                continue
            for mode, ratio in MODES.items():
                if mode in options.modes.split(","):
                    ours_real, plain_real = (all_real, all_real) if mode == "all" else (real or mode == "head", real)
                    ratios[f"{ratio}_{name}"] = compare(work, name, mode, real_ours=ours_real, real_plain=plain_real)
        for ratio, value in ratios.items():
            print(f"{ratio} {value:.1f}x")


if __name__ == "__main__":
    main()
