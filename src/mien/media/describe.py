"""What a media file holds: its streams as declared, which are used and why, and on demand what they really hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mien.core.errors import MediaError
from mien.media.audio import choose_audio, stream_audio
from mien.media.container import PICTURE_DISPOSITIONS, DecodeLog, open_media, video_streams
from mien.media.pictures import display_axes, rotation_deg
from mien.media.video import decode

StreamKind = Literal["video", "audio", "subtitle", "data", "attachment", "picture", "unknown"]

RANGES = {1: "limited", 2: "full"}
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""Names of FFmpeg's AVColorRange and AVColorSpace (ITU-T H.273); others stay unnamed."""


@dataclass(frozen=True)
class Measured:
    """What decoding a stream shows; it takes the time of decoding all of it.

    Attributes:
        num_frames: Pictures, or samples of sound at 16 kHz.
        first_s: Time of the first one.
        last_s: Time of the last picture; end of the sound.
        interval_s: Shortest, median and longest time between pictures, None for sound and for fewer than two.
        fps: Pictures per second over the whole, None for sound and for fewer than two pictures.
        num_corrupt: Damaged packets that were skipped.
        num_dropped: Frames without a usable time.
        failure: Why nothing could be decoded, else empty; the other values are then None and 0.
    """

    num_frames: int = 0
    first_s: float | None = None
    last_s: float | None = None
    interval_s: tuple[float, float, float] | None = None
    fps: float | None = None
    num_corrupt: int = 0
    num_dropped: int = 0
    failure: str = ""


@dataclass(frozen=True)
class StreamDescription:
    """One stream of a file, as its header describes it; None where it doesn't say.

    Attributes:
        index: Index of the stream.
        kind: What it holds; `picture` is a cover picture or thumbnail.
        codec: Name of the codec, empty where FFmpeg has no decoder.
        chosen: The one that is used.
        why: Why it is used or not, one clause.
        width: Display width in px (rotation applied).
        height: Display height in px (rotation applied).
        pixel_format: FFmpeg's name of the pixel format.
        bit_depth: Bits per colour component.
        colour_range: `limited` or `full`.
        colour_matrix: `bt601`, `bt709`, ...
        rotation_deg: How far the stored picture is turned clockwise for display: 0, 90, 180, 270.
        mirrored: It is also flipped left-right.
        fps_declared: Average rate that the header declares.
        channels: Channels of sound.
        layout: Layout of the channels, such as `stereo` or `5.1`.
        rate_hz: Samples per second.
        start_s: Time of the first packet.
        duration_s: Declared duration.
        language: Declared language, empty where there is none.
        measured: What decoding shows, where it was asked for and the stream is chosen.
    """

    index: int
    kind: StreamKind
    codec: str
    chosen: bool = False
    why: str = ""
    width: int | None = None
    height: int | None = None
    pixel_format: str | None = None
    bit_depth: int | None = None
    colour_range: str | None = None
    colour_matrix: str | None = None
    rotation_deg: int | None = None
    mirrored: bool | None = None
    fps_declared: float | None = None
    channels: int | None = None
    layout: str | None = None
    rate_hz: int | None = None
    start_s: float | None = None
    duration_s: float | None = None
    language: str = ""
    measured: Measured | None = None


@dataclass(frozen=True)
class MediaDescription:
    """What a media file holds.

    Attributes:
        path: The file.
        container: FFmpeg's name of the container format.
        num_bytes: Size of the file.
        duration_s: Duration that the header declares for the whole, None where it doesn't.
        streams: Its streams, by index.
    """

    path: Path
    container: str
    num_bytes: int
    duration_s: float | None
    streams: tuple[StreamDescription, ...]

    @property
    def video(self) -> StreamDescription | None:
        """The video stream that is used."""
        return next((stream for stream in self.streams if stream.chosen and stream.kind == "video"), None)

    @property
    def audio(self) -> StreamDescription | None:
        """The audio stream that is used."""
        return next((stream for stream in self.streams if stream.chosen and stream.kind == "audio"), None)


def describe_media(path: Path, *, measure: bool = False) -> MediaDescription:
    """Describe a media file.

    Args:
        path: The file.
        measure: Decode the chosen streams, and say what they really hold.

    Raises:
        MediaError: The file can't be opened.
    """
    path = Path(path)
    with open_media(path) as container:
        videos, audio = video_streams(container), choose_audio(container)
        streams = [_describe(stream, videos=videos, audio=audio) for stream in container.streams]
        name = container.format.name
        duration_s = container.duration / av.time_base if container.duration else None
        streams = [_with_picture(stream, container=container) for stream in streams]
    if measure:
        streams = [_with_measures(stream, path=path) if stream.chosen else stream for stream in streams]
    return MediaDescription(
        path=path, container=name, num_bytes=path.stat().st_size, duration_s=duration_s, streams=tuple(streams)
    )


def _describe(stream: Stream, *, videos: list[VideoStream], audio: AudioStream | None) -> StreamDescription:
    base = stream.time_base
    context = stream.codec_context
    common = StreamDescription(
        index=stream.index,
        kind=_kind(stream),
        codec=context.codec.canonical_name if context is not None else "",
        start_s=None if stream.start_time is None or base is None else float(stream.start_time * base),
        duration_s=None if stream.duration is None or base is None else float(stream.duration * base),
        language=stream.language or "",
    )
    if isinstance(stream, VideoStream) and context is not None:
        pixels = stream.codec_context.format
        chosen = bool(videos) and stream.index == videos[0].index
        return replace(
            common,
            chosen=chosen,
            why=_why(chosen, kind=common.kind, num=len(videos), measure="picture"),
            width=stream.width,
            height=stream.height,
            pixel_format=pixels.name if pixels else None,
            bit_depth=max((part.bits for part in pixels.components), default=None) if pixels else None,
            colour_range=RANGES.get(int(stream.codec_context.color_range)),
            colour_matrix=MATRICES.get(int(stream.codec_context.colorspace)),
            fps_declared=float(stream.average_rate) if stream.average_rate else None,
        )
    if isinstance(stream, AudioStream) and context is not None:
        chosen = audio is not None and stream.index == audio.index
        num = len([other for other in stream.container.streams.audio if other.codec_context])
        return replace(
            common,
            chosen=chosen,
            why=_why(chosen, kind="audio", num=num, measure="number of samples and channels"),
            channels=stream.channels,
            layout=stream.layout.name,
            rate_hz=stream.sample_rate,
        )
    return replace(common, why="not used" if common.codec else "FFmpeg has no decoder for it")


def _kind(stream: Stream) -> StreamKind:
    if stream.disposition & PICTURE_DISPOSITIONS:
        return "picture"
    kinds: dict[str, StreamKind] = {
        "video": "video",
        "audio": "audio",
        "subtitle": "subtitle",
        "data": "data",
        "attachment": "attachment",
    }
    return kinds.get(stream.type, "unknown")


def _why(chosen: bool, *, kind: StreamKind, num: int, measure: str) -> str:
    if kind == "picture":
        return "a cover picture, not a recording"
    if num == 1:
        return f"the only {kind} stream"
    rule = f"the default one with the larger {measure}, then the lower index"
    return f"of {num}, {rule}" if chosen else f"not {rule}"


def _with_picture(stream: StreamDescription, *, container: InputContainer) -> StreamDescription:
    """Add how pictures are turned: it is known from the first one."""
    if stream.kind != "video" or not stream.chosen:
        return stream
    source = container.streams.video[[s.index for s in container.streams.video].index(stream.index)]
    try:
        first = next(container.decode(source), None)
    except av.FFmpegError:
        return stream
    if first is None:
        return stream
    axes = display_axes(first)
    degrees, mirrored = rotation_deg(axes)
    across, down = (first.height, first.width) if axes[0] else (first.width, first.height)
    return replace(stream, rotation_deg=degrees, mirrored=mirrored, width=across, height=down)


def _with_measures(stream: StreamDescription, *, path: Path) -> StreamDescription:
    try:
        measured = _measure_video(path, stream.index) if stream.kind == "video" else _measure_audio(path)
    except MediaError as error:
        measured = Measured(failure=error.reason)
    return replace(stream, measured=measured)


def _measure_video(path: Path, index: int) -> Measured:
    log = DecodeLog()
    times_s: NDArray[np.float64] = np.fromiter(
        (frame.pts_s for frame in decode(path, stream_index=index, threads=1, log=log)), dtype=np.float64
    )
    intervals = np.diff(times_s)
    return Measured(
        num_frames=log.num_frames,
        first_s=float(times_s[0]),
        last_s=float(times_s[-1]),
        interval_s=_spread(intervals) if len(intervals) else None,
        fps=float(len(intervals) / (times_s[-1] - times_s[0])) if len(intervals) else None,
        num_corrupt=log.num_corrupt,
        num_dropped=log.num_untimed + log.num_unordered,
    )


def _spread(intervals_s: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(intervals_s.min()), float(np.median(intervals_s)), float(intervals_s.max())


def _measure_audio(path: Path) -> Measured:
    log = DecodeLog()
    first_s: float | None = None
    num_samples, end_s = 0, None
    for block in stream_audio(path, log=log):
        first_s = block.start_s if first_s is None else first_s
        num_samples += len(block.samples)
        end_s = block.start_s + len(block.samples) / block.rate_hz
    failure = "" if num_samples else "it holds no sound"
    return Measured(
        num_frames=num_samples,
        first_s=first_s,
        last_s=end_s,
        num_corrupt=log.num_corrupt,
        num_dropped=log.num_untimed,
        failure=failure,
    )
