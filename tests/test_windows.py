"""Windows by hand: which frames, which columns of sound and signals, and what counts as missing."""

from __future__ import annotations

import numpy as np
import pytest

from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.signals_view import VIEW_HZ, SignalView, usable_channels, view_signals
from mien.runtime.sound import HOP_S, NUM_MELS, LogMel
from mien.runtime.windows import RecordingView, WindowSpec, cut_windows, has_something, view_recording

ALL = ("video", "audio", "signals")


def _spec(*modalities, length=3, context_s=0.1, feature_dim=1, names=("GSR",)):
    return WindowSpec(modalities, length, context_s, feature_dim=feature_dim, signal_names=names)


def _view(*, num=5, features=True, sound=None, signals=None, pts_s=None):
    values = np.arange(1.0, num + 1, dtype=np.float32)[:, None] if features else None
    times_s = np.arange(num, dtype=np.float64) if pts_s is None else np.asarray(pts_s, np.float64)
    return RecordingView(times_s, values, sound, signals)


def test_frames_are_centred_and_the_edges_masked():
    cut = cut_windows(_view(), np.array([0, 2, 4]), spec=_spec("video"))
    assert cut["features"][:, :, 0].tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 0]]
    assert cut["frame_mask"].tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert cut["features"].dtype == np.float32 and set(cut) == {"features", "frame_mask"}


def test_a_frame_without_a_face_is_masked_and_so_are_frames_beyond_a_gap():
    view = _view(pts_s=[0, 1, 2, 9, 10])
    view.features[1] = np.nan
    cut = cut_windows(view, np.array([1, 2, 3]), spec=_spec("video"))
    assert cut["features"][:, :, 0].tolist() == [[1, 0, 3], [0, 3, 0], [0, 4, 5]]
    assert cut["frame_mask"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert has_something(cut, spec=_spec("video")).tolist() == [False, True, True]


def test_jitter_is_no_gap():
    cut = cut_windows(_view(pts_s=[0, 0.8, 2.2, 2.9, 4.1]), np.array([2]), spec=_spec("video", length=5))
    assert cut["frame_mask"].tolist() == [[1, 1, 1, 1, 1]]


def test_sound_is_cut_around_the_frames_time():
    sound = LogMel(np.tile(np.arange(200, dtype=np.float32), (NUM_MELS, 1)), start_s=0.5)
    cut = cut_windows(_view(sound=sound), np.array([0, 1, 2, 4]), spec=_spec("audio"))
    assert cut["audio"].shape == (4, NUM_MELS, 5)
    # The frame at 1 s: column (1.0 - 0.5) / 0.02 = 25 in the middle of five.
    assert cut["audio"][1, 0].tolist() == [23, 24, 25, 26, 27]
    assert cut["audio"][2, 7].tolist() == [73, 74, 75, 76, 77]
    assert cut["audio_mask"][:, 0].tolist() == [0, 1, 1, 1]
    # Half a second before the sound starts there is nothing, and it is 0.
    assert not cut["audio"][0].any()
    # The last frame is at 4 s, its column 175.
    assert cut["audio"][3, 0, 2] == pytest.approx((4.0 - 0.5) / HOP_S)


def test_less_than_a_quarter_of_a_window_of_sound_is_missing():
    sound = LogMel(np.ones((NUM_MELS, 1), np.float32), start_s=0.0)
    assert cut_windows(_view(sound=sound), np.array([0]), spec=_spec("audio"))["audio_mask"].tolist() == [[0]]
    sound = LogMel(np.ones((NUM_MELS, 2), np.float32), start_s=0.0)
    cut = cut_windows(_view(sound=sound), np.array([0]), spec=_spec("audio"))
    assert cut["audio_mask"].tolist() == [[1]] and cut["audio"][0, 0].tolist() == [0, 0, 1, 1, 0]


def test_signals_are_masked_channel_by_channel():
    values = np.stack([np.arange(40), np.full(40, np.nan)]).astype(np.float32)
    view = _view(signals=SignalView(values, start_s=0.0))
    cut = cut_windows(view, np.array([2]), spec=_spec("signals", context_s=0.5, names=("GSR", "PPG")))
    assert cut["signals"][0, 0].tolist() == [15, 16, 17, 18]  # 2 s is column 16 of 8 per second
    assert cut["signals_mask"].tolist() == [[1, 0]] and not cut["signals"][0, 1].any()


def test_everything_missing_has_its_shape_and_nothing_to_predict_from():
    cut = cut_windows(_view(features=False), np.array([0, 1]), spec=_spec(*ALL, feature_dim=7, names=("A", "B")))
    shapes = {name: values.shape for name, values in cut.items()}
    assert shapes == {
        "features": (2, 3, 7),
        "frame_mask": (2, 3),
        "audio": (2, NUM_MELS, 5),
        "audio_mask": (2, 1),
        "signals": (2, 2, 1),
        "signals_mask": (2, 2),
    }
    assert not any(values.any() for values in cut.values())
    assert has_something(cut, spec=_spec(*ALL)).tolist() == [False, False]


def test_the_baseline_is_that_of_all_frames_with_a_face():
    view = view_recording(
        _spec("video"),
        pts_s=np.arange(3.0),
        features=np.array([[1.0], [np.nan], [5.0]]),
        baseline=PersonalBaseline("recording"),
    )
    np.testing.assert_array_equal(view.features, np.array([[-2], [np.nan], [2]], np.float32))


def test_signals_are_on_the_scale_of_their_recording():
    times_s = np.arange(0, 20, 1 / 32)
    rising = np.linspace(2.0, 6.0, len(times_s))
    peaks = (times_s > 18).astype(float)
    table = SignalTable(("GSR", "Peaks"), ("", ""), times_s, np.stack([rising, peaks], axis=1).astype(np.float32))
    view = view_signals(table, names=("Peaks", "GSR", "PPG"))
    assert view.values.shape == (3, 20 * VIEW_HZ + 1) or view.values.shape == (3, 20 * VIEW_HZ)
    assert abs(np.median(view.values[1])) < 0.05
    assert np.percentile(view.values[1], 75) - np.percentile(view.values[1], 25) == pytest.approx(1.349, rel=0.02)
    # More than half of the peaks' counts are equal: their standard deviation scales them instead.
    assert view.values[0].max() == pytest.approx(1 / peaks.std(), rel=0.05)
    assert np.isnan(view.values[2]).all()
    ten_times = SignalTable(table.names, table.units, times_s, table.values * 10 + 3)
    np.testing.assert_allclose(view_signals(ten_times, names=("GSR",)).values[0], view.values[1], atol=1e-3)


def test_a_slow_sensor_keeps_its_latest_value_and_a_gap_stays_one():
    values = np.array([[1.0], [np.nan], [3.0], [5.0]], np.float32)
    view = view_signals(SignalTable(("X",), ("",), np.arange(4.0), values), names=("X",))
    assert view.values.shape == (1, 25)
    held = view.values[0]
    assert (held[:8] == held[0]).all() and np.isnan(held[8:16]).all() and (held[16:24] == held[16]).all()
    assert view_signals(SignalTable(("X",), ("",), np.arange(4.0), values), names=("Y",)) is None


def test_ratings_of_the_face_are_no_signals():
    names = ["Speech", "Joy", "Joy Evidence", "AU12_r", "browFurrow", "GSR Conductance CAL", "Heart Rate", "Attention"]
    assert usable_channels(names) == ("GSR Conductance CAL", "Heart Rate")
    assert usable_channels(["Average Fixation Duration", "Smile (AFFDEX, face 1)"]) == ("Average Fixation Duration",)


def test_a_spec_survives_json():
    spec = _spec(*ALL, length=9, context_s=2.0, feature_dim=900, names=("A", "B"))
    assert WindowSpec.from_json(spec.to_json()) == spec
    assert spec.input_names == ("features", "frame_mask", "audio", "audio_mask", "signals", "signals_mask")
