"""Sampling gives bit by bit what decoding everything gives, and decodes less."""

import gc
import hashlib
import math
import shutil
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from media_fixtures import damage_packets, moving_pictures, tone, write_encoded, write_video
from mien.core.errors import MediaError
from mien.media import container as container_module
from mien.media import sampling
from mien.media.bitstream import Bitstream
from mien.media.container import Stopwatch, open_media, video_streams
from mien.media.video import DecodeLog, decode, sample_frames

CHOICES = ({"fps": 0.5}, {"fps": 1.0}, {"fps": 2.0}, {"fps": 5.0}, {"fps": 10.0}, {"fps": 25.0}, {"every": 30})


def x264(params: str) -> dict[str, str]:
    return {"preset": "medium", "x264-params": params}


def x265(params: str) -> dict[str, str]:
    return {"preset": "fast", "x265-params": f"{params}:log-level=none"}


RNG = np.random.default_rng(5)
IRREGULAR_S = list(np.cumsum(RNG.choice([0.014, 0.033, 0.041, 0.3], 90, p=[0.3, 0.4, 0.25, 0.05])))

ENCODED = {
    "default.mp4": {"options": x264("keyint=250")},
    "pyramid.mp4": {"options": x264("keyint=40:bframes=8:b-pyramid=normal:b-adapt=2")},
    "open.mp4": {"options": x264("keyint=20:bframes=4:open-gop=1")},
    "open.mkv": {"options": x264("keyint=20:bframes=4:open-gop=1")},
    "open.ts": {"options": x264("keyint=20:bframes=4:open-gop=1")},
    "refresh.mp4": {"options": x264("keyint=20:intra-refresh=1:bframes=2")},
    "no_b.mkv": {"options": x264("keyint=12:bframes=0")},
    "short.ts": {"options": x264("keyint=12:bframes=3")},
    "slices.mp4": {"options": x264("keyint=30:bframes=5:b-pyramid=strict:slices=4")},
    "irregular.mkv": {"options": x264("keyint=30"), "times_s": IRREGULAR_S},
    "late.mp4": {"options": x264("keyint=30"), "times_s": [7.3 + i / 30 for i in range(90)]},
    "ten_bit.mp4": {"options": x264("keyint=30"), "pixel_format": "yuv420p10le"},
    "flash.flv": {"options": x264("keyint=30"), "clock_hz": 1000},
    "hevc_closed.mp4": {"codec": "libx265", "options": x265("keyint=20:open-gop=0")},
    "hevc_open.mkv": {"codec": "libx265", "options": x265("keyint=20:open-gop=1:bframes=6")},
    "hevc_layers.mp4": {"codec": "libx265", "options": x265("keyint=40:temporal-layers=3:bframes=6")},
    "hevc.ts": {"codec": "libx265", "options": x265("keyint=20:open-gop=1")},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5", "deadline": "good"},
    },
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"}},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "mpeg4.mp4": {"codec": "mpeg4", "gop_size": 12, "max_b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "gop_size": 12, "max_b_frames": 2},
    "motion_jpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pixel_format": "yuv422p10le", "clock_hz": 30},
    "lossless.mkv": {"codec": "ffv1", "gop_size": 10},
}
"""Files of which not every frame has to be decoded."""

DECODED_WHOLE = {
    "interlaced.mp4": ({"options": x264("keyint=50:tff=1")}, "pictures are interlaced"),
    "mpeg4.avi": ({"codec": "mpeg4", "max_b_frames": 2, "gop_size": 12}, "a packet has no time"),
    "h264.avi": ({"options": x264("keyint=30:bframes=3")}, "a packet has no time"),
    "sorenson.flv": ({"codec": "flv", "gop_size": 12, "clock_hz": 1000}, "there is no rule for flv1"),
}


def digest(rgb: np.ndarray) -> bytes:
    return hashlib.blake2b(rgb.tobytes(), digest_size=16).digest()


def whole(path: Path) -> tuple[list[tuple[float, int, bytes, float]], DecodeLog]:
    log = DecodeLog()
    frames = decode(path, threads=1, log=log)
    return [(f.pts_s, f.index, digest(f.to_rgb()), f.tick_s) for f in frames], log


def chosen(frames: list[tuple[float, int, bytes, float]], *, fps: float = 0.0, every: int = 0) -> list[tuple]:
    """The definition of sampling, on all frames."""
    slots = [index // every if every else math.floor((pts_s + tick / 2) * fps) for pts_s, index, _, tick in frames]
    first = [True, *(a < b for a, b in pairwise(slots))]
    return [frame[:3] for frame, is_first in zip(frames, first, strict=True) if is_first]


def check(path: Path, **choice: float) -> DecodeLog:
    everything, expected_log = whole(path)
    log = DecodeLog()
    sampled = [(f.pts_s, f.index, digest(f.rgb)) for f in sample_frames(path, log=log, **choice)]
    expected = chosen(everything, **choice)
    assert [s[:2] for s in sampled] == [e[:2] for e in expected]
    assert [s[2] == e[2] for s, e in zip(sampled, expected, strict=True)] == [True] * len(expected)
    assert (log.num_frames, log.last_pts_s) == (expected_log.num_frames, expected_log.last_pts_s)
    assert log.declared_end_s == expected_log.declared_end_s
    return log


@pytest.mark.parametrize("name", ENCODED)
def test_samples_are_those_of_decoding_everything(tmp_path, name):
    path = write_encoded(tmp_path / name, **ENCODED[name])
    logs = [check(path, **choice) for choice in CHOICES]
    assert {log.strategy for log in logs} == {"wanted"} and {log.strategy_reason for log in logs} == {""}
    assert logs[1].num_decoded < logs[1].num_frames


@pytest.mark.parametrize("name", DECODED_WHOLE)
def test_what_cannot_be_planned_is_decoded_whole_and_says_why(tmp_path, name):
    encoded, reason = DECODED_WHOLE[name]
    path = write_encoded(tmp_path / name, **encoded)
    for choice in ({"fps": 1.0}, {"every": 30}):
        log = check(path, **choice)
        assert (log.strategy, log.strategy_reason) == ("all", reason)
        assert log.num_decoded >= log.num_frames


def test_of_intra_only_files_nothing_but_the_samples_is_decoded(tmp_path):
    path = write_encoded(tmp_path / "v.avi", codec="mjpeg", pixel_format="yuvj420p")
    assert check(path, fps=1.0).num_decoded == 3


def test_of_short_groups_only_those_with_samples_are_decoded(tmp_path):
    path = write_encoded(tmp_path / "v.mkv", options=x264("keyint=10:min-keyint=10:scenecut=0:bframes=0"))
    # Samples at 0 s, 1 s and 2 s are frames 0, 30, 60, each the first of its group.
    assert check(path, fps=1.0).num_decoded == 3


def test_unreferenced_frames_are_left_out(tmp_path):
    options = x264("keyint=250:scenecut=0:bframes=1:b-adapt=0:b-pyramid=none:min-keyint=250")
    path = write_encoded(tmp_path / "v.mp4", options=options)
    # Every second frame is a B-frame to which nothing refers, and nothing is decoded behind the last sample.
    assert check(path, every=30).num_decoded < 40


def test_a_key_frame_of_an_open_group_is_no_start(tmp_path):
    path = write_encoded(tmp_path / "v.mp4", options=x264("keyint=20:min-keyint=20:open-gop=1:bframes=4:scenecut=0"))
    with open_media(path) as container:
        stream = video_streams(container)[0]
        bitstream = Bitstream(stream)
        packets = [p for p in container.demux(stream) if p.size]
        starts = [bitstream.look(p).starts for p in packets]
    assert sum(p.is_keyframe for p in packets) > 2 and sum(starts) == 1


def test_layers_of_hevc_are_known_from_its_header(tmp_path):
    found = {}
    for name in ("hevc_closed.mp4", "hevc_layers.mp4", "hevc.ts"):
        path = write_encoded(tmp_path / name, **ENCODED[name])
        with open_media(path) as container:
            found[name] = Bitstream(video_streams(container)[0]).skips_unreferenced
    # A picture to which nothing of its own layer refers may be needed by a higher layer.
    assert found == {"hevc_closed.mp4": True, "hevc_layers.mp4": False, "hevc.ts": True}


def test_what_is_held_back_is_bounded(tmp_path, monkeypatch):
    path = write_encoded(tmp_path / "v.mp4", options=x264("keyint=250"))
    unbounded = check(path, fps=0.5)
    monkeypatch.setattr(sampling, "MAX_HELD_BYTES", 3 * sampling.PACKET_OVERHEAD_BYTES)
    bounded = check(path, fps=0.5)
    assert bounded.strategy == "wanted" and bounded.num_decoded >= unbounded.num_decoded


def test_damage_leads_to_the_frames_of_decoding_everything(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(100)])
    damage_packets(path, packets=[25, 26, 60])
    log = check(path, fps=1.0)
    # The frame at 1.0 s is lost: the sample is the next one that is there, and nothing comes twice.
    assert [f.index for f in sample_frames(path, fps=1.0)][:2] == [0, 25]
    assert [round(f.pts_s, 6) for f in sample_frames(path, fps=1.0)] == [0.0, 1.08, 2.0, 3.0]
    assert (log.strategy, log.strategy_reason, log.num_corrupt) == ("all", "a packet is damaged", 3)


def test_damage_that_the_decoder_patches_up_is_told(tmp_path):
    path = write_encoded(tmp_path / "v.mkv", options=x264("keyint=30:bframes=0:cabac=0"), num_frames=60)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    place = data.find(bytes(packets[4])) + packets[4].size // 2
    data[place : place + 12] = b"\x55\xaa" * 6
    path.write_bytes(data)
    log, everything = DecodeLog(), DecodeLog()
    list(sample_frames(path, fps=2.0, log=log))
    list(decode(path, threads=1, log=everything))
    # FFmpeg fills the rest of the picture from others and says nothing.
    assert (everything.num_frames, everything.num_corrupt, everything.is_damaged) == (60, 0, False)
    assert (log.num_frames, log.strategy, log.has_patches, log.is_damaged) == (60, "all", True, True)


def test_pictures_do_not_stay_in_memory(tmp_path):
    path = write_encoded(tmp_path / "v.mp4", options=x264("keyint=30"))
    gc.collect()
    gc.freeze()  # what was there before isn't counted: walking through it 60 times would take most of a minute
    gc.disable()
    try:
        counts = [
            sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) for _ in sample_frames(path, fps=25.0)
        ]
    finally:
        gc.enable()
        gc.unfreeze()
    assert len(counts) > 50 and max(counts) < 8


def test_times_that_jump_back_are_decoded_whole(tmp_path):
    first = write_encoded(tmp_path / "a.ts", options=x264("keyint=12"), num_frames=40)
    path = tmp_path / "twice.ts"
    path.write_bytes(first.read_bytes() * 2)
    log = check(path, fps=5.0)
    assert (log.strategy, log.strategy_reason) == ("all", "times aren't in order")
    assert log.num_unordered == 40


def test_times_that_jump_forward_are_kept(tmp_path):
    times_s = [i / 30 + (30.0 if i > 40 else 0.0) for i in range(90)]
    log = check(write_encoded(tmp_path / "v.mkv", options=x264("keyint=30"), times_s=times_s), fps=1.0)
    assert log.strategy == "wanted" and log.last_pts_s == pytest.approx(30 + 89 / 30, abs=0.001)


def test_frames_outside_an_edit_list_are_neither_counted_nor_taken(tmp_path):
    source = write_encoded(tmp_path / "a.mp4", options=x264("keyint=60:bframes=3"))
    path = tmp_path / "cut.mp4"
    with av.open(str(source)) as reader, av.open(str(path), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 8000, packet.dts - 8000
                packet.stream = copy
                writer.mux(packet)
    frames, _ = whole(path)
    assert 0 < len(frames) < 90 and frames[0][0] >= 0
    for choice in CHOICES:
        assert check(path, **choice).strategy == "wanted"


def test_several_threads_decode_everything(tmp_path):
    path = write_encoded(tmp_path / "v.mp4", options=x264("keyint=30"))
    log = DecodeLog()
    threaded = [f.rgb.tobytes() for f in sample_frames(path, fps=5.0, threads=2, log=log)]
    assert threaded == [f.rgb.tobytes() for f in sample_frames(path, fps=5.0)]
    assert (log.strategy, log.strategy_reason) == ("all", "several threads were asked for")


def test_closing_early_is_possible(tmp_path):
    path = write_encoded(tmp_path / "v.mp4", options=x264("keyint=30"))
    frames = sample_frames(path, fps=5.0)
    next(frames)
    frames.close()
    shutil.move(path, tmp_path / "moved.mp4")


def test_a_decoder_that_gives_nothing_is_stopped(monkeypatch):
    monkeypatch.setattr(container_module, "MAX_BARREN_S", 0.01)
    stopwatch = Stopwatch("x.mp4")
    assert stopwatch.decode(lambda _: ["frame"], None) == ["frame"]

    def busy(_):
        sum(range(300_000))
        return []

    with pytest.raises(MediaError, match="without giving a frame"):
        for _ in range(100):
            stopwatch.decode(busy, None)


def test_sound_beside_the_picture_does_not_matter(tmp_path):
    pictures = moving_pictures(50)
    path = tmp_path / "v.mp4"
    write_video(path, times_s=[i / 25 for i in range(50)], pictures=pictures, sound=tone(2.0))
    assert check(path, fps=5.0).strategy == "wanted"


@pytest.mark.real
@pytest.mark.slow
def test_real_recordings_are_sampled_exactly(shared_data):
    paths = [p for folder in ("clips", "codecs") for p in sorted((shared_data / folder).iterdir())]
    for path in paths:
        for choice in ({"fps": 1.0}, {"fps": 10.0}, {"every": 30}):
            assert check(path, **choice).strategy == "wanted"
