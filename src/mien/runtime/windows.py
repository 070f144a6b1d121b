"""What a sequence network is given of one moment: the frames, the sound and the signals around it, on one clock.

Fitting, the check of a bundle and prediction cut their windows here, so what is evaluated is what is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.types import Audio
from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.signals_view import VIEW_HZ, SignalView, view_signals
from mien.runtime.sound import HOP_S, NUM_MELS, RATE_HZ, LogMel, log_mel

VIDEO, AUDIO, SIGNALS = "video", "audio", "signals"
INPUTS = {
    VIDEO: ("features", "frame_mask"),
    AUDIO: ("audio", "audio_mask"),
    SIGNALS: ("signals", "signals_mask"),
}
"""Inputs of a head by modality; a head has those of its modalities, in this order."""

MIN_KNOWN_SHARE = 0.25
"""A channel (or the sound) of which less of a window is known counts as missing there; of the first and the last frame
of a recording only half a window is."""

SLACK = 1.5
"""A frame may be so many times as far away as its number says: recorders jitter, and lose a frame here and there."""

Inputs = dict[str, NDArray[np.float32]]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class WindowSpec:
    """How windows are cut.

    Attributes:
        modalities: Of `video`, `audio`, `signals`, in this order.
        sequence_length: T, sampled frames, the one in question in the middle (of an even number just behind it).
        context_s: Seconds of sound and of signals around the frame's time.
        feature_dim: D, features per frame; 0 without video.
        signal_names: The channels; empty without signals.
        audio_rate_hz: At which `prepare` kept the sound: prediction reads it so, too.
        signals_hz: Values per second at which it kept signals.
    """

    modalities: tuple[str, ...]
    sequence_length: int
    context_s: float
    feature_dim: int = 0
    signal_names: tuple[str, ...] = ()
    audio_rate_hz: int = RATE_HZ
    signals_hz: float = 32.0

    @property
    def num_sound_steps(self) -> int:
        """L, steps of the spectrogram in a window."""
        return max(1, round(self.context_s / HOP_S))

    @property
    def num_signal_steps(self) -> int:
        """L2, values of each channel in a window."""
        return max(1, round(self.context_s * VIEW_HZ))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the head."""
        return tuple(name for modality in self.modalities for name in INPUTS[modality])

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> WindowSpec:
        """Return the spec that `to_json` wrote."""
        lists = {name: tuple(values[name]) for name in ("modalities", "signal_names")}
        return WindowSpec(**{**values, **lists})


@dataclass(frozen=True)
class RecordingView:
    """All of one recording that windows are cut from.

    Attributes:
        pts_s: (F,) times of the sampled frames, s, increasing.
        features: (F, D) float32, the personal baseline subtracted, NaN where there is no face; None without video.
        sound: The spectrogram; None where there is no sound.
        signals: The channels; None where there are none.
    """

    pts_s: NDArray[np.float64]
    features: NDArray[np.float32] | None
    sound: LogMel | None
    signals: SignalView | None


def view_recording(
    spec: WindowSpec,
    *,
    pts_s: NDArray[np.floating],
    features: NDArray[np.floating] | None,
    baseline: PersonalBaseline,
    reference: NDArray[np.bool_] | None = None,
    audio: Audio | None = None,
    signals: SignalTable | None = None,
) -> RecordingView:
    """Make a recording ready for its windows; what the model doesn't look at is left out.

    Args:
        spec: How windows are cut.
        pts_s: (F,) times of the sampled frames, s.
        features: (F, D) before the personal baseline; NaN where there is no face.
        baseline: What is subtracted from them.
        reference: (F,) which frames are in the baseline's segment, where it names one.
        audio: The whole sound.
        signals: The sensors' channels.
    """
    personal = None
    if VIDEO in spec.modalities and features is not None and np.isfinite(features).any():
        personal = baseline.subtract(features, pts_s=pts_s, reference=reference).astype(np.float32)
    sound = log_mel(audio) if AUDIO in spec.modalities and audio is not None else None
    wanted = SIGNALS in spec.modalities and signals is not None
    view = view_signals(signals, names=spec.signal_names) if wanted and signals is not None else None
    return RecordingView(np.asarray(pts_s, np.float64), personal, sound, view)


def cut_windows(view: RecordingView, rows: Rows, *, spec: WindowSpec) -> Inputs:
    """Return the inputs of a head for some frames of one recording.

    Args:
        view: The recording.
        rows: (N,) numbers of sampled frames.
        spec: How windows are cut.

    Returns:
        The inputs of the spec's modalities, all float32; unknown values are 0, and masks say what is known (1):
        features (N, T, D), frame_mask (N, T), audio (N, M, L), audio_mask (N, 1), signals (N, S, L2), signals_mask
        (N, S).
    """
    rows = np.asarray(rows, np.int64)
    inputs: Inputs = {}
    if VIDEO in spec.modalities:
        inputs["features"], inputs["frame_mask"] = _frames(view, rows, spec=spec)
    centres_s = view.pts_s[rows]
    if AUDIO in spec.modalities:
        values = None if view.sound is None else view.sound.values
        start_s = 0.0 if view.sound is None else view.sound.start_s
        windows = _cut(values, centres_s - start_s, step_s=HOP_S, size=spec.num_sound_steps, channels=NUM_MELS)
        known = np.isfinite(windows[:, :1]).mean(axis=2) >= MIN_KNOWN_SHARE
        inputs["audio"], inputs["audio_mask"] = _zeroed(windows, known)
    if SIGNALS in spec.modalities:
        values = None if view.signals is None else view.signals.values
        start_s = 0.0 if view.signals is None else view.signals.start_s
        size, channels = spec.num_signal_steps, len(spec.signal_names)
        windows = _cut(values, centres_s - start_s, step_s=1 / VIEW_HZ, size=size, channels=channels)
        known = np.isfinite(windows).mean(axis=2) >= MIN_KNOWN_SHARE
        inputs["signals"], inputs["signals_mask"] = _zeroed(windows, known)
    return inputs


def has_something(inputs: Inputs) -> NDArray[np.bool_]:
    """Return for each window (N,) whether there is something to predict its frame from.

    That is the face in the frame itself (not beside it), sound, or any channel.
    """
    known = []
    if "frame_mask" in inputs:
        known.append(np.asarray(inputs["frame_mask"][:, inputs["frame_mask"].shape[1] // 2] > 0))
    known += [np.asarray(inputs[name].any(axis=1)) for name in ("audio_mask", "signals_mask") if name in inputs]
    return np.asarray(np.any(known, axis=0))


def _frames(view: RecordingView, rows: Rows, *, spec: WindowSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    length = spec.sequence_length
    if view.features is None:
        shape = (len(rows), length, spec.feature_dim)
        return np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
    steps = np.arange(length) - length // 2
    wanted = rows[:, None] + steps
    inside = (wanted >= 0) & (wanted < len(view.pts_s))
    place = np.clip(wanted, 0, len(view.pts_s) - 1)
    # Where a recording lost frames, the neighbours in number may be seconds away.
    step_s = float(np.median(np.diff(view.pts_s))) if len(view.pts_s) > 1 else 0.0
    away_s = np.abs(view.pts_s[place] - view.pts_s[rows][:, None])
    far = away_s > (SLACK * np.abs(steps) + 0.5) * step_s
    windows = view.features[place]
    known = inside & ~far & np.isfinite(windows[:, :, 0])
    return np.where(known[:, :, None], windows, np.float32(0.0)), known.astype(np.float32)


def _cut(
    values: NDArray[np.float32] | None, centres_s: NDArray[np.float64], *, step_s: float, size: int, channels: int
) -> NDArray[np.float32]:
    """Return windows (N, C, size) of values (C, L) around times since the first column; NaN beyond the ends."""
    if values is None:
        return np.full((len(centres_s), channels, size), np.nan, np.float32)
    # The middle of the window, (size - 1) / 2 steps behind its first column, is nearest to the centre.
    first = np.floor(centres_s / step_s - (size - 1) / 2 + 0.5).astype(np.int64)
    place = first[:, None] + np.arange(size)
    inside = (place >= 0) & (place < values.shape[1])
    windows = values[:, np.clip(place, 0, values.shape[1] - 1)].transpose(1, 0, 2)
    return np.where(inside[:, None, :], windows, np.float32(np.nan))


def _zeroed(windows: NDArray[np.float32], known: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    present = np.isfinite(windows) & known[:, :, None]
    return np.where(present, windows, np.float32(0.0)), known.astype(np.float32)
