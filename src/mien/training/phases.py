"""The phases of one fit: what is frozen when, the batches, and what happens when memory runs out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.classifier import BuiltModel, Recomputing, scale_dropout
from mien.models.registry import MODELS
from mien.training.config import TrainConfig, resolve_precision
from mien.training.inference import frame_features, frame_logits, head_logits, personal_features
from mien.training.lightning_module import (
    Best,
    EpochMonitor,
    EpochScore,
    Objective,
    Phase,
    PhaseModule,
    balanced_accuracy,
)
from mien.training.loaders import (
    FrameBatches,
    FrameSet,
    NetworkBaseline,
    RecordingBatches,
    Rows,
    ShuffledBatches,
    class_weights,
    make_loader,
    participant_weights,
    read_pixels,
)
from mien.training.reproducible import Device

# Accumulating batches on little data would leave a handful of optimiser steps per epoch.
MIN_STEPS_PER_EPOCH = 64
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True)
class Sides:
    """The frames of a fit.

    Attributes:
        train: What weights are fitted on.
        validation: What decides when to stop.
        sample: Rows of `train`, about as many as validation has: the train loss is measured on them. Whole recordings
            where there is a personal baseline.
        baseline: The personal baseline.
    """

    train: FrameSet
    validation: FrameSet
    sample: Rows
    baseline: NetworkBaseline

    @staticmethod
    def of(train: FrameSet, *, validation: FrameSet, baseline: NetworkBaseline, seed: int) -> Sides:
        """Draw the sample; frames without a label are left out where no baseline needs them."""
        if baseline == "none":
            train, validation = train.subset(train.labelled), validation.subset(validation.labelled)
        generator = np.random.default_rng(seed)
        wanted = len(validation.labelled)
        if baseline == "none":
            sample = generator.permutation(len(train))[:wanted]
        else:
            order = generator.permutation(np.unique(train.recordings[train.labelled]))
            counts = [int((train.recordings[train.labelled] == recording).sum()) for recording in order]
            enough = int(np.searchsorted(np.cumsum(counts), wanted)) + 1
            sample = np.flatnonzero(np.isin(train.recordings, order[:enough]))
        return Sides(train=train, validation=validation, sample=np.sort(sample), baseline=baseline)


class PhasedFit:
    """One fit under way.

    Attributes:
        device: Where it trains.
        precision: In which numbers it trains; it is always evaluated in float32.
        batch_size: Pictures per batch; halves when memory runs out.
        accumulate: Batches per optimiser step.
        history: One mapping per epoch.
        best: The best epoch so far.
    """

    def __init__(
        self,
        built: BuiltModel,
        *,
        sides: Sides,
        scheme: LabelScheme,
        config: TrainConfig,
        seed: int,
        on_epoch: Callable[[str], None] | None,
    ) -> None:
        self.built = built
        self.classifier = built.classifier
        self.sides = sides
        self.scheme = scheme
        self.config = config
        self.seed = seed
        self.on_epoch = on_epoch
        self.device: Device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = resolve_precision(config.precision, device=self.device)
        self.batch_size = config.batch_size or MODELS[built.name].batch_size
        self.accumulate = 1
        self.history: list[dict[str, Any]] = []
        self.best = Best()
        self.objective = Objective(scheme.kind, torch.from_numpy(class_weights(sides.train, scheme=scheme)))

    def run(self) -> None:
        """Run all phases; the classifier is left with its best weights, in eval mode, on the CPU."""
        self._prepare_network()
        for phase in self._phases():
            self._run_phase(phase)
            if not self.best.weights:
                raise UserError(f"{self.built.name}: the validation loss is not a number; lower the learning rates.")
            self.classifier.load_state_dict(self.best.weights)
        self.classifier.requires_grad_(True).cpu().eval()
        self.classifier.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def _prepare_network(self) -> None:
        factor = self.config.dropout
        scale_dropout(self.classifier, factor=MODELS[self.built.name].dropout if factor is None else factor)
        if self.config.channels_last:
            self.classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.config.gradient_checkpointing:
            encoder = self.classifier.encoder
            if not (isinstance(encoder, Recomputing) and encoder.enable_gradient_checkpointing()):
                self._say(f"{self.built.name} has no gradient checkpointing; it trains without")

    def _phases(self) -> list[Phase]:
        config = self.config
        seeds = [int(number) for number in np.random.SeedSequence(self.seed).generate_state(2)]
        if not self.built.pretrained:
            rate = config.scratch_lr or MODELS[self.built.name].scratch_lr
            assert rate is not None, f"{self.built.name} has no learning rate of its own"
            return [Phase("scratch", inputs="pixels", epochs=config.epochs, rates=(rate, rate), seed=seeds[0])]
        inputs: Literal["features", "pixels"] = "features" if config.phase1 == "cached" else "pixels"
        head = Phase(
            "head", inputs=inputs, epochs=config.head_epochs, rates=(None, config.head_lr_phase1), seed=seeds[0]
        )
        rates = (config.backbone_lr, config.head_lr)
        whole = Phase("all", inputs="pixels", epochs=config.epochs, rates=rates, seed=seeds[1])
        return [head, whole] if config.head_epochs else [whole]

    def _run_phase(self, phase: Phase) -> None:
        """Run one phase; where memory runs out, run it again from its start with half the batch."""
        start = copy.deepcopy(self.classifier.state_dict())
        best, num_done = copy.copy(self.best), len(self.history)
        while not self._fits_in_memory(phase):
            if self.batch_size == 1:
                raise UserError(
                    f"{self.built.name} at {self.built.image_size} px doesn't fit into memory with one picture per "
                    "batch; use a smaller image_size or gradient_checkpointing."
                )
            self.batch_size //= 2
            self._say(f"{self.built.name}: out of memory; going on with batches of {self.batch_size}")
            self.classifier.load_state_dict(start)
            self.best = copy.copy(best)
            del self.history[num_done:]

    def _fits_in_memory(self, phase: Phase) -> bool:
        try:
            self._train(phase)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
                raise
            return False
        return True

    def _train(self, phase: Phase) -> None:
        torch.manual_seed(phase.seed)
        self.classifier.to(self.device)
        batches, score = self._batches(phase)
        sampler = self._sampler(phase)
        self.accumulate = min(self.config.accumulate, max(1, len(sampler) // MIN_STEPS_PER_EPOCH))  # type: ignore[arg-type]
        module = PhaseModule(
            self.classifier,
            phase=phase,
            objective=self.objective,
            config=self.config,
            baseline=self.sides.baseline,
            # Lightning can't clip gradients for a fused optimiser in mixed precision.
            fused=self.precision == "32",
        )
        monitor = EpochMonitor(
            phase, score=score, best=self.best, history=self.history, config=self.config, on_epoch=self._report
        )
        num_workers = self.config.num_workers if phase.inputs == "pixels" else 0
        self._trainer(phase, monitor).fit(module, make_loader(batches, sampler=sampler, num_workers=num_workers))

    def _trainer(self, phase: Phase, monitor: EpochMonitor) -> Any:
        return lightning.Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=1,
            max_epochs=phase.epochs,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=self.config.clip_norm or None,
            # Some CUDA kernels have no deterministic version: there it is asked for, and not promised.
            deterministic=True if self.device == "cpu" else "warn",
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def _sampler(self, phase: Phase) -> Sampler[list[int]]:
        train = self.sides.train
        if self.sides.baseline == "recording" and phase.inputs == "pixels":
            per_recording = self.config.frames_per_recording
            return RecordingBatches(
                train, batch_size=self.batch_size, frames_per_recording=per_recording, seed=phase.seed
            )
        return ShuffledBatches(train.labelled, batch_size=self.batch_size, seed=phase.seed)

    def _batches(self, phase: Phase) -> tuple[FrameBatches, Callable[[], EpochScore]]:
        """Return the training batches of a phase, and the function that measures after each epoch."""
        train, validation, sample = self.sides.train, self.sides.validation, self.sides.sample
        baseline = self.sides.baseline
        sampled = train.subset(sample)
        if phase.inputs == "pixels":

            def logits(frames: FrameSet) -> Tensor:
                return frame_logits(self.classifier, frames, baseline=baseline, batch_size=self.batch_size)

            batches = FrameBatches(train, inputs=lambda rows: read_pixels(train, rows))
            return batches, lambda: self._score(sampled, logits(sampled), logits(validation))
        cached = [
            personal_features(
                frame_features(self.classifier, frames, batch_size=self.batch_size), frames, baseline=baseline
            )
            for frames in (train, validation)
        ]
        inputs = cached[0].cpu()
        batches = FrameBatches(train, inputs=lambda rows: inputs[torch.from_numpy(rows)])
        on_sample = cached[0][torch.from_numpy(sample).to(cached[0].device)]
        return batches, lambda: self._score(
            sampled, head_logits(self.classifier, on_sample), head_logits(self.classifier, cached[1])
        )

    def _score(self, sampled: FrameSet, train_logits: Tensor, validation_logits: Tensor) -> EpochScore:
        validation = self.sides.validation
        rows = validation.labelled
        scores = self.scheme.probabilities(validation_logits.cpu().numpy()[rows])
        predicted = self.scheme.predicted(scores)
        return EpochScore(
            train_loss=self._loss(sampled, train_logits),
            validation_loss=self._loss(validation, validation_logits),
            validation_balanced_accuracy=balanced_accuracy(validation.targets[rows], predicted=predicted),
        )

    def _loss(self, frames: FrameSet, logits: Tensor) -> float:
        weights = participant_weights(frames.participants, targets=frames.targets)
        targets, weighted = torch.from_numpy(frames.targets), torch.from_numpy(weights)
        return float(self.objective.mean(logits.cpu(), targets=targets, weights=weighted))

    def _say(self, line: str) -> None:
        if self.on_epoch is not None:
            self.on_epoch(line)

    def _report(self, row: dict[str, Any]) -> None:
        self._say(
            f"{self.built.display_name} epoch {row['epoch']} ({row['phase']}): train loss {row['train_loss']:.3f}, "
            f"validation loss {row['validation_loss']:.3f}, balanced accuracy "
            f"{row['validation_balanced_accuracy']:.3f}"
        )


def device_name(device: Device) -> str:
    """Return `cpu`, or the name of the GPU."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()
