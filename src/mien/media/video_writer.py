"""Writes pictures at their own times as MP4 (H.264), with the sound of a recording beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

TICKS_PER_S = 90_000
"""The clock of MPEG: fine enough for any camera's times."""

COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
"""Codecs of sound that players expect in an MP4; any other is encoded anew, as AAC."""

CRF = "20"
"""Quality of H.264 at which a picture can hardly be told from its source."""

PRESET = "veryfast"
"""A third of the default's time for files a tenth larger."""


class VideoWriter:
    """An MP4 that is written picture by picture; memory is that of the encoder.

    The first picture decides the size (rounded down to even sides, which H.264 wants); others are resized to it, since
    some recorders change size on the way.

    Args:
        path: The file.
        fps: Rate that the file declares; every picture keeps its own time.
        sound_from: Recording whose sound is written with its own times; None, or a recording without: no sound.
    """

    def __init__(self, path: Path, *, fps: float, sound_from: Path | None = None) -> None:
        self._stack = contextlib.ExitStack()
        self._output: OutputContainer = self._stack.enter_context(av.open(str(path), "w", format="mp4"))
        self._fps = fps
        self._stream: av.VideoStream | None = None
        self._sound = None if sound_from is None else _Sound.of(sound_from, stack=self._stack)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None and self._stream is not None:
                self._output.mux(self._stream.encode())
                if self._sound is not None:
                    self._sound.write(self._output, until_s=None)

    @property
    def sound_problem(self) -> str:
        """Why the sound ends early; empty where it doesn't."""
        return "" if self._sound is None else self._sound.problem

    def add(self, rgb: NDArray[np.uint8], *, pts_s: float, lasts_s: float) -> None:
        """Write a picture.

        Args:
            rgb: (H, W, 3) uint8.
            pts_s: Its time, s; later than the one before.
            lasts_s: How long it is shown, s.
        """
        if self._stream is None:
            self._stream = self._start(height=rgb.shape[0] // 2 * 2, width=rgb.shape[1] // 2 * 2)
        if self._sound is not None:
            self._sound.write(self._output, until_s=pts_s)  # side by side, or the file would have to wait in memory
        size = (self._stream.width, self._stream.height)
        if (rgb.shape[1], rgb.shape[0]) != size:
            rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture.pts = round(pts_s * TICKS_PER_S)
        picture.time_base = Fraction(1, TICKS_PER_S)
        picture.duration = round(lasts_s * TICKS_PER_S)
        self._output.mux(self._stream.encode(picture))

    def _start(self, *, height: int, width: int) -> av.VideoStream:
        stream = self._output.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
        assert isinstance(stream, av.VideoStream), "libx264 is a video codec"
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        stream.options = {"crf": CRF, "preset": PRESET}
        if self._sound is not None:
            self._sound.start(self._output)  # all streams have to be known before the first packet
        return stream


class _Sound:
    """The sound of a recording, packet by packet."""

    def __init__(self, container: InputContainer, source: AudioStream) -> None:
        self._container = container
        self._source = source
        self._is_copied = source.codec_context.name in COPIED_CODECS
        self._target: AudioStream | None = None
        self._packets: Iterator[tuple[float, list[Packet[AudioStream]]]] = iter(())
        self._waiting: tuple[float, list[Packet[AudioStream]]] | None = None
        self.problem = ""

    @staticmethod
    def of(path: Path, *, stack: contextlib.ExitStack) -> _Sound | None:
        """Open the sound of a recording; None where there is none that can be decoded."""
        container = stack.enter_context(av.open(str(path)))
        usable = [stream for stream in container.streams.audio if stream.codec_context is not None]
        return _Sound(container, usable[0]) if usable else None

    def start(self, output: OutputContainer) -> None:
        """Add the stream to the file."""
        if self._is_copied:
            self._target = output.add_stream_from_template(self._source)
        else:
            self._target = output.add_stream("aac", rate=self._source.rate or 48_000)
            self._target.layout = "mono" if self._source.channels == 1 else "stereo"
        self._packets = self._copied(self._target) if self._is_copied else self._encoded(self._target)

    def write(self, output: OutputContainer, *, until_s: float | None) -> None:
        """Write what is heard until a time; None: all that is left."""
        try:
            while (item := self._waiting or next(self._packets, None)) is not None:
                self._waiting = item
                if until_s is not None and item[0] > until_s:
                    return
                output.mux(item[1])
                self._waiting = None
        except av.FFmpegError as error:
            self._packets, self._waiting = iter(()), None
            self.problem = f"the sound ends early: {error.strerror}"

    def _copied(self, target: AudioStream) -> Iterator[tuple[float, list[Packet[AudioStream]]]]:
        last = None
        for packet in self._container.demux(self._source):
            # Flushing packets have no time; a muxer refuses times that don't increase.
            if packet.dts is None or packet.time_base is None or (last is not None and packet.dts <= last):
                continue
            last = packet.dts
            packet.stream = target
            yield float(packet.dts * packet.time_base), [packet]

    def _encoded(self, target: AudioStream) -> Iterator[tuple[float, list[Packet[AudioStream]]]]:
        resampler = AudioResampler(format="fltp", layout=target.layout.name, rate=target.rate)
        time_s = 0.0
        for frame in self._container.decode(self._source):
            time_s = time_s if frame.time is None else frame.time
            for piece in resampler.resample(frame):
                yield time_s, target.encode(piece)
        yield time_s, target.encode()
