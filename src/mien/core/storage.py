"""Files are written to a temporary neighbour and renamed, so that a kill never leaves half a file."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.core.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private to the user; artefacts are shared by a lab.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory; on success it replaces `path` as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    aside = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        _share(temporary)
        # Two renames: a kill between them leaves the old directory hidden and whole, never half deleted.
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _share(folder: Path) -> None:
    """Let others read a folder that `mkdtemp` made private; so do the files of libraries that write through one."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def remove_leftovers(directory: Path, *, of: str = "") -> None:
    """Remove temporary files and directories that a killed process left in `directory`.

    Args:
        directory: Where to look.
        of: Only those of the file or directory with this name; empty for all.
    """
    for leftover in directory.glob(f".{glob.escape(of)}.*" if of else ".*.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def check_output_folder(out: Path, *, marker: str, what: str) -> None:
    """Check that a folder can be written to: absent, empty, or what the same command wrote before.

    Args:
        out: The folder.
        marker: The file by which it is known again.
        what: What it would hold, such as "run".

    Raises:
        UserError: It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Give a folder.")
    if out.is_dir() and not (out / marker).is_file():
        # Hidden files are what a killed process, or the operating system, left there.
        others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(f"--out {out} isn't empty and isn't a {what} (it holds {others[0]}). Give another --out.")


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: indented, keys in the order given, NaN as null."""
    write_text(path, json.dumps(to_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: The file is missing or isn't JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} isn't valid JSON ({error}); write it again with the command that made it.") from error


def to_jsonable(value: Any) -> Any:
    """Return `value` with numpy scalars, arrays, paths and tuples turned to JSON types, non-finite floats to None.

    >>> to_jsonable({"a": np.float32(0.5), "b": (1, float("nan"))})
    {'a': 0.5, 'b': [1, None]}
    """
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_jsonable(value.tolist())
    if isinstance(value, np.generic):
        return to_jsonable(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically; the same table gives the same bytes."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any, *, length: int = 16) -> str:
    """Return a short stable digest of a JSON-like value, whatever the order of its keys.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
