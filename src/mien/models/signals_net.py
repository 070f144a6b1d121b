"""`signals_net`: the sensors' signals alone, by convolutions over time."""

from __future__ import annotations

from mien.models.moment_network import MomentNetwork
from mien.models.sequence_parts import HeadShape, SequenceNetwork, SignalEncoder, sequence_entry


def build_head(shape: HeadShape) -> SequenceNetwork:
    """Return the network."""
    return MomentNetwork("signals", SignalEncoder(shape.num_signals), num_outputs=shape.num_outputs)


ENTRY = sequence_entry(
    "signals_net",
    summary="sensors alone (skin conductance, gaze): convolutions over their signals",
    modalities=("signals",),
    build_head=build_head,
    context_s=6.0,
)
