"""What is held against each other to find an offset: faces against annotations, mouths against sound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from mien.audit.aligned import SIDE_PX, aligned_recording
from mien.audit.offset_curves import GRID_S, SEARCH_S, Floats, Null, Recorded
from mien.core.types import Audio
from mien.data.dataset import Dataset
from mien.data.targets import TargetSpec, TargetTables, find_target, label_samples, target_names
from mien.media.speech import sound_level
from mien.runtime.cache import cache_path, load_array, write_array

MAX_CHANNELS = 24
"""Channels of annotations that are looked at, those that vary in most people first: a tool's export has dozens that say
the same of a clock."""

MAX_SOUND_S = 300.0
"""As much of a recording's sound is looked at: `MAX_ROWS` at 10 samples per second."""

MOUTH_ROWS, MOUTH_COLUMNS = slice(42, 64), slice(14, 50)
"""Mouth and chin in an aligned face of 64 px, whose corners of the mouth are at (23, 52) and (40, 52)."""

MOUTH_SIZE = (4, 3)
"""Columns and rows of parts that the mouth is divided into: landmarks jitter by a pixel or two, which moves every edge
within a part but not what a part is."""

MOTION_FRAMES = 3
"""Frames that motion is averaged over: syllables come about 4 times a second, too fast for 5 to 10 samples per second;
it is phrases that are held against the sound."""


def faces_against_annotations(dataset: Dataset) -> tuple[list[Recorded], tuple[str, ...]]:
    """Return recordings with HOG of their aligned faces and their annotations on a grid, and the channels' names.

    A channel is a scheme of two classes, or one class of a scheme of several; those that vary in no recording, and
    recordings without a face or an annotation, are left out.
    """
    tables = dataset.tables()
    schemes = set(tables.annotations["scheme"])
    specs = [find_target(tables, name) for name in target_names(tables) if name in schemes]
    facts = _with_picture(dataset)
    ends_s = dict(zip(facts["recording_id"], facts["duration_s"].astype(float), strict=True))
    times = {str(name): np.arange(0.0, end_s, GRID_S) for name, end_s in ends_s.items()}
    channels = {name: grid for spec in specs for name, grid in _channels(tables, spec, times=times).items()}
    # Names break ties, so that the same study always has the same channels.
    chosen = sorted(channels, key=lambda name: (-_num_varying(channels[name]), name))[:MAX_CHANNELS]
    chosen = sorted(name for name in chosen if _num_varying(channels[name]))
    recorded = []
    for row in facts.to_dict("records") if chosen else []:
        name = str(row["recording_id"])
        grid = np.stack([channels[channel][name] for channel in chosen], axis=1)
        aligned = aligned_recording(dataset, name) if np.isfinite(grid).any() else None
        if aligned is not None and aligned.kind == "face":
            features = _face_features(dataset, name, pixels=aligned.pixels)[aligned.frames]
            recorded.append(Recorded(name, str(row["group"]), aligned.pts_s, features, 0.0, grid))
    return [one for one in recorded if one.long_enough], tuple(chosen)


def mouths_against_sound(dataset: Dataset) -> list[Recorded]:
    """Return recordings with the look and motion of their mouths, and the loudness of their sound on a grid."""
    recorded = []
    for row in _with_picture(dataset).to_dict("records"):
        name = str(row["recording_id"])
        audio, aligned = dataset.audio(name), aligned_recording(dataset, name)
        if audio is None or aligned is None or aligned.kind != "face":
            continue
        end_s = min(float(row["duration_s"]), audio.start_s + len(audio.samples) / audio.rate_hz, MAX_SOUND_S)
        start_s = max(0.0, audio.start_s)
        if end_s - start_s < 2 * SEARCH_S:
            continue
        times_s = np.arange(start_s, end_s, GRID_S)
        heard = Audio(audio.samples[: math.ceil((end_s - audio.start_s) * audio.rate_hz)], audio.rate_hz, audio.start_s)
        grid = sound_level(heard, times_s).astype(np.float32)[:, None]
        seen = aligned.pts_s < end_s
        features = mouth_features(np.asarray(aligned.pixels)[aligned.frames[seen]])
        recorded.append(Recorded(name, str(row["group"]), aligned.pts_s[seen], features, start_s, grid))
    return [one for one in recorded if one.long_enough]


def shifted_in_a_circle(recorded: Sequence[Recorded], *, seed: int) -> Null:
    """Return a null that turns each recording's own grid by chance, farther than any offset that is looked for."""
    least = round(SEARCH_S / GRID_S)

    def of(number: int, draw: int) -> Floats:
        grid = recorded[number].grid
        rng = np.random.default_rng([seed, number, draw])
        return np.roll(grid, int(rng.integers(least, len(grid) - least)), axis=0)

    return of


def of_another(recorded: Sequence[Recorded], *, seed: int) -> Null:
    """Return a null that gives each recording the grid of one of somebody else.

    What all recordings have in common (everybody is asked at the same time) stays, and so isn't taken for a clock.
    """

    def of(number: int, draw: int) -> Floats:
        others = [place for place, one in enumerate(recorded) if one.group != recorded[number].group]
        return recorded[int(np.random.default_rng([seed, number, draw]).choice(others))].grid

    return of


def mouth_features(faces: NDArray[np.uint8]) -> Floats:
    """Return the motion of mouths (N, 13): what changes in each part around a frame, and in all.

    How a mouth looks is left out: it changes with smiles, which have other times than speech.

    Args:
        faces: (N, 64, 64) aligned faces in order of time.
    """
    small = [
        cv2.resize(face[MOUTH_ROWS, MOUTH_COLUMNS], MOUTH_SIZE, interpolation=cv2.INTER_AREA).ravel() for face in faces
    ]
    pixels = np.asarray(small, dtype=np.float32).reshape(len(faces), MOUTH_SIZE[0] * MOUTH_SIZE[1])
    # Light changes all of the mouth alike; lips don't.
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    changes = np.abs(np.diff(pixels, axis=0, prepend=pixels[:1], append=pixels[-1:]))
    # Before and behind, so that the change has the time of its frame.
    motion = np.log1p((changes[:-1] + changes[1:]) / 2)
    motion = np.concatenate([motion, motion.mean(axis=1, keepdims=True)], axis=1)
    return np.asarray(uniform_filter1d(motion, MOTION_FRAMES, axis=0, mode="nearest"), dtype=np.float32)


def _with_picture(dataset: Dataset) -> pd.DataFrame:
    facts = dataset.recordings
    return facts[facts["num_frames"] > 1]


def _channels(
    tables: TargetTables, spec: TargetSpec, *, times: dict[str, NDArray[np.float64]]
) -> dict[str, dict[str, Floats]]:
    """Return each channel of a scheme by recording, on the grid: 1 where it is present, 0 where not, else NaN."""
    parts = [pd.DataFrame({"recording_id": name, "pts_s": pts_s}) for name, pts_s in times.items()]
    if not parts:
        return {}
    samples = pd.concat(parts, ignore_index=True)
    samples = samples.assign(frame=np.arange(len(samples)), end_s=samples["pts_s"] + GRID_S, face_found=True)
    codes = label_samples(dataclasses.replace(tables, samples=samples), spec)
    ends = np.cumsum([len(pts_s) for pts_s in times.values()])[:-1]
    by_recording = dict(zip(times, np.split(codes, ends), strict=True))
    present = {spec.name: 1} if spec.kind == "binary" else {f"{spec.name}={c}": i for i, c in enumerate(spec.classes)}
    return {
        channel: {
            name: np.where(values >= 0, values == code, np.nan).astype(np.float32)
            for name, values in by_recording.items()
        }
        for channel, code in present.items()
    }


def _num_varying(grids: dict[str, Floats]) -> int:
    return sum(bool((grid == 0).any() and (grid == 1).any()) for grid in grids.values())


def _face_features(dataset: Dataset, recording_id: str, *, pixels: NDArray[np.uint8]) -> Floats:
    """HOG (N, 324) of aligned faces, kept in the dataset's cache."""
    path = cache_path(dataset, recording_id, kind=f"offset-hog-{SIDE_PX}")
    if not path.is_file():
        descriptor = cv2.HOGDescriptor((SIDE_PX, SIDE_PX), (32, 32), (16, 16), (16, 16), 9)

        def write(temporary: Path) -> None:
            rows = [np.asarray(descriptor.compute(np.asarray(face))).ravel() for face in pixels]
            with temporary.open("wb") as stream:
                np.save(stream, np.asarray(rows, dtype=np.float32))

        write_array(path, write)
    return np.asarray(load_array(path), dtype=np.float32)
