"""Trivial predictors: what a model must beat. They give the same table as a model, so the same code scores them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.evaluation.scores import participant_scores
from mien.evaluation.units import UnitColumn, scored_per, unit_column

TrivialKind = Literal["majority", "prior", "participant-mean"]
TRIVIAL_KINDS: tuple[TrivialKind, ...] = ("majority", "prior", "participant-mean")
CERTAIN_LOGIT = 20.0  # far enough that the probability is 0 or 1 to eight digits, and still finite in every file format
CLIP_COLUMNS = ("clip_id", "recording_id", "participant_id", "start_s", "end_s", "target", "face_found")
CARRIED_COLUMNS = ("group", "segment_id")  # taken over where the clips have them: scores need them


def trivial_predictions(
    kind: TrivialKind,
    *,
    clips: pd.DataFrame,
    splits: Sequence[Split],
    scheme: LabelScheme,
    seed: int,
) -> pd.DataFrame:
    """Predict the test participants of every fold without looking at any picture.

    `majority` always says the class that is most frequent among the fold's training and validation units (the first
    of equals): clips, or recordings or participants where a label describes these. `prior` draws each unit's class at
    random with those shares; all clips of a unit have its class, because their mean is what is scored. Both are certain
    of what they say (a probability of 0 or 1): a constant probability would predict one class through the threshold,
    and be `majority` again.

    `participant-mean` is an oracle: it gives every clip of a test participant the class shares of this participant's
    own units. Nobody can have it of a new person. It shows what there is to win by knowing WHO somebody is, with no
    skill in saying WHEN: at a participant's prevalence p its accuracy is max(p, 1 - p) and its log-loss the entropy of
    p, its balanced accuracy and AUROC are .5 wherever both classes occur. A model whose accuracy or log-loss isn't
    better hasn't shown that it can tell more than that people differ.

    Args:
        kind: `majority`, `prior` or `participant-mean`.
        clips: One row per clip: clip_id, recording_id, participant_id, start_s, end_s, target (nullable), face_found;
            optional `CARRIED_COLUMNS`, of which segment_id is needed where one label describes a segment.
        splits: The folds; each participant is tested once.
        scheme: What the target's codes mean.
        seed: Seed of the draws; they are derived from (seed, kind, fold) and don't depend on the other folds.

    Returns:
        A predictions table whose `model` is the kind: folds in order, within one the clips as they came.

    Raises:
        UserError: An unknown kind, missing columns, a fold without any target to learn the shares from, or
            `participant-mean` where each participant has one label: it would be the truth itself.
    """
    if kind not in TRIVIAL_KINDS:
        raise unknown_name("trivial predictor", got=kind, allowed=TRIVIAL_KINDS)
    missing = [column for column in CLIP_COLUMNS if column not in clips]
    if missing:
        raise UserError(f"The table of clips lacks {', '.join(missing)}; it needs {', '.join(CLIP_COLUMNS)}.")
    unit = unit_column(_tested(clips, splits), scheme)
    if kind == "participant-mean" and not _has_shares(clips, splits, scheme):
        raise UserError(
            f"{scheme.target!r} has one label per participant, which {kind!r} would give away. Use majority or prior."
        )
    return pd.concat(
        [_predict_fold(kind, clips=clips, unit=unit, split=split, scheme=scheme, seed=seed) for split in splits],
        ignore_index=True,
    )


def trivial_scores(
    *, clips: pd.DataFrame, splits: Sequence[Split], scheme: LabelScheme, seed: int, draws: int = 20
) -> pd.DataFrame:
    """Score `majority`, `prior` as the mean of many draws (one is above or below chance by luck), `participant-mean`.

    Args:
        clips: As for `trivial_predictions`.
        splits: The folds.
        scheme: What the target's codes mean.
        seed: Seed of the draws; more draws begin with the same ones.
        draws: How often `prior` is drawn.

    Returns:
        Rows as `participant_scores` gives them, of the models in `TRIVIAL_KINDS`, ready for `summarise_model`; none of
        `participant-mean` where each participant has one label, which would be the truth itself. Each
        score of `prior` is the mean over the draws in which it is defined, so its confusion counts are fractions that
        add up to the clips of each class. Where participants are scored all together, `prob_<output>` of `prior` is
        the mean over participants too: a draw ranks nobody above anybody, so its AUROC is .5 exactly.

    Raises:
        UserError: Fewer than 1 draw, and whatever `trivial_predictions` and `participant_scores` find.
    """
    if draws < 1:
        raise UserError(f"Got {draws} draws of the prior; at least 1 is needed.")
    seeds = np.random.default_rng([seed, zlib.crc32(b"prior")]).integers(2**31, size=draws).tolist()
    given: dict[str, Any] = {"clips": clips, "splits": splits, "scheme": scheme}
    drawn = [trivial_predictions("prior", **given, seed=each).assign(model=str(i)) for i, each in enumerate(seeds)]
    majority = participant_scores(trivial_predictions("majority", **given, seed=seed), scheme)
    prior = participant_scores(pd.concat(drawn, ignore_index=True), scheme)
    keys = ["fold", "participant_id", "group"]
    mean = prior.drop(columns=["model", "scored_per"]).groupby(keys).mean().reset_index()
    mean = mean.assign(model="prior", scored_per=prior["scored_per"].iloc[0])
    for name in (f"prob_{output}" for output in scheme.output_names):
        if name in mean:
            mean[name] = mean[name].where(mean[name].isna(), mean[name].mean())
    parts = [majority, mean[majority.columns]]
    if _has_shares(clips, splits, scheme):
        parts.append(participant_scores(trivial_predictions("participant-mean", **given, seed=seed), scheme))
    return pd.concat(parts, ignore_index=True)


def _tested(clips: pd.DataFrame, splits: Sequence[Split]) -> pd.DataFrame:
    return clips[clips["participant_id"].isin({name for split in splits for name in split.test})]


def _has_shares(clips: pd.DataFrame, splits: Sequence[Split], scheme: LabelScheme) -> bool:
    """Return whether a participant's class shares are something else than their one label."""
    return scored_per(_tested(clips, splits), scheme) == "participant mean"


def _predict_fold(
    kind: TrivialKind, *, clips: pd.DataFrame, unit: UnitColumn, split: Split, scheme: LabelScheme, seed: int
) -> pd.DataFrame:
    shares = _class_shares(clips, split, scheme, unit=unit)
    tested = clips[clips["participant_id"].isin(split.test)]
    if kind == "participant-mean":
        logits = _own_logits(tested, scheme, unit=unit, unknown=shares)
    elif kind == "majority":
        logits = _certain_logits(np.full(len(tested), int(np.argmax(shares)), dtype=np.int64), scheme)
    else:
        # crc32, because Python's own hash of a string differs between processes.
        generator = np.random.default_rng([seed, zlib.crc32(kind.encode()), split.fold])
        unit_of, units = pd.factorize(tested[unit])
        logits = _certain_logits(generator.choice(shares.size, size=len(units), p=shares)[unit_of], scheme)
    probabilities = scheme.probabilities(logits)
    carried = [name for name in CARRIED_COLUMNS if name in tested]
    table = tested.loc[:, [*CLIP_COLUMNS[:5], *carried]].reset_index(drop=True)
    table.insert(0, "model", kind)
    table.insert(1, "fold", split.fold)
    for prefix, values in (("logit", logits), ("prob", probabilities)):
        for column, name in enumerate(scheme.output_names):
            table[f"{prefix}_{name}"] = values[:, column]
    table["target"] = tested["target"].astype("Int64").array
    table["face_found"] = tested["face_found"].array
    return table


def _class_shares(clips: pd.DataFrame, split: Split, scheme: LabelScheme, *, unit: str) -> NDArray[np.float64]:
    """Share of each class (K,) among the units of the fold's training and validation participants."""
    others = clips["participant_id"].isin((*split.train, *split.validation)) & clips["target"].notna()
    known = clips[others].drop_duplicates(unit)["target"]
    if known.empty:
        raise UserError(
            f"Fold {split.fold} has no annotated clip of {scheme.target!r} among its {len(split.train)} training and "
            f"{len(split.validation)} validation participants: annotate more participants or use fewer folds."
        )
    return _shares(known, scheme)


def _shares(targets: pd.Series[Any], scheme: LabelScheme) -> NDArray[np.float64]:
    counts = np.bincount(targets.to_numpy(dtype=np.int64), minlength=len(scheme.classes))
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _own_logits(
    tested: pd.DataFrame, scheme: LabelScheme, *, unit: UnitColumn, unknown: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logits (N, num_outputs) of each participant's own class shares; `unknown` (K,) for whom nothing is annotated."""
    known = tested[tested["target"].notna()].drop_duplicates(unit)
    own = {name: _shares(targets, scheme) for name, targets in known.groupby("participant_id")["target"]}
    shares = np.stack([own.get(name, unknown) for name in tested["participant_id"]])
    with np.errstate(divide="ignore"):
        logs = np.log(shares)
        logits = (logs[:, 1] - logs[:, 0])[:, None] if scheme.kind == "binary" else logs
    return np.asarray(np.clip(logits, -CERTAIN_LOGIT, CERTAIN_LOGIT), dtype=np.float64)


def _certain_logits(codes: NDArray[np.int64], scheme: LabelScheme) -> NDArray[np.float64]:
    """Logits (N, num_outputs) that leave no doubt about the classes (N,)."""
    if scheme.kind == "binary":
        return np.where(codes == 1, CERTAIN_LOGIT, -CERTAIN_LOGIT).astype(np.float64)[:, None]
    return np.asarray(np.eye(len(scheme.classes))[codes] * CERTAIN_LOGIT)
