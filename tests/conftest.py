"""Fixtures that several tests share: a small drawn study, and its dataset, made once per test run."""

from __future__ import annotations

from pathlib import Path

import pytest

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
