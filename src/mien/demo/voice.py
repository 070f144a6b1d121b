"""A sound like speech: harmonics shaped by the formants of vowels, in the rhythm of syllables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mien.demo.script import Event

SAMPLE_RATE_HZ = 16_000

_VOWELS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
"""First three formants of five vowels (Peterson & Barney 1952, men)."""

_NUM_HARMONICS = 18
_ROOM_NOISE = 0.002

Sound = NDArray[np.float32]


class Voice:
    """One participant's microphone.

    Args:
        rng: source of chance for the voice; the same state gives the same voice.
        speaking: when it is heard.
    """

    def __init__(self, rng: np.random.Generator, *, speaking: tuple[Event, ...]) -> None:
        self._speaking = speaking
        self._noise = np.random.default_rng(rng.integers(2**63))
        self._pitch_hz = float(rng.uniform(95, 220))
        self._syllables_hz = float(rng.uniform(3.2, 4.6))
        self._order = rng.integers(len(_VOWELS_HZ), size=101)
        self._loudness = float(rng.uniform(0.18, 0.34))
        # Short vocal tracts go with high voices: all formants move up together.
        tract = 1 + 0.18 * (self._pitch_hz - 95) / 125
        harmonics_hz = self._pitch_hz * np.arange(1, _NUM_HARMONICS + 1)
        formants_hz = np.array(_VOWELS_HZ, float) * tract
        gains = np.array([1.0, 0.5, 0.25]) / (1 + ((harmonics_hz[:, None, None] - formants_hz) / 110.0) ** 2)
        self._spectrum = gains.sum(axis=2) + 0.02  # (harmonics, vowels)

    def sound(self, start: int, count: int) -> Sound:
        """Make the next piece of sound; pieces are to be asked for in order.

        Args:
            start: number of its first sample.
            count: number of its samples.

        Returns:
            Mono in -1..1, (count,), at `SAMPLE_RATE_HZ`.
        """
        time_s = (start + np.arange(count)) / SAMPLE_RATE_HZ
        noise = self._noise.normal(0, 1, count)
        loud = np.zeros(count)
        for event in self._speaking:
            if event.onset_s - event.ramp_s < time_s[-1] and time_s[0] < event.offset_s + event.ramp_s:
                inside = np.minimum(time_s - event.onset_s, event.offset_s - time_s) / event.ramp_s + 0.5
                loud = np.maximum(loud, np.clip(inside, 0, 1))
        sound = _ROOM_NOISE * noise
        if loud.any():
            beat = self._syllables_hz * time_s
            open_mouth = 0.5 - 0.5 * np.cos(2 * np.pi * beat)
            breath = 0.04 * noise * (1 - open_mouth)
            tone = (0.12 + 0.88 * open_mouth) * self._tone(time_s, beat)
            sound = sound + loud * self._loudness * (tone + breath)
        return np.clip(sound, -1, 1).astype(np.float32)

    def _tone(self, time_s: NDArray[np.float64], beat: NDArray[np.float64]) -> NDArray[np.float64]:
        # Vibrato and intonation are integrated in closed form, so that pieces join without clicks.
        glide = 0.05 * np.sin(2 * np.pi * 0.45 * time_s) / 0.45
        glide = glide + 0.012 * np.sin(2 * np.pi * 5.2 * time_s) / 5.2
        phase = 2 * np.pi * self._pitch_hz * time_s + self._pitch_hz * glide
        vowel = self._order[beat.astype(int) % len(self._order)]
        number = np.arange(1, _NUM_HARMONICS + 1)[:, None]
        tone: NDArray[np.float64] = (self._spectrum[:, vowel] * np.sin(number * phase)).sum(axis=0)
        return tone / 2.2
