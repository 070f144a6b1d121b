"""What the networks of one modality over time share: an encoder's tokens, their weighted mean, the logits."""

from __future__ import annotations

from torch import Tensor, nn

from mien.models.sequence_parts import NUM_TOKENS, WIDTH, Classify, PositionPool, SequenceNetwork


class MomentNetwork(SequenceNetwork):
    """One modality around a moment to the logits of that moment."""

    def __init__(self, modality: str, encoder: nn.Module, *, num_outputs: int) -> None:
        """Take the encoder of a modality.

        Args:
            modality: `audio` or `signals`.
            encoder: Its windows and mask to tokens (N, NUM_TOKENS, WIDTH).
            num_outputs: Number of logits.
        """
        super().__init__((modality,))
        self.encoder = encoder
        self.pool = PositionPool(NUM_TOKENS, WIDTH)
        self.classify = Classify(WIDTH, num_outputs=num_outputs)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return logits (N, num_outputs) for windows (N, C, L) with mask (N, 1 or C); see `mien.runtime.windows`."""
        logits: Tensor = self.classify(self.pool(self.encoder(values, mask)))
        return logits
