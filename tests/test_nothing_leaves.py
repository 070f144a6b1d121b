"""No library that mien uses collects or sends anything of its own accord."""

import os
import subprocess
import sys

SESSION = """
import sys, tempfile
import mien.runtime.bundle, mien.runtime.head
import onnxruntime
try:
    onnxruntime.InferenceSession(b"not a network", providers=["CPUExecutionProvider"])
except Exception:
    pass
try:
    onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
except Exception:
    pass
"""


def test_onnx_runtime_writes_no_usage_data(tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary)}
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    subprocess.run([sys.executable, str(script), str(script)], env=environment, check=True, capture_output=True)
    assert [path for path in (*home.rglob("*"), *temporary.rglob("*")) if "matplotlib" not in str(path)] == []
