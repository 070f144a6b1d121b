"""What `prepare` can be told, and the digest by which a resumed run knows its own work again."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, get_args

from mien.core.errors import UserError, unknown_name
from mien.core.storage import digest_of
from mien.core.types import CropKind, FaceChoice, MediaChoice
from mien.data.study import LayoutChoice
from mien.media.detectors import DetectorName

STUDY_SETTINGS = frozenset({"media", "layout"})
"""Settings that choose recordings; the others say what is made of each."""

MAX_SIZE_PX = 2048
MAX_FPS = 1000.0


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `prepare`.

    Attributes:
        fps: Samples per second of video.
        crop: `face` cuts around the face of each frame, `panel` around the median face box of the recording (a fixed
            panel of a composite screen recording), `none` keeps the whole picture.
        face: Which face is the participant's, where a picture shows several.
        size_px: Side of the stored crops.
        margin: Side of the crop over the face box's longer side.
        context_width_px: Width of the small picture that is kept of every whole frame.
        audio_rate_hz: Samples per second of the stored sound.
        media: Which recordings to use.
        layout: How the study's files are named.
        detector: Face detector; `auto` is YuNet where its weights are found, else MTCNN.
        workers: Processes, None for one per processor.
    """

    fps: float = 1.0
    crop: CropKind = "face"
    face: FaceChoice = "main"
    size_px: int = 224
    margin: float = 1.6
    context_width_px: int = 160
    audio_rate_hz: int = 16000
    media: MediaChoice = "auto"
    layout: LayoutChoice = "auto"
    detector: DetectorName = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        _check_range("fps", self.fps, low=0.0, high=MAX_FPS, unit="samples per second")
        _check_range("size", self.size_px, low=15, high=MAX_SIZE_PX, unit="px")
        _check_range("margin", self.margin, low=0.0, high=10.0, unit="times the face box")
        _check_range("context_width", self.context_width_px, low=7, high=MAX_SIZE_PX, unit="px")
        _check_range("audio_rate", self.audio_rate_hz, low=999, high=192000, unit="Hz")
        if self.workers is not None:
            _check_range("workers", self.workers, low=0, high=1024, unit="processes")
        _check_choice("crop", self.crop, get_args(CropKind))
        _check_choice("face", self.face, get_args(FaceChoice))

    @property
    def num_workers(self) -> int:
        """Processes to use: as many as asked for, else as many as this process may run at once."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def resolved(self, *, detector: str) -> dict[str, Any]:
        """Return the settings that decide what a dataset holds, with the detector that is really used."""
        values = dataclasses.asdict(self)
        del values["workers"]
        # 2 and 2.0 are the same setting and must have the same digest.
        return {**values, "fps": float(self.fps), "margin": float(self.margin), "detector": detector}

    def recording_digest(self, *, detector: str) -> str:
        """Return the digest of the settings that decide what is made of one recording."""
        values = self.resolved(detector=detector)
        return digest_of({name: value for name, value in values.items() if name not in STUDY_SETTINGS})


def _check_range(name: str, value: float, *, low: float, high: float, unit: str) -> None:
    if not (math.isfinite(value) and low < value <= high):
        raise UserError(f"{name} is {value:g}; allowed: more than {low:g}, at most {high:g} {unit}.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown_name(name, got=value, allowed=allowed)
