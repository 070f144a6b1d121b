"""`pip install mien` without the training packages predicts and serves: in an environment that has no torch.

`make test` makes that environment (`.venv-runtime`); in one that pytest is started in by hand it may be missing.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from mien.predict.predictor import predict_files

ENVIRONMENT = Path(__file__).parents[1] / ".venv-runtime"


@pytest.fixture(scope="module")
def python():
    path = ENVIRONMENT / "bin" / "python"
    if not path.is_file():
        pytest.skip("no .venv-runtime; `make runtime` makes it")
    return path


def run(python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([python, *command], capture_output=True, text=True, timeout=300, env=environment)


def test_it_has_no_torch(python):
    for name in ("torch", "lightning", "transformers", "onnx"):
        assert run(python, "-c", f"import {name}").returncode != 0


def test_it_predicts_what_the_whole_install_predicts(python, probe_bundle, probe_video, tmp_path):
    mien = str(python.with_name("mien"))
    answer = run(python, mien, "predict", str(probe_bundle), str(probe_video), "--out", str(tmp_path / "a"), "--json")
    assert answer.returncode == 0, answer.stderr
    (result,) = json.loads(answer.stdout)
    predict_files(probe_bundle, videos=[probe_video], out=tmp_path / "b")
    here = pd.read_csv(next((tmp_path / "b").glob("*.timeline.csv")))
    pd.testing.assert_frame_equal(pd.read_csv(result["timeline"]), here, atol=1e-6)


def test_it_serves(python, probe_bundle):
    script = (
        "import sys; from pathlib import Path; from mien.serve.app import create_app;"
        f"create_app(Path({str(probe_bundle)!r}));"
        "assert not {'torch', 'lightning', 'transformers', 'onnx'} & set(sys.modules)"
    )
    answer = run(python, "-c", script)
    assert answer.returncode == 0, answer.stderr


def test_training_says_what_to_install(python, tmp_path):
    answer = run(python, str(python.with_name("mien")), "compare", str(tmp_path), "--target", "a", "--models", "b",
                 "--out", str(tmp_path / "run"))  # fmt: skip
    assert answer.returncode == 2 and "mien[train]" in answer.stderr
