"""Label drawn in the pixels: what a picture says of the label once its face is hidden.

A composite screen recording may show plots, emoji or numbers of the very signal that the labels came from; a camera
picture may show a lamp or a screen behind the person. A model that sees them learns them instead of the face. So the
face is covered, and readers of two or three kinds are tried on the rest, with people apart: what they reach, a model of
the whole picture could reach without looking at any face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.audit.check import Check, Severity
from mien.audit.hidden_pictures import hidden_features, view_of, visible_share
from mien.core.storage import digest_of
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.evaluation.grouped import (
    ALARM_MARGIN,
    alarm_threshold,
    describe_interval,
    exceeds,
    features_of_frames,
    grouped_interval,
    held_bound,
    is_known,
    out_of_fold,
    single_class_folds,
)
from mien.evaluation.intervals import Interval
from mien.evaluation.probe import ProbeConfig
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import DEFAULT_CROP, Encoder, EncoderSpec, HogEncoder
from mien.runtime.material import Material

HIDDEN_FACE = "face hidden"

SMALL_PX = 16
"""Side of the small pictures whose pixels are a reader of their own: HOG divides by the local contrast and sees edges
only, so a lamp, a bar that fills up or a background that changes colour needs colours at places. Sixteen, since what is
smaller than a sixteenth of the picture and has no edge can't be drawn."""


class SmallPixels:
    """The pixels themselves, very small: what HOG can't see (see `SMALL_PX`). 768 features."""

    spec = EncoderSpec(name="small_pixels", size_px=SMALL_PX, licence="none needed", source="the picture itself")
    digest = digest_of(["small pixels", SMALL_PX])

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (N, 16, 16, 3) into features (N, 768)."""
        return np.asarray(pixels, np.float32).reshape(len(pixels), SMALL_PX * SMALL_PX * 3)


@dataclass(frozen=True)
class HiddenScore:
    """What one reader made of pictures without faces.

    Attributes:
        camera: Kind of recording: `camera` or `screen`.
        reader: Name of the encoder.
        baseline: The personal baseline.
        interval: Balanced accuracy with its interval over participants.
        predictions: The predictions table that it comes from.
    """

    camera: str
    reader: str
    baseline: PersonalBaseline
    interval: Interval
    predictions: pd.DataFrame


@dataclass(frozen=True)
class HiddenFaces:
    """What `read_hidden_faces` found.

    Attributes:
        scores: One per kind of recording, reader and personal baseline.
        visible: Share of the picture that is left to look at, per kind of recording, mean over recordings.
        skipped: Kinds of recordings that couldn't be scored, with the reason.
    """

    scores: tuple[HiddenScore, ...]
    visible: Mapping[str, float]
    skipped: Mapping[str, str]


def hidden_face_name(baseline: PersonalBaseline) -> str:
    """Return what the predictions under a personal baseline are called.

    >>> hidden_face_name(PersonalBaseline())
    'face hidden'
    """
    return HIDDEN_FACE if baseline.kind == "none" else f"{HIDDEN_FACE}+{baseline}"


def read_hidden_faces(
    material: Material,
    *,
    splits: Sequence[Split],
    baselines: Sequence[PersonalBaseline],
    encoders: Sequence[Encoder] = (),
    crop: float = DEFAULT_CROP,
) -> HiddenFaces:
    """Predict the label from pictures whose face is hidden, people apart.

    Camera recordings are looked at as a whole, since anything in the room may give the label away. Screen recordings
    are looked at as the models see them, since what a crop cuts off can't be learnt.

    Args:
        material: Dataset and clips.
        splits: The folds of the models.
        baselines: The personal baselines of the models.
        encoders: Networks that read the picture beside HOG and small pixels.
        crop: Widest square that a model looks at, as a multiple of the face box (for face crops of screens).
    """
    dataset = material.dataset
    if material.sense == "audio":
        return HiddenFaces((), {}, {})
    frames = material.frames_of(sorted({name for split in splits for name in _people(split)}))
    cameras = frames["recording_id"].map(dataset.recordings.set_index("recording_id")["camera"])
    readers: list[Encoder] = [HogEncoder(), SmallPixels(), *(e for e in encoders if e.spec.name != "hog")]
    scores, visible, skipped = list[HiddenScore](), dict[str, float](), dict[str, str]()
    for camera in sorted(cameras.unique()):
        rows = frames[cameras == camera].reset_index(drop=True)
        reason = _why_not(rows, splits=splits)
        if reason:
            skipped[camera] = reason
            continue
        view = view_of(dataset, camera=camera)
        look: dict[str, Any] = {"view": view, "crop": crop}
        visible[camera] = float(
            np.mean([visible_share(dataset, name, **look) for name in rows["recording_id"].unique()])
        )
        for reader in readers:
            features = features_of_frames(rows, of=partial(hidden_features, dataset, encoder=reader, **look))
            for baseline in baselines:
                table = out_of_fold(
                    features,
                    rows,
                    clips=material.clips,
                    splits=splits,
                    baseline=baseline,
                    C=ProbeConfig().C,
                    model=hidden_face_name(baseline),
                )
                interval = grouped_interval(table, material.clips.scheme, folds=len(splits))
                scores.append(HiddenScore(camera, reader.spec.name, baseline, interval, table))
    return HiddenFaces(tuple(scores), visible, skipped)


def hidden_face_predictions(found: HiddenFaces) -> dict[str, pd.DataFrame]:
    """Return one predictions table per personal baseline: of each kind of recording that of its best reader."""
    tables = {}
    for name in dict.fromkeys(hidden_face_name(score.baseline) for score in found.scores):
        own = [score for score in found.scores if hidden_face_name(score.baseline) == name]
        best = [_best([s for s in own if s.camera == camera]) for camera in dict.fromkeys(s.camera for s in own)]
        tables[name] = pd.concat([score.predictions for score in best], ignore_index=True)
    return tables


def check_hidden_face(
    found: HiddenFaces,
    *,
    clips: ClipIndex,
    splits: Sequence[Split],
    full: Mapping[str, Interval] | None = None,
) -> Check:
    """Say whether the label can be read without the face: a fail on screen recordings, a warning on cameras.

    The larger score of the readers counts. No correction for their number is needed: the lower bound of each has to
    pass .55 while chance is .50, and labels shifted against the pictures made the check alarm in far fewer than one in
    ten nulls (tests/simulations).

    Args:
        found: What `read_hidden_faces` returned.
        clips: The clips of the target.
        splits: The folds.
        full: Balanced accuracy of a model that sees the face, by personal baseline (as `str(baseline)`). The ratio of
            the gains over chance is given only where its lower bound exceeds chance: with labels that nobody can
            predict, a ratio of two gains around zero alarms in 43-50 % (EVALUATION.md, section 2).
    """
    threshold = alarm_threshold(clips, splits=splits)
    if not found.scores and not found.skipped:
        detail, advice = "Not checked: no pictures.", "Nothing: where nothing is shown, nothing is drawn."
        return Check("label-in-pixels", "not checked", None, threshold, detail, advice)
    best = [_best(group) for group in _by_camera_and_baseline(found.scores)]
    known = [score for score in best if is_known(score.interval)]
    evidence: dict[str, Any] = {
        "scores": [
            {
                "name": hidden_face_name(score.baseline),
                "baseline": str(score.baseline),
                "camera": score.camera,
                "features": score.reader,
                "balanced_accuracy": asdict(score.interval),
            }
            for score in found.scores
        ],
        "visible": dict(found.visible),
        "ratios": _ratios(known, full=full or {}, chance=threshold - ALARM_MARGIN),
    }
    left_out = "".join(f" Not checked on {camera} recordings: {why}." for camera, why in found.skipped.items())
    if not known:
        detail = f"No picture with its face hidden could be scored.{left_out}"
        return Check("label-in-pixels", "not checked", None, threshold, detail, "Add participants.", evidence)
    alarms = [score for score in known if exceeds(score.interval, threshold, clips=clips)]
    severity: Severity = "ok"
    if alarms:
        severity = "fail" if any(score.camera == "screen" for score in alarms) else "warn"
    shown = "; ".join(_shown(score) for score in known)
    return Check(
        "label-in-pixels",
        severity,
        {
            f"{score.camera} {hidden_face_name(score.baseline)}": held_bound(score.interval, threshold, clips=clips)
            for score in known
        },
        threshold,
        f"With the face hidden, the rest of the picture reaches {shown} (balanced accuracy with people apart; lower "
        f"bounds are held against {threshold:.2f}).{left_out}",
        _advice(severity),
        evidence,
    )


def _advice(severity: Severity) -> str:
    if severity == "fail":
        return (
            "Look at a picture: the label, or the signal that it came from, is probably drawn beside the face. Prepare "
            "again with --crop face or --crop panel, or record the camera alone."
        )
    if severity == "warn":
        return (
            "Hair, shoulders or the room move with the label, or show it. Look at a few pictures, and read every score "
            "beside this one."
        )
    return ""


def _shown(score: HiddenScore) -> str:
    return f"{describe_interval(score.interval)} ({score.camera}, {score.reader}, baseline {score.baseline})"


def _best(scores: Sequence[HiddenScore]) -> HiddenScore:
    """The larger score counts; one that isn't defined can't count."""
    return max(scores, key=lambda score: (is_known(score.interval), np.nan_to_num(score.interval.mean)))


def _by_camera_and_baseline(scores: Sequence[HiddenScore]) -> list[list[HiddenScore]]:
    groups: dict[tuple[str, str], list[HiddenScore]] = {}
    for score in scores:
        groups.setdefault((score.camera, str(score.baseline)), []).append(score)
    return list(groups.values())


def _ratios(scores: Sequence[HiddenScore], *, full: Mapping[str, Interval], chance: float) -> list[dict[str, Any]]:
    return [
        {
            "camera": score.camera,
            "baseline": str(score.baseline),
            "ratio": (score.interval.mean - chance) / (full[str(score.baseline)].mean - chance),
        }
        for score in scores
        if str(score.baseline) in full and full[str(score.baseline)].low > chance
    ]


def _why_not(rows: pd.DataFrame, *, splits: Sequence[Split]) -> str:
    folds = single_class_folds(rows, splits=splits)
    if folds:
        return f"their training participants show one class only in {len(folds)} of {len(splits)} folds"
    return ""


def _people(split: Split) -> tuple[str, ...]:
    return (*split.train, *split.validation, *split.test)
