"""The command line: exit statuses, one-line errors, JSON on stdout."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mien.cli.main import app

runner = CliRunner()


def call(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    for command in (
        "demo",
        "prepare",
        "frames",
        "inspect",
        "compare",
        "train",
        "predict",
        "report",
        "models",
        "doctor",
    ):
        assert command in result.stdout


def test_models_json_is_the_contract():
    rows = json.loads(call("models", "--json").stdout)
    counts = {row["name"]: row["parameters"] for row in rows}
    assert counts["improved_cnn"] == 1_699_841
    assert counts["resnet50_pretrained"] == 24_557_633
    assert counts["vit_pretrained"] == 85_995_777
    assert {"name", "parameters", "trainable_parameters", "modalities", "weights"} <= set(rows[0])


def test_doctor_says_what_is_here():
    facts = json.loads(call("doctor", "--json").stdout)
    assert facts["packages"]["torch"].startswith("2.13")
    assert facts["problems"] == "none"


def test_inspect_json(drawn_dataset):
    facts = json.loads(call("inspect", drawn_dataset.path, "--json").stdout)
    assert facts["participants"] == 6
    assert {"Smile", "Attention"} <= {target["name"] for target in facts["targets"]}
    assert "Smile" in call("inspect", drawn_dataset.path).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "absent", "--out", "d"), "absent"),
        (("inspect", "absent"), "There is no absent"),
        (("compare", "absent", "--target", "Smile", "--models", "improved_cnn", "--out", "r"), "isn't a dataset"),
        (("train", "absent", "--target", "Smile", "--model", "improved_cnn", "--out", "b"), "isn't a dataset"),
        (("predict", "absent", "v.mp4", "--out", "p"), "isn't a bundle"),
        (("report", "absent"), "no finished comparison"),
        (("frames", "absent.mp4", "--out", "f"), "absent.mp4"),
        (("frames", "a.mp4", "--out", "f", "--every", "3", "--fps", "2"), "not both"),
        (("models", "--weights-dir", "absent"), "No weights directory"),
        (("prepare", ".", "--out", "d", "--fps", "0"), "--fps"),
        (("prepare", ".", "--out", "d", "--crop", "nose"), "--crop"),
        (("compare", "d", "--target", "x", "--models", "y", "--out", "r", "--folds", "1"), "--folds"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in tmp_path.rglob("*")} <= {"f", "failures.csv"}


def test_a_folder_without_recordings(tmp_path):
    (tmp_path / "study").mkdir()
    result = call("prepare", tmp_path / "study", "--out", tmp_path / "d")
    assert result.exit_code == 2
    assert "RespCam_" in result.stderr


def test_a_target_that_never_varies_is_refused_with_the_audit(drawn_dataset, tmp_path):
    """Nothing to test is a refusal (3), as in `mien audit`, and not a wrong option."""
    result = call("compare", drawn_dataset.path, "--models", "linear_probe@hog", "--out", tmp_path / "r",
                  "--target", "Attention", "--folds", 3)  # fmt: skip
    assert result.exit_code == 3, result.stderr
    assert "never varies" in result.stderr
    refused = json.loads((tmp_path / "r/comparison.json").read_text())
    assert refused["verdict"] == "refused" and not refused["models"]


def test_a_plan_of_a_target_that_never_varies_is_refused_like_its_comparison(drawn_dataset):
    result = call("plan", drawn_dataset.path, "--models", "linear_probe@hog", "--target", "Attention", "--folds", 3)
    assert result.exit_code == 3, result.stderr
    assert "never varies" in result.stderr and "Targets that vary: " in result.stderr


def test_more_folds_than_people_and_an_unknown_target(drawn_dataset, tmp_path):
    base = ("compare", drawn_dataset.path, "--models", "linear_probe@hog", "--out", tmp_path / "r", "--target")
    for target, folds, words in (("Smile", 9, "6 participants"), ("Fun", 3, "Smile")):
        result = call(*base, target, "--folds", folds)
        assert result.exit_code == 2, result.stderr
        assert words in result.stderr


def test_refusal_is_status_3(drawn_dataset, tmp_path):
    arguments = ("--target", "gender", "--models", "linear_probe@hog+recording", "--folds", 2, "--out", tmp_path / "r")
    result = call("compare", drawn_dataset.path, *arguments)
    assert result.exit_code == 3
    assert "erases" in result.stderr


def test_a_bug_is_status_1_with_a_log_file_and_no_traceback(drawn_dataset, tmp_path, monkeypatch):
    import mien.data.inspect

    def broken(dataset):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(mien.data.inspect, "describe", broken)
    result = call("inspect", drawn_dataset.path)
    assert result.exit_code == 1
    assert "unforeseen" in result.stderr
    assert "Traceback" not in result.stderr


def test_dry_runs_write_nothing(drawn_study, drawn_dataset, tmp_path):
    estimate = json.loads(call("prepare", drawn_study, "--out", tmp_path / "d", "--dry-run", "--json").stdout)
    assert estimate["num_recordings"] == 6
    arguments = ("--target", "Smile", "--models", "improved_cnn,linear_probe", "--folds", 3, "--epochs", 1, "--dry-run")
    assert "Would fit 6 times" in call("compare", drawn_dataset.path, *arguments, "--out", tmp_path / "r").stdout
    result = call("compare", drawn_dataset.path, *arguments, "--out", tmp_path / "r", "--json")
    estimate = json.loads(result.stdout)
    assert estimate["fits"] == 6
    assert estimate["minutes_at_most"] > 0
    assert not list(tmp_path.iterdir())


def test_import_is_fast_and_light():
    code = (
        "import sys, time; start = time.perf_counter(); import mien; took = time.perf_counter() - start\n"
        "assert took < 1, took\n"
        "heavy = {'torch', 'pandas', 'cv2', 'sklearn', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import mien.cli.main; assert 'torch' not in sys.modules\n"
        "import mien.predict.predictor; assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
