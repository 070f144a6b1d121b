"""What `prepare` would do: recordings, minutes, samples, time and disk, from probing and a short trial."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mien.core.errors import MediaError
from mien.core.types import Recording, VideoInfo
from mien.data.settings import PrepareConfig
from mien.data.study import Study
from mien.media.detectors import make_detector
from mien.media.faces import context_picture, crop_whole
from mien.media.panel import NUM_SAMPLES
from mien.media.people import PeopleFinder, automatic_interval
from mien.media.video import has_video, probe_video, sample_frames

TRIAL_S = 1.5
"""Long enough that the first frames, which are slower, don't decide."""

BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class Estimate:
    """What `prepare` would do.

    Attributes:
        num_recordings: Recordings that open.
        num_unreadable: Recordings that don't; they would be listed in `failures.csv`.
        num_unknown_duration: Recordings whose container has no duration; they aren't in the numbers below.
        minutes: Minutes of video by the containers' durations.
        num_samples: Frames that would be sampled.
        num_workers: Processes.
        seconds: Time that it takes here, from a trial on one recording; None where there is no video.
        disk_bytes: Size of the dataset.
    """

    num_recordings: int
    num_unreadable: int
    num_unknown_duration: int
    minutes: float
    num_samples: int
    num_workers: int
    seconds: float | None
    disk_bytes: int


def estimate_work(study: Study, *, config: PrepareConfig) -> Estimate:
    """Estimate what `prepare` would do; reads the head of each recording and a second of one."""
    infos: list[tuple[Recording, VideoInfo]] = []
    num_unreadable = num_silent = 0
    for recording in study.recordings:
        try:
            if has_video(recording.path):
                infos.append((recording, probe_video(recording.path)))
            else:
                num_silent += 1
        except MediaError:
            num_unreadable += 1
    known = [(recording, info, info.duration_s) for recording, info in infos if info.duration_s]
    video_s = sum(duration_s for _, _, duration_s in known)
    num_workers = max(1, min(config.num_workers, len(infos)))
    speed = _trial([recording for recording, _, _ in known], config=config) if known else None
    # A panel is looked for in a sample before the recording is read, which is a second reading of a short one.
    num_samples = video_s * config.fps
    looked_at = NUM_SAMPLES * len(known) if config.crop == "panel" else 0
    panel_share = 1 + min(1.0, looked_at / max(num_samples, 1.0))
    return Estimate(
        num_recordings=len(infos) + num_silent,
        num_unreadable=num_unreadable,
        num_unknown_duration=len(infos) - len(known),
        minutes=video_s / 60,
        num_samples=round(num_samples),
        num_workers=num_workers,
        seconds=video_s * panel_share / speed / num_workers if speed else None,
        disk_bytes=sum(_num_bytes(info, duration_s=duration_s, config=config) for _, info, duration_s in known),
    )


def _trial(recordings: Sequence[Recording], *, config: PrepareConfig) -> float | None:
    """Return seconds of video that are prepared per second in one process, measured on the first that decodes."""
    detector = make_detector(config.detector)
    for recording in recordings:
        frames = sample_frames(recording.path, fps=config.fps, threads=1)
        with contextlib.closing(frames), contextlib.suppress(MediaError):  # type: ignore[type-var]
            start = time.perf_counter()
            first_s = last_s = next(frames).pts_s
            finder = PeopleFinder(detector, detect_every=config.detect_every or automatic_interval(config.fps))
            for frame in frames:
                finder.add(frame.rgb, pts_s=frame.pts_s)
                crop_whole(frame.rgb, size_px=config.size_px)
                context_picture(frame.rgb, width_px=config.context_width_px)
                last_s = frame.pts_s
                if time.perf_counter() - start > TRIAL_S:
                    break
            if last_s > first_s:
                return (last_s - first_s) / (time.perf_counter() - start)
    return None


def _num_bytes(info: VideoInfo, *, duration_s: float, config: PrepareConfig) -> int:
    context_px = config.context_width_px**2 * info.height / info.width
    per_frame = 3 * (config.size_px**2 + context_px)
    return round(duration_s * (config.fps * per_frame + config.audio_rate_hz * BYTES_PER_SAMPLE))
