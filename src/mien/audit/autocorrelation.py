"""Correlation in time: how many independent clips there really are behind the clips that were counted.

Neighbouring clips are right or wrong together, and some people are easier than others. Both make the number of clips
meaningless as a sample size, which is why every interval of mien is over participants; this check says by how much.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.audit.check import Check
from mien.core.labels import LabelScheme

MIN_PAIRS = 10
"""A correlation of fewer pairs of neighbours is noise (its standard error is above .3)."""

GAP_FACTOR = 1.5
"""Clips further apart than this multiple of the usual spacing are no neighbours: a face was lost, nobody coded."""


@dataclass(frozen=True)
class TimeCorrelation:
    """How dependent clips are.

    Attributes:
        phi: Lag-1 autocorrelation of correctness, mean over participants for whom it is defined.
        participants: For how many it is defined: some clips right and some wrong, and neighbours enough.
        num_clips: Clips with a target (N) of these participants.
        effective_clips: Sum over these participants of N (1 - phi) / (1 + phi).
        icc: Intraclass correlation of correctness: share of its variance that lies between participants.
        design_effect: How many times the variance of a share over clips is larger than for independent clips.
    """

    phi: float
    participants: int
    num_clips: int
    effective_clips: float
    icc: float
    design_effect: float


def lag1_autocorrelation(correct: NDArray[np.floating], *, follows: NDArray[np.bool_]) -> float:
    """Return the lag-1 autocorrelation of one participant's correctness.

    r = (mean over neighbours of (c_t - m)(c_t+1 - m)) / (mean over clips of (c_t - m)^2), Box & Jenkins 1976, with the
    means over as many products as there are.

    Args:
        correct: (N,) 1 where right, else 0, in order of time, recordings one after the other.
        follows: (N,) whether a clip directly follows the one before it.

    Returns:
        NaN where everything is right or everything wrong, or fewer than `MIN_PAIRS` clips follow another.

    >>> lag1_autocorrelation(np.array([1.0, 0.0] * 10), follows=np.array([False] + [True] * 19))
    -1.0
    """
    values = np.asarray(correct, dtype=np.float64)
    pairs = np.flatnonzero(follows)
    if len(pairs) < MIN_PAIRS or np.ptp(values) == 0:
        return float("nan")
    centred = values - values.mean()
    return float(np.clip((centred[pairs] * centred[pairs - 1]).mean() / (centred**2).mean(), -1.0, 1.0))


def effective_size(count: int, *, phi: float) -> float:
    """Return the number of independent clips that N clips of an AR(1) process are worth: N (1 - phi) / (1 + phi).

    Bayley & Hammersley 1946 (Suppl. J. R. Stat. Soc. 8:184-197), for long series. A negative phi would give more than
    N; it counts as 0, because in short series it is mostly the estimate's bias (about -1 / N).

    >>> effective_size(100, phi=0.5).__round__(1)
    33.3
    """
    bounded = max(0.0, phi)
    return count * (1.0 - bounded) / (1.0 + bounded)


def intraclass_correlation(correct: NDArray[np.floating], participants: NDArray[np.object_]) -> tuple[float, float]:
    """Return the intraclass correlation of correctness, and the design effect that follows from it.

    ICC(1) of a one-way analysis of variance, (MSB - MSW) / (MSB + (n0 - 1) MSW) (Shrout & Fleiss 1979, Psychol. Bull.
    86:420-428), with n0 = (N - sum n_p^2 / N) / (P - 1) for unequal numbers of clips (Donner 1986, Int. Stat. Rev.
    54:67-82). Design effect 1 + (n_w - 1) ICC (Kish 1965), n_w = sum n_p^2 / N the clip-weighted mean number; a
    negative ICC counts as 0 in it.

    Args:
        correct: (N,) 1 where right, else 0.
        participants: (N,) participant ids.

    Returns:
        NaN and NaN for fewer than two participants, one clip each, or where all are right or all wrong.
    """
    values = np.asarray(correct, dtype=np.float64)
    _, person = np.unique(participants.astype(str), return_inverse=True)
    counts = np.bincount(person)
    total, people = values.size, counts.size
    if people < 2 or total <= people or np.ptp(values) == 0:
        return float("nan"), float("nan")
    means = np.bincount(person, weights=values) / counts
    between = float((counts * (means - values.mean()) ** 2).sum() / (people - 1))
    within = float(((values - means[person]) ** 2).sum() / (total - people))
    size = float((total - (counts**2).sum() / total) / (people - 1))
    icc = (between - within) / (between + (size - 1.0) * within)
    return icc, 1.0 + (float((counts**2).sum() / total) - 1.0) * max(0.0, icc)


def time_correlation(predictions: pd.DataFrame, scheme: LabelScheme) -> TimeCorrelation:
    """Measure how dependent the clips of one model's predictions are.

    Args:
        predictions: A predictions table of one model.
        scheme: The target.
    """
    known = predictions[predictions["target"].notna()].sort_values(["participant_id", "recording_id", "start_s"])
    outputs = known[[f"prob_{name}" for name in scheme.output_names]].to_numpy(dtype=np.float64)
    correct = (scheme.predicted(outputs) == known["target"].to_numpy(np.int64)).astype(np.float64)
    people = known["participant_id"].to_numpy(dtype=object)
    phis, effective, num_clips = [], 0.0, 0
    for rows in known.reset_index(drop=True).groupby("participant_id", sort=True).indices.values():
        follows = _follows(known.iloc[rows])
        phi = lag1_autocorrelation(correct[rows], follows=follows)
        if np.isnan(phi):
            continue  # where all clips are right, or all wrong, nothing says how dependent they are
        phis.append(phi)
        num_clips += len(rows)
        effective += effective_size(len(rows), phi=phi)
    defined = np.array(phis)
    icc, design_effect = intraclass_correlation(correct, people)
    mean = float(defined.mean()) if defined.size else float("nan")
    return TimeCorrelation(mean, int(defined.size), num_clips, effective, icc, design_effect)


def check_time_correlation(predictions: pd.DataFrame, scheme: LabelScheme) -> Check:
    """Show how dependent the clips are. It never warns: intervals are over participants whatever comes out.

    Args:
        predictions: A predictions table of one model: the probe's, with people apart.
        scheme: The target.
    """
    if scheme.unit in ("recording", "participant"):
        detail = f"One label describes a {scheme.unit}: its clips repeat one answer and count once."
        return Check("time-correlation", "not checked", None, None, detail, "Nothing has to be done.")
    found = time_correlation(predictions, scheme)
    evidence = asdict(found) | {"model": str(predictions["model"].iloc[0]) if len(predictions) else ""}
    if np.isnan(found.phi):
        detail = f"No participant has {MIN_PAIRS} neighbouring clips of which some are right and some wrong."
        return Check("time-correlation", "not checked", None, None, detail, "Use longer recordings.", evidence)
    return Check(
        "time-correlation",
        "ok",
        found.phi,
        None,
        f"Right and wrong clips follow their own kind: lag-1 autocorrelation {found.phi:.2f} (mean of "
        f"{found.participants} participants with right and wrong ones), so their {found.num_clips} clips are worth "
        f"about {found.effective_clips:.0f} within people; {100 * max(0.0, found.icc):.0f} % of the variance lies "
        f"between people (intraclass correlation {found.icc:.2f}, design effect {found.design_effect:.1f}). Intervals "
        "are over participants for that reason.",
        evidence=evidence,
    )


def _follows(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which clips (N,) directly follow the one before, in the same recording."""
    starts_s = rows["start_s"].to_numpy(dtype=np.float64)
    recordings = rows["recording_id"].to_numpy(dtype=object)
    steps = np.diff(starts_s)
    same = np.asarray(recordings[1:] == recordings[:-1], dtype=bool)
    if not same.any():
        return np.zeros(len(rows), dtype=bool)
    return np.concatenate([[False], same & (steps <= GAP_FACTOR * np.median(steps[same]))])
