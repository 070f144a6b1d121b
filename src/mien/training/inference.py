"""A network on frames, in eval mode and float32: features, personal baseline, head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from mien.models.classifier import Classifier, subtract_group_mean
from mien.training.loaders import FrameSet, NetworkBaseline, read_pixels


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts in eval mode without gradients, and back into the mode that each was in."""
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        set_mode(part, training=False)
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            set_mode(part, training=mode)


def set_mode(part: nn.Module, *, training: bool) -> None:
    """Put one module, without its parts, in training or eval mode.

    Setting an attribute of a module takes microseconds, which add up over the hundreds of a backbone: only what changes
    is set.
    """
    if part.training != training:
        part.training = training


def frame_features(classifier: Classifier, frames: FrameSet, *, batch_size: int) -> Tensor:
    """Return the encoder's features (N, D) of all frames, on the classifier's device; no baseline is subtracted."""
    device = next(classifier.parameters()).device
    parts = []
    with evaluating(classifier):
        for start in range(0, len(frames), batch_size):
            rows = np.arange(start, min(start + batch_size, len(frames)))
            pixels = read_pixels(frames, rows).to(device)
            parts.append(classifier.encoder(classifier.normalise(pixels)).float())
    return torch.cat(parts)


def personal_features(features: Tensor, frames: FrameSet, *, baseline: NetworkBaseline) -> Tensor:
    """Subtract from features (N, D) the mean over all given frames of their recording, where asked for."""
    if baseline == "none":
        return features
    return subtract_group_mean(features, torch.from_numpy(frames.recordings).to(features.device))


def head_logits(classifier: Classifier, features: Tensor) -> Tensor:
    """Return the head's logits (N, num_outputs) of features (N, D)."""
    with evaluating(classifier.head):
        logits: Tensor = classifier.head(features)
    return logits


def frame_logits(classifier: Classifier, frames: FrameSet, *, baseline: NetworkBaseline, batch_size: int) -> Tensor:
    """Return logits (N, num_outputs) of all frames, on the classifier's device."""
    features = frame_features(classifier, frames, batch_size=batch_size)
    return head_logits(classifier, personal_features(features, frames, baseline=baseline))
