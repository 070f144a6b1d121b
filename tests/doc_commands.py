"""The commands of the documents: found in their code blocks and sentences, checked against the program, and run."""

from __future__ import annotations

import functools
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import typer.main
from typer.testing import CliRunner

from mien.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELL = ("sh", "bash", "console", "shell")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PROGRAMS = ("mien", "make", "python", "pip", "curl", "docker", "hf", "nginx", "export", "cp", "mkdir", "mv")
"""What begins a command; in a block without a language, too, so that leaving the language out hides nothing."""
READ_BY_THE_SHELL = ("cp", "mkdir", "mv")
SERVICE_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class PagePlan:
    """How a page's commands are run.

    Attributes:
        ready: What lies in the folder before: `dataset`, `bundle` (the page says that they were made before).
        replaced: Names of the page that stand for the reader's own, and what they are here.
        not_run: Commands that can't be run here, each with its reason.
        by_hand: What the reader does between the commands, by the command after which it is done: a function of the
            test, by its name.
    """

    ready: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    by_hand: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing that a page has its reader do: a command, a piece of Python, or a file to write (`path`)."""

    kind: Literal["command", "python", "file"]
    text: str
    path: str = ""


def languages(page: Path) -> set[str]:
    """Return the languages of a page's code blocks; an empty one where none is named."""
    return {language for language, _ in FENCE.findall(page.read_text(encoding="utf-8"))}


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def steps(page: Path) -> list[Step]:
    """Return what a page has its reader do, in order; comments removed, continued lines joined.

    A block of a file's content belongs to the file that the sentence before it names last.
    """
    content, found, before = page.read_text(encoding="utf-8"), [], 0
    for match in FENCE.finditer(content):
        language, text = match.groups()
        paragraph = content[before : match.start()].rstrip().rpartition("\n\n")[2]
        before = match.end()
        if language == "python" and text.startswith("import mien\n"):
            found.append(Step("python", text))
        named = re.findall(rf"`([\w./-]+\.{language})`", paragraph) if language in ("csv", "yaml") else []
        if named:
            found.append(Step("file", text, named[-1]))
        for line in text.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*$", "", line.removeprefix("$ ")).strip()
            if command and (language in SHELL or (not language and command.split(" ")[0] in PROGRAMS)):
                found.append(Step("command", command))
    return found


def commands(page: Path) -> list[str]:
    """Return a page's commands in order."""
    return [step.text for step in steps(page) if step.kind == "command"]


def mentioned(page: Path) -> Iterator[str]:
    """Yield what a page's sentences and tables quote as `mien ...`."""
    for quoted in re.findall(r"`(mien [^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
        yield re.sub(r"\s*\.\.\.\s*", " ", quoted).replace("\\|", "|").strip()


@functools.cache
def program() -> Any:
    """Return the program as its parser has it."""
    return typer.main.get_command(app)


def check_words(command: str) -> None:
    """Check that the program has such a command with such options, and takes so many arguments.

    Raises:
        AssertionError: It hasn't, or doesn't.
    """
    words = shlex.split(command)[1:]
    if words == ["COMMAND", "--help"] or words == ["--version"]:
        return
    group = program()
    names = words[0].split("|") if words[0] in group.commands or "|" in words[0] else [words[0]]
    assert set(names) <= set(group.commands), f"{command}: no such command"
    found = group.commands[names[0]]
    rest = words[1:]
    if inner := getattr(found, "commands", None):
        assert rest and set(rest[0].split("|")) <= set(inner), f"{command}: no such command"
        found, rest = inner[rest[0].split("|")[0]], rest[1:]
    options = {name for item in found.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
    unknown = [word for word in rest if word.startswith("--") and word not in options]
    assert not unknown, f"{command}: no such option: {', '.join(unknown)}"
    context = found.context_class(found, info_name=names[0])
    # A sentence may end with an option's name, without a value.
    value = ["VALUE"] if rest and any(rest[-1] in item.opts and not item.is_flag for item in found.params[1:]) else []
    _, left, _ = found.make_parser(context).parse_args([*rest, *value])
    assert not left, f"{command}: too many arguments: {left}"


def all_options() -> set[str]:
    """Return every option of every command."""
    found = {"--help", "--version"}
    for command in program().commands.values():
        for each in getattr(command, "commands", {"": command}).values():
            found |= {name for item in each.params for name in (*item.opts, *item.secondary_opts)}
    return found


class Service:
    """A `mien serve` of a page, on a free port, and what the page's `curl` lines say to it."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.log = (folder / "service.log").open("w+", encoding="utf-8")
        self.job = "ID"
        self.process = subprocess.Popen(
            [str(Path(sys.executable).parent / "mien"), *words, "--port", "0"], stderr=self.log, cwd=folder
        )
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Page: (http://\S+?)/?\s", Path(self.log.name).read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, Path(self.log.name).read_text()
            time.sleep(0.05)
        self.url = re.sub(r"://[^:/]+:", "://127.0.0.1:", found[1])

    def curl(self, command: str, folder: Path) -> str:
        """Run a `curl` line against the service; the id of the page's job is that of the last one sent."""
        line = command.replace(SERVICE_URL, self.url).replace("/ID", f"/{self.job}")
        deadline = time.monotonic() + 60
        while True:
            words = [*shlex.split(line), "--silent", "--show-error", "--write-out", "\n%{http_code}"]
            answer = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout
            body, _, status = answer.rpartition("\n")
            if status != "409":  # the job isn't done yet
                break
            assert time.monotonic() < deadline, f"{command}: still 409"
            time.sleep(0.1)
        assert status[0] == "2", f"{command}: {status} {body}"
        if found := re.search(r'"job_id":\s*"([^"]+)"', body):
            self.job = found[1]
        return body

    def stop(self) -> None:
        """End it as an operator would, by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) in (0, -signal.SIGTERM)
        self.log.close()


def run_command(command: str, *, folder: Path) -> str:
    """Run one line in the current folder, which is `folder`; return what it printed.

    Raises:
        AssertionError: It failed, or nobody knows how to run it.
    """
    words = shlex.split(command)
    if words[0] == "mien":
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{command}\n{result.stderr}\n{result.exception or ''}"
        return str(result.stdout)
    if words[0] == "python":
        words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    else:
        assert words[0] in READ_BY_THE_SHELL, f"nobody knows how to run: {command}"
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
