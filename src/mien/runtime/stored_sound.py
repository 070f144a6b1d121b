"""The sound of a recording of any length: samples, spectrogram and features of an encoder in temporary files.

The same numbers as `mien.runtime.sound` and `SoundEncoder` compute of a whole recording in memory, but for the order in
which means over the recording are summed.
"""

from __future__ import annotations

from math import ceil, gcd
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mien.core.types import Audio
from mien.media.audio import stream_audio
from mien.media.container import DecodeLog
from mien.runtime.sound import (
    BLOCK_FRAMES,
    DYNAMIC_RANGE,
    HOP_S,
    HOP_SAMPLES,
    NUM_MELS,
    RATE_HZ,
    WINDOW_SAMPLES,
    band_power,
)
from mien.runtime.stored_rows import StoredRows

FILTER_HALF_LENGTH = 10
"""Of `scipy.signal.resample_poly`'s filter, in periods of the lower rate: so much sound beside a stretch is needed."""


class StoredSound:
    """The samples of a recording in a temporary file.

    Attributes:
        rate_hz: Samples per second in the file.
        start_s: Time of the first sample on the recording's clock, s.
    """

    def __init__(self, *, rate_hz: int) -> None:
        self.rate_hz, self.start_s = rate_hz, 0.0
        self._rows = StoredRows()
        self._low, self._high = 0, 0
        common = gcd(rate_hz, RATE_HZ)
        self._up, self._down = RATE_HZ // common, rate_hz // common

    @staticmethod
    def of(path: Path, *, rate_hz: int, log: DecodeLog | None = None) -> StoredSound | None:
        """Decode the sound of a file; None where it has no audio stream or an empty one.

        Args:
            path: The media file.
            rate_hz: At which it is decoded, as `prepare` did.
            log: Filled while decoding.

        Raises:
            MediaError: It can't be read.
        """
        sound = StoredSound(rate_hz=rate_hz)
        for block in stream_audio(path, rate_hz=rate_hz, log=log):
            if not sound.num_stored:
                sound.start_s = block.start_s
                sound._low = sound._high = int(block.samples[0])
            sound._low = min(sound._low, int(block.samples.min()))
            sound._high = max(sound._high, int(block.samples.max()))
            sound._rows.extend(block.samples[:, None])
        return sound if sound.num_stored else None

    @property
    def num_stored(self) -> int:
        """Samples in the file."""
        return self._rows.num_rows

    @property
    def is_silent(self) -> bool:
        """Whether all samples are the same: a muted track holds no sound."""
        return self._low == self._high

    @property
    def num_samples(self) -> int:
        """Samples at `RATE_HZ`."""
        return ceil(self.num_stored * self._up / self._down)

    def whole(self) -> Audio:
        """Return all of it in memory."""
        samples = np.asarray(self._rows.read(0, self.num_stored)[:, 0], np.int16)
        return Audio(samples, rate_hz=self.rate_hz, start_s=self.start_s)

    def samples(self, first: int, end: int) -> NDArray[np.floating]:
        """Return samples [first, end) at `RATE_HZ`, as `mien.runtime.sound.at_rate` gives them of the whole."""
        up, down = self._up, self._down
        if up == down:
            return self._rows.read(first, end)[:, 0]  # type: ignore[return-value]
        from scipy.signal import resample_poly

        # Stretches begin where a sample of one rate falls on one of the other.
        beside = ceil(FILTER_HALF_LENGTH * max(up, down) / (up * down)) + 1
        before = max(0, first // up - beside)
        behind = min(self.num_stored, (-(-end // up) + beside) * down)
        stored = np.asarray(self._rows.read(before * down, behind)[:, 0], np.float32)
        made = np.asarray(resample_poly(stored, up, down))
        return made[first - before * up : end - before * up]


class StoredColumns(Protocol):
    """What is heard over time, as windows are cut from it.

    Attributes:
        start_s: Time of the first column on the recording's clock, s.
        step_s: Distance of two columns, s.
    """

    start_s: float
    step_s: float

    @property
    def num_columns(self) -> int:
        """L."""
        ...

    def columns(self, first: int, end: int) -> NDArray[np.float32]:
        """Return columns [first, end) as (M, n)."""
        ...


class StoredLogMel:
    """A normalised log-mel spectrogram (`mien.runtime.sound.log_mel`), its bands' power in a temporary file."""

    step_s = HOP_S

    def __init__(self, sound: StoredSound) -> None:
        self.start_s = sound.start_s + WINDOW_SAMPLES / 2 / RATE_HZ
        self.num_columns = 1 + (sound.num_samples - WINDOW_SAMPLES) // HOP_SAMPLES
        self._power = StoredRows()
        peak = 0.0
        for first in range(0, self.num_columns, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, self.num_columns - first)
            start = first * HOP_SAMPLES
            power = band_power(sound.samples(start, start + (count - 1) * HOP_SAMPLES + WINDOW_SAMPLES))
            peak = max(peak, float(power.max()))
            self._power.extend(power.T)
        self._floor = peak * DYNAMIC_RANGE
        sums, squares = np.zeros(NUM_MELS), np.zeros(NUM_MELS)
        for first in range(0, self.num_columns, BLOCK_FRAMES):
            logs = self._logs(first, min(first + BLOCK_FRAMES, self.num_columns))
            sums += logs.sum(axis=0)
            squares += (logs**2).sum(axis=0)
        self._mean = sums / self.num_columns
        # Of all bands together, each around its own mean.
        spread = float(np.sqrt(max(0.0, float((squares / self.num_columns - self._mean**2).mean()))))
        self._spread = spread if spread > 0 else 1.0

    @staticmethod
    def of(sound: StoredSound) -> StoredLogMel | None:
        """Return the spectrogram; None where the sound is shorter than one frame, or silent."""
        return None if sound.num_samples < WINDOW_SAMPLES or sound.is_silent else StoredLogMel(sound)

    def columns(self, first: int, end: int) -> NDArray[np.float32]:
        """Return columns [first, end) as (M, n)."""
        return np.ascontiguousarray(((self._logs(first, end) - self._mean) / self._spread).T, np.float32)

    def _logs(self, first: int, end: int) -> NDArray[np.float64]:
        return np.asarray(np.log(np.maximum(self._power.read(first, end), self._floor)), np.float64)


class StoredGrid:
    """Features of an encoder over time (`SoundEncoder.grid`) in a temporary file.

    Args:
        start_s: Time of the first column, s.
        step_s: Distance of two columns, s.
        is_centred: Whether each feature's mean over the recording is subtracted.
    """

    def __init__(self, *, start_s: float, step_s: float, is_centred: bool) -> None:
        self.start_s, self.step_s = start_s, step_s
        self._is_centred = is_centred
        self._rows = StoredRows()
        self._sum: NDArray[np.float64] | float = 0.0

    @property
    def num_columns(self) -> int:
        """L."""
        return self._rows.num_rows

    def add(self, features: NDArray[np.float32]) -> None:
        """Add the features (n, D) of the next columns."""
        self._sum = self._sum + features.sum(axis=0, dtype=np.float64)
        self._rows.extend(features)

    def columns(self, first: int, end: int) -> NDArray[np.float32]:
        """Return columns [first, end) as (D, n)."""
        values = self._rows.read(first, end).astype(np.float64)
        if self._is_centred:
            values = values - self._sum / self.num_columns
        return np.ascontiguousarray(values.T, np.float32)
