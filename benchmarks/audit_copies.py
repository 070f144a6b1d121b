"""How long the search for copies takes: `python benchmarks/audit_copies.py [--quick]`.

100 participants with 1,000 frames each. Included: reading aligned faces from the dataset's cache, sketches, the search,
registration, the check. Not included: decoding, face detection, alignment (about 0.5 ms per frame, once per dataset).
The faces are drawn people (`mien.demo`), moved, rescaled, lit and made noisy from frame to frame; two of the
participants are darker, mirrored copies of others, and the benchmark fails unless exactly those are found.

Two straightforward ways, measured on a part and extrapolated, all frames against all frames of all others and mirrored:
"plain" takes the correlation of 64 x 64 px as one matrix product per block, without registration (so it misses copies
whose landmarks moved); "registered" registers every pair of the same queries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from mien.audit.aligned import SIDE_PX, TEMPLATE, aligned_recording
from mien.audit.copies import MIN_ZNCC, NUM_QUERIES, check_copies
from mien.audit.registration import registered_zncc
from mien.core.storage import write_json
from mien.data.dataset import FORMAT, RECORDING_COLUMNS, Dataset
from mien.data.process import BOX_COLUMNS, FRAME_COLUMNS, LANDMARK_COLUMNS
from mien.demo.drawing import Expression, FacePainter, Person, head_box_xyxy
from mien.runtime.cache import cache_path

NUM_DRAWN = 24
"""Pictures that are drawn of each person; frames are made of them."""

BLOCKS_TIMED = 6


def draw_person(seed: int) -> np.ndarray:
    """Return drawings of one person, cut around the head: (NUM_DRAWN, 96, 96) uint8 grey."""
    person, rng = Person.sample(np.random.default_rng(seed)), np.random.default_rng([seed, 1])
    painter = FacePainter(person, width=192, height=144)
    pictures = []
    for smile, yaw, brow in rng.uniform(0, 1, (NUM_DRAWN, 3)):
        pose = Expression(smile=float(smile), yaw=float(yaw) - 0.5, brow_raise=float(brow))
        x0, y0, x1, y1 = head_box_xyxy(person, Expression(), width=192, height=144)
        grey = cv2.cvtColor(painter.draw(pose), cv2.COLOR_RGB2GRAY)
        side = (y1 - y0) * 1.3
        first = ((x0 + x1) / 2 - side / 2, (y0 + y1) / 2 - side / 2)
        matrix = np.array([[96 / side, 0, -first[0] * 96 / side], [0, 96 / side, -first[1] * 96 / side]])
        pictures.append(cv2.warpAffine(grey, matrix, (96, 96), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(pictures)


def make_frames(drawn: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return frames (count, 64, 64) as alignment by imperfect landmarks would give them."""
    rng = np.random.default_rng(seed)
    frames = np.empty((count, SIDE_PX, SIDE_PX), np.uint8)
    for row in range(count):
        matrix = cv2.getRotationMatrix2D((48, 48), rng.normal(0, 2), 64 / 96 * rng.normal(1, 0.03))
        matrix[:, 2] += rng.normal(0, 1, 2) - 16
        noise = rng.normal(rng.normal(0, 8), 2, (SIDE_PX, SIDE_PX)).astype(np.float32)
        picture = drawn[rng.integers(len(drawn))].astype(np.float32)
        moved = cv2.warpAffine(picture, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REPLICATE)
        frames[row] = np.clip(moved * rng.normal(1, 0.05) + noise, 0, 255)
    return frames


def write_dataset(path: Path, *, participants: int, frames: int) -> list[tuple[str, str]]:
    """Write a dataset whose cache holds aligned faces, and return which participants are copies."""
    names = [f"P{number:04d}" for number in range(participants)]
    config = {"fps": 1.0, "crop": "face", "face": "main", "size_px": SIDE_PX, "margin": 1.6, "detector": "none"}
    study = {"name": "benchmark", "layout": "plain", "label_source": "synthetic", "unit": "frame"}
    recordings = pd.DataFrame({column: [None] * participants for column in RECORDING_COLUMNS})
    recordings = recordings.assign(recording_id=names, participant_id=names, group=names, sha256=names, camera="camera")
    recordings = recordings.assign(num_frames=frames, num_faces=frames)
    path.mkdir(parents=True)
    recordings.to_parquet(path / "recordings.parquet", index=False)
    write_json(path / "dataset.json", {"format": FORMAT, "config": config, "study": study, "attributes": []})
    dataset = Dataset.open(path)
    side = SIDE_PX / 1.6
    values = {"frame": np.arange(frames), "pts_s": np.arange(frames) * 1.0, "face_found": True, "score": 1.0}
    values |= dict(zip(BOX_COLUMNS, (100.0, 100.0, 100 + side, 100 + side), strict=True))
    values |= dict(zip(LANDMARK_COLUMNS, (TEMPLATE + 100 + side / 2 - SIDE_PX / 2).ravel(), strict=True))
    copies = [(names[1], names[participants // 2]), (names[3], names[-1])]
    source = {copy: original for original, copy in copies}
    for name in names:
        folder = path / "recordings" / name
        folder.mkdir(parents=True)
        pd.DataFrame(values)[list(FRAME_COLUMNS)].to_parquet(folder / "frames.parquet", index=False)
        write_json(folder / "recording.json", {"sha256": name, "config_digest": "benchmark"})
        number = names.index(source.get(name, name))
        pictures = make_frames(draw_person(number), frames, seed=number)
        if name in source:
            pictures = (pictures[:, :, ::-1] * 0.6).astype(np.uint8)
        cached = cache_path(dataset, name, kind=f"aligned-{SIDE_PX}")
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.save(cached, pictures)
    return copies


def straightforward_s(dataset: Dataset) -> tuple[float, float]:
    """Return how long the plain and the registered all-against-all would take, s, extrapolated."""
    num_people, total = len(dataset.recordings), int(dataset.recordings["num_frames"].sum())
    others = total * (1 - 1 / num_people)
    block = np.random.default_rng(0).normal(size=(1000, SIDE_PX * SIDE_PX)).astype(np.float32)
    started = time.perf_counter()
    for _ in range(BLOCKS_TIMED):
        (block @ block.T >= MIN_ZNCC).any(axis=1)
    plain_s = (time.perf_counter() - started) / BLOCKS_TIMED / len(block) ** 2
    some = aligned_recording(dataset, str(dataset.recordings["recording_id"].iloc[0])).pixels[:200]
    started = time.perf_counter()
    registered_zncc(some, some[::-1])
    registered_s = (time.perf_counter() - started) / len(some)
    # Each two frames once for the plain way, and once more for the mirror image; every query both ways for the other.
    queries = min(NUM_QUERIES * num_people, total)
    return plain_s * total * others, registered_s * 2 * queries * others


def search(path: Path, *, copies: list[tuple[str, str]]) -> dict[str, float]:
    """Search once and return what it took."""
    import resource

    dataset = Dataset.open(path)
    started = time.perf_counter()
    result = check_copies(dataset, seed=0)
    wall_s = time.perf_counter() - started
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = sorted(result.merged)
    assert found == sorted(tuple(sorted(pair)) for pair in copies), f"found {found}, planted {copies}"
    plain_s, registered_s = straightforward_s(dataset)
    return {"wall_s": wall_s, "peak_rss_gb": peak_gb, "plain_s": plain_s, "registered_s": registered_s}


def main() -> None:
    """Write the dataset, search it in a process of its own, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 participants with 200 frames")
    parser.add_argument("--threads", type=int, default=2, help="for matrix products (OMP_NUM_THREADS)")
    parser.add_argument("--search", nargs=2, metavar=("DATASET", "COPIES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        print(json.dumps(search(Path(options.search[0]), copies=[tuple(p) for p in json.loads(options.search[1])])))
        return
    participants, frames = (20, 200) if options.quick else (100, 1000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset"
        copies = write_dataset(path, participants=participants, frames=frames)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(options.threads))
        command = [sys.executable, __file__, "--search", str(path), json.dumps(copies)]
        output = subprocess.run(command, env=os.environ | threads, check=True, capture_output=True, text=True).stdout
    took = json.loads(output)
    print(f"{participants} participants x {frames} frames, {options.threads} threads, 2 planted copies found, no other")
    print(f"wall {took['wall_s']:.1f} s, peak memory {took['peak_rss_gb']:.2f} GB")
    for way in ("plain", "registered"):
        total_s = took[f"{way}_s"]
        print(f"straightforward, {way} (extrapolated): {total_s:.0f} s, ratio {total_s / took['wall_s']:.1f}")


if __name__ == "__main__":
    main()
