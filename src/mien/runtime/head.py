"""The head: features to logits, as ONNX."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mien.runtime.encoders import open_session
from mien.runtime.stored_recording import StoredRecording
from mien.runtime.windows import Inputs, RecordingView, WindowSpec, cut_windows, has_something

WINDOW_BLOCK = 128
"""Windows in memory at a time: they overlap, so all of an hour would be many times its features."""


class _Head:
    """What heads have in common: all of their outputs, or one."""

    _columns: slice | list[int] = slice(None)

    def only(self, column: int) -> Self:
        """Return the same head with one of its outputs alone, (N, 1)."""
        single = copy.copy(self)
        single._columns = [column]
        return single

    def _chosen(self, logits: NDArray[np.floating], *, num: int) -> NDArray[np.float32]:
        return np.asarray(logits, np.float32).reshape(num, -1)[:, self._columns]


class OnnxHead(_Head):
    """A classifier head with input `features` (N, D) and output `logits` (N, num_outputs)."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return logits (N, num_outputs) for features (N, D)."""
        tensor = np.ascontiguousarray(features, dtype=np.float32)
        (logits,) = self._session.run(["logits"], {"features": tensor})
        return self._chosen(logits, num=len(tensor))


class SequenceHead(_Head):
    """A sequence network with the inputs of `mien.runtime.windows` and output `logits` (N, num_outputs)."""

    def __init__(self, path: Path, *, windows: WindowSpec) -> None:
        self._session = open_session(path)
        self.windows = windows

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return logits (N, num_outputs) of windows."""
        given = {name: np.ascontiguousarray(inputs[name], np.float32) for name in self.windows.input_names}
        (logits,) = self._session.run(["logits"], given)
        return self._chosen(logits, num=len(next(iter(given.values()))))

    def recording_logits(self, view: RecordingView | StoredRecording) -> NDArray[np.float64]:
        """Return logits (F, num_outputs) of all sampled frames; NaN where there is nothing to predict from."""
        parts = [self._block(view, np.arange(start, min(start + WINDOW_BLOCK, len(view.pts_s))))
                 for start in range(0, max(1, len(view.pts_s)), WINDOW_BLOCK)]  # fmt: skip
        return np.concatenate(parts)

    def _block(self, view: RecordingView | StoredRecording, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if isinstance(view, StoredRecording):
            inputs = view.cut(rows, spec=self.windows)
        else:
            inputs = cut_windows(view, rows, spec=self.windows)
        logits = self.logits(inputs).astype(np.float64)
        logits[~has_something(inputs, spec=self.windows)] = np.nan
        return logits
