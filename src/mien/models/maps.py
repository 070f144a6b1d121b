"""Where the maps of a network are: what a model declares of itself, so that `mien explain` can read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

ReadAttention = Callable[[nn.Module, tuple[Any, ...], Any], tuple[Any, Tensor]]
"""From an attention module, what it was given and what it gave, to what it shall give instead and the weights
(N, heads, T, T) that this was mixed by: gradients of the answer then reach them."""


@dataclass(frozen=True)
class MapParts:
    """Where a network's maps are.

    Attributes:
        cam_layer: The module whose output Grad-CAM weighs.
        has_tokens: Whether that output is tokens (N, 1 + g * g, C), the class token first, rather than maps
            (N, C, g, g).
        attentions: The attention modules from the pixels on; none in a convolutional network.
        read_attention: Reads the weights of one of them; None where there are none.
    """

    cam_layer: nn.Module
    has_tokens: bool = False
    attentions: tuple[nn.Module, ...] = ()
    read_attention: ReadAttention | None = None


FindMaps = Callable[[nn.Module], MapParts]
"""From a model's encoder to its parts; an entry of the registry that has none can be occluded only."""
