"""What `mien predict` writes for a video, and how it knows that this is there already: `<name>.predicted.json`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mien.core.errors import UserError
from mien.core.progress import say
from mien.core.storage import digest_of, read_json, remove_leftovers, sha256_file, write_json
from mien.data.layouts import AUDIO_SUFFIXES, VIDEO_SUFFIXES, list_files
from mien.runtime.bundle import MANIFEST, Bundle

FORMAT = 1
STAMP = ".predicted.json"
SUFFIXES = {
    "timeline": ".timeline.csv",
    "timeline_parquet": ".timeline.parquet",
    "plot": ".html",
    "events": ".events.csv",
    "truth": ".truth.csv",
    "elan": ".eaf",
    "annotated": ".mp4",
}
"""How the files end that a result names, by its key."""

MAX_NAME_BYTES = 200
"""Of a result's name without its ending: disks allow 255 with it, and with what a temporary file's name adds."""

USERS_OWN = frozenset({"elan", "annotated"})
"""Files that may be a person's own: an ELAN file that was corrected, a video that lies where results go."""


@dataclass(frozen=True)
class Options:
    """What is made of each video.

    Attributes:
        elan: An ELAN file.
        video: An annotated copy.
        blur: With all faces covered.
        annotations: What is shown beside the prediction; None for nothing.
    """

    elan: bool = False
    video: bool = False
    blur: bool = False
    annotations: Path | None = None


@dataclass(frozen=True)
class Job:
    """One video to predict.

    Attributes:
        video: The video.
        name: Of its results.
        out: Their folder.
        signals: Its sensor export.
        is_alone: Whether no other video is asked for.
    """

    video: Path
    name: str
    out: Path
    signals: Path | None = None
    is_alone: bool = True

    def path(self, key: str) -> Path:
        """Return where a result of `SUFFIXES` lies."""
        return self.out / f"{self.name}{SUFFIXES[key]}"

    @property
    def stamp(self) -> Path:
        """What says that the results are whole."""
        return self.out / f"{self.name}{STAMP}"


def find_jobs(given: Sequence[Path], *, out: Path, signals: Sequence[Path], bundle: Bundle) -> list[Job]:
    """Return the videos to predict, each once: files as they are, of folders all recordings below them.

    Args:
        given: Files and folders.
        out: Folder of the results; what lies below it isn't a recording to predict.
        signals: Sensor exports, one per video in their order; none: it goes without.
        bundle: The model; sound files count where it does without pictures.

    Raises:
        UserError: A folder without a recording, another number of exports than of videos, or exports for a model that
            looks at no signals.
    """
    suffixes = VIDEO_SUFFIXES if bundle.needs_pictures else VIDEO_SUFFIXES | AUDIO_SUFFIXES
    videos: list[Path] = []
    for path in given:
        found = [path]
        if path.is_dir():
            below = [item for item in list_files(path, suffixes=suffixes) if not _is_below(item, out)]
            found = [item for item in below if not _is_result(item)]
            if not found:
                raise UserError(f"{path} holds no recording ({', '.join(sorted(suffixes))}). Name another folder.")
        videos += [item for item in found if item not in videos]
    if signals and not bundle.needs_signals:
        raise UserError(f"{bundle.spec.label} looks at no signals. Leave --signals out.")
    if signals and len(signals) != len(videos):
        raise UserError(f"Got {len(signals)} sensor exports for {len(videos)} videos. Give one --signals per video.")
    exports: list[Path | None] = [*signals] or [None] * len(videos)
    names = distinct_names(videos, out=out)
    alone = len(videos) == 1
    return [Job(video, name, out, export, alone) for video, name, export in zip(videos, names, exports, strict=True)]


def distinct_names(videos: Sequence[Path], *, out: Path | None = None) -> list[str]:
    """Name results after the videos; files of the same name in different folders get a number.

    Names that differ in case only count as the same: on some disks they are. A name whose results are of another file,
    which is still there, is taken, so that a later run with less or more videos neither replaces nor mixes them up.

    Args:
        videos: The videos.
        out: Folder of the results, where there may be some.

    >>> distinct_names([Path("a/x.mp4"), Path("b/x.mp4"), Path("c/X.mp4")])
    ['x', 'x-2', 'X-3']
    """
    names: list[str] = []
    taken: set[str] = set()
    for video in videos:
        stem = _short_stem(video)
        name, number = stem, 2
        while name.casefold() in taken or (out is not None and _is_of_another(out / f"{name}{STAMP}", video=video)):
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _is_of_another(stamp: Path, *, video: Path) -> bool:
    """Return whether results are those of another file than a video, one that is still there."""
    there = _read_json(stamp)
    path = None if there is None else there.get("path")
    return isinstance(path, str) and Path(path) != video.resolve() and Path(path).is_file()


def _short_stem(video: Path) -> str:
    """Return a file's stem: a long one's end is replaced by a digest of it, what isn't UTF-8 by question marks."""
    stem = shown(video.stem)
    if len(stem.encode()) <= MAX_NAME_BYTES:
        return stem
    digest = digest_of(stem, length=8)
    return f"{stem.encode()[: MAX_NAME_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


def shown(path: Path | str) -> str:
    """Return a path as it can be written: bytes of it that aren't UTF-8 as question marks."""
    return str(path).encode(errors="replace").decode()


def check_name(video: Path) -> None:
    """Refuse a video whose name no table or page could hold.

    Raises:
        UserError: Its name isn't UTF-8.
    """
    if shown(video) != str(video):
        raise UserError(f"The name of {shown(video)} isn't UTF-8. Rename the file (or its folder).")


def check_writable(out: Path) -> None:
    """Refuse a folder that can't be written to before hours of video are predicted; it is made where it isn't there.

    Raises:
        UserError: It is a file, or can't be made or written to.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file. Give a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"Nothing can be written to --out {out}: {error.strerror}. Give another folder.") from error


def check_copies(jobs: Sequence[Job]) -> None:
    """Refuse to write an annotated copy over a video.

    Raises:
        UserError: A copy would have the place of a video that is predicted.
    """
    videos = {job.video.resolve() for job in jobs}
    for job in jobs:
        if job.path("annotated").resolve() in videos:
            raise UserError(f"{job.path('annotated')} is a video itself; give --out another folder than the videos'.")


def identity_of(job: Job, *, bundle: Bundle, options: Options) -> dict[str, Any]:
    """Return what decides the results of a job.

    Raises:
        UserError: A file isn't there.
    """
    return {
        "format": FORMAT,
        "mien": version("mien"),
        "video": _facts_of(job.video),
        "signals": None if job.signals is None else _facts_of(job.signals),
        "annotations": None if options.annotations is None else [_facts_below(options.annotations), job.is_alone],
        "bundle": sha256_file(bundle.path / MANIFEST),
        "channel": bundle.column,
        "options": {name: value for name, value in asdict(options).items() if name != "annotations"},
    }


def finished_result(job: Job, *, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of a job that is done: the same inputs, and every file as it was written; else None.

    An ELAN file may have been corrected since.
    """
    stamp = _read_stamp(job)
    if stamp is None or {name: stamp.get(name) for name in identity} != dict(identity):
        return None
    files = stamp.get("files")
    if not isinstance(files, dict) or not isinstance(stamp.get("result"), dict) or not set(files) <= set(SUFFIXES):
        return None
    for key, digest in files.items():
        path = job.path(key)
        if not path.is_file() or (key != "elan" and sha256_file(path) != digest):
            return None
    return result_of(job, facts=stamp["result"], files=files)


def result_of(job: Job, *, facts: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return what `predict_files` returns for a video."""
    places = {key: str(job.path(key)) for key in SUFFIXES if key in files}
    return {"video": shown(job.video), **facts, "events": None, **places}


def write_stamp(
    job: Job, *, identity: Mapping[str, Any], facts: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
    """Write that a job is done, and return its result.

    Args:
        job: The job.
        identity: From `identity_of`.
        facts: What was found of the video.
        keys: Files that were written.
    """
    files = {key: sha256_file(job.path(key)) for key in keys}
    path = str(job.video.resolve())
    write_json(job.stamp, {**identity, "path": path, "files": files, "result": dict(facts)})
    return result_of(job, facts=facts, files=files)


def remove_results(job: Job) -> None:
    """Remove what an earlier run wrote for a job, so that nothing old stays beside what is new, or fails now.

    An ELAN file or a video goes only if it is byte for byte what an earlier run wrote.
    """
    written = (_read_stamp(job) or {}).get("files")
    digests = written if isinstance(written, dict) else {}
    job.stamp.unlink(missing_ok=True)
    for key in SUFFIXES:
        path = job.path(key)
        remove_leftovers(job.out, of=path.name)
        if key not in USERS_OWN or (path.is_file() and sha256_file(path) == digests.get(key)):
            path.unlink(missing_ok=True)


def may_write(job: Job, key: str) -> bool:
    """Return whether a file that may be a person's own can be written; where it can't, say so."""
    if not job.path(key).exists():
        return True
    say(f"{job.path(key)} was there or was changed since, and is kept. Move it away to have a new one.")
    return False


def _read_stamp(job: Job) -> dict[str, Any] | None:
    return _read_json(job.stamp)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return what a stamp says; None where there is none, or it is damaged."""
    try:
        stamp = read_json(path) if path.is_file() else None
    except UserError:
        return None
    return stamp if isinstance(stamp, dict) else None


def _facts_of(path: Path) -> list[Any]:
    """Return what tells a file from another without reading it: name, size, and time of its last change."""
    try:
        facts = path.stat()
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    return [path.name, facts.st_size, facts.st_mtime_ns]


def _facts_below(path: Path) -> Any:
    if not path.is_dir():
        return _facts_of(path)
    suffixes = {item.suffix.lower() for item in path.rglob("*")} - VIDEO_SUFFIXES - AUDIO_SUFFIXES - {".npy"}
    return digest_of([_facts_of(item) for item in list_files(path, suffixes=suffixes)])


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_result(path: Path) -> bool:
    """Return whether a file is an annotated copy that an earlier run wrote beside other results."""
    return path.suffix == SUFFIXES["annotated"] and path.with_name(f"{path.stem}{STAMP}").is_file()
