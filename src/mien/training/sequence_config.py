"""Settings of the sequence networks' training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mien.core.errors import UserError
from mien.core.labels import Unit
from mien.models.sequence_parts import Fusion, SequenceEntry

UTTERANCE_CONTEXT_S = 4.0
"""Half of it lies on either side of a moment: of an utterance of some seconds every moment hears the most."""

MIN_LENGTH, MAX_LENGTH = 5, 11
"""Frames per window that are chosen where none are asked for: fewer have no course, more cost time."""


@dataclass(frozen=True)
class SequenceConfig:
    """How a network over windows of features, sound and signals is trained, in the one phase that it has.

    Attributes:
        sequence_length: Sampled frames per window; None for as many as `context_s` holds, 5 to 11.
        frame_input: What the network is given of a frame: the backbone's `features`, or what a linear `probe` says of
            them (a number per output; of a training participant by a probe that didn't see them).
        recording_frames: Frames spread over the whole recording that are seen beside the window, so that the person's
            range is known; 0 for none, None for the model's own (`temporal_vit` 48).
        context_s: Seconds of sound and signals per window; None for the model's own (2, `signals_net` 6).
        fusion: How `multimodal_fusion` joins its modalities.
        audio_backbone: Encoder of sound whose features stand in for the log-mel spectrogram: `egemaps`, `logmel` (its
            statistics), a folder or Hugging Face id of a speech network; None for the spectrogram itself.
        signals: Channels, by the names that `mien inspect` shows; none named: all that a sensor measured.
        epochs: At most so many.
        batch_size: Windows per batch.
        lr: Learning rate at the start; it falls to 0 along a half cosine.
        weight_decay: AdamW's weight decay; biases, norms and positions have none.
        dropout: Factor on the network's own dropout rates, 0 for none.
        clips_per_recording: Each epoch draws so many clips of every recording anew: neighbouring frames are alike.
        sampling: `frames`: so many clips of each recording, participants weigh the same in the loss; `participants`: of
            every participant equally many, however many recordings each has.
        mixup: Beta(mixup, mixup) of how windows of a batch are mixed in pairs (Zhang et al. 2018); 0 for none.
        modality_dropout: Probability that a training window loses one modality, of which the network has several.
        clip_norm: Gradients are clipped at this norm; 0 for no clipping.
        patience: Training stops after so many epochs without improvement of the validation loss.
        min_delta: What counts as an improvement.
        devices: 1. Such a network is small: a fit takes minutes, and more devices would wait for each other.
    """

    sequence_length: int | None = None
    frame_input: Literal["features", "probe"] = "features"
    recording_frames: int | None = None
    context_s: float | None = None
    fusion: Fusion = "cross_attention"
    audio_backbone: str | None = None
    signals: tuple[str, ...] = ()
    epochs: int = 30
    batch_size: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.05
    dropout: float = 1.0
    clips_per_recording: int = 24
    sampling: Literal["frames", "participants"] = "frames"
    mixup: float = 0.0
    modality_dropout: float = 0.2
    clip_norm: float = 1.0
    patience: int = 7
    min_delta: float = 0.001
    devices: int = 1

    def __post_init__(self) -> None:
        low: dict[str, float] = {"epochs": 1, "batch_size": 1, "clips_per_recording": 1, "patience": 1}
        low |= {"sequence_length": 1, "context_s": 0.1, "lr": 1e-9}
        not_negative = (
            "recording_frames",
            "weight_decay",
            "dropout",
            "mixup",
            "modality_dropout",
            "clip_norm",
            "min_delta",
        )
        low |= dict.fromkeys(not_negative, 0)
        for name, least in low.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"Training setting {name} must be at least {least:g}, got {value!r}.")
        for name in ("dropout", "modality_dropout"):
            if getattr(self, name) > 1:
                raise UserError(f"Training setting {name} must be 0 to 1, got {getattr(self, name)!r}.")

        if self.devices != 1:
            raise UserError(
                f"Training setting devices is {self.devices!r}: a network over windows trains on one device; leave it "
                "out of this model's settings."
            )

    def context_of(self, entry: SequenceEntry, *, unit: Unit = "frame") -> float:
        """Return the seconds of sound and signals per window of a model.

        A model that only listens hears more where one label describes the recording (or the person).
        """
        if self.context_s is not None:
            return self.context_s
        whole = entry.modalities == ("audio",) and unit in ("recording", "participant")
        return UTTERANCE_CONTEXT_S if whole else entry.context_s

    def recording_frames_of(self, entry: SequenceEntry) -> int:
        """Return the frames of the whole recording that a model sees beside the window."""
        return entry.recording_frames if self.recording_frames is None else self.recording_frames

    def length_of(self, entry: SequenceEntry, *, fps: float) -> int:
        """Return the frames per window of a model on a dataset with so many samples per second.

        An odd number, so that as much is seen before the frame as behind it.
        """
        if self.sequence_length is not None:
            return self.sequence_length
        wanted = round(self.context_of(entry) * fps) // 2 * 2 + 1
        return min(MAX_LENGTH, max(MIN_LENGTH, wanted))
