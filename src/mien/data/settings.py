"""What `prepare` can be told, and the digest by which a resumed run knows its own work again."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mien.core.errors import UserError, unknown_name
from mien.core.storage import digest_of
from mien.core.types import CropKind, FaceChoice, MediaChoice
from mien.data.study import LayoutChoice
from mien.media.detectors import DetectorName
from mien.media.people import PICTURES_VERSION

SpeechChoice = Literal["none", "built-in", "silero"]

STUDY_SETTINGS = frozenset({"media", "layout", "signals_hz"})
"""Settings that choose recordings, or say what is made of a study's exports; the others say what is made of each
recording."""

MAX_SIZE_PX = 2048
MAX_FPS = 1000.0
MAX_DETECT_EVERY = 1000


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `prepare`.

    Attributes:
        fps: Samples per second of video.
        crop: `face` cuts around the participant's face in each frame, `panel` at one place of the whole recording (the
            camera's panel in a composite screen recording, found by itself), `none` keeps the whole picture.
        face: Who is the participant, where several people are seen; chosen once per recording.
        size_px: Side of the stored crops.
        margin: Side of the crop over the face box's longer side.
        context_width_px: Width of the small picture that is kept of every whole frame.
        audio_rate_hz: Samples per second of the stored sound.
        signals_hz: Values per second of the stored sensor signals.
        media: Which recordings to use.
        layout: How the study's files are named.
        detector: Face detector; `auto` is YuNet where its weights are found, else MTCNN.
        workers: Processes, None for one per processor.
        speech: What tells when somebody speaks, if anything shall: it becomes the signal `Speech`.
        detect_every: The face detector looks at every so many sampled frames and optical flow follows faces between
            them; None: at every one below 10 samples per second, from there on at 5 to 10 per second.
    """

    fps: float = 1.0
    crop: CropKind = "face"
    face: FaceChoice = "main"
    size_px: int = 224
    margin: float = 1.6
    context_width_px: int = 160
    audio_rate_hz: int = 16000
    signals_hz: float = 32.0
    media: MediaChoice = "auto"
    layout: LayoutChoice = "auto"
    detector: DetectorName = "auto"
    workers: int | None = None
    detect_every: int | None = None
    speech: SpeechChoice = "none"

    def __post_init__(self) -> None:
        _check_range("fps", self.fps, low=0.0, high=MAX_FPS, unit="samples per second")
        _check_range("size", self.size_px, low=15, high=MAX_SIZE_PX, unit="px")
        _check_range("margin", self.margin, low=0.0, high=10.0, unit="times the face box")
        _check_range("context_width", self.context_width_px, low=7, high=MAX_SIZE_PX, unit="px")
        _check_range("signals_hz", self.signals_hz, low=0.0, high=1000.0, unit="values per second")
        _check_range("audio_rate", self.audio_rate_hz, low=999, high=192000, unit="Hz")
        if self.workers is not None:
            _check_range("workers", self.workers, low=0, high=1024, unit="processes")
        if self.detect_every is not None:
            _check_range("detect_every", self.detect_every, low=0, high=MAX_DETECT_EVERY, unit="sampled frames")
        _check_choice("crop", self.crop, get_args(CropKind))
        _check_choice("speech", self.speech, get_args(SpeechChoice))
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
        return {
            **values,
            "fps": float(self.fps),
            "margin": float(self.margin),
            "signals_hz": float(self.signals_hz),
            "detector": detector,
        }

    def recording_digest(self, *, detector: str) -> str:
        """Return the digest of the settings that decide what is made of one recording."""
        values = self.resolved(detector=detector)
        own = {name: value for name, value in values.items() if name not in STUDY_SETTINGS}
        return digest_of({**own, "pictures": PICTURES_VERSION})


def _check_range(name: str, value: float, *, low: float, high: float, unit: str) -> None:
    if not (math.isfinite(value) and low < value <= high):
        raise UserError(f"{name} is {value:g}; allowed: more than {low:g}, at most {high:g} {unit}.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown_name(name, got=value, allowed=allowed)
