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

from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.prevalence import resampled_sweep
from mien.evaluation.probe import Probe, fit_probe
from mien.models.choice import ModelChoice
from mien.models.classifier import BuiltModel
from mien.models.complexity import complexity
from mien.models.registry import MODELS, build_model
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.material import (
    UNLABELLED,
    Material,
    is_labelled,
    labels_of,
    probe_features,
    subtract_baseline,
)
from mien.runtime.sound_encoders import AnyEncoder, SoundEncoder
from mien.training.checkpoints import Checkpoints
from mien.training.checks import frozen_parameters, open_encoder
from mien.training.config import TrainConfig
from mien.training.fit import FitResult, fit_network, predict_features, predict_stored_features
from mien.training.frame_sets import make_frame_set
from mien.training.loaders import FrameSet
from mien.training.sequence_fit import FittedSequence, fit_sequence
from mien.training.settings import FitSettings


class FittedModel(Protocol):
    """A model after its fit."""

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants (rows of the index) and their logits (N, num_outputs)."""
        ...

    def predict_inner(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the same for the participants of the inner split, by a model whose weights never saw them."""
        ...

    def sweep(self, participants: Sequence[str], *, seed: int) -> pd.DataFrame:
        """Score participants at other shares of positives, the personal baseline pulled along (`resampled_sweep`)."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds: history, seconds, device, model_facts (parameters, size, FLOPs, weights)."""
        ...

    def save_weights(self, path: Path) -> None:
        """Write what was fitted, as safetensors."""
        ...


@dataclass(frozen=True)
class FittedProbe:
    """A linear probe with its frozen encoder."""

    material: Material
    choice: ModelChoice
    encoder: AnyEncoder
    probe: Probe
    inner_probe: Probe
    seconds: float

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        return self._predict(self.probe, participants)

    def predict_inner(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the same by the probe that was fitted without the participants of the inner split."""
        return self._predict(self.inner_probe, participants)

    def sweep(self, participants: Sequence[str], *, seed: int) -> pd.DataFrame:
        """Score participants at other shares of positives (`resampled_sweep`)."""
        frames, features = probe_features(
            self.material, participants, encoder=self.encoder, baseline=PersonalBaseline()
        )
        baseline = self.choice.baseline
        return resampled_sweep(features, frames, logits=self.probe.logits, baseline=baseline, seed=seed)

    def _predict(self, probe: Probe, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        frames, features = probe_features(
            self.material, participants, encoder=self.encoder, baseline=self.choice.baseline
        )
        return _clip_rows(self.material, frames, probe.logits(features))

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds."""
        trainable = int(self.probe.coef.size + self.probe.intercept.size)
        frozen = frozen_parameters(self.encoder)
        weights_note = str(getattr(self.encoder, "weights_note", ""))
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
                "settings": _looks_at(self.encoder),
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
    config: TrainConfig

    @property
    def crop(self) -> float:
        """Side of what the network looks at, as a multiple of the face box."""
        return self.config.crop

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        frames, features = self._features(participants)
        personal = subtract_baseline(features, frames, baseline=self.choice.baseline)
        return _clip_rows(self.material, frames, self._head(personal))

    def sweep(self, participants: Sequence[str], *, seed: int) -> pd.DataFrame:
        """Score participants at other shares of positives (`resampled_sweep`)."""
        frames, features = self._features(participants)
        return resampled_sweep(features, frames, logits=self._head, baseline=self.choice.baseline, seed=seed)

    def _features(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        frames = self.material.frames_of(participants)
        frame_set = make_frame_set(self.material, frames, size_px=self.built.image_size, crop=self.crop)
        batch_size, prefix = self.result.batch_size, self.result.prefix
        if prefix is None:
            return frames, predict_features(self.built.classifier, frame_set, batch_size=batch_size)
        limit_gb = self.config.activations_gb
        return frames, predict_stored_features(prefix, frame_set, batch_size=batch_size, limit_gb=limit_gb, say=say)

    def _head(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits: NDArray[np.float32] = self.built.classifier.head(
                torch.from_numpy(features.astype(np.float32))
            ).numpy()
        return logits.astype(np.float64)

    def predict_inner(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the same: a network's weights never see the inner split, which only says when to stop."""
        return self.predict(participants)

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
    checkpoints: Checkpoints | None = None,
) -> FittedProbe | FittedNetwork | FittedSequence:
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
        checkpoints: Where a network's fit keeps its state after an epoch, to be gone on from when it is killed.
    """
    material = Material(dataset, clips)
    if choice.is_probe:
        return _fit_probe(choice, material, train=train, validation=validation, settings=settings)
    if choice.is_sequence:
        return fit_sequence(
            choice,
            material,
            train=train,
            validation=validation,
            settings=settings,
            seed=seed,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )
    return _fit_network(
        choice,
        material,
        train=train,
        validation=validation,
        settings=settings,
        seed=seed,
        on_epoch=on_epoch,
        checkpoints=checkpoints,
    )


def _fit_probe(
    choice: ModelChoice,
    material: Material,
    *,
    train: Sequence[str],
    validation: Sequence[str],
    settings: FitSettings,
) -> FittedProbe:
    """Fit two probes: one on all participants, and one without the inner split, on which models are chosen."""
    started = time.perf_counter()
    encoder = open_encoder(choice)
    if isinstance(encoder, SoundEncoder):
        encoder = encoder.windowed(material.clips.scheme.unit)
    frames, features = probe_features(material, [*train, *validation], encoder=encoder, baseline=choice.baseline)
    targets = labels_of(frames, scheme=material.clips.scheme)
    labelled = is_labelled(targets)
    inner = labelled & frames["participant_id"].isin(train).to_numpy()

    def fit(rows: NDArray[np.bool_]) -> Probe:
        return fit_probe(
            features[rows],
            targets=targets[rows],
            participants=frames["participant_id"].to_numpy(dtype=object)[rows],
            scheme=material.clips.scheme,
            config=settings.probe,
        )

    probe, inner_probe = fit(labelled), fit(inner)
    return FittedProbe(material, choice, encoder, probe, inner_probe, seconds=time.perf_counter() - started)


def _fit_network(
    choice: ModelChoice,
    material: Material,
    *,
    train: Sequence[str],
    validation: Sequence[str],
    settings: FitSettings,
    seed: int,
    on_epoch: Callable[[str], None] | None,
    checkpoints: Checkpoints | None,
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
        checkpoints=checkpoints,
    )
    return FittedNetwork(material, choice, built, result, model_facts=facts, config=config)


def network_facts(built: BuiltModel, *, config_json: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Return a network's complexity and where its weights come from."""
    return {
        **complexity(built.classifier, image_size=built.image_size, batch_size=batch_size),
        "weights_note": built.weights_note,
        "weights_source": built.source,
        "licence": built.licence,
        "settings": config_json,
    }


def _looks_at(encoder: AnyEncoder) -> dict[str, Any]:
    if isinstance(encoder, SoundEncoder):
        return {"window_s": encoder.window_s}
    return {"image_size": encoder.spec.size_px, "crop": encoder.spec.crop}


def _clip_rows(
    material: Material, frames: pd.DataFrame, logits: NDArray[np.float64]
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    is_clip = frames["row"].to_numpy() != UNLABELLED
    return material.clips.table.loc[frames["row"].to_numpy()[is_clip]], logits[is_clip]
