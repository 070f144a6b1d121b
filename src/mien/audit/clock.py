"""Do times fit: what a file declares against what its frames show, and annotations against the recording's length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mien.audit.check import Check, Severity
from mien.data.dataset import Dataset

WARN_S = 0.1
"""Or one sampling interval, where that is shorter (EVALUATION.md section 2): labels are then one sample off."""

FAIL_S = 0.5
"""Expressions begin and end within about half a second: farther off, a label is of another one."""

WHAT = {
    "duration": "declared against measured duration",
    "annotations": "annotations after the end",
    "coded": "coded time after the end",
    "rate": "drift of frame numbers at the declared rate",
    "gap": "longest stretch without a sample",
}
"""What is measured in each recording, s beyond what is normal; the last two warn and never fail."""

_FAILING = ("duration", "annotations", "coded")
"""Times are those of the frames themselves, so a wrong declared rate or a gap moves no label: whoever counted frames
should know of the one, whoever counts clips of the other."""


def check_clock(dataset: Dataset) -> Check:
    """Measure each recording's clock; the largest deviation counts.

    * duration: |declared - measured|, less one frame at the mean rate, because nothing says how long the last one lasts
      (variable rates, dropped frames). The measured one counts from the first frame, as the declared one does.
    * annotations, coded: the last offset of an annotation, or of coded time, after the end of the recording.
    * rate: how far the last frame's number over the declared rate is from its time, less one frame.
    * gap: the longest time between two samples beyond two sampling intervals, which is where a sample is missing.

    Args:
        dataset: A prepared study.
    """
    table = clock_table(dataset)
    limit = min(WARN_S, 1.0 / dataset.fps)
    worst = {name: float(table[name].max()) if table[name].notna().any() else None for name in WHAT}
    failing = table[(table[list(_FAILING)] > FAIL_S).any(axis=1)]
    warned = table[(table[list(WHAT)] > limit).any(axis=1)]
    severity: Severity = "fail" if len(failing) else "warn" if len(warned) else "ok"
    shown = failing if len(failing) else warned
    return Check(
        "clock",
        severity,
        measured=worst,
        threshold={"warn_s": limit, "fail_s": FAIL_S},
        detail=_detail(worst, shown=shown, total=len(table), limit=limit, severity=severity),
        advice=_ADVICE[severity],
        evidence={"recordings": [_row(row) for row in shown.to_dict("records")]},
    )


_ADVICE: dict[Severity, str] = {
    "ok": "",
    "warn": "Look at the recordings listed. Where annotators counted frames, give their times in seconds.",
    "fail": "Check that the times are in seconds from the start of the same recording, and that the export is of this "
    "file and not of another cut; then prepare again.",
}


def clock_table(dataset: Dataset) -> pd.DataFrame:
    """Return a row per recording: recording_id and the measures of `WHAT` (s; NaN where one can't be taken)."""
    facts = dataset.recordings
    ends = pd.DataFrame({"recording_id": facts["recording_id"]})
    for name, table, column in (("annotations", dataset.annotations, "offset_s"), ("coded", dataset.coded, "to_s")):
        last = table.groupby("recording_id")[column].max().astype("float64")
        after = ends["recording_id"].map(last) - facts["duration_s"]
        ends[name] = after.clip(lower=0.0)
    pictures = [_picture_clock(dataset, row) for row in facts.to_dict("records")]
    return pd.concat([ends, pd.DataFrame(pictures, columns=["duration", "rate", "gap"], dtype="float64")], axis=1)


def _picture_clock(dataset: Dataset, facts: dict[Any, Any]) -> tuple[float, float, float]:
    nan = float("nan")
    if not facts["num_frames"]:
        return nan, nan, nan
    pts_s = dataset.frames(str(facts["recording_id"]))["pts_s"].to_numpy(dtype=np.float64)
    measured_fps, declared_fps = float(facts["fps_measured"]), float(facts["fps_declared"])
    frame_s = 1.0 / measured_fps if measured_fps > 0 else 1.0 / dataset.fps
    measured_s = float(facts["duration_s"]) - pts_s[0]
    duration = abs(float(facts["duration_declared_s"]) - measured_s) - frame_s
    # The last frame's number is what was counted: its time at the measured mean rate.
    last_s = max(measured_s - frame_s, 0.0)
    rate = last_s * abs(measured_fps / declared_fps - 1.0) - frame_s if declared_fps > 0 else nan
    gap = float(np.diff(pts_s).max(initial=0.0)) - 2.0 / dataset.fps
    return tuple(max(value, 0.0) if np.isfinite(value) else nan for value in (duration, rate, gap))  # type: ignore[return-value]


def _row(row: dict[Any, Any]) -> dict[str, Any]:
    numbers = {f"{name}_s": None if pd.isna(row[name]) else round(float(row[name]), 4) for name in WHAT}
    return {"recording": str(row["recording_id"]), **numbers}


def _detail(
    worst: dict[str, float | None], *, shown: pd.DataFrame, total: int, limit: float, severity: Severity
) -> str:
    parts = [f"{WHAT[name]} {1000 * value:.0f} ms" for name, value in worst.items() if value is not None]
    parts += [f"{WHAT[name]} not checked" for name in ("duration", "rate") if worst[name] is None]
    text = f"Largest deviation in {total} recordings: {', '.join(parts)}."
    if len(shown):
        bound = FAIL_S if severity == "fail" else limit
        names = ", ".join(str(name) for name in shown["recording_id"].head(3))
        text += f" {len(shown)} of them exceed {1000 * bound:.0f} ms ({names}{', ...' if len(shown) > 3 else ''})."
    return f"{text} The offset between sound, picture and export was not checked: no moment is marked in all three."
