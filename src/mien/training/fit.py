"""Fits a network: two phases for pretrained ones, one from scratch; the best weights on the inner validation stay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.classifier import BuiltModel, Classifier
from mien.training.config import TrainConfig
from mien.training.inference import frame_features, frame_logits
from mien.training.loaders import FrameSet, NetworkBaseline, read_pixels
from mien.training.phases import PhasedFit, Sides, device_name
from mien.training.reproducible import quiet, reproducible


@dataclass(frozen=True)
class FitResult:
    """What a fit reports; the classifier itself is left with its best weights, in eval mode, on the CPU.

    Attributes:
        history: One mapping per epoch of all phases: phase, epoch (from 1), train_loss, running_loss, validation_loss,
            validation_balanced_accuracy, lr, seconds. `train_loss` is measured like `validation_loss`, at the end of
            the epoch, on as many training frames; `running_loss` is the mean over the epoch's steps, with dropout
            and augmentation.
        best_epoch: The epoch whose weights were kept.
        seconds: Duration.
        device: `cpu`, or the name of the GPU.
        batch_size: Pictures per batch, after any halving.
        accumulate: Batches per optimiser step in the last phase.
        precision: `32` or `bf16`.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    device: str
    batch_size: int
    accumulate: int
    precision: Literal["32", "bf16"]


def fit_network(
    built: BuiltModel,
    *,
    train: FrameSet,
    validation: FrameSet,
    scheme: LabelScheme,
    config: TrainConfig,
    baseline: NetworkBaseline,
    seed: int,
    on_epoch: Callable[[str], None] | None = None,
) -> FitResult:
    """Fit a network; same seed and machine, same weights to the last bit (on a CPU).

    Args:
        built: The network; it is trained in place.
        train: Frames of the training participants. With a personal baseline they include those without a label.
        validation: Frames of the inner validation participants.
        scheme: The target.
        config: Settings.
        baseline: `recording` subtracts the recording's mean feature: over the recording's frames of the batch in
            training, over all its frames in evaluation.
        seed: Seed of batches, augmentation and dropout; the initial weights came with `built`.
        on_epoch: Called with one line after each epoch.

    Raises:
        UserError: No labelled frames on one side, a single class, memory that isn't enough for one picture, or a loss
            that isn't a number.
    """
    _check_frames(built, train=train, validation=validation, target=scheme.target)
    started = time.perf_counter()
    sides = Sides.of(train, validation=validation, baseline=baseline, seed=seed)
    fit = PhasedFit(built, sides=sides, scheme=scheme, config=config, seed=seed, on_epoch=on_epoch)
    with reproducible(fit.device), quiet():
        fit.run()
    return FitResult(
        history=fit.history,
        best_epoch=fit.best.epoch,
        seconds=round(time.perf_counter() - started, 3),
        device=device_name(fit.device),
        batch_size=fit.batch_size,
        accumulate=fit.accumulate,
        precision=fit.precision,
    )


def _check_frames(built: BuiltModel, *, train: FrameSet, validation: FrameSet, target: str) -> None:
    for name, frames in (("training", train), ("validation", validation)):
        if len(frames.labelled) == 0:
            raise UserError(f"No labelled {name} frames for {target!r}; use fewer folds or more participants.")
        size_px = read_pixels(frames, frames.labelled[:1]).shape[-1]
        if size_px != built.image_size:
            raise UserError(
                f"{built.name} was built for pictures of {built.image_size} px, but the {name} frames have {size_px} "
                "px; give both the same image_size."
            )


def predict_features(classifier: Classifier, frames: FrameSet, *, batch_size: int) -> NDArray[np.float32]:
    """Return the encoder's features (N, D) of all frames, in eval mode and float32; no baseline is subtracted."""
    return np.asarray(frame_features(classifier, frames, batch_size=batch_size).cpu().numpy())


def predict_logits(
    classifier: Classifier, frames: FrameSet, *, baseline: NetworkBaseline, batch_size: int
) -> NDArray[np.float32]:
    """Return logits (N, num_outputs) of all frames; the baseline is the mean over all given frames of a recording."""
    return np.asarray(frame_logits(classifier, frames, baseline=baseline, batch_size=batch_size).cpu().numpy())
