"""`audio_wavenet`: the sound alone, WaveNet's convolutions (van den Oord et al. 2016) over its log-mel spectrogram."""

from __future__ import annotations

from torch import Tensor

from mien.models.sequence_parts import (
    NUM_TOKENS,
    WIDTH,
    Classify,
    HeadShape,
    PositionPool,
    SequenceNetwork,
    WaveNet,
    sequence_entry,
)

MODALITIES = ("audio",)


class AudioWaveNet(SequenceNetwork):
    """The sound around a moment to the logits of that moment."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__(MODALITIES)
        self.sound = WaveNet()
        self.pool = PositionPool(NUM_TOKENS, WIDTH)
        self.classify = Classify(WIDTH, num_outputs=shape.num_outputs)

    def forward(self, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (N, num_outputs) for log-mel windows (N, M, L) and audio_mask (N, 1)."""
        logits: Tensor = self.classify(self.pool(self.sound(audio, audio_mask)))
        return logits


ENTRY = sequence_entry(
    "audio_wavenet",
    summary="the sound alone: WaveNet's dilated convolutions over log-mel",
    modalities=MODALITIES,
    build_head=AudioWaveNet,
)
