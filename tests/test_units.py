"""What a study says of segments, groups and coded time reaches clips, folds and scores; the baseline over a rest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from media_fixtures import write_video
from mien.core.errors import RefusedError, UserError
from mien.core.labels import LabelScheme
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.inspect import describe
from mien.data.prepare import PrepareConfig, prepare
from mien.data.segments import segments_of
from mien.data.splits import make_folds
from mien.evaluation.baselines import trivial_predictions, trivial_scores
from mien.evaluation.intervals import binomial_interval
from mien.evaluation.prevalence import PREVALENCES, resampled_sweep, summarise_sweep
from mien.evaluation.scores import participant_scores, summarise_model
from mien.evaluation.units import independent_means, scored_per, unit_column
from mien.models.choice import parse_model
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.material import Material, check_rest_segment, subtract_baseline

CONFIG = PrepareConfig(fps=2, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")
TIMES_S = [index / 2 for index in range(24)]
PEOPLE = [f"P{index}" for index in range(6)]
# Two sessions of 12 s: a rest of 5 s, two questions, and 1 s that is in no segment.
SEGMENTS = [(0, 5, "rest"), (5, 8, "question"), (8, 11, "question")]


def write_study(root, *, unit="segment", segments=True, annotations=None, coded=None):
    """Six people in three dyads with two sessions each; everybody agrees to the second question of each session."""
    root.mkdir()
    recordings = [(person, session) for person in PEOPLE for session in ("am", "pm")]
    (root / "study.yaml").write_text(f"name: S\nlabel_source: human\nunit: {unit}\n")
    rows = [f"v.mp4,{p},{p}{s},{s},d{int(p[1]) // 2}" for p, s in recordings]
    (root / "recordings.csv").write_text("\n".join(["media,participant,recording,session,group", *rows]))
    if segments:
        rows = [f"{p}{s},{a},{b},{name}" for p, s in recordings for a, b, name in SEGMENTS]
        (root / "segments.csv").write_text("\n".join(["recording,onset_s,offset_s,segment", *rows]))
    rows = annotations or [f"{p}{s},8,11,Agree,A" for p, s in recordings]
    (root / "annotations.csv").write_text("\n".join(["recording,onset_s,offset_s,label,annotator", *rows]))
    if coded:
        (root / "coded.csv").write_text("\n".join(["recording,from_s,to_s,label,annotator", *coded]))
    write_video(root / "v.mp4", times_s=TIMES_S)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    base = tmp_path_factory.mktemp("segments")
    return prepare(write_study(base / "S"), out=base / "D", config=CONFIG)


def changed(dataset: Dataset, *, unit="segment", **tables: pd.DataFrame) -> Dataset:
    """Return the dataset as if its study said so, with other tables."""
    found = Dataset(dataset.path, info={**dataset.info, "study": {**dataset.info["study"], "unit": unit}})
    found.__dict__.update(tables)
    return found


class TestSegments:
    def test_a_time_belongs_to_the_shortest_segment_that_contains_it(self):
        segments = pd.DataFrame(
            [("r", 0.0, 9.0, "task"), ("r", 2.0, 4.0, "question"), ("r", 10.0, 12.0, "task"), ("s", 0.0, 1.0, "rest")],
            columns=["recording_id", "onset_s", "offset_s", "segment"],
        )
        times = pd.DataFrame({"recording_id": list("rrrrrst"), "pts_s": [0, 2, 3.9, 4, 9, 1, 0.5]}, index=range(7, 14))
        found = segments_of(times, segments)
        assert found["segment"].tolist() == ["task", "question", "question", "task", "", "", ""]
        assert found["segment_id"].tolist() == ["r#1", "r#2", "r#2", "r#1", "", "", ""]
        assert found.index.tolist() == times.index.tolist()
        # The second task is another occurrence.
        assert segments_of(times.assign(pts_s=10.5), segments)["segment_id"].tolist()[:5] == ["r#3"] * 5

    def test_clips_outside_every_segment_are_excluded_with_the_reason(self, dataset):
        clips = build_clips(dataset, target="Agree")
        assert clips.excluded.to_dict("records") == [{"reason": "outside every segment", "count": 24, "recordings": 12}]
        own = clips.table[clips.table["recording_id"] == "P0am"]
        assert own.groupby("segment_id")["segment"].first().to_dict() == {
            "P0am#1": "rest", "P0am#2": "question", "P0am#3": "question"
        }  # fmt: skip
        assert own.groupby("segment_id")["target"].agg(["nunique", "first"]).values.tolist() == [[1, 0], [1, 0], [1, 1]]
        assert own["start_s"].max() == 10.5
        shown = next(target for target in describe(dataset)["targets"] if target["name"] == "Agree")
        assert shown["prevalence"] == pytest.approx(6 / 22)

    def test_other_units_keep_the_frames_outside(self, dataset):
        clips = build_clips(changed(dataset, unit="frame"), target="Agree")
        assert (len(clips.table), len(clips.excluded)) == (12 * 24, 0)
        assert clips.table.loc[clips.table["start_s"] >= 11, "segment_id"].eq("").all()

    def test_a_label_that_varies_within_a_segment_is_refused(self, dataset):
        late = dataset.annotations.assign(onset_s=8.9)
        with pytest.raises(
            UserError,
            match=r"unit: segment, .* varies within 12 of 36 segments: P0am#3 \(question, 8\.0-11\.0 s\) has clips "
            r"2 of 'not Agree', 4 of 'Agree'\. Set unit: frame and .* start and end together",
        ):
            build_clips(changed(dataset, annotations=late), target="Agree")

    def test_a_study_without_segments_says_what_to_add(self, dataset):
        without = changed(dataset, segments=dataset.segments.iloc[:0])
        with pytest.raises(
            UserError, match=r"has no segments\. Add segments\.csv .*columns recording, onset_s.*unit: f"
        ):
            build_clips(without, target="Agree")
        clips = build_clips(changed(without, unit="frame", segments=without.segments), target="Agree")
        assert clips.table[["segment", "segment_id"]].eq("").all(axis=None)

    def test_dyads_and_sessions_survive_to_the_folds(self, dataset):
        clips = build_clips(dataset, target="Agree")
        assert clips.table.groupby("participant_id")["group"].first().to_dict() == {
            person: f"d{index // 2}" for index, person in enumerate(PEOPLE)
        }
        for split in make_folds(clips, folds="loo", seed=0):
            assert len(split.test) == 2
            assert clips.table[clips.table["participant_id"].isin(split.test)]["group"].nunique() == 1


class TestCodedTime:
    """coded.csv counts per label and per annotator."""

    def labels(self, tmp_path, *, annotations, coded, target="Smile"):
        study = write_study(tmp_path / "S", unit="frame", segments=False, annotations=annotations, coded=coded)
        clips = build_clips(prepare(study, out=tmp_path / "D", config=CONFIG), target=target)
        own = clips.table[clips.table["recording_id"] == "P0am"]
        return dict(zip(own["start_s"], own["target"], strict=True)), clips

    def test_who_did_not_code_a_time_says_nothing_of_it(self, tmp_path):
        # A coded the first 4 s, B the next 4; A's second smile lies where only B looked, and B saw none.
        found, clips = self.labels(
            tmp_path,
            annotations=["P0am,1,2,Smile,A", "P0am,5,6,Smile,A", "P0am,7,8,Smile,B"],
            coded=["P0am,0,4,,A", "P0am,4,8,,B"],
        )
        assert max(found) == 7.5
        assert [time for time, code in found.items() if code == 1] == [1.0, 1.5, 7.0, 7.5]
        assert clips.excluded.set_index("reason").loc["time that nobody coded", "count"] == 8 + 11 * 24

    def test_labels_have_times_of_their_own(self, tmp_path):
        annotations = ["P0am,1,2,Smile,", "P0am,1,2,Frown,", "P0am,9,10,Frown,"]
        found, _ = self.labels(
            tmp_path, annotations=annotations, coded=["P0am,0,3,Smile,", "P0am,0,12,Frown,"], target="Smile"
        )
        assert (max(found), sum(found.values())) == (2.5, 2)

    def test_an_annotator_whom_it_does_not_name_has_a_vote_wherever_somebody_coded(self, tmp_path):
        annotations = ["P0am,1,2,Smile,C", "P0am,9,10,Smile,C", "P0am,3,4,Smile,C", "P0am,3,4,Smile,a"]
        found, clips = self.labels(tmp_path, annotations=annotations, coded=["P0am,0,4,,a"])
        assert [time for time, code in found.items() if code == 1] == [3.0, 3.5]
        assert clips.excluded.set_index("reason").loc["coders disagree", "count"] == 2

    def test_spelling_of_an_annotator(self, tmp_path):
        found, _ = self.labels(
            tmp_path, annotations=["P0am,1,2,Smile,Ann", "P0am,6,7,Smile,Ann"], coded=["P0am,0,4,,ann", "P0am,5,9,,B"]
        )
        assert [time for time, code in found.items() if code == 1] == [1.0, 1.5]


def segment_predictions(people=4, *, segments=6, clips=5, seed=0, group_of=None) -> pd.DataFrame:
    """Clips of a model that is right in a segment on average, though not in every clip of it."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        for segment in range(segments):
            target = segment % 2
            for clip in range(clips):
                start_s = segment * 10.0 + clip
                rows.append(
                    {
                        "model": "m", "fold": person % 2, "clip_id": f"p{person}@{start_s}",
                        "recording_id": f"r{person}", "participant_id": f"p{person:02d}",
                        "start_s": start_s, "end_s": start_s + 1.0,
                        "prob_Yes": float(np.clip(0.5 + (target - 0.5) * 0.4 + rng.normal(0, 0.3), 0.01, 0.99)),
                        "target": target, "segment_id": f"r{person}#{segment + 1}",
                    }
                )  # fmt: skip
    table = pd.DataFrame(rows)
    return table if group_of is None else table.assign(group=table["participant_id"].map(group_of))


class TestScoresPerSegment:
    SCHEME = LabelScheme("Yes", "binary", ("not Yes", "Yes"), "human", unit="segment")

    def test_a_segment_is_the_mean_of_its_clips(self):
        table = segment_predictions(people=2, segments=2, clips=3)
        # means .4 .63, .63 .37
        table["prob_Yes"] = [0.9, 0.2, 0.1, 0.4, 0.9, 0.6, 0.1, 0.9, 0.9, 0.1, 0.1, 0.9]
        scores = participant_scores(table, self.SCHEME)
        assert scores["scored_per"].unique().tolist() == ["participant mean"]
        assert scores[["n", "positives", "accuracy"]].values.tolist() == [[2, 1, 1.0], [2, 1, 0.0]]
        frames = participant_scores(table, LabelScheme("Yes", "binary", ("not Yes", "Yes"), "human"))
        assert frames["n"].tolist() == [6, 6]

    def test_participants_are_averaged_where_both_classes_occur(self):
        table = segment_predictions(people=4)
        table.loc[table["participant_id"] == "p03", "target"] = 0
        summary = summarise_model(participant_scores(table, self.SCHEME), folds=2)
        assert (summary["participants"], summary["participants_defined"]) == (4, 3)
        assert np.sum(summary["confusion"]) == 4 * 6

    def test_the_id_of_a_segment_is_needed(self):
        table = segment_predictions()
        with pytest.raises(UserError, match="lack the columns segment_id"):
            participant_scores(table.drop(columns="segment_id"), self.SCHEME)
        one = table["segment_id"] == "r0#1"
        table.loc[one, "target"] = [0, 0, 1, 1, 1]
        with pytest.raises(UserError, match="p00/r0#1 has several targets"):
            participant_scores(table, self.SCHEME)

    def test_who_has_one_class_only_counts_once(self):
        table = segment_predictions(people=6).assign(target=lambda rows: rows["participant_id"].str[-1].astype(int) % 2)
        assert (scored_per(table, self.SCHEME), unit_column(table, self.SCHEME)) == ("participants", "participant_id")
        assert participant_scores(table, self.SCHEME)["n"].tolist() == [1] * 6

    def test_trivial_predictors_draw_per_segment(self, dataset):
        clips = build_clips(dataset, target="Agree")
        splits = make_folds(clips, folds=3, seed=0)
        given = {"clips": clips.table, "splits": splits, "scheme": clips.scheme, "seed": 1}
        prior = trivial_predictions("prior", **given)
        assert prior.groupby("segment_id")["prob_Agree"].nunique().eq(1).all()
        scores = trivial_scores(**given, draws=4)
        assert scores.groupby("model")["n"].sum().to_dict() == dict.fromkeys(
            ["majority", "prior", "participant-mean"], 36
        )
        oracle = scores[scores["model"] == "participant-mean"]
        # 2 of 6 segments are positive, though 12 of 44 clips are.
        assert oracle["accuracy"].unique() == pytest.approx([2 / 3])
        assert oracle["group"].nunique() == 3


DYADS = {f"p{person:02d}": f"d{person // 2}" for person in range(20)}


class TestGroups:
    FRAMES = LabelScheme("Yes", "binary", ("not Yes", "Yes"), "human")

    def dyads(self) -> pd.DataFrame:
        """Scores of 20 participants in 10 dyads, whose members are about as easy as each other."""
        table = segment_predictions(people=20, clips=8, group_of=DYADS, seed=3)
        ease = np.random.default_rng(0).uniform(-0.35, 0.35, 10)[[int(name[1:]) for name in table["group"]]]
        table["prob_Yes"] = np.clip(table["prob_Yes"] + np.where(table["target"] == 1, ease, -ease), 0, 1)
        return participant_scores(table, self.FRAMES)

    def test_dyads_halve_what_is_independent_and_widen_the_interval(self):
        scores = self.dyads()
        apart = summarise_model(scores.assign(group=scores["participant_id"]), folds=5)
        dyads = summarise_model(scores, folds=5)
        assert apart["independent"] == {"unit": "participant", "n": 20}
        assert dyads["independent"] == {"unit": "group", "n": 10}
        assert (apart["balanced_accuracy"]["n"], dyads["balanced_accuracy"]["n"]) == (20, 10)
        assert dyads["balanced_accuracy"]["mean"] == pytest.approx(apart["balanced_accuracy"]["mean"])
        widths = [found["balanced_accuracy"]["high"] - found["balanced_accuracy"]["low"] for found in (apart, dyads)]
        assert widths[1] > 1.25 * widths[0]
        assert (dyads["participants"], dyads["participants_defined"]) == (20, 20)

    def test_a_group_is_the_mean_of_its_participants(self):
        scores = pd.DataFrame({"participant_id": list("abcd"), "group": list("xxyz"), "f1": [0.2, 0.6, np.nan, 1.0]})
        means = independent_means(scores, "f1")
        assert means.index.tolist() == ["x", "y", "z"]
        assert means["x"] == pytest.approx(0.4)
        assert np.isnan(means["y"])
        assert independent_means(scores.drop(columns="group"), "f1").index.tolist() == list("abcd")

    def test_without_groups_every_participant_is_one(self):
        scores = participant_scores(segment_predictions(people=4), self.FRAMES)
        assert scores["group"].tolist() == scores["participant_id"].tolist()
        assert summarise_model(scores, folds=2)["independent"] == {"unit": "participant", "n": 4}

    def test_exact_intervals_count_a_group_once_where_participants_have_one_label(self):
        scheme = LabelScheme("Yes", "binary", ("not Yes", "Yes"), "self-report", unit="participant")
        table = segment_predictions(people=20, segments=1, clips=2, group_of=DYADS)
        number = table["participant_id"].str[1:].astype(int)
        table["target"] = (number // 2) % 2
        wrong = number.isin([0, 1, 2])  # a whole dyad, and one of the next
        table["prob_Yes"] = np.where(wrong, 1 - table["target"], table["target"]).astype(float)
        scores = participant_scores(table, scheme)
        found = summarise_model(scores, folds=5)["accuracy"]
        expected = binomial_interval(np.array([8.5]), np.array([10.0]))
        assert (found["mean"], found["n"]) == (pytest.approx(0.85), 10)
        assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
        apart = summarise_model(scores.assign(group=scores["participant_id"]), folds=5)
        assert apart["accuracy"]["n"] == 20
        assert apart["accuracy"]["low"] > found["low"]
        assert apart["confusion"] == summarise_model(scores, folds=5)["confusion"] == [[8, 2], [1, 9]]


class TestRestSegment:
    def test_it_subtracts_the_mean_of_the_rest_alone(self):
        baseline = PersonalBaseline.parse("segment:rest")
        assert (str(baseline), baseline.needed_s) == ("segment:rest", 5.0)
        features, pts_s = np.array([[1.0], [3.0], [np.nan], [9.0]]), np.arange(4.0)
        personal = baseline.subtract(features, pts_s=pts_s, reference=np.array([True, True, True, False]))
        assert personal[[0, 1, 3], 0].tolist() == [-1.0, 1.0, 7.0]
        with pytest.raises(UserError, match="no frame with a face in the segment 'rest'"):
            baseline.subtract(features, pts_s=pts_s, reference=np.array([False, False, True, False]))

    def test_a_new_recording_has_no_segments(self):
        baseline = PersonalBaseline.parse("segment:rest")
        for refused in (baseline.check_new_recording, lambda: baseline.subtract(np.ones((2, 1)), pts_s=np.arange(2.0))):
            with pytest.raises(UserError, match=r"segment:rest .* by itself has no segments\. Use a model with"):
                refused()
        PersonalBaseline.parse("first:3").check_new_recording()

    @pytest.mark.parametrize("text", ["segment:", "segment: ", "segments:rest", "Segment:rest"])
    def test_a_name_is_needed(self, text):
        with pytest.raises(UserError, match="segment:NAME"):
            PersonalBaseline.parse(text)

    def test_probes_take_it(self):
        choice = parse_model("linear_probe@hog+segment:rest 1")
        assert (choice.backbone, str(choice.baseline)) == ("hog", "segment:rest 1")
        assert choice.label == "linear_probe@hog+segment:rest 1"
        assert str(parse_model("linear_probe", default_baseline="segment:rest").baseline) == "segment:rest"
        with pytest.raises(UserError, match="networks trained end to end take"):
            parse_model("improved_cnn+segment:rest")

    def test_frames_of_a_dataset_carry_their_segment(self, dataset):
        frames = Material(dataset, build_clips(dataset, target="Agree")).frames_of(["P0", "P3"])
        assert len(frames) == 4 * 24
        assert frames["segment"].value_counts().to_dict() == {"rest": 40, "question": 48, "": 8}
        rng = np.random.default_rng(0)
        features = rng.normal(size=(len(frames), 3)) + frames.groupby("recording_id").ngroup().to_numpy()[:, None] * 100
        personal = subtract_baseline(features, frames, baseline=PersonalBaseline.parse("segment:rest"))
        rest = frames["segment"] == "rest"
        assert (
            pd.DataFrame(personal[rest]).groupby(frames["recording_id"][rest].to_numpy()).mean().abs().max().max()
            < 1e-9
        )
        with pytest.raises(UserError, match=r"^P0am: A recording has no frame"):
            subtract_baseline(features, frames, baseline=PersonalBaseline.parse("segment:lunch"))

    def test_too_little_of_it_is_refused_and_counted(self, dataset):
        baseline = PersonalBaseline.parse("segment:rest")
        clips = build_clips(dataset, target="Agree")
        check_rest_segment(Material(dataset, clips), baseline=baseline)
        check_rest_segment(Material(dataset, clips), baseline=PersonalBaseline.parse("recording"))
        segments = dataset.segments.copy()
        segments.loc[(segments["recording_id"] == "P1am") & (segments["segment"] == "rest"), "offset_s"] = 4.0
        gone = (segments["recording_id"] == "P2pm") & (segments["segment"] == "rest")
        short = changed(dataset, segments=segments[~gone])
        with pytest.raises(
            RefusedError, match=r"needs 5 s .*; 2 of 12 recordings have less \(P1am: 4\.0 s, P2pm: 0\.0 s\)"
        ):
            check_rest_segment(Material(short, clips), baseline=baseline)
        with pytest.raises(UserError, match=r"Unknown segment 'lunch'\. Known: question, rest"):
            check_rest_segment(Material(dataset, clips), baseline=PersonalBaseline.parse("segment:lunch"))


class TestResampledSweep:
    """Faces as numbers: a person's own level, plus 1 where they smile, plus noise."""

    NUM_FRAMES = 60

    def study(self, *, people=8, prevalence=0.3, seed=0):
        rng = np.random.default_rng(seed)
        parts, values = [], []
        for person in range(people):
            smiling = rng.permutation(np.arange(self.NUM_FRAMES) < prevalence * self.NUM_FRAMES)
            rest = np.zeros(20, bool)
            targets = np.concatenate([rest, smiling]).astype(int)
            names = np.repeat(["rest", "task"], [20, self.NUM_FRAMES])
            parts.append(
                pd.DataFrame(
                    {
                        "recording_id": f"r{person}", "participant_id": f"p{person}", "segment": names,
                        "pts_s": np.arange(float(len(targets))), "target": targets,
                    }
                )
            )  # fmt: skip
            values.append(rng.normal(0, 5) + targets + rng.normal(0, 0.2, len(targets)))
        return np.concatenate(values)[:, None], pd.concat(parts, ignore_index=True)

    def sweep(self, baseline, *, threshold=0.35, **changes):
        features, frames = self.study()
        if baseline != "segment:rest":
            keep = (frames["segment"] == "task").to_numpy()
            features, frames = features[keep], frames[keep].reset_index(drop=True)
        rows = resampled_sweep(
            features, frames, logits=lambda values: 20 * (values - threshold),
            baseline=PersonalBaseline.parse(baseline), seed=0, **changes,
        )  # fmt: skip
        return rows, {row["prevalence"]: row for row in summarise_sweep(rows)}

    def test_the_mean_over_a_recording_costs_sensitivity_as_prevalence_rises(self):
        rows, found = self.sweep("recording")
        assert rows.groupby("participant_id")["prevalence"].apply(list).tolist() == [list(PREVALENCES)] * 8
        sensitivity = {prevalence: row["sensitivity"] for prevalence, row in found.items()}
        # Half of the smile is left at .7 and none of it at 1: the threshold lies at .35 above the person's mean.
        assert sensitivity[0.3] > 0.9
        assert sensitivity[0.3] > sensitivity[0.7] + 0.2 > sensitivity[1.0] + 0.4
        assert sensitivity[1.0] < 0.15
        assert found[1.0]["predicted_prevalence"] == sensitivity[1.0] == found[1.0]["accuracy"]

    def test_a_rest_costs_nothing(self):
        rows, found = self.sweep("segment:rest")
        assert rows["n"].eq(self.NUM_FRAMES).all()
        for prevalence in (0.1, 0.3, 0.7, 1.0):
            assert found[prevalence]["sensitivity"] == pytest.approx(1.0, abs=0.02)
            assert found[prevalence]["predicted_prevalence"] == pytest.approx(prevalence, abs=0.05)

    def test_only_what_is_defined_is_given_at_the_ends(self):
        _, found = self.sweep("recording")
        assert np.isnan([found[0.0]["sensitivity"], found[0.0]["f1"], found[1.0]["specificity"]]).all()
        assert found[0.0]["accuracy"] == found[0.0]["specificity"]
        assert np.isfinite([found[1.0]["f1"], found[1.0]["sensitivity"]]).all()

    def test_at_a_persons_own_prevalence_nothing_changes(self):
        features, frames = self.study()
        keep = (frames["segment"] == "task").to_numpy()
        features, frames = features[keep], frames[keep].reset_index(drop=True)
        baseline = PersonalBaseline("recording")
        rows = resampled_sweep(
            features, frames, logits=lambda v: 20 * (v - 0.35), baseline=baseline, seed=1, prevalences=(0.3,), draws=2
        )
        said = subtract_baseline(features, frames, baseline=baseline)[:, 0] >= 0.35
        hits = pd.Series(said[frames["target"] == 1]).groupby(
            frames["participant_id"][frames["target"] == 1].to_numpy()
        )
        assert rows["sensitivity"].tolist() == pytest.approx(hits.mean().tolist())

    def test_draws_are_seeded_and_who_has_one_class_is_left_out(self):
        rows, _ = self.sweep("recording", draws=2)
        pd.testing.assert_frame_equal(rows, self.sweep("recording", draws=2)[0])
        features, frames = self.study()
        frames.loc[frames["participant_id"] == "p0", "target"] = 0
        frames.loc[frames["participant_id"] == "p1", "target"] = -1
        given = {"logits": lambda values: values, "baseline": PersonalBaseline("recording"), "seed": 0}
        left = resampled_sweep(features, frames, **given)
        assert left["participant_id"].nunique() == 6
        assert summarise_sweep(left)[0]["participants"] == 6
        assert summarise_sweep(resampled_sweep(features, frames.assign(target=0), **given)) == []

    def test_wrong_input(self):
        features, frames = self.study(people=1)
        given = {"logits": lambda values: values, "baseline": PersonalBaseline("recording"), "seed": 0}
        for changes, message in (
            ({"prevalences": (1.5,)}, "1.5 aren't shares"),
            ({"draws": 0}, "0 draws"),
        ):
            with pytest.raises(UserError, match=message):
                resampled_sweep(features, frames, **given, **changes)
        with pytest.raises(UserError, match="binary target"):
            resampled_sweep(features, frames.assign(target=2), **given)
        with pytest.raises(UserError, match="rows of features"):
            resampled_sweep(features[1:], frames, **given)
