"""A bundle: all that turns a new recording into probabilities, as plain files (ONNX and JSON, never pickle).

`Bundle.open` checks every file's sha256. `Bundle.logits` is the one path that prediction, export and service run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.storage import read_json, sha256_file
from mien.core.types import Audio, CropKind, FaceChoice
from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import Encoder, EncoderSpec, HogEncoder, OnnxEncoder, view_crops
from mien.runtime.head import OnnxHead, SequenceHead
from mien.runtime.windows import AUDIO, SIGNALS, VIDEO, WindowSpec, view_recording

BUNDLE_FORMAT = 1
MANIFEST = "bundle.json"


@dataclass(frozen=True)
class Sampling:
    """How crops are made from a recording; prediction repeats what `prepare` did.

    Attributes:
        fps: Sampled frames per second.
        crop: What is cut out of a frame.
        face: Which face counts where there are several.
        size_px: Side of the crops.
        margin: Side of the crops as a multiple of the box that they are cut around.
        detector: Name of the face detector.
        detect_every: It looks at every so many sampled frames; None: as `fps` asks for.
    """

    fps: float
    crop: CropKind
    face: FaceChoice
    size_px: int
    margin: float
    detector: str
    detect_every: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """What a bundle's model is and expects.

    Attributes:
        name: The model as it was asked for, such as `linear_probe@hog+recording`.
        label: Short name for tables; it says "(random init)" where weights were not trained before.
        modalities: Kinds of input, of `video`, `audio`, `signals`.
        labels: The target.
        sampling: How crops are made.
        encoder: How the encoder wants its pixels; None for a model that doesn't look at pictures.
        builtin_encoder: Name of a built-in encoder, None where the bundle holds `encoder.onnx`.
        baseline: The personal baseline.
        weights: Source and licence of pretrained weights.
        provenance: Dataset, participants, settings, seed and versions.
        windows: What a sequence network is given of each moment; None for a head that looks at one frame.
    """

    name: str
    label: str
    modalities: tuple[str, ...]
    labels: LabelScheme
    sampling: Sampling
    encoder: EncoderSpec | None
    builtin_encoder: str | None
    baseline: str
    weights: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    windows: WindowSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> ModelSpec:
        """Return the spec that `to_json` wrote."""
        labels = {**values["labels"], "classes": tuple(values["labels"]["classes"])}
        return ModelSpec(
            **{
                **values,
                "modalities": tuple(values["modalities"]),
                "labels": LabelScheme(**labels),
                "sampling": Sampling(**values["sampling"]),
                "encoder": None if values["encoder"] is None else EncoderSpec.from_json(values["encoder"]),
                # Bundles of earlier versions don't have it.
                "windows": None if values.get("windows") is None else WindowSpec.from_json(values["windows"]),
            }
        )


class Bundle:
    """A trained model, opened for use."""

    def __init__(self, path: Path, *, spec: ModelSpec, encoder: Encoder | None, head: OnnxHead | SequenceHead) -> None:
        self.path = path
        self.spec = spec
        self._encoder = encoder
        self._head = head
        self.baseline = PersonalBaseline.parse(spec.baseline)

    @staticmethod
    def open(path: Path) -> Bundle:
        """Open a bundle.

        Args:
            path: The folder that `mien train` wrote.

        Raises:
            UserError: It isn't a bundle, a file is missing, or a file isn't the one that was written.
        """
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise UserError(f"{path} isn't a bundle (it has no {MANIFEST}). Make one with `mien train`.")
        values = read_json(manifest)
        if values.get("format") != BUNDLE_FORMAT:
            raise UserError(f"{path} has bundle format {values.get('format')!r}; this mien reads {BUNDLE_FORMAT}.")
        for name, expected in values["files"].items():
            file = path / name
            if not file.is_file():
                raise UserError(f"{path} lacks {name}; copy the whole bundle again.")
            if sha256_file(file) != expected:
                raise UserError(f"{file} isn't the file that was trained (sha256 differs); copy the bundle again.")
        spec = ModelSpec.from_json(values["spec"])
        encoder: Encoder | None = None
        if spec.builtin_encoder is not None:
            encoder = HogEncoder()
        elif spec.encoder is not None:
            digest = values["files"]["encoder.onnx"]
            encoder = OnnxEncoder(path / "encoder.onnx", spec=spec.encoder, sha256=digest)
        head = path / "head.onnx"
        opened = OnnxHead(head) if spec.windows is None else SequenceHead(head, windows=spec.windows)
        return Bundle(path, spec=spec, encoder=encoder, head=opened)

    @property
    def encoder(self) -> Encoder:
        """The encoder.

        Raises:
            UserError: The model doesn't look at pictures.
        """
        if self._encoder is None:
            raise UserError(f"{self.spec.label} doesn't look at pictures, so it has no encoder of them.")
        return self._encoder

    @property
    def head(self) -> OnnxHead:
        """The head of a model that looks at one frame.

        Raises:
            UserError: The model looks at sequences: `sequence_head`.
        """
        if isinstance(self._head, SequenceHead):
            raise UserError(
                f"{self.spec.label} looks at {' and '.join(self.spec.modalities)} over time, not at a frame."
            )
        return self._head

    @property
    def sequence_head(self) -> SequenceHead | None:
        """The head of a model that looks at sequences, None for one that looks at one frame."""
        return self._head if isinstance(self._head, SequenceHead) else None

    @property
    def needs_pictures(self) -> bool:
        """Whether the model looks at pictures."""
        return VIDEO in self.spec.modalities

    @property
    def needs_sound(self) -> bool:
        """Whether the model listens."""
        return AUDIO in self.spec.modalities

    @property
    def needs_signals(self) -> bool:
        """Whether the model looks at sensors."""
        return SIGNALS in self.spec.modalities

    @property
    def view_margin(self) -> float | None:
        """What `view_crops` needs: None where a crop is looked at as a whole."""
        return self.spec.sampling.margin if self.spec.sampling.crop == "face" else None

    @property
    def detector_weights(self) -> Path | None:
        """The face detector's own ONNX, where the bundle carries one."""
        path = self.path / "face_detector.onnx"
        return path if path.is_file() else None

    def features(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn crops with margin (N, S, S, 3) into features (N, D), before the personal baseline."""
        spec = self.encoder.spec
        pixels = view_crops(crops, margin=self.view_margin, crop=spec.crop, size_px=spec.size_px)
        return self.encoder.encode(pixels)

    def logits(
        self,
        features: NDArray[np.floating],
        *,
        pts_s: NDArray[np.floating],
        audio: Audio | None = None,
        signals: SignalTable | None = None,
    ) -> NDArray[np.float64]:
        """Turn the features of ONE recording, and its sound and signals where the model uses them, into logits.

        Args:
            features: (N, D) of all sampled frames in order of time; NaN where there was no face. A model that doesn't
                look at pictures ignores them.
            pts_s: (N,) times in seconds.
            audio: The whole sound, None where there is none.
            signals: The sensors' channels, None where there are none.

        Returns:
            (N, num_outputs); NaN where there was nothing to predict from: no face and, for a model that uses them,
            neither sound nor signals.
        """
        if self.sequence_head is not None:
            spec = self.sequence_head.windows
            return self.sequence_head.recording_logits(
                view_recording(
                    spec, pts_s=pts_s, features=features, baseline=self.baseline, audio=audio, signals=signals
                )
            )
        result = np.full((len(features), self.spec.labels.num_outputs), np.nan)
        seen = ~np.isnan(features).any(axis=1) if len(features) else np.zeros(0, bool)
        if seen.any():
            personal = self.baseline.subtract(features, pts_s=pts_s)
            result[seen] = self.head.logits(personal[seen])
        return result
