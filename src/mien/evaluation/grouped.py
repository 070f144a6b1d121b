"""A reference model that tells what given features know of a label in new people: one probe per fold of people.

The audit holds it against features that should know nothing: nuisances, pictures whose face is hidden. The same probe
with frames of one person on both sides exists for one purpose, the leakage gap; it gives a number, never a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.data.clips import ClipIndex
from mien.evaluation.baselines import trivial_scores
from mien.evaluation.intervals import EQUAL_WITHIN, Interval
from mien.evaluation.power import ALPHA, sign_flip_floor
from mien.evaluation.probe import Probe, ProbeConfig, fit_probe
from mien.evaluation.scores import participant_scores, summarise_model
from mien.evaluation.units import scored_per
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.material import UNLABELLED, subtract_baseline

CLIP_COLUMNS = ("clip_id", "recording_id", "participant_id", "group", "segment_id", "start_s", "end_s")

ALARM_MARGIN = 0.05
"""How far above chance the lower bound of something that should know nothing must lie to count. Without a margin, a
trace that no conclusion hangs on (a score of .52 in many people) would alarm; EVALUATION.md section 2 sets .55."""

PRIOR_DRAWS = 5
"""Draws of the prior for the threshold: with a mean over people, too, more change its third digit."""


def alarm_threshold(clips: ClipIndex, *, splits: Sequence[Split]) -> float:
    """Return the balanced accuracy that the lower bound of what should know nothing mustn't exceed.

    .55 for two classes. For several, the better of the trivial predictors `majority` and `prior` plus the same margin:
    1/K is chance only for who shows all K classes.

    Args:
        clips: The clips of the target.
        splits: The folds.
    """
    if clips.scheme.kind == "binary":
        return 0.5 + ALARM_MARGIN
    given: dict[str, Any] = {"clips": clips.table, "splits": splits, "scheme": clips.scheme}
    scores = trivial_scores(**given, seed=0, draws=PRIOR_DRAWS)
    means = [
        summarise_model(scores[scores["model"] == kind], folds=None)["balanced_accuracy"]["mean"]
        for kind in ("majority", "prior")
    ]
    known = [mean for mean in means if np.isfinite(mean)]
    # Nobody shows all classes: then nothing has a balanced accuracy, and nothing can exceed this.
    return max(known, default=1.0 / len(clips.scheme.classes)) + ALARM_MARGIN


def features_of_frames(frames: pd.DataFrame, *, of: Callable[[str], NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the features (N, D) of frames (N rows, recording by recording).

    Args:
        frames: As `Material.frames_of` gives them.
        of: Returns the features of all sampled frames of a recording.
    """
    parts = [
        np.asarray(of(str(name))[rows["frame"].to_numpy()], dtype=np.float32)
        for name, rows in frames.groupby("recording_id", sort=False)
    ]
    return np.concatenate(parts)


def single_class_folds(frames: pd.DataFrame, *, splits: Sequence[Split]) -> list[int]:
    """Return the folds whose training participants show fewer than two classes in these frames: no probe fits there."""
    return [
        split.fold
        for split in splits
        if _labelled(frames, participants=split.test).any()
        and frames.loc[_labelled(frames, participants=(*split.train, *split.validation)), "target"].nunique() < 2
    ]


def out_of_fold(
    features: NDArray[np.floating],
    frames: pd.DataFrame,
    *,
    clips: ClipIndex,
    splits: Sequence[Split],
    baseline: PersonalBaseline,
    C: float,
    model: str,
) -> pd.DataFrame:
    """Predict the test participants of every fold by a probe that is fitted on the fold's other participants.

    The probe is that of `mien.evaluation.probe`: standardised features, classes and participants balanced. It has no
    early stopping, so the validation participants are fitted on, too.

    Args:
        features: (N, D), one row per frame, finite.
        frames: (N rows) as `Material.frames_of` gives them: all frames with a picture, labelled or not.
        clips: The clips of the target.
        splits: The folds; each participant is tested once.
        baseline: Subtracted per recording, on all frames, before anything is fitted.
        C: Inverse strength of the probe's L2 penalty.
        model: What the table's `model` says.

    Returns:
        A predictions table: folds in order, within one the clips as they come in `frames`.

    Raises:
        UserError: Features that don't fit the frames or aren't finite; a fold whose training participants show one
            class only.
    """
    personal = _personal(features, frames, baseline=baseline)
    parts = []
    for split in splits:
        train = _labelled(frames, participants=(*split.train, *split.validation))
        test = _labelled(frames, participants=split.test)
        if test.any():
            probe = _fit(personal, frames, rows=train, scheme=clips.scheme, C=C)
            logits, rows = probe.logits(personal[test]), frames["row"][test]
            parts.append(predictions_table(logits, clips=clips, rows=rows, model=model, fold=split.fold))
    if not parts:
        raise UserError("No clip belongs to a participant that is tested; give the folds of the same target.")
    return pd.concat(parts, ignore_index=True)


def out_of_fold_and_block(
    features: NDArray[np.floating],
    frames: pd.DataFrame,
    *,
    blocks: NDArray[np.integer],
    clips: ClipIndex,
    splits: Sequence[Split],
    baseline: PersonalBaseline,
    C: float,
    model: str,
) -> pd.DataFrame | None:
    """Predict clips whose person AND block (such as a stimulus) the probe never saw.

    Args:
        features: (N, D).
        frames: (N rows) as for `out_of_fold`.
        blocks: (N,) which block a frame belongs to; frames of a negative block are neither fitted on nor tested.
        clips: The clips of the target.
        splits: The folds.
        baseline: Subtracted per recording, on all frames.
        C: Inverse strength of the probe's L2 penalty.
        model: What the table's `model` says.

    Returns:
        A predictions table. Clips are left out where the training participants show one class only outside the block;
        None where that leaves nothing.

    Raises:
        UserError: Features that don't fit the frames.
    """
    personal = _personal(features, frames, baseline=baseline)
    targets = frames["target"].to_numpy()
    parts = []
    for split in splits:
        train = _labelled(frames, participants=(*split.train, *split.validation)) & (blocks >= 0)
        test = _labelled(frames, participants=split.test)
        for block in np.unique(blocks[test & (blocks >= 0)]):
            rows, tested = train & (blocks != block), test & (blocks == block)
            if len(np.unique(targets[rows])) < 2:
                continue
            probe = _fit(personal, frames, rows=rows, scheme=clips.scheme, C=C)
            logits, own = probe.logits(personal[tested]), frames["row"][tested]
            parts.append(predictions_table(logits, clips=clips, rows=own, model=model, fold=split.fold))
    return pd.concat(parts, ignore_index=True) if parts else None


def mixed_frames_accuracy(
    features: NDArray[np.floating],
    frames: pd.DataFrame,
    *,
    clips: ClipIndex,
    folds: int,
    baseline: PersonalBaseline,
    C: float,
    seed: int,
) -> float:
    """Return what the probe would seem to reach if frames of one person were both trained and tested on.

    It knows the person, and the frames just before and after: this number belongs beside the one with people apart
    (the leakage gap) and nowhere else. It is a bare number so that no table of scores can hold it by mistake.

    Args:
        features: (N, D).
        frames: (N rows) as for `out_of_fold`.
        clips: The clips of the target.
        folds: Folds of scikit-learn's `StratifiedKFold` over clips, shuffled.
        baseline: Subtracted per recording, on all frames.
        C: Inverse strength of the probe's L2 penalty.
        seed: Seed of the shuffle.

    Returns:
        Balanced accuracy, averaged over participants as the one with people apart is.

    Raises:
        UserError: A class with fewer clips than folds.
    """
    personal = _personal(features, frames, baseline=baseline)
    rows = np.flatnonzero(frames["target"].to_numpy() != UNLABELLED)
    targets = frames["target"].to_numpy(np.int64)[rows]
    rarest = int(np.unique(targets, return_counts=True)[1].min())
    if rarest < folds:
        raise UserError(f"The rarest class has {rarest} clips, fewer than {folds} folds of frames.")
    parts = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(targets, targets):
        probe = _fit(personal, frames, rows=rows[train], scheme=clips.scheme, C=C)
        logits = probe.logits(personal[rows[test]])
        # One fold for all: a participant's clips are scored together, though several probes predicted them.
        own = frames["row"].iloc[rows[test]]
        parts.append(predictions_table(logits, clips=clips, rows=own, model="mixed frames", fold=0))
    return grouped_interval(pd.concat(parts, ignore_index=True), clips.scheme, folds=None).mean


def grouped_interval(predictions: pd.DataFrame, scheme: LabelScheme, *, folds: int | None) -> Interval:
    """Return the balanced accuracy of one model's predictions with its 95 % interval, as every model is scored.

    Args:
        predictions: A predictions table of one model.
        scheme: The target.
        folds: K of the retrained cross-validation, None for a fixed model (see `participant_interval`).

    Returns:
        Over groups (participants, unless the study has coarser ones); exact binomial and conservative where people have
        one label each. NaN where it is undefined.
    """
    return Interval(**summarise_model(participant_scores(predictions, scheme), folds=folds)["balanced_accuracy"])


def exceeds(interval: Interval, threshold: float, *, clips: ClipIndex) -> bool:
    """Return whether a balanced accuracy lies above a threshold beyond chance: its lower bound does.

    Where all people have the very same score there is no spread to estimate an interval from: the ends are missing, or
    so wide that twelve perfect scores wouldn't exceed .55: the worst leak would pass. There the exact sign-flip
    over people decides: all on one side of the threshold has the p of its floor, which has to be .05 at most.

    Args:
        interval: From `grouped_interval`.
        threshold: What it is held against.
        clips: The clips of the target: where people have one label each, the exact binomial ends always decide.
    """
    if np.isfinite(interval.low) and interval.low > threshold:
        return True
    all_equal = not np.isfinite(interval.low) or interval.mean >= 1.0 - EQUAL_WITHIN
    if not all_equal or scored_per(clips.table, clips.scheme) != "participant mean":
        return False
    return bool(interval.mean > threshold and sign_flip_floor(interval.n) <= ALPHA)


def held_bound(interval: Interval, threshold: float, *, clips: ClipIndex) -> float:
    """Return what `exceeds` holds against the threshold: the lower bound; the mean where people's signs decide.

    Args:
        interval: From `grouped_interval`.
        threshold: What it is held against.
        clips: The clips of the target.
    """
    by_bound = np.isfinite(interval.low) and (interval.low > threshold or not exceeds(interval, threshold, clips=clips))
    return float(interval.low if by_bound else interval.mean)


def is_known(interval: Interval) -> bool:
    """Return whether a score is defined for two people or more, so that it can be held against a threshold."""
    return bool(np.isfinite(interval.mean)) and interval.n >= 2


def describe_interval(interval: Interval) -> str:
    """Write a score for a sentence.

    >>> describe_interval(Interval(0.5, float("nan"), float("nan"), 8)), describe_interval(Interval(0.6, 0.5, 0.7, 8))
    ('0.500 (the same for everybody)', '0.600 [0.500, 0.700]')
    """
    if not np.isfinite(interval.low):
        return f"{interval.mean:.3f} (the same for everybody)"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def predictions_table(
    logits: NDArray[np.float64], *, clips: ClipIndex, rows: Any, model: str, fold: int
) -> pd.DataFrame:
    """Return a predictions table of clips.

    Args:
        logits: (N, num_outputs).
        clips: The clips of the target.
        rows: (N,) which clips, as labels of the index of their table.
        model: What `model` says.
        fold: What `fold` says.
    """
    tested: pd.DataFrame = clips.table.loc[rows]
    table = tested[[name for name in CLIP_COLUMNS if name in tested]].reset_index(drop=True)
    table.insert(0, "model", model)
    table.insert(1, "fold", fold)
    for prefix, values in (("logit", logits), ("prob", clips.scheme.probabilities(logits))):
        for column, name in enumerate(clips.scheme.output_names):
            table[f"{prefix}_{name}"] = values[:, column]
    table["target"] = pd.array(tested["target"].to_numpy(np.int64), dtype="Int64")
    table["face_found"] = tested["face_found"].array
    return table


def score_json(name: str, interval: Interval, *, baseline: PersonalBaseline) -> dict[str, Any]:
    """Return a score as the evidence of a check holds it."""
    return {"name": name, "baseline": str(baseline), "balanced_accuracy": asdict(interval)}


def _personal(
    features: NDArray[np.floating], frames: pd.DataFrame, *, baseline: PersonalBaseline
) -> NDArray[np.float64]:
    if len(features) != len(frames):
        raise UserError(f"Got {len(features)} rows of features for {len(frames)} frames; each frame needs one.")
    if not np.isfinite(features).all():
        raise UserError("Features hold values that aren't numbers; leave out frames without a picture first.")
    return subtract_baseline(features, frames, baseline=baseline)


def _labelled(frames: pd.DataFrame, *, participants: Sequence[str]) -> NDArray[np.bool_]:
    known = frames["target"] != UNLABELLED
    return (known & frames["participant_id"].isin(participants)).to_numpy(dtype=bool)


def _fit(
    personal: NDArray[np.float64], frames: pd.DataFrame, *, rows: NDArray[Any], scheme: LabelScheme, C: float
) -> Probe:
    return fit_probe(
        personal[rows],
        targets=frames["target"].to_numpy(np.int64)[rows],
        participants=frames["participant_id"].to_numpy(dtype=object)[rows],
        scheme=scheme,
        config=ProbeConfig(C=C),
    )
