"""One phase of training as a Lightning module, and what is measured after each of its epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from mien.models.backbones import PretrainedEncoder
from mien.models.classifier import Classifier, subtract_group_mean
from mien.training.activations import frozen_modules, open_features
from mien.training.augmentation import NUM_DRAWS, Strengths, vary_by
from mien.training.checkpoints import Progress, restore_moments
from mien.training.config import TrainConfig
from mien.training.devices import from_first, mean_over_ranks, share_of_batch
from mien.training.inference import set_mode
from mien.training.loaders import Batch, NetworkBaseline
from mien.training.mixup import Mixture
from mien.training.objective import Objective, score_name
from mien.training.rates import parameter_groups

PhaseName = Literal["head", "last", "all", "scratch"]
# Gradual unfreezing opens another quarter of the backbone at each epoch.
GRADUAL_EPOCHS = 4
# What random numbers of an epoch are for: each has its own.
DROPOUT, AUGMENT, MIXUP = range(3)


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: `head` (the backbone is frozen), `last` (all but its last blocks is), `all` (a pretrained network as a
            whole), or `scratch`.
        inputs: What batches hold: `pixels`; `features` of the frozen backbone with the baseline subtracted; or the
            `activations` that its last blocks are given.
        epochs: At most so many.
        rates: Learning rate of the encoder (None: frozen) and of the head.
        seed: Seed of the phase.
        num_open: The backbone's last blocks that are trained; None for all of it.
    """

    name: PhaseName
    inputs: Literal["pixels", "features", "activations"]
    epochs: int
    rates: tuple[float | None, float]
    seed: int
    num_open: int | None = None

    def frozen(self, classifier: Classifier) -> list[nn.Module]:
        """Return the parts of the encoder that are frozen throughout the phase.

        Raises:
            UserError: The encoder hasn't so many blocks.
        """
        if self.rates[0] is None:
            return [classifier.encoder]
        return [] if self.num_open is None else frozen_modules(classifier, num_open=self.num_open)

    def moving(self, classifier: Classifier) -> list[str]:
        """Return the names of the parameters and buffers that the phase may change."""
        kept = {id(value) for part in self.frozen(classifier) for value in (*part.parameters(), *part.buffers())}
        return [name for name, value in classifier.state_dict(keep_vars=True).items() if id(value) not in kept]


@dataclass(frozen=True)
class EpochScore:
    """What is measured after an epoch, in eval mode, with the same weights and the same loss on both sides."""

    train_loss: float
    validation_loss: float
    validation_score: float


class PhaseModule(lightning.LightningModule):
    """Trains a classifier through one phase; the classifier itself stays a plain module."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        phase: Phase,
        objective: Objective,
        config: TrainConfig,
        baseline: NetworkBaseline,
        fused: bool,
        num_rows: int = 0,
    ) -> None:
        """Wrap a classifier for one phase.

        Args:
            classifier: The network.
            phase: The phase.
            objective: The loss.
            config: Settings.
            baseline: The personal baseline.
            fused: Whether the optimiser runs as one kernel.
            num_rows: Number of training frames: in each epoch each has its own draw of the augmentation.
        """
        super().__init__()
        self.classifier = classifier
        self.phase = phase
        self.objective = objective
        self.config = config
        self.baseline = baseline
        self.fused = fused
        self.num_rows = num_rows
        self.strengths = Strengths(config.brightness, config.contrast, config.hue, config.flip)
        self.draws = torch.empty(NUM_DRAWS, 0)
        self.losses: list[Tensor] = []
        self._encode: Callable[..., Tensor] = self._features
        if config.compile and phase.inputs != "features":
            self._encode = torch.compile(self._features)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, and freeze what is frozen in it: no gradients, and eval mode (dropout, BatchNorm)."""
        self.losses = []
        epoch = self.current_epoch
        # Dropout differs between processes, as it does between the pictures of one.
        torch.manual_seed(epoch_seed(self.phase.seed, epoch, DROPOUT, self.global_rank))
        if self.config.augment and self.phase.inputs == "pixels":
            generator = torch.Generator().manual_seed(epoch_seed(self.phase.seed, epoch, AUGMENT))
            self.draws = torch.rand(NUM_DRAWS, self.num_rows, generator=generator, dtype=torch.float64)
        frozen = {id(part) for module in self.freeze(epoch) for part in module.modules()}
        for part in self.classifier.modules():
            set_mode(part, training=id(part) not in frozen)

    def freeze(self, epoch: int) -> list[nn.Module]:
        """Switch gradients on and off as an epoch (from 0) wants them; return the parts that are frozen."""
        encoder = self.classifier.encoder
        encoder.requires_grad_(self.phase.rates[0] is not None)
        frozen = self.phase.frozen(self.classifier)
        if self.phase.name != "all" or self.config.unfreeze != "gradual":
            for part in frozen:
                part.requires_grad_(False)
            return frozen
        assert isinstance(encoder, PretrainedEncoder)
        stages = encoder.stages()
        num_open = math.ceil(len(stages) * min(1.0, (epoch + 1) / GRADUAL_EPOCHS))
        frozen = stages[: len(stages) - num_open]
        for stage in frozen:
            stage.requires_grad_(False)
        return frozen

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch."""
        targets, weights = batch["targets"], batch["weights"]
        if self.config.mixup:
            seed = epoch_seed(self.phase.seed, self.current_epoch, MIXUP, batch_index)
            mixture = Mixture.draw(targets, alpha=self.config.mixup, seed=seed)
            logits = self._logits(batch, mixture=mixture)
            loss = self.objective.mixed(logits, mixture=mixture, targets=targets, weights=weights)
        else:
            loss = self.objective.mean(self._logits(batch, mixture=None), targets=targets, weights=weights)
        loss = loss * share_of_batch(targets)
        self.losses.append(loss.detach())
        return loss

    def _logits(self, batch: Batch, *, mixture: Mixture | None) -> Tensor:
        inputs = self._pixels(batch) if self.phase.inputs == "pixels" else batch["inputs"]
        groups = batch["recordings"] if self.baseline == "recording" else None
        if mixture is not None and groups is None:
            inputs, mixture = mixture.mix(inputs), None
        features = self._encode(inputs, groups=groups)
        if mixture is not None:
            features = mixture.mix(features)
        logits: Tensor = self.classifier.head(features)
        return logits

    def _pixels(self, batch: Batch) -> Tensor:
        inputs = batch["inputs"]
        if self.config.augment:
            inputs = vary_by(inputs, draws=self.draws[:, batch["rows"].cpu()], strengths=self.strengths)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return self.classifier.normalise(inputs).contiguous(memory_format=layout)

    def _features(self, inputs: Tensor, *, groups: Tensor | None) -> Tensor:
        if self.phase.inputs == "features":
            return inputs  # the baseline is subtracted already, over all frames of the recording
        if self.phase.inputs == "pixels":
            features: Tensor = self.classifier.encoder(inputs)
        else:
            features = open_features(self.classifier, inputs, num_open=self.phase.num_open or 0)
        return features if groups is None else subtract_group_mean(features, groups)

    def configure_optimizers(self) -> Any:
        """Return AdamW with the phase's rates, and the cosine schedule with warm restarts, stepped per epoch."""
        encoder_lr, head_lr = self.phase.rates
        groups = parameter_groups(self.classifier, encoder_lr=encoder_lr, head_lr=head_lr, config=self.config)
        optimizer = torch.optim.AdamW(groups, fused=self.fused)
        schedule = CosineAnnealingWarmRestarts(
            optimizer,
            T_0=self.config.restart_epochs,
            T_mult=self.config.restart_factor,
            eta_min=min(self.config.min_lr, *(group["lr"] for group in groups)),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def epoch_seed(seed: int, epoch: int, *purpose: int) -> int:
    """Derive a seed from a phase's: an epoch's random numbers don't depend on what ran before it.

    Args:
        seed: Seed of the phase.
        epoch: Number of the epoch in the phase, from 0.
        purpose: What the numbers are for (`DROPOUT`, `AUGMENT`, `MIXUP`), and which of several.
    """
    return int(np.random.SeedSequence([seed, epoch, *purpose]).generate_state(1)[0])


@dataclass
class Best:
    """The best epoch of all phases so far.

    Attributes:
        loss: Its validation loss.
        epoch: Its number, from 1; 0 before the first.
        weights: Its weights, on the CPU: those that a phase could have changed so far. What no phase changes (a frozen
            backbone can be hundreds of MB) isn't copied.
        names: Names of what the phase under way may change.
    """

    loss: float = math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    names: Sequence[str] = ()

    def begin(self, classifier: Classifier, *, names: Sequence[str]) -> None:
        """Keep what a phase is going to change, as it is at the phase's start."""
        self.names = names
        new = [name for name in names if name not in self.weights]
        self.weights = {**self.weights, **_copied(classifier, names=new)}

    def offer(self, classifier: Classifier, *, loss: float, epoch: int) -> bool:
        """Keep the weights where the loss is the lowest so far; say whether it was."""
        if not loss < self.loss:
            return False
        self.loss, self.epoch = loss, epoch
        self.weights = {**self.weights, **_copied(classifier, names=self.names)}
        return True

    def current(self, classifier: Classifier) -> dict[str, Tensor]:
        """Return the weights as they are now, of all that the phases so far could change."""
        return _copied(classifier, names=list(self.weights))

    def restore(self, classifier: Classifier) -> None:
        """Put the best weights back into the classifier."""
        unknown = classifier.load_state_dict(self.weights, strict=False).unexpected_keys
        assert not unknown, f"weights of another network: {unknown[:3]}"


def _copied(classifier: Classifier, *, names: Sequence[str]) -> dict[str, Tensor]:
    state = classifier.state_dict()
    return {name: state[name].detach().cpu().clone() for name in names}


class EpochMonitor(lightning.Callback):
    """After each epoch: measures, keeps the best weights, and stops the phase when nothing improves."""

    def __init__(
        self,
        phase: Phase,
        *,
        score: Callable[[], EpochScore],
        best: Best,
        history: list[dict[str, Any]],
        config: TrainConfig,
        on_epoch: Callable[[dict[str, Any]], None],
        resumed: Progress | None = None,
        checkpoint: Callable[[torch.optim.Optimizer, EpochMonitor], None] | None = None,
    ) -> None:
        """Watch over one phase.

        Args:
            phase: The phase.
            score: Measures after each epoch.
            best: The best epoch so far; it is kept up to date.
            history: A mapping per epoch; it grows.
            config: Settings.
            on_epoch: Called with the new mapping.
            resumed: Where the phase goes on; None where it starts.
            checkpoint: Called after each epoch, last of all.
        """
        self.phase = phase
        self.score = score
        self.best = best
        self.history = history
        self.config = config
        self.on_epoch = on_epoch
        self.resumed = resumed
        self.checkpoint = checkpoint
        self.lowest = math.inf if resumed is None else resumed.lowest
        self.waited = 0 if resumed is None else resumed.waited
        self.num_done = 0 if resumed is None else resumed.epochs
        self.finished = False
        self.started = 0.0
        self.lr = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's signature)
        """Bring optimiser and schedule to where the phase goes on."""
        if self.resumed is None:
            return
        restore_moments(trainer.optimizers[0], self.resumed.moments)
        for _ in range(self.resumed.epochs):
            trainer.lr_scheduler_configs[0].scheduler.step()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's signature)
        """Note the rate of this epoch, before the schedule moves on."""
        self.started = time.perf_counter()
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, remember, decide."""
        for part in pl_module.classifier.modules():
            set_mode(part, training=False)
        score = self.score()
        epoch = len(self.history) + 1
        self.best.offer(pl_module.classifier, loss=score.validation_loss, epoch=epoch)
        row = {
            "phase": self.phase.name,
            "epoch": epoch,
            "train_loss": score.train_loss,
            "running_loss": mean_over_ranks(torch.stack(pl_module.losses).mean()),
            "validation_loss": score.validation_loss,
            score_name(pl_module.objective.kind): score.validation_score,
            "lr": self.lr,
            "seconds": round(time.perf_counter() - self.started, 3),
        }
        self.history.append(row)
        self.on_epoch(row)
        improved = score.validation_loss < self.lowest - self.config.min_delta
        self.waited = 0 if improved else self.waited + 1
        self.lowest = min(self.lowest, score.validation_loss) if improved else self.lowest
        if self.waited >= self.config.patience or not math.isfinite(score.validation_loss):
            trainer.should_stop = True
        self.num_done += 1
        self.finished = bool(trainer.should_stop) or self.num_done >= self.phase.epochs
        if self.checkpoint is not None:
            self.checkpoint(trainer.optimizers[0], self)


def begin_after(trainer: Any, sampler: Any, *, num_epochs: int) -> None:
    """Let a phase begin as if so many epochs were done: Lightning counts them, and the sampler with it."""
    sampler.set_epoch(num_epochs)
    progress = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = num_epochs


def shared_score(score: Callable[[], EpochScore], *, device: str) -> EpochScore:
    """Measure in the first of several processes, for all."""
    numbers = from_first(lambda: astuple(score()), device=torch.device(device))
    return EpochScore(*numbers)
