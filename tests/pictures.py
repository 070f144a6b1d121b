"""Makes the documents' pictures from what `mien demo` left: opens its pages in Chromium and looks whether they show it.

`make pictures` writes them to `docs/`; a test makes them from a shorter demo, to see that they can be made.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from doc_commands import Service

WIDTH_PX = 1100
"""Of most windows: wide enough for the report's first screen, narrow enough to be read in a document."""
MARGIN_PX = 16
"""Above what a picture begins with."""
COLOURS = 256
"""Of a picture: pages are flat, and the palette halves the files."""
PLAYED_S = 4.0
"""Where the player stands in the picture of the service."""

SETTLED_MS = 1500
"""After the player has moved there: until its sign of loading is gone."""
SEEK = """([time_s, settled_ms]) => new Promise((done, fail) => {
  const player = document.getElementById("player");
  player.addEventListener("seeked", () => setTimeout(done, settled_ms), {once: true});
  setTimeout(() => fail(new Error("the player doesn't move")), 30000);
  player.currentTime = time_s;
})"""


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: Its file.
        page: The page, below the demo's folder; empty for that of the service.
        height_px: Of the window.
        width_px: Of the window.
        shows: Selectors of what must be seen in it, whole.
        begins: Selectors of what must begin in it.
        words: What must be read in it.
    """

    name: str
    page: str
    height_px: int
    shows: tuple[str, ...]
    begins: tuple[str, ...]
    words: tuple[str, ...]
    width_px: int = WIDTH_PX


PICTURES = (
    Picture(
        "report.png",
        page="report.html",
        height_px=840,
        shows=("section.verdict h2", ".claim", "section.verdict circle.dot >> nth=0", ".audit-line"),
        begins=("section.verdict",),
        words=("Permits:", "linear_probe@hog+recording", "selected"),
    ),
    Picture(
        "audit.png",
        page="run/audit.html",
        height_px=700,
        shows=("section.verdict h2", ".facts", "table.checks tbody tr >> nth=0"),
        begins=("table.checks",),
        words=("Participants", "All checks", "Threshold"),
    ),
    Picture(
        "timeline.png",
        page="predictions/video.html",
        height_px=800,
        shows=("h1", "figure svg", "figcaption", "h2:has-text('Events')"),
        begins=("h2:has-text('Events') + table",),
        words=("Smile", "onset (s)", "An expression"),
    ),
    Picture(
        "service.png",
        page="",
        height_px=766,
        shows=("#result-title", "#player", "#timeline", "#timeline path", "#legend"),
        begins=(),
        words=("Smile", "video.mp4", "Events"),
        width_px=760,
    ),
)


def make_pictures(demo: Path, *, out: Path, browser: Any) -> list[Path]:
    """Write all pictures.

    Args:
        demo: What `mien demo` left.
        out: Folder of the pictures.
        browser: A started Chromium.

    Returns:
        Their paths.

    Raises:
        AssertionError: A page doesn't show what its picture is to show.
    """
    with tempfile.TemporaryDirectory() as folder:
        service = Service(["serve", str(demo.resolve() / "bundle")], Path(folder))
        try:
            return [_make(picture, demo=demo, out=out, browser=browser, service=service) for picture in PICTURES]
        finally:
            service.stop()


def _make(picture: Picture, *, demo: Path, out: Path, browser: Any, service: Service) -> Path:
    page = browser.new_page(viewport={"width": picture.width_px, "height": picture.height_px}, color_scheme="light")
    try:
        if picture.page:
            page.goto((demo / picture.page).resolve().as_uri())
        else:
            page.goto(service.url)
            _predict(page, demo / "newcomer/video.mp4")
        _check(page, picture)
        path = out / picture.name
        with Image.open(io.BytesIO(page.screenshot())) as shot:
            shot.convert("RGB").quantize(COLOURS).save(path, optimize=True)
        return path
    finally:
        page.close()


def _predict(page: Any, video: Path) -> None:
    """Drop a video on the service's page, and let the player show a moment of it."""
    page.locator("#title", has_text="Smile").wait_for()
    page.set_input_files("#file", video)
    page.wait_for_selector("#result:not([hidden])", timeout=120_000)
    page.locator("#timeline").scroll_into_view_if_needed()
    page.evaluate(SEEK, [PLAYED_S, SETTLED_MS])
    top = page.evaluate("document.getElementById('result').getBoundingClientRect().top + window.scrollY")
    page.evaluate(f"window.scrollTo(0, {top} - {MARGIN_PX})")


def _check(page: Any, picture: Picture) -> None:
    for selector in (*picture.shows, *picture.begins):
        box = page.locator(selector).first.bounding_box()
        assert box is not None and box["width"] > 0 and box["height"] > 0, f"{picture.name}: no {selector}"
        bottom = box["y"] + (box["height"] if selector in picture.shows else 20)
        assert box["y"] >= 0 and bottom <= picture.height_px, f"{picture.name}: {selector} isn't in view: {box}"
    text = page.inner_text("body")
    missing = [word for word in picture.words if word not in text]
    assert not missing, f"{picture.name}: not on the page: {missing}"


@contextmanager
def started_chromium() -> Iterator[Any]:
    """Start the system's Chromium.

    Raises:
        FileNotFoundError: There is none.
    """
    from playwright.sync_api import sync_playwright

    find: Callable[[str], str | None] = shutil.which
    path = find("chromium") or find("chromium-browser") or find("google-chrome")
    if path is None:
        raise FileNotFoundError("no Chromium on this machine")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


if __name__ == "__main__":
    with started_chromium() as chromium:
        for made in make_pictures(Path(sys.argv[1]), out=Path(sys.argv[2]), browser=chromium):
            print(f"{made}: {made.stat().st_size / 1000:.0f} kB")
