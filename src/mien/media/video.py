"""Video by presentation time: probing, decoding, sampling.

A frame's time is its pts times the stream's time base, nothing subtracted: the time that ffprobe prints as `pts_time`.
Frame numbers are no time: recordings with a variable rate, dropped frames or an edit list would be off by seconds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.types import VideoFrame, VideoInfo
from mien.media.bitstream import Bitstream
from mien.media.container import (
    MAX_PICTURE_PX,
    DecodeLog,
    confirmed,
    decode_packets,
    has_audio,
    has_video,
    open_media,
    video_streams,
)
from mien.media.pictures import DecodedFrame, Orientation, display_axes
from mien.media.sampling import MAX_JUMP_S, PlanBrokenError, SampleRule, wanted_frames

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


def _ready(stream: VideoStream, *, path: Path, threads: int, log: DecodeLog) -> None:
    """Set up a stream's decoder, and note where the stream says that it ends.

    Raises:
        MediaError: The pictures are too large.
    """
    if stream.width * stream.height > MAX_PICTURE_PX:
        reason = f"{path.name} declares pictures of {stream.width} x {stream.height} px, over {MAX_PICTURE_PX:,} px"
        raise MediaError(reason, advice="It is damaged, or has to be made smaller first.")
    # Pictures may grow on the way.
    stream.codec_context.options = {"max_pixels": str(MAX_PICTURE_PX)}
    stream.thread_type = "AUTO" if threads != 1 else "NONE"
    stream.thread_count = threads
    if stream.duration is not None and stream.time_base is not None:
        log.declared_end_s = float((stream.duration + (stream.start_time or 0)) * stream.time_base)


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
        if display_axes(first.picture)[0]:
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
        _ready(stream, path=path, threads=threads or 0, log=log)
        time_base = stream.time_base
        assert time_base is not None, "FFmpeg gives every video stream a clock"
        orientation = Orientation()
        pictures = decode_packets(container, stream.index, stream.decode, log=log)
        for pts_s, picture in confirmed(_timed(pictures, time_base=time_base), max_jump_s=MAX_JUMP_S, log=log):
            if pts_s is None:
                log.num_untimed += 1
                continue
            if log.last_pts_s is not None and pts_s <= log.last_pts_s:
                log.num_unordered += 1
                continue
            log.last_pts_s = pts_s
            log.num_frames += 1
            yield DecodedFrame(
                pts_s=pts_s,
                index=log.num_frames - 1,
                picture=picture,
                tick_s=float(time_base),
                orientation=orientation,
            )
    if not log.num_frames:
        raise _nothing_decoded(path, log=log)


def _timed(pictures: Iterator[av.VideoFrame], *, time_base: Fraction) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Put each picture's time before it: its pts, else the dts with which it came out, as ffprobe does."""
    last: int | None = None
    for picture in pictures:
        pts = picture.pts if picture.pts is not None else picture.dts
        if pts is None and last is not None and picture.duration:
            # The last pictures of an AVI file come out behind its last packet, whose time is taken.
            pts = last + picture.duration
        last = last if pts is None else pts
        yield (None if pts is None else float(pts * time_base)), picture


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
        threads: Decoder threads, one by default: files are what goes in parallel. With several every frame is decoded;
            with one only what is needed (`mien.media.sampling`).
        log: Filled while decoding; `strategy` tells how.

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
    log = DecodeLog() if log is None else log
    return _sampled(Path(path), fps=fps, every=every, stream_index=stream_index, threads=threads or 1, log=log)


def _sampled(
    path: Path, *, fps: float | None, every: int | None, stream_index: int | None, threads: int, log: DecodeLog
) -> Iterator[VideoFrame]:
    last_s = -math.inf
    with open_media(path) as container:
        stream = _choose_stream(container, path=path, stream_index=stream_index)
        log.strategy_reason = _why_all(stream, threads=threads)
        if not log.strategy_reason:
            _ready(stream, path=path, threads=threads, log=log)
            # Damage has to be told, not patched up: patches are made of other pictures, and some are left out here.
            stream.codec_context.options |= {"err_detect": "explode"}
            log.strategy = "wanted"
            try:
                for frame in wanted_frames(container, stream, rule=SampleRule(fps=fps, every=every), log=log):
                    last_s = frame.pts_s
                    yield VideoFrame(rgb=frame.to_rgb(), pts_s=frame.pts_s, index=frame.index)
            except PlanBrokenError as error:
                log.strategy_reason, log.has_patches = str(error), error.is_damage
            else:
                if log.num_frames:
                    return
    # From the beginning: what has been yielded is right, and counts and frame numbers come out right, too.
    log.strategy, log.num_frames, log.num_corrupt, log.last_pts_s = "all", 0, 0, None
    rule = SampleRule(fps=fps, every=every)
    for frame in decode(path, stream_index=stream_index, threads=threads, log=log):
        if rule.takes(frame.pts_s, index=frame.index, tick_s=frame.tick_s) and frame.pts_s > last_s:
            yield VideoFrame(rgb=frame.to_rgb(), pts_s=frame.pts_s, index=frame.index)


def _why_all(stream: VideoStream, *, threads: int) -> str:
    """Return why every frame has to be decoded from the start; empty where it needn't be."""
    if threads != 1:
        return "several threads were asked for"
    bitstream = Bitstream(stream)
    return "" if bitstream.is_known else f"there is no rule for {bitstream.codec}"


def measured_fps(pts_s: NDArray[np.floating]) -> float:
    """Return the frame rate that timestamps show: 1 / median interval; NaN for fewer than two frames.

    Args:
        pts_s: (N,) increasing times in seconds.

    >>> round(measured_fps(np.array([0.0, 0.04, 0.08, 0.5, 0.54])), 6)
    25.0
    """
    intervals_s = np.diff(np.asarray(pts_s, dtype=np.float64))
    return float(1.0 / np.median(intervals_s)) if intervals_s.size else math.nan
