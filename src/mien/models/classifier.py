"""What every network is: an encoder, the personal baseline on its features, and a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mien.core.errors import UserError
from mien.models.maps import FindMaps

Triple = tuple[float, float, float]

RANDOM_INIT = "random init"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def subtract_group_mean(features: Tensor, groups: Tensor) -> Tensor:
    """Subtract from each row the mean of the rows of its group: the personal baseline, differentiable.

    Args:
        features: (N, D).
        groups: (N,) int64, the recording that each row comes from; any non-negative numbers.

    Returns:
        (N, D), whose mean over each group is 0.

    >>> subtract_group_mean(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([4, 4, 9])).flatten().tolist()
    [-1.0, 1.0, 0.0]
    """
    _, codes, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add(0, codes, features)
    centred: Tensor = features - (sums / counts[:, None].to(features.dtype))[codes]
    return centred


class Classifier(nn.Module):
    """Pixels to logits in two exportable halves.

    Attributes:
        encoder: Normalised pixels (N, 3, S, S) float32 to features (N, D).
        head: Features (N, D), with the personal baseline subtracted where there is one, to logits (N, num_outputs).
        pixel_mean: (3,) mean that is subtracted from RGB in 0..1.
        pixel_std: (3,) standard deviation that it is divided by.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, *, pixel_mean: Triple = HALF, pixel_std: Triple = HALF
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn RGB (N, 3, S, S), uint8 or float in 0..1, into what the encoder takes."""
        scaled = pixels.to(torch.float32) / 255.0 if pixels.dtype == torch.uint8 else pixels
        mean, std = (scaled.new_tensor(triple).view(3, 1, 1) for triple in (self.pixel_mean, self.pixel_std))
        return (scaled - mean) / std

    def forward(self, pixels: Tensor, *, groups: Tensor | None = None) -> Tensor:
        """Return logits (N, num_outputs).

        Args:
            pixels: (N, 3, S, S) float32, already normalised.
            groups: (N,) int64 recording of each picture; where given, the mean feature of each recording's pictures
                in this batch is subtracted.
        """
        features: Tensor = self.encoder(pixels)
        if groups is not None:
            features = subtract_group_mean(features, groups)
        logits: Tensor = self.head(features)
        return logits


@runtime_checkable
class Recomputing(Protocol):
    """An encoder that can recompute activations in the backward pass, which trades time for memory."""

    def enable_gradient_checkpointing(self) -> bool:
        """Switch it on; False where the architecture can't after all."""
        ...


@dataclass(frozen=True)
class BuiltModel:
    """A network ready to be trained, with where its weights come from.

    Attributes:
        name: Name in the registry.
        classifier: The network.
        image_size: Side S of the pictures, px.
        feature_dim: D, length of the encoder's features.
        pretrained: Whether it trains in two phases.
        weights_note: `from scratch`, `pretrained` or `random init`.
        licence: Licence of the weights, `none needed` for networks that start from scratch, else as far as known.
        source: Where the weights come from.
    """

    name: str
    classifier: Classifier
    image_size: int
    feature_dim: int
    pretrained: bool
    weights_note: str
    licence: str
    source: str

    @property
    def pixel_mean(self) -> Triple:
        """Mean (3,) that is subtracted from RGB in 0..1."""
        return self.classifier.pixel_mean

    @property
    def pixel_std(self) -> Triple:
        """Standard deviation (3,) that it is divided by."""
        return self.classifier.pixel_std

    @property
    def display_name(self) -> str:
        """Name for tables: a pretrained architecture whose weights are random says so everywhere."""
        return f"{self.name} ({RANDOM_INIT})" if self.weights_note == RANDOM_INIT else self.name


@dataclass(frozen=True)
class BuildOptions:
    """What a network is built for.

    Attributes:
        num_outputs: Number of logits.
        image_size: Side of the pictures, px.
        backbone: Folder or hub id of the pretrained weights; None for the model's own.
        random_init: Start a pretrained architecture from random weights.
    """

    num_outputs: int
    image_size: int
    backbone: str | None = None
    random_init: bool = False


@dataclass(frozen=True)
class ModelEntry:
    """One line of the registry.

    Attributes:
        name: The contract with users and scripts.
        summary: One line for `mien models`.
        modalities: What it looks at.
        batch_size: Pictures per batch; training halves it when memory runs out.
        pretrained: Whether it needs pretrained weights and trains in two phases.
        image_size: Default side of the pictures, px.
        scratch_lr: Learning rate of the one phase of a network that starts from scratch; None for the others.
        dropout: Factor on the network's dropout rates that training uses unless told otherwise.
        build: Makes the network; None where there is none (a probe is fitted, not trained).
        maps: Says where the maps of the network's encoder are; without it the model is explained by occlusion only.
    """

    name: str
    summary: str
    modalities: tuple[str, ...]
    batch_size: int
    pretrained: bool
    image_size: int
    scratch_lr: float | None
    build: Callable[[BuildOptions], BuiltModel] | None
    dropout: float = 1.0
    maps: FindMaps | None = None


def scale_dropout(network: nn.Module, *, factor: float) -> None:
    """Multiply all dropout rates of a network.

    >>> network = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.4))
    >>> scale_dropout(network, factor=0.5)
    >>> [layer.p for layer in network]
    [0.25, 0.2]
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            module.p *= factor


def from_scratch(name: str, *, classifier: Classifier, options: BuildOptions, feature_dim: int) -> BuiltModel:
    """Wrap a network without pretrained weights.

    Raises:
        UserError: A backbone was named, which such a network doesn't have.
    """
    if options.backbone is not None:
        raise UserError(f"{name} starts from scratch and takes no backbone, got {options.backbone!r}; write {name}.")
    return BuiltModel(
        name=name,
        classifier=classifier,
        image_size=options.image_size,
        feature_dim=feature_dim,
        pretrained=False,
        weights_note="from scratch",
        licence="none needed",
        source="none",
    )
