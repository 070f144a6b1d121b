"""The models by name. Adding one: a file with its `ENTRY`, and one line here."""

from __future__ import annotations

from typing import Any

import torch

from mien.core.errors import UserError, WeightsError, unknown_name
from mien.core.weights import weights_directory
from mien.models import (
    audio_wavenet,
    backbones,
    improved_cnn,
    multimodal_fusion,
    pretrained,
    signals_net,
    temporal_vit,
    vit_scratch,
)
from mien.models.classifier import BuildOptions, BuiltModel, ModelEntry
from mien.models.sequence_parts import HeadShape, SequenceEntry, SequenceNetwork

LINEAR_PROBE = ModelEntry(
    name="linear_probe",
    summary="participant-balanced linear classifier on frozen features (linear_probe@BACKBONE; @hog needs no weights, "
    "@logmel and @egemaps listen)",
    modalities=("video",),
    batch_size=64,
    pretrained=True,
    image_size=224,
    scratch_lr=None,
    build=None,
)

MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        LINEAR_PROBE,
        improved_cnn.ENTRY,
        vit_scratch.ENTRY,
        pretrained.RESNET50_ENTRY,
        pretrained.VIT_BASE_ENTRY,
        temporal_vit.ENTRY,
        audio_wavenet.ENTRY,
        signals_net.ENTRY,
        multimodal_fusion.ENTRY,
    )
}
COUNTED_HEAD = HeadShape(num_outputs=1, feature_dim=900, sequence_length=5, num_signals=1)
"""What `mien models` counts the parameters of a sequence network with: HOG features, one channel, one output."""

PRETRAINED = {wanted.name: wanted for wanted in (backbones.RESNET50, backbones.VIT_BASE)}


def find_entry(name: str) -> ModelEntry:
    """Return the registry's entry of a name without its `@BACKBONE`.

    Raises:
        UserError: No model has that name.
    """
    if name not in MODELS:
        raise unknown_name("model", got=name, allowed=MODELS, hint="See `mien models`.")
    return MODELS[name]


def find_sequence_entry(name: str) -> SequenceEntry:
    """Return the registry's entry of a sequence network.

    Raises:
        UserError: No sequence network has that name.
    """
    entry = find_entry(name)
    if not isinstance(entry, SequenceEntry):
        allowed = [other for other, known in MODELS.items() if isinstance(known, SequenceEntry)]
        raise unknown_name("sequence network", got=name, allowed=allowed)
    return entry


def build_sequence_network(name: str, *, shape: HeadShape, seed: int = 0) -> SequenceNetwork:
    """Build a sequence network with fresh weights; the same seed gives the same weights, whatever ran before.

    Args:
        name: Name in the registry.
        shape: What it is built for.
        seed: Seed of the weights; torch's global generator is left as it was.

    Raises:
        UserError: No sequence network has that name.
    """
    entry = find_sequence_entry(name)
    assert entry.build_head is not None, f"{name} has no network"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return entry.build_head(shape)


def build_model(
    name: str,
    *,
    num_outputs: int,
    image_size: int | None = None,
    backbone: str | None = None,
    random_init: bool = False,
    seed: int = 0,
) -> BuiltModel:
    """Build a network with fresh weights; the same seed gives the same weights, whatever ran before.

    Args:
        name: Name in the registry.
        num_outputs: Number of logits.
        image_size: Side of the pictures, px; None for the model's default.
        backbone: Folder or hub id of pretrained weights; None for the model's own.
        random_init: Start a pretrained architecture from random weights; it is called `NAME (random init)` then.
        seed: Seed of everything that is drawn; torch's global generator is left as it was.

    Raises:
        UserError: An unknown name, or an option that the model doesn't take.
        WeightsError: The pretrained weights aren't on this machine.
    """
    entry = find_entry(name)
    if isinstance(entry, SequenceEntry):
        raise UserError(f"{name} is a head over windows of features, sound and signals; use build_sequence_network.")
    if entry.build is None:
        raise UserError(f"{name} is fitted on frozen features and has no network to build; use mien.evaluation.probe.")
    options = BuildOptions(num_outputs, image_size or entry.image_size, backbone=backbone, random_init=random_init)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return entry.build(options)


def describe_models() -> list[dict[str, Any]]:
    """Return name, parameters, trainable_parameters, modalities and weights of each model, without any weights.

    Parameters are counted with one output at the default picture size, on torch's meta device: nothing is allocated.
    They are None for `linear_probe`, which has as many as its backbone has features. Sequence networks are counted
    as `COUNTED_HEAD` says, without the frozen backbone.
    """
    rows: list[dict[str, Any]] = []
    for entry in MODELS.values():
        total, trainable = _count(entry)
        rows.append(
            {
                "name": entry.name,
                "parameters": total,
                "trainable_parameters": trainable,
                "modalities": list(entry.modalities),
                "weights": _weights_state(entry.name),
                "summary": entry.summary,
            }
        )
    return rows


def _count(entry: ModelEntry) -> tuple[int | None, int | None]:
    if isinstance(entry, SequenceEntry):
        with torch.device("meta"):
            network: torch.nn.Module = build_sequence_network(entry.name, shape=COUNTED_HEAD)
    elif entry.build is not None:
        with torch.device("meta"):
            network = entry.build(BuildOptions(1, entry.image_size, random_init=entry.pretrained)).classifier
    else:
        return None, None
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _weights_state(name: str) -> str:
    if name not in PRETRAINED:
        return "none needed"
    wanted = PRETRAINED[name]
    try:
        return f"found: {backbones.find_weights(wanted)}"
    except WeightsError:
        root = weights_directory() or "WEIGHTS_DIR"
        return f"missing: run hf download {wanted.hub_id} --local-dir {root}/{wanted.name}"
