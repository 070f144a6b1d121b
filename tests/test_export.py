"""One ONNX of a bundle says what the bundle says, and int8 says what it costs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.errors import UserError
from mien.data.dataset import Dataset
from mien.export.baseline_part import FEATURES, PERSONAL, TIMES, baseline_part
from mien.export.graph import single_graph
from mien.export.hog_part import PIXELS, hog_part
from mien.export.int8 import quantise
from mien.export.int8_cost import advice_on
from mien.export.onnx_parts import FLAT, floats, make_part, save_model
from mien.export.run import choose_people, export_bundle
from mien.export.sound_part import SOUND, logmel_part, normalising_part
from mien.predict.recording import calibrated
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import HogEncoder, view_crops
from mien.runtime.sound import RATE_HZ
from mien.runtime.sound_encoders import LogMelEncoder, SoundSpec
from mien.training.config import TrainConfig
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings
from test_sound_encoders import write_speech_network

SETTINGS = FitSettings(training=TrainConfig(image_size=32, epochs=2, head_epochs=1), random_init=True)


def train(dataset, out, *, model: str, target: str = "Smile", settings: FitSettings = SETTINGS):
    train_bundle(plan_training(dataset.path, target=target, model=model, out=out, settings=settings))
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
    assert score["people"] == "inner split"
    assert report["speed"]["rows"] > 0 and report["speed"]["faster"] > 0
    assert report["advice"] == advice_on(score, report["speed"])
    graph = onnx.load(str(tmp_path / "small.onnx")).graph
    whole = {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    last = next(node for node in graph.node if "logits" in node.output)
    assert last.op_type == "Gemm" and last.input[1] in whole, "what makes the logits stays float32"
    weights = [
        onnx.numpy_helper.to_array(item) for item in graph.initializer if item.data_type == onnx.TensorProto.INT8
    ]
    assert len(weights) >= 4 and max(np.abs(item.astype(int)).max() for item in weights if item.ndim > 1) <= 64


def test_int8_needs_clips_to_measure_ranges_on(probe_bundle, tmp_path):
    save_model(single_graph(Bundle.open(probe_bundle)).model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="No clip of a training participant"):
        quantise(tmp_path / "model.onnx", tmp_path / "small.onnx", inputs=[])
    assert not (tmp_path / "small.onnx").exists()


def test_int8_that_is_not_worth_it_is_advised_against():
    def advice(loss, faster):
        return advice_on({"loss": {"mean": loss}}, {"faster": faster})

    assert advice(0.004, 1.4) == ""
    assert "loses 0.060" in advice(0.06, 1.2) and "times as long" not in advice(0.06, 1.2)
    assert "1.25 times as long" in advice(-0.01, 0.8) and "loses" not in advice(-0.01, 0.8)


def test_a_probe_on_hog_is_one_graph_from_its_pixels_on(probe_bundle, tmp_path):
    report = export_bundle(probe_bundle, out=tmp_path / "probe.onnx")
    assert report["start"] == "pixels" and report["inputs"] == {"pixels": ["batch", 96, 96, 3]}
    assert report["clips"] > 0 and report["max_abs_diff_logit"] < 1e-4


def test_a_backbone_of_others_is_joined_whatever_its_names(drawn_dataset, tmp_path):
    """Layout, colours, and inner names such as `flat` and `scale`, which parts of ours have too."""
    weights = np.random.default_rng(0).normal(0, 0.02, (32 * 32 * 3, 16)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        onnx.helper.make_node("MatMul", ["flat", "scale"], ["product"]),
        onnx.helper.make_node("Relu", ["product"], ["features"]),
    ]
    ends = [floats("input", "batch", 32, 32, 3)], [floats("features", "batch", 16)]
    save_model(make_part("other", nodes, *ends, scale=weights), tmp_path / "other.onnx")
    wanted = {"name": "input", "layout": "NHWC", "size": 32, "channels": "BGR", "scale": 1 / 255}
    sidecar = {"input": wanted | {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}, "features": "features"}
    (tmp_path / "other.onnx.json").write_text(json.dumps(sidecar))
    bundle = train(drawn_dataset, tmp_path / "bundle", model=f"linear_probe@{tmp_path / 'other.onnx'}+recording")
    report = export_bundle(bundle, out=tmp_path / "joined.onnx")
    assert report["inputs"] == {"pixels": ["batch", 32, 32, 3]} and report["max_abs_diff_logit"] < 1e-4


def run_part(model, folder, inputs, *, output):
    save_model(model, folder / "part.onnx")
    return onnxruntime.InferenceSession(str(folder / "part.onnx")).run([output], inputs)[0]


@pytest.mark.parametrize("text", ["none", "recording", "running", "first:2", "first:0.3"])
def test_every_baseline_is_the_runtimes_within_one_batch(text, tmp_path):
    baseline = PersonalBaseline.parse(text)
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, 1.0, (30, 7)).astype(np.float32)
    # Ten frames per second from .1 s: in float32, frames would be on the wrong side of .1 + 2.
    pts_s = 0.1 + np.arange(30) / 10
    inputs = {FEATURES: features} | ({TIMES: pts_s} if baseline.kind == "first" else {})
    model = baseline_part(baseline, width=7)
    assert [item.name for item in model.graph.input] == list(inputs)
    got = run_part(model, tmp_path, inputs, output=PERSONAL)
    np.testing.assert_allclose(got, baseline.subtract(features, pts_s=pts_s), atol=1e-5)


def test_the_first_seconds_need_the_times_of_the_frames(drawn_dataset, tmp_path):
    bundle = train(drawn_dataset, tmp_path / "bundle", model="linear_probe@hog+first:2")
    report = export_bundle(bundle, out=tmp_path / "first.onnx")
    assert report["max_abs_diff_logit"] < 1e-4 and report["inputs"]["pts_s"] == ["batch"]
    assert "pts_s (N,) float64" in report["takes"]


def test_hog_in_onnx_is_opencvs(drawn_dataset, tmp_path):
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(96), np.arange(96))
    slopes = [np.stack([a, b, a + b], axis=-1) for a, b in ((across, down), (95 - across, down), (across, 0 * down))]
    crops = drawn_dataset.crops(drawn_dataset.recordings["recording_id"].iloc[0])
    pictures = np.concatenate(
        [
            rng.integers(0, 256, (4, 96, 96, 3)),
            np.stack(slopes),
            np.stack([np.full((96, 96, 3), grey) for grey in (0, 255)]),
            view_crops(np.asarray(crops), margin=1.6, crop=1.15, size_px=96),
        ]
    ).astype(np.uint8)
    got = run_part(hog_part(), tmp_path, {PIXELS: pictures}, output=FLAT)
    expected = HogEncoder().encode(pictures)
    assert got.shape == expected.shape == (len(pictures), 900) and expected.max() > 0.2
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("seconds", [0.1, 0.31, 2.0])
def test_the_spectrograms_statistics_are_the_runtimes(seconds, tmp_path):
    rng = np.random.default_rng(1)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    loud = np.sin(2 * np.pi * 220 * time_s * (1 + time_s)) * np.linspace(0, 1, len(time_s))
    windows = np.stack([0.3 * loud + rng.normal(0, level, len(time_s)) for level in (0.0, 1e-4, 0.1)])
    windows = np.concatenate([windows, np.zeros((1, len(time_s)))]).astype(np.float32)
    got = run_part(logmel_part(), tmp_path, {SOUND: windows}, output=FLAT)
    expected = np.stack([LogMelEncoder().encode_window(window) for window in windows])
    assert got.shape == expected.shape
    # Without noise, bands lie 100 dB and more below the loudest: there float32 shows, and nothing can be heard.
    np.testing.assert_allclose(got[2:], expected[2:], atol=3e-5)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-3)
    np.testing.assert_allclose(got[0], expected[0], atol=0.1)


def test_sound_is_normalised_as_speech_networks_want_it(tmp_path):
    windows = np.random.default_rng(2).normal(0.2, 0.05, (3, 1600)).astype(np.float32)
    got = run_part(normalising_part(), tmp_path, {SOUND: windows}, output="normalised")
    expected = (windows - windows.mean(1, keepdims=True)) / np.sqrt(windows.var(1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("baseline", ["recording", "first:2"])
def test_a_probe_that_listens_starts_at_its_windows_of_sound(baseline, drawn_dataset, tmp_path):
    bundle = train(drawn_dataset, tmp_path / "bundle", model=f"linear_probe@logmel+{baseline}")
    report = export_bundle(bundle, out=tmp_path / "sound.onnx")
    assert report["start"] == "sound" and "windows of 2 s" in report["takes"]
    assert report["clips"] > 0 and report["max_abs_diff_logit"] < 1e-4
    assert report["inputs"]["sound"] == ["batch", "samples"]
    with pytest.raises(UserError, match="statistics, which int8 would spoil"):
        export_bundle(bundle, out=tmp_path / "small.onnx", int8=True)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.slow
def test_a_speech_network_takes_one_window_at_a_time(drawn_dataset, tmp_path):
    network = write_speech_network(tmp_path / "tiny_wavlm")
    bundle = train(drawn_dataset, tmp_path / "bundle", model=f"linear_probe@{network}")
    report = export_bundle(bundle, out=tmp_path / "speech.onnx")
    assert report["start"] == "sound" and report["takes"].startswith("sound (1, S)")
    assert report["max_abs_diff_logit"] < 1e-3
    small = export_bundle(bundle, out=tmp_path / "small.onnx", int8=True)
    assert small["bytes"] < small["bytes_float32"] and small["score"]["participants"] >= 1
    opened = Bundle.open(bundle)
    opened.baseline = PersonalBaseline.parse("recording")
    with pytest.raises(UserError, match="one window at a time"):
        single_graph(opened)


@pytest.mark.slow
def test_a_sequence_network_starts_at_its_windows(drawn_dataset, tmp_path):
    bundle = train(drawn_dataset, tmp_path / "bundle", model="temporal_vit@hog+recording")
    report = export_bundle(bundle, out=tmp_path / "t.onnx")
    assert report["start"] == "windows" and report["max_abs_diff_logit"] < 1e-4
    assert list(report["inputs"]) == ["features", "frame_mask"]


@pytest.mark.slow
def test_a_network_over_an_encoders_features_of_sound_is_given_those(drawn_dataset, tmp_path):
    settings = dataclasses.replace(
        SETTINGS,
        per_model={
            "audio_wavenet": {"audio_backbone": "logmel", "context_s": 1.0, "epochs": 1, "clips_per_recording": 3}
        },
    )
    bundle = train(drawn_dataset, tmp_path / "bundle", model="audio_wavenet", settings=settings)
    report = export_bundle(bundle, out=tmp_path / "a.onnx")
    assert report["max_abs_diff_logit"] < 1e-4 and "logmel's features" in report["takes"]


def test_calibrated_probabilities_are_an_output_where_all_are_calibrated(probe_bundle, tmp_path):
    bundle = Bundle.open(probe_bundle)
    plain = single_graph(bundle).model
    assert "calibrated" not in [item.name for item in plain.graph.output]  # six people are too few to calibrate on
    stored = {"kind": "binary", "slope": 0.7, "intercepts": [-0.4], "participants": 12, "note": ""}
    bundle.spec = dataclasses.replace(bundle.spec, calibration={"Smile": stored})
    save_model(single_graph(bundle).model, tmp_path / "c.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "c.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), np.uint8)
    logits, got = session.run(["logits", "calibrated"], {"pixels": pixels})
    np.testing.assert_allclose(got, calibrated(logits.astype(np.float64), spec=bundle.spec), atol=1e-6)


def test_who_is_scored_was_never_seen_where_the_dataset_holds_such_people(probe_bundle, drawn_dataset):
    bundle = Bundle.open(probe_bundle)
    known = bundle.spec.provenance["participants"]
    assert choose_people(bundle, drawn_dataset).who == "inner split"
    table = drawn_dataset.recordings
    more = Dataset(drawn_dataset.path, info=drawn_dataset.info)
    more.recordings = pd.concat([table, table.head(2).assign(participant_id=["new", "twin"])])
    facts = bundle.spec.provenance | {"audit": {"merged_participants": [[known[0], "twin"]]}}
    bundle.spec = dataclasses.replace(bundle.spec, provenance=facts)
    people = choose_people(bundle, more)
    assert (people.who, people.scored) == ("never seen", ("new",))
    assert not set(people.calibration) & set(facts["validation_participants"])


def test_what_cannot_be_exported_is_refused(probe_bundle, tmp_path):
    with pytest.raises(UserError, match=r"end in \.onnx"):
        export_bundle(probe_bundle, out=tmp_path / "model.bin")
    with pytest.raises(UserError, match="isn't a bundle"):
        export_bundle(tmp_path, out=tmp_path / "model.onnx")
    with pytest.raises(UserError, match="--dataset"):
        export_bundle(probe_bundle, out=tmp_path / "model.onnx", dataset=tmp_path)
    assert CliRunner().invoke(app, ["export", str(tmp_path), "--out", str(tmp_path / "a.onnx")]).exit_code == 2
    rest = Bundle.open(probe_bundle)
    rest.baseline = PersonalBaseline.parse("segment:rest")
    with pytest.raises(UserError, match=r"segments\.csv"):
        single_graph(rest)
    with pytest.raises(UserError, match="gradients, which int8 would spoil"):
        export_bundle(probe_bundle, out=tmp_path / "small.onnx", int8=True)
    voice = Bundle.open(probe_bundle)
    voice.spec = dataclasses.replace(voice.spec, modalities=("audio",), sound=SoundSpec("egemaps", window_s=2.0))
    with pytest.raises(UserError, match="openSMILE"):
        single_graph(voice)
    assert not list(tmp_path.iterdir())


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
