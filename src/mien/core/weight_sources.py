"""Weights that mien knows: where they come from, their licence, and how they are fetched and verified.

Fetching is the one thing for which mien uses the network, and only when it is asked to (`mien weights pull`).
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mien.core.errors import UserError, WeightsError, unknown_name
from mien.core.storage import atomic_directory, read_json, sha256_file, write_json
from mien.core.weights import WEIGHTS_VARIABLE, find_folder, weights_directory

LOCK_FILE = "weights.lock.json"
"""In the folder of weights that were fetched: where each file came from, and its sha256 then."""

CHUNK_BYTES = 1 << 20
PATIENCE_S = 60.0
HUB = "https://huggingface.co/{hub_id}/resolve/main/{name}"
HUB_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")

State = Literal["missing", "there", "verified", "changed"]


@dataclass(frozen=True)
class WeightFile:
    """One file of some weights.

    Attributes:
        name: Its name in the folder.
        url: Where it comes from.
        sha256: What it must be; empty where nobody pinned it: then what came is written down, and verified later.
    """

    name: str
    url: str
    sha256: str = ""


@dataclass(frozen=True)
class Weights:
    """Weights that mien can use.

    Attributes:
        name: Name of their folder in the weights directory.
        what: What they are for.
        licence: Their licence.
        source: Page that describes them.
        files: What has to be fetched.
    """

    name: str
    what: str
    licence: str
    source: str
    files: tuple[WeightFile, ...]


def _hub(name: str, *, hub_id: str, what: str) -> Weights:
    files = tuple(WeightFile(file, HUB.format(hub_id=hub_id, name=file)) for file in HUB_FILES)
    return Weights(name, what, "apache-2.0", f"https://huggingface.co/{hub_id}", files)


CATALOGUE = (
    Weights(
        "yunet",
        "face detector, about six times as fast as the one that comes with mien",
        "MIT",
        "https://github.com/ShiqiYu/libfacedetection.train",
        (
            WeightFile(
                "yunet_n_640_640.onnx",
                "https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx/yunet_n_640_640.onnx",
                "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
            ),
        ),
    ),
    _hub("resnet50_pretrained", hub_id="microsoft/resnet-50", what="ImageNet backbone of resnet50_pretrained"),
    _hub("vit_pretrained", hub_id="google/vit-base-patch16-224", what="ImageNet backbone of vit_pretrained"),
)


def find_weights_entry(name: str) -> Weights:
    """Return an entry of the catalogue.

    Raises:
        UserError: There is none of this name.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    raise unknown_name("weights", got=name, allowed=[entry.name for entry in CATALOGUE])


def state_of(entry: Weights) -> tuple[State, str]:
    """Say whether weights are on this machine and are what they were, and where they lie."""
    folder = find_folder(entry.name)
    if folder is None:
        return "missing", ""
    lock = read_json(folder / LOCK_FILE) if (folder / LOCK_FILE).is_file() else {}
    expected = {file.name: file.sha256 or lock.get("files", {}).get(file.name, "") for file in entry.files}
    present = {name: sha for name, sha in expected.items() if (folder / name).is_file()}
    if not present or (entry.files[0].sha256 and entry.files[0].name not in present):
        return ("there", str(folder)) if any(folder.iterdir()) else ("missing", "")
    if any(sha and sha256_file(folder / name) != sha for name, sha in present.items()):
        return "changed", str(folder)
    return ("verified" if all(present.values()) else "there"), str(folder)


def pull(entry: Weights, *, on_bytes: Callable[[str, int, int | None], None] = lambda *_: None) -> Path:
    """Fetch weights into the weights directory; the folder appears whole or not at all.

    Args:
        entry: What to fetch.
        on_bytes: Called with the file's name, bytes so far, and bytes in all where the server says so.

    Raises:
        UserError: No weights directory is named.
        WeightsError: A file can't be fetched, or isn't what it must be.
    """
    root = weights_directory()
    if root is None:
        raise UserError(f"Where to? Name a folder with --weights-dir, or set {WEIGHTS_VARIABLE}.")
    with atomic_directory(root / entry.name) as folder:
        digests = {file.name: _fetch(file, folder / file.name, entry=entry, on_bytes=on_bytes) for file in entry.files}
        lock: dict[str, Any] = {"name": entry.name, "licence": entry.licence, "source": entry.source, "files": digests}
        write_json(folder / LOCK_FILE, lock | {"fetched": datetime.now(UTC).isoformat(timespec="seconds")})
        facts = {"weights": "pretrained", "licence": entry.licence, "source": entry.source}
        write_json(folder / "mien.json", facts)
    return root / entry.name


def _fetch(file: WeightFile, path: Path, *, entry: Weights, on_bytes: Callable[[str, int, int | None], None]) -> str:
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(file.url, timeout=PATIENCE_S) as answer, path.open("wb") as target:
            length = answer.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                target.write(chunk)
                on_bytes(file.name, done, total)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"{file.url} can't be fetched ({reason}). On a connected machine run `mien weights pull {entry.name} "
            f"--weights-dir DIR`, bring the folder DIR/{entry.name} here, and name DIR with --weights-dir or "
            f"{WEIGHTS_VARIABLE}."
        ) from error
    if total is not None and done != total:
        raise WeightsError(f"{file.url} was cut: {done} of {total} bytes came. Fetch it again.")
    found = digest.hexdigest()
    if file.sha256 and found != file.sha256:
        raise WeightsError(
            f"{file.url} isn't the file that mien knows: its sha256 is {found}, expected {file.sha256}. Nothing was "
            "kept. The file may have been replaced at its source; report it."
        )
    return found
