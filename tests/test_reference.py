"""The reference is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from mien.cli.main import app
from mien.reference import reference_page

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"


def test_the_page_is_what_the_commands_say():
    assert PAGE.read_text() == reference_page(), "run `make reference`"


def test_every_command_and_every_option_is_explained():
    page = reference_page()
    for command in app.registered_commands:
        assert f"### mien {command.name}" in page
    empty = [line for line in page.splitlines() if line.startswith("| `") and "|  |" in line.rsplit("|", 2)[0] + "|"]
    assert not empty, empty
