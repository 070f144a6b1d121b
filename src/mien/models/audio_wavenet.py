"""`audio_wavenet`: the sound alone, WaveNet's convolutions (van den Oord et al. 2016) over its log-mel spectrogram."""

from __future__ import annotations

from mien.models.moment_network import MomentNetwork
from mien.models.sequence_parts import HeadShape, SequenceNetwork, WaveNet, sequence_entry


def build_head(shape: HeadShape) -> SequenceNetwork:
    """Return the network."""
    return MomentNetwork("audio", WaveNet(given=shape.sound_dim), num_outputs=shape.num_outputs)


ENTRY = sequence_entry(
    "audio_wavenet",
    summary="the sound alone: WaveNet's dilated convolutions over log-mel",
    modalities=("audio",),
    build_head=build_head,
)
