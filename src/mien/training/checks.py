"""What can be known before anything is fitted: whether weights are here, settings fit, and a baseline makes sense."""

from __future__ import annotations

import torch

from mien.core.errors import RefusedError, UserError, WeightsError
from mien.core.labels import Unit
from mien.core.storage import digest_of, sha256_file
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.data.perceivable import check_there
from mien.models.backbones import WEIGHTS_FILE, find_weights
from mien.models.choice import ModelChoice
from mien.models.hub_encoder import HubEncoder
from mien.models.hub_sound_encoder import HubSoundEncoder, is_sound_backbone, open_sound_encoder
from mien.models.onnx_writer import count_parameters
from mien.models.registry import PRETRAINED, build_model, find_sequence_entry
from mien.runtime.encoders import Encoder, OnnxEncoder, find_encoder
from mien.runtime.material import Material, check_rest_segment
from mien.runtime.sound_encoders import AnyEncoder, SoundEncoder
from mien.training.activations import frozen_modules
from mien.training.sequence_batches import window_spec
from mien.training.settings import FitSettings


def check_model(choice: ModelChoice, *, dataset: Dataset, settings: FitSettings) -> None:
    """Check that a model's weights are there and its settings fit, before anything is run.

    Raises:
        UserError: Weights or files that can't be had, or settings that the model or the dataset can't take.
    """
    try:
        check_there(dataset, needs=choice.needs | choice.seeing)
    except UserError as error:
        raise UserError(f"{choice.text}: {error}") from error
    if choice.listens:
        open_encoder(choice)
        return
    if choice.is_sequence:
        window_spec(
            find_sequence_entry(choice.name),
            dataset=dataset,
            config=settings.for_sequence(choice.name),
            encoder=open_picture_encoder(choice) if choice.has_frozen_encoder else None,
            listener=open_listener(choice, settings=settings),
        )
        if not choice.has_frozen_encoder:
            return
    frozen = choice.has_frozen_encoder
    crop = open_picture_encoder(choice).spec.crop if frozen else settings.for_model(choice.name).crop
    if dataset.margin is not None and crop > dataset.margin:
        raise UserError(
            f"{choice.text} looks at {crop:g} times the face box, but the dataset's crops hold {dataset.margin:g}. "
            "Set a smaller crop (in the settings, or in the ONNX's sidecar)."
        )
    if frozen:
        return
    if choice.backbone is not None and choice.backbone.endswith(".onnx"):
        raise UserError(f"{choice.text}: a network needs PyTorch weights; an ONNX file serves linear_probe only.")
    config = settings.for_model(choice.name)
    with torch.device("meta"):
        # Weights are looked up and read, but no memory is given to the rest.
        built = build_model(
            choice.name,
            num_outputs=1,
            image_size=config.image_size,
            backbone=choice.backbone,
            random_init=settings.random_init,
        )
    if built.pretrained and config.num_open is not None:
        frozen_modules(built.classifier, num_open=config.num_open)


def check_baseline(choice: ModelChoice, *, dataset: Dataset, clips: ClipIndex) -> None:
    """Refuse a personal baseline where it would erase the label, or has too little to stand on.

    Raises:
        UserError: A named segment that the study doesn't have.
        RefusedError: A recording is too short, the label is constant within (nearly) every recording, or one label
            describes a recording or participant.
    """
    if choice.baseline.kind == "none":
        return
    check_rest_segment(Material(dataset, clips), baseline=choice.baseline)
    if clips.scheme.unit in ("recording", "participant"):
        raise RefusedError(
            [
                f"{choice.text}: one label of {clips.scheme.target!r} describes a {clips.scheme.unit}, and a personal "
                "baseline erases exactly what is constant in a recording. Use it without."
            ]
        )
    seconds = (clips.table["end_s"] - clips.table["start_s"]).groupby(clips.table["recording_id"]).sum()
    needed_s = choice.baseline.needed_s
    short = seconds[seconds < needed_s]
    if len(short):
        raise RefusedError(
            [
                f"{choice.text}: {len(short)} of {len(seconds)} recordings have less than {needed_s:g} s with a face "
                f"({short.index[0]}: {short.iloc[0]:.1f} s), too little for a personal baseline. Use it without."
            ]
        )
    varying = clips.table.groupby("recording_id")["target"].nunique() > 1
    if varying.mean() < 0.1:
        raise RefusedError(
            [
                f"{choice.text}: {clips.scheme.target!r} is constant in {int((~varying).sum())} of {len(varying)} "
                "recordings, and a personal baseline erases exactly what is constant in a recording. Use it without."
            ]
        )


def open_encoder(choice: ModelChoice) -> AnyEncoder:
    """Open the frozen encoder of a probe, of pictures or of sound, or that of a sequence network's frames.

    Raises:
        UserError: Nothing is found under that name.
    """
    if choice.listens:
        assert choice.backbone is not None
        return open_sound_encoder(choice.backbone)
    return open_picture_encoder(choice)


def open_listener(choice: ModelChoice, *, settings: FitSettings, unit: Unit = "frame") -> SoundEncoder | None:
    """Open the frozen encoder of sound of a sequence network that listens; None where its settings name none.

    Args:
        choice: The model.
        settings: How models are fitted; `audio_backbone` of this one counts.
        unit: What one label describes: it decides how much of the sound one feature is of.

    Raises:
        UserError: Nothing is found under that name.
    """
    if not choice.is_sequence or "audio" not in find_sequence_entry(choice.name).modalities:
        return None
    name = settings.for_sequence(choice.name).audio_backbone
    return None if name is None else open_sound_encoder(name).windowed(unit)


def open_picture_encoder(choice: ModelChoice) -> Encoder:
    """Open the frozen encoder of pictures of a probe or of a sequence network.

    Raises:
        UserError: Nothing is found under that name.
    """
    assert choice.backbone is not None
    encoder = find_encoder(choice.backbone)
    if encoder is not None:
        return encoder
    if is_sound_backbone(choice.backbone):
        raise UserError(
            f"{choice.text}: {choice.backbone} is an encoder of sound, and {choice.name} wants one of pictures before "
            "the @ (such as @hog). multimodal_fusion takes one of sound by the setting audio_backbone."
        )
    try:
        return HubEncoder.open(choice.backbone)
    except WeightsError as error:
        known = "A backbone is hog, a path to model.onnx, a folder of the weights directory that holds an ONNX, or a"
        raise WeightsError(f"{choice.text}: {error} {known} Hugging Face folder or id.") from error


def frozen_parameters(encoder: AnyEncoder) -> int:
    """Return the number of parameters of a frozen encoder."""
    if isinstance(encoder, OnnxEncoder):
        return count_parameters(encoder.path)
    return encoder.num_parameters if isinstance(encoder, HubEncoder | HubSoundEncoder) else 0


def weights_digest(choice: ModelChoice, *, settings: FitSettings) -> str | None:
    """Return a digest of the pretrained weights of a model, None where it has none: other weights, other results."""
    listener = open_listener(choice, settings=settings)
    if listener is not None:
        own = open_encoder(choice).digest if choice.has_frozen_encoder else None
        return digest_of([own, listener.digest])
    if choice.has_frozen_encoder:
        return open_encoder(choice).digest
    wanted = PRETRAINED.get(choice.name)
    if wanted is None or settings.random_init:
        return None
    return sha256_file(find_weights(wanted, backbone=choice.backbone) / WEIGHTS_FILE)
