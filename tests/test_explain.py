"""Explanations: maps find what decides, sanity scores tell maps that know from maps that don't, errors advise."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from media_fixtures import tone, write_video
from mien.cli.main import app
from mien.core.errors import MediaError, UserError
from mien.core.labels import LabelScheme
from mien.core.storage import read_json, sha256_file, write_json
from mien.evaluation.probe import ProbeConfig, fit_probe
from mien.explain import gradients
from mien.explain.frames import ExplainedFrame, directions
from mien.explain.inputs import answer
from mien.explain.methods import METHODS, choose_method, family_of, make_maps
from mien.explain.perturbation import perturbation_gains, ranks
from mien.explain.run import Explainer, ExplainOptions, explain
from mien.explain.sanity import agreement, judge
from mien.explain.stretches import importance
from mien.explain.subjects import NetworkBuilder, NetworkSubject, open_bundle
from mien.models.onnx_writer import export_encoder, export_head, export_sequence_head, write_linear_head
from mien.models.pretrained import write_random_backbone
from mien.models.registry import MODELS, build_model, build_sequence_network
from mien.models.sequence_parts import HeadShape, example_inputs
from mien.models.vit_scratch import Attention
from mien.runtime.bundle import BUNDLE_FORMAT, Bundle, ModelSpec, Sampling
from mien.runtime.encoders import EncoderSpec, HogEncoder
from mien.runtime.windows import WindowSpec

SIZE = 64
SQUARE = LabelScheme(target="Square", kind="binary", classes=("low", "high"), label_source="synthetic")
NETWORKS = ("improved_cnn", "vit_scratch", "resnet50_pretrained", "vit_pretrained")
STEPS, BATCH = 40, 16
RATES = {"improved_cnn": 1e-3, "vit_scratch": 5e-4, "resnet50_pretrained": 2e-3, "vit_pretrained": 1e-3}
CLASS_SPECIFIC = {
    "improved_cnn": ("hires_cam", "occlusion"),
    "vit_scratch": ("gradient_attention", "occlusion"),
    "resnet50_pretrained": ("grad_cam", "hires_cam", "occlusion"),
    "vit_pretrained": ("gradient_attention", "occlusion"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def corners(count: int) -> np.ndarray:
    """Row and column of the quarter that holds each picture's square: a different one from picture to picture."""
    return np.array([[number // 2 % 2, number // 4 % 2] for number in range(count)])


def draw(labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Grey noise, with a red square in one quarter where the label is 1."""
    generator = np.random.default_rng(seed)
    pictures = generator.integers(90, 120, (len(labels), SIZE, SIZE, 3)).astype(np.uint8)
    for picture, label, (down, across) in zip(pictures, labels, corners(len(labels)), strict=True):
        rows, columns = (slice(32 * place + 4, 32 * place + 28) for place in (down, across))
        if label:
            picture[rows, columns] = (230, 20, 20)
    return pictures


def write_manifest(folder: Path, *, name: str, encoder: EncoderSpec, baseline: str, crop: str = "none") -> None:
    sampling = Sampling(fps=2.0, crop=crop, face="main", size_px=SIZE, margin=1.6, detector="mtcnn")
    builtin = None if (folder / "encoder.onnx").is_file() else "hog"
    provenance = {"participants": ["p0", "p1"]}
    spec = ModelSpec(name, name, ("video",), SQUARE, sampling, encoder, builtin, baseline, provenance=provenance)
    files = {path.name: sha256_file(path) for path in folder.iterdir() if path.name != "bundle.json"}
    write_json(folder / "bundle.json", {"format": BUNDLE_FORMAT, "spec": spec.to_json(), "files": files})


def write_network(folder: Path, *, name: str, backbone: Path | None = None) -> Path:
    """Train a network for a moment on squares, and write its bundle as `bundle_writer` does."""
    built = build_model(name, num_outputs=1, image_size=SIZE, backbone=str(backbone) if backbone else None)
    network = built.classifier
    labels = np.arange(64) % 2
    pixels = torch.from_numpy(draw(labels).transpose(0, 3, 1, 2).copy())
    targets = torch.from_numpy(labels.astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATES[name], weight_decay=0.01)
    network.train()
    torch.manual_seed(0)
    for step in range(STEPS):
        rows = torch.from_numpy(np.random.default_rng(step).permutation(64)[:BATCH])
        logits = network(network.normalise(pixels[rows]))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    folder.mkdir()
    export_encoder(network.encoder, folder / "encoder.onnx", image_size=SIZE)
    export_head(network.head, folder / "head.onnx", feature_dim=built.feature_dim)
    state = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    encoder = EncoderSpec(name, size_px=SIZE, mean=built.pixel_mean, std=built.pixel_std)
    write_manifest(folder, name=f"{name}@{backbone}" if backbone else name, encoder=encoder, baseline="none")
    return folder


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory):
    """Give the bundle of a model by name; each is trained once."""
    root = tmp_path_factory.mktemp("bundles")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            backbone = None
            if name.endswith("pretrained"):
                architecture = "resnet50" if name.startswith("resnet") else "vit_base"
                backbone = write_random_backbone(root / f"{name}-weights", architecture=architecture, tiny=True)
            write_network(folder, name=name, backbone=backbone)
        return folder

    return make


@pytest.fixture(scope="module")
def hog_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "hog"
    folder.mkdir()
    labels, encoder = np.arange(60) % 2, HogEncoder()
    features = encoder.encode(np.stack([cv2.resize(picture, (96, 96)) for picture in draw(labels)]))
    features = features - features.mean(axis=0)  # the personal baseline of people who are alike
    people = np.array([f"p{i // 10}" for i in range(60)], object)
    probe = fit_probe(features, targets=labels, participants=people, scheme=SQUARE, config=ProbeConfig())
    parts = {"mean": probe.mean, "scale": probe.scale, "coef": probe.coef, "intercept": probe.intercept}
    write_linear_head(folder / "head.onnx", **parts)
    save_file({key: torch.from_numpy(np.array(value)) for key, value in parts.items()}, folder / "model.safetensors")
    write_manifest(folder, name="linear_probe@hog+recording", encoder=HogEncoder.spec, baseline="recording")
    return folder


@pytest.fixture(scope="module")
def video_path(tmp_path_factory):
    """Twelve pictures at 2 per second: the square jumps every second."""
    path = tmp_path_factory.mktemp("video") / "squares.mp4"
    write_video(path, times_s=np.arange(12) / 2, pictures=list(draw(np.arange(12) // 2 % 2)))
    return path


def frames_of(bundle: Bundle, labels: np.ndarray, *, seed: int = 5) -> list[ExplainedFrame]:
    table = pd.DataFrame({"pts_s": np.arange(len(labels), dtype=float), "face_found": True})
    answers = answer(
        bundle,
        recording_id="r",
        participant_id="p",
        table=table,
        crops=draw(labels, seed=seed),
        seen=np.ones(len(labels), bool),
    )
    return [answers.frame(row, bundle=bundle) for row in range(len(labels))]


def share_in_place(maps: np.ndarray) -> np.ndarray:
    """Share of each map's positive mass (N,) in the quarter of the picture that holds the square."""
    half = maps.shape[1] // 2
    positive = np.maximum(maps, 0)
    quarters = [
        values[half * down : half * (down + 1), half * across : half * (across + 1)]
        for values, (down, across) in zip(positive, corners(len(maps)), strict=True)
    ]
    return np.array([quarter.sum() for quarter in quarters]) / positive.sum(axis=(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [(name, method) for name in NETWORKS for method in CLASS_SPECIFIC[name]])
def test_class_specific_maps_find_what_decides(bundle_path, name, method):
    bundle = open_bundle(bundle_path(name))
    labels = np.array([1, 0] * 4)  # one of each place has a square, so that a map that stays in one place scores .25
    explainer = Explainer(bundle, options=ExplainOptions(method=method))
    frames = frames_of(bundle, labels)
    assert [frame.answer for frame in frames] == labels.tolist()
    assert explainer.check(frames) < 1e-3
    maps = explainer.maps(frames)
    assert share_in_place(maps)[labels == 1].mean() > 0.5
    assert METHODS[method].class_specific


# Not occlusion: whatever the weights are, blurring the only square changes most, and that is true.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in NETWORKS for method in CLASS_SPECIFIC[name] if method != "occlusion"],
)
def test_class_specific_maps_change_with_randomised_weights(bundle_path, name, method):
    """Adebayo et al. 2018: a map that stays when all weights are drawn anew says nothing of what was learnt."""
    explainer = Explainer(open_bundle(bundle_path(name)), options=ExplainOptions(method=method))
    frames = frames_of(explainer.bundle, np.array([1, 0] * 4))
    found = explainer.agreement(frames, maps=explainer.maps(frames))
    assert abs(found.spearman) < 0.2 and found.passes


@pytest.mark.parametrize("name", ["vit_scratch", "vit_pretrained"])
@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_attention_is_labelled_as_where_the_encoder_looks(bundle_path, name, method):
    bundle = open_bundle(bundle_path(name))
    subject = NetworkBuilder.of(bundle).trained()
    frames = frames_of(bundle, np.array([1, 0]))
    maps = make_maps(METHODS[method], subject, frames, scheme=SQUARE)
    assert maps.shape == (2, 4, 4)
    assert (maps >= 0).all() and (maps.sum(axis=(1, 2)) <= 1 + 1e-5).all()  # the class token keeps the rest
    assert "doesn't depend on the trained head" in METHODS[method].caption("high")
    assert not METHODS[method].class_specific
    with torch.no_grad():  # indeed: another head, the same map
        for parameter in subject.classifier.head.parameters():
            parameter.mul_(-3)
    assert np.array_equal(make_maps(METHODS[method], subject, frames, scheme=SQUARE), maps)


def test_gradient_attention_turns_with_the_answer(bundle_path):
    bundle = open_bundle(bundle_path("vit_scratch"))
    subject = NetworkBuilder.of(bundle).trained()
    (frame,) = frames_of(bundle, np.array([1]))
    other = dataclasses.replace(frame, answer=0)
    maps = gradients.gradient_attention_maps(subject, [frame, other], scheme=SQUARE)
    assert not np.allclose(maps[0], maps[1], rtol=0.1)


def test_explicit_attention_is_the_networks_own():
    module = Attention(24, num_heads=3, dropout=0.1).eval()
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    mixed, attention = module.explicit(tokens)
    assert torch.allclose(mixed, module(tokens), atol=1e-6)
    assert torch.allclose(attention.sum(dim=-1), torch.ones(2, 3, 5))


def test_layers_of_attention_differ_and_one_too_many_is_told(bundle_path):
    bundle = open_bundle(bundle_path("vit_scratch"))
    subject = NetworkBuilder.of(bundle).trained()
    frames = frames_of(bundle, np.array([1]))
    first, last = (gradients.attention_maps(subject, frames, layer=layer) for layer in (0, 3))
    assert not np.allclose(first, last)
    assert np.array_equal(last, gradients.attention_maps(subject, frames))
    with pytest.raises(UserError, match="0 to 3"):
        gradients.attention_maps(subject, frames, layer=4)
    with pytest.raises(UserError, match="--layer is for"):
        make_maps(METHODS["rollout"], subject, frames, scheme=SQUARE, layer=1)


class TextureSubject:
    """Answers by how much detail a picture has, which blurring takes away."""

    def features(self, pixels: np.ndarray) -> np.ndarray:
        grey = pixels.astype(np.float64).mean(axis=3)
        return np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))[:, None].astype(np.float32)

    def logits(self, personal: np.ndarray) -> np.ndarray:
        return personal.astype(np.float64) - 4.0


def test_gains_tell_a_map_that_knows_from_one_that_does_not():
    """Detail in one quarter of each picture decides; a map of it, noise, and the map of everything else."""
    generator = np.random.default_rng(2)
    frames, right = [], np.zeros((8, 8, 8))
    for number, (down, across) in enumerate(corners(8)):
        pixels = np.full((SIZE, SIZE, 3), 120, np.uint8)
        pixels[32 * down : 32 * (down + 1), 32 * across : 32 * (across + 1)] = generator.integers(0, 255, (32, 32, 1))
        frames.append(
            ExplainedFrame("r", "p", number, 0.0, pixels, np.zeros(1), np.zeros(1), answer=1, probability=1.0)
        )
        right[number, 4 * down : 4 * (down + 1), 4 * across : 4 * (across + 1)] = 1
    noise = generator.normal(size=right.shape)
    found = []
    for maps in (right, noise, 1 - right):
        gains = perturbation_gains(TextureSubject(), frames, maps=maps, scheme=SQUARE, seed=0)
        same = agreement(maps, randomised=[generator.normal(size=maps.shape)])
        found.append(judge(gains, frames=frames, found=same, randomised="x", over="frames", class_specific=True))
    knows, knows_nothing, misleads = found
    assert knows.to_json()["explains"], knows.verdict()
    assert knows.deletion["random maps"].low > 0 and knows.insertion["a central Gaussian"].low > 0
    assert not knows_nothing.to_json()["explains"] and "explain nothing" in knows_nothing.verdict()
    assert misleads.deletion["random maps"].high < 0 and "explain nothing" in misleads.verdict()


def test_a_map_that_only_changes_its_sign_has_not_changed():
    maps = np.random.default_rng(0).normal(size=(4, 8, 8))
    other = np.random.default_rng(1).normal(size=(4, 8, 8))
    assert agreement(maps, randomised=[other]).passes
    flipped = agreement(maps, randomised=[maps, -maps])
    assert flipped.spearman == pytest.approx(1.0) and not flipped.passes
    blank = agreement(np.zeros((2, 8, 8)), randomised=[other[:2]])
    assert blank.empty.all() and not blank.passes


def test_equal_places_are_not_deleted_line_by_line():
    ties = np.random.default_rng(0).normal(size=(16, 16))
    order = ranks(np.zeros((16, 16)), ties=ties)
    assert 0.3 < order[:8].mean() < 0.7
    assert np.unique(order).size == 256


def test_directions_of_a_multiclass_answer(bundle_path):
    scheme = LabelScheme("t", "multiclass", ("a", "b", "c"), "human")
    (frame,) = frames_of(open_bundle(bundle_path("improved_cnn")), np.array([1]))
    assert directions(np.array([frame.answer]), scheme=scheme).tolist() == [[0, 1, 0]]


def test_command_on_a_video_with_a_personal_baseline(hog_path, video_path, tmp_path):
    arguments = ["explain", str(hog_path), str(video_path), "--out", str(tmp_path / "o"), "--frames", "4"]
    result = CliRunner().invoke(app, [*arguments, "--video", "--json"])
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert value == read_json(tmp_path / "o/explanations.json")
    assert value["method"] == "occlusion" and value["class_specific"]
    assert value["sanity"]["over"] == "frames" and value["sanity"]["n"] == 4
    assert "coefficients" in value["sanity"]["randomised"]
    answers = [row["answer"] for row in value["frames"]]
    assert sorted(answers) == ["high", "high", "low", "low"]
    for row in value["frames"]:
        assert row["answer"] == ("high" if int(row["time_s"]) % 2 else "low")
        assert (tmp_path / "o" / row["png"]).stat().st_size > 5000
    with av.open(str(tmp_path / "o" / value["video"])) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == pytest.approx(np.arange(12) / 2, abs=1e-3)
    # Again into the same folder: what is left over of the first run is gone.
    result = CliRunner().invoke(app, [*arguments[:-1], "2"])
    assert result.exit_code == 0, result.stderr
    assert len(list((tmp_path / "o").glob("*.png"))) == 2
    assert "Occlusion" in result.stdout


def test_a_picture_has_no_interval(bundle_path, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), draw(np.array([1]))[0][..., ::-1])
    value = explain(bundle_path("improved_cnn"), tmp_path / "p.png", out=tmp_path / "o")
    assert value["method"] == "hires_cam"
    assert value["frames"][0]["time_s"] is None and value["frames"][0]["answer"] == "high"
    assert value["max_abs_diff_logit"] < 1e-3
    assert value["sanity"]["deletion_gain"]["low"] is None or np.isnan(value["sanity"]["deletion_gain"]["low"])
    assert not value["sanity"]["explains"] and "no interval" in value["sanity"]["verdict"]


def test_a_dataset_is_judged_over_participants(drawn_dataset, hog_path, tmp_path):
    bundle = shutil.copytree(hog_path, tmp_path / "b")
    (bundle / "bundle.json").unlink()
    write_manifest(
        bundle, name="linear_probe@hog+recording", encoder=HogEncoder.spec, baseline="recording", crop="face"
    )
    value = explain(bundle, drawn_dataset.path, out=tmp_path / "o", options=ExplainOptions(participants=3, frames=3))
    assert value["sanity"]["over"] == "participants" and value["sanity"]["n"] == 3
    assert len(value["frames"]) == 3 and value["participants_of_the_training"] == 0


@pytest.mark.parametrize(
    ("name", "method", "match"),
    [
        ("improved_cnn", "rollout", "convolutional network. Allowed: grad_cam, hires_cam, occlusion"),
        ("hog", "grad_cam", "linear probe on a frozen encoder. Allowed: occlusion"),
        ("improved_cnn", "saliency", "Unknown method 'saliency'. Allowed: grad_cam"),
    ],
)
def test_a_method_that_does_not_fit_is_told_with_those_that_do(
    name, method, match, bundle_path, hog_path, video_path, tmp_path
):
    bundle = hog_path if name == "hog" else bundle_path(name)
    with pytest.raises(UserError, match=match):
        explain(bundle, video_path, out=tmp_path / "o", options=ExplainOptions(method=method))
    assert not (tmp_path / "o").exists()


def test_every_family_has_a_default():
    for family in ("probe", "convolutional", "transformer", "network"):
        assert family in choose_method(None, family=family, model="m").families


def test_other_weights_than_the_onnx_are_not_explained(bundle_path, video_path, tmp_path):
    bundle = shutil.copytree(bundle_path("improved_cnn"), tmp_path / "b")
    state = load_file(bundle / "model.safetensors")
    state["head.1.bias"] += 0.5
    save_file(state, bundle / "model.safetensors")
    manifest = read_json(bundle / "bundle.json")
    with pytest.raises(UserError, match="sha256 differs"):
        explain(bundle, video_path, out=tmp_path / "o")
    manifest["files"]["model.safetensors"] = sha256_file(bundle / "model.safetensors")
    write_json(bundle / "bundle.json", manifest)
    with pytest.raises(UserError, match=r"differs from the bundle's ONNX by 0.5 in a logit"):
        explain(bundle, video_path, out=tmp_path / "o")
    del manifest["files"]
    write_json(bundle / "bundle.json", manifest)
    with pytest.raises(UserError, match="isn't the manifest of a bundle"):
        explain(bundle, video_path, out=tmp_path / "o")


def test_weights_of_another_network_are_told(bundle_path):
    bundle = open_bundle(bundle_path("vit_pretrained"))
    bundle.spec = dataclasses.replace(bundle.spec, name="vit_scratch")
    with pytest.raises(UserError, match=r"doesn't fit vit_scratch"):
        NetworkBuilder.of(bundle)


def test_wrong_inputs(hog_path, bundle_path, video_path, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder").mkdir()
    network = bundle_path("improved_cnn")
    for bundle, source, out, match in (
        (network, video_path, tmp_path / "file", "is a file"),
        (network, tmp_path / "none.mp4", tmp_path / "o", "No file or folder"),
        (network, tmp_path / "folder", tmp_path / "o", "no dataset"),
        (network, tmp_path / "broken.png", tmp_path / "o", "can't be read as a picture"),
        (hog_path, tmp_path / "broken.png", tmp_path / "o", "a single picture has none"),
        (tmp_path / "folder", video_path, tmp_path / "o", "isn't a bundle"),
    ):
        with pytest.raises(UserError, match=match):
            explain(bundle, source, out=out)
        assert not (tmp_path / "o").exists()
    with pytest.raises(UserError, match="--video draws on a video"):
        explain(network, tmp_path / "broken.png", out=tmp_path / "o", options=ExplainOptions(video=True))
    with pytest.raises(UserError, match="at least 1 frame"):
        ExplainOptions(frames=0)


def test_a_video_without_a_face(hog_path, tmp_path):
    bundle = shutil.copytree(hog_path, tmp_path / "b")
    (bundle / "bundle.json").unlink()
    write_manifest(bundle, name="linear_probe@hog", encoder=HogEncoder.spec, baseline="none", crop="face")
    path = tmp_path / "empty.mp4"
    write_video(path, times_s=[0.0, 0.5, 1.0], pictures=[np.full((96, 128, 3), 90, np.uint8)] * 3)
    with pytest.raises(MediaError, match="No face was found in any of 3 sampled frames"):
        explain(bundle, path, out=tmp_path / "o")


class SightHead:
    """Looks at the middle frame (and by a tenth at the first third of the sound) and at nothing else."""

    def logits(self, inputs):
        seen = inputs["features"][:, 2, 0] * inputs["frame_mask"][:, 2]
        heard = inputs["audio"][:, :, :10].mean(axis=(1, 2)) * inputs["audio_mask"][:, 0]
        return (seen + 0.1 * heard)[:, None].astype(np.float32)


def test_masking_finds_the_modality_and_the_moment_that_decide():
    windows = WindowSpec(modalities=("video", "audio", "signals"), sequence_length=5, context_s=0.32, feature_dim=3,
                         signal_names=("GSR",))  # fmt: skip
    inputs = {key: np.ones(value.shape, np.float32) for key, value in example_inputs(windows, num=2).items()}
    inputs["signals_mask"][1] = 0
    chosen = np.array([[1.0], [-1.0]])
    found = importance(SightHead(), inputs, windows=windows, chosen=chosen, fps=5.0)
    assert found.whole["video"].tolist() == pytest.approx([1, -1])
    assert found.whole["audio"].tolist() == pytest.approx([0.1, -0.1])
    assert found.whole["signals"][0] == 0 and np.isnan(found.whole["signals"][1])  # it wasn't there
    assert found.over_time["video"][0].tolist() == pytest.approx([0, 0, 1, 0, 0])
    assert found.offsets_s["video"].tolist() == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
    heard = found.over_time["audio"][0]
    assert heard[:5].min() > 0 and heard[5:].tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert heard.sum() == pytest.approx(0.1, abs=1e-6)


MOODS = LabelScheme("Mood", "multiclass", ("calm", "glad", "sad"), "synthetic")
STRETCHES = {"audio_wavenet": (("audio",), MOODS), "multimodal_fusion": (("video", "audio", "signals"), SQUARE)}


@pytest.fixture(scope="module")
def stretch_path(tmp_path_factory):
    """Give the bundle of a model of stretches, untrained; each is exported once."""
    root = tmp_path_factory.mktemp("stretches")

    def make(name: str, *, crop: str = "none") -> Path:
        modalities, scheme = STRETCHES[name]
        sees = "video" in modalities
        windows = WindowSpec(
            modalities, sequence_length=3, context_s=1.0, feature_dim=900 if sees else 0, signal_names=("GSR",)
        )
        folder = root / f"{name}-{crop}"
        folder.mkdir(exist_ok=True)
        exported = root / f"{name}.onnx"
        if not exported.is_file():
            shape = HeadShape(scheme.num_outputs, windows.feature_dim, sequence_length=3, num_signals=1)
            export_sequence_head(build_sequence_network(name, shape=shape).eval(), exported, windows=windows)
        shutil.copyfile(exported, folder / "head.onnx")
        sampling = Sampling(fps=2.0, crop=crop, face="main", size_px=SIZE, margin=1.6, detector="mtcnn")
        encoder, builtin = (HogEncoder.spec, "hog") if sees else (None, None)
        spec = ModelSpec(name, name, modalities, scheme, sampling, encoder, builtin, "none", windows=windows)
        files = {"head.onnx": sha256_file(folder / "head.onnx")}
        write_json(folder / "bundle.json", {"format": BUNDLE_FORMAT, "spec": spec.to_json(), "files": files})
        return folder

    return make


@pytest.fixture(scope="module")
def speaking_path(tmp_path_factory):
    """Eight pictures without a square, at 2 per second, with a tone."""
    path = tmp_path_factory.mktemp("speaking") / "v.mp4"
    write_video(path, times_s=np.arange(8) / 2, pictures=list(draw(np.zeros(8))), sound=tone(4.0))
    return path


@pytest.mark.parametrize("name", ["audio_wavenet", "multimodal_fusion"])
def test_command_on_a_model_of_stretches(name, stretch_path, speaking_path, tmp_path):
    arguments = ["explain", str(stretch_path(name)), str(speaking_path), "--out", str(tmp_path / "o"), "--frames", "3"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["method"] == "masking" and len(value["frames"]) == 3
    modalities, scheme = STRETCHES[name]
    for row in value["frames"]:
        assert row["answer"] in scheme.classes and row["probability"] >= 1 / len(scheme.classes)
        assert row["modalities"]["audio"] != 0
        assert len(row["over_time"]["audio"]["loss"]) == 8
        if "video" in modalities:
            assert row["modalities"]["signals"] is None  # none were given
            assert row["over_time"]["video"]["offset_s"] == [-0.5, 0, 0.5]
        assert (tmp_path / "o" / row["png"]).stat().st_size > 3000
    assert value["sanity"]["spearman_randomised"] is None and "3 frames of one recording" in value["sanity"]["verdict"]
    result = CliRunner().invoke(app, [*arguments, "--method", "rollout"])
    assert result.exit_code == 2 and "Allowed: --method masking" in result.stderr


def test_a_fusion_is_explained_without_a_face_and_says_so(stretch_path, speaking_path, tmp_path, capsys):
    """The pictures show no face, so all that is left is the sound, as in prediction."""
    value = explain(stretch_path("multimodal_fusion", crop="face"), speaking_path, out=tmp_path / "o")
    assert "no face in any sampled frame; the model is explained without" in capsys.readouterr().err
    for row in value["frames"]:
        assert row["modalities"]["audio"] != 0
        assert row["modalities"]["video"] is None or np.isnan(row["modalities"]["video"])
    assert "Not there: video, signals." in value["sanity"]["verdict"]


def test_stretches_of_a_dataset_that_does_not_fit_are_told(stretch_path, with_signals, tmp_path):
    bundle = stretch_path("audio_wavenet")
    with pytest.raises(UserError, match="is a dataset, which has its signals"):
        explain(bundle, with_signals.path, out=tmp_path / "o", options=ExplainOptions(signals=tmp_path))
    other = shutil.copytree(with_signals.path, tmp_path / "d")
    info = read_json(other / "dataset.json")
    write_json(other / "dataset.json", {**info, "config": {**info["config"], "fps": 5.0}})
    with pytest.raises(UserError, match=r"has 5 frames per second; .* Prepare the study with --fps 2"):
        explain(bundle, other, out=tmp_path / "o")
    cv2.imwrite(str(tmp_path / "p.png"), draw(np.array([1]))[0])
    with pytest.raises(UserError, match="is a picture"):
        explain(bundle, tmp_path / "p.png", out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["improved_cnn", "vit_scratch"])
def test_each_of_several_classes_has_its_own_map(name):
    network = build_model(name, num_outputs=3, image_size=SIZE).classifier
    subject = NetworkSubject(network, maps=MODELS[name].maps)
    (pixels,) = draw(np.array([1]))
    features = subject.features(pixels[None])
    logits = subject.logits(features)[0]
    zero = np.zeros(features.shape[1])
    frames = [ExplainedFrame("r", "p", 0, 0.0, pixels, zero, logits, answer, 0.3) for answer in range(3)]
    for method in METHODS.values():
        if family_of(subject) in method.families:
            maps = make_maps(method, subject, frames, scheme=MOODS)
            same = [np.allclose(maps[0], maps[other], rtol=1e-3) for other in (1, 2)]
            assert same == [not method.class_specific] * 2, method.name


def test_a_network_that_declares_no_maps_can_be_occluded_only(bundle_path):
    subject = NetworkBuilder.of(open_bundle(bundle_path("improved_cnn"))).trained()
    family = family_of(NetworkSubject(subject.classifier, maps=None))
    assert choose_method(None, family=family, model="m").name == "occlusion"
    with pytest.raises(UserError, match=r"entry in the registry has no `maps`\. Allowed: occlusion"):
        choose_method("hires_cam", family=family, model="m")
