"""What a sequence network is given of one moment: the frames, the sound and the signals around it, on one clock.

Fitting, the check of a bundle and prediction cut their windows here, so what is evaluated is what is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        recording_frames: K, frames of the whole recording that come behind the T of the window: what is a lot for
            this person is seen there. Like the personal baseline `recording`, it needs the recording to be over.
        sound_dim: M, bands of the spectrogram, or features of an encoder of sound (`SoundEncoder.grid`).
        sound_step_s: Seconds from one of its steps to the next.
    """

    modalities: tuple[str, ...]
    sequence_length: int
    context_s: float
    feature_dim: int = 0
    signal_names: tuple[str, ...] = ()
    audio_rate_hz: int = RATE_HZ
    signals_hz: float = 32.0
    recording_frames: int = 0
    sound_dim: int = NUM_MELS
    sound_step_s: float = HOP_S

    @property
    def num_frames(self) -> int:
        """T + K, frames that the head is given."""
        return self.sequence_length + self.recording_frames

    @property
    def num_sound_steps(self) -> int:
        """L, steps of the spectrogram in a window."""
        return max(1, round(self.context_s / self.sound_step_s))

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
    sound: LogMel | None = None,
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
        sound: Its spectrogram, where it was made before (`mien.runtime.cache.cached_log_mel`), or what an encoder made
            of it (`SoundEncoder.grid`): `audio` isn't needed.
        signals: The sensors' channels.
    """
    personal = None
    if VIDEO in spec.modalities and features is not None and np.isfinite(features).any():
        personal = baseline.subtract(features, pts_s=pts_s, reference=reference).astype(np.float32)
    if AUDIO not in spec.modalities:
        sound = None
    elif sound is None and audio is not None:
        assert spec.sound_step_s == HOP_S, "what an encoder makes of sound is given, see `SoundEncoder.grid`"
        sound = log_mel(audio)
    wanted = SIGNALS in spec.modalities and signals is not None
    view = view_signals(signals, names=spec.signal_names) if wanted and signals is not None else None
    return RecordingView(np.asarray(pts_s, np.float64), personal, sound, view)


@dataclass(frozen=True)
class JoinedViews:
    """Recordings end to end, so that windows of several are cut in one step.

    Attributes:
        first: (R + 1,) number of the first frame of each recording, and of all frames.
        pts_s: (F,) times of all frames, each on the clock of its own recording.
        step_s: (R,) usual distance of two frames, s.
        features: (F, D); NaN where there is no face; None without video.
        overview: (R, K) frames of the whole recording; -1 where it shows no face.
        sound: All spectrograms (M, L); None without sound.
        signals: All channels (S, L2); None without signals.
    """

    first: Rows
    pts_s: NDArray[np.float64]
    step_s: NDArray[np.float64]
    features: NDArray[np.float32] | None
    overview: Rows
    sound: JoinedColumns | None
    signals: JoinedColumns | None


@dataclass(frozen=True)
class JoinedColumns:
    """Values over time of recordings end to end.

    Attributes:
        values: (C, L).
        first: (R + 1,) number of the first column of each recording, and of all columns.
        start_s: (R,) time of that column on the recording's clock.
        step_s: Distance of two columns, s.
    """

    values: NDArray[np.float32]
    first: Rows
    start_s: NDArray[np.float64]
    step_s: float


def join_views(views: Sequence[RecordingView], *, spec: WindowSpec) -> JoinedViews:
    """Put recordings end to end; one alone isn't copied.

    Args:
        views: The recordings.
        spec: How windows are cut.
    """
    first = _starts([len(view.pts_s) for view in views])
    steps = [float(np.median(np.diff(view.pts_s))) if len(view.pts_s) > 1 else 0.0 for view in views]
    features, overview = None, np.empty((len(views), spec.recording_frames), np.int64)
    if VIDEO in spec.modalities and any(view.features is not None for view in views):
        features = _end_to_end([_features_of(view, spec=spec) for view in views], axis=0)
    for number, start in enumerate(first[:-1]):
        seen = np.empty(0) if features is None else np.isfinite(features[start : first[number + 1], 0])
        overview[number] = start + spread(np.flatnonzero(seen), num=spec.recording_frames) if seen.any() else -1
    sound = signals = None
    if AUDIO in spec.modalities:
        sound = _join_columns([view.sound for view in views], step_s=spec.sound_step_s)
    if SIGNALS in spec.modalities:
        signals = _join_columns([view.signals for view in views], step_s=1 / VIEW_HZ)
    return JoinedViews(
        first=first,
        pts_s=_end_to_end([view.pts_s for view in views], axis=0),
        step_s=np.array(steps, np.float64),
        features=features,
        overview=overview,
        sound=sound,
        signals=signals,
    )


def cut_windows(view: RecordingView, rows: Rows, *, spec: WindowSpec) -> Inputs:
    """Return the inputs of a head for some frames (N,) of one recording, as `cut_joined`."""
    return cut_joined(join_views([view], spec=spec), rows, spec=spec)


def cut_joined(views: JoinedViews, rows: Rows, *, spec: WindowSpec) -> Inputs:
    """Return the inputs of a head for some frames.

    Args:
        views: The recordings.
        rows: (N,) numbers of frames, counted through all recordings.
        spec: How windows are cut, and `views` were joined.

    Returns:
        The inputs of the spec's modalities, all float32; unknown values are 0, and masks say what is known (1):
        features (N, T + K, D), frame_mask (N, T + K), audio (N, M, L), audio_mask (N, 1), signals (N, S, L2),
        signals_mask (N, S).
    """
    rows = np.asarray(rows, np.int64)
    recordings = np.searchsorted(views.first, rows, side="right") - 1
    inputs: Inputs = {}
    if VIDEO in spec.modalities:
        inputs["features"], inputs["frame_mask"] = _frames(views, rows, recordings, spec=spec)
    times_s = views.pts_s[rows]
    if AUDIO in spec.modalities:
        shape = (len(rows), spec.sound_dim, spec.num_sound_steps)
        windows = _cut(views.sound, recordings, times_s=times_s, shape=shape)
        known = np.isfinite(windows[:, :1]).mean(axis=2) >= MIN_KNOWN_SHARE
        inputs["audio"], inputs["audio_mask"] = _zeroed(windows, known)
    if SIGNALS in spec.modalities:
        shape = (len(rows), len(spec.signal_names), spec.num_signal_steps)
        windows = _cut(views.signals, recordings, times_s=times_s, shape=shape)
        known = np.isfinite(windows).mean(axis=2) >= MIN_KNOWN_SHARE
        inputs["signals"], inputs["signals_mask"] = _zeroed(windows, known)
    return inputs


def has_something(inputs: Inputs, *, spec: WindowSpec) -> NDArray[np.bool_]:
    """Return for each window (N,) whether there is something to predict its frame from.

    That is the face in the frame itself (not beside it), sound, or any channel.
    """
    known = []
    if "frame_mask" in inputs:
        known.append(np.asarray(inputs["frame_mask"][:, spec.sequence_length // 2] > 0))
    known += [np.asarray(inputs[name].any(axis=1)) for name in ("audio_mask", "signals_mask") if name in inputs]
    return np.asarray(np.any(known, axis=0))


def _frames(
    views: JoinedViews, rows: Rows, recordings: Rows, *, spec: WindowSpec
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if views.features is None:
        shape = (len(rows), spec.num_frames)
        return np.zeros((*shape, spec.feature_dim), np.float32), np.zeros(shape, np.float32)
    steps = np.arange(spec.sequence_length) - spec.sequence_length // 2
    wanted = rows[:, None] + steps
    first, end = views.first[recordings][:, None], views.first[recordings + 1][:, None]
    place = np.clip(wanted, first, end - 1)
    # Where a recording lost frames, the neighbours in number may be seconds away.
    away_s = np.abs(views.pts_s[place] - views.pts_s[rows][:, None])
    near = away_s <= (SLACK * np.abs(steps) + 0.5) * views.step_s[recordings][:, None]
    known = (wanted == place) & near
    if spec.recording_frames:
        overview = views.overview[recordings]
        place, known = np.concatenate((place, overview), axis=1), np.concatenate((known, overview >= 0), axis=1)
    features = views.features[place]
    known &= np.isfinite(features[:, :, 0])
    features[~known] = 0.0
    return features, known.astype(np.float32)


def spread(rows: Rows, *, num: int) -> Rows:
    """Return `num` of rows (n,), evenly spread; of fewer, some come several times.

    >>> spread(np.arange(10), num=5).tolist()
    [1, 3, 5, 7, 9]
    """
    return rows[((np.arange(num) + 0.5) / num * len(rows)).astype(np.int64)]


def _features_of(view: RecordingView, *, spec: WindowSpec) -> NDArray[np.float32]:
    if view.features is not None:
        return view.features
    return np.full((len(view.pts_s), spec.feature_dim), np.nan, np.float32)


def _join_columns(parts: Sequence[LogMel | SignalView | None], *, step_s: float) -> JoinedColumns | None:
    there = [part.values for part in parts if part is not None]
    if not there:
        return None
    return JoinedColumns(
        values=_end_to_end(there, axis=1),
        first=_starts([0 if part is None else part.values.shape[1] for part in parts]),
        start_s=np.array([0.0 if part is None else part.start_s for part in parts]),
        step_s=step_s,
    )


def _cut(
    columns: JoinedColumns | None, recordings: Rows, *, times_s: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Return windows (N, C, size) around times; NaN beyond the ends of a recording."""
    if columns is None:
        return np.full(shape, np.nan, np.float32)
    size = shape[2]
    # The middle of the window, (size - 1) / 2 steps behind its first column, is nearest to the centre.
    centres = (times_s - columns.start_s[recordings]) / columns.step_s
    begin = columns.first[recordings] + np.floor(centres - (size - 1) / 2 + 0.5).astype(np.int64)
    place = begin[:, None] + np.arange(size)
    inside = (place >= columns.first[recordings][:, None]) & (place < columns.first[recordings + 1][:, None])
    windows = columns.values[:, np.where(inside, place, 0)].transpose(1, 0, 2)
    return np.where(inside[:, None, :], windows, np.float32(np.nan))


def _starts(lengths: Sequence[int]) -> Rows:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def _end_to_end(parts: Sequence[NDArray[Any]], *, axis: int) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _zeroed(windows: NDArray[np.float32], known: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    present = np.isfinite(windows) & known[:, :, None]
    return np.where(present, windows, np.float32(0.0)), known.astype(np.float32)
