"""A recording of any length as a model's windows see it: of features and sound only a block of moments is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.signals_view import VIEW_HZ, SignalView, view_signals
from mien.runtime.sound_encoders import GRID_STEP_S, UTTERANCE_WINDOW_S, SoundEncoder
from mien.runtime.stored_rows import StoredFeatures
from mien.runtime.stored_sound import StoredColumns, StoredGrid, StoredLogMel, StoredSound
from mien.runtime.windows import (
    AUDIO,
    SIGNALS,
    VIDEO,
    Inputs,
    JoinedColumns,
    JoinedViews,
    WindowSpec,
    cut_joined,
    spread,
)

BLOCK = 128
"""Moments in memory at a time: windows overlap, so all of an hour would be many times its features."""


def blocks_of(count: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of `count` moments in blocks.

    >>> [len(block) for block in blocks_of(300)]
    [128, 128, 44]
    """
    for first in range(0, count, BLOCK):
        yield np.arange(first, min(first + BLOCK, count))


def heard_around(
    encoder: SoundEncoder, sound: StoredSound | None, *, pts_s: NDArray[np.floating], baseline: PersonalBaseline
) -> StoredFeatures:
    """Return what an encoder hears around moments (N,), as `SoundEncoder.encode`, minus the personal baseline."""
    stored, seen = StoredFeatures(baseline), np.zeros(len(pts_s), bool)
    for block in blocks_of(len(pts_s)):
        features = encoder.encode(sound, pts_s=pts_s[block])
        seen[block] = ~np.isnan(features).any(axis=1)
        stored.add(features[seen[block]], pts_s=pts_s[block][seen[block]])
    stored.finish(seen)
    return stored


def heard_over_time(encoder: SoundEncoder, sound: StoredSound) -> StoredGrid | None:
    """Return the features of a recording every `GRID_STEP_S`, as `SoundEncoder.grid`."""
    num_steps = max(1, round(sound.num_stored / sound.rate_hz / GRID_STEP_S))
    first_s = sound.start_s + GRID_STEP_S / 2
    grid = StoredGrid(start_s=first_s, step_s=GRID_STEP_S, is_centred=encoder.window_s < UTTERANCE_WINDOW_S)
    for block in blocks_of(num_steps):
        features = encoder.encode(sound, pts_s=first_s + GRID_STEP_S * block)
        if not np.isfinite(features).all():
            return None
        grid.add(features)
    return grid


@dataclass(frozen=True)
class StoredRecording:
    """What `mien.runtime.windows.RecordingView` holds, most of it in temporary files.

    Attributes:
        pts_s: (F,) times of the sampled frames, s, increasing.
        step_s: Usual distance of two frames, s.
        features: Of the frames, the personal baseline subtracted; None without video or a face.
        overview: (1, K) frames of the whole recording; -1 where it shows no face.
        sound: Spectrogram or features over time; None where there is no sound.
        signals: The channels; None where there are none.
    """

    pts_s: NDArray[np.float64]
    step_s: float
    features: StoredFeatures | None
    overview: NDArray[np.int64]
    sound: StoredColumns | None
    signals: SignalView | None

    @staticmethod
    def of(
        spec: WindowSpec,
        *,
        pts_s: NDArray[np.float64],
        features: StoredFeatures | None,
        sound: StoredSound | None,
        encoder: SoundEncoder | None,
        signals: SignalTable | None,
    ) -> StoredRecording:
        """Make a recording ready for its windows, as `mien.runtime.windows.view_recording`.

        Args:
            spec: How windows are cut.
            pts_s: (F,) times of the sampled frames, s.
            features: Of the frames.
            sound: The whole sound.
            encoder: The encoder of sound, where the model has one.
            signals: The sensors' channels.
        """
        shown = features if VIDEO in spec.modalities and features is not None and features.seen.any() else None
        overview = np.full((1, spec.recording_frames), -1, np.int64)
        if shown is not None:
            overview[0] = spread(np.flatnonzero(shown.seen), num=spec.recording_frames)
        heard: StoredColumns | None = None
        if AUDIO in spec.modalities and sound is not None:
            heard = StoredLogMel.of(sound) if encoder is None else heard_over_time(encoder, sound)
        channels = None
        if SIGNALS in spec.modalities and signals is not None:
            channels = view_signals(signals, names=spec.signal_names)
        step_s = float(np.median(np.diff(pts_s))) if len(pts_s) > 1 else 0.0
        return StoredRecording(pts_s, step_s, shown, overview, heard, channels)

    def cut(self, rows: NDArray[np.int64], *, spec: WindowSpec) -> Inputs:
        """Return the inputs of a head for neighbouring frames (N,) in order, as `mien.runtime.windows.cut_windows`."""
        total = len(self.pts_s)
        low = max(0, int(rows[0]) - spec.sequence_length)
        high = min(total, int(rows[-1]) + spec.sequence_length + 1)
        features, overview = None, self.overview
        if self.features is not None:
            features = self.features.take(np.arange(low, high))
            if (overview >= 0).any():
                features = np.concatenate([features, self.features.take(overview[0])])
                overview = high - low + np.arange(overview.shape[1])[None]
        signals = None
        if self.signals is not None:
            size = self.signals.values.shape[1]
            signals = JoinedColumns(
                self.signals.values, np.array([0, size]), np.array([self.signals.start_s]), step_s=1 / VIEW_HZ
            )
        # Numbers are counted from the first frame that is there; the recording begins `low` frames before it.
        views = JoinedViews(
            first=np.array([-low, total - low]),
            pts_s=self.pts_s[low:high],
            step_s=np.array([self.step_s]),
            features=features,
            overview=overview,
            sound=self._sound(rows, spec=spec),
            signals=signals,
        )
        return cut_joined(views, rows - low, spec=spec)

    def _sound(self, rows: NDArray[np.int64], *, spec: WindowSpec) -> JoinedColumns | None:
        """Return the columns that windows of frames (N,) can reach."""
        sound = self.sound
        if sound is None:
            return None
        reach_s = (spec.num_sound_steps / 2 + 1) * sound.step_s
        ends_s = (float(self.pts_s[rows[0]]) - reach_s, float(self.pts_s[rows[-1]]) + reach_s)
        low, high = ((end_s - sound.start_s) / sound.step_s for end_s in ends_s)
        # Where a window lies beyond the sound, one column is given, and isn't used.
        first = int(np.clip(np.floor(low), 0, sound.num_columns - 1))
        end = int(np.clip(np.ceil(high) + 1, first + 1, sound.num_columns))
        return JoinedColumns(
            values=sound.columns(first, end),
            first=np.array([-first, sound.num_columns - first]),
            start_s=np.array([sound.start_s]),
            step_s=sound.step_s,
        )
