"""What the documents show is true: links lead somewhere, settings and studies load (commands: test_docs_commands)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from doc_commands import PAGES, ROOT, blocks, steps
from mien.data.layouts import read_study_file
from mien.data.study import find_study
from mien.training.settings import load_settings


def test_make_targets_of_the_documents_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = {target for page in PAGES for target in re.findall(r"`make (\w+)", page.read_text())}
    assert {"demo", "test", "reference"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(docs/([^)#]+)\)", PAGES[0].read_text()))
    assert {page.name for page in PAGES[1:]} <= linked


def headings(page: Path) -> set[str]:
    """The anchors of a page, as they are made of its headings: lower case, no punctuation, hyphens for blanks."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_lead_to_a_heading(page):
    for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        target = page.parent / path if path else page
        assert anchor in headings(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_settings_load(path):
    assert load_settings(path).for_model("improved_cnn").epochs > 0


YAML = [(page, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), YAML, ids=[page.name for page, _ in YAML])
def test_yaml_in_the_documents_loads(page, text, tmp_path):
    """A block describes a study, or it is settings; there is no third kind."""
    if text.startswith("name:"):
        facts = read_study_file(write(tmp_path / "study.yaml", text).parent)
        assert facts is not None and facts.name and facts.label_source and facts.unit
    else:
        load_settings(write(tmp_path / "settings.yaml", text))


def test_the_study_of_the_first_page_is_one(tmp_path):
    """Its files, word for word, with the videos that they name."""
    page = ROOT / "docs/get-started.md"
    for name in ("study.yaml", "recordings.csv"):
        text = next(step.text for step in steps(page) if step.kind == "file" and step.path == name)
        write(tmp_path / name, text)
    for name in ("anna.mp4", "bob.mkv"):
        (tmp_path / name).touch()
    write(tmp_path / "annotations.csv", "recording,onset_s,offset_s,label\nanna,1.0,2.5,Smile\n")
    study = find_study(tmp_path)
    assert [recording.participant_id for recording in study.recordings] == ["P01", "P02"]
    assert (study.label_source, study.unit) == ("human", "frame")
    assert study.annotations["scheme"].tolist() == ["Smile"] and not study.problems


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
