"""Media containers: opening a file with a reason where it can't be, and reading past damaged packets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from mien.core.errors import MediaError

FrameT = TypeVar("FrameT", av.VideoFrame, av.AudioFrame)

ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
"""What the first box of an MP4 or MOV file can be (ISO/IEC 14496-12)."""

PLAYLIST_HEADS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")
"""Beginnings of lists of other files (concat, HLS, DASH): a recording is a file of its own, and no list that somebody
sent may name files of this machine."""

NOT_MEDIA_FORMATS = ("tty",)
"""FFmpeg opens any text file as "tty", a terminal's picture."""

PICTURE_DISPOSITIONS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover pictures of sound files and thumbnails: streams that hold a picture yet no recording."""

GENERATE_PTS = 1
"""FFmpeg's AVFMT_FLAG_GENPTS, which PyAV sets."""

CUT_OFF_S = 1.0
"""A stream that ends this much earlier than it declares was cut off; rounding and a long last frame stay below."""

MAX_READ_ERRORS = 3
"""Read errors in a row after which the rest of a file counts as unreadable."""

OPEN_TIMEOUT_S, READ_TIMEOUT_S = 120.0, 60.0
"""How long opening a file and reading one packet may take: a slow share stays well below, one that hangs ends."""

MAX_BARREN_S = 60.0
"""Seconds of decoding without any frame after which a stream counts as undecodable. Decoders give up on a damaged
packet in milliseconds, so this is hours of damage, or a file that was made to keep them busy."""

MAX_PICTURE_PX = 150_000_000
"""Largest picture that is decoded (a 12K camera has 80 million px): a few bytes of header can declare one that fills
the memory."""


@dataclass
class DecodeLog:
    """What decoding met; pass one in to learn how damaged a file is.

    Attributes:
        strategy: `all` decodes every frame; `wanted` decodes those that were asked for and what they need.
        strategy_reason: Why it was chosen, one clause.
        num_decoded: Frames that came out of the decoder, those of an attempt that was given up included.
        num_frames: Frames of the stream that have a time: the decoded ones, and with `wanted` also those that weren't
            decoded, which are counted from their packets.
        num_corrupt: Damaged packets that were skipped (with several threads: at least so many). With `wanted` it is 0:
            damage that is met leads to `all`, and damage in frames that nobody asked for isn't met.
        num_untimed: Frames dropped because neither pts nor dts is known, or because their time is far ahead of both
            neighbours.
        num_unordered: Frames dropped because their time isn't after the frame before.
        has_patches: Damage was found on the way that the decoder patched up instead of skipping the frame; known only
            where sampling started with `wanted`.
        last_pts_s: Time of the last frame, None where there was none.
        declared_end_s: Where the stream says that it ends, None where it doesn't; far behind `last_pts_s` where a file
            was cut off.
    """

    strategy: Literal["all", "wanted"] = "all"
    strategy_reason: str = ""
    num_decoded: int = 0
    num_frames: int = 0
    num_corrupt: int = 0
    num_untimed: int = 0
    num_unordered: int = 0
    has_patches: bool = False
    last_pts_s: float | None = None
    declared_end_s: float | None = None

    @property
    def is_damaged(self) -> bool:
        """Something was lost or patched on the way (a file that was cut off may show it by `declared_end_s` alone)."""
        return bool(self.num_corrupt or self.num_untimed or self.num_unordered or self.has_patches)

    def describe_loss(self, *, last: str = "the last frame is") -> str:
        """Say what was lost, empty where nothing was.

        Args:
            last: What is at the end, with its verb.
        """
        num_dropped = self.num_untimed + self.num_unordered
        reasons = []
        if self.num_corrupt or num_dropped:
            reasons.append(
                f"{self.num_corrupt} damaged packets and {num_dropped} frames without a usable time were skipped"
            )
        elif self.has_patches:
            reasons.append("damaged parts of pictures were patched up by the decoder")
        end_s, declared_s = self.last_pts_s, self.declared_end_s
        if end_s is not None and declared_s is not None and declared_s - end_s > CUT_OFF_S:
            reasons.append(f"{last} at {end_s:.3f} s, of {declared_s:.3f} s that the file declares")
        return "; ".join(reasons)


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
            head = stream.read(64)
        if not head:
            raise MediaError(f"{path.name} is empty (0 bytes)", advice="Copy the recording from its source again.")
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(PLAYLIST_HEADS):
            raise _not_media(path)
        try:
            container = _open(path)
        except av.InvalidDataError:
            # To fill its index FFmpeg reads a fragmented MP4 or an AVI to its end first, and damage anywhere loses the
            # file; without the index it reads until it meets the damage.
            container = _open(path, fflags="ignidx")
    except (av.FFmpegError, OSError) as error:
        raise _why_not_opened(path, error=error) from error
    if container.format.name in NOT_MEDIA_FORMATS:
        container.close()
        raise _not_media(path)
    # Where a container has no presentation times (AVI), FFmpeg's guess for packets is wrong for B-frames that others
    # refer to; without it, frames take their times from the order in which they come out, as in ffprobe.
    container.flags &= ~GENERATE_PTS
    return container


def _open(path: Path, **options: str) -> InputContainer:
    # An absolute path, because FFmpeg takes "10:30 session.mp4" for a protocol named "10"; files only, because a
    # playlist could name addresses elsewhere, and nothing leaves this machine.
    return av.open(
        str(path.absolute()),
        options={"protocol_whitelist": "file,crypto,data", **options},
        timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
        metadata_errors="replace",  # titles in another encoding are no reason not to open a file
    )


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


def read_packets(container: InputContainer, stream_index: int, *, log: DecodeLog) -> Iterator[av.Packet[Any] | None]:
    """Yield a stream's packets in the order of decoding, and None at the end, which tells a decoder to finish.

    Packets that can't be read are counted (`DecodeLog.num_corrupt`) and skipped; other streams aren't read.
    """
    for other in container.streams:
        if other.index != stream_index:
            other.discard = Discard.all
    num_failed_reads = 0
    packets = container.demux(container.streams[stream_index])
    while num_failed_reads < MAX_READ_ERRORS:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            log.num_corrupt += 1
            num_failed_reads += 1
            # The iterator ended with the error; a new one goes on behind it.
            packets = container.demux(container.streams[stream_index])
            continue
        except IndexError:  # PyAV, at the end of a file in whose middle a stream appeared (damage does that to MPEG-TS)
            break
        if packet is None:
            break
        num_failed_reads = 0
        # An empty packet within a file (a dropped frame of AVI) would tell the decoder that the stream ends.
        if packet.size:
            yield packet
    yield None


class Stopwatch:
    """Ends the decoding of a stream that keeps the decoder busy and gives no frame.

    Args:
        name: Name of the file, for the error.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.barren_s = 0.0

    def decode(
        self, decode_one: Callable[[av.Packet[Any] | None], list[FrameT]], packet: av.Packet[Any] | None
    ) -> list[FrameT]:
        """Decode one packet; only time in the decoder counts, not the caller's between frames.

        Raises:
            MediaError: There was no frame for `MAX_BARREN_S`.
            av.FFmpegError: The packet is damaged.
        """
        started = time.perf_counter()
        try:
            frames = decode_one(packet)
        except av.FFmpegError:
            self._count(started)
            raise
        if frames:
            self.barren_s = 0.0
        else:
            self._count(started)
        return frames

    def _count(self, started: float) -> None:
        self.barren_s += time.perf_counter() - started
        if self.barren_s > MAX_BARREN_S:
            reason = f"{self.name} kept the decoder busy for {MAX_BARREN_S:.0f} s without giving a frame"
            raise MediaError(reason, advice="It is badly damaged: export or copy it again.")


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
        log: `num_corrupt` and `num_decoded` are counted here.

    Raises:
        MediaError: There was no frame for `MAX_BARREN_S`.
    """
    stopwatch = Stopwatch(Path(container.name).name)
    for packet in read_packets(container, stream_index, log=log):
        try:
            frames = stopwatch.decode(decode_one, packet)
        except av.FFmpegError:
            log.num_corrupt += 1
            continue
        log.num_decoded += len(frames)
        yield from frames


def confirmed(
    frames: Iterator[tuple[float | None, FrameT]], *, max_jump_s: float, log: DecodeLog
) -> Iterator[tuple[float | None, FrameT]]:
    """Yield frames with their times, without those whose time is a damaged one.

    A time far ahead counts once the next frame goes on from there: else one damaged time would cost all that follows,
    which then lies in its past.

    Args:
        frames: Times in seconds (None where unknown) with frames.
        max_jump_s: What "far" is.
        log: Dropped frames are counted in `num_untimed`.
    """
    last_s: float | None = None
    ahead: tuple[float, FrameT] | None = None
    for time_s, frame in frames:
        if ahead is not None:
            if time_s is None or time_s >= ahead[0]:
                last_s = ahead[0]
                yield ahead
            else:
                log.num_untimed += 1
            ahead = None
        if time_s is not None and last_s is not None and time_s - last_s > max_jump_s:
            ahead = time_s, frame
            continue
        last_s = last_s if time_s is None else time_s
        yield time_s, frame
    if ahead is not None:
        log.num_untimed += 1
