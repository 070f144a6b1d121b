"""What helps on few people: rates that fall by the layer, gradual unfreezing, mixup, participants equally often."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.models.pretrained import write_random_backbone
from mien.models.registry import build_model
from mien.training.balanced import BalancedBatches, BalancedRecordingBatches
from mien.training.config import TrainConfig
from mien.training.fit import fit_network
from mien.training.lightning_module import Objective, Phase, PhaseModule
from mien.training.loaders import FrameBatches, FrameSet, participant_weights
from mien.training.mixup import Mixture
from mien.training.rates import parameter_groups

SIZE = 32
SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("backbones")
    return {
        "vit_pretrained": str(write_random_backbone(root / "vit", architecture="vit_base", tiny=True)),
        "resnet50_pretrained": str(write_random_backbone(root / "resnet", architecture="resnet50", tiny=True)),
    }


def make_frames(lengths: list[int], *, unlabelled_every: int = 0) -> FrameSet:
    """One recording per participant, of these lengths; pixels say which row they are."""
    participants = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(participants))
    targets = rows % 2
    if unlabelled_every:
        targets = np.where(rows % unlabelled_every == 0, -1, targets)
    noise = np.random.default_rng(0).integers(0, 60, (len(rows), SIZE, SIZE, 3))
    pixels = (noise + 100 * (rows % 2)[:, None, None, None]).astype(np.uint8)
    return FrameSet(lambda wanted: pixels[wanted], targets, participants, participants, np.full(len(rows), "", object))


# --- rates


@pytest.mark.parametrize("name", ["vit_pretrained", "resnet50_pretrained"])
def test_rates_fall_by_the_layer(tiny, name):
    built = build_model(name, num_outputs=1, image_size=SIZE, backbone=tiny[name])
    encoder = built.classifier.encoder
    groups = parameter_groups(
        built.classifier, encoder_lr=1e-4, head_lr=1e-2, config=TrainConfig(layer_decay=0.5, weight_decay=0.1)
    )
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(built.classifier.parameters())) == sum(len(group["params"]) for group in groups)
    stages = encoder.stages()
    for number, stage in enumerate(stages):
        expected = 1e-4 * 0.5 ** (len(stages) - 1 - number)
        assert [rates[id(parameter)] for parameter in stage.parameters()] == pytest.approx(
            [expected for _ in stage.parameters()], rel=1e-9
        )
    assert {rates[id(parameter)] for parameter in built.classifier.head.parameters()} == {1e-2}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {decays[id(p)] for p in built.classifier.parameters() if p.ndim < 2} == {0.0}
    even = parameter_groups(built.classifier, encoder_lr=1e-4, head_lr=1e-2, config=TrainConfig())
    assert {group["lr"] for group in even} == {1e-4, 1e-2}
    frozen = parameter_groups(built.classifier, encoder_lr=None, head_lr=1e-2, config=TrainConfig(layer_decay=0.5))
    assert len(frozen) == 2


def test_layer_decay_keeps_early_layers_where_they_are(tiny):
    moved = {}
    for decay in (1.0, 0.1):
        built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=tiny["vit_pretrained"])
        stages = built.classifier.encoder.stages()
        before = [torch.nn.utils.parameters_to_vector(stage.parameters()).detach().clone() for stage in stages]
        config = TrainConfig(
            image_size=SIZE, head_epochs=0, epochs=1, batch_size=8, backbone_lr=1e-3, layer_decay=decay, min_lr=1e-9
        )
        train = make_frames([12, 12])
        fit_network(
            built, train=train, validation=make_frames([8]), scheme=SMILE, config=config, baseline="none", seed=0
        )
        after = [torch.nn.utils.parameters_to_vector(stage.parameters()).detach() for stage in stages]
        moved[decay] = [float((a - b).abs().mean()) for a, b in zip(after, before, strict=True)]
    # AdamW's first steps are as long as the rate, whatever the gradient: 5 stages below the last, 1e-5 of its rate.
    assert moved[0.1][0] < 1e-3 * moved[1.0][0]
    assert moved[0.1][-1] == pytest.approx(moved[1.0][-1], rel=0.3)


def test_gradual_unfreezing_opens_the_backbone_from_its_end(tiny):
    built = build_model("vit_pretrained", num_outputs=1, image_size=SIZE, backbone=tiny["vit_pretrained"])
    stages = built.classifier.encoder.stages()
    before = [torch.nn.utils.parameters_to_vector(stage.parameters()).detach().clone() for stage in stages]
    config = TrainConfig(
        image_size=SIZE, head_epochs=0, epochs=2, batch_size=8, unfreeze="gradual", backbone_lr=1e-3, weight_decay=0.5
    )
    train, validation = make_frames([12, 12]), make_frames([8])
    fit_network(built, train=train, validation=validation, scheme=SMILE, config=config, baseline="none", seed=0)
    after = [torch.nn.utils.parameters_to_vector(stage.parameters()).detach() for stage in stages]
    moved = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    # 6 stages, two quarters of them open in the second epoch; weight decay doesn't reach the closed ones either.
    assert moved[:3] == [False] * 3 and all(moved[4:])


# --- mixup


def test_mixture_by_hand():
    mixture = Mixture(partners=torch.tensor([1, 0]), share=0.75)
    values = torch.tensor([[4.0, 0.0], [0.0, 8.0]])
    assert mixture.mix(values).tolist() == [[3.0, 2.0], [1.0, 6.0]]
    objective = Objective("binary", torch.tensor([1.0, 2.0]))
    logits, targets, weights = torch.tensor([[0.3], [-1.2]]), torch.tensor([1, 0]), torch.tensor([1.0, 3.0])

    def mean(targets, weights):
        return objective.mean(logits, targets=targets, weights=weights)

    def loss(logit, target):  # by hand, of one row
        probability = 1 / (1 + np.exp(-logit))
        return -np.log(probability) * 2.0 if target else -np.log(1 - probability)

    own = (loss(0.3, 1) * 1.0 + loss(-1.2, 0) * 3.0) / 2
    other = (loss(0.3, 0) * 3.0 + loss(-1.2, 1) * 1.0) / 2
    mixed = float(mixture.loss(mean, targets=targets, weights=weights))
    assert mixed == pytest.approx(0.75 * own + 0.25 * other, rel=1e-5)


def test_only_labelled_rows_of_the_batch_are_mixed():
    targets = torch.tensor([0, -1, 1, 1, -1, 0])
    draws = [Mixture.draw(targets, alpha=0.4, seed=seed) for seed in range(200)]
    for mixture in draws:
        assert mixture.partners[[1, 4]].tolist() == [1, 4]
        assert sorted(mixture.partners.tolist()) == [0, 1, 2, 3, 4, 5]
        assert 0.0 <= mixture.share <= 1.0
    # Beta(.4, .4) has the standard deviation sqrt(1 / (4 * 1.8)) = .373: mostly one of the two.
    assert np.std([mixture.share for mixture in draws]) == pytest.approx(0.373, abs=0.03)
    assert len({tuple(mixture.partners.tolist()) for mixture in draws}) > 10


@pytest.mark.parametrize("baseline", ["none", "recording"])
def test_what_is_mixed_is_pictures_or_features_after_the_baseline(baseline):
    built = build_model("improved_cnn", num_outputs=1, image_size=SIZE)
    module = PhaseModule(
        built.classifier,
        phase=Phase("scratch", inputs="pixels", epochs=1, rates=(1e-3, 1e-3), seed=0),
        objective=Objective("binary", torch.ones(2)),
        config=TrainConfig(image_size=SIZE, augment=False, channels_last=False),
        baseline=baseline,
        fused=False,
    )
    module.eval()
    frames = make_frames([3, 3])
    batch = FrameBatches(frames, inputs=lambda rows: torch.from_numpy(frames.load(rows)).permute(0, 3, 1, 2))[range(6)]
    mixture = Mixture(partners=torch.tensor([3, 1, 5, 0, 4, 2]), share=0.6)
    with torch.no_grad():
        logits = module._logits(batch, mixture=mixture)
        pixels = built.classifier.normalise(batch["inputs"])
        if baseline == "none":
            expected = built.classifier(0.6 * pixels + 0.4 * pixels[mixture.partners])
        else:
            features = built.classifier.encoder(pixels).reshape(2, 3, -1)
            personal = (features - features.mean(dim=1, keepdim=True)).flatten(0, 1)
            expected = built.classifier.head(0.6 * personal + 0.4 * personal[mixture.partners])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_mixup_trains():
    built = build_model("improved_cnn", num_outputs=1, image_size=SIZE)
    config = TrainConfig(image_size=SIZE, epochs=4, batch_size=8, scratch_lr=2e-3, mixup=0.2)
    train, validation = make_frames([16, 16]), make_frames([12])
    result = fit_network(
        built, train=train, validation=validation, scheme=SMILE, config=config, baseline="none", seed=0
    )
    assert result.history[-1]["validation_loss"] < np.log(2)
    with pytest.raises(UserError, match="mixup must be at least 0"):
        TrainConfig(mixup=-1)


# --- sampling


def test_each_participant_comes_equally_often():
    frames = make_frames([40, 8, 3], unlabelled_every=5)
    sampler = BalancedBatches(frames, batch_size=16, seed=1)
    seen: Counter[int] = Counter()
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(len(batch) == 16 for batch in batches[:-1])
        rows = list(chain(*batches))
        # As many as there are labelled frames: 51 less every fifth, 40, so 13 of each.
        assert np.bincount(frames.participants[rows]).tolist() == [13, 13, 13]
        assert (frames.targets[rows] >= 0).all()
        counts = Counter(rows)
        for person in range(3):
            mine = [counts[row] for row in frames.labelled if frames.participants[row] == person]
            assert max(mine) - min(mine) <= 1
        seen.update(rows)
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    # Who has more than a fair share is seen in another part each time.
    assert sum(seen[row] > 0 for row in frames.labelled if frames.participants[row] == 0) > 20


def test_balanced_groups_of_recordings():
    frames = make_frames([40, 8, 3], unlabelled_every=5)
    sampler = BalancedRecordingBatches(frames, batch_size=8, frames_per_recording=4, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    groups: Counter[int] = Counter()
    for batch in batches:
        counts = np.bincount(frames.recordings[batch], minlength=3)
        # Two groups of 4 in a batch; the short recording has 3 frames.
        assert set(counts.tolist()) <= {0, 3, 4, 6, 8}
        groups += Counter({person: -(-int(count) // 4) for person, count in enumerate(counts) if count})
    assert len(set(groups.values())) == 1 and set(groups) == {0, 1, 2}


def test_who_comes_equally_often_is_not_weighted_once_more():
    frames = make_frames([40, 8, 3], unlabelled_every=5)
    weights = FrameBatches(frames, inputs=torch.from_numpy, balanced=True).weights
    assert weights.tolist() == (frames.targets >= 0).astype(float).tolist()
    plain = FrameBatches(frames, inputs=torch.from_numpy).weights
    np.testing.assert_array_equal(plain, participant_weights(frames.participants, targets=frames.targets))


@pytest.mark.parametrize("baseline", ["none", "recording"])
def test_balanced_sampling_trains(baseline):
    built = build_model("improved_cnn", num_outputs=1, image_size=SIZE)
    config = TrainConfig(image_size=SIZE, epochs=3, batch_size=8, scratch_lr=2e-3, sampling="participants")
    result = fit_network(
        built,
        train=make_frames([24, 12, 6]),
        validation=make_frames([10, 10]),
        scheme=SMILE,
        config=config,
        baseline=baseline,
        seed=0,
    )
    assert result.history[-1]["validation_loss"] < np.log(2)
