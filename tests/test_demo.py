"""The demo's promises: what it leaves behind, and that a second start repeats nothing."""

from __future__ import annotations

import pandas as pd
import pytest

import mien.demo.run as demo
from mien.core.errors import UserError
from mien.training.config import TrainConfig
from mien.training.settings import FitSettings


@pytest.fixture
def short_demo(monkeypatch):
    """The same story with fewer people, shorter videos, and networks that hardly train."""
    monkeypatch.setattr(demo, "PARTICIPANTS", 5)
    monkeypatch.setattr(demo, "DURATION_S", 6.0)
    monkeypatch.setattr(demo, "FPS", 2.0)
    monkeypatch.setattr(demo, "SETTINGS", FitSettings(training=TrainConfig(image_size=32, epochs=1)))


@pytest.mark.slow
def test_the_whole_story(short_demo, tmp_path, capsys):
    out = tmp_path / "demo"
    report = demo.run_demo(out, seed=3)
    assert report == out / "report.html"
    page = report.read_text()
    assert "This study is synthetic" in page
    assert "no readable index" in page  # the recording that doesn't open is named
    assert (out / "bundle/bundle.json").is_file()
    timeline = pd.read_csv(out / "predictions/video.timeline.csv")
    assert timeline["prob_Smile"].between(0, 1).all()
    assert str(report) in capsys.readouterr().err
    story = demo.Story(out)
    kept = {path: path.stat().st_mtime_ns for path in [*story.study.rglob("*.mp4"), *story.run.rglob("fit.json")]}
    demo.run_demo(out, seed=3)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match=r"thesis\.docx"):
        demo.run_demo(tmp_path)


def test_a_demo_of_another_version_is_made_again(tmp_path):
    out = tmp_path / "demo"
    for name in ("study", "dataset", "run"):
        (out / name).mkdir(parents=True)
    (out / "study/study.yaml").write_text("name: mien demonstration\n")
    (out / "dataset/dataset.json").write_text('{"format": 1}')
    demo._clear_outdated(demo.Story(out), made_by={"mien": "9", "settings": "a"})
    assert [path.name for path in out.iterdir()] == ["demo.json"]
    (out / "study").mkdir()
    demo._clear_outdated(demo.Story(out), made_by={"mien": "9", "settings": "a"})
    assert (out / "study").is_dir()


def test_a_study_that_the_demo_did_not_draw_is_left_alone(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study/study.yaml").write_text("name: interviews\n")
    with pytest.raises(UserError, match="not the study that the demo draws"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "study/study.yaml").is_file()
