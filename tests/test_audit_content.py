"""What can be told of a label without the face, by reference models with people apart; and the leakage gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mien.audit.autocorrelation import (
    check_time_correlation,
    effective_size,
    intraclass_correlation,
    lag1_autocorrelation,
)
from mien.audit.hidden_face import (
    SmallPixels,
    check_hidden_face,
    hidden_face_predictions,
    read_hidden_faces,
)
from mien.audit.hidden_pictures import FILL, hidden_features, hidden_pictures, view_of, visible_share
from mien.audit.leakage import check_leakage_gap, leakage_gaps
from mien.audit.nuisances import check_nuisances, nuisance_features, nuisance_predictions
from mien.audit.stimulus import check_stimulus, held_out_segment_scores, peer_predictions
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import write_json
from mien.data.clips import ClipIndex, build_clips
from mien.data.dataset import FORMAT, RECORDING_COLUMNS, Dataset
from mien.data.layouts import SEGMENT_COLUMNS
from mien.data.splits import make_folds
from mien.evaluation.grouped import (
    alarm_threshold,
    exceeds,
    grouped_interval,
    mixed_frames_accuracy,
    out_of_fold,
    out_of_fold_and_block,
)
from mien.evaluation.intervals import Interval
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import find_encoder
from mien.runtime.material import Material
from simulations.content_nulls import drawn_clips, real_nulls

NONE, RECORDING = PersonalBaseline(), PersonalBaseline("recording")
HEIGHT, WIDTH, SIDE = 72, 96, 64
FACE = np.array([40.0, 20.0, 60.0, 48.0])
FACE_RED = 230


def write_dataset(path, labels, *, camera="camera", crop="none", lamp=False, light=False, segments=None, far=()):
    """A dataset of flat pictures (P, m frames, 2 per second): a red face with a white mouth where the label is 1.

    `lamp`: a patch beside the face shows the label, too; `light`: so does the light of the whole picture; `far`: frames
    in which a second, far face is the one that was found.
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(3)
    people = [f"p{number:02d}" for number in range(len(labels))]
    recordings, annotations = [], []
    for name, own in zip(people, labels, strict=True):
        folder = path / "recordings" / name
        folder.mkdir(parents=True)
        pictures, boxes = [], []
        room = int(generator.integers(60, 160))
        for frame, label in enumerate(own):
            picture = generator.normal(room, 2.0, (HEIGHT, WIDTH, 1)).repeat(3, axis=2) + 12.0 * label * light
            if lamp:
                picture[5:17, 5:25] = (40, 200, 40) if label else (40, 40, 200)
            box = FACE + generator.integers(-2, 3, 2)[[0, 1, 0, 1]]
            if frame in far:
                box = np.array([76.0, 4.0, 90.0, 22.0])
            x0, y0, x1, y1 = box.astype(int)
            picture[y0:y1, x0:x1] = (FACE_RED, 0, 0)
            if label:
                picture[y1 - 10 : y1 - 5, x0 + 3 : x1 - 3] = (FACE_RED, 255, 255)
            pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
            boxes.append(box)
        np.save(folder / "context.npy", np.stack(pictures))
        np.save(
            folder / "crops.npy", np.stack([_crop(p, box=b, kind=crop) for p, b in zip(pictures, boxes, strict=True)])
        )
        frames = pd.DataFrame(np.stack(boxes), columns=["x0", "y0", "x1", "y1"]).astype("float32")
        frames.insert(0, "frame", np.arange(len(own)))
        frames.insert(1, "pts_s", np.arange(len(own)) / 2.0)
        frames.assign(face_found=True, score=0.9).to_parquet(folder / "frames.parquet")
        write_json(folder / "recording.json", {"sha256": name, "config_digest": "d"})
        facts = {"recording_id": name, "participant_id": name, "group": name, "session": "s", "camera": camera}
        facts |= {"media": f"{name}.mp4", "sha256": name, "duration_s": len(own) / 2, "width": WIDTH, "height": HEIGHT}
        recordings.append(
            facts | {"fps_declared": 25.0, "fps_measured": 25.0, "num_frames": len(own), "num_faces": len(own)}
        )
        starts = np.flatnonzero(own) / 2.0
        annotations += [(name, start, start + 0.5, "Smile", None, "", "human", 1.0) for start in starts]
        annotations.append((name, 0.0, 0.0, "Other", None, "", "human", 1.0))
    columns = ["recording_id", "onset_s", "offset_s", "scheme", "value", "annotator", "source", "confidence"]
    pd.DataFrame(annotations, columns=columns).astype({"value": "object"}).to_parquet(path / "annotations.parquet")
    pd.DataFrame(recordings).reindex(columns=list(RECORDING_COLUMNS)).to_parquet(path / "recordings.parquet")
    if segments is not None:
        rows = [(name, *segment) for name in people for segment in segments]
        pd.DataFrame(rows, columns=list(SEGMENT_COLUMNS)).to_parquet(path / "segments.parquet")
    study = {"name": "S", "layout": "plain", "label_source": "human", "purpose": "", "consent": "", "unit": "frame"}
    config = {"fps": 2.0, "crop": crop, "face": "main", "size_px": SIDE, "margin": 1.6, "detector": "drawn"}
    info = {"format": FORMAT, "study": study, "config": config, "attributes": [], "content_hash": "h"}
    write_json(path / "dataset.json", info)
    return Dataset.open(path)


def _crop(picture, *, box, kind):
    from mien.media.faces import crop_frame

    panel = FACE if kind == "panel" else box
    return crop_frame(picture, panel, kind=kind, margin=1.6, size_px=SIDE)


def runs(people, frames, *, seed=0, rate=0.3):
    """Labels (P, m) in runs, each person's own."""
    generator = np.random.default_rng(seed)
    changes = generator.random((people, frames)) < rate
    return (generator.integers(2, size=(people, 1)) + np.cumsum(changes, axis=1)) % 2


def everything(dataset):
    clips = build_clips(dataset, target="Smile")
    return Material(dataset, clips), clips, make_folds(clips, folds=4, seed=0)


def hidden_check(dataset, **options):
    material, clips, splits = everything(dataset)
    found = read_hidden_faces(material, splits=splits, baselines=[NONE, RECORDING], **options)
    return check_hidden_face(found, clips=clips, splits=splits), found


class TestOutOfFold:
    @pytest.fixture
    def drawn(self):
        labels = runs(12, 20)
        clips, frames = drawn_clips(labels)
        features = np.random.default_rng(0).normal(size=(240, 4))
        features[:, 0] += 1.5 * labels.ravel()
        return clips, frames, features, make_folds(clips, folds=4, seed=0)

    def test_every_clip_is_predicted_once_by_people_apart(self, drawn):
        clips, frames, features, splits = drawn
        table = out_of_fold(features, frames, clips=clips, splits=splits, baseline=NONE, C=1.0, model="m")
        assert sorted(table["clip_id"]) == sorted(clips.table["clip_id"])
        fold_of = {name: split.fold for split in splits for name in split.test}
        assert (table["fold"] == table["participant_id"].map(fold_of)).all()
        assert grouped_interval(table, clips.scheme, folds=4).mean > 0.7

    def test_the_labels_of_the_tested_change_nothing(self, drawn):
        clips, frames, features, splits = drawn
        tested = clips.table["participant_id"].isin(splits[0].test)
        flipped = replace(clips, table=clips.table.assign(target=clips.table["target"].where(~tested, 1)))
        given = {"splits": splits[:1], "baseline": NONE, "C": 1.0, "model": "m"}
        first = out_of_fold(features, frames, clips=clips, **given)
        other = frames.assign(target=frames["target"].where(~frames["participant_id"].isin(splits[0].test), 1))
        second = out_of_fold(features, other, clips=flipped, **given)
        assert (first["prob_Drawn"] == second["prob_Drawn"]).all()
        assert (second["target"] == 1).all() and not (first["target"] == 1).all()

    def test_several_classes(self, drawn):
        clips, frames, features, splits = drawn
        scheme = LabelScheme("Mood", "multiclass", ("a", "b", "c"), "human")
        targets = (np.arange(240) // 3) % 3
        features = features + 2.0 * np.eye(4)[targets]
        own = ClipIndex(scheme, clips.table.assign(target=targets), clips.excluded)
        table = out_of_fold(
            features, frames.assign(target=targets), clips=own, splits=splits, baseline=NONE, C=1.0, model="m"
        )
        assert table[["prob_a", "prob_b", "prob_c"]].sum(axis=1).to_numpy() == pytest.approx(np.ones(240))
        assert grouped_interval(table, scheme, folds=4).low > 0.5
        assert alarm_threshold(own, splits=splits) == pytest.approx(1 / 3 + 0.05, abs=0.03)

    def test_unlabelled_frames_count_for_the_baseline_only(self, drawn):
        clips, frames, features, splits = drawn
        kept = clips.table["frame"] % 2 == 0
        half = replace(clips, table=clips.table[kept])
        frames = frames.assign(target=frames["target"].where(kept.to_numpy(), -1))
        given = {"clips": half, "splits": splits, "baseline": RECORDING, "C": 1.0, "model": "m"}
        table = out_of_fold(features, frames, **given)
        assert len(table) == kept.sum()
        moved = out_of_fold(features + 5.0 * (frames["target"] == -1).to_numpy()[:, None], frames, **given)
        # Frames without a label moved the recording's mean, so the differences within a recording stay.
        assert moved["logit_Drawn"].to_numpy() == pytest.approx(table["logit_Drawn"].to_numpy(), abs=1e-6)

    def test_features_must_fit(self, drawn):
        clips, frames, features, splits = drawn
        given = {"clips": clips, "splits": splits, "baseline": NONE, "C": 1.0, "model": "m"}
        with pytest.raises(UserError, match="239 rows of features for 240 frames"):
            out_of_fold(features[1:], frames, **given)
        with pytest.raises(UserError, match="aren't numbers"):
            out_of_fold(np.where(features > 2, np.nan, features), frames, **given)

    def test_held_out_blocks_are_new_too(self, drawn):
        clips, frames, features, splits = drawn
        blocks = frames["frame"].to_numpy() // 10
        # The sign of the signal differs between blocks: only a probe that saw the block could use it.
        signal = (2 * frames["target"].to_numpy() - 1) * np.where(blocks == 0, 1.0, -1.0)
        features = np.column_stack([2.0 * signal, features[:, 1:]])
        given = {"clips": clips, "splits": splits, "baseline": NONE, "C": 1.0, "model": "m"}
        table = out_of_fold_and_block(features, frames, blocks=blocks, **given)
        assert grouped_interval(table, clips.scheme, folds=4).mean < 0.1
        assert out_of_fold_and_block(features, frames, blocks=np.full(240, -1), **given) is None

    def test_mixed_frames_read_the_neighbours(self):
        # Features that drift by themselves and labels in runs: nothing to learn, but a neighbour has the answer.
        labels = runs(8, 40, rate=0.1)
        clips, frames = drawn_clips(labels)
        steps = np.random.default_rng(1).normal(size=(8, 40, 200))
        features = np.cumsum(steps, axis=1).reshape(-1, 200)
        splits = make_folds(clips, folds=4, seed=0)
        given = {"clips": clips, "baseline": NONE, "C": 1.0}
        apart = out_of_fold(features, frames, splits=splits, model="m", **given)
        mixed = mixed_frames_accuracy(features, frames, folds=4, seed=0, **given)
        assert mixed - grouped_interval(apart, clips.scheme, folds=4).mean > 0.2


class TestHiddenPictures:
    @pytest.mark.parametrize(
        ("camera", "crop", "view"),
        [
            ("camera", "face", "whole picture"),
            ("camera", "none", "stored crop"),
            ("screen", "none", "stored crop"),
            ("screen", "face", "stored crop"),
            ("screen", "panel", "stored crop"),
        ],
    )
    def test_no_pixel_of_a_face_is_left_and_the_cover_stays(self, tmp_path, camera, crop, view):
        far = () if crop == "panel" else (3,)
        dataset = write_dataset(tmp_path / "d", runs(2, 8), camera=camera, crop=crop, lamp=True, far=far)
        assert view_of(dataset, camera=camera) == view
        pictures = hidden_pictures(dataset, "p00", rows=slice(None), view=view)
        original = dataset.context("p00") if view == "whole picture" else dataset.crops("p00")
        assert (original[..., 0] > 200).any(), "the face is in the picture to begin with"
        assert not (pictures[..., 0] > 200).any()
        cover = (pictures == FILL).all(axis=(0, 3)) if crop != "none" and view != "whole picture" else None
        usual = (pictures[[0, 1, 2, 4, 5, 6, 7]] == FILL).all(axis=3)
        assert (usual == usual[0]).mean() > 0.999, "the cover is the same in all frames but that of the far face"
        assert cover is None or cover.any()
        assert 0.0 <= visible_share(dataset, "p00", view=view) < 1.0

    def test_a_far_face_gets_a_cover_of_its_own(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(1, 8), far=(3,))
        pictures = hidden_pictures(dataset, "p00", rows=slice(None), view="whole picture")
        far = (slice(4, 22), slice(76, 90))
        assert (pictures[3][far] == FILL).all()
        assert not (pictures[2][far] == FILL).all()

    def test_a_face_crop_is_cut_to_what_models_see(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(1, 4), camera="screen", crop="face")
        sizes = [
            hidden_pictures(dataset, "p00", rows=slice(0, 1), view="stored crop", crop=crop).shape[1]
            for crop in (1.15, 1.6)
        ]
        assert sizes == [46, 64]  # 64 px are 1.6 of the box

    def test_features_are_cached_by_content(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(1, 4))
        given = {"encoder": SmallPixels(), "view": "whole picture"}
        first = hidden_features(dataset, "p00", **given)
        folder = dataset.path / "recordings/p00"
        np.save(folder / "context.npy", np.zeros((4, HEIGHT, WIDTH, 3), np.uint8))
        assert (hidden_features(dataset, "p00", **given) == first).all(), "from the cache"
        write_json(folder / "recording.json", {"sha256": "new", "config_digest": "d"})
        assert not (hidden_features(dataset, "p00", **given) == first).all()


class TestLabelInPixels:
    def test_a_lamp_on_a_screen_fails(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), camera="screen", lamp=True)
        check, found = hidden_check(dataset)
        assert check.severity == "fail" and "--crop face" in check.advice
        assert check.measured["screen face hidden"] > 0.95
        assert set(hidden_face_predictions(found)) == {"face hidden", "face hidden+recording"}
        assert [score["features"] for score in check.evidence["scores"]][::2] == ["hog", "small_pixels"]

    def test_a_lamp_behind_a_person_warns(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), crop="face", lamp=True)
        check, _ = hidden_check(dataset)
        assert check.severity == "warn"

    @pytest.mark.parametrize(("camera", "crop"), [("screen", "none"), ("screen", "panel"), ("camera", "face")])
    def test_a_label_in_the_face_alone_passes(self, tmp_path, camera, crop):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), camera=camera, crop=crop)
        check, _ = hidden_check(dataset)
        assert check.severity == "ok", check.detail
        # The same reader sees it in the face, so it isn't blind.
        material, clips, splits = everything(dataset)
        frames = material.frames_of([f"p{number:02d}" for number in range(12)])
        pixels = np.concatenate([dataset.crops(name) for name in frames["recording_id"].unique()])[:, ::4, ::4]
        features = pixels.reshape(len(frames), -1).astype(np.float32)
        table = out_of_fold(features, frames, clips=clips, splits=splits, baseline=RECORDING, C=0.001, model="m")
        assert exceeds(grouped_interval(table, clips.scheme, folds=4), 0.8, clips=clips)

    def test_what_a_crop_cuts_off_a_screen_does_not_fail(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), camera="screen", crop="face", lamp=True)
        check, _ = hidden_check(dataset)
        assert check.severity == "ok"

    def test_the_ratio_needs_a_model_above_chance(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), camera="screen", lamp=True)
        material, clips, splits = everything(dataset)
        found = read_hidden_faces(material, splits=splits, baselines=[NONE])
        ratios = [
            check_hidden_face(found, clips=clips, splits=splits, full={"none": full}).evidence["ratios"]
            for full in (Interval(0.52, 0.49, 0.55, 12), Interval(0.9, 0.8, 0.95, 12))
        ]
        assert ratios[0] == []
        assert ratios[1][0]["ratio"] > 1.0

    def test_too_few_people_of_a_kind_are_not_checked(self, tmp_path):
        labels = np.zeros((6, 8), dtype=int)
        labels[0, 4:] = 1
        dataset = write_dataset(tmp_path / "d", labels)
        material = Material(dataset, build_clips(dataset, target="Smile"))
        splits = make_folds(material.clips, folds=3, seed=0)
        check = check_hidden_face(
            read_hidden_faces(material, splits=splits, baselines=[NONE]), clips=material.clips, splits=splits
        )
        assert check.severity == "not checked" and "show one class only" in check.detail


class TestNuisances:
    def run(self, dataset):
        material, clips, splits = everything(dataset)
        tables = nuisance_predictions(material, splits=splits, baselines=[NONE, RECORDING])
        return check_nuisances(tables, clips=clips, splits=splits)

    def test_light_that_follows_the_label_warns(self, tmp_path):
        check = self.run(write_dataset(tmp_path / "d", runs(12, 24), crop="face", light=True))
        assert check.severity == "warn"
        assert set(check.measured) == {"nuisances", "nuisances+recording"}

    def test_time_may_be_a_curve(self, tmp_path):
        # In the middle third: neither early nor late, which a straight line can't say.
        labels = np.zeros((12, 30), dtype=int)
        labels[:, 10:20] = 1
        dataset = write_dataset(tmp_path / "d", labels, crop="face")
        for folder in sorted((dataset.path / "recordings").iterdir()):
            pictures = np.load(folder / "crops.npy")
            np.save(folder / "crops.npy", np.full_like(pictures, 90))
            np.save(folder / "context.npy", np.full((30, HEIGHT, WIDTH, 3), 90, np.uint8))
        check = self.run(dataset)
        assert check.severity == "warn" and check.measured["nuisances"] > 0.85

    def test_honest_labels_pass(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(12, 24), crop="face")
        for folder in sorted((dataset.path / "recordings").iterdir()):
            noise = np.random.default_rng(0).integers(80, 90, (24, HEIGHT, WIDTH, 3)).astype(np.uint8)
            np.save(folder / "context.npy", noise)
            np.save(folder / "crops.npy", noise[:, :SIDE, :SIDE])
        check = self.run(dataset)
        assert check.severity == "ok" and len(check.evidence["scores"]) == 2

    def test_missing_faces_and_rates_are_filled(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(3, 10))
        path = dataset.path / "recordings/p01/frames.parquet"
        frames = pd.read_parquet(path)
        frames[["x0", "y0", "x1", "y1"]] = np.nan
        frames.assign(face_found=False).to_parquet(path)
        dataset.recordings["fps_declared"] = np.nan
        features = nuisance_features(
            dataset, Material(dataset, build_clips(dataset, target="Smile")).frames_of(["p01"])
        )
        assert np.isfinite(features).all() and len(features) == 10


class TestStimulus:
    SEGMENTS = ((0.0, 7.5, "joke", ""), (7.5, 15.0, "rest", ""))

    def run(self, dataset):
        material, clips, splits = everything(dataset)
        peer = peer_predictions(material, splits=splits)
        held_out = held_out_segment_scores(material, splits=splits, baselines=[NONE, RECORDING])
        return (*check_stimulus(peer, dataset=dataset, clips=clips, splits=splits, held_out=held_out), peer)

    def locked(self, people, frames, *, positives, slip=0.1):
        labels = np.zeros((people, frames), dtype=int)
        labels[:, list(positives)] = 1
        slips = np.random.default_rng(5).random(labels.shape) < slip
        return labels ^ slips

    def test_a_rare_shared_moment_is_found_though_it_is_rare(self, tmp_path):
        # Positive 1 time in 10, and then with only 4 in 10 people: "never" would be right most often.
        generator = np.random.default_rng(2)
        labels = np.zeros((20, 30), dtype=int)
        labels[:, 10:13] = generator.random((20, 3)) < 0.4
        labels[:, 25] = generator.random(20) < 0.1
        check, limited, peer = self.run(write_dataset(tmp_path / "d", labels))
        assert check.severity == "warn" and limited
        assert "the time since the start of the recording was used" in check.detail
        assert peer.loc[peer["target"] == 1, "prob_Smile"].mean() > 0.6

    def test_labels_of_ones_own_time_pass(self, tmp_path):
        check, limited, _ = self.run(write_dataset(tmp_path / "d", runs(20, 30)))
        assert (check.severity, limited) == ("ok", False)

    def test_other_people_know_and_the_tested_do_not(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", self.locked(12, 30, positives=range(8, 16)))
        material, clips, splits = everything(dataset)
        first = peer_predictions(material, splits=splits)
        tested = clips.table["participant_id"].isin(splits[0].test)
        flipped = replace(clips, table=clips.table.assign(target=clips.table["target"].where(~tested, 0)))
        second = peer_predictions(Material(dataset, flipped), splits=splits[:1])
        own = first[first["fold"] == 0].reset_index(drop=True)
        assert (own["prob_Smile"] == second["prob_Smile"]).all()

    def test_moments_are_counted_from_the_segment(self, tmp_path):
        # The joke comes first for some and last for others: the recording's time alone says nothing.
        labels = np.zeros((16, 30), dtype=int)
        early, late = np.arange(16) % 2 == 0, np.arange(16) % 2 == 1
        labels[early, 4:11] = 1
        labels[late, 19:26] = 1
        dataset = write_dataset(tmp_path / "d", labels)
        check, _, _ = self.run(dataset)
        before = check.evidence["scores"][0]["balanced_accuracy"]["mean"]
        rows = []
        for number, name in enumerate(dataset.recordings["recording_id"]):
            order = ("joke", "rest") if early[number] else ("rest", "joke")
            rows += [(name, 0.0, 7.5, order[0], ""), (name, 7.5, 15.0, order[1], "")]
        pd.DataFrame(rows, columns=list(SEGMENT_COLUMNS)).to_parquet(dataset.path / "segments.parquet")
        check, _, _ = self.run(Dataset.open(dataset.path))
        assert check.evidence["scores"][0]["balanced_accuracy"]["mean"] > 0.95 > before + 0.1
        assert check.evidence["segments"]

    def test_a_probe_that_holds_in_new_stimuli_lifts_the_limit(self, tmp_path):
        labels = self.locked(16, 30, positives=[3, 4, 5, 6, 18, 19, 20, 21, 22])
        # The label is in the face (and whole pictures are shown): any stimulus will do.
        seen, limited, _ = self.run(write_dataset(tmp_path / "seen", labels, segments=self.SEGMENTS))
        assert seen.severity == "warn" and not limited
        assert {score["name"] for score in seen.evidence["scores"]} == {"peer", "held-out segment"}
        blind = write_dataset(tmp_path / "blind", labels, segments=self.SEGMENTS)
        for folder in sorted((blind.path / "recordings").iterdir()):
            np.save(
                folder / "crops.npy", np.random.default_rng(0).integers(0, 255, (30, SIDE, SIDE, 3)).astype(np.uint8)
            )
        check, limited, _ = self.run(blind)
        assert check.severity == "warn" and limited

    def test_a_label_of_a_person_has_no_moment(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", np.arange(8)[:, None] % 2 * np.ones((1, 12), dtype=int))
        _, clips, splits = everything(dataset)
        clips = replace(clips, scheme=replace(clips.scheme, unit="participant"))
        peer = peer_predictions(Material(dataset, clips), splits=splits)
        check, limited = check_stimulus(peer, dataset=dataset, clips=clips, splits=splits, held_out={})
        assert (check.severity, limited) == ("ok", False) and "isn't tied to a moment" in check.detail


class TestLeakageGap:
    def test_both_numbers_are_shown_and_nothing_alarms(self, tmp_path):
        dataset = write_dataset(tmp_path / "d", runs(8, 20), crop="face")
        material, _, splits = everything(dataset)
        gaps = leakage_gaps(material, splits=splits, baselines=[RECORDING], seed=0)
        check = check_leakage_gap(gaps)
        assert check.severity == "ok" and check.threshold is None
        shown = check.evidence["gaps"]
        assert [(gap["features"], gap["baseline"]) for gap in shown] == [("hog", "none"), ("hog", "recording")]
        assert {"frame_split", "participant_split"} <= set(shown[0])

    def test_too_little_to_split_is_not_checked(self, tmp_path):
        labels = np.zeros((6, 8), dtype=int)
        labels[0, 7] = 1
        dataset = write_dataset(tmp_path / "d", labels)
        material = Material(dataset, build_clips(dataset, target="Smile"))
        splits = make_folds(material.clips, folds=3, seed=0)
        gaps = leakage_gaps(material, splits=splits, baselines=[NONE], seed=0)
        assert gaps == [] and check_leakage_gap(gaps).severity == "not checked"


class TestTimeCorrelation:
    def test_intraclass_correlation_of_shrout_and_fleiss(self):
        # The example of their Table 2: ICC(1,1) = .17.
        ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
        people = np.repeat(np.array(list("abcdef"), dtype=object), 4)
        icc, design_effect = intraclass_correlation(np.array(ratings, dtype=float).ravel(), people)
        assert icc == pytest.approx(0.17, abs=0.005)
        assert design_effect == pytest.approx(1 + 3 * icc)

    def test_a_negative_correlation_between_people_widens_nothing(self):
        correct = np.array([1.0, 0.0, 0.0, 1.0])
        icc, design_effect = intraclass_correlation(correct, np.array(["a", "a", "b", "b"], dtype=object))
        assert icc < 0 and design_effect == 1.0

    def test_a_known_process_is_recovered(self):
        from simulations.classifier import markov_labels

        labels = markov_labels(np.random.default_rng(0), participants=1, frames=20000, autocorrelation=0.6)[0]
        follows = np.arange(20000) > 0
        assert lag1_autocorrelation(labels.astype(float), follows=follows) == pytest.approx(0.6, abs=0.02)

    def test_clips_across_a_gap_are_no_neighbours(self):
        correct = np.tile([1.0, 1.0, 0.0, 0.0], 10)
        follows = np.arange(40) % 2 == 1  # only within the equal pairs
        assert lag1_autocorrelation(correct, follows=follows) == pytest.approx(1.0)
        assert np.isnan(lag1_autocorrelation(correct, follows=np.zeros(40, dtype=bool)))
        assert np.isnan(lag1_autocorrelation(np.ones(40), follows=follows))

    def test_effective_size(self):
        assert effective_size(90, phi=0.5) == pytest.approx(30.0)
        assert effective_size(90, phi=-0.2) == 90.0

    def test_the_check_reads_a_predictions_table(self):
        labels = runs(6, 40, rate=0.1)
        clips, _ = drawn_clips(labels)
        table = clips.table.assign(model="m", fold=0, prob_Drawn=0.9).astype({"target": "Int64"})
        check = check_time_correlation(table, clips.scheme)
        # It always says yes, so it is right as long as the label lasts.
        assert check.severity == "ok" and check.measured > 0.5
        assert check.evidence["effective_clips"] < 120 < check.evidence["num_clips"] == 240

    def test_nothing_to_correlate(self):
        clips, _ = drawn_clips(np.ones((3, 20), dtype=int))
        table = clips.table.assign(model="m", fold=0, prob_Drawn=0.9).astype({"target": "Int64"})
        assert check_time_correlation(table, clips.scheme).severity == "not checked"


@pytest.mark.real
@pytest.mark.slow
class TestSmileStudy:
    @pytest.fixture(scope="class")
    def prepared(self, shared_data, tmp_path_factory):
        from mien.data.prepare import prepare
        from mien.data.settings import PrepareConfig

        made = {}

        def make(media, crop, fps):
            if (media, crop) not in made:
                config = PrepareConfig(fps=fps, crop=crop, media=media)
                out = tmp_path_factory.mktemp("smile") / "d"
                made[media, crop] = prepare(shared_data / "smile_study", out=out, config=config)
            return made[media, crop]

        return make

    @pytest.fixture(autouse=True)
    def _weights(self, shared_data, monkeypatch):
        monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))

    @pytest.mark.parametrize(("crop", "severity"), [("none", "fail"), ("panel", "ok"), ("face", "ok")])
    def test_plots_beside_the_face_fail_and_cropping_mends_it(self, prepared, crop, severity):
        dataset = prepared("screen", crop, 2.0)
        for target in ("Smile", "Speaking", "Arousal"):
            clips = build_clips(dataset, target=target)
            splits = make_folds(clips, folds=5, seed=0)
            found = read_hidden_faces(
                Material(dataset, clips),
                splits=splits,
                baselines=[NONE, RECORDING],
                encoders=[find_encoder("efficientnet_lite0")],
            )
            check = check_hidden_face(found, clips=clips, splits=splits)
            assert check.severity == severity, check.detail

    def test_cameras_never_fail_and_honest_nulls_rarely_alarm(self, prepared):
        dataset = prepared("camera", "face", 1.0)
        clips = build_clips(dataset, target="Speaking")
        splits = make_folds(clips, folds=5, seed=0)
        found = read_hidden_faces(Material(dataset, clips), splits=splits, baselines=[NONE, RECORDING])
        check = check_hidden_face(found, clips=clips, splits=splits)
        # Speaking is in the sound alone.
        assert check.severity == "ok", check.detail
        rows = real_nulls(24, dataset=dataset, participants=(10,))
        assert all(row.agrees for row in rows), rows
