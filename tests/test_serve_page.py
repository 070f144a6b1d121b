"""The page of the service in a browser: with the mouse, with the keyboard alone, in the dark, on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from test_serve import Running

playwright = pytest.importorskip("playwright.sync_api")
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(probe_bundle, tmp_path_factory):
    with Running(probe_bundle, tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.fixture
def page(chromium, service):
    opened = chromium.new_page()
    opened.complaints = []
    opened.on("console", lambda message: opened.complaints.append(message.text))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.goto(service.url)
    opened.locator("#title", has_text="Smile").wait_for()  # a function would need eval, which the page forbids
    yield opened
    opened.close()


def predicted(page, video: Path) -> None:
    page.set_input_files("#file", video)
    page.wait_for_selector("#result:not([hidden])", timeout=120_000)


def test_a_video_becomes_a_timeline_that_jumps(page, probe_video, tmp_path):
    predicted(page, probe_video)
    assert probe_video.name in page.inner_text("#result-title")
    assert page.locator("#timeline path").count() == 1
    box = page.locator("#timeline").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    length = float(page.get_attribute("#timeline", "aria-valuemax"))
    assert 0.6 * length < float(page.get_attribute("#timeline", "aria-valuenow")) < 0.9 * length
    with page.expect_download() as download:
        page.click("text=Timeline (CSV)")
    download.value.save_as(tmp_path / "t.csv")
    assert download.value.suggested_filename.endswith(".timeline.csv")
    assert pd.read_csv(tmp_path / "t.csv")["prob_Smile"].between(0, 1).all()
    assert page.complaints == []


def test_with_the_keyboard_alone(page, probe_video):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    predicted(page, probe_video)
    assert page.evaluate("document.activeElement.id") == "timeline"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert float(page.get_attribute("#timeline", "aria-valuenow")) == pytest.approx(2, abs=0.2)
    page.keyboard.press("End")
    assert page.get_attribute("#timeline", "aria-valuenow") == page.get_attribute("#timeline", "aria-valuemax")
    page.focus("#delete")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result", state="hidden")
    assert page.evaluate("document.activeElement.id") == "file"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(page, probe_video, scheme):
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    predicted(page, probe_video)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_file_that_is_no_video_says_why(page, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video " * 100)
    page.set_input_files("#file", tmp_path / "notes.mp4")
    page.wait_for_selector("#problem:not([hidden])", timeout=60_000)
    assert len(page.inner_text("#problem")) > 20
    assert page.is_visible("#drop")
