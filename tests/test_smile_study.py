"""`mien prepare` on the whole smile study: 72 real people, three files that don't open, ten people recorded twice."""

from __future__ import annotations

import pandas as pd
import pytest

from mien.data.clips import build_clips
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module", params=["auto", "all"])
def prepared(request, shared_data, tmp_path_factory):
    if request.param == "auto":
        return "auto", request.getfixturevalue("smile_study_dataset")
    config = PrepareConfig(fps=0.2, size_px=64, media=request.param)  # few: this is about the people and the files
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
        return request.param, prepare(
            shared_data / "smile_study", out=tmp_path_factory.mktemp("d") / "d", config=config
        )


def test_participants_and_failures(prepared):
    media, dataset = prepared
    recordings = dataset.recordings
    assert recordings["participant_id"].nunique() == 72
    assert len(recordings) == (72 if media == "auto" else 82)
    twice = recordings.groupby("participant_id").size() == 2
    assert twice.sum() == (0 if media == "auto" else 10)
    failures = dataset.failures
    assert len(failures) == 3
    assert failures["recording"].str.contains("QX").all()
    assert (failures["reason"].str.len() > 0).all()
    assert (failures["advice"].str.len() > 0).all()


def test_labels_are_those_of_the_csv(prepared, shared_data):
    _, dataset = prepared
    path = shared_data / "smile_study/Analysis/Facial Coding/FEAExpressionTable.csv"
    table = pd.read_csv(path, skiprows=6)
    clips = build_clips(dataset, target="Smile").table
    assert len(clips) > 300
    for person, rows in clips.groupby("participant_id"):
        events = table[(table["Respondent Name"] == person) & (table["Expression Type"] == "Smile")]
        for start_s, target in rows[["start_s", "target"]].itertuples(index=False):
            inside = (events["Expression Onset"] / 1000 <= start_s) & (start_s < events["Expression Offset"] / 1000)
            assert int(inside.any()) == target, (person, start_s)
