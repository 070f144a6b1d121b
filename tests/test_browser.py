"""The report in a browser, as a person opens it: from disk, without a network, all charts there."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mien.crossval.compare import plan_comparison, run_comparison

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


@pytest.mark.slow
def test_the_report_opens_without_errors(drawn_dataset, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    models = "linear_probe@hog,linear_probe@hog+recording"
    plan = plan_comparison(drawn_dataset.path, target="Smile", models=models, folds=3, out=tmp_path / "run")
    report = run_comparison(plan)
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", report.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    page = result.stdout
    assert page.count("<svg") >= 4
    assert "linear_probe" in page
    assert "Not audited" in page
    # The browser logs failed requests and script errors as CONSOLE lines.
    assert not [line for line in result.stderr.splitlines() if "CONSOLE" in line and "file://" in line]
