"""Where pretrained weights lie: `--weights-dir` or `MIEN_WEIGHTS`, one folder per name; nothing is fetched here."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHTS_VARIABLE = "MIEN_WEIGHTS"


def weights_directory() -> Path | None:
    """Return the directory that holds pretrained weights, None where the user named none."""
    value = os.environ.get(WEIGHTS_VARIABLE, "")
    return Path(value) if value else None


def find_onnx(name: str) -> Path | None:
    """Return the ONNX of the folder `name` in the weights directory, whatever the case of the name.

    Where a folder holds several, those with "dynamic" in the name come last: OpenCV 4.14 refuses dynamic shapes.
    """
    folder = find_folder(name)
    if folder is None:
        return None
    files = sorted(folder.glob("*.onnx"), key=lambda path: ("dynamic" in path.name, path.name))
    return files[0] if files else None


def find_folder(name: str) -> Path | None:
    """Return the folder `name` of the weights directory, whatever the case of the name."""
    root = weights_directory()
    if root is None or not root.is_dir() or "/" in name:
        return None
    wanted = name.lower().replace("-", "_")
    return next((p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower().replace("-", "_") == wanted), None)
