"""Where a file's sound ends by what its own header declares: so one that was cut off is noticed.

Only formats count that write a length: elsewhere (ADTS, MP3 without a Xing header) FFmpeg estimates it from the
bitrate, which is wrong by minutes where that varies, and Ogg declares none. Of a WAV file FFmpeg gives what is there
instead of what is declared, so its header is read here (RIFF: Microsoft and IBM, "Multimedia Programming Interface and
Data Specifications 1.0", 1991; RF64: EBU Tech 3306).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from av.audio.stream import AudioStream
from av.container import InputContainer

DECLARING = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flac", "aiff", "au"})
"""FFmpeg's names of formats whose duration is one that the file declares."""

XING_MAGIC = (b"Xing", b"Info", b"VBRI")
"""What an MP3's first frame holds where it says how many follow."""

XING_REACH = 4096
"""Bytes of the sound in which that frame lies; a frame of MP3 has at most 1,441."""

MAX_CHUNKS = 1000
"""Chunks of a WAV before its sound; a damaged header could chain them for ever."""

UNKNOWN_SIZES = frozenset({0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF})
"""Sizes of the sound that recorders leave in a header which they can't go back to."""

PLACEHOLDERS_FROM = 0x7FFFF000
"""From here on a size in 32 bits is one of these less the header's own length, or wrapped around."""


def declared_sound_end_s(path: Path, *, container: InputContainer, stream: AudioStream) -> float | None:
    """Return until when a file's sound lasts by its own header, s on the file's clock; None where it doesn't say.

    Args:
        path: The file.
        container: The file, open.
        stream: Its sound.
    """
    name = container.format.name
    if name in ("wav", "rf64"):
        return _wav_end_s(path)
    if name not in DECLARING and not (name == "mp3" and _counts_frames(path)):
        return None
    assert stream.time_base is not None, "FFmpeg gives every audio stream a clock"
    start_s = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base)
    if stream.duration is not None:
        return start_s + float(stream.duration * stream.time_base)
    # Matroska has one duration for all streams: the sound's where there is nothing else.
    if container.duration is None or len(container.streams) > 1:
        return None
    return float(container.duration) / 1e6


def _counts_frames(path: Path) -> bool:
    """Return whether an MP3 says in its first frame how many follow."""
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            # Seven bits per byte, so that no byte looks like the begin of a frame.
            start = 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(start)
        frame = file.read(XING_REACH)
    return any(magic in frame for magic in XING_MAGIC)


def _wav_end_s(path: Path) -> float | None:
    with path.open("rb") as file:
        found = _wav_sound(file)
    if found is None:
        return None
    num_bytes, bytes_per_s = found
    return num_bytes / bytes_per_s


def _wav_sound(file: BinaryIO) -> tuple[int, int] | None:
    """Return the declared length of a WAV's sound in bytes, and its bytes per second."""
    if file.read(12)[8:] != b"WAVE":
        return None
    bytes_per_s, long_size = 0, None
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return None
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            if long_size is not None and size == 0xFFFFFFFF:
                size = long_size
            elif size in UNKNOWN_SIZES or size >= PLACEHOLDERS_FROM:
                return None
            return (size, bytes_per_s) if bytes_per_s else None
        body: Any = file.read(min(size, 28))
        if name == b"fmt " and len(body) >= 12:
            bytes_per_s = struct.unpack_from("<I", body, 8)[0]
        elif name == b"ds64" and len(body) >= 16:
            long_size = struct.unpack_from("<Q", body, 8)[0]
        file.seek(size - len(body) + size % 2, 1)
    return None
