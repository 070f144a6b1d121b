"""Mixup: pairs of training examples of one batch, mixed, learn the mixture of their losses.

Zhang et al. 2018 (mixup: Beyond Empirical Risk Minimization, ICLR, arXiv:1710.09412). Pairs come from one batch, and a
batch from the training participants, so nothing of another fold is ever mixed in. With a personal baseline it isn't
pictures that are mixed but features after the baseline was subtracted (as in manifold mixup, Verma et al. 2019, ICML,
arXiv:1806.05236): a picture of two people has no person whose baseline could be subtracted, and its ghost would pull
the baselines of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mien.runtime.material import is_labelled


@dataclass(frozen=True)
class Mixture:
    """Which examples of a batch are mixed, and how.

    Attributes:
        partners: (n,) int64 row of the batch that each row is mixed with; without a label, the row itself.
        share: What a row keeps of itself, 0..1; its partner gives the rest.
    """

    partners: Tensor
    share: float

    @staticmethod
    def draw(targets: Tensor, *, alpha: float, seed: int) -> Mixture:
        """Draw partners among the labelled rows of targets (n,) or (n, C), and the share from Beta(alpha, alpha)."""
        generator = np.random.default_rng(seed)
        partners = np.arange(len(targets))
        rows = np.flatnonzero(is_labelled(targets.cpu().numpy()))
        partners[rows] = generator.permutation(rows)
        return Mixture(torch.from_numpy(partners).to(targets.device), float(generator.beta(alpha, alpha)))

    def to(self, device: str) -> Mixture:
        """Return the mixture for values on another device."""
        return Mixture(self.partners.to(device), self.share)

    def mix(self, values: Tensor) -> Tensor:
        """Return (n, ...) float: `share` of each row and the rest of its partner."""
        return self.share * values + (1.0 - self.share) * values[self.partners]

    def loss(self, mean: Callable[[Tensor, Tensor], Tensor], *, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the mixture of the losses on both targets: cross entropy is linear in the target.

        Args:
            mean: The loss of the mixed logits over targets (n,), weighted by weights (n,).
            targets: (n,) of the batch.
            weights: (n,) of the batch: each target brings the weights of its own participant and class.
        """
        own = mean(targets, weights)
        other = mean(targets[self.partners], weights[self.partners])
        return self.share * own + (1.0 - self.share) * other
