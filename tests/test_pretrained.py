"""The pretrained models on the path of all others, from local weights of the real architecture, random and named so."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from mien.crossval.compare import plan_comparison, run_comparison
from mien.data.prepare import prepare
from mien.data.settings import PrepareConfig
from mien.models.pretrained import write_random_backbone
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "architecture", "parameters"),
    [("resnet50_pretrained", "resnet50", 24_557_633), ("vit_pretrained", "vit_base", 85_995_777)],
)
def test_real_architecture_from_a_local_folder(model, architecture, parameters, drawn_study, tmp_path):
    weights = write_random_backbone(tmp_path / "weights", architecture=architecture)
    dataset = prepare(drawn_study, out=tmp_path / "d", config=PrepareConfig(fps=1 / 3, size_px=96, workers=1))
    settings = FitSettings(training=TrainConfig(image_size=224, head_epochs=1, epochs=1, batch_size=8))
    name = f"{model}@{weights}"
    out = tmp_path / "run"
    run_comparison(
        plan_comparison(dataset.path, target="Smile", models=name, out=out, folds=2, settings=settings), command="test"
    )
    (row,) = json.loads((out / "comparison.json").read_text())["models"]
    assert row["name"] == name
    assert (row["parameters"], row["trainable_parameters"]) == (parameters, parameters)
    assert row["weights_note"] == "random init"
    assert row["label"].endswith("(random init)")
    assert "(random init)" in (out / "report.html").read_text()
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert predictions["prob_Smile"].between(0, 1).all()
    fit = json.loads(next(out.glob("folds/*/0/fit.json")).read_text())
    assert [epoch["phase"] for epoch in fit["history"]] == ["head", "all"]


@pytest.mark.parametrize("architecture", ["resnet50", "vit_base"])
def test_probe_on_a_hugging_face_folder_and_its_bundle(architecture, drawn_dataset, tmp_path):
    weights = write_random_backbone(tmp_path / "weights", architecture=architecture, tiny=True)
    out = tmp_path / "bundle"
    plan = plan_training(drawn_dataset.path, target="Smile", model=f"linear_probe@{weights}+recording", out=out)
    assert train_bundle(plan)["max_abs_diff_prob"] < 1e-4
    spec = json.loads((out / "bundle.json").read_text())["spec"]
    assert spec["label"].endswith("(random init)")
    assert spec["builtin_encoder"] is None
    assert "random" in (out / "MODEL_CARD.md").read_text()


def test_two_phases_in_a_bundle_of_a_tiny_pretrained_network(drawn_dataset, tmp_path):
    weights = write_random_backbone(tmp_path / "weights", architecture="vit_base", tiny=True)
    settings = FitSettings(training=TrainConfig(image_size=32, head_epochs=1, epochs=1))
    plan = plan_training(
        drawn_dataset.path,
        target="Smile",
        model=f"vit_pretrained@{weights}+recording",
        out=tmp_path / "bundle",
        settings=settings,
    )
    assert train_bundle(plan)["max_abs_diff_prob"] < 1e-4
