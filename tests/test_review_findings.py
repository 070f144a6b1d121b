"""What a reviewer found in `compare`, `plan` and `audit`: each test here failed before it was mended."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from media_fixtures import write_video
from mien.audit.check import Check
from mien.audit.copies import check_copies
from mien.audit.labels import check_constant_label, check_label_varies
from mien.audit.run import audit_content, audit_target
from mien.audit.standalone import run_audit
from mien.cli.main import app
from mien.core.errors import RefusedError, UserError
from mien.core.storage import read_json, write_json
from mien.crossval.compare import plan_comparison, run_comparison
from mien.crossval.plan import check_plan, plan_lines, read_plan, write_plan
from mien.data.attempts import count_configurations, describe_runs
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.pictures import LANDMARK_COLUMNS
from mien.data.prepare import PrepareConfig, prepare
from mien.data.study import find_study
from mien.evaluation.grouped import held_bound
from mien.evaluation.groups import scores_by_group
from mien.evaluation.intervals import Interval
from mien.models.choice import parse_models
from mien.report.audit_table import BY_BOUND, audit_line
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings
from report_runs import evidence_of, make_run, rewritten, text_of
from test_audit_labels import index, people
from test_metrics_by_kind import model_scores, table

PROBE = "linear_probe"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(dataset, out, **changes):
    given = {"target": "Smile", "models": PROBE, "folds": 2} | changes
    run_comparison(plan_comparison(dataset.path, out=out, **given))
    return out


def copy_of(dataset, path, *, people_kept=None):
    """The dataset as if nothing had been tried on it; with few people, only those."""
    shutil.copytree(dataset.path, path, ignore=shutil.ignore_patterns("attempts.csv", "plan.json", "audit.*"))
    if people_kept is not None:
        kept = dataset.recordings["recording_id"].iloc[:people_kept]
        for name in ("recordings", "annotations"):
            rows = pd.read_parquet(path / f"{name}.parquet")
            rows[rows["recording_id"].isin(kept)].reset_index(drop=True).to_parquet(path / f"{name}.parquet")
    return Dataset.open(path)


@pytest.fixture(scope="module")
def own(drawn_dataset, tmp_path_factory):
    """A copy of the drawn dataset whose log is this module's alone."""
    return copy_of(drawn_dataset, tmp_path_factory.mktemp("own") / "d")


@pytest.fixture
def fresh(own):
    """The same with an empty log and no plan."""
    for name in ("attempts.csv", "plan.json"):
        (own.path / name).unlink(missing_ok=True)
    return own


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory):
    return run(own, tmp_path_factory.mktemp("runs") / "run")


def failing(name):
    return Check(name, "fail", 1.0, 0.5, f"{name} fails here.", "Mend it.")


def test_faces_too_small_to_compare_merge_nobody_and_are_told_of(drawn_dataset, tmp_path):
    """Eyes 2 px apart, nearly as in whole screens kept at 64 px: everybody looks like everybody."""
    dataset = copy_of(drawn_dataset, tmp_path / "d")
    for path in dataset.path.glob("recordings/*/frames.parquet"):
        frames = pd.read_parquet(path)
        for axis in "xy":
            names = [name for name in LANDMARK_COLUMNS if name.endswith(axis)]
            middle = frames[names].mean(axis=1)
            frames[names] = frames[names].sub(middle, axis=0).mul(0.05).add(middle, axis=0)
        frames.to_parquet(path)
    found = check_copies(Dataset.open(dataset.path), seed=0)
    assert found.merged == ()
    assert found.check.severity == "not checked"
    assert "6 participants were not compared" in found.check.detail and "--size" in found.check.advice


class TestFitsOfAnotherConfiguration:
    @pytest.mark.parametrize("left", ["another's", "unnamed"])
    def test_fits_beside_a_refusal_are_made_again(self, own, finished, tmp_path, left):
        """As older versions left them: run.json refused, the folds of a finished run still there."""
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        write_json(out / "run.json", read_json(out / "run.json") | {"refused": True})
        write_json(out / "comparison.json", read_json(out / "comparison.json") | {"verdict": "refused"})
        if left == "unnamed":
            for path in out.glob("folds/*/*/fit.json"):
                write_json(path, {key: value for key, value in read_json(path).items() if key != "run_id"})
        changes = {"seed": 3} if left == "another's" else {}
        run(own, out, **changes)
        run_id = read_json(out / "run.json")["run_id"]
        assert {read_json(path)["run_id"] for path in out.glob("folds/*/*/fit.json")} == {run_id}
        predictions = pd.read_parquet(out / "predictions.parquet")
        assert set(predictions["run"]) == {run_id}
        tested = {split["fold"]: set(split["test"]) for split in read_json(out / "run.json")["splits"]}
        for fold, rows in predictions.groupby("fold"):
            assert set(rows["participant_id"]) == tested[fold]

    def test_a_refusal_of_the_content_keeps_scores_that_an_override_made(self, own, tmp_path, monkeypatch):
        def refusing(audit, **arguments):
            found = audit_content(audit, **arguments)
            others = [check for check in found.checks if check.name != "label-in-pixels"]
            return dataclasses.replace(found, checks=(*others, failing("label-in-pixels")))

        monkeypatch.setattr("mien.crossval.compare.audit_content", refusing)
        out = run(own, tmp_path / "run", overrides=["label-in-pixels"])
        before = {name: (out / name).read_bytes() for name in ("predictions.parquet", "scores.csv", "run.json")}
        with pytest.raises(UserError, match=r"made with --override label-in-pixels; with no override .* another --out"):
            run(own, out)
        assert {name: (out / name).read_bytes() for name in before} == before
        assert read_json(out / "comparison.json")["verdict"] == "exploratory"

    def test_a_refusal_of_the_people_says_so_and_not_that_folds_differ(self, own, tmp_path, monkeypatch):
        monkeypatch.setattr("mien.audit.run.check_clock", lambda _: failing("clock"))
        out = run(own, tmp_path / "run", overrides=["clock"])
        with pytest.raises(UserError, match=r"finished comparison that was made with --override clock") as caught:
            run(own, out)
        assert "folds" not in str(caught.value)
        assert (out / "scores.csv").is_file()


class TestLooks:
    def planned(self, dataset):
        """A comparison that follows a plan written now."""
        write_plan(dataset.path, target="Smile", models=PROBE, folds=2)
        models = parse_models(PROBE)
        return check_plan(dataset.path, target="Smile", models=models, folds=2, seed=0, settings=FitSettings())

    def test_an_audit_with_the_target_is_one(self, fresh):
        run_audit(fresh, target="Smile", folds=2)
        run_audit(fresh, target="Smile", folds=2)
        found = self.planned(fresh)
        assert not found.is_
        assert found.reason == f"1 audit had been run on 'Smile' before plan {found.plan} was written."
        assert (
            "1 audit (0 configurations) had been run on this target"
            in plan_lines(read_plan(fresh.path / "plan.json"))[1]
        )
        # Its probe is a reference, which every comparison shows too: no model was chosen by it.
        assert count_configurations(fresh.path, "Smile") == 0
        (fresh.path / "attempts.csv").unlink()
        assert self.planned(fresh).reason.startswith("1 audit had been run"), "the plan remembers"

    def test_an_audit_of_people_alone_is_none(self, fresh):
        run_audit(fresh, target=None)
        assert self.planned(fresh).is_

    def test_a_training_is_one_and_the_same_configuration_counts_once(self, fresh, tmp_path):
        train_bundle(plan_training(fresh.path, target="Smile", model=PROBE, out=tmp_path / "bundle"))
        assert "1 training had been run on 'Smile'" in self.planned(fresh).reason
        assert count_configurations(fresh.path, "Smile") == 1
        run(fresh, tmp_path / "run", models=f"{PROBE},{PROBE}+recording")
        assert count_configurations(fresh.path, "Smile") == 2
        assert describe_runs(fresh.path, "Smile") == "1 training and 1 comparison"

    def test_a_plan_of_an_older_version_keeps_its_hash(self, fresh):
        from mien.core.storage import digest_of

        path = write_plan(fresh.path, target="Smile", models=PROBE, folds=2)
        old = {key: value for key, value in read_json(path).items() if key not in ("looks_before", "hash")}
        write_json(path, {**old, "hash": digest_of(old)})
        assert read_plan(path).hash == digest_of(old)

    def test_a_comparison_with_random_weights_can_follow_a_plan(self, fresh):
        arguments = ("--target", "Smile", "--models", "vit_pretrained", "--folds", 2)
        missing = call("plan", fresh.path, *arguments)
        assert missing.exit_code == 2 and "--random-init" in missing.stderr
        result = call("plan", fresh.path, *arguments, "--random-init")
        assert result.exit_code == 0, result.stderr
        settings, models = FitSettings(random_init=True), parse_models("vit_pretrained")
        assert check_plan(fresh.path, target="Smile", models=models, folds=2, seed=0, settings=settings).is_


def test_a_probe_without_its_backbone_has_one_row(finished):
    result = read_json(finished / "comparison.json")
    labels = [row["label"] for row in (*result["models"], *result["baselines"].values())]
    assert labels.count("linear_probe@hog") == 1
    assert "linear_probe@hog" not in set(pd.read_csv(finished / "scores.csv")["model"])


class TestNothingToTest:
    def test_compare_of_a_target_that_never_varies(self, own, tmp_path):
        out = tmp_path / "run"
        result = call("compare", own.path, "--target", "Attention", "--models", PROBE, "--out", out)
        assert result.exit_code == 3, result.stderr
        comparison = read_json(out / "comparison.json")
        assert (comparison["verdict"], comparison["models"], comparison["baselines"]) == ("refused", [], {})
        assert "never varies" in comparison["verdict_reasons"][0] and "Smile" in comparison["verdict_reasons"][0]
        checks = {check["name"]: check["severity"] for check in comparison["audit"]["checks"]}
        assert checks["label-varies"] == "fail" and checks["copies"] == "ok"
        assert "REFUSED: the target varies" in text_of((out / "report.html").read_text())
        assert not (out / "scores.csv").exists()

    def test_train_of_a_target_that_never_varies(self, own, tmp_path):
        with pytest.raises(RefusedError, match="never varies"):
            plan_training(own.path, target="Attention", model=PROBE, out=tmp_path / "b")

    def test_compare_of_two_people_whatever_is_overridden(self, drawn_dataset, tmp_path):
        dataset = copy_of(drawn_dataset, tmp_path / "d", people_kept=2)
        out = tmp_path / "run"
        arguments = ("--target", "Smile", "--models", PROBE, "--out", out, "--override", "few-participants")
        result = call("compare", dataset.path, *arguments)
        assert result.exit_code == 3, result.stderr
        assert "--override few-participants" not in result.stderr
        assert json.loads((out / "comparison.json").read_text())["verdict"] == "refused"

    def test_an_attribute_that_people_show_alone(self, drawn_dataset, tmp_path):
        dataset = copy_of(drawn_dataset, tmp_path / "d")
        rows = pd.read_parquet(dataset.path / "recordings.parquet")
        rows["gender"] = [f"g{number // 2}" for number in range(len(rows))]
        rows.to_parquet(dataset.path / "recordings.parquet")
        _, audit = audit_target(Dataset.open(dataset.path), target="gender")
        (refusal,) = audit.refusals
        assert refusal.name == "label-varies"
        assert "None of 3 classes is shown by 3 independent people" in refusal.detail

    def test_classes_that_few_show_are_named_where_two_have_enough(self):
        scheme = dataclasses.replace(index({}).scheme, kind="multiclass", classes=("a", "b", "c"))
        clips = index(people(8, lambda number: [0 if number < 4 else 1 if number < 7 else 2] * 2), scheme=scheme)
        check = check_label_varies(clips, people=clips)
        assert check.severity == "warn" and check.advice.startswith("c: fewer than 3 participants")
        dyads = index(
            people(8, lambda number: [0 if number < 4 else 1] * 2), groups={f"p0{n}": f"d{n // 2}" for n in range(8)}
        )
        assert check_label_varies(dyads, people=dyads).severity == "fail", "two dyads a class"


def test_the_unit_of_an_attribute_is_not_said_to_be_the_studys(own):
    clips = build_clips(own, target="gender")
    detail = check_constant_label(clips).check.detail
    assert "as the study says" not in detail
    assert "gender is a column of the study's table of recordings" in detail


class TestGroups:
    def test_nothing_is_claimed_where_the_interval_holds_chance(self):
        attributes = table(site=["a"] * 12 + ["b"] * 12)
        found = scores_by_group(model_scores(24), attributes, folds=None, chance=0.5)
        for row in found:
            assert row["claim"] == (row["balanced_accuracy"]["low"] > 0.5)
        never = scores_by_group(model_scores(24), attributes, folds=None, chance=1.0)
        assert not any(row["claim"] for row in never)

    def test_one_persons_score_is_not_told(self):
        found = scores_by_group(model_scores(6), table(site=["a"] * 5 + ["b"]), folds=None, chance=0.5)
        assert [(row["n"], row["balanced_accuracy"]["mean"] is None) for row in found] == [(5, False), (1, True)]


class TestReport:
    @pytest.fixture(scope="class")
    def page(self, tmp_path_factory):
        return make_run(tmp_path_factory.mktemp("page"))

    def test_the_legend_names_what_is_drawn(self, page):
        evidence = evidence_of(page)
        assert "calibrated on training participants" not in rewritten(page, **evidence)
        models = [
            model | {"calibration": {**model["calibration"], "calibrated": model["calibration"]["raw"]}}
            if model.get("calibration")
            else model
            for model in evidence["models"]
        ]
        assert "calibrated on training participants" in rewritten(page, **evidence | {"models": models})

    def test_the_clock_shows_offsets_only(self):
        def value(measured):
            check = {"name": "clock", "severity": "ok", "measured": measured, "threshold": None}
            return audit_line({"checks": [check]}, overrides=()).items[0].value

        offsets = {"offset_export_s": None, "offset_sound_s": None, "drift_s": None}
        assert value({"duration": None, "annotations": 0.038, **offsets}) == ""
        assert value({"annotations": 0.5, **offsets, "offset_sound_s": {"value": -0.04}}) == "±40 ms"

    def test_what_is_held_against_the_threshold_is_shown(self, finished):
        shown = 0
        for check in read_json(finished / "audit.json")["checks"]:
            if check["name"] not in BY_BOUND or check["measured"] is None:
                continue
            intervals = [score["balanced_accuracy"] for score in check["evidence"]["scores"]]
            measured = check["measured"]
            values = measured.values() if isinstance(measured, dict) else [measured]
            shown += sum(value in [interval["low"] for interval in intervals] for value in values)
            assert all((value > check["threshold"]) == (check["severity"] == "warn") for value in values)
        assert shown

    def test_where_signs_decide_the_mean_is_shown(self):
        clips = index(people(12, lambda _: [0, 1]))
        assert held_bound(Interval(0.61, 0.547, 0.67, 12), 0.55, clips=clips) == 0.547
        assert held_bound(Interval(1.0, float("nan"), float("nan"), 12), 0.55, clips=clips) == 1.0


class TestTables:
    def study(self, root, recordings, annotations="recording,onset_s,offset_s,label\n"):
        root.mkdir()
        (root / "study.yaml").write_text("name: S\nlabel_source: human\n")
        (root / "recordings.csv").write_bytes(recordings)
        (root / "annotations.csv").write_text(annotations)
        return root

    def test_a_header_alone(self, tmp_path):
        root = self.study(tmp_path / "S", b"media,participant\n")
        with pytest.raises(UserError, match=r"recordings\.csv has no rows below its header") as caught:
            find_study(root)
        assert "RAVDESS" not in str(caught.value)

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x1b[2J\x1b]0;owned\x07,\x9b31m,x\n"]
    )
    def test_bytes_that_are_no_text_stay_off_the_terminal(self, tmp_path, content):
        root = self.study(tmp_path / "S", content)
        with pytest.raises(UserError) as caught:
            find_study(root)
        assert str(caught.value).isprintable()

    def test_annotations_outside_the_recording_are_told_of_and_cut(self, tmp_path):
        rows = "v,-1,0.4,Smile\nv,0.5,1e9,Smile\nv,-3,-2,Smile\nv,-0.2,0.1,Smile\nv,0.6,1.4,Smile\n"
        root = self.study(tmp_path / "S", b"media,participant\nv.mp4,P1\n", "recording,onset_s,offset_s,label\n" + rows)
        write_video(root / "v.mp4", times_s=[number / 10 for number in range(11)])
        config = PrepareConfig(fps=5, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")
        made = prepare(root, out=tmp_path / "D", config=config)
        (reason,) = made.failures["reason"]
        assert "1 of 5 annotations start before the recording, and were cut at its start" in reason
        assert "1 of 5 annotations end long after the recording, and were cut at its end" in reason
        assert "1 of 5 annotations lie before the recording, so that no frame can have them" in reason
        end_s = float(made.recordings["duration_s"].iloc[0])
        spans = list(zip(made.annotations["onset_s"], made.annotations["offset_s"], strict=True))
        assert spans == [(0.0, 0.4), (0.5, end_s), (-3.0, -2.0), (0.0, 0.1), (0.6, 1.4)], "the audit measures the last"
