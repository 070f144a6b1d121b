"""Atomic writes, folders that may be written to, and caches that follow their recordings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mien.core.errors import UserError
from mien.core.storage import (
    atomic_directory,
    atomic_path,
    check_output_folder,
    digest_of,
    remove_leftovers,
    to_jsonable,
)
from mien.data.dataset import Dataset
from mien.runtime.cache import cached_features, cached_pixels
from mien.runtime.encoders import HogEncoder


def test_an_error_leaves_the_old_file_and_no_leftover(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "d"
    for text in ("first", "second"):
        with atomic_directory(path) as temporary:
            (temporary / text).write_text(text)
    assert [item.name for item in path.iterdir()] == ["second"]
    with pytest.raises(RuntimeError, match="halfway"), atomic_directory(path) as temporary:
        raise RuntimeError("halfway")
    assert [item.name for item in path.iterdir()] == ["second"]
    assert [item.name for item in tmp_path.iterdir()] == ["d"]


def test_leftovers_of_one_name_only(tmp_path):
    for name in (".run.json.x1", ".other.json.x1", "run.json"):
        (tmp_path / name).touch()
    (tmp_path / ".run.json.x2").mkdir()
    remove_leftovers(tmp_path, of="run.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.x1", "run.json"]


def test_output_folders(tmp_path):
    check_output_folder(tmp_path / "absent", marker="run.json", what="run")
    (tmp_path / ".run.json.x1").touch()
    check_output_folder(tmp_path, marker="run.json", what="run")
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match=r"isn't a run \(it holds thesis\.docx\)"):
        check_output_folder(tmp_path, marker="run.json", what="run")
    (tmp_path / "run.json").touch()
    check_output_folder(tmp_path, marker="run.json", what="run")
    with pytest.raises(UserError, match="is a file"):
        check_output_folder(tmp_path / "run.json", marker="run.json", what="run")


def test_json_has_no_nan_and_digests_no_order():
    assert to_jsonable({"a": np.array([1.0, np.inf]), "b": np.int64(3)}) == {"a": [1.0, None], "b": 3}
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_caches_follow_a_recording_that_was_prepared_again(drawn_dataset, tmp_path):
    """Same recording id, other media: nothing computed from the old one may be used."""
    shutil.copytree(drawn_dataset.path, tmp_path / "d", ignore=shutil.ignore_patterns("cache"))
    dataset = Dataset.open(tmp_path / "d")
    recording_id = str(dataset.recordings["recording_id"].iloc[0])
    encoder = HogEncoder()
    before = np.array(cached_features(dataset, recording_id, encoder=encoder))
    pixels = np.array(cached_pixels(dataset, recording_id, size_px=32, crop=1.15))
    assert np.array_equal(before, cached_features(dataset, recording_id, encoder=encoder))
    folder = dataset.path / "recordings" / recording_id
    np.save(folder / "crops.npy", 255 - np.asarray(dataset.crops(recording_id)))
    facts = json.loads((folder / "recording.json").read_text())
    (folder / "recording.json").write_text(json.dumps({**facts, "sha256": "0" * 64}))
    again = Dataset.open(dataset.path)
    assert np.array_equal(cached_pixels(again, recording_id, size_px=32, crop=1.15), 255 - pixels)
    assert not np.array_equal(cached_features(again, recording_id, encoder=encoder), before)
    assert len(list((dataset.path / "cache").rglob(f"{recording_id}@*.npy"))) == 2


def test_features_are_nan_where_no_face_was_found(drawn_dataset, tmp_path):
    shutil.copytree(drawn_dataset.path, tmp_path / "d", ignore=shutil.ignore_patterns("cache"))
    dataset = Dataset.open(tmp_path / "d")
    recording_id = str(dataset.recordings["recording_id"].iloc[0])
    path = dataset.path / "recordings" / recording_id / "frames.parquet"
    frames = dataset.frames(recording_id)
    frames.loc[2, "face_found"] = False
    frames.to_parquet(path)
    features = cached_features(dataset, recording_id, encoder=HogEncoder())
    assert np.flatnonzero(np.isnan(features).any(axis=1)).tolist() == [2]
