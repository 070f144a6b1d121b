"""The plain extractor: videos to numbered JPGs and one table with their times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import MediaError, UserError
from mien.core.progress import progress
from mien.core.storage import atomic_path, write_csv
from mien.media.container import DecodeLog
from mien.media.faces import crop_whole
from mien.media.video import sample_frames

JPEG_QUALITY = 95
FRAME_COLUMNS = ["path", "video", "pts_s", "frame"]
FAILURE_COLUMNS = ["recording", "stage", "reason", "advice"]


def extract_frames(
    videos: Sequence[Path], out: Path, *, every: int | None = 30, fps: float | None = None, size_px: int = 224
) -> list[Path]:
    """Write sampled frames of videos as JPGs, and `frames.csv` with the time of each.

    A video gets the folder `out/<stem>` with `frame_000000.jpg`, `frame_000001.jpg`, ... numbered by sample; the next
    one of the same stem gets `<stem>_2`. Files that can't be read, and damage that was skipped, are listed in
    `out/failures.csv`, which is there only where something failed.

    Args:
        videos: The media files.
        out: Directory to write to; frames of an earlier extraction into the same folders are replaced.
        every: Write frames 0, `every`, 2 `every`, ...
        fps: Write that many frames per second instead; it takes the place of `every`.
        size_px: Side of the pictures; the whole picture is resized, its aspect ratio isn't kept.

    Returns:
        Paths of the JPGs, in the order of `videos` and time.

    Raises:
        UserError: No videos, or an impossible `every`, `fps` or `size_px`.
        MediaError: No video at all could be read; it is the first one's error.
    """
    if not videos:
        raise UserError("No videos were given: name at least one.")
    if size_px < 1:
        raise UserError(f"size_px must be positive, got {size_px}.")
    rows: list[dict[str, str | int]] = []
    failures: list[dict[str, str]] = []
    errors: list[MediaError] = []
    with progress("Extracting frames", total=len(videos)) as advance:
        for video, folder in zip(videos, _folders(videos, out=out), strict=True):
            log = DecodeLog()
            try:
                rows += _extract_one(
                    video, folder, every=None if fps is not None else every, fps=fps, size_px=size_px, log=log
                )
            except MediaError as error:
                errors.append(error)
                failures.append(_failure(video, reason=error.reason, advice=error.advice))
            else:
                failures += _damage(video, log=log)
            advance(video.name)
    _write_failures(out / "failures.csv", failures)
    if len(errors) == len(videos):
        (out / "frames.csv").unlink(missing_ok=True)  # an earlier one lists pictures that are gone
        raise errors[0]
    write_csv(out / "frames.csv", pd.DataFrame(rows, columns=FRAME_COLUMNS))
    return [out / str(row["path"]) for row in rows]


def _folders(videos: Sequence[Path], *, out: Path) -> Iterator[Path]:
    """Yield a folder per video; names are compared without case, for file systems that don't tell it apart."""
    taken = {video.stem.casefold() for video in videos}
    seen: set[str] = set()
    for video in videos:
        name, number = video.stem, 1
        while name.casefold() in seen or (number > 1 and name.casefold() in taken):
            number += 1
            name = f"{video.stem}_{number}"
        seen.add(name.casefold())
        yield out / name


def _extract_one(
    video: Path, folder: Path, *, every: int | None, fps: float | None, size_px: int, log: DecodeLog
) -> list[dict[str, str | int]]:
    # Only pictures that an earlier extraction named are removed: the folder may be one of the user's.
    for earlier in folder.glob("frame_[0-9][0-9][0-9][0-9][0-9][0-9].jpg"):
        earlier.unlink()
    rows: list[dict[str, str | int]] = []
    for number, frame in enumerate(sample_frames(video, fps=fps, every=every, log=log)):
        path = folder / f"frame_{number:06d}.jpg"
        _write_jpeg(path, crop_whole(frame.rgb, size_px=size_px))
        relative = path.relative_to(folder.parent).as_posix()
        rows.append({"path": relative, "video": str(video), "pts_s": f"{frame.pts_s:.6f}", "frame": frame.index})
    return rows


def _write_jpeg(path: Path, rgb: NDArray[np.uint8]) -> None:
    written, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    assert written, "OpenCV encodes any uint8 picture"
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _failure(video: Path, *, reason: str, advice: str) -> dict[str, str]:
    return {"recording": str(video), "stage": "decode", "reason": reason, "advice": advice}


def _damage(video: Path, *, log: DecodeLog) -> list[dict[str, str]]:
    """Return a row where parts of a readable video were skipped."""
    reason = log.describe_loss()
    advice = "The other frames were written; copy the file again for all of them."
    return [_failure(video, reason=reason, advice=advice)] if reason else []


def _write_failures(path: Path, failures: list[dict[str, str]]) -> None:
    if failures:
        write_csv(path, pd.DataFrame(failures, columns=FAILURE_COLUMNS))
    else:
        path.unlink(missing_ok=True)
