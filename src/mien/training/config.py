"""Settings of the networks' training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mien.core.errors import UserError

Precision = Literal["auto", "32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. Pretrained networks have two phases, networks from scratch one.

    Attributes:
        image_size: Side of the pictures, px.
        crop: Side of what the network looks at, as a multiple of the face box.
        head_epochs: At most so many epochs of phase 1, the head on the frozen backbone; 0 leaves phase 1 out.
        epochs: At most so many epochs of phase 2, or of the one phase of a network from scratch.
        batch_size: Pictures per batch; None for the model's own. It halves by itself when memory runs out.
        accumulate: At most so many batches per optimiser step; fewer where an epoch would have under 64 steps.
        scratch_lr: Learning rate of a network from scratch; None for the model's own.
        head_lr_phase1: Learning rate of the head in phase 1.
        backbone_lr: Learning rate of the backbone in phase 2.
        head_lr: Learning rate of the head in phase 2.
        dropout: Factor on the network's own dropout rates, 0 for none; None for the model's own factor.
        weight_decay: AdamW's weight decay; biases, norms, positions and class tokens have none.
        restart_epochs: Epochs to the first warm restart of the cosine schedule (T_0).
        restart_factor: Factor by which the time to the next restart grows (T_mult).
        min_lr: Learning rate at the bottom of the cosine (eta_min).
        clip_norm: Gradients are clipped at this norm; 0 for no clipping.
        patience: A phase stops after so many epochs without improvement of the validation loss.
        min_delta: What counts as an improvement.
        phase1: `cached` computes the backbone's features once per picture and view, and stores them; `augmented` runs
            the backbone in every epoch, on pictures augmented anew.
        unfreeze: What phase 2 trains of a pretrained backbone. `all`; `gradual` opens it from its last quarter to its
            first, a quarter per epoch; `last:K` trains the last K blocks (transformer layers, residual blocks) from
            stored activations; `head` leaves phase 2 out.
        views: Where the backbone's frozen part is computed once (`phase1: cached`, `last:K`): so many augmented views
            of each training picture are stored and seen in turn; 0 shows the pictures as they are.
        activations_gb: What the frozen part computed is stored in the dataset's cache as long as all of that takes at
            most so many GB; beyond, it is computed in every epoch.
        layer_decay: Each stage of a pretrained backbone has this times the learning rate of the stage above it; the
            last one has `backbone_lr`. 1 for the same rate everywhere.
        sampling: `frames` shows every labelled frame once per epoch; `participants` shows as many in all, of each
            participant the same number.
        mixup: Alpha of the beta distribution from which mixtures of pairs of training examples are drawn; 0 for none.
            Without a personal baseline pictures are mixed, with one features after its subtraction.
        augment: Whether training pictures are varied; validation and test pictures never are.
        brightness: Strength: brightness is multiplied by a factor in 1 - b .. 1 + b.
        contrast: Strength: contrast likewise, around the picture's mean grey.
        hue: Strength: colours are rotated by at most this fraction of the full circle, either way.
        flip: Probability that a picture is mirrored.
        frames_per_recording: With the personal baseline: frames of one recording in a batch.
        precision: `auto` is bf16 where the hardware computes in it (GPU, AVX512-BF16, AMX), else float32.
        channels_last: Memory layout of pictures and weights; faster for convolutions.
        compile: Whether training steps are compiled (needs a C++ compiler, and pays off in long trainings only).
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        num_workers: Processes that load pictures; 0 loads in the training process.
        devices: GPUs that share each batch; where there is none, processes on the CPU. The result is that of one.
    """

    image_size: int = 224
    crop: float = 1.15
    head_epochs: int = 20
    epochs: int = 20
    batch_size: int | None = None
    accumulate: int = 2
    scratch_lr: float | None = None
    head_lr_phase1: float = 1e-3
    backbone_lr: float = 1e-5
    head_lr: float = 1e-4
    dropout: float | None = None
    weight_decay: float = 0.01
    restart_epochs: int = 10
    restart_factor: int = 2
    min_lr: float = 1e-6
    clip_norm: float = 1.0
    patience: int = 7
    min_delta: float = 0.001
    phase1: Literal["cached", "augmented"] = "cached"
    unfreeze: str = "all"
    views: int = 0
    activations_gb: float = 10.0
    layer_decay: float = 1.0
    sampling: Literal["frames", "participants"] = "frames"
    mixup: float = 0.0
    augment: bool = True
    brightness: float = 0.2
    contrast: float = 0.2
    hue: float = 0.03
    flip: float = 0.5
    frames_per_recording: int = 8
    precision: Precision = "auto"
    channels_last: bool = True
    compile: bool = False
    gradient_checkpointing: bool = False
    num_workers: int = 0
    devices: int = 1

    def __post_init__(self) -> None:
        at_least_1 = ("image_size", "epochs", "accumulate", "restart_epochs", "restart_factor", "patience", "devices")
        for name in (*at_least_1, "frames_per_recording"):
            _check(name, getattr(self, name), low=1)
        if self.batch_size is not None:
            _check("batch_size", self.batch_size, low=1)
        not_negative = ("head_epochs", "weight_decay", "min_lr", "clip_norm", "min_delta", "num_workers")
        for name in (*not_negative, "views", "activations_gb"):
            _check(name, getattr(self, name), low=0)
        for name in ("brightness", "contrast", "flip"):
            _check(name, getattr(self, name), low=0, high=1)
        _check("hue", self.hue, low=0, high=0.5)
        _check("layer_decay", self.layer_decay, low=0.01, high=1)
        _check("mixup", self.mixup, low=0)
        for name in ("crop", "head_lr_phase1", "backbone_lr", "head_lr"):
            _check(name, getattr(self, name), low=1e-9)
        if self.dropout is not None:
            _check("dropout", self.dropout, low=0, high=1)
        if self.scratch_lr is not None:
            _check("scratch_lr", self.scratch_lr, low=1e-9)
        if not re.fullmatch(r"all|gradual|head|last:[1-9]\d*", self.unfreeze):
            raise UserError(
                f"Training setting unfreeze must be 'all', 'gradual', 'head' or 'last:K' with K blocks, such as "
                f"'last:2'; got {self.unfreeze!r}."
            )
        if self.unfreeze == "head" and self.head_epochs == 0:
            raise UserError("unfreeze: head trains the head in phase 1 only, and head_epochs is 0; set it to 20.")

    @property
    def num_open(self) -> int | None:
        """The last blocks that phase 2 trains: 0 for none, None for the whole backbone."""
        if self.unfreeze.startswith("last:"):
            return int(self.unfreeze.removeprefix("last:"))
        return 0 if self.unfreeze == "head" else None


def _check(name: str, value: float, *, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        raise UserError(f"Training setting {name} must be {allowed}, got {value!r}.")


def resolve_precision(precision: Precision, *, device: Literal["cpu", "cuda"]) -> Literal["32", "bf16"]:
    """Decide `auto`: bf16 only where the hardware computes in it; elsewhere it is emulated, and 5 times slower."""
    if precision != "auto":
        return precision
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if _cpu_has_bf16(Path("/proc/cpuinfo")) else "32"


def _cpu_has_bf16(cpuinfo: Path) -> bool:
    if not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16"})
