"""Frames of a window to tokens: a transformer over time, and the range of the whole recording."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mien.models.sequence_parts import NUM_LAYERS, WIDTH, Front, HeadShape, Layer, Standardise, masked_mean

DROPOUT_FEATURES = 0.5
NUM_READINGS = 8
"""Directions in which the range of a recording is taken: a face has more than one way to move. So few, for a network
that may look in any direction learns the people by heart."""


class RecordingRange(nn.Module):
    """Where the frames of a window lie between the extremes of their recording, along a few directions.

    Somebody's faint smile is another's neutral face: what counts is how far a face goes between the least and the most
    that this person shows. A mean over the recording (the personal baseline) can't say that, for it lies nearer to what
    is shown more often. The extremes are soft ones: two attentions over frames of the whole recording, whose weights
    rise, and fall, with the reading itself. The directions are learned, unless the window holds readings already.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.length = shape.sequence_length
        self.num_readings = shape.feature_dim if shape.is_read else NUM_READINGS
        self.read: nn.Module = nn.Identity()
        if not shape.is_read:
            self.read = nn.Linear(shape.feature_dim, NUM_READINGS, bias=False)
            nn.init.normal_(self.read.weight, std=0.5 / math.sqrt(shape.feature_dim))
        self.sharpness = nn.Parameter(torch.zeros(self.num_readings))

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return readings (N, T, 2 R) of the window, and what sums them up (N, R (T + 3)).

        The readings of R directions are given over the middle of the range, and as shares of half the range. Summed up
        are the former, of the latter the frame's in the middle of the window, the middle of the range, and half of it.

        Args:
            features: (N, T + K, D), standardised.
            mask: (N, T + K).
        """
        readings = self.read(features)
        near, far = readings[:, : self.length], readings[:, self.length :]
        unknown = (mask[:, self.length :, None] - 1.0) * 1e4
        sharp = far * self.sharpness.exp()
        high, low = (((sign * sharp + unknown).softmax(dim=1) * far).sum(dim=1) for sign in (1.0, -1.0))
        middle, half = (high + low) / 2, (high - low) / 2
        over = (near - middle[:, None]) * mask[:, : self.length, None]
        # Of somebody who hardly moves, half the range is noise: nothing is blown up by it.
        share = over / (half.abs() + 0.5)[:, None]
        summed = torch.cat((over.flatten(1), share[:, self.length // 2], middle, half), dim=1)
        return torch.cat((over, share), dim=2), summed


class FrameEncoder(nn.Module):
    """Features of T frames to tokens: standardise, project, add learned positions, a transformer over time.

    Where the window comes with frames of the whole recording, the transformer sees the readings of `RecordingRange` in
    place of the features.

    Attributes:
        width: Numbers that `pool` gives.
        range_width: Of them, those of the range; 0 without.
    """

    def __init__(self, shape: HeadShape, *, width: int = WIDTH, num_layers: int = NUM_LAYERS) -> None:
        super().__init__()
        self.length = shape.sequence_length
        self.front = Front()
        self.standardise = Standardise(shape.feature_dim)
        # Of the few answers of a probe none can be spared.
        self.drop_features = nn.Dropout(0.0 if shape.is_read else DROPOUT_FEATURES)
        self.range = RecordingRange(shape) if shape.recording_frames else None
        self.range_width = 0 if self.range is None else self.range.num_readings * (self.length + 3)
        self.width = 2 * width + self.range_width
        given = shape.feature_dim if self.range is None else 2 * self.range.num_readings
        self.project = nn.Linear(given, width)
        self.positions = nn.Parameter(torch.zeros(1, shape.sequence_length, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (N, T, width) and what is said of their range (N, range_width).

        Args:
            features: (N, T + K, D).
            mask: (N, T + K).
        """
        standard = self.standardise(self.front(features, mask), mask)
        # A feature that is hidden is hidden in all frames of a window: they stay comparable.
        given = standard * self.drop_features(torch.ones_like(standard[:, :1]))
        near = mask[:, : self.length]
        if self.range is None:
            seen, summed = given, given[:, 0, :0]
        else:
            seen, summed = self.range(given, mask)
        tokens = (self.project(seen) + self.positions) * near[:, :, None]
        for layer in self.layers:
            tokens = layer(tokens, near)
        return self.norm(tokens) * near[:, :, None], summed

    def pool(self, tokens: Tensor, summed: Tensor, mask: Tensor) -> Tensor:
        """Return (N, self.width): the mean over time, the token of the frame in the middle, and the range."""
        mean = masked_mean(tokens, mask[:, : self.length])
        return torch.cat((mean, tokens[:, self.length // 2], summed), dim=1)
