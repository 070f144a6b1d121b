"""What several commands ask or check."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

import typer

from mien.core.errors import UserError

MAX_SEED = 2**32 - 1
"""What numpy and torch take."""

SeedOption = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of everything that is random.")]


def parse_folds(text: str) -> int | Literal["loo"]:
    """Read the number of folds.

    Raises:
        UserError: Neither a number from 2 nor `loo`.
    """
    if text == "loo":
        return "loo"
    if not text.isdecimal() or int(text) < 2:
        raise UserError(f"--folds is {text!r}; allowed: a number from 2, or loo.")
    return int(text)


def require_training(command: str) -> None:
    """Check that the training packages are installed.

    Raises:
        UserError: They aren't.
    """
    missing = [name for name in ("torch", "lightning", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"`mien {command}` needs {', '.join(missing)}. Install with: pip install 'mien[train]'")
