"""The benchmarks of training run, and both ways that they compare end in the same place."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.models.pretrained import write_random_backbone

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load_benchmark(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_gpu_benchmark_on_tiny_shapes():
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--device", "cpu"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    name, ratio = lines[-1].split()
    assert name == "peak_share_vit_pretrained"
    assert 0 < float(ratio.removesuffix("x")) < 1
    assert any("pictures/s" in line for line in lines)


@pytest.mark.slow
def test_both_ways_of_training_give_the_same_scores(tmp_path, monkeypatch, capsys):
    benchmark = load_benchmark("training")
    monkeypatch.setattr(
        benchmark,
        "write_random_backbone",
        lambda folder, *, architecture: write_random_backbone(folder, architecture=architecture, tiny=True),
    )
    monkeypatch.setattr(benchmark, "FOLDS", 2)
    monkeypatch.setattr(benchmark, "EPOCHS", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = benchmark.make_workload(tmp_path, pictures=20, size_px=32)
        assert work.clips.table["target"].mean() == 0.5
        for name, mode in (("vit_pretrained", "last:2"), ("resnet50_pretrained", "head"), ("vit_scratch", "scratch")):
            mine, _ = benchmark.ours(work, name, mode, epochs=2)
            its = benchmark.plain(work, name, mode)
            differ = max(np.abs(a - b).max() for a, b in zip(mine.logits, its.logits, strict=True))
            assert differ < 1e-4, (name, mode)
            assert mine.difference <= 1e-5
            assert benchmark.score(work, mine) == benchmark.score(work, its)
        assert benchmark.ours_extrapolated(work, "vit_pretrained", "all").total_s > 0
        assert benchmark.plain_extrapolated(work, "vit_pretrained", "all").total_s > 0
        benchmark.step_settings(work, ["improved_cnn"])
    finally:
        torch.set_num_threads(before)
    assert "waiting for pictures, improved_cnn" in capsys.readouterr().out
