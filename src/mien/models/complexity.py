"""What a network costs: parameters, size, training memory and floating-point operations."""

from __future__ import annotations

import copy
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mien.models.classifier import Classifier

BYTES_PER_MB = 1024 * 1024
BYTES_FLOAT32 = 4
# The weights themselves, their gradient, and Adam's two moments.
COPIES_TRAINABLE = 4


class Complexity(TypedDict):
    """Costs of one network: MB are 2**20 bytes, in float32; `memory_mb` of a training step, `flops` per picture."""

    parameters: int
    trainable_parameters: int
    frozen_parameters: int
    size_mb: float
    memory_mb: float
    flops: int


def complexity(classifier: Classifier, *, image_size: int, batch_size: int) -> Complexity:
    """Measure a network on torch's meta device: nothing is computed, and the network isn't touched.

    Args:
        classifier: The network, with the parts frozen that will be frozen.
        image_size: Side of the pictures, px.
        batch_size: Pictures per training step.

    Returns:
        Parameter counts; size of weights and buffers; an estimate of the memory of one training step (weights,
        gradients, Adam's moments, and what autograd keeps for the backward pass); and operations of one forward pass
        (a multiply-add counts as two).
    """
    total = sum(p.numel() for p in classifier.parameters())
    trainable = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in classifier.buffers())
    hollow = _on_meta(classifier)
    pixels = torch.empty(1, 3, image_size, image_size, device="meta")
    activations = _saved_bytes(hollow, pixels) * batch_size
    weights = total * BYTES_FLOAT32 + buffers
    training = weights + trainable * BYTES_FLOAT32 * (COPIES_TRAINABLE - 1) + activations
    return Complexity(
        parameters=total,
        trainable_parameters=trainable,
        frozen_parameters=total - trainable,
        size_mb=round(weights / BYTES_PER_MB, 3),
        memory_mb=round(training / BYTES_PER_MB, 1),
        flops=_flops(hollow, pixels),
    )


def _on_meta(classifier: Classifier) -> Classifier:
    """Copy the structure, with every tensor replaced by one without storage."""
    hollow: dict[int, object] = {}
    for parameter in classifier.parameters():
        empty = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        hollow[id(parameter)] = empty
    for buffer in classifier.buffers():
        hollow[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(classifier, memo=hollow)


def _saved_bytes(classifier: Classifier, pixels: Tensor) -> int:
    own = {id(parameter) for parameter in classifier.parameters()}
    # Kept alive until the end, so that an id is never given to a second tensor.
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        root = tensor if tensor._base is None else tensor._base
        if id(root) not in own:
            saved[id(root)] = root
        return tensor

    classifier.train()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = classifier(pixels)
    del output
    return sum(tensor.numel() * tensor.element_size() for tensor in saved.values())


def _flops(classifier: Classifier, pixels: Tensor) -> int:
    classifier.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        classifier(pixels)
    return int(counter.get_total_flops())
