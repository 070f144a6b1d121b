"""The head: features to logits, as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.runtime.encoders import open_session


class OnnxHead:
    """A classifier head with input `features` (N, D) and output `logits` (N, num_outputs)."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return logits (N, num_outputs) for features (N, D)."""
        tensor = np.ascontiguousarray(features, dtype=np.float32)
        (logits,) = self._session.run(["logits"], {"features": tensor})
        return np.asarray(logits, np.float32).reshape(len(tensor), -1)
