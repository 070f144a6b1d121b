"""`multimodal_fusion`: frames, sound and signals together; it goes on where one of them is missing.

Three fusions, by the setting `fusion`:

* `concat`: one vector per modality, side by side (zeros where it is missing), and a perceptron.
* `cross_attention`: the tokens of every modality attend to those of the others with 8 heads (Tsai et al. 2019, MulT),
  the frames after their own transformer over time; then as `concat`.
* `gated`: a sigmoid gate per modality and dimension, which sees all of them, weighs what each adds (Arevalo et al.
  2017, GMU, with products of pairs, for what is only there when two coincide).

In training whole modalities are dropped at random (Neverova et al. 2016, ModDrop), so that one that is missing later is
nothing new.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.models.frame_encoder import FrameEncoder
from mien.models.sequence_parts import (
    DROPOUT,
    NUM_HEADS,
    NUM_TOKENS,
    WIDTH,
    Attention,
    Classify,
    Fusion,
    HeadShape,
    PositionPool,
    SequenceNetwork,
    SignalEncoder,
    WaveNet,
    sequence_entry,
)

MODALITIES = ("video", "audio", "signals")


class ConcatFusion(nn.Module):
    """Side by side."""

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """Return (N, 3 width) for vectors (N, 3, width) and which are present (N, 3)."""
        return (vectors * present[:, :, None]).flatten(1)


class GatedFusion(nn.Module):
    """Gated sums of what each modality, and each pair of them, adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in MODALITIES)
        self.gates = nn.Linear(len(MODALITIES) * (width + 1), len(MODALITIES) * width)

    def forward(self, vectors: Tensor, present: Tensor) -> Tensor:
        """Return (N, 2 width) for vectors (N, 3, width) and which are present (N, 3)."""
        known = vectors * present[:, :, None]
        gates = torch.sigmoid(self.gates(torch.cat((known.flatten(1), present), dim=1))).reshape(vectors.shape)
        values = torch.stack([torch.tanh(layer(known[:, i])) for i, layer in enumerate(self.values)], dim=1)
        weighed = gates * values * present[:, :, None]
        first, second, third = weighed.unbind(dim=1)
        return torch.cat((weighed.sum(dim=1), first * second + first * third + second * third), dim=1)


class MultimodalFusion(SequenceNetwork):
    """Frames, sound and signals around a moment to the logits of that moment."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__(MODALITIES)
        self.frames = FrameEncoder(shape)
        self.sound = WaveNet(given=shape.sound_dim)
        self.sensors = SignalEncoder(shape.num_signals)
        self.narrow = nn.Linear(self.frames.width, WIDTH)
        self.pools = nn.ModuleList(PositionPool(NUM_TOKENS, WIDTH) for _ in MODALITIES[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in MODALITIES)
        self.fusion: Fusion = shape.fusion
        if self.fusion == "cross_attention":
            self.attend = nn.ModuleList(Attention(WIDTH, num_heads=NUM_HEADS, dropout=DROPOUT) for _ in MODALITIES)
            self.attend_norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in MODALITIES)
        self.fuse = GatedFusion(WIDTH) if self.fusion == "gated" else ConcatFusion()
        given = (2 if self.fusion == "gated" else len(MODALITIES)) * WIDTH
        self.classify = Classify(given, num_outputs=shape.num_outputs)

    def forward(
        self,
        features: Tensor,
        frame_mask: Tensor,
        audio: Tensor,
        audio_mask: Tensor,
        signals: Tensor,
        signals_mask: Tensor,
    ) -> Tensor:
        """Return logits (N, num_outputs) of windows; a modality counts as missing where its mask is 0 throughout."""
        near_mask = frame_mask[:, : self.frames.length]
        present = torch.stack([mask.amax(dim=1) for mask in (near_mask, audio_mask, signals_mask)], dim=1)
        seen_tokens, ranged = self.frames(features, frame_mask)
        tokens = [seen_tokens, self.sound(audio, audio_mask), self.sensors(signals, signals_mask)]
        masks = [near_mask, *(present[:, i : i + 1].expand(-1, NUM_TOKENS) for i in (1, 2))]
        if self.fusion == "cross_attention":
            tokens = self._cross(tokens, masks)
        seen = self.narrow(self.frames.pool(tokens[0], ranged, frame_mask))
        pooled = [seen, *(pool(part) for pool, part in zip(self.pools, tokens[1:], strict=True))]
        vectors = torch.stack([norm(vector) for norm, vector in zip(self.norms, pooled, strict=True)], dim=1)
        logits: Tensor = self.classify(self.fuse(vectors, present))
        return logits

    def _cross(self, tokens: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        normed = [norm(part) for norm, part in zip(self.attend_norms, tokens, strict=True)]
        crossed = []
        for own, attend in enumerate(self.attend):
            others = [other for other in range(len(MODALITIES)) if other != own]
            keys = torch.cat([normed[other] for other in others], dim=1)
            known = torch.cat([masks[other] for other in others], dim=1)
            crossed.append((tokens[own] + attend(normed[own], keys, known)) * masks[own][:, :, None])
        return crossed


ENTRY = sequence_entry(
    "multimodal_fusion",
    summary="frames, sound and signals together (multimodal_fusion@BACKBONE; fusion: concat, cross_attention, gated)",
    modalities=MODALITIES,
    build_head=MultimodalFusion,
)
