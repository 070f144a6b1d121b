"""Mutated media files, read in worker processes: `python -m tests.fuzz_media --count 2000` from the project's root.

Number n always gives the same file (flipped bytes, cuts, blocks that swap places or are repeated, header fields with
extreme values), made of one of six small ones. Every way to read it has to end with frames or with a `MediaError` or
`UserError`. What doesn't is named by its number: a crash, a hang, another exception, or more memory than allowed.
"""

from __future__ import annotations

import argparse
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from media_fixtures import tone, write_encoded, write_video  # noqa: E402

TIMEOUT_S = 30.0
"""A mutated file of some kB is read in milliseconds; a machine that is busy with other work needs more."""

MAX_MEMORY_BYTES = 4 * 2**30
"""Address space of a worker: PyAV, NumPy and their threads take about 1 GB of it."""

EXTREMES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000)


def write_seeds(folder: Path) -> list[Path]:
    """Write the six files that mutations start from."""
    times_s = [i / 25 for i in range(20)]
    sound = tone(0.8)
    write_video(folder / "a.mp4", times_s=times_s, sound=sound)
    write_video(folder / "b.mkv", times_s=times_s, sound=sound, codec="mpeg4")
    webm = {"deadline": "realtime", "cpu-used": "8"}
    write_encoded(folder / "c.webm", codec="libvpx-vp9", options=webm, num_frames=15)
    write_encoded(folder / "d.avi", codec="mjpeg", pixel_format="yuvj420p", num_frames=12)
    hevc = {"preset": "ultrafast", "x265-params": "log-level=none"}
    write_encoded(folder / "e.mov", codec="libx265", options=hevc, num_frames=15)
    write_encoded(folder / "f.ts", options={"preset": "medium", "x264-params": "keyint=8"}, num_frames=20)
    return sorted(folder.glob("?.*"))


def mutated(data: bytes, *, rng: np.random.Generator) -> bytes:
    """Return a damaged copy."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.choice(["flip", "cut", "swap", "repeat", "header", "extreme", "run"])
        size = len(changed)
        if size < 64:
            break
        first, second = sorted(int(x) for x in rng.integers(0, size - 32, 2))
        length = int(rng.integers(1, min(512, size - second)))
        if kind == "flip":
            for place in rng.integers(0, size, int(rng.integers(1, 64))):
                changed[place] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del changed[int(rng.integers(16, size)) :]
        elif kind == "swap":
            length = min(length, second - first)
            one, other = changed[first : first + length], changed[second : second + length]
            changed[first : first + length], changed[second : second + length] = other, one
        elif kind == "repeat":
            changed[first:first] = changed[second : second + length]
        elif kind == "header":
            for place in rng.integers(0, min(size, 1024), int(rng.integers(1, 8))):
                changed[place] = int(rng.integers(256))
        elif kind == "extreme":
            # MP4 has its header at the end, the others at the beginning.
            place = (
                int(rng.integers(0, min(size - 4, 2048))) if rng.random() < 0.5 else size - 4 - first % min(size, 2048)
            )
            value = int(rng.choice(EXTREMES))
            changed[max(place, 0) : max(place, 0) + 4] = value.to_bytes(4, "big" if rng.random() < 0.7 else "little")
        else:
            changed[first : first + length] = rng.bytes(length)
    return bytes(changed)


def write_mutated(seeds: list[Path], number: int, *, folder: Path) -> Path:
    """Write mutated file `number`."""
    seed = seeds[number % len(seeds)]
    path = folder / f"mutated{seed.suffix}"
    path.write_bytes(mutated(seed.read_bytes(), rng=np.random.default_rng([7, number])))
    return path


def read_every_way(path: Path) -> str:
    """Read a file as mien does; return `frames` or `error`, any other outcome is an exception."""
    from mien.core.errors import MediaError, UserError
    from mien.media.audio import stream_audio
    from mien.media.describe import describe_media
    from mien.media.video import decode, has_audio, probe_video, sample_frames

    def times(frames) -> None:
        found = [frame.pts_s for frame in frames]
        assert found == sorted(set(found)), "times increase"

    ways = (
        lambda: times(sample_frames(path, fps=5.0)),
        lambda: times(sample_frames(path, every=4)),
        lambda: times(decode(path, threads=1)),
        lambda: sum(len(block.samples) for block in stream_audio(path)),
        lambda: describe_media(path),
        lambda: (probe_video(path), has_audio(path)),
    )
    results = []
    for way in ways:
        try:
            way()
            results.append("frames")
        except (MediaError, UserError):
            results.append("error")
    return results[0]


def work(folder: Path) -> None:
    """Read numbers from standard input, and write one line for each file."""
    av.logging.set_level(av.logging.PANIC)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    seeds = sorted(folder.glob("?.*"))
    with tempfile.TemporaryDirectory() as own:
        for line in sys.stdin:
            path = write_mutated(seeds, int(line), folder=Path(own))
            try:
                result = read_every_way(path)
            except Exception:
                result = "exception " + traceback.format_exc(limit=-3).strip().replace("\n", " | ")
            print(line.strip(), result, flush=True)


@dataclass
class Outcome:
    """How many files gave what, and what went wrong with which number."""

    num_frames: int = 0
    num_errors: int = 0
    failures: dict[int, str] = field(default_factory=dict)


class _Worker:
    """A process that reads files until it dies or hangs; then another one takes its place."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")  # the process ended

    def read(self, number: int) -> str:
        """Return the result of one file."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=TIMEOUT_S)
        except queue.Empty:
            self.process.kill()
            return f"hang of more than {TIMEOUT_S:.0f} s"
        return line.split(" ", 1)[1].strip() if line else f"crash with status {self.process.wait()}"

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def fuzz(numbers: range, *, folder: Path) -> Outcome:
    """Read mutated files in one worker at a time; `folder` gets the seeds."""
    write_seeds(folder)
    outcome, worker = Outcome(), _Worker(folder)
    for number in numbers:
        result = worker.read(number)
        if result == "frames":
            outcome.num_frames += 1
        elif result == "error":
            outcome.num_errors += 1
        else:
            outcome.failures[number] = result
            if worker.process.poll() is not None or result.startswith("hang"):
                worker = _Worker(folder)
    worker.close()
    return outcome


def main() -> int:
    """Read mutated files and say what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--work", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Path(options.work))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(range(options.first, options.first + options.count), folder=Path(folder))
    print(f"{options.count} mutated files: {outcome.num_frames} gave frames, {outcome.num_errors} an error with advice")
    for number, failure in outcome.failures.items():
        print(f"{number}: {failure}")
    print(f"{len(outcome.failures)} failures")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
