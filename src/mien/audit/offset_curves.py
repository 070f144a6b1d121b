"""How well a picture's features tell something else at each lag between the two: curves whose peak is the offset.

One ridge regression per fold of people has a right-hand side per lag, so the features are looked at twice, whatever the
number of lags. It is fitted on some people and held against others, because a curve of the people that it was fitted on
is high at every lag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Floats = NDArray[np.float32]

SEARCH_S = 3.0
"""Offsets up to here are looked for: a stimulus that starts late, an export that starts with the session's first click.
The beginning and end of each recording is lost to it, so that all lags are held against the same frames."""

LAG_STEP_S = 0.1
"""Expressions come and go within .3 s or more, so a curve has no finer detail; its peak is interpolated."""

NULL_STEP_S = 0.5
"""Curves of what doesn't belong together are flat: their height needs no fine steps."""

NUM_NULL = 20
"""Times that everything is assigned wrongly; mean and spread of that many heights are known to a sixth."""

GRID_S = 0.02
"""Step in time at which labels and sound are known: annotations are given to about this."""

NUM_FOLDS = 5

RIDGE = 3.0
"""Penalty over the variance of a standardised feature. On the faces of 72 people, .03 to 10 gave peaks of .85 to .89 at
the same lag within 10 ms; it is fixed, not tuned on the data at hand."""

MIN_USED_S = 6.0
"""A recording needs this much besides the ends that the search takes: two or three expressions."""

MAX_ROWS = 3000
"""Frames of one recording that are used, half of them from its beginning and half from its end (5 minutes at 10 per
second): more of the same person say little more of a clock."""

EQUAL = 1e-9


@dataclass(frozen=True)
class Recorded:
    """What one recording shows, and what is said of it on a clock that may be another.

    Attributes:
        recording_id: The recording.
        group: Who must stay on one side of a split.
        times_s: Times of its frames (N,), s.
        features: Their features (N, D).
        start_s: Time of the grid's first row.
        grid: (G, C) what is said, every `GRID_S` seconds, by channel; NaN where it isn't known.
    """

    recording_id: str
    group: str
    times_s: NDArray[np.float64]
    features: Floats
    start_s: float
    grid: Floats

    @property
    def rows(self) -> NDArray[np.int64]:
        """The frames that are held against every lag: those that are `SEARCH_S` inside the grid."""
        end_s = self.start_s + len(self.grid) * GRID_S
        inside = np.flatnonzero((self.times_s >= self.start_s + SEARCH_S) & (self.times_s < end_s - SEARCH_S))
        if len(inside) <= MAX_ROWS:
            return inside
        return np.concatenate([inside[: MAX_ROWS // 2], inside[-MAX_ROWS // 2 :]])

    @property
    def long_enough(self) -> bool:
        """Whether `MIN_USED_S` is left of it."""
        return len(self.grid) * GRID_S >= 2 * SEARCH_S + MIN_USED_S and len(self.rows) > 1


@dataclass(frozen=True)
class Curves:
    """Held-out correlations by lag.

    Attributes:
        lags_s: (L,) how much later the channels' clock is than the picture's.
        recordings: (R,) ids.
        groups: (R,) who each is of.
        values: (R, C, L) Pearson correlation of what the features predict with the channel at this lag; NaN where the
            channel doesn't vary.
        null_heights: (C, `NUM_NULL`) highest mean over people of curves of what doesn't belong together.
        weights: Per fold the regression's coefficients (D, C, L) for standardised features.
        scale: (D,) standard deviation of the features.
        folds: (R,) the fold in which each recording is predicted.
    """

    lags_s: NDArray[np.float64]
    recordings: tuple[str, ...]
    groups: NDArray[np.object_]
    values: NDArray[np.float64]
    null_heights: NDArray[np.float64]
    weights: tuple[NDArray[np.float64], ...]
    scale: NDArray[np.float64]
    folds: NDArray[np.int64]

    def people(self) -> NDArray[np.float64]:
        """Return the mean curve of each person (P, C, L), sorted by name; NaN where none of theirs has one."""
        return mean_by_group(self.values, self.groups)


Null = Callable[[int, int], Floats]
"""What recording (number) doesn't belong to in a draw (number): a grid like its own."""


def lag_grid(step_s: float = LAG_STEP_S) -> NDArray[np.float64]:
    """Return the lags (L,) that are tried, s."""
    count = round(SEARCH_S / step_s)
    return np.asarray(np.arange(-count, count + 1) * step_s, dtype=np.float64)


def lag_curves(recorded: Sequence[Recorded], *, null: Null, seed: int = 0) -> Curves:
    """Return held-out correlations at each lag, and how high they get where nothing belongs together.

    Args:
        recorded: Recordings with the same channels, of at least two groups, each `long_enough`.
        null: Gives grids that don't belong to a recording.
        seed: Decides which people are predicted together.
    """
    groups = np.array([one.group for one in recorded], dtype=object)
    folds = _folds(groups, seed=seed)
    lags_s, coarse_s = lag_grid(), lag_grid(NULL_STEP_S)
    scale = _scale(recorded)
    num_features, num_folds = len(scale), int(folds.max()) + 1
    num_channels = recorded[0].grid.shape[1]
    width = num_channels * (len(lags_s) + NUM_NULL * len(coarse_s))
    gram = np.zeros((num_folds, num_features, num_features))
    cross = np.zeros((num_folds, num_features, width))
    for number, one in enumerate(recorded):
        # Everybody counts the same, however long the recording.
        features, targets = _features(one, scale), _all_targets(recorded, number, lags_s, coarse_s, null)
        gram[folds[number]] += features.T @ features / len(features)
        cross[folds[number]] += features.T @ targets / len(features)
    weights = [_fit(gram, cross, counts=np.bincount(folds), without=fold) for fold in range(num_folds)]
    found = np.empty((len(recorded), width))
    for number, one in enumerate(recorded):
        predicted = _features(one, scale) @ weights[folds[number]].astype(np.float32)
        found[number] = correlations(predicted, _all_targets(recorded, number, lags_s, coarse_s, null))
    split = num_channels * len(lags_s)
    curves = found[:, :split].reshape(len(recorded), num_channels, len(lags_s))
    wrong = mean_by_group(found[:, split:], groups)
    heights = _nanmean(wrong).reshape(NUM_NULL, num_channels, len(coarse_s)).max(axis=2).T
    shape = (num_features, num_channels, len(lags_s))
    return Curves(
        lags_s=lags_s,
        recordings=tuple(one.recording_id for one in recorded),
        groups=groups,
        values=curves,
        null_heights=heights,
        weights=tuple(part[:, :split].reshape(shape) for part in weights),
        scale=scale,
        folds=folds,
    )


def curves_at(
    recorded: Sequence[Recorded], curves: Curves, *, lag: int, keep: Sequence[Callable[[Recorded], NDArray[np.bool_]]]
) -> NDArray[np.float64]:
    """Return each recording's own curves (K, R, C, L) against what the model of ONE lag predicts for it.

    A model that was fitted where most people's clocks are is the ruler for each recording's own clock.

    Args:
        recorded: As in `lag_curves`.
        curves: What that returned.
        lag: Which of its lags the model is of.
        keep: K choices, each says which of a recording's `rows` count.
    """
    found = np.full((len(keep), *curves.values.shape), np.nan)
    for number, one in enumerate(recorded):
        predicted = _features(one, curves.scale) @ curves.weights[curves.folds[number]][:, :, lag].astype(np.float32)
        targets = lagged(one.grid, one.times_s[one.rows] - one.start_s, curves.lags_s)
        repeated = np.repeat(predicted, len(curves.lags_s), axis=1)
        for place, choose in enumerate(keep):
            rows = choose(one)
            if rows.sum() > 1:
                found[place, number] = correlations(repeated[rows], targets[rows]).reshape(found.shape[2:])
    return found


def all_rows(one: Recorded) -> NDArray[np.bool_]:
    """Keep all of a recording's `rows`."""
    return np.ones(len(one.rows), dtype=bool)


def half_of(*, late: bool) -> Callable[[Recorded], NDArray[np.bool_]]:
    """Return what keeps the first, or the second, half of a recording's time."""

    def rows(one: Recorded) -> NDArray[np.bool_]:
        times_s = one.times_s[one.rows]
        return np.asarray((times_s >= (times_s[0] + times_s[-1]) / 2) == late)

    return rows


def without_block(block: int, *, of: int) -> Callable[[Recorded], NDArray[np.bool_]]:
    """Return what leaves out one of several stretches of a recording, equally long."""

    def rows(one: Recorded) -> NDArray[np.bool_]:
        return np.asarray(np.arange(len(one.rows)) * of // len(one.rows) != block)

    return rows


def lagged(grid: Floats, since_s: NDArray[np.float64], lags_s: NDArray[np.float64]) -> Floats:
    """Return what a grid says at given times under each lag (N, C * L), minus the mean of what is known, else 0.

    Times outside the grid go on at its other end; only grids that don't belong there have such.
    """
    place = np.rint((since_s[:, None] + lags_s) / GRID_S).astype(np.int64) % len(grid)
    values = grid[place].transpose(0, 2, 1).reshape(len(since_s), -1)
    known = np.isfinite(values)
    filled = np.where(known, values, np.float32(0.0))
    means = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, filled - means, np.float32(0.0)).astype(np.float32)


def correlations(predicted: Floats, targets: Floats) -> NDArray[np.float64]:
    """Return the correlation of each column (M,); NaN where one of the two doesn't vary."""
    ours = predicted - predicted.mean(axis=0)
    theirs = targets - targets.mean(axis=0)
    spread = np.sqrt((ours**2).sum(axis=0, dtype=np.float64) * (theirs**2).sum(axis=0, dtype=np.float64))
    both = (ours * theirs).sum(axis=0, dtype=np.float64)
    return np.asarray(np.divide(both, spread, out=np.full(len(both), np.nan), where=spread > EQUAL))


def mean_by_group(values: NDArray[np.float64], groups: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the mean of recordings (R, ...) by group (P, ...), sorted by name; NaN counts for nothing."""
    return np.stack([_nanmean(values[groups == name]) for name in sorted(set(groups))])


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def _features(one: Recorded, scale: NDArray[np.float64]) -> Floats:
    """Features of the frames that count, minus the recording's mean, standardised."""
    values = np.asarray(one.features[one.rows], dtype=np.float32)
    return np.asarray((values - values.mean(axis=0)) / scale, dtype=np.float32)


def _scale(recorded: Sequence[Recorded]) -> NDArray[np.float64]:
    variances = [np.var(np.asarray(one.features[one.rows], np.float64), axis=0) for one in recorded]
    scale = np.sqrt(np.mean(variances, axis=0))
    # A feature that never varies carries nothing; dividing by 1 leaves it at 0.
    return np.where(scale > EQUAL, scale, 1.0)


def _all_targets(
    recorded: Sequence[Recorded], number: int, lags_s: NDArray[np.float64], coarse_s: NDArray[np.float64], null: Null
) -> Floats:
    """The recording's own channels at each lag, then those of each wrong assignment."""
    one = recorded[number]
    since_s = one.times_s[one.rows] - one.start_s
    wrong = [lagged(null(number, draw), since_s, coarse_s) for draw in range(NUM_NULL)]
    return np.concatenate([lagged(one.grid, since_s, lags_s), *wrong], axis=1)


def _fit(
    gram: NDArray[np.float64], cross: NDArray[np.float64], *, counts: NDArray[np.int64], without: int
) -> NDArray[np.float64]:
    """Fit on all folds but one."""
    others = np.arange(len(gram)) != without
    count = counts[others].sum()
    penalised = gram[others].sum(axis=0) / count + RIDGE * np.eye(gram.shape[1])
    return np.asarray(cho_solve(cho_factor(penalised), cross[others].sum(axis=0) / count))


def _folds(groups: NDArray[np.object_], *, seed: int) -> NDArray[np.int64]:
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[place]: number % min(NUM_FOLDS, len(names)) for number, place in enumerate(order)}
    return np.array([fold_of[name] for name in groups], dtype=np.int64)
