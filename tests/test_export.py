"""One ONNX of a bundle says what the bundle says, and int8 says what it costs."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.errors import UserError
from mien.export.run import export_bundle
from mien.runtime.bundle import Bundle
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings

SETTINGS = FitSettings(training=TrainConfig(image_size=32, epochs=2, head_epochs=1), random_init=True)


def train(dataset, out, *, model: str, target: str = "Smile"):
    train_bundle(plan_training(dataset.path, target=target, model=model, out=out, settings=SETTINGS))
    return out


@pytest.fixture(scope="module", params=["none", "recording"])
def cnn(request, drawn_dataset, tmp_path_factory):
    """A small CNN, without and with the baseline that networks have."""
    model = "improved_cnn" + ("" if request.param == "none" else f"+{request.param}")
    return train(drawn_dataset, tmp_path_factory.mktemp("cnn") / "bundle", model=model)


def test_pixels_to_probabilities_in_one_graph(cnn, tmp_path):
    out = tmp_path / "model.onnx"
    report = export_bundle(cnn, out=out)
    assert report["start"] == "pixels" and report["clips"] > 0
    assert report["max_abs_diff_logit"] < 1e-4 and report["max_abs_diff_prob"] < 1e-4
    assert json.loads((tmp_path / "model.parity.json").read_text()) == report
    session = onnxruntime.InferenceSession(str(out))
    (given,) = session.get_inputs()
    assert given.type == "tensor(uint8)" and given.shape[1:] == [32, 32, 3]
    for count in (1, 4):
        pixels = np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), np.uint8)
        logits, probabilities = session.run(["logits", "probabilities"], {given.name: pixels})
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_int8_is_smaller_and_says_what_it_costs(cnn, tmp_path):
    report = export_bundle(cnn, out=tmp_path / "small.onnx", int8=True)
    assert report["precision"] == "int8"
    assert report["bytes"] < 0.5 * report["bytes_float32"]
    score = report["score"]
    assert score["participants"] >= 1
    assert score["loss"]["mean"] == pytest.approx(score["float32"] - score["int8"], abs=1e-9)
    assert report["max_abs_diff_prob"] > 0


def test_a_probe_on_hog_starts_at_its_features(probe_bundle, tmp_path):
    report = export_bundle(probe_bundle, out=tmp_path / "probe.onnx")
    assert report["start"] == "features" and "hog" in report["takes"]
    assert report["max_abs_diff_logit"] < 1e-4


def test_the_mean_so_far_is_computed_within_the_batch(drawn_dataset, tmp_path):
    bundle = train(drawn_dataset, tmp_path / "bundle", model="linear_probe@hog+running")
    assert export_bundle(bundle, out=tmp_path / "running.onnx")["max_abs_diff_logit"] < 1e-4


@pytest.mark.slow
def test_a_sequence_network_starts_at_its_windows(drawn_dataset, tmp_path):
    bundle = train(drawn_dataset, tmp_path / "bundle", model="temporal_vit@hog+recording")
    report = export_bundle(bundle, out=tmp_path / "t.onnx")
    assert report["start"] == "windows" and report["max_abs_diff_logit"] < 1e-4


def test_what_cannot_be_exported_is_refused(drawn_dataset, probe_bundle, tmp_path):
    with pytest.raises(UserError, match=r"end in \.onnx"):
        export_bundle(probe_bundle, out=tmp_path / "model.bin")
    with pytest.raises(UserError, match="isn't a bundle"):
        export_bundle(tmp_path, out=tmp_path / "model.onnx")
    with pytest.raises(UserError, match="--dataset"):
        export_bundle(probe_bundle, out=tmp_path / "model.onnx", dataset=tmp_path)
    timed = train(drawn_dataset, tmp_path / "timed", model="linear_probe@hog+first:2")
    with pytest.raises(UserError, match="needs to know when"):
        export_bundle(timed, out=tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*.onnx"))
    assert CliRunner().invoke(app, ["export", str(tmp_path), "--out", str(tmp_path / "a.onnx")]).exit_code == 2


def test_the_command(probe_bundle, tmp_path):
    answer = CliRunner().invoke(app, ["export", str(probe_bundle), "--out", str(tmp_path / "a.onnx"), "--json"])
    assert answer.exit_code == 0
    assert set(json.loads(answer.stdout)) >= {
        "max_abs_diff_logit",
        "max_abs_diff_prob",
        "clips",
        "opset",
        "precision",
    }
    assert Bundle.open(probe_bundle).spec.provenance["dataset"]
