"""A person's range over the whole recording, and a probe's answers as what a network over time is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mien.core.labels import LabelScheme
from mien.data.clips import build_clips
from mien.data.splits import holdout_split
from mien.evaluation.probe import ProbeConfig, fit_probe
from mien.models.choice import parse_model
from mien.models.frame_encoder import FrameEncoder, RecordingRange
from mien.models.pretrained import write_random_backbone
from mien.models.sequence_parts import HeadShape
from mien.runtime.bundle import Bundle
from mien.runtime.cache import cached_features
from mien.runtime.windows import RecordingView, WindowSpec, cut_joined, cut_windows, has_something, join_views
from mien.training import probe_readings
from mien.training.bundle_writer import write_bundle
from mien.training.model_fit import fit_model
from mien.training.probe_readings import read_frames
from mien.training.sequence_batches import WindowSet
from mien.training.settings import FitSettings, load_settings

SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")
CONFIG = Path(__file__).parents[1] / "configs" / "temporal_range.yaml"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def view(values: list[float], **changes: object) -> RecordingView:
    given = {"features": np.array(values, np.float32)[:, None], "sound": None, "signals": None} | changes
    return RecordingView(np.arange(float(len(values))), **given)


def test_frames_of_the_whole_recording_come_behind_the_window():
    spec = WindowSpec(("video",), 3, 1.0, feature_dim=1, recording_frames=2)
    nan = float("nan")
    views = [view([1, 2, 3, 4]), view([5, 6], features=None), view([7, nan, 8, nan, 9])]
    joined = join_views(views, spec=spec)
    cut = cut_joined(joined, np.array([0, 3, 4, 7, 10]), spec=spec)
    # The neighbours, then two of the frames with a face: of 1 2 3 4 the second and the fourth; of 7 8 9 the outer ones.
    assert cut["features"][:, :, 0].tolist() == [
        [0, 1, 2, 2, 4], [3, 4, 0, 2, 4], [0, 0, 0, 0, 0], [7, 0, 8, 7, 9], [0, 9, 0, 7, 9],
    ]  # fmt: skip
    assert cut["frame_mask"][3].tolist() == [1, 0, 1, 1, 1] and not cut["frame_mask"][2].any()
    # A frame without a face has nothing to be predicted from, whatever the rest of the recording shows.
    assert has_something(cut, spec=spec).tolist() == [True, True, False, False, True]
    alone = cut_windows(views[2], np.array([1, 4]), spec=spec)
    assert np.array_equal(alone["features"], cut["features"][3:]) and spec.num_frames == 5


def test_the_range_is_between_the_soft_extremes():
    shape = HeadShape(1, feature_dim=1, sequence_length=1, num_signals=0, recording_frames=4, is_read=True)
    measure = RecordingRange(shape)
    window = torch.tensor([3.0, -50.0, 0.0, 50.0, 999.0])[None, :, None]
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    tokens, summed = measure(window, mask)
    # Readings 50 apart: the soft extremes are the extremes. What is masked counts for nothing.
    torch.testing.assert_close(tokens.flatten(), torch.tensor([3.0, 3.0 / 50.5]))
    torch.testing.assert_close(summed.flatten(), torch.tensor([3.0, 3.0 / 50.5, 0.0, 50.0]))
    # Another person's neutral face is elsewhere: only the middle says so.
    moved = measure(window + 7.0, mask)[1].flatten()
    torch.testing.assert_close(moved, torch.tensor([3.0, 3.0 / 50.5, 7.0, 50.0]))
    # Without any face nothing is said, and nothing breaks.
    assert not any(part.any() for part in measure(window * 0, mask * 0))


def test_a_network_on_features_reads_along_a_few_directions():
    shape = HeadShape(1, feature_dim=6, sequence_length=3, num_signals=0, recording_frames=4)
    encoder = FrameEncoder(shape).eval()
    features, mask = torch.randn(2, 7, 6), torch.ones(2, 7)
    tokens, summed = encoder(features, mask)
    assert tokens.shape[:2] == (2, 3) and summed.shape == (2, encoder.range_width)
    assert encoder.pool(tokens, summed, mask).shape == (2, encoder.width)
    # Other frames of the recording, another range, another answer.
    features[0, 5] += 3.0
    changed, _ = encoder(features, mask)
    assert not torch.allclose(changed[0], tokens[0]) and torch.allclose(changed[1], tokens[1])


def made_up(num_people: int) -> tuple[WindowSet, WindowSet]:
    """Training and validation windows of people with two recordings each; the target is in the first feature."""
    generator = np.random.default_rng(0)
    views, rows = {}, []
    for number in range(2 * num_people):
        name, person = f"r{number}", f"p{number // 2}"
        targets = np.arange(10) // 5
        features = generator.normal(0, 1, (10, 4)).astype(np.float32)
        features[:, 0] += 2 * targets
        features[3] = np.nan
        views[name] = RecordingView(np.arange(10.0), features, None, None)
        rows += [(f"{name}@{f}", name, person, f, t) for f, t in enumerate(targets) if f not in (0, 3)]
    clips = pd.DataFrame(rows, columns=["clip_id", "recording_id", "participant_id", "frame", "target"])
    whole = WindowSet.of_views(clips, views, spec=WindowSpec(("video",), 3, 1.0, feature_dim=4, recording_frames=4))
    inner = clips["participant_id"].isin(["p0", "p1"]).to_numpy()
    sides = [WindowSet(clips[part], whole.places[part], whole.joined, whole.spec) for part in (~inner, inner)]
    return sides[0], sides[1]


def test_what_is_said_of_a_training_participant_comes_from_a_probe_that_did_not_see_them(monkeypatch):
    train, validation = made_up(8)
    seen: list[set[str]] = []
    probes = []

    def spy(features, *, participants, **given):
        seen.append(set(participants))
        probes.append(fit_probe(features, participants=participants, **given))
        return probes[-1]

    monkeypatch.setattr(probe_readings, "fit_probe", spy)
    found = read_frames(train, validation, scheme=SMILE, config=ProbeConfig(), seed=0)
    everyone = {f"p{number}" for number in range(2, 8)}
    # All, four times all but one part, and all with the inner validation.
    assert seen[0] == everyone and seen[5] == everyone | {"p0", "p1"} and len(seen) == 6
    readings, features = found.train.joined.features, train.joined.features
    for person in sorted(everyone | {"p0", "p1"}):
        frames = slice(20 * int(person[1:]), 20 * int(person[1:]) + 20)
        blind = [index for index in range(5) if person not in seen[index]]
        probe = probes[0] if person in ("p0", "p1") else probes[blind[0]]
        assert len(blind) == (5 if person in ("p0", "p1") else 1)
        # Frames that are no clips are read too: they are neighbours of clips.
        np.testing.assert_allclose(readings[frames], probe.logits(features[frames]), rtol=1e-5, atol=1e-6)
    assert np.isnan(readings[3]).all() and found.train.spec.feature_dim == 1
    assert found.inner is probes[0] and found.final is probes[5]


def test_from_a_fit_on_a_probe_to_the_bundle(drawn_dataset, tmp_path):
    clips = build_clips(drawn_dataset, target="Smile")
    split = holdout_split(clips, seed=0)
    given = {"dataset": drawn_dataset, "clips": clips, "train": split.train, "validation": split.validation, "seed": 1}
    settings = load_settings(CONFIG, epochs=2)
    fitted = fit_model(parse_model("temporal_vit@hog+recording"), settings=settings, **given)
    rows, logits = fitted.predict(split.validation)
    _, inner = fitted.predict_inner(split.validation)
    assert np.isfinite(logits).all() and not np.array_equal(logits, inner)
    write_bundle(fitted, out=tmp_path / "bundle", label="range", provenance={})
    bundle = Bundle.open(tmp_path / "bundle")
    name = rows["recording_id"].iloc[0]
    features = cached_features(drawn_dataset, name, encoder=bundle.encoder)
    pts_s = drawn_dataset.frames(name)["pts_s"].to_numpy()
    there = rows["recording_id"].to_numpy() == name
    deployed = bundle.logits(features, pts_s=pts_s)[rows["frame"].to_numpy()[there]]
    np.testing.assert_allclose(deployed, logits[there], atol=1e-4)


def test_a_vision_transformer_per_frame_and_one_over_time(drawn_dataset, tmp_path):
    """The design's temporal_vit, the spatial part frozen: from pixels through both to the bundle's answer."""
    backbone = write_random_backbone(tmp_path / "vit", architecture="vit_base", tiny=True)
    clips = build_clips(drawn_dataset, target="Smile")
    split = holdout_split(clips, seed=0)
    given = {"dataset": drawn_dataset, "clips": clips, "train": split.train, "validation": split.validation, "seed": 1}
    brief = {"epochs": 1, "clips_per_recording": 4, "sequence_length": 3, "recording_frames": 4}
    settings = FitSettings(per_model={"temporal_vit": brief})
    fitted = fit_model(parse_model(f"temporal_vit@{backbone}"), settings=settings, **given)
    assert fitted.facts()["model_facts"]["frozen_parameters"] > 0
    rows, logits = fitted.predict(split.validation)
    write_bundle(fitted, out=tmp_path / "bundle", label="vit", provenance={})
    bundle = Bundle.open(tmp_path / "bundle")
    name = rows["recording_id"].iloc[0]
    features = np.full((len(drawn_dataset.frames(name)), fitted.windows.feature_dim), np.nan, np.float32)
    seen = drawn_dataset.has_crop(name)
    features[seen] = bundle.features(np.asarray(drawn_dataset.crops(name))[seen])
    there = rows["recording_id"].to_numpy() == name
    deployed = bundle.logits(features, pts_s=drawn_dataset.frames(name)["pts_s"].to_numpy())
    np.testing.assert_allclose(deployed[rows["frame"].to_numpy()[there]], logits[there], atol=1e-3)
