"""A bundle on new recordings: video to timeline, through the runtime alone (no torch)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.progress import progress, say
from mien.core.storage import write_csv, write_text
from mien.data.dataset import sample_ends
from mien.data.pictures import CROPS_FILE, PictureSettings, make_pictures
from mien.media.detectors import FaceDetector, make_detector
from mien.media.video import probe_video
from mien.predict.beside import SeenFrames, read_beside, sampled_times
from mien.predict.elan_timeline import write_elan_timeline
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


def predict_files(
    bundle_path: Path, *, videos: Sequence[Path], out: Path, elan: bool = False, signals: Sequence[Path] = ()
) -> list[dict[str, Any]]:
    """Predict each video and write `<name>.timeline.csv` and `<name>.html`.

    Args:
        bundle_path: Folder of the bundle.
        videos: Video files; one that can't be read is reported and doesn't stop the others.
        out: Folder for the results.
        elan: Also write `<name>.eaf`, for a person to correct in ELAN.
        signals: Sensor exports, one per video in their order, for a model that looks at signals; none: it goes without.

    Returns:
        Per video: video, and frames, faces, timeline, plot (and elan); or error, where it can't be predicted.

    Raises:
        UserError: Not a bundle, no video could be read, or another number of exports than of videos.
    """
    bundle = Bundle.open(bundle_path)
    exports = _exports(bundle, videos=videos, signals=signals)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Give a folder.")
    results: list[dict[str, Any]] = []
    errors: list[UserError] = []
    for video, name, export in zip(videos, _distinct_names(videos), exports, strict=True):
        try:
            timeline = predict_timeline(bundle, video, signals=export)
        except UserError as error:
            errors.append(error)
            results.append({"video": str(video), "error": str(error)})
            continue
        timeline_path, plot_path = out / f"{name}.timeline.csv", out / f"{name}.html"
        write_csv(timeline_path, timeline.round({"start_s": 6, "end_s": 6}))
        write_text(plot_path, timeline_page(timeline, spec=bundle.spec, title=video.name))
        faces = int(timeline["face_found"].sum())
        if faces == 0 and bundle.spec.modalities == ("video",) and bundle.spec.sampling.crop == "face":
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
        if elan:
            path = out / f"{name}.eaf"
            write_elan_timeline(path, timeline, spec=bundle.spec, video=video)
            results[-1]["elan"] = str(path)
    if len(errors) == len(results):
        raise errors[0] if errors else UserError("No video given.")
    failed = pd.DataFrame([item for item in results if "error" in item], columns=["video", "error"])
    if len(failed):
        write_csv(out / "failures.csv", failed)
        for reason in failed["error"]:
            say(f"Not predicted: {reason}")
    return results


def predict_timeline(bundle: Bundle, video: Path, *, signals: Path | None = None) -> pd.DataFrame:
    """Predict one video.

    Args:
        bundle: The model.
        video: A video file; for a model that only listens also a sound file.
        signals: Sensor export on the video's clock, for a model that looks at signals.

    Returns:
        A row per sampled frame: recording_id, start_s, end_s (half-open, seconds), logit_* and prob_* (NaN where there
        is no face and, for a model that uses them, neither sound nor signals), face_found.

    Raises:
        MediaError: The video can't be read.
        UserError: It shows a face for too short a time for the bundle's personal baseline, or has nothing of what the
            model looks at.
    """
    bundle.baseline.check_new_recording()
    seen = _see(bundle, video) if bundle.needs_pictures else sampled_times(video, fps=bundle.spec.sampling.fps)
    end_s = float(sample_ends(seen.pts_s, fps=bundle.spec.sampling.fps)[-1]) if len(seen.pts_s) else 0.0
    beside = read_beside(bundle, video, end_s=end_s, signals=signals)
    logits = bundle.logits(seen.features, pts_s=seen.pts_s, audio=beside.audio, signals=beside.signals)
    return _timeline(video.stem, pts_s=seen.pts_s, logits=logits, face_found=seen.face_found, bundle=bundle)


def _see(bundle: Bundle, video: Path) -> SeenFrames:
    spec = bundle.spec
    times, found = list[float](), list[bool]()
    features = _FeatureBlocks(bundle)
    duration_s = probe_video(video).duration_s
    total = max(1, round(duration_s * spec.sampling.fps)) if duration_s else 0
    detector = make_detector(spec.sampling.detector, weights=bundle.detector_weights)  # type: ignore[arg-type]
    with progress(f"Predicting {video.name}", total=total) as advance:
        samples = sample_crops(video, sampling=spec.sampling, detector=detector, sampled=lambda: advance(""))
        for sample in samples:
            times.append(sample.pts_s)
            found.append(sample.face_found)
            features.add(sample.crop)
    check_long_enough(bundle, video, num_faces=features.num_crops)
    return SeenFrames(np.asarray(times, np.float64), np.asarray(found, bool), features.table())


def _exports(bundle: Bundle, *, videos: Sequence[Path], signals: Sequence[Path]) -> list[Path | None]:
    if signals and not bundle.needs_signals:
        raise UserError(f"{bundle.spec.label} looks at no signals. Leave --signals out.")
    if signals and len(signals) != len(videos):
        raise UserError(f"Got {len(signals)} sensor exports for {len(videos)} videos. Give one --signals per video.")
    return list(signals) or [None] * len(videos)


def check_long_enough(bundle: Bundle, video: Path, *, num_faces: int) -> None:
    """Refuse a video that shows a face for too short a time for the bundle's personal baseline.

    Args:
        bundle: The model.
        video: The video, named in the message.
        num_faces: Sampled frames with a face; none is no reason to refuse, nothing is predicted then.

    Raises:
        UserError: The face is seen for less than the baseline needs.
    """
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


def picture_settings(sampling: Sampling) -> PictureSettings:
    """Return how a bundle makes its pictures, as `make_pictures` takes it: what `prepare` did."""
    return PictureSettings(
        fps=sampling.fps,
        crop=sampling.crop,
        face=sampling.face,
        size_px=sampling.size_px,
        margin=sampling.margin,
        detect_every=sampling.detect_every,
    )


def sample_crops(
    video: Path, *, sampling: Sampling, detector: FaceDetector, sampled: Callable[[], None] = lambda: None
) -> Iterator[SampledCrop]:
    """Sample a video and cut crops with the function that `prepare` uses.

    Who the participant is is known at the end of the video, so crops wait in a temporary file; memory is one frame.

    Args:
        video: A video file.
        sampling: Rate, crop, size and margin.
        detector: The face detector.
        sampled: Called after each sampled frame, before the first crop comes.

    Raises:
        MediaError: The video can't be read, or crops are of a panel and no face is found.
    """
    settings = picture_settings(sampling)
    with tempfile.TemporaryDirectory(prefix="mien-") as name:
        folder = Path(name)
        made = make_pictures(video, settings=settings, detector=detector, folder=folder, sampled=sampled)
        times, found = made.frames["pts_s"].to_numpy(np.float64), made.frames["face_found"].to_numpy(bool)
        for start in range(0, len(times), CROP_BLOCK):
            # A mapping per block: the pages of one that stays would count as this process's memory.
            block = np.array(np.load(folder / CROPS_FILE, mmap_mode="r")[start : start + CROP_BLOCK])
            for row, crop in enumerate(block, start=start):
                shown = bool(found[row]) or sampling.crop != "face"
                yield SampledCrop(pts_s=float(times[row]), crop=crop if shown else None, face_found=bool(found[row]))


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
