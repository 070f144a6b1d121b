"""The state of a fit after an epoch, so that a killed fit goes on from there and ends with the same weights.

Everything random in an epoch (order of batches, augmentation, mixup, dropout) is drawn from the seed of the phase and
the number of the epoch, never from what ran before; so no generator's state has to be kept. A checkpoint is a folder
with `progress.json` and the safetensors that it names: the tensors are written first, and the JSON replaces its
predecessor in one rename, so that a kill at any time leaves the last checkpoint whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mien.core.errors import UserError
from mien.core.storage import atomic_path, digest_of, read_json, remove_leftovers, write_json
from mien.training.loaders import FrameSet

# Changes whenever a checkpoint of the same fit would be read in another way.
FORMAT = 1
# A fit that loses less than this isn't worth the writing: most phases on stored features are over by then.
EVERY_S = 10.0
# A checkpoint of a large network takes seconds: at most one part in so many of the time goes into writing.
TIMES_ITS_COST = 50.0
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A fit after one of its epochs.

    Attributes:
        phase: Number of the phase, from 0.
        epochs: Epochs of this phase that are done.
        finished: Whether the phase is over.
        batch_size: Pictures per batch, after any halving.
        seconds: Duration of the fit up to here, s.
        lowest: The lowest validation loss of the phase, as early stopping counts it.
        waited: Epochs since it improved.
        best_loss: Validation loss of the best epoch.
        best_epoch: That epoch.
        history: One mapping per epoch of all phases.
        weights: The network's tensors by name; those that no phase trained are left out.
        best: The same of the best epoch.
        moments: The optimiser's tensors per parameter, by its position in the optimiser.
    """

    phase: int
    epochs: int
    finished: bool
    batch_size: int
    seconds: float
    lowest: float
    waited: int
    best_loss: float
    best_epoch: int
    history: list[dict[str, Any]]
    weights: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    moments: Mapping[int, Mapping[str, Tensor]]


NOT_IN_JSON = ("weights", "best", "moments")


class Checkpoints:
    """Where the checkpoint of one fit lies.

    Attributes:
        folder: Its folder; hidden, beside what the fit will write.
        identity: Digest of what decides the fit's result; the checkpoint of another fit is not gone on from.
    """

    def __init__(self, folder: Path, *, identity: str, every_s: float = EVERY_S) -> None:
        self.folder = folder
        self.identity = identity
        self.every_s = every_s
        self._written = time.monotonic()
        self._cost_s = 0.0

    @staticmethod
    def beside(path: Path, *, identity: str) -> Checkpoints:
        """Return the checkpoints of the fit that will write `path`."""
        # One dot: what cleans up after killed writers removes hidden neighbours with two.
        folder = path.with_name(f".checkpoint-{path.name.replace('.', '-')}")
        return Checkpoints(folder, identity=identity, every_s=EVERY_S)

    def of(self, facts: Any) -> Checkpoints:
        """Return the same with an identity that also holds `facts`, a JSON-able value."""
        return Checkpoints(self.folder, identity=digest_of([self.identity, facts]), every_s=self.every_s)

    def read(self, *, say: Callable[[str], None]) -> Progress | None:
        """Return where the fit was, None where it wasn't under way.

        Args:
            say: Called with one line where there is a checkpoint that can't be gone on from, and why.
        """
        path = self.folder / PROGRESS_FILE
        if not path.is_file():
            return None
        try:
            facts = read_json(path)
            if facts["format"] != FORMAT or facts["identity"] != self.identity:
                say("There is a checkpoint of another fit (other settings, data, weights, device or version): not used")
                return None
            tensors = load_file(self.folder / facts["tensors"])
            kept = facts["progress"]
            # JSON has no infinity: before anything improved, the lowest loss is none.
            kept |= {name: math.inf for name in ("lowest", "best_loss") if kept[name] is None}
            return Progress(**kept, **_unflatten(tensors))
        except (UserError, OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            say(f"There is a checkpoint that can't be read ({type(error).__name__}): not used; the fit starts anew")
            return None

    @property
    def due(self) -> bool:
        """Whether enough time has gone by since the last checkpoint."""
        return time.monotonic() - self._written >= max(self.every_s, TIMES_ITS_COST * self._cost_s)

    def write(self, progress: Progress) -> None:
        """Write a checkpoint in place of the last one."""
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        name = f"phase-{progress.phase}-epoch-{progress.epochs}.safetensors"
        with atomic_path(self.folder / name) as temporary:
            save_file(_flatten(progress), temporary)
        kept = {
            field.name: getattr(progress, field.name)
            for field in dataclasses.fields(progress)
            if field.name not in NOT_IN_JSON
        }
        facts = {"format": FORMAT, "identity": self.identity, "tensors": name, "progress": kept}
        write_json(self.folder / PROGRESS_FILE, facts)
        for outdated in self.folder.glob("phase-*.safetensors"):
            if outdated.name != name:
                outdated.unlink()
        self._written = time.monotonic()
        self._cost_s = self._written - started

    def remove(self) -> None:
        """Remove the checkpoint: the fit is done, or starts anew."""
        shutil.rmtree(self.folder, ignore_errors=True)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Return what an optimiser remembers, by the position of the parameter."""
    state = optimizer.state_dict()["state"]
    return {
        int(index): {name: torch.as_tensor(value).cpu() for name, value in entry.items()}
        for index, entry in state.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Give a fresh optimiser what `moments_of` returned; its rates stay its own."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def like(parameter: Tensor, value: Tensor) -> Tensor:
        # Fused kernels walk through memory: a moment has to lie as its parameter does (channels last).
        return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value

    state = {
        index: {name: like(parameters[index], value) for name, value in entry.items()}
        for index, entry in moments.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def frames_digest(frames: FrameSet) -> str:
    """Return a digest of which frames a set holds, in which order, with which targets."""
    digest = hashlib.sha256()
    for column in (frames.targets, frames.recordings, frames.participants):
        digest.update(f"{column.dtype} {column.shape};".encode())
        digest.update(column.tobytes())
    digest.update("\n".join(map(str, frames.ids)).encode())
    return digest.hexdigest()[:16]


def _flatten(progress: Progress) -> dict[str, Tensor]:
    """Name every tensor; safetensors wants them contiguous, and the memory layout is no part of the numbers."""
    tensors = {f"weights/{name}": value for name, value in progress.weights.items()}
    tensors |= {f"best/{name}": value for name, value in progress.best.items()}
    for index, entry in progress.moments.items():
        tensors |= {f"moments/{index}/{name}": value for name, value in entry.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


def _unflatten(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    moments: dict[int, dict[str, Tensor]] = {}
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}}
    for name, value in tensors.items():
        kind, rest = name.split("/", 1)
        if kind == "moments":
            index, field = rest.split("/", 1)
            moments.setdefault(int(index), {})[field] = value
        else:
            parts[kind][rest] = value
    return {**parts, "moments": moments}
