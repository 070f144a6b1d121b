"""Nothing fitted, chosen or calibrated depends on the test participants: their labels and pixels are changed here."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from mien.crossval.selection import SELECTED, choose_per_fold, selected_predictions
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.evaluation.calibration import fit_calibration
from mien.models.choice import parse_model
from mien.training.config import TrainConfig
from mien.training.model_fit import fit_model
from mien.training.settings import FitSettings

TINY = FitSettings(training=TrainConfig(image_size=32, epochs=2, batch_size=16))


@pytest.fixture(scope="module")
def both(drawn_dataset, tmp_path_factory):
    """The dataset, and one in which the test participants of fold 0 have noise for pixels and all labels turned."""
    clips = build_clips(drawn_dataset, target="Smile")
    split = make_folds(clips, folds=3, seed=0)[0]
    path = tmp_path_factory.mktemp("mutated") / "dataset"
    shutil.copytree(drawn_dataset.path, path, ignore=shutil.ignore_patterns("cache"))
    mutated = Dataset.open(path)
    tested = clips.table["participant_id"].isin(split.test)
    generator = np.random.default_rng(0)
    for recording_id in clips.table.loc[tested, "recording_id"].unique():
        file = path / "recordings" / str(recording_id) / "crops.npy"
        shape = np.load(file).shape
        np.save(file, generator.integers(0, 256, size=shape, dtype=np.uint8))
    table = clips.table.assign(target=clips.table["target"].where(~tested, 1 - clips.table["target"]))
    turned = dataclasses.replace(clips, table=table)
    assert not table["target"].equals(clips.table["target"])
    return (drawn_dataset, clips), (mutated, turned), split


@pytest.mark.parametrize("model", ["linear_probe@hog+recording", "improved_cnn", "vit_scratch+recording"])
def test_nothing_fitted_changes_with_the_test_participants(both, model, tmp_path):
    original, changed, split = both
    weights, inner, tested = [], [], []
    for name, (dataset, clips) in (("a", original), ("b", changed)):
        fitted = fit_model(
            parse_model(model),
            dataset=dataset,
            clips=clips,
            train=split.train,
            validation=split.validation,
            settings=TINY,
            seed=7,
        )
        fitted.save_weights(tmp_path / name)
        weights.append((tmp_path / name).read_bytes())
        rows, logits = fitted.predict_inner(split.validation)
        inner.append((rows["clip_id"].tolist(), rows["target"].tolist(), logits))
        tested.append(fitted.predict(split.test)[1])
        calibration = fit_calibration(logits, rows["target"].to_numpy(float), rows["participant_id"].to_numpy(object))
        inner[-1] = (*inner[-1], calibration)
    assert weights[0] == weights[1]
    assert inner[0][:2] == inner[1][:2]
    np.testing.assert_array_equal(inner[0][2], inner[1][2])
    assert inner[0][3] == inner[1][3]
    # The change reached what is tested, so the test can tell.
    assert not np.allclose(tested[0], tested[1])


def test_the_inner_probe_never_saw_the_inner_split(both):
    (dataset, clips), _, split = both
    fitted = fit_model(
        parse_model("linear_probe@hog"),
        dataset=dataset,
        clips=clips,
        train=split.train,
        validation=split.validation,
        settings=TINY,
        seed=0,
    )
    alone = fit_model(
        parse_model("linear_probe@hog"),
        dataset=dataset,
        clips=clips,
        train=split.train,
        validation=(),
        settings=TINY,
        seed=0,
    )
    np.testing.assert_array_equal(fitted.predict_inner(split.validation)[1], alone.predict(split.validation)[1])
    assert not np.allclose(fitted.predict_inner(split.validation)[1], fitted.predict(split.validation)[1])


def test_the_selected_pipeline_takes_the_best_on_the_inner_split_and_its_test_predictions(both):
    (_, clips), _, _ = both
    choices = [parse_model("linear_probe@hog"), parse_model("improved_cnn")]
    base = clips.table[
        ["clip_id", "recording_id", "participant_id", "group", "segment_id", "start_s", "end_s", "target"]
    ]

    def table(model, *, right, fold):
        prob = np.where((base["target"] == 1) == right, 0.9, 0.1)
        return base.assign(model=model, fold=fold, prob_Smile=prob, logit_Smile=0.0, face_found=True)

    inner = pd.concat(
        [
            table("linear_probe@hog", right=True, fold=0),
            table("improved_cnn", right=False, fold=0),
            table("linear_probe@hog", right=False, fold=1),
            table("improved_cnn", right=True, fold=1),
        ]
    )
    chosen = choose_per_fold(inner, scheme=clips.scheme, choices=choices)
    assert [item["model"] for item in chosen] == ["linear_probe@hog", "improved_cnn"]
    assert [item["inner_score"] for item in chosen] == [1.0, 1.0]
    # The test predictions are turned: what is best there is of no consequence.
    picked = selected_predictions(inner.assign(prob_Smile=1 - inner["prob_Smile"]), chosen=chosen)
    assert set(picked["model"]) == {SELECTED} and len(picked) == 2 * len(base)
    assert ((picked["prob_Smile"] < 0.5) == (picked["target"] == 1)).all()
