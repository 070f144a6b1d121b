"""`resnet50_pretrained` and `vit_pretrained`: an ImageNet backbone with a head of two layers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mien.core.storage import atomic_directory, read_json, write_json
from mien.models.backbones import (
    FAMILY,
    RESNET50,
    VIT_BASE,
    Architecture,
    Pretrained,
    find_maps,
    find_weights,
    fit_positions,
    load_encoder,
    pixel_statistics,
    quiet_transformers,
    random_encoder,
)
from mien.models.classifier import RANDOM_INIT, BuildOptions, BuiltModel, Classifier, ModelEntry

SIDECAR = "mien.json"


def provenance(folder: Path) -> dict[str, str]:
    """Return `weights`, `licence` and `source` of a backbone's folder.

    From `mien.json` where there is one, else the licence of the model card that `hf download` brings.
    """
    if (folder / SIDECAR).is_file():
        noted = {key: str(value) for key, value in read_json(folder / SIDECAR).items()}
        return {"weights": "pretrained", "licence": "unknown", "source": str(folder)} | noted
    return {"weights": "pretrained", "licence": _card_licence(folder / "README.md"), "source": str(folder)}


def _card_licence(card: Path) -> str:
    if not card.is_file():
        return "unknown"
    parts = card.read_text(encoding="utf-8").split("---", 2)
    try:
        facts: Any = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        facts = None
    return str(facts.get("license", "unknown")) if isinstance(facts, dict) else "unknown"


def write_random_backbone(directory: Path, *, architecture: Architecture, seed: int = 0, tiny: bool = False) -> Path:
    """Write a backbone with random weights, marked so in `mien.json`: for machines without weights, and for tests.

    Args:
        directory: Folder to write, replaced as a whole.
        architecture: Which network.
        seed: Seed of the weights.
        tiny: A network of a few thousand parameters instead of the real size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = random_encoder(architecture, tiny=tiny)
    note = {"weights": RANDOM_INIT, "licence": "none needed", "source": f"random {architecture}, seed {seed}"}
    with atomic_directory(directory) as temporary, quiet_transformers():
        encoder.model.save_pretrained(temporary)
        write_json(temporary / SIDECAR, note)
    return directory


def make_head(feature_dim: int, *, width: int, num_outputs: int) -> nn.Sequential:
    """Return the head: features (N, feature_dim) to logits (N, num_outputs) through one hidden layer."""
    return nn.Sequential(
        nn.Dropout(0.3),
        nn.Linear(feature_dim, width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(width, num_outputs),
    )


def build(wanted: Pretrained, options: BuildOptions) -> BuiltModel:
    """Build a pretrained network; with `random_init` the real architecture with random weights.

    Raises:
        WeightsError: The weights aren't on this machine.
        UserError: The picture size doesn't fit the backbone.
    """
    folder = None if options.random_init else find_weights(wanted, backbone=options.backbone)
    if folder is None:
        encoder = random_encoder(wanted.architecture)
        fit_positions(encoder, image_size=options.image_size)
        facts = {"weights": RANDOM_INIT, "licence": "none needed", "source": f"random {wanted.architecture}"}
    else:
        encoder = load_encoder(folder, family=FAMILY[wanted.architecture], image_size=options.image_size)
        facts = provenance(folder)
    mean, std = pixel_statistics(folder, family=encoder.family)
    head = make_head(encoder.feature_dim, width=wanted.head_width, num_outputs=options.num_outputs)
    return BuiltModel(
        name=wanted.name,
        classifier=Classifier(encoder, head, pixel_mean=mean, pixel_std=std),
        image_size=options.image_size,
        feature_dim=encoder.feature_dim,
        pretrained=True,
        weights_note=facts["weights"],
        licence=facts["licence"],
        source=facts["source"],
    )


def _entry(wanted: Pretrained, *, summary: str, batch_size: int) -> ModelEntry:
    return ModelEntry(
        name=wanted.name,
        summary=summary,
        modalities=("video",),
        batch_size=batch_size,
        pretrained=True,
        image_size=224,
        scratch_lr=None,
        build=functools.partial(build, wanted),
        maps=find_maps,
    )


RESNET50_ENTRY = _entry(RESNET50, summary="ResNet-50 trained on ImageNet, fine-tuned", batch_size=48)
VIT_BASE_ENTRY = _entry(VIT_BASE, summary="ViT-B/16 trained on ImageNet, fine-tuned", batch_size=24)
