"""The command line answers at once: what only a command's work needs is imported by that command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "cv2", "av", "onnxruntime", "fastapi", "torch")
"""From 0.1 to some seconds each; a third of a second of CPU time is what typer and rich take."""


@pytest.mark.parametrize("arguments", [["--version"], ["predict", "--help"], ["weights", "--help"]], ids=" ".join)
def test_help_waits_for_nothing(arguments):
    code = (
        "import sys; from mien.cli.main import run\n"
        f"sys.argv = ['mien', *{arguments!r}]\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"found = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not found, found\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
