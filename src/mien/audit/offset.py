"""How far apart the clocks of picture, export and sound are, with what is known of it: from the faces alone.

A model that tells a label from a face does so best at the lag at which the two belong together. Its held-out
correlation over lags has a peak there; people drawn again with replacement say how exactly it is known; wrong
assignments say how high a peak is by chance. What isn't in the face has no peak, and then nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mien.audit.offset_curves import (
    SEARCH_S,
    Curves,
    Null,
    Recorded,
    all_rows,
    curves_at,
    half_of,
    lag_curves,
    mean_by_group,
    without_block,
)
from mien.audit.offset_sources import faces_against_annotations, mouths_against_sound, of_another, shifted_in_a_circle
from mien.data.dataset import Dataset

MIN_FPS = 5.0
"""Expressions come within .3 to .5 s; with fewer than two samples in one, its time isn't seen."""

MIN_GROUPS = 5
"""An interval over fewer people says nothing (EVALUATION.md section 3)."""

MIN_CORRELATION = 0.1
"""A weaker relation can be of anything that happens at about the same time; a clock isn't read off it."""

MIN_STANDOUT = 5.0
"""How far a peak stands above those of wrong assignments, in their standard deviations, of which 20 are drawn."""

RELATED = 0.5
"""Channels whose peak is at least this share of the highest one's say when; weaker ones may follow the face late (a
skin conductance, a question)."""

WIDEST_S = 1.0
"""A peak that is known less exactly than this isn't one: the relation is slow, as that of moods is."""

RESAMPLES = 1000
CONFIDENCE = 0.95

SYSTEMATIC_S = 0.05
"""Added to both ends of every interval, with half a sampling interval: faces come faster than they go, which moved the
peak of 72 real people by .03 s."""

PEAK_REACH = 3
"""Lags on each side of the highest one that the parabola is fitted to (.3 s): that of a peak's round top."""

MIN_OWN_CORRELATION = 0.5
"""A recording's own peak must be this high to say anything of its own clock: it is one person with few events."""

MIN_OWN_GAIN = 0.15
"""How much higher its own peak must be than its curve where all others' is: a curve of few events is bumpy."""

BLOCKS = 8
"""Stretches of a recording that are left out in turn to learn how exactly its own peak is known."""

OWN_ERRORS = 4.0
"""Standard errors on each side of a recording's own offset: there are many recordings, and the error of one with three
smiles is itself known badly."""

MIN_ERROR_S = 0.04
"""One recording isn't known more exactly than this: its events are few, and each face moves in its own way."""

DRIFT_S = 180.0
"""Recordings of this length and more are asked whether their clocks run apart."""

Against = Literal["export", "sound"]


@dataclass(frozen=True)
class Estimate:
    """A number of seconds with its interval."""

    value_s: float
    low_s: float
    high_s: float

    def beyond(self, limit_s: float) -> bool:
        """Return whether it is farther from 0 than a limit for sure."""
        return self.low_s > limit_s or self.high_s < -limit_s

    def to_json(self) -> dict[str, float]:
        """Return it rounded to ms."""
        return {name: round(getattr(self, f"{name}_s"), 3) for name in ("value", "low", "high")}


@dataclass(frozen=True)
class OwnOffset:
    """One recording's own offset.

    Attributes:
        recording_id: The recording.
        offset: How much later than its picture.
        from_common: How much later than that of all recordings (where they have none together: than the lag at which
            they go together best).
        correlation: Height of its own peak.
    """

    recording_id: str
    offset: Estimate
    from_common: Estimate
    correlation: float


@dataclass(frozen=True)
class Offset:
    """How much later the clock of the export, or of the sound, is than that of the picture.

    Attributes:
        against: Which of the two.
        offset: The offset of all recordings together; None where it can't be told.
        reason: Why not; empty where it can.
        channels: What it was read off.
        groups: People that it is of.
        correlation: Height of the peak, of the strongest channel where it can't be told; None without a curve.
        by_chance: The same where nothing belongs together.
        own: Recordings whose own offset can be told.
        drift: By how much the offset grows from the first to the second half of long recordings; None without such.
    """

    against: Against
    offset: Estimate | None = None
    reason: str = ""
    channels: tuple[str, ...] = ()
    groups: int = 0
    correlation: float | None = None
    by_chance: float | None = None
    own: tuple[OwnOffset, ...] = field(default=())
    drift: Estimate | None = None

    def apart(self, limit_s: float) -> list[OwnOffset]:
        """Return the recordings whose own clock is farther from the common one than a limit for sure."""
        return [one for one in self.own if one.from_common.beyond(limit_s)]

    def to_json(self) -> dict[str, Any]:
        """Return all of it, JSON-able."""
        own = [
            {"recording": one.recording_id, **one.offset.to_json(), "correlation": round(one.correlation, 3)}
            for one in self.own
        ]
        rounded = {
            name: None if value is None else round(value, 3)
            for name, value in (("correlation", self.correlation), ("by_chance", self.by_chance))
        }
        return {
            "offset_s": None if self.offset is None else self.offset.to_json(),
            "reason": self.reason,
            "channels": list(self.channels),
            "participants": self.groups,
            **rounded,
            "drift_s": None if self.drift is None else self.drift.to_json(),
            "recordings": own,
        }


def export_offset(dataset: Dataset, *, seed: int = 0) -> Offset:
    """Tell how much later the annotations' clock is than the picture's, from the faces alone.

    Annotations of questions, stimuli and self-reports follow or precede a face for reasons of their own, so that their
    lag says nothing of a clock; they aren't looked at.

    Args:
        dataset: A prepared study; it needs `MIN_FPS` samples per second.
        seed: Decides the folds and the draws.
    """
    if dataset.label_source in ("self-report", "stimulus"):
        return Offset("export", reason=f"the labels are {dataset.label_source}: no face says when they are due")
    if dataset.fps < MIN_FPS:
        return Offset("export", reason=_too_slow(dataset))
    recorded, channels = faces_against_annotations(dataset)
    wrong = shifted_in_a_circle(recorded, seed=seed)
    return measure_offset("export", recorded, channels=channels, null=wrong, half_frame_s=0.5 / dataset.fps, seed=seed)


def sound_offset(dataset: Dataset, *, seed: int = 0) -> Offset:
    """Tell how much later the sound is than the picture, where mouths move with it.

    Args:
        dataset: A prepared study; it needs `MIN_FPS` samples per second.
        seed: Decides the folds and the draws.
    """
    if dataset.fps < MIN_FPS:
        return Offset("sound", reason=_too_slow(dataset))
    recorded = mouths_against_sound(dataset)
    wrong = of_another(recorded, seed=seed)
    return measure_offset(
        "sound", recorded, channels=("loudness",), null=wrong, half_frame_s=0.5 / dataset.fps, seed=seed
    )


def measure_offset(
    against: Against,
    recorded: Sequence[Recorded],
    *,
    channels: tuple[str, ...],
    null: Null,
    half_frame_s: float,
    seed: int = 0,
) -> Offset:
    """Tell an offset from what was recorded.

    Args:
        against: What is held against the picture.
        recorded: Recordings that are long enough.
        channels: Names of their grids' columns.
        null: What doesn't belong to them.
        half_frame_s: Half a sampling interval: how late a sample may be.
        seed: Decides the folds and the draws.
    """
    if len({one.group for one in recorded}) < MIN_GROUPS or not channels:
        what = "annotations that vary" if against == "export" else "sound"
        seconds = 2 * SEARCH_S + 6
        reason = f"it needs {MIN_GROUPS} people whose faces are seen for {seconds:.0f} s with {what}"
        return Offset(against, reason=reason, groups=len({one.group for one in recorded}))
    curves = lag_curves(recorded, null=null, seed=seed)
    people = curves.people()
    enough = np.isfinite(people).all(axis=2).sum(axis=0) >= MIN_GROUPS
    heights = np.where(enough, _mean(people).max(axis=1), -1.0)
    best = int(heights.argmax())
    by_chance = curves.null_heights.mean(axis=1)
    standout = (heights - by_chance) / np.maximum(curves.null_heights.std(axis=1), 1e-6)
    found = (standout >= MIN_STANDOUT) & (heights >= MIN_CORRELATION)
    result = Offset(against, None, "", (), len(people), float(heights[best]), float(by_chance[best]))
    if not found.any():
        return replace(result, reason=f"not measurable: {_UNRELATED[against]}")
    chosen = np.flatnonzero(found & (heights >= RELATED * heights[found].max()))
    # The strongest first, for the page.
    names = tuple(channels[place] for place in sorted(chosen, key=lambda place: -heights[place]))
    rng = np.random.default_rng([seed, RESAMPLES])
    together = _over_channels(people, chosen)
    offset = _estimate(together, curves.lags_s, rng=rng, systematic_s=SYSTEMATIC_S + half_frame_s)
    lag = int(_mean(together).argmax() if offset is None else np.abs(curves.lags_s - offset.value_s).argmin())
    common_s = float(curves.lags_s[lag]) if offset is None else offset.value_s
    own = _own_offsets(recorded, curves, chosen=chosen, lag=lag, common_s=common_s, half_frame_s=half_frame_s)
    if offset is None:
        # Where each recording has a clock of its own, they have no peak together; their own say so.
        return replace(result, reason=f"not measurable: {_NO_PEAK}", channels=names, own=own)
    drift = _drift(recorded, curves, chosen=chosen, lag=lag, rng=rng) if against == "export" else None
    return replace(result, offset=offset, channels=names, own=own, drift=drift)


_UNRELATED: dict[Against, str] = {
    "export": "no annotation follows the faces more than chance would",
    "sound": "mouths don't move with the sound more than with somebody else's",
}
_NO_PEAK = f"all recordings together have no clear peak within {SEARCH_S:.0f} s"


def peaks_of(curves: NDArray[np.float64], lags_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where curves (..., L) are highest, between lags: the top of a parabola around; NaN at the ends.

    >>> lags_s = np.arange(-10, 11) * 0.1
    >>> float(peaks_of(1 - (lags_s - 0.234) ** 2, lags_s).round(6))
    0.234
    """
    flat = curves.reshape(-1, curves.shape[-1])
    top = np.where(np.isfinite(flat), flat, -np.inf).argmax(axis=1)
    inside = (top >= PEAK_REACH) & (top < flat.shape[1] - PEAK_REACH)
    centre = np.clip(top, PEAK_REACH, flat.shape[1] - PEAK_REACH - 1)
    around = np.arange(-PEAK_REACH, PEAK_REACH + 1)
    windows = np.take_along_axis(flat, centre[:, None] + around, axis=1)
    square, slope, _ = np.linalg.pinv(np.vander(around, 3)) @ windows.T
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.clip(-slope / (2 * square), -PEAK_REACH, PEAK_REACH)
    step_s = lags_s[1] - lags_s[0]
    found = np.where(inside & (square < 0), lags_s[centre] + shift * step_s, np.nan)
    return np.asarray(found.reshape(curves.shape[:-1]))


def _too_slow(dataset: Dataset) -> str:
    return f"it needs at least {MIN_FPS:g} samples per second, the dataset has {dataset.fps:g} (`mien prepare --fps`)"


def _mean(people: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean curve over people (P, C, L); 0 where nobody has one."""
    known = np.isfinite(people)
    return np.asarray(np.where(known, people, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


def _over_channels(curves: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the chosen channels (N, L); NaN where a person or recording has none of them."""
    own = curves[:, chosen]
    known = np.isfinite(own)
    counts = known.sum(axis=1)
    sums = np.where(known, own, 0.0).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def _estimate(
    people: NDArray[np.float64], lags_s: NDArray[np.float64], *, rng: np.random.Generator, systematic_s: float
) -> Estimate | None:
    """Peak of the mean curve of people (P, L), with the percentile interval of people drawn again; None without one."""
    people = people[np.isfinite(people).all(axis=1)]
    value_s = float(peaks_of(people.mean(axis=0), lags_s))
    draws = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=RESAMPLES)
    drawn_s = peaks_of(draws @ people / len(people), lags_s)
    tail = (1 - CONFIDENCE) / 2
    # A draw whose peak is at an end could be anywhere beyond.
    if not np.isfinite(value_s) or np.isnan(drawn_s).mean() > tail:
        return None
    low_s, high_s = (float(np.nanquantile(drawn_s, share)) for share in (tail, 1 - tail))
    if high_s - low_s > WIDEST_S:
        return None
    return Estimate(value_s, min(low_s, value_s) - systematic_s, max(high_s, value_s) + systematic_s)


def _own_offsets(
    recorded: Sequence[Recorded],
    curves: Curves,
    *,
    chosen: NDArray[np.int64],
    lag: int,
    common_s: float,
    half_frame_s: float,
) -> tuple[OwnOffset, ...]:
    """Hold each recording's own curve against the common lag.

    How exactly one recording's peak is known comes from the recording alone: a jackknife over stretches of it (Efron
    and Stein 1981), so that a study in which every clock is another one isn't taken for one that is known badly.
    """
    keep = [all_rows, *(without_block(block, of=BLOCKS) for block in range(BLOCKS))]
    own = np.stack([_over_channels(curve, chosen) for curve in curves_at(recorded, curves, lag=lag, keep=keep)])
    peaks_s = peaks_of(own, curves.lags_s)
    # Where one stretch makes or unmakes the peak, nothing is known of it.
    errors_s = np.sqrt((BLOCKS - 1) * peaks_s[1:].var(axis=0))
    heights = np.where(np.isfinite(own[0]), own[0], -1.0).max(axis=1)
    clear = np.isfinite(peaks_s).all(axis=0) & (heights >= MIN_OWN_CORRELATION)
    found = []
    for place in np.flatnonzero(clear):
        reach_s = OWN_ERRORS * max(float(errors_s[place]), MIN_ERROR_S) + half_frame_s
        shift_s = float(peaks_s[0, place]) - common_s
        # A flat curve has its highest point anywhere; then nothing speaks against the common lag.
        flat = heights[place] - own[0, place, lag] < MIN_OWN_GAIN
        near_s, far_s = (min(shift_s, 0.0), max(shift_s, 0.0)) if flat else (shift_s, shift_s)
        distance = Estimate(shift_s, near_s - reach_s, far_s + reach_s)
        offset = Estimate(shift_s + common_s, distance.low_s + common_s, distance.high_s + common_s)
        found.append(OwnOffset(curves.recordings[place], offset, distance, float(heights[place])))
    return tuple(found)


def _drift(
    recorded: Sequence[Recorded], curves: Curves, *, chosen: NDArray[np.int64], lag: int, rng: np.random.Generator
) -> Estimate | None:
    """Offset in the second half of long recordings less that in the first one."""
    long = np.array([len(one.times_s) > 1 and np.ptp(one.times_s) >= DRIFT_S for one in recorded])
    if len(set(curves.groups[long])) < MIN_GROUPS:
        return None

    halves = curves_at(recorded, curves, lag=lag, keep=[half_of(late=False), half_of(late=True)])
    first, second = (mean_by_group(_over_channels(half, chosen)[long], curves.groups[long]) for half in halves)
    both = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if both.sum() < MIN_GROUPS:
        return None
    first, second = first[both], second[both]
    draws = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), size=RESAMPLES) / len(first)
    drawn_s = peaks_of(draws @ second, curves.lags_s) - peaks_of(draws @ first, curves.lags_s)
    value_s = float(peaks_of(second.mean(axis=0), curves.lags_s) - peaks_of(first.mean(axis=0), curves.lags_s))
    tail = (1 - CONFIDENCE) / 2
    if not np.isfinite(value_s) or np.isnan(drawn_s).mean() > tail:
        return None
    low_s, high_s = (float(np.nanquantile(drawn_s, share)) for share in (tail, 1 - tail))
    # What moves both halves' peaks alike (faces come faster than they go) cancels.
    return Estimate(value_s, min(low_s, value_s), max(high_s, value_s))
