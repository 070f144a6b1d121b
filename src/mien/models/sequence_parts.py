"""What the sequence networks are made of: encoders of frames, sound and signals, and how they are named and built.

A sequence network is the head of a model: it is given windows (`mien.runtime.windows`) of the features that a frozen
encoder made, of the sound and of the signals, and gives the logits of the frame in the middle. Recordings are few and
their frames alike, so everything here is narrow and drops out much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's own documentation uses)
from torch import Tensor, nn

from mien.models.classifier import ModelEntry
from mien.runtime.sound import NUM_MELS
from mien.runtime.windows import INPUTS, WindowSpec

Fusion = Literal["concat", "cross_attention", "gated"]

WIDTH = 128
NUM_HEADS = 8
NUM_LAYERS = 2
MLP_RATIO = 2
DROPOUT = 0.3
NUM_TOKENS = 8
"""Tokens that the sound, and the signals, of a window are summed up in: what a frame can attend to."""


@dataclass(frozen=True)
class HeadShape:
    """What a sequence network is built for.

    Attributes:
        num_outputs: Number of logits.
        feature_dim: D, features per frame.
        sequence_length: T, frames per window.
        num_signals: S, channels.
        fusion: How modalities are joined, for a network that has several.
        recording_frames: K, frames of the whole recording behind those of the window.
        is_read: Whether the features are the few answers of a probe.
        sound_dim: M, bands of the spectrogram, or features of an encoder of sound in their place.
    """

    num_outputs: int
    feature_dim: int
    sequence_length: int
    num_signals: int
    fusion: Fusion = "cross_attention"
    recording_frames: int = 0
    is_read: bool = False
    sound_dim: int = NUM_MELS

    @staticmethod
    def of(spec: WindowSpec, *, num_outputs: int, fusion: Fusion, is_read: bool = False) -> HeadShape:
        """Return the shape of a network over windows that are cut so."""
        return HeadShape(
            num_outputs,
            feature_dim=spec.feature_dim,
            sequence_length=spec.sequence_length,
            num_signals=len(spec.signal_names),
            fusion=fusion,
            recording_frames=spec.recording_frames,
            sound_dim=spec.sound_dim,
            is_read=is_read,
        )


class SequenceNetwork(nn.Module):
    """Windows to logits.

    Attributes:
        input_names: What `forward` takes, in this order; see `mien.runtime.windows`.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.input_names = tuple(name for modality in modalities for name in INPUTS[modality])

    def output_layers(self) -> list[nn.Linear]:
        """Return the linear layers whose sum the logits are: the last one, unless a network has another way to them."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)][-1:]

    def set_front(self, *, weight: Tensor, bias: Tensor) -> None:
        """Take the probe (C, D) and (C,) whose answers the network was trained on: it is given features from now on."""
        for module in self.modules():
            if isinstance(module, Front):
                module.weight, module.bias = weight, bias

    def set_feature_statistics(self, *, mean: Tensor, scale: Tensor) -> None:
        """Take mean and scale (D,) of the training participants' features; a network without frames ignores them."""
        for module in self.modules():
            if isinstance(module, Standardise):
                module.mean.copy_(mean)
                module.scale.copy_(scale)


@dataclass(frozen=True)
class SequenceEntry(ModelEntry):
    """The registry's line of a sequence network.

    Attributes:
        build_head: Makes the network.
        context_s: Seconds of sound and signals around a frame, unless the settings say otherwise.
        recording_frames: Frames of the whole recording beside the window, unless the settings say otherwise.
    """

    build_head: Callable[[HeadShape], SequenceNetwork] | None = None
    context_s: float = 2.0
    recording_frames: int = 0

    @property
    def needs_encoder(self) -> bool:
        """Whether it looks at frames, so that it takes `@BACKBONE` and a personal baseline."""
        return "video" in self.modalities


def sequence_entry(
    name: str,
    *,
    summary: str,
    modalities: tuple[str, ...],
    build_head: Callable[[HeadShape], SequenceNetwork],
    context_s: float = 2.0,
    recording_frames: int = 0,
) -> SequenceEntry:
    """Return the `ENTRY` of a sequence network."""
    return SequenceEntry(
        name=name,
        summary=summary,
        modalities=modalities,
        batch_size=64,
        pretrained=False,
        image_size=224,
        scratch_lr=None,
        build=None,
        build_head=build_head,
        context_s=context_s,
        recording_frames=recording_frames,
    )


def example_inputs(spec: WindowSpec, *, num: int) -> dict[str, Tensor]:
    """Return inputs of the shapes that a spec asks for: zeros, with everything known."""
    shapes: dict[str, tuple[int, ...]] = {
        "features": (spec.num_frames, spec.feature_dim),
        "frame_mask": (spec.num_frames,),
        "audio": (spec.sound_dim, spec.num_sound_steps),
        "audio_mask": (1,),
        "signals": (len(spec.signal_names), spec.num_signal_steps),
        "signals_mask": (len(spec.signal_names),),
    }
    make = {True: torch.ones, False: torch.zeros}
    return {name: make[name.endswith("mask")](num, *shapes[name]) for name in spec.input_names}


class Standardise(nn.Module):
    """(features - mean) / scale per feature, with numbers of the training participants; the mask's zeros stay zeros."""

    mean: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return (N, T, D) for features (N, T, D) and mask (N, T)."""
        return (features - self.mean) / self.scale * mask[:, :, None]


class Front(nn.Module):
    """A probe's answers in place of features, where the network was trained on those; else nothing."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", None)
        self.register_buffer("bias", None)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return (N, T, C) for features (N, T, D) and mask (N, T); the mask's zeros stay zeros."""
        if self.weight is None or self.bias is None:
            return features
        return F.linear(features, self.weight, self.bias) * mask[:, :, None]


class Attention(nn.Module):
    """Multi-head attention of tokens to others, of which some are masked out (Vaswani et al. 2017).

    A learned token that says "nothing there" is always among the keys, so that attention is defined where everything
    is masked.
    """

    def __init__(self, width: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.nothing = nn.Parameter(torch.zeros(1, 1, width))
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.nothing, std=0.02)

    def forward(self, tokens: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """Return (N, T, width) for tokens (N, T, width), others (N, K, width) and what is known of them (N, K)."""
        num, length, width = tokens.shape
        keys = torch.cat((self.nothing.expand(num, -1, -1), others), dim=1)
        known = torch.cat((torch.ones_like(mask[:, :1]), mask), dim=1)
        bias = ((known - 1.0) * 1e4)[:, None, None, :]
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(keys).chunk(2, dim=2))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.dropout(self.project(mixed.transpose(1, 2).reshape(num, length, width)))
        return projected

    def _split(self, tokens: Tensor) -> Tensor:
        num, length, width = tokens.shape
        return tokens.reshape(num, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class Layer(nn.Module):
    """Pre-norm transformer layer over tokens, of which some are masked out."""

    def __init__(self, width: int, *, num_heads: int = NUM_HEADS, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads=num_heads, dropout=dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(MLP_RATIO * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Transform tokens (N, T, width) with mask (N, T) to the same shape."""
        normed = self.norm_attention(tokens)
        tokens = tokens + self.attention(normed, normed, mask)
        mixed: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return mixed


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (N, C) of the known ones of tokens (N, T, C); 0 where none is.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1.0, 1.0, 0.0]])).tolist()
    [[2.0]]
    """
    total = (tokens * mask[:, :, None]).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1.0)


class PositionPool(nn.Module):
    """A weighted mean over positions, the weights learned for every channel; it starts around the middle."""

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__()
        places = torch.arange(num_positions, dtype=torch.float32)
        bell = -0.5 * ((places - (num_positions - 1) / 2) / max(1.0, num_positions / 4)) ** 2
        self.scores = nn.Parameter(bell[:, None].repeat(1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (N, width) for tokens (N, K, width)."""
        pooled: Tensor = (tokens * self.scores.softmax(dim=0)).sum(dim=1)
        return pooled


class CausalBlock(nn.Module):
    """One layer of WaveNet (van den Oord et al. 2016): dilated causal convolution, gate, residual and skip."""

    def __init__(self, channels: int, *, skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.filter_gate = nn.Conv1d(channels, 2 * channels, kernel_size=2, dilation=dilation)
        self.residual_skip = nn.Conv1d(channels, channels + skip, kernel_size=1)
        self.channels = channels

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Return what goes on (N, channels, L) and what goes out (N, skip, L)."""
        signal, gate = self.filter_gate(F.pad(sound, (self.dilation, 0))).chunk(2, dim=1)
        both = self.residual_skip(torch.tanh(signal) * torch.sigmoid(gate))
        return sound + both[:, : self.channels], both[:, self.channels :]


class WaveNet(nn.Module):
    """WaveNet as an encoder of log-mel windows: causal convolutions of doubling dilation, summed skips.

    The first convolution halves the steps to 40 ms; five layers then see 32 of them back (1.28 s), so that the last
    columns of a window know most of it.
    """

    def __init__(self, *, given: int = NUM_MELS, width: int = WIDTH, channels: int = 32, num_layers: int = 5) -> None:
        super().__init__()
        # Features of an encoder have scales of their own; the spectrogram has one already.
        self.scale = nn.Identity() if given == NUM_MELS else nn.BatchNorm1d(given, affine=False)
        self.first = nn.Conv1d(given, channels, kernel_size=2, stride=2)
        self.blocks = nn.ModuleList(
            CausalBlock(channels, skip=width // 2, dilation=2**number) for number in range(num_layers)
        )
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(width // 2, width, kernel_size=1), nn.ReLU())
        self.dropout = nn.Dropout1d(DROPOUT / 2)

    def forward(self, audio: Tensor, mask: Tensor) -> Tensor:
        """Return tokens (N, NUM_TOKENS, width) of log-mel windows (N, M, L) with mask (N, 1); 0 where it is 0."""
        audio = self.scale(audio)
        # An odd number of steps is filled up, so that none is lost.
        going: Tensor = self.first(F.pad(self.dropout(audio), (0, audio.shape[2] % 2)))
        total: Tensor | None = None
        for block in self.blocks:
            going, skipped = block(going)
            total = skipped if total is None else total + skipped
        tokens = average_steps(self.last(total), NUM_TOKENS).transpose(1, 2)
        return tokens * mask[:, :, None]


class SignalEncoder(nn.Module):
    """Channels of sensors to tokens: each channel's window beside its mask, two convolutions, averaged over time."""

    def __init__(self, num_signals: int, *, width: int = WIDTH) -> None:
        super().__init__()
        self.dropout = nn.Dropout1d(DROPOUT)
        self.convolve = nn.Sequential(
            nn.Conv1d(2 * num_signals, width // 2, kernel_size=5, padding=2),
            nn.GELU(),
            nn.Conv1d(width // 2, width, kernel_size=5, padding=2),
            nn.GELU(),
        )

    def forward(self, signals: Tensor, mask: Tensor) -> Tensor:
        """Return tokens (N, NUM_TOKENS, width) of signals (N, S, L2) with mask (N, S)."""
        known = mask[:, :, None].expand(-1, -1, signals.shape[2])
        given = torch.cat((self.dropout(signals * mask[:, :, None]), known), dim=1)
        return average_steps(self.convolve(given), NUM_TOKENS).transpose(1, 2)


def average_steps(maps: Tensor, num: int) -> Tensor:
    """Average (N, C, L) into `num` equal stretches (N, C, num), as a product with constants: ONNX has no other way.

    >>> average_steps(torch.tensor([[[1.0, 3.0, 5.0, 7.0]]]), 2).tolist()
    [[[2.0, 6.0]]]
    """
    length = maps.shape[2]
    edges = torch.linspace(0, length, num + 1, device=maps.device)
    places = torch.arange(length, device=maps.device)
    # A step counts for a stretch as far as it lies in it.
    upper = torch.minimum(edges[None, 1:], places[:, None] + 1.0)
    lower = torch.maximum(edges[None, :-1], places[:, None].to(edges.dtype))
    shares = (upper - lower).clamp(min=0.0)
    return maps @ (shares / shares.sum(dim=0))


class Classify(nn.Module):
    """The last two layers: (N, given) to logits (N, num_outputs).

    What goes straight to the last layer, past the first, comes beside: (N, beside).
    """

    def __init__(self, given: int, *, num_outputs: int, beside: int = 0, width: int = WIDTH) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(given),
            nn.Dropout(DROPOUT),
            nn.Linear(given, width),
            nn.GELU(),
            nn.Dropout(DROPOUT),
        )
        self.last = nn.Linear(width + beside, num_outputs)
        nn.init.zeros_(self.last.weight[:, width:])

    def forward(self, pooled: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return logits."""
        hidden = self.layers(pooled)
        logits: Tensor = self.last(hidden if beside is None else torch.cat((hidden, beside), dim=1))
        return logits
