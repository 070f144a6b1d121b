"""Encoders of sound: built in, openSMILE's, speech networks; as backbones of the probe and of fusion; in a bundle."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mien.core.errors import RefusedError, UserError, WeightsError
from mien.core.storage import read_json
from mien.core.types import Audio
from mien.crossval.compare import plan_comparison, run_comparison
from mien.data.clips import build_clips
from mien.data.prepare import PrepareConfig, prepare
from mien.models.choice import parse_model
from mien.models.hub_sound_encoder import HubSoundEncoder, is_sound_backbone, open_sound_encoder
from mien.predict.predictor import predict_timeline
from mien.runtime import sound_encoders
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import SOUND_FILE, Bundle
from mien.runtime.cache import cached_features, cached_sound_grid
from mien.runtime.material import Material, probe_features
from mien.runtime.sound import NUM_MELS, RATE_HZ
from mien.runtime.sound_encoders import (
    GRID_STEP_S,
    MOMENT_WINDOW_S,
    UTTERANCE_WINDOW_S,
    EgemapsEncoder,
    LogMelEncoder,
    OnnxSoundEncoder,
)
from mien.training.bundle_writer import write_bundle
from mien.training.checks import check_baseline, check_model, open_encoder, open_listener, weights_digest
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings, load_settings
from test_sound_only import write_study

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def tone(seconds, *, hz=200.0, level=0.3, rate_hz=RATE_HZ, start_s=0.0):
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return Audio(np.asarray(level * 32767 * np.sin(2 * np.pi * hz * time_s), np.int16), rate_hz, start_s)


def write_speech_network(folder: Path, *, family="WavLM") -> Path:
    """A tiny random speech network, as `hf download` would leave it."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**TINY)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": RATE_HZ, "do_normalize": True}))
    (folder / "mien.json").write_text(json.dumps({"weights": "random init", "licence": "none", "source": "made here"}))
    return folder


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    return write_speech_network(tmp_path_factory.mktemp("hub") / "tiny_wavlm")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    study = write_study(root / "study", people=("01", "02", "03", "04"), takes=1)
    return prepare(study, out=root / "dataset", config=PrepareConfig(fps=2.0, size_px=64, workers=1))


@pytest.fixture(scope="module")
def clips(dataset):
    return build_clips(dataset, target="emotion")


def in_windows(encoder, window_s):
    encoder.spec = dataclasses.replace(encoder.spec, window_s=window_s)
    return encoder


class TestWindows:
    def test_what_one_label_describes_decides_how_much_is_heard(self):
        encoder = LogMelEncoder()
        assert encoder.windowed("frame").window_s == encoder.windowed("segment").window_s == MOMENT_WINDOW_S
        assert encoder.windowed("recording").window_s == UTTERANCE_WINDOW_S
        assert encoder.windowed("recording").windowed("frame").window_s == UTTERANCE_WINDOW_S
        assert encoder.windowed("frame").digest != encoder.windowed("recording").digest

    def test_every_moment_of_a_short_recording_has_the_features_of_all_of_it(self):
        audio = tone(1.5)
        encoder = in_windows(LogMelEncoder(), 6.0)
        features = encoder.encode(audio, pts_s=np.array([0.0, 0.7, 1.4]))
        expected = encoder.encode_window(audio.samples.astype(np.float32) / 32768)
        np.testing.assert_array_equal(features, np.stack([expected] * 3))

    def test_a_moment_hears_what_is_around_it(self):
        quiet, loud = tone(3.0, level=0.01).samples, tone(3.0, level=0.5).samples
        audio = Audio(np.concatenate([quiet, loud]), RATE_HZ, 10.0)
        encoder = in_windows(LogMelEncoder(), 1.0)
        levels = encoder.encode(audio, pts_s=np.array([10.0, 12.0, 14.0, 16.0]))[:, :NUM_MELS].max(axis=1)
        assert levels[0] == pytest.approx(levels[1], abs=0.1) and levels[3] == pytest.approx(levels[2], abs=0.1)
        assert levels[2] - levels[1] == pytest.approx(2 * np.log(50), abs=0.2)

    def test_nothing_is_said_where_nothing_can_be_heard(self):
        encoder = in_windows(LogMelEncoder(), 1.0)
        moments = np.array([0.0, 4.8, 5.5, 9.0])
        known = np.isfinite(encoder.encode(tone(1.0, start_s=5.0), pts_s=moments)).all(axis=1)
        assert known.tolist() == [False, True, True, False]
        muted = Audio(np.zeros(RATE_HZ, np.int16), RATE_HZ, 0.0)
        for silent in (None, muted):
            assert np.isnan(encoder.encode(silent, pts_s=moments)).all() and encoder.grid(silent) is None

    def test_another_rate_gives_about_the_same(self):
        encoder = in_windows(LogMelEncoder(), 1.0)
        features = [encoder.encode(tone(2.0, rate_hz=rate), pts_s=np.array([1.0])) for rate in (16000, 48000)]
        loud = features[0][0, :NUM_MELS] > -5
        np.testing.assert_allclose(features[0][0, :NUM_MELS][loud], features[1][0, :NUM_MELS][loud], atol=0.1)

    def test_over_time_the_recordings_mean_is_gone_unless_an_utterance_is_meant(self):
        moments, utterance = (in_windows(LogMelEncoder(), seconds) for seconds in (2.0, 6.0))
        samples = np.concatenate([tone(2.0, hz=hz).samples for hz in (150.0, 400.0)])
        over_time = moments.grid(Audio(samples, RATE_HZ, 1.0))
        assert over_time.values.shape == (320, 16) and over_time.step_s == GRID_STEP_S
        assert over_time.start_s == 1.0 + GRID_STEP_S / 2
        np.testing.assert_allclose(over_time.values.mean(axis=1), 0.0, atol=1e-4)
        assert abs(utterance.grid(Audio(samples, RATE_HZ, 0.0)).values.mean(axis=1)).max() > 1.0


class TestEgemaps:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("opensmile")

    def test_it_hears_pitch_and_is_the_same_each_time(self):
        encoder = in_windows(EgemapsEncoder(), 2.0)
        low, high = (encoder.encode(tone(2.0, hz=hz), pts_s=np.array([1.0]))[0] for hz in (120.0, 240.0))
        assert low.shape == (88,) and np.isfinite([low, high]).all()
        # The first functional is the mean pitch in semitones from 27.5 Hz: an octave is 12.
        assert high[0] - low[0] == pytest.approx(12.0, abs=0.3)
        again = in_windows(EgemapsEncoder(), 2.0).encode(tone(2.0, hz=120.0), pts_s=np.array([1.0]))
        np.testing.assert_array_equal(low, again[0])

    def test_what_is_not_defined_is_zero(self):
        noise = np.random.default_rng(0).normal(0, 3, RATE_HZ).astype(np.int16)
        features = in_windows(EgemapsEncoder(), 2.0).encode(Audio(noise, RATE_HZ, 0.0), pts_s=np.array([0.5]))
        assert np.isfinite(features).all()
        short = in_windows(EgemapsEncoder(), 2.0).encode(tone(0.02), pts_s=np.array([0.0]))
        assert np.isfinite(short).all()

    def test_its_licence_is_told(self, dataset, clips, tmp_path):
        choice = parse_model("linear_probe@egemaps")
        fitted = _fitted(choice, dataset, clips)
        write_bundle(fitted, out=tmp_path / "B", label=choice.label, provenance={})
        card = (tmp_path / "B" / "MODEL_CARD.md").read_text()
        assert "research licence" in card and "may not be used in a product" in card and "openSMILE" in card
        bundle = Bundle.open(tmp_path / "B")
        assert bundle.spec.sound.name == "egemaps" and not (tmp_path / "B" / SOUND_FILE).exists()

    def test_another_version_is_refused(self, dataset, clips, tmp_path, monkeypatch):
        fitted = _fitted(parse_model("linear_probe@egemaps"), dataset, clips)
        write_bundle(fitted, out=tmp_path / "B", label="x", provenance={})
        monkeypatch.setattr(sound_encoders, "version", lambda _: "2.4.0")
        with pytest.raises(UserError, match=r"openSMILE 2\.4\.0.*Install that version"):
            Bundle.open(tmp_path / "B")


def test_without_opensmile_the_extra_is_named(monkeypatch, dataset):
    monkeypatch.setattr(sound_encoders, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"mien\[speech\].*research"):
        check_model(parse_model("linear_probe@egemaps"), dataset=dataset, settings=FitSettings())


class TestSpeechNetworks:
    @pytest.mark.parametrize("family", ["WavLM", "Hubert", "Wav2Vec2"])
    def test_features_are_the_mean_over_layers_and_time(self, family, tmp_path):
        folder = write_speech_network(tmp_path / "network", family=family)
        encoder = in_windows(HubSoundEncoder.open(str(folder)), 1.0)
        audio = tone(1.0)
        features = encoder.encode(audio, pts_s=np.array([0.5]))
        samples = audio.samples.astype(np.float32) / 32768
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        with torch.no_grad():
            layers = encoder.module.model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states
        expected = torch.stack(layers).mean(dim=(0, 2))
        np.testing.assert_allclose(features, expected.numpy(), atol=1e-5)
        assert encoder.feature_dim == 32 and encoder.num_parameters > 1000
        assert encoder.weights_note == "random init"

    def test_which_backbones_listen(self, wavlm, tmp_path):
        assert is_sound_backbone(str(wavlm)) and is_sound_backbone("logmel") and is_sound_backbone("egemaps")
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        (tmp_path / "model.safetensors").write_bytes(b"")
        assert not any(is_sound_backbone(name) for name in (None, "hog", "a/b", "x.onnx", str(tmp_path)))
        with pytest.raises(WeightsError, match=r"isn't a speech network.*logmel, egemaps"):
            open_sound_encoder(str(tmp_path))
        with pytest.raises(WeightsError, match="No weights for microsoft/wavlm-base"):
            open_sound_encoder("microsoft/wavlm-base")

    def test_what_cannot_be_used_says_why(self, wavlm, tmp_path):
        broken = tmp_path / "broken"
        broken.mkdir()
        for path in wavlm.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        (broken / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
        with pytest.raises(WeightsError, match="8000 Hz"):
            HubSoundEncoder.open(str(broken))
        (broken / "preprocessor_config.json").unlink()
        (broken / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(WeightsError, match="frozen speech network"):
            HubSoundEncoder.open(str(broken))
        with pytest.raises(UserError, match="encoder of sound"):
            open_encoder(parse_model(f"temporal_vit@{wavlm}"))


class TestProbe:
    @pytest.fixture(scope="class")
    def bundled(self, wavlm, dataset, clips, tmp_path_factory):
        """A fitted probe and its bundle: an export takes seconds."""
        choice = parse_model(f"linear_probe@{wavlm}")
        assert choice.listens and choice.needs == {"audio"} and choice.label == "linear_probe@tiny_wavlm"
        fitted, out = _fitted(choice, dataset, clips), tmp_path_factory.mktemp("bundle") / "B"
        parity = write_bundle(fitted, out=out, label=choice.label, provenance={})
        assert parity["max_abs_diff_logit"] < 1e-3 and parity["clips"] == 18
        return fitted, Bundle.open(out)

    def test_the_onnx_computes_the_same_at_any_length(self, bundled):
        fitted, bundle = bundled
        encoder, onnx = fitted.encoder, bundle.sound_encoder
        assert isinstance(onnx, OnnxSoundEncoder) and onnx.feature_dim == 32
        for seconds in (0.05, 0.9, 3.0):
            audio, moments = tone(seconds), np.array([0.0, seconds])
            np.testing.assert_allclose(
                onnx.encode(audio, pts_s=moments), encoder.encode(audio, pts_s=moments), atol=1e-4
            )

    def test_a_bundle_holds_the_network_and_predicts_the_same(self, bundled, dataset):
        fitted, bundle = bundled
        assert (bundle.path / SOUND_FILE).is_file() and bundle.spec.encoder is None
        assert "tiny_wavlm" in (bundle.path / "MODEL_CARD.md").read_text()
        assert bundle.spec.modalities == ("audio",) and bundle.spec.sound.window_s == UTTERANCE_WINDOW_S
        name = str(dataset.recordings["recording_id"].iloc[0])
        path = dataset.path.parent / "study" / f"{name}.wav"
        timeline = predict_timeline(bundle, path)
        rows, logits = fitted.predict([str(dataset.recordings["participant_id"].iloc[0])])
        own = (rows["recording_id"] == name).to_numpy()
        np.testing.assert_allclose(timeline["logit_sad"], logits[own, 0], atol=1e-3)
        facts = fitted.facts()["model_facts"]
        assert facts["frozen_parameters"] == fitted.encoder.num_parameters and facts["weights_note"] == "random init"
        assert facts["settings"] == {"window_s": UTTERANCE_WINDOW_S}

    def test_other_weights_are_other_results(self, wavlm, tmp_path):
        settings = FitSettings()
        other = write_speech_network(tmp_path / "other", family="Hubert")
        texts = [f"linear_probe@{wavlm}", f"linear_probe@{other}", "linear_probe@logmel"]
        assert len({weights_digest(parse_model(text), settings=settings) for text in texts}) == 3

    def test_the_personal_baseline_is_the_recordings_mean(self, drawn_dataset):
        material = Material(drawn_dataset, build_clips(drawn_dataset, target="Smile"))
        people = sorted(material.clips.table["participant_id"].unique())[:2]
        given = {"encoder": LogMelEncoder()}
        frames, plain = probe_features(material, people, baseline=PersonalBaseline(), **given)
        _, personal = probe_features(material, people, baseline=PersonalBaseline("recording"), **given)
        for name in frames["recording_id"].unique():
            rows = (frames["recording_id"] == name).to_numpy()
            np.testing.assert_allclose(personal[rows], plain[rows] - plain[rows].mean(axis=0), atol=1e-6)
        # Every moment of the recording is heard, whether or not a face was found in it.
        assert len(frames) == int(drawn_dataset.samples["recording_id"].isin(frames["recording_id"].unique()).sum())

    def test_a_label_of_the_whole_recording_has_no_baseline(self, dataset, clips):
        with pytest.raises(RefusedError, match="Use it without"):
            check_baseline(parse_model("linear_probe@logmel+recording"), dataset=dataset, clips=clips)


class TestFusion:
    @pytest.fixture(scope="class")
    def settings(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("settings") / "s.yaml"
        fast = {"epochs": 1, "clips_per_recording": 3, "sequence_length": 3, "context_s": 1.0}
        values = ", ".join(f"{key}: {value}" for key, value in (fast | {"audio_backbone": "logmel"}).items())
        path.write_text(f"models: {{audio_wavenet: {{{values}}}}}\n")
        return load_settings(path)

    def test_a_network_listens_to_the_features(self, settings, drawn_dataset, tmp_path):
        choice = parse_model("audio_wavenet")
        check_model(choice, dataset=drawn_dataset, settings=settings)
        listener = open_listener(choice, settings=settings)
        assert listener.spec.name == "logmel" and listener.window_s == MOMENT_WINDOW_S
        assert open_listener(parse_model("temporal_vit"), settings=settings) is None
        fitted = _fitted(choice, drawn_dataset, build_clips(drawn_dataset, target="Smile"), settings=settings)
        assert fitted.windows.sound_dim == 320 and fitted.windows.num_sound_steps == 4
        parity = write_bundle(fitted, out=tmp_path / "B", label=choice.label, provenance={})
        assert parity["max_abs_diff_logit"] < 1e-3
        bundle = Bundle.open(tmp_path / "B")
        assert bundle.spec.sound.name == "logmel" and not (tmp_path / "B" / SOUND_FILE).exists()
        assert "audio (logmel, 1 s around each frame)" in (tmp_path / "B" / "MODEL_CARD.md").read_text()

    def test_fusion_takes_it_beside_its_encoder_of_pictures(self):
        from mien.models.registry import build_sequence_network
        from mien.models.sequence_parts import HeadShape, example_inputs
        from mien.runtime.windows import WindowSpec

        spec = WindowSpec(
            ("video", "audio", "signals"), 3, 2.0, feature_dim=6, signal_names=("A",), sound_dim=88, sound_step_s=0.25
        )
        for fusion in ("concat", "cross_attention", "gated"):
            shape = HeadShape.of(spec, num_outputs=2, fusion=fusion)
            network = build_sequence_network("multimodal_fusion", shape=shape).eval()
            inputs = example_inputs(spec, num=4)
            assert inputs["audio"].shape == (4, 88, 8)
            inputs["audio"] = torch.randn(4, 88, 8)
            with torch.no_grad():
                heard = network(*inputs.values())
                inputs["audio_mask"] = torch.zeros_like(inputs["audio_mask"])
                unheard = network(*inputs.values())
                inputs["audio"] = torch.randn(4, 88, 8)
                torch.testing.assert_close(network(*inputs.values()), unheard)
            assert not torch.allclose(heard, unheard)

    def test_features_over_time_are_kept(self, dataset, monkeypatch):
        name = str(dataset.recordings["recording_id"].iloc[0])
        encoder = in_windows(LogMelEncoder(), 2.0)
        expected = encoder.grid(dataset.audio(name))
        first = cached_sound_grid(dataset, name, encoder=encoder)
        np.testing.assert_array_equal(first.values, expected.values)
        assert (first.start_s, first.step_s) == (expected.start_s, expected.step_s)
        monkeypatch.setattr(LogMelEncoder, "grid", lambda *_: pytest.fail("made again"))
        np.testing.assert_array_equal(cached_sound_grid(dataset, name, encoder=encoder).values, expected.values)


def test_cached_features_of_moments_follow_the_window(dataset):
    name = str(dataset.recordings["recording_id"].iloc[0])
    moments, utterance = (in_windows(LogMelEncoder(), seconds) for seconds in (0.5, 6.0))
    shapes = [cached_features(dataset, name, encoder=encoder).shape for encoder in (moments, utterance)]
    assert shapes == [(3, 320), (3, 320)]
    assert np.ptp(cached_features(dataset, name, encoder=utterance), axis=0).max() == 0.0
    assert np.ptp(cached_features(dataset, name, encoder=moments), axis=0).max() > 0.0


@pytest.mark.real
@pytest.mark.slow
def test_emotions_of_actors_are_told_by_their_voices(shared_data, tmp_path):
    """Three of the eight emotions, twelve actors: far above chance by the built-in features of whole utterances."""
    study = tmp_path / "study"
    study.mkdir()
    for path in sorted((shared_data / "speech" / "ravdess").glob("03-01-0[145]-*-01-*-*.flac")):
        if int(path.stem[-2:]) <= 12:
            (study / path.name).symlink_to(path.resolve())
    made = prepare(study, out=tmp_path / "D", config=PrepareConfig(fps=1.0, size_px=64, workers=1))
    comparison = plan_comparison(
        made.path, target="emotion", models="linear_probe@logmel", out=tmp_path / "run", folds=4
    )
    run_comparison(comparison)
    score = read_json(tmp_path / "run" / "comparison.json")["models"][0]["balanced_accuracy"]
    assert score["low"] > 1 / 3 and score["mean"] > 0.55
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert set(scores["model"]) >= {"linear_probe@logmel", "nuisances"}


@functools.cache
def _settings():
    return FitSettings()


def _fitted(choice, dataset, clips, *, settings=None):
    people = sorted(clips.table["participant_id"].unique())
    return fit_model(
        choice,
        dataset=dataset,
        clips=clips,
        train=people[:-1],
        validation=people[-1:],
        settings=settings or _settings(),
        seed=0,
    )
