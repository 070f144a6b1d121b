"""One recording to its timeline: what was said of each sampled frame, what is calibrated, and where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.data.dataset import sample_ends
from mien.data.pictures import BOX_COLUMNS
from mien.evaluation.calibration import Calibration
from mien.media.quality import QUALITY_COLUMNS
from mien.predict.beside import SeenFrames, read_beside, sampled_times
from mien.predict.seeing import see_recording
from mien.runtime.bundle import Bundle, ModelSpec
from mien.runtime.seen_quality import why_worse

MISSING = {"video": "face", "audio": "sound", "signals": "signal"}
"""What isn't there where a model of one kind of input says nothing."""


@dataclass(frozen=True)
class Prediction:
    """What a bundle says of one recording.

    Attributes:
        timeline: As `predict_timeline` returns it, N rows.
        boxes_xyxy: (N, 4) where the participant's face is, px; NaN where it isn't seen.
        damage: What was lost of the recording; empty where nothing was.
    """

    timeline: pd.DataFrame
    boxes_xyxy: NDArray[np.float64]
    damage: str


def predict_timeline(bundle: Bundle, video: Path, *, signals: Path | None = None) -> pd.DataFrame:
    """Predict one video.

    Args:
        bundle: The model.
        video: A video file; for a model that only listens also a sound file.
        signals: Sensor export on the video's clock, for a model that looks at signals.

    Returns:
        A row per sampled frame: recording_id, start_s, end_s (half-open, seconds), logit_* and prob_*, or value_* of a
        target of numbers (NaN where there is no face and, for a model that uses them, neither sound nor signals),
        calibrated_* (NaN too where the bundle has no calibration; none of numbers), face_found, and abstained: why
        nothing should be made of this row, empty where it counts.

    Raises:
        MediaError: The video can't be read.
        UserError: It shows a face for too short a time for the bundle's personal baseline, or has nothing of what the
            model looks at.
    """
    return predict_recording(bundle, video, signals=signals).timeline


def predict_recording(bundle: Bundle, video: Path, *, signals: Path | None = None) -> Prediction:
    """Predict one video as `predict_timeline`, and say what else was found."""
    bundle.baseline.check_new_recording()
    fps = bundle.spec.sampling.fps
    seen = see_recording(bundle, video) if bundle.needs_pictures else sampled_times(video, fps=fps)
    end_s = float(sample_ends(seen.pts_s, fps=fps)[-1]) if len(seen.pts_s) else 0.0
    beside = read_beside(bundle, video, end_s=end_s, signals=signals)
    if not bundle.needs_pictures:
        check_heard_long_enough(bundle, video, seconds=end_s - float(seen.pts_s[0]) if len(seen.pts_s) else 0.0)
    logits = seen.logits
    if logits is None:
        logits = bundle.stored_logits(seen.features, pts_s=seen.pts_s, sound=beside.sound, signals=beside.signals)
    boxes = np.full((len(seen.pts_s), 4), np.nan)
    if seen.faces is not None:
        boxes = seen.faces[list(BOX_COLUMNS)].to_numpy(np.float64)
    damage = "; ".join(filter(None, (seen.damage, beside.damage)))
    return Prediction(_timeline(video.stem, logits=logits, seen=seen, spec=bundle.spec), boxes, damage)


def check_heard_long_enough(bundle: Bundle, recording: Path, *, seconds: float) -> None:
    """Refuse a recording that is too short for the personal baseline of a bundle that listens.

    Raises:
        UserError: It is shorter than the baseline needs.
    """
    if seconds < bundle.baseline.needed_s:
        raise UserError(
            f"{recording.name} lasts {seconds:.1f} s, and the bundle's personal baseline ({bundle.baseline}) needs "
            f"{bundle.baseline.needed_s:g} s. Use a longer recording, or a bundle without a baseline."
        )


def counted(timeline: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows (N,) of a timeline count: something is said of them, and the face is seen well enough.

    A timeline that was made elsewhere, without `abstained`, counts wherever something is said.
    """
    if "abstained" not in timeline:
        return np.ones(len(timeline), bool)
    # What was empty is missing in a table that was read again.
    return np.asarray((timeline["abstained"].isna() | (timeline["abstained"] == "")).to_numpy(dtype=bool))


def nothing_there(spec: ModelSpec) -> str:
    """Say what is missing where a model says nothing, such as "no face"."""
    return " and ".join(f"no {MISSING[modality]}" for modality in spec.modalities)


def _timeline(recording_id: str, *, logits: NDArray[np.float64], seen: SeenFrames, spec: ModelSpec) -> pd.DataFrame:
    scheme = spec.labels
    end_s = sample_ends(seen.pts_s, fps=spec.sampling.fps)
    table = pd.DataFrame({"recording_id": recording_id, "start_s": seen.pts_s, "end_s": end_s})
    said = np.asarray(~np.isnan(logits).any(axis=1))
    answers = np.full_like(logits, np.nan)
    answers[said] = scheme.answers(logits[said])
    for column, name in enumerate(scheme.output_names):
        table[f"logit_{name}"] = logits[:, column]
    for column, name in enumerate(scheme.output_columns):
        table[name] = answers[:, column]
    if scheme.kind != "continuous":
        probabilities = calibrated(logits, spec=spec)
        for column, name in enumerate(scheme.output_names):
            table[f"calibrated_{name}"] = probabilities[:, column]
    table["face_found"] = seen.face_found
    table["abstained"] = _abstained(said, seen=seen, spec=spec)
    return table


def calibrated(logits: NDArray[np.float64], *, spec: ModelSpec) -> NDArray[np.float64]:
    """Return calibrated probabilities (N, num_outputs) for logits; NaN where there is no logit or no calibration.

    Raises:
        UserError: The bundle's calibration can't be read.
    """
    scheme = spec.labels
    result = np.full_like(logits, np.nan)
    said = ~np.isnan(logits).any(axis=1)
    outputs = scheme.output_names if scheme.kind != "multiclass" else (scheme.target,)
    for place, name in enumerate(outputs):
        if name in spec.calibration and said.any():
            own = Calibration.from_json(spec.calibration[name])
            columns = slice(None) if scheme.kind == "multiclass" else slice(place, place + 1)
            if not own.note:
                result[said, columns] = own.apply(logits[said, columns])
    return result


def _abstained(said: NDArray[np.bool_], *, seen: SeenFrames, spec: ModelSpec) -> NDArray[np.object_]:
    """Return why nothing should be made of each sample (N,); empty where it counts."""
    reasons = np.full(len(said), "", object)
    if seen.faces is not None and spec.sampling.crop == "face":
        reasons = why_worse(seen.faces[list(QUALITY_COLUMNS)], ranges=spec.seen_quality)
    reasons[~said] = nothing_there(spec)
    return reasons
