"""Several processes that share each batch: what one computes from the parts of all.

Outside of such processes every function here returns what a single process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from mien.runtime.material import UNLABELLED
from mien.training.loaders import Rows

COLLECTIVE_TIMEOUT = timedelta(hours=4)


def num_ranks() -> int:
    """Return how many processes share the batches; 1 for a process on its own."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


def share_of_batch(targets: Tensor) -> float:
    """Return what the mean loss over this process's part counts, so that gradients average to those of the batch.

    DDP averages gradients over processes as if each had as many labelled examples; where one has more, its mean counts
    more.

    Args:
        targets: (n,) of this process's part, or (n, C): every label of a channel is one example.
    """
    if num_ranks() == 1:
        return 1.0
    known = targets != UNLABELLED if targets.ndim == 1 else torch.isfinite(targets)
    own = known.sum().to(torch.float64)
    total = own.clone()
    dist.all_reduce(total)
    return float(own * num_ranks() / total.clamp(min=1.0))


def mean_over_ranks(value: Tensor) -> float:
    """Return the mean of a number (a tensor without axes) over the processes."""
    if num_ranks() > 1:
        # In mixed precision a process without labels has its loss in other numbers than the rest.
        value = value.to(torch.float64)
        dist.all_reduce(value)
        value = value / num_ranks()
    return float(value)


def from_first(compute: Callable[[], Sequence[float]], *, device: torch.device) -> list[float]:
    """Let the first process compute some numbers, and return them in all: they decide alike when to stop.

    Args:
        compute: Gives three numbers.
        device: Where collectives of these processes work.
    """
    if num_ranks() == 1:
        return list(compute())
    numbers = torch.zeros(3, dtype=torch.float64, device=device)
    if rank() == 0:
        numbers += torch.tensor(list(compute()), dtype=torch.float64, device=device)
    dist.broadcast(numbers, src=0)
    return [float(number) for number in numbers.cpu()]


class DealtBatches(Sampler[list[int]]):
    """The batches of one process, dealt out to several: together they see what one would.

    Rows are dealt in turn. Where batches hold the personal baselines of their recordings, all rows of a recording go to
    one process, each recording to the one that has the fewest rows so far. A process that gets none sees a row of
    another one as `filler(row)`: without its label it teaches nothing.
    """

    def __init__(self, batches: Sampler[list[int]], *, recordings: Rows | None, rank: int, num_ranks: int) -> None:
        self.batches = batches
        self.recordings = recordings
        self.rank = rank
        self.num_ranks = num_ranks

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.batches.set_epoch(epoch)  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            mine = self._deal(batch)
            yield mine or [filler(batch[0])]

    def _deal(self, batch: list[int]) -> list[int]:
        if self.recordings is None:
            return batch[self.rank :: self.num_ranks]
        rows = np.asarray(batch)
        of_rows = self.recordings[rows]
        codes, counts = np.unique(of_rows, return_counts=True)
        loads = [0] * self.num_ranks
        mine: list[int] = []
        for index in np.argsort(-counts, kind="stable"):
            emptiest = loads.index(min(loads))
            loads[emptiest] += int(counts[index])
            if emptiest == self.rank:
                mine += rows[of_rows == codes[index]].tolist()
        return mine


def filler(row: int) -> int:
    """Return the index by which a row is seen without its label; it is its own inverse.

    >>> filler(4), filler(filler(4))
    (-5, 4)
    """
    return -1 - row


def sharing(device: str) -> dict[str, Any]:
    """Return what tells Lightning's trainer how many processes there are; they run already, one per device.

    Args:
        device: `cpu` or `cuda`.
    """
    if num_ranks() == 1:
        return {"devices": 1}
    from lightning.pytorch.strategies import DDPStrategy

    # What one process writes or measures can take longer than the half hour that others wait by default.
    backend = "nccl" if device == "cuda" else "gloo"
    return {
        "devices": num_ranks(),
        "strategy": DDPStrategy(process_group_backend=backend, timeout=COLLECTIVE_TIMEOUT),
        # Running statistics of BatchNorm are of the whole batch. torch has that for GPUs only.
        "sync_batchnorm": device == "cuda",
        # Our own sampler deals the batches.
        "use_distributed_sampler": False,
    }
