"""What the frozen part of a network makes of pictures: computed once per picture and view, and kept.

The frozen part ends at a boundary: the features where no block is open, else what the last k blocks are given
(`PretrainedEncoder.to_boundary`). Its activations are stored as float32, one `.npy` per recording and view in the
dataset's cache, under a digest of weights, preprocessing and view: epochs, folds, seeds, personal baselines and models
with the same frozen part share them. float16 would halve the files and move logits by about 1e-3; float32 gives the
logits of the plain path.

Views: view 0 is the picture itself, views 1 to n are varied by draws that depend on recording, frame and view only.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import UserError
from mien.core.storage import digest_of
from mien.models.backbones import PretrainedEncoder
from mien.models.classifier import Classifier
from mien.runtime.cache import cache_path, cached_pixels, load_array, write_array
from mien.training.augmentation import NUM_DRAWS, Strengths, vary_by
from mien.training.inference import evaluating
from mien.training.loaders import FrameSet, Origin, Rows, read_pixels

# Changes whenever the same weights and pixels would be stored as other numbers.
FORMAT = 1
# Pictures that go through the frozen part at once; fixed, so that what is stored doesn't depend on a fit's batches.
BLOCK = 16
# Stored activations leave so much of the disk to others.
SPARE_BYTES = 2**30
GB = 1e9
FOLDERS = "activations-"


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a network.

    Attributes:
        classifier: The network.
        num_open: The last blocks that are trained; 0 where the whole encoder is frozen.
        digest: Digest of everything that the activations of a picture depend on: weights, architecture, normalisation.
    """

    classifier: Classifier
    num_open: int
    digest: str

    @staticmethod
    def of(classifier: Classifier, *, num_open: int) -> Prefix:
        """Digest the frozen part of a network; its layout in memory and its device don't matter.

        Raises:
            UserError: The network hasn't so many blocks.
        """
        encoder = classifier.encoder
        facts: dict[str, Any] = {"format": FORMAT, "mean": classifier.pixel_mean, "std": classifier.pixel_std}
        if isinstance(encoder, PretrainedEncoder):
            facts |= {"architecture": encoder.shape_facts, "family": encoder.family}
        else:
            facts |= {"architecture": repr(encoder)}
        facts["weights"] = [digest_state(module) for module in frozen_modules(classifier, num_open=num_open)]
        return Prefix(classifier, num_open, digest_of(facts))

    @property
    def name(self) -> str:
        """The boundary in words: `features`, or `last-2`."""
        return f"last-{self.num_open}" if self.num_open else "features"

    def run(self, pixels: Tensor) -> Tensor:
        """Return the activations (N, ...) float32 of RGB pictures (N, 3, S, S), uint8 or float in 0..1."""
        encoder = self.classifier.encoder
        device = next(self.classifier.parameters()).device
        with evaluating(encoder), torch.autocast(device.type, enabled=False):
            inputs = self.classifier.normalise(pixels.to(device)).contiguous(memory_format=torch.channels_last)
            if self.num_open == 0:
                activations: Tensor = encoder(inputs)
            else:
                assert isinstance(encoder, PretrainedEncoder)
                activations = encoder.to_boundary(inputs, num_open=self.num_open)
        return activations.float().contiguous()


def frozen_modules(classifier: Classifier, *, num_open: int) -> list[nn.Module]:
    """Return the modules before the boundary.

    Raises:
        UserError: The network hasn't so many blocks, or can't be opened block by block.
    """
    encoder = classifier.encoder
    if isinstance(encoder, PretrainedEncoder):
        return encoder.frozen_part(num_open)
    if num_open:
        raise UserError(f"This network can't be opened block by block; use unfreeze: head or all, not last:{num_open}.")
    return [encoder]


def open_features(classifier: Classifier, activations: Tensor, *, num_open: int) -> Tensor:
    """Return the features (N, D) of activations (N, ...) at the boundary before the last `num_open` blocks."""
    if num_open == 0:
        return activations
    encoder = classifier.encoder
    assert isinstance(encoder, PretrainedEncoder)
    return encoder.from_boundary(activations, num_open=num_open)


@dataclass(frozen=True)
class Activations:
    """Activations of a frame set at the boundary.

    Attributes:
        shape: Shape of one picture's.
        stored: Where they lie: in the dataset's cache (`disk`), in `memory` where the frames are from no dataset, or
            `nowhere`: they are computed whenever they are asked for, because they would take too much room.
        read: Gives the activations (n, ...) float32, on the CPU, of rows (n,) in views (n,).
    """

    shape: tuple[int, ...]
    stored: str
    read: Callable[[Rows, Rows], Tensor]

    def plain(self, rows: Rows) -> Tensor:
        """Return the activations (n, ...) of rows (n,) in view 0, the pictures as they are."""
        return self.read(rows, np.zeros(len(rows), np.int64))


@dataclass(frozen=True)
class Views:
    """Views of training pictures: 0 is the picture itself, 1 to `num` are varied.

    Attributes:
        num: How many varied ones; 0 for none.
        strengths: How far they are varied.
    """

    num: int = 0
    strengths: Strengths = field(default_factory=Strengths)

    def of_epoch(self, rows: Rows, *, epoch: int) -> Rows:
        """Return the views (n,) in which rows (n,) are seen in an epoch: each picture goes through all varied ones.

        >>> Views(num=3).of_epoch(np.array([0, 1, 2, 3]), epoch=1).tolist()
        [2, 3, 1, 2]
        """
        return 1 + (rows + epoch) % self.num if self.num else np.zeros_like(rows)


def open_activations(
    prefix: Prefix, frames: FrameSet, *, views: Views | None = None, limit_gb: float, say: Callable[[str], None]
) -> Activations:
    """Compute and store the activations of frames where they aren't there yet.

    Several processes may ask for the same: one computes, the others wait for it.

    Args:
        prefix: The frozen part.
        frames: Frames. Where they lie in a dataset, the activations of all frames with a crop of their recordings are
            stored, for whoever asks next.
        views: The views that will be asked for, beside view 0.
        limit_gb: All stored activations of the dataset together may take so many GB (1e9 bytes). Several processes
            that start at the same time may pass it by what one of them stores.
        say: Called with one line where there isn't room: then nothing is stored, and they are computed each time.
    """
    views = views or Views()
    if frames.origin is None:
        shape = _shape_of(prefix, frames)
        needed = _num_bytes(shape) * len(frames) * (1 + views.num)
        if needed > limit_gb * GB:
            say(_no_room(prefix, needed=needed, used=0, limit_gb=limit_gb))
            return _computed(prefix, frames, views=views, shape=shape)
        return _in_memory(prefix, frames, views=views, shape=shape)
    dataset_path = frames.origin.dataset.path
    store = _Store(prefix, frames.origin, recordings=np.unique(frames.recordings), views=views)
    missing = store.missing()
    shape = store.shape() or _shape_of(prefix, frames)
    needed = _num_bytes(shape) * sum(store.count(code) for _, code in missing)
    used = _used_bytes(dataset_path) if missing else 0
    free = shutil.disk_usage(dataset_path).free - SPARE_BYTES
    if missing and (used + needed > limit_gb * GB or needed > free):
        say(_no_room(prefix, needed=needed, used=used, limit_gb=limit_gb, free=free))
        return _computed(prefix, frames, views=views, shape=shape)
    with evaluating(prefix.classifier.encoder):
        for view, code in missing:
            store.compute(view, code, shape=shape)
    return Activations(shape, "disk", store.reader(frames, shape=shape))


def _shape_of(prefix: Prefix, frames: FrameSet) -> tuple[int, ...]:
    return tuple(prefix.run(read_pixels(frames, np.arange(1))).shape[1:])


def _num_bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(np.float32).itemsize


def _no_room(prefix: Prefix, *, needed: int, used: int, limit_gb: float, free: int | None = None) -> str:
    if free is not None and needed > free:
        room = f"the disk has {max(0, free) / GB:.3g} GB to spare"
    else:
        room = f"{used / GB:.3g} GB are stored already and the limit (activations_gb) is {limit_gb:g} GB"
    return (
        f"The activations at {prefix.name} would take {needed / GB:.3g} GB; {room}. They are computed in every epoch "
        f"instead of being stored, which is slower. Raise activations_gb, lower views, or delete cache/{FOLDERS}* in "
        "the dataset."
    )


def _used_bytes(dataset_path: Path) -> int:
    total = 0
    for path in dataset_path.glob(f"cache/{FOLDERS}*/*.npy"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # another process replaced it meanwhile
            continue
    return total


def plain_features(prefix: Prefix, activations: Activations, *, rows: Rows, batch_size: int) -> Tensor:
    """Return the features (n, D) of rows (n,) in view 0, through the open blocks as they are now, in eval mode.

    Args:
        prefix: The frozen part.
        activations: What it gave.
        rows: Rows of the frame set.
        batch_size: Pictures at once.
    """
    device = next(prefix.classifier.parameters()).device
    parts = []
    with evaluating(prefix.classifier.encoder):
        for start in range(0, len(rows), batch_size):
            block = activations.plain(rows[start : start + batch_size]).to(device)
            parts.append(open_features(prefix.classifier, block, num_open=prefix.num_open).float())
    return torch.cat(parts)


class _Store:
    """The files of one frozen part: a folder per view, a file per recording, a row per frame with a crop."""

    def __init__(self, prefix: Prefix, origin: Origin, *, recordings: Rows, views: Views) -> None:
        self.prefix = prefix
        self.origin = origin
        self.views = views
        self.codes = [int(code) for code in recordings]
        self.seen = {code: np.flatnonzero(origin.dataset.has_crop(self._name(code))) for code in self.codes}
        self._paths: dict[tuple[int, int], Path] = {}

    def _name(self, code: int) -> str:
        return self.origin.recording_ids[code]

    def _path(self, view: int, code: int) -> Path:
        if (view, code) not in self._paths:
            self._paths[view, code] = self._find_path(view, code)
        return self._paths[view, code]

    def _find_path(self, view: int, code: int) -> Path:
        facts = [self.prefix.digest, self.prefix.num_open, self.origin.size_px, self.origin.crop]
        if view:
            strengths = self.views.strengths
            facts += [strengths.brightness, strengths.contrast, strengths.hue, strengths.flip]
        kind = f"{FOLDERS}{self.prefix.name}-view-{view}-{digest_of(facts)}"
        return cache_path(self.origin.dataset, self._name(code), kind=kind)

    def count(self, code: int) -> int:
        """Return the number of rows of a recording."""
        return len(self.seen[code])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The view and the recording of each file."""
        return [(view, code) for view in range(1 + self.views.num) for code in self.codes]

    def missing(self) -> list[tuple[int, int]]:
        """Return the view and the recording of each file that isn't there."""
        return [pair for pair in self.pairs if not self._path(*pair).is_file()]

    def shape(self) -> tuple[int, ...] | None:
        """Return the shape of one picture's activations, None where no file is there."""
        there = next((pair for pair in self.pairs if self._path(*pair).is_file()), None)
        return None if there is None else load_array(self._path(*there)).shape[1:]

    def compute(self, view: int, code: int, *, shape: tuple[int, ...]) -> None:
        """Compute and write one file, unless another process has done so meanwhile."""
        path = self._path(view, code)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock"):
            if not path.is_file():
                write_array(path, lambda temporary: self._write(temporary, view, code, shape=shape))

    def _write(self, temporary: Path, view: int, code: int, *, shape: tuple[int, ...]) -> None:
        seen = self.seen[code]
        origin = self.origin
        pixels = cached_pixels(origin.dataset, self._name(code), size_px=origin.size_px, crop=origin.crop)
        draws = _recording_draws(origin, code, view=view)
        target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(seen), *shape))
        for start in range(0, len(seen), BLOCK):
            frames = seen[start : start + BLOCK]
            block = torch.from_numpy(np.array(pixels[frames])).permute(0, 3, 1, 2)
            drawn = None if draws is None else draws[frames]
            target[start : start + BLOCK] = _run_view(self.prefix, block, draws=drawn, views=self.views).cpu()
        target.flush()

    def reader(self, frames: FrameSet, *, shape: tuple[int, ...]) -> Callable[[Rows, Rows], Tensor]:
        """Return what reads rows of a frame set from the files."""
        assert frames.origin is not None
        positions = np.empty(len(frames), np.int64)
        for code in self.codes:
            mine = frames.recordings == code
            positions[mine] = np.searchsorted(self.seen[code], frames.origin.frames[mine])

        def read(rows: Rows, views: Rows) -> Tensor:
            result = np.empty((len(rows), *shape), np.float32)
            pairs = np.stack((views, frames.recordings[rows]), axis=1)
            for view, code in np.unique(pairs, axis=0):
                mine = np.flatnonzero((pairs == (view, code)).all(axis=1))
                stored = self._path(int(view), int(code))
                if not stored.is_file():  # the cache may be deleted at any time
                    self.compute(int(view), int(code), shape=shape)
                result[mine] = load_array(stored)[positions[rows[mine]]]
            return torch.from_numpy(result)

        return read


def _in_memory(prefix: Prefix, frames: FrameSet, *, views: Views, shape: tuple[int, ...]) -> Activations:
    computed = _computed(prefix, frames, views=views, shape=shape)
    rows = np.arange(len(frames))
    kept = torch.stack([computed.read(rows, np.full(len(rows), view)) for view in range(1 + views.num)])

    def read(wanted: Rows, seen_as: Rows) -> Tensor:
        return kept[torch.from_numpy(seen_as), torch.from_numpy(wanted)]

    return Activations(shape, "memory", read)


def _computed(prefix: Prefix, frames: FrameSet, *, views: Views, shape: tuple[int, ...]) -> Activations:
    draws = {view: _draws_of(frames, view=view) for view in range(1 + views.num)}

    def read(rows: Rows, seen_as: Rows) -> Tensor:
        result = torch.empty(len(rows), *shape)
        for view in np.unique(seen_as):
            mine = np.flatnonzero(seen_as == view)
            for start in range(0, len(mine), BLOCK):
                block = mine[start : start + BLOCK]
                drawn = draws[int(view)]
                result[torch.from_numpy(block)] = _run_view(
                    prefix,
                    read_pixels(frames, rows[block]),
                    draws=None if drawn is None else drawn[rows[block]],
                    views=views,
                ).cpu()
        return result

    return Activations(shape, "nowhere", read)


def _run_view(prefix: Prefix, pixels: Tensor, *, draws: NDArray[np.float64] | None, views: Views) -> Tensor:
    """Return the activations (n, ...) of pictures (n, 3, S, S) uint8, varied by draws (n, NUM_DRAWS) where given."""
    if draws is not None:
        pixels = vary_by(pixels, draws=torch.from_numpy(draws.T.copy()), strengths=views.strengths)
    return prefix.run(pixels)


def _draws_of(frames: FrameSet, *, view: int) -> NDArray[np.float64] | None:
    """Return the draws (N, NUM_DRAWS) of all frames in a view; the same frame has the same ones in every frame set."""
    if view == 0:
        return None
    if frames.origin is None:
        return _draw(len(frames), seed=view)
    result = np.empty((len(frames), NUM_DRAWS))
    for code in np.unique(frames.recordings):
        mine = frames.recordings == code
        drawn = _recording_draws(frames.origin, int(code), view=view)
        assert drawn is not None, "only view 0 is drawn for nothing"
        result[mine] = drawn[frames.origin.frames[mine]]
    return result


def _recording_draws(origin: Origin, code: int, *, view: int) -> NDArray[np.float64] | None:
    """Return the draws (num_frames, NUM_DRAWS) of all sampled frames of a recording in a view; None for view 0."""
    if view == 0:
        return None
    name = origin.recording_ids[code]
    seed = int(digest_of([origin.dataset.recording_content(name), name, view], length=12), 16)
    return _draw(len(origin.dataset.has_crop(name)), seed=seed)


def _draw(num: int, *, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((num, NUM_DRAWS))


def digest_state(module: nn.Module) -> str:
    """Return a digest of a module's parameters and buffers: names, shapes and numbers, whatever their layout."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
