"""Recordings in parallel processes; one that fails, or takes its process down with it, doesn't stop the others."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import cv2

from mien.core.errors import MediaError, UserError
from mien.core.progress import say
from mien.core.types import Problem
from mien.data.process import Job, prepare_recording
from mien.media.detectors import DetectorName, FaceDetector, make_detector

Done = Callable[[Job, Problem | None], None]

STOP_WITHIN_S = 1.0
"""How long a worker that was told to end may take before it is killed."""

_detector: FaceDetector | None = None
"""The worker process's own detector: loaded once per process, because it can't travel between processes."""


def run_jobs(jobs: Sequence[Job], *, detector: DetectorName, num_workers: int, done: Done) -> None:
    """Prepare recordings, in parallel where there are several.

    Args:
        jobs: The recordings.
        detector: Face detector.
        num_workers: Processes.
        done: Called in this process after each recording, with what went wrong or None.

    Raises:
        UserError: The disk is full, or the detector can't be loaded.
        KeyboardInterrupt: Ctrl-C; the worker processes have ended, wherever they were.
    """
    if min(num_workers, len(jobs)) <= 1:
        network = make_detector(detector) if jobs else None
        for job in jobs:
            assert network is not None, "loaded where there is a job"
            done(job, _attempt(job, detector=network))
        return
    unfinished = _run_pool(jobs, detector=detector, num_workers=min(num_workers, len(jobs)), done=done)
    # A process died and took the pool along. Alone, the recording that does it is found out.
    for job in unfinished:
        if _run_pool([job], detector=detector, num_workers=1, done=done):
            done(job, _died(job))


def _run_pool(jobs: Sequence[Job], *, detector: DetectorName, num_workers: int, done: Done) -> list[Job]:
    """Return the jobs that have no result, because a worker process died."""
    # Spawned, not forked: a fork of a process with OpenCV's or FFmpeg's threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(detector,))
    unfinished = []
    try:
        with _interrupts_held():
            futures: dict[Future[Problem | None], Job] = {pool.submit(_run_in_worker, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                problem = future.result()
            except BrokenProcessPool:
                unfinished.append(futures[future])
                continue
            done(futures[future], problem)
    except KeyboardInterrupt:
        say("Stopping; what is finished is kept.")
        _end_workers(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    order = {id(job): index for index, job in enumerate(jobs)}
    return sorted(unfinished, key=lambda job: order[id(job)])


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Deliver a Ctrl-C to this process afterwards, and to the processes started within never.

    A terminal sends it to all of them: a worker would print a traceback, or take it for its recording's failure.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """End the workers in the middle of their recordings: what they leave is removed when prepare runs again."""
    workers = list((pool._processes or {}).values())  # the executor itself only knows how to wait
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(STOP_WITHIN_S)
        if worker.is_alive():
            worker.kill()


def _start_worker(detector: DetectorName) -> None:
    global _detector
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _detector = make_detector(detector)


def _die_with_parent() -> None:
    """End this process when its parent is killed: it would go on writing beside the run that is started next."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in workers only"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(job: Job) -> Problem | None:
    assert _detector is not None, "the initialiser ran"
    return _attempt(job, detector=_detector)


def _attempt(job: Job, *, detector: FaceDetector) -> Problem | None:
    """Prepare one recording and return what went wrong, None where nothing did.

    Raises:
        UserError: The disk is full: every other recording would fail, too.
    """
    recording_id = job.recording.recording_id
    try:
        prepare_recording(job, detector=detector)
    except MediaError as error:
        stage = "audio" if job.recording.camera == "audio" else "video"
        return Problem(recording_id, stage, error.reason, error.advice)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise UserError(
                f"The disk is full at {job.folder.parent}. Free space and start again: it goes on here."
            ) from error
        reason = f"{job.recording.path.name}: {type(error).__name__}: {error}"
        return Problem(recording_id, "process", reason, "Play it to check; if it plays, report this as a bug of mien.")
    return None


def _died(job: Job) -> Problem:
    return Problem(
        job.recording.recording_id,
        "process",
        f"the process that read {job.recording.path.name} died (out of memory, or a file that crashes the decoder)",
        "Play it to check; use --workers 1 where memory is short. A script of yours that calls prepare() needs "
        "`if __name__ == '__main__':` around it.",
    )
