"""Damaged files never crash, hang or surprise: `python -m tests.fuzz_media` reads more of them."""

import numpy as np
import pytest

import fuzz_media
from fuzz_media import fuzz, mutated, write_mutated, write_seeds


@pytest.mark.slow
def test_mutated_files_give_frames_or_an_error_with_advice(tmp_path):
    outcome = fuzz(range(150), folder=tmp_path)
    assert outcome.failures == {}
    # Both happen, so mutations are neither harmless nor total.
    assert outcome.num_frames > 30 and outcome.num_errors > 5 and outcome.num_frames + outcome.num_errors == 150


def test_a_number_always_gives_the_same_file(tmp_path):
    seeds = write_seeds(tmp_path)
    assert len(seeds) == 6
    first = write_mutated(seeds, 13, folder=tmp_path).read_bytes()
    assert first == write_mutated(seeds, 13, folder=tmp_path).read_bytes() != seeds[13 % 6].read_bytes()
    data = seeds[0].read_bytes()
    assert len({mutated(data, rng=np.random.default_rng(n)) for n in range(20)}) == 20


def test_crashes_hangs_and_exceptions_are_told(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, time\n"
        "for line in sys.stdin:\n"
        "    n = int(line)\n"
        "    if n == 1: os.abort()\n"
        "    if n == 2: time.sleep(60)\n"
        "    print(n, 'exception X' if n == 3 else 'frames', flush=True)\n"
    )
    monkeypatch.setattr(fuzz_media, "__file__", str(script))
    monkeypatch.setattr(fuzz_media, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(fuzz_media, "write_seeds", lambda _: [])
    outcome = fuzz(range(5), folder=tmp_path)
    assert outcome.num_frames == 2 and sorted(outcome.failures) == [1, 2, 3]
    assert "crash" in outcome.failures[1] and "hang" in outcome.failures[2] and "X" in outcome.failures[3]
