from pathlib import Path

import numpy as np
import pytest

from media_fixtures import tone, write_sound, write_video
from mien.core.errors import MediaError, UserError
from mien.media import audio as audio_module
from mien.media.audio import read_audio, stream_audio
from mien.media.container import DecodeLog, confirmed

SHARED = Path(__file__).parents[2] / "shared/data"


def loud_spans_s(samples: np.ndarray, *, rate_hz: int = 16000) -> list[tuple[float, float]]:
    """Spans of a 440 Hz tone: samples above 1000, with pauses of more than 50 ms between spans."""
    loud = np.flatnonzero(np.abs(samples.astype(int)) > 1000)
    breaks = np.flatnonzero(np.diff(loud) > 0.05 * rate_hz)
    starts, ends = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [len(loud) - 1]])
    return [(loud[a] / rate_hz, loud[b] / rate_hz) for a, b in zip(starts, ends, strict=True)]


def test_sound_is_resampled_to_mono_in_place(tmp_path):
    path = write_sound(tmp_path / "s.wav", parts=[(0.0, tone(2.0))])
    audio = read_audio(path)
    assert audio is not None
    assert (audio.rate_hz, audio.start_s, audio.samples.dtype, audio.samples.shape) == (16000, 0.0, np.int16, (32000,))
    assert np.abs(audio.samples.astype(int) - tone(2.0, rate_hz=16000))[100:-100].max() <= 2


def test_sound_of_the_right_format_is_passed_through(tmp_path):
    samples = tone(0.5, rate_hz=16000)
    audio = read_audio(write_sound(tmp_path / "s.wav", parts=[(0.0, samples)], rate_hz=16000))
    assert audio is not None
    np.testing.assert_array_equal(audio.samples, samples)


def test_two_channels_are_averaged(tmp_path):
    stereo = np.stack([np.full(4800, 8000), np.full(4800, 2000)], axis=1).astype(np.int16)
    audio = read_audio(write_sound(tmp_path / "s.wav", parts=[(0.0, stereo)]), rate_hz=48000)
    assert audio is not None
    assert np.abs(audio.samples.astype(int) - 5000).max() <= 1


def test_gaps_become_silence_and_time_starts_at_the_first_sample(tmp_path):
    path = write_sound(tmp_path / "s.mkv", parts=[(0.5, tone(1.0)), (3.0, tone(1.0))])
    audio = read_audio(path)
    assert audio is not None
    assert audio.start_s == 0.5 and len(audio.samples) == 3.5 * 16000
    assert np.array(loud_spans_s(audio.samples)) == pytest.approx(np.array([[0.0, 1.0], [2.5, 3.5]]), abs=0.001)
    assert not audio.samples[17000:39000].any()


def test_a_sound_clock_that_runs_off_is_put_back(tmp_path):
    # Each packet holds 1024 samples and is 1000 samples after the one before: 49 ms too much after 2 s.
    parts = [(1000 * i / 48000, tone(1024 / 48000)) for i in range(97)]
    audio = read_audio(write_sound(tmp_path / "s.mkv", parts=parts))
    assert audio is not None
    assert len(audio.samples) / 16000 == pytest.approx(96000 / 48000 + 1024 / 48000, abs=0.016)


def test_a_time_that_cannot_be_is_left_out(tmp_path):
    path = write_sound(tmp_path / "s.mkv", parts=[(0.0, tone(1.0)), (90000.0, tone(1024 / 48000))])
    log = DecodeLog()
    audio = read_audio(path, log=log)
    assert audio is not None and len(audio.samples) == 16000
    assert log.num_untimed == 1


def test_a_time_far_ahead_counts_where_the_next_one_goes_on_from_there():
    def kept(times_s):
        log = DecodeLog()
        found = confirmed(((time_s, n) for n, time_s in enumerate(times_s)), max_jump_s=10.0, log=log)
        return [n for _, n in found], log.num_untimed

    assert kept([0.0, 1.0, 500.0, 2.0, 3.0]) == ([0, 1, 3, 4], 1)
    assert kept([0.0, 1.0, 500.0, 501.0, 502.0]) == ([0, 1, 2, 3, 4], 0)
    assert kept([0.0, 500.0, 900.0, 901.0]) == ([0, 1, 2, 3], 0)
    assert kept([0.0, None, 500.0, None, 501.0]) == ([0, 1, 2, 3, 4], 0)
    # Nothing confirms the last one.
    assert kept([0.0, 1.0, 500.0]) == ([0, 1], 1)
    assert kept([900.0, 901.0]) == ([0, 1], 0)


def test_silence_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "MAX_SILENCE_S", 5.0)
    log = DecodeLog()
    path = write_sound(tmp_path / "s.mkv", parts=[(4.0 * i, tone(1.0)) for i in range(4)])
    audio = read_audio(path, log=log)
    # Gaps of 3 s: the first fits, the second would be 6 s together.
    assert audio is not None and len(audio.samples) == 5 * 16000
    assert log.num_untimed > 0


def test_blocks_follow_each_other_and_together_are_the_whole(tmp_path):
    path = write_sound(tmp_path / "s.mkv", parts=[(0.5, tone(1.0)), (9.0, tone(1.0))])
    blocks, whole = list(stream_audio(path)), read_audio(path)
    assert whole is not None and len(blocks) > 20
    position = 0
    for block in blocks:
        assert block.start_s == pytest.approx(whole.start_s + position / 16000, abs=1e-9)
        position += len(block.samples)
    np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks]), whole.samples)
    assert max(len(block.samples) for block in blocks) <= audio_module.BLOCK_SAMPLES


def test_a_rate_that_no_recorder_has_is_refused(tmp_path):
    with pytest.raises(UserError, match="up to 768000, got 1000000"):
        stream_audio(tmp_path / "unread.wav", rate_hz=1_000_000)


def test_aac_in_a_video_starts_at_zero(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(25)], sound=tone(1.0))
    audio = read_audio(path)
    assert audio is not None and audio.start_s == 0.0
    assert len(audio.samples) == pytest.approx(16000, abs=400)  # AAC's last packet is padded to 1024 samples
    assert loud_spans_s(audio.samples)[0][0] == pytest.approx(0.0, abs=0.005)


def test_a_video_without_sound_has_none(tmp_path):
    assert read_audio(write_video(tmp_path / "v.mp4", times_s=[0.0, 0.04])) is None


def test_wrong_input_is_told(tmp_path):
    with pytest.raises(UserError, match="rate_hz must be a positive number"):
        read_audio(tmp_path / "s.wav", rate_hz=0)
    (tmp_path / "s.wav").write_bytes(b"")
    with pytest.raises(MediaError, match="empty"):
        read_audio(tmp_path / "s.wav")


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_real_sound_has_the_duration_that_its_container_declares():
    late = read_audio(SHARED / "clips/pyfeat_face_noface.mov")
    assert late is not None
    assert late.start_s == pytest.approx(107164 / 44100, abs=1e-9)
    assert late.start_s + len(late.samples) / 16000 == pytest.approx(6.4, abs=0.03)
    speech = read_audio(SHARED / "speech/ravdess/03-01-01-01-02-01-15.flac")
    assert speech is not None
    assert len(speech.samples) == round(164964 / 3) and np.abs(speech.samples.astype(int)).max() > 1000
