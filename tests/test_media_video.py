from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media_fixtures import (
    corners,
    damage_packets,
    index_of,
    quadrants,
    tone,
    write_sound,
    write_two_videos,
    write_video,
)
from mien.core.errors import MediaError, UserError
from mien.media.video import (
    DecodeLog,
    decode,
    has_audio,
    has_video,
    measured_fps,
    probe_video,
    read_frames,
    sample_frames,
)

SHARED = Path(__file__).parents[2] / "shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
VFR_S = [0.0, 0.014, 0.05, 0.3, 0.34, 1.2, 1.21, 1.9, 2.0, 2.04]


def ffmpeg_times_s(path: Path) -> list[float]:
    """Presentation times of all packets, from the demuxer alone."""
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda s: s.width * s.height)
        base = stream.time_base
        return sorted(float(p.pts * base) for p in container.demux(stream) if p.pts is not None)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.mov"])
def test_every_frame_comes_with_its_own_time(tmp_path, name):
    path = write_video(tmp_path / name, times_s=VFR_S)
    frames = list(read_frames(path))
    assert [f.pts_s for f in frames] == pytest.approx(VFR_S, abs=1e-9)
    assert [f.index for f in frames] == list(range(10))
    assert [index_of(f.rgb) for f in frames] == list(range(10))
    assert frames[0].rgb.shape == (48, 64, 3) and frames[0].rgb.dtype == np.uint8


def test_times_start_where_the_recording_starts(tmp_path):
    path = write_video(tmp_path / "late.mkv", times_s=[1.5, 1.54, 1.58])
    assert [f.pts_s for f in decode(path)] == pytest.approx([1.5, 1.54, 1.58], abs=1e-9)


def test_sampling_by_rate_takes_the_first_frame_at_or_after_each_instant(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=VFR_S)
    # Instants 0, .5, 1, 1.5, 2: nothing lies in [.5, 1.2), so .5 and 1 are both met by the frame at 1.2, once.
    samples = list(sample_frames(path, fps=2))
    assert [s.pts_s for s in samples] == pytest.approx([0.0, 1.2, 1.9, 2.0], abs=1e-9)
    assert [s.index for s in samples] == [0, 5, 7, 8]
    assert [index_of(s.rgb) for s in samples] == [0, 5, 7, 8]


def test_sampling_keeps_the_grid_when_the_first_frame_is_off_it(tmp_path):
    path = write_video(tmp_path / "v.mkv", times_s=[0.4, 0.8, 1.0, 1.2, 1.8, 2.2])
    assert [s.pts_s for s in sample_frames(path, fps=1)] == pytest.approx([0.4, 1.0, 2.2], abs=1e-9)


def test_sampling_at_the_native_rate_takes_each_frame_though_the_container_rounds(tmp_path):
    path = write_video(tmp_path / "v.mkv", times_s=[i / 30 for i in range(12)])
    assert [s.index for s in sample_frames(path, fps=30)] == list(range(12))


def test_sampling_by_number(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=VFR_S)
    assert [s.index for s in sample_frames(path, every=4)] == [0, 4, 8]
    assert [s.index for s in sample_frames(path, every=1)] == list(range(10))


@pytest.mark.parametrize("choice", [{}, {"fps": 1.0, "every": 30}, {"fps": 0.0}, {"fps": float("nan")}, {"every": 0}])
def test_sampling_asks_for_exactly_one_positive_choice(tmp_path, choice):
    with pytest.raises(UserError, match=r"fps|every"):
        sample_frames(tmp_path / "unread.mp4", **choice)


@pytest.mark.parametrize(
    ("rotation", "mirrored", "expected", "shape"),
    [
        (None, False, "RGBk", (64, 128)),
        (90, False, "GkRB", (128, 64)),
        (-90, False, "BRkG", (128, 64)),
        (180, False, "kBGR", (64, 128)),
        (0, True, "GRkB", (64, 128)),
    ],
)
def test_pictures_are_upright(tmp_path, rotation, mirrored, expected, shape):
    path = tmp_path / "turned.mp4"
    write_video(path, times_s=[0.0, 0.04], pictures=[quadrants()] * 2, rotation=rotation, mirrored=mirrored)
    rgb = next(read_frames(path)).rgb
    assert rgb.shape == (*shape, 3) and rgb.flags.c_contiguous
    assert corners(rgb) == expected
    info = probe_video(path)
    assert (info.height, info.width) == shape


def test_probe_reads_what_the_container_declares(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(50)], sound=tone(1.0))
    info = probe_video(path)
    assert (info.width, info.height, info.codec, info.num_video_streams) == (64, 48, "h264", 1)
    assert info.fps_declared == pytest.approx(25, rel=0.01)
    assert info.duration_s == pytest.approx(2.0, abs=0.05)
    assert has_video(path) and has_audio(path)


def test_the_largest_of_several_streams_is_used_unless_one_is_named(tmp_path):
    path = write_two_videos(tmp_path / "two.mkv", sizes=[(64, 48), (128, 96)])
    info = probe_video(path)
    assert (info.stream_index, info.num_video_streams, info.width) == (1, 2, 128)
    assert next(read_frames(path)).rgb.shape == (96, 128, 3)
    assert next(read_frames(path, stream_index=0)).rgb.shape == (48, 64, 3)
    with pytest.raises(UserError, match=r"stream 7 isn't a video stream\. Video streams: 1, 0"):
        next(read_frames(path, stream_index=7))


def test_sound_without_picture_is_told_apart(tmp_path):
    path = write_sound(tmp_path / "s.wav", parts=[(0.0, tone(0.2))])
    assert has_audio(path) and not has_video(path)
    with pytest.raises(MediaError) as caught:
        probe_video(path)
    assert caught.value.reason == "s.wav has no video stream that can be decoded"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "x.mp4 is empty (0 bytes)"),
        (b"this is not a video\n", "x.mp4 isn't a media file"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(500), "moov atom not found"),
    ],
)
def test_each_kind_of_broken_file_has_its_own_reason(tmp_path, content, reason):
    path = tmp_path / "x.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        list(read_frames(path))
    assert reason in caught.value.reason
    assert caught.value.advice.endswith(".")


def test_text_is_no_terminal_picture(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("some notes\n" * 40)
    with pytest.raises(MediaError, match="isn't a media file"):
        has_video(path)


def test_a_folder_is_no_recording(tmp_path):
    with pytest.raises(MediaError, match="is a folder"):
        has_video(tmp_path)


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", times_s=[0.0, 0.04]).rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(decode(Path("a:b.mp4")))) == 2


def test_damage_in_the_middle_costs_the_damaged_frames_only(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(40)])
    damage_packets(path, packets=[15, 16, 39])
    log = DecodeLog()
    times = [f.pts_s for f in decode(path, threads=1, log=log)]
    assert times == pytest.approx([i / 25 for i in range(39) if i not in (15, 16)], abs=1e-9)
    assert (log.num_corrupt, log.num_frames, log.last_pts_s) == (3, 37, pytest.approx(38 / 25))


def test_a_cut_off_file_yields_what_is_there(tmp_path):
    path = write_video(tmp_path / "v.mkv", times_s=[i / 25 for i in range(200)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    times = [f.pts_s for f in decode(path, threads=1)]
    assert 50 < len(times) < 200
    assert times == pytest.approx([i / 25 for i in range(len(times))], abs=1e-9)


def test_a_file_with_only_damage_is_an_error(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(5)])
    damage_packets(path, packets=range(5))
    with pytest.raises(MediaError, match=r"no decodable frame \(5 damaged packets\)"):
        list(decode(path, threads=1))
    with pytest.raises(MediaError, match="no decodable frame"):
        probe_video(path)


def test_a_raw_stream_has_no_times(tmp_path):
    path = write_video(tmp_path / "v.h264", times_s=[0.0, 0.04, 0.08])
    with pytest.raises(MediaError, match="no timestamps"):
        list(decode(path))


def test_measured_rate_is_that_of_the_median_interval():
    assert measured_fps(np.array([0.0, 0.04, 0.08, 5.0, 5.04])) == pytest.approx(25)
    assert np.isnan(measured_fps(np.array([1.0])))


@pytest.mark.real
@needs_shared
@pytest.mark.parametrize("name", ["pyfeat_face_noface.mov", "pyfeat_noface_face.mov", "fex_smile.mov", "fex_test.mov"])
def test_variable_rate_recordings_keep_their_demuxed_times(name):
    path = SHARED / "clips" / name
    expected = ffmpeg_times_s(path)
    assert [f.pts_s for f in decode(path, threads=1)] == expected
    # The definition of sampling, by brute force.
    instants = [k / 5 for k in range(1000) if expected[0] < k / 5 <= expected[-1]]
    wanted = sorted({expected[0], *(min(t for t in expected if t >= i) for i in instants)})
    assert [f.pts_s for f in sample_frames(path, fps=5, threads=1)] == wanted


@pytest.mark.real
@needs_shared
def test_codecs_decode_and_the_larger_stream_is_chosen():
    info = probe_video(SHARED / "codecs/tc_nasa_13013.mp4")
    assert (info.width, info.height, info.stream_index, info.num_video_streams) == (480, 270, 3, 2)
    av1 = probe_video(SHARED / "codecs/tc_av1_video.mkv")
    assert (av1.codec, av1.width, av1.fps_declared) == ("av1", 640, 25.0)
    for name, number in (("tc_h264_10bits.mp4", 30), ("tc_h265_10bits.mp4", 30), ("tc_av1_video.mkv", 125)):
        frames = list(sample_frames(SHARED / "codecs" / name, every=10))
        assert len(frames) == -(-number // 10)
        assert frames[0].rgb.dtype == np.uint8 and frames[0].rgb.std() > 5


@pytest.mark.real
@needs_shared
def test_the_three_broken_recordings_have_three_reasons():
    folder = SHARED / "smile_study/Analysis/Gaze Replays"
    reasons = []
    for number in (1, 2, 3):
        with pytest.raises(MediaError) as caught:
            has_video(folder / f"Screen recording 1 - QX 000{number}.mp4")
        reasons.append(caught.value.reason.split(".mp4 ")[1])
    expected = [
        "has no readable index (moov atom not found)",
        "is empty (0 bytes)",
        "isn't a media file that FFmpeg knows",
    ]
    assert reasons == expected


def test_probing_reads_the_clock_exactly(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[0.0, 0.033, 0.067])
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    frame = next(decode(path))
    assert frame.tick_s == float(base) and base <= Fraction(1, 1000)
