"""Several targets asked for together, and targets that are numbers: what is asked, which clips they have, the views."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from media_fixtures import write_video
from mien.cli.data_commands import show_dataset
from mien.core.errors import NothingToLearnError, UserError
from mien.core.labels import LabelScheme, annotated_by
from mien.core.types import Signal
from mien.data import signals as stored_signals
from mien.data.clips import CLIP_COLUMNS, build_clips
from mien.data.dataset import Dataset
from mien.data.inspect import describe
from mien.data.prepare import PrepareConfig, prepare
from mien.data.ratings import ToolRatings, mean_ratings, tool_channels
from mien.data.splits import make_folds
from mien.media.signals import SignalTable
from mien.runtime.material import Material, is_labelled, labels_of

TIMES_S = [0.0, 0.5, 1.0, 1.5, 2.0]
CONFIG = PrepareConfig(fps=2, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")
RECORDINGS = "media,participant,recording,arm\n" + "".join(f"{n}.mp4,{n.upper()},{n},{n}\n" for n in "abcd")
ANNOTATIONS = """recording,onset_s,offset_s,label,value
a,0.5,1.5,Smile,
b,0,0.9,Smile,
c,1,3,Smile,
a,1,2.5,"Hm, yes",
b,0,1.2,"Hm, yes",
a,0,3,Always,
b,0,3,Always,
c,0,3,Always,
a,0,1,level,0.5
a,1,2,level,10
a,2,2.5,level,3
b,0,0.25,level,-2
b,0.25,0.5,level,4
b,1,2.5,level,7.5
a,0,1,mood,low
b,0,1,mood,high
"""
# The last recording was looked at for smiles only: of the rest nothing is known there.
CODED = "recording,from_s,to_s,label\na,0,9,\nb,0,9,\nc,0,9,\nd,0,1.1,Smile\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("kinds") / "S"
    root.mkdir()
    (root / "study.yaml").write_text("name: S\nlabel_source: human\n")
    for name, text in {"recordings": RECORDINGS, "annotations": ANNOTATIONS, "coded": CODED}.items():
        (root / f"{name}.csv").write_text(text)
    for name in "abcd":
        write_video(root / f"{name}.mp4", times_s=TIMES_S)
    return prepare(root, out=root.parent / "D", config=CONFIG)


@pytest.fixture
def rated(dataset, tmp_path) -> Dataset:
    """The same dataset with AFFDEX's valence beside the video, 4 values per second, and a heart rate."""
    shutil.copytree(dataset.path, tmp_path / "D")
    for number, name in enumerate("abc"):
        folder = tmp_path / "D/recordings" / name
        times_s = np.arange(10) * 0.25
        valence = 10.0 * number + np.arange(10, dtype=np.float32)
        valence[4:6] = np.nan
        columns = {"time_s": times_s, "Valence": valence, "Smile": valence * 2, "Heart Rate": 60 + valence}
        pd.DataFrame(columns).to_parquet(folder / "signals.parquet")
        facts = {"rate_hz": 4, "names": list(columns)[1:], "units": ["", "", "bpm"], "digest": ""}
        facts["sources"] = ["AFFDEX", "AFFDEX", "Polar"]
        (folder / "signals.json").write_text(json.dumps(facts))
    path = tmp_path / "D/dataset.json"
    info = json.loads(path.read_text())
    info["signals"] = {"Heart Rate": "bpm", "Smile": "", "Valence": ""}
    info["signal_sources"] = {"Heart Rate": "Polar", "Smile": "AFFDEX", "Valence": "AFFDEX"}
    path.write_text(json.dumps(info))
    return Dataset.open(tmp_path / "D")


def column(clips, recording_id: str, name: str) -> list[float]:
    return clips.table.loc[clips.table["recording_id"] == recording_id, name].tolist()


# --- schemes


def test_a_scheme_of_channels_has_an_output_each_and_a_binary_view_of_each():
    scheme = LabelScheme("A,B", "multilabel", ("A", "B"), "human and tool:X", sources=("human", "tool:X"))
    assert (scheme.num_outputs, scheme.output_columns) == (2, ("prob_A", "prob_B"))
    logits = np.array([[0.0, -1.0], [2.0, 1.0]])
    np.testing.assert_allclose(scheme.probabilities(logits), 1 / (1 + np.exp(-logits)))
    assert scheme.predicted(scheme.probabilities(logits)).tolist() == [[1, 0], [1, 1]]
    assert scheme.view("B") == LabelScheme("B", "binary", ("not B", "B"), "tool:X")
    assert scheme.view("A").label_source == "human"
    with pytest.raises(UserError, match=r"Unknown channel 'C'. Known: A, B"):
        scheme.view("C")
    assert annotated_by(scheme.label_source) == "as annotated by human coders and as coded by X (a tool, not a person)"


def test_numbers_have_no_probability():
    scheme = LabelScheme("level", "continuous", ("level",), "human")
    assert (scheme.num_outputs, scheme.output_columns) == (1, ("value_level",))
    np.testing.assert_array_equal(scheme.answers(np.array([[3.5]])), [[3.5]])
    for ask in (scheme.probabilities, scheme.predicted):
        with pytest.raises(UserError, match="is continuous: its predictions are numbers"):
            ask(np.array([[3.5]]))
    assert scheme.view("level").target == "level above the own median"


# --- clips of several channels


def test_a_frame_is_a_clip_where_any_channel_is_known(dataset):
    clips = build_clips(dataset, target="Smile,Always")
    assert (clips.scheme.kind, clips.scheme.classes) == ("multilabel", ("Smile", "Always"))
    assert tuple(clips.table.columns) == (*CLIP_COLUMNS, "target_Smile", "target_Always")
    assert column(clips, "a", "target_Smile") == [0, 1, 1, 0, 0]
    # Coded for smiles only, and only in its first second: the other channel is missing there, not absent.
    assert column(clips, "d", "start_s") == [0.0, 0.5, 1.0]
    assert np.isnan(column(clips, "d", "target_Always")).all()
    # What folds are stratified by: how many are there.
    assert column(clips, "a", "target") == [1, 2, 2, 1, 1]
    assert column(clips, "d", "target") == [0, 0, 0]
    assert clips.excluded.to_dict("records") == [{"reason": "time that nobody coded", "count": 2, "recordings": 1}]


def test_the_view_of_a_channel_is_the_index_of_that_target_alone(dataset):
    together, alone = build_clips(dataset, target="Smile,Always").view("Smile"), build_clips(dataset, target="Smile")
    pd.testing.assert_frame_equal(together.table, alone.table)
    pd.testing.assert_frame_equal(together.excluded, alone.excluded)
    assert together.scheme == alone.scheme
    always = build_clips(dataset, target="Smile,Always").view("Always")
    assert set(always.table["recording_id"]) == {"a", "b", "c"} and set(always.table["target"]) == {1}


def test_a_name_that_holds_commas_is_found_alone_and_in_a_list(dataset):
    assert build_clips(dataset, target="Hm, yes").scheme.kind == "binary"
    scheme = build_clips(dataset, target="Smile,Hm, yes").scheme
    assert (scheme.target, scheme.classes) == ("Smile,Hm, yes", ("Smile", "Hm, yes"))


def test_all_is_every_scheme_that_is_there_or_not_and_varies(dataset):
    # Not Always, which never varies, nor mood, which has classes, nor the arm, an attribute.
    assert build_clips(dataset, target="all").scheme.classes == ("Hm, yes", "Smile")


def test_some_of_the_channels(dataset):
    clips = build_clips(dataset, target="Always,Smile,Hm, yes").only(["Hm, yes", "Always"])
    assert clips.scheme.classes == ("Always", "Hm, yes")
    assert "d" not in set(clips.table["recording_id"]) and "target_Smile" not in clips.table
    assert column(clips, "a", "target") == [1, 1, 2, 2, 2]
    with pytest.raises(UserError, match="No channel"):
        clips.only([])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Smile,Smle", r"Unknown target 'Smle'. Known: Smile"),
        ("Smile,,Always", "an empty name in its list"),
        ("Smile,Smile", "names 'Smile' twice"),
        ("Smile,level", r"mixes what is there or not \('Smile'\) and numbers \('level'\)"),
        ("Smile,mood", r"can't stand: 'mood' \(classes high, low\)"),
        ("Smile,arm", r"can't stand: 'arm' \(an attribute, the same for a whole participant\)"),
    ],
)
def test_lists_that_cannot_be_asked_for(dataset, target, message):
    with pytest.raises(UserError, match=message):
        build_clips(dataset, target=target)


def test_channels_of_which_none_varies(dataset):
    changed = Dataset(dataset.path, info=dataset.info)
    own = dataset.annotations[dataset.annotations["scheme"] == "Always"]
    changed.__dict__["annotations"] = pd.concat([own, own.assign(scheme="Ever")], ignore_index=True)
    with pytest.raises(NothingToLearnError, match="'Always,Ever' never varies, in none of its channels"):
        build_clips(changed, target="Always,Ever")
    with pytest.raises(NothingToLearnError, match="none of this dataset varies"):
        build_clips(changed, target="all")


def test_frames_carry_the_labels_of_their_channels(dataset):
    material = Material(dataset, build_clips(dataset, target="Smile,Always"))
    frames = material.frames_of(["D"])
    labels = labels_of(frames, scheme=material.clips.scheme)
    np.testing.assert_array_equal(labels, [[0, np.nan]] * 3 + [[np.nan, np.nan]] * 2)
    assert is_labelled(labels).tolist() == [True, True, True, False, False]
    assert frames["target"].tolist() == [0, 0, 0, -1, -1]


def test_folds_keep_people_apart(dataset):
    clips = build_clips(dataset, target="Smile,Always")
    splits = make_folds(clips, folds=4, seed=0)
    assert sorted(person for split in splits for person in split.test) == ["A", "B", "C", "D"]


# --- numbers


def test_a_number_is_the_mean_over_the_frames_own_interval(dataset):
    clips = build_clips(dataset, target="level")
    assert (clips.scheme.kind, clips.scheme.classes) == ("continuous", ("level",))
    assert column(clips, "a", "target_level") == [0.5, 0.5, 10, 10, 3]
    # The first half second of b is half at -2 and half at 4; in the next nobody gave a number.
    assert column(clips, "b", "start_s") == [0.0, 1.0, 1.5, 2.0]
    assert column(clips, "b", "target_level") == [1, 7.5, 7.5, 7.5]
    assert column(clips, "a", "target") == [0, 0, 1, 1, 0]
    reasons = dict(zip(clips.excluded["reason"], clips.excluded["count"], strict=True))
    assert reasons == {"time that nobody coded": 5, "outside every interval of the scheme": 6}


def test_coders_numbers_are_averaged_and_a_named_coders_taken(dataset):
    def level(annotator):
        facts = {**dataset.info["study"], "annotator": annotator}
        changed = Dataset(dataset.path, info={**dataset.info, "study": facts})
        own = dataset.annotations.query("scheme == 'level' and recording_id == 'a'")
        both = [own.assign(annotator="Kim"), own.assign(annotator="Lee", value=["2.5", "20", "3"])]
        changed.__dict__["annotations"] = pd.concat(both, ignore_index=True)
        return column(build_clips(changed, target="level"), "a", "target_level")

    assert level("") == [1.5, 1.5, 15, 15, 3]
    assert level("lee") == [2.5, 2.5, 20, 20, 3]


def test_a_number_is_judged_by_the_moments_above_the_own_median(dataset):
    view = build_clips(dataset, target="level").view("level")
    assert view.scheme.classes == ("level at or below own median", "level above own median")
    # The medians are 3 and 7.5.
    assert column(view, "a", "target") == [0, 0, 1, 1, 0]
    assert column(view, "b", "target") == [0, 0, 0, 0]
    assert "target_level" not in view.table


def test_what_a_tool_rates_is_a_target_in_its_name(rated):
    clips = build_clips(rated, target="Valence")
    assert (clips.scheme.kind, clips.scheme.label_source, clips.scheme.unit) == ("continuous", "tool:AFFDEX", "frame")
    # Means of two values per half second; where the tool saw no face, nothing is known.
    assert column(clips, "b", "start_s") == [0.0, 0.5, 1.5, 2.0]
    assert column(clips, "b", "target_Valence") == [10.5, 12.5, 16.5, 18.5]
    assert "not rated by the tool" in set(clips.excluded["reason"])
    both = build_clips(rated, target="Valence,level")
    assert (both.scheme.kind, both.scheme.label_source) == ("continuous", "human and tool:AFFDEX")
    assert both.view("Valence").scheme.label_source == "tool:AFFDEX"
    # A scheme has the name already; a sensor's channel is no target at all.
    assert build_clips(rated, target="Smile").scheme.kind == "binary"
    assert build_clips(rated, target="Smile (rated)").scheme.kind == "continuous"
    with pytest.raises(UserError, match="Unknown target 'Heart Rate'"):
        build_clips(rated, target="Heart Rate")


def test_signals_say_which_tool_they_are_of_and_those_that_do_not_are_written_again(tmp_path):
    times_s, values = np.arange(4.0), np.arange(4, dtype=np.float32)
    signals = [
        Signal(name, "", times_s, values, source) for name, source in (("Valence", "AFFDEX"), ("GSR", "Shimmer"))
    ]
    stored_signals._write(tmp_path, signals, end_s=4.0, rate_hz=1.0, digest="d")
    table = stored_signals.read_signals(tmp_path)
    assert dict(zip(table.names, table.sources, strict=True)) == {"Valence": "AFFDEX", "GSR": "Shimmer"}
    assert tool_channels(dict(zip(table.names, table.sources, strict=True))) == {"Valence": "AFFDEX"}
    assert stored_signals._digest(tmp_path) == "d"
    facts = json.loads((tmp_path / "signals.json").read_text())
    del facts["sources"]
    (tmp_path / "signals.json").write_text(json.dumps(facts))
    assert stored_signals._digest(tmp_path) == ""


def test_a_mean_needs_half_of_its_interval_and_a_coarse_grid_gives_its_value():
    samples = pd.DataFrame({"recording_id": "a", "pts_s": [0.0, 1.0, 2.0], "end_s": [1.0, 2.0, 3.0]})

    def means(times_s, values):
        table = SignalTable(("V",), ("",), np.asarray(times_s), np.asarray(values, np.float32)[:, None], ("AFFDEX",))
        return mean_ratings(samples, ToolRatings({"V": "AFFDEX"}, lambda _: table))["V"].tolist()

    third = [0, 1, 2, np.nan, np.nan, 5, np.nan, 7, 8]
    assert means(np.arange(9) / 3, third)[::2] == [1.0, 7.5] and np.isnan(means(np.arange(9) / 3, third)[1])
    assert means([0.0, 2.0], [1.0, 3.0]) == [1.0, 3.0, 3.0]


def test_inspect_lists_numbers_with_their_range(rated, capsys):
    facts = describe(rated)
    numbers = {row["name"]: row for row in facts["targets"] if row["kind"] == "continuous"}
    assert list(numbers) == ["level", "Smile (rated)", "Valence"]
    assert (numbers["level"]["low"], numbers["level"]["high"], numbers["level"]["varies"]) == (0.5, 10.0, True)
    assert numbers["level"]["num_participants_positive"] == 2
    assert facts["unusable_targets"] == []
    capsys.readouterr()
    show_dataset(facts)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ level"))
    assert "0.5 to 10" in line
