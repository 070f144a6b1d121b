"""mien: from recordings of people and their annotations to emotion-recognition models that can be believed.

The verbs of the command line in Python: `prepare`, `frames`, `compare`, `train`, and `load(bundle).predict(video)`.
`mien.api` has them all, with those whose names packages of mien have too: `mien.api.audit`, `mien.api.explain`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# ONNX Runtime's packages collect and send usage data since 1.29, unless this is set before they are imported. Nothing
# of anybody's recordings or machine leaves it through mien.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["compare", "frames", "load", "prepare", "train"]


def __getattr__(name: str) -> Any:
    # By name, because a package that imports its own top would turn the layers upside down.
    if name in __all__:
        return getattr(importlib.import_module("mien.api"), name)
    raise AttributeError(f"module 'mien' has no attribute {name!r}")
