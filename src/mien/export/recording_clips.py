"""What an exported graph and the bundle are both given of a recording of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.types import Audio
from mien.data.dataset import Dataset
from mien.export.baseline_part import TIMES
from mien.export.graph import SingleGraph
from mien.export.hog_part import PIXELS
from mien.export.sound_part import SOUND
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import view_crops
from mien.runtime.sound import at_rate
from mien.runtime.sound_encoders import MIN_SAMPLES, SoundEncoder, windows_around
from mien.runtime.windows import cut_windows

Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class RecordingClips:
    """One recording, as a graph takes it, and what the bundle says of it.

    Attributes:
        recording_id: The recording.
        participant_id: Whose it is.
        frames: (N,) rows of its sampled frames that are predicted.
        inputs: What the graph takes, by name.
        logits: (N, K) what the bundle says.
    """

    recording_id: str
    participant_id: str
    frames: NDArray[np.int64]
    inputs: Inputs
    logits: NDArray[np.float64]


def recording_clips(
    bundle: Bundle, dataset: Dataset, *, graph: SingleGraph, people: Sequence[str]
) -> Iterator[RecordingClips]:
    """Yield what a graph is given of each recording of some people; recordings without anything to see are left out."""
    table = dataset.recordings
    for participant, recording_id in table[["participant_id", "recording_id"]].itertuples(index=False):
        if participant in people:
            clips = clips_of(bundle, dataset, graph=graph, recording_id=str(recording_id), participant=participant)
            if clips is not None:
                yield clips


def clips_of(
    bundle: Bundle, dataset: Dataset, *, graph: SingleGraph, recording_id: str, participant: str
) -> RecordingClips | None:
    """Return what a graph is given of one recording; None where there is nothing to predict from."""
    pts_s = dataset.frames(recording_id)["pts_s"].to_numpy(np.float64)
    crops = _crops_of(bundle, dataset, recording_id=recording_id)
    features = _features_of(bundle, dataset, recording_id=recording_id, crops=crops, num_frames=len(pts_s))
    audio = dataset.audio(recording_id) if bundle.needs_sound else None
    signals = dataset.signals(recording_id) if bundle.needs_signals else None
    logits = bundle.logits(features, pts_s=pts_s, audio=audio, signals=signals)
    seen = np.flatnonzero(~np.isnan(logits).any(axis=1))
    if not len(seen):
        return None
    if graph.start == "windows":
        assert bundle.sequence_head is not None, "windows are for sequence networks"
        windows = bundle.sequence_head.windows
        view = bundle.recording_view(features, pts_s=pts_s, audio=audio, signals=signals)
        cut = cut_windows(view, seen, spec=windows)
        given: Inputs = {name: np.ascontiguousarray(cut[name], np.float32) for name in windows.input_names}
    elif graph.start == "sound":
        assert audio is not None and bundle.sound_encoder is not None, "what is predicted was heard"
        given = {SOUND: sound_windows(audio, encoder=bundle.sound_encoder, pts_s=pts_s[seen])}
    else:
        spec = bundle.encoder.spec
        given = {PIXELS: view_crops(crops, margin=bundle.view_margin, crop=spec.crop, size_px=spec.size_px)}
    if graph.needs_times:
        given[TIMES] = pts_s[seen]
    return RecordingClips(recording_id, participant, seen, given, logits[seen])


def sound_windows(audio: Audio, *, encoder: SoundEncoder, pts_s: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the windows (N, S) around moments that can be heard, at 16 kHz, -1 to 1; of one recording all are as long.

    Args:
        audio: The whole sound.
        encoder: Says how long a window is.
        pts_s: (N,) the moments, s.
    """
    samples = np.asarray(at_rate(audio))
    places = windows_around(pts_s, num_samples=len(samples), start_s=audio.start_s, window_s=encoder.window_s)
    scale = np.float32(1.0 / (np.iinfo(np.int16).max + 1))
    windows = np.stack([np.asarray(samples[first:end], np.float32) * scale for first, end in places])
    return np.pad(windows, ((0, 0), (0, max(0, MIN_SAMPLES - windows.shape[1]))))


def run_graph(session: Any, inputs: Inputs, *, outputs: Sequence[str], one_by_one: bool) -> list[NDArray[np.float32]]:
    """Return outputs (N, K) of a graph; one that takes one row at a time is run N times."""
    if not one_by_one:
        return list(session.run(list(outputs), inputs))
    answers = [session.run(list(outputs), row) for row in rows_of(inputs)]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def rows_of(inputs: Inputs) -> Iterator[Inputs]:
    """Yield the rows of a batch as batches of one."""
    for row in range(len(next(iter(inputs.values())))):
        yield {name: values[row : row + 1] for name, values in inputs.items()}


def _crops_of(bundle: Bundle, dataset: Dataset, *, recording_id: str) -> NDArray[np.uint8]:
    if not bundle.needs_pictures or not dataset.has_pictures(recording_id):
        return np.empty((0, dataset.size_px, dataset.size_px, 3), np.uint8)
    return np.asarray(dataset.crops(recording_id)[np.flatnonzero(dataset.has_crop(recording_id))])


def _features_of(
    bundle: Bundle, dataset: Dataset, *, recording_id: str, crops: NDArray[np.uint8], num_frames: int
) -> NDArray[np.float32]:
    if not len(crops):
        return np.full((num_frames, 1), np.nan, np.float32)
    own = bundle.features(crops)
    features = np.full((num_frames, own.shape[1]), np.nan, np.float32)
    features[np.flatnonzero(dataset.has_crop(recording_id))] = own
    return features
