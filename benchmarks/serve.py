"""The service under load from another process: clients that send the same video again and again, over loopback.

    python benchmarks/serve.py BUNDLE VIDEO [--clients 32] [--uploads 20] [--quick]

Prints how many uploads were answered, lost, or had to come again (503), the time from sending to the result (median,
95th percentile), and the memory of the service and its workers after a tenth, half and all of the uploads.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

PATIENCE_S = 900.0


def main() -> None:
    """Run the load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--uploads", type=int, default=20, help="uploads per client")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="8 clients, 3 uploads each")
    given = parser.parse_args()
    clients, uploads = (8, 3) if given.quick else (given.clients, given.uploads)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(given.bundle, Path(folder), workers=given.workers)
        load = Load(service, given.video.read_bytes(), total=clients * uploads)
        started = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda _: load.client(uploads), range(clients)))
        seconds = time.perf_counter() - started
        service.stop()
        left = list(Path(folder).glob("mien-serve-*"))
    load.tell(seconds=seconds, left=len(left))


class Service:
    """`mien serve` in a process of its own."""

    def __init__(self, bundle: Path, folder: Path, *, workers: int) -> None:
        self.log = folder / "log"
        command = [Path(sys.executable).with_name("mien"), "serve", bundle, "--port", "0", "--workers", str(workers)]
        environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(list(map(str, command)), stderr=self.log.open("w"), env=environment)
        while not (found := re.search(r"Page: (http://\S+)/", self.log.read_text())):
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.05)
        self.url = found[1]

    def memory_mb(self) -> float:
        """Return the memory that the service and its children hold for themselves."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        total = 0
        for number in [str(self.process.pid), *children]:
            found = re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{number}/status").read_text(), flags=re.MULTILINE)
            total += int(found[1]) if found else 0
        return total / 1024

    def stop(self) -> None:
        """End it as a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Load:
    """What the clients do together, and what they saw."""

    def __init__(self, service: Service, video: bytes, *, total: int) -> None:
        self.service, self.video, self.total = service, video, total
        self.seconds: list[float] = []
        self.answers: Counter[str] = Counter()
        self.memory: dict[int, float] = {}
        self.lock = threading.Lock()

    def client(self, uploads: int) -> None:
        """Send videos one after the other, each when the last one is predicted."""
        with httpx.Client(base_url=self.service.url, timeout=120) as http:
            for _ in range(uploads):
                started = time.perf_counter()
                state = self._one(http)
                with self.lock:
                    self.answers[state] += 1
                    self.seconds.append(time.perf_counter() - started)
                    done = len(self.seconds)
                    if done in (self.total // 10, self.total // 2, self.total):
                        self.memory[done] = self.service.memory_mb()

    def _one(self, http: httpx.Client) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            sent = http.post("/v1/jobs", files={"video": ("load.mp4", self.video)})
            if sent.status_code == 202:
                break
            with self.lock:
                self.answers[f"came again after {sent.status_code}"] += 1
            time.sleep(float(sent.headers.get("Retry-After", "1")))
        job = sent.json()["job_id"]
        while time.monotonic() < deadline:
            state = str(http.get(f"/v1/jobs/{job}").json()["state"])
            if state in ("done", "failed", "cancelled"):
                rows = http.get(f"/v1/jobs/{job}/timeline").json().get("rows") if state == "done" else None
                http.delete(f"/v1/jobs/{job}")
                return state if rows else f"{state} without a timeline"
            time.sleep(0.1)
        return "lost"

    def tell(self, *, seconds: float, left: int) -> None:
        """Print it."""
        ordered = sorted(self.seconds)
        print(f"uploads {self.total} in {seconds:.0f} s: " + ", ".join(f"{k} {v}" for k, v in self.answers.items()))
        print(f"sending to result: median {statistics.median(ordered):.2f} s, "
              f"p95 {ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]:.2f} s")  # fmt: skip
        for done, megabytes in sorted(self.memory.items()):
            print(f"memory after {done} uploads: {megabytes:.0f} MB")
        print(f"folders left behind: {left}")
        first, last = min(self.memory), max(self.memory)
        print(f"serve_memory {self.memory[last] / self.memory[first]:.2f}x")


if __name__ == "__main__":
    main()
