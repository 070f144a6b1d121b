"""What is computed once per dataset: crops at an encoder's size, features of frozen encoders, sound, activations.

All lie as one `.npy` per recording in `DATASET/cache/`, are read memory-mapped, and may be deleted at any time. A
file's name holds a digest of the recording that it was made from: one that is prepared again is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.core.storage import atomic_path, digest_of
from mien.data.dataset import Dataset
from mien.runtime.encoders import view_crops
from mien.runtime.sound import NUM_MELS, SOUND_DIGEST, LogMel, first_frame_s, log_mel
from mien.runtime.sound_encoders import GRID_STEP_S, AnyEncoder, SoundEncoder

PIXEL_BLOCK = 256
# A temporary file that nobody wrote to for so long is a killed process's; a younger one may be another process's work.
ABANDONED_S = 3600.0
# Systems often allow a process 1024 open files.
MAX_OPEN = 256


def cached_pixels(dataset: Dataset, recording_id: str, *, size_px: int, crop: float) -> NDArray[np.uint8]:
    """Return the crops of a recording as an encoder sees them, memory-mapped.

    Args:
        dataset: The dataset.
        recording_id: One of its recordings.
        size_px: Side of the encoder's input.
        crop: Side of the square that the encoder looks at, as a multiple of the face box.

    Returns:
        (N, size_px, size_px, 3) uint8, a row per sampled frame.
    """
    return load_array(pixels_path(dataset, recording_id, size_px=size_px, crop=crop))


def pixels_path(dataset: Dataset, recording_id: str, *, size_px: int, crop: float) -> Path:
    """Return where the crops that `cached_pixels` reads lie; they are made where they aren't there yet."""
    path = cache_path(dataset, recording_id, kind=f"pixels-{size_px}-{crop:g}")
    if not path.is_file():
        crops = dataset.crops(recording_id)

        def write(temporary: Path) -> None:
            shape = (len(crops), size_px, size_px, 3)
            target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(crops), PIXEL_BLOCK):
                block = np.asarray(crops[start : start + PIXEL_BLOCK])
                target[start : start + PIXEL_BLOCK] = view_crops(
                    block, margin=dataset.margin, crop=crop, size_px=size_px
                )
            target.flush()

        write_array(path, write)
    return path


def cached_features(dataset: Dataset, recording_id: str, *, encoder: AnyEncoder) -> NDArray[np.float32]:
    """Return the features of a recording's sampled frames, memory-mapped.

    Rows of frames without a crop are NaN; for an encoder that listens, those of moments without sound.

    Args:
        dataset: The dataset.
        recording_id: One of its recordings.
        encoder: A frozen encoder.

    Returns:
        (N, D) float32, a row per sampled frame.
    """
    path = cache_path(dataset, recording_id, kind=f"features-{encoder.spec.name}-{encoder.digest}")
    if isinstance(encoder, SoundEncoder):
        return _cached_sound_features(dataset, recording_id, encoder=encoder, path=path)
    if not path.is_file():
        crops = dataset.crops(recording_id)
        seen = np.flatnonzero(dataset.has_crop(recording_id))
        spec = encoder.spec

        def write(temporary: Path) -> None:
            width = encoder.encode(np.empty((0, spec.size_px, spec.size_px, 3), np.uint8)).shape[1]
            features = np.full((len(crops), width), np.nan, np.float32)
            for start in range(0, len(seen), PIXEL_BLOCK):
                rows = seen[start : start + PIXEL_BLOCK]
                pixels = view_crops(crops[rows], margin=dataset.margin, crop=spec.crop, size_px=spec.size_px)
                features[rows] = encoder.encode(pixels)
            with temporary.open("wb") as stream:
                np.save(stream, features)

        write_array(path, write)
    return load_array(path)


def _cached_sound_features(
    dataset: Dataset, recording_id: str, *, encoder: SoundEncoder, path: Path
) -> NDArray[np.float32]:
    if not path.is_file():
        pts_s = dataset.frames(recording_id)["pts_s"].to_numpy(np.float64)
        features = encoder.encode(dataset.audio(recording_id), pts_s=pts_s)
        write_array(path, lambda temporary: save_array(temporary, features))
    return load_array(path)


def cached_log_mel(dataset: Dataset, recording_id: str) -> LogMel | None:
    """Return the log-mel spectrogram of a recording (`mien.runtime.sound`), memory-mapped; None without sound.

    Args:
        dataset: The dataset.
        recording_id: One of its recordings.
    """
    audio = dataset.audio(recording_id)
    if audio is None:
        return None
    path = cache_path(dataset, recording_id, kind=f"logmel-{SOUND_DIGEST}")
    if not path.is_file():
        made = log_mel(audio)
        # Nothing to be heard is stored as nothing, so that it isn't looked for again.
        values = np.empty((NUM_MELS, 0), np.float32) if made is None else made.values
        write_array(path, lambda temporary: save_array(temporary, values))
    stored = load_array(path)
    return LogMel(stored, start_s=first_frame_s(audio)) if stored.shape[1] else None


def cached_sound_grid(dataset: Dataset, recording_id: str, *, encoder: SoundEncoder) -> LogMel | None:
    """Return what an encoder makes of a recording over time (`SoundEncoder.grid`), mapped; None without sound."""
    audio = dataset.audio(recording_id)
    if audio is None:
        return None
    path = cache_path(dataset, recording_id, kind=f"grid-{GRID_STEP_S:g}-{encoder.spec.name}-{encoder.digest}")
    if not path.is_file():
        made = encoder.grid(audio)
        values = np.empty((encoder.feature_dim, 0), np.float32) if made is None else made.values
        write_array(path, lambda temporary: save_array(temporary, values))
    stored = load_array(path)
    return LogMel(stored, audio.start_s + GRID_STEP_S / 2, GRID_STEP_S) if stored.shape[1] else None


def save_array(path: Path, values: NDArray[np.float32]) -> None:
    """Write an array to the temporary file that `write_array` gives."""
    with path.open("wb") as stream:
        np.save(stream, values)


def cache_path(dataset: Dataset, recording_id: str, *, kind: str) -> Path:
    """Return where what was computed from a recording lies; another content of the recording has another path."""
    content = digest_of(dataset.recording_content(recording_id), length=8)
    return dataset.path / "cache" / kind / f"{recording_id}@{content}.npy"


def write_array(path: Path, write: Callable[[Path], None]) -> None:
    """Write a `.npy` to a `cache_path`, whole or not at all; what was made of an earlier content goes."""
    recording_id = path.name.rpartition("@")[0]
    for outdated in path.parent.glob(f"{glob.escape(recording_id)}@*.npy"):
        # Another process may write the same at the same time; both write the same bytes, and either may come last.
        if outdated != path:
            outdated.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_S:
                leftover.unlink()
    with atomic_path(path) as temporary:
        write(temporary)


def load_array(path: Path) -> NDArray:  # type: ignore[type-arg]
    """Read a `.npy` memory-mapped. The last ones stay open, and only they: each takes one of the process's files."""
    status = path.stat()
    return _mapped(path, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=MAX_OPEN)
def _mapped(path: Path, _inode: int, _mtime_ns: int) -> NDArray:  # type: ignore[type-arg]
    # A memory map can't be empty; an empty recording is read as it is.
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except ValueError:
        return np.load(path)  # type: ignore[no-any-return]
