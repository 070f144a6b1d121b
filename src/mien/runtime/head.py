"""The head: features to logits, as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.runtime.encoders import open_session
from mien.runtime.windows import Inputs, RecordingView, WindowSpec, cut_windows, has_something

WINDOW_BLOCK = 128
"""Windows in memory at a time: they overlap, so all of an hour would be many times its features."""


class OnnxHead:
    """A classifier head with input `features` (N, D) and output `logits` (N, num_outputs)."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return logits (N, num_outputs) for features (N, D)."""
        tensor = np.ascontiguousarray(features, dtype=np.float32)
        (logits,) = self._session.run(["logits"], {"features": tensor})
        return np.asarray(logits, np.float32).reshape(len(tensor), -1)


class SequenceHead:
    """A sequence network with the inputs of `mien.runtime.windows` and output `logits` (N, num_outputs)."""

    def __init__(self, path: Path, *, windows: WindowSpec) -> None:
        self._session = open_session(path)
        self.windows = windows

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return logits (N, num_outputs) of windows."""
        given = {name: np.ascontiguousarray(inputs[name], np.float32) for name in self.windows.input_names}
        (logits,) = self._session.run(["logits"], given)
        return np.asarray(logits, np.float32).reshape(len(next(iter(given.values()))), -1)

    def recording_logits(self, view: RecordingView) -> NDArray[np.float64]:
        """Return logits (F, num_outputs) of all sampled frames; NaN where there is nothing to predict from."""
        parts = [self._block(view, np.arange(start, min(start + WINDOW_BLOCK, len(view.pts_s))))
                 for start in range(0, max(1, len(view.pts_s)), WINDOW_BLOCK)]  # fmt: skip
        return np.concatenate(parts)

    def _block(self, view: RecordingView, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        inputs = cut_windows(view, rows, spec=self.windows)
        logits = self.logits(inputs).astype(np.float64)
        logits[~has_something(inputs)] = np.nan
        return logits
