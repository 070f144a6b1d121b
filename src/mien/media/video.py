"""Video by presentation time: probing, decoding, sampling.

A frame's time is its pts times the stream's time base, nothing subtracted: the time that ffprobe prints as `pts_time`.
Frame numbers are no time: recordings with a variable rate, dropped frames or an edit list would be off by seconds.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.types import VideoFrame, VideoInfo
from mien.media.container import DecodeLog, decode_packets, has_audio, has_video, open_media, video_streams

__all__ = [
    "DecodeLog",
    "DecodedFrame",
    "decode",
    "has_audio",
    "has_video",
    "measured_fps",
    "probe_video",
    "read_frames",
    "sample_frames",
]


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame that isn't converted to RGB yet: most frames of a sampled video never are.

    Attributes:
        pts_s: Presentation time in seconds.
        index: Number of the frame among the decoded ones.
        picture: The decoder's own picture, as stored (not upright).
        tick_s: Length of one unit of the stream's clock in seconds.
    """

    pts_s: float
    index: int
    picture: av.VideoFrame
    tick_s: float

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return the picture (H, W, 3) uint8, upright."""
        stored = np.asarray(self.picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        return _upright(stored, _display_axes(self.picture))


def _choose_stream(container: InputContainer, *, path: Path, stream_index: int | None) -> VideoStream:
    streams = video_streams(container)
    if not streams:
        advice = "Use it where sound is asked for, or name the recording that shows the face."
        raise MediaError(f"{path.name} has no video stream that can be decoded", advice=advice)
    if stream_index is None:
        return streams[0]
    chosen = next((stream for stream in streams if stream.index == stream_index), None)
    if chosen is None:
        known = ", ".join(str(stream.index) for stream in streams)
        raise UserError(f"{path.name}: stream {stream_index} isn't a video stream. Video streams: {known}.")
    return chosen


def probe_video(path: Path) -> VideoInfo:
    """Read what a container declares, and decode one frame (for its rotation, and to know that it can be done).

    Raises:
        MediaError: The file can't be opened, has no video stream, or no frame can be decoded.
    """
    frames = decode(path, threads=1)
    with contextlib.closing(frames), open_media(path) as container:
        first = next(frames)
        stream = _choose_stream(container, path=Path(path), stream_index=None)
        across, down = first.picture.width, first.picture.height
        if _display_axes(first.picture)[0]:
            across, down = down, across
        rate = stream.average_rate
        return VideoInfo(
            width=across,
            height=down,
            fps_declared=float(rate) if rate else None,
            duration_s=_declared_duration_s(container, stream),
            codec=stream.codec_context.codec.canonical_name,
            stream_index=stream.index,
            num_video_streams=len(video_streams(container)),
        )


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def decode(
    path: Path, *, stream_index: int | None = None, threads: int | None = None, log: DecodeLog | None = None
) -> Generator[DecodedFrame, None, None]:
    """Yield every frame by increasing pts, in the memory of a few frames; damaged packets are skipped.

    Args:
        path: The media file.
        stream_index: Index of the video stream, None for the default one with the largest picture.
        threads: Decoder threads; None lets FFmpeg choose. With several, a damaged last packet may take the few frames
            that are still in other threads along; with one, every frame that decodes is yielded.
        log: Filled while decoding.

    Raises:
        MediaError: The file can't be opened, has no video stream, or no frame can be decoded.
        UserError: `stream_index` isn't a video stream.
    """
    path, log = Path(path), DecodeLog() if log is None else log
    with open_media(path) as container:
        stream = _choose_stream(container, path=path, stream_index=stream_index)
        stream.thread_type = "AUTO" if threads != 1 else "NONE"
        stream.thread_count = threads or 0
        time_base = stream.time_base
        assert time_base is not None, "FFmpeg gives every video stream a clock"
        if stream.duration is not None:
            log.declared_end_s = float((stream.duration + (stream.start_time or 0)) * time_base)
        for picture in decode_packets(container, stream.index, stream.decode, log=log):
            pts = picture.pts if picture.pts is not None else picture.dts
            if pts is None:
                log.num_untimed += 1
                continue
            pts_s = float(pts * time_base)
            if log.last_pts_s is not None and pts_s <= log.last_pts_s:
                log.num_unordered += 1
                continue
            log.last_pts_s = pts_s
            log.num_frames += 1
            yield DecodedFrame(pts_s=pts_s, index=log.num_frames - 1, picture=picture, tick_s=float(time_base))
    if not log.num_frames:
        raise _nothing_decoded(path, log=log)


def _nothing_decoded(path: Path, *, log: DecodeLog) -> MediaError:
    if log.num_untimed:
        advice = "Put it in a container with times: ffmpeg -r RATE -i FILE -c copy NEW.mp4."
        return MediaError(f"{path.name} has no timestamps (a raw stream?)", advice=advice)
    advice = "Play it to check; export or copy it again."
    return MediaError(f"{path.name} has no decodable frame ({log.num_corrupt} damaged packets)", advice=advice)


def read_frames(
    path: Path, *, stream_index: int | None = None, threads: int | None = None, log: DecodeLog | None = None
) -> Iterator[VideoFrame]:
    """Yield every frame as an upright RGB picture; arguments and errors as in `decode`."""
    for frame in decode(path, stream_index=stream_index, threads=threads, log=log):
        yield VideoFrame(rgb=frame.to_rgb(), pts_s=frame.pts_s, index=frame.index)


def sample_frames(
    path: Path,
    *,
    fps: float | None = None,
    every: int | None = None,
    stream_index: int | None = None,
    threads: int | None = None,
    log: DecodeLog | None = None,
) -> Iterator[VideoFrame]:
    """Yield some frames of a video as upright RGB pictures, each with its own true time.

    Args:
        path: The media file.
        fps: Samples per second: the first frame, then for each instant k / fps after it (k an integer) the first frame
            at or after the instant. No frame is yielded twice; instants within a gap of the recording are skipped.
            "At" means to half a unit of the stream's clock, since a container rounds times (Matroska to 1 ms).
        every: Frames 0, `every`, 2 `every`, ... instead.
        stream_index: As in `decode`.
        threads: As in `decode`.
        log: As in `decode`.

    Raises:
        UserError: Not exactly one of `fps` and `every`, or not a positive one.
        MediaError: As in `decode`.
    """
    if (fps is None) == (every is None):
        raise UserError(f"Give exactly one of fps and every, got fps={fps}, every={every}.")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"fps must be a positive number of samples per second, got {fps}.")
    if every is not None and every < 1:
        raise UserError(f"every must be a positive number of frames, got {every}.")
    frames = decode(path, stream_index=stream_index, threads=threads, log=log)
    return _sampled(frames, fps=fps, every=every)


def _sampled(frames: Iterator[DecodedFrame], *, fps: float | None, every: int | None) -> Iterator[VideoFrame]:
    last_slot: int | None = None
    for frame in frames:
        slot = frame.index // every if every is not None else math.floor((frame.pts_s + frame.tick_s / 2) * (fps or 0))
        if last_slot is None or slot > last_slot:
            last_slot = slot
            yield VideoFrame(rgb=frame.to_rgb(), pts_s=frame.pts_s, index=frame.index)


def measured_fps(pts_s: NDArray[np.floating]) -> float:
    """Return the frame rate that timestamps show: 1 / median interval; NaN for fewer than two frames.

    Args:
        pts_s: (N,) increasing times in seconds.

    >>> round(measured_fps(np.array([0.0, 0.04, 0.08, 0.5, 0.54])), 6)
    25.0
    """
    intervals_s = np.diff(np.asarray(pts_s, dtype=np.float64))
    return float(1.0 / np.median(intervals_s)) if intervals_s.size else math.nan


def _display_axes(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Read how a stored picture is turned for display: axes swapped, then mirrored left-right, then upside down.

    The matrix of ISO/IEC 14496-12 maps a pixel (x, y) to (a x + c y, b x + d y). Rotations by 90 degrees and mirrored
    pictures (front cameras of phones) are told apart by the signs; `frame.rotation` takes a mirrored one for turned.
    """
    side_data: Any = picture.side_data  # a mapping by type; its stub knows motion vectors only
    try:
        matrix = bytes(side_data[SideDataType.DISPLAYMATRIX])
    except KeyError:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    return (True, c < 0, b < 0) if swapped else (False, a < 0, d < 0)


def _upright(stored: NDArray[np.uint8], axes: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    swapped, mirrored, upside_down = axes
    picture = stored.transpose(1, 0, 2) if swapped else stored
    picture = picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return np.ascontiguousarray(picture)
