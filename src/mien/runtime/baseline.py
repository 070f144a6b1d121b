"""The personal baseline: a face is read against that person's own face (EVALUATION.md section 6).

It subtracts, per recording, a mean of the person's own features. It sees all face frames, never labels; the same code
runs in training, in prediction and in serving. Its price: the mean over the whole recording is pulled by the expression
itself, so sensitivity falls as prevalence rises; and a label that is constant per recording is erased.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError

BaselineKind = Literal["none", "recording", "running", "first"]
_FIRST = re.compile(r"first:(\d+(?:\.\d+)?)$")
# A mean over fewer seconds is one expression rather than a face: such recordings are refused.
MIN_BASELINE_S = 5.0
ALLOWED = "none, recording, running or first:SECONDS"


@dataclass(frozen=True)
class PersonalBaseline:
    """What is subtracted from the features of a recording.

    Attributes:
        kind: `none`; `recording`: mean over all frames with a face; `running`: mean over the frames so far, the present
            one included; `first`: mean over the first `seconds` of frames with a face.
        seconds: Length of the reference for `first`.
    """

    kind: BaselineKind = "none"
    seconds: float = 0.0

    @staticmethod
    def parse(text: str) -> PersonalBaseline:
        """Read `none`, `recording`, `running` or `first:S`.

        Raises:
            UserError: Anything else.

        >>> PersonalBaseline.parse("first:3")
        PersonalBaseline(kind='first', seconds=3.0)
        """
        if text in ("none", "recording", "running"):
            return PersonalBaseline(kind=text)  # type: ignore[arg-type]
        match = _FIRST.fullmatch(text)
        if match and float(match.group(1)) > 0:
            return PersonalBaseline(kind="first", seconds=float(match.group(1)))
        raise UserError(f"Unknown personal baseline {text!r}. Allowed: {ALLOWED}.")

    @property
    def needed_s(self) -> float:
        """Seconds with a face that a recording needs at least."""
        return 0.0 if self.kind == "none" else max(MIN_BASELINE_S, self.seconds)

    def __str__(self) -> str:
        return f"first:{self.seconds:g}" if self.kind == "first" else self.kind

    def subtract(self, features: NDArray[np.floating], *, pts_s: NDArray[np.floating]) -> NDArray[np.float64]:
        """Subtract the baseline of ONE recording.

        Args:
            features: (N, D), in order of time; all frames with a face, labelled or not. Rows of NaN (no face) are
                ignored by the mean and stay NaN.
            pts_s: (N,) times in seconds.

        Returns:
            (N, D) float64.

        >>> PersonalBaseline("recording").subtract(np.array([[1.0], [3.0]]), pts_s=np.array([0.0, 1.0])).ravel()
        array([-1.,  1.])
        """
        values = np.asarray(features, np.float64)
        if self.kind == "none" or len(values) == 0:
            return values
        seen = np.asarray(~np.isnan(values).any(axis=1))
        if not seen.any():
            return values
        if self.kind == "running":
            filled = np.where(seen[:, None], values, 0.0)
            counts = np.maximum(np.cumsum(seen), 1)[:, None]
            return np.asarray(values - np.cumsum(filled, axis=0) / counts)
        chosen = seen
        if self.kind == "first":
            first_s = float(pts_s[seen][0])
            chosen = seen & (np.asarray(pts_s) < first_s + self.seconds)
        return np.asarray(values - values[chosen].mean(axis=0))
