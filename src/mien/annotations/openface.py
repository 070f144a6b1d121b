"""OpenFace's CSV: ratings of every frame of a video, and the action units that it calls present.

Format: OpenFace wiki, "Output Format"; Baltrusaitis et al., "OpenFace 2.0: Facial Behavior Analysis Toolkit", FG 2018.
Action units have an intensity (`AU04_r`, 0..5) and a presence (`AU04_c`, 0 or 1). `FeatureExtraction` writes one face,
`FaceLandmarkVidMulti` several (`face_id`); `FaceLandmarkImg` describes single pictures, which have no time.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import Export, interval_table
from mien.annotations.frame_tables import (
    channel_name,
    check_steps,
    increasing,
    make_signal,
    own_times,
    read_frame_table,
    read_header,
    times_of_frames,
)
from mien.annotations.thresholds import intervals_from_channels
from mien.core.errors import UserError
from mien.core.types import Signal

SOURCE = "OpenFace"

INTENSITY = re.compile(r"(AU\d+)_r")
PRESENCE = re.compile(r"(AU\d+)_c")
POSE = re.compile(r"pose_[TR][xyz]|gaze_[01]_[xyz]|gaze_angle_[xy]")

PRESENT = 0.5
"""Presence is 0 or 1."""


def read_openface(path: Path, *, frame_times_s: NDArray[np.float64] | None = None) -> Export:
    """Read a CSV of OpenFace.

    Args:
        path: What `FeatureExtraction` or `FaceLandmarkVidMulti` wrote.
        frame_times_s: Presentation times of the media's frames (F,), s; where given, they count instead of the file's
            `timestamp` (OpenFace counts frames from 1).

    Returns:
        Signals per face: intensity of each action unit, head pose and gaze, of frames with `success` 1 only;
        `confidence` of all frames. Intervals: where an action unit is present, by runs of frames (a run ends at the
        next frame without it, or one frame's duration after the last where the face is lost). Action units that are
        one of the study's channels have its name (AU04: Brow Furrow), the others their own.

    Raises:
        UserError: The file can't be read, isn't OpenFace's, or describes single pictures.
    """
    header = _checked_header(path, numbered=frame_times_s is not None)
    table = read_frame_table(path, wanted=_is_wanted)
    problems = list(table.problems)
    rows = table.rows
    times_s = (
        own_times(path, rows["timestamp"], problems=problems)
        if frame_times_s is None or "frame" not in rows
        else times_of_frames(path, rows["frame"], frame_times_s, first=1, problems=problems)
    )
    faces = rows["face_id"] if "face_id" in rows else pd.Series(0.0, index=rows.index)
    names = _face_names(faces)
    signals: list[Signal] = []
    presences: list[Signal] = []
    for face, name in names.items():
        own = np.flatnonzero((faces == face).to_numpy())
        own = own[increasing(path, times_s[own], problems=problems)]
        check_steps(path, times_s[own], problems=problems)
        part = _signals(rows.iloc[own], times_s[own], face=name)
        signals.extend(part[0])
        presences.extend(part[1])
    return Export(
        path=path,
        format=SOURCE,
        intervals=interval_table(intervals_from_channels(presences, threshold=PRESENT).assign(value=None)),
        signals=tuple(signals),
        annotator=SOURCE,
        tool=True,
        labels=tuple(channel_name(found.group(1)) for name in header if (found := PRESENCE.fullmatch(name))),
        problems=tuple(problems),
    )


def _checked_header(path: Path, *, numbered: bool) -> list[str]:
    """Return the column names of a file of OpenFace that has times, or numbers of frames whose times are known."""
    header = [name.strip() for name in read_header(path)]
    if not any(INTENSITY.fullmatch(name) or PRESENCE.fullmatch(name) or POSE.fullmatch(name) for name in header):
        raise UserError(f"{path.name} isn't OpenFace's: it has no action units, pose or gaze (AU01_r, pose_Rx, ...).")
    if "timestamp" not in header and not (numbered and "frame" in header):
        raise UserError(
            f"{path.name} has no timestamp: FaceLandmarkImg writes such files for single pictures. Run "
            "FeatureExtraction (one face) or FaceLandmarkVidMulti (several) on the video."
        )
    return header


def _is_wanted(name: str) -> bool:
    known = name in ("frame", "face_id", "timestamp", "confidence", "success")
    return known or any(kind.fullmatch(name) for kind in (INTENSITY, PRESENCE, POSE))


def _face_names(faces: pd.Series[float]) -> dict[float, str]:
    """Return the faces' numbers, and their names: empty where there is one."""
    numbers = sorted(faces.dropna().unique())
    return {number: f"{number:g}" if len(numbers) > 1 else "" for number in numbers}


def _signals(rows: pd.DataFrame, times_s: NDArray[np.float64], *, face: str) -> tuple[list[Signal], list[Signal]]:
    """Return the signals of one face, and the presences of its action units."""
    tracked = rows["success"].to_numpy() == 1 if "success" in rows else np.ones(len(rows), dtype=bool)
    seen, seen_s = rows[tracked], times_s[tracked]
    signals, presences = [], []
    for column in rows.columns:
        intensity, presence = INTENSITY.fullmatch(column), PRESENCE.fullmatch(column)
        if intensity or POSE.fullmatch(column):
            name = channel_name(intensity.group(1)) if intensity else column
            unit = "0..5" if intensity else _pose_unit(column)
            signals.append(make_signal(name, unit=unit, source=SOURCE, face=face, times_s=seen_s, values=seen[column]))
        elif presence:
            name = channel_name(presence.group(1))
            presences.append(make_signal(name, unit="", source=SOURCE, face=face, times_s=seen_s, values=seen[column]))
        elif column == "confidence":
            signals.append(make_signal(column, unit="", source=SOURCE, face=face, times_s=times_s, values=rows[column]))
    return [signal for signal in signals if signal], [signal for signal in presences if signal]


def _pose_unit(column: str) -> str:
    if column.startswith("pose_T"):
        return "mm"
    return "rad" if column.startswith(("pose_R", "gaze_angle")) else ""
