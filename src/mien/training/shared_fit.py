"""A fit by several processes, one per device: started from any call, with nothing to be run again.

Each process gets the same task and trains the same network on its part of every batch; gradients are averaged by
Lightning's DDP. The first process measures, keeps checkpoints and says what happens; its result is the fit's. Weights
come back as safetensors in a temporary folder, which also holds the file through which the processes find each other.

Same batches, same draws of augmentation, same gradients but for the order of sums. Not the same: dropout and the
partners of mixup, which each process draws for its own part, and on CPUs the running statistics of BatchNorm, which are
those of a part (on GPUs they are of the whole batch).
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mien.core.errors import MienError, UserError
from mien.core.labels import LabelScheme
from mien.core.storage import read_json, write_json
from mien.models.classifier import BuiltModel
from mien.runtime.cache import cached_pixels
from mien.training.activations import Prefix
from mien.training.checkpoints import Checkpoints
from mien.training.config import TrainConfig
from mien.training.devices import COLLECTIVE_TIMEOUT
from mien.training.lightning_module import Best
from mien.training.loaders import FrameSet, Origin
from mien.training.phases import OUT_OF_MEMORY, PhasedFit, Sides
from mien.training.reproducible import quiet, reproducible

RESULT = "result.json"
WEIGHTS = "weights.safetensors"
BLOCK = 256
# How long a process may take to end once it has said that it is done, s.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class StoredPixels:
    """Pixels (N, S, S, 3) uint8 in a `.npy`, read memory-mapped by whoever asks."""

    path: str

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels (n, S, S, 3) of rows (n,)."""
        return np.asarray(np.load(self.path, mmap_mode="r")[rows])


@dataclass(frozen=True)
class CachedPixels:
    """Pixels of a dataset's frames, from its cache of crops."""

    origin: Origin
    recordings: NDArray[np.int64]

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels (n, S, S, 3) of rows (n,)."""
        origin = self.origin
        names = [origin.recording_ids[code] for code in self.recordings[rows]]
        opened = {
            name: cached_pixels(origin.dataset, name, size_px=origin.size_px, crop=origin.crop) for name in set(names)
        }
        return np.stack([opened[name][frame] for name, frame in zip(names, origin.frames[rows], strict=True)])


@dataclass(frozen=True)
class Task:
    """What each process is given: all that `PhasedFit` takes, in a form that another process can be sent."""

    built: BuiltModel
    sides: Sides
    scheme: LabelScheme
    config: TrainConfig
    seed: int
    batch_size: int
    checkpoints: Checkpoints | None
    folder: str


def run_shared(fit: PhasedFit) -> None:
    """Run a fit in `config.devices` processes; afterwards it is as if `fit.run` had run here.

    Args:
        fit: A fit that hasn't begun.

    Raises:
        UserError: Fewer GPUs than asked for, a setting that several processes don't take, or what the fit raises.
        RuntimeError: A process failed; what it printed is in the message.
    """
    _check(fit)
    with tempfile.TemporaryDirectory(prefix="mien-fit-") as folder:
        sides = dataclasses.replace(
            fit.sides,
            train=_sendable(fit.sides.train, Path(folder) / "train.npy"),
            validation=_sendable(fit.sides.validation, Path(folder) / "validation.npy"),
        )
        while True:
            task = Task(
                fit.built,
                sides,
                fit.scheme,
                fit.config,
                fit.seed,
                fit.batch_size,
                fit.checkpoints,
                folder=folder,
            )
            try:
                _launch(task, say=fit.on_epoch)
                break
            except _OutOfMemoryError:
                if fit.batch_size <= fit.config.devices:
                    raise UserError(
                        f"{fit.built.name} at {fit.built.image_size} px doesn't fit into memory with one picture per "
                        "device; use a smaller image_size or gradient_checkpointing."
                    ) from None
                fit.batch_size //= 2
                if fit.checkpoints is not None:
                    fit.checkpoints.remove()
                if fit.on_epoch is not None:
                    fit.on_epoch(f"{fit.built.name}: out of memory; going on with batches of {fit.batch_size}")
        _take_over(fit, Path(folder))


class _OutOfMemoryError(Exception):
    pass


def _check(fit: PhasedFit) -> None:
    devices = fit.config.devices
    if fit.device == "cuda" and torch.cuda.device_count() < devices:
        raise UserError(f"devices: {devices}, but this machine has {torch.cuda.device_count()} GPU(s); set as many.")
    if fit.built.pretrained and fit.config.unfreeze == "gradual":
        # DDP is told once per phase which parameters have gradients.
        raise UserError("unfreeze: gradual trains on one device; set devices: 1, or unfreeze: all or last:K.")
    if fit.batch_size < devices:
        raise UserError(f"Batches of {fit.batch_size} can't be shared by {devices} devices; set fewer devices.")


def _sendable(frames: FrameSet, path: Path) -> FrameSet:
    """Return the same frames with pixels that another process can read: from the dataset's cache, else from a file."""
    if frames.origin is not None:
        return dataclasses.replace(frames, load=CachedPixels(frames.origin, frames.recordings))
    first = frames.load(np.arange(1))
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(frames), *first.shape[1:]))
    for start in range(0, len(frames), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(frames)))
        pixels[rows] = frames.load(rows)
    pixels.flush()
    return dataclasses.replace(frames, load=StoredPixels(str(path)))


def _launch(task: Task, *, say: Callable[[str], None] | None) -> None:
    """Start the processes, pass on what the first one says, and end them all when one fails."""
    context = mp.get_context("spawn")
    # As bytes: torch would otherwise share the weights' memory, and all processes would train the same numbers.
    message = pickle.dumps(task)
    rendezvous = Path(task.folder) / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    ends, processes = [], []
    for rank in range(task.config.devices):
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(rank, message, str(rendezvous), its), daemon=False)
        process.start()
        its.close()
        ends.append(mine)
        processes.append(process)
    failure: tuple[str, str, str] | None = ("failed", "", "The fit was interrupted.")
    try:
        failure = _listen(ends, say=say)
    finally:
        for process in processes:
            # After a failure the others wait for the one that failed, and would wait for hours.
            process.join(PATIENCE_S if failure is None else 0.0)
            if process.is_alive():
                process.terminate()
                process.join()
    if failure is None:
        return
    kind, text, trace = failure
    if kind == "memory":
        raise _OutOfMemoryError
    if kind == "user":
        raise UserError(text)
    raise RuntimeError(f"A process of the fit failed.\n{trace}")


def _listen(ends: list[Connection], *, say: Callable[[str], None] | None) -> tuple[str, str, str] | None:
    """Read what the processes send until all are done or one failed; return the failure."""
    open_ends = list(ends)
    while open_ends:
        ready = wait(open_ends)
        for end in [end for end in open_ends if end in ready]:
            try:
                kind, text, trace = end.recv()
            except EOFError:
                return "failed", "", "It ended without a word: killed, or out of memory."
            if kind == "line":
                if say is not None:
                    say(text)
            elif kind == "done":
                open_ends.remove(end)
            else:
                return kind, text, trace
    return None


def _worker(rank: int, message: bytes, rendezvous: str, to_parent: Connection) -> None:
    """Fit as one of several processes."""
    task: Task = pickle.loads(message)  # from the process that started this one, never from a file
    size = task.config.devices
    try:
        # What Lightning reads to see that the processes run already.
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(size), "GROUP_RANK": "0"}
        os.environ |= {"LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": "mien"}
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // size))
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=Path(rendezvous).as_uri(),
            rank=rank,
            world_size=size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        fit = PhasedFit(
            task.built,
            sides=task.sides,
            scheme=task.scheme,
            config=task.config,
            seed=task.seed,
            on_epoch=lambda line: to_parent.send(("line", line, "")),
            checkpoints=task.checkpoints,
            raise_out_of_memory=True,
        )
        fit.batch_size = task.batch_size
        with reproducible(fit.device), quiet():
            fit.run()
        if rank == 0:
            _store(fit, Path(task.folder))
        dist.barrier()
        dist.destroy_process_group()
        to_parent.send(("done", "", ""))
    except Exception as error:
        kind = "user" if isinstance(error, MienError) else "failed"
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            kind = "memory"
        to_parent.send((kind, str(error), traceback.format_exc()))
        to_parent.close()
        # Without the farewell of the others, which wait in a collective that this process left.
        os._exit(1)


def _store(fit: PhasedFit, folder: Path) -> None:
    state = fit.classifier.state_dict()
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / WEIGHTS)
    facts = {
        "history": fit.history,
        "best": [fit.best.loss, fit.best.epoch],
        "batch_size": fit.batch_size,
        "accumulate": fit.accumulate,
        "num_open": None if fit.prefix is None else fit.prefix.num_open,
    }
    write_json(folder / RESULT, facts)


def _take_over(fit: PhasedFit, folder: Path) -> None:
    facts = read_json(folder / RESULT)
    fit.classifier.load_state_dict(load_file(folder / WEIGHTS))
    fit.classifier.requires_grad_(True).eval()
    fit.history += facts["history"]
    loss, epoch = facts["best"]
    fit.best = Best(loss=math.inf if loss is None else loss, epoch=epoch)
    fit.batch_size, fit.accumulate = facts["batch_size"], facts["accumulate"]
    if facts["num_open"] is not None:
        fit.prefix = Prefix.of(fit.classifier, num_open=facts["num_open"])
