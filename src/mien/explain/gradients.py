"""Maps from inside a network: attention, rollout, gradient x attention, Grad-CAM and HiResCAM.

All maps come on the network's own grid (N, g, g), the first row at the top. Gradients are those of the answer's score,
through features minus the personal baseline, which is a constant.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.explain.frames import ExplainedFrame, answers_of, directions
from mien.explain.subjects import NetworkSubject
from mien.models.maps import MapParts

# Attention of a batch is kept with its gradients: at ViT-B/16 180 MB for 8 pictures.
BATCH = 8


def attention_maps(
    subject: NetworkSubject, frames: Sequence[ExplainedFrame], *, layer: int | None = None
) -> NDArray[np.float64]:
    """Return the mean over heads of the class token's attention to each patch.

    Args:
        subject: A transformer.
        frames: What it looks at.
        layer: Which layer, from 0; negative from the end; None for the last one.

    Raises:
        UserError: No such layer.
    """
    parts = _parts(subject)
    count = len(parts.attentions)
    number = -1 if layer is None else layer
    if not -count <= number < count:
        raise UserError(f"Layer {layer} isn't there: the network has {count}, 0 to {count - 1} (or -1 for the last).")

    def make(batch: Sequence[ExplainedFrame]) -> Tensor:
        with _recorded(parts) as weights, torch.no_grad():
            subject.classifier.encoder(subject.normalised(_pixels(batch)))
        return weights[number % count].mean(dim=1)[:, 0, 1:]

    return _in_batches(frames, make)


def rollout_maps(subject: NetworkSubject, frames: Sequence[ExplainedFrame]) -> NDArray[np.float64]:
    """Return attention rolled out through all layers (Abnar & Zuidema 2020, arXiv:2005.00928).

    Each layer's mean over heads is averaged with the identity for its residual; the product's row of the class token
    says which patches it is mixed of.
    """
    parts = _parts(subject)

    def make(batch: Sequence[ExplainedFrame]) -> Tensor:
        with _recorded(parts) as weights, torch.no_grad():
            subject.classifier.encoder(subject.normalised(_pixels(batch)))
        mixed = torch.eye(weights[0].shape[-1]).expand(len(batch), -1, -1)
        for attention in weights:
            mixed = (0.5 * attention.mean(dim=1) + 0.5 * torch.eye(attention.shape[-1])) @ mixed
        return mixed[:, 0, 1:]

    return _in_batches(frames, make)


def gradient_attention_maps(
    subject: NetworkSubject, frames: Sequence[ExplainedFrame], *, scheme: LabelScheme
) -> NDArray[np.float64]:
    """Return gradient x attention, rolled out (Chefer, Gur & Wolf 2021, ICCV, arXiv:2103.15679, self-attention rule).

    Per layer the mean over heads of relu(gradient * attention) is added to what the tokens are mixed of so far:
    R = R + A R, from the identity.
    """
    parts = _parts(subject)

    def make(batch: Sequence[ExplainedFrame]) -> Tensor:
        with _recorded(parts) as weights, torch.enable_grad():
            score = _score(subject, batch, scheme=scheme)
            gradients = torch.autograd.grad(score, weights)
        length = weights[0].shape[-1]
        relevance = torch.eye(length).expand(len(batch), -1, -1)
        for attention, gradient in zip(weights, gradients, strict=True):
            relevance = relevance + (gradient * attention.detach()).relu().mean(dim=1) @ relevance
        return relevance[:, 0, 1:]

    return _in_batches(frames, make)


def grad_cam_maps(
    subject: NetworkSubject, frames: Sequence[ExplainedFrame], *, scheme: LabelScheme
) -> NDArray[np.float64]:
    """Return Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): relu of the maps weighed by their mean gradients."""
    return _cam(subject, frames, scheme=scheme, weigh=lambda gradient: gradient.mean(dim=(2, 3), keepdim=True))


def hires_cam_maps(
    subject: NetworkSubject, frames: Sequence[ExplainedFrame], *, scheme: LabelScheme
) -> NDArray[np.float64]:
    """Return HiResCAM (Draelos & Carin 2020, arXiv:2011.08891): relu of the maps times their gradients, place by place.

    A network whose head weighs each place differently (`improved_cnn` flattens a 7 x 7 grid) has gradients that differ
    from place to place; Grad-CAM averages that away.
    """
    return _cam(subject, frames, scheme=scheme, weigh=lambda gradient: gradient)


def _cam(
    subject: NetworkSubject,
    frames: Sequence[ExplainedFrame],
    *,
    scheme: LabelScheme,
    weigh: Callable[[Tensor], Tensor],
) -> NDArray[np.float64]:
    parts = _parts(subject)

    def make(batch: Sequence[ExplainedFrame]) -> Tensor:
        kept: list[Tensor] = []
        handle = parts.cam_layer.register_forward_hook(lambda _module, _args, output: kept.append(output))
        try:
            with torch.enable_grad():
                score = _score(subject, batch, scheme=scheme)
                (gradient,) = torch.autograd.grad(score, kept)
        finally:
            handle.remove()
        values = kept[0].detach()
        if parts.has_tokens:
            values, gradient = _token_maps(values), _token_maps(gradient)
        return (weigh(gradient) * values).sum(dim=1).relu()

    return _in_batches(frames, make)


def _token_maps(tokens: Tensor) -> Tensor:
    """Turn tokens (N, 1 + g * g, C) into maps (N, C, g, g), without the class token."""
    grid = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, grid, grid)


def _score(subject: NetworkSubject, batch: Sequence[ExplainedFrame], *, scheme: LabelScheme) -> Tensor:
    """Return the sum of the answers' scores; pictures don't mix, so its gradient is each picture's own."""
    pixels = subject.normalised(_pixels(batch)).requires_grad_()
    features = subject.classifier.encoder(pixels)
    reference = torch.from_numpy(np.stack([frame.reference for frame in batch]).astype(np.float32))
    logits = subject.classifier.head(features - reference)
    chosen = torch.from_numpy(directions(answers_of(batch), scheme=scheme).astype(np.float32))
    score: Tensor = (logits * chosen).sum()
    return score


def _pixels(batch: Sequence[ExplainedFrame]) -> NDArray[np.uint8]:
    return np.stack([frame.pixels for frame in batch])


def _in_batches(
    frames: Sequence[ExplainedFrame], make: Callable[[Sequence[ExplainedFrame]], Tensor]
) -> NDArray[np.float64]:
    parts = []
    for start in range(0, len(frames), BATCH):
        values = make(frames[start : start + BATCH]).detach()
        if values.ndim == 2:
            grid = math.isqrt(values.shape[1])
            values = values.reshape(len(values), grid, grid)
        parts.append(values.numpy().astype(np.float64))
    return np.concatenate(parts)


@contextlib.contextmanager
def _recorded(parts: MapParts) -> Iterator[list[Tensor]]:
    """Collect each layer's attention (N, heads, T, T) as it is used, so that gradients reach it."""
    weights: list[Tensor] = []
    read = parts.read_attention
    assert read is not None, "a network with attention says how it is read"

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        given, attention = read(module, args, output)
        weights.append(attention)
        return given

    handles = [module.register_forward_hook(keep) for module in parts.attentions]
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


def _parts(subject: NetworkSubject) -> MapParts:
    assert subject.parts is not None, "`family_of` allows such a network occlusion only"
    return subject.parts
