"""Windows of participants' clips: what a sequence network is fitted on, batch by batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError, unknown_name
from mien.core.labels import LabelScheme, Unit
from mien.core.storage import digest_of
from mien.data.dataset import Dataset
from mien.data.segments import segments_of
from mien.models.sequence_parts import SequenceEntry
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import cached_features, cached_log_mel, cached_sound_grid
from mien.runtime.encoders import Encoder
from mien.runtime.material import Material, labels_of
from mien.runtime.signals_view import usable_channels
from mien.runtime.sound import HOP_S, NUM_MELS
from mien.runtime.sound_encoders import GRID_STEP_S, SoundEncoder
from mien.runtime.windows import (
    AUDIO,
    SIGNALS,
    VIDEO,
    Inputs,
    JoinedViews,
    RecordingView,
    WindowSpec,
    cut_joined,
    join_views,
    view_recording,
)
from mien.training.loaders import FrameSet
from mien.training.sequence_config import SequenceConfig

Rows = NDArray[np.int64]
THINNED_CLIPS = 40
"""Clips per recording on which losses are measured after each epoch: evenly spread, neighbours being alike."""


def window_spec(
    entry: SequenceEntry,
    *,
    dataset: Dataset,
    config: SequenceConfig,
    encoder: Encoder | None,
    listener: SoundEncoder | None = None,
    unit: Unit = "frame",
) -> WindowSpec:
    """Return how a model cuts its windows of a dataset.

    Args:
        entry: The model.
        dataset: The dataset.
        config: Its settings.
        encoder: The frozen encoder of its frames.
        listener: The frozen encoder of its sound; None for the spectrogram.
        unit: What one label describes.

    Raises:
        UserError: No recording has a modality that the model looks at, or a channel that the settings name.
    """
    names: tuple[str, ...] = ()
    if SIGNALS in entry.modalities:
        # What a tool rates in the face isn't measured: a label that the tool made would be predicted from itself.
        measured = tuple(name for name in dataset.signal_units if name not in dataset.tool_channels)
        usable = usable_channels(measured)
        names = config.signals or usable
        for name in names:
            if name not in dataset.signal_units:
                raise unknown_name("signal", got=name, allowed=sorted(dataset.signal_units))
        if not names:
            heard = ", ".join(sorted(dataset.signal_units)) or "none"
            raise UserError(
                f"{entry.name} needs sensor signals, and no recording of {dataset.path} has any (channels: {heard}; "
                "what is heard in the sound, or rated in the face, doesn't count). Add the sensors' exports to the "
                "study and prepare it again, or use a model without signals."
            )
    if AUDIO in entry.modalities and not dataset.recordings["audio_start_s"].notna().any():
        raise UserError(
            f"{entry.name} needs sound, and no recording of {dataset.path} has any. Use a model without sound, such as "
            "temporal_vit, or prepare recordings that have it."
        )
    feature_dim = 0
    if VIDEO in entry.modalities:
        if not (dataset.recordings["num_frames"] > 0).any():
            raise UserError(
                f"{entry.name} needs pictures, and no recording of {dataset.path} has any. The models that listen can "
                "be used: audio_wavenet, linear_probe@logmel, linear_probe@egemaps."
            )
        assert encoder is not None, "a model that looks at frames has an encoder"
        size_px = encoder.spec.size_px
        feature_dim = encoder.encode(np.empty((0, size_px, size_px, 3), np.uint8)).shape[1]
    return WindowSpec(
        modalities=entry.modalities,
        sequence_length=config.length_of(entry, fps=dataset.fps),
        context_s=config.context_of(entry, unit=unit),
        feature_dim=feature_dim,
        signal_names=names,
        audio_rate_hz=int(dataset.info["config"]["audio_rate_hz"]),
        signals_hz=float(dataset.info["config"]["signals_hz"]),
        recording_frames=config.recording_frames_of(entry) if VIDEO in entry.modalities else 0,
        sound_dim=NUM_MELS if listener is None else listener.feature_dim,
        sound_step_s=HOP_S if listener is None else GRID_STEP_S,
    )


def dataset_view(
    dataset: Dataset,
    recording_id: str,
    *,
    spec: WindowSpec,
    encoder: Encoder | None,
    baseline: PersonalBaseline,
    listener: SoundEncoder | None = None,
) -> RecordingView:
    """Return a recording of a dataset, ready for its windows.

    Raises:
        UserError: A baseline over a segment, and no frame with a face in it.
    """
    frames = dataset.frames(recording_id)[["frame", "pts_s"]].assign(recording_id=recording_id)
    reference = None
    if baseline.kind == "segment":
        reference = (segments_of(frames, dataset.segments)["segment"] == baseline.segment).to_numpy()
    features = None
    if encoder is not None and dataset.has_pictures(recording_id):
        features = cached_features(dataset, recording_id, encoder=encoder)
    sound = None
    if AUDIO in spec.modalities and listener is None:
        sound = cached_log_mel(dataset, recording_id)
    elif AUDIO in spec.modalities and listener is not None:
        sound = cached_sound_grid(dataset, recording_id, encoder=listener)
    try:
        return view_recording(
            spec,
            pts_s=frames["pts_s"].to_numpy(np.float64),
            features=features,
            baseline=baseline,
            reference=reference,
            sound=sound,
            signals=dataset.signals(recording_id),
        )
    except UserError as error:
        raise UserError(f"{recording_id}: {error}") from error


@dataclass(frozen=True)
class WindowSet:
    """The clips of some participants, with the recordings that their windows are cut from.

    Attributes:
        clips: Rows of the clip index.
        places: (N,) number of each clip's frame among all frames of `joined`.
        joined: The recordings end to end; others of the dataset may be among them.
        spec: How windows are cut.
    """

    clips: pd.DataFrame
    places: Rows
    joined: JoinedViews
    spec: WindowSpec

    @staticmethod
    def of_views(clips: pd.DataFrame, views: Mapping[str, RecordingView], *, spec: WindowSpec) -> WindowSet:
        """Return the windows of clips in recordings, by id."""
        return WindowSet._of(clips, list(views), join_views(list(views.values()), spec=spec), spec=spec)

    @staticmethod
    def of(
        material: Material,
        participants: Sequence[str],
        *,
        spec: WindowSpec,
        encoder: Encoder | None,
        baseline: PersonalBaseline,
        listener: SoundEncoder | None = None,
    ) -> WindowSet:
        """Return the windows of participants; the recordings of all are read once and shared by folds."""
        names, joined = _shared_recordings(material, spec=spec, encoder=encoder, baseline=baseline, listener=listener)
        table = material.clips.table
        return WindowSet._of(table[table["participant_id"].isin(participants)], names, joined, spec=spec)

    @staticmethod
    def _of(clips: pd.DataFrame, names: Sequence[str], joined: JoinedViews, *, spec: WindowSpec) -> WindowSet:
        firsts = dict(zip(names, joined.first, strict=False))
        first = clips["recording_id"].map(firsts).to_numpy(np.int64)
        return WindowSet(clips, first + clips["frame"].to_numpy(np.int64), joined, spec)

    def __len__(self) -> int:
        return len(self.clips)

    def inputs(self, rows: Rows) -> Inputs:
        """Return the inputs of the head for some of the clips, in their order."""
        return cut_joined(self.joined, self.places[rows], spec=self.spec)

    def frame_set(self, scheme: LabelScheme) -> FrameSet:
        """Return what weights of classes and participants are made of; it has no pixels."""
        recordings, participants = (
            np.unique(self.clips[column].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
            for column in ("recording_id", "participant_id")
        )
        return FrameSet(
            load=_no_pixels,
            targets=labels_of(self.clips, scheme=scheme),
            recordings=recordings,
            participants=participants,
            ids=self.clips["clip_id"].to_numpy(dtype=object),
        )

    def thinned(self, num: int = THINNED_CLIPS) -> Rows:
        """Return at most so many clips of each recording, evenly spread."""
        parts = []
        for rows in self.clips.groupby("recording_id", sort=False).indices.values():
            step = max(1, -(-len(rows) // num))
            parts.append(rows[step // 2 :: step] if len(rows) > step // 2 else rows)
        return np.sort(np.concatenate(parts)).astype(np.int64)


def _no_pixels(rows: Rows) -> NDArray[np.uint8]:
    raise AssertionError(f"windows have no pixels (asked for {len(rows)} rows)")


Shared = tuple[tuple[str, ...], JoinedViews]

MAX_SHARED = 2
"""Recordings as a model sees them stay in memory for the next fold: with its personal baseline, and without."""

_shared: OrderedDict[str, Shared] = OrderedDict()


def _shared_recordings(
    material: Material,
    *,
    spec: WindowSpec,
    encoder: Encoder | None,
    baseline: PersonalBaseline,
    listener: SoundEncoder | None,
) -> Shared:
    dataset = material.dataset
    names = tuple(str(name) for name in material.clips.table["recording_id"].unique())
    encoders = [None if each is None else each.digest for each in (encoder, listener)]
    contents = [dataset.recording_content(name) for name in names]
    key = digest_of([str(dataset.path), dataset.info, names, contents, spec.to_json(), encoders, str(baseline)])
    if key not in _shared:
        while len(_shared) >= MAX_SHARED:
            _shared.popitem(last=False)
        given: dict[str, Any] = {"spec": spec, "encoder": encoder, "baseline": baseline, "listener": listener}
        _shared[key] = names, join_views([dataset_view(dataset, name, **given) for name in names], spec=spec)
    _shared.move_to_end(key)
    return _shared[key]
