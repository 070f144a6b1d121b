"""The audit as users meet it: `mien audit`, and what `compare` and `train` do with it."""

from __future__ import annotations

import json
import re
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.audit.check import CHECK_NAMES
from mien.cli.main import app
from mien.data.dataset import Dataset
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig

SCORE = re.compile(r"\b0?\.\d{2,}|\d+ ?%")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def copied_dataset(copied_study, tmp_path_factory):
    return prepare(copied_study, out=tmp_path_factory.mktemp("t6") / "d", config=PrepareConfig(fps=2.0, size_px=96))


@pytest.fixture(scope="module")
def few_people(drawn_dataset, tmp_path_factory):
    """Five of the six drawn people: the sixth's recording is taken out of the tables."""
    path = tmp_path_factory.mktemp("few") / "d"
    shutil.copytree(drawn_dataset.path, path, ignore=shutil.ignore_patterns("attempts.csv", "cache", "audit.*"))
    left_out = drawn_dataset.recordings["recording_id"].iloc[0]
    for name in ("recordings", "annotations"):
        table = pd.read_parquet(path / f"{name}.parquet")
        table[table["recording_id"] != left_out].reset_index(drop=True).to_parquet(path / f"{name}.parquet")
    shutil.rmtree(path / "recordings" / left_out)
    return Dataset.open(path)


def test_t6_the_designs_own_dataset_fails_and_is_one_person(copied_dataset):
    result = call("audit", copied_dataset.path, "--target", "Adaptive Engagement", "--json")
    assert result.exit_code == 3, result.stderr
    audit = json.loads(result.stdout)
    assert audit["verdict"] == "fail"
    assert audit["merged_participants"] == [["CP 0636", "JM 9684", "LE 3299", "MP 5114", "NS 4013"]]
    assert audit["participants"] == 1
    severity = {check["name"]: check["severity"] for check in audit["checks"]}
    assert severity["copies"] == severity["contradictory-labels"] == severity["few-participants"] == "fail"
    assert set(severity) == set(CHECK_NAMES)
    page = (copied_dataset.path / "audit.html").read_text()
    assert "CP 0636" in page and "data:image/jpeg;base64," in page


@pytest.mark.parametrize("overridden", [(), ("copies", "contradictory-labels")])
def test_t6_compare_prints_no_score(copied_dataset, tmp_path, overridden):
    out = tmp_path / "run"
    options = [part for name in overridden for part in ("--override", name)]
    arguments = ("--target", "Adaptive Engagement", "--models", "linear_probe,improved_cnn", "--out", out)
    result = call("compare", copied_dataset.path, *arguments, *options)
    assert result.exit_code == 3, result.stderr
    # One person can't be trained and tested on, whatever is overridden, so that nobody is told to.
    assert "(few-participants)" in result.stderr and "--override few-participants" not in result.stderr
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["verdict"] == "refused"
    assert comparison["permitted_claim"] is None
    assert (comparison["models"], comparison["baselines"], comparison["differences"]) == ([], {}, None)
    assert comparison["overrides"] == list(overridden)
    assert (
        not (out / "scores.csv").exists()
        and not (out / "predictions.parquet").exists()
        and not (out / "folds").exists()
    )
    page = (out / "report.html").read_text()
    assert "REFUSED" in page and "CP 0636" in page
    assert "balanced accuracy" not in page.lower()
    bundle = call(
        "train", copied_dataset.path, *arguments[:2], "--model", "linear_probe", "--out", tmp_path / "b", *options
    )
    assert bundle.exit_code == 3
    assert not (tmp_path / "b").exists()


@pytest.mark.real
@pytest.mark.slow
def test_t6_with_a_real_face(real_copied_study, tmp_path):
    dataset = prepare(real_copied_study, out=tmp_path / "d", config=PrepareConfig(fps=2.0, size_px=96))
    arguments = ("--target", "Adaptive Engagement", "--models", "linear_probe", "--out", tmp_path / "run")
    result = call("compare", dataset.path, *arguments)
    assert result.exit_code == 3, result.stderr
    comparison = json.loads((tmp_path / "run/comparison.json").read_text())
    assert comparison["merged_participants"] == [["CP 0636", "JM 9684", "LE 3299", "MP 5114", "NS 4013"]]
    assert comparison["models"] == [] and comparison["participants"] == 1


def test_five_people_are_exploratory_and_see_no_p(few_people, tmp_path):
    models = "linear_probe@hog,linear_probe@hog+recording"
    out = tmp_path / "run"
    result = call("compare", few_people.path, "--target", "Smile", "--models", models, "--folds", 5, "--out", out)
    assert result.exit_code == 0, result.stderr
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["participants"] == 5
    assert comparison["verdict"] == "exploratory"
    assert comparison["permitted_claim"] is None
    tests = [model["chance"] for model in comparison["models"]] + comparison["differences"]
    assert len(tests) == 3
    for test in tests:
        assert test["p"] is None and test["p_holm"] is None
        assert "6" in test["p_note"]
    page = (out / "report.html").read_text()
    assert "EXPLORATORY" in page
    assert not re.search(r"\bp\s*[=<]\s*0?\.", re.sub(r"<[^>]+>", " ", page))


def test_an_override_is_on_every_output(drawn_dataset, tmp_path):
    path = tmp_path / "d"
    shutil.copytree(drawn_dataset.path, path, ignore=shutil.ignore_patterns("attempts.csv", "audit.*"))
    annotations = pd.read_parquet(path / "annotations.parquet")
    last = annotations.index[annotations["scheme"] == "Smile"][-1]
    annotations.loc[last, "offset_s"] = 60.0  # the recording has 6 s
    annotations.to_parquet(path / "annotations.parquet")
    models = "linear_probe@hog,linear_probe@hog+recording"
    common = ("--target", "Smile", "--models", models, "--folds", 3, "--out", tmp_path / "run")
    refused = call("compare", path, *common)
    assert refused.exit_code == 3
    assert "clock" in refused.stderr and "--override clock" in refused.stderr
    result = call("compare", path, *common, "--override", "clock")
    assert result.exit_code == 0, result.stderr
    assert "Overridden by the user: clock" in result.stdout
    comparison = json.loads((tmp_path / "run/comparison.json").read_text())
    assert comparison["overrides"] == ["clock"] and comparison["verdict"] == "exploratory"
    assert json.loads((tmp_path / "run/run.json").read_text())["overrides"] == ["clock"]
    assert json.loads((tmp_path / "run/audit.json").read_text())["overrides"] == ["clock"]
    assert re.search(r"[Oo]verridden by the user", (tmp_path / "run/report.html").read_text())
    train = (
        "--target",
        "Smile",
        "--model",
        "linear_probe@hog",
        "--out",
        tmp_path / "bundle",
        "--run",
        tmp_path / "run",
    )
    assert call("train", path, *train).exit_code == 3
    assert call("train", path, *train, "--override", "clock").exit_code == 0
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert "Overridden by the user: clock" in card
    assert "balanced accuracy" in card and "exploratory" in card
    unknown = call("compare", path, *common, "--override", "clocks")
    assert unknown.exit_code == 2 and "Known: clock" in unknown.stderr


def test_a_target_that_never_varies_is_refused(drawn_dataset):
    result = call("audit", drawn_dataset.path, "--target", "Attention", "--json")
    assert result.exit_code == 3
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["label-varies"]["severity"] == "fail"
    assert "never varies" in checks["label-varies"]["detail"]


def test_without_a_target_people_and_clocks_are_checked(drawn_dataset):
    result = call("audit", drawn_dataset.path, "--json")
    assert result.exit_code == 0, result.stderr
    severity = {check["name"]: check["severity"] for check in json.loads(result.stdout)["checks"]}
    assert severity["copies"] == severity["clock"] == "ok"
    assert severity["nuisances"] == severity["label-source"] == "not checked"


def test_the_audit_reads_well_on_a_terminal(drawn_dataset):
    result = call("audit", drawn_dataset.path, "--target", "Smile")
    assert result.exit_code == 0, result.stderr
    assert "Audit of Smile: warn" in result.stdout
    assert "number of participants" in result.stdout


def test_a_study_that_does_not_say_who_annotated_is_refused_with_the_line_to_add(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/recordings.csv").write_text("media,participant\na.mp4,p1\n")
    (tmp_path / "s/a.mp4").write_bytes(b"")
    (tmp_path / "s/study.yaml").write_text("name: x\n")
    result = call("prepare", tmp_path / "s", "--out", tmp_path / "d")
    assert result.exit_code == 2
    assert "label_source: " in result.stderr


def test_a_plan_makes_a_comparison_confirmatory_once(drawn_dataset, tmp_path):
    path = tmp_path / "d"
    shutil.copytree(drawn_dataset.path, path, ignore=shutil.ignore_patterns("attempts.csv", "plan.json"))
    models = "linear_probe@hog,linear_probe@hog+recording"
    shared = ("--target", "Smile", "--models", models, "--folds", 3)
    written = call("plan", path, *shared)
    assert written.exit_code == 0, written.stderr
    assert call("compare", path, *shared, "--out", tmp_path / "a").exit_code == 0
    first = json.loads((tmp_path / "a/comparison.json").read_text())
    assert first["confirmatory"]["is"] is True
    assert first["configurations"] == {"this_run": 2, "on_this_target": 2}
    assert call("compare", path, *shared[:-1], 2, "--out", tmp_path / "b").exit_code == 0
    second = json.loads((tmp_path / "b/comparison.json").read_text())
    assert second["confirmatory"]["is"] is False
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(json.dumps(plan | {"smallest_difference": 0.5}))
    edited = call("compare", path, *shared, "--out", tmp_path / "c")
    assert edited.exit_code == 2 and "edited" in edited.stderr


def test_compare_holds_models_against_all_that_sees_no_face(drawn_dataset, tmp_path):
    arguments = ("--target", "Smile", "--models", "improved_cnn+recording", "--folds", 3, "--epochs", 1)
    result = call("compare", drawn_dataset.path, *arguments, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    comparison = json.loads((tmp_path / "r/comparison.json").read_text())
    expected = {"majority", "prior", "participant-mean", "nuisances+recording", "face hidden+recording", "peer"}
    assert set(comparison["baselines"]) == expected | {"linear_probe@hog+recording"}
    model = comparison["models"][0]
    assert model["leakage_gap"]["baseline"] == "recording"
    assert {row["prevalence"] for row in model["resampled_sweep"]} == {0.0, 0.1, 0.3, 0.7, 1.0}
    assert comparison["selected"] is None
    scores = pd.read_csv(tmp_path / "r/scores.csv")
    assert set(scores["model"]) == set(comparison["baselines"]) | {"improved_cnn+recording"}
