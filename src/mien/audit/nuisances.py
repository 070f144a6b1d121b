"""Nuisances: what colour, sharpness, the place of the face, time and the camera alone say of the label.

None of them is an expression. Where they predict the label, a part of what a model scores may be them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.audit.check import Check
from mien.audit.sound_nuisances import sound_nuisances
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.data.dataset import Dataset
from mien.evaluation.grouped import (
    alarm_threshold,
    describe_interval,
    exceeds,
    features_of_frames,
    grouped_interval,
    held_bound,
    is_known,
    out_of_fold,
    score_json,
    single_class_folds,
)
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import PIXEL_BLOCK, cache_path, load_array, write_array
from mien.runtime.material import Material, Sense

NUISANCES = "nuisances"

NUISANCE_C = 0.1
"""Weaker penalty than the probe's on a face: some forty features that each mean something, not a thousand."""

PICTURE_FEATURES = ("red", "green", "blue", "crop red", "crop green", "crop blue", "sharpness")

NAMED: dict[Sense, str] = {
    "video": "Mean colour, sharpness, place and size of the face, time, frame rate and session",
    "audio": "Length of the sound, what is heard in its quietest moments, time and session",
}

HINGES_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)
"""Where the line over the seconds since the start may bend: studies begin with instructions that are the same length
for all, and what happens later happens at less exact times, so the bends lie ever further apart."""

FRACTION_CENTRES = tuple(round(0.1 * step, 1) for step in range(11))
"""Centres of the bumps over the share of the recording that has passed."""

FRACTION_WIDTH = 0.1
"""Width (sd) of a bump: neighbours overlap, so that their sum can follow any slow course."""


def nuisance_name(baseline: PersonalBaseline) -> str:
    """Return what the predictions under a personal baseline are called.

    >>> nuisance_name(PersonalBaseline("recording"))
    'nuisances+recording'
    """
    return NUISANCES if baseline.kind == "none" else f"{NUISANCES}+{baseline}"


def nuisance_predictions(
    material: Material, *, splits: Sequence[Split], baselines: Sequence[PersonalBaseline]
) -> dict[str, pd.DataFrame]:
    """Predict the label from nuisances alone, people apart, once per personal baseline.

    Args:
        material: Dataset and clips.
        splits: The folds of the models.
        baselines: The personal baselines of the models.

    Returns:
        Predictions tables by `nuisance_name`. Empty where the training participants of a fold show one class only.
    """
    frames = material.frames_of(_tested(splits))
    if single_class_folds(frames, splits=splits):
        return {}
    features = nuisance_features(material.dataset, frames, sense=material.sense)
    tables = {}
    for baseline in baselines:
        name = nuisance_name(baseline)
        tables[name] = out_of_fold(
            features, frames, clips=material.clips, splits=splits, baseline=baseline, C=NUISANCE_C, model=name
        )
    return tables


def check_nuisances(
    tables: Mapping[str, pd.DataFrame], *, clips: ClipIndex, splits: Sequence[Split], sense: Sense = "video"
) -> Check:
    """Say whether nuisances predict the label.

    Args:
        tables: What `nuisance_predictions` returned.
        clips: The clips of the target.
        splits: The folds.
        sense: What they were taken of (`Material.sense`).
    """
    threshold = alarm_threshold(clips, splits=splits)
    scored = {name: grouped_interval(table, clips.scheme, folds=len(splits)) for name, table in tables.items()}
    scores = [
        score_json(name, interval, baseline=PersonalBaseline.parse(name.partition("+")[2] or "none"))
        for name, interval in scored.items()
    ]
    known = {name: interval for name, interval in scored.items() if is_known(interval)}
    if not known:
        return Check(
            "nuisances",
            "not checked",
            None,
            threshold,
            "Too few people show both classes to score anything with people apart.",
            advice="Add participants.",
            evidence={"scores": scores},
        )
    alarms = [name for name, interval in known.items() if exceeds(interval, threshold, clips=clips)]
    shown = "; ".join(f"{name} {describe_interval(interval)}" for name, interval in known.items())
    return Check(
        "nuisances",
        "warn" if alarms else "ok",
        {name: held_bound(interval, threshold, clips=clips) for name, interval in known.items()},
        threshold,
        f"{NAMED[sense]} alone reach {shown} "
        f"(balanced accuracy with people apart; lower bounds are held against {threshold:.2f}).",
        advice="Read every score beside this one. Where it comes from the light, the room or the devices, record "
        "evenly; where it comes from the time, show the stimuli in another order to each participant."
        if alarms
        else "",
        evidence={"scores": scores},
    )


def nuisance_features(dataset: Dataset, frames: pd.DataFrame, *, sense: Sense = "video") -> NDArray[np.float32]:
    """Return the nuisances of frames.

    Args:
        dataset: The dataset.
        frames: As `Material.frames_of` gives them.
        sense: `audio` for what sound brings (`sound_nuisances`) in place of everything that is seen.

    Returns:
        (N, D) float32, finite: mean colour of the whole picture and of the crop, the whole picture's sharpness (the
        log of the variance of its Laplacian; a close face is sharper when it shows its teeth, and that is no nuisance),
        the face box relative to the picture, whether a face was found, the time (a
        line with bends over seconds, bumps over the share that has passed), frame rates, and a column per session.
    """
    recordings = dataset.recordings.set_index("recording_id")[["width", "height", "fps_declared", "fps_measured"]]
    numbers = {
        str(name): row for name, row in zip(recordings.index, recordings.to_numpy(dtype=np.float64), strict=True)
    }
    session_of = dict(zip(dataset.recordings["recording_id"], dataset.recordings["session"], strict=True))
    sessions = _shared_sessions(dataset.recordings)

    def of(recording_id: str) -> NDArray[np.float32]:
        width, height, *rates = numbers[recording_id].tolist()
        constant = [*rates, *(float(session_of[recording_id] == name) for name in sessions)]
        table = dataset.frames(recording_id)
        seen: list[NDArray[Any]] = [sound_nuisances(dataset, recording_id)]
        if sense == "video":
            seen = [
                picture_nuisances(dataset, recording_id),
                _filled(_relative_box(table, width=width, height=height)),
                table["face_found"].to_numpy(dtype=np.float64)[:, None],
            ]
        columns: list[NDArray[Any]] = [
            *seen,
            time_features(table["pts_s"].to_numpy(dtype=np.float64)),
            np.tile(np.array(constant, dtype=np.float64), (len(table), 1)),
        ]
        return np.concatenate(columns, axis=1).astype(np.float32)

    return np.nan_to_num(_filled(features_of_frames(frames, of=of)), nan=0.0).astype(np.float32)


def time_features(pts_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the position in time (N, D) of the sampled frames of ONE recording, so that a line can follow a curve.

    >>> time_features(np.array([0.0, 5.0, 10.0]))[:, 0].tolist()
    [0.0, 5.0, 10.0]
    """
    since_s = pts_s - pts_s[0] if len(pts_s) else pts_s
    share = since_s / max(float(since_s[-1]), 1e-9) if len(pts_s) else since_s
    hinges = np.maximum(0.0, since_s[:, None] - np.array((0.0, *HINGES_S)))
    bumps = np.exp(-0.5 * ((share[:, None] - np.array(FRACTION_CENTRES)) / FRACTION_WIDTH) ** 2)
    return np.concatenate([hinges, share[:, None], bumps], axis=1)


def picture_nuisances(dataset: Dataset, recording_id: str) -> NDArray[np.float32]:
    """Return `PICTURE_FEATURES` (N, 7) of the sampled frames of a recording, kept in the dataset's cache."""
    path = cache_path(dataset, recording_id, kind="nuisances")
    if not path.is_file():
        crops, context = dataset.crops(recording_id), dataset.context(recording_id)

        def write(temporary: Path) -> None:
            values = np.zeros((len(crops), len(PICTURE_FEATURES)), np.float32)
            for start in range(0, len(crops), PIXEL_BLOCK):
                block = slice(start, start + PIXEL_BLOCK)
                values[block, :3] = np.asarray(context[block]).mean(axis=(1, 2))
                values[block, 3:6] = np.asarray(crops[block]).mean(axis=(1, 2))
                values[block, 6] = [_sharpness(picture) for picture in context[block]]
            with temporary.open("wb") as stream:
                np.save(stream, values)

        write_array(path, write)
    return np.asarray(load_array(path), np.float32)


def _sharpness(picture: NDArray[np.uint8]) -> float:
    """Log of the variance of the Laplacian: its spread grows with its size, and a probe is linear."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return float(np.log1p(cv2.Laplacian(grey, cv2.CV_32F).var()))


def _relative_box(table: pd.DataFrame, *, width: float, height: float) -> NDArray[np.float64]:
    """Centre, width and height (N, 4) of the face box, as shares of the picture."""
    x0, y0, x1, y1 = (table[name].to_numpy(dtype=np.float64) for name in ("x0", "y0", "x1", "y1"))
    return np.column_stack([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])


def _filled(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Replace what is missing by the column's mean; a column of which nothing is known stays as it is."""
    table = np.asarray(values, dtype=np.float64)
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    means = np.divide(sums, counts, out=np.full(table.shape[1], np.nan), where=counts > 0)
    return np.where(known, table, means)


def _shared_sessions(recordings: pd.DataFrame) -> list[str]:
    """Sessions of several participants, where there are several: one that a single person has names that person."""
    people = recordings.groupby("session")["participant_id"].nunique()
    shared = [str(name) for name, count in people.items() if count > 1]
    return shared if len(people) > 1 else []


def _tested(splits: Sequence[Split]) -> list[str]:
    return sorted({name for split in splits for name in (*split.train, *split.validation, *split.test)})
