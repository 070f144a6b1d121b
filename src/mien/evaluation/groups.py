"""Scores by group of people: age band, gender, or any attribute that a study gives; no claim about few people."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mien.core.errors import UserError
from mien.evaluation.intervals import participant_interval
from mien.evaluation.units import independent_means, unit_metrics

# With a usual spread of .15 between people, the 95 % interval of 9 is wider than +-.11: it can't tell one group from
# another, yet it is read as if it could.
MIN_GROUP = 10
MAX_VALUES = 20  # more values are a name, a date or a measurement, and no group of people
NOT_GIVEN = "not given"
AGE_BANDS = ((18.0, "under 18"), (30.0, "18-29"), (45.0, "30-44"), (60.0, "45-59"), (math.inf, "60+"))
AGE_COLUMN = "age"


def age_band(age: object) -> str:
    """Return the band of an age in years; an age that is missing, 0 (how iMotions says missing) or below is not given.

    Args:
        age: A number, or a text that is one.

    >>> [age_band(each) for each in (17, 18, 29.9, "30", 60, 0, None)]
    ['under 18', '18-29', '18-29', '30-44', '60+', 'not given', 'not given']
    """
    try:
        years = float(str(age))
    except ValueError:
        return NOT_GIVEN
    if not math.isfinite(years) or years <= 0:
        return NOT_GIVEN
    return next(name for upper, name in AGE_BANDS if years < upper)


def scores_by_group(
    scores: pd.DataFrame, attributes: pd.DataFrame, *, folds: int | None, chance: float | None = None
) -> list[dict[str, Any]]:
    """Score the groups of people that each attribute makes.

    The groups are of the model's own test predictions: nothing is fitted per group. A difference between groups is a
    finding about this model and these people, and it is one of as many looks as there are groups; no test is made here.

    Args:
        scores: Rows of `participant_scores` of one model.
        attributes: participant_id, and a column per attribute; one or several rows per participant. Missing is a group
            of its own, "not given", as are participants without a row. `age` is put into bands (`age_band`).
        folds: K of the retrained cross-validation, None for one fixed model (see `participant_interval`).
        chance: What the model would score by chance; None where it isn't known, and then nothing is claimed.

    Returns:
        Per attribute (in the order of the columns) and group (sorted, "not given" last) `attribute`, `group`, `n`
        (scored participants), `balanced_accuracy` (mean, low, high, n; where each participant has a single label it is
        over the group's participants together, as in `unit_metrics`) and `claim`: whether it is of at least `MIN_GROUP`
        participants and its interval lies above chance. Groups below that are listed, so that nobody is hidden; of one
        person alone there is `n` and no score, which would be that person's. Attributes that make no groups are left
        out; `skipped_attributes` says why.

    Raises:
        UserError: Rows of no or several models, a participant that is tested more than once, or no participant_id.
    """
    models = scores["model"].unique().tolist()
    if len(models) != 1:
        raise UserError(f"Groups are of one model; got {', '.join(map(str, models)) or 'none'}. Select its rows.")
    people = scores["participant_id"].astype(str)
    if people.duplicated().any():
        raise UserError(
            f"{people[people.duplicated()].iloc[0]!r} is tested more than once; each participant counts once, so give "
            "every participant to the test set of one fold only."
        )
    scored = scores[scores["n"] > 0]
    people = scored["participant_id"].astype(str)
    groups, _ = _groups(attributes, people.tolist())
    rows = []
    for attribute, group_of in groups.items():
        group = people.map(group_of)
        for name in sorted(group.unique(), key=lambda each: (each == NOT_GIVEN, _band_rank(each), each)):
            own = (group == name).to_numpy()
            found = _balanced_accuracy(scored[own], folds=folds)
            if min(int(own.sum()), found["n"]) < 2:
                found = {**dict.fromkeys(found), "n": found["n"]}
            rows.append(
                {
                    "attribute": attribute,
                    "group": name,
                    "n": int(own.sum()),
                    "balanced_accuracy": found,
                    "claim": found["n"] >= MIN_GROUP and _above(found, chance=chance),
                }
            )
    return rows


def skipped_attributes(scores: pd.DataFrame, attributes: pd.DataFrame) -> dict[str, str]:
    """Say why an attribute has no scores by group.

    Args:
        scores: As for `scores_by_group`.
        attributes: As for `scores_by_group`.

    Returns:
        Per attribute that makes no groups the reason: it differs within a participant, has more than `MAX_VALUES`
        values, another one for each participant, or one for all.

    Raises:
        UserError: No participant_id.
    """
    return _groups(attributes, scores.loc[scores["n"] > 0, "participant_id"].astype(str).tolist())[1]


def _groups(attributes: pd.DataFrame, people: list[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Group of each participant by attribute, and the reasons for the attributes that are skipped."""
    if "participant_id" not in attributes:
        raise UserError("The attributes lack the column participant_id; it says whose they are.")
    own = attributes[attributes["participant_id"].astype(str).isin(people)]
    ids = own["participant_id"].astype(str)
    groups: dict[str, dict[str, str]] = {}
    skipped: dict[str, str] = {}
    for column in own.columns.drop("participant_id"):
        name = str(column)
        banded = name.strip().lower() == AGE_COLUMN
        given = own[column].map(age_band if banded else _text)
        pairs = pd.DataFrame({"id": ids, "group": given})
        pairs = pairs[pairs["group"] != NOT_GIVEN].drop_duplicates()
        several = pairs.loc[pairs["id"].duplicated(), "id"].unique()
        group_of = dict.fromkeys(people, NOT_GIVEN) | dict(zip(pairs["id"], pairs["group"], strict=True))
        values = pairs["group"].nunique()
        if several.size:
            skipped[name] = (
                f"differs within {several.size} participants, such as {several[0]}: it is an attribute of recordings"
            )
        elif values > MAX_VALUES:
            skipped[name] = f"has {values} values; groups are made of at most {MAX_VALUES}"
        elif values == len(pairs) > 1 and not banded:
            skipped[name] = "has another value for each participant"
        elif len(set(group_of.values())) < 2:
            skipped[name] = "is the same for all participants" if values else "is given for nobody"
        else:
            groups[name] = group_of
    return groups, skipped


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return NOT_GIVEN
    # A column with missing values holds whole numbers as floats: 1.0 and 1 are the same group.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text or NOT_GIVEN


def _band_rank(group: str) -> int:
    names = [name for _, name in AGE_BANDS]
    return names.index(group) if group in names else len(names)


def _above(found: dict[str, Any], *, chance: float | None) -> bool:
    """Whether the interval lies above chance; of an interval that isn't known nothing is claimed."""
    low = found["low"]
    return chance is not None and low is not None and bool(low > chance)


def _balanced_accuracy(rows: pd.DataFrame, *, folds: int | None) -> dict[str, Any]:
    if rows["scored_per"].iloc[0] == "participant mean":
        values = independent_means(rows, "balanced_accuracy").to_numpy(dtype=np.float64)
        return asdict(participant_interval(values, folds=folds))
    return dict(unit_metrics(rows)["balanced_accuracy"])
