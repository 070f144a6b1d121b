"""What an hour of video costs, stage by stage: `python benchmarks/stages.py [--study PATH] [--fps 1] [--quick]`.

The stages of `mien prepare` one after another in one process and one thread, on a study's recordings (default: the
drawn study of the demo): CPU seconds per hour of video, and megabytes per hour that a dataset keeps. "models" are the
probe's features (HOG of every crop), the audit's and a comparison's largest share. YuNet is measured where its weights
are found (`MIEN_WEIGHTS`). Ends with its figures, one a line: how many times faster than real time each stage is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import MediaError
from mien.core.storage import sha256_file
from mien.core.types import Audio
from mien.core.weights import find_onnx
from mien.data.study import find_study
from mien.media.audio import stream_audio
from mien.media.detectors import DetectorName, make_detector
from mien.media.faces import context_picture, crop_square
from mien.media.people import PeopleFinder, automatic_interval
from mien.media.speech import speech_activity
from mien.media.video import probe_video, sample_frames
from mien.runtime.encoders import HogEncoder

T = TypeVar("T")

QUICK_RECORDINGS = 3
SIZE_PX, MARGIN, CONTEXT_PX = 224, 1.6, 160


class Clock:
    """CPU seconds by stage.

    Attributes:
        spent_s: Seconds by name of the stage, in the order in which they first ran.
    """

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    def run(self, stage: str, function: Callable[[], T]) -> T:
        """Run a function and count what it takes to a stage."""
        started = time.process_time()
        result = function()
        self.spent_s[stage] = self.spent_s.get(stage, 0.0) + time.process_time() - started
        return result


def measure(path: Path, *, fps: float, detectors: list[DetectorName], clock: Clock) -> tuple[float, int]:
    """Take one recording through all stages; return its duration (s) and the bytes that a dataset keeps of it."""
    duration_s = probe_video(path).duration_s or 0.0
    clock.run("sha256", lambda: sha256_file(path))
    frames = clock.run(f"decode, {fps:g} frames per second", lambda: list(sample_frames(path, fps=fps)))
    boxes: list[NDArray[np.float32] | None] = []
    for name in detectors:
        finder = PeopleFinder(make_detector(name), detect_every=automatic_interval(fps))

        def follow(finder: PeopleFinder = finder) -> list[NDArray[np.float32] | None]:
            seen = [finder.add(frame.rgb, pts_s=frame.pts_s) for frame in frames]
            finder.finish()
            return [max(faces, key=lambda seen: seen.face.score).face.box_xyxy if faces else None for faces in seen]

        boxes = clock.run(f"faces found and followed, {name}", follow)
    seen = [(frame.rgb, box) for frame, box in zip(frames, boxes, strict=True) if box is not None]
    crops = clock.run(
        "crops and small pictures",
        lambda: [crop_square(rgb, box, margin=MARGIN, size_px=SIZE_PX) for rgb, box in seen],
    )
    small = clock.run(
        "crops and small pictures", lambda: [context_picture(frame.rgb, width_px=CONTEXT_PX) for frame in frames]
    )
    blocks = clock.run("sound", lambda: list(stream_audio(path)))
    sound = np.concatenate([block.samples for block in blocks]) if blocks else np.zeros(0, np.int16)
    if blocks:
        audio = Audio(samples=sound, rate_hz=blocks[0].rate_hz, start_s=blocks[0].start_s)
        clock.run("speech, built-in (optional)", lambda: speech_activity(audio))
    encoder = HogEncoder()
    pictures = np.stack([cv2.resize(crop, (96, 96)) for crop in crops]) if crops else np.zeros((0, 96, 96, 3), np.uint8)
    clock.run("HOG features (models)", lambda: encoder.encode(pictures))
    return duration_s, sum(item.nbytes for item in (*crops, *small)) + sound.nbytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RECORDINGS} recordings only")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    detectors: list[DetectorName] = ["mtcnn", *(["yunet"] if find_onnx("yunet") is not None else [])]  # type: ignore[list-item]
    with tempfile.TemporaryDirectory() as folder:
        study = options.study
        if study is None:
            from mien.demo.study import write_demo_study

            study = write_demo_study(Path(folder) / "study", participants=QUICK_RECORDINGS, duration_s=10.0)
        paths = [recording.path for recording in find_study(study).recordings]
        clock, total_s, total_bytes = Clock(), 0.0, 0
        num_done, wanted = 0, QUICK_RECORDINGS if options.quick else len(paths)
        for path in paths:
            if num_done == wanted:
                break
            try:
                duration_s, num_bytes = measure(path, fps=options.fps, detectors=detectors, clock=clock)
            except MediaError as error:
                print(f"left out: {error}")
                continue
            num_done, total_s, total_bytes = num_done + 1, total_s + duration_s, total_bytes + num_bytes
    print(f"{total_s / 60:.1f} min of video, {options.fps:g} frames per second, one thread")
    print(f"dataset: {total_bytes / total_s * 3600 / 1e6:.0f} MB per hour of video")
    print("CPU seconds per hour of video:")
    for stage, spent_s in clock.spent_s.items():
        print(f"  {stage:42s} {spent_s / total_s * 3600:8.1f}")
    for stage, spent_s in clock.spent_s.items():
        name = stage.split(" (")[0].replace(",", "").replace(" ", "_")
        print(f"{name} {total_s / max(spent_s, 1e-9):.1f}x")


if __name__ == "__main__":
    main()
