"""What a model's scores would be if the expression were rarer or more frequent.

`prevalence_sweep` weighs the predictions that there are. With a personal baseline that isn't enough: what is subtracted
depends on how much of the recording is expression. There, `resampled_sweep` draws the frames themselves anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.metrics import score_participant
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.material import subtract_baseline

PREVALENCES = (0.0, 0.1, 0.3, 0.7, 1.0)
SWEEP_METRICS = ("sensitivity", "specificity", "accuracy", "f1", "predicted_prevalence")
DRAWS = 5  # a participant's frames are many, so draws differ little; the spread between participants dwarfs theirs


def prevalence_sweep(
    scores: pd.DataFrame, *, prevalences: Sequence[float] = PREVALENCES
) -> list[dict[str, float]] | None:
    """Score a model's predictions at other shares of positive clips (binary targets), mean over participants.

    Each participant's positive clips get weights that sum to the prevalence, the negative ones weights that sum to the
    rest: what drawing clips at that prevalence gives on average, without the chance of a draw. With the sensitivity s
    and specificity c of the participant, at prevalence q: accuracy is q s + (1 - q) c, predicted prevalence
    d = q s + (1 - q) (1 - c), and F1 is 2 q s / (q + d). Balanced accuracy is the same at every prevalence.

    Only participants with both classes count, so that the same people stand behind every prevalence.

    The predictions stay as they are. That leaves out what a personal baseline does: subtracting the mean over a whole
    recording takes away part of the expression itself, the more of it there is, so sensitivity falls as prevalence
    rises. For a model with a personal baseline this sweep is too good at high prevalences; `resampled_sweep` isn't.

    Args:
        scores: Rows of `participant_scores` of one model.
        prevalences: Shares of positive clips, each 0..1.

    Returns:
        Per prevalence `prevalence`, `accuracy`, `f1` (NaN at 0: there is nothing to find), `predicted_prevalence` and
        `participants` (how many have both classes; with none, the scores are NaN). None where a sweep has no meaning:
        several classes, or one label per participant.

    Raises:
        UserError: Rows of no or several models, or a prevalence outside 0..1.
    """
    models = scores["model"].unique().tolist()
    if len(models) != 1:
        raise UserError(f"A sweep is of one model; got {', '.join(map(str, models)) or 'none'}. Select its rows.")
    _check_prevalences(prevalences)
    multiclass = bool((scores["n"] > 0).any()) and bool(scores["positives"].isna().all())
    if multiclass or scores["scored_per"].iloc[0] != "participant mean":
        return None
    rates = scores[["sensitivity", "specificity"]].dropna().to_numpy(dtype=np.float64)
    return [_at(float(value), sensitivity=rates[:, 0], specificity=rates[:, 1]) for value in prevalences]


def resampled_sweep(
    features: NDArray[np.floating],
    frames: pd.DataFrame,
    *,
    logits: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    baseline: PersonalBaseline,
    seed: int,
    prevalences: Sequence[float] = PREVALENCES,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Score a fitted probe on test participants whose frames are drawn anew at other shares of positives.

    Per recording as many labelled frames are drawn as it has, positive ones at the wanted share: without repeats while
    there are enough of a class, else with all of it and random repeats. They stay in order of time. The personal
    baseline is that of the drawn frames, so it is pulled by the expression as it would be in a recording with that
    prevalence. Its named segment, where it has one, is a rest that prevalence doesn't touch: those frames stay the
    reference and aren't scored. `first:S` takes the first S seconds that were drawn: at a prevalence of 1 these are
    expression, too, as in a recording that begins with it. Frames without a label can't be drawn and are left out.

    Only recordings with both classes count, so that the same people stand behind every prevalence. Call it per fold,
    with the fold's probe and its test participants; `summarise_sweep` sums up the rows of all folds.

    Args:
        features: (N, D) before the personal baseline.
        frames: (N rows) as `Material.frames_of` gives them: recording_id, participant_id, pts_s (s), target (0 or 1,
            negative where there is none), segment.
        logits: From features minus the baseline (M, D) to logits (M, 1), such as `Probe.logits`.
        baseline: What is subtracted.
        seed: Seed of the draws; each recording has its own.
        prevalences: Shares of positive frames, each 0..1.
        draws: How often frames are drawn.

    Returns:
        A row per participant and prevalence: participant_id, prevalence, `SWEEP_METRICS` (means over the draws; NaN
        where undefined: sensitivity and F1 at 0, specificity at 1) and n (frames per draw). Empty where no recording
        has both classes.

    Raises:
        UserError: A prevalence outside 0..1, fewer than 1 draw, features that don't fit the frames, or other targets.
    """
    _check_sweep(features, frames, prevalences=prevalences, draws=draws)
    rows = []
    for participant_id, indices in frames.groupby("participant_id", sort=True).indices.items():
        own = frames.iloc[indices].reset_index(drop=True)
        values = np.asarray(features, np.float64)[indices]
        recordings = _drawable(own, baseline=baseline)
        if not recordings:
            continue
        for prevalence in prevalences:
            scores = []
            for draw in range(draws):
                generators = (np.random.default_rng([seed, draw, number]) for number in range(len(recordings)))
                drawn = zip(recordings, generators, strict=True)
                chosen = np.concatenate([_draw(part, prevalence=prevalence, rng=rng) for part, rng in drawn])
                scores.append(_score_draw(values, own, chosen=chosen, logits=logits, baseline=baseline))
            table = pd.DataFrame(scores)
            row = {"participant_id": participant_id, "prevalence": float(prevalence), **table.mean().to_dict()}
            rows.append({**row, "n": int(table["n"].iloc[0])})
    return pd.DataFrame(rows, columns=["participant_id", "prevalence", *SWEEP_METRICS, "n"])


def summarise_sweep(rows: pd.DataFrame) -> list[dict[str, float]]:
    """Return the mean over participants of `resampled_sweep`'s rows, per prevalence in increasing order.

    Args:
        rows: Rows of all folds.

    Returns:
        The keys of `prevalence_sweep`, and `sensitivity` and `specificity`; NaN where nobody's is defined.
    """
    means = []
    for prevalence in sorted(rows["prevalence"].unique().tolist()):
        part = rows[rows["prevalence"] == prevalence]
        # Rows that went through JSON have None where a score is undefined.
        scores = {name: float(part[name].astype("float64").mean()) for name in SWEEP_METRICS}
        means.append({"prevalence": prevalence, **scores, "participants": part["participant_id"].nunique()})
    return means


def _check_sweep(
    features: NDArray[np.floating], frames: pd.DataFrame, *, prevalences: Sequence[float], draws: int
) -> None:
    _check_prevalences(prevalences)
    if draws < 1:
        raise UserError(f"Got {draws} draws; at least 1 is needed.")
    if len(features) != len(frames):
        raise UserError(f"Got {len(features)} rows of features for {len(frames)} frames; each frame needs one.")
    if int(frames["target"].max()) > 1:
        raise UserError(f"A sweep over prevalence needs a binary target; got codes up to {frames['target'].max()}.")


def _check_prevalences(prevalences: Sequence[float]) -> None:
    wrong = [value for value in prevalences if not 0.0 <= value <= 1.0]
    if wrong:
        raise UserError(f"Prevalences {', '.join(f'{value:g}' for value in wrong)} aren't shares; allowed: 0..1.")


def _drawable(frames: pd.DataFrame, *, baseline: PersonalBaseline) -> list[tuple[NDArray[np.int64], ...]]:
    """Return the rows of the negative and the positive frames of each recording that has both."""
    free = frames["segment"] != baseline.segment if baseline.kind == "segment" else frames["target"] >= 0
    recordings = []
    for _, part in frames[free].groupby("recording_id", sort=True):
        classes = tuple(part.index[part["target"] == code].to_numpy(np.int64) for code in (0, 1))
        if all(map(len, classes)):
            recordings.append(classes)
    return recordings


def _draw(classes: tuple[NDArray[np.int64], ...], *, prevalence: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rows of one recording, as many as it has, in their order."""
    total = sum(map(len, classes))
    num_positive = round(prevalence * total)
    if 0.0 < prevalence < 1.0:
        num_positive = min(max(num_positive, 1), total - 1)
    parts = []
    for rows, count in zip(classes, (total - num_positive, num_positive), strict=True):
        repeats = rng.choice(rows, size=max(0, count - len(rows)))
        parts.append(np.concatenate([rng.choice(rows, size=min(count, len(rows)), replace=False), repeats]))
    return np.sort(np.concatenate(parts))


def _score_draw(
    features: NDArray[np.float64],
    frames: pd.DataFrame,
    *,
    chosen: NDArray[np.int64],
    logits: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    baseline: PersonalBaseline,
) -> dict[str, float]:
    """Score the chosen frames of one participant, the baseline taken of them (and of the rest, where it is one)."""
    used = chosen
    if baseline.kind == "segment":
        drawn_from = frames["recording_id"].isin(frames["recording_id"].iloc[chosen].unique())
        rest = np.flatnonzero((frames["segment"] == baseline.segment) & drawn_from)
        used = np.concatenate([chosen, rest])
    personal = subtract_baseline(features[used], frames.iloc[used].reset_index(drop=True), baseline=baseline)
    scheme = LabelScheme("sweep", "binary", ("no", "yes"), label_source="any")
    targets = frames["target"].to_numpy(np.int64)[chosen]
    metrics = score_participant(targets, scheme.probabilities(logits(personal[: len(chosen)])), scheme)
    return {**{name: float(metrics[name]) for name in SWEEP_METRICS}, "n": len(chosen)}


def _at(prevalence: float, *, sensitivity: np.ndarray, specificity: np.ndarray) -> dict[str, float]:
    found = prevalence * sensitivity
    predicted = found + (1.0 - prevalence) * (1.0 - specificity)
    f1 = 2.0 * found / (prevalence + predicted) if prevalence > 0 else np.full(found.shape, np.nan)
    accuracy = found + (1.0 - prevalence) * specificity
    means = {"accuracy": accuracy, "f1": f1, "predicted_prevalence": predicted}
    return {
        "prevalence": prevalence,
        **{name: float(values.mean()) if values.size else float("nan") for name, values in means.items()},
        "participants": len(sensitivity),
    }
