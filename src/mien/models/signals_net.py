"""`signals_net`: the sensors' signals alone, by convolutions over time."""

from __future__ import annotations

from torch import Tensor

from mien.models.sequence_parts import (
    NUM_TOKENS,
    WIDTH,
    Classify,
    HeadShape,
    PositionPool,
    SequenceNetwork,
    SignalEncoder,
    sequence_entry,
)

MODALITIES = ("signals",)


class SignalsNet(SequenceNetwork):
    """The signals around a moment to the logits of that moment."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__(MODALITIES)
        self.sensors = SignalEncoder(shape.num_signals)
        self.pool = PositionPool(NUM_TOKENS, WIDTH)
        self.classify = Classify(WIDTH, num_outputs=shape.num_outputs)

    def forward(self, signals: Tensor, signals_mask: Tensor) -> Tensor:
        """Return logits (N, num_outputs) for signals (N, S, L2) and signals_mask (N, S)."""
        logits: Tensor = self.classify(self.pool(self.sensors(signals, signals_mask)))
        return logits


ENTRY = sequence_entry(
    "signals_net",
    summary="sensors alone (skin conductance, gaze): convolutions over their signals",
    modalities=MODALITIES,
    build_head=SignalsNet,
    context_s=6.0,
)
