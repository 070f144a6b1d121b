"""Photometric augmentation of training pictures: brightness, contrast, hue and mirroring.

A varied picture is the same clip of the same participant: it carries the id of the picture that it was made from, and
nothing outside training ever sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Rec. 601 luma, as the grey that contrast is stretched around (PIL's `ImageEnhance.Contrast` takes the same).
GREY = (0.299, 0.587, 0.114)
# Brightness, contrast, hue and mirroring each take one.
NUM_DRAWS = 4


@dataclass(frozen=True)
class Strengths:
    """How far pictures are varied; 0 everywhere leaves them as they are.

    Attributes:
        brightness: Factor drawn from 1 - b .. 1 + b.
        contrast: Factor drawn likewise, around the picture's mean grey.
        hue: Rotation drawn from -h .. h, as a fraction of the full circle.
        flip: Probability of mirroring left and right.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    flip: float = 0.0


@dataclass(frozen=True)
class Augmented:
    """Varied pictures and their lineage.

    Attributes:
        pixels: (N, 3, S, S) float32 in 0..1.
        source_ids: (N,) int64: picture i was made from the picture `source_ids[i]`.
    """

    pixels: Tensor
    source_ids: Tensor


def augment(pixels: Tensor, *, ids: Tensor, strengths: Strengths, generator: torch.Generator) -> Augmented:
    """Vary each picture by its own random amount.

    Args:
        pixels: (N, 3, S, S) RGB, uint8 or float in 0..1.
        ids: (N,) int64 ids of the pictures.
        strengths: How far.
        generator: On the CPU, whatever the device of the pictures: the same draws everywhere.
    """
    draws = torch.rand(NUM_DRAWS, len(pixels), generator=generator, dtype=torch.float64)
    return Augmented(pixels=vary_by(pixels, draws=draws, strengths=strengths), source_ids=ids.clone())


def vary_by(pixels: Tensor, *, draws: Tensor, strengths: Strengths) -> Tensor:
    """Vary pictures (N, 3, S, S), uint8 or float in 0..1, by draws (NUM_DRAWS, N) from 0..1; return float32 in 0..1."""
    draws = draws.float()
    spread = 2.0 * draws[:3] - 1.0
    values = pixels.to(torch.float32) / 255.0 if pixels.dtype == torch.uint8 else pixels
    varied = vary(
        values,
        brightness=(1.0 + strengths.brightness * spread[0]).to(pixels.device),
        contrast=(1.0 + strengths.contrast * spread[1]).to(pixels.device),
        hue=(strengths.hue * spread[2]).to(pixels.device),
    )
    mirrored = (draws[3] < strengths.flip).to(pixels.device)
    return torch.where(mirrored[:, None, None, None], varied.flip(-1), varied)


def vary(pixels: Tensor, *, brightness: Tensor, contrast: Tensor, hue: Tensor) -> Tensor:
    """Apply brightness, contrast and hue as one linear map of colours per picture, clipped to 0..1 at the end.

    Args:
        pixels: (N, 3, S, S) float in 0..1.
        brightness: (N,) factor; 2 doubles every value.
        contrast: (N,) factor; 0 gives the picture's mean grey everywhere.
        hue: (N,) turn around the grey axis, as a fraction of the full circle; 1/3 makes red green.
    """
    grey = (pixels.mean(dim=(2, 3)) @ pixels.new_tensor(GREY)) * brightness
    # Grey is on the axis of the rotation, so the offset needs no rotation.
    matrix = hue_rotation(hue) * (contrast * brightness)[:, None, None]
    offset = ((1.0 - contrast) * grey)[:, None, None, None]
    return (torch.einsum("nij,njhw->nihw", matrix, pixels) + offset).clamp(0.0, 1.0)


def hue_rotation(hue: Tensor) -> Tensor:
    """Return the matrices (N, 3, 3) that rotate RGB around the grey axis by fractions of the circle (N,).

    Rodrigues' rotation about (1, 1, 1) / sqrt 3: cheap, and exact for grey and for thirds of the circle.
    """
    angle = 2.0 * math.pi * hue
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    identity = torch.eye(3, device=hue.device, dtype=hue.dtype)
    cross = identity.new_tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    return cosine * identity + sine * cross + (1.0 - cosine) / 3.0
