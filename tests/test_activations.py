"""The frozen part of a network, computed once: same logits, same gradients, stored, shared, bounded."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mien.core.config import build_config
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.models.backbones import random_encoder
from mien.models.choice import parse_model
from mien.models.classifier import Classifier, scale_dropout
from mien.models.pretrained import make_head, write_random_backbone
from mien.models.registry import build_model
from mien.runtime.cache import ABANDONED_S, write_array
from mien.runtime.material import Material
from mien.training.activations import Prefix, Views, frozen_modules, open_activations, open_features, plain_features
from mien.training.augmentation import Strengths
from mien.training.config import TrainConfig
from mien.training.fit import fit_network, predict_features
from mien.training.frame_sets import make_frame_set
from mien.training.loaders import FrameSet, read_pixels
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings

SIZE = 32
BACKBONES = {"vit_base": "vit_pretrained", "resnet50": "resnet50_pretrained"}
CASES = [("vit_base", 0), ("vit_base", 1), ("vit_base", 2), ("vit_base", 4), ("resnet50", 0), ("resnet50", 1)]
STRONG = Views(num=2, strengths=Strengths(0.4, 0.4, 0.1, 0.5))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dataset(drawn_dataset, tmp_path) -> Dataset:
    shutil.copytree(drawn_dataset.path, tmp_path / "dataset", ignore=shutil.ignore_patterns("cache"))
    return Dataset.open(tmp_path / "dataset")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("backbones")
    return {
        name: str(write_random_backbone(root / name, architecture=architecture, tiny=True))
        for architecture, name in BACKBONES.items()
    }


def tiny_classifier(architecture: str, *, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    encoder = random_encoder(architecture, tiny=True)
    if architecture == "vit_base":
        encoder.model.config.image_size = SIZE
    classifier = Classifier(encoder, make_head(encoder.feature_dim, width=16, num_outputs=2))
    scale_dropout(classifier, factor=0.0)
    return classifier


def frames_of(dataset: Dataset, *, participants: int = 3) -> FrameSet:
    clips = build_clips(dataset, target="Smile")
    people = sorted(clips.table["participant_id"].unique())[:participants]
    material = Material(dataset, clips)
    return make_frame_set(material, material.frames_of(people), size_px=SIZE, crop=1.15)


def refuse(line: str) -> None:
    raise AssertionError(line)


def stored_files(dataset: Dataset) -> list[str]:
    return sorted(str(path.relative_to(dataset.path)) for path in dataset.path.glob("cache/activations-*/*.npy"))


# --- the same numbers as the plain path


@pytest.mark.parametrize(("architecture", "num_open"), CASES)
def test_logits_and_gradients_are_those_of_the_plain_path(architecture, num_open):
    classifier = tiny_classifier(architecture)
    pixels = torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    classifier.train()
    for part in frozen_modules(classifier, num_open=num_open):
        part.requires_grad_(False).eval()
    logits, gradients = [], []
    statistics = {name: value.clone() for name, value in classifier.named_buffers()}
    for way in ("plain", "stored"):
        classifier.load_state_dict(statistics, strict=False)
        classifier.zero_grad()
        if way == "plain":
            result = classifier(classifier.normalise(pixels), groups=groups)
        else:
            activations = Prefix.of(classifier, num_open=num_open).run(pixels)
            features = open_features(classifier, activations, num_open=num_open)
            centred = features.view(2, 3, -1) - features.view(2, 3, -1).mean(dim=1, keepdim=True)
            result = classifier.head(centred.view(6, -1))
        result.square().sum().backward()
        logits.append(result.detach())
        gradients.append({name: p.grad for name, p in classifier.named_parameters() if p.requires_grad})
    assert (logits[0] - logits[1]).abs().max() <= 1e-5
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)
    frozen = [name for name, p in classifier.named_parameters() if not p.requires_grad]
    assert len(frozen) + len(gradients[0]) == len(list(classifier.parameters())) and frozen


@pytest.mark.parametrize(("architecture", "num_open"), [("vit_base", 0), ("vit_base", 2), ("resnet50", 1)])
def test_what_is_stored_gives_the_features_of_the_plain_path(architecture, num_open, dataset):
    classifier, frames = tiny_classifier(architecture), frames_of(dataset)
    prefix = Prefix.of(classifier, num_open=num_open)
    activations = open_activations(prefix, frames, limit_gb=1.0, say=refuse)
    assert activations.stored == "disk" and len(stored_files(dataset)) == 3
    rows = np.random.default_rng(0).permutation(len(frames))
    features = plain_features(prefix, activations, rows=rows, batch_size=7).numpy()
    expected = predict_features(classifier, frames, batch_size=9)
    assert np.abs(features - expected[rows]).max() <= 1e-5
    assert np.abs(features - expected).max() > 1e-3, "the order of rows must matter, else this test sees nothing"
    assert classifier.training


def test_frames_of_no_dataset_are_kept_in_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    numbers = np.zeros(20, np.int64)
    frames = FrameSet(lambda rows: pixels[rows], numbers, numbers, numbers, ids=np.full(20, "", object))
    prefix = Prefix.of(tiny_classifier("vit_base"), num_open=1)
    kept = open_activations(prefix, frames, views=STRONG, limit_gb=1.0, say=refuse)
    lines: list[str] = []
    computed = open_activations(prefix, frames, views=STRONG, limit_gb=1e-6, say=lines.append)
    assert (kept.stored, computed.stored, len(lines)) == ("memory", "nowhere", 1)
    rows, views = np.array([3, 19, 0, 7]), np.array([0, 1, 2, 2])
    torch.testing.assert_close(kept.read(rows, views), computed.read(rows, views), atol=1e-5, rtol=0)
    assert (kept.read(rows, views) - kept.plain(rows)).abs().amax(dim=(1, 2))[1:].min() > 1e-3


# --- stored once


def test_nothing_is_computed_twice(dataset):
    classifier = tiny_classifier("vit_base")
    calls: list[int] = []
    classifier.encoder.model.embeddings.register_forward_hook(lambda _module, args, _result: calls.append(len(args[0])))
    for _ in range(2):
        prefix = Prefix.of(classifier, num_open=2)
        frames = frames_of(dataset)
        open_activations(prefix, frames, views=Views(num=1), limit_gb=1.0, say=refuse).plain(np.arange(4))
    # One picture tells the shape; each frame then goes through once as it is and once varied.
    assert sum(calls) == 1 + 2 * len(frames)
    # Another head, other rates, layout and open blocks: the frozen part is the same.
    other = tiny_classifier("vit_base")
    with torch.no_grad():
        other.head[1].weight.add_(1.0)
        other.encoder.blocks[3].mlp.fc1.weight.add_(1.0)
    other.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    assert Prefix.of(other, num_open=2).digest == prefix.digest
    assert Prefix.of(other, num_open=0).digest != Prefix.of(classifier, num_open=0).digest


def test_other_weights_pictures_or_normalisation_are_stored_elsewhere(dataset):
    frames = frames_of(dataset, participants=1)

    def number_of_files(classifier, *, views=None):
        open_activations(Prefix.of(classifier, num_open=1), frames, views=views, limit_gb=1.0, say=refuse)
        return len(stored_files(dataset))

    classifier = tiny_classifier("resnet50")
    assert number_of_files(classifier) == 1
    assert number_of_files(tiny_classifier("resnet50")) == 1
    next(classifier.encoder.model.embedder.buffers()).add_(0.1)
    assert number_of_files(classifier) == 2
    classifier.pixel_mean = (0.1, 0.2, 0.3)
    assert number_of_files(classifier) == 3
    assert number_of_files(classifier, views=STRONG) == 5
    assert number_of_files(classifier, views=Views(num=3, strengths=STRONG.strengths)) == 6
    assert number_of_files(classifier, views=Views(num=1, strengths=Strengths(flip=1.0))) == 7
    # A recording that is prepared anew from another file replaces what was made of the old one.
    path = dataset.path / "recordings" / frames.origin.recording_ids[0] / "recording.json"
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "00'))
    assert number_of_files(classifier) == 7
    assert len({name.rsplit("@")[1] for name in stored_files(dataset)}) == 2


def test_views_depend_on_recording_frame_and_view_only(dataset):
    prefix = Prefix.of(tiny_classifier("vit_base"), num_open=0)
    frames = frames_of(dataset)
    stored = open_activations(prefix, frames, views=STRONG, limit_gb=1.0, say=refuse)
    rows, views = np.array([5, 0, len(frames) - 1]), np.array([1, 2, 1])
    varied, otherwise, plain = stored.read(rows, views), stored.read(rows, 3 - views), stored.plain(rows)
    assert (varied - plain).abs().amax(dim=1).min() > 1e-3
    assert (varied - otherwise).abs().amax(dim=1).min() > 1e-3
    lines: list[str] = []
    shutil.rmtree(dataset.path / "cache")
    computed = open_activations(prefix, frames.subset(rows), views=STRONG, limit_gb=0.0, say=lines.append)
    assert computed.stored == "nowhere" and lines
    torch.testing.assert_close(computed.read(np.array([0, 1, 2]), views), varied, atol=1e-5, rtol=0)


def test_each_picture_goes_through_its_views_in_turn():
    rows = np.arange(4)
    seen = np.stack([Views(num=3).of_epoch(rows, epoch=epoch) for epoch in range(3)])
    assert [sorted(column) for column in seen.T.tolist()] == [[1, 2, 3]] * 4
    assert Views(num=3).of_epoch(rows, epoch=3).tolist() == seen[0].tolist()
    assert Views().of_epoch(rows, epoch=5).tolist() == [0] * 4


def test_too_little_room_is_said_and_nothing_is_stored(dataset):
    prefix = Prefix.of(tiny_classifier("vit_base"), num_open=2)
    frames = frames_of(dataset)
    # (1 + 4) tokens of 32 floats.
    needed = len(frames) * 5 * 32 * 4
    lines: list[str] = []
    computed = open_activations(prefix, frames, limit_gb=(needed - 1) / 1e9, say=lines.append)
    assert computed.stored == "nowhere" and stored_files(dataset) == []
    assert f"would take {needed / 1e9:.3g} GB" in lines[0] and "activations_gb" in lines[0]
    stored = open_activations(prefix, frames, limit_gb=(needed + 1000) / 1e9, say=refuse)
    torch.testing.assert_close(computed.plain(np.arange(9)), stored.plain(np.arange(9)), atol=1e-5, rtol=0)
    # What is stored counts against the limit of what comes next.
    open_activations(Prefix.of(prefix.classifier, num_open=1), frames, limit_gb=1.9 * needed / 1e9, say=lines.append)
    assert len(lines) == 2 and "are stored already" in lines[1]


def test_several_at_once_compute_each_recording_once(dataset):
    frames, calls = frames_of(dataset), []
    classifiers = [tiny_classifier("vit_base").eval() for _ in range(4)]
    for classifier in classifiers:
        embeddings = classifier.encoder.model.embeddings
        embeddings.register_forward_hook(lambda _module, args, _result: calls.append(len(args[0])))

    def read(classifier: Classifier) -> np.ndarray:
        activations = open_activations(Prefix.of(classifier, num_open=1), frames, limit_gb=1.0, say=refuse)
        return activations.plain(np.arange(len(frames))).numpy()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, classifiers))
    assert sum(calls) <= 4 + len(frames), "up to four ask for the shape, one computes"
    assert all(np.array_equal(results[0], result) for result in results)
    # The cache may be deleted at any time, even while it is read.
    activations = open_activations(Prefix.of(classifiers[0], num_open=1), frames, limit_gb=1.0, say=refuse)
    shutil.rmtree(dataset.path / "cache")
    assert np.array_equal(activations.plain(np.arange(len(frames))).numpy(), results[0])


def test_another_process_half_written_file_is_left_alone(tmp_path):
    path = tmp_path / "a@1.npy"
    young, old = tmp_path / ".a@1.npy.young.npy", tmp_path / ".a@1.npy.old.npy"
    for leftover, age in ((young, 5.0), (old, ABANDONED_S + 60)):
        leftover.write_bytes(b"half")
        os.utime(leftover, (time.time() - age, time.time() - age))
    write_array(path, lambda temporary: temporary.write_bytes(b"whole"))
    assert path.read_bytes() == b"whole"
    assert young.exists() and not old.exists()


# --- fits


def fit(built, dataset: Dataset, **changes):
    frames = frames_of(dataset, participants=6)
    train = frames.subset(np.flatnonzero(frames.participants < 4))
    validation = frames.subset(np.flatnonzero(frames.participants >= 4))
    scheme = LabelScheme("Smile", kind="binary", classes=("not Smile", "Smile"), label_source="synthetic")
    values = {"image_size": SIZE, "epochs": 3, "head_epochs": 2, "batch_size": 16, "backbone_lr": 1e-2, **changes}
    baseline = values.pop("baseline", "none")
    on_epoch = values.pop("on_epoch", None)
    return fit_network(
        built,
        train=train,
        validation=validation,
        scheme=scheme,
        config=TrainConfig(precision="32", **values),
        baseline=baseline,
        seed=5,
        on_epoch=on_epoch,
    )


@pytest.mark.parametrize("name", BACKBONES.values())
@pytest.mark.parametrize("baseline", ["none", "recording"])
def test_last_blocks_move_and_nothing_before_them(name, baseline, backbones, dataset):
    built = build_model(name, num_outputs=1, image_size=SIZE, backbone=backbones[name])
    before = {key: value.clone() for key, value in built.classifier.state_dict().items()}
    result = fit(built, dataset, unfreeze="last:1", head_epochs=0, views=2, baseline=baseline)
    assert [row["phase"] for row in result.history] == ["last"] * 3
    encoder = built.classifier.encoder
    last = {id(p) for p in encoder.blocks[-1].parameters()}
    moved = {key for key, value in built.classifier.state_dict().items() if not torch.equal(value, before[key])}
    opened = {f"encoder.{key}" for key, p in encoder.named_parameters() if id(p) in last}
    assert opened <= moved
    frozen = {id(t) for part in encoder.frozen_part(1) for t in part.state_dict(keep_vars=True).values()}
    kept = {f"encoder.{key}" for key, t in encoder.state_dict(keep_vars=True).items() if id(t) in frozen}
    assert kept and not kept & moved
    assert all(p.requires_grad for p in built.classifier.parameters())


def test_head_only_trains_one_phase_and_predicts_from_what_is_stored(backbones, dataset):
    def build():
        return build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=backbones["vit_pretrained"])

    built = build()
    result = fit(built, dataset, unfreeze="head")
    assert [row["phase"] for row in result.history] == ["head", "head"]
    assert result.prefix is not None and result.prefix.num_open == 0
    assert result.prefix.digest == Prefix.of(built.classifier, num_open=0).digest
    # A fit that computes everything anew in every epoch ends in the same place.
    lines: list[str] = []
    again = build()
    shutil.rmtree(dataset.path / "cache")
    fit(again, dataset, unfreeze="head", activations_gb=0.0, on_epoch=lines.append)
    assert sum("activations_gb" in line for line in lines) == 2
    for mine, its in zip(built.classifier.parameters(), again.classifier.parameters(), strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)
    assert fit(build(), dataset, unfreeze="all").prefix is None


def test_views_change_the_fit_and_only_with_augmentation(backbones, dataset):
    def weights(**changes):
        built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=backbones["vit_pretrained"])
        fit(built, dataset, unfreeze="head", brightness=0.9, **changes)
        return built.classifier.head[1].weight.detach()

    plain = weights()
    assert not torch.equal(weights(views=3), plain)
    assert torch.equal(weights(views=3, augment=False), plain)


@pytest.mark.parametrize("unfreeze", ["head", "last:2"])
def test_predictions_are_the_same_with_and_without_what_is_stored(unfreeze, backbones, dataset):
    clips = build_clips(dataset, target="Smile")
    split = make_folds(clips, folds=3, seed=0)[0]
    training = TrainConfig(image_size=SIZE, epochs=2, head_epochs=2, batch_size=16, unfreeze=unfreeze, views=1)
    choice = parse_model(f"vit_pretrained@{backbones['vit_pretrained']}+recording")

    def predictions():
        fitted = fit_model(
            choice,
            dataset=dataset,
            clips=clips,
            train=split.train,
            validation=split.validation,
            settings=FitSettings(training=training),
            seed=3,
        )
        return fitted, *fitted.predict(split.test)

    (fitted, rows, cold), (_, _, warm) = predictions(), predictions()
    assert np.array_equal(cold, warm)
    frames = fitted.material.frames_of(split.test)
    frame_set = make_frame_set(fitted.material, frames, size_px=SIZE, crop=1.15)
    assert len(rows) == len(cold) and read_pixels(frame_set, np.arange(2)).shape == (2, 3, SIZE, SIZE)
    stored = fitted._features(split.test)[1]
    plain = predict_features(fitted.built.classifier, frame_set, batch_size=8)
    assert np.abs(stored - plain).max() <= 1e-5


def test_settings_of_what_is_open():
    assert [build_config(TrainConfig, {"unfreeze": text}).num_open for text in ("all", "head", "last:3")] == [
        None,
        0,
        3,
    ]
    for wrong in ("last:0", "last", "last:-1", "tail"):
        with pytest.raises(UserError, match="'last:2'"):
            TrainConfig(unfreeze=wrong)
    with pytest.raises(UserError, match="head_epochs is 0"):
        TrainConfig(unfreeze="head", head_epochs=0)
    with pytest.raises(UserError, match="views must be at least 0"):
        TrainConfig(views=-1)


def test_more_blocks_than_there_are(backbones, dataset):
    built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=backbones["vit_pretrained"])
    with pytest.raises(UserError, match=r"has 4 blocks.*got last:5"):
        fit(built, dataset, unfreeze="last:5")
    scratch = build_model("vit_scratch", num_outputs=1, image_size=SIZE)
    with pytest.raises(UserError, match="can't be opened block by block"):
        Prefix.of(scratch.classifier, num_open=1)
