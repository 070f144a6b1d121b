"""What one frame per second costs: `python benchmarks/decode.py [--quick] [--python PATH]`.

Each method reads the same recording in a process of its own, several rounds in turn, so that a busy machine slows all
of them alike; medians are printed. Included: starting Python, imports, decoding, conversion to RGB of what is kept. The
recording is made here: a textured head that moves before a textured room, with the noise of a camera, 1920 x 1080 at 30
frames per second, libx264 with its preset medium and a key frame every 250 frames.

`--python` names another Python that has torchcodec or decord; methods that aren't installed are skipped with a line
that says so. Further: how much faster two workers are on eight files, and how peak memory grows from a recording of 1
minute to one of 30 (`--quick`: of 6).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FPS = 30
KEY_FRAME_EVERY = 250
CLIP_S = 25
"""What is encoded; longer recordings repeat its packets, each repetition from a key frame."""

RUN_TIMEOUT_S = 1800


# Methods: each yields (time in seconds, picture) of the first frame and of the first at or after each full second.


def ours(path: str) -> Iterator[tuple[float, Any]]:
    """`mien.media.video.sample_frames`."""
    from mien.media.video import sample_frames

    for frame in sample_frames(Path(path), fps=1.0):
        yield frame.pts_s, frame.rgb


def opencv_read_all(path: str) -> Iterator[tuple[float, Any]]:
    """OpenCV's `read`, which decodes and converts every frame."""
    import cv2

    capture, last = cv2.VideoCapture(path), -1
    while True:
        found, picture = capture.read()
        if not found:
            return
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if int(time_s + 1e-6) > last:
            last = int(time_s + 1e-6)
            yield time_s, picture


def opencv_grab(path: str) -> Iterator[tuple[float, Any]]:
    """OpenCV's `grab` for every frame, and `retrieve` for what is kept."""
    import cv2

    capture, last = cv2.VideoCapture(path), -1
    while capture.grab():
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if int(time_s + 1e-6) > last:
            last = int(time_s + 1e-6)
            yield time_s, capture.retrieve()[1]


def pyav_all(path: str) -> Iterator[tuple[float, Any]]:
    """PyAV, all frames, with as many threads as FFmpeg likes."""
    import av

    last = -1
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            if int(frame.time + 1e-6) > last:
                last = int(frame.time + 1e-6)
                yield frame.time, frame.to_ndarray(format="rgb24")


def torchcodec_exact(path: str) -> Iterator[tuple[float, Any]]:
    """The decoder of torchcodec in its exact mode, one call per time, in order."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact", dimension_order="NHWC")
    for second in range(int(decoder.metadata.end_stream_seconds - 1e-6) + 1):
        frame = decoder.get_frame_played_at(second)
        yield float(frame.pts_seconds), frame.data.numpy()


def decord_reader(path: str) -> Iterator[tuple[float, Any]]:
    """The `VideoReader` of decord, the wanted frames by number, in order."""
    import decord

    reader, last = decord.VideoReader(path, num_threads=1), -1
    starts_s = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    for number, time_s in enumerate(starts_s):
        if int(time_s + 1e-6) > last:
            last = int(time_s + 1e-6)
            yield float(time_s), reader[number].asnumpy()


METHODS: dict[str, Callable[[str], Iterator[tuple[float, Any]]]] = {
    "ours": ours,
    "opencv_read_all": opencv_read_all,
    "opencv_grab": opencv_grab,
    "pyav_all": pyav_all,
    "torchcodec_exact": torchcodec_exact,
    "decord": decord_reader,
}
PACKAGES = {"torchcodec_exact": "torchcodec", "decord": "decord"}
"""Methods that may run in another Python, and the package that they need."""

FFMPEG_FILTER = "select='isnan(prev_selected_t)+gt(floor(t+0.000001)\\,floor(prev_selected_t+0.000001))',showinfo"


def whole_recording(path: str) -> Iterator[tuple[float, Any]]:
    """Pictures and then the sound block by block, with all loaded that a worker of `mien prepare` has loaded."""
    import mien.data.process  # noqa: F401
    from mien.media.audio import stream_audio

    yield from ours(path)
    for block in stream_audio(Path(path)):
        yield block.start_s, block.samples


def run_method(name: str, paths: Sequence[str]) -> None:
    """Read files and print the times of what was kept (in the process that is measured)."""
    times_s, checksum = [], 0
    for path in paths:
        for time_s, picture in {**METHODS, "whole_recording": whole_recording}[name](path):
            if picture.ndim == 3:
                times_s.append(time_s)
            checksum += int(picture[::64].sum())
    print(json.dumps({"times_s": times_s, "checksum": checksum}))


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    times_s: tuple[float, ...]


def measure(command: Sequence[str]) -> Cost:
    """Run a process, measured by the kernel's account of it (user and system seconds, peak resident memory)."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        complaints = errors.read()
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{complaints[-2000:]}")
        if command[0] == "ffmpeg":
            shown = [line.split("pts_time:")[1].split()[0] for line in complaints.splitlines() if "pts_time:" in line]
            times_s = tuple(float(value) for value in shown)
        else:
            times_s = tuple(json.loads(output.read())["times_s"])
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, times_s)


def command_of(name: str, paths: Sequence[Path], *, python: str) -> list[str]:
    """Return the command line of a method."""
    if name == "ffmpeg_cli":
        keeps = ["-vf", FFMPEG_FILTER, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo"]
        return ["ffmpeg", "-hide_banner", "-nostats", "-y", "-i", str(paths[0]), *keeps, os.devnull]
    return [python, __file__, "--method", name, *map(str, paths)]


def available(python: str) -> dict[str, str]:
    """Return which Python runs each method; what is missing is said."""
    found = {}
    for name in METHODS:
        package = PACKAGES.get(name)
        candidates = [sys.executable] if package is None else dict.fromkeys([python, sys.executable])
        for candidate in candidates:
            check = [candidate, "-c", f"import {package}"]
            if package is None or subprocess.run(check, capture_output=True).returncode == 0:
                found[name] = candidate
                break
        else:
            print(f"{name}: skipped, {package} can't be imported (name a Python that has it with --python)")
    if shutil.which("ffmpeg"):
        found["ffmpeg_cli"] = ""
    else:
        print("ffmpeg_cli: skipped, there is no ffmpeg on the path")
    return found


# The recording.


def textures(height: int, width: int, *, seed: int) -> Any:
    """Return a picture (height, width) uint8 with detail at all sizes, like a room or a face."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    total = np.full((height, width), 118.0, np.float32)
    for size, amount in ((96, 34), (24, 14), (6, 7), (2, 3)):
        coarse = rng.normal(size=(height // size + 3, width // size + 3)).astype(np.float32)
        total += amount * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 16, 235).astype(np.uint8)


def pictures(width: int, height: int, num_frames: int) -> Iterator[Any]:
    """Yield planes (height * 3 / 2, width) uint8: the camera sways, a head moves and turns, and the sensor is noisy."""
    import cv2
    import numpy as np

    margin = height // 40
    room = textures(height + 2 * margin, width + 2 * margin, seed=1)
    head = textures(height * 2 // 3, height // 2, seed=2)
    rows, columns = head.shape
    ellipse = np.zeros((rows, columns), np.float32)
    cv2.ellipse(ellipse, (columns // 2, rows // 2), (columns // 2 - 4, rows // 2 - 4), 0, 0, 360, 1.0, -1)
    ellipse = cv2.GaussianBlur(ellipse, (0, 0), 3)
    rng = np.random.default_rng(3)
    noise = [rng.normal(0, 3.0, (height, width)).astype(np.float32) for _ in range(16)]
    for number in range(num_frames):
        time_s = number / FPS
        sway = np.float32([[1, 0, -margin + 3 * np.sin(time_s)], [0, 1, -margin + 2 * np.cos(1.3 * time_s)]])
        picture = cv2.warpAffine(room, sway, (width, height)).astype(np.float32)
        turn = cv2.getRotationMatrix2D(
            (columns / 2, rows / 2), 8 * np.sin(0.9 * time_s), 1 + 0.04 * np.sin(0.5 * time_s)
        )
        x = round(width / 2 - columns / 2 + width / 8 * np.sin(0.7 * time_s) + width / 60 * np.sin(5 * time_s))
        y = round(height / 6 + height / 24 * np.sin(1.7 * time_s))
        mask = cv2.warpAffine(ellipse, turn, (columns, rows))
        face = cv2.warpAffine(head, turn, (columns, rows)).astype(np.float32)
        part = picture[y : y + rows, x : x + columns]
        part += mask * (face - part)
        luma = np.clip(picture + noise[number % 16], 0, 255).astype(np.uint8)
        small = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        chroma = [np.clip(128 + sign * (small - 118) / 5, 0, 255).astype(np.uint8) for sign in (1, -1)]
        yield np.concatenate([luma, *(plane.reshape(-1, width) for plane in chroma)])


def encode(path: Path, *, width: int, height: int) -> None:
    """Write the clip that longer recordings repeat."""
    import av

    with av.open(str(path), "w") as container:
        options = {"preset": "medium", "x264-params": f"keyint={KEY_FRAME_EVERY}"}
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, planes in enumerate(pictures(width, height, CLIP_S * FPS)):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def repeat(clip: Path, path: Path, *, duration_s: int, with_sound: bool) -> None:
    """Write a recording of any length (to the frame) by repeating a clip's packets, with AAC sound where asked for."""
    import av
    import numpy as np

    block = np.random.default_rng(0).normal(0, 0.1, (1, 1024)).astype(np.float32)
    with av.open(str(path), "w") as writer:
        copy: Any = None
        track: Any = writer.add_stream("aac", rate=48000, layout="mono") if with_sound else None
        for done_s in range(0, duration_s, CLIP_S):
            with av.open(str(clip)) as reader:
                stream = reader.streams.video[0]
                copy = copy or writer.add_stream_from_template(stream)
                ticks_per_s = round(1 / stream.time_base)
                for packet in reader.demux(stream):
                    if packet.size and packet.pts < (duration_s - done_s) * ticks_per_s:
                        packet.pts, packet.dts = packet.pts + done_s * ticks_per_s, packet.dts + done_s * ticks_per_s
                        packet.stream = copy
                        writer.mux(packet)
            end = min(done_s + CLIP_S, duration_s) * 48000
            for first in range(-(-done_s * 48000 // 1024) * 1024, end, 1024) if track else ():
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48000, first
                writer.mux(track.encode(frame))
        if track:
            writer.mux(track.encode(None))


def make(kind: str, clip: Path, path: Path, *, duration_s: int, size: tuple[int, int] = (0, 0)) -> None:
    """Make a file in another process: a child's peak memory starts at that of its parent, so this one stays small."""
    arguments = [kind, str(clip), str(path), str(duration_s), *map(str, size)]
    subprocess.run([sys.executable, __file__, "--make", *arguments], check=True)


def run_make(kind: str, clip: str, path: str, duration_s: str, width: str, height: str) -> None:
    """Make a file (in the process that `make` starts)."""
    if kind == "clip":
        encode(Path(clip), width=int(width), height=int(height))
    else:
        repeat(Path(clip), Path(path), duration_s=int(duration_s), with_sound=kind == "recording")


# What is measured.


def compare(path: Path, *, rounds: int, python: str, duration_s: int) -> dict[str, float]:
    """Run all methods in turn, print what they took, and return ratios."""
    methods = available(python)
    costs: dict[str, list[Cost]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, interpreter in methods.items():
            costs[name].append(measure(command_of(name, [path], python=interpreter)))
    print(f"\n{'method':<18}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'frames':>8}{'worst time error':>18}")
    cpu_s, wall_s = {}, {}
    for name, several in costs.items():
        cpu_s[name] = statistics.median(cost.cpu_s for cost in several)
        wall_s[name] = statistics.median(cost.wall_s for cost in several)
        times_s = several[0].times_s
        error = max((abs(time_s - second) for second, time_s in enumerate(times_s)), default=float("nan"))
        peak = max(cost.peak_mb for cost in several)
        print(f"{name:<18}{wall_s[name]:8.2f}{cpu_s[name]:8.2f}{peak:9.0f}{len(times_s):8d}{error * 1000:15.3f} ms")
    assert len(costs["ours"][0].times_s) == duration_s, "one frame per second"
    ratios = {f"cpu_vs_{name}": cpu_s[name] / cpu_s["ours"] for name in costs if name != "ours"}
    return ratios | {f"wall_vs_{name}": wall_s[name] / wall_s["ours"] for name in costs if name != "ours"}


def two_workers(clip: Path, *, rounds: int) -> float:
    """Return how much faster two processes read eight files than one; the files are told apart by name only."""
    files = [clip.with_name(f"file{number}.mp4") for number in range(8)]
    for file in files:
        file.unlink(missing_ok=True)
        os.link(clip, file)
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, walls in took.items():
            shares = [files[number::workers] for number in range(workers)]
            started = time.perf_counter()
            commands = [command_of("ours", share, python=sys.executable) for share in shares]
            processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
            assert [process.wait(RUN_TIMEOUT_S) for process in processes] == [0] * workers
            walls.append(time.perf_counter() - started)
    one, two = (statistics.median(walls) for walls in took.values())
    print(f"\neight files of {CLIP_S} s: one worker {one:.2f} s, two workers {two:.2f} s")
    return one / two


def memory_growth(clip: Path, *, minutes: int) -> float:
    """Return peak memory of a long recording, picture and sound, over that of one of 1 minute."""
    peaks = []
    for length in (1, minutes):
        path = clip.with_name(f"{length}min.mp4")
        make("recording", clip, path, duration_s=60 * length)
        cost = measure(command_of("whole_recording", [path], python=sys.executable))
        assert len(cost.times_s) == 60 * length, "one frame per second"
        peaks.append(cost.peak_mb)
        path.unlink()
    print(f"peak memory, picture and sound: {peaks[0]:.0f} MB for 1 minute, {peaks[1]:.0f} MB for {minutes} minutes")
    return peaks[1] / peaks[0]


def main() -> None:
    """Make the recording, run everything, and end with the ratios, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 s of 640 x 360 instead of 120 s of 1920 x 1080")
    parser.add_argument("--rounds", type=int, default=3, help="how often each method runs")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torchcodec or decord")
    parser.add_argument("--folder", type=Path, help="where the recording is kept between runs (default: nowhere)")
    parser.add_argument("--method", choices=[*METHODS, "whole_recording"], help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        run_make(*options.paths)
        return
    if options.method:
        run_method(options.method, options.paths)
        return
    width, height, duration_s = (640, 360, 10) if options.quick else (1920, 1080, 120)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        clip, path = folder / f"clip{height}.mp4", folder / f"recording{height}.mp4"
        if not clip.exists():
            make("clip", clip, path, duration_s=CLIP_S, size=(width, height))
        make("pictures", clip, path, duration_s=duration_s)
        megabits = path.stat().st_size * 8 / 1e6 / duration_s
        print(f"{duration_s} s of {width} x {height} at {FPS} frames per second, {megabits:.1f} Mbit/s")
        ratios = compare(path, rounds=options.rounds, python=options.python, duration_s=duration_s)
        ratios["wall_two_workers_over_one"] = two_workers(clip, rounds=options.rounds)
        minutes = 6 if options.quick else 30
        ratios[f"memory_{minutes}min_over_1min"] = memory_growth(clip, minutes=minutes)
    print("\nratios (above 1: ours takes less, except memory)")
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}x")


if __name__ == "__main__":
    main()
