"""Recordings of sound alone: moments, clips, audit, folds, models that listen, bundle; and mixed studies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.signal import resample_poly

from media_fixtures import write_sound, write_video
from mien.audit.copies import check_copies
from mien.audit.nuisances import nuisance_features
from mien.audit.run import audit_content, audit_people
from mien.audit.sound_copies import MIN_NCC, Queries, loudest, lowered
from mien.audit.standalone import run_audit
from mien.core.errors import UserError
from mien.core.types import Audio
from mien.crossval.compare import plan_comparison, run_comparison
from mien.data.clips import build_clips
from mien.data.perceivable import NO_PICTURE, NO_SOUND
from mien.data.prepare import PrepareConfig, prepare
from mien.data.splits import make_folds
from mien.models.choice import needs_of, parse_models
from mien.predict.predictor import predict_timeline
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import Bundle
from mien.runtime.cache import cached_log_mel
from mien.runtime.material import Material
from mien.runtime.sound import at_rate, log_mel
from mien.runtime.sound_encoders import LogMelEncoder
from mien.training.checks import check_model
from mien.training.final import plan_training, train_bundle
from mien.training.settings import FitSettings, load_settings

RATE_HZ = 16000
CONFIG = PrepareConfig(fps=2.0, size_px=64, workers=1)
EMOTIONS = {"03": 330.0, "04": 180.0}
PEOPLE = ("01", "02", "03", "04", "05", "06")
FAST = {"epochs": 2, "clips_per_recording": 2, "context_s": 0.6}


def voice(pitch_hz, *, seed, seconds=1.3):
    """A hum of a pitch with harmonics and noise, louder and softer: no two are the same wave."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    wander = np.cumsum(rng.normal(size=len(time_s))) / 4000
    phase = 2 * np.pi * pitch_hz * (1 + 0.05 * rng.normal()) * time_s + wander
    wave = sum(np.sin(number * phase) / number for number in range(1, 6))
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 5) * time_s)) + 0.05 * rng.normal(size=len(time_s))
    return np.asarray(wave * 5000, np.int16)


def write_study(folder: Path, *, people=PEOPLE, takes=2) -> Path:
    """Recordings as RAVDESS names them: emotion and participant are in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in people:
        for code, pitch_hz in EMOTIONS.items():
            for take in range(1, takes + 1):
                samples = voice(pitch_hz, seed=[int(person), int(code), take])
                path = folder / f"03-01-{code}-01-01-0{take}-{person}.wav"
                write_sound(path, parts=[(0.0, samples)], rate_hz=RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("sounds") / "study")


@pytest.fixture(scope="module")
def dataset(study, tmp_path_factory):
    return prepare(study, out=tmp_path_factory.mktemp("sounds") / "dataset", config=CONFIG)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three people who are seen and heard, two who are heard only, one who is seen only."""
    root = tmp_path_factory.mktemp("mixed")
    study = root / "study"
    study.mkdir()
    pictures = [np.full((48, 64, 3), 10 * number, np.uint8) for number in range(13)]
    times_s = [number / 10 for number in range(len(pictures))]
    rows, labels = [], []
    for number, kind in enumerate(("both", "both", "both", "sound", "sound", "picture")):
        name, samples = f"r{number}", voice(200.0, seed=number)
        if kind == "sound":
            path = write_sound(study / f"{name}.wav", parts=[(0.0, samples)], rate_hz=RATE_HZ)
        else:
            sound = samples if kind == "both" else None
            path = write_video(
                study / f"{name}.mp4", times_s=times_s, pictures=pictures, sound=sound, sound_rate_hz=RATE_HZ
            )
        rows.append({"media": path.name, "participant": f"p{number}", "recording": name})
        labels.append({"recording": name, "onset_s": 0.0, "offset_s": 0.6, "label": "Talks"})
    pd.DataFrame(rows).to_csv(study / "recordings.csv", index=False)
    pd.DataFrame(labels).to_csv(study / "annotations.csv", index=False)
    (study / "study.yaml").write_text("name: mixed\nlabel_source: human\n")
    return prepare(study, out=root / "dataset", config=PrepareConfig(fps=2.0, size_px=64, workers=1, crop="none"))


class TestMoments:
    def test_a_recording_of_sound_has_a_moment_every_interval_in_which_nobody_is_seen(self, dataset):
        name = str(dataset.recordings["recording_id"].iloc[0])
        frames = dataset.frames(name)
        assert frames["pts_s"].tolist() == [0.0, 0.5, 1.0]
        assert not frames["face_found"].any() and frames["x0"].isna().all() and (frames["track"] == -1).all()
        assert not dataset.has_pictures(name) and dataset.has_sound(name) and not dataset.has_crop(name).any()
        assert len(dataset.samples) == 3 * len(dataset.recordings)

    def test_its_moments_are_clips_though_crops_are_of_faces(self, dataset):
        clips = build_clips(dataset, target="emotion")
        assert dataset.crop == "face" and clips.scheme.unit == "recording"
        assert len(clips.table) == 3 * 24 and clips.excluded.empty
        assert clips.table.groupby("recording_id")["target"].nunique().eq(1).all()

    def test_the_bundle_asks_at_the_same_moments(self, dataset, study):
        from mien.predict.beside import sampled_times

        name = str(dataset.recordings["recording_id"].iloc[0])
        seen = sampled_times(study / f"{name}.wav", fps=dataset.fps)
        np.testing.assert_array_equal(seen.pts_s, dataset.frames(name)["pts_s"])


class TestMixedStudy:
    def test_models_that_listen_have_all_that_can_be_heard(self, mixed):
        clips = build_clips(mixed, target="Talks", needs={"audio"})
        assert sorted(clips.table["participant_id"].unique()) == ["p0", "p1", "p2", "p3", "p4"]
        assert clips.excluded.set_index("reason")["recordings"].to_dict() == {NO_SOUND: 1}

    def test_models_that_look_have_all_that_can_be_seen(self, mixed):
        for needs in ({"video"}, None):
            clips = build_clips(mixed, target="Talks", needs=needs)
            assert sorted(clips.table["participant_id"].unique()) == ["p0", "p1", "p2", "p5"]
            assert clips.excluded.set_index("reason")["recordings"].to_dict() == {NO_PICTURE: 2}

    def test_all_models_of_a_comparison_are_scored_on_the_same_clips(self, mixed):
        choices = parse_models("audio_wavenet,linear_probe@hog,linear_probe@logmel")
        assert needs_of(choices) == {"audio", "video"}
        assert needs_of(parse_models("multimodal_fusion@hog,signals_net")) == frozenset()
        clips = build_clips(mixed, target="Talks", needs=needs_of(choices))
        assert sorted(clips.table["participant_id"].unique()) == ["p0", "p1", "p2"]

    def test_the_audit_compares_by_sound_where_some_are_not_seen(self, mixed):
        everybody = Material(mixed, build_clips(mixed, target="Talks", needs={"audio"}))
        assert everybody.sense == "audio"
        assert Material(mixed, build_clips(mixed, target="Talks")).sense == "video"


class TestWhoCanBeAsked:
    @pytest.mark.parametrize("model", ["linear_probe@hog", "temporal_vit", "vit_scratch"])
    def test_models_that_look_are_refused_and_told_which_can(self, dataset, model):
        with pytest.raises(UserError, match=rf"^{model}: None of the 24 recordings has a picture.*audio_wavenet"):
            check_model(parse_models(model)[0], dataset=dataset, settings=FitSettings())
        with pytest.raises(UserError, match="audio_wavenet, linear_probe@logmel"):
            plan_training(dataset.path, target="emotion", model=model, out=dataset.path.parent / "never")

    def test_one_that_fuses_is_too(self, dataset):
        with pytest.raises(UserError, match="audio_wavenet"):
            check_model(parse_models("multimodal_fusion")[0], dataset=dataset, settings=FitSettings())

    def test_models_that_listen_are_not(self, dataset):
        for text in ("audio_wavenet", "linear_probe@logmel"):
            check_model(parse_models(text)[0], dataset=dataset, settings=FitSettings())


class TestCopies:
    def test_the_same_voice_under_two_names_is_found_whatever_was_done_to_it(self):
        original = voice(220.0, seed=7).astype(np.float64)
        rng = np.random.default_rng(0)
        halved = at_rate(Audio(resample_poly(original, 1, 2).astype(np.int16), RATE_HZ // 2, 0.0))
        copies = {
            "level": original * 0.2,
            "rate": halved,
            "place": np.concatenate([np.zeros(5003), original, np.zeros(900)]),
            "noise": original + rng.normal(size=len(original)) * original.std() / 10,
        }
        queries = Queries([loudest(lowered(original))])
        for name, samples in copies.items():
            assert queries.best_match(lowered(samples))[0] > MIN_NCC, name
        others = [voice(220.0, seed=100 + number) for number in range(20)]
        assert max(queries.best_match(lowered(samples))[0] for samples in others) < MIN_NCC

    def test_copies_are_merged_and_refuse(self, study, tmp_path):
        copied = shutil.copytree(study, tmp_path / "study")
        for code in EMOTIONS:
            samples = (voice(EMOTIONS[code], seed=[1, int(code), 1]) * 0.5).astype(np.int16)
            write_sound(copied / f"03-01-{code}-01-01-01-09.wav", parts=[(0.0, samples)], rate_hz=RATE_HZ)
        made = prepare(copied, out=tmp_path / "D", config=CONFIG)
        result = check_copies(made, seed=0)
        assert result.merged == (("01", "09"),) and result.check.severity == "fail"
        assert result.check.measured["sound_pairs"] == 2 and result.check.measured["same_media"] == 0
        assert "2 pairs of recordings of different participants are the same sound" in result.check.detail

    def test_different_people_are_not(self, dataset):
        check = check_copies(dataset, seed=0).check
        assert check.severity == "ok" and "6 participants were compared by the sound" in check.detail


class TestAudit:
    @pytest.fixture(scope="class")
    def audit(self, dataset):
        people = audit_people(dataset, clips=build_clips(dataset, target="emotion"), seed=0)
        assert people.clips is not None
        splits = make_folds(people.clips, folds=3, seed=0)
        baselines = [PersonalBaseline()]
        return audit_content(people, dataset=dataset, splits=splits, baselines=baselines, encoders={}, seed=0)

    def test_what_needs_pictures_says_that_there_are_none(self, audit):
        found = {check.name: check for check in audit.checks}
        for name in ("overlays", "label-in-pixels"):
            assert (found[name].severity, found[name].detail) == ("not checked", "Not checked: no pictures.")
        assert found["copies"].severity == "ok" and found["clock"].severity == "ok"
        assert found["nuisances"].detail.startswith("Length of the sound, what is heard in its quietest moments")

    def test_reference_models_listen(self, audit):
        assert set(audit.references["model"]) >= {"linear_probe@logmel", "nuisances", "peer"}
        assert "face hidden" not in set(audit.references["model"])
        assert [gap["features"] for gap in audit.leakage_gaps] == ["logmel"]
        assert audit.leakage_gaps[0]["participant_split"] > 0.9

    def test_the_command_checks_without_a_target_and_with_one(self, dataset):
        assert {check.name for check in run_audit(dataset, target=None).checks} == {
            check.name for check in run_audit(dataset, target="emotion", folds=3).checks
        }

    def test_nuisances_know_the_length_and_the_pauses_not_the_voice(self, dataset):
        material = Material(dataset, build_clips(dataset, target="emotion"))
        frames = material.frames_of(list(PEOPLE))
        features = nuisance_features(dataset, frames, sense="audio")
        assert len(features) == len(frames) == 3 * 24 and np.isfinite(features).all()
        np.testing.assert_allclose(features[:, 0], np.log(1.3), atol=1e-4)


class TestStory:
    @pytest.fixture(scope="class")
    def settings(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("settings") / "fast.yaml"
        path.write_text(f"models: {{audio_wavenet: {FAST}}}\n".replace("'", ""))
        return load_settings(path)

    def test_compare_scores_models_that_listen_per_recording(self, dataset, settings, tmp_path):
        comparison = plan_comparison(
            dataset.path,
            target="emotion",
            models="audio_wavenet,linear_probe@logmel",
            out=tmp_path / "run",
            folds=3,
            settings=settings,
        )
        report = run_comparison(comparison)
        from mien.core.storage import read_json

        result = read_json(tmp_path / "run" / "comparison.json")
        scores = {row["name"]: row["balanced_accuracy"]["mean"] for row in result["models"]}
        assert report.is_file() and set(scores) == {"audio_wavenet", "linear_probe@logmel"}
        # The two pitches are far apart.
        assert scores["linear_probe@logmel"] == 1.0
        assert result["verdict"] == "exploratory" and result["participants"] == 6

    @pytest.mark.parametrize("model", ["linear_probe@logmel", "audio_wavenet"])
    def test_train_then_predict_a_sound_file(self, dataset, study, settings, tmp_path, model):
        plan = plan_training(dataset.path, target="emotion", model=model, out=tmp_path / "bundle", settings=settings)
        parity = train_bundle(plan)
        assert parity["max_abs_diff_logit"] < 1e-3 and parity["clips"] == 36
        bundle = Bundle.open(tmp_path / "bundle")
        assert bundle.spec.modalities == ("audio",) and not bundle.needs_pictures
        timeline = predict_timeline(bundle, study / "03-01-03-01-01-01-01.wav")
        assert len(timeline) == 3 and timeline["prob_sad"].between(0, 1).all() and not timeline["face_found"].any()
        if model == "linear_probe@logmel":
            assert (timeline["prob_sad"] < 0.5).all()
            other = predict_timeline(bundle, study / "03-01-04-01-01-01-01.wav")
            assert (other["prob_sad"] > 0.5).all()
        write_video(tmp_path / "mute.mp4", times_s=[0.0, 0.5, 1.0])
        with pytest.raises(UserError, match="needs sound, and there are none"):
            predict_timeline(bundle, tmp_path / "mute.mp4")


class TestSpectrogramsAreKept:
    def test_it_is_the_same_and_is_made_once(self, dataset, monkeypatch):
        name = str(dataset.recordings["recording_id"].iloc[3])
        expected = log_mel(dataset.audio(name))
        first = cached_log_mel(dataset, name)
        np.testing.assert_array_equal(first.values, expected.values)
        assert first.start_s == expected.start_s
        monkeypatch.setattr("mien.runtime.cache.log_mel", lambda _: pytest.fail("made again"))
        np.testing.assert_array_equal(cached_log_mel(dataset, name).values, expected.values)

    def test_features_of_sound_are_kept_too(self, dataset, monkeypatch):
        material = Material(dataset, build_clips(dataset, target="emotion"))
        from mien.runtime.material import probe_features

        given = {"encoder": LogMelEncoder(), "baseline": PersonalBaseline()}
        frames, features = probe_features(material, ["01"], **given)
        monkeypatch.setattr(LogMelEncoder, "encode", lambda *_, **__: pytest.fail("made again"))
        again = probe_features(material, ["01"], **given)
        pd.testing.assert_frame_equal(frames, again[0])
        np.testing.assert_array_equal(features, again[1])
