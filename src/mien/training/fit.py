"""Fits a network: two phases for pretrained ones, one from scratch; the best weights on the inner validation stay."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.classifier import BuiltModel, Classifier
from mien.training.activations import Prefix, digest_state, open_activations, plain_features
from mien.training.checkpoints import Checkpoints, frames_digest
from mien.training.config import TrainConfig
from mien.training.inference import frame_features, frame_logits
from mien.training.loaders import FrameSet, NetworkBaseline, read_pixels
from mien.training.phases import PhasedFit, Sides, device_name
from mien.training.reproducible import quiet, reproducible
from mien.training.shared_fit import run_shared


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
        prefix: The part of the network that no phase changed; None where the last phase trained all of it.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    device: str
    batch_size: int
    accumulate: int
    precision: Literal["32", "bf16"]
    prefix: Prefix | None = None


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
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Fit a network; same seed and machine, same weights to the last bit (on a CPU), killed in between or not.

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
        checkpoints: Where the fit's state is kept after an epoch, and gone on from where it is there. Who has stored
            the result removes it. None keeps nothing.

    Raises:
        UserError: No labelled frames on one side, a single class, memory that isn't enough for one picture, or a loss
            that isn't a number.
    """
    _check_frames(built, train=train, validation=validation, target=scheme.target)
    sides = Sides.of(train, validation=validation, baseline=baseline, seed=seed)
    if checkpoints is not None:
        checkpoints = checkpoints.of(_identity(built, sides=sides, scheme=scheme, config=config, seed=seed))
    fit = PhasedFit(
        built, sides=sides, scheme=scheme, config=config, seed=seed, on_epoch=on_epoch, checkpoints=checkpoints
    )
    if config.devices > 1:
        run_shared(fit)
    else:
        with reproducible(fit.device), quiet():
            fit.run()
    return FitResult(
        history=fit.history,
        best_epoch=fit.best.epoch,
        seconds=round(time.perf_counter() - fit.started, 3),
        device=device_name(fit.device),
        batch_size=fit.batch_size,
        accumulate=fit.accumulate,
        precision=fit.precision,
        prefix=fit.prefix,
    )


def _identity(
    built: BuiltModel, *, sides: Sides, scheme: LabelScheme, config: TrainConfig, seed: int
) -> dict[str, Any]:
    """Return what decides the weights of a fit, beside the pixels: a checkpoint of the same may be gone on from."""
    return {
        "model": built.name,
        "initial_weights": digest_state(built.classifier),
        "train": frames_digest(sides.train),
        "validation": frames_digest(sides.validation),
        "baseline": sides.baseline,
        "scheme": dataclasses.asdict(scheme),
        "config": dataclasses.asdict(config),
        "seed": seed,
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "torch": torch.__version__,
        "mien": version("mien"),
    }


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


def predict_stored_features(
    prefix: Prefix, frames: FrameSet, *, batch_size: int, limit_gb: float, say: Callable[[str], None]
) -> NDArray[np.float32]:
    """Return the same features from the stored activations of the frozen part (`open_activations`)."""
    activations = open_activations(prefix, frames, limit_gb=limit_gb, say=say)
    features = plain_features(prefix, activations, rows=np.arange(len(frames)), batch_size=batch_size)
    return np.asarray(features.cpu().numpy())


def predict_logits(
    classifier: Classifier, frames: FrameSet, *, baseline: NetworkBaseline, batch_size: int
) -> NDArray[np.float32]:
    """Return logits (N, num_outputs) of all frames; the baseline is the mean over all given frames of a recording."""
    return np.asarray(frame_logits(classifier, frames, baseline=baseline, batch_size=batch_size).cpu().numpy())
