"""The personal baseline: a face is read against that person's own face (EVALUATION.md section 6).

It subtracts, per recording, a mean of the person's own features. It sees all face frames, never labels; the same code
runs in training, in prediction and in serving. Its price: the mean over the whole recording is pulled by the expression
itself, so sensitivity falls as prevalence rises; and a label that is constant per recording is erased. A named rest
segment has no such price, but only a study's recordings have segments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError

BaselineKind = Literal["none", "recording", "running", "first", "segment"]
_FIRST = re.compile(r"first:(\d+(?:\.\d+)?)$")
# A mean over fewer seconds is one expression rather than a face: such recordings are refused.
MIN_BASELINE_S = 5.0
ALLOWED = "none, recording, running or first:SECONDS, or segment:NAME (a rest of segments.csv)"


@dataclass(frozen=True)
class PersonalBaseline:
    """What is subtracted from the features of a recording.

    Attributes:
        kind: `none`; `recording`: mean over all frames with a face; `running`: mean over the frames so far, the present
            one included; `first`: mean over the first `seconds` of frames with a face; `segment`: mean over the frames
            with a face in the segments called `segment`.
        seconds: Length of the reference for `first`.
        segment: Name of the reference for `segment`.
    """

    kind: BaselineKind = "none"
    seconds: float = 0.0
    segment: str = ""

    @staticmethod
    def parse(text: str) -> PersonalBaseline:
        """Read `none`, `recording`, `running`, `first:S` or `segment:NAME`.

        Raises:
            UserError: Anything else.

        >>> PersonalBaseline.parse("first:3") == PersonalBaseline("first", seconds=3.0)
        True
        >>> str(PersonalBaseline.parse("segment:rest"))
        'segment:rest'
        """
        if text in ("none", "recording", "running"):
            return PersonalBaseline(kind=text)  # type: ignore[arg-type]
        match = _FIRST.fullmatch(text)
        if match and float(match.group(1)) > 0:
            return PersonalBaseline(kind="first", seconds=float(match.group(1)))
        name = text.removeprefix("segment:").strip()
        if text.startswith("segment:") and name:
            return PersonalBaseline(kind="segment", segment=name)
        raise UserError(f"Unknown personal baseline {text!r}. Allowed: {ALLOWED}.")

    @property
    def needed_s(self) -> float:
        """Seconds with a face that a recording needs at least."""
        return 0.0 if self.kind == "none" else max(MIN_BASELINE_S, self.seconds)

    def __str__(self) -> str:
        given = {"first": f"first:{self.seconds:g}", "segment": f"segment:{self.segment}"}
        return given.get(self.kind, self.kind)

    def check_new_recording(self) -> None:
        """Refuse a baseline that a new recording can't give, before any of it is decoded.

        Raises:
            UserError: The baseline is over a named segment.
        """
        if self.kind == "segment":
            raise UserError(
                f"The personal baseline {self} is over the segment {self.segment!r} of a study's segments.csv; a new "
                "recording by itself has no segments. Use a model with the baseline none, recording, running or "
                "first:SECONDS (first:SECONDS where recordings start with a rest)."
            )

    def subtract(
        self,
        features: NDArray[np.floating],
        *,
        pts_s: NDArray[np.floating],
        reference: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Subtract the baseline of ONE recording.

        Args:
            features: (N, D), in order of time; all frames with a face, labelled or not. Rows of NaN (no face) are
                ignored by the mean and stay NaN.
            pts_s: (N,) times in seconds.
            reference: (N,) which frames are in the named segment; for `segment` alone.

        Returns:
            (N, D) float64.

        Raises:
            UserError: `segment` without a reference, or with no frame with a face in it.

        >>> PersonalBaseline("recording").subtract(np.array([[1.0], [3.0]]), pts_s=np.array([0.0, 1.0])).ravel()
        array([-1.,  1.])
        """
        if reference is None:
            self.check_new_recording()
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
        elif self.kind == "segment":
            chosen = seen & np.asarray(reference, bool)
            if not chosen.any():
                raise UserError(
                    f"A recording has no frame with a face in the segment {self.segment!r}, over which its personal "
                    "baseline would be. Add the segment to segments.csv, leave the recording out, or use another "
                    "baseline."
                )
        return np.asarray(values - values[chosen].mean(axis=0))
