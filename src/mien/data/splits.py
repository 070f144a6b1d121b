"""Splits by group (the participant, unless the study says that more must stay together), never by frame."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from mien.core.errors import UserError
from mien.core.types import Split
from mien.data.clips import ClipIndex

MIN_GROUPS = 3
"""One each to train, validate and test on."""


def make_folds(
    clips: ClipIndex, *, folds: int | Literal["loo"], seed: int, validation_share: float = 0.2
) -> list[Split]:
    """Split the participants into folds, each of which is tested on once.

    Folds are stratified by class as well as whole groups allow (scikit-learn's `StratifiedGroupKFold`); the inner
    validation groups are drawn evenly over the training groups' prevalence. The order of the clips doesn't matter.

    Args:
        clips: The clips of a target.
        folds: Number of folds, or `loo` to leave one group out at a time.
        seed: Decides the folds and the inner splits.
        validation_share: Share of the training groups that is used for early stopping, at least one group.

    Raises:
        UserError: Fewer groups than folds, fewer than two folds, or too few groups to validate on.
    """
    _check_share(validation_share)
    table = clips.table.sort_values(["group", "recording_id", "frame"], kind="stable")
    groups = sorted(table["group"].unique())
    num_folds = len(groups) if folds == "loo" else folds
    _check_counts(len(groups), num_folds=num_folds, folds=folds)
    test_groups = [[group] for group in groups] if folds == "loo" else _stratified(table, num_folds, seed=seed)
    splits = []
    for fold, tested in enumerate(test_groups):
        rest = [group for group in groups if group not in set(tested)]
        splits.append(_split(table, rest=rest, tested=tested, fold=fold, seed=seed, share=validation_share))
    return splits


def holdout_split(clips: ClipIndex, *, seed: int, validation_share: float = 0.2) -> Split:
    """Split all participants into training and validation, for the final model; nobody is tested on.

    Raises:
        UserError: There is only one group.
    """
    _check_share(validation_share)
    table = clips.table.sort_values(["group", "recording_id", "frame"], kind="stable")
    groups = sorted(table["group"].unique())
    if len(groups) < 2:
        raise UserError(
            f"There {_people(len(groups))} with usable clips of {clips.scheme.target!r}; one to train "
            "on and one to validate on are needed. Add recordings of more people."
        )
    return _split(table, rest=groups, tested=[], fold=0, seed=seed, share=validation_share)


def _check_counts(num_groups: int, *, num_folds: int, folds: int | Literal["loo"]) -> None:
    if num_folds < 2 and folds != "loo":
        raise UserError(f"--folds is {folds}; allowed: 2 or more, or loo.")
    if num_groups < num_folds or num_groups < MIN_GROUPS:
        needed = max(num_folds, MIN_GROUPS)
        can = f", or use --folds {num_groups}" if num_groups >= MIN_GROUPS else ""
        raise UserError(
            f"There {_people(num_groups)} with usable clips, and {folds} folds need at least "
            f"{needed}: whole participants are tested on, others trained and validated on. Add participants{can}."
        )


def _people(count: int) -> str:
    return "is 1 participant (or group)" if count == 1 else f"are {count} participants (or groups)"


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise UserError(f"validation_share is {share:g}; allowed: more than 0, less than 1.")


def _stratified(table: pd.DataFrame, num_folds: int, *, seed: int) -> list[list[str]]:
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    labels, groups = table["target"].to_numpy(), table["group"].to_numpy()
    with warnings.catch_warnings():
        # A class with fewer clips than folds: the scores say for how many participants they are defined.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        parts = [sorted(set(groups[test])) for _, test in splitter.split(labels, labels, groups)]
    # The greedy assignment can leave a fold empty where groups are few and unequal.
    while (empty := next((part for part in parts if not part), None)) is not None:
        fullest = max(parts, key=len)
        empty.append(fullest.pop())
    return parts


def _split(
    table: pd.DataFrame, *, rest: Sequence[str], tested: Sequence[str], fold: int, seed: int, share: float
) -> Split:
    if len(rest) < 2:
        raise UserError(
            f"Fold {fold} tests on {len(tested)} of {len(tested) + len(rest)} groups and leaves {len(rest)} to train "
            "and validate on; 2 are needed. Use more folds (or --folds loo)."
        )
    rng = np.random.default_rng([seed, fold])
    validated = _spread(table[table["group"].isin(list(rest))], share=share, rng=rng)
    people = table.groupby("group")["participant_id"].unique()

    def members(groups: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted({str(person) for group in groups for person in people[group]}))

    trained = [group for group in rest if group not in validated]
    return Split(fold=fold, train=members(trained), validation=members(validated), test=members(tested), seed=seed)


def _spread(table: pd.DataFrame, *, share: float, rng: np.random.Generator) -> list[str]:
    """Draw groups evenly over their prevalence: one from each of k strata of the groups sorted by it."""
    targets = table.groupby("group")["target"]
    order = pd.DataFrame({"most": targets.agg(lambda codes: codes.mode().iloc[0]), "mean": targets.mean()})
    # For two classes the mean is the prevalence; for several, neighbours share their commonest class.
    columns = ["mean"] if table["target"].max() <= 1 else ["most", "mean"]
    groups = order.sort_values(columns, kind="stable").index.to_numpy()
    count = min(len(groups) - 1, max(1, round(share * len(groups))))
    return sorted(str(rng.choice(stratum)) for stratum in np.array_split(groups, count))
