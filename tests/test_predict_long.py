"""A recording of any length: what is kept in temporary files says the same as what is held in memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mien.core.types import Audio
from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import Bundle
from mien.runtime.sound import RATE_HZ, at_rate, log_mel
from mien.runtime.sound_encoders import LogMelEncoder
from mien.runtime.stored_recording import StoredRecording, heard_around, heard_over_time
from mien.runtime.stored_rows import StoredFeatures, StoredRows
from mien.runtime.stored_sound import StoredLogMel, StoredSound
from mien.runtime.windows import WindowSpec, cut_windows, view_recording

FRAMES, DIM, FPS = 300, 7, 5.0


def voice(*, seconds=70.0, rate_hz=RATE_HZ, seed=0):
    """Noise that comes and goes."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (rng.normal(0, 2000, len(times)) * (1.1 + np.sin(times)) + 500 * np.sin(times * 3000)).astype(np.int16)


def stored_sound(monkeypatch, samples, *, rate_hz=RATE_HZ, start_s=0.0):
    """Return a sound as it comes from a file, in blocks of uneven lengths."""
    ends = sorted({0, len(samples), *range(7, len(samples), 50_000)})
    blocks = [Audio(samples[first:end], rate_hz, start_s + first / rate_hz) for first, end in itertools.pairwise(ends)]
    monkeypatch.setattr("mien.runtime.stored_sound.stream_audio", lambda *_, **__: iter(blocks))
    return StoredSound.of(Path("x.wav"), rate_hz=rate_hz)


def features_with_gaps(*, lost_from=40, lost_to=60):
    rng = np.random.default_rng(1)
    features = rng.normal(3, 1, (FRAMES, DIM)).astype(np.float32)
    features[lost_from:lost_to] = np.nan
    features[::17] = np.nan
    return features, np.cumsum(rng.uniform(0.15, 0.25, FRAMES))


def stored(features, pts_s, *, baseline, block=16):
    """Return features as `mien.predict.seeing` adds them: those that are there, block by block."""
    kept, seen = StoredFeatures(baseline), np.isfinite(features).all(axis=1)
    rows = np.flatnonzero(seen)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        kept.add(features[part], pts_s=pts_s[part])
    kept.finish(seen)
    return kept


class TestRows:
    def test_any_order_comes_back(self):
        rows, values = StoredRows(), np.arange(600, dtype=np.float32).reshape(100, 6)
        for start in range(0, 100, 30):
            rows.extend(values[start : start + 30])
        wanted = np.array([99, 0, 5, 6, 7, 5, 42])
        np.testing.assert_array_equal(rows.take(wanted), values[wanted])
        np.testing.assert_array_equal(rows.read(28, 63), values[28:63])
        assert rows.take(np.empty(0, np.int64)).shape == (0, 6)

    def test_the_file_goes_with_the_object(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        rows = StoredRows()
        rows.extend(np.zeros((3, 2), np.float32))
        assert not list(tmp_path.iterdir()) or os.name == "nt", "it has no name that a kill could leave behind"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_noticed_when_it_is_written_to(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("r+b"))  # noqa: SIM115
    rows = StoredRows()
    with pytest.raises(OSError, match="No space left"):
        rows.extend(np.zeros((3, 2), np.float32))
    del rows
    assert capsys.readouterr().err == "", "nor is anything said when it is given up"


@pytest.mark.parametrize("text", ["none", "recording", "running", "first:6"])
def test_a_baseline_block_by_block_is_the_same_bit_for_bit(text):
    baseline = PersonalBaseline.parse(text)
    features, pts_s = features_with_gaps()
    expected = baseline.subtract(features, pts_s=pts_s).astype(np.float32)
    np.testing.assert_array_equal(
        stored(features, pts_s, baseline=baseline).take(np.arange(FRAMES)), expected, strict=True
    )


class TestSound:
    @pytest.mark.parametrize("rate_hz", [16_000, 44_100, 8_000])
    def test_samples_are_those_of_the_whole(self, rate_hz, monkeypatch):
        samples = voice(seconds=4.0, rate_hz=rate_hz)
        sound, whole = stored_sound(monkeypatch, samples, rate_hz=rate_hz), at_rate(Audio(samples, rate_hz, 0.0))
        assert sound.num_samples == len(whole)
        for first, end in ((0, 400), (1, 2), (31_111, 47_003), (len(whole) - 500, len(whole))):
            np.testing.assert_allclose(sound.samples(first, end), whole[first:end], atol=1e-2)
        np.testing.assert_array_equal(sound.whole().samples, samples)

    def test_the_spectrogram_is_that_of_the_whole(self, monkeypatch):
        samples = voice()
        expected = log_mel(Audio(samples, RATE_HZ, 2.5))
        found = StoredLogMel.of(stored_sound(monkeypatch, samples, start_s=2.5))
        assert found.num_columns == expected.values.shape[1] > 2048, "more than a block of it"
        assert found.start_s == expected.start_s
        np.testing.assert_allclose(found.columns(0, found.num_columns), expected.values, atol=1e-5)
        np.testing.assert_allclose(found.columns(2000, 2100), expected.values[:, 2000:2100], atol=1e-5)

    def test_nothing_to_hear_is_nothing(self, monkeypatch):
        assert StoredLogMel.of(stored_sound(monkeypatch, np.full(9000, 5, np.int16))) is None
        assert StoredLogMel.of(stored_sound(monkeypatch, voice(seconds=0.02))) is None
        assert stored_sound(monkeypatch, np.empty(0, np.int16)) is None

    @pytest.mark.parametrize("unit", ["frame", "recording"])
    def test_an_encoder_hears_the_same(self, unit, monkeypatch):
        encoder, samples = LogMelEncoder().windowed(unit), voice(seconds=9.0)
        audio, sound = Audio(samples, RATE_HZ, 1.0), stored_sound(monkeypatch, samples, start_s=1.0)
        moments = np.array([-20.0, 0.0, 1.3, 5.0, 9.9, 40.0])
        expected = encoder.encode(audio, pts_s=moments)
        assert np.isnan(expected[[0, -1]]).all()
        baseline = PersonalBaseline.parse("recording")
        heard = heard_around(encoder, sound, pts_s=moments, baseline=baseline)
        subtracted = baseline.subtract(expected, pts_s=moments).astype(np.float32)
        np.testing.assert_array_equal(heard.take(np.arange(len(moments))), subtracted)
        grid, whole = heard_over_time(encoder, sound), encoder.grid(audio)
        assert (grid.start_s, grid.step_s, grid.num_columns) == (whole.start_s, whole.step_s, whole.values.shape[1])
        np.testing.assert_allclose(grid.columns(0, grid.num_columns), whole.values, atol=1e-4)
        assert heard_over_time(encoder, stored_sound(monkeypatch, np.zeros(9000, np.int16))) is None


@pytest.mark.parametrize("overview", [0, 8])
@pytest.mark.parametrize("late_s", [0.0, 8.0, 500.0])
def test_windows_of_every_modality_are_the_same(overview, late_s, monkeypatch):
    """Also where the sound starts late, or when the frames are over."""
    spec = WindowSpec(
        ("video", "audio", "signals"), 5, 3.0, feature_dim=DIM, signal_names=("GSR",), recording_frames=overview
    )
    baseline = PersonalBaseline.parse("recording")
    features, pts_s = features_with_gaps()
    samples, times_s = voice(seconds=50.0), np.arange(0, 60, 1 / 32)
    signals = SignalTable(("GSR",), ("",), times_s, np.sin(times_s)[:, None].astype(np.float32))
    audio, sound = Audio(samples, RATE_HZ, late_s), stored_sound(monkeypatch, samples, start_s=late_s)
    whole = view_recording(spec, pts_s=pts_s, features=features, baseline=baseline, audio=audio, signals=signals)
    kept = StoredRecording.of(
        spec,
        pts_s=pts_s,
        features=stored(features, pts_s, baseline=baseline),
        sound=sound,
        encoder=None,
        signals=signals,
    )
    for rows in (np.arange(0, 30), np.arange(30, 158), np.arange(290, 300)):
        expected, found = cut_windows(whole, rows, spec=spec), kept.cut(rows, spec=spec)
        assert list(found) == list(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    assert (kept.cut(np.arange(0, 128), spec=spec)["audio_mask"] > 0).any() == (late_s < 100)


def test_without_a_face_or_sound_windows_are_empty():
    spec = WindowSpec(("video", "audio"), 3, 1.0, feature_dim=DIM, recording_frames=4)
    pts_s, nothing = np.arange(4) / FPS, StoredFeatures(PersonalBaseline())
    nothing.finish(np.zeros(4, bool))
    for features in (None, nothing):
        kept = StoredRecording.of(spec, pts_s=pts_s, features=features, sound=None, encoder=None, signals=None)
        inputs = kept.cut(np.arange(4), spec=spec)
        assert inputs["features"].shape == (4, 7, DIM) and not any(inputs[name].any() for name in inputs)


def test_a_bundle_says_the_same_of_both(probe_bundle):
    bundle = Bundle.open(probe_bundle)
    bundle.baseline = PersonalBaseline.parse("running")
    dim = bundle.features(np.zeros((1, 96, 96, 3), np.uint8)).shape[1]
    rng = np.random.default_rng(3)
    features = rng.normal(0, 0.1, (150, dim)).astype(np.float32)
    features[5:9] = np.nan
    pts_s = np.arange(150) / FPS
    found = bundle.stored_logits(stored(features, pts_s, baseline=bundle.baseline), pts_s=pts_s)
    expected = bundle.logits(features, pts_s=pts_s)
    assert np.isnan(expected[5:9]).all() and np.isfinite(expected).sum() == 146
    np.testing.assert_allclose(found, expected, atol=1e-5)


MEASURE = """
import sys
from pathlib import Path
from mien.predict.recording import predict_timeline
from mien.runtime.bundle import Bundle
bundle = Bundle.open(Path(sys.argv[1]))
predict_timeline(bundle, Path(sys.argv[2]))
before = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
rows = len(predict_timeline(bundle, Path(sys.argv[3])))
after = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(rows, before, after)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_memory_does_not_grow_with_the_sound(drawn_dataset, tmp_path):
    """Half an hour against a quarter of a minute, by a model that listens: less than its samples alone (58 MB)."""
    import wave

    from mien.training.final import plan_training, train_bundle

    bundle = tmp_path / "bundle"
    train_bundle(plan_training(drawn_dataset.path, target="Smile", model="linear_probe@logmel", out=bundle))
    for name, seconds in (("short", 15), ("long", 1800)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
            block = voice(seconds=15).tobytes()
            for _ in range(seconds // 15):
                file.writeframesraw(block)
    command = [sys.executable, "-c", MEASURE, str(bundle), str(tmp_path / "short.wav"), str(tmp_path / "long.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, before_kb, after_kb = (int(text) for text in done.stdout.split())
    assert rows == 3600
    assert (after_kb - before_kb) / 1024 < 25, (before_kb, after_kb)
