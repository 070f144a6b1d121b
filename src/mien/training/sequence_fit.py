"""Fits a sequence network on windows of frozen features, sound and signals: one phase, AdamW, early stopping."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file as save_tensors
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.prevalence import resampled_sweep
from mien.models.choice import ModelChoice
from mien.models.classifier import scale_dropout
from mien.models.registry import build_sequence_network, find_sequence_entry
from mien.models.sequence_parts import HeadShape, SequenceNetwork, example_inputs
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import Encoder
from mien.runtime.head import WINDOW_BLOCK
from mien.runtime.material import UNLABELLED, Material
from mien.runtime.windows import WindowSpec
from mien.training.checks import frozen_parameters, open_encoder
from mien.training.inference import evaluating
from mien.training.lightning_module import Objective, balanced_accuracy
from mien.training.loaders import class_weights
from mien.training.reproducible import Device, reproducible
from mien.training.sequence_batches import RandomClips, WindowSet, clip_weights, window_spec
from mien.training.sequence_config import SequenceConfig
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

    def predict(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips of participants and their logits."""
        windows = self._windows_of(participants, baseline=self.choice.baseline)
        logits = window_logits(self.network, windows, np.arange(len(windows)))
        return windows.clips, logits.astype(np.float64)

    def predict_inner(self, participants: Sequence[str]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the same: the weights never see the inner split, which only says when to stop."""
        return self.predict(participants)

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
            return _logits_of(self.network, given).astype(np.float64)

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
        return WindowSet.of(self.material, participants, spec=self.windows, encoder=self.encoder, baseline=baseline)


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
) -> FittedSequence:
    """Fit a sequence network on training participants; same seed and machine, same weights (on a CPU).

    Args:
        choice: The model.
        material: The dataset and the clips of the target.
        train: Participants that weights are fitted on.
        validation: Participants of the inner split, for early stopping.
        settings: How models are fitted.
        seed: Seed of weights, batches and dropout.
        on_epoch: Called with one line after each epoch.

    Raises:
        UserError: No recording has what the model looks at, a single class, or a loss that isn't a number.
    """
    started = time.perf_counter()
    entry, config = find_sequence_entry(choice.name), settings.for_sequence(choice.name)
    scheme = material.clips.scheme
    encoder = open_encoder(choice) if entry.needs_encoder else None
    spec = window_spec(entry, dataset=material.dataset, config=config, encoder=encoder)
    shape = HeadShape(scheme.num_outputs, spec.feature_dim, spec.sequence_length, len(spec.signal_names), config.fusion)
    network = build_sequence_network(choice.name, shape=shape, seed=seed)
    scale_dropout(network, factor=config.dropout)
    sides = [
        WindowSet.of(material, people, spec=spec, encoder=encoder, baseline=choice.baseline)
        for people in (train, validation)
    ]
    fit = SequenceFit(network, train=sides[0], validation=sides[1], scheme=scheme, config=config, seed=seed)
    with reproducible(fit.device):
        fit.run(lambda line: on_epoch(f"{choice.label} {line}") if on_epoch is not None else None)
    facts = sequence_facts(network, spec, encoder=encoder)
    settings_json = dataclasses.asdict(config) | {"windows": spec.to_json()}
    return FittedSequence(
        material,
        choice,
        encoder,
        network,
        spec,
        history=fit.history,
        best_epoch=fit.best_epoch,
        seconds=round(time.perf_counter() - started, 3),
        device="cpu" if fit.device == "cpu" else torch.cuda.get_device_name(),
        model_facts={**facts, "settings": settings_json},
    )


def window_logits(network: SequenceNetwork, windows: WindowSet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits (N, num_outputs) of some clips, in eval mode, in the memory of one block of windows."""
    parts = [
        _logits_of(network, windows.inputs(rows[start : start + WINDOW_BLOCK]))
        for start in range(0, len(rows), WINDOW_BLOCK)
    ]
    return np.concatenate(parts)


def _logits_of(network: SequenceNetwork, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    with evaluating(network):
        given = [torch.from_numpy(inputs[name]).to(device) for name in network.input_names]
        logits: Tensor = network(*given)
    return np.asarray(logits.cpu().numpy())


class SequenceFit:
    """One fit under way."""

    def __init__(
        self,
        network: SequenceNetwork,
        *,
        train: WindowSet,
        validation: WindowSet,
        scheme: LabelScheme,
        config: SequenceConfig,
        seed: int,
    ) -> None:
        for name, windows in (("training", train), ("validation", validation)):
            if not len(windows):
                raise UserError(
                    f"No labelled {name} frames for {scheme.target!r}; use fewer folds or more participants."
                )
        self.network = network
        self.sides = (train, validation)
        self.scheme = scheme
        self.config = config
        self.device: Device = "cuda" if torch.cuda.is_available() else "cpu"
        self.seed = seed
        self.clips = RandomClips(train, config=config, seed=seed)
        self.objective = Objective(scheme.kind, torch.from_numpy(class_weights(train.frame_set(), scheme=scheme)))
        self.weights = [clip_weights(windows) for windows in self.sides]
        self.targets = [windows.clips["target"].to_numpy(np.int64) for windows in self.sides]
        validated = validation.thinned()
        order = np.random.default_rng(seed).permutation(train.thinned())
        self.measured = (np.sort(order[: len(validated)]), validated)
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0

    def run(self, say: Callable[[str], None]) -> None:
        """Train; the network is left with its best weights, in eval mode, on the CPU."""
        torch.manual_seed(self.seed)
        self._standardise()
        self.network.to(self.device)
        optimizer = torch.optim.AdamW(parameter_groups(self.network, weight_decay=self.config.weight_decay), lr=1.0)
        best, lowest, waited = math.inf, math.inf, 0
        kept: dict[str, Tensor] = {}
        for epoch in range(1, self.config.epochs + 1):
            started = time.perf_counter()
            running = self._epoch(epoch, optimizer)
            row: dict[str, Any] = {"phase": "scratch", "epoch": epoch, **self._measure(), "running_loss": running}
            row |= {"lr": optimizer.param_groups[0]["lr"], "seconds": round(time.perf_counter() - started, 3)}
            self.history.append(row)
            loss = float(row["validation_loss"])
            say(
                f"epoch {epoch}: train loss {row['train_loss']:.3f}, validation loss {loss:.3f}, balanced accuracy "
                f"{row['validation_balanced_accuracy']:.3f}"
            )
            if not math.isfinite(loss):
                break
            if loss < best:
                best, self.best_epoch = loss, epoch
                kept = copy.deepcopy({name: value.cpu() for name, value in self.network.state_dict().items()})
            waited = 0 if loss < lowest - self.config.min_delta else waited + 1
            lowest = min(lowest, loss) if waited == 0 else lowest
            if waited >= self.config.patience:
                break
        if not kept:
            raise UserError("The validation loss is not a number; lower the learning rate (lr).")
        self.network.cpu().load_state_dict(kept)
        self.network.eval()

    def _standardise(self) -> None:
        """Take mean and spread of the features of the training participants' clips."""
        train = self.sides[0]
        if not train.spec.feature_dim:
            return
        rows = train.thinned()
        names = train.clips["recording_id"].to_numpy(dtype=object)[rows]
        frames = train.clips["frame"].to_numpy(np.int64)[rows]
        parts = [
            view.features[frames[names == name]] for name, view in train.views.items() if view.features is not None
        ]
        if not parts:
            return
        features = np.concatenate(parts)
        features = features[np.isfinite(features[:, 0])].astype(np.float64)
        spread = features.std(axis=0)
        self.network.set_feature_statistics(
            mean=torch.from_numpy(features.mean(axis=0)).float(),
            scale=torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)).float(),
        )

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> float:
        self.network.train()
        batches = self.clips.epoch()
        losses = []
        for number, rows in enumerate(batches):
            done = (epoch - 1 + number / len(batches)) / self.config.epochs
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
            optimizer.zero_grad()
            loss = self._loss_of(rows)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.config.clip_norm:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _loss_of(self, rows: NDArray[np.int64]) -> Tensor:
        train = self.sides[0]
        given = {name: torch.from_numpy(values) for name, values in train.inputs(rows).items()}
        given = self.clips.drop_modalities(given, modalities=train.spec.modalities)
        logits: Tensor = self.network(*(given[name].to(self.device) for name in self.network.input_names))
        targets, weights = (torch.from_numpy(part[0][rows]).to(self.device) for part in (self.targets, self.weights))
        return self.objective.mean(logits, targets=targets, weights=weights)

    def _measure(self) -> dict[str, float]:
        """Return losses and balanced accuracy, in eval mode, on evenly spread clips of both sides."""
        found = {}
        for side, name in enumerate(("train", "validation")):
            rows = self.measured[side]
            logits = window_logits(self.network, self.sides[side], rows)
            targets, weights = (torch.from_numpy(part[side][rows]) for part in (self.targets, self.weights))
            found[f"{name}_loss"] = float(
                self.objective.mean(torch.from_numpy(logits), targets=targets, weights=weights)
            )
        predicted = self.scheme.predicted(self.scheme.probabilities(logits))
        found["validation_balanced_accuracy"] = balanced_accuracy(self.targets[1][rows], predicted=predicted)
        return found


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return matrices with weight decay; biases, norms, positions and pooling weights without."""
    plain_names = ("positions", "nothing", "scores")
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in plain_names
        (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def sequence_facts(network: SequenceNetwork, spec: WindowSpec, *, encoder: Encoder | None) -> dict[str, Any]:
    """Return what a sequence network costs (operations of the head, per window) and where its encoder comes from."""
    trainable = sum(parameter.numel() for parameter in network.parameters())
    frozen = 0 if encoder is None else frozen_parameters(encoder)
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
        "weights_note": getattr(encoder, "weights_note", ""),
        "weights_source": "none" if encoder is None else encoder.spec.source,
        "licence": "none needed" if encoder is None else encoder.spec.licence,
    }


def _evenly(clips: pd.DataFrame, *, num: int) -> NDArray[np.int64]:
    """Return at most `num` labelled clips of each recording, evenly spread."""
    labelled = clips["target"].to_numpy() != UNLABELLED
    parts = []
    for rows in clips.groupby("recording_id", sort=False).indices.values():
        own = rows[labelled[rows]]
        parts.append(own[:: max(1, -(-len(own) // num))])
    return np.sort(np.concatenate(parts)).astype(np.int64)
