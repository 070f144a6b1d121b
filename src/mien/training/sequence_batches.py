"""Windows of participants' clips: what a sequence network is fitted on, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.core.errors import UserError, unknown_name
from mien.data.dataset import Dataset
from mien.data.segments import segments_of
from mien.models.sequence_parts import SequenceEntry
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.cache import cached_features
from mien.runtime.encoders import Encoder
from mien.runtime.material import Material
from mien.runtime.signals_view import usable_channels
from mien.runtime.windows import AUDIO, SIGNALS, VIDEO, Inputs, RecordingView, WindowSpec, cut_windows, view_recording
from mien.training.loaders import FrameSet, participant_weights
from mien.training.sequence_config import SequenceConfig

Rows = NDArray[np.int64]
THINNED_CLIPS = 40
"""Clips per recording on which losses are measured after each epoch: evenly spread, neighbours being alike."""


def window_spec(
    entry: SequenceEntry, *, dataset: Dataset, config: SequenceConfig, encoder: Encoder | None
) -> WindowSpec:
    """Return how a model cuts its windows of a dataset.

    Raises:
        UserError: No recording has a modality that the model looks at, or a channel that the settings name.
    """
    names: tuple[str, ...] = ()
    if SIGNALS in entry.modalities:
        usable = usable_channels(tuple(dataset.signal_units))
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
            raise UserError(f"{entry.name} needs pictures, and no recording of {dataset.path} has any.")
        assert encoder is not None, "a model that looks at frames has an encoder"
        size_px = encoder.spec.size_px
        feature_dim = encoder.encode(np.empty((0, size_px, size_px, 3), np.uint8)).shape[1]
    return WindowSpec(
        modalities=entry.modalities,
        sequence_length=config.length_of(entry, fps=dataset.fps),
        context_s=config.context_of(entry),
        feature_dim=feature_dim,
        signal_names=names,
        audio_rate_hz=int(dataset.info["config"]["audio_rate_hz"]),
        signals_hz=float(dataset.info["config"]["signals_hz"]),
    )


def dataset_view(
    dataset: Dataset, recording_id: str, *, spec: WindowSpec, encoder: Encoder | None, baseline: PersonalBaseline
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
    if encoder is not None and len(frames):
        features = cached_features(dataset, recording_id, encoder=encoder)
    try:
        return view_recording(
            spec,
            pts_s=frames["pts_s"].to_numpy(np.float64),
            features=features,
            baseline=baseline,
            reference=reference,
            audio=dataset.audio(recording_id),
            signals=dataset.signals(recording_id),
        )
    except UserError as error:
        raise UserError(f"{recording_id}: {error}") from error


@dataclass(frozen=True)
class WindowSet:
    """The clips of some participants, with the recordings that their windows are cut from.

    Attributes:
        clips: Rows of the clip index.
        views: The recordings, by id.
        spec: How windows are cut.
    """

    clips: pd.DataFrame
    views: Mapping[str, RecordingView]
    spec: WindowSpec

    @staticmethod
    def of(
        material: Material,
        participants: Sequence[str],
        *,
        spec: WindowSpec,
        encoder: Encoder | None,
        baseline: PersonalBaseline,
    ) -> WindowSet:
        """Read the recordings of participants."""
        table = material.clips.table
        clips = table[table["participant_id"].isin(participants)]
        names = [str(name) for name in clips["recording_id"].unique()]
        views = {
            name: dataset_view(material.dataset, name, spec=spec, encoder=encoder, baseline=baseline) for name in names
        }
        return WindowSet(clips, views, spec)

    def __len__(self) -> int:
        return len(self.clips)

    def inputs(self, rows: Rows) -> Inputs:
        """Return the inputs of the head for some of the clips, in their order."""
        names = self.clips["recording_id"].to_numpy(dtype=object)[rows]
        frames = self.clips["frame"].to_numpy(np.int64)[rows]
        cut: dict[str, NDArray[np.float32]] = {}
        for name in dict.fromkeys(names):
            own = np.flatnonzero(names == name)
            for key, values in cut_windows(self.views[name], frames[own], spec=self.spec).items():
                cut.setdefault(key, np.empty((len(rows), *values.shape[1:]), np.float32))[own] = values
        return cut

    def frame_set(self) -> FrameSet:
        """Return what weights of classes and participants are made of; it has no pixels."""
        recordings, participants = (
            np.unique(self.clips[column].to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
            for column in ("recording_id", "participant_id")
        )
        return FrameSet(
            load=_no_pixels,
            targets=self.clips["target"].to_numpy(np.int64),
            recordings=recordings,
            participants=participants,
            ids=self.clips["clip_id"].to_numpy(dtype=object),
        )

    def thinned(self) -> Rows:
        """Return at most `THINNED_CLIPS` clips of each recording, evenly spread."""
        parts = []
        for rows in self.clips.groupby("recording_id", sort=False).indices.values():
            step = max(1, -(-len(rows) // THINNED_CLIPS))
            parts.append(rows[step // 2 :: step] if len(rows) > step // 2 else rows)
        return np.sort(np.concatenate(parts)).astype(np.int64)


def _no_pixels(rows: Rows) -> NDArray[np.uint8]:
    raise AssertionError(f"windows have no pixels (asked for {len(rows)} rows)")


class RandomClips:
    """Draws the clips of each epoch: so many of every recording, in batches of random order."""

    def __init__(self, windows: WindowSet, *, config: SequenceConfig, seed: int) -> None:
        groups = windows.clips.groupby("recording_id", sort=True).indices.values()
        self.groups = [np.asarray(rows, np.int64) for rows in groups]
        self.config = config
        self.generator = np.random.default_rng(seed)

    def epoch(self) -> list[Rows]:
        """Return the batches of the next epoch."""
        drawn = [
            self.generator.choice(rows, size=min(len(rows), self.config.clips_per_recording), replace=False)
            for rows in self.groups
        ]
        order = self.generator.permutation(np.concatenate(drawn))
        size = self.config.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def drop_modalities(self, inputs: dict[str, Tensor], *, modalities: Sequence[str]) -> dict[str, Tensor]:
        """Mask out one whole modality of some windows, never the only one (Neverova et al. 2016, ModDrop)."""
        num = len(next(iter(inputs.values())))
        if len(modalities) < 2:
            return inputs
        loses = self.generator.random(num) < self.config.modality_dropout
        lost = self.generator.integers(len(modalities), size=num)
        masks = {VIDEO: "frame_mask", AUDIO: "audio_mask", SIGNALS: "signals_mask"}
        present = np.stack([inputs[masks[name]].amax(dim=1).numpy() > 0 for name in modalities], axis=1)
        several = present.sum(axis=1) > 1
        dropped = dict(inputs)
        for number, name in enumerate(modalities):
            keep = torch.from_numpy(~(loses & (lost == number) & several).astype(bool)).float()
            for key in (masks[name], {VIDEO: "features"}.get(name, name)):
                values = inputs[key]
                dropped[key] = values * keep.reshape(-1, *[1] * (values.ndim - 1))
        return dropped


def clip_weights(windows: WindowSet) -> NDArray[np.float32]:
    """Return weights (N,) under which every participant counts the same."""
    frames = windows.frame_set()
    return participant_weights(frames.participants, targets=frames.targets)
