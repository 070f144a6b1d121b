"""The types that travel between layers. Pixels never travel without their time in seconds; intervals are half-open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CropKind = Literal["face", "panel", "none"]
FaceChoice = Literal["main", "left", "right"]
MediaChoice = Literal["auto", "camera", "screen", "all"]
Camera = Literal["camera", "screen", "audio"]


@dataclass(frozen=True)
class Recording:
    """One recording of one participant, as a study lists it (before anything is decoded).

    Attributes:
        recording_id: Unique within the study, stable between runs, safe as a file name.
        participant_id: Normalised id of the person (white space and underscores collapsed to one space).
        path: The media file.
        camera: `camera` shows the person, `screen` is a composite screen recording, `audio` has no picture.
        session: Name of the session; annotations are matched by participant and session where they name one.
        group: What must not be split between train and test; the participant unless the study says otherwise.
        attributes: What is known of the participant or recording, such as age and gender; missing ones are absent.
    """

    recording_id: str
    participant_id: str
    path: Path
    camera: Camera
    session: str = ""
    group: str = ""
    attributes: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoInfo:
    """What a container says about its video, and what its timestamps show.

    Attributes:
        width: Display width in px (rotation applied).
        height: Display height in px (rotation applied).
        fps_declared: Average rate that the container declares, None where it doesn't.
        duration_s: Declared duration in seconds, None where the container has none.
        codec: Name of the codec.
        stream_index: Index of the stream that was chosen.
        num_video_streams: Number of video streams in the file.
    """

    width: int
    height: int
    fps_declared: float | None
    duration_s: float | None
    codec: str
    stream_index: int
    num_video_streams: int


@dataclass(frozen=True)
class VideoFrame:
    """A decoded picture with its time.

    Attributes:
        rgb: (H, W, 3) uint8, rotation applied.
        pts_s: Presentation time in seconds.
        index: Number of the frame in decoding order, for file names only: time is `pts_s`.
    """

    rgb: NDArray[np.uint8]
    pts_s: float
    index: int


@dataclass(frozen=True)
class Audio:
    """Mono sound with its time.

    Attributes:
        samples: (S,) int16.
        rate_hz: Samples per second.
        start_s: Time of the first sample on the recording's clock.
    """

    samples: NDArray[np.int16]
    rate_hz: int
    start_s: float


@dataclass(frozen=True)
class Face:
    """One detected face.

    Attributes:
        box_xyxy: (4,) float32, px.
        landmarks_xy: (5, 2) float32, px: left eye, right eye, nose, left and right corner of the mouth, as seen
            in the picture.
        score: Detector confidence, 0..1.
    """

    box_xyxy: NDArray[np.float32]
    landmarks_xy: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class Signal:
    """One channel of a sensor, or of a tool that rates every frame, at its own times.

    Attributes:
        name: The channel, as `core.channels` spells it where it is known there, else as the export writes it.
        unit: Unit of the values as the export gives it, such as "microSiemens"; empty where it gives none.
        times_s: (N,) float64, strictly increasing, seconds on the clock of its export; only moments at which this
            channel was fresh, so nothing is carried forward.
        values: (N,) float32, finite.
        source: The sensor or tool, such as "GSR" or "AFFDEX".
        respondent: Whom the export names, empty where it names nobody.
        stimulus: What was shown, as the export names it; empty where it names nothing.
        face: Number or name of the face in the picture where the export tells several apart, else empty.
    """

    name: str
    unit: str
    times_s: NDArray[np.float64]
    values: NDArray[np.float32]
    source: str
    respondent: str = ""
    stimulus: str = ""
    face: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that was left out, why, and what the user can do: one row of `failures.csv`.

    Attributes:
        recording: The recording's id, or the name of the file where no recording is known.
        stage: Where it was found: `find`, `annotations`, `video`, `audio`, `faces` or `process`.
        reason: What was found.
        advice: What the user can do about it.
    """

    recording: str
    stage: str
    reason: str
    advice: str


@dataclass(frozen=True)
class Split:
    """Who is trained on, validated on and tested on in one fold; three disjoint sets of participants.

    Attributes:
        fold: Number of the fold, from 0.
        train: Participant ids that weights are fitted on.
        validation: Participant ids of the inner split (early stopping).
        test: Participant ids that are looked at once.
        seed: Seed that the split was drawn with.
    """

    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        parts = (set(self.train), set(self.validation), set(self.test))
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2]), "participants overlap"


@dataclass(frozen=True)
class FaceTrack:
    """One person's face through a recording: a row per sampled frame that shows it.

    Attributes:
        track: Number of the person within the recording, from 0 in the order of appearance.
        frames: (N,) int64, increasing: numbers of the sampled frames.
        pts_s: (N,) float64, their times in seconds.
        boxes_xyxy: (N, 4) float32, px.
        landmarks_xy: (N, 5, 2) float32, px; order as in `Face`.
        score: (N,) float32, the detector's confidence, 0..1.
    """

    track: int
    frames: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float32]
    landmarks_xy: NDArray[np.float32]
    score: NDArray[np.float32]
