import cv2
import numpy as np
import pytest

from mien.core.types import Face
from mien.media.alignment import TEMPLATE
from mien.media.quality import QUALITY_COLUMNS, face_quality, pose_proxies


def measured(rgb, face):
    return dict(zip(QUALITY_COLUMNS, face_quality(rgb, face), strict=True))


@pytest.fixture
def face():
    box = np.array([40, 30, 104, 110], np.float32)
    return Face(box, (TEMPLATE + np.array([40, 38])).astype(np.float32), 0.9)


def test_sharpness_falls_with_blur_and_brightness_is_the_mean_luma(face):
    rng = np.random.default_rng(0)
    rgb = np.repeat(rng.integers(0, 256, (160, 160, 1), dtype=np.uint8), 3, axis=2)
    soft = cv2.GaussianBlur(rgb, (0, 0), 2)
    assert measured(rgb, face)["sharpness"] > 10 * measured(soft, face)["sharpness"] > 0
    flat = np.full((160, 160, 3), (200, 100, 50), np.uint8)
    values = measured(flat, face)
    assert values["sharpness"] == 0 and values["face_px"] == 80
    assert values["brightness"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_sharpness_does_not_depend_on_the_resolution(face):
    """The same picture in twice as many px: the face's square is measured at one size."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    small = cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(coarse, (320, 320), interpolation=cv2.INTER_CUBIC)
    twice = Face(face.box_xyxy * 2, face.landmarks_xy * 2, 0.9)
    assert measured(large, twice)["sharpness"] == pytest.approx(measured(small, face)["sharpness"], rel=0.35)
    assert measured(large, twice)["face_px"] == 2 * measured(small, face)["face_px"]


def turned(points, degrees):
    angle = np.radians(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("degrees", [-40, 0, 25])
def test_pose_proxies_by_hand(degrees):
    level = np.array([[-10, 0], [10, 0], [0, 12], [-7, 22], [7, 22]], float)
    yaw, pitch, roll = pose_proxies(turned(level, degrees))
    assert (yaw, pitch, roll) == pytest.approx((0, 12 / 22, degrees), abs=1e-9)
    to_the_right, down = level.copy(), level.copy()
    to_the_right[2, 0] += 5
    down[2, 1] += 5
    assert pose_proxies(turned(to_the_right, degrees))[0] == pytest.approx(0.5)
    assert pose_proxies(turned(down, degrees))[1] == pytest.approx(17 / 22)


def test_landmarks_in_one_place_have_no_pose():
    assert np.isnan(pose_proxies(np.zeros((5, 2)))).all()
