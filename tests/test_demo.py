"""The demo's promises: what it leaves behind, and that a second start repeats nothing."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mien.demo.run as demo
from mien.core.errors import UserError
from mien.training.config import TrainConfig
from mien.training.settings import FitSettings
from pictures import PICTURES, make_pictures, started_chromium

DOCS = Path(__file__).parents[1] / "docs"
MAX_PICTURE_BYTES = 150_000
"""A repository keeps every version of a picture for ever."""


SEED = 3


def shorten(patch: pytest.MonkeyPatch) -> None:
    """The same story with fewer people, shorter videos, and networks that hardly train."""
    patch.setattr(demo, "PARTICIPANTS", 5)
    patch.setattr(demo, "DURATION_S", 6.0)
    patch.setattr(demo, "SETTINGS", FitSettings(training=TrainConfig(image_size=32, epochs=1)))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a short demo leaves, and what it says on its way."""
    out = tmp_path_factory.mktemp("story") / "demo"
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as said:
        shorten(patch)
        demo.run_demo(out, seed=SEED)
    return out, said.getvalue()


@pytest.mark.slow
def test_the_whole_story(told, monkeypatch):
    out, said = told
    page = (out / "report.html").read_text()
    assert "This study is synthetic" in page
    assert "no readable index" in page  # the recording that doesn't open is named
    assert (out / "bundle/bundle.json").is_file()
    timeline = pd.read_csv(out / "predictions/video.timeline.csv")
    assert timeline["prob_Smile"].between(0, 1).all()
    assert len(pd.read_csv(out / "predictions/video.events.csv")) > 0
    assert str(out / "report.html") in said
    # What its output can't avoid it explains; nothing else is missing from the bundle.
    assert "Not calibrated" in said and "too few to calibrate" in said
    assert "no settings of events" not in said
    story = demo.Story(out)
    kept = {path: path.stat().st_mtime_ns for path in [*story.study.rglob("*.mp4"), *story.run.rglob("fit.json")]}
    shorten(monkeypatch)
    demo.run_demo(out, seed=SEED)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


@pytest.mark.slow
def test_the_documents_pictures_are_made_from_it(told, tmp_path):
    """What the text says is in each picture (`make_pictures` looks); the ones in docs/ are of the same pages."""
    pytest.importorskip("playwright.sync_api")
    try:
        with started_chromium() as browser:
            made = make_pictures(told[0], out=tmp_path, browser=browser)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert [path.name for path in made] == [picture.name for picture in PICTURES]
    for picture, path in zip(PICTURES, made, strict=True):
        for each in (path, DOCS / picture.name):
            with Image.open(each) as shot:
                assert shot.size == (picture.width_px, picture.height_px), each
                # A page with something on it: text and lines, not one colour.
                pixels = np.asarray(shot.convert("L"), dtype=np.float64)
                assert pixels.std() > 10, each
            assert each.stat().st_size < MAX_PICTURE_BYTES, each


def test_every_picture_is_shown_by_a_document_and_every_document_has_its_pictures():
    shown = {
        link
        for page in [DOCS.parent / "README.md", *DOCS.glob("*.md")]
        for link in re.findall(r"!\[[^\]]+\]\((?:docs/)?([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == {picture.name for picture in PICTURES}
    assert shown == {path.name for path in DOCS.glob("*.png")}


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
