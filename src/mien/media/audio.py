"""Sound as mono samples whose index is true time: gaps become silence, overlaps are cut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from mien.core.errors import MediaError, UserError
from mien.core.types import Audio
from mien.media.container import DecodeLog, decode_packets, open_media

MAX_DRIFT_S = 0.015
"""Samples move to their pts when they are this far off: less than one packet of AAC (21 ms) or Opus (20 ms) that got
lost, more than containers round times by (1 ms), so sound isn't cut up for nothing."""

MAX_GAP_S = 3600.0
"""A longer gap is a damaged timestamp: filling it with silence would fill the memory."""


def read_audio(path: Path, *, rate_hz: int = 16000, log: DecodeLog | None = None) -> Audio | None:
    """Read the sound of a file as mono int16; memory is that of the samples.

    Sample i plays at `start_s` + i / `rate_hz`, within 15 ms, also behind lost packets.

    Args:
        path: The media file.
        rate_hz: Samples per second of the result.
        log: Filled while decoding; `num_untimed` counts frames with a time that can't be (more than an hour of gap).

    Returns:
        The sound (several channels are mixed), or None where the file has no audio stream or an empty one.

    Raises:
        MediaError: The file can't be opened, or it has sound of which nothing can be decoded.
        UserError: `rate_hz` isn't positive.
    """
    if rate_hz < 1:
        raise UserError(f"rate_hz must be a positive number of samples per second, got {rate_hz}.")
    path, log = Path(path), DecodeLog() if log is None else log
    with open_media(path) as container:
        stream = _choose_stream(container)
        if stream is None:
            return None
        time_base = stream.time_base
        assert time_base is not None, "FFmpeg gives every audio stream a clock"
        track = _Track(rate_hz=rate_hz)
        for frame in decode_packets(container, stream.index, stream.decode, log=log):
            log.num_frames += 1
            # Without a time of its own a frame follows the one before it.
            if not track.add(frame, pts_s=None if frame.pts is None else float(frame.pts * time_base)):
                log.num_untimed += 1
        track.flush()
        log.last_pts_s = track.end_s
    if track.start_s is not None and len(track.samples):
        return Audio(samples=np.frombuffer(track.samples, dtype=np.int16), rate_hz=rate_hz, start_s=track.start_s)
    if log.num_corrupt:
        advice = "Play it to check; export or copy it again."
        raise MediaError(f"{path.name} has no decodable sound ({log.num_corrupt} damaged packets)", advice=advice)
    return None


def _choose_stream(container: InputContainer) -> AudioStream | None:
    """Return the default stream; of several the one with most samples per second over its channels, then the first."""
    streams = [stream for stream in container.streams.audio if stream.codec_context]
    return min(
        streams,
        key=lambda s: (not s.disposition & Disposition.default, -s.sample_rate * s.channels, s.index),
        default=None,
    )


@dataclass
class _Segment:
    """A stretch of sound without a gap, in the clock and format of the source."""

    start_s: float
    source: tuple[str, str, int]
    resampler: av.AudioResampler
    num_source: int = 0
    num_written: int = 0

    @property
    def end_s(self) -> float:
        return self.start_s + self.num_source / self.source[2]


class _Track:
    """Puts resampled segments at their times."""

    def __init__(self, *, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.samples = bytearray()
        self.start_s: float | None = None
        self._segment: _Segment | None = None

    @property
    def end_s(self) -> float | None:
        return None if self._segment is None else self._segment.end_s

    def add(self, frame: av.AudioFrame, *, pts_s: float | None) -> bool:
        """Append a frame; False where its time can't be."""
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        segment = self._segment
        expected_s = 0.0 if segment is None else segment.end_s
        at_s = expected_s if pts_s is None else pts_s
        if segment is not None and abs(at_s - expected_s) > MAX_GAP_S:
            return False
        if segment is None or abs(at_s - expected_s) > MAX_DRIFT_S or segment.source != source:
            self.flush()
            self.start_s = at_s if self.start_s is None else self.start_s
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate_hz)
            segment = self._segment = _Segment(start_s=at_s, source=source, resampler=resampler)
        segment.num_source += frame.samples
        self._write(segment, segment.resampler.resample(frame))
        return True

    def flush(self) -> None:
        """Write what the resampler still holds."""
        if self._segment is not None:
            self._write(self._segment, self._segment.resampler.resample(None))

    def _write(self, segment: _Segment, frames: list[av.AudioFrame]) -> None:
        assert self.start_s is not None, "a segment starts the track"
        first = round((segment.start_s - self.start_s) * self.rate_hz)
        # Sound that needs no resampling is passed through, the flushing None with it.
        for frame in (frame for frame in frames if frame is not None):
            block = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
            gap = first + segment.num_written - len(self.samples) // 2
            segment.num_written += len(block)
            self.samples.extend(bytes(2 * max(0, gap)))
            self.samples.extend(block[max(0, -gap) :].tobytes())
