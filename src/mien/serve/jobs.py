"""Jobs: an uploaded video on its way to a timeline, and how long what came of it is kept."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mien.core.errors import UserError
from mien.serve.settings import ServeSettings
from mien.serve.workers import Outcome, Report, Work, Workers

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})
STATE_OF: dict[Outcome, State] = {
    "running": "running",
    "done": "done",
    "wrong input": "failed",
    "bug": "failed",
    "died": "failed",
    "too long": "failed",
    "cancelled": "cancelled",
}
STATUS_OF: dict[Outcome, int] = {"wrong input": 422, "died": 422, "too long": 422, "bug": 500, "cancelled": 410}
"""HTTP status of asking for the results of a job that ended so."""

VIDEO_STEM = "video"
"""Every upload is called so: no name of a client becomes a path."""

FOLDER_PREFIX = "mien-serve-"
LOCK_FILE = "in-use"
"""Locked while the service of a folder lives; the system lets go of it whatever ends the service."""

JUST_MADE_S = 60.0
"""A younger folder without that file is one that is being made."""

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{22}")


class FullError(Exception):
    """More jobs wait than may."""


@dataclass
class Job:
    """One video.

    Attributes:
        job_id: Its name, which can't be guessed: who has it may read the results.
        name: What the client calls the video.
        folder: Where its files lie.
        created: When it came, seconds since 1970.
        state: Where it is.
        report: What its worker said last.
        ended: When it ended, on the monotonic clock; None while it hasn't.
        changes: Counts the reports, so that who follows it sees what is new.
    """

    job_id: str
    name: str
    folder: Path
    created: float = field(default_factory=time.time)
    state: State = "queued"
    report: Report = field(default_factory=lambda: Report("running", "Waiting"))
    ended: float | None = None
    changes: int = 0

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return self.folder / "out"

    def file(self, suffix: str) -> Path | None:
        """Return the result whose name ends so, None where there is none."""
        return next(iter(sorted(self.out.glob(f"*{suffix}"))), None)


class Jobs:
    """All jobs of a service, in a folder that goes when the service goes."""

    def __init__(self, bundle: Path, *, settings: ServeSettings) -> None:
        """Make the folder; `start` starts the workers.

        Args:
            bundle: Folder of the bundle.
            settings: Limits.
        """
        self.settings = settings
        remove_abandoned()
        self.root = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._held = hold(self.root)
        self._jobs: dict[str, Job] = {}
        self._doomed: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._workers = Workers(bundle, settings=settings, report=self._told)

    def start(self) -> None:
        """Start the workers."""
        self._workers.start()

    def reserve(self) -> Path:
        """Make a folder for an upload.

        Raises:
            FullError: Too many jobs wait.
        """
        with self._lock:
            if self._num_waiting() >= self.settings.max_waiting:
                raise FullError
        return Path(tempfile.mkdtemp(prefix="job-", dir=self.root))

    def submit(self, video: Path, *, name: str) -> Job:
        """Queue an uploaded video; it is deleted when its job ends.

        Raises:
            FullError: Others came first while it was sent.
        """
        job = Job(secrets.token_urlsafe(16), name, video.parent)
        with self._lock:
            if self._num_waiting() >= self.settings.max_waiting:
                raise FullError
            self._jobs[job.job_id] = job
        self._workers.submit(Work(job.job_id, video, job.out))
        return job

    def find(self, job_id: str) -> Job | None:
        """Return a job, None where there is none of this name (any more)."""
        return self._jobs.get(job_id) if ID_PATTERN.fullmatch(job_id) else None

    def position(self, job: Job) -> int:
        """Return how many jobs wait before this one."""
        with self._lock:
            waiting = [other for other in self._jobs.values() if other.state == "queued"]
        return waiting.index(job) if job in waiting else 0

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        with self._lock:
            states = [job.state for job in self._jobs.values()]
        return {state: states.count(state) for state in ("queued", "running", "done", "failed", "cancelled")}

    @property
    def is_taking(self) -> bool:
        """Whether another video is taken, and somebody there to predict it."""
        with self._lock:
            return self._num_waiting() < self.settings.max_waiting and self._workers.are_alive

    def _num_waiting(self) -> int:
        return sum(job.state == "queued" for job in self._jobs.values())

    def remove(self, job: Job) -> None:
        """Cancel a job that waits or runs, delete its files, and forget it."""
        with self._lock:
            under_way, waits = job.state not in ENDED, job.state == "queued"
            self._jobs.pop(job.job_id, None)
            if under_way:
                self._doomed[job.job_id] = job.folder  # a worker that has begun may still write there
        if under_way:
            self._workers.cancel(job.job_id)
        if waits:
            # At once, not when its turn comes; and if a worker took it just now, that one's end deletes what is left.
            for path in job.folder.glob(f"{VIDEO_STEM}*"):
                path.unlink(missing_ok=True)
        if not under_way:
            shutil.rmtree(job.folder, ignore_errors=True)

    def expire(self) -> int:
        """Remove jobs that ended too long ago; return how many."""
        now = time.monotonic()
        with self._lock:
            ended = [job for job in self._jobs.values() if job.ended and now - job.ended > self.settings.keep_s]
        for job in ended:
            self.remove(job)
        return len(ended)

    def close(self) -> None:
        """Begin no further job; the grace of those that run starts. Quick, for a handler of signals."""
        self._workers.close(grace_s=self.settings.grace_s)

    def stop(self) -> None:
        """End the workers when their grace is over, and delete everything."""
        self._workers.stop(grace_s=self.settings.grace_s)
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._held)

    def _told(self, job_id: str, report: Report) -> None:
        """Take a report of a worker; from its driver's thread."""
        if report.outcome != "running":
            self._clean(job_id)
        with self._lock:
            doomed = self._doomed.pop(job_id, None) if report.outcome != "running" else None
            job = self._jobs.get(job_id)
            if job is not None:
                job.report, job.state = report, STATE_OF[report.outcome]
                job.changes += 1
                job.ended = None if report.outcome == "running" else time.monotonic()
        if doomed is not None:
            shutil.rmtree(doomed, ignore_errors=True)

    def _clean(self, job_id: str) -> None:
        """Delete all but the results of a job whose worker is done with it, before anybody is told that it ended.

        Whatever came of it, the video isn't kept, nor what a worker that was killed had in hand.
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            return
        with suppress(FileNotFoundError):
            for path in list(job.folder.iterdir()):
                if path == job.out:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def hold(folder: Path) -> int:
    """Lock a service's folder; return the descriptor, which holds the lock until it is closed."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def check_temporary_folder() -> None:
    """Refuse to start where uploads couldn't be written.

    Raises:
        UserError: There is no folder for temporary files.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(
            "No folder for temporary files can be written to, and uploads need one. Set TMPDIR to one that can; in a "
            "container whose file system is read-only, mount a tmpfs at /tmp."
        ) from error


def remove_abandoned() -> None:
    """Delete folders of services that were killed: nobody holds their lock.

    Process numbers wouldn't do: in a container every service is number 1.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or held
            if not (folder / LOCK_FILE).exists() and time.time() - folder.stat().st_mtime < JUST_MADE_S:
                continue
            os.close(hold(folder))
            shutil.rmtree(folder, ignore_errors=True)


def job_json(job: Job, *, position: int) -> dict[str, Any]:
    """Return a job as the service shows it."""
    report = job.report
    return {
        "job_id": job.job_id,
        "name": job.name,
        "state": job.state,
        "reason": report.what if job.state in ("failed", "cancelled") else None,
        "what": report.what if job.state not in ENDED else None,
        "done": report.done,
        "total": report.total,
        "position": position if job.state == "queued" else None,
        "frames": None if report.result is None else report.result.get("frames"),
        "faces": None if report.result is None else report.result.get("faces"),
    }
