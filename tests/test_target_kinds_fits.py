"""Channels and numbers learnt, judged after each epoch, exported and predicted: losses, probes, networks, bundles."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from mien.annotations.elan import read_elan
from mien.cli.main import app
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.crossval.folds import predictions_table
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.evaluation.continuous import ccc
from mien.evaluation.probe import ProbeConfig, fit_probe
from mien.explain.run import ExplainOptions, explain
from mien.explain.subjects import NetworkBuilder, open_bundle
from mien.models.choice import parse_model
from mien.models.onnx_writer import write_linear_head
from mien.models.registry import MODELS, build_model, build_sequence_network
from mien.models.sequence_parts import HeadShape, SequenceEntry, example_inputs
from mien.predict.elan_timeline import predicted_intervals
from mien.predict.predictor import predict_files
from mien.runtime.bundle import Bundle
from mien.runtime.head import OnnxHead
from mien.runtime.windows import WindowSpec
from mien.training.bundle_writer import write_bundle
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.fit import fit_network, predict_logits
from mien.training.inference import evaluating
from mien.training.loaders import FrameSet, channel_weights, number_scale
from mien.training.mixup import Mixture
from mien.training.model_fit import fit_model
from mien.training.objective import Objective, ccc_loss, epoch_score, fold_scale
from mien.training.settings import FitSettings

AB = LabelScheme("A,B", "multilabel", ("A", "B"), "synthetic")
NUMBERS = LabelScheme("u,v", "continuous", ("u", "v"), "synthetic")
NAN = float("nan")
SIZE = 32
# Few people, and labels that a program made, are what the drawn study is.
OVERRIDES = ("few-participants",)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def frame_set(targets: np.ndarray, *, pixels: np.ndarray | None = None, per_recording: int = 10) -> FrameSet:
    recordings = np.arange(len(targets)) // per_recording
    shown = np.zeros((len(targets), SIZE, SIZE, 3), np.uint8) if pixels is None else pixels
    ids = np.array([str(row) for row in range(len(targets))], object)
    return FrameSet(lambda rows: shown[rows], targets, recordings, recordings // 2, ids)


def seen_frames(num: int, *, kind: str, seed: int = 0) -> FrameSet:
    """Frames whose left half is bright by one label and right half by another; every fifth label is missing."""
    generator = np.random.default_rng(seed)
    labels = generator.random((num, 2)).astype(np.float32)
    if kind == "multilabel":
        labels = (labels < 0.4).astype(np.float32)
    pixels = generator.integers(0, 60, (num, SIZE, SIZE, 3)).astype(np.float32)
    pixels[:, :, : SIZE // 2] += 180 * labels[:, 0, None, None, None]
    pixels[:, :, SIZE // 2 :] += 180 * labels[:, 1, None, None, None]
    if kind == "continuous":
        labels = labels * np.float32([100.0, 2.0]) + np.float32([-50.0, 7.0])
    labels[generator.random((num, 2)) < 0.2] = NAN
    return frame_set(labels, pixels=pixels.astype(np.uint8))


# --- losses


@pytest.mark.parametrize("scheme", [AB, NUMBERS])
def test_what_is_missing_has_no_loss_and_no_gradient(scheme):
    targets = torch.tensor([[1.0, NAN], [0.0, NAN], [NAN, NAN], [1.0, 0.0], [0.0, 1.0]])
    train = frame_set(np.array([[0, 0], [1, 1], [0, 1], [1, 0]], np.float32))
    objective = Objective.of(train, scheme=scheme)
    logits = torch.linspace(-1, 1, 10).reshape(5, 2).requires_grad_()
    loss = objective.mean(logits, targets=targets, weights=torch.ones(5))
    loss.backward()
    loss = loss.detach()
    assert math.isfinite(float(loss)) and torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad == 0, torch.isnan(targets))
    # A changed prediction of what nobody labelled changes nothing.
    other = logits.detach().clone()
    other[torch.isnan(targets)] = 99.0
    assert float(objective.mean(other, targets=targets, weights=torch.ones(5))) == pytest.approx(float(loss))
    nothing = objective.mean(logits, targets=torch.full((5, 2), NAN), weights=torch.ones(5))
    assert nothing.requires_grad and float(nothing.detach()) == 0.0


def test_both_sides_of_a_channel_count_the_same_and_rare_ones_are_limited():
    targets = np.zeros((200, 3), np.float32)
    targets[:50, 0], targets[0, 1] = 1, 1
    weights = channel_weights(frame_set(targets, per_recording=100), scheme=AB)
    np.testing.assert_allclose(weights[:, 0], [200 / (2 * 150), 2.0])
    # One frame of two hundred would weigh 100; a channel that never shows has nothing to balance.
    np.testing.assert_allclose(weights[1, 1:], [30.0, 1.0])
    know_nothing = Objective("multilabel", torch.from_numpy(weights[:, :1])).mean(
        torch.zeros(200, 1), targets=torch.from_numpy(targets[:, :1]), weights=torch.ones(200)
    )
    assert float(know_nothing) == pytest.approx(math.log(2))
    with pytest.raises(UserError, match="No channel of 'A,B' varies in the training frames"):
        channel_weights(frame_set(np.zeros((4, 2), np.float32)), scheme=AB)


def test_the_loss_of_numbers_is_one_minus_the_ccc_of_the_evaluation():
    generator = np.random.default_rng(0)
    true = generator.normal(size=50)
    said = 0.6 * true + generator.normal(size=50) * 0.5 + 0.3
    loss = ccc_loss(torch.from_numpy(said), torch.from_numpy(true), weights=torch.full((50,), 3.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(1 - ccc(true, said), abs=1e-12)
    # Whom weights leave out doesn't count.
    weights = torch.cat([torch.ones(20), torch.zeros(30)])
    part = ccc_loss(torch.from_numpy(said), torch.from_numpy(true), weights=weights.double())
    assert float(part) == pytest.approx(1 - ccc(true[:20], said[:20]), abs=1e-12)


def test_numbers_are_learnt_on_their_own_scale_which_is_folded_into_the_network():
    # The first participant's three frames count as much as the second's one.
    frames = frame_set(np.array([[10, 1], [10, NAN], [10, 1], [30, 3]], np.float32), per_recording=1)
    frames = dataclasses.replace(frames, participants=np.array([0, 0, 0, 1]))
    centre, spread = number_scale(frames, scheme=NUMBERS)
    np.testing.assert_allclose(centre, [20, (2 / 3 + 3) / (2 / 3 + 1)])
    np.testing.assert_allclose(spread[0], 10)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    given = torch.randn(5, 3)
    before = network(given)
    fold_scale(network, centre=torch.from_numpy(centre), spread=torch.from_numpy(spread), examples=[given])
    torch.testing.assert_close(network(given), before * torch.from_numpy(spread) + torch.from_numpy(centre))
    another_way = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    with pytest.raises(AssertionError, match="other layers"):
        fold_scale(another_way, centre=torch.from_numpy(centre), spread=torch.from_numpy(spread), examples=[given])
    with pytest.raises(UserError, match="'v' never varies in the training frames"):
        number_scale(frame_set(np.array([[1, 5], [2, 5]], np.float32)), scheme=NUMBERS)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if isinstance(entry, SequenceEntry)])
def test_the_scale_of_numbers_can_be_folded_into_every_sequence_network(name):
    spec = WindowSpec(
        MODELS[name].modalities,
        sequence_length=3,
        context_s=0.4,
        feature_dim=6,
        signal_names=("A",),
        recording_frames=4,
    )
    shape = HeadShape.of(spec, num_outputs=2, fusion="cross_attention")
    network = build_sequence_network(name, shape=shape, seed=0)
    for parameter in network.parameters():
        # No way to the output may hide behind weights that begin at 0.
        torch.nn.init.normal_(parameter, std=0.1)
    given = [
        torch.ones_like(v) if k.endswith("mask") else torch.randn(v.shape)
        for k, v in example_inputs(spec, num=4).items()
    ]
    with evaluating(network):
        before = network(*given)
    fold_scale(network, centre=torch.tensor([5.0, -1.0]), spread=torch.tensor([2.0, 30.0]), examples=given)
    with evaluating(network):
        torch.testing.assert_close(
            network(*given), before * torch.tensor([2.0, 30.0]) + torch.tensor([5.0, -1.0]), atol=1e-3, rtol=1e-4
        )


def test_mixed_numbers_are_learnt_as_numbers_and_of_mixed_channels_both_losses():
    train = frame_set(np.array([[0, 0], [1, 1]], np.float32))
    targets, weights = torch.tensor([[0.0, NAN], [1.0, 1.0], [NAN, NAN]]), torch.ones(3)
    mixture = Mixture.draw(targets, alpha=0.4, seed=3)
    assert mixture.partners[2] == 2  # nothing is known of it: it is mixed with itself
    logits = torch.randn(3, 2)
    for scheme in (AB, NUMBERS):
        objective = Objective.of(train, scheme=scheme)
        found = objective.mixed(logits, mixture=mixture, targets=targets, weights=weights)
        partners, share = mixture.partners, mixture.share
        parts = [objective.mean(logits, targets=t, weights=weights) for t in (targets, targets[partners])]
        expected = share * parts[0] + (1 - share) * parts[1]
        if scheme is NUMBERS:
            blend = share * targets + (1 - share) * targets[partners]
            expected = objective.mean(logits, targets=blend, weights=weights)
        assert float(found) == pytest.approx(float(expected))


def test_the_score_of_an_epoch_is_the_mean_over_the_channels_that_have_one():
    targets = np.array([[1, 0], [0, 0], [1, NAN]], np.float32)
    assert epoch_score(np.array([[1, 9], [-1, 9], [-1, 9]]), targets=targets, scheme=AB) == 0.75
    numbers = np.array([[1, 5], [2, 5], [3, NAN]], np.float32)
    said = np.array([[2, 0], [3, 0], [4, 0]], np.float32)
    assert epoch_score(said, targets=numbers, scheme=NUMBERS) == pytest.approx(ccc(numbers[:, 0], said[:, 0]))


# --- probes


def probe_data(kind: str) -> dict:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 5))
    hidden = features[:, :2] + 0.3 * generator.normal(size=(120, 2))
    targets = (hidden > 0.5).astype(np.float64) if kind == "multilabel" else 40 * hidden + 10
    targets[::4, 1] = NAN
    return {"features": features, "targets": targets, "participants": np.repeat(list("abcd"), 30).astype(object)}


@pytest.mark.parametrize("scheme", [AB, NUMBERS])
def test_a_probe_of_channels_is_one_per_channel_and_its_onnx_says_the_same(scheme, tmp_path):
    data = probe_data(scheme.kind)
    config = ProbeConfig(C=1.0)
    probe = fit_probe(**data, scheme=scheme, config=config)
    logits = probe.logits(data["features"])
    for channel in range(2):
        known = np.isfinite(data["targets"][:, channel])
        true, said = data["targets"][known, channel], logits[known, channel]
        good = ccc(true, said) if scheme is NUMBERS else np.mean((said > 0) == (true == 1))
        assert good > 0.85
    write_linear_head(
        tmp_path / "head.onnx", mean=probe.mean, scale=probe.scale, coef=probe.coef, intercept=probe.intercept
    )
    np.testing.assert_allclose(OnnxHead(tmp_path / "head.onnx").logits(data["features"]), logits, atol=2e-4)


def test_a_channel_of_a_probe_is_the_probe_of_that_channel_alone():
    data = probe_data("multilabel")
    binary = LabelScheme("A", "binary", ("not A", "A"), "synthetic")
    together = fit_probe(**data, scheme=AB, config=ProbeConfig())
    alone = fit_probe(
        **{**data, "targets": data["targets"][:, 0].astype(np.int64)}, scheme=binary, config=ProbeConfig()
    )
    np.testing.assert_allclose(together.coef[0], alone.coef[0])
    assert together.intercept[0] == pytest.approx(alone.intercept[0])


def test_a_channel_that_never_shows_in_training_is_constant_and_unsure():
    data = probe_data("multilabel")
    data["targets"][:, 1] = np.where(np.isfinite(data["targets"][:, 1]), 0.0, NAN)
    probe = fit_probe(**data, scheme=AB, config=ProbeConfig())
    assert not probe.coef[1].any() and probe.intercept[1] == pytest.approx(math.log(0.5 / 90.5))
    data["targets"][:] = 0.0
    with pytest.raises(UserError, match="No channel of 'A,B' varies in the training participants"):
        fit_probe(**data, scheme=AB, config=ProbeConfig())


# --- networks


@pytest.mark.parametrize("scheme", [AB, NUMBERS], ids=["multilabel", "continuous"])
@pytest.mark.parametrize("options", [{}, {"mixup": 0.2, "sampling": "participants"}], ids=["plain", "mixup"])
def test_a_network_learns_channels(scheme, options):
    config = TrainConfig(image_size=SIZE, epochs=4, batch_size=16, scratch_lr=2e-3, augment=False, **options)
    built = build_model("improved_cnn", num_outputs=2, image_size=SIZE, seed=0)
    validation = seen_frames(40, kind=scheme.kind, seed=1)
    fit = fit_network(
        built,
        train=seen_frames(100, kind=scheme.kind),
        validation=validation,
        scheme=scheme,
        config=config,
        baseline="none",
        seed=5,
    )
    name = "validation_ccc" if scheme is NUMBERS else "validation_balanced_accuracy"
    said = predict_logits(built.classifier, validation, baseline="none", batch_size=16)
    assert fit.history[fit.best_epoch - 1][name] > 0.5
    # The network as it was left predicts in the numbers' own unit what was measured on the scale of training.
    unit = epoch_score(said, targets=validation.targets, scheme=scheme)
    assert unit == pytest.approx(fit.history[fit.best_epoch - 1][name], abs=1e-4)


# --- a study: train, bundle, predict


def level_rows(dataset: Dataset) -> pd.DataFrame:
    """A rating by half seconds of each recording: high while the person smiles."""
    smiles = dataset.annotations[dataset.annotations["scheme"] == "Smile"]
    rows = []
    for number, recording in enumerate(dataset.recordings.to_dict("records")):
        own = smiles[smiles["recording_id"] == recording["recording_id"]]
        for onset_s in np.arange(0.0, recording["duration_s"], 0.5):
            smiling = ((own["onset_s"] <= onset_s) & (own["offset_s"] > onset_s)).any()
            value = f"{20.0 + 3.5 * number + 40.0 * smiling + onset_s:.2f}"
            rows.append((recording["recording_id"], onset_s, onset_s + 0.5, "Level", value, "", "synthetic", NAN))
    return pd.DataFrame(rows, columns=dataset.annotations.columns)


@pytest.fixture(scope="module")
def rated_dataset(drawn_dataset, tmp_path_factory) -> Path:
    """The drawn study with a rating in numbers."""
    path = tmp_path_factory.mktemp("rated") / "D"
    shutil.copytree(drawn_dataset.path, path)
    both = [drawn_dataset.annotations, level_rows(drawn_dataset)]
    pd.concat(both, ignore_index=True).to_parquet(path / "annotations.parquet")
    return path


def first_video(study: Path) -> Path:
    return sorted(study.glob("Analysis/Respondent Cameras/*.mp4"))[0]


def test_train_writes_a_bundle_that_predicts_numbers_in_their_own_unit(rated_dataset, drawn_study, tmp_path):
    plan = plan_training(
        rated_dataset, target="Level", model="linear_probe@hog+recording", out=tmp_path / "B", overrides=OVERRIDES
    )
    assert plan.estimate()["target"] == "Level"
    assert train_bundle(plan)["max_abs_diff_logit"] < 1e-2
    assert Bundle.open(tmp_path / "B").spec.labels == plan.clips.scheme
    assert "| numbers | Level |" in (tmp_path / "B/MODEL_CARD.md").read_text()
    (result,) = predict_files(tmp_path / "B", videos=[first_video(drawn_study)], out=tmp_path / "P", elan=True)
    timeline = pd.read_csv(result["timeline"])
    assert timeline["value_Level"].between(-20, 150).all() and not any(c.startswith("prob_") for c in timeline)
    assert "Number at each sampled frame" in Path(result["plot"]).read_text()
    assert set(read_elan(Path(result["elan"])).intervals["label"]) == {"Level above the own median"}


def test_the_commands_of_the_document_run(rated_dataset, drawn_study, tmp_path, monkeypatch):
    """Word for word; one channel of the bundle is then explained like a model of that channel alone."""
    page = Path(__file__).parents[1] / "docs/targets.md"
    (block,) = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    (tmp_path / "demo/newcomer").mkdir(parents=True)
    (tmp_path / "demo/newcomer/video.mp4").symlink_to(first_video(drawn_study))
    (tmp_path / "dataset").symlink_to(rated_dataset)
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.stderr}"
    assert "| channels | Smile, Speaking |" in (tmp_path / "bundle/MODEL_CARD.md").read_text()
    timeline = pd.read_csv(tmp_path / "predictions/video.timeline.csv")
    assert [c for c in timeline if c.startswith(("prob_", "value_"))] == ["prob_Smile", "prob_Speaking"]
    assert timeline[["prob_Smile", "prob_Speaking"]].notna().any().all()
    tiers = read_elan(tmp_path / "predictions/video.eaf").intervals["label"]
    assert set(tiers) <= {"Smile", "Speaking"} and len(tiers)
    explained = json.loads((tmp_path / "why/explanations.json").read_text())
    assert explained["target"] == "Smile" and {row["answer"] for row in explained["frames"]} <= {"Smile", "not Smile"}
    refused = [
        ([], "say with --channel whose answers are to be explained"),
        (["--channel", "Joy"], "Unknown channel 'Joy'. Known: Smile, Speaking"),
    ]
    for options, message in refused:
        result = CliRunner().invoke(app, ["explain", "bundle", "demo/newcomer/video.mp4", "--out", "other", *options])
        assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_predictions_hold_answers_and_labels_of_each_channel(rated_dataset):
    class Run:
        run_id = "r"

    dataset = Dataset.open(rated_dataset)
    choice = parse_model("linear_probe@hog", default_baseline="none")
    for target, columns in {"Smile,Speaking": ["prob_Smile", "prob_Speaking"], "Level": ["value_Level"]}.items():
        Run.clips = clips = build_clips(dataset, target=target)
        people = sorted(clips.table["participant_id"].unique())
        fitted = fit_model(
            choice,
            dataset=dataset,
            clips=clips,
            train=people[:4],
            validation=people[4:5],
            settings=FitSettings(),
            seed=0,
        )
        table = predictions_table(*fitted.predict(people[5:]), comparison=Run, choice=choice, fold=0)
        assert [name for name in table if name.startswith(("prob_", "value_"))] == columns
        labels = [f"target_{name}" for name in target.split(",")]
        own = clips.table[clips.table["participant_id"].isin(people[5:])]
        np.testing.assert_array_equal(table[labels].to_numpy(), own[labels].to_numpy())
        if target == "Level":
            # The rating's own unit, not a scale of the training.
            assert table["value_Level"].between(-20, 150).all() and table["value_Level"].mean() > 15


@pytest.mark.parametrize("target", ["Smile,Speaking", "Level"])
def test_a_sequence_network_learns_channels_and_its_bundle_says_the_same(rated_dataset, tmp_path, target):
    dataset = Dataset.open(rated_dataset)
    clips = build_clips(dataset, target=target)
    people = sorted(clips.table["participant_id"].unique())
    brief = {"epochs": 2, "clips_per_recording": 6, "sequence_length": 3}
    fitted = fit_model(
        parse_model("temporal_vit@hog+recording", default_baseline="none"),
        dataset=dataset,
        clips=clips,
        train=people[:4],
        validation=people[4:],
        settings=FitSettings(per_model={"temporal_vit": brief}),
        seed=0,
    )
    # The exported head is compared with the network in the numbers' own unit: the scale was folded in.
    parity = write_bundle(fitted, out=tmp_path / "B", label="temporal_vit", provenance={})
    assert parity["clips"] > 10 and parity["max_abs_diff_logit"] < 1e-2
    assert (parity["max_abs_diff_prob"] is None) == (target == "Level")
    score = fitted.history[fitted.best_epoch - 1]
    rows, logits = fitted.predict(people[4:])
    assert logits.shape == (len(rows), len(target.split(",")))
    if target == "Level":
        assert 10 < logits.mean() < 90
        assert ccc(rows["target_Level"].to_numpy(), logits[:, 0]) == pytest.approx(score["validation_ccc"], abs=1e-3)
        return
    asked = ExplainOptions(frames=2, participants=2, channel="Speaking")
    explained = explain(tmp_path / "B", rated_dataset, out=tmp_path / "why", options=asked)
    assert explained["target"] == "Speaking"


def test_one_channel_of_a_network_is_explained_by_the_weights_of_that_channel(rated_dataset, tmp_path):
    dataset = Dataset.open(rated_dataset)
    clips = build_clips(dataset, target="Smile,Speaking")
    people = sorted(clips.table["participant_id"].unique())
    training = {"epochs": 1, "image_size": SIZE, "batch_size": 16}
    fitted = fit_model(
        parse_model("improved_cnn", default_baseline="none"),
        dataset=dataset,
        clips=clips,
        train=people[:4],
        validation=people[4:],
        settings=FitSettings(per_model={"improved_cnn": training}),
        seed=0,
    )
    write_bundle(fitted, out=tmp_path / "B", label="improved_cnn", provenance={})
    whole, single = Bundle.open(tmp_path / "B"), open_bundle(tmp_path / "B", channel="Speaking")
    assert single.spec.labels == LabelScheme("Speaking", "binary", ("not Speaking", "Speaking"), "synthetic")
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIZE, SIZE, 3), dtype=np.uint8)
    features = whole.encoder.encode(pixels)
    expected = whole.head.logits(features)[:, 1:]
    np.testing.assert_array_equal(single.head.logits(features), expected)
    subject = NetworkBuilder.of(single).trained()
    np.testing.assert_allclose(subject.logits(subject.features(pixels)), expected, atol=1e-4)
    assert NetworkBuilder.of(single).randomised(seed=1).logits(features).shape == (3, 1)


def test_numbers_and_bundles_without_channels_cannot_be_asked_for_one(rated_dataset, tmp_path):
    dataset = Dataset.open(rated_dataset)
    choice = parse_model("linear_probe@hog", default_baseline="none")
    for target, options, message in (
        ("Level", {}, "'Level' is a number"),
        ("Smile", {"channel": "Smile"}, "'Smile' is binary, and has no channels to choose from"),
    ):
        clips = build_clips(dataset, target=target)
        people = sorted(clips.table["participant_id"].unique())
        fitted = fit_model(
            choice,
            dataset=dataset,
            clips=clips,
            train=people[:4],
            validation=people[4:],
            settings=FitSettings(),
            seed=0,
        )
        write_bundle(fitted, out=tmp_path / target, label="probe", provenance={})
        with pytest.raises(UserError, match=message):
            open_bundle(tmp_path / target, **options)


def test_stretches_of_channels_are_intervals_of_each():
    start_s = np.arange(4) * 0.5
    times = pd.DataFrame({"recording_id": "v", "start_s": start_s, "end_s": start_s + 0.5})
    found = predicted_intervals(times.assign(prob_A=[0.9, 0.8, 0.1, 0.2], prob_B=[0.1, 0.9, NAN, 0.7]), labels=AB)
    assert found[["label", "onset_s", "offset_s"]].to_numpy().tolist() == [
        ["A", 0.0, 1.0],
        ["B", 0.5, 1.0],
        ["B", 1.5, 2.0],
    ]
    above = predicted_intervals(times.assign(value_u=[1.0, 5.0, 6.0, NAN], value_v=1.0), labels=NUMBERS)
    assert above[["label", "onset_s", "offset_s"]].to_numpy().tolist() == [["u above the own median", 1.0, 1.5]]
    assert "confidence" not in above
