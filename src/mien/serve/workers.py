"""The processes that predict: each holds the bundle open and works on one video at a time.

A decoder that a broken file brings down takes its process along, not the service: that job fails, and another process
is started for the next one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

from mien.core.errors import MediaError, UserError
from mien.core.progress import heard_by
from mien.media.container import has_audio, has_video
from mien.media.video import probe_video
from mien.serve.settings import ServeSettings

POLL_S = 0.2
"""How often a driver looks whether its job was cancelled or takes too long."""

TELL_EVERY_S = 0.1
"""Progress is told at most so often: a fast video has hundreds of frames per second."""

LOW_ROOM = 10_000_000
"""Bytes left on the disk below which what failed probably failed for want of them."""

STOPPED = "The service was stopped."

Outcome = Literal["running", "done", "wrong input", "bug", "died", "too long", "cancelled"]


@dataclass(frozen=True)
class Work:
    """One video to predict.

    Attributes:
        job_id: Name of the job.
        video: The uploaded file.
        out: Folder for the results.
    """

    job_id: str
    video: Path
    out: Path


@dataclass(frozen=True)
class Report:
    """What a worker says of a job.

    Attributes:
        outcome: `running` while it is under way.
        what: What is being done, or why it failed.
        done: Steps that are done.
        total: Steps in all.
        result: What `predict_files` returns for one video, when it is done.
    """

    outcome: Outcome
    what: str = ""
    done: int = 0
    total: int = 0
    result: dict[str, Any] | None = None


class Workers:
    """A pool of processes, each with a thread that drives it."""

    def __init__(self, bundle: Path, *, settings: ServeSettings, report: Callable[[str, Report], None]) -> None:
        """Prepare the pool; `start` starts it.

        Args:
            bundle: Folder of the bundle.
            settings: Number of workers, limits of a video.
            report: Called from the drivers' threads with the job's id.
        """
        self._bundle = bundle
        self._settings = settings
        self._report = report
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._stopping = threading.Event()
        self._deadline: float | None = None
        self._drivers = [threading.Thread(target=self._drive, daemon=True) for _ in range(settings.workers)]

    def start(self) -> None:
        """Start the drivers, and with them their processes."""
        for driver in self._drivers:
            driver.start()

    def submit(self, work: Work) -> None:
        """Put a video at the end of the queue."""
        self._waiting.put(work)

    def cancel(self, job_id: str) -> None:
        """Give a job up, whether it waits or runs; reported as `cancelled` when it is out of the way."""
        self._cancelled.add(job_id)

    def close(self, *, grace_s: float) -> None:
        """Begin nothing more; running jobs have the grace from the first call on."""
        if self._deadline is None:
            self._deadline = time.monotonic() + grace_s

    def stop(self, *, grace_s: float) -> None:
        """Let running jobs end within the grace, give up what waits, and end the processes."""
        self.close(grace_s=grace_s)
        assert self._deadline is not None
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._waiting.get_nowait()
                if work is not None:
                    self._report(work.job_id, Report("cancelled", STOPPED))
        drivers = [driver for driver in self._drivers if driver.is_alive()]
        for _ in drivers:
            self._waiting.put(None)
        for driver in drivers:
            driver.join(max(0.0, self._deadline - time.monotonic()))
        self._stopping.set()
        for driver in drivers:
            driver.join(5.0)

    @property
    def are_alive(self) -> bool:
        """Whether every driver still takes work."""
        return all(driver.is_alive() for driver in self._drivers)

    def _drive(self) -> None:
        worker: tuple[SpawnProcess, Connection] | None = None
        while (work := self._waiting.get()) is not None:
            if work.job_id in self._cancelled or self._deadline is not None:
                self._end(work, Report("cancelled", STOPPED if self._deadline else "Cancelled before it began."))
                continue
            try:
                if worker is None or not worker[0].is_alive():
                    worker = self._spawn()
                final = self._watch(work, worker[1])
            except Exception as error:  # no process could be started, say: this job fails, the next may not
                traceback.print_exc()
                final = Report("bug", f"An error of the service ({type(error).__name__}); its log says more.")
            if worker is not None and final.outcome in ("died", "too long", "cancelled", "bug"):
                _end_process(*worker, at_once=True)
                worker = None
            self._end(work, final)
        if worker is not None:
            _end_process(*worker, at_once=False)

    def _spawn(self) -> tuple[SpawnProcess, Connection]:
        # A fresh interpreter: a fork would copy threads of ONNX Runtime and their locks.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=work_for, args=(str(self._bundle), self._settings, there), daemon=True)
        process.start()
        there.close()
        return process, here

    def _watch(self, work: Work, connection: Connection) -> Report:
        """Give a job to the process and pass on what it says; return how it ended."""
        deadline = time.monotonic() + self._settings.job_s
        try:
            connection.send(work)
            while True:
                if connection.poll(POLL_S):
                    report: Report = connection.recv()
                    if report.outcome != "running":
                        return report
                    self._report(work.job_id, report)
                if work.job_id in self._cancelled:
                    return Report("cancelled", "Cancelled.")
                if self._stopping.is_set():
                    return Report("cancelled", STOPPED)
                if time.monotonic() > deadline:
                    return Report("too long", f"It took more than {self._settings.job_s:g} s and was given up.")
        except (EOFError, OSError):
            return Report("died", "The process that read the video ended. The file may be damaged; convert it first.")

    def _end(self, work: Work, report: Report) -> None:
        self._cancelled.discard(work.job_id)
        try:
            self._report(work.job_id, report)
        except Exception:  # whatever is wrong with one job's files, the driver is needed for the next
            traceback.print_exc()


def _end_process(process: SpawnProcess, connection: Connection, *, at_once: bool) -> None:
    """End a worker; where it needn't be at once, it ends by itself when nobody can give it work."""
    if not at_once:
        connection.close()
        process.join(2.0)
    process.kill()
    process.join()
    connection.close()


def work_for(bundle_path: str, settings: ServeSettings, connection: Connection) -> None:
    """Predict what comes through the connection until nobody is left at its other end."""
    from mien.runtime.bundle import Bundle

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the service decides when its workers end
    bundle: Bundle | None = None
    while True:
        try:
            work: Work = connection.recv()
        except (EOFError, OSError):
            return
        try:
            bundle = bundle or Bundle.open(Path(bundle_path))
            report = _predict(bundle, work, settings=settings, connection=connection)
        except UserError as error:
            report = _why_not(error, work=work, bundle_path=bundle_path, is_open=bundle is not None)
        except OSError as error:
            traceback.print_exc()
            report = Report("bug", f"The service can't write or read its files ({error.strerror}).")
        except Exception as error:  # a bug: said without details of this machine, which belong in its log
            traceback.print_exc()
            report = Report("bug", f"An error of the service ({type(error).__name__}); its log says more.")
        try:
            connection.send(report)
        except OSError:
            return


def _why_not(error: UserError, *, work: Work, bundle_path: str, is_open: bool) -> Report:
    """Tell what is wrong with a video from what is wrong with the service, of which a client hears no details."""
    text = str(error)
    # Advice to name another folder is for who runs the service.
    if (
        not is_open
        or str(work.out) in text
        or bundle_path in text
        or shutil.disk_usage(work.video.parent).free < LOW_ROOM
    ):
        print(text, file=sys.stderr, flush=True)
        return Report("bug", "The service has no room or can't read its model; its log says more.")
    for path in (work.video, work.video.parent):
        text = text.replace(str(path), path.name if path == work.video else "")
    return Report("wrong input", text)


def _predict(bundle: Any, work: Work, *, settings: ServeSettings, connection: Connection) -> Report:
    from mien.predict.predictor import predict_files

    # Temporary files go with the job: of a worker that is killed nothing may stay, least of all faces.
    tempfile.tempdir = str(work.video.parent)
    last_s = 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= TELL_EVERY_S:
            last_s = now_s
            connection.send(Report("running", what.split(" ")[0], done, total))

    check_size(work.video, settings=settings)
    with heard_by(tell):
        result = predict_files(bundle, videos=[work.video], out=work.out)[0]
    return Report("done", result={name: value for name, value in result.items() if name in ("frames", "faces")})


def check_size(video: Path, *, settings: ServeSettings) -> None:
    """Refuse a video that says that it is longer or larger than allowed.

    Raises:
        MediaError: It can't be read, is too long, or its picture is too large.
    """
    if not has_video(video) and has_audio(video):
        return  # how long a sound is decides nothing but time, which `job_s` limits
    info = probe_video(video)
    if info.width * info.height > settings.max_pixels:
        raise MediaError(
            f"The picture has {info.width} x {info.height} px, more than {settings.max_pixels} in all",
            advice="Scale it down first.",
        )
    if info.duration_s is not None and info.duration_s > settings.max_duration_s:
        raise MediaError(
            f"The video lasts {info.duration_s:.0f} s, and {settings.max_duration_s:.0f} s are allowed",
            advice="Cut it first.",
        )
