"""What a bundle sees of a recording: sampled as `prepare` did, crops by the same functions, features block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.progress import progress
from mien.data.pictures import CROPS_FILE, Pictures, PictureSettings, make_pictures
from mien.media.detectors import FaceDetector, make_detector
from mien.media.video import DecodeLog, probe_video
from mien.predict.beside import SeenFrames
from mien.predict.scratch import scratch_folder
from mien.runtime.bundle import Bundle, Sampling
from mien.runtime.stored_rows import StoredFeatures

CROP_BLOCK = 16
"""Crops encoded together. Twice as many take as long per crop (13.5 ms against 13.4; half of them 14.9), and the
maps of a first convolution over 32 crops of 224 px are 200 MB."""


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


def see_recording(bundle: Bundle, video: Path) -> SeenFrames:
    """Return the features of a recording's sampled frames, and how its face is seen in them.

    Raises:
        MediaError: The video can't be read.
        UserError: It shows a face for too short a time for the bundle's personal baseline.
    """
    spec = bundle.spec
    blocks, log = _Blocks(bundle), DecodeLog()
    duration_s = probe_video(video).duration_s
    total = max(1, round(duration_s * spec.sampling.fps)) if duration_s else 0
    detector = bundle_detector(bundle)
    with (
        scratch_folder() as folder,
        progress(f"Predicting {video.name}", total=total) as advance,
    ):
        settings = picture_settings(spec.sampling)
        made = make_pictures(
            video, settings=settings, detector=detector, folder=folder, log=log, sampled=lambda: advance("")
        )
        for sample in _crops(made, folder=folder, sampling=spec.sampling):
            blocks.add(sample.crop, pts_s=sample.pts_s)
        blocks.finish()
    check_long_enough(bundle, video, num_faces=blocks.num_crops)
    return SeenFrames(
        pts_s=made.frames["pts_s"].to_numpy(np.float64),
        face_found=made.frames["face_found"].to_numpy(bool),
        features=None if blocks.are_logits else blocks.features,
        faces=made.frames,
        logits=blocks.logits() if blocks.are_logits else None,
        damage=log.describe_loss(),
    )


def bundle_detector(bundle: Bundle) -> FaceDetector:
    """Return the face detector that a bundle's crops are made with."""
    return make_detector(bundle.spec.sampling.detector, weights=bundle.detector_weights)  # type: ignore[arg-type]


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


class _Blocks:
    """What a bundle makes of crops as they come: pixels are held for one block.

    A model that takes each frame by itself gives logits at once. A personal baseline and a model of sequences need the
    features of the whole recording, which wait in a temporary file.

    Attributes:
        features: Where they wait.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._crops: list[NDArray[np.uint8]] = []
        self._times_s: list[float] = []
        self._parts: list[NDArray[np.float64]] = []
        self._seen: list[bool] = []
        self.features = StoredFeatures(bundle.baseline)

    @property
    def num_crops(self) -> int:
        """Samples that have a crop."""
        return sum(self._seen)

    @property
    def are_logits(self) -> bool:
        """Whether each frame gives logits at once, and `features` stays empty."""
        return self._bundle.sequence_head is None and self._bundle.baseline.kind == "none"

    def add(self, crop: NDArray[np.uint8] | None, *, pts_s: float) -> None:
        """Add the crop of the next sample, None where it has none, and its time, s."""
        self._seen.append(crop is not None)
        if crop is not None:
            self._crops.append(crop)
            self._times_s.append(pts_s)
        if len(self._crops) == CROP_BLOCK:
            self._flush()

    def finish(self) -> None:
        """Take in what is left: no sample follows."""
        self._flush()
        if not self.are_logits:
            self.features.finish(np.asarray(self._seen, bool))

    def logits(self) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) of all samples; NaN where there was no crop."""
        logits = np.full((len(self._seen), self._bundle.spec.labels.num_outputs), np.nan)
        if self._parts:
            logits[np.asarray(self._seen)] = np.concatenate(self._parts)
        return logits

    def _flush(self) -> None:
        if not self._crops:
            return
        features = self._bundle.features(np.stack(self._crops))
        if self.are_logits:
            self._parts.append(self._bundle.logits(features, pts_s=np.asarray(self._times_s)))
        else:
            self.features.add(features, pts_s=np.asarray(self._times_s))
        self._crops, self._times_s = [], []


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
    with scratch_folder() as folder:
        made = make_pictures(video, settings=settings, detector=detector, folder=folder, sampled=sampled)
        yield from _crops(made, folder=folder, sampling=sampling)


def _crops(made: Pictures, *, folder: Path, sampling: Sampling) -> Iterator[SampledCrop]:
    times, found = made.frames["pts_s"].to_numpy(np.float64), made.frames["face_found"].to_numpy(bool)
    for start in range(0, len(times), CROP_BLOCK):
        # A mapping per block: the pages of one that stays would count as this process's memory.
        block = np.array(np.load(folder / CROPS_FILE, mmap_mode="r")[start : start + CROP_BLOCK])
        for row, crop in enumerate(block, start=start):
            shown = bool(found[row]) or sampling.crop != "face"
            yield SampledCrop(pts_s=float(times[row]), crop=crop if shown else None, face_found=bool(found[row]))
