"""`temporal_vit`: the spatial network per frame, a transformer over time, and its mean (TimeSformer-like, factorised).

With a vision transformer as its backbone (`temporal_vit@OWNER/VIT`) it is the design's model with the spatial part
frozen: ViT per frame, over the frames a transformer of 2 layers and 8 heads, the mean over time; what is added is the
token of the frame that is asked about, for the label is that frame's, not the window's. Bertasius et al. 2021
("Is space-time attention all you need?") and Arnab et al. 2021 (ViViT, model 2) factorise in the same way. Any other
backbone serves as well; `@hog`, the default, needs no weights.
"""

from __future__ import annotations

from torch import Tensor

from mien.models.frame_encoder import FrameEncoder
from mien.models.sequence_parts import WIDTH, Classify, HeadShape, SequenceNetwork, sequence_entry

MODALITIES = ("video",)


class TemporalTransformer(SequenceNetwork):
    """Features of T frames to the logits of the one in the middle."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__(MODALITIES)
        # Few readings need no more than half the width.
        self.frames = FrameEncoder(shape, width=WIDTH // 2 if shape.recording_frames else WIDTH)
        # The straight way from the range to the answer: on few people the long one alone would hardly find it.
        self.classify = Classify(self.frames.width, num_outputs=shape.num_outputs, beside=self.frames.range_width)

    def forward(self, features: Tensor, frame_mask: Tensor) -> Tensor:
        """Return logits (N, num_outputs) for features (N, T + K, D) and frame_mask (N, T + K)."""
        tokens, ranged = self.frames(features, frame_mask)
        logits: Tensor = self.classify(self.frames.pool(tokens, ranged, frame_mask), ranged)
        return logits


ENTRY = sequence_entry(
    "temporal_vit",
    summary="transformer over the frozen features of neighbouring frames (temporal_vit@BACKBONE; @hog: no weights)",
    modalities=MODALITIES,
    build_head=TemporalTransformer,
    recording_frames=48,
)
