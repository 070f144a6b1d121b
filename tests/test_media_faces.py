from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.core.errors import UserError, WeightsError
from mien.media.detectors import MtcnnDetector, YuNetDetector, make_detector
from mien.media.faces import context_picture, crop_square, crop_whole, median_panel
from mien.media.video import read_frames, sample_frames

SHARED = Path(__file__).parents[2] / "shared/data"
YUNET = SHARED / "weights/yunet/yunet_n_640_640.onnx"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")


def ramp(height=20, width=30):
    """Red holds the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_a_square_inside_the_picture_is_cut_exactly():
    crop = crop_square(ramp(), np.array([10, 6, 14, 12]), margin=1.0, size_px=6)
    # Centre (12, 9), side 6: columns 9..14, rows 6..11.
    assert crop.shape == (6, 6, 3) and crop.dtype == np.uint8
    assert crop[0, :, 0].tolist() == [9, 10, 11, 12, 13, 14]
    assert crop[:, 0, 1].tolist() == [6, 7, 8, 9, 10, 11]


def test_margin_widens_the_longer_side_and_the_border_is_repeated():
    crop = crop_square(ramp(), np.array([-2, 0, 2, 3]), margin=2.0, size_px=8)
    # Centre (0, 1.5), side 8: columns -4..3, rows -2 (1.5 - 4 rounds to even)..5.
    assert crop[0, :, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert crop[:, 0, 1].tolist() == [0, 0, 0, 1, 2, 3, 4, 5]


def test_a_box_outside_the_picture_shows_the_nearest_corner():
    crop = crop_square(ramp(), np.array([100, 100, 104, 104]), margin=1.6, size_px=4)
    assert (crop[..., 0] == 29).all() and (crop[..., 1] == 19).all()


def test_shrinking_averages():
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 255
    rgb = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert np.unique(crop_square(rgb, np.array([0, 0, 8, 8]), margin=1.0, size_px=4)).tolist() == [128]


@pytest.mark.parametrize("box", [[np.nan] * 4, [5, 5, 5, 5], [0, 0, np.inf, 4]])
def test_an_impossible_box_is_an_error(box):
    with pytest.raises(UserError, match="A box must be finite"):
        crop_square(ramp(), np.array(box), margin=1.0, size_px=4)


def test_whole_and_context_pictures():
    rgb = np.zeros((90, 320, 3), np.uint8)
    rgb[:, 160:] = 200
    whole = crop_whole(rgb, size_px=64)
    assert whole.shape == (64, 64, 3) and whole[:, :32].max() == 0 and whole[:, 32:].min() == 200
    assert context_picture(rgb).shape == (45, 160, 3)
    assert context_picture(rgb[:, :80], width_px=160).shape == (180, 160, 3)


def test_the_panel_withstands_outliers_and_frames_without_a_face():
    boxes = [[10, 20, 30, 40], [12, 20, 32, 40], [11, 21, 31, 41], [500, 0, 900, 400], [np.nan] * 4]
    assert median_panel(np.array(boxes)).tolist() == [11.5, 20.0, 31.5, 40.5]
    with pytest.raises(UserError, match="No face was found"):
        median_panel(np.full((3, 4), np.nan))


def test_yunet_without_weights_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("MIEN_WEIGHTS", raising=False)
    for weights in (None, tmp_path / "none.onnx"):
        with pytest.raises(WeightsError, match=r"yunet_n_640_640\.onnx.*MIEN_WEIGHTS"):
            make_detector("yunet", weights=weights)
    assert make_detector("auto").name == "mtcnn"
    with pytest.raises(UserError, match="Unknown face detector 'yunnet'"):
        make_detector("yunnet")


def test_a_file_that_is_no_network_is_told(tmp_path):
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(WeightsError, match="OpenCV can't load"):
        YuNetDetector(path)


@pytest.mark.parametrize("shape", [(1, 1), (15, 300), (240, 320)])
def test_mtcnn_finds_nothing_in_noise_of_any_size(shape, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert MtcnnDetector().detect(noise) == []
    assert capsys.readouterr().out == ""


@pytest.mark.real
@needs_shared
@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_detectors_agree_with_the_recordings(name):
    detector = make_detector(name, weights=YUNET)
    path = sorted((SHARED / "smile_study/Analysis/Respondent Cameras").glob("*AJ 8030*.mp4"))[0]
    rgb = next(read_frames(path)).rgb
    (found,) = detector.detect(rgb)
    x0, y0, x1, y1 = found.box_xyxy
    assert 100 < x1 - x0 < 250 and 140 < y1 - y0 < 300 and found.score > 0.9 - 0.1 * (name == "yunet")
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks_xy
    assert x0 < left_eye[0] < nose[0] < right_eye[0] < x1
    assert y0 < left_eye[1] < nose[1] < left_mouth[1] < y1
    assert left_mouth[0] < right_mouth[0]
    counts = [len(detector.detect(f.rgb)) for f in sample_frames(SHARED / "clips/pyfeat_noface_face.mov", fps=1)]
    assert counts == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.real
@needs_shared
def test_boxes_are_in_px_of_the_whole_picture():
    rgb = cv2.cvtColor(cv2.imread(str(SHARED / "faces/cc0/zoom_45cm.jpg")), cv2.COLOR_BGR2RGB)
    assert rgb.shape == (1536, 1152, 3)
    boxes = [make_detector(name, weights=YUNET).detect(rgb)[0].box_xyxy for name in ("mtcnn", "yunet")]
    # Two detectors, each with its own down-scaling, agree in px of the original.
    np.testing.assert_allclose(boxes[0], boxes[1], atol=60)
    assert boxes[0][2] - boxes[0][0] > 300


@pytest.mark.real
@needs_shared
def test_auto_takes_the_yunet_file_that_opencv_can_load(monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(SHARED / "weights"))
    assert make_detector("auto").name == "yunet"
    with pytest.raises(WeightsError, match="fixed picture sizes"):
        make_detector("yunet", weights=SHARED / "weights/yunet/yunet_n_dynamic.onnx")
