"""What the documents say works: the README's commands run, links lead somewhere, shipped settings load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.training.settings import load_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(page: Path, *, program: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(program)]


def test_readme_commands_run(drawn_study, tmp_path, monkeypatch):
    """Word for word, in a folder where `demo/` is what `make demo` leaves (here: a smaller drawn study)."""
    commands = shell_lines(ROOT / "README.md", program="mien ")
    verbs = ["prepare", "inspect", "audit", "compare", "train", "predict"]
    assert [shlex.split(command)[1] for command in commands] == verbs
    run_in_a_folder(ROOT / "README.md", drawn_study, tmp_path, monkeypatch)
    assert (tmp_path / "run/report.html").is_file()
    assert (tmp_path / "predictions/video.timeline.csv").is_file()


def run_in_a_folder(page: Path, drawn_study: Path, folder: Path, monkeypatch) -> None:
    """Run a page's commands in a folder where `demo/` is what `make demo` leaves (here: a smaller drawn study)."""
    (folder / "demo/newcomer").mkdir(parents=True)
    (folder / "demo/study").symlink_to(drawn_study)
    (folder / "configs").symlink_to(ROOT / "configs")
    video = next(path for path in sorted(drawn_study.rglob("*.mp4")) if path.stat().st_size > 20_000)
    (folder / "demo/newcomer/video.mp4").symlink_to(video)
    monkeypatch.chdir(folder)
    for command in shell_lines(page, program="mien "):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.stderr}"


def test_the_first_ten_minutes_run(drawn_study, tmp_path, monkeypatch):
    run_in_a_folder(ROOT / "docs/get-started.md", drawn_study, tmp_path, monkeypatch)
    assert (tmp_path / "run/report.html").is_file()
    assert (tmp_path / "predictions/video.html").is_file()


def test_make_targets_of_the_readme_exist():
    targets = re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text())
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_settings_load(path):
    assert load_settings(path).for_model("improved_cnn").epochs > 0


def test_settings_in_the_documents_load(tmp_path):
    blocks = re.findall(r"```yaml\n(training.*?)```", (ROOT / "docs/compare.md").read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "settings.yaml").write_text(block)
        load_settings(tmp_path / "settings.yaml")
