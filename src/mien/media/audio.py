"""Sound as mono samples whose index is true time: gaps become silence, overlaps are cut."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.types import Audio
from mien.media.container import DecodeLog, confirmed, decode_packets, open_media
from mien.media.sound_end import declared_sound_end_s

MAX_DRIFT_S = 0.015
"""Samples move to their pts when they are this far off: less than one packet of AAC (21 ms) or Opus (20 ms) that got
lost, more than containers round times by (1 ms), so sound isn't cut up for nothing."""

MAX_JUMP_S = 10.0
"""A packet so far behind the one before it isn't believed until the next one confirms it."""

MAX_GAP_S = 3600.0
"""A longer gap is a damaged timestamp: filling it with silence would fill the disk."""

MAX_SILENCE_S = 4 * 3600.0
"""The same for all gaps of a recording together: damaged timestamps can go back and forth."""

BLOCK_SAMPLES = 1 << 16
"""Longest block of silence; decoded blocks are as long as the codec's packets, some 1,000 samples."""

MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000
"""Rates that sound can have: no recorder goes beyond, and from a damaged header of 1 Hz one packet would be made an
hour long."""


def stream_audio(path: Path, *, rate_hz: int = 16000, log: DecodeLog | None = None) -> Generator[Audio, None, None]:
    """Yield the sound of a file as mono int16, block by block, in the memory of some packets.

    Blocks follow each other without a gap: one that starts at `start_s` is followed by one that starts at `start_s` +
    len(samples) / `rate_hz`. Samples are within 15 ms of their time, also behind lost packets.

    Args:
        path: The media file.
        rate_hz: Samples per second of the result.
        log: Filled while decoding; `num_untimed` counts frames with a time that can't be (more than an hour of gap),
            `declared_end_s` is known of formats that declare it (`mien.media.sound_end`).

    Yields:
        Blocks of at least one sample (several channels are mixed); none where the file has no audio stream, or an
        empty one.

    Raises:
        MediaError: The file can't be opened, or it has sound of which nothing can be decoded.
        UserError: `rate_hz` isn't a possible one.
    """
    if not 1 <= rate_hz <= MAX_RATE_HZ:
        raise UserError(f"rate_hz must be a positive number of samples per second up to {MAX_RATE_HZ}, got {rate_hz}.")
    return _stream(Path(path), rate_hz=rate_hz, log=DecodeLog() if log is None else log)


def _stream(path: Path, *, rate_hz: int, log: DecodeLog) -> Generator[Audio, None, None]:
    with open_media(path) as container:
        stream = choose_audio(container)
        if stream is None:
            return
        time_base = stream.time_base
        assert time_base is not None, "FFmpeg gives every audio stream a clock"
        log.declared_end_s = declared_sound_end_s(path, container=container, stream=stream)
        track = _Track(rate_hz=rate_hz)
        frames = decode_packets(container, stream.index, stream.decode, log=log)
        timed = ((None if frame.pts is None else float(frame.pts * time_base), frame) for frame in frames)
        for pts_s, frame in confirmed(timed, max_jump_s=MAX_JUMP_S, log=log):
            if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
                log.num_corrupt += 1
                continue
            log.num_frames += 1
            # Without a time of its own a frame follows the one before it.
            if track.can_be(pts_s):
                yield from track.add(frame, pts_s=pts_s)
            else:
                log.num_untimed += 1
        yield from track.flush()
        log.last_pts_s = track.end_s
    if not track.num_samples and log.num_corrupt:
        advice = "Play it to check; export or copy it again."
        raise MediaError(f"{path.name} has no decodable sound ({log.num_corrupt} damaged packets)", advice=advice)


def read_audio(path: Path, *, rate_hz: int = 16000, log: DecodeLog | None = None) -> Audio | None:
    """Read the whole sound of a file, in the memory of its samples (115 MB per hour at 16 kHz).

    Sample i plays at `start_s` + i / `rate_hz`; arguments and errors as in `stream_audio`.

    Returns:
        The sound, or None where the file has no audio stream or an empty one.
    """
    start_s: float | None = None
    samples = bytearray()
    for block in stream_audio(path, rate_hz=rate_hz, log=log):
        start_s = block.start_s if start_s is None else start_s
        samples.extend(block.samples.tobytes())
    if start_s is None:
        return None
    return Audio(samples=np.frombuffer(samples, dtype=np.int16), rate_hz=rate_hz, start_s=start_s)


def choose_audio(container: InputContainer) -> AudioStream | None:
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
    """Puts resampled segments at their times.

    Attributes:
        rate_hz: Samples per second of the result.
        start_s: Time of the first sample, None before there is one.
        num_samples: Samples that were given out.
    """

    def __init__(self, *, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.start_s: float | None = None
        self.num_samples = 0
        self._silence_s = 0.0
        self._segment: _Segment | None = None

    @property
    def end_s(self) -> float | None:
        return None if self._segment is None else self._segment.end_s

    def can_be(self, pts_s: float | None) -> bool:
        """Tell whether a frame's time can be true."""
        if self._segment is None or pts_s is None:
            return True
        gap_s = pts_s - self._segment.end_s
        return abs(gap_s) <= MAX_GAP_S and self._silence_s + gap_s <= MAX_SILENCE_S

    def add(self, frame: av.AudioFrame, *, pts_s: float | None) -> Iterator[Audio]:
        """Give out what a frame adds."""
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        segment = self._segment
        expected_s = 0.0 if segment is None else segment.end_s
        at_s = expected_s if pts_s is None else pts_s
        if segment is None or abs(at_s - expected_s) > MAX_DRIFT_S or segment.source != source:
            yield from self.flush()
            if self.start_s is None:
                self.start_s = at_s
            else:
                self._silence_s += max(0.0, at_s - expected_s)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate_hz)
            segment = self._segment = _Segment(start_s=at_s, source=source, resampler=resampler)
        segment.num_source += frame.samples
        yield from self._place(segment, segment.resampler.resample(frame))

    def flush(self) -> Iterator[Audio]:
        """Give out what the resampler still holds."""
        if self._segment is not None:
            yield from self._place(self._segment, self._segment.resampler.resample(None))

    def _place(self, segment: _Segment, frames: list[av.AudioFrame]) -> Iterator[Audio]:
        assert self.start_s is not None, "a segment starts the track"
        first = round((segment.start_s - self.start_s) * self.rate_hz)
        # Sound that needs no resampling is passed through, the flushing None with it.
        for frame in (frame for frame in frames if frame is not None):
            block = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
            gap = first + segment.num_written - self.num_samples
            segment.num_written += len(block)
            for position in range(0, gap, BLOCK_SAMPLES):
                yield from self._block(np.zeros(min(BLOCK_SAMPLES, gap - position), dtype=np.int16))
            yield from self._block(block[max(0, -gap) :])

    def _block(self, samples: NDArray[np.int16]) -> Iterator[Audio]:
        assert self.start_s is not None, "a segment starts the track"
        if len(samples):
            start_s = self.start_s + self.num_samples / self.rate_hz
            self.num_samples += len(samples)
            yield Audio(samples=samples, rate_hz=self.rate_hz, start_s=start_s)
