"""A bundle on new recordings: video to timeline, through the runtime alone (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.progress import progress, say
from mien.core.storage import write_csv, write_text
from mien.media.detectors import FaceDetector, make_detector
from mien.media.faces import choose_face, crop_frame, median_panel
from mien.media.video import probe_video, sample_frames
from mien.predict.timeline_page import timeline_page
from mien.runtime.bundle import Bundle, Sampling

CROP_BLOCK = 32


@dataclass(frozen=True)
class SampledCrop:
    """What is seen of one sampled frame.

    Attributes:
        pts_s: Presentation time, seconds.
        crop: (size_px, size_px, 3) uint8; None where there is no face to cut out.
        face_found: Whether a face was found.
    """

    pts_s: float
    crop: NDArray[np.uint8] | None
    face_found: bool


def predict_files(bundle_path: Path, *, videos: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Predict each video and write `<name>.timeline.csv` and `<name>.html`.

    Args:
        bundle_path: Folder of the bundle.
        videos: Video files; one that can't be read is reported and doesn't stop the others.
        out: Folder for the results.

    Returns:
        Per video that could be read: video, frames, faces, timeline, plot.

    Raises:
        UserError: Not a bundle, or no video could be read.
    """
    bundle = Bundle.open(bundle_path)
    results, errors = [], []
    for video, name in zip(videos, _distinct_names(videos), strict=True):
        try:
            timeline = predict_timeline(bundle, video)
        except MediaError as error:
            errors.append(error)
            say(f"{video}: {error}")
            continue
        timeline_path, plot_path = out / f"{name}.timeline.csv", out / f"{name}.html"
        write_csv(timeline_path, timeline.round({"start_s": 6, "end_s": 6}))
        write_text(plot_path, timeline_page(timeline, spec=bundle.spec, title=video.name))
        faces = int(timeline["face_found"].sum())
        if faces == 0 and bundle.spec.sampling.crop == "face":
            say(f"{video}: no face was found in any of {len(timeline)} sampled frames, so nothing is predicted.")
        results.append(
            {
                "video": str(video),
                "frames": len(timeline),
                "faces": faces,
                "timeline": str(timeline_path),
                "plot": str(plot_path),
            }
        )
    if not results:
        raise errors[0] if errors else UserError("No video given.")
    return results


def predict_timeline(bundle: Bundle, video: Path) -> pd.DataFrame:
    """Predict one video.

    Args:
        bundle: The model.
        video: A video file.

    Returns:
        A row per sampled frame: recording_id, start_s, end_s (half-open, seconds), logit_* and prob_* (NaN where there
        is no face), face_found.

    Raises:
        MediaError: The video can't be read.
    """
    spec = bundle.spec
    times, found, seen, features = [], [], [], []
    block: list[NDArray[np.uint8]] = []
    duration_s = probe_video(video).duration_s
    total = max(1, round(duration_s * spec.sampling.fps)) if duration_s else 0
    detector = make_detector(spec.sampling.detector, weights=bundle.detector_weights)  # type: ignore[arg-type]
    with progress(f"Predicting {video.name}", total=total) as advance:
        for sample in sample_crops(video, sampling=spec.sampling, detector=detector):
            times.append(sample.pts_s)
            found.append(sample.face_found)
            seen.append(sample.crop is not None)
            if sample.crop is not None:
                block.append(sample.crop)
            if len(block) == CROP_BLOCK:
                features.append(bundle.features(np.stack(block)))
                block = []
            advance("")
    if block:
        features.append(bundle.features(np.stack(block)))
    pts_s = np.asarray(times, np.float64)
    visible = np.asarray(seen, bool)
    width = features[0].shape[1] if features else 1
    all_features = np.full((len(pts_s), width), np.nan, np.float32)
    if features:
        all_features[visible] = np.concatenate(features)
    logits = bundle.logits(all_features, pts_s=pts_s)
    return _timeline(video.stem, pts_s=pts_s, logits=logits, face_found=np.asarray(found, bool), bundle=bundle)


def sample_crops(video: Path, *, sampling: Sampling, detector: FaceDetector) -> Iterator[SampledCrop]:
    """Sample a video and cut crops as `prepare` does; memory is one frame.

    Args:
        video: A video file.
        sampling: Rate, crop, size and margin.
        detector: The face detector.
    """
    panel = None
    if sampling.crop == "panel":
        # The panel is the recording's median face box, so it takes a pass of its own.
        boxes = [
            face.box_xyxy
            for frame in sample_frames(video, fps=sampling.fps)
            if (face := choose_face(detector.detect(frame.rgb), choice=sampling.face)) is not None
        ]
        if not boxes:
            advice = "Use a bundle that was trained with --crop none, or another recording."
            raise MediaError(f"{video.name} shows no face in any sampled frame, so it has no panel", advice=advice)
        panel = median_panel(np.stack(boxes))
    for frame in sample_frames(video, fps=sampling.fps):
        face = choose_face(detector.detect(frame.rgb), choice=sampling.face) if panel is None else None
        box = panel if panel is not None else None if face is None else face.box_xyxy
        crop = crop_frame(frame.rgb, box, kind=sampling.crop, margin=sampling.margin, size_px=sampling.size_px)
        yield SampledCrop(pts_s=frame.pts_s, crop=crop, face_found=face is not None or panel is not None)


def _timeline(
    recording_id: str,
    *,
    pts_s: NDArray[np.float64],
    logits: NDArray[np.float64],
    face_found: NDArray[np.bool_],
    bundle: Bundle,
) -> pd.DataFrame:
    scheme, interval_s = bundle.spec.labels, 1.0 / bundle.spec.sampling.fps
    following = np.append(pts_s[1:], np.inf)
    table = pd.DataFrame(
        {"recording_id": recording_id, "start_s": pts_s, "end_s": np.minimum(following, pts_s + interval_s)}
    )
    seen = ~np.isnan(logits).any(axis=1)
    probabilities = np.full_like(logits, np.nan)
    probabilities[seen] = scheme.probabilities(logits[seen])
    for prefix, values in (("logit", logits), ("prob", probabilities)):
        for column, name in enumerate(scheme.output_names):
            table[f"{prefix}_{name}"] = values[:, column]
    table["face_found"] = face_found
    return table


def _distinct_names(videos: Sequence[Path]) -> list[str]:
    """Name results after the videos; files of the same name in different folders get a number."""
    names: list[str] = []
    for video in videos:
        name, number = video.stem, 2
        while name in names:
            name, number = f"{video.stem}-{number}", number + 1
        names.append(name)
    return names
