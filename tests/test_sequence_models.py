"""Networks over windows of features, sound and signals: built, trained, exported, fitted, bundled, predicted."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import read_json
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.splits import holdout_split
from mien.models.choice import parse_model
from mien.models.onnx_writer import export_sequence_head
from mien.models.registry import MODELS, build_sequence_network, describe_models
from mien.models.sequence_parts import HeadShape, SequenceEntry, average_steps, example_inputs
from mien.predict.predictor import predict_timeline
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import Bundle
from mien.runtime.sound import HOP_S, NUM_MELS, LogMel
from mien.runtime.windows import INPUTS, RecordingView, WindowSpec
from mien.training.bundle_writer import write_bundle
from mien.training.checks import check_model
from mien.training.model_fit import fit_model
from mien.training.sequence_batches import WindowSet
from mien.training.sequence_config import SequenceConfig
from mien.training.sequence_draws import RandomClips
from mien.training.sequence_training import SequenceFit, window_logits
from mien.training.settings import FitSettings, load_settings

SEQUENCES = [name for name, entry in MODELS.items() if isinstance(entry, SequenceEntry)]
CONFIGURATIONS = [(name, "cross_attention") for name in SEQUENCES]
CONFIGURATIONS += [("multimodal_fusion", "concat"), ("multimodal_fusion", "gated")]
SENSOR = "GSR Conductance CAL"
DOCS = Path(__file__).parents[1] / "docs"
BRIEF = {"epochs": 2, "clips_per_recording": 4, "sequence_length": 3, "context_s": 0.5}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _spec(name, **changes):
    values = {"sequence_length": 3, "context_s": 0.4, "feature_dim": 6, "signal_names": ("A", "B")}
    return WindowSpec(MODELS[name].modalities, **(values | changes))


def _network(name, *, fusion="cross_attention", num_outputs=2, seed=0):
    spec = _spec(name)
    shape = HeadShape(num_outputs, spec.feature_dim, spec.sequence_length, len(spec.signal_names), fusion)
    return build_sequence_network(name, shape=shape, seed=seed), spec


def _random_inputs(spec, *, num=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    examples = example_inputs(spec, num=num)
    return {k: v if k.endswith("mask") else torch.randn(v.shape, generator=generator) for k, v in examples.items()}


def test_all_that_the_design_names_are_there_and_counted():
    rows = {row["name"]: row for row in describe_models()}
    assert set(SEQUENCES) == {"temporal_vit", "audio_wavenet", "signals_net", "multimodal_fusion"}
    assert rows["multimodal_fusion"]["modalities"] == ["video", "audio", "signals"]
    for name in SEQUENCES:
        shape = HeadShape(num_outputs=1, feature_dim=900, sequence_length=5, num_signals=1)
        counted = sum(p.numel() for p in build_sequence_network(name, shape=shape).parameters())
        assert rows[name]["parameters"] == rows[name]["trainable_parameters"] == counted


@pytest.mark.parametrize(("name", "fusion"), CONFIGURATIONS)
def test_what_is_masked_does_not_count(name, fusion):
    network, spec = _network(name, fusion=fusion)
    network.eval()
    for modality in spec.modalities:
        values, mask = INPUTS[modality]
        inputs = _random_inputs(spec)
        inputs[mask] = torch.zeros_like(inputs[mask])
        inputs[values] = torch.zeros_like(inputs[values])
        with torch.no_grad():
            without = network(*inputs.values())
            inputs[values] = torch.full_like(inputs[values], 7.0)
            torch.testing.assert_close(network(*inputs.values()), without)
        assert torch.isfinite(without).all()


@pytest.mark.parametrize(("name", "fusion"), [("multimodal_fusion", "concat"), ("multimodal_fusion", "gated")])
def test_onnx_computes_the_same_where_everything_is_masked(name, fusion, tmp_path):
    network, spec = _network(name, fusion=fusion)
    path = tmp_path / "head.onnx"
    assert export_sequence_head(network, path, windows=spec) < 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert tuple(item.name for item in session.get_inputs()) == spec.input_names
    inputs = _random_inputs(spec, num=7, seed=3)
    inputs = {key: torch.zeros_like(v) if key.endswith("mask") else v for key, v in inputs.items()}
    with torch.no_grad():
        expected = network.eval()(*inputs.values()).numpy()
    found = session.run(["logits"], {key: v.numpy() for key, v in inputs.items()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_average_steps_shares_a_step_between_two_stretches():
    # 5 steps in 2 stretches: the middle one counts half for each.
    found = average_steps(torch.tensor([[[2.0, 2.0, 7.0, 4.0, 4.0]]]), 2)
    # (2 + 2 + 7 / 2) / 2.5 and (7 / 2 + 4 + 4) / 2.5.
    torch.testing.assert_close(found, torch.tensor([[[3.0, 4.6]]]))


def test_names_and_what_they_take():
    choice = parse_model("temporal_vit")
    assert (choice.backbone, str(choice.baseline), choice.is_sequence) == ("hog", "none", True)
    choice = parse_model("multimodal_fusion@some/net.onnx+running")
    assert (choice.backbone, str(choice.baseline)) == ("some/net.onnx", "running")
    assert parse_model("audio_wavenet", default_baseline="recording").baseline == PersonalBaseline()
    for text in ("audio_wavenet@hog", "signals_net+recording"):
        with pytest.raises(UserError, match="looks at no frames"):
            parse_model(text)


def test_settings_are_checked(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("models: {multimodal_fusion: {fusion: gated, sequence_length: 9}, temporal_vit: {}}")
    settings = load_settings(path, epochs=3)
    config = settings.for_sequence("multimodal_fusion")
    assert (config.fusion, config.sequence_length, config.epochs) == ("gated", 9, 3)
    assert settings.for_sequence("temporal_vit").sequence_length is None
    for text, message in (
        ("{temporal_vit: {image_size: 64}}", "image_size"),
        ("{multimodal_fusion: {fusion: sum}}", "'concat', 'cross_attention', 'gated'"),
        ("{signals_net: {context_s: 0}}", "context_s must be at least"),
    ):
        path.write_text(f"models: {text}")
        with pytest.raises(UserError, match=re.escape(message)):
            load_settings(path)
    entry = MODELS["temporal_vit"]
    assert [SequenceConfig().length_of(entry, fps=fps) for fps in (1, 2, 3, 4, 25)] == [5, 5, 7, 9, 11]


# A task of which sound and face each know all: who has lost one must do as well as who never had it.


def _made_up(participants, *, seed, modalities, mute=()):
    rng = np.random.default_rng(seed)
    views, rows = {}, []
    for person in participants:
        targets = rng.integers(0, 2, 30)
        features = rng.normal(0, 1, (30, 6))
        features[:, 0] += 3 * targets
        steps = np.round(np.arange(0, 30, HOP_S)).astype(int).clip(0, 29)
        sound = rng.normal(0, 1, (NUM_MELS, len(steps)))
        sound[:20] += 1.5 * targets[steps]
        views[person] = RecordingView(
            np.arange(30.0),
            features.astype(np.float32) if "video" in modalities else None,
            LogMel(sound.astype(np.float32), start_s=0.0) if "audio" in modalities and person not in mute else None,
            None,
        )
        rows += [(f"{person}@{i}", person, person, i, t) for i, t in enumerate(targets)]
    clips = pd.DataFrame(rows, columns=["clip_id", "recording_id", "participant_id", "frame", "target"])
    return WindowSet.of_views(clips, views, spec=_spec("multimodal_fusion"))


@functools.cache
def _fitted(fusion, *, modalities):
    network, _ = _network("multimodal_fusion", fusion=fusion, num_outputs=1)
    people = [f"p{i}" for i in range(16)]
    sides = [_made_up(part, seed=7, modalities=modalities) for part in (people[:10], people[10:14])]
    scheme = LabelScheme("made up", "binary", ("no", "yes"), label_source="synthetic")
    config = SequenceConfig(epochs=4, lr=1e-3, clips_per_recording=20, batch_size=32, modality_dropout=0.5)
    fit = SequenceFit(network, train=sides[0], validation=sides[1], scheme=scheme, config=config, seed=0)
    fit.run(print)
    return network


def _accuracy(network, *, modalities):
    test = _made_up([f"t{i}" for i in range(12)], seed=99, modalities=modalities)
    logits = window_logits(network, test, np.arange(len(test)))[:, 0]
    return float(((logits > 0) == test.clips["target"].to_numpy()).mean())


@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated"])
def test_a_modality_that_is_missing_costs_no_more_than_never_having_had_it(fusion):
    both = _fitted(fusion, modalities=("video", "audio"))
    for kept in ("video", "audio"):
        # Who never had more than one has nothing to fuse: one reference for all fusions.
        never_had = _accuracy(_fitted("concat", modalities=(kept,)), modalities=(kept,))
        lost = _accuracy(both, modalities=(kept,))
        assert never_had > 0.85
        assert lost > never_had - 0.06, f"{kept} alone: {lost:.3f}, never had the other: {never_had:.3f}"
    assert _accuracy(both, modalities=("video", "audio")) > 0.93


def test_modality_dropout_never_takes_the_only_one():
    windows = _made_up(["a", "b"], seed=0, modalities=("video", "audio"), mute=("b",))
    clips = RandomClips(windows, config=SequenceConfig(modality_dropout=1.0), seed=0)
    rows = np.arange(60)
    inputs = {name: torch.from_numpy(values) for name, values in windows.inputs(rows).items()}
    dropped = clips.drop_modalities(inputs, modalities=windows.spec.modalities, epoch=1, batch=0)
    seen, heard = dropped["frame_mask"].amax(dim=1), dropped["audio_mask"][:, 0]
    assert bool((seen[30:] == 1).all()) and bool((heard[30:] == 0).all())
    # The third modality is missing anyway: one draw in three takes nothing away.
    assert bool(((seen + heard)[:30] >= 1).all()) and 5 < int(((seen + heard)[:30] == 1).sum()) < 30
    for name, mask in (("features", seen), ("audio", heard)):
        assert not dropped[name][mask == 0].any()


def test_an_epoch_draws_some_clips_of_every_recording():
    windows = _made_up(["a", "b"], seed=0, modalities=("video",))
    clips = RandomClips(windows, config=SequenceConfig(clips_per_recording=7, batch_size=4), seed=0)
    first, second = np.concatenate(clips.epoch(1)), np.concatenate(clips.epoch(2))
    assert len(set(first)) == 14 and (first < 30).sum() == 7 and set(first) != set(second)
    # What an epoch draws doesn't depend on what was drawn before.
    assert np.array_equal(np.concatenate(clips.epoch(1)), first)


# End to end, on the drawn study.


def _fit(dataset, model, **changes):
    choice = parse_model(model)
    clips = build_clips(dataset, target="Smile")
    split = holdout_split(clips, seed=0)
    settings = FitSettings(per_model={choice.name: {**BRIEF, **changes}})
    fitted = fit_model(
        choice, dataset=dataset, clips=clips, train=split.train, validation=split.validation, settings=settings, seed=1
    )
    return fitted, split


@pytest.mark.parametrize("fusion", ["concat", "cross_attention", "gated"])
def test_the_shipped_fusions_fit(fusion, with_signals):
    clips = build_clips(with_signals, target="Smile")
    split = holdout_split(clips, seed=0)
    fitted = fit_model(
        parse_model("multimodal_fusion+recording"),
        dataset=with_signals,
        clips=clips,
        train=split.train,
        validation=split.validation,
        settings=load_settings(DOCS.parent / "configs" / f"fusion_{fusion}.yaml", epochs=1),
        seed=1,
    )
    assert fitted.network.fusion == fusion
    assert np.isfinite(fitted.predict(split.validation)[1]).all()


@pytest.fixture(scope="module")
def bundled(with_signals, tmp_path_factory):
    """Fits and bundles a model once, and gives the fit, the split and the folder."""
    root, made = tmp_path_factory.mktemp("bundles"), {}

    def give(model):
        if model not in made:
            fitted, split = _fit(with_signals, model)
            write_bundle(fitted, out=root / str(len(made)), label=model, provenance={})
            made[model] = (fitted, split, root / str(len(made)))
        return made[model]

    return give


@pytest.mark.parametrize("model", ["temporal_vit@hog+recording", "audio_wavenet", "signals_net", "multimodal_fusion"])
def test_from_fit_to_bundle_to_prediction(model, bundled, with_signals, drawn_study, tmp_path):
    fitted, split, folder = bundled(model)
    rows, logits = fitted.predict(split.validation)
    assert logits.shape == (len(rows), 1) and np.isfinite(logits).all()
    facts = fitted.facts()
    assert [row["epoch"] for row in facts["history"]] == [1, 2]
    assert facts["model_facts"]["trainable_parameters"] > 50_000 and facts["model_facts"]["flops"] > 0
    parity = read_json(folder / "parity.json")
    assert parity["clips"] > 0 and parity["max_abs_diff_logit"] < 1e-4
    bundle = Bundle.open(folder)
    assert bundle.spec.modalities == MODELS[fitted.choice.name].modalities
    assert "log-mel" in (folder / "MODEL_CARD.md").read_text() or "audio" not in bundle.spec.modalities
    # The same recording as a new file: the same logits, for sound to the last bit of its decoder.
    recording = with_signals.recordings.set_index("recording_id").loc[rows["recording_id"].iloc[0]]
    signals = None
    if bundle.needs_signals:
        table = pd.read_parquet(with_signals.path / "recordings" / recording.name / "signals.parquet")
        signals = _sensor_export(tmp_path, table)
    timeline = predict_timeline(bundle, drawn_study / recording["media"], signals=signals)
    own = rows["recording_id"] == recording.name
    found = timeline.set_index("start_s").filter(like="logit_").iloc[:, 0]
    expected = logits[own.to_numpy(), 0]
    np.testing.assert_allclose(found.loc[rows.loc[own, "start_s"]], expected, atol=2e-3)


def _sensor_export(folder, table):
    """Write a sensor's samples as iMotions exports them."""
    path = folder / "sensors.csv"
    head = f"#HEADER\nRespondent Name,AB 1\n#METADATA\nFieldName,Timestamp,EventSource,{SENSOR}\n"
    head += f"DataType,Double,Integer,Double\nUnits,ms,,microSiemens\n#DATA\nRow,Timestamp,EventSource,{SENSOR}\n"
    rows = zip(table["time_s"], table[SENSOR], strict=True)
    path.write_text(head + "".join(f"{i},{1000 * t:.3f},3,{v:.6f}\n" for i, (t, v) in enumerate(rows)))
    return path


def test_prediction_goes_on_without_what_is_missing_and_says_so(bundled, with_signals, drawn_study, capsys):
    fusion, sensors = (Bundle.open(bundled(model)[2]) for model in ("multimodal_fusion", "signals_net"))
    video = drawn_study / with_signals.recordings["media"].iloc[0]
    timeline = predict_timeline(fusion, video)
    assert timeline.filter(like="prob_").notna().all().all()
    assert "no signals (--signals names a sensor export); the model goes on without" in capsys.readouterr().err
    with pytest.raises(UserError, match="needs signals"):
        predict_timeline(sensors, video)
    with pytest.raises(UserError, match="doesn't look at pictures"):
        assert sensors.encoder


def test_a_sweep_shifts_whole_windows_by_the_baseline_of_what_is_drawn(bundled):
    fitted, split, _ = bundled("temporal_vit@hog+recording")
    rows = fitted.sweep(list(split.train), seed=0)
    assert set(rows["prevalence"]) == {0.0, 0.1, 0.3, 0.7, 1.0}
    assert rows["sensitivity"].notna().any()


def test_a_dataset_without_the_modality_is_refused_before_fitting(drawn_dataset, with_signals, tmp_path):
    heard_only = Dataset(drawn_dataset.path, info={**drawn_dataset.info, "signals": {"Speech": "", "Joy": ""}})
    with pytest.raises(UserError, match=r"needs sensor signals, and no recording .* has any \(channels: Joy, Speech"):
        check_model(parse_model("multimodal_fusion"), dataset=heard_only, settings=FitSettings())
    named = FitSettings(per_model={"signals_net": {"signals": ("Pulse",)}})
    with pytest.raises(UserError, match="Pulse"):
        check_model(parse_model("signals_net"), dataset=with_signals, settings=named)
    mute = tmp_path / "mute"
    shutil.copytree(drawn_dataset.path, mute)
    table = pd.read_parquet(mute / "recordings.parquet").assign(audio_start_s=np.nan)
    table.to_parquet(mute / "recordings.parquet")
    with pytest.raises(UserError, match="needs sound, and no recording"):
        check_model(parse_model("audio_wavenet"), dataset=Dataset.open(mute), settings=FitSettings())


def test_a_recording_without_sound_or_signals_is_masked(with_signals, tmp_path):
    path = tmp_path / "partly"
    shutil.copytree(with_signals.path, path)
    folders = sorted((path / "recordings").iterdir())
    (folders[0] / "audio.npy").unlink()
    (folders[1] / "signals.json").unlink()
    fitted, _ = _fit(Dataset.open(path), "multimodal_fusion")
    everyone = sorted(with_signals.recordings["participant_id"].unique())
    rows, logits = fitted.predict(everyone)
    assert rows["recording_id"].nunique() == len(folders) and np.isfinite(logits).all()
    spec = fitted.windows
    joined = WindowSet.of(
        fitted.material, everyone, spec=spec, encoder=fitted.encoder, baseline=PersonalBaseline()
    ).joined
    names = list(fitted.material.clips.table["recording_id"].unique())
    heard, felt = (dict(zip(names, np.diff(part.first), strict=True)) for part in (joined.sound, joined.signals))
    assert [heard[folder.name] > 0 for folder in folders[:3]] == [False, True, True]
    assert [felt[folder.name] > 0 for folder in folders[:3]] == [True, False, True]
