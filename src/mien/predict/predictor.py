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
from mien.data.dataset import sample_ends
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
        Per video: video, and frames, faces, timeline, plot; or error, where it can't be predicted.

    Raises:
        UserError: Not a bundle, or no video could be read.
    """
    bundle = Bundle.open(bundle_path)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Give a folder.")
    results: list[dict[str, Any]] = []
    errors: list[UserError] = []
    for video, name in zip(videos, _distinct_names(videos), strict=True):
        try:
            timeline = predict_timeline(bundle, video)
        except UserError as error:
            errors.append(error)
            results.append({"video": str(video), "error": str(error)})
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
    if len(errors) == len(results):
        raise errors[0] if errors else UserError("No video given.")
    failed = pd.DataFrame([item for item in results if "error" in item], columns=["video", "error"])
    if len(failed):
        write_csv(out / "failures.csv", failed)
        for reason in failed["error"]:
            say(f"Not predicted: {reason}")
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
        UserError: It shows a face for too short a time for the bundle's personal baseline.
    """
    bundle.baseline.check_new_recording()
    spec = bundle.spec
    times, found = list[float](), list[bool]()
    features = _FeatureBlocks(bundle)
    duration_s = probe_video(video).duration_s
    total = max(1, round(duration_s * spec.sampling.fps)) if duration_s else 0
    detector = make_detector(spec.sampling.detector, weights=bundle.detector_weights)  # type: ignore[arg-type]
    with progress(f"Predicting {video.name}", total=total) as advance:
        for sample in sample_crops(video, sampling=spec.sampling, detector=detector):
            times.append(sample.pts_s)
            found.append(sample.face_found)
            features.add(sample.crop)
            advance("")
    _check_long_enough(bundle, video, num_faces=features.num_crops)
    pts_s = np.asarray(times, np.float64)
    logits = bundle.logits(features.table(), pts_s=pts_s)
    return _timeline(video.stem, pts_s=pts_s, logits=logits, face_found=np.asarray(found, bool), bundle=bundle)


def _check_long_enough(bundle: Bundle, video: Path, *, num_faces: int) -> None:
    seen_s, needed_s = num_faces / bundle.spec.sampling.fps, bundle.baseline.needed_s
    if 0 < seen_s < needed_s:
        raise UserError(
            f"{video.name} shows a face for {seen_s:.1f} s, and the bundle's personal baseline ({bundle.baseline}) "
            f"needs {needed_s:g} s. Use a longer recording, or a bundle without a baseline."
        )


class _FeatureBlocks:
    """Features of crops as they come: pixels are held for one block, features for the whole recording.

    The personal baseline needs all of them; at one sample per second, an hour of 1,280 features is 18 MB.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._crops: list[NDArray[np.uint8]] = []
        self._parts: list[NDArray[np.float32]] = []
        self._seen: list[bool] = []

    @property
    def num_crops(self) -> int:
        """Samples that have a crop."""
        return sum(self._seen)

    def add(self, crop: NDArray[np.uint8] | None) -> None:
        """Add the crop of the next sample, None where it has none."""
        self._seen.append(crop is not None)
        if crop is not None:
            self._crops.append(crop)
        if len(self._crops) == CROP_BLOCK:
            self._flush()

    def table(self) -> NDArray[np.float32]:
        """Return the features (N, D) of all samples; NaN where there was no crop."""
        self._flush()
        width = self._parts[0].shape[1] if self._parts else 1
        table = np.full((len(self._seen), width), np.nan, np.float32)
        if self._parts:
            table[np.asarray(self._seen)] = np.concatenate(self._parts)
        return table

    def _flush(self) -> None:
        if self._crops:
            self._parts.append(self._bundle.features(np.stack(self._crops)))
            self._crops = []


def sample_crops(video: Path, *, sampling: Sampling, detector: FaceDetector) -> Iterator[SampledCrop]:
    """Sample a video and cut crops as `prepare` does; memory is one frame.

    Args:
        video: A video file.
        sampling: Rate, crop, size and margin.
        detector: The face detector.
    """
    panel = _find_panel(video, sampling=sampling, detector=detector) if sampling.crop == "panel" else None
    for frame in sample_frames(video, fps=sampling.fps):
        face = choose_face(detector.detect(frame.rgb), choice=sampling.face)
        box = panel if panel is not None else None if face is None else face.box_xyxy
        crop = crop_frame(frame.rgb, box, kind=sampling.crop, margin=sampling.margin, size_px=sampling.size_px)
        yield SampledCrop(pts_s=frame.pts_s, crop=crop, face_found=face is not None)


def _find_panel(video: Path, *, sampling: Sampling, detector: FaceDetector) -> NDArray[np.float32]:
    """Return the recording's median face box (4,), px; a pass of its own, since crops need it from the start."""
    boxes = [
        face.box_xyxy
        for frame in sample_frames(video, fps=sampling.fps)
        if (face := choose_face(detector.detect(frame.rgb), choice=sampling.face)) is not None
    ]
    if not boxes:
        advice = "Use a bundle that was trained with --crop none, or another recording."
        raise MediaError(f"{video.name} shows no face in any sampled frame, so it has no panel", advice=advice)
    return np.asarray(median_panel(np.stack(boxes)), np.float32)


def _timeline(
    recording_id: str,
    *,
    pts_s: NDArray[np.float64],
    logits: NDArray[np.float64],
    face_found: NDArray[np.bool_],
    bundle: Bundle,
) -> pd.DataFrame:
    scheme = bundle.spec.labels
    end_s = sample_ends(pts_s, fps=bundle.spec.sampling.fps)
    table = pd.DataFrame({"recording_id": recording_id, "start_s": pts_s, "end_s": end_s})
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
