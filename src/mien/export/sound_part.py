"""The built-in encoder of sound (`mien.runtime.sound_encoders.LogMelEncoder`), as a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from mien.export.onnx_parts import FLAT, floats, make_part
from mien.runtime.sound import FFT_SIZE, HOP_SAMPLES, WINDOW_SAMPLES, mel_bands
from mien.runtime.sound_encoders import FLOOR_POWER, LOGMEL_STATISTICS

SOUND = "sound"
QUANTILES = {"low": 0.1, "high": 0.9}
FINITE_VARIANCE = 1e-7
"""Added to a window's variance, as transformers' Wav2Vec2FeatureExtractor does."""


def logmel_part() -> ModelProto:
    """Build `sound` (N, S) float32, windows at 16 kHz from -1 to 1, to `FLAT` (N, 320).

    The Fourier transform is a convolution with the sines and cosines of the bins that the bands use: every runtime has
    convolutions, few have `STFT`. float32 is enough: on speech, logits differ from those of float64 by under 1e-4.
    """
    bands = mel_bands()
    used = np.flatnonzero(bands.any(axis=0))
    waves = _windowed_waves(used)
    nodes = [
        helper.make_node("Unsqueeze", [SOUND, "channel"], ["mono"]),
        helper.make_node("Conv", ["mono", "waves"], ["parts"], strides=[HOP_SAMPLES]),
        helper.make_node("Mul", ["parts", "parts"], ["squares"]),
        helper.make_node("MatMul", ["bands", "squares"], ["power"]),
        helper.make_node("Max", ["power", "floor"], ["heard"]),
        helper.make_node("Log", ["heard"], ["logs"]),
        *_spread_nodes(),
        *_quantile_nodes(),
        *_change_nodes(),
        helper.make_node("Concat", ["means", "spreads", "low", "high", "changes"], [FLAT], axis=1),
    ]
    return make_part(
        "log_mel_statistics", nodes, [floats(SOUND, "batch", "samples")],
        [floats(FLAT, "batch", LOGMEL_STATISTICS * len(bands))],
        waves=waves, bands=np.tile(bands[:, used], 2).astype(np.float32), floor=np.float32(FLOOR_POWER),
        channel=np.array([1], np.int64), time=np.array([2], np.int64), one=np.array([1], np.int64),
        start=np.array([0], np.int64), end=np.array([np.iinfo(np.int64).max], np.int64),
        but_last=np.array([-1], np.int64), last=np.array(1, np.int64), third=np.array(2, np.int64),
        **{f"{name}_share": np.float32(share) for name, share in QUANTILES.items()},
    )  # fmt: skip


def normalising_part() -> ModelProto:
    """Build `sound` (N, S) to `normalised` (N, S), of mean 0 and variance 1 each, as speech networks are trained."""
    nodes = [
        helper.make_node("ReduceMean", [SOUND, "time"], ["mean"], keepdims=1),
        helper.make_node("Sub", [SOUND, "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "time"], ["variance"], keepdims=1),
        helper.make_node("Add", ["variance", "finite"], ["above_0"]),
        helper.make_node("Sqrt", ["above_0"], ["spread"]),
        helper.make_node("Div", ["centred", "spread"], ["normalised"]),
    ]
    ends = [floats(name, "batch", "samples") for name in (SOUND, "normalised")]
    return make_part(
        "normalise_sound", nodes, ends[:1], ends[1:],
        time=np.array([1], np.int64), finite=np.float32(FINITE_VARIANCE),
    )  # fmt: skip


def _windowed_waves(bins: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return cosines, then sines of some bins of the transform, under the Hann window: (2 B, 1, WINDOW_SAMPLES)."""
    angles = 2.0 * np.pi * bins[:, None] * np.arange(WINDOW_SAMPLES) / FFT_SIZE
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
    return (np.concatenate([np.cos(angles), np.sin(angles)]) * window)[:, None].astype(np.float32)


def _spread_nodes() -> list[Any]:
    return [
        helper.make_node("ReduceMean", ["logs", "time"], ["level"], keepdims=1),
        helper.make_node("Squeeze", ["level", "time"], ["means"]),
        helper.make_node("Sub", ["logs", "level"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["centred_squares"]),
        helper.make_node("ReduceMean", ["centred_squares", "time"], ["variances"], keepdims=0),
        helper.make_node("Sqrt", ["variances"], ["spreads"]),
    ]


def _quantile_nodes() -> list[Any]:
    """Sort each band over time, and go between the two values beside the quantile's place, as numpy does."""
    nodes = [
        helper.make_node("Shape", ["logs"], ["shape"]),
        helper.make_node("Gather", ["shape", "third"], ["length"], axis=0),
        helper.make_node("Unsqueeze", ["length", "start"], ["all"]),
        helper.make_node("TopK", ["logs", "all"], ["sorted", "order"], axis=2, largest=0, sorted=1),
        helper.make_node("Sub", ["length", "last"], ["highest"]),
        helper.make_node("Cast", ["highest"], ["highest_float"], to=1),
    ]
    for name in QUANTILES:
        nodes += [
            helper.make_node("Mul", ["highest_float", f"{name}_share"], [f"{name}_place"]),
            helper.make_node("Floor", [f"{name}_place"], [f"{name}_floor"]),
            helper.make_node("Sub", [f"{name}_place", f"{name}_floor"], [f"{name}_rest"]),
            helper.make_node("Cast", [f"{name}_floor"], [f"{name}_below"], to=7),
            helper.make_node("Add", [f"{name}_below", "last"], [f"{name}_next"]),
            helper.make_node("Min", [f"{name}_next", "highest"], [f"{name}_above"]),
            helper.make_node("Gather", ["sorted", f"{name}_below"], [f"{name}_left"], axis=2),
            helper.make_node("Gather", ["sorted", f"{name}_above"], [f"{name}_right"], axis=2),
            helper.make_node("Sub", [f"{name}_right", f"{name}_left"], [f"{name}_gap"]),
            helper.make_node("Mul", [f"{name}_gap", f"{name}_rest"], [f"{name}_step"]),
            helper.make_node("Add", [f"{name}_left", f"{name}_step"], [name]),
        ]
    return nodes


def _change_nodes() -> list[Any]:
    return [
        helper.make_node("Slice", ["logs", "one", "end", "time"], ["later"]),
        helper.make_node("Slice", ["logs", "start", "but_last", "time"], ["earlier"]),
        helper.make_node("Sub", ["later", "earlier"], ["differences"]),
        helper.make_node("Abs", ["differences"], ["sizes"]),
        helper.make_node("ReduceMean", ["sizes", "time"], ["changes"], keepdims=0),
    ]
