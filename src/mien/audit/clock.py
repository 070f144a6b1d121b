"""Do times fit: what a file declares against what its frames show, and picture, export and sound against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mien.audit.check import Check, Severity
from mien.audit.offset import Offset, OwnOffset, export_offset, sound_offset
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
    "sound": "end of the sound from the end of the picture",
}
"""What is measured in each recording, s beyond what is normal; the last three warn and never fail."""

_FAILING = ("duration", "annotations", "coded")
"""Times are those of the frames themselves, so a wrong declared rate or a gap moves no label: whoever counted frames
should know of the one, whoever counts clips of the other. Sound that ends early may only have been switched off."""

SOUND_END_S = 0.1
"""How far sound and picture end apart in sound recordings: a frame of the one and a packet or two of the other (up to
.06 s in 72 recordings)."""

LIPS_FIRST_S = 0.15
"""Lips move up to this long before they are heard (Chandrasekaran et al. 2009: .1 to .3 s for first sounds, less within
speech), so sound may be that late."""

FAIL_SHARE = 0.1
"""Share of the recordings with an own offset of more than `FAIL_S` at which a study fails. Fewer are named, so that
they can be mended or left out; they can't make a result."""

_RANKS: tuple[Severity, ...] = ("ok", "warn", "fail")


def check_clock(dataset: Dataset, *, seed: int = 0) -> Check:
    """Measure each recording's clock; the largest deviation counts.

    * duration: |declared - measured|, less one frame at the mean rate, because nothing says how long the last one lasts
      (variable rates, dropped frames). The measured one counts from the first frame, as the declared one does.
    * annotations, coded: the last offset of an annotation, or of coded time, after the end of the recording.
    * rate: how far the last frame's number over the declared rate is from its time, less one frame.
    * gap: the longest time between two samples beyond two sampling intervals, which is where a sample is missing.
    * sound: how far sound and picture end apart, less what is normal.

    And the offsets of export and sound from the picture, in all recordings and in each, with intervals (see
    `mien.audit.offset`); they count only where the whole interval is beyond a threshold, so that what is known badly
    refuses nothing.

    Args:
        dataset: A prepared study.
        seed: Decides which people are predicted together when offsets are measured.
    """
    table = clock_table(dataset)
    limit = min(WARN_S, 1.0 / dataset.fps)
    worst = {name: float(table[name].max()) if table[name].notna().any() else None for name in WHAT}
    failing = table[(table[list(_FAILING)] > FAIL_S).any(axis=1)]
    warned = table[(table[list(WHAT)] > limit).any(axis=1)]
    of_table: Severity = "fail" if len(failing) else "warn" if len(warned) else "ok"
    offsets = (export_offset(dataset, seed=seed), sound_offset(dataset, seed=seed))
    found = {offset.against: _severity_of(offset, limit=limit) for offset in offsets}
    severity = max([of_table, *found.values()], key=_RANKS.index)
    shown = failing if len(failing) else warned
    detail = _detail(worst, shown=shown, total=len(table), limit=limit, severity=of_table)
    advice = [_ADVICE[of_table], *(_offset_advice(offset, limit=limit) for offset in offsets)]
    return Check(
        "clock",
        severity,
        measured=worst | _measured(offsets),
        threshold={"warn_s": limit, "fail_s": FAIL_S},
        detail=" ".join([detail, *(_offset_detail(offset, limit=limit) for offset in offsets)]),
        advice=" ".join(part for part in advice if part),
        evidence={
            "recordings": [_row(row) for row in shown.to_dict("records")],
            **{f"offset_{offset.against}": offset.to_json() for offset in offsets},
        },
    )


_ADVICE: dict[Severity, str] = {
    "ok": "",
    "warn": "Look at the recordings listed. Where annotators counted frames, give their times in seconds.",
    "fail": "Check that the times are in seconds from the start of the same recording, and that the export is of this "
    "file and not of another cut; then prepare again.",
}


def _beyond(offset: Offset, limit_s: float) -> bool:
    """Whether all recordings together are off for sure; sound may follow lips."""
    if offset.offset is None:
        return False
    late_s = limit_s + (LIPS_FIRST_S if offset.against == "sound" else 0.0)
    return offset.offset.low_s > late_s or offset.offset.high_s < -limit_s


def _severity_of(offset: Offset, *, limit: float) -> Severity:
    far = offset.apart(FAIL_S)
    many = len(far) > 1 and len(far) >= FAIL_SHARE * len(offset.own)
    if many or _beyond(offset, FAIL_S):
        return "fail"
    drifts = offset.drift is not None and offset.drift.beyond(limit)
    return "warn" if drifts or offset.apart(limit) or _beyond(offset, limit) else "ok"


def _measured(offsets: Sequence[Offset]) -> dict[str, Any]:
    drifts = [offset.drift.to_json() for offset in offsets if offset.drift is not None]
    known = {
        f"offset_{offset.against}_s": None if offset.offset is None else offset.offset.to_json() for offset in offsets
    }
    return {**known, "drift_s": drifts[0] if drifts else None}


def _offset_detail(offset: Offset, *, limit: float) -> str:
    name, found, drift = offset.against, offset.offset, offset.drift
    if found is not None:
        text = (
            f"The {name}'s clock is {abs(found.value_s):.2f} s {'late' if found.value_s >= 0 else 'early'} against the "
            f"picture's ({found.low_s:+.2f} to {found.high_s:+.2f} s, from the faces of {offset.groups} people and "
            f"{', '.join(offset.channels[:3])}{', ...' if len(offset.channels) > 3 else ''})."
        )
    else:
        said = "is" if offset.reason.startswith("not measurable") else "was not checked:"
        text = f"The offset between {name} and picture {said} {offset.reason}."
    if drift is not None:
        text += (
            f" From the first to the second half of long recordings it changes by {drift.value_s:+.2f} s "
            f"({drift.low_s:+.2f} to {drift.high_s:+.2f})."
        )
    apart = offset.apart(limit)
    if apart:
        text += f" {len(apart)} of {len(offset.own)} recordings have another offset than the others ({_listed(apart)})."
    return text


def _listed(apart: Sequence[OwnOffset]) -> str:
    worst = sorted(apart, key=lambda one: -abs(one.from_common.value_s))
    named = ", ".join(f"{one.recording_id} {one.offset.value_s:+.2f} s" for one in worst[:3])
    return f"{named}{', ...' if len(worst) > 3 else ''}"


def _offset_advice(offset: Offset, *, limit: float) -> str:
    parts = []
    if offset.offset is not None and _beyond(offset, limit):
        shift_s = -offset.offset.value_s
        if offset.against == "export":
            parts.append(
                f"Shift the export by {shift_s:+.2f} s: a file clock.csv in the study's folder with the line "
                f"'recording,export_offset_s' and the line '*,{shift_s:.2f}' does it; prepare again, and look whether "
                "the faces then fit. (People who annotate while they watch are late; the same shift mends it.)"
            )
        else:
            parts.append(
                f"Move the sound by {shift_s:+.2f} s where the recordings are exported, and prepare again; annotations "
                "of what was heard need the same shift."
            )
    apart = offset.apart(limit)
    if apart:
        parts.append(
            f"Look at the recordings named: each {offset.against} probably began at another moment. Shift each "
            "by its own offset, or leave it out."
        )
    if offset.drift is not None and offset.drift.beyond(limit):
        parts.append("The clocks run at different speeds: give the export's times on the recording's own clock.")
    return " ".join(parts)


def clock_table(dataset: Dataset) -> pd.DataFrame:
    """Return a row per recording: recording_id and the measures of `WHAT` (s; NaN where one can't be taken)."""
    facts = dataset.recordings
    ends = pd.DataFrame({"recording_id": facts["recording_id"]})
    for name, table, column in (("annotations", dataset.annotations, "offset_s"), ("coded", dataset.coded, "to_s")):
        last = table.groupby("recording_id")[column].max().astype("float64")
        after = ends["recording_id"].map(last) - facts["duration_s"]
        ends[name] = after.clip(lower=0.0)
    rows = facts.to_dict("records")
    pictures = [(*_picture_clock(dataset, row), _sound_end(dataset, row)) for row in rows]
    columns = ["duration", "rate", "gap", "sound"]
    return pd.concat([ends, pd.DataFrame(pictures, columns=columns, dtype="float64")], axis=1)


def _sound_end(dataset: Dataset, facts: dict[Any, Any]) -> float:
    audio = dataset.audio(str(facts["recording_id"])) if facts["num_frames"] else None
    if audio is None:
        return float("nan")
    end_s = audio.start_s + len(audio.samples) / audio.rate_hz
    return max(abs(end_s - float(facts["duration_s"])) - SOUND_END_S, 0.0)


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
    return text
