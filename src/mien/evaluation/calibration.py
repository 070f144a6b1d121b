"""Calibration: probabilities that mean what they say, and how far a model's are from that.

A network that was trained with class weights believes in a world where the classes are equally frequent. The intercepts
that are fitted here carry its probabilities back to the frequencies of the training participants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mien.core.errors import UserError
from mien.evaluation.intervals import participant_interval
from mien.evaluation.jackknife import jackknife_interval
from mien.evaluation.metrics import LOSS_PROBABILITY_FLOOR

# On 3 participants the fitted map is theirs, not the model's. Simulated, with logits 1.3 times too steep and a level
# that differs by 1 between people, a map of 3 makes the log-loss of new people worse in 39 % of studies, of 10 in 11 %,
# of 20 in 1 %; the intercept varies by .53, .31 and .20 (`tests/test_calibration.py`).
MIN_PARTICIPANTS = 10
# Keeps the solution finite where the logits separate the classes; worth a hundredth of one participant's clips.
PENALTY = 0.01
# A negative slope would turn the ranking of the model round, on the word of a handful of people.
MIN_SLOPE = 0.01
NUM_BINS = 10
BOOTSTRAP_DRAWS = 200  # the mean of 200 draws is known to 7 % of one draw's spread

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A map from logits to calibrated probabilities.

    Attributes:
        kind: `binary` (one logit) or `multiclass` (one logit per class).
        slope: Factor of the logits: 1 / temperature. Below 1 the model was too sure.
        intercepts: (num_outputs,) added after that; of several classes they sum to 0.
        participants: How many participants it was fitted on.
        note: Why it changes nothing, empty where it was fitted.
    """

    kind: Literal["binary", "multiclass"]
    slope: float
    intercepts: tuple[float, ...]
    participants: int
    note: str = ""

    def apply(self, logits: NDArray[np.floating]) -> Floats:
        """Return probabilities (N, num_outputs) for logits of that shape.

        Raises:
            UserError: Another number of outputs.
        """
        scores = np.asarray(logits, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(self.intercepts):
            raise UserError(
                f"Logits have the shape {scores.shape}; this calibration was fitted on {len(self.intercepts)} outputs. "
                "Give it logits of the model that it was fitted for."
            )
        moved = self.slope * scores + np.array(self.intercepts)
        return softmax(_as_classes(moved), axis=1)[:, 1:] if self.kind == "binary" else softmax(moved, axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return the map as JSON types."""
        return asdict(self) | {"intercepts": list(self.intercepts)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Calibration:
        """Return the map that `to_json` wrote.

        Raises:
            UserError: A part is missing or of the wrong kind.
        """
        try:
            return Calibration(
                kind=values["kind"],
                slope=float(values["slope"]),
                intercepts=tuple(float(value) for value in values["intercepts"]),
                participants=int(values["participants"]),
                note=str(values["note"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"A calibration can't be read ({type(error).__name__}: {error}).") from error


def fit_calibration(
    logits: NDArray[np.floating],
    targets: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    weights: NDArray[np.floating] | None = None,
    min_participants: int = MIN_PARTICIPANTS,
) -> Calibration:
    """Fit a slope and intercepts that make logits of training participants calibrated.

    Binary: p = sigmoid(slope * logit + intercept) (Platt 1999, Advances in Large Margin Classifiers). Multiclass:
    p = softmax(slope * logits + intercepts): one temperature (Guo et al. 2017, ICML) and one intercept per class
    (bias-corrected temperature scaling, Alexandari et al. 2020, ICML). A temperature alone could not undo class
    weights, which shift the classes against each other; a full matrix has K^2 numbers to fit on a few dozen people.

    What is minimised is the log-loss, each participant's clips weighing 1 together, plus `PENALTY` / 2 times the
    squared distance from changing nothing. Slope at least `MIN_SLOPE`. At the solution, the mean probability of each
    class equals its share among these participants (up to the penalty): that is the correction of class-weighted
    training, and it supposes that the people to be predicted show the expression about as often.

    Args:
        logits: (N, num_outputs). Cross-fitted: each participant's from a model that didn't see that participant, within
            the training participants. Logits of what a model was trained on are too sure, and a map of them corrects
            too little.
        targets: (N,) class codes; NaN is missing and left out.
        participants: (N,) participant of each clip.
        weights: (N,) weight of each clip within its participant, such as its length; None for equal ones.
        min_participants: Fewest participants with a target to fit on.

    Returns:
        The map; the one that changes nothing, with a note, for fewer participants or where only one class occurs.

    Raises:
        UserError: Shapes that don't fit, a logit that isn't finite, a code outside the classes, or a weight below 0.
    """
    scores, codes, people = _checked(logits, targets, participants, what="logits")
    outputs = scores.shape[1]
    kind: Literal["binary", "multiclass"] = "binary" if outputs == 1 else "multiclass"
    known = codes >= 0
    within = np.ones(codes.size) if weights is None else np.asarray(weights, dtype=np.float64)
    if within.shape != codes.shape or not (within >= 0).all():
        raise UserError(f"Weights have the shape {within.shape}; needed: {codes.shape}, each a number from 0 up.")
    known &= within > 0
    names = np.unique(people[known])
    note = ""
    if names.size < min_participants:
        note = (
            f"Not calibrated: {names.size} participants, and {min_participants} are needed; a map fitted on fewer "
            "describes these people, not the model."
        )
    elif np.unique(codes[known]).size < 2:
        note = "Not calibrated: the participants show one class only."
    if note:
        return Calibration(kind, 1.0, (0.0,) * outputs, int(names.size), note)
    classes = _as_classes(scores[known]) if kind == "binary" else scores[known]
    clip_weights = _participant_weights(people[known], within[known])
    slope, intercepts = _fit(classes, codes[known], clip_weights, penalty=PENALTY, min_slope=MIN_SLOPE)
    given = (float(intercepts[1] - intercepts[0]),) if kind == "binary" else tuple(intercepts.tolist())
    return Calibration(kind, slope, given, int(names.size))


def calibration_scores(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.floating],
    participants: NDArray[np.object_],
    *,
    folds: int | None,
    seed: int,
    prior: NDArray[np.floating] | None = None,
    draws: int = BOOTSTRAP_DRAWS,
) -> dict[str, Any]:
    """Score probabilities of participants that neither the model nor its calibration has seen.

    Each participant weighs 1, whatever the number of clips.

    `brier`: mean squared distance from what happened (Brier 1950), (p - y)^2 for binary targets, the sum over classes
    for several. `brier_skill` = 1 - Brier / Brier of the prior. `log_loss`: probabilities below
    `LOSS_PROBABILITY_FLOOR` count as that. `slope` and `intercepts`: logistic regression of what happened on the
    log-odds that were given (Cox 1958, Biometrika 45:562-565), for several classes as in `fit_calibration`; ideal are 1
    and 0, and a slope below 1 says that the model is too sure.

    `reliability`: clips by the probability that was given, ten bins of equal width; of several classes that of the most
    probable one, and whether it was right. `ece`: mean over bins of |given - observed|, by weight (Naeini et al. 2015,
    AAAI). It is above 0 for a perfect model too, the more so the fewer people and clips. So two such expectations stand
    beside it. `ece_calibrated` is a wild bootstrap over participants (Wu 1986, Annals of Statistics 14:1261-1295;
    clustered: Cameron et al. 2008): what each participant adds to the gap of a bin, around the mean gap, is kept or
    turned round as a whole, so it keeps that a person's frames repeat each other and that people differ in their level.
    `ece_excess` = `ece` - `ece_calibrated`. `ece_calibrated_clips` draws each clip's label from its probability
    (Vaicenavicius et al. 2019, AISTATS), as if clips were independent. Simulated with a perfect model, 20 people and
    labels that repeat for 10 frames, the error is .081, of which the first takes all but .002 and the second all but
    .054; where clips are independent, both all but .002. With 5 people too little is taken (.07 remain of .17).
    Drawing the participants anew as well would take too much (-.012 remain of .026 with 20). Of a real error a part is
    taken too: the excess of a model that is twice too sure (.097) was .05-.07 with 20 people.

    Args:
        probabilities: (N, 1) of the second class, or (N, K); each 0..1.
        targets: (N,) class codes; NaN is missing and left out.
        participants: (N,) participant of each clip.
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).
        seed: Seed of the bootstrap.
        prior: (K,) class shares of the training participants (for a binary target of both classes), or (N, K) where
            folds differ. None: the shares of the scored participants, which no model could know: the skill is then
            smaller than against the training prior.
        draws: Draws of the bootstrap.

    Returns:
        `brier`, `log_loss` (means over participants), `brier_skill`, `slope` (of all together, leaving out one
        participant at a time): dicts of mean, low, high, n. `intercepts` (one for binary targets, else K), `prior`
        (`given` or `scored participants`), `ece`, `ece_calibrated`, `ece_calibrated_95` (its 95th percentile) and
        `ece_excess` (these three NaN for one participant), `ece_calibrated_clips`, `reliability` (per bin low, high,
        count, participants, mean_probability, observed), `n`, `participants`. What isn't defined is NaN: everything
        without a target, slope and intercepts with one class.

    Raises:
        UserError: Shapes that don't fit, probabilities outside 0..1, a code outside the classes, or fewer than 1 draw.
    """
    given, codes, people = _checked(probabilities, targets, participants, what="probabilities")
    if not ((given[codes >= 0] >= 0) & (given[codes >= 0] <= 1)).all():
        raise UserError("A probability isn't in 0..1; give probabilities here, and logits to fit_calibration.")
    if draws < 1:
        raise UserError(f"Got {draws} draws of the bootstrap; at least 1 is needed.")
    table = _Table.of(given, codes, people, prior=prior)
    count = table.names.size
    brier, brier_prior = (table.per_participant(values) for values in (table.brier, table.brier_prior))
    skill = _jackknifed(lambda kept: _skill(brier[kept], brier_prior[kept]), count, folds=folds, upper=1.0)
    slope, intercepts = table.line(np.ones(count, dtype=np.bool_))
    return {
        "brier": asdict(participant_interval(brier, folds=folds, bounds=(0.0, 1.0 if table.binary else 2.0))),
        "brier_skill": skill,
        "log_loss": asdict(
            participant_interval(table.per_participant(table.log_loss), folds=folds, bounds=(0.0, np.inf))
        ),
        "slope": _jackknifed(lambda kept: table.line(kept)[0], count, folds=folds, score=slope),
        "intercepts": intercepts,
        "prior": "scored participants" if prior is None else "given",
        **table.ece(seed=seed, draws=draws),
        "reliability": table.reliability(),
        "n": int(table.codes.size),
        "participants": int(count),
    }


@dataclass(frozen=True)
class _Table:
    """Scored clips: (N, K) probabilities, class codes, participants, and what the bins are of."""

    classes: Floats
    codes: NDArray[np.int64]
    person: NDArray[np.intp]
    names: NDArray[np.str_]
    prior: Floats
    binary: bool

    @classmethod
    def of(
        cls,
        given: Floats,
        codes: NDArray[np.int64],
        people: NDArray[np.str_],
        *,
        prior: NDArray[np.floating] | None,
    ) -> _Table:
        known = codes >= 0
        binary = given.shape[1] == 1
        classes = np.hstack([1.0 - given, given])[known] if binary else given[known]
        names, person = np.unique(people[known], return_inverse=True)
        num_classes = classes.shape[1]
        if prior is None:
            weights = _participant_weights(people[known])
            shares = np.bincount(codes[known], weights=weights, minlength=num_classes) / max(names.size, 1)
        else:
            shares = np.asarray(prior, dtype=np.float64)
            if shares.shape not in ((num_classes,), (codes.size, num_classes)):
                raise UserError(
                    f"The prior has the shape {shares.shape}; allowed: ({num_classes},), or one row for each of the "
                    f"{codes.size} clips."
                )
            shares = shares[known] if shares.ndim == 2 else shares
        return cls(classes, codes[known], person, names, np.broadcast_to(shares, classes.shape), binary)

    @property
    def happened(self) -> Floats:
        return np.asarray(np.eye(self.classes.shape[1])[self.codes])

    @property
    def brier(self) -> Floats:
        return self._squared(self.classes)

    @property
    def brier_prior(self) -> Floats:
        return self._squared(self.prior)

    @property
    def log_loss(self) -> Floats:
        given = self.classes[np.arange(self.codes.size), self.codes]
        return np.asarray(-np.log(np.clip(given, LOSS_PROBABILITY_FLOOR, 1.0)))

    def _squared(self, given: Floats) -> Floats:
        distance = np.asarray(((given - self.happened) ** 2).sum(axis=1))
        return distance / 2.0 if self.binary else distance  # both classes of a binary target say the same

    def per_participant(self, values: Floats) -> Floats:
        count = np.bincount(self.person, minlength=self.names.size)
        return np.asarray(np.bincount(self.person, weights=values, minlength=self.names.size) / np.maximum(count, 1))

    def line(self, kept: NDArray[np.bool_]) -> tuple[float, list[float]]:
        """Calibration slope and intercepts of the participants that are kept (P,)."""
        rows = kept[self.person]
        nan = float("nan")
        if np.unique(self.codes[rows]).size < 2:
            return nan, [nan] * (1 if self.binary else self.classes.shape[1])
        logits = np.log(np.clip(self.classes[rows], LOSS_PROBABILITY_FLOOR, 1.0))
        weights = _participant_weights(self.person[rows])
        slope, intercepts = _fit(logits, self.codes[rows], weights, penalty=1e-6, min_slope=None)
        return slope, [float(intercepts[1] - intercepts[0])] if self.binary else intercepts.tolist()

    def _binned(self) -> tuple[Floats, Floats, NDArray[np.intp]]:
        """What was said, whether it came true, and the bin of each clip."""
        said = self.classes[:, 1] if self.binary else self.classes.max(axis=1)
        true = self.codes == (1 if self.binary else self.classes.argmax(axis=1))
        return said, true.astype(np.float64), np.minimum((said * NUM_BINS).astype(np.intp), NUM_BINS - 1)

    def ece(self, *, seed: int, draws: int) -> dict[str, float]:
        nan = float("nan")
        names = ("ece", "ece_calibrated", "ece_calibrated_95", "ece_excess", "ece_calibrated_clips")
        if not self.codes.size:
            return dict.fromkeys(names, nan)
        said, true, bins = self._binned()
        weights = _participant_weights(self.person)
        generator = np.random.default_rng(seed)
        by_people = self._ece_of_people(weights * (said - true), weights, bins, generator=generator, draws=draws)
        by_clips = [_ece(said - (generator.random(said.size) < said), bins, weights) for _ in range(draws)]
        found = _ece(said - true, bins, weights)
        expected = float(by_people.mean()) if by_people.size else nan
        upper = float(np.quantile(by_people, 0.95)) if by_people.size else nan
        return dict(zip(names, (found, expected, upper, found - expected, float(np.mean(by_clips))), strict=True))

    def _ece_of_people(
        self, gap: Floats, weights: Floats, bins: NDArray[np.intp], *, generator: np.random.Generator, draws: int
    ) -> Floats:
        """ECE of `draws` worlds without miscalibration in which each person's part of it has either sign."""
        people = self.names.size
        if people < 2:
            return np.zeros(0)
        cell = self.person * NUM_BINS + bins
        gaps, weight = (
            np.bincount(cell, weights=each, minlength=people * NUM_BINS).reshape(people, NUM_BINS)
            for each in (gap, weights)
        )
        mean = gaps.sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-300)
        # The mean gap was taken from these people, so what is left varies too little, as n - 1 says of a variance.
        left = (gaps - mean * weight) * np.sqrt(people / (people - 1))
        signs = generator.choice([-1.0, 1.0], size=(draws, people))
        return np.asarray(np.abs(signs @ left).sum(axis=1) / weights.sum())

    def reliability(self) -> list[dict[str, float]]:
        said, true, bins = self._binned()
        weights = _participant_weights(self.person)
        rows = []
        for each in range(NUM_BINS):
            own = bins == each
            total = float(weights[own].sum())
            rows.append(
                {
                    "low": each / NUM_BINS,
                    "high": (each + 1) / NUM_BINS,
                    "count": int(own.sum()),
                    "participants": int(np.unique(self.person[own]).size),
                    "mean_probability": float(weights[own] @ said[own] / total) if total else float("nan"),
                    "observed": float(weights[own] @ true[own] / total) if total else float("nan"),
                }
            )
        return rows


def _checked(
    values: NDArray[np.floating], targets: NDArray[np.floating], participants: NDArray[np.object_], *, what: str
) -> tuple[Floats, NDArray[np.int64], NDArray[np.str_]]:
    """Outputs (N, num_outputs), codes with -1 for missing, participants as text."""
    outputs, wanted = np.asarray(values, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    people = np.asarray(participants).astype(str)
    if outputs.ndim != 2 or not outputs.shape[1] or wanted.shape != outputs.shape[:1] or people.shape != wanted.shape:
        raise UserError(
            f"The {what} {outputs.shape}, targets {wanted.shape} and participants {people.shape} don't fit; needed: "
            "(N, num_outputs), (N,) and (N,)."
        )
    known = np.isfinite(wanted)
    codes = np.where(known, wanted, -1.0)
    classes = max(outputs.shape[1], 2)
    if not np.isin(codes[known], np.arange(classes)).all():
        raise UserError(f"Targets hold a code outside 0..{classes - 1}; give class codes, NaN where missing.")
    wrong = int(np.sum(~np.isfinite(outputs[known]).all(axis=1)))
    if wrong:
        raise UserError(
            f"{wrong} of {int(known.sum())} clips with a target have {what} that aren't finite numbers. The model "
            "probably diverged: train it again with a lower learning rate."
        )
    return outputs, codes.astype(np.int64), people


def _as_classes(logits: Floats) -> Floats:
    """Logits of both classes (N, 2) for those of the second (N, 1)."""
    return np.hstack([np.zeros_like(logits), logits])


def _participant_weights(people: NDArray[Any], within: Floats | None = None) -> Floats:
    """Weights of clips (N,) that sum to 1 for each participant."""
    _, person = np.unique(people, return_inverse=True)
    weights = np.ones(person.size) if within is None else within
    return np.asarray(weights / np.bincount(person, weights=weights)[person]) if person.size else np.zeros(0)


def _fit(
    logits: Floats, codes: NDArray[np.int64], weights: Floats, *, penalty: float, min_slope: float | None
) -> tuple[float, Floats]:
    """Slope and intercepts (K,) with the lowest weighted log-loss of softmax(slope * logits + intercepts)."""
    happened = np.eye(logits.shape[1])[codes]
    centred = logits - logits.mean(axis=1, keepdims=True)  # the softmax is the same; the solver sees the slope better

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scores = parameters[0] * centred + parameters[1:]
        logs = np.asarray(log_softmax(scores, axis=1))
        error = weights[:, None] * (np.exp(logs) - happened)
        moved = parameters - start
        value = -float((weights[:, None] * happened * logs).sum()) + penalty / 2.0 * float(moved @ moved)
        gradient = np.concatenate([[float((error * centred).sum())], error.sum(axis=0)]) + penalty * moved
        return value / total, gradient / total

    start = np.concatenate([[1.0], np.zeros(logits.shape[1])])
    total = float(weights.sum())
    bounds = [(min_slope, None), *[(None, None)] * logits.shape[1]]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    return float(found.x[0]), np.asarray(found.x[1:], dtype=np.float64)


def _ece(gap: Floats, bins: NDArray[np.intp], weights: Floats) -> float:
    return float(np.abs(np.bincount(bins, weights=weights * gap, minlength=NUM_BINS)).sum() / weights.sum())


def _skill(brier: Floats, brier_prior: Floats) -> float:
    return 1.0 - float(brier.mean() / brier_prior.mean()) if brier.size and brier_prior.mean() > 0 else float("nan")


def _jackknifed(
    score_of: Callable[[NDArray[np.bool_]], float],
    count: int,
    *,
    folds: int | None,
    score: float | None = None,
    upper: float = float("inf"),
) -> dict[str, Any]:
    """Score of all participants, with an interval that leaves out one at a time."""
    everybody = np.ones(count, dtype=np.bool_)
    left_out = np.array([score_of(np.arange(count) != each) for each in range(count)], dtype=np.float64)
    value = score_of(everybody) if score is None else score
    return asdict(jackknife_interval(left_out, score=value, folds=folds, bounds=(-np.inf, upper)))
