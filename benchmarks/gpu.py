"""How well a device is used: `python benchmarks/gpu.py [--device cuda|cpu] [--batch N] [--compile] [--quick]`.

Fine-tuning of ViT-B/16 (`vit_pretrained`, random weights, 224 px) in bf16 as training does it: forward and backward
pass under autocast, float32 weights, gradients clipped at norm 1, AdamW. Printed are seconds per step, pictures per
second, the operations per second that a step needs (forward as `FlopCounterMode` counts it, backward twice that; a
multiply-add is two operations), and their share of what the device reaches with one large matrix product in bf16,
which is measured here and isn't the maker's figure.

`--quick`: a transformer of some thousand parameters at 32 px and small matrices, for any device; its share says
nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mien.models.backbones import random_encoder
from mien.models.classifier import Classifier
from mien.models.pretrained import make_head
from mien.training.config import TrainConfig
from mien.training.rates import parameter_groups

MATMUL_SIDE, QUICK_SIDE = 8192, 256
WARM_UP = 3
STEPS, QUICK_STEPS = 20, 3
# Batch sizes that are tried from the largest on: the first that fits is measured.
BATCHES = (256, 128, 64, 24)


@dataclass(frozen=True)
class Work:
    """What is trained: a network, its picture size (px) and how many pictures are in a batch."""

    network: Classifier
    size_px: int
    batch: int


def make_network(*, quick: bool, device: torch.device) -> tuple[Classifier, int]:
    """Return a vision transformer with its head, and its picture size, px."""
    torch.manual_seed(0)
    encoder = random_encoder("vit_base", tiny=quick)
    head = make_head(encoder.feature_dim, width=256, num_outputs=1)
    return Classifier(encoder, head).to(device), 32 if quick else 224


def seconds_of(call: Callable[[], object], *, repeats: int, device: torch.device) -> list[float]:
    """Return how long each of several calls took, after some that warm up."""
    durations = []
    for number in range(WARM_UP + repeats):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        if number >= WARM_UP:
            durations.append(time.perf_counter() - started)
    return durations


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(*, side: int, repeats: int, device: torch.device) -> float:
    """Return the operations per second of the fastest of several products of two bf16 matrices."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: left @ right, repeats=repeats, device=device))


def operations_per_picture(network: Classifier, *, size_px: int) -> int:
    """Return the operations of a training step per picture: a forward pass, and twice as many backwards."""
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, 3, size_px, size_px, device=device))
    return 3 * int(counter.get_total_flops())


def step_seconds(work: Work, *, repeats: int, compiled: bool, device: torch.device) -> list[float]:
    """Return the seconds of several training steps."""
    config = TrainConfig()
    groups = parameter_groups(work.network, encoder_lr=config.backbone_lr, head_lr=config.head_lr, config=config)
    optimizer = torch.optim.AdamW(groups, fused=True)
    work.network.train()
    network: Callable[[Tensor], Tensor] = torch.compile(work.network) if compiled else work.network
    pixels = torch.randint(0, 256, (work.batch, 3, work.size_px, work.size_px), dtype=torch.uint8, device=device)
    targets = (torch.arange(work.batch, device=device) % 2).float()

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = network(work.network.normalise(pixels))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(work.network.parameters(), config.clip_norm)
        optimizer.step()

    return seconds_of(step, repeats=repeats, device=device)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="pictures per step (default: the largest of 256, 128, 64, 24)")
    parser.add_argument("--compile", action="store_true", help="measure compiled steps")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, for any device")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; give --device cpu")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    repeats = QUICK_STEPS if options.quick else STEPS
    peak = matmul_peak(side=QUICK_SIDE if options.quick else MATMUL_SIDE, repeats=repeats, device=device)
    network, size_px = make_network(quick=options.quick, device=device)
    operations = operations_per_picture(network, size_px=size_px)
    for batch in (options.batch,) if options.batch else (8,) if options.quick else BATCHES:
        try:
            work = Work(network, size_px, batch)
            seconds = statistics.median(step_seconds(work, repeats=repeats, compiled=options.compile, device=device))
            break
        except torch.OutOfMemoryError:
            print(f"batches of {batch} don't fit into memory", flush=True)
            torch.cuda.empty_cache()
    else:
        raise SystemExit("No batch fits into memory; give a smaller --batch.")
    reached = operations * batch / seconds
    what = "tiny transformer" if options.quick else "ViT-B/16"
    print(f"{name}, torch {torch.__version__}, {what} at {size_px} px in bf16{', compiled' if options.compile else ''}")
    print(f"matrix product peak: {peak / 1e12:.4g} Tflop/s (bf16, measured)")
    print(f"step: {seconds * 1e3:.2f} ms with {batch} pictures, {batch / seconds:.1f} pictures/s")
    print(f"reached: {reached / 1e12:.4g} Tflop/s, {operations / 1e9:.4g} Gflop per picture")
    print(f"peak_share_vit_pretrained {reached / peak:.3f}x")


if __name__ == "__main__":
    main()
