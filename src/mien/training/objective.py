"""The loss of each kind of target, and the score that is said after each epoch.

What isn't labelled has no loss and no gradient. Numbers are learnt on a scale of mean 0 and standard deviation 1 over
the training frames, whatever their unit; `fold_scale` writes that scale into a network when its fit is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's own documentation uses)
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.labels import LabelScheme, TargetKind
from mien.evaluation.continuous import ccc
from mien.models.sequence_parts import SequenceNetwork
from mien.runtime.material import UNLABELLED, is_labelled
from mien.training.inference import evaluating
from mien.training.loaders import FrameSet, channel_weights, class_weights, number_scale
from mien.training.mixup import Mixture

MSE_SHARE = 0.1
"""Of the mean squared error in the loss of numbers: where predictions don't vary yet, CCC has next to no gradient."""

MIN_VARIANCE = 1e-6
"""Variance of standardised targets in a batch below which there is nothing to agree with: the squared error counts."""


@dataclass(frozen=True)
class Objective:
    """The loss.

    Attributes:
        kind: Binary targets have one logit, multiclass ones a logit per class (cross entropy, classes weighted);
            multilabel ones a logit per channel (the mean over what is labelled of cross entropies, presence and absence
            weighted per channel); continuous ones a number per channel (1 - CCC over the batch, and a little of the
            squared error).
        class_weight: (K,) from training frames; 1 on average, so a know-nothing's loss is log K. (2, C) of multilabel
            targets; not used for numbers.
        centre: (C,) what is subtracted from numbers; empty for other kinds.
        spread: (C,) what they are divided by then.
    """

    kind: TargetKind
    class_weight: Tensor
    centre: Tensor | None = None
    spread: Tensor | None = None

    @staticmethod
    def of(train: FrameSet, *, scheme: LabelScheme) -> Objective:
        """Return the loss of a target on training frames.

        Raises:
            UserError: The training frames show nothing that varies.
        """
        if scheme.kind == "continuous":
            centre, spread = (torch.from_numpy(part) for part in number_scale(train, scheme=scheme))
            return Objective(scheme.kind, torch.ones(0), centre, spread)
        weigh = channel_weights if scheme.kind == "multilabel" else class_weights
        return Objective(scheme.kind, torch.from_numpy(weigh(train, scheme=scheme)))

    def mean(self, logits: Tensor, *, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of logits (N, num_outputs) over what is labelled of targets (N,) or (N, C); 0 where nothing.

        Args:
            logits: What the network says.
            targets: Class codes, `UNLABELLED` where missing; or 0, 1 or numbers per channel, NaN where missing.
            weights: (N,) of the frames.
        """
        if self.kind in ("multilabel", "continuous"):
            known = torch.isfinite(targets)
            if not bool(known.any()):
                return logits.sum() * 0.0
            loss = self._channels if self.kind == "multilabel" else self._numbers
            return loss(logits.float(), targets=targets.float(), known=known, weights=weights)
        labelled = targets != UNLABELLED
        if not bool(labelled.any()):
            # Keeps the graph: the step goes through every weight and moves none.
            return logits.sum() * 0.0
        logits, targets, weights = logits[labelled].float(), targets[labelled], weights[labelled]
        if self.kind == "binary":
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float(), reduction="none")
        else:
            losses = F.cross_entropy(logits, targets, reduction="none")
        weighted = losses * self.class_weight.to(logits.device)[targets] * weights
        return weighted.sum() / len(targets)

    def mixed(self, logits: Tensor, *, mixture: Mixture, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the loss of the logits of mixed inputs: numbers are mixed, of classes the losses are."""
        if self.kind == "continuous":
            return self.mean(logits, targets=mixture.mix(targets), weights=mixture.mix(weights))
        return mixture.loss(lambda t, w: self.mean(logits, targets=t, weights=w), targets=targets, weights=weights)

    def scaled(self, targets: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return targets on the scale on which the network learns them: numbers standardised, others as they are."""
        if self.centre is None or self.spread is None:
            return targets
        return np.asarray((targets.astype(np.float32) - self.centre.numpy()) / self.spread.numpy())

    def fold_into(self, network: nn.Module, *, examples: Sequence[Tensor]) -> None:
        """Write the scale of numbers into a trained network, which then predicts them in their unit.

        Args:
            network: A head, or a sequence network.
            examples: Its inputs, a few rows; what it says of them is checked.
        """
        if self.centre is not None and self.spread is not None:
            fold_scale(network, centre=self.centre, spread=self.spread, examples=examples)

    def _channels(self, logits: Tensor, *, targets: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        # NaN times 0 is NaN, in the gradient too: what is missing is replaced before anything is computed with it.
        there = torch.where(known, targets, torch.zeros_like(targets))
        losses = F.binary_cross_entropy_with_logits(logits, there, reduction="none")
        absent, present = self.class_weight.to(logits.device)
        weighted = losses * torch.where(there > 0.5, present, absent) * weights[:, None]
        return torch.where(known, weighted, torch.zeros_like(weighted)).sum() / known.sum()

    def _numbers(self, logits: Tensor, *, targets: Tensor, known: Tensor, weights: Tensor) -> Tensor:
        assert self.centre is not None and self.spread is not None, "numbers have a scale"
        standardised = (targets - self.centre.to(targets.device)) / self.spread.to(targets.device)
        losses = []
        for channel in range(logits.shape[1]):
            rows = known[:, channel] & (weights > 0)
            if bool(rows.any()):
                said, true, own = logits[rows, channel], standardised[rows, channel], weights[rows]
                losses.append(_number_loss(said, true, weights=own))
        return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def ccc_loss(predictions: Tensor, targets: Tensor, *, weights: Tensor) -> Tensor:
    """Return 1 - CCC (Lin 1989, Biometrics 45:255-268) of weighted predictions (n,) and targets (n,), none missing.

    With equal weights it is 1 - `mien.evaluation.continuous.ccc` where both vary.
    """
    share = weights / weights.sum()
    mean_p, mean_t = (share * predictions).sum(), (share * targets).sum()
    moved_p, moved_t = predictions - mean_p, targets - mean_t
    covariance = (share * moved_p * moved_t).sum()
    spread = (share * moved_p**2).sum() + (share * moved_t**2).sum()
    return 1.0 - 2.0 * covariance / (spread + (mean_p - mean_t) ** 2)


def _number_loss(predictions: Tensor, targets: Tensor, *, weights: Tensor) -> Tensor:
    squared = (weights * (predictions - targets) ** 2).sum() / weights.sum()
    if float(targets.var(unbiased=False)) < MIN_VARIANCE:
        return squared
    return ccc_loss(predictions, targets, weights=weights) + MSE_SHARE * squared


def fold_scale(network: nn.Module, *, centre: Tensor, spread: Tensor, examples: Sequence[Tensor]) -> None:
    """Change a network's last layers so that it gives `centre + spread * output`, (C,) each.

    Args:
        network: Its outputs are those of its last linear layer, or the sum of `SequenceNetwork.output_layers`.
        centre: Mean of the numbers.
        spread: Their standard deviation.
        examples: Inputs of the network, a few rows.
    """
    if isinstance(network, SequenceNetwork):
        layers = network.output_layers()
    else:
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    biased = [layer for layer in layers if layer.bias is not None]
    assert biased, "numbers have a level, and no layer of the outputs has a bias"
    with evaluating(network):
        before: Tensor = network(*examples)
        for layer in layers:
            layer.weight.mul_(spread.to(layer.weight)[:, None])
        for layer in biased:
            layer.bias.mul_(spread.to(layer.bias))
        biased[0].bias.add_(centre.to(biased[0].bias))
        after: Tensor = network(*examples)
    expected = before * spread.to(before) + centre.to(before)
    largest = float(expected.abs().max()) + float(spread.max())
    assert float((after - expected).abs().max()) <= 1e-4 * largest, "the outputs have other layers than output_layers()"


def balanced_accuracy(targets: NDArray[np.int64], *, predicted: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes that occur, over pooled frames: for learning curves, not for claims.

    >>> balanced_accuracy(np.array([0, 0, 0, 1]), predicted=np.array([0, 0, 1, 1]))
    0.8333333333333333
    """
    return float(np.mean([np.mean(predicted[targets == code] == code) for code in np.unique(targets)]))


def score_name(kind: TargetKind) -> str:
    """Return what a history calls the score that is measured on the inner validation after each epoch."""
    return "validation_ccc" if kind == "continuous" else "validation_balanced_accuracy"


def score_text(row: dict[str, object], *, kind: TargetKind) -> str:
    """Return the losses and the score of an epoch as a line says them."""
    name = "CCC" if kind == "continuous" else "balanced accuracy"
    train, validation, score = row["train_loss"], row["validation_loss"], row[score_name(kind)]
    return f"train loss {train:.3f}, validation loss {validation:.3f}, {name} {score:.3f}"


def epoch_score(logits: NDArray[np.floating], *, targets: NDArray[np.generic], scheme: LabelScheme) -> float:
    """Return the score of a learning curve over pooled frames; of channels, the mean over those that have one.

    Args:
        logits: (N, num_outputs) of the network under way; of numbers, on the scale of training.
        targets: (N,) class codes or (N, C), on the same scale; frames without a label are left out.
        scheme: The target.
    """
    if not scheme.channels:
        rows = is_labelled(targets)
        codes = targets[rows].astype(np.int64)
        return balanced_accuracy(codes, predicted=scheme.predicted(scheme.probabilities(logits[rows])))
    scores = []
    for channel in range(targets.shape[1]):
        rows = np.isfinite(targets[:, channel])
        true, said = targets[rows, channel].astype(np.float64), logits[rows, channel]
        if len(np.unique(true)) < 2:
            continue
        if scheme.kind == "continuous":
            scores.append(ccc(true, said.astype(np.float64)))
        else:
            scores.append(balanced_accuracy(true.astype(np.int64), predicted=(said >= 0).astype(np.int64)))
    return float(np.mean(scores)) if scores else float("nan")
