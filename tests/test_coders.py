"""Several coders: where each looked, how their labels become one target, and what the report says of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.errors import UserError
from mien.core.storage import read_json
from mien.crossval.compare import plan_comparison, run_comparison
from mien.crossval.evidence import coders_of
from mien.data.clips import build_clips
from mien.data.coders import coder_ratings, with_participants
from mien.data.dataset import Dataset
from mien.data.layouts import CODED_COLUMNS, StudyFile, annotation_table, empty_table
from mien.data.study import find_study
from mien.data.targets import TargetTables, find_target, label_samples
from mien.data.votes import DISAGREEMENT, NO_INTERVAL, NOT_ANNOTATED, NOT_CODED, OTHERS_ONLY, votes_on
from mien.evaluation.agreement import krippendorff_alpha
from mien.report.coders import coder_line
from report_runs import evidence_of, make_run, rewritten, text_of

COLUMNS = ("recording_id", "onset_s", "offset_s", "scheme", "value", "annotator")


def tables_of(annotations, *, coded=(), recordings=("r",), seconds=8, unit="frame", **settings) -> TargetTables:
    """One sample per second; annotations are (recording, onset, offset, scheme, value, annotator)."""
    samples = pd.concat(
        [
            pd.DataFrame({"recording_id": name, "frame": range(seconds), "pts_s": np.arange(float(seconds))})
            for name in recordings
        ],
        ignore_index=True,
    )
    people = {"recording_id": recordings, "participant_id": [f"p-{name}" for name in recordings]}
    rows = pd.DataFrame([dict(zip(CODED_COLUMNS, row, strict=True)) for row in coded], columns=list(CODED_COLUMNS))
    return TargetTables(
        recordings=pd.DataFrame(people).assign(group=people["participant_id"]),
        annotations=annotation_table([dict(zip(COLUMNS, row, strict=True)) for row in annotations]),
        coded=rows if len(rows) else empty_table(CODED_COLUMNS),
        samples=samples.assign(end_s=samples["pts_s"] + 1, face_found=True),
        attributes=(),
        unit=unit,
        needs_face=False,
        **settings,
    )


def smile(recording, onset_s, offset_s, annotator="", *, label="Smile", value=None):
    return (recording, onset_s, offset_s, label, value, annotator)


def codes(tables: TargetTables, target: str = "Smile") -> list[int]:
    return label_samples(tables, find_target(tables, target)).tolist()


def said(tables: TargetTables, target: str = "Smile") -> dict[str, list[int]]:
    votes = votes_on(tables, find_target(tables, target))
    return dict(zip(votes.names, votes.codes.tolist(), strict=True))


class TestTarget:
    def test_it_is_what_most_coders_say(self):
        # All three say smile at 1, two at 2, one at 3.
        tables = tables_of([smile("r", 1, 2, "A"), smile("r", 1, 3, "B"), smile("r", 1, 4, "C")])
        assert codes(tables) == [0, 1, 1, 0, 0, 0, 0, 0]

    def test_as_many_on_either_side_is_missing(self):
        tables = tables_of([smile("r", 1, 3, "A"), smile("r", 2, 4, "B")])
        assert codes(tables) == [0, DISAGREEMENT, 1, DISAGREEMENT, 0, 0, 0, 0]

    def test_one_coder_has_one_vote_however_many_intervals_and_spellings(self):
        tables = tables_of([smile("r", 1, 3, "Ann"), smile("r", 1, 3, " ann "), smile("r", 2, 4, "B")])
        assert codes(tables) == [0, DISAGREEMENT, 1, DISAGREEMENT, 0, 0, 0, 0]
        assert list(said(tables)) == ["Ann", "B"]

    def test_one_coder_is_as_before(self):
        intervals = [(1, 3), (2, 5)]
        named, unnamed = (tables_of([smile("r", *times, who) for times in intervals]) for who in ("A", ""))
        assert codes(named) == codes(unnamed) == [0, 1, 1, 1, 1, 0, 0, 0]

    def test_who_never_uses_a_label_is_not_against_it(self):
        """One person coded smiles and another frowns: the silence of one isn't a negative of the other's label."""
        tables = tables_of(
            [smile("r", 1, 3, "A"), smile("r", 4, 6, "B", label="Frown"), smile("s", 0, 1, "B", label="Frown")],
            recordings=("r", "s", "t"),
            seconds=6,
        )
        assert codes(tables)[:6] == [0, 1, 1, 0, 0, 0]
        assert codes(tables)[6:12] == [NOT_CODED] * 6, "only B looked at s, who never codes smiles"
        assert codes(tables)[12:] == [NOT_ANNOTATED] * 6
        assert codes(tables, "Frown")[6:12] == [1, 0, 0, 0, 0, 0]

    def test_a_coder_who_annotated_anything_in_the_recording_looked_at_all_of_it(self):
        tables = tables_of(
            [smile("r", 1, 3, "A"), smile("r", 5, 6, "B", label="Frown"), smile("s", 0, 2, "B")], recordings=("r", "s")
        )
        assert codes(tables)[:4] == [0, DISAGREEMENT, DISAGREEMENT, 0], "B looked at r, and saw no smile"
        assert codes(tables)[8:11] == [1, 1, 0], "A annotated nothing in s: missing, not against it"

    def test_coded_times_say_who_looked(self):
        tables = tables_of(
            [smile("r", 1, 3, "A")], coded=[("r", 0, 4, "A", ""), ("r", 2, 6, "B", "Smile"), ("r", 0, 8, "C", "Frown")]
        )
        # B never smiled, and is named as having looked: a negative vote from 2 on. C looked for frowns only.
        assert codes(tables) == [0, 1, DISAGREEMENT, 0, 0, 0, NOT_CODED, NOT_CODED]
        assert said(tables)["B"] == [NOT_CODED] * 2 + [0] * 4 + [NOT_CODED] * 2

    def test_rows_that_name_nobody_are_of_all_who_looked(self):
        rows = [smile("r", 0, 1, "A"), smile("r", 2, 3, "B"), smile("r", 4, 5)]
        tables = tables_of(rows, coded=[("r", 0, 6, "", "")])
        assert codes(tables) == [DISAGREEMENT, 0, DISAGREEMENT, 0, 1, 0, NOT_CODED, NOT_CODED]
        ratings = coder_ratings(tables, find_target(tables, "Smile"))
        assert np.isfinite(ratings.codes[:, 4]).sum() == 0, "what is said for all doesn't show that they agree"
        # A single coder who is named in coded.csv only.
        assert codes(tables_of([smile("r", 1, 2)], coded=[("r", 0, 3, "A", "")]))[:3] == [0, 1, 0]

    def test_a_coder_of_whom_coded_csv_says_nothing_votes_but_is_not_compared(self):
        tables = tables_of([smile("r", 1, 3, "C")], coded=[("r", 0, 2, "A", ""), ("r", 0, 2, "B", "")])
        assert codes(tables)[:4] == [0, 0, NOT_CODED, NOT_CODED]
        assert said(tables)["C"][:3] == [NOT_CODED, 1, NOT_CODED], "silence is missing; outside the coded time, too"
        assert coder_ratings(tables, find_target(tables, "Smile")).names == ("A", "B")

    def test_values_are_voted_on(self):
        def valence(onset_s, offset_s, value, annotator):
            return smile("r", onset_s, offset_s, annotator, label="valence", value=value)

        tables = tables_of(
            [
                valence(0, 4, "low", "A"),
                valence(0, 2, "low", "B"),
                valence(2, 4, "high", "B"),
                valence(3, 5, "high", "C"),
                # D contradicts themselves, so that their vote is nobody's.
                valence(0, 6, "low", "D"),
                valence(0, 6, "high", "D"),
            ]
        )
        high, low = 0, 1
        assert codes(tables, "valence") == [low, low, DISAGREEMENT, high, high, DISAGREEMENT, NO_INTERVAL, NO_INTERVAL]


class TestNamedAnnotator:
    def test_the_target_is_what_that_one_says(self):
        rows = [smile("r", 1, 3, "A"), smile("r", 2, 4, "B"), smile("s", 0, 1, "B")]
        tables = tables_of(rows, recordings=("r", "s", "t"), seconds=4, annotator="a")
        assert codes(tables)[:4] == [0, 1, 1, 0]
        assert codes(tables)[4:8] == [OTHERS_ONLY] * 4
        assert codes(tables)[8:] == [NOT_ANNOTATED] * 4

    def test_study_yaml_names_one(self, tmp_path):
        study = two_coder_study(tmp_path / "S", extra="annotator: ann\n")
        assert find_study(study).annotator == "Ann", "as the tables spell it"
        (study / "study.yaml").write_text("label_source: human\nannotator: Anna\n")
        with pytest.raises(UserError, match=r"Unknown annotator 'Anna'\. Known: Ann, Bob\. Without the line .*most c"):
            find_study(study)
        (study / "study.yaml").write_text("label_source: human\n")
        assert find_study(study).annotator == StudyFile().annotator == ""

    def test_it_reaches_the_clips_and_the_content_hash(self, tmp_path):
        from mien.data.prepare import prepare
        from mien.data.settings import PrepareConfig

        config = PrepareConfig(fps=2, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")
        study = two_coder_study(tmp_path / "S")
        both = prepare(study, out=tmp_path / "both", config=config)
        (study / "study.yaml").write_text("name: S\nlabel_source: human\nannotator: Bob\n")
        bob = prepare(study, out=tmp_path / "bob", config=config)
        assert build_clips(both, target="Smile").table["target"].tolist() == [0, 1, 0, 0]
        assert build_clips(bob, target="Smile").table["target"].tolist() == [0, 0, 1, 1, 0, 0]
        assert both.content_hash != bob.content_hash
        assert (both.annotator, bob.annotator) == ("", "Bob")


def two_coder_study(root, *, extra=""):
    """One recording of 3 s; Ann smiles at 0.5-1.5 s, Bob at 1.0-2.0 s."""
    from media_fixtures import write_video

    root.mkdir()
    (root / "study.yaml").write_text(f"name: S\nlabel_source: human\n{extra}")
    (root / "recordings.csv").write_text("media,participant\nv.mp4,P1\n")
    rows = ["recording,onset_s,offset_s,label,annotator", "v,0.5,1.5,Smile,Ann", "v,1.0,2.0,Smile,Bob"]
    (root / "annotations.csv").write_text("\n".join(rows))
    write_video(root / "v.mp4", times_s=[index / 2 for index in range(6)])
    return root


class TestRatings:
    def test_ties_stay_in_or_coders_would_seem_to_agree(self):
        tables = tables_of([smile("r", 1, 3, "A"), smile("r", 2, 4, "B")])
        ratings = coder_ratings(tables, find_target(tables, "Smile"))
        assert ratings.codes.tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]]
        assert ratings.ties == 2
        assert ratings.coded() == [("A", 8 / 60, 1), ("B", 8 / 60, 1)]

    def test_frames_that_no_model_sees_are_left_out(self):
        tables = tables_of([smile("r", 1, 3, "A"), smile("r", 2, 4, "B")])
        faceless = TargetTables(
            **{
                **vars(tables),
                "needs_face": True,
                "samples": tables.samples.assign(face_found=tables.samples.index < 3),
            }
        )
        assert coder_ratings(faceless, find_target(faceless, "Smile")).codes.shape == (2, 3)

    def test_one_coder_or_an_attribute_has_none(self):
        tables = tables_of([smile("r", 1, 3, "A"), smile("r", 4, 5, "B", label="Frown")])
        assert coder_ratings(tables, find_target(tables, "Smile")) is None
        given = TargetTables(
            **{**vars(tables), "attributes": ("arm",), "recordings": tables.recordings.assign(arm="x")}
        )
        assert coder_ratings(given, find_target(given, "arm")) is None

    def test_minutes_that_both_coded(self):
        tables = tables_of(
            [smile("r", 1, 3, "A"), smile("r", 2, 4, "B"), smile("s", 2, 4, "B")],
            coded=[("r", 0, 6, "A", ""), ("r", 4, 8, "B", ""), ("s", 0, 8, "B", "")],
            recordings=("r", "s"),
        )
        ratings = coder_ratings(tables, find_target(tables, "Smile"))
        assert ratings.coded() == [("A", 6 / 60, 1), ("B", 12 / 60, 2)]
        assert ratings.coded_by() == ratings.coded_by(0, 1) == (2 / 60, 1)

    def test_a_unit_is_rated_once(self):
        rows = [smile("r", 0, 8, "A"), smile("r", 0, 5, "B"), smile("s", 0, 1, "A"), smile("s", 0, 4, "B")]
        tables = tables_of(rows, recordings=("r", "s"))
        units = coder_ratings(tables, find_target(tables, "Smile")).per_unit("recording")
        assert units.table["recording_id"].tolist() == ["r", "s"]
        assert units.table["seconds"].tolist() == [8.0, 8.0]
        assert units.codes[0].tolist() == [1, 0]
        assert units.codes[1, 0] == 1, "B says so of most of it"
        assert np.isnan(units.codes[1, 1]), "of half of s: neither"

    def test_united_participants_count_as_one(self):
        rows = [smile(name, 1, 3, who) for name in "rst" for who in ("A", "B")]
        tables = tables_of(rows, recordings=("r", "s", "t"))
        ratings = coder_ratings(tables, find_target(tables, "Smile"))
        # The audit found that r and s show one person; t has no clip at all.
        clips = pd.DataFrame({"recording_id": ["r", "s"], "participant_id": "p-r", "group": "p-r"})
        assert with_participants(ratings, clips).table.groupby("recording_id")[
            ["participant_id", "group"]
        ].first().to_dict() == {name: {"r": "p-r", "s": "p-r", "t": "p-t"} for name in ("participant_id", "group")}


# The second coder is late: half a second after each onset, and again after each end.
LATE_S = 0.5


@pytest.fixture(scope="module")
def coded_twice(drawn_dataset, tmp_path_factory) -> Dataset:
    """The drawn dataset with a second coder who is late by one sample."""
    path = tmp_path_factory.mktemp("coded") / "dataset"
    shutil.copytree(drawn_dataset.path, path, ignore=shutil.ignore_patterns("cache"))
    first = drawn_dataset.annotations.assign(annotator="Ann")
    late = first.assign(annotator="Bob", onset_s=first["onset_s"] + LATE_S, offset_s=first["offset_s"] + LATE_S)
    speaking = late["scheme"] == "Speaking"
    pd.concat([first, late[~speaking]], ignore_index=True).to_parquet(path / "annotations.parquet", index=False)
    return Dataset.open(path)


@pytest.fixture(scope="module")
def finished(coded_twice, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run_comparison(plan_comparison(coded_twice.path, target="Smile", models="linear_probe@hog", out=out, folds=3))
    return out


def planted(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Both coders' smiles (2, N), and whose frame it is, straight from the intervals."""
    samples = dataset.samples
    smiles = dataset.annotations[dataset.annotations["scheme"] == "Smile"]
    both = np.zeros((2, len(samples)))
    for row in smiles.itertuples():
        times = samples["pts_s"].between(row.onset_s, row.offset_s, inclusive="left")
        both[int(row.annotator == "Bob"), (samples["recording_id"] == row.recording_id) & times] = 1
    kept = samples["face_found"].to_numpy()
    people = samples["recording_id"].map(dataset.recordings.set_index("recording_id")["participant_id"])
    return both[:, kept], people.to_numpy()[kept]


class TestEndToEnd:
    def test_the_planted_disagreement_is_in_comparison_json(self, coded_twice, finished):
        (ann, bob), people = planted(coded_twice)
        coders = read_json(finished / "comparison.json")["coders"]
        assert coders["annotators"] == ["Ann", "Bob"]
        assert coders["target_formed_by"] == "majority"
        assert coders["ties"] == (ann != bob).sum() > 5
        alpha = krippendorff_alpha(np.array([ann, bob]), participants=people).alpha
        assert coders["alpha"] == pytest.approx({"value": alpha.mean, "low": alpha.low, "high": alpha.high})
        assert 0 < coders["alpha"]["value"] < coders["agreement"] < 1
        each = []
        for person in np.unique(people):
            own = people == person
            for true, told in ((ann[own], bob[own]), (bob[own], ann[own])):
                each.append((person, np.mean([(told[true == code] == code).mean() for code in (0, 1)])))
        expected = pd.DataFrame(each, columns=["person", "score"]).groupby("person")["score"].mean().mean()
        ceiling = coders["ceiling"]
        assert ceiling["balanced_accuracy"]["mean"] == pytest.approx(expected)
        assert ceiling["balanced_accuracy"]["low"] < expected < ceiling["balanced_accuracy"]["high"]
        assert (ceiling["participants"], ceiling["balanced_accuracy"]["n"]) == (6, 6)
        assert [(pair["a"], pair["b"]) for pair in coders["pairs"]] == [("Ann", "Bob")]

    def test_ties_are_counted_among_what_is_left_out(self, coded_twice, finished):
        result = read_json(finished / "comparison.json")
        (ann, bob), _ = planted(coded_twice)
        left_out = {row["reason"]: row["count"] for row in result["excluded"]}
        assert left_out["coders disagree"] >= (ann != bob).sum()
        assert result["clips"] == (ann == bob).sum()

    def test_the_page_says_it_beside_the_score_and_in_a_section(self, finished):
        text = text_of((finished / "report.html").read_text())
        coders = read_json(finished / "comparison.json")["coders"]
        first, rest = text.split("How well each model does", maxsplit=1)
        assert coder_line(coders) in first
        assert f"Target: the majority, {coders['ties']} ties left out." in first
        assert "How far do the coders agree with each other?" in rest
        assert "Ann, Bob" in rest

    def test_a_target_of_one_coder_says_nothing(self, coded_twice, tmp_path):
        plan = plan_comparison(
            coded_twice.path, target="Speaking", models="linear_probe@hog", out=tmp_path / "R", folds=3
        )
        assert coders_of(plan) is None

    def test_inspect_shows_it_per_target(self, coded_twice, drawn_dataset):
        environment = {"COLUMNS": "200"}
        text = CliRunner().invoke(app, ["inspect", str(coded_twice.path)], env=environment).stdout
        ratings = coder_ratings(coded_twice.tables(), find_target(coded_twice.tables(), "Smile"))
        alpha = krippendorff_alpha(ratings.codes).alpha.mean
        assert "coders (alpha)" in text
        assert f"2 ({alpha:.2f})".replace("0.", ".") in text
        facts = CliRunner().invoke(app, ["inspect", str(coded_twice.path), "--json"]).stdout
        targets = {target["name"]: target["coders"] for target in json.loads(facts)["targets"]}
        assert targets["Smile"]["alpha"]["value"] == pytest.approx(alpha)
        assert targets["Speaking"] is None
        assert "coders" not in CliRunner().invoke(app, ["inspect", str(drawn_dataset.path)], env=environment).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def facts(mean=0.8, *, names=("Ann", "Bob"), **changes):
    score = {"mean": mean, "low": 0.77, "high": 0.85, "n": 12}
    alpha = {"value": 0.64, "low": 0.55, "high": 0.7}
    pair = {"a": names[0], "b": names[-1], "alpha": alpha, "agreement": 0.9, "balanced_accuracy": score}
    return {
        "annotators": list(names),
        "target_formed_by": "majority",
        "ties": 1204,
        "coded": [{"name": name, "minutes": 5.0, "participants": 12} for name in names],
        "alpha": alpha,
        "agreement": 0.9,
        "per_class": {},
        "ceiling": {"balanced_accuracy": score, "participants": 12, "minutes": 4.5},
        "pairs": [pair | {"participants": 12, "minutes": 4.5}],
    } | changes


class TestPage:
    def test_a_model_above_the_coders_is_explained(self, made):
        low = text_of(rewritten(made, **evidence_of(made), coders=facts(0.5)))
        assert "lies above: why?" in low
        assert "above the .50 that coders reach with each other" in low
        assert "the coders’ average" in low and "scored without the 1,204 frames" in low
        assert "Or something besides the expression gives the labels away" in low
        high = text_of(rewritten(made, **evidence_of(made), coders=facts(0.999)))
        assert "lies above" not in high and "gives the labels away" not in high

    def test_a_named_annotator_is_named(self, made):
        text = text_of(rewritten(made, coders=facts(0.5, target_formed_by="annotator Ann <b>", ties=0)))
        assert "The target is what Ann <b> says, as study.yaml names them" in text
        assert "Target: what Ann <b> says." in text
        assert "what is particular to Ann <b>" in text
        assert "split evenly are left out" not in text

    def test_three_coders_have_a_row_for_all_and_classes_an_alpha(self, made):
        per_class = {"low": {"value": 0.31, "low": 0.2, "high": 0.4}}
        text = text_of(rewritten(made, coders=facts(names=("A", "B", "C"), per_class=per_class)))
        assert "Three coders agree with one another at .80 [.77, .85] on this metric (alpha .64)" in text
        assert "all accuracy: mean over pairs; alpha: all together" in text
        assert "Alpha of each class against all others: low .31 [.20, .40]" in text

    def test_coders_who_never_met(self, made):
        nothing = {"mean": None, "low": None, "high": None, "n": 0}
        unknown = {"value": None, "low": None, "high": None}
        changes = {"alpha": unknown, "agreement": None, "pairs": [], "ties": 0}
        ceiling = {"balanced_accuracy": nothing, "participants": 0, "minutes": 0.0}
        text = text_of(rewritten(made, coders=facts(ceiling=ceiling, **changes)))
        assert "Two coders, but no time that two of them coded: how far they agree isn't known." in text
        assert "lies above" not in text
        constant = coder_line(facts(ceiling=ceiling))
        assert constant.startswith("Two coders agree with an alpha of .64; no person has all classes by one.")

    def test_runs_of_one_coder_and_older_ones_have_no_section(self, made):
        for changes in ({}, {"coders": None}):
            html = rewritten(made, **changes)
            assert 'id="coders"' not in html and "#coders" not in html
