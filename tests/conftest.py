"""Fixtures that several tests share: a small drawn study, and its dataset, made once per test run."""

from __future__ import annotations

from pathlib import Path

import pytest

SENSOR = "GSR Conductance CAL"
SHARED = Path(__file__).parents[2] / "shared/data"


@pytest.fixture(autouse=True)
def _no_weights_from_outside(monkeypatch):
    """Tests see pretrained weights only where they say so."""
    monkeypatch.delenv("MIEN_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def shared_data():
    if not SHARED.is_dir():
        pytest.skip("the real recordings in ../shared/data are not here")
    return SHARED


@pytest.fixture(scope="session")
def drawn_study(tmp_path_factory):
    """Six drawn people of 6 s, and one recording that doesn't open."""
    from mien.demo.study import write_demo_study

    return write_demo_study(
        tmp_path_factory.mktemp("drawn") / "study", participants=6, duration_s=6.0, fps=10, width=192, height=144
    )


@pytest.fixture(scope="session")
def drawn_dataset(drawn_study, tmp_path_factory):
    """The dataset of the drawn study, two samples per second."""
    from mien.data.prepare import prepare
    from mien.data.settings import PrepareConfig

    out = tmp_path_factory.mktemp("prepared") / "dataset"
    return prepare(drawn_study, out=out, config=PrepareConfig(fps=2.0, size_px=96, workers=1))


@pytest.fixture(scope="session")
def probe_bundle(drawn_dataset, tmp_path_factory):
    """A bundle of a linear probe on the drawn dataset."""
    from mien.training.final import plan_training, train_bundle

    out = tmp_path_factory.mktemp("bundles") / "probe"
    train_bundle(plan_training(drawn_dataset.path, target="Smile", model="linear_probe@hog", out=out))
    return out


@pytest.fixture(scope="session")
def probe_video(drawn_study):
    """A recording of the drawn study that opens."""
    cameras = (drawn_study / "Analysis" / "Respondent Cameras").glob("*.mp4")
    return max(cameras, key=lambda path: path.stat().st_size)


@pytest.fixture(scope="session")
def with_signals(drawn_dataset, tmp_path_factory):
    """The drawn dataset, in which a sensor follows the smile."""
    import shutil

    import numpy as np
    import pandas as pd

    from mien.core.storage import read_json, write_json
    from mien.data.dataset import Dataset

    path = tmp_path_factory.mktemp("signals") / "dataset"
    shutil.copytree(drawn_dataset.path, path)
    smiles = drawn_dataset.annotations[drawn_dataset.annotations["scheme"] == "Smile"]
    for number, recording_id in enumerate(drawn_dataset.recordings["recording_id"]):
        times_s = np.arange(0, 6, 1 / 32)
        values = np.random.default_rng(number).normal(0, 0.2, len(times_s))
        for row in smiles[smiles["recording_id"] == recording_id].itertuples():
            values[(times_s >= row.onset_s) & (times_s < row.offset_s)] += 1
        folder = path / "recordings" / recording_id
        pd.DataFrame({"time_s": times_s, SENSOR: values.astype(np.float32)}).to_parquet(folder / "signals.parquet")
        write_json(
            folder / "signals.json", {"rate_hz": 32.0, "names": [SENSOR], "units": ["microSiemens"], "digest": "x"}
        )
    info = read_json(path / "dataset.json")
    write_json(path / "dataset.json", {**info, "signals": {SENSOR: "microSiemens"}})
    return Dataset.open(path)


@pytest.fixture(scope="session")
def smile_study_dataset(shared_data, tmp_path_factory):
    """All 72 people of the smile study, a sample every 5 s; tests read it and change nothing."""
    from mien.data.prepare import prepare
    from mien.data.settings import PrepareConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
        out = tmp_path_factory.mktemp("smile") / "d"
        return prepare(shared_data / "smile_study", out=out, config=PrepareConfig(fps=0.2, size_px=224))


@pytest.fixture(scope="session")
def copied_study(tmp_path_factory):
    """One drawn person's 20 frames, and four photometric copies of them declared to be other participants."""
    from copied_studies import drawn_pictures, write_copied_study

    return write_copied_study(tmp_path_factory.mktemp("copied") / "study", drawn_pictures(11, count=20))


@pytest.fixture(scope="session")
def real_copied_study(shared_data, tmp_path_factory):
    """The same with a real person's frames, one per second."""
    from copied_studies import write_copied_study
    from mien.media.video import sample_frames

    cameras = shared_data / "smile_study/Analysis/Respondent Cameras"
    path = sorted(cameras.glob("RespCam_AJ*.mp4"))[0]
    pictures = [frame.rgb for frame in sample_frames(path, fps=1.0, threads=1)][:20]
    return write_copied_study(tmp_path_factory.mktemp("copied") / "real", pictures)
