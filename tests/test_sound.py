"""The log-mel spectrogram that networks hear."""

from __future__ import annotations

import numpy as np
import pytest

from mien.core.types import Audio
from mien.runtime import sound
from mien.runtime.sound import HOP_S, NUM_MELS, RATE_HZ, log_mel, mel_bands


def _audio(samples, *, rate_hz=RATE_HZ, start_s=0.0):
    return Audio(samples=np.asarray(samples).astype(np.int16), rate_hz=rate_hz, start_s=start_s)


def _noise_then_tone(tone_hz: float, *, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Noise throughout, a tone in the second half."""
    times_s = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).normal(0, 50, len(times_s))
    return noise + 4000 * np.sin(2 * np.pi * tone_hz * times_s) * (times_s >= seconds / 2)


def test_bands_are_triangles_of_mel_width():
    bands = mel_bands()
    assert bands.shape == (NUM_MELS, 513)
    peaks_hz = bands.argmax(axis=1) * RATE_HZ / 1024
    # Centres by the formula: 64 equal steps in mel between 60 and 7,600 Hz.
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), 66)[1:-1]
    assert np.abs(peaks_hz - 700 * (10 ** (mel / 2595) - 1)).max() <= 16
    assert bands[:, 0].max() == 0.0 and bands.max() <= 1.0


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("tone_hz", [300.0, 1000.0, 4000.0])
def test_a_tone_stands_out_in_its_band_and_time(rate_hz, tone_hz):
    found = log_mel(_audio(_noise_then_tone(tone_hz, rate_hz=rate_hz), rate_hz=rate_hz))
    half = found.values.shape[1] // 2
    rise = found.values[:, half + 3 :].mean(axis=1) - found.values[:, : half - 3].mean(axis=1)
    assert abs(int(rise.argmax()) - int(mel_bands()[:, round(tone_hz / 15.625)].argmax())) <= 1


def test_gain_microphone_and_length_do_not_matter():
    samples = _noise_then_tone(800.0)
    found = log_mel(_audio(samples))
    np.testing.assert_allclose(found.values.mean(axis=1), 0.0, atol=1e-5)
    assert found.values.std() == pytest.approx(1.0, abs=1e-4)
    louder = log_mel(_audio(samples * 4))
    assert np.abs(found.values - louder.values).mean() < 0.02


def test_time_of_the_first_frame_is_the_middle_of_its_window():
    found = log_mel(_audio(_noise_then_tone(800.0), start_s=3.0))
    assert found.start_s == pytest.approx(3.0 + 0.0125)
    assert found.values.shape == (NUM_MELS, 1 + (2 * RATE_HZ - 400) // 320)
    # The tone starts at 4 s: the frame whose middle is there is the first that is clearly louder.
    band = int(mel_bands()[:, round(800 / 15.625)].argmax())
    first = int(np.flatnonzero(found.values[band] > 0)[0])
    assert found.start_s + first * HOP_S == pytest.approx(4.0, abs=0.015)


def test_blocks_are_the_same_as_the_whole(monkeypatch):
    audio = _audio(_noise_then_tone(500.0))
    whole = log_mel(audio)
    monkeypatch.setattr(sound, "BLOCK_FRAMES", 7)
    np.testing.assert_array_equal(whole.values, log_mel(audio).values)


def test_what_holds_no_sound_is_none():
    assert log_mel(_audio(np.zeros(16_000))) is None
    assert log_mel(_audio(np.full(16_000, 12))) is None
    assert log_mel(_audio(np.zeros(0))) is None
    assert log_mel(_audio(np.arange(399))) is None


def test_digital_silence_between_words_is_80_db_below_and_not_minus_infinity():
    samples = _noise_then_tone(1000.0)
    samples[: len(samples) // 2] = 0
    found = log_mel(_audio(samples))
    assert np.isfinite(found.values).all()
    assert np.abs(found.values).max() < 12
