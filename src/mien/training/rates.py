"""Which parameter learns at which rate.

Early layers of a pretrained backbone hold what all pictures share; on few people they had better stay near where they
are. Layer-wise decay gives each stage a fraction of the rate of the stage above it (Clark et al. 2020, ELECTRA,
arXiv:2003.10555, appendix A; Bao et al. 2022, BEiT, arXiv:2106.08254, table 11: 0.65-0.75 for fine-tuning).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mien.models.backbones import PretrainedEncoder
from mien.models.classifier import Classifier
from mien.training.config import TrainConfig

# Neither norms nor biases nor these are weights that could grow too large.
NO_DECAY = ("class_token", "cls_token", "positions", "position_embeddings")


def parameter_groups(
    classifier: Classifier, *, encoder_lr: float | None, head_lr: float, config: TrainConfig
) -> list[dict[str, Any]]:
    """Return the optimiser's groups, the head's first; each has its rate and its weight decay.

    Args:
        classifier: The network.
        encoder_lr: Rate of the encoder, of its last stage where rates fall layer by layer; None where it is frozen.
        head_lr: Rate of the head.
        config: `layer_decay` and `weight_decay`. An encoder from scratch has one rate.
    """
    groups = _split([classifier.head], lr=head_lr, weight_decay=config.weight_decay)
    if encoder_lr is None:
        return groups
    encoder = classifier.encoder
    if config.layer_decay == 1.0 or not isinstance(encoder, PretrainedEncoder):
        return groups + _split([encoder], lr=encoder_lr, weight_decay=config.weight_decay)
    for depth, stage in enumerate(reversed(encoder.stages())):
        rate = encoder_lr * config.layer_decay**depth
        groups += _split([stage], lr=rate, weight_decay=config.weight_decay)
    return groups


def _split(modules: Sequence[nn.Module], *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in NO_DECAY
            (plain if is_plain else decayed).append(parameter)
    return [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
    ]
