"""Py-Feat's CSV: ratings of every frame, which it numbers.

Its `approx_time` is no time to go by: it is the frame's number over the average frame rate, cut to whole seconds
(`feat.data.VideoDataset.calc_approx_frame_time`). Rows need the media's own frame times.

Format: Cheong et al., "Py-Feat: Python Facial Expression Analysis Toolbox", Affective Science 4, 2023.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import Export
from mien.annotations.frame_tables import (
    channel_name,
    increasing,
    make_signal,
    own_times,
    read_frame_table,
    read_header,
    times_of_frames,
)
from mien.core.errors import UserError
from mien.core.types import Problem, Signal

SOURCE = "Py-Feat"

UNIT = re.compile(r"AU\d\d")
EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
POSE = ("Pitch", "Roll", "Yaw")
TIMES = ("pts_s", "pts_time", "pts", "timestamp", "time_s")
"""Columns that hold times in seconds, where a lab has added one."""


def read_pyfeat(path: Path, *, frame_times_s: NDArray[np.float64] | None = None) -> Export:
    """Read a CSV of Py-Feat.

    Args:
        path: What its `Detector` wrote.
        frame_times_s: Presentation times of the media's frames (F,), s; Py-Feat counts frames from 0. Needed where the
            file has no column of seconds (`pts_s`, `timestamp`).

    Returns:
        Signals per face: action units (0..1), emotions (0..1), head pose, `FaceScore`; of rows with a face. Without
        times it has no signals: `needs_frame_times` is set, and a problem says what is needed. Where a frame has
        several rows, faces are named by `Identity`, else by their order in the frame.

    Raises:
        UserError: The file can't be read or isn't Py-Feat's.
    """
    header = [name.strip() for name in read_header(path)]
    if "frame" not in header or not any(UNIT.fullmatch(name) or name in EMOTIONS for name in header):
        raise UserError(f"{path.name} isn't Py-Feat's: it needs the column frame, and action units or emotions.")
    table = read_frame_table(path, wanted=_is_wanted, texts=("input", "Identity"))
    rows, problems = table.rows, list(table.problems)
    own_time = next((name for name in TIMES if name in rows), None)
    signals: tuple[Signal, ...] = ()
    waits = frame_times_s is None and own_time is None
    if waits:
        reason = f"its {len(rows)} rows are numbered frames without times; frame number over frame rate is no time"
        advice = "Name it like the recording that it was made from, so that it gets the times of that file's frames."
        problems.append(Problem(path.name, "annotations", reason, advice))
    else:
        times_s = (
            times_of_frames(path, rows["frame"], frame_times_s, first=0, problems=problems)
            if frame_times_s is not None
            else own_times(path, rows[str(own_time)], problems=problems)
        )
        signals = _signals(path, rows, times_s, problems=problems)
    inputs = rows["input"].dropna() if "input" in rows else pd.Series(dtype=str)
    return Export(
        path=path,
        format=SOURCE,
        signals=signals,
        media=tuple(dict.fromkeys(re.split(r"[/\\]", text.strip())[-1] for text in inputs if text.strip())),
        annotator=SOURCE,
        tool=True,
        needs_frame_times=waits,
        problems=tuple(problems),
    )


def _is_wanted(name: str) -> bool:
    known = {"frame", "input", "Identity", "FaceScore", *EMOTIONS, *POSE, *TIMES}
    return name in known or UNIT.fullmatch(name) is not None


def _signals(
    path: Path, rows: pd.DataFrame, times_s: NDArray[np.float64], *, problems: list[Problem]
) -> tuple[Signal, ...]:
    columns = [name for name in rows.columns if name in (*EMOTIONS, *POSE, "FaceScore") or UNIT.fullmatch(name)]
    # Rows without a face have a frame and nothing else.
    with_face = rows[columns].notna().any(axis=1).to_numpy() & np.isfinite(times_s)
    faces = _faces(path, rows[with_face], times_s[with_face], problems=problems)
    signals = []
    for face in dict.fromkeys(faces):
        own = np.flatnonzero(with_face)[(faces == face).to_numpy()]
        own = own[increasing(path, times_s[own], problems=problems)]
        for column in columns:
            signal = make_signal(
                channel_name(column),
                unit="degrees" if column in POSE else "",
                source=SOURCE,
                face=face,
                times_s=times_s[own],
                values=rows[column].iloc[own],
            )
            signals.append(signal)
    return tuple(signal for signal in signals if signal)


def _faces(path: Path, rows: pd.DataFrame, times_s: NDArray[np.float64], *, problems: list[Problem]) -> pd.Series[str]:
    """Return the name of each row's face: empty where every moment has one."""
    order = rows.groupby(times_s).cumcount()
    if not len(rows) or order.max() == 0:
        return pd.Series("", index=rows.index)
    if "Identity" in rows and rows["Identity"].notna().all():
        return rows["Identity"].astype(str)
    reason = f"up to {int(order.max()) + 1} faces per frame without identities: told apart by their order in the frame"
    advice = "Let Py-Feat detect identities, or cut the video to one face."
    problems.append(Problem(path.name, "annotations", reason, advice))
    return order.astype(str)
