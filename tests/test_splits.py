"""Splits keep groups whole, test everybody once, are stratified, and depend on the seed alone."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.clips import CLIP_COLUMNS, ClipIndex
from mien.data.splits import holdout_split, make_folds


def make_clips(prevalence: dict[str, float], *, group_of: dict[str, str] | None = None, num: int = 20) -> ClipIndex:
    """Clips of people of whom the first share of frames is positive."""
    rows = [
        {
            "clip_id": f"{person}@{frame}",
            "recording_id": person,
            "participant_id": person,
            "group": (group_of or {}).get(person, person),
            "frame": frame,
            "start_s": float(frame),
            "end_s": frame + 1.0,
            "target": int(frame < share * num),
            "face_found": True,
            "source_id": f"{person}@{frame}",
            "segment": "",
            "segment_id": "",
        }
        for person, share in prevalence.items()
        for frame in range(num)
    ]
    table = pd.DataFrame(rows)[list(CLIP_COLUMNS)]
    scheme = LabelScheme("Smile", "binary", ("not Smile", "Smile"), label_source="human")
    return ClipIndex(scheme=scheme, table=table, excluded=pd.DataFrame())


def people(num: int) -> dict[str, float]:
    return {f"P{index:02d}": 0.1 + 0.5 * index / num for index in range(num)}


@pytest.mark.parametrize("folds", [2, 5, 10, "loo"])
def test_everybody_is_tested_once_and_never_trained_on_in_that_fold(folds):
    clips = make_clips(people(23))
    splits = make_folds(clips, folds=folds, seed=3)
    assert len(splits) == (23 if folds == "loo" else folds)
    tested = [person for split in splits for person in split.test]
    assert sorted(tested) == sorted(people(23))
    for index, split in enumerate(splits):
        parts = [set(split.train), set(split.validation), set(split.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 23
        assert (split.fold, split.seed) == (index, 3)
        assert len(split.validation) == round(0.2 * (23 - len(split.test)))


def test_groups_are_never_divided():
    group_of = {person: f"g{int(person[1:]) // 3}" for person in people(18)}
    clips = make_clips(people(18), group_of=group_of)
    for split in make_folds(clips, folds=3, seed=0):
        sides = [{group_of[person] for person in part} for part in (split.train, split.validation, split.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert len(split.test) == 6


def test_sessions_stay_with_their_participant():
    table = make_clips(people(9)).table
    table["recording_id"] = table["participant_id"] + np.where(table["frame"] < 10, "-morning", "-evening")
    clips = ClipIndex(make_clips(people(3)).scheme, table, pd.DataFrame())
    for split in make_folds(clips, folds=3, seed=0):
        tested = table[table["participant_id"].isin(split.test)]
        assert tested.groupby("participant_id")["recording_id"].nunique().eq(2).all()
        assert not set(tested["recording_id"]) & set(
            table.loc[table["participant_id"].isin([*split.train, *split.validation]), "recording_id"]
        )


def test_the_same_seed_gives_the_same_folds_whatever_the_order_of_the_clips():
    clips = make_clips(people(12))
    shuffled = ClipIndex(clips.scheme, clips.table.sample(frac=1.0, random_state=1), clips.excluded)
    first = make_folds(clips, folds=4, seed=7)
    assert make_folds(shuffled, folds=4, seed=7) == first
    others = [make_folds(clips, folds=4, seed=seed) for seed in (8, 9)]
    assert all(other != first for other in others)


def test_folds_and_validation_cover_the_range_of_prevalence():
    prevalence = {f"P{index:02d}": 0.0 if index < 20 else 0.8 for index in range(40)}
    clips = make_clips(prevalence)
    for split in make_folds(clips, folds=5, seed=1):
        for part in (split.train, split.validation, split.test):
            share = np.mean([prevalence[person] > 0 for person in part])
            assert 0.3 <= share <= 0.7, (split.fold, part)


def test_labels_constant_per_person_are_stratified():
    clips = make_clips({f"P{index:02d}": float(index % 2) for index in range(10)})
    for split in make_folds(clips, folds=5, seed=0):
        assert sorted(int(person[1:]) % 2 for person in split.test) == [0, 1]
        assert {int(person[1:]) % 2 for person in split.validation} == {0, 1}


def test_three_people_are_the_fewest():
    splits = make_folds(make_clips(people(3)), folds="loo", seed=0)
    assert [(len(s.train), len(s.validation), len(s.test)) for s in splits] == [(1, 1, 1)] * 3
    with pytest.raises(UserError, match=r"There are 2 participants.*at least 3"):
        make_folds(make_clips(people(2)), folds="loo", seed=0)


@pytest.mark.parametrize(
    ("num", "folds", "message"),
    [
        (4, 5, r"There are 4 participants .* 5 folds need at least 5.*use --folds 4"),
        (2, 2, r"There are 2 participants .* 2 folds need at least 3"),
        (1, 3, r"There is 1 participant \(or group\) with usable clips, and 3 folds"),
        (5, 1, "--folds is 1; allowed: 2 or more, or loo"),
        (3, 2, "leaves 1 to train and validate on; 2 are needed"),
    ],
)
def test_too_few_people_or_folds(num, folds, message):
    with pytest.raises(UserError, match=message):
        make_folds(make_clips(people(num)), folds=folds, seed=0)


def test_the_final_model_is_trained_and_validated_on_all():
    clips = make_clips(people(10))
    split = holdout_split(clips, seed=0)
    assert (len(split.train), len(split.validation), split.test) == (8, 2, ())
    assert sorted(split.train + split.validation) == sorted(people(10))
    assert holdout_split(clips, seed=0) == split
    with pytest.raises(UserError, match=r"There is 1 participant \(or group\) with"):
        holdout_split(make_clips(people(1)), seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_the_validation_share_is_a_share(share):
    with pytest.raises(UserError, match="validation_share"):
        make_folds(make_clips(people(5)), folds=5, seed=0, validation_share=share)


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize(
    ("sizes", "positives"), [([3, 4, 4, 7, 2], [3, 0, 0, 0, 2]), ([2, 1, 5, 4, 2], [2, 0, 5, 1, 2])]
)
def test_no_fold_is_empty_where_groups_are_few_and_unequal(sizes, positives):
    # Two of the rare cases (about 1 in 700 drawn at random) in which scikit-learn leaves a fold empty.
    parts = [
        make_clips({f"P{index}": positive / size}, num=size).table
        for index, (size, positive) in enumerate(zip(sizes, positives, strict=True))
    ]
    clips = ClipIndex(make_clips(people(3)).scheme, pd.concat(parts, ignore_index=True), pd.DataFrame())
    labels, groups = clips.table["target"], clips.table["group"]
    emptied = 0
    for seed in range(5):
        splitter = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
        emptied += not all(len(test) for _, test in splitter.split(labels, labels, groups))
        splits = make_folds(clips, folds=5, seed=seed)
        assert sorted(split.test for split in splits) == [(f"P{index}",) for index in range(5)]
    assert emptied > 0, "scikit-learn fills all folds, so this test shows nothing"
