"""The camera's panel of composite screen recordings."""

import numpy as np
import pytest

from media_fixtures import write_video
from mien.core.errors import MediaError
from mien.media.detectors import make_detector
from mien.media.panel import NUM_SAMPLES, find_panel, locate_panel
from people_scenes import Actor, KnowingDetector, scene, standing

BORDER = (190, 90, 310, 170)
"""The camera's panel in the scene, px."""


def backgrounds(*, border=True, flicker=False):
    """Return the screen of frame i: a page, and the camera's wall that is never quite still."""

    def background(frame):
        rng = np.random.default_rng(frame)
        picture = np.full((180, 320, 3), 235, np.uint8)
        picture[20:24, 10:150] = 60
        if flicker:
            picture[100:160, 20:160] = rng.integers(0, 255)
        x0, y0, x1, y1 = BORDER
        wall = 180 if border else 235
        picture[y0:y1, x0:x1] = wall + rng.integers(-6, 7, (y1 - y0, x1 - x0, 1))
        return picture

    return background


def located(actors, background, *, frames=NUM_SAMPLES, margin=1.6):
    detector = KnowingDetector(actors)
    pictures = [scene(actors, i, background=background(i)) for i in range(frames)]
    greys = [picture.mean(axis=2).astype(np.uint8) for picture in pictures]
    return locate_panel(greys, [detector.detect(picture) for picture in pictures], scale=1.0, margin=margin)


PARTICIPANT = Actor(1, standing(255, 122, 26, sway=3))


def test_the_border_is_found_and_nothing_outside_is_cut():
    panel = located([PARTICIPANT], backgrounds())
    assert np.abs(panel.border_xyxy - BORDER).max() <= 2
    assert panel.face_share == 1.0
    side = 1.6 * (panel.box_xyxy[2:] - panel.box_xyxy[:2]).max()
    centre = (panel.box_xyxy[:2] + panel.box_xyxy[2:]) / 2
    assert (centre - side / 2 >= np.array(BORDER[:2]) - 0.5).all()
    assert (centre + side / 2 <= np.array(BORDER[2:]) + 0.5).all()
    # With a wider margin the square would reach over the border, so it shrinks to it.
    wide = located([PARTICIPANT], backgrounds(), margin=4.0)
    assert 4.0 * (wide.box_xyxy[2:] - wide.box_xyxy[:2]).max() <= 80.5


@pytest.mark.parametrize("moves", [False, True])
def test_a_larger_face_in_the_stimulus_for_half_of_the_time_is_no_participant(moves):
    def place(frame):
        return standing(90, 70, 60, sway=6 if moves else 0)(frame) if frame < NUM_SAMPLES // 2 else None

    panel = located([PARTICIPANT, Actor(2, place)], backgrounds())
    assert np.abs(panel.border_xyxy - BORDER).max() <= 2
    assert panel.holds(panel.face_xyxy) and not panel.holds(np.array([60, 34, 120, 106]))


def test_a_still_face_is_not_taken_though_the_participant_looks_down_for_longer():
    """The face in the stimulus is seen in more frames, but its place doesn't live."""

    def looks_up(frame):
        return standing(255, 122, 26, sway=3)(frame) if frame % 5 < 2 else None

    stimulus = Actor(2, lambda frame: (90, 70, 60) if frame < 14 else None)
    panel = located([Actor(1, looks_up), stimulus], backgrounds())
    assert panel.face_share == pytest.approx(10 / 24)
    assert np.abs(panel.border_xyxy - BORDER).max() <= 2


def test_without_a_border_it_is_the_median_face():
    panel = located([PARTICIPANT], backgrounds(border=False))
    assert panel.border_xyxy is None
    assert panel.box_xyxy.tolist() == panel.face_xyxy.tolist()
    assert np.abs((panel.face_xyxy[:2] + panel.face_xyxy[2:]) / 2 - (255, 122)).max() < 4
    assert panel.holds(panel.face_xyxy) and not panel.holds(panel.face_xyxy - 40)


def test_no_face_no_panel(tmp_path):
    assert located([], backgrounds()) is None
    path = write_video(tmp_path / "a.mp4", times_s=[0.0, 0.5, 1.0])
    with pytest.raises(MediaError, match="shows no face in 3 frames"):
        find_panel(path, detector=KnowingDetector([]), margin=1.6)


def test_a_file_is_sampled_sparsely(tmp_path):
    times_s = [i / 10 for i in range(60)]
    pictures = [scene([PARTICIPANT], i, background=backgrounds()(i)) for i in range(60)]
    path = write_video(tmp_path / "a.mp4", times_s=times_s, pictures=pictures)
    detector = KnowingDetector([PARTICIPANT])
    panel = find_panel(path, detector=detector, margin=1.6)
    assert len(detector.calls) <= NUM_SAMPLES and max(detector.calls) >= 55
    assert np.abs(panel.border_xyxy - BORDER).max() <= 3


@pytest.mark.real
@pytest.mark.slow
def test_real_screen_recordings(shared_data):
    detector = make_detector("yunet", weights=shared_data / "weights/yunet/yunet_n_640_640.onnx")
    replays = shared_data / "smile_study/Analysis/Gaze Replays"
    for name in ("BE 4041", "OA 9941", "YE 7407"):
        panel = find_panel(replays / f"Screen recording 1 - {name}.mp4", detector=detector, margin=1.6)
        assert np.abs(panel.border_xyxy - (540, 270, 900, 540)).max() <= 3
        assert panel.face_share > 0.9
