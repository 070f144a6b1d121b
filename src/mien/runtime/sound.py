"""Sound as a network sees it: the log-mel spectrogram of a whole recording, normalised from that recording alone.

Frames of 25 ms (400 samples at 16 kHz, Hann window) every 20 ms, FFT of 1,024 points, power |X|^2; 64 triangular bands
between 60 and 7,600 Hz, equally wide in mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987), each with a peak of 1; the
natural logarithm of the band's power, which isn't taken below 80 dB under the recording's loudest band. Of each band
its mean over the recording is subtracted (that removes microphone and room), and all are divided by one number, the
standard deviation of what remains: loudness and gain of the recording no longer matter, and no label is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from mien.core.storage import digest_of
from mien.core.types import Audio

RATE_HZ = 16_000
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SIZE = 400, 320, 1024
HOP_S = HOP_SAMPLES / RATE_HZ
NUM_MELS = 64
LOW_HZ, HIGH_HZ = 60.0, 7600.0
DYNAMIC_RANGE = 1e-8  # 80 dB of power: below it 16 bits hold rounding noise
SOUND_DIGEST = digest_of([1, RATE_HZ, WINDOW_SAMPLES, HOP_SAMPLES, FFT_SIZE, NUM_MELS, LOW_HZ, HIGH_HZ, DYNAMIC_RANGE])
"""Changes whenever the spectrogram of the same sound would; the 1 counts changes of the code."""
BLOCK_FRAMES = 2048  # spectra in memory at a time: 8 MB, whatever the length of the recording


@dataclass(frozen=True)
class LogMel:
    """A normalised log-mel spectrogram with its time.

    Attributes:
        values: (M, L) float32, M bands; mean 0 over time in each, standard deviation 1 over all.
        start_s: Time of the middle of the first frame on the recording's clock, s.
        step_s: Frame i is so many times i later.
    """

    values: NDArray[np.float32]
    start_s: float
    step_s: float = HOP_S


def log_mel(audio: Audio) -> LogMel | None:
    """Return the log-mel spectrogram of a recording; None where there is no sound in it.

    Args:
        audio: The whole sound of a recording, at any rate; another rate than 16 kHz is resampled.

    Returns:
        None where the sound is shorter than one frame, or every sample is the same: a muted track holds no sound.
    """
    samples = at_rate(audio)
    if len(samples) < WINDOW_SAMPLES or not np.ptp(audio.samples):
        return None
    power = band_power(samples)
    logs = np.log(np.maximum(power, power.max() * DYNAMIC_RANGE))
    centred = logs - logs.mean(axis=1, keepdims=True)
    spread = float(centred.std())
    values = centred / spread if spread > 0 else centred
    return LogMel(values.astype(np.float32), start_s=first_frame_s(audio))


def first_frame_s(audio: Audio) -> float:
    """Return the time of the middle of the spectrogram's first frame, s."""
    return audio.start_s + WINDOW_SAMPLES / 2 / RATE_HZ


def at_rate(audio: Audio) -> NDArray[np.floating]:
    """Return the samples (S,) at `RATE_HZ`, on the scale that they came in."""
    if audio.rate_hz == RATE_HZ:
        return audio.samples  # type: ignore[return-value]
    from scipy.signal import resample_poly

    common = gcd(audio.rate_hz, RATE_HZ)
    samples = np.asarray(audio.samples, np.float32)
    return np.asarray(resample_poly(samples, RATE_HZ // common, audio.rate_hz // common))


def band_power(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the power (M, L) of every band in every frame that lies wholly within the sound (S,) at `RATE_HZ`."""
    num_frames = 1 + (len(samples) - WINDOW_SAMPLES) // HOP_SAMPLES
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
    offsets = np.arange(WINDOW_SAMPLES)
    bands = mel_bands()
    parts = []
    for first in range(0, num_frames, BLOCK_FRAMES):
        starts = np.arange(first, min(first + BLOCK_FRAMES, num_frames)) * HOP_SAMPLES
        frames = np.asarray(samples[starts[:, None] + offsets], np.float64) * window
        parts.append(bands @ (np.abs(np.fft.rfft(frames, FFT_SIZE, axis=1)) ** 2).T)
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=1)
def mel_bands() -> NDArray[np.float64]:
    """Return the weights (M, FFT_SIZE / 2 + 1) of the triangular bands.

    >>> mel_bands().shape, bool((mel_bands().sum(axis=1) > 0).all())
    ((64, 513), True)
    """
    low, high = (2595.0 * np.log10(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
    edges_hz = 700.0 * (10.0 ** (np.linspace(low, high, NUM_MELS + 2) / 2595.0) - 1.0)
    bins_hz = np.arange(FFT_SIZE // 2 + 1) * RATE_HZ / FFT_SIZE
    below, peak, above = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - below) / (peak - below), (above - bins_hz) / (above - peak)
    return np.maximum(0.0, np.minimum(rising, falling))
