"""`mien compare` and `mien train` on a small drawn study: determinism, resuming, refusals, the contract's files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import RefusedError, UserError
from mien.crossval.compare import model_folder, plan_comparison, run_comparison
from mien.data.clips import build_clips
from mien.models.choice import parse_model, parse_models
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings, load_settings

TINY = FitSettings(training=TrainConfig(image_size=32, epochs=1, batch_size=16))
MODELS = "linear_probe@hog,linear_probe@hog+recording,improved_cnn,vit_scratch+recording"


def run(dataset, out, *, models=MODELS, target="Smile", folds=3, seed=0, settings=TINY):
    plan = plan_comparison(
        dataset.path, target=target, models=models, out=out, folds=folds, seed=seed, settings=settings
    )
    run_comparison(plan, command="mien compare (test)")
    return out


@pytest.fixture(scope="module")
def finished(drawn_dataset, tmp_path_factory):
    return run(drawn_dataset, tmp_path_factory.mktemp("runs") / "run")


def test_run_holds_the_files_of_the_contract(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"run.json", "predictions.parquet", "scores.csv", "comparison.json", "report.html"} <= names


def test_comparison_has_the_keys_of_the_contract(finished):
    result = json.loads((finished / "comparison.json").read_text())
    assert result["verdict"] == "exploratory"  # six people
    assert {"frame_split", "participant_split"} <= set(result["leakage_gap"])
    against = [(difference["a"], difference["b"]) for difference in result["differences"]]
    reference, recommended = "linear_probe@hog", result["recommended"]["name"]  # the first probe is the reference
    assert {pair for pair in against if pair[1] == reference} == {(name, reference) for name in MODELS.split(",")[1:]}
    assert {b for _, b in against} <= {reference, recommended} and len(set(against)) == len(against)
    for difference in result["differences"]:
        assert {"a", "mean", "low", "high", "p", "p_holm", "effect_size", "fold_mean", "fold_sd"} <= set(difference)
        assert set(difference["rope"]) >= {"worse", "same", "better"}
    assert [item["fold"] for item in result["selected"]["chosen"]] == [0, 1, 2]
    assert result["audit"]["verdict"] in ("pass", "warn")
    assert result["participants"] == 6
    assert result["label_source"] == "synthetic"
    assert result["target"] == "Smile"
    assert [model["name"] for model in result["models"]] == MODELS.split(",")
    for model in result["models"]:
        assert {"mean", "low", "high"} <= set(model["balanced_accuracy"])
        for key in ("f1", "auroc", "accuracy", "precision", "recall", "fit_seconds", "device", "parameters"):
            assert model[key] is not None, key
        assert (model["overfitting"] is None) == model["name"].startswith("linear_probe")
    assert {"majority", "prior", "participant-mean", "nuisances", "face hidden", "peer"} <= set(result["baselines"])
    assert {item["name"] for item in result["not_run"]} == {"resnet50_pretrained", "vit_pretrained"}
    assert len(result["failures"]) == 1


def test_every_participant_is_predicted_once_by_a_model_that_never_saw_them(finished, drawn_dataset):
    predictions = pd.read_parquet(finished / "predictions.parquet")
    facts = json.loads((finished / "run.json").read_text())
    clips = build_clips(drawn_dataset, target="Smile").table
    for _, rows in predictions.groupby("model"):
        assert sorted(rows["clip_id"]) == sorted(clips["clip_id"])
        for fold, part in rows.groupby("fold"):
            split = facts["splits"][int(fold)]
            assert set(part["participant_id"]) == set(split["test"])
            assert not set(split["test"]) & {*split["train"], *split["validation"]}
    merged = predictions.merge(clips, on="clip_id", suffixes=("", "_index"))
    assert (merged["target"] == merged["target_index"]).all()


def test_probabilities_are_the_logits_through_the_sigmoid(finished):
    predictions = pd.read_parquet(finished / "predictions.parquet")
    expected = 1 / (1 + np.exp(-predictions["logit_Smile"]))
    assert predictions["prob_Smile"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9)


def test_same_seed_same_predictions_in_any_company_other_seed_others(finished, drawn_dataset, tmp_path):
    """All models at once are compared byte by byte where a comparison goes on after it was killed, below."""

    def logits(out):
        rows = pd.read_parquet(out / "predictions.parquet").query("model == 'improved_cnn'")
        return rows.set_index("clip_id")["logit_Smile"].sort_index()

    alone, other = (
        logits(run(drawn_dataset, tmp_path / f"{seed}", models="improved_cnn", seed=seed)) for seed in (0, 1)
    )
    pd.testing.assert_series_equal(alone, logits(finished), check_exact=True)
    assert sorted(alone) != sorted(other)


def test_a_killed_comparison_goes_on_and_repeats_nothing(finished, drawn_dataset, tmp_path):
    """SIGKILL as soon as two fits are there; the rest is done by a second start, the finished ones aren't touched."""
    out = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from test_compare import run\n"
        "from mien.data.dataset import Dataset\n"
        "run(Dataset.open(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(drawn_dataset.path), str(out), os.path.dirname(__file__)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    # A fold that is being written is hidden, and pathlib's * matches hidden names.
    while len(list(out.glob("folds/*/[0-9]*/fit.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/[0-9]*/fit.json")}
    assert 2 <= len(done) < 12
    assert not (out / "comparison.json").exists()
    run(drawn_dataset, out)
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())
    assert (out / "predictions.parquet").read_bytes() == (finished / "predictions.parquet").read_bytes()
    assert not list(out.rglob(".*"))


def test_a_fold_that_is_deleted_is_fitted_again(finished, drawn_dataset, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    choice = parse_model("linear_probe@hog")
    shutil.rmtree(out / "folds" / model_folder(choice) / "1")
    before = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/*/fit.json")}
    run(drawn_dataset, out)
    assert (out / "predictions.parquet").read_bytes() == (finished / "predictions.parquet").read_bytes()
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_another_comparison_is_not_mixed_in(finished, drawn_dataset):
    with pytest.raises(UserError, match="holds another comparison"):
        run(drawn_dataset, finished, seed=5)


def test_one_model_that_fails_does_not_lose_the_others(drawn_dataset, tmp_path, monkeypatch):
    import mien.crossval.folds as module

    fit = module.fit_model

    def failing(choice, **arguments):
        if choice.name == "improved_cnn":
            raise RuntimeError("no luck today")
        return fit(choice, **arguments)

    monkeypatch.setattr(module, "fit_model", failing)
    out = run(drawn_dataset, tmp_path / "run", models="improved_cnn,linear_probe@hog")
    result = json.loads((out / "comparison.json").read_text())
    assert [model["name"] for model in result["models"]] == ["linear_probe@hog"]
    assert result["failed_models"][0]["name"] == "improved_cnn"
    assert "no luck today" in result["failed_models"][0]["reason"]
    assert "no luck today" in (out / "report.html").read_text()
    assert "RuntimeError" in next(out.glob("logs/*.log")).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "Smirk"}, r"Unknown target 'Smirk'\. Known: Smile"),
        ({"models": "vgg"}, r"Unknown model 'vgg'\. Known: .*improved_cnn"),
        ({"models": ""}, "No model given"),
        ({"models": "improved_cnn,improved_cnn"}, "more than once"),
        ({"models": "improved_cnn@hog"}, "takes no @BACKBONE"),
        ({"models": "improved_cnn+running"}, "baselines none and recording"),
        ({"models": "linear_probe@absent.onnx"}, "No ONNX file"),
        ({"models": "linear_probe@no/where"}, "hf download no/where"),
        ({"models": "vit_pretrained"}, "--random-init"),
        ({"folds": 7}, "6 participants"),
    ],
)
def test_wrong_input_gets_one_clear_message(arguments, message, drawn_dataset, tmp_path):
    with pytest.raises(UserError, match=message):
        run(drawn_dataset, tmp_path / "run", **{"models": "linear_probe@hog", **arguments})
    assert not (tmp_path / "run").exists()


def test_personal_baseline_is_refused_where_it_would_erase_the_label(drawn_dataset, tmp_path):
    with pytest.raises(RefusedError, match="erases exactly"):
        run(drawn_dataset, tmp_path / "run", target="gender", models="linear_probe@hog+recording", folds=2)


@pytest.mark.parametrize("model", ["linear_probe@hog+recording", "improved_cnn", "vit_scratch+recording"])
def test_what_is_trained_is_what_is_deployed(model, drawn_dataset, drawn_study, tmp_path):
    """One clip through the dataset, and through `predict` on its video: the same probability within 1e-4."""
    from mien import load
    from mien.training.model_fit import fit_model

    out = tmp_path / "bundle"
    plan = plan_training(drawn_dataset.path, target="Smile", model=model, out=out, settings=TINY)
    parity = train_bundle(plan)
    assert parity["max_abs_diff_prob"] < 1e-4
    assert {"bundle.json", "head.onnx", "model.safetensors", "parity.json", "MODEL_CARD.md"} <= {
        path.name for path in out.iterdir()
    }
    fitted = fit_model(
        plan.choice,
        dataset=plan.dataset,
        clips=plan.clips,
        train=plan.split.train,
        validation=plan.split.validation,
        settings=TINY,
        seed=plan.seed,
    )
    recording = plan.dataset.recordings.iloc[0]
    rows, logits = fitted.predict([recording["participant_id"]])
    timeline = load(out).predict(drawn_study / recording["media"])
    merged = timeline.merge(rows[["start_s"]].assign(trained=1 / (1 + np.exp(-logits[:, 0]))), on="start_s")
    assert len(merged) == len(rows)
    assert merged["prob_Smile"].to_numpy() == pytest.approx(merged["trained"].to_numpy(), abs=1e-4)


def test_a_bundle_is_made_once_and_never_replaced_by_another(drawn_dataset, tmp_path):
    out = tmp_path / "bundle"
    arguments = {"target": "Smile", "model": "linear_probe", "out": out}
    parity = train_bundle(plan_training(drawn_dataset.path, **arguments))
    written = (out / "bundle.json").stat().st_mtime_ns
    assert train_bundle(plan_training(drawn_dataset.path, **arguments)) == parity
    assert (out / "bundle.json").stat().st_mtime_ns == written
    for change in ({"target": "Speaking"}, {"model": "linear_probe+recording"}, {"seed": 1}):
        with pytest.raises(UserError, match="holds another bundle"):
            plan_training(drawn_dataset.path, **{**arguments, **change})


def test_a_bundle_that_was_changed_is_not_opened(drawn_dataset, tmp_path):
    from mien import load

    out = tmp_path / "bundle"
    train_bundle(plan_training(drawn_dataset.path, target="Smile", model="linear_probe", out=out, settings=TINY))
    head = out / "head.onnx"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"head\.onnx isn't the file that was trained"):
        load(out)
    head.unlink()
    with pytest.raises(UserError, match=r"lacks head\.onnx"):
        load(out)
    with pytest.raises(UserError, match="isn't a bundle"):
        load(tmp_path)


def test_settings_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("training: {image_size: 64, epochs: 9}\nmodels: {improved_cnn: {epochs: 3}}\nprobe: {C: 1}\n")
    settings = load_settings(path, epochs=5)
    assert (settings.for_model("improved_cnn").epochs, settings.for_model("vit_scratch").epochs) == (3, 5)
    assert settings.for_model("vit_scratch").image_size == 64
    assert settings.probe.C == 1.0
    for text, message in [
        ("trainin: {}", "Unknown key"),
        ("training: {epoch: 3}", "Unknown key"),
        ("training: {epochs: many}", "expected int"),
        ("training: 3", "must hold"),
        ("models: {vgg: {}}", "Unknown model"),
        ("[1, 2]", "must hold"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_settings(path)


def test_model_names():
    choice = parse_model("linear_probe@some/path/net.onnx+first:2.5")
    assert (choice.name, choice.backbone, str(choice.baseline)) == ("linear_probe", "some/path/net.onnx", "first:2.5")
    assert choice.label == "linear_probe@net+first:2.5"
    assert parse_model("linear_probe").backbone == "hog"
    assert str(parse_model("improved_cnn", default_baseline="recording").baseline) == "recording"
    assert [choice.text for choice in parse_models("improved_cnn, vit_scratch")] == ["improved_cnn", "vit_scratch"]
