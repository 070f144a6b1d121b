"""What a fitted model says of its inner split: asked once, for the settings of events and for the calibration alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.training.model_fit import FittedModel


class InnerAnswers:
    """The clips and logits of the inner split, by a model whose weights never saw it; computed where they are needed.

    Args:
        fitted: The model.
        participants: The inner split.
    """

    def __init__(self, fitted: FittedModel, *, participants: Sequence[str]) -> None:
        self._fitted, self._participants = fitted, participants
        self._answers: tuple[pd.DataFrame, NDArray[np.float64]] | None = None

    def get(self) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return the clips (rows of the index) and their logits (N, num_outputs); not to be changed."""
        if self._answers is None:
            self._answers = self._fitted.predict_inner(self._participants)
        return self._answers
