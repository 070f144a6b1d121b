"""The pages in a browser, as a person opens them: from disk, without a network, in one glance, on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from mien.core.storage import write_json
from mien.crossval.compare import plan_comparison, run_comparison
from mien.report.audit_report import write_audit_report
from mien.report.first_page import MAX_MODELS
from report_runs import check, evidence_of, make_run, rewritten

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
)
SCREEN_PX, PHONE_PX = (1280, 800), (390, 844)

# A page of ours has no script: another page holds it in a frame of the wanted size and measures it from outside.
FRAME = """<!doctype html><iframe id="f" style="width:{width}px;height:{height}px;border:0" srcdoc="{page}"></iframe>
<script>document.getElementById("f").onload = event => {{
  const page = event.target.contentDocument, root = page.documentElement;
  const first = page.querySelector("section").getBoundingClientRect();
  document.title = JSON.stringify({{bottom: first.bottom, width: root.scrollWidth,
    dots: page.querySelectorAll("circle.dot").length, claim: page.querySelector(".claim")?.textContent ?? ""}});
}};</script>"""


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def opened(browser: str, page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    command = [browser, *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=10000", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def measured(browser: str, html: str, *, size_px: tuple[int, int], folder: Path) -> dict[str, Any]:
    """What the frame says of a page at a size: bottom of the first box and width of everything (px), dots, claim."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=size_px[0], height=size_px[1], page=escape(html)), encoding="utf-8")
    title = re.search("<title>(.*?)</title>", opened(browser, frame, folder / "profile").stdout)
    assert title is not None, "the frame was measured"
    return json.loads(unescape(title[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages with as many models as the first screen holds, by verdict."""
    run = make_run(tmp_path_factory.mktemp("run"))
    facts = evidence_of(run)
    names = [f"model_{number}" for number in range(len(facts["models"]), MAX_MODELS)]
    facts["models"] += [facts["models"][-1] | {"name": name, "label": name} for name in names]
    long = " It wasn't shown to see more than what sees no face. Choosing the best of 6 models really gives .92." * 2
    notices = {
        "permitted_claim": facts["permitted_claim"] + long,
        "overrides": ["nuisances"],
        "study": {"name": "a study", "synthetic": True},
    }
    few = {"verdict": "exploratory", "verdict_reasons": ["No test.", "5 participants; 20 are needed."]}
    checks = [check("copies", "fail", advice="Give all copies one id."), check("clock")]
    refused = {"verdict": "refused", "verdict_reasons": ["copies"], "audit": {"verdict": "fail", "checks": checks}}
    return {
        "supported": rewritten(run, **facts),
        "overridden": rewritten(run, **facts | notices),
        "few": rewritten(run, **facts | few | {"permitted_claim": None}),
        "refused": rewritten(run, **facts | refused),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supported", "overridden", "few", "refused"])
def test_the_first_screen_holds_verdict_claim_scores_and_audit(browser, pages, name, tmp_path):
    found = measured(browser, pages[name], size_px=SCREEN_PX, folder=tmp_path)
    assert found["bottom"] <= SCREEN_PX[1]
    assert found["claim"].startswith("Permits: ")
    assert (found["dots"] > 0) == (name != "refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supported", "refused"])
def test_a_phone_scrolls_in_one_direction(browser, pages, name, tmp_path):
    assert measured(browser, pages[name], size_px=PHONE_PX, folder=tmp_path)["width"] <= PHONE_PX[0]


@pytest.mark.slow
def test_the_page_of_the_audit_fits_a_phone(browser, tmp_path):
    facts = {"verdict": "fail", "target": "Smile", "checks": [check("copies", "fail", advice="One id.")]}
    write_json(tmp_path / "audit.json", facts)
    html = write_audit_report(tmp_path / "audit.json").read_text(encoding="utf-8")
    assert measured(browser, html, size_px=PHONE_PX, folder=tmp_path)["width"] <= PHONE_PX[0]


@pytest.mark.slow
def test_the_report_opens_without_errors(browser, drawn_dataset, tmp_path):
    models = "linear_probe@hog,linear_probe@hog+recording"
    plan = plan_comparison(drawn_dataset.path, target="Smile", models=models, folds=3, out=tmp_path / "run")
    report = run_comparison(plan)
    result = opened(browser, report, tmp_path / "profile")
    page = result.stdout
    assert page.count("<svg") >= 4
    assert "linear_probe" in page
    assert "Permits:" in page
    # The browser logs failed requests and script errors as CONSOLE lines.
    assert not [line for line in result.stderr.splitlines() if "CONSOLE" in line and "file://" in line]
