"""One recording through all four ways to a probability: training's own model, `mien.load`, the exported ONNX, HTTP.

Pairs of them are compared elsewhere; here one clip goes through all four, and every sampled frame has to agree.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pandas as pd
import pytest

import mien
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.splits import holdout_split
from mien.export.graph import single_graph
from mien.export.recording_clips import clips_of
from mien.export.run import export_bundle
from mien.models.choice import parse_model
from mien.runtime.bundle import Bundle
from mien.training.bundle_writer import write_bundle
from mien.training.config import TrainConfig
from mien.training.model_fit import FittedModel, fit_model
from mien.training.settings import FitSettings
from test_serve import Running, send

TOLERANCE = 1e-4
SETTINGS = FitSettings(
    training=TrainConfig(image_size=32, epochs=3, batch_size=8, scratch_lr=2e-3, dropout=0.0, augment=False),
    per_model={
        "audio_wavenet": {"context_s": 0.6, "clips_per_recording": 4, "epochs": 1},
        "temporal_vit": {"clips_per_recording": 4, "epochs": 1},
    },
)
MODELS = ("improved_cnn+recording", "linear_probe@hog+recording", "audio_wavenet")
SLOWER = ("linear_probe@hog+first:2", "linear_probe@logmel+recording", "temporal_vit@hog+recording")


@dataclass(frozen=True)
class Trained:
    """A model as its training holds it, and as its bundle."""

    fitted: FittedModel
    bundle: Path


def train(dataset: Dataset, model: str, *, target: str, out: Path, settings: FitSettings = SETTINGS) -> Trained:
    choice = parse_model(model)
    clips = build_clips(dataset, target=target, needs=choice.needs)
    split = holdout_split(clips, seed=0)
    fitted = fit_model(
        choice,
        dataset=dataset,
        clips=clips,
        train=split.train,
        validation=split.validation,
        settings=settings,
        seed=0,
    )
    people = {"participants": [*split.train, *split.validation], "validation_participants": list(split.validation)}
    write_bundle(fitted, out=out, label=model, provenance={"dataset": str(dataset.path), **people})
    return Trained(fitted, out)


def four_ways(trained: Trained, dataset: Dataset, *, video: Path, folder: Path) -> pd.DataFrame:
    """Return a probability per sampled frame (rows) and way (columns); NaN where a way says nothing of a frame."""
    row = dataset.recordings.set_index("media").loc[_stored_name(dataset, video)]
    recording_id, participant = str(row["recording_id"]), str(row["participant_id"])
    num_frames = len(dataset.frames(recording_id))
    bundle = Bundle.open(trained.bundle)
    column = bundle.spec.labels.output_columns[0]
    ways = {"training": _as_trained(trained, recording_id, participant=participant, num_frames=num_frames)}
    timeline = mien.load(trained.bundle).predict(video)
    np.testing.assert_allclose(timeline["start_s"], dataset.frames(recording_id)["pts_s"])
    ways["python"] = timeline[column].to_numpy(np.float64)
    ways["onnx"] = _as_exported(bundle, dataset, recording_id, participant=participant, folder=folder)
    (folder / "served").mkdir()
    with Running(trained.bundle, folder / "served") as service:
        job = service.wait(send(service, video.read_bytes(), name=video.name).json()["job_id"])
        assert job["state"] == "done", job
        answer = httpx.get(f"{service.url}/v1/jobs/{job['job_id']}/timeline", params={"format": "csv"})
        ways["http"] = pd.read_csv(io.StringIO(answer.text))[column].to_numpy(np.float64)
    return pd.DataFrame(ways)


def check_agreement(found: pd.DataFrame, *, name: str, capsys: pytest.CaptureFixture[str]) -> float:
    """All ways speak of the same frames, and say the same; the largest difference is printed."""
    said = found.notna()
    assert said.eq(said["training"], axis=0).all(axis=None), f"not the same frames: {said.sum().to_dict()}"
    known = found[said["training"]]
    assert len(known) >= 5 and np.ptp(known["training"]) > 0.01, "a constant would agree with anything"
    worst = float((known.max(axis=1) - known.min(axis=1)).max())
    with capsys.disabled():
        print(f"\n{name}: {len(known)} frames, four ways, largest difference of a probability {worst:.2g}")
    assert worst <= TOLERANCE, known.sub(known["training"], axis=0).abs().max().to_dict()
    return worst


def _stored_name(dataset: Dataset, video: Path) -> str:
    (name,) = [stored for stored in dataset.recordings["media"] if Path(stored).name == video.name]
    return str(name)


def _as_trained(trained: Trained, recording_id: str, *, participant: str, num_frames: int) -> np.ndarray:
    """What evaluation is given: the crops of the dataset through PyTorch (of a probe, scikit-learn's coefficients)."""
    rows, logits = trained.fitted.predict([participant])
    own = (rows["recording_id"] == recording_id).to_numpy()
    probabilities = Bundle.open(trained.bundle).spec.labels.probabilities(logits[own])
    whole = np.full(num_frames, np.nan)
    whole[rows.loc[own, "frame"].to_numpy()] = probabilities[:, 0]
    return whole


def _as_exported(bundle: Bundle, dataset: Dataset, recording_id: str, *, participant: str, folder: Path) -> np.ndarray:
    """The single ONNX on what the dataset holds, by ONNX Runtime as anybody would call it."""
    out = folder / "model.onnx"
    export_bundle(bundle.path, out=out, dataset=dataset.path)
    clips = clips_of(bundle, dataset, graph=single_graph(bundle), recording_id=recording_id, participant=participant)
    (probabilities,) = onnxruntime.InferenceSession(str(out)).run(["probabilities"], clips.inputs)
    whole = np.full(len(dataset.frames(recording_id)), np.nan)
    whole[clips.frames] = probabilities[:, 0]
    return whole


@pytest.mark.parametrize("model", [*MODELS, *(pytest.param(model, marks=pytest.mark.slow) for model in SLOWER)])
def test_one_clip_says_the_same_on_every_way(model, drawn_dataset, probe_video, tmp_path, capsys):
    trained = train(drawn_dataset, model, target="Smile", out=tmp_path / "bundle")
    found = four_ways(trained, drawn_dataset, video=probe_video, folder=tmp_path)
    check_agreement(found, name=model, capsys=capsys)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_clip_says_the_same_on_every_way(smile_study_dataset, shared_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    trained = train(smile_study_dataset, "linear_probe@hog+recording", target="Smile", out=tmp_path / "bundle")
    media = sorted((shared_data / "smile_study/Analysis/Respondent Cameras").glob("*.mp4"))
    found = four_ways(trained, smile_study_dataset, video=media[0], folder=tmp_path)
    check_agreement(found, name="a real clip, linear_probe@hog+recording", capsys=capsys)
