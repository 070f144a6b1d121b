"""The annotated copy: true times, sound, faces covered wherever they are."""

from __future__ import annotations

import av
import numpy as np
import pytest

from mien.core.types import FaceTrack
from mien.media.face_cover import FaceCover, box_at
from mien.media.video import read_frames
from mien.media.video_writer import VideoWriter
from mien.predict.predictor import predict_files
from mien.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(probe_bundle):
    return Bundle.open(probe_bundle)


def tone(path, *, codec, rate=16_000, seconds=1.0):
    """Write a video of three frames at uneven times with a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate)
        sound.layout = "mono"
        for pts in (0, 3, 4):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * pts, np.uint8), format="rgb24")
            picture.pts = pts
            container.mux(video.encode(picture))
        container.mux(video.encode())
        wave = (8000 * np.sin(np.arange(int(seconds * rate)) * 0.2)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = rate, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


class TestWriter:
    @pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "pcm_s16le"), ("mkv", "flac")])
    def test_times_and_sound_stay(self, tmp_path, suffix, codec):
        source = tone(tmp_path / f"source.{suffix}", codec=codec)
        frames = list(read_frames(source))
        with VideoWriter(tmp_path / "copy.mp4", fps=10.0, sound_from=source) as writer:
            for frame in frames:
                writer.add(frame.rgb, pts_s=frame.pts_s, lasts_s=0.1)
        assert writer.sound_problem == ""
        copied = [frame.pts_s for frame in read_frames(tmp_path / "copy.mp4")]
        np.testing.assert_allclose(copied, [frame.pts_s for frame in frames], atol=2e-5)
        assert len(set(np.round(np.diff(copied), 3))) == 2, "the frames are at uneven times"
        with av.open(str(tmp_path / "copy.mp4")) as container:
            heard = sum(frame.samples / frame.rate for frame in container.decode(container.streams.audio[0]))
        assert heard == pytest.approx(1.0, abs=0.15)

    def test_a_recording_without_sound_has_none(self, tmp_path):
        with VideoWriter(tmp_path / "silent.mp4", fps=10.0) as writer:
            writer.add(np.zeros((49, 65, 3), np.uint8), pts_s=0.0, lasts_s=0.1)
            writer.add(np.zeros((24, 32, 3), np.uint8), pts_s=0.1, lasts_s=0.1)
        with av.open(str(tmp_path / "silent.mp4")) as container:
            assert not container.streams.audio
            assert {(frame.width, frame.height) for frame in container.decode(video=0)} == {(64, 48)}


class TestCover:
    def track(self, times, boxes):
        count = len(times)
        boxes = np.asarray(boxes, np.float32)
        return FaceTrack(0, np.arange(count), np.asarray(times, float), boxes, np.zeros((count, 5, 2)), np.ones(count))

    def test_a_box_lies_between_two_looks_and_is_held_beside_them(self):
        times, boxes = np.array([1.0, 2.0, 9.0]), np.array([[0, 0, 10, 10], [10, 0, 20, 10], [50, 0, 60, 10]], float)
        assert box_at(times, boxes, 1.5).tolist() == [5, 0, 15, 10]
        assert box_at(times, boxes, 0.5).tolist() == [0, 0, 10, 10]
        assert box_at(times, boxes, 0.3) is None
        assert box_at(times, boxes, 2.4).tolist() == [10, 0, 20, 10]
        assert box_at(times, boxes, 5.0) is None, "who is away for long may come back elsewhere"
        assert box_at(times, boxes, 9.0).tolist() == [50, 0, 60, 10]
        assert box_at(np.empty(0), np.empty((0, 4)), 1.0) is None

    def test_everybody_is_covered_and_nothing_else(self):
        rgb = np.random.default_rng(0).integers(0, 255, (100, 200, 3)).astype(np.uint8)
        two = FaceCover([self.track([0.0], [[10, 20, 40, 60]]), self.track([0.0], [[180, 70, 220, 120]])])
        covered = two.cover(rgb, pts_s=0.0)
        changed = (covered != rgb).any(axis=2)
        assert changed[20:60, 10:40].mean() > 0.98 and changed[70:, 180:].mean() > 0.98
        assert not changed[:, 60:150].any()
        assert len(np.unique(covered[20:60, 10:40].reshape(-1, 3), axis=0)) <= 36
        assert not (two.cover(rgb, pts_s=5.0) != rgb).any()


def test_the_copy_keeps_times_and_sound_and_blur_covers_the_face(bundle, probe_video, tmp_path):
    (plain,) = predict_files(bundle, videos=[probe_video], out=tmp_path / "plain", video=True)
    (blurred,) = predict_files(bundle, videos=[probe_video], out=tmp_path / "blur", blur=True)
    source = list(read_frames(probe_video))
    shown, hidden = (list(read_frames(item["annotated"])) for item in (plain, blurred))
    for copy in (shown, hidden):
        np.testing.assert_allclose([f.pts_s for f in copy], [f.pts_s for f in source], atol=2e-5)
    height, width = source[0].rgb.shape[:2]
    assert shown[0].rgb.shape[1] == width and shown[0].rgb.shape[0] > height, "the strip is below the picture"
    for original, with_face, without in zip(source, shown, hidden, strict=True):
        apart = [np.abs(item.rgb[:height].astype(int) - original.rgb).mean(axis=2) for item in (with_face, without)]
        assert np.mean(apart[0] > 40) < 0.03, "only the thin box"
        assert np.mean(apart[1] > 12) > 2 * np.mean(apart[0] > 12), "every frame's face is covered"
    with av.open(blurred["annotated"]) as copy, av.open(str(probe_video)) as video:
        assert len(copy.streams.audio) == len(video.streams.audio)


@pytest.mark.real
@pytest.mark.slow
def test_real_clips_have_sensible_timelines(shared_data, bundle, tmp_path):
    clips = shared_data / "clips"
    names = ("pyfeat_no_face.mp4", "pyfeat_face_noface.mov", "mexca_test_video_single_5_frames.mp4")
    none, leaves, five = predict_files(bundle, videos=[clips / name for name in names], out=tmp_path, video=True)
    assert none["faces"] == 0 and none["abstained"] == none["frames"]
    assert 0 < leaves["faces"] < leaves["frames"]
    assert five["frames"] == 1
    for item, name in zip((none, leaves, five), names, strict=True):
        source = [frame.pts_s for frame in read_frames(clips / name)]
        copy = [frame.pts_s for frame in read_frames(item["annotated"])]
        np.testing.assert_allclose(copy, source, atol=2e-5)
