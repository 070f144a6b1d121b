"""A folder for what is seen of a recording while it is predicted: crops of faces, which nobody shall find later.

It goes when its process is done with it. One that was killed leaves it; the next prediction on the machine removes it,
since nobody holds its lock any more (locks, unlike process numbers, are one truth for all containers that share it).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "mien-crops-"
LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder among the temporary files, and remove it; before, those that killed processes left.

    Raises:
        OSError: The disk of temporary files is full.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        with (folder / f"{LOCK}.new").open("w") as lock:
            _try_lock(lock)
            # Others look at folders with a lock only: it has to be held before it has its name.
            Path(lock.name).rename(folder / LOCK)
            yield folder


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user whose process is gone."""
    if sys.platform == "win32":  # an open file can't be removed or renamed there
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: IO[str]) -> bool:
    """Lock a file until it is closed; return whether that went, which it doesn't where another process has it."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
