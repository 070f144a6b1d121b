"""One recording to its folder: frames with their times and faces, crops, context pictures and sound.

The folder appears whole or not at all, so a run that was killed finds finished work and nothing else.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.storage import atomic_directory, read_json, sha256_file, write_json
from mien.core.types import Face, Problem, Recording
from mien.data.arrays import NpyWriter
from mien.data.settings import PrepareConfig
from mien.media.audio import read_audio
from mien.media.detectors import FaceDetector
from mien.media.faces import choose_face, context_picture, crop_frame, crop_square, median_panel
from mien.media.video import DecodeLog, has_video, probe_video, sample_frames

BOX_COLUMNS = ("x0", "y0", "x1", "y1")
LANDMARK_COLUMNS = tuple(f"l{number}{axis}" for number in range(5) for axis in "xy")
FACE_COLUMNS = ("score", *BOX_COLUMNS, *LANDMARK_COLUMNS)
FRAME_COLUMNS = ("frame", "pts_s", "face_found", *FACE_COLUMNS)

FACTS_FILE = "recording.json"


@dataclass(frozen=True)
class Job:
    """One recording to prepare; it travels to a worker process.

    Attributes:
        recording: What the study says of it.
        root: The study's folder; media paths are stored relative to it.
        folder: Where the result goes.
        config: The settings.
    """

    recording: Recording
    root: Path
    folder: Path
    config: PrepareConfig


@dataclass
class _Track:
    """The sampled frames of a recording."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, *, pts_s: float, face: Face | None) -> None:
        if face is None:
            values: tuple[float, ...] = (np.nan,) * len(FACE_COLUMNS)
        else:
            values = (face.score, *map(float, face.box_xyxy), *map(float, face.landmarks_xy.ravel()))
        self.rows.append((len(self.rows), pts_s, face is not None, *values))

    def table(self) -> pd.DataFrame:
        """Return `FRAME_COLUMNS`, one row per sampled frame; positions in px, NaN where there is no face."""
        types = {"frame": "int64", "pts_s": "float64", "face_found": "bool", **dict.fromkeys(FACE_COLUMNS, "float32")}
        return pd.DataFrame(self.rows, columns=list(FRAME_COLUMNS)).astype(types)


def prepare_recording(job: Job, *, detector: FaceDetector) -> None:
    """Write the folder of one recording.

    Raises:
        MediaError: The recording can't be used.
    """
    with atomic_directory(job.folder) as folder:
        path, problems = job.recording.path, list[Problem]()
        if not has_video(path):
            facts = _no_video(folder)
        else:
            facts = _write_video(folder, job=job, detector=detector, problems=problems)
        facts |= _write_audio(folder, job=job, required=facts["num_frames"] == 0, problems=problems)
        ends_s = (facts.pop("video_end_s"), facts.pop("audio_end_s"))
        facts["duration_s"] = ends_s[0] if ends_s[0] is not None else ends_s[1]
        write_json(
            folder / FACTS_FILE,
            {
                **identity(job.recording, root=job.root),
                **media_state(path),
                "sha256": sha256_file(path),
                **facts,
                "detector": detector.name,
                "config_digest": job.config.recording_digest(detector=detector.name),
                "problems": [asdict(problem) for problem in problems],
            },
        )


def identity(recording: Recording, *, root: Path) -> dict[str, Any]:
    """Return what the study says of a recording; the path is relative to the study where it lies in it."""
    path = Path(os.path.abspath(recording.path))
    base = Path(os.path.abspath(root))
    return {
        "recording_id": recording.recording_id,
        "participant_id": recording.participant_id,
        "group": recording.group or recording.participant_id,
        "session": recording.session,
        "camera": recording.camera,
        "attributes": dict(recording.attributes),
        "media": path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path),
    }


def media_state(path: Path) -> dict[str, int]:
    """Return size and time of a file: while both stay the same, so does the file."""
    status = path.stat()
    return {"media_bytes": status.st_size, "media_mtime_ns": status.st_mtime_ns}


def finished_facts(job: Job, *, detector: str) -> dict[str, Any] | None:
    """Return what an earlier run wrote of this recording, None where it has to be prepared (again).

    Earlier work counts where the settings are the same and so is the media file. What the study says of the recording
    is brought up to date.
    """
    path = job.folder / FACTS_FILE
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = read_json(path)
        state = media_state(job.recording.path)
    except (UserError, OSError):
        return None
    if stored.get("config_digest") != job.config.recording_digest(detector=detector):
        return None
    touched = any(stored.get(name) != value for name, value in state.items())
    if touched and stored.get("sha256") != sha256_file(job.recording.path):
        return None
    current = {**stored, **identity(job.recording, root=job.root), **state}
    if current != stored:
        write_json(path, current)
    return current


def _write_video(folder: Path, *, job: Job, detector: FaceDetector, problems: list[Problem]) -> dict[str, Any]:
    config, path = job.config, job.recording.path
    info, log = probe_video(path), DecodeLog()
    track = _Track()
    context: NpyWriter | None = None
    with NpyWriter(folder / "crops.npy", row_shape=(config.size_px, config.size_px, 3)) as crops:
        try:
            for frame in sample_frames(path, fps=config.fps, threads=1, log=log):
                face = choose_face(detector.detect(frame.rgb), choice=config.face)
                track.add(pts_s=frame.pts_s, face=face)
                picture = context_picture(frame.rgb, width_px=config.context_width_px)
                context = context or NpyWriter(folder / "context.npy", row_shape=picture.shape)
                context.append(_fit(picture, shape=context.row_shape))
                if config.crop != "panel":
                    crops.append(_crop(frame.rgb, face=face, config=config))
        finally:
            if context is not None:
                context.close()
        frames = track.table()
        if config.crop == "panel":
            _crop_panel(crops, path=path, boxes_xyxy=frames[list(BOX_COLUMNS)].to_numpy(), config=config)
    assert crops.num_rows == len(frames), "a crop for each sampled frame"
    frames.to_parquet(folder / "frames.parquet", index=False, compression="zstd")
    if log.num_corrupt:
        problems.append(_damaged(job.recording, log=log))
    first_s, last_s = frames["pts_s"].iloc[0], log.last_pts_s
    assert last_s is not None, "there is a frame, so there is a last one"
    # The mean rate: dropped frames lower it, so it shows them beside the declared one.
    rate = (log.num_frames - 1) / (last_s - first_s) if log.num_frames > 1 else None
    return {
        "duration_declared_s": info.duration_s,
        "fps_declared": info.fps_declared,
        "fps_measured": rate,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "num_frames": len(frames),
        "num_faces": int(frames["face_found"].sum()),
        "video_end_s": last_s + (1.0 / rate if rate else 1.0 / config.fps),
    }


def _no_video(folder: Path) -> dict[str, Any]:
    _Track().table().to_parquet(folder / "frames.parquet", index=False, compression="zstd")
    unknown = ("duration_declared_s", "fps_declared", "fps_measured", "width", "height", "codec", "video_end_s")
    return {**dict.fromkeys(unknown), "num_frames": 0, "num_faces": 0}


def _write_audio(folder: Path, *, job: Job, required: bool, problems: list[Problem]) -> dict[str, Any]:
    """Write the sound; a recording with a picture can do without it, any other can't."""
    audio = None
    try:
        audio = read_audio(job.recording.path, rate_hz=job.config.audio_rate_hz)
    except MediaError as error:
        if required:
            raise
        reason = f"{error.reason}; prepared without sound"
        problems.append(Problem(job.recording.recording_id, "audio", reason, error.advice))
    if audio is None:
        if required:
            reason = f"{job.recording.path.name} has neither picture nor sound"
            raise MediaError(reason, advice="Export or copy it again.")
        return {"audio_start_s": None, "audio_rate_hz": None, "audio_end_s": None}
    np.save(folder / "audio.npy", audio.samples)
    end_s = audio.start_s + len(audio.samples) / audio.rate_hz
    return {"audio_start_s": audio.start_s, "audio_rate_hz": audio.rate_hz, "audio_end_s": end_s}


def _crop(rgb: NDArray[np.uint8], *, face: Face | None, config: PrepareConfig) -> NDArray[np.uint8]:
    box = None if face is None else face.box_xyxy
    crop = crop_frame(rgb, box, kind=config.crop, margin=config.margin, size_px=config.size_px)
    return np.zeros((config.size_px, config.size_px, 3), dtype=np.uint8) if crop is None else crop


def _crop_panel(crops: NpyWriter, *, path: Path, boxes_xyxy: NDArray[np.float32], config: PrepareConfig) -> None:
    """Cut every frame at the recording's median face box, in a second pass, because only now it is known."""
    if not np.isfinite(boxes_xyxy).any():
        advice = "Use --crop none for the whole picture, or leave the recording out."
        raise MediaError(f"{path.name} shows no face in any sampled frame, so it has no panel", advice=advice)
    box = median_panel(boxes_xyxy)
    for frame in sample_frames(path, fps=config.fps, threads=1):
        crops.append(crop_square(frame.rgb, box, margin=config.margin, size_px=config.size_px))


def _fit(picture: NDArray[np.uint8], *, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a picture in the shape of the recording's first one: some recorders change size on the way."""
    if picture.shape == shape:
        return picture
    return np.asarray(cv2.resize(picture, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _damaged(recording: Recording, *, log: DecodeLog) -> Problem:
    reason = f"{recording.path.name} has {log.num_corrupt} damaged packets, skipped; {log.num_frames} frames are used"
    return Problem(recording.recording_id, "video", reason, "Play it to check, or copy it from its source again.")
