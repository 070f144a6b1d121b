"""Fits a sequence network on windows of frozen features, sound and signals: one phase, AdamW, early stopping."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file as save_tensors
from torch.utils.flop_counter import FlopCounterMode

from mien.evaluation.prevalence import resampled_sweep
from mien.evaluation.probe import Probe
from mien.models.choice import ModelChoice
from mien.models.classifier import scale_dropout
from mien.models.registry import build_sequence_network, find_sequence_entry
from mien.models.sequence_parts import HeadShape, SequenceNetwork, example_inputs
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import Encoder
from mien.runtime.material import UNLABELLED, Material
from mien.runtime.sound_encoders import AnyEncoder, SoundEncoder
from mien.runtime.windows import WindowSpec
from mien.training.activations import digest_state
from mien.training.checkpoints import Checkpoints, frames_digest
from mien.training.checks import frozen_parameters, open_listener, open_picture_encoder
from mien.training.inference import evaluating
from mien.training.phases import device_name
from mien.training.probe_readings import read_frames
from mien.training.reproducible import reproducible
from mien.training.sequence_batches import WindowSet, window_spec
from mien.training.sequence_training import SequenceFit, logits_of, window_logits
from mien.training.settings import FitSettings

SWEEP_CLIPS, SWEEP_DRAWS = 40, 2
"""A sweep runs the network prevalences x draws times over a participant's clips: so many of each suffice."""


@dataclass(frozen=True)
class FittedSequence:
    """A sequence network with the frozen encoder whose features it looks at.

    Attributes:
        material: What it was fitted on.
        choice: The model as it was asked for.
        encoder: The frozen encoder; None for a model that doesn't look at frames.
        network: The head, in eval mode on the CPU.
        windows: How its windows are cut.
        history: One mapping per epoch, as `FitResult.history`.
        best_epoch: The epoch whose weights were kept.
        seconds: Duration of the fit.
        device: Where it ran.
        model_facts: Parameters, size, operations, weights, settings.
        sound_encoder: The frozen encoder whose features it listens to; None where it listens to the spectrogram.
        inner_network: The same by weights that never saw the inner split; None where `network` didn't either.
    """

    material: Material
    choice: ModelChoice
    encoder: Encoder | None
    network: SequenceNetwork
    windows: WindowSpec
    history: list[dict[str, Any]]
    best_epoch: int
    seconds: float
    device: str
    model_facts: dict[str, Any]
    sound_encoder: SoundEncoder | None = None
    inner_network: SequenceNetwork | None = None

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        return self._predict(self.network, participants)

    def predict_inner(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the same by weights that never saw the inner split, which only says when to stop."""
        return self._predict(self.network if self.inner_network is None else self.inner_network, participants)

    def _predict(
        self, network: SequenceNetwork, participants: Sequence[str]
    ) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        windows = self._windows_of(participants, baseline=self.choice.baseline)
        logits = window_logits(network, windows, np.arange(len(windows)))
        return windows.clips, logits.astype(np.float64)

    def sweep(self, participants: Sequence[str], *, seed: int) -> pd.DataFrame:
        """Score participants at other shares of positives (`resampled_sweep`).

        A frame that is drawn brings its own neighbours along; what is drawn decides what is subtracted from them all.
        """
        windows = self._windows_of(participants, baseline=PersonalBaseline())
        chosen = _evenly(windows.clips, num=SWEEP_CLIPS)
        inputs = windows.inputs(chosen)
        frames = windows.clips.iloc[chosen].rename(columns={"start_s": "pts_s"}).reset_index(drop=True)
        centre = inputs["features"][:, self.windows.sequence_length // 2].astype(np.float64)
        # The last column says which clip a row is; the baseline leaves it alone.
        numbered = np.column_stack([centre, np.arange(len(centre))])

        def logits(personal: NDArray[np.float64]) -> NDArray[np.float64]:
            rows = personal[:, -1].astype(np.int64)
            shift = (centre[rows] - personal[:, :-1]).astype(np.float32)
            given = {name: values[rows] for name, values in inputs.items()}
            given["features"] = (given["features"] - shift[:, None]) * given["frame_mask"][:, :, None]
            return logits_of(self.network, given).astype(np.float64)

        baseline = _NumberedBaseline(**dataclasses.asdict(self.choice.baseline))
        return resampled_sweep(numbered, frames, logits=logits, baseline=baseline, seed=seed, draws=SWEEP_DRAWS)

    def facts(self) -> dict[str, Any]:
        """Return what `fit.json` holds."""
        return {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "device": self.device,
            "batch_size": self.model_facts["settings"]["batch_size"],
            "model_facts": self.model_facts,
        }

    def save_weights(self, path: Path) -> None:
        """Write the best weights of the head; the encoder is as it came."""
        state = self.network.state_dict()
        save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}, path)

    def _windows_of(self, participants: Sequence[str], *, baseline: PersonalBaseline) -> WindowSet:
        return WindowSet.of(
            self.material,
            participants,
            spec=self.windows,
            encoder=self.encoder,
            baseline=baseline,
            listener=self.sound_encoder,
        )


class _NumberedBaseline(PersonalBaseline):
    """A personal baseline over features whose last column is a number that stays."""

    def subtract(
        self,
        features: NDArray[np.floating],
        *,
        pts_s: NDArray[np.floating],
        reference: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Subtract the baseline of one recording from all columns but the last."""
        personal = super().subtract(features[:, :-1], pts_s=pts_s, reference=reference)
        return np.column_stack([personal, features[:, -1]])


def fit_sequence(
    choice: ModelChoice,
    material: Material,
    *,
    train: Sequence[str],
    validation: Sequence[str],
    settings: FitSettings,
    seed: int,
    on_epoch: Callable[[str], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> FittedSequence:
    """Fit a sequence network on training participants.

    Same seed and machine, same weights to the last bit (on a CPU), killed in between or not.

    Args:
        choice: The model.
        material: The dataset and the clips of the target.
        train: Participants that weights are fitted on.
        validation: Participants of the inner split, for early stopping.
        settings: How models are fitted.
        seed: Seed of weights, batches and dropout.
        on_epoch: Called with one line after each epoch.
        checkpoints: Where the fit's state is kept after an epoch, and gone on from where it is there. Who has stored
            the result removes it. None keeps nothing.

    Raises:
        UserError: No recording has what the model looks at, a single class, or a loss that isn't a number.
    """
    started = time.perf_counter()
    entry, config = find_sequence_entry(choice.name), settings.for_sequence(choice.name)
    scheme = material.clips.scheme
    encoder = open_picture_encoder(choice) if entry.needs_encoder else None
    listener = open_listener(choice, settings=settings, unit=scheme.unit)
    spec = window_spec(
        entry, dataset=material.dataset, config=config, encoder=encoder, listener=listener, unit=scheme.unit
    )
    sides = [
        WindowSet.of(material, people, spec=spec, encoder=encoder, baseline=choice.baseline, listener=listener)
        for people in (train, validation)
    ]
    readings = None
    if config.frame_input == "probe" and sides[0].joined.features is not None:
        readings = read_frames(*sides, scheme=scheme, config=settings.probe, seed=seed)
        sides = [readings.train, readings.validation]
    shape = HeadShape.of(
        sides[0].spec, num_outputs=scheme.num_outputs, fusion=config.fusion, is_read=readings is not None
    )
    network = build_sequence_network(choice.name, shape=shape, seed=seed)
    scale_dropout(network, factor=config.dropout)
    fit = SequenceFit(network, train=sides[0], validation=sides[1], scheme=scheme, config=config, seed=seed)
    if checkpoints is not None:
        encoders = [None if each is None else each.digest for each in (encoder, listener)]
        checkpoints = checkpoints.of(_identity(choice, fit=fit, spec=spec, encoders=encoders))
    with reproducible(fit.device):
        fit.run(
            lambda line: on_epoch(f"{choice.label} {line}") if on_epoch is not None else None, checkpoints=checkpoints
        )
    inner = network
    if readings is not None:
        inner = copy.deepcopy(network)
        for part, probe in ((inner, readings.inner), (network, readings.final)):
            _put_in_front(part, probe)
    facts = sequence_facts(network, spec, encoders=[each for each in (encoder, listener) if each is not None])
    settings_json = dataclasses.asdict(config) | {"windows": spec.to_json()}
    return FittedSequence(
        material,
        choice,
        encoder,
        network,
        spec,
        history=fit.history,
        best_epoch=fit.best_epoch,
        seconds=round(fit.earlier_s + time.perf_counter() - started, 3),
        device=device_name(fit.device),
        model_facts={**facts, "settings": settings_json},
        sound_encoder=listener,
        inner_network=None if readings is None else inner,
    )


def _put_in_front(network: SequenceNetwork, probe: Probe) -> None:
    weight = probe.coef / probe.scale
    bias = probe.intercept - weight @ probe.mean
    network.set_front(weight=torch.from_numpy(weight).float(), bias=torch.from_numpy(bias).float())


def _identity(
    choice: ModelChoice, *, fit: SequenceFit, spec: WindowSpec, encoders: Sequence[str | None]
) -> dict[str, Any]:
    """Return what decides the weights of a fit, beside the files of the dataset."""
    return {
        "model": choice.text,
        "initial_weights": digest_state(fit.network),
        "sides": [frames_digest(windows.frame_set(fit.scheme)) for windows in fit.sides],
        "windows": spec.to_json(),
        "encoders": list(encoders),
        "scheme": dataclasses.asdict(fit.scheme),
        "config": dataclasses.asdict(fit.config),
        "seed": fit.seed,
        "device": device_name(fit.device),
        "torch": torch.__version__,
        "mien": version("mien"),
    }


def sequence_facts(network: SequenceNetwork, spec: WindowSpec, *, encoders: Sequence[AnyEncoder]) -> dict[str, Any]:
    """Return what a sequence network costs (operations of the head, per window) and where its encoders come from."""
    trainable = sum(parameter.numel() for parameter in network.parameters())
    frozen = sum(frozen_parameters(encoder) for encoder in encoders)
    counter = FlopCounterMode(display=False)
    with evaluating(network), counter:
        network(*example_inputs(spec, num=1).values())
    return {
        "parameters": trainable + frozen,
        "trainable_parameters": trainable,
        "frozen_parameters": frozen,
        "size_mb": round((trainable + frozen) * 4 / 2**20, 3),
        "flops": int(counter.get_total_flops()),
        "memory_mb": None,
        "weights_note": "; ".join(filter(None, [str(getattr(each, "weights_note", "")) for each in encoders])),
        "weights_source": "; ".join(each.spec.source for each in encoders) or "none",
        "licence": "; ".join(each.spec.licence for each in encoders) or "none needed",
    }


def _evenly(clips: pd.DataFrame, *, num: int) -> NDArray[np.int64]:
    """Return at most `num` labelled clips of each recording, evenly spread."""
    labelled = clips["target"].to_numpy() != UNLABELLED
    parts = []
    for rows in clips.groupby("recording_id", sort=False).indices.values():
        own = rows[labelled[rows]]
        parts.append(own[:: max(1, -(-len(own) // num))])
    return np.sort(np.concatenate(parts)).astype(np.int64)
