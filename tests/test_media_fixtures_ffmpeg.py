"""What labs bring, made with FFmpeg (PyAV): the right times, or a failure that says what is wrong."""

import re
import shutil
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media_fixtures import (
    corners,
    cut,
    damage_bytes,
    damage_packets,
    declare_duration,
    index_of,
    quadrants,
    tone,
    write_encoded,
    write_picture_and_late_sound,
    write_sound,
    write_two_videos,
    write_video,
)
from mien.core.errors import MediaError
from mien.media.audio import read_audio, stream_audio
from mien.media.container import MAX_PICTURE_PX
from mien.media.describe import describe_media
from mien.media.video import DecodeLog, decode, probe_video, sample_frames

GRID_S = [i / 25 for i in range(125)]
SALVAGEABLE = ("v.mkv", "v.ts", "v.avi", "faststart.mp4", "fragments.mp4")


def write_five_seconds(path: Path) -> Path:
    """5 s with times k / 25: Motion JPEG in AVI, else H.264; MP4 with its index in front, or in fragments, by name."""
    if path.suffix == ".avi":
        return write_encoded(path, codec="mjpeg", pixel_format="yuvj420p", rate=25, num_frames=125)
    options = {"faststart.mp4": {"movflags": "faststart"}, "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"}}
    encoded = write_encoded(path.with_name("source.mkv"), options={"x264-params": "keyint=10"}, rate=25, num_frames=125)
    with av.open(str(encoded)) as reader, av.open(str(path), "w", options=options.get(path.name, {})) as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    return path


@pytest.mark.parametrize(("degrees", "expected"), [(90, "GkRB"), (180, "kBGR"), (270, "BRkG")])
def test_rotated_recordings_are_upright(tmp_path, degrees, expected):
    path = write_video(tmp_path / "v.mp4", times_s=[0.0, 0.04], pictures=[quadrants()] * 2, rotation=degrees)
    frames = list(sample_frames(path, fps=25.0))
    assert [f.pts_s for f in frames] == pytest.approx([0.0, 0.04]) and {corners(f.rgb) for f in frames} == {expected}
    video = describe_media(path).video
    assert video is not None and video.rotation_deg == (360 - degrees) % 360 and video.mirrored is False
    info = probe_video(path)
    assert (video.width, video.height) == (info.width, info.height) == frames[0].rgb.shape[1::-1]


@pytest.mark.parametrize(
    ("name", "encoded", "codec"),
    [
        ("v.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}, "vp9"),
        ("v.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}, "mjpeg"),
        ("v.mov", {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none"}}, "hevc"),
        ("v.mkv", {"codec": "libsvtav1", "options": {"preset": "12"}}, "av1"),
        ("v.mp4", {"codec": "mpeg4"}, "mpeg4"),
    ],
)
def test_each_codec_and_container_keeps_its_times(tmp_path, name, encoded, codec):
    path = write_encoded(tmp_path / name, num_frames=60, rate=25, **encoded)
    times_s = [f.pts_s for f in decode(path, threads=1)]
    assert times_s == pytest.approx([i / 25 for i in range(60)], abs=0.0005)
    assert [f.pts_s for f in sample_frames(path, fps=5.0)] == times_s[::5]
    assert probe_video(path).codec == codec


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "aac"), ("v.mkv", "aac"), ("v.mkv", "libopus")])
def test_sound_that_starts_late_stays_late(tmp_path, name, codec):
    path = write_picture_and_late_sound(tmp_path / name, delay_s=1.3, codec=codec)
    audio = read_audio(path)
    assert audio is not None
    loud = np.flatnonzero(np.abs(audio.samples.astype(int)) > 3000)
    assert audio.start_s + loud[0] / audio.rate_hz == pytest.approx(1.3, abs=0.03)
    assert audio.start_s + loud[-1] / audio.rate_hz == pytest.approx(3.0, abs=0.03)
    assert next(iter(sample_frames(path, fps=1.0))).pts_s == 0.0


def test_recordings_need_not_start_at_zero(tmp_path):
    path = write_encoded(tmp_path / "v.mkv", num_frames=50, times_s=[3723.4 + i / 25 for i in range(50)])
    assert [f.pts_s for f in decode(path)] == pytest.approx([3723.4 + i / 25 for i in range(50)], abs=0.0006)
    assert [f.pts_s for f in sample_frames(path, fps=1.0)] == pytest.approx([3723.4, 3724.0, 3725.0], abs=0.0006)


@pytest.mark.parametrize("name", SALVAGEABLE)
@pytest.mark.parametrize("seed", [0, 1])
def test_with_a_tenth_of_the_bytes_damaged_what_decodes_has_its_true_time(tmp_path, name, seed):
    path = damage_bytes(write_five_seconds(tmp_path / name), share=0.1, seed=seed, spare=6144)
    log = DecodeLog()
    times_s = [f.pts_s for f in sample_frames(path, fps=25.0, log=log)]
    assert len(times_s) >= 5
    assert times_s == sorted(set(times_s))
    # A damaged time in the file itself can't always be told from a true one; others are steps of the grid apart.
    steps = np.diff(times_s) * 25
    assert np.mean(np.abs(steps - np.round(steps)) < 0.03) > 0.8
    assert log.num_corrupt + log.num_unordered + log.num_untimed > 0 or log.num_frames < 125


def test_a_damaged_fragment_loses_what_follows_not_what_came_before(tmp_path):
    path = write_five_seconds(tmp_path / "fragments.mp4")
    whole_s = [f.pts_s for f in sample_frames(path, fps=25.0)]
    data = bytearray(path.read_bytes())
    place = [m.start() for m in re.finditer(b"moof", data)][6]  # ten frames in each
    data[place + 40 : place + 60] = b"\xff" * 20  # in its track's header
    path.write_bytes(data)
    with pytest.raises(av.InvalidDataError):
        av.open(str(path))
    times_s = [f.pts_s for f in sample_frames(path, fps=25.0)]
    assert times_s == whole_s[: len(times_s)] and len(times_s) >= 55


def test_a_stream_that_appears_in_the_middle_ends_in_no_error(tmp_path):
    path = damage_bytes(write_five_seconds(tmp_path / "v.ts"), share=0.1, seed=9, spare=4096)
    with av.open(str(path)) as container, pytest.raises(IndexError):
        list(container.demux(video=0))
    assert len(list(sample_frames(path, fps=25.0))) > 10


@pytest.mark.parametrize("name", SALVAGEABLE)
def test_a_file_cut_at_six_tenths_gives_its_first_part(tmp_path, name):
    path = cut(write_five_seconds(tmp_path / name), share=0.6)
    log = DecodeLog()
    times_s = np.array([f.pts_s for f in sample_frames(path, fps=25.0, log=log)])
    assert 50 <= len(times_s) <= 90
    # The cut goes through the last group of B-frames.
    steps = np.diff(times_s) * 25
    assert steps == pytest.approx(np.round(steps), abs=0.03) and np.mean(steps < 1.1) > 0.95
    if name == "faststart.mp4":
        assert log.declared_end_s == pytest.approx(5.0) and log.last_pts_s < 3.5


def test_one_damaged_time_does_not_cost_what_follows(tmp_path):
    times_s = [i / 25 + (5000.0 if i == 20 else 0.0) for i in range(50)]
    # One file per stretch, so that the muxer takes them: their packets one after the other in one transport stream.
    parts = []
    for number, stretch in enumerate((times_s[:20], times_s[20:21], times_s[21:])):
        options = {"x264-params": "keyint=1"}
        part = write_encoded(tmp_path / f"{number}.ts", times_s=stretch, num_frames=len(stretch), options=options)
        parts.append(part.read_bytes())
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(parts))
    for frames, log in ((decode, DecodeLog()), (lambda p, log: sample_frames(p, fps=25.0, log=log), DecodeLog())):
        found = [f.pts_s for f in frames(path, log=log)]
        assert np.array(found) - found[0] == pytest.approx(np.array(times_s[:20] + times_s[21:]), abs=0.001)
        assert (log.num_frames, log.num_untimed) == (49, 1)


def test_a_file_cut_before_its_index_says_so(tmp_path):
    path = cut(write_five_seconds(tmp_path / "plain.mp4"), share=0.6)
    with pytest.raises(MediaError, match="moov atom not found") as caught:
        list(sample_frames(path, fps=1.0))
    assert "untrunc" in caught.value.advice


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_three_hours_in_the_header_of_five_seconds(tmp_path, name):
    path = declare_duration(write_five_seconds(tmp_path / name), duration_s=10800.0)
    started, log = time.process_time(), DecodeLog()
    frames = list(sample_frames(path, fps=1.0, log=log))
    assert [f.pts_s for f in frames] == pytest.approx([0, 1, 2, 3, 4], abs=0.001)
    assert (log.num_frames, log.last_pts_s) == (125, pytest.approx(4.96))
    assert time.process_time() - started < 2.0
    described = describe_media(path, measure=True)
    # FFmpeg believes the index of an MP4 file more than its header.
    assert described.duration_s == pytest.approx(10800.0 if name == "v.mkv" else 5.0, abs=0.1)
    assert probe_video(path).duration_s == described.duration_s
    assert described.video is not None and described.video.measured is not None
    assert described.video.measured.last_s == pytest.approx(4.96)
    assert described.video.measured.interval_s == pytest.approx((0.04, 0.04, 0.04), abs=0.001)


def test_a_recording_without_sound_has_none_and_sound_has_no_picture(tmp_path):
    silent = write_five_seconds(tmp_path / "v.mp4")
    assert read_audio(silent) is None and list(stream_audio(silent)) == []
    assert describe_media(silent).audio is None
    sound = write_sound(tmp_path / "s.m4a", parts=[(0.0, tone(1.0))], codec="aac")
    with pytest.raises(MediaError, match="no video stream") as caught:
        list(sample_frames(sound, fps=1.0))
    assert "sound is asked for" in caught.value.advice
    assert describe_media(sound).video is None and read_audio(sound) is not None


@pytest.mark.parametrize("codec", ["aac", "ac3", "flac"])
def test_surround_sound_becomes_mono_at_the_level_of_its_mix(tmp_path, codec):
    path = tmp_path / "s.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="5.1")
        samples = np.repeat(tone(1.0)[None], 6, axis=0)
        kind = "s16" if codec == "flac" else "fltp"
        size = stream.codec_context.frame_size or 1536
        for first in range(0, 48000 - size, size):
            block = samples[:, first : first + size]
            packed = np.ascontiguousarray(block.T.reshape(1, -1))
            data = packed if kind == "s16" else np.ascontiguousarray(block / 32768, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(data, format=kind, layout="5.1")
            frame.sample_rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    audio = read_audio(path)
    described = describe_media(path).audio
    assert audio is not None and described is not None
    assert (described.channels, described.layout.split("(")[0]) == (6, "5.1")
    assert len(audio.samples) == pytest.approx(16000, abs=700)
    # Five channels in phase: the mix is scaled so that it doesn't clip.
    assert 4000 < np.abs(audio.samples[2000:12000].astype(int)).max() <= 32767
    spectrum = np.abs(np.fft.rfft(audio.samples[2000:10000].astype(float)))
    assert np.argmax(spectrum) * 2 == pytest.approx(440, abs=2)


def test_eight_kilohertz_become_sixteen(tmp_path):
    path = write_sound(tmp_path / "s.wav", parts=[(0.0, tone(1.0, rate_hz=8000))], rate_hz=8000)
    audio = read_audio(path)
    assert audio is not None and len(audio.samples) == pytest.approx(16000, abs=2)
    assert np.abs(audio.samples.astype(int) - tone(1.0, rate_hz=16000))[200:-200].max() < 400


def test_a_header_with_a_picture_that_fills_the_memory_is_refused(tmp_path):
    path = write_encoded(tmp_path / "v.avi", codec="rawvideo", pixel_format="bgr24", num_frames=3)
    side_px = 13_000
    assert side_px**2 > MAX_PICTURE_PX
    data = bytearray(path.read_bytes())
    place = data.find(b"strf") + 12  # after the chunk's name and size and the header's size: width, height
    data[place : place + 8] = side_px.to_bytes(4, "little") * 2
    path.write_bytes(data)
    for read in (lambda: list(sample_frames(path, fps=1.0)), lambda: list(decode(path)), lambda: probe_video(path)):
        with pytest.raises(MediaError, match="declares pictures of 13000 x 13000 px"):
            read()


def planes(colours: np.ndarray, *, matrix: str, full: bool, bits: int) -> np.ndarray:
    """The planes (H * 3 / 2, W) of a picture of RGB patches (H, W, 3) 0..1, by the formulas of ITU-R BT.601 and 709."""
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    luma = colours @ np.array([red, 1 - red - blue, blue])
    chroma = [(colours[..., 2] - luma) / (2 - 2 * blue), (colours[..., 0] - luma) / (2 - 2 * red)]
    top = 2**bits - 1
    scale = 2 ** (bits - 8)
    y = luma * top if full else (16 + 219 * luma) * scale
    uv = [part[::2, ::2] * (top if full else 224 * scale) + 2 ** (bits - 1) for part in chroma]
    stacked = np.concatenate([y.ravel(), *(part.ravel() for part in uv)])
    kind = np.uint8 if bits == 8 else np.uint16
    return np.clip(np.round(stacked), 0, top).astype(kind).reshape(-1, colours.shape[1])


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_colours_are_those_that_were_recorded(tmp_path, matrix, full, bits):
    rng = np.random.default_rng(3)
    colours = np.kron(rng.uniform(0.1, 0.9, (4, 6, 3)), np.ones((16, 16, 1)))
    pixel_format = "yuv420p" if bits == 8 else "yuv420p10le"
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        name = {"bt601": "smpte170m", "bt709": "bt709"}[matrix]
        params = f"colormatrix={name}:fullrange={'on' if full else 'off'}:qp=0"
        stream = container.add_stream("libx264", rate=25, options={"x264-params": params})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixel_format
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = 6 if matrix == "bt601" else 1
        frame = av.VideoFrame.from_ndarray(planes(colours, matrix=matrix, full=full, bits=bits), format=pixel_format)
        frame.color_range, frame.colorspace = (2 if full else 1), (6 if matrix == "bt601" else 1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    rgb = next(iter(sample_frames(path, fps=1.0))).rgb.astype(float)
    # The middle of each patch, away from chroma that is interpolated. FFmpeg's fast converters round by up to 4; with
    # the other matrix colours are off by more than 15, with the other range by more than 10.
    middles = (slice(8, None, 16), slice(8, None, 16))
    off = np.abs(rgb[middles] - 255 * colours[middles])
    assert off.max() <= 4 and off.mean() <= 2
    video = describe_media(path).video
    assert (video.bit_depth, video.colour_range, video.colour_matrix) == (bits, "full" if full else "limited", matrix)


def test_titles_in_another_encoding_are_no_reason_not_to_open_a_file(tmp_path):
    path = tmp_path / "v.avi"
    write_encoded(path, codec="mjpeg", pixel_format="yuvj420p", num_frames=3)
    data = path.read_bytes()
    encoder = data[data.find(b"ISFT") + 8 :][:4]
    path.write_bytes(data.replace(encoder, "Söße".encode("latin-1"), 1))
    assert "Söße".encode("latin-1") in path.read_bytes()
    assert len(list(decode(path))) == 3


def test_of_several_streams_the_description_says_which_is_used_and_why(tmp_path):
    described = describe_media(write_two_videos(tmp_path / "two.mkv", sizes=[(64, 48), (128, 96)]), measure=True)
    assert [stream.chosen for stream in described.streams] == [False, True]
    assert described.video is not None and described.video.index == 1 and described.container.startswith("matroska")
    assert described.video.why == "of 2, the default one with the larger picture, then the lower index"
    assert described.streams[0].why.startswith("not the default") and described.streams[0].measured is None
    assert described.video.measured is not None and described.video.measured.num_frames == 5


def test_a_description_of_damage_says_what_failed(tmp_path):
    path = damage_packets(write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(5)]), packets=range(5))
    video = describe_media(path, measure=True).video
    assert video is not None and video.measured is not None and video.rotation_deg is None
    assert video.measured.failure == "v.mp4 has no decodable frame (5 damaged packets)"


def test_a_picture_is_what_it_shows_whatever_was_skipped(tmp_path):
    path = write_video(tmp_path / "v.mkv", times_s=GRID_S[:60])
    samples = list(sample_frames(path, fps=5.0))
    assert [index_of(s.rgb) for s in samples] == [s.index % 30 for s in samples]


def reference_times_s(path: Path, *, stream_index: int) -> list[float]:
    """Times by ffprobe where it is installed, else of the packets that are shown, from the demuxer alone."""
    if shutil.which("ffprobe"):
        fields = ["-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]
        command = ["ffprobe", "-v", "error", "-select_streams", str(stream_index), *fields, str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return [float(line.split(",")[0]) for line in lines if line.strip(",")]
    with av.open(str(path)) as container:
        stream = container.streams[stream_index]
        packets = [p for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        return sorted(float(p.pts * stream.time_base) for p in packets)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("folder", ["clips", "codecs"])
def test_times_of_real_recordings_are_those_of_ffprobe(shared_data, folder):
    for path in sorted((shared_data / folder).iterdir()):
        expected = reference_times_s(path, stream_index=probe_video(path).stream_index)
        times_s = [f.pts_s for f in decode(path, threads=1)]
        assert len(times_s) == len(expected), path.name
        # ffprobe prints six decimals.
        assert np.abs(np.array(times_s) - expected).max() <= 1e-6, path.name
