"""Short media files for tests, written with PyAV: any timestamps, rotation, several streams, damage on purpose."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

GREY_STEP = 7
"""Picture i is grey 20 + 7 i (modulo 30 steps), so that a test can tell which frame it got; codecs blur by 1 or 2."""


def grey_of(index: int) -> int:
    """Grey level of frame `index` in the pictures of `grey_pictures`."""
    return 20 + GREY_STEP * (index % 30)


def index_of(rgb: NDArray[np.uint8]) -> int:
    """Number (modulo 30) of the frame that a grey picture shows."""
    return round((float(rgb.mean()) - 20) / GREY_STEP)


def grey_pictures(num_frames: int, *, width: int = 64, height: int = 48) -> list[NDArray[np.uint8]]:
    return [np.full((height, width, 3), grey_of(i), dtype=np.uint8) for i in range(num_frames)]


def quadrants(*, width: int = 128, height: int = 64) -> NDArray[np.uint8]:
    """A picture whose corners are red (top left), green (top right), blue (bottom left) and black."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2, 0] = 255
    picture[: height // 2, width // 2 :, 1] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    return picture


def corners(rgb: NDArray[np.uint8]) -> str:
    """Colours at the corners of a picture of `quadrants`: top left, top right, bottom left, bottom right."""
    points = (rgb[4, 4], rgb[4, -5], rgb[-5, 4], rgb[-5, -5])
    return "".join("RGB"[int(point.argmax())] if point.max() > 120 else "k" for point in points)


def tone(duration_s: float, *, rate_hz: int = 48000, hz: float = 440.0) -> NDArray[np.int16]:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (12000 * np.sin(2 * np.pi * hz * time_s)).astype(np.int16)


def _add_video(
    container: Any, pictures: Sequence[NDArray[np.uint8]], *, codec: str, rotation: int | None, mirrored: bool
) -> Any:
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.codec_context.gop_size = 10
    if codec == "libx264":
        stream.options = {"preset": "ultrafast", "crf": "10"}
    if rotation is not None:
        stream.set_display_rotation(rotation, hflip=mirrored)
    return stream


def _mux_video(container: Any, stream: Any, pictures: Sequence[NDArray[np.uint8]], times_s: Sequence[float]) -> None:
    for picture, time_s in zip(pictures, times_s, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _mux_audio(container: Any, stream: Any, samples: NDArray[np.int16], *, rate_hz: int, start_s: float) -> None:
    """Encode samples (S,) or (S, C); the packets start at `start_s`."""
    table = samples.reshape(len(samples), -1)
    layout = "mono" if table.shape[1] == 1 else "stereo"
    size = stream.codec_context.frame_size or 1024
    for first in range(0, len(table), size):
        block = np.ascontiguousarray(table[first : first + size].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
        frame.sample_rate = rate_hz
        frame.pts, frame.time_base = round(start_s * rate_hz) + first, Fraction(1, rate_hz)
        container.mux(stream.encode(frame))


def write_video(
    path: Path,
    *,
    times_s: Sequence[float],
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    codec: str = "libx264",
    rotation: int | None = None,
    mirrored: bool = False,
    sound: NDArray[np.int16] | None = None,
    sound_rate_hz: int = 48000,
) -> Path:
    """Write a video (H.264 by default) with the given times in seconds (to 1 ms), and AAC sound where it is given.

    `rotation` is FFmpeg's display rotation in degrees counter-clockwise; `mirrored` flips the picture left-right.
    """
    pictures = grey_pictures(len(times_s)) if pictures is None else pictures
    with av.open(str(path), "w") as container:
        stream = _add_video(container, pictures, codec=codec, rotation=rotation, mirrored=mirrored)
        track = None
        if sound is not None:
            track = container.add_stream("aac", rate=sound_rate_hz, layout="mono" if sound.ndim == 1 else "stereo")
        _mux_video(container, stream, pictures, times_s)
        if track is not None and sound is not None:
            _mux_audio(container, track, sound, rate_hz=sound_rate_hz, start_s=0.0)
            container.mux(track.encode(None))
    return path


def write_two_videos(path: Path, *, sizes: Sequence[tuple[int, int]], num_frames: int = 5) -> Path:
    """Write a file with one video stream per (width, height), at 25 frames per second."""
    with av.open(str(path), "w") as container:
        series = [grey_pictures(num_frames, width=width, height=height) for width, height in sizes]
        streams = [_add_video(container, p, codec="libx264", rotation=None, mirrored=False) for p in series]
        for stream, pictures in zip(streams, series, strict=True):
            _mux_video(container, stream, pictures, [i / 25 for i in range(num_frames)])
    return path


def write_sound(
    path: Path, *, parts: Sequence[tuple[float, NDArray[np.int16]]], rate_hz: int = 48000, codec: str = "pcm_s16le"
) -> Path:
    """Write sound whose parts start at the given seconds: what lies between them is a gap in the timestamps."""
    with av.open(str(path), "w") as container:
        layout = "mono" if parts[0][1].ndim == 1 else "stereo"
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        for start_s, samples in parts:
            _mux_audio(container, stream, samples, rate_hz=rate_hz, start_s=start_s)
        container.mux(stream.encode(None))
    return path


def damage_packets(path: Path, *, packets: Sequence[int]) -> Path:
    """Overwrite packets of the first video stream (numbers in file order) with 0xFF bytes."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    data = bytearray(path.read_bytes())
    for number in packets:
        position, size = places[number]
        data[position : position + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def moving_pictures(num_frames: int, *, width: int = 96, height: int = 64) -> list[NDArray[np.uint8]]:
    """Textured pictures that move, with a cut after two thirds: encoders use every kind of frame on them."""
    rng = np.random.default_rng(1)
    textures = [np.kron(rng.normal(120, 40, (40, 50)), np.ones((4, 4))) for _ in range(2)]
    pictures = []
    for i in range(num_frames):
        x, y = int(40 + 35 * np.sin(i / 9)), int(40 + 35 * np.cos(i / 13))
        grey = textures[i * 3 // (2 * num_frames)][y : y + height, x : x + width] + rng.normal(0, 3, (height, width))
        grey[10:30, 2 * i % (width - 20) : 2 * i % (width - 20) + 20] = 200 - i % 50
        pictures.append(np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2))
    return pictures


def write_encoded(
    path: Path,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    num_frames: int = 90,
    pixel_format: str = "yuv420p",
    gop_size: int = 30,
    max_b_frames: int | None = None,
    times_s: Sequence[float] | None = None,
    rate: int = 30,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    clock_hz: int | None = None,
) -> Path:
    """Write `moving_pictures` (or the given ones) with any codec and its options, at `rate` or the given times."""
    pictures = moving_pictures(num_frames) if pictures is None else pictures
    times_s = [i / rate for i in range(len(pictures))] if times_s is None else times_s
    clock = Fraction(1, clock_hz or (1000 if path.suffix in (".mp4", ".mkv", ".webm", ".mov", ".ts") else rate))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        stream.codec_context.gop_size = gop_size
        if max_b_frames is not None:
            stream.codec_context.max_b_frames = max_b_frames
        if codec not in ("mpeg4", "mpeg2video"):  # whose clocks are limited
            stream.codec_context.time_base = clock
        else:
            clock = Fraction(1, rate)
        for picture, time_s in zip(pictures, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time_s / clock), clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_picture_and_late_sound(path: Path, *, delay_s: float, duration_s: float = 3.0, codec: str = "aac") -> Path:
    """Write a video from 0 s, whose sound (a tone) starts `delay_s` later."""
    rate_hz = 48000
    with av.open(str(path), "w") as container:
        pictures = grey_pictures(round(duration_s * 25))
        stream = _add_video(container, pictures, codec="libx264", rotation=None, mirrored=False)
        track: Any = container.add_stream(codec, rate=rate_hz, layout="mono")
        _mux_video(container, stream, pictures, [i / 25 for i in range(len(pictures))])
        _mux_audio(container, track, tone(duration_s - delay_s), rate_hz=rate_hz, start_s=delay_s)
        container.mux(track.encode(None))
    return path


def damage_bytes(path: Path, *, share: float, seed: int = 0, spare: int = 0) -> Path:
    """Overwrite a share of a file's bytes with random ones, in runs of 16, the first `spare` bytes left as they are."""
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for _ in range(round(share * len(data) / 16)):
        position = int(rng.integers(spare, len(data) - 16))
        data[position : position + 16] = rng.bytes(16)
    path.write_bytes(data)
    return path


def cut(path: Path, *, share: float) -> Path:
    """Keep the first `share` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


def declare_duration(path: Path, *, duration_s: float) -> Path:
    """Write another duration into the headers of an MP4 file (boxes of version 0; ISO/IEC 14496-12) or a Matroska file.

    Matroska's `Duration` is taken to count milliseconds, as FFmpeg writes it.
    """
    data = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        place = data.find(b"\x44\x89\x88")  # id of Duration, and a length of 8 bytes
        data[place + 3 : place + 11] = struct.pack(">d", 1000 * duration_s)
    scale = 0
    # Offsets count from a box's name; its version and flags follow. A track's scale is its own.
    for name, scale_at, duration_at in ((b"mvhd", 16, 20), (b"tkhd", 0, 24), (b"elst", 0, 12), (b"mdhd", 16, 20)):
        place = data.find(name)
        while place >= 0:
            if scale_at:
                scale = int.from_bytes(data[place + scale_at : place + scale_at + 4], "big")
            data[place + duration_at : place + duration_at + 4] = round(duration_s * scale).to_bytes(4, "big")
            place = data.find(name, place + 4)
    path.write_bytes(data)
    return path
