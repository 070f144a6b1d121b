"""A bundle: all that turns a new recording into probabilities, as plain files (ONNX and JSON, never pickle).

`Bundle.open` checks every file's sha256. `Bundle.logits` is the one path that prediction, export and service run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.progress import say
from mien.core.purpose import check_purpose
from mien.core.storage import read_json, sha256_file
from mien.core.types import Audio, CropKind, FaceChoice
from mien.media.people import PICTURES_VERSION
from mien.media.signals import SignalTable
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.encoders import Encoder, EncoderSpec, HogEncoder, OnnxEncoder, view_crops
from mien.runtime.head import OnnxHead, SequenceHead
from mien.runtime.sound import RATE_HZ, LogMel
from mien.runtime.sound_encoders import BUILTIN_SOUND, OnnxSoundEncoder, SoundEncoder, SoundSpec
from mien.runtime.stored_recording import StoredRecording, blocks_of, heard_around
from mien.runtime.stored_rows import StoredFeatures
from mien.runtime.stored_sound import StoredSound
from mien.runtime.windows import AUDIO, SIGNALS, VIDEO, RecordingView, WindowSpec, view_recording

BUNDLE_FORMAT = 1
MANIFEST = "bundle.json"
SOUND_FILE = "sound_encoder.onnx"


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
        audio_rate_hz: At which `prepare` kept the sound.
        pictures: Version of how faces are found and cut out (`mien.media.people.PICTURES_VERSION`); 1 where a bundle of
            before says nothing of it.
    """

    fps: float
    crop: CropKind
    face: FaceChoice
    size_px: int
    margin: float
    detector: str
    detect_every: int | None = None
    audio_rate_hz: int = RATE_HZ
    pictures: int = 1


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
        sound: How the encoder of sound wants it; None for a model without one. It is the bundle's `sound_encoder.onnx`,
            or the built-in one of that name.
        events: By output, the settings with which events are made of its probabilities
            (`mien.evaluation.event_detection.EventSettings`), and what they were chosen on; empty where none were.
        calibration: By output (of several classes by the target, one for all) the map from logits to calibrated
            probabilities (`mien.evaluation.calibration.Calibration`), or the note why there is none; empty in bundles
            of earlier versions and of numbers.
        seen_quality: How well faces could be seen in the training (`mien.runtime.seen_quality`); empty where no face
            is looked at, and in bundles of earlier versions.
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
    sound: SoundSpec | None = None
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen_quality: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> ModelSpec:
        """Return the spec that `to_json` wrote."""
        labels = dict(values["labels"])
        # Bundles of earlier versions have no `sources`.
        labels |= {name: tuple(labels.get(name, ())) for name in ("classes", "sources")}
        return ModelSpec(
            **{
                **values,
                "modalities": tuple(values["modalities"]),
                "labels": LabelScheme(**labels),
                "sampling": Sampling(**values["sampling"]),
                "encoder": None if values["encoder"] is None else EncoderSpec.from_json(values["encoder"]),
                # Bundles of earlier versions don't have it.
                "windows": None if values.get("windows") is None else WindowSpec.from_json(values["windows"]),
                "sound": None if values.get("sound") is None else SoundSpec(**values["sound"]),
                "seen_quality": {name: tuple(ends) for name, ends in values.get("seen_quality", {}).items()},
            }
        )


def _checked_manifest(values: Any, *, path: Path) -> dict[str, Any]:
    """Return a manifest that names its files, all of them in the bundle's own folder.

    Raises:
        UserError: It doesn't.
    """
    files = values.get("files") if isinstance(values, dict) else None
    if not isinstance(files, dict) or not isinstance(values.get("spec"), dict) or "head.onnx" not in files:
        raise UserError(f"{path / MANIFEST} isn't the manifest of a bundle; copy the whole bundle again.")
    for name in files:
        if not name or name != Path(name).name or name in (".", ".."):
            raise UserError(f"{path / MANIFEST} names {name!r}, which isn't a file of the bundle's own folder.")
    return dict(values)


class Bundle:
    """A trained model, opened for use.

    Attributes:
        path: Its folder.
        spec: What it says of itself.
        baseline: The personal baseline.
        column: Which of the trained outputs it gives, where it was asked for one channel alone; None for all.
    """

    def __init__(
        self,
        path: Path,
        *,
        spec: ModelSpec,
        encoder: Encoder | None,
        head: OnnxHead | SequenceHead,
        sound_encoder: SoundEncoder | None = None,
    ) -> None:
        self.path = path
        self.spec = spec
        self._encoder = encoder
        self.sound_encoder = sound_encoder
        self._head = head
        self.baseline = PersonalBaseline.parse(spec.baseline)
        self.column: int | None = None

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
        values = _checked_manifest(read_json(manifest), path=path)
        if values.get("format") != BUNDLE_FORMAT:
            raise UserError(f"{path} has bundle format {values.get('format')!r}; this mien reads {BUNDLE_FORMAT}.")
        for name, expected in values["files"].items():
            file = path / name
            if not file.is_file():
                raise UserError(f"{path} lacks {name}; copy the whole bundle again.")
            if sha256_file(file) != expected:
                raise UserError(f"{file} isn't the file that was trained (sha256 differs); copy the bundle again.")
        try:
            spec = ModelSpec.from_json(values["spec"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{manifest} can't be used ({type(error).__name__}: {error}); copy the whole bundle again."
            ) from error
        if spec.builtin_encoder is None and spec.encoder is not None and "encoder.onnx" not in values["files"]:
            raise UserError(f"{manifest} names no encoder.onnx; copy the whole bundle again.")
        encoder: Encoder | None = None
        if spec.builtin_encoder is not None:
            encoder = HogEncoder()
        elif spec.encoder is not None:
            digest = values["files"]["encoder.onnx"]
            encoder = OnnxEncoder(path / "encoder.onnx", spec=spec.encoder, sha256=digest)
        listener = None if spec.sound is None else _open_listener(path, spec.sound, files=values["files"])
        head = path / "head.onnx"
        opened = OnnxHead(head) if spec.windows is None else SequenceHead(head, windows=spec.windows)
        return Bundle(path, spec=spec, encoder=encoder, head=opened, sound_encoder=listener)

    def check_use(self, *, purpose: str = "") -> None:
        """Refuse what mien isn't for, and say where a participant of the training withdrew.

        Args:
            purpose: What the user wants to predict for; empty where they don't say.

        Raises:
            RefusedError: The purpose, or that of the study that the model comes from, is hiring, employment or
                education.
            UserError: The personal baseline can't be had for new recordings.
        """
        check_purpose(purpose, where="--purpose")
        check_purpose(str(self.spec.provenance.get("purpose") or ""), where=f"The study of the bundle {self.path}")
        self.baseline.check_new_recording()
        if self.needs_pictures and self.spec.sampling.pictures != PICTURES_VERSION:
            say(
                f"{self.path} was trained on pictures that another version of mien made: faces are found a little "
                "differently now, and its answers shift. Prepare its study again and train on that."
            )
        if withdrawn := self.spec.provenance.get("removed_participants"):
            say(
                f"{self.path}: {withdrawn} participants of its training withdrew since; train it again on what is left "
                "of the dataset."
            )

    def view(self, channel: str) -> Bundle:
        """Return the bundle as a model of one channel that is there or not: one logit, under the channel's own scheme.

        Args:
            channel: A channel of a multilabel target; its number is the `column` of what is returned.

        Raises:
            UserError: There is no such channel, or the target isn't multilabel.
        """
        labels = self.spec.labels
        if labels.kind != "multilabel":
            raise UserError(f"{labels.target!r} is {labels.kind}, and has no channels to choose from.")
        spec = replace(self.spec, labels=labels.view(channel))
        column = labels.channels.index(channel)
        single = Bundle(
            self.path,
            spec=spec,
            encoder=self._encoder,
            head=self._head.only(column),
            sound_encoder=self.sound_encoder,
        )
        single.column = column
        return single

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

    def heard(self, audio: Audio | None) -> LogMel | None:
        """Return what the windows of a sequence network are cut from where it has an encoder of sound; else None."""
        return None if self.sound_encoder is None else self.sound_encoder.grid(audio)

    def recording_view(
        self,
        features: NDArray[np.floating] | None,
        *,
        pts_s: NDArray[np.floating],
        audio: Audio | None,
        signals: SignalTable | None,
    ) -> RecordingView:
        """Return what a sequence network is shown of a recording, of which windows are cut; as `logits` takes it."""
        assert self.spec.windows is not None, "a sequence head has its windows"
        return view_recording(
            self.spec.windows,
            pts_s=pts_s,
            features=features,
            baseline=self.baseline,
            audio=None if self.sound_encoder is not None else audio,
            sound=self.heard(audio),
            signals=signals,
        )

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
            view = self.recording_view(features, pts_s=pts_s, audio=audio, signals=signals)
            return self.sequence_head.recording_logits(view)
        if self.sound_encoder is not None:
            features = self.sound_encoder.encode(audio, pts_s=pts_s)
        result = self._no_logits(len(features))
        seen = ~np.isnan(features).any(axis=1) if len(features) else np.zeros(0, bool)
        if seen.any():
            personal = self.baseline.subtract(features, pts_s=pts_s)
            result[seen] = self.head.logits(personal[seen])
        return result

    def stored_logits(
        self,
        features: StoredFeatures | None,
        *,
        pts_s: NDArray[np.float64],
        sound: StoredSound | None = None,
        signals: SignalTable | None = None,
    ) -> NDArray[np.float64]:
        """Return what `logits` returns, of a recording of any length: features and sound are in temporary files.

        Args:
            features: Of all sampled frames, the personal baseline subtracted; None for a model without pictures.
            pts_s: (N,) times in seconds.
            sound: The whole sound, None where there is none.
            signals: The sensors' channels, None where there are none.
        """
        if self.sequence_head is not None:
            return self.sequence_head.recording_logits(
                StoredRecording.of(
                    self.sequence_head.windows,
                    pts_s=pts_s,
                    features=features,
                    sound=sound,
                    encoder=self.sound_encoder,
                    signals=signals,
                )
            )
        if self.sound_encoder is not None:
            features = heard_around(self.sound_encoder, sound, pts_s=pts_s, baseline=self.baseline)
        assert features is not None, "a model that looks at one moment looks at pictures, or listens by an encoder"
        result = self._no_logits(len(pts_s))
        for block in blocks_of(len(pts_s)):
            seen = block[features.seen[block]]
            if len(seen):
                result[seen] = self.head.logits(features.take(seen))
        return result

    def _no_logits(self, count: int) -> NDArray[np.float64]:
        return np.full((count, self.spec.labels.num_outputs), np.nan)


def _open_listener(path: Path, spec: SoundSpec, *, files: dict[str, str]) -> SoundEncoder:
    """Open the encoder of sound of a bundle.

    Raises:
        UserError: It needs openSMILE, and that isn't installed, or another version is.
    """
    if SOUND_FILE in files:
        return OnnxSoundEncoder(path / SOUND_FILE, spec=spec, sha256=files[SOUND_FILE])
    encoder = BUILTIN_SOUND[spec.name]()
    if encoder.spec.source != spec.source:
        raise UserError(
            f"{path} was trained on features of {spec.source}, and here is {encoder.spec.source}: they may differ. "
            "Install that version, or train the bundle again."
        )
    encoder.spec = spec
    return encoder
