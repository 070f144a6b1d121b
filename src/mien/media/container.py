"""Media containers: opening a file with a reason where it can't be, and reading past damaged packets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from mien.core.errors import MediaError

FrameT = TypeVar("FrameT", av.VideoFrame, av.AudioFrame)

ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
"""What the first box of an MP4 or MOV file can be (ISO/IEC 14496-12)."""

NOT_MEDIA_FORMATS = ("tty",)
"""FFmpeg opens any text file as "tty", a terminal's picture."""

PICTURE_DISPOSITIONS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover pictures of sound files and thumbnails: streams that hold a picture yet no recording."""

MAX_READ_ERRORS = 3
"""Read errors in a row after which the rest of a file counts as unreadable."""


@dataclass
class DecodeLog:
    """What decoding met; pass one in to learn how damaged a file is.

    Attributes:
        num_frames: Frames that were decoded and have a time.
        num_corrupt: Damaged packets that were skipped (with several threads: at least so many).
        num_untimed: Frames dropped because neither pts nor dts is known.
        num_unordered: Frames dropped because their time isn't after the frame before.
        last_pts_s: Time of the last frame, None where there was none.
        declared_end_s: Where the stream says that it ends, None where it doesn't; far behind `last_pts_s` where a file
            was cut off.
    """

    num_frames: int = 0
    num_corrupt: int = 0
    num_untimed: int = 0
    num_unordered: int = 0
    last_pts_s: float | None = None
    declared_end_s: float | None = None


def open_media(path: Path) -> InputContainer:
    """Open a media file; close it, or use it as a context manager.

    Raises:
        MediaError: The file isn't there, is empty, has no index, or isn't media.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"No such file: {path}", advice="Check the path and that its disk or share is mounted.")
    if path.is_dir():
        raise MediaError(f"{path.name} is a folder, not a media file", advice="Name the recording in it.")
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
        if not head:
            raise MediaError(f"{path.name} is empty (0 bytes)", advice="Copy the recording from its source again.")
        # An absolute path, because FFmpeg takes "10:30 session.mp4" for a protocol named "10"; files only, because a
        # playlist could name addresses elsewhere, and nothing leaves this machine.
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file,crypto,data"})
    except (av.FFmpegError, OSError) as error:
        raise _why_not_opened(path, error=error) from error
    if container.format.name in NOT_MEDIA_FORMATS:
        container.close()
        raise _not_media(path)
    return container


def _why_not_opened(path: Path, *, error: Exception) -> MediaError:
    if isinstance(error, PermissionError):
        return MediaError(f"{path.name} can't be read: permission denied", advice="Give yourself read access to it.")
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
        return MediaError(f"{path.name} can't be read: {error.strerror}", advice="Check the disk, or copy it again.")
    with path.open("rb") as stream:
        head = stream.read(8)
    if head[4:8] in ISO_BOXES:
        advice = "The recorder stopped before it wrote the index; export it again, or repair it with untrunc."
        return MediaError(f"{path.name} has no readable index (moov atom not found)", advice=advice)
    return _not_media(path)


def _not_media(path: Path) -> MediaError:
    advice = "Name a video or sound file (MP4, MOV, MKV, WebM, AVI, WAV, FLAC, ...), or copy it again."
    return MediaError(f"{path.name} isn't a media file that FFmpeg knows", advice=advice)


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Return the streams that show a recording (no cover pictures), the one to use first.

    Streams marked as default come first, then those with the larger picture, then the lower index.
    """
    streams = [s for s in container.streams.video if not s.disposition & PICTURE_DISPOSITIONS and s.codec_context]
    return sorted(streams, key=lambda s: (not s.disposition & Disposition.default, -s.width * s.height, s.index))


def has_video(path: Path) -> bool:
    """Tell whether a file has a video stream; a cover picture isn't one.

    Raises:
        MediaError: The file can't be opened.
    """
    with open_media(path) as container:
        return bool(video_streams(container))


def has_audio(path: Path) -> bool:
    """Tell whether a file has an audio stream.

    Raises:
        MediaError: The file can't be opened.
    """
    with open_media(path) as container:
        return bool(container.streams.audio)


def decode_packets(
    container: InputContainer,
    stream_index: int,
    decode_one: Callable[[av.Packet[Any] | None], list[FrameT]],
    *,
    log: DecodeLog,
) -> Iterator[FrameT]:
    """Yield what a stream's packets decode to; packets that can't be read or decoded are counted and skipped.

    Args:
        container: An open file.
        stream_index: Index of the stream.
        decode_one: The stream's decoder: a packet to frames.
        log: `num_corrupt` is counted here.
    """
    num_failed_reads = 0
    packets = container.demux(container.streams[stream_index])
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            log.num_corrupt += 1
            num_failed_reads += 1
            # The iterator ended with the error; a new one goes on behind it, except where nothing more can be read.
            packets = (
                container.demux(container.streams[stream_index]) if num_failed_reads < MAX_READ_ERRORS else iter([])
            )
            continue
        if packet is None:
            break
        try:
            yield from decode_one(packet)
        except av.FFmpegError:
            log.num_corrupt += 1
        num_failed_reads = 0
    if num_failed_reads:
        with contextlib.suppress(av.FFmpegError):
            yield from decode_one(None)
