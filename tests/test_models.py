"""The networks: sizes, shapes, weights, the personal baseline, ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mien.core.errors import UserError, WeightsError
from mien.models.backbones import RESNET50, VIT_BASE, PretrainedEncoder, load_encoder, random_encoder
from mien.models.classifier import Classifier, subtract_group_mean
from mien.models.complexity import complexity
from mien.models.improved_cnn import AdaptiveAverage
from mien.models.onnx_writer import ParityError, count_parameters, export_encoder, export_head, write_linear_head
from mien.models.pretrained import write_random_backbone
from mien.models.registry import MODELS, build_model, describe_models
from mien.models.vit_scratch import VisionTransformer

NETWORKS = [name for name, entry in MODELS.items() if entry.build is not None]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Networks this small gain nothing from threads, and lose much where other processes want the cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    monkeypatch.delenv("MIEN_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty cache"))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {
        "resnet50_pretrained": write_random_backbone(root / "resnet", architecture="resnet50", tiny=True),
        "vit_pretrained": write_random_backbone(root / "vit", architecture="vit_base", tiny=True),
    }


def test_parameters_are_those_of_the_design():
    rows = {row["name"]: row for row in describe_models()}
    counts = {name: rows[name]["parameters"] for name in ("linear_probe", *NETWORKS)}
    assert counts == {
        "linear_probe": None,
        "improved_cnn": 1_699_841,
        "vit_scratch": 1_965_697,
        "resnet50_pretrained": 24_557_633,
        "vit_pretrained": 85_995_777,
    }
    assert {entry.batch_size for entry in map(MODELS.get, NETWORKS)} == {64, 32, 48, 24}
    assert rows["improved_cnn"]["weights"] == "none needed"
    assert rows["vit_pretrained"]["weights"].startswith("missing: run hf download google/vit-base-patch16-224")


def test_subtract_group_mean_by_hand_and_its_gradient():
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [10.0, 5.0]], requires_grad=True)
    centred = subtract_group_mean(features, torch.tensor([7, 7, 3]))
    assert centred.tolist() == [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]
    centred[0, 0].backward()
    # d(x0 - (x0 + x1) / 2) = (1/2, -1/2): the mean takes part in the gradient.
    assert features.grad[:, 0].tolist() == [0.5, -0.5, 0.0]


def test_the_two_halves_are_the_whole():
    """The logits are the head's of features minus their group's mean."""
    classifier = build_model("vit_scratch", num_outputs=3, image_size=32, seed=1).classifier.eval()
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        features = classifier.encoder(pixels)
        means = torch.stack([features[:2].mean(0)] * 2 + [features[2:].mean(0)] * 2)
        expected = classifier.head(features - means)
        torch.testing.assert_close(classifier(pixels, groups=torch.tensor([5, 5, 2, 2])), expected)


def test_normalise_by_hand():
    classifier = Classifier(nn.Identity(), nn.Identity(), pixel_mean=(0.5, 0.0, 1.0), pixel_std=(0.5, 1.0, 2.0))
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert classifier.normalise(white).flatten().tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("size", [8, 12, 14, 28])
def test_adaptive_average_equals_torch(size):
    maps = torch.randn(2, 3, size, size + 1)
    torch.testing.assert_close(AdaptiveAverage(7)(maps), nn.AdaptiveAvgPool2d(7)(maps))


def test_options_that_a_network_cannot_take():
    with pytest.raises(UserError, match="multiple of 16"):
        build_model("vit_scratch", num_outputs=1, image_size=100)
    with pytest.raises(UserError, match="takes no backbone"):
        build_model("improved_cnn", num_outputs=1, backbone="somewhere")
    with pytest.raises(UserError, match=r"Unknown model 'vit'.*vit_scratch"):
        build_model("vit", num_outputs=1)
    with pytest.raises(UserError, match="frozen features"):
        build_model("linear_probe", num_outputs=1)


def test_missing_weights_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("MIEN_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        build_model("vit_pretrained", num_outputs=1)
    message = str(caught.value)
    assert f"hf download google/vit-base-patch16-224 --local-dir {tmp_path}/vit_pretrained" in message
    assert "--random-init" in message
    assert "Hugging Face cache" in message


def test_weights_are_found_by_name_in_the_weights_directory(monkeypatch, tmp_path):
    write_random_backbone(tmp_path / "vit_pretrained", architecture="vit_base", tiny=True)
    monkeypatch.setenv("MIEN_WEIGHTS", str(tmp_path))
    built = build_model("vit_pretrained", num_outputs=1, image_size=32)
    assert built.source == "random vit_base, seed 0"
    rows = {row["name"]: row["weights"] for row in describe_models()}
    assert rows["vit_pretrained"] == f"found: {tmp_path / 'vit_pretrained'}"


def test_weights_are_found_in_the_hugging_face_cache(tmp_path, monkeypatch):
    repository = tmp_path / "models--lab--faces"
    write_random_backbone(repository / "snapshots" / "c0ffee", architecture="vit_base", tiny=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee", encoding="utf-8")
    with pytest.raises(WeightsError, match="hf download lab/faces"):
        build_model("vit_pretrained", num_outputs=1, image_size=32, backbone="lab/faces")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    built = build_model("vit_pretrained", num_outputs=1, image_size=32, backbone="lab/faces")
    assert built.feature_dim == 32


def test_random_weights_are_called_random(backbones):
    marked = build_model("vit_pretrained", num_outputs=1, image_size=32, backbone=str(backbones["vit_pretrained"]))
    assert marked.display_name == "vit_pretrained (random init)"
    with torch.device("meta"):
        asked = build_model("resnet50_pretrained", num_outputs=1, random_init=True)
    assert asked.display_name == "resnet50_pretrained (random init)"
    assert build_model("vit_scratch", num_outputs=1, image_size=32).display_name == "vit_scratch"


def test_provenance_of_downloaded_weights(tmp_path, backbones):
    folder = write_random_backbone(tmp_path / "vit", architecture="vit_base", tiny=True)
    (folder / "mien.json").unlink()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# ViT\n", encoding="utf-8")
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics), encoding="utf-8")
    built = build_model("vit_pretrained", num_outputs=1, image_size=32, backbone=str(folder))
    assert (built.licence, built.display_name) == ("apache-2.0", "vit_pretrained")
    assert (built.pixel_mean, built.pixel_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    resnet = build_model("resnet50_pretrained", num_outputs=1, backbone=str(backbones["resnet50_pretrained"]))
    assert resnet.pixel_mean == (0.485, 0.456, 0.406)


def test_broken_backbones_are_errors(tmp_path, backbones):
    from safetensors.torch import load_file, save_file

    with pytest.raises(WeightsError, match="holds a 'resnet' backbone"):
        build_model("vit_pretrained", num_outputs=1, backbone=str(backbones["resnet50_pretrained"]))
    with pytest.raises(WeightsError, match=r"no config\.json and no model\.safetensors"):
        build_model("vit_pretrained", num_outputs=1, backbone=str(tmp_path))
    folder = write_random_backbone(tmp_path / "vit", architecture="vit_base", tiny=True)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[-1])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        build_model("vit_pretrained", num_outputs=1, image_size=32, backbone=str(folder))


def test_positions_are_interpolated_to_another_size(backbones):
    folder = backbones["vit_pretrained"]
    original = load_encoder(folder, family="vit", image_size=32).model.embeddings.position_embeddings
    larger = load_encoder(folder, family="vit", image_size=64)
    positions = larger.model.embeddings.position_embeddings
    assert positions.shape == (1, 1 + 4 * 4, 32)
    assert torch.equal(positions[:, 0], original[:, 0])
    # Bicubic weights sum to 1, so the mean over the grid stays nearly where it was.
    torch.testing.assert_close(positions[:, 1:].mean(1), original[:, 1:].mean(1), atol=0.05, rtol=0.2)
    assert larger(torch.rand(2, 3, 64, 64)).shape == (2, 32)
    with pytest.raises(UserError, match="multiple of 16"):
        load_encoder(folder, family="vit", image_size=40)


@pytest.mark.parametrize("architecture", [RESNET50.architecture, VIT_BASE.architecture])
def test_stages_hold_every_parameter(architecture):
    encoder = random_encoder(architecture, tiny=True)
    staged = {id(p) for stage in encoder.stages() for p in stage.parameters()}
    assert staged == {id(p) for p in encoder.parameters()}
    assert isinstance(encoder, PretrainedEncoder)
    assert encoder.enable_gradient_checkpointing() is (architecture == "vit_base")


def test_gradient_checkpointing_gives_the_same_gradients():
    encoder = VisionTransformer(32)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pixels, gradients = torch.randn(2, 3, 32, 32), []
    for step in range(2):
        if step == 1:
            assert encoder.enable_gradient_checkpointing()
        encoder.zero_grad()
        encoder(pixels).square().sum().backward()
        gradients.append(encoder.patches.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_complexity_by_hand():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10), nn.ReLU())
    classifier = Classifier(encoder, nn.Linear(10, 2))
    encoder.requires_grad_(False)
    before = [p.clone() for p in classifier.parameters()]
    costs = complexity(classifier, image_size=8, batch_size=4)
    assert (costs["parameters"], costs["trainable_parameters"], costs["frozen_parameters"]) == (1952, 22, 1930)
    assert costs["flops"] == 2 * (192 * 10 + 10 * 2)
    assert costs["size_mb"] == round(1952 * 4 / 2**20, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))
    assert classifier.training


def test_complexity_counts_kept_activations():
    small = build_model("improved_cnn", num_outputs=1, image_size=32)
    costs = [complexity(small.classifier, image_size=32, batch_size=batch)["memory_mb"] for batch in (1, 64)]
    # A picture's first convolution alone keeps its output, 32 x 32 x 32 floats (0.125 MB), for batch norm.
    assert costs[1] - costs[0] > 63 * 0.125
    assert costs[1] - costs[0] < 63 * 2.0


def test_onnx_equals_pytorch_where_the_grid_does_not_divide_the_maps(tmp_path, capfd):
    size = 40
    built = build_model("improved_cnn", num_outputs=2, image_size=size)
    export_encoder(built.classifier.encoder, tmp_path / "encoder.onnx", image_size=size)
    content = (tmp_path / "encoder.onnx").read_bytes()
    assert b"site-packages" not in content and b"mien/models" not in content  # nor the machine that made it
    assert built.classifier.training
    export_head(built.classifier.head, tmp_path / "head.onnx", feature_dim=built.feature_dim)
    pixels = torch.randn(3, 3, size, size)
    features = _run(tmp_path / "encoder.onnx", "pixels", pixels.numpy())
    logits = _run(tmp_path / "head.onnx", "features", features)
    with torch.no_grad():
        expected = built.classifier.eval()(pixels).numpy()
    assert np.abs(logits - expected).max() < 1e-4
    assert sorted(path.name for path in tmp_path.glob("*.onnx*")) == ["encoder.onnx", "head.onnx"]
    assert capfd.readouterr().out == ""


def _run(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == [name]
    assert [item.name for item in session.get_outputs()] == [{"pixels": "features", "features": "logits"}[name]]
    return session.run(None, {name: values})[0]


class _Unfaithful(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * (2.0 if torch.compiler.is_exporting() else 1.0)


def test_an_export_that_differs_is_not_written(tmp_path):
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_head(_Unfaithful(), tmp_path / "head.onnx", feature_dim=4)
    assert list(tmp_path.iterdir()) == []


def test_linear_head_by_hand(tmp_path):
    path = tmp_path / "head.onnx"
    write_linear_head(
        path,
        mean=np.array([1.0, 2.0]),
        scale=np.array([2.0, 4.0]),
        coef=np.array([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]),
        intercept=np.array([0.0, 0.5, -1.0]),
    )
    # Standardised: (3 - 1) / 2 = 1 and (6 - 2) / 4 = 1.
    assert _run(path, "features", np.array([[3.0, 6.0]], np.float32)).tolist() == [[1.0, 3.5, 1.0]]
    assert count_parameters(path) == 2 + 2 + 6 + 3
