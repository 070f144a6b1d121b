"""Frames, how they are weighted, and the batches that they are trained in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.dataset import Dataset as PreparedDataset
from mien.runtime.material import UNLABELLED, is_labelled

NetworkBaseline = Literal["none", "recording"]
Rows = NDArray[np.int64]
Targets = NDArray[np.int64] | NDArray[np.float32]

MOST_WEIGHT = 30.0
"""Of a channel's rarer side: a channel that shows in one frame of a thousand isn't worth a thousand frames."""


@dataclass(frozen=True)
class Origin:
    """Where the frames of a set lie in a dataset: what is computed from their pixels can be kept in its cache.

    Attributes:
        dataset: The dataset.
        recording_ids: Names of the recordings, by the numbers that a frame set's `recordings` holds.
        frames: (N,) number of the sampled frame in its recording.
        size_px: Side of the pictures, px.
        crop: Side of what the network looks at, as a multiple of the face box.
    """

    dataset: PreparedDataset
    recording_ids: tuple[str, ...]
    frames: Rows
    size_px: int
    crop: float


@dataclass(frozen=True)
class FrameSet:
    """Frames of some participants, all with a crop; pixels are loaded batch by batch.

    Attributes:
        load: Gives the pixels (n, S, S, 3) uint8 RGB of rows (n,), already cut and resized.
        targets: (N,) class codes, -1 where a frame has no label; or (N, C) float32 labels of channels, NaN where they
            are missing. Frames without any label teach nothing, but count for the personal baseline, which must not
            depend on labels.
        recordings: (N,) number of the recording.
        participants: (N,) number of the participant.
        ids: (N,) names of the frames.
        origin: Where the frames lie in a dataset; None where they come from elsewhere.
    """

    load: Callable[[Rows], NDArray[np.uint8]]
    targets: Targets
    recordings: Rows
    participants: Rows
    ids: NDArray[np.object_]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.targets), len(self.recordings), len(self.participants), len(self.ids)}
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def labelled(self) -> Rows:
        """Rows that have a label."""
        return np.flatnonzero(is_labelled(self.targets))

    def subset(self, rows: Rows) -> FrameSet:
        """Return the frame set of some rows."""
        return FrameSet(
            load=lambda wanted: self.load(rows[wanted]),
            targets=self.targets[rows],
            recordings=self.recordings[rows],
            participants=self.participants[rows],
            ids=self.ids[rows],
            origin=None if self.origin is None else dataclasses.replace(self.origin, frames=self.origin.frames[rows]),
        )


class Batch(TypedDict):
    """What one training step sees.

    `inputs` are pixels (n, 3, S, S) uint8; where the backbone is frozen, features (n, D) float32; where its first part
    is, activations (n, ...) float32 at the boundary.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    recordings: Tensor
    rows: Tensor


def participant_weights(participants: Rows, *, targets: Targets) -> NDArray[np.float32]:
    """Return weights (N,) under which every participant counts the same; mean 1 over labelled frames, 0 elsewhere.

    >>> participant_weights(np.array([0, 0, 0, 1]), targets=np.array([1, 0, 0, 1])).tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    weights = np.zeros(len(participants), np.float32)
    labelled = is_labelled(targets)
    people, where, counts = np.unique(participants[labelled], return_inverse=True, return_counts=True)
    weights[labelled] = labelled.sum() / (len(people) * counts[where])
    return weights


def class_weights(train: FrameSet, *, scheme: LabelScheme) -> NDArray[np.float32]:
    """Return weights (K,) under which every class counts the same, from training frames only.

    Classes are counted in participant-weighted frames, so that one long recording doesn't decide what is rare. For a
    binary target the ratio of the two weights is what PyTorch calls `pos_weight`.

    Raises:
        UserError: The training frames show fewer than two classes.
    """
    weights = participant_weights(train.participants, targets=train.targets)
    rows = train.labelled
    mass = np.bincount(train.targets[rows], weights=weights[rows], minlength=len(scheme.classes))
    present = np.flatnonzero(mass)
    if len(present) < 2:
        seen = ", ".join(repr(scheme.classes[code]) for code in present) or "none"
        raise UserError(
            f"The training frames show one class of {scheme.target!r} only ({seen}); a model needs two. Use more "
            "participants, another target, or fewer folds."
        )
    result = np.ones(len(mass), np.float32)
    result[present] = mass.sum() / (len(present) * mass[present])
    return result


def channel_weights(train: FrameSet, *, scheme: LabelScheme) -> NDArray[np.float32]:
    """Return weights (2, C) of a channel's absence and presence under which both count the same, as `class_weights`.

    At most `MOST_WEIGHT`; 1 where the training frames show one of the two only: that channel's output becomes constant.

    Raises:
        UserError: No channel varies in the training frames.
    """
    weights = participant_weights(train.participants, targets=train.targets)
    there = np.nan_to_num(train.targets.astype(np.float64)) * weights[:, None]
    known = np.isfinite(train.targets) * weights[:, None]
    mass = np.stack([known.sum(axis=0) - there.sum(axis=0), there.sum(axis=0)])
    both = (mass > 0).all(axis=0)
    if not both.any():
        raise UserError(
            f"No channel of {scheme.target!r} varies in the training frames; a model needs one that does. Use more "
            "participants, other channels, or fewer folds."
        )
    balanced = mass.sum(axis=0) / (2 * np.where(both, mass, 1.0))
    return np.where(both, np.minimum(balanced, MOST_WEIGHT), 1.0).astype(np.float32)


def number_scale(train: FrameSet, *, scheme: LabelScheme) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation (C,) of numbers over the training frames, participants weighted equally.

    Raises:
        UserError: A channel that never varies in the training frames.
    """
    weights = participant_weights(train.participants, targets=train.targets)[:, None]
    values = train.targets.astype(np.float64)
    share = np.isfinite(values) * weights
    share = share / np.maximum(share.sum(axis=0), 1e-12)
    centre = np.nansum(values * share, axis=0)
    spread = np.sqrt(np.nansum((values - centre) ** 2 * share, axis=0))
    flat = [name for name, width in zip(scheme.channels, spread, strict=True) if not width > 0]
    if flat:
        raise UserError(
            f"{', '.join(map(repr, flat))} never varies in the training frames; a model needs that. Use more "
            "participants, another target, or fewer folds."
        )
    return centre.astype(np.float32), spread.astype(np.float32)


class EpochBatches(Sampler[list[int]]):
    """Batches of one epoch after another; the order in each depends on the seed and its number only."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, from 0 (Lightning does)."""
        self.epoch = epoch

    def next_generator(self) -> np.random.Generator:
        """Return the generator of the next epoch, and go on to the one after it."""
        generator = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        return generator


class ShuffledBatches(EpochBatches):
    """All rows once per epoch, in another order each time."""

    def __init__(self, rows: Rows, *, batch_size: int, seed: int) -> None:
        super().__init__(seed)
        self.rows = rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.next_generator().permutation(self.rows)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size].tolist()


class RecordingBatches(EpochBatches):
    """Batches of a few recordings with several frames each, so that a batch holds the baseline of its people.

    Every epoch cuts each recording's frames, in a random order, into groups of about `frames_per_recording`, and
    deals the groups out to batches: each frame once per epoch. Frames without a label are dealt too; recordings
    without any label aren't.
    """

    def __init__(self, frames: FrameSet, *, batch_size: int, frames_per_recording: int, seed: int) -> None:
        super().__init__(seed)
        with_labels = np.unique(frames.recordings[frames.labelled])
        self.members = [np.flatnonzero(frames.recordings == recording) for recording in with_labels]
        self.groups = [max(1, round(len(rows) / frames_per_recording)) for rows in self.members]
        self.groups_per_batch = max(1, round(batch_size / frames_per_recording))

    def __len__(self) -> int:
        return -(-sum(self.groups) // self.groups_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        generator = self.next_generator()
        dealt = [
            group
            for rows, num_groups in zip(self.members, self.groups, strict=True)
            for group in np.array_split(generator.permutation(rows), num_groups)
        ]
        order = generator.permutation(len(dealt))
        for start in range(0, len(order), self.groups_per_batch):
            yield np.concatenate([dealt[index] for index in order[start : start + self.groups_per_batch]]).tolist()


class FrameBatches(Dataset[Batch]):
    """Reads a whole batch at once; an index is the list of its rows.

    A negative index -1 - row is that row without its label: what one of several processes sees that has no row of a
    batch.
    """

    def __init__(self, frames: FrameSet, *, inputs: Callable[[Rows], Tensor], balanced: bool = False) -> None:
        """Give access to frames.

        Args:
            frames: The frames.
            inputs: Gives what the network sees of rows (n,).
            balanced: Whether each participant's rows come equally often: then they aren't weighted once more.
        """
        self.frames = frames
        self.inputs = inputs
        self.weights = participant_weights(frames.participants, targets=frames.targets)
        if balanced:
            self.weights = (self.weights > 0).astype(np.float32)

    def __getitem__(self, rows: Any) -> Batch:
        given = np.asarray(rows, np.int64)
        index = np.where(given < 0, -1 - given, given)
        return Batch(
            inputs=self.inputs(index),
            targets=torch.from_numpy(_without(self.frames.targets[index], hidden=given < 0)),
            weights=torch.from_numpy(self.weights[index]),
            recordings=torch.from_numpy(self.frames.recordings[index]),
            rows=torch.from_numpy(index),
        )


def _without(targets: Targets, *, hidden: NDArray[np.bool_]) -> Targets:
    """Return targets (n,) or (n, C) without those of hidden rows (n,)."""
    if targets.ndim == 1:
        return np.where(hidden, UNLABELLED, targets)
    return np.where(hidden[:, None], np.float32(np.nan), targets).astype(np.float32)


def read_pixels(frames: FrameSet, rows: Rows) -> Tensor:
    """Return pixels (n, 3, S, S) uint8 of rows, in the channels-last layout in which they lie in memory."""
    pixels = np.ascontiguousarray(frames.load(rows))
    assert pixels.dtype == np.uint8 and pixels.shape == (len(rows), pixels.shape[1], pixels.shape[1], 3), pixels.shape
    if not pixels.flags.writeable:
        # Pixels may be mapped from a file; torch warns about tensors that it could write to but mustn't.
        pixels = pixels.copy()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def make_loader(batches: FrameBatches, *, sampler: Sampler[list[int]], num_workers: int) -> DataLoader[Batch]:
    """Return the loader of one phase; the order of batches depends on the sampler only, not on the workers."""
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Its own generator: the loader seeds workers from it, and the global one must not depend on their number.
        generator=torch.Generator().manual_seed(0),
    )
