"""Where sound ends by its own header, so that a recording that was cut off is noticed."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest

from mien.media.audio import stream_audio
from mien.media.container import DecodeLog
from mien.predict.predictor import predict_files
from mien.runtime.bundle import Bundle

RATE_HZ, SECONDS = 16_000, 8


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(0, 3000, RATE_HZ * SECONDS).astype(np.int16)


def write(path, samples, *, codec, **options):
    with av.open(str(path), "w", options=options) as target:
        stream = target.add_stream(codec, rate=RATE_HZ)
        stream.layout = "mono"
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def cut(path):
    """Leave the first half of a file."""
    shorter = path.with_name(f"cut.{path.name}")
    shorter.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return shorter


def loss(path):
    log = DecodeLog()
    for _ in stream_audio(path, log=log):
        pass
    return log.describe_loss(last="the sound ends")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("s.wav", "pcm_s16le", {}),
        ("s.mp3", "libmp3lame", {}),
        ("s.m4a", "aac", {"movflags": "faststart"}),
        ("s.flac", "flac", {}),
        ("s.mka", "aac", {}),
        ("s.aiff", "pcm_s16be", {}),
    ],
)
def test_what_was_cut_off_is_said_and_what_is_whole_is_not(name, codec, options, samples, tmp_path):
    whole = write(tmp_path / name, samples, codec=codec, **options)
    assert loss(whole) == ""
    assert "the sound ends at " in loss(cut(whole)) and "that the file declares" in loss(cut(whole))


@pytest.mark.parametrize("name", ["s.aac", "s.mp3"])
def test_an_estimated_length_is_no_declared_one(name, samples, tmp_path):
    """A second of loud noise and silence: by the bitrate of its begin the file would be much longer."""
    samples = np.where(np.arange(len(samples)) < RATE_HZ, samples, 0).astype(np.int16)
    codec = "aac" if name == "s.aac" else "libmp3lame"
    whole = write(tmp_path / name, samples, codec=codec, **({} if name == "s.aac" else {"write_xing": "0"}))
    log = DecodeLog()
    assert list(stream_audio(whole, log=log))
    assert log.declared_end_s is None and log.describe_loss() == ""


class TestWavHeaders:
    def wav(self, tmp_path, *, size, chunks=b"", magic=b"RIFF"):
        data = np.zeros(RATE_HZ, np.int16).tobytes()
        layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
        path = tmp_path / "s.wav"
        body = chunks + layout + struct.pack("<4sI", b"data", size) + data
        path.write_bytes(magic + struct.pack("<I", min(len(body) + 4, 0xFFFFFFFF)) + b"WAVE" + body)
        return path

    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0xFFFFFFFF - 44])
    def test_a_recorder_that_cannot_go_back_declares_nothing(self, size, tmp_path):
        assert loss(self.wav(tmp_path, size=size)) == ""

    def test_odd_chunks_before_the_sound_are_stepped_over(self, tmp_path):
        chunks = struct.pack("<4sI", b"LIST", 5) + b"abcde\0"
        assert loss(self.wav(tmp_path, size=2 * RATE_HZ, chunks=chunks)) == ""
        assert "of 4.000 s" in loss(self.wav(tmp_path, size=8 * RATE_HZ, chunks=chunks))

    def test_a_long_file_has_its_length_elsewhere(self, tmp_path):
        chunks = struct.pack("<4sIQQQI", b"ds64", 28, 0, 8 * RATE_HZ, 0, 0)
        assert "of 4.000 s" in loss(self.wav(tmp_path, size=0xFFFFFFFF, chunks=chunks, magic=b"RF64"))

    def test_a_header_that_is_cut_off_itself(self, tmp_path):
        from mien.media.sound_end import _wav_sound

        whole = self.wav(tmp_path, size=2 * RATE_HZ).read_bytes()
        path = tmp_path / "head.wav"
        for length in (0, 11, 15, 30, 43):
            path.write_bytes(whole[:length])
            with path.open("rb") as file:
                assert _wav_sound(file) is None


def test_predict_reports_sound_that_was_cut_off(drawn_dataset, samples, tmp_path):
    from mien.training.final import plan_training, train_bundle

    bundle = tmp_path / "bundle"
    train_bundle(plan_training(drawn_dataset.path, target="Smile", model="linear_probe@logmel", out=bundle))
    whole = write(tmp_path / "s.wav", samples, codec="pcm_s16le")
    first, second = predict_files(Bundle.open(bundle), videos=[whole, cut(whole)], out=tmp_path / "out")
    assert (first["frames"], first["problem"]) == (16, "")
    assert second["frames"] == 8 and "the sound ends at 3.999 s, of 8.000 s that the file declares" in second["problem"]
    failures = pd.read_csv(tmp_path / "out/failures.csv")
    assert failures["predicted"].tolist() == [True] and "declares" in failures["reason"][0]
    assert "declares" in (tmp_path / "out/cut.s.html").read_text()
