"""One interface over everything that can be fitted: `fit_model` gives a `FittedModel`, whatever the model is.

A fitted model predicts clips of participants through the same three steps that a bundle runs: features of all face
frames of a recording, minus the personal baseline, through the head.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from mien.core.errors import RefusedError, UserError, WeightsError
from mien.core.labels import LabelScheme
from mien.core.storage import sha256_file
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.models.backbones import WEIGHTS_FILE, find_weights
from mien.models.choice import ModelChoice
from mien.models.classifier import BuiltModel
from mien.models.complexity import complexity
from mien.models.hub_encoder import HubEncoder
from mien.models.onnx_writer import count_parameters
from mien.models.registry import MODELS, PRETRAINED, build_model
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import cached_features, cached_pixels
from mien.runtime.encoders import Encoder, OnnxEncoder, find_encoder
from mien.training.fit import FitResult, fit_network, predict_features
from mien.training.loaders import UNLABELLED, FrameSet
from mien.training.probe import Probe, fit_probe
from mien.training.settings import FitSettings


class FittedModel(Protocol):
    """A model after its fit."""

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants (rows of the index) and their logits (N, num_outputs)."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds: history, seconds, device, model_facts (parameters, size, FLOPs, weights)."""
        ...

    def save_weights(self, path: Path) -> None:
        """Write what was fitted, as safetensors."""
        ...


@dataclass(frozen=True)
class Material:
    """What a model is fitted on: a dataset and the clips of a target.

    Attributes:
        dataset: The dataset.
        clips: The clips of the target.
    """

    dataset: Dataset
    clips: ClipIndex

    def frames_of(self, participants: Sequence[str]) -> pd.DataFrame:
        """Return all frames with a crop of the participants' recordings, labelled or not, in order of time.

        The personal baseline needs those that have no label, too.

        Returns:
            Columns recording_id, participant_id, frame, pts_s, target (`UNLABELLED` where there is none), and row (in
            the clip index, `UNLABELLED` where it is no clip).
        """
        wanted = self.clips.table[self.clips.table["participant_id"].isin(participants)]
        parts = []
        for recording_id, rows in wanted.groupby("recording_id", sort=True):
            name = str(recording_id)
            frames = self.dataset.frames(name)[["frame", "pts_s"]]
            part = frames[self.dataset.has_crop(name)].copy()
            part["recording_id"] = name
            part["participant_id"] = rows["participant_id"].iloc[0]
            position = pd.Series(rows.index.to_numpy(), index=rows["frame"].to_numpy())
            part["row"] = part["frame"].map(position).fillna(UNLABELLED).astype(np.int64)
            targets = pd.Series(rows["target"].to_numpy(), index=rows["frame"].to_numpy())
            part["target"] = part["frame"].map(targets).fillna(UNLABELLED).astype(np.int64)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class FittedProbe:
    """A linear probe with its frozen encoder."""

    material: Material
    choice: ModelChoice
    encoder: Encoder
    probe: Probe
    seconds: float

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        frames, features = probe_features(
            self.material, participants, encoder=self.encoder, baseline=self.choice.baseline
        )
        return _clip_rows(self.material, frames, self.probe.logits(features))

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds."""
        trainable = int(self.probe.coef.size + self.probe.intercept.size)
        frozen = frozen_parameters(self.encoder)
        weights_note = self.encoder.weights_note if isinstance(self.encoder, HubEncoder) else ""
        return {
            "history": [],
            "seconds": self.seconds,
            "device": "cpu",
            "model_facts": {
                "parameters": trainable + frozen,
                "trainable_parameters": trainable,
                "frozen_parameters": frozen,
                "size_mb": (trainable + frozen) * 4 / 2**20,
                "flops": None,
                "memory_mb": None,
                "weights_note": weights_note,
                "weights_source": self.encoder.spec.source,
                "licence": self.encoder.spec.licence,
                "settings": {"image_size": self.encoder.spec.size_px, "crop": self.encoder.spec.crop},
            },
        }

    def save_weights(self, path: Path) -> None:
        """Write mean, scale, coefficients and intercept."""
        arrays = {name: np.ascontiguousarray(value) for name, value in dataclasses.asdict(self.probe).items()}
        save_arrays(arrays, path)


@dataclass(frozen=True)
class FittedNetwork:
    """A network trained end to end."""

    material: Material
    choice: ModelChoice
    built: BuiltModel
    result: FitResult
    model_facts: dict[str, Any]
    crop: float

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        frames = self.material.frames_of(participants)
        frame_set = make_frame_set(self.material, frames, size_px=self.built.image_size, crop=self.crop)
        features = predict_features(self.built.classifier, frame_set, batch_size=self.result.batch_size)
        personal = subtract_baseline(features, frames, baseline=self.choice.baseline)
        with torch.no_grad():
            logits = self.built.classifier.head(torch.from_numpy(personal.astype(np.float32))).numpy()
        return _clip_rows(self.material, frames, logits.astype(np.float64))

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds."""
        return {
            "history": self.result.history,
            "best_epoch": self.result.best_epoch,
            "seconds": self.result.seconds,
            "device": self.result.device,
            "batch_size": self.result.batch_size,
            "model_facts": self.model_facts,
        }

    def save_weights(self, path: Path) -> None:
        """Write the best weights."""
        state = self.built.classifier.state_dict()
        save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, path)


def fit_model(
    choice: ModelChoice,
    *,
    dataset: Dataset,
    clips: ClipIndex,
    train: Sequence[str],
    validation: Sequence[str],
    settings: FitSettings,
    seed: int,
    on_epoch: Callable[[str], None] | None = None,
) -> FittedProbe | FittedNetwork:
    """Fit one model on training participants.

    Args:
        choice: The model.
        dataset: The dataset.
        clips: The clips of the target.
        train: Participants that weights are fitted on.
        validation: Participants of the inner split: early stopping for networks; a probe, which has none, is fitted on
            them too.
        settings: How models are fitted.
        seed: Seed of the fit.
        on_epoch: Called with one line after each epoch.
    """
    material = Material(dataset, clips)
    if choice.is_probe:
        return _fit_probe(choice, material, participants=[*train, *validation], settings=settings)
    return _fit_network(
        choice, material, train=train, validation=validation, settings=settings, seed=seed, on_epoch=on_epoch
    )


def check_model(choice: ModelChoice, *, dataset: Dataset, settings: FitSettings) -> None:
    """Check that a model's weights are there and its settings fit, before anything is run.

    Raises:
        UserError: Weights or files that can't be had, or settings that the model or the dataset can't take.
    """
    crop = open_encoder(choice).spec.crop if choice.is_probe else settings.for_model(choice.name).crop
    if dataset.margin is not None and crop > dataset.margin:
        raise UserError(
            f"{choice.text} looks at {crop:g} times the face box, but the dataset's crops hold {dataset.margin:g}. "
            "Set a smaller crop (in the settings, or in the ONNX's sidecar)."
        )
    if choice.is_probe:
        return
    if choice.backbone is not None and choice.backbone.endswith(".onnx"):
        raise UserError(f"{choice.text}: a network needs PyTorch weights; an ONNX file serves linear_probe only.")
    config = settings.for_model(choice.name)
    with torch.device("meta"):
        # Weights are looked up and read, but no memory is given to the rest.
        build_model(
            choice.name,
            num_outputs=1,
            image_size=config.image_size,
            backbone=choice.backbone,
            random_init=settings.random_init,
        )


def check_baseline(choice: ModelChoice, *, clips: ClipIndex) -> None:
    """Refuse a personal baseline where it would erase the label, or has too little to stand on.

    Raises:
        RefusedError: A recording is too short, or the label is constant within (nearly) every recording.
    """
    if choice.baseline.kind == "none":
        return
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


def open_encoder(choice: ModelChoice) -> Encoder:
    """Open the frozen encoder of a probe.

    Raises:
        UserError: Nothing is found under that name.
    """
    assert choice.backbone is not None
    encoder = find_encoder(choice.backbone)
    if encoder is not None:
        return encoder
    try:
        return HubEncoder.open(choice.backbone)
    except WeightsError as error:
        known = "A backbone is hog, a path to model.onnx, a folder of the weights directory that holds an ONNX, or a"
        raise WeightsError(f"{choice.text}: {error} {known} Hugging Face folder or id.") from error


def weights_digest(choice: ModelChoice, *, settings: FitSettings) -> str | None:
    """Return a digest of the pretrained weights of a model, None where it has none: other weights, other results."""
    if choice.is_probe:
        return open_encoder(choice).digest
    wanted = PRETRAINED.get(choice.name)
    if wanted is None or settings.random_init:
        return None
    return sha256_file(find_weights(wanted, backbone=choice.backbone) / WEIGHTS_FILE)


def frozen_parameters(encoder: Encoder) -> int:
    """Return the number of parameters of a frozen encoder."""
    if isinstance(encoder, OnnxEncoder):
        return count_parameters(encoder.path)
    return encoder.num_parameters if isinstance(encoder, HubEncoder) else 0


def probe_features(
    material: Material, participants: Sequence[str], *, encoder: Encoder, baseline: PersonalBaseline
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return all frames with a crop and their features (N, D), the personal baseline subtracted."""
    frames = material.frames_of(participants)
    parts = [
        np.asarray(cached_features(material.dataset, str(name), encoder=encoder)[rows["frame"].to_numpy()])
        for name, rows in frames.groupby("recording_id", sort=False)
    ]
    return frames, subtract_baseline(np.concatenate(parts), frames, baseline=baseline)


def subtract_baseline(
    features: NDArray[np.floating], frames: pd.DataFrame, *, baseline: PersonalBaseline
) -> NDArray[np.float64]:
    """Subtract the personal baseline recording by recording from features (N, D) of the frames (N rows)."""
    result = np.array(features, dtype=np.float64)
    for rows in frames.groupby("recording_id", sort=False).indices.values():
        result[rows] = baseline.subtract(result[rows], pts_s=frames["pts_s"].to_numpy()[rows])
    return result


def make_frame_set(material: Material, frames: pd.DataFrame, *, size_px: int, crop: float) -> FrameSet:
    """Return frames as a network reads them: pixels are loaded batch by batch from the dataset's cache."""
    names, recordings = np.unique(frames["recording_id"].to_numpy(dtype=str), return_inverse=True)
    pixels = [cached_pixels(material.dataset, str(name), size_px=size_px, crop=crop) for name in names]
    positions = frames["frame"].to_numpy()

    def load(rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        return np.stack([pixels[recordings[row]][positions[row]] for row in rows])

    _, participants = np.unique(frames["participant_id"].to_numpy(dtype=str), return_inverse=True)
    ids = (frames["recording_id"] + "@" + frames["pts_s"].map("{:.3f}".format)).to_numpy(dtype=object)
    return FrameSet(
        load=load,
        targets=frames["target"].to_numpy(np.int64),
        recordings=recordings.astype(np.int64),
        participants=participants.astype(np.int64),
        ids=ids,
    )


def _fit_probe(
    choice: ModelChoice, material: Material, *, participants: Sequence[str], settings: FitSettings
) -> FittedProbe:
    started = time.perf_counter()
    encoder = open_encoder(choice)
    frames, features = probe_features(material, participants, encoder=encoder, baseline=choice.baseline)
    labelled = frames["target"].to_numpy() != UNLABELLED
    probe = fit_probe(
        features[labelled],
        targets=frames["target"].to_numpy(np.int64)[labelled],
        participants=frames["participant_id"].to_numpy(dtype=object)[labelled],
        scheme=material.clips.scheme,
        config=settings.probe,
    )
    return FittedProbe(material, choice, encoder, probe, seconds=time.perf_counter() - started)


def _fit_network(
    choice: ModelChoice,
    material: Material,
    *,
    train: Sequence[str],
    validation: Sequence[str],
    settings: FitSettings,
    seed: int,
    on_epoch: Callable[[str], None] | None,
) -> FittedNetwork:
    config = settings.for_model(choice.name)
    scheme: LabelScheme = material.clips.scheme
    built = build_model(
        choice.name,
        num_outputs=scheme.num_outputs,
        image_size=config.image_size,
        backbone=choice.backbone,
        random_init=settings.random_init,
        seed=seed,
    )
    facts = network_facts(
        built,
        config_json=dataclasses.asdict(config),
        batch_size=config.batch_size or MODELS[choice.name].batch_size,
    )

    def frames_of(participants: Sequence[str]) -> FrameSet:
        # Frames without a label are among them: the personal baseline must not depend on labels.
        frames = material.frames_of(participants)
        return make_frame_set(material, frames, size_px=built.image_size, crop=config.crop)

    result = fit_network(
        built,
        train=frames_of(train),
        validation=frames_of(validation),
        scheme=scheme,
        config=config,
        baseline="recording" if choice.baseline.kind == "recording" else "none",
        seed=seed,
        on_epoch=on_epoch,
    )
    return FittedNetwork(material, choice, built, result, model_facts=facts, crop=config.crop)


def network_facts(built: BuiltModel, *, config_json: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Return a network's complexity and where its weights come from."""
    return {
        **complexity(built.classifier, image_size=built.image_size, batch_size=batch_size),
        "weights_note": built.weights_note,
        "weights_source": built.source,
        "licence": built.licence,
        "settings": config_json,
    }


def _clip_rows(
    material: Material, frames: pd.DataFrame, logits: NDArray[np.float64]
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    is_clip = frames["row"].to_numpy() != UNLABELLED
    return material.clips.table.loc[frames["row"].to_numpy()[is_clip]], logits[is_clip]
