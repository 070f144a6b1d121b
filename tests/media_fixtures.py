"""Short media files for tests, written with PyAV: any timestamps, rotation, several streams, damage on purpose."""

from __future__ import annotations

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
