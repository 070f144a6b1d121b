"""The image, as far as that can be seen without a container engine: what goes in, who runs it, what it starts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import typer.main
from fastapi.testclient import TestClient
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mien.cli.main import app
from mien.core.errors import UserError
from mien.serve.app import create_app
from mien.serve.settings import ServeSettings

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-of-enough-letters"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions: name, and the rest of its line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(" ")[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


BUILD, FINAL = stages()


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for found, rest in stage if found == name]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in of(FINAL, "ENV") for pair in shlex.split(rest))


def copied() -> list[str]:
    """Return the paths of the tree that get into the build."""
    return [path for rest in of(BUILD, "COPY") for path in rest.split()[:-1]]


def ignored(path: str) -> bool:
    """Say whether .dockerignore keeps a path out: the last line that fits it, or a folder that it lies in, decides."""
    kept_out = False
    parts = path.split("/")
    for line in filter(None, map(str.strip, (ROOT / ".dockerignore").read_text().splitlines())):
        pattern = line.removeprefix("!").split("/")
        anywhere = pattern[0] == "**"
        pattern = pattern[1:] if anywhere else pattern
        starts = range(len(parts)) if anywhere else (0,)
        if any(
            len(parts) >= start + len(pattern) and all(map(fnmatch, parts[start : start + len(pattern)], pattern))
            for start in starts
        ):
            kept_out = not line.startswith("!")
    return kept_out


def pip_words() -> list[str]:
    (command,) = [part for rest in of(BUILD, "RUN") for part in rest.split("&&") if "pip install" in part]
    return shlex.split(command)


@pytest.mark.parametrize("path", copied())
def test_what_is_copied_is_there_and_reaches_the_build(path):
    assert (ROOT / path).exists() and not ignored(path)


def test_every_module_and_page_reaches_the_build():
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "src/mien").rglob("*") if path.is_file()]
    lost = [path for path in files if ignored(path) and "__pycache__" not in path]
    assert files and not lost


@pytest.mark.parametrize(
    "path", [".git/HEAD", ".venv/bin/python", ".env", "demo/dataset/dataset.json", "docs/serve.md", "tests/conftest.py",
             "src/mien/__pycache__/api.cpython-311.pyc", "src/mien.egg-info/SOURCES.txt"]
)  # fmt: skip
def test_what_the_image_does_not_need_stays_out(path):
    assert ignored(path)


def test_what_the_package_is_built_from_is_copied():
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src"} <= set(copied())


def test_both_stages_have_a_python_that_the_package_takes():
    """The same one: what is installed for one runs in no other."""
    images = {rest.split()[0] for _, rest in (BUILD[0], FINAL[0])}
    assert len(images) == 1
    version = re.match(r"python:(\d+\.\d+)", images.pop())
    assert version is not None and f"{version[1]}.0" in SpecifierSet(PROJECT["requires-python"])


def test_what_is_installed_is_the_pinned_runtime():
    words = pip_words()
    constraints = words[words.index("-c") + 1]
    assert constraints in copied()
    assert words[-1] == ".", "the runtime: with [train] it would be several GB larger"
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", (ROOT / constraints).read_text(), re.M)}
    needed = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert needed <= pinned
    assert not {"torch", "lightning", "transformers", "onnx"} & needed


def test_the_program_is_found():
    """An environment can't be moved: it lies where it was made, and there PATH finds it."""
    folder = Path(pip_words()[0]).parents[1].as_posix()
    assert any(f"-m venv {folder} " in rest for rest in of(BUILD, "RUN"))
    assert f"--from=build {folder} {folder}" in of(FINAL, "COPY")
    assert environment()["PATH"].split(":")[0] == f"{folder}/bin"
    assert json.loads(of(FINAL, "ENTRYPOINT")[0])[0] in PROJECT["scripts"]


def test_it_runs_without_rights():
    (user,) = of(FINAL, "USER")
    number = user.split(":")[0]
    assert number.isdecimal() and int(number) > 0, "a number, by which an orchestrator sees that it isn't root"
    assert any(f"--uid {number} " in rest for rest in of(FINAL, "RUN"))
    last = max(index for index, (name, _) in enumerate(FINAL) if name == "RUN")
    assert FINAL.index(("USER", user)) > last, "what is run at build time needs rights; what is started has none"


def test_the_runtime_reports_to_nobody():
    assert environment()["ORT_DISABLE_TELEMETRY"] == "1"


def start_words() -> list[str]:
    """Return what is started; both are lists, as a shell in between would keep signals to itself."""
    return [*json.loads(of(FINAL, "ENTRYPOINT")[0]), *json.loads(of(FINAL, "CMD")[0])]


def serve_options() -> dict[str, object]:
    program, command, *words = start_words()
    assert (program, command) == ("mien", "serve")
    found = typer.main.get_command(app).commands[command]
    return dict(found.make_context(command, words).params)


def test_what_it_starts_is_a_command_of_mien():
    options = serve_options()
    assert str(options["bundle"]).startswith("/")
    assert [str(options["port"])] == of(FINAL, "EXPOSE")


def test_it_starts_with_a_token_only():
    host = str(serve_options()["host"])
    assert ServeSettings(host=host, token=TOKEN).host == host
    with pytest.raises(UserError, match="MIEN_SERVE_TOKEN"):
        ServeSettings(host=host)


def health_code() -> str:
    (rest,) = of(FINAL, "HEALTHCHECK")
    program, option, code = json.loads(rest.partition("CMD")[2])
    assert (program, option) == ("python", "-c")
    return code


def health_url() -> str:
    found = re.search(r"http://[^']+", health_code())
    assert found is not None
    return found[0]


def test_the_health_check_asks_for_what_is_there(probe_bundle):
    """With the host name that it uses, and without the token."""
    options = serve_options()
    service = create_app(probe_bundle, settings=ServeSettings(host=str(options["host"]), token=TOKEN))
    assert f":{options['port']}/" in health_url()
    assert TestClient(service).get(health_url()).status_code == 200
    assert TestClient(service).get(health_url().replace("127.0.0.1", "elsewhere")).status_code == 400


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False), (None, False)])
def test_the_health_check_says_what_is(status, well):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        code = health_code().replace(":8000/", f":{server.server_port}/")
        assert code != health_code()
        if status is None:
            server.server_close()
        else:
            threading.Thread(target=server.handle_request, daemon=True).start()
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert (answer.returncode == 0) is well


def test_the_documented_proxy_lets_the_largest_video_through():
    (block,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), flags=re.DOTALL)
    found = re.search(r"client_max_body_size (\d+)m;", block)
    serve = typer.main.get_command(app).commands["serve"]
    largest_mb = {item.name: item for item in serve.params}["max_mb"].default
    assert found is not None and int(found[1]) * 2**20 > largest_mb * 10**6
    assert block.count("{") == block.count("}")
    for needed in ("proxy_request_buffering off;", "proxy_buffering off;", "proxy_set_header Host $http_host;"):
        assert needed in block
