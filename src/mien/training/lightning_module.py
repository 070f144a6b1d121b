"""One phase of training as a Lightning module, and what is measured after each of its epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's own documentation uses)
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from mien.core.labels import TargetKind
from mien.models.backbones import PretrainedEncoder
from mien.models.classifier import Classifier
from mien.runtime.material import UNLABELLED
from mien.training.augmentation import Strengths, augment
from mien.training.config import TrainConfig
from mien.training.loaders import Batch, NetworkBaseline

PhaseName = Literal["head", "all", "scratch"]
# Gradual unfreezing opens another quarter of the backbone at each epoch.
GRADUAL_EPOCHS = 4
NO_DECAY = ("class_token", "cls_token", "positions", "position_embeddings")


@dataclass(frozen=True)
class Objective:
    """The loss: cross entropy weighted by class, averaged over frames weighted by participant.

    Attributes:
        kind: Binary targets have one logit, multiclass ones a logit per class.
        class_weight: (K,) from training frames; 1 on average, so a know-nothing's loss is log K.
    """

    kind: TargetKind
    class_weight: Tensor

    def mean(self, logits: Tensor, *, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of logits (N, num_outputs) over the labelled ones of targets (N,); 0 where none is."""
        labelled = targets != UNLABELLED
        if not bool(labelled.any()):
            # Keeps the graph: the step goes through every weight and moves none.
            return logits.sum() * 0.0
        logits, targets, weights = logits[labelled].float(), targets[labelled], weights[labelled]
        if self.kind == "binary":
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), reduction="none")
        else:
            losses = F.cross_entropy(logits, targets, reduction="none")
        weighted = losses * self.class_weight.to(logits.device)[targets] * weights
        return weighted.sum() / len(targets)


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: `head` (the backbone is frozen), `all` (a pretrained network as a whole), or `scratch`.
        inputs: What batches hold: `pixels`, or `features` of the frozen backbone with the baseline subtracted.
        epochs: At most so many.
        rates: Learning rate of the encoder (None: frozen) and of the head.
        seed: Seed of the phase.
    """

    name: PhaseName
    inputs: Literal["pixels", "features"]
    epochs: int
    rates: tuple[float | None, float]
    seed: int


@dataclass(frozen=True)
class EpochScore:
    """What is measured after an epoch, in eval mode, with the same weights and the same loss on both sides."""

    train_loss: float
    validation_loss: float
    validation_balanced_accuracy: float


def balanced_accuracy(targets: NDArray[np.int64], *, predicted: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes that occur, over pooled frames: for learning curves, not for claims.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), predicted=np.array([0, 0, 1, 1]))
    0.8333333333333333
    """
    return float(np.mean([np.mean(predicted[targets == code] == code) for code in np.unique(targets)]))


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
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.phase = phase
        self.objective = objective
        self.config = config
        self.baseline = baseline
        self.fused = fused
        self.strengths = Strengths(config.brightness, config.contrast, config.hue, config.flip)
        self.generator = torch.Generator().manual_seed(phase.seed)
        self.losses: list[Tensor] = []
        self._network: Callable[..., Tensor] = classifier
        if config.compile and phase.inputs == "pixels":
            self._network = torch.compile(classifier)

    def on_train_epoch_start(self) -> None:
        """Freeze what is frozen in this epoch: no gradients, and eval mode (dropout, BatchNorm)."""
        self.losses = []
        self.classifier.train()
        for module in self._frozen(self.current_epoch):
            module.eval()

    def _frozen(self, epoch: int) -> list[nn.Module]:
        encoder = self.classifier.encoder
        encoder.requires_grad_(self.phase.rates[0] is not None)
        if self.phase.rates[0] is None:
            return [encoder]
        if self.phase.name != "all" or self.config.unfreeze == "all":
            return []
        assert isinstance(encoder, PretrainedEncoder)
        stages = encoder.stages()
        num_open = math.ceil(len(stages) * min(1.0, (epoch + 1) / GRADUAL_EPOCHS))
        frozen = stages[: len(stages) - num_open]
        for stage in frozen:
            stage.requires_grad_(False)
        return frozen

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:  # noqa: ARG002 (Lightning's signature)
        """Return the loss of one batch."""
        loss = self.objective.mean(self._logits(batch), targets=batch["targets"], weights=batch["weights"])
        self.losses.append(loss.detach())
        return loss

    def _logits(self, batch: Batch) -> Tensor:
        inputs, groups = batch["inputs"], batch["recordings"]
        if self.phase.inputs == "features":
            logits: Tensor = self.classifier.head(inputs)
            return logits
        if self.config.augment:
            inputs = augment(inputs, ids=batch["rows"], strengths=self.strengths, generator=self.generator).pixels
        pixels = self.classifier.normalise(inputs)
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        pixels = pixels.contiguous(memory_format=layout)
        return self._network(pixels, groups=groups if self.baseline == "recording" else None)

    def configure_optimizers(self) -> Any:
        """Return AdamW with the phase's rates, and the cosine schedule with warm restarts, stepped per epoch."""
        encoder_lr, head_lr = self.phase.rates
        groups = _parameter_groups(self.classifier.head, lr=head_lr, weight_decay=self.config.weight_decay)
        if encoder_lr is not None:
            groups += _parameter_groups(self.classifier.encoder, lr=encoder_lr, weight_decay=self.config.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=self.fused)
        schedule = CosineAnnealingWarmRestarts(
            optimizer,
            T_0=self.config.restart_epochs,
            T_mult=self.config.restart_factor,
            eta_min=min(self.config.min_lr, *(group["lr"] for group in groups)),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def _parameter_groups(module: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        is_plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in NO_DECAY
        (plain if is_plain else decayed).append(parameter)
    return [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]


@dataclass
class Best:
    """The best epoch of all phases so far; its weights lie in memory, on the CPU."""

    loss: float = math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, classifier: Classifier, *, loss: float, epoch: int) -> bool:
        """Keep the weights where the loss is the lowest so far; say whether it was."""
        if not loss < self.loss:
            return False
        self.loss, self.epoch = loss, epoch
        self.weights = {name: value.detach().cpu().clone() for name, value in classifier.state_dict().items()}
        return True


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
    ) -> None:
        self.phase = phase
        self.score = score
        self.best = best
        self.history = history
        self.config = config
        self.on_epoch = on_epoch
        self.lowest = math.inf
        self.waited = 0
        self.started = 0.0
        self.lr = 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 (Lightning's signature)
        """Note the rate of this epoch, before the schedule moves on."""
        self.started = time.perf_counter()
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, remember, decide."""
        pl_module.classifier.eval()
        score = self.score()
        epoch = len(self.history) + 1
        self.best.offer(pl_module.classifier, loss=score.validation_loss, epoch=epoch)
        row = {
            "phase": self.phase.name,
            "epoch": epoch,
            "train_loss": score.train_loss,
            "running_loss": float(torch.stack(pl_module.losses).mean()),
            "validation_loss": score.validation_loss,
            "validation_balanced_accuracy": score.validation_balanced_accuracy,
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
