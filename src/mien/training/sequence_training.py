"""One fit of a sequence network under way: AdamW along a half cosine, early stopping, a checkpoint after an epoch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.sequence_parts import SequenceNetwork
from mien.runtime.head import WINDOW_BLOCK
from mien.runtime.material import labels_of
from mien.training.checkpoints import Checkpoints, Progress, moments_of, restore_moments
from mien.training.inference import evaluating
from mien.training.objective import Objective, epoch_score, score_name, score_text
from mien.training.reproducible import Device
from mien.training.sequence_batches import WindowSet
from mien.training.sequence_config import SequenceConfig
from mien.training.sequence_draws import RandomClips, clip_weights, mix_windows


class SequenceFit:
    """One fit under way.

    Attributes:
        network: What is trained.
        sides: The windows of the training participants and of the inner validation.
        history: One mapping per epoch.
        best_epoch: The epoch with the lowest validation loss.
        earlier_s: Seconds that the fit took before it was killed and gone on with.
    """

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
        self.objective = Objective.of(train.frame_set(scheme), scheme=scheme)
        self.step_weights = self.clips.weights_of(train, scheme=scheme)
        self.weights = [clip_weights(windows, scheme=scheme) for windows in self.sides]
        self.targets = [labels_of(windows.clips, scheme=scheme) for windows in self.sides]
        validated = validation.thinned()
        order = np.random.default_rng(seed).permutation(train.thinned())
        self.measured = (np.sort(order[: len(validated)]), validated)
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.earlier_s = 0.0
        self._best, self._lowest, self._waited = math.inf, math.inf, 0
        self._kept: dict[str, Tensor] = {}

    def run(self, say: Callable[[str], None], *, checkpoints: Checkpoints | None = None) -> None:
        """Train; the network is left with its best weights, in eval mode, on the CPU.

        Args:
            say: Called with one line after each epoch.
            checkpoints: Where the state after an epoch is kept, and gone on from where it is there.
        """
        started = time.perf_counter()
        self._standardise()
        self.network.to(self.device)
        optimizer = torch.optim.AdamW(parameter_groups(self.network, weight_decay=self.config.weight_decay), lr=1.0)
        resumed = checkpoints.read(say=say) if checkpoints is not None else None
        if resumed is not None:
            self._go_on(resumed, optimizer)
            say(f"going on after epoch {len(self.history)}")
        while not self._finished:
            self._one_epoch(optimizer, say=say)
            if checkpoints is not None and checkpoints.due:
                checkpoints.write(self._progress(optimizer, seconds=time.perf_counter() - started))
        if not self._kept:
            raise UserError("The validation loss is not a number; lower the learning rate (lr).")
        self.network.cpu().load_state_dict(self._kept)
        few = self.sides[0].inputs(self.measured[0][:4])
        self.objective.fold_into(self.network, examples=[torch.from_numpy(few[n]) for n in self.network.input_names])
        self.network.eval()

    @property
    def _finished(self) -> bool:
        diverged = bool(self.history) and not math.isfinite(self.history[-1]["validation_loss"])
        return diverged or len(self.history) >= self.config.epochs or self._waited >= self.config.patience

    def _one_epoch(self, optimizer: torch.optim.Optimizer, *, say: Callable[[str], None]) -> None:
        epoch, started = len(self.history) + 1, time.perf_counter()
        running = self._epoch(epoch, optimizer)
        row: dict[str, Any] = {"phase": "scratch", "epoch": epoch, **self._measure(), "running_loss": running}
        row |= {"lr": optimizer.param_groups[0]["lr"], "seconds": round(time.perf_counter() - started, 3)}
        self.history.append(row)
        say(f"epoch {epoch}: {score_text(row, kind=self.scheme.kind)}")
        loss = float(row["validation_loss"])
        if not math.isfinite(loss):
            return
        if loss < self._best:
            self._best, self.best_epoch = loss, epoch
            self._kept = self._state()
        self._waited = 0 if loss < self._lowest - self.config.min_delta else self._waited + 1
        self._lowest = min(self._lowest, loss) if self._waited == 0 else self._lowest

    def _state(self) -> dict[str, Tensor]:
        return copy.deepcopy({name: value.cpu() for name, value in self.network.state_dict().items()})

    def _progress(self, optimizer: torch.optim.Optimizer, *, seconds: float) -> Progress:
        return Progress(
            phase=0,
            epochs=len(self.history),
            finished=self._finished,
            batch_size=self.config.batch_size,
            seconds=self.earlier_s + seconds,
            lowest=self._lowest,
            waited=self._waited,
            best_loss=self._best,
            best_epoch=self.best_epoch,
            history=self.history,
            weights=self._state(),
            best=self._kept,
            moments=moments_of(optimizer),
        )

    def _go_on(self, progress: Progress, optimizer: torch.optim.Optimizer) -> None:
        self.network.load_state_dict(progress.weights)
        restore_moments(optimizer, progress.moments)
        self.history += progress.history
        self.earlier_s, self.best_epoch = progress.seconds, progress.best_epoch
        self._best, self._lowest, self._waited = progress.best_loss, progress.lowest, progress.waited
        self._kept = dict(progress.best)

    def _standardise(self) -> None:
        """Take mean and spread of the features of the training participants' clips."""
        train = self.sides[0]
        if not train.spec.feature_dim or train.joined.features is None:
            return
        features = train.joined.features[train.places[train.thinned()]]
        features = features[np.isfinite(features[:, 0])].astype(np.float64)
        if not len(features):
            return
        spread = features.std(axis=0)
        self.network.set_feature_statistics(
            mean=torch.from_numpy(features.mean(axis=0)).float(),
            scale=torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)).float(),
        )

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> float:
        self.network.train()
        self.clips.begin(epoch)
        batches = self.clips.epoch(epoch)
        losses = []
        for number, rows in enumerate(batches):
            done = (epoch - 1 + number / len(batches)) / self.config.epochs
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * 0.5 * (1.0 + math.cos(math.pi * done))
            optimizer.zero_grad()
            loss = self._loss_of(rows, epoch=epoch, batch=number)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.config.clip_norm:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    def _loss_of(self, rows: NDArray[np.int64], *, epoch: int, batch: int) -> Tensor:
        modalities = self.sides[0].spec.modalities
        given = {name: torch.from_numpy(values) for name, values in self.sides[0].inputs(rows).items()}
        given = self.clips.drop_modalities(given, modalities=modalities, epoch=epoch, batch=batch)
        targets, weights = torch.from_numpy(self.targets[0][rows]), torch.from_numpy(self.step_weights[rows])
        mixture = self.clips.mixture(given, modalities=modalities, targets=targets, epoch=epoch, batch=batch)
        if mixture is not None:
            given = mix_windows(given, modalities=modalities, mixture=mixture)
        logits: Tensor = self.network(*(given[name].to(self.device) for name in self.network.input_names))
        targets, weights = targets.to(self.device), weights.to(self.device)
        if mixture is None:
            return self.objective.mean(logits, targets=targets, weights=weights)
        mixture = mixture.to(self.device)
        return self.objective.mixed(logits, mixture=mixture, targets=targets, weights=weights)

    def _measure(self) -> dict[str, float]:
        """Return losses and the score (`score_name`), in eval mode, on evenly spread clips of both sides."""
        found = {}
        for side, name in enumerate(("train", "validation")):
            rows = self.measured[side]
            logits = window_logits(self.network, self.sides[side], rows)
            targets, weights = (torch.from_numpy(part[side][rows]) for part in (self.targets, self.weights))
            found[f"{name}_loss"] = float(
                self.objective.mean(torch.from_numpy(logits), targets=targets, weights=weights)
            )
        true = self.objective.scaled(self.targets[1][rows])
        found[score_name(self.scheme.kind)] = epoch_score(logits, targets=true, scheme=self.scheme)
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


def window_logits(network: SequenceNetwork, windows: WindowSet, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the logits (N, num_outputs) of some clips, in eval mode, in the memory of one block of windows."""
    parts = [
        logits_of(network, windows.inputs(rows[start : start + WINDOW_BLOCK]))
        for start in range(0, len(rows), WINDOW_BLOCK)
    ]
    return np.concatenate(parts)


def logits_of(network: SequenceNetwork, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the logits (N, num_outputs) of windows, in eval mode."""
    device = next(network.parameters()).device
    with evaluating(network):
        given = [torch.from_numpy(inputs[name]).to(device) for name in network.input_names]
        logits: Tensor = network(*given)
    return np.asarray(logits.cpu().numpy())
