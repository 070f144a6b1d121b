"""Does a model follow a number better than chance? The CCC within participants against circularly shifted labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.evaluation.chance import DEFAULT_DRAWS, TIE, UPPER_PERCENTILE, ChanceMethod, ChanceTest
from mien.evaluation.power import ALPHA, participants_needed

METHOD: ChanceMethod = "circular shifts of each recording's labels"


def ccc_against_chance(predictions: pd.DataFrame, *, channel: str, seed: int, draws: int = DEFAULT_DRAWS) -> ChanceTest:
    """Shift each recording's labels circularly against its held-out predictions; nothing is fitted again.

    As `mien.evaluation.chance.circular_shift_test`, with the mean over participants of the concordance correlation
    (`mien.evaluation.continuous.ccc`) as the statistic: a shift keeps each person's mean, spread and slow course, and
    breaks only the alignment in time. So a model that knows each person's level and nothing of the moments scores what
    its shifted labels score. Participants whose label never moves have no CCC and are left out.

    The same limits hold: where label and prediction both drift through a recording, the drift is found; and under
    cross-validation p is a little too small. p is (1 + count) / (1 + draws) and one-sided.

    Args:
        predictions: The predictions table of one model: participant_id, recording_id, start_s, target_<channel> (NaN:
            left out), value_<channel>.
        channel: The channel.
        seed: Seed of the shifts.
        draws: Number of random sets of shifts.

    Returns:
        The test; `p` is None, with the reason, for fewer than `participants_needed()` participants or where the labels
        allow too few shifts.

    Raises:
        UserError: Several models, or fewer than 1 draw.
    """
    models = predictions["model"].unique().tolist()
    if len(models) != 1 or draws < 1:
        raise UserError(
            f"A test is of one model and at least 1 draw; got {', '.join(map(str, models))}, {draws} draws."
        )
    known = predictions[predictions[f"target_{channel}"].notna()]
    known = known.sort_values(["participant_id", "recording_id", "start_s"], kind="stable")
    generator = np.random.default_rng(seed)
    observed, null, shifts, defined = 0.0, np.zeros(draws), 1, 0
    for recordings in _per_participant(known, channel=channel):
        truth = np.concatenate([labels for labels, _ in recordings])
        guessed = np.concatenate([values for _, values in recordings])
        if truth.size < 2 or np.ptp(truth) == 0:
            continue
        defined += 1
        products = [_shifted_products(labels, values) for labels, values in recordings]
        observed += float(_ccc_of(np.array([sum(float(each[0]) for each in products)]), truth, guessed)[0])
        drawn = sum(each[generator.integers(each.size, size=draws)] for each in products)
        null += _ccc_of(np.asarray(drawn, dtype=np.float64), truth, guessed)
        for labels, _ in recordings:
            shifts *= labels.size if np.ptp(labels) > 0 else 1
    return _result(observed, null, defined=defined, shifts=shifts, draws=draws)


def _result(observed: float, null: NDArray[np.float64], *, defined: int, shifts: int, draws: int) -> ChanceTest:
    nan = float("nan")
    floor = max(1.0 / (1.0 + draws), 1 / shifts)
    if not defined:
        note = "The label moves within nobody, so there is nothing to follow."
        return ChanceTest(nan, None, note, floor, nan, nan, draws, False, 0, METHOD)
    score, null = observed / defined, null / defined
    p = max(float((1 + np.sum(null >= score - TIE)) / (1 + draws)), floor)
    note = ""
    if defined < participants_needed():
        note = f"{defined} participants whose label moves; at least {participants_needed()} are needed."
    elif floor > ALPHA:
        note = f"The labels allow {shifts} different shifts, too few for p to fall to {ALPHA:g}."
    high = float(np.percentile(null, UPPER_PERCENTILE))
    return ChanceTest(score, None if note else p, note, floor, float(null.mean()), high, draws, False, defined, METHOD)


def _per_participant(
    known: pd.DataFrame, *, channel: str
) -> Iterator[Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """For each participant the labels and the predicted numbers of each of their recordings, in time order."""
    for _, rows in known.groupby("participant_id", sort=True):
        yield [
            (own[f"target_{channel}"].to_numpy(dtype=np.float64), own[f"value_{channel}"].to_numpy(dtype=np.float64))
            for _, own in rows.groupby("recording_id", sort=True)
        ]


def _shifted_products(labels: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of label times value (N,) with the labels shifted by 0..N-1 clips (circular cross-correlation, by FFT)."""
    transformed = np.conj(np.fft.rfft(labels)) * np.fft.rfft(values)
    return np.asarray(np.fft.irfft(transformed, n=labels.size), dtype=np.float64)


def _ccc_of(
    products: NDArray[np.float64], truth: NDArray[np.float64], guessed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """CCC from summed products (D,): means and variances of a participant are the same at every shift."""
    if np.ptp(guessed) == 0:
        return np.zeros_like(products)
    covariance = products / truth.size - truth.mean() * guessed.mean()
    spread = truth.var() + guessed.var() + (truth.mean() - guessed.mean()) ** 2
    return np.asarray(2.0 * covariance / spread)
