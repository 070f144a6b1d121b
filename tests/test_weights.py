"""Weights are fetched whole or not at all, and a byte that changed is found."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading

import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core import weight_sources
from mien.core.errors import UserError, WeightsError
from mien.core.weight_sources import CATALOGUE, WeightFile, Weights, find_weights_entry, pull, state_of

CONTENT = b"a network" * 1000


@pytest.fixture
def server(tmp_path):
    """A server on this machine with one file."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "net.onnx").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{started.server_address[1]}"
        started.shutdown()


@pytest.fixture
def entry(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(tmp_path / "weights"))
    made = Weights("net", "a test", "MIT", server, (WeightFile("net.onnx", f"{server}/net.onnx"),))
    monkeypatch.setattr(weight_sources, "CATALOGUE", (made,))
    return made


def test_fetched_verified_and_changed(entry):
    assert state_of(entry) == ("missing", "")
    told = []
    folder = pull(entry, on_bytes=lambda *facts: told.append(facts))
    assert (folder / "net.onnx").read_bytes() == CONTENT
    assert told[-1] == ("net.onnx", len(CONTENT), len(CONTENT))
    assert state_of(entry)[0] == "verified"
    assert json.loads((folder / "mien.json").read_text())["licence"] == "MIT"
    (folder / "net.onnx").write_bytes(CONTENT[:-1] + b"!")
    assert state_of(entry)[0] == "changed"


def test_what_is_not_the_pinned_file_is_not_kept(entry, server, tmp_path):
    right = hashlib.sha256(CONTENT).hexdigest()
    assert pull(Weights("a", "", "", "", (WeightFile("net.onnx", f"{server}/net.onnx", right),))).is_dir()
    with pytest.raises(WeightsError, match="isn't the file"):
        pull(Weights("b", "", "", "", (WeightFile("net.onnx", f"{server}/net.onnx", "0" * 64),)))
    assert not (tmp_path / "weights/b").exists()


def test_no_network_says_what_to_do(entry, server, tmp_path):
    gone = Weights("gone", "", "", "", (WeightFile("x.onnx", f"{server}/nothing.onnx"),))
    with pytest.raises(WeightsError, match=r"connected machine .*mien weights pull gone"):
        pull(gone)
    assert not (tmp_path / "weights/gone").exists()


def test_a_folder_has_to_be_named(entry, monkeypatch):
    monkeypatch.delenv("MIEN_WEIGHTS")
    with pytest.raises(UserError, match="--weights-dir"):
        pull(entry)


def test_the_catalogue_names_what_models_look_for():
    from mien.models.backbones import RESNET50, VIT_BASE

    for wanted in (RESNET50, VIT_BASE):
        assert find_weights_entry(wanted.name).source.endswith(wanted.hub_id)
    assert all(entry.licence and entry.source.startswith("https://") for entry in CATALOGUE)


@pytest.mark.real
def test_the_pinned_detector_is_the_one_that_is_tested(shared_data, monkeypatch):
    monkeypatch.setenv("MIEN_WEIGHTS", str(shared_data / "weights"))
    assert state_of(find_weights_entry("yunet"))[0] == "verified"


def test_the_commands(tmp_path):
    listed = CliRunner().invoke(app, ["weights", "list", "--json", "--weights-dir", str(tmp_path)])
    assert [row["state"] for row in json.loads(listed.stdout)] == ["missing"] * len(CATALOGUE)
    assert CliRunner().invoke(app, ["weights", "verify", "--weights-dir", str(tmp_path)]).exit_code == 0
    assert CliRunner().invoke(app, ["weights", "pull", "nothing", "--weights-dir", str(tmp_path)]).exit_code == 2
