"""The phases of one fit: what is frozen when, the batches, and what happens when memory runs out."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.classifier import BuiltModel, Classifier, Recomputing, scale_dropout
from mien.models.registry import MODELS
from mien.training.activations import Activations, Prefix, Views, open_activations, plain_features
from mien.training.augmentation import Strengths
from mien.training.balanced import BalancedBatches, BalancedRecordingBatches
from mien.training.checkpoints import Checkpoints, Progress, moments_of
from mien.training.config import TrainConfig, resolve_precision
from mien.training.devices import DealtBatches, num_ranks, rank, sharing
from mien.training.inference import frame_logits, head_logits, personal_features
from mien.training.lightning_module import (
    Best,
    EpochMonitor,
    EpochScore,
    Phase,
    PhaseModule,
    begin_after,
    shared_score,
)
from mien.training.loaders import (
    EpochBatches,
    FrameBatches,
    FrameSet,
    NetworkBaseline,
    RecordingBatches,
    Rows,
    ShuffledBatches,
    make_loader,
    participant_weights,
    read_pixels,
)
from mien.training.objective import Objective, epoch_score, score_text
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
        views: In which views training pictures are seen where the backbone's frozen part is computed once.
        resumed: Where its checkpoint says that it goes on; None where it started anew.
        prefix: What the whole fit leaves frozen; None where phase 2 trains the whole network.
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
        checkpoints: Checkpoints | None = None,
        raise_out_of_memory: bool = False,
    ) -> None:
        self.built = built
        self.classifier = built.classifier
        self.sides = sides
        self.scheme = scheme
        self.config = config
        self.seed = seed
        self.on_epoch = on_epoch
        self.checkpoints = checkpoints
        # One of several processes can't halve its batches alone.
        self.raise_out_of_memory = raise_out_of_memory
        self.resumed: Progress | None = None
        self.started = time.perf_counter()
        self.device: Device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = resolve_precision(config.precision, device=self.device)
        self.batch_size = config.batch_size or MODELS[built.name].batch_size
        self.accumulate = 1
        self.history: list[dict[str, Any]] = []
        self.best = Best()
        strengths = Strengths(config.brightness, config.contrast, config.hue, config.flip)
        self.views = Views(config.views if config.augment else 0, strengths)
        self.prefix: Prefix | None = None
        self.objective = Objective.of(sides.train, scheme=scheme)

    def run(self) -> None:
        """Run all phases; the classifier is left with its best weights, in eval mode, on the CPU."""
        self._prepare_network()
        self._resume()
        for number, phase in enumerate(self._phases()):
            if self.resumed is None or number > self.resumed.phase:
                self._run_phase(number, phase, resumed=None)
            elif number == self.resumed.phase and not self.resumed.finished:
                self._run_phase(number, phase, resumed=self.resumed)
            elif phase.num_open == self.config.num_open and phase.inputs != "pixels":
                self.prefix = Prefix.of(self.classifier, num_open=phase.num_open or 0)
            if self.best.epoch == 0:
                raise UserError(f"{self.built.name}: the validation loss is not a number; lower the learning rates.")
            self.best.restore(self.classifier)
        self.classifier.requires_grad_(True).cpu().eval()
        # Features of any kind show whether the head says the same in another unit.
        self.objective.fold_into(
            self.classifier.head, examples=[torch.linspace(-1, 1, 4 * self.built.feature_dim).reshape(4, -1)]
        )
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
        rates = (None, config.head_lr_phase1)
        head = Phase("head", inputs=inputs, epochs=config.head_epochs, rates=rates, seed=seeds[0], num_open=0)
        second = Phase(
            "all" if config.num_open is None else "last",
            inputs="pixels" if config.num_open is None else "activations",
            epochs=config.epochs,
            rates=(config.backbone_lr, config.head_lr),
            seed=seeds[1],
            num_open=config.num_open,
        )
        if config.num_open == 0:
            return [head]
        second.frozen(self.classifier)  # more blocks than there are: said before anything is trained
        return [head, second] if config.head_epochs else [second]

    def _resume(self) -> None:
        """Bring the fit to where its checkpoint is; without one it starts."""
        progress = self.checkpoints.read(say=self._say) if self.checkpoints is not None else None
        if progress is None:
            return
        self._say(f"{self.built.display_name}: going on after epoch {len(progress.history)}")
        self.resumed = progress
        self.started -= progress.seconds
        self.batch_size = progress.batch_size
        self.history += progress.history
        self.best = Best(loss=progress.best_loss, epoch=progress.best_epoch, weights=dict(progress.best))

    def _save(self, number: int, optimizer: torch.optim.Optimizer, monitor: EpochMonitor) -> None:
        if self.checkpoints is None or not self.checkpoints.due or rank() > 0:
            return
        progress = Progress(
            phase=number,
            epochs=monitor.num_done,
            finished=monitor.finished,
            batch_size=self.batch_size,
            seconds=time.perf_counter() - self.started,
            lowest=monitor.lowest,
            waited=monitor.waited,
            best_loss=self.best.loss,
            best_epoch=self.best.epoch,
            history=self.history,
            weights=self.best.current(self.classifier),
            best=self.best.weights,
            moments=moments_of(optimizer),
        )
        self.checkpoints.write(progress)

    def _run_phase(self, number: int, phase: Phase, *, resumed: Progress | None) -> None:
        """Run one phase; where memory runs out, run it again from its start with half the batch.

        A phase that goes on from a checkpoint is run again from there.
        """
        self.best.begin(self.classifier, names=phase.moving(self.classifier))
        best, num_done = copy.copy(self.best), len(self.history)
        while not self._fits_in_memory(number, phase, resumed=resumed):
            if self.batch_size == 1:
                raise UserError(
                    f"{self.built.name} at {self.built.image_size} px doesn't fit into memory with one picture per "
                    "batch; use a smaller image_size or gradient_checkpointing."
                )
            self.batch_size //= 2
            self._say(f"{self.built.name}: out of memory; going on with batches of {self.batch_size}")
            # The phase began with the best weights.
            best.restore(self.classifier)
            if self.checkpoints is not None and resumed is None:
                self.checkpoints.remove()
            self.best = copy.copy(best)
            del self.history[num_done:]

    def _fits_in_memory(self, number: int, phase: Phase, *, resumed: Progress | None) -> bool:
        try:
            self._train(number, phase, resumed=resumed)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
                raise
            if self.raise_out_of_memory:
                raise
            return False
        return True

    def _train(self, number: int, phase: Phase, *, resumed: Progress | None) -> None:
        if resumed is not None:
            self.classifier.load_state_dict(resumed.weights, strict=False)
        self.classifier.to(self.device)
        batches, score = self._batches(phase)
        sampler = self._sampler(phase)
        self.accumulate = min(self.config.accumulate, max(1, len(sampler) // MIN_STEPS_PER_EPOCH))  # type: ignore[arg-type]
        module = PhaseModule(
            # Lightning walks through all modules several times per epoch: it needn't know those that aren't run.
            Classifier(nn.Identity(), self.classifier.head) if phase.inputs == "features" else self.classifier,
            phase=phase,
            objective=self.objective,
            config=self.config,
            baseline=self.sides.baseline,
            # Lightning can't clip gradients for a fused optimiser in mixed precision.
            fused=self.precision == "32",
            num_rows=len(self.sides.train),
        )
        module.freeze(0)  # several processes agree on what has gradients before the first epoch
        monitor = EpochMonitor(
            phase,
            score=lambda: shared_score(score, device=self.device),
            best=self.best,
            history=self.history,
            config=self.config,
            on_epoch=self._report,
            resumed=resumed,
            checkpoint=functools.partial(self._save, number),
        )
        num_workers = self.config.num_workers if phase.inputs == "pixels" else 0
        trainer = self._trainer(phase, monitor)
        if resumed is not None:
            begin_after(trainer, sampler, num_epochs=resumed.epochs)
        trainer.fit(module, make_loader(batches, sampler=sampler, num_workers=num_workers))

    def _trainer(self, phase: Phase, monitor: EpochMonitor) -> Any:
        return lightning.Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            **sharing(self.device),
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
        train, config = self.sides.train, self.config
        grouped = self.sides.baseline == "recording" and phase.inputs != "features"
        balanced = config.sampling == "participants"
        sampler: EpochBatches
        if grouped:
            kind = BalancedRecordingBatches if balanced else RecordingBatches
            per_recording = config.frames_per_recording
            sampler = kind(train, batch_size=self.batch_size, frames_per_recording=per_recording, seed=phase.seed)
        elif balanced:
            sampler = BalancedBatches(train, batch_size=self.batch_size, seed=phase.seed)
        else:
            sampler = ShuffledBatches(train.labelled, batch_size=self.batch_size, seed=phase.seed)
        if num_ranks() == 1:
            return sampler
        recordings = train.recordings if grouped else None
        return DealtBatches(sampler, recordings=recordings, rank=rank(), num_ranks=num_ranks())

    def _batches(self, phase: Phase) -> tuple[FrameBatches, Callable[[], EpochScore]]:
        """Return the training batches of a phase, and the function that measures after each epoch."""
        train, validation, sample = self.sides.train, self.sides.validation, self.sides.sample
        baseline = self.sides.baseline
        sampled = train.subset(sample)
        if phase.inputs == "pixels":

            def logits(frames: FrameSet) -> Tensor:
                return frame_logits(self.classifier, frames, baseline=baseline, batch_size=self.batch_size)

            batches = FrameBatches(train, balanced=self.balanced, inputs=lambda rows: read_pixels(train, rows))
            return batches, lambda: self._score(sampled, logits(sampled), logits(validation))
        prefix = Prefix.of(self.classifier, num_open=phase.num_open or 0)
        if phase.num_open == self.config.num_open:
            self.prefix = prefix
        return self._cached_features(phase, prefix) if phase.inputs == "features" else self._cached(phase, prefix)

    def _cached_features(self, phase: Phase, prefix: Prefix) -> tuple[FrameBatches, Callable[[], EpochScore]]:
        """Return the same for the head on features: they are small, so that all views lie in memory."""
        sides = self.sides
        on_train, on_validation = self._activations(prefix)
        rows = np.arange(len(sides.train))
        views = torch.stack(
            [
                personal_features(on_train.read(rows, np.full(len(rows), view)), sides.train, baseline=sides.baseline)
                for view in range(1 + self.views.num)
            ]
        )
        plain = personal_features(
            on_validation.plain(np.arange(len(sides.validation))), sides.validation, baseline=sides.baseline
        ).to(self.device)
        on_sample, sampled = views[0, torch.from_numpy(sides.sample)].to(self.device), sides.train.subset(sides.sample)

        def inputs(rows: Rows) -> Tensor:
            return views[torch.from_numpy(self._seen_as(phase, rows)), torch.from_numpy(rows)]

        return FrameBatches(sides.train, balanced=self.balanced, inputs=inputs), lambda: self._score(
            sampled, head_logits(self.classifier, on_sample), head_logits(self.classifier, plain)
        )

    def _cached(self, phase: Phase, prefix: Prefix) -> tuple[FrameBatches, Callable[[], EpochScore]]:
        """Return the same for the last blocks on what they are given."""
        sides = self.sides
        on_train, on_validation = self._activations(prefix)
        sampled = sides.train.subset(sides.sample)

        def logits(activations: Activations, rows: Rows, frames: FrameSet) -> Tensor:
            features = plain_features(prefix, activations, rows=rows, batch_size=self.batch_size)
            return head_logits(self.classifier, personal_features(features, frames, baseline=sides.baseline))

        def score() -> EpochScore:
            return self._score(
                sampled,
                logits(on_train, sides.sample, sampled),
                logits(on_validation, np.arange(len(sides.validation)), sides.validation),
            )

        return FrameBatches(
            sides.train, balanced=self.balanced, inputs=lambda rows: on_train.read(rows, self._seen_as(phase, rows))
        ), score

    @property
    def balanced(self) -> bool:
        """Whether participants come equally often, so that nobody is weighted."""
        return self.config.sampling == "participants"

    def _activations(self, prefix: Prefix) -> tuple[Activations, Activations]:
        limit_gb = self.config.activations_gb
        on_train = open_activations(prefix, self.sides.train, views=self.views, limit_gb=limit_gb, say=self._say)
        return on_train, open_activations(prefix, self.sides.validation, limit_gb=limit_gb, say=self._say)

    def _seen_as(self, phase: Phase, rows: Rows) -> Rows:
        done = sum(row["phase"] == phase.name for row in self.history)
        return self.views.of_epoch(rows, epoch=done)

    def _score(self, sampled: FrameSet, train_logits: Tensor, validation_logits: Tensor) -> EpochScore:
        validation = self.sides.validation
        return EpochScore(
            train_loss=self._loss(sampled, train_logits),
            validation_loss=self._loss(validation, validation_logits),
            validation_score=epoch_score(
                validation_logits.cpu().numpy(), targets=self.objective.scaled(validation.targets), scheme=self.scheme
            ),
        )

    def _loss(self, frames: FrameSet, logits: Tensor) -> float:
        weights = participant_weights(frames.participants, targets=frames.targets)
        targets, weighted = torch.from_numpy(frames.targets), torch.from_numpy(weights)
        return float(self.objective.mean(logits.cpu(), targets=targets, weights=weighted))

    def _say(self, line: str) -> None:
        if self.on_epoch is not None and rank() == 0:
            self.on_epoch(line)

    def _report(self, row: dict[str, Any]) -> None:
        self._say(
            f"{self.built.display_name} epoch {row['epoch']} ({row['phase']}): "
            + score_text(row, kind=self.scheme.kind)
        )


def device_name(device: Device) -> str:
    """Return `cpu`, or the name of the GPU."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()
