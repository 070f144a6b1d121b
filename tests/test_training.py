"""Training: augmentation, batches, weights, phases, determinism."""

from __future__ import annotations

import math
import warnings
from itertools import chain

import numpy as np
import pytest
import torch

from mien.core.config import build_config
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.classifier import BuiltModel
from mien.models.pretrained import write_random_backbone
from mien.models.registry import build_model
from mien.training.augmentation import Strengths, augment, vary
from mien.training.config import TrainConfig, _cpu_has_bf16, resolve_precision
from mien.training.fit import FitResult, fit_network, predict_features, predict_logits
from mien.training.lightning_module import Objective, Phase, PhaseModule
from mien.training.loaders import (
    FrameSet,
    RecordingBatches,
    ShuffledBatches,
    class_weights,
    participant_weights,
    read_pixels,
)
from mien.training.phases import Sides

SMILE = LabelScheme(target="Smile", kind="binary", classes=("not Smile", "Smile"), label_source="synthetic")
SIZE = 32
FAST = TrainConfig(image_size=SIZE, epochs=4, head_epochs=3, batch_size=16, scratch_lr=2e-3, augment=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # Networks this small gain nothing from threads, and lose much where other processes want the cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_frames(num: int, *, seed: int = 0, targets: np.ndarray | None = None, per_recording: int = 10) -> FrameSet:
    """Frames that are bright where the target is 1 (or would be: every fifth has no label where asked for)."""
    generator = np.random.default_rng(seed)
    bright = generator.integers(0, 2, num)
    noise = generator.integers(0, 90, (num, SIZE, SIZE, 3))
    pixels = (noise + 130 * bright[:, None, None, None]).astype(np.uint8)
    recordings = np.arange(num) // per_recording
    return FrameSet(
        load=lambda rows: pixels[rows],
        targets=bright if targets is None else targets,
        recordings=recordings,
        participants=recordings // 2,
        ids=np.array([f"r{recording}@{row}" for row, recording in enumerate(recordings)], dtype=object),
    )


def fit(built: BuiltModel, *, config: TrainConfig = FAST, train: FrameSet | None = None, **options) -> FitResult:
    train = make_frames(80) if train is None else train
    options = {"scheme": SMILE, "baseline": "none", "seed": 5, **options}
    return fit_network(built, train=train, validation=make_frames(40, seed=1), config=config, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("backbones")
    return {
        "vit_pretrained": str(write_random_backbone(root / "vit", architecture="vit_base", tiny=True)),
        "resnet50_pretrained": str(write_random_backbone(root / "resnet", architecture="resnet50", tiny=True)),
    }


# --- settings


def test_settings_are_checked():
    assert build_config(TrainConfig, {"batch_size": 8, "crop": 1}).batch_size == 8
    with pytest.raises(UserError, match=r"Unknown key.*'epoch'.*epochs"):
        build_config(TrainConfig, {"epoch": 3})
    with pytest.raises(UserError, match=r"hue must be 0 to 0\.5, got 2"):
        TrainConfig(hue=2)
    with pytest.raises(UserError, match="'gradual'"):
        build_config(TrainConfig, {"unfreeze": "slowly"})


def test_bf16_only_where_the_processor_has_it(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("flags : avx2 avx512f avx512_bf16 amx_tile\n")
    old.write_text("flags : avx2 avx512f\n")
    assert _cpu_has_bf16(new)
    assert not _cpu_has_bf16(old)
    assert not _cpu_has_bf16(tmp_path / "none")
    assert resolve_precision("bf16", device="cpu") == "bf16"


# --- augmentation


def _one(values, **changes):
    pixels = torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, -1)
    settings = {"brightness": 1.0, "contrast": 1.0, "hue": 0.0, **changes}
    return vary(pixels, **{name: torch.tensor([value]) for name, value in settings.items()})[0, :, 0]


def test_brightness_by_hand():
    torch.testing.assert_close(_one([0.2, 0.4, 0.8], brightness=1.5).flatten(), torch.tensor([0.3, 0.6, 1.0]))


def test_contrast_by_hand():
    # Two grey pixels .2 and .6 have the mean .4: half the contrast brings them half way there.
    result = _one([[0.2, 0.6]] * 3, contrast=0.5)
    torch.testing.assert_close(result, torch.tensor([[0.3, 0.5]] * 3))


def test_hue_turns_red_to_green_and_leaves_grey():
    torch.testing.assert_close(
        _one([1.0, 0.0, 0.0], hue=1 / 3).flatten(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(_one([0.3, 0.3, 0.3], hue=0.2).flatten(), torch.full((3,), 0.3))


def test_augment_keeps_lineage_and_is_the_identity_at_strength_zero():
    pixels = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    ids = torch.tensor([11, 5, 8])
    same = augment(pixels, ids=ids, strengths=Strengths(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(same.pixels, pixels / 255.0, atol=1e-6, rtol=0)
    strengths = Strengths(brightness=0.3, contrast=0.3, hue=0.1, flip=0.5)
    varied = augment(pixels, ids=ids, strengths=strengths, generator=torch.Generator().manual_seed(0))
    again = augment(pixels, ids=ids, strengths=strengths, generator=torch.Generator().manual_seed(0))
    assert varied.source_ids.tolist() == [11, 5, 8]
    assert torch.equal(varied.pixels, again.pixels)
    assert (varied.pixels - same.pixels).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert float(varied.pixels.min()) >= 0.0
    assert float(varied.pixels.max()) <= 1.0


def test_flip_mirrors_left_and_right():
    pixels = torch.rand(2, 3, 2, 3)
    flipped = augment(
        pixels, ids=torch.arange(2), strengths=Strengths(flip=1.0), generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(flipped.pixels, pixels.flip(-1), atol=1e-6, rtol=0)


# --- frames, weights and batches


def test_pixels_reach_the_network_as_they_are():
    pixels = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    pixels.flags.writeable = False
    frames = FrameSet(lambda rows: pixels[rows], *np.zeros((3, 2), np.int64), ids=np.array(["a", "b"], object))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = read_pixels(frames, np.array([1]))
    # Second picture, second row, first column.
    assert result.shape == (1, 3, 2, 2)
    assert result[0, :, 1, 0].tolist() == [18, 19, 20]


def test_class_weights_count_participants_not_frames():
    # Participant 0: 4 positive frames; participant 1: 1 positive and 3 negative; two frames without a label.
    targets = np.array([1, 1, 1, 1, 1, 0, 0, 0, -1, -1])
    participants = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    weights = participant_weights(participants, targets=targets)
    assert weights.tolist() == [1.0] * 8 + [0.0, 0.0]
    frames = make_frames(10, targets=targets)
    frames = FrameSet(frames.load, targets, frames.recordings, participants, frames.ids)
    # 5 of 8 are positive: 8 / (2 * 3) and 8 / (2 * 5).
    np.testing.assert_allclose(class_weights(frames, scheme=SMILE), [4 / 3, 0.8], rtol=1e-6)
    with pytest.raises(UserError, match=r"one class of 'Smile' only \('Smile'\)"):
        class_weights(frames.subset(np.arange(4)), scheme=SMILE)


def test_loss_by_hand():
    objective = Objective("binary", torch.tensor([1.0, 3.0]))
    logits, targets = torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([0, 1, -1])
    weights = torch.tensor([1.0, 0.5, 0.0])
    expected = (math.log(2) * 1 * 1 + math.log(2) * 3 * 0.5) / 2
    assert float(objective.mean(logits, targets=targets, weights=weights)) == pytest.approx(expected)
    unlabelled = objective.mean(logits.requires_grad_(), targets=torch.full((3,), -1), weights=weights)
    unlabelled.backward()
    assert unlabelled.item() == 0.0
    assert logits.grad.abs().sum() == 0
    multi = Objective("multiclass", torch.ones(3))
    flat = multi.mean(torch.zeros(2, 3), targets=torch.tensor([0, 2]), weights=torch.ones(2))
    assert float(flat) == pytest.approx(math.log(3))


def test_shuffled_batches_show_each_row_once():
    sampler = ShuffledBatches(np.array([3, 5, 7, 9, 11]), batch_size=2, seed=1)
    first, second = list(sampler), list(sampler)
    assert [len(batch) for batch in first] == [2, 2, 1] and len(sampler) == 3
    assert sorted(chain(*first)) == sorted(chain(*second)) == [3, 5, 7, 9, 11]
    assert first != second
    assert list(ShuffledBatches(np.array([3, 5, 7, 9, 11]), batch_size=2, seed=1)) == first


def test_recording_batches_hold_a_few_recordings_with_several_frames():
    targets = np.tile([0, 1, -1, 1], 20)
    targets[40:60] = -1  # recording 2 has no label at all
    frames = make_frames(80, targets=targets, per_recording=20)
    sampler = RecordingBatches(frames, batch_size=12, frames_per_recording=5, seed=0)
    batches = list(sampler)
    # 3 recordings x 20 frames in groups of 5, two groups per batch.
    assert len(batches) == len(sampler) == 6
    assert sorted(chain(*batches)) == [*range(40), *range(60, 80)]
    for batch in batches:
        counts = np.bincount(frames.recordings[batch], minlength=4)
        assert set(counts.tolist()) <= {0, 5, 10}


def test_train_loss_is_measured_on_as_many_frames_as_validation_has():
    train, validation = make_frames(80), make_frames(25, seed=1)
    assert len(Sides.of(train, validation=validation, baseline="none", seed=0).sample) == 25
    sample = Sides.of(train, validation=validation, baseline="recording", seed=0).sample
    # Whole recordings of 10 frames: three are the fewest that reach 25.
    assert len(sample) == 30
    assert np.bincount(train.recordings[sample]).max() == 10


# --- prediction


def test_baseline_is_the_mean_over_all_frames_of_the_recording():
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE, seed=2)
    frames = make_frames(12, per_recording=6, targets=np.array([0, 1, -1] * 4))
    features = predict_features(built.classifier, frames, batch_size=5)
    assert built.classifier.training, "prediction leaves the mode as it was"
    centred = features.reshape(2, 6, -1) - features.reshape(2, 6, -1).mean(axis=1, keepdims=True)
    with torch.no_grad():
        expected = built.classifier.head(torch.from_numpy(centred.reshape(12, -1))).numpy()
    logits = predict_logits(built.classifier, frames, baseline="recording", batch_size=4)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert np.abs(predict_logits(built.classifier, frames, baseline="none", batch_size=4) - expected).max() > 1e-3


# --- fits


@pytest.mark.parametrize("name", ["improved_cnn", "vit_scratch"])
@pytest.mark.parametrize("baseline", ["none", "recording"])
def test_networks_learn_bright_from_dark(name, baseline):
    built = build_model(name, num_outputs=1, image_size=SIZE, seed=0)
    lines: list[str] = []
    config = TrainConfig(image_size=SIZE, epochs=8, batch_size=16, scratch_lr=2e-3)
    result = fit(built, config=config, baseline=baseline, on_epoch=lines.append)
    test = make_frames(60, seed=9)
    logits = predict_logits(built.classifier, test, baseline=baseline, batch_size=16)
    assert np.mean((logits[:, 0] >= 0) == test.targets) > 0.9
    assert len(lines) == len(result.history) and "validation loss" in lines[0]
    assert (result.device, result.batch_size) == ("cpu", 16) or torch.cuda.is_available()
    best = min(result.history, key=lambda row: row["validation_loss"])
    assert result.best_epoch == best["epoch"]
    # The best epoch's weights are the ones that are left: its loss can be measured again.
    again = validation_loss_of(built, baseline=baseline)
    assert again == pytest.approx(best["validation_loss"], abs=1e-5)


def validation_loss_of(built: BuiltModel, *, baseline: str) -> float:
    validation = make_frames(40, seed=1)
    logits = torch.from_numpy(predict_logits(built.classifier, validation, baseline=baseline, batch_size=16))
    objective = Objective("binary", torch.from_numpy(class_weights(make_frames(80), scheme=SMILE)))
    weights = torch.from_numpy(participant_weights(validation.participants, targets=validation.targets))
    return float(objective.mean(logits, targets=torch.from_numpy(validation.targets), weights=weights))


def test_multiclass_targets():
    scheme = LabelScheme("Mood", kind="multiclass", classes=("a", "b", "c"), label_source="synthetic")
    built = build_model("vit_scratch", num_outputs=3, image_size=SIZE)
    result = fit(built, scheme=scheme, config=TrainConfig(image_size=SIZE, epochs=3, batch_size=16))
    # Class c never occurs in training, which is no obstacle.
    assert result.history[-1]["validation_loss"] < math.log(2)
    assert predict_logits(built.classifier, make_frames(5), baseline="none", batch_size=8).shape == (5, 3)


@pytest.mark.parametrize("name", ["improved_cnn", "vit_pretrained"])
def test_same_seed_same_bits_whatever_ran_before(name, tiny):
    def logits(seed, **changes):
        torch.rand(7)
        np.random.rand(3)  # noqa: NPY002 (the global generator is what must not matter)
        built = build_model(name, num_outputs=1, image_size=SIZE, backbone=tiny.get(name), seed=seed)
        config = TrainConfig(image_size=SIZE, epochs=2, head_epochs=2, batch_size=16, **changes)
        result = fit(built, config=config, seed=seed)
        return predict_logits(built.classifier, make_frames(20, seed=3), baseline="none", batch_size=8), result

    deterministic = torch.are_deterministic_algorithms_enabled()
    (first, result), (second, _), (other, _) = logits(5), logits(5, num_workers=1), logits(6)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert [row["phase"] for row in result.history] == (
        ["scratch"] * 2 if name == "improved_cnn" else ["head"] * 2 + ["all"] * 2
    )


def test_a_fit_leaves_the_global_generator_alone():
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE)
    before = torch.random.get_rng_state()
    fit(built, config=TrainConfig(image_size=SIZE, epochs=1, batch_size=32))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("phase1", ["cached", "augmented"])
@pytest.mark.parametrize("baseline", ["none", "recording"])
def test_phase_1_moves_the_head_only(tiny, phase1, baseline):
    built = build_model("resnet50_pretrained", num_outputs=1, image_size=SIZE, backbone=tiny["resnet50_pretrained"])
    before = {name: value.clone() for name, value in built.classifier.state_dict().items()}
    config = TrainConfig(image_size=SIZE, head_epochs=2, epochs=1, backbone_lr=1e-9, head_lr=1e-9, phase1=phase1)
    result = fit(built, config=config, baseline=baseline)
    moved = {name for name, value in built.classifier.state_dict().items() if not torch.equal(value, before[name])}
    if result.best_epoch <= 2:
        # BatchNorm's running statistics belong to the backbone: frozen means that they stay, too.
        assert moved and all(name.startswith("head.") for name in moved)
    assert [row["phase"] for row in result.history] == ["head", "head", "all"]
    assert all(p.requires_grad for p in built.classifier.parameters())
    assert not built.classifier.training


def test_frozen_parts_are_in_eval_mode(tiny):
    built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=tiny["vit_pretrained"])
    encoder = built.classifier.encoder

    def module(name, rates, **changes):
        phase = Phase(name, inputs="pixels", epochs=9, rates=rates, seed=0)
        config = TrainConfig(**changes)
        objective = Objective("binary", torch.ones(2))
        return PhaseModule(
            built.classifier, phase=phase, objective=objective, config=config, baseline="none", fused=True
        )

    head = module("head", (None, 1e-3))
    head.on_train_epoch_start()
    assert not any(part.training for part in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert built.classifier.head.training
    gradual = module("all", (1e-5, 1e-4), unfreeze="gradual")
    num_open = []
    for epoch in range(5):
        for part in gradual.freeze(epoch):
            assert not any(p.requires_grad for p in part.parameters())
        num_open.append(sum(all(p.requires_grad for p in stage.parameters()) for stage in encoder.stages()))
    # 6 stages: embeddings, 4 layers, the last norm.
    assert num_open == [2, 3, 5, 6, 6]
    optimizer = gradual.configure_optimizers()["optimizer"]
    plain = [p for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert any(p is encoder.model.embeddings.position_embeddings for p in plain)
    assert all(p.ndim == 1 or p.shape[0] == 1 for p in plain)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5, 1e-4}


def test_gradual_unfreezing_and_checkpointing_train(tiny):
    built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=tiny["vit_pretrained"])
    config = TrainConfig(
        image_size=SIZE, head_epochs=0, epochs=2, unfreeze="gradual", gradient_checkpointing=True, head_lr=1e-2
    )
    before = built.classifier.encoder.model.embeddings.cls_token.detach().clone()
    result = fit(built, config=config)
    assert [row["phase"] for row in result.history] == ["all", "all"]
    # The embeddings open in the fourth epoch only.
    assert torch.equal(built.classifier.encoder.model.embeddings.cls_token, before)


def test_early_stopping_waits_for_patience_and_keeps_the_best():
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE)
    config = TrainConfig(image_size=SIZE, epochs=30, patience=2, min_delta=10.0, batch_size=32)
    result = fit(built, config=config)
    # Nothing improves by 10: the first epoch counts as an improvement on nothing, two more are waited for.
    assert len(result.history) == 3
    assert result.best_epoch == 1 + int(np.argmin([row["validation_loss"] for row in result.history]))


def test_the_batch_halves_when_memory_runs_out():
    frames = make_frames(40)

    def greedy(rows):
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return frames.load(rows)

    train = FrameSet(greedy, frames.targets, frames.recordings, frames.participants, frames.ids)
    lines: list[str] = []
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE, seed=1)
    config = TrainConfig(image_size=SIZE, epochs=1, batch_size=16)
    result = fit(built, train=train, config=config, on_epoch=lines.append)
    assert result.batch_size == 4
    assert [line.rsplit(" ", 1)[1] for line in lines if "memory" in line] == ["8", "4"]
    assert len(result.history) == 1
    # The phase starts anew: the result is that of a fit that had batches of 4 from the start.
    direct = build_model("vit_scratch", num_outputs=1, image_size=SIZE, seed=1)
    fit(direct, train=frames, config=TrainConfig(image_size=SIZE, epochs=1, batch_size=4))
    for mine, its in zip(built.classifier.parameters(), direct.classifier.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_errors_of_a_fit_say_what_to_do():
    built = build_model("vit_scratch", num_outputs=1, image_size=64)
    with pytest.raises(UserError, match="built for pictures of 64 px, but the training frames have 32"):
        fit(built)
    built = build_model("vit_scratch", num_outputs=1, image_size=SIZE)
    with pytest.raises(UserError, match="No labelled training frames"):
        fit(built, train=make_frames(20, targets=np.full(20, -1)))
    with pytest.raises(UserError, match="lower the learning rates"):
        fit(built, config=TrainConfig(image_size=SIZE, epochs=2, scratch_lr=1e30, clip_norm=0))
    with pytest.raises(RuntimeError, match="disk"):
        fit(built, train=FrameSet(_broken, *np.zeros((3, 20), np.int64), ids=np.full(20, "", object)))


def _broken(rows):
    raise RuntimeError("disk on fire")


def test_a_fit_says_nothing_unasked(capfd):
    built = build_model("improved_cnn", num_outputs=1, image_size=SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(built, config=TrainConfig(image_size=SIZE, epochs=1, batch_size=32))
    assert capfd.readouterr() == ("", ""), "Lightning's banners reach nobody"
