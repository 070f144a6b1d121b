"""Is a model better than chance? Chance is what the same predictions score on labels that they can't know.

Never 1 / K as chance: a score of few participants scatters widely around it. And not scikit-learn's
`permutation_test_score(groups=...)`: it permutes labels within groups (its issue 21543), so that labels which are
constant per participant stay exactly where they were, and labels that vary in time lose their autocorrelation, which
makes chance look narrower than it is.

Every p here is (1 + count) / (1 + draws): count of the draws that score at least as well as the observed labels, which
are one of the possible draws themselves (Phipson and Smyth 2010, Statistical Applications in Genetics 9:39). Where all
arrangements are enumerated, it is the share of them that do. One-sided: only better than chance counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.power import ALPHA, participants_needed
from mien.evaluation.scores import check_predictions
from mien.evaluation.units import scored_per, unit_predictions

ChanceMethod = Literal[
    "circular shifts of each recording's labels",
    "permutations of recordings within participants",
    "permutations of participants",
]

DEFAULT_DRAWS = 1999  # p to .005 at .05, and (1 + draws) * .05 is whole
EXACT_ARRANGEMENTS = 20_000  # up to so many arrangements of labels are enumerated: 17 units of two classes
TIE = 1e-9  # scores that differ by rounding alone are ties, and a tie counts against the model
UPPER_PERCENTILE = 95.0


@dataclass(frozen=True)
class ChanceTest:
    """What a model scored, and what its predictions score by chance.

    Attributes:
        observed: Balanced accuracy, as the report gives it; NaN where it is defined for nobody.
        p: One-sided p; None where it can't be shown.
        p_note: Why not, and what would be needed; empty where p is given.
        floor: Smallest p that this test could give on these data.
        null_mean: Mean score under chance.
        null_high: Its 95th percentile.
        draws: Arrangements of the labels that were scored; where `exact`, all there are.
        exact: Whether all arrangements were enumerated.
        n: Participants (or units) for whom the score is defined.
        method: What was done to the labels.
    """

    observed: float
    p: float | None
    p_note: str
    floor: float
    null_mean: float
    null_high: float
    draws: int
    exact: bool
    n: int
    method: ChanceMethod


def against_chance(predictions: pd.DataFrame, scheme: LabelScheme, *, seed: int) -> ChanceTest:
    """Test one model against chance, in the way that its target is scored (`scored_per`).

    Labels that vary in time: `circular_shift_test`. One label per participant: `participant_permutation_test`.
    Labels per recording that differ within participants: `recording_permutation_test`. p is withheld, with the
    reason in `p_note`, where fewer than 6 participants have a score (as for every test of `comparisons`) or where the
    labels allow so few arrangements that p could not fall to .05.

    Args:
        predictions: The predictions table of one model; clips without a target are left out.
        scheme: What the target's codes and outputs mean, and the unit that one label describes.
        seed: Seed of the draws.

    Raises:
        UserError: Several models, or whatever `check_predictions` finds.
    """
    known = predictions[predictions["target"].notna()] if "target" in predictions else predictions
    if scored_per(known, scheme) != "participant mean":
        found = participant_permutation_test(predictions, scheme, draws=DEFAULT_DRAWS, seed=seed)
    elif scheme.unit == "recording":
        found = recording_permutation_test(predictions, scheme, draws=DEFAULT_DRAWS, seed=seed)
    else:
        found = circular_shift_test(predictions, scheme, draws=DEFAULT_DRAWS, seed=seed)
    return replace(found, p=None if (note := _why_no_p(found)) else found.p, p_note=note)


def circular_shift_test(predictions: pd.DataFrame, scheme: LabelScheme, *, draws: int, seed: int) -> ChanceTest:
    """Shift each recording's labels circularly against its held-out predictions; nothing is fitted again.

    A shift keeps how often and in what runs the labels and the predictions come, and breaks only their alignment. The
    statistic is the mean over participants of each one's balanced accuracy, as `participant_scores` computes it;
    participants without every class are undefined and left out. Each draw shifts every recording by its own uniformly
    drawn number of clips (0 included: the observed alignment is one of the possible ones).

    The hits of class k at shift s are the circular cross-correlation of "is labelled k" and "is predicted k" (by FFT),
    and a shift doesn't change how often a class is labelled; so each recording contributes one number per shift, and a
    draw is a sum of looked-up numbers.

    Limits: for a fixed model it keeps its level where labels and predictions are stationary in a recording; where both
    drift (an expression that gets more frequent, and a light that gets dimmer), it finds that drift. Under
    cross-validation the labels of the others went into each prediction, so participants aren't independent, and p is a
    little too small: at .05 it is wrong in 6-8 % of simulated studies (docs/evaluation.md). Where labels follow a
    stimulus that everybody saw, "better than chance" may mean knowing the stimulus: see the peer baseline. Clips
    without a target are left out before shifting, so a shift passes over gaps. Clips are in the order of `start_s`.

    Args:
        predictions: The predictions table of one model.
        scheme: What the target's codes and outputs mean.
        draws: Number of random sets of shifts.
        seed: Seed of the shifts; rows may come in any order.

    Returns:
        The test. `floor` is the larger of 1 / (1 + draws) and 1 / (number of distinct sets of shifts): labels that are
        constant within every recording have a single one, so their p is 1.

    Raises:
        UserError: Several models, fewer than 1 draw, or whatever `check_predictions` finds.
    """
    known = _one_model(predictions, scheme, draws=draws)
    generator = np.random.default_rng(seed)
    observed, null, arrangements, defined = 0.0, np.zeros(draws), 1, 0
    for recordings in _per_participant(known, scheme):
        weights = _class_weights(np.concatenate([labels for labels, _ in recordings]), len(scheme.classes))
        if weights is None:
            continue
        defined += 1
        for labels, predicted in recordings:
            scores = _shift_scores(labels, predicted, weights)
            observed += float(scores[0])
            null += scores[generator.integers(scores.size, size=draws)]
            arrangements *= _period(labels)
    return _result(
        observed / defined if defined else float("nan"),
        null / max(defined, 1),
        floor=max(1.0 / (1.0 + draws), 1 / arrangements),
        defined=defined,
        method="circular shifts of each recording's labels",
    )


def recording_permutation_test(predictions: pd.DataFrame, scheme: LabelScheme, *, draws: int, seed: int) -> ChanceTest:
    """Permute the labels of each participant's recordings among them: labels that describe a whole recording.

    Each recording is one unit with its mean probability, as `participant_scores` scores it. The statistic is the mean
    over participants of each one's balanced accuracy over recordings. It assumes that, by chance, any recording of a
    person could have had any of that person's labels: an order effect (the sad film always last) isn't chance, and
    would be found.

    Args:
        predictions: The predictions table of one model.
        scheme: Its `unit` is `recording`.
        draws: Number of random permutations.
        seed: Seed of the permutations.

    Raises:
        UserError: Several models, fewer than 1 draw, or whatever `check_predictions` finds.
    """
    known = unit_predictions(_one_model(predictions, scheme, draws=draws), scheme)
    generator = np.random.default_rng(seed)
    observed, null, arrangements, defined = 0.0, np.zeros(draws), 1, 0
    for recordings in _per_participant(known, scheme):
        labels = np.concatenate([labels for labels, _ in recordings])
        predicted = np.concatenate([predicted for _, predicted in recordings])
        weights = _class_weights(labels, len(scheme.classes))
        if weights is None:
            continue
        defined += 1
        observed += float(((labels == predicted) * weights[labels]).sum())
        drawn = generator.permuted(np.broadcast_to(labels, (draws, labels.size)), axis=1)
        null += ((drawn == predicted) * weights[drawn]).sum(axis=1)
        arrangements *= _num_arrangements(np.bincount(labels))
    return _result(
        observed / defined if defined else float("nan"),
        null / max(defined, 1),
        floor=max(1.0 / (1.0 + draws), 1 / arrangements),
        defined=defined,
        method="permutations of recordings within participants",
    )


def participant_permutation_test(
    predictions: pd.DataFrame, scheme: LabelScheme, *, draws: int, seed: int
) -> ChanceTest:
    """Permute the labels of participants who have one label each; nothing is fitted again.

    The statistic is the balanced accuracy over participants, one unit each with their mean probability. Up to
    `EXACT_ARRANGEMENTS` arrangements of the labels all are enumerated (for two classes that is Fisher's exact test);
    beyond, `draws` random ones.

    The predictions stay as they are, although under cross-validation the other participants' labels went into them:
    simulated (T3 in docs/evaluation.md), p is at most .05 in about 5 % of studies without anything to find.

    Args:
        predictions: The predictions table of one model.
        scheme: Its `unit` is `participant`, or `recording` where nobody has more than one class.
        draws: Number of random permutations, where there are too many to enumerate.
        seed: Seed of the permutations.

    Raises:
        UserError: Several models, fewer than 1 draw, targets that differ within a participant, or whatever
            `check_predictions` finds.
    """
    known = _one_model(predictions, scheme, draws=draws)
    per = scored_per(known, scheme)
    if per == "participant mean":
        raise UserError(
            f"{scheme.target!r} varies within participants; permuting participants is for labels that don't. "
            "Use circular_shift_test, or set the study's unit to participant."
        )
    units = unit_predictions(known, scheme).sort_values("participant_id")
    labels = units["target"].to_numpy(dtype=np.int64)
    predicted = _predicted(units, scheme)
    method: ChanceMethod = "permutations of participants"
    weights = _class_weights(labels, len(scheme.classes))
    if weights is None:
        nobody = np.zeros(draws)
        return _result(float("nan"), nobody, floor=1.0, defined=0, method=method)
    observed = float(((labels == predicted) * weights[labels]).sum())
    possible = _num_arrangements(np.bincount(labels))
    exact = possible <= EXACT_ARRANGEMENTS
    if exact:
        arranged = np.array(list(_arrangements(np.bincount(labels).tolist(), labels.size)), dtype=np.int64)
    else:
        generator = np.random.default_rng(seed)
        arranged = generator.permuted(np.broadcast_to(labels, (draws, labels.size)), axis=1)
    null = ((arranged == predicted) * weights[arranged]).sum(axis=1)
    floor = 1 / possible if exact else max(1.0 / (1.0 + draws), 1 / possible)
    return _result(observed, null, floor=floor, defined=labels.size, method=method, exact=exact)


def _one_model(predictions: pd.DataFrame, scheme: LabelScheme, *, draws: int) -> pd.DataFrame:
    """Clips with a target, of one model, in a fixed order."""
    check_predictions(predictions, scheme)
    models = predictions["model"].unique().tolist()
    if len(models) != 1:
        raise UserError(f"A test is of one model; got {', '.join(map(str, models)) or 'none'}. Select its rows.")
    if draws < 1:
        raise UserError(f"Got {draws} draws; at least 1 is needed.")
    known = predictions[predictions["target"].notna()]
    return known.sort_values(["participant_id", "recording_id", "start_s"], kind="stable")


def _per_participant(
    known: pd.DataFrame, scheme: LabelScheme
) -> Iterator[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """For each participant the labels and the predicted classes of each of their recordings, in time order."""
    labels = known["target"].to_numpy(dtype=np.int64)
    predicted = _predicted(known, scheme)
    for rows in known.groupby("participant_id", sort=True).indices.values():
        recording = known["recording_id"].iloc[rows].to_numpy(dtype=object)
        starts = np.flatnonzero(np.concatenate([[True], recording[1:] != recording[:-1]]))
        yield [(labels[part], predicted[part]) for part in np.split(rows, starts[1:])]


def _predicted(rows: pd.DataFrame, scheme: LabelScheme) -> NDArray[np.int64]:
    return scheme.predicted(rows[[f"prob_{name}" for name in scheme.output_names]].to_numpy(dtype=np.float64))


def _class_weights(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64] | None:
    """What one hit of each class adds to a participant's balanced accuracy; None where a class doesn't occur."""
    totals = np.bincount(labels, minlength=num_classes)
    return None if (totals == 0).any() else 1.0 / (num_classes * totals)


def _shift_scores(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted hits (N,) of one recording with its labels shifted by 0..N-1 clips."""
    scores = np.zeros(labels.size, dtype=np.float64)
    for code, weight in enumerate(weights):
        transformed = np.conj(np.fft.rfft(labels == code)) * np.fft.rfft(predicted == code)
        scores += weight * np.rint(np.fft.irfft(transformed, n=labels.size))  # hits are whole numbers
    return scores


def _period(labels: NDArray[np.int64]) -> int:
    """Smallest shift above 0 that leaves circular labels (N,) as they are: their number of distinct shifts."""
    count = labels.size
    return next(
        shift for shift in range(1, count + 1) if count % shift == 0 and np.array_equal(labels, np.roll(labels, shift))
    )


def _num_arrangements(counts: NDArray[np.int64]) -> int:
    """Number of distinct arrangements of labels that occur `counts` times each."""
    total, number = 0, 1
    for count in counts.tolist():
        total += count
        number *= math.comb(total, count)
    return number


def _arrangements(counts: list[int], length: int) -> Iterator[list[int]]:
    """Every distinct arrangement of labels 0, 1, ... that occur `counts` times each."""
    last = len(counts) - 1
    if last <= 0:
        yield [0] * length
        return
    for chosen in itertools.combinations(range(length), counts[last]):
        taken = set(chosen)
        free = [place for place in range(length) if place not in taken]
        for rest in _arrangements(counts[:last], len(free)):
            row = [last] * length
            for place, label in zip(free, rest, strict=True):
                row[place] = label
            yield row


def _result(
    observed: float, null: NDArray[np.float64], *, floor: float, defined: int, method: ChanceMethod, exact: bool = False
) -> ChanceTest:
    nan = float("nan")
    if not defined:
        return ChanceTest(nan, None, "Nobody has every class.", 1.0, nan, nan, 0, False, 0, method)
    # Sums of the same shares in another order differ in the last digit: 1 must be 1.
    observed, null = round(observed, 12), null.round(12)
    as_good = int((null >= observed - TIE).sum())
    p = as_good / null.size if exact else (1 + as_good) / (1 + null.size)
    return ChanceTest(
        observed=observed,
        p=max(p, floor),
        p_note="",
        floor=floor,
        null_mean=float(null.mean()),
        null_high=float(np.percentile(null, UPPER_PERCENTILE)),
        draws=int(null.size),
        exact=exact,
        n=defined,
        method=method,
    )


def _why_no_p(found: ChanceTest) -> str:
    if found.p is None:
        return found.p_note
    needed = participants_needed()
    if found.n < needed:
        people = f"{found.n} participant{'' if found.n == 1 else 's'} with every class"
        if found.method == "permutations of participants":
            people = f"{found.n} participants"
        return f"{people}: at least {needed} are needed."
    if found.floor > ALPHA:
        return (
            f"The labels allow so few arrangements that the smallest possible p is {found.floor:.2g}: more "
            "participants of each class are needed, or labels that vary within recordings (is the unit right?)."
        )
    return ""
