"""One recording to its folder: frames with their times and faces, crops, context pictures and sound.

The folder appears whole or not at all, so a run that was killed finds finished work and nothing else.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.errors import MediaError, UserError
from mien.core.storage import atomic_directory, read_json, sha256_file, write_json
from mien.core.types import Audio, Problem, Recording
from mien.data.arrays import NpyWriter
from mien.data.pictures import (
    BOX_COLUMNS,
    FRAME_COLUMNS,
    LANDMARK_COLUMNS,
    Pictures,
    PictureSettings,
    make_pictures,
    no_frames,
)
from mien.data.settings import PrepareConfig
from mien.data.signals import write_speech
from mien.media.audio import stream_audio
from mien.media.detectors import FaceDetector
from mien.media.speech import speech_activity
from mien.media.video import DecodeLog, has_video, probe_video

__all__ = [
    "BOX_COLUMNS",
    "FACTS_FILE",
    "FRAME_COLUMNS",
    "LANDMARK_COLUMNS",
    "Job",
    "finished_facts",
    "identity",
    "media_state",
    "prepare_recording",
]

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
    settings = PictureSettings(
        fps=config.fps,
        crop=config.crop,
        face=config.face,
        size_px=config.size_px,
        margin=config.margin,
        detect_every=config.detect_every,
        context_width_px=config.context_width_px,
    )
    pictures = make_pictures(path, settings=settings, detector=detector, folder=folder, log=log)
    frames = pictures.frames
    frames.to_parquet(folder / "frames.parquet", index=False, compression="zstd")
    pictures.track_table().to_parquet(folder / "tracks.parquet", index=False, compression="zstd")
    if pictures.choice.is_close:
        problems.append(_close_choice(job, pictures=pictures))
    if loss := log.describe_loss():
        advice = "The rest is used. Play it to check, or copy it from its source again."
        problems.append(Problem(job.recording.recording_id, "video", f"{path.name}: {loss}", advice))
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
        **_people_facts(pictures),
        "video_end_s": last_s + (1.0 / rate if rate else 1.0 / config.fps),
    }


def _no_video(folder: Path) -> dict[str, Any]:
    no_frames().to_parquet(folder / "frames.parquet", index=False, compression="zstd")
    unknown = ("duration_declared_s", "fps_declared", "fps_measured", "width", "height", "codec", "video_end_s")
    return {**dict.fromkeys(unknown), "num_frames": 0, "num_faces": 0}


def _write_audio(folder: Path, *, job: Job, required: bool, problems: list[Problem]) -> dict[str, Any]:
    """Write the sound; a recording with a picture can do without it, any other can't."""
    rate_hz, start_s, log = job.config.audio_rate_hz, None, DecodeLog()
    path = folder / "audio.npy"
    with NpyWriter(path, row_shape=(), dtype=np.int16) as writer:
        try:
            for block in stream_audio(job.recording.path, rate_hz=rate_hz, log=log):
                start_s = block.start_s if start_s is None else start_s
                writer.extend(block.samples)
        except MediaError as error:
            if required:
                raise
            reason = f"{error.reason}; prepared without sound"
            problems.append(Problem(job.recording.recording_id, "audio", reason, error.advice))
    if loss := log.describe_loss(last="the sound ends"):
        problems.append(Problem(job.recording.recording_id, "audio", loss, "Copy it again from its source."))
    if start_s is None:
        path.unlink()
        if required:
            reason = f"{job.recording.path.name} has neither picture nor sound"
            raise MediaError(reason, advice="Export or copy it again.")
        return {"audio_start_s": None, "audio_rate_hz": None, "audio_end_s": None}
    if job.config.speech != "none":
        audio = Audio(samples=np.load(path, mmap_mode="r"), rate_hz=rate_hz, start_s=start_s)
        write_speech(folder, speech_activity(audio, detector=job.config.speech))
    return {
        "audio_start_s": start_s,
        "audio_rate_hz": rate_hz,
        "audio_end_s": start_s + writer.num_rows / rate_hz,
    }


def _people_facts(pictures: Pictures) -> dict[str, Any]:
    """Return who is in the picture: how many, which one is the participant and in what share of the frames."""
    panel = pictures.panel
    facts: dict[str, Any] = {
        "num_tracks": len(pictures.tracks),
        "track": pictures.choice.track,
        "track_share": float(pictures.frames["face_found"].mean()),
        "rival_track": pictures.choice.rival,
        "rival_ratio": round(pictures.choice.ratio, 4),
    }
    if panel is not None:
        facts["panel_box_xyxy"] = panel.box_xyxy
        facts["panel_border_xyxy"] = panel.border_xyxy
        facts["panel_face_share"] = panel.face_share
    return facts


def _close_choice(job: Job, *, pictures: Pictures) -> Problem:
    choice, path = pictures.choice, job.recording.path
    if job.config.face == "main":
        reason = (
            f"{path.name} shows {len(pictures.tracks)} people; the largest and most present, track {choice.track}, is "
            f"taken for the participant, but track {choice.rival} has {choice.ratio:.0%} of its weight (area and time)"
        )
        advice = "Look at tracks.parquet; choose with --face left or --face right if it isn't the participant."
    else:
        reason = f"{path.name}: the faces of tracks {choice.track} and {choice.rival} are at nearly the same place"
        advice = f"Look at tracks.parquet; --face {job.config.face} tells people apart who sit beside each other."
    return Problem(job.recording.recording_id, "faces", reason, advice)
