"""Affectiva's JSON: one object per frame with its time in seconds, emotions and expressions 0..100 (valence -100..100).

Format: what programs on the Affectiva SDK write: `Timestamp`, `FileName` and ratings side by side, or ratings in
objects called `emotions` and `expressions`. McDuff et al., "AFFDEX SDK", CHI EA 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mien.annotations.exports import Export
from mien.annotations.frame_tables import channel_name
from mien.annotations.json_exports import number_of, read_json_export, text_of
from mien.core.errors import UserError
from mien.core.types import Problem, Signal

SOURCE = "AFFDEX"
GROUPS = ("emotions", "expressions")
TIME = "timestamp"
NOT_RATINGS = frozenset({TIME, "filename", "faceid", "frame", "age", "width", "height"})

Samples = dict[str, dict[float, float]]
"""Values by time, by channel."""


def read_affectiva(path: Path) -> Export:
    """Read Affectiva's JSON.

    Args:
        path: An object, a list of objects, or an object per line.

    Returns:
        Signals, per face where objects have a `faceId`. No intervals: how high a rating must be is the study's choice
        (`thresholds.intervals_from_channels`).

    Raises:
        UserError: The file can't be read, isn't JSON, or has no object with a Timestamp and ratings.
    """
    content = read_json_export(path)
    items = content if isinstance(content, list) else [content]
    faces, media, problems = _collect(path, items)
    if not faces:
        raise UserError(
            f"{path.name} has no object with a Timestamp and ratings, as Affectiva's JSON has. Export it again."
        )
    return Export(
        path=path,
        format="Affectiva JSON",
        signals=tuple(
            _signal(name, times, face=face if len(faces) > 1 else "")
            for face, samples in faces.items()
            for name, times in samples.items()
        ),
        media=media,
        annotator=SOURCE,
        tool=True,
        problems=tuple(problems),
    )


def _collect(path: Path, items: Sequence[object]) -> tuple[dict[str, Samples], tuple[str, ...], list[Problem]]:
    """Return the ratings of each face, the media's names, and what was left out."""
    faces: dict[str, Samples] = {}
    media: dict[str, None] = {}
    bad = repeated = 0
    for item in items:
        frame = _flat(item) if isinstance(item, dict) else {}
        time_s = number_of(frame.get(TIME))
        ratings = {name: number_of(value) for name, value in frame.items() if name.casefold() not in NOT_RATINGS}
        ratings = {name: value for name, value in ratings.items() if math.isfinite(value)}
        if not ratings or math.isnan(time_s):
            bad += 1
            continue
        media.update(dict.fromkeys(filter(None, [text_of(frame.get("filename"))])))
        samples = faces.setdefault(text_of(frame.get("faceid")), {})
        repeated += any(time_s in samples.get(name, {}) for name in ratings)
        for name, value in ratings.items():
            samples.setdefault(name, {}).setdefault(time_s, value)
    problems = []
    for count, what in ((bad, "without a time or ratings"), (repeated, "at the time of an earlier one")):
        if count:
            reason = f"{count} of {len(items)} frames {what}, left out"
            problems.append(Problem(path.name, "annotations", reason, "Export it again if that is more than a few."))
    return faces, tuple(media), problems


def _flat(item: Mapping[str, object]) -> dict[str, object]:
    """Return an object with the ratings of its groups beside the rest; names that aren't ratings in lower case."""
    flat: dict[str, object] = {}
    for name, value in item.items():
        inner = value if name.casefold() in GROUPS and isinstance(value, dict) else {name: value}
        flat.update({key.casefold() if key.casefold() in NOT_RATINGS else key: part for key, part in inner.items()})
    return flat


def _signal(name: str, samples: Mapping[float, float], *, face: str) -> Signal:
    times_s = np.array(sorted(samples), dtype=np.float64)
    values = np.array([samples[time_s] for time_s in times_s], dtype=np.float32)
    return Signal(channel_name(name), "", times_s, values, SOURCE, face=face)
