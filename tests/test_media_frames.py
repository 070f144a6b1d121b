import cv2
import numpy as np
import pandas as pd
import pytest

from media_fixtures import damage_packets, index_of, tone, write_sound, write_video
from mien.core.errors import MediaError, UserError
from mien.media.frames import extract_frames

TIMES_S = [0.0, 0.033, 0.3, 0.55, 1.1, 1.15, 2.2]


@pytest.fixture
def video(tmp_path):
    (tmp_path / "in").mkdir()
    return write_video(tmp_path / "in/a.mp4", times_s=TIMES_S)


def test_frames_are_numbered_by_sample_and_keep_their_times(video, tmp_path):
    out = tmp_path / "out"
    paths = extract_frames([video], out, every=3, size_px=32)
    assert [p.relative_to(out).as_posix() for p in paths] == [f"a/frame_00000{i}.jpg" for i in range(3)]
    pictures = [cv2.imread(str(p)) for p in paths]
    assert [p.shape for p in pictures] == [(32, 32, 3)] * 3
    assert [index_of(p) for p in pictures] == [0, 3, 6]
    lines = (out / "frames.csv").read_text().splitlines()
    assert lines[:3] == [
        "path,video,pts_s,frame",
        f"a/frame_000000.jpg,{video},0.000000,0",
        f"a/frame_000001.jpg,{video},0.550000,3",
    ]
    assert not (out / "failures.csv").exists()


def test_a_rate_takes_the_place_of_every(video, tmp_path):
    extract_frames([video], tmp_path / "out", fps=1)
    table = pd.read_csv(tmp_path / "out/frames.csv")
    assert table["pts_s"].tolist() == [0.0, 1.1, 2.2]
    assert table["frame"].tolist() == [0, 4, 6]


def test_colours_stay_in_order(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 230
    path = write_video(tmp_path / "red.mp4", times_s=[0.0], pictures=[red])
    (jpg,) = extract_frames([path], tmp_path / "out")
    blue, green, red_level = cv2.imread(str(jpg)).reshape(-1, 3).mean(axis=0)
    assert red_level > 200 and blue < 40 and green < 40


def test_videos_of_the_same_name_get_their_own_folders(tmp_path):
    videos = []
    for name in ("x/a.mp4", "y/a.mkv", "y/a_2.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        videos.append(write_video(tmp_path / name, times_s=[0.0]))
    paths = extract_frames(videos, tmp_path / "out")
    assert [p.parent.name for p in paths] == ["a", "a_3", "a_2"]


def test_a_broken_video_is_reported_and_the_rest_goes_on(video, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    sound = write_sound(tmp_path / "s.wav", parts=[(0.0, tone(0.1))])
    out = tmp_path / "out"
    assert len(extract_frames([empty, video, sound], out, every=1)) == 7
    failures = pd.read_csv(out / "failures.csv")
    assert failures.columns.tolist() == ["recording", "stage", "reason", "advice"]
    assert failures["recording"].tolist() == [str(empty), str(sound)]
    assert failures["reason"].tolist() == [
        "empty.mp4 is empty (0 bytes)",
        "s.wav has no video stream that can be decoded",
    ]
    extract_frames([video], out)
    assert not (out / "failures.csv").exists()


def test_damage_that_was_skipped_is_reported(tmp_path):
    path = write_video(tmp_path / "v.mp4", times_s=[i / 25 for i in range(100)])
    damage_packets(path, packets=range(50, 100))
    paths = extract_frames([path], tmp_path / "out", every=10)
    assert [index_of(cv2.imread(str(p))) for p in paths] == [0, 10, 20, 0, 10]
    (reason,) = pd.read_csv(tmp_path / "out/failures.csv")["reason"]
    assert "damaged packets" in reason and reason.endswith(
        "the last frame is at 1.960 s, of 4.000 s that the file declares"
    )


def test_when_nothing_can_be_read_the_first_reason_is_raised(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(MediaError, match=r"a\.mp4 is empty"):
        extract_frames([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out/failures.csv")) == 2


def test_an_earlier_extraction_is_replaced_and_other_files_stay(video, tmp_path):
    out = tmp_path / "out"
    extract_frames([video], out, every=1)
    (out / "a/notes.txt").write_text("mine")
    extract_frames([video], out, every=6)
    assert sorted(p.name for p in (out / "a").iterdir()) == ["frame_000000.jpg", "frame_000001.jpg", "notes.txt"]


def test_wrong_options_are_told(video, tmp_path):
    with pytest.raises(UserError, match="name at least one"):
        extract_frames([], tmp_path)
    with pytest.raises(UserError, match="size_px must be positive, got 0"):
        extract_frames([video], tmp_path, size_px=0)
    with pytest.raises(UserError, match="every must be a positive"):
        extract_frames([video], tmp_path, every=0)
