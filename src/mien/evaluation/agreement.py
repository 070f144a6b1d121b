"""Krippendorff's alpha: how far coders agree, chance taken off, with an interval over participants.

Alpha (Krippendorff 2011, "Computing Krippendorff's alpha-reliability") is 1 minus observed over expected disagreement:
1 where coders always agree, 0 where they agree as often as if each had drawn its ratings from all that were given, and
below 0 where they disagree systematically. It allows for any number of coders and for missing ratings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

from mien.core.errors import UserError, unknown_name
from mien.evaluation.intervals import BOOTSTRAP_RESAMPLES, BOOTSTRAP_SEED, EQUAL_WITHIN, Interval

Level = Literal["nominal", "ordinal", "interval"]
Array = NDArray[np.float64]

MAX_VALUES = 256
"""More different values than this are measurements: a table of coincidences grows with their square."""

BLOCK_UNITS = 1 << 16
"""Units that are counted at once, so that a participant's memory is bounded."""

BLOCK_CELLS = 1 << 22
"""Cells of resampled tables that are held at once (32 MiB)."""

MAX_UNDEFINED = 0.05
"""Share of resamples without a defined alpha (all who were drawn show one class) above which there is no interval."""


@dataclass(frozen=True)
class Agreement:
    """How far coders agree.

    Attributes:
        alpha: Krippendorff's alpha; its n are the participants with a unit that two coders rated. NaN where it isn't
            defined: no such unit, or all ratings the same (nothing shows then that anybody could tell classes apart).
        share: Share of pairs of ratings of a unit that are the same: flattered by rare classes. NaN without any.
        num_units: Units that at least two coders rated.
        per_value: Of nominal ratings, alpha of each value against all others.
    """

    alpha: Interval
    share: float
    num_units: int
    per_value: dict[float, Interval]


def krippendorff_alpha(
    ratings: NDArray[np.floating],
    *,
    level: Level = "nominal",
    participants: NDArray[np.object_] | None = None,
    confidence: float = 0.95,
) -> Agreement:
    """Return how far coders agree, chance taken off.

    Units that fewer than two coders rated say nothing, and are left out.

    The interval is over participants, since frames of a person repeat each other: persons are drawn anew with
    replacement, all their units with them (percentile bootstrap, seed fixed). Of few persons those quantiles are too
    narrow; they are taken further out, by as much as Student's t (df = P - 1) is wider than the normal distribution and
    by the sqrt(P / (P - 1)) that the spread of resamples lacks (Hesterberg 2015, The American Statistician
    69:371-386). Simulated with 6 to 40 people (`alpha` in docs/evaluation.md) it covers .91-.96, the plain percentiles
    .82-.94, and frames drawn whosever they are .49-.71.

    Args:
        ratings: (C, U) what each coder says of each unit; NaN where nothing.
        level: `nominal` (classes), `ordinal` (ranks) or `interval` (numbers whose differences count).
        participants: (U,) whose unit it is, or which independent group's; None: no interval.
        confidence: Nominal coverage.

    Raises:
        UserError: An unknown level, shapes that don't fit, an infinite rating, or more than `MAX_VALUES` different
            values at another level than `interval`.

    >>> ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    >>> round(krippendorff_alpha(ratings).alpha.mean, 3)
    0.095
    """
    table = np.asarray(ratings, dtype=np.float64)
    _check(table, level=level, participants=participants)
    kept = (~np.isnan(table)).sum(axis=0) >= 2
    table = table[:, kept]
    if not kept.any():
        nan = float("nan")
        return Agreement(Interval(nan, nan, nan, 0), nan, 0, {})
    ends = np.array([table.shape[1]])
    if participants is not None:
        of, _ = pd.factorize(np.asarray(participants, dtype=object)[kept], sort=True)
        table = table[:, np.argsort(of, kind="stable")]
        ends = np.cumsum(np.bincount(of))
    if level == "interval":
        moments = _moments(table, ends=ends)
        alpha = _interval_of(moments, _alpha_of_moments, confidence=confidence)
        return Agreement(alpha, _share_of_equal(table), table.shape[1], {})
    values, counts = _coincidences(table, ends=ends)
    total = counts.sum(axis=0)
    metric = _nominal if level == "nominal" else _ordinal
    against_rest = {
        float(value): _interval_of(_one_against_rest(counts, index), _nominal, confidence=confidence)
        for index, value in enumerate(values)
        if level == "nominal"
    }
    return Agreement(
        alpha=_interval_of(counts, metric, confidence=confidence),
        share=float(np.trace(total) / total.sum()),
        num_units=table.shape[1],
        per_value=against_rest,
    )


def _check(table: Array, *, level: str, participants: NDArray[np.object_] | None) -> None:
    if level not in get_args(Level):
        raise unknown_name("level of ratings", got=level, allowed=get_args(Level))
    if table.ndim != 2 or (participants is not None and np.shape(participants) != table.shape[1:]):
        of = "" if participants is None else f", participants {np.shape(participants)}"
        raise UserError(f"Ratings have the shape {table.shape}{of}; needed: (coders, units), and (units,).")
    if np.isinf(table).any():
        raise UserError("A rating is infinite. Give NaN where a coder says nothing.")


def _coincidences(table: Array, *, ends: NDArray[np.integer]) -> tuple[Array, Array]:
    """Return the V values, and per participant how often two ratings of a unit are value c and k (P, V, V).

    Each pair of a unit that m coders rated counts 1 / (m - 1), so that each rating counts once.

    Args:
        table: (C, U) ratings, by participant, at least two of each unit.
        ends: (P,) where each participant's units end.
    """
    rated = ~np.isnan(table)
    values, found = np.unique(table[rated], return_inverse=True)
    if len(values) > MAX_VALUES:
        raise UserError(
            f"Ratings take {len(values)} different values; classes and ranks have at most {MAX_VALUES}. Put numbers "
            "into classes, or use the level 'interval'."
        )
    codes = np.full(table.shape, len(values), dtype=np.int64)  # the last one stands for missing
    codes[rated] = found
    counts = np.zeros((len(ends), len(values), len(values)))
    start = 0
    for person, end in enumerate(ends):
        for first in range(start, end, BLOCK_UNITS):
            counts[person] += _pairs(codes[:, first : min(first + BLOCK_UNITS, end)], num_values=len(values))
        start = end
    return values, counts


def _pairs(codes: NDArray[np.int64], *, num_values: int) -> Array:
    """Count pairs of ratings of the same unit by their values (V, V); `num_values` is the code of a missing one."""
    units = np.arange(codes.shape[1])
    given = np.zeros((codes.shape[1], num_values + 1))
    for row in codes:
        given[units, row] += 1
    given = given[:, :-1]
    weighted = given / (given.sum(axis=1, keepdims=True) - 1)
    # A rating makes no pair with itself.
    return np.asarray(weighted.T @ given - np.diag(weighted.sum(axis=0)))


def _nominal(counts: Array) -> Array:
    """Alpha of tables of coincidences (..., V, V), any difference counting alike."""
    of_value = counts.sum(axis=-1)
    total = of_value.sum(axis=-1)
    observed = total - np.trace(counts, axis1=-2, axis2=-1)
    expected = (total**2 - (of_value**2).sum(axis=-1)) / (total - 1)
    return _alpha(observed, expected)


def _ordinal(counts: Array) -> Array:
    """The same by ranks: two values differ by as many ratings as lie between the middles of both."""
    of_value = counts.sum(axis=-1)
    total = of_value.sum(axis=-1)
    middle = np.cumsum(of_value, axis=-1) - of_value / 2
    squared = (middle[..., :, None] - middle[..., None, :]) ** 2
    observed = (counts * squared).sum(axis=(-2, -1))
    expected = (of_value[..., :, None] * of_value[..., None, :] * squared).sum(axis=(-2, -1)) / (total - 1)
    return _alpha(observed, expected)


def _moments(table: Array, *, ends: NDArray[np.integer]) -> Array:
    """Return per participant (P, 4): squared differences within units, number, sum and sum of squares of ratings."""
    rated = ~np.isnan(table)
    # Squares of large numbers with a small spread would lose the spread.
    centred = np.where(rated, table - np.nanmean(table), 0.0)
    number, first, second = rated.sum(axis=0), centred.sum(axis=0), (centred**2).sum(axis=0)
    within = 2 * (number * second - first**2) / (number - 1)
    columns = np.column_stack([within, number, first, second])
    return np.asarray(np.add.reduceat(columns, np.concatenate([[0], ends[:-1]]), axis=0))


def _alpha_of_moments(moments: Array) -> Array:
    within, number, first, second = np.moveaxis(moments, -1, 0)
    return _alpha(within, 2 * (number * second - first**2) / (number - 1))


def _alpha(observed: Array, expected: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(expected > EQUAL_WITHIN, 1.0 - observed / expected, np.nan))


def _one_against_rest(counts: Array, index: int) -> Array:
    """Join all values but one (P, 2, 2)."""
    both, own = counts[:, index, index], counts[:, index].sum(axis=-1)
    mixed = own - both
    rest = counts.sum(axis=(1, 2)) - own - mixed
    return np.stack([np.stack([both, mixed], axis=-1), np.stack([mixed, rest], axis=-1)], axis=-2)


def _share_of_equal(table: Array) -> float:
    """Share of pairs of ratings of a unit that are the same, each unit weighing as many ratings as it has."""
    rated = ~np.isnan(table)
    same = np.zeros(table.shape[1])
    for row in table:
        same += (table == row).sum(axis=0) - ~np.isnan(row)
    return float((same / (rated.sum(axis=0) - 1)).sum() / rated.sum())


def _interval_of(parts: Array, alpha_of: Callable[[Array], Array], *, confidence: float) -> Interval:
    """Return alpha of the sum of parts (P, ...) of participants with its bootstrap interval over them."""
    people = len(parts)
    value = float(alpha_of(parts.sum(axis=0)))
    nan = float("nan")
    if people < 2 or not np.isfinite(value):
        return Interval(value, nan, nan, people)
    generator = np.random.default_rng([BOOTSTRAP_SEED, people])
    drawn = generator.multinomial(people, np.full(people, 1.0 / people), size=BOOTSTRAP_RESAMPLES)
    flat = parts.reshape(people, -1)
    rows = max(1, BLOCK_CELLS // flat.shape[1])
    blocks = [drawn[first : first + rows] @ flat for first in range(0, len(drawn), rows)]
    resampled = np.concatenate([alpha_of(block.reshape(-1, *parts.shape[1:])) for block in blocks])
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < (1 - MAX_UNDEFINED) * BOOTSTRAP_RESAMPLES or np.ptp(resampled) < EQUAL_WITHIN:
        return Interval(value, nan, nan, people)
    reach = float(student_t.ppf((1 + confidence) / 2, people - 1)) * (people / (people - 1)) ** 0.5
    low, high = np.quantile(resampled, norm.cdf([-reach, reach]))
    return Interval(value, float(low), float(high), people)
