"""Encoders of sound: the window around a moment in, features out. The built-in `logmel`, `egemaps`, and an ONNX file.

A window is `window_s` long and lies around its moment; near the ends of the recording it is moved inside, and of a
shorter recording it is all of it. So every moment of an utterance of a few seconds has the same features: those of the
whole utterance, as in the literature on acted emotion.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import Unit
from mien.core.storage import digest_of, sha256_file
from mien.core.types import Audio
from mien.runtime.encoders import Encoder, open_session
from mien.runtime.sound import NUM_MELS, RATE_HZ, LogMel, at_rate, band_power
from mien.runtime.stored_sound import StoredSound

MOMENT_WINDOW_S, UTTERANCE_WINDOW_S = 2.0, 6.0
"""Where labels change with time, and where one describes the recording: most utterances of corpora are shorter."""

GRID_STEP_S = 0.25
"""Of the features that a network is given over time: syllables are as long, and windows overlap anyway."""

MIN_SAMPLES = RATE_HZ // 10
"""A shorter window is filled up with silence: openSMILE's functionals and the speech networks need so much."""

FLOOR_POWER = 1e-7
"""Of a band of samples from -1 to 1: below it is the rounding noise of 16 bits."""

LOGMEL_STATISTICS = 5

EGEMAPS_LICENCE = "audEERING research licence: openSMILE's features may not be used in a product"
EGEMAPS_HINT = "linear_probe@egemaps needs openSMILE: pip install 'mien[speech]' (for research only, by its licence)."
EGEMAPS_DIM = 88


@dataclass(frozen=True)
class SoundSpec:
    """How an encoder wants its sound.

    Attributes:
        name: Name for tables, such as "logmel".
        window_s: Length of the window around a moment; None as long as nobody has asked for one (`windowed`).
        normalise: Whether each window is brought to mean 0 and variance 1, as speech networks were trained.
        licence: Licence of the weights or of the program.
        source: Where they come from.
    """

    name: str
    window_s: float | None = None
    normalise: bool = False
    licence: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able mapping."""
        return asdict(self)


class SoundEncoder(ABC):
    """Windows of sound to features.

    Attributes:
        spec: How it wants its sound.
        feature_dim: D, length of the features.
    """

    spec: SoundSpec
    feature_dim: int
    content: str
    """Digest of what computes the features, without the window."""

    @property
    def digest(self) -> str:
        """Changes whenever the features of the same sound would."""
        return digest_of([self.content, self.spec.to_json()])

    @abstractmethod
    def encode_window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn one window (S,) at `RATE_HZ`, -1 to 1, of at least `MIN_SAMPLES` samples, into features (D,)."""

    def windowed(self, unit: Unit) -> SoundEncoder:
        """Return the encoder with the window that fits what one label describes; one that has a window keeps it."""
        if self.spec.window_s is not None:
            return self
        window_s = UTTERANCE_WINDOW_S if unit in ("recording", "participant") else MOMENT_WINDOW_S
        own = copy.copy(self)
        own.spec = replace(self.spec, window_s=window_s)
        return own

    def encode(self, audio: Audio | StoredSound | None, *, pts_s: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return features (N, D) of moments of a recording; NaN where nothing can be heard around one.

        Args:
            audio: The whole sound, at any rate, or in a file; None where there is none.
            pts_s: (N,) the moments, s.
        """
        features = np.full((len(pts_s), self.feature_dim), np.nan, np.float32)
        sound = None if audio is None or not len(pts_s) else _cut_sound(audio)
        if audio is None or sound is None:
            return features
        num_samples, cut = sound
        places = windows_around(pts_s, num_samples=num_samples, start_s=audio.start_s, window_s=self.window_s)
        scale = 1.0 / (np.iinfo(np.int16).max + 1)
        rows_of: dict[tuple[int, int], list[int]] = {}
        for row, place in enumerate(places):
            rows_of.setdefault(place, []).append(row)
        for (first, end), rows in rows_of.items():
            if end > first:
                window = np.asarray(cut(first, end), np.float32) * np.float32(scale)
                features[rows] = self.encode_window(_prepared(window, self.spec))
        return features

    def grid(self, audio: Audio | None) -> LogMel | None:
        """Return the features (D, L) of a recording every `GRID_STEP_S`: what stands in a spectrogram's place.

        Args:
            audio: The whole sound, at any rate; None where there is none.

        Returns:
            Minus their mean over the recording where the window is shorter than an utterance's: that removes speaker,
            microphone and room, as the spectrogram's own normalisation does. None where nothing can be heard.
        """
        if audio is None or not len(audio.samples):
            return None
        num_steps = max(1, round(len(audio.samples) / audio.rate_hz / GRID_STEP_S))
        first_s = audio.start_s + GRID_STEP_S / 2
        features = self.encode(audio, pts_s=first_s + GRID_STEP_S * np.arange(num_steps))
        if not np.isfinite(features).all():
            return None
        if self.window_s < UTTERANCE_WINDOW_S:
            features = features - features.mean(axis=0)
        return LogMel(np.ascontiguousarray(features.T), start_s=first_s, step_s=GRID_STEP_S)

    @property
    def window_s(self) -> float:
        """Length of the window, s."""
        assert self.spec.window_s is not None, "an encoder has a window before it is used (`windowed`)"
        return self.spec.window_s


AnyEncoder = Encoder | SoundEncoder


def windows_around(
    pts_s: NDArray[np.floating], *, num_samples: int, start_s: float, window_s: float
) -> list[tuple[int, int]]:
    """Return the windows of moments as [first, end) in samples; (0, 0) where a moment is far from all sound.

    >>> windows_around(np.array([0.0, 1.5, 9.0]), num_samples=3 * RATE_HZ, start_s=0.0, window_s=2.0)
    [(0, 32000), (8000, 40000), (0, 0)]
    """
    size = round(window_s * RATE_HZ)
    places = []
    for moment_s in np.asarray(pts_s, np.float64):
        centre = round((float(moment_s) - start_s) * RATE_HZ)
        if not -size // 2 <= centre <= num_samples + size // 2:
            places.append((0, 0))
            continue
        first = max(0, min(centre - size // 2, num_samples - size))
        places.append((first, min(first + size, num_samples)))
    return places


def _cut_sound(audio: Audio | StoredSound) -> tuple[int, Callable[[int, int], NDArray[np.floating]]] | None:
    """Return how many samples there are at `RATE_HZ`, and what gives [first, end) of them; None where all is silent."""
    if isinstance(audio, StoredSound):
        return None if audio.is_silent else (audio.num_samples, audio.samples)
    if not len(audio.samples) or not np.ptp(audio.samples):
        return None
    samples = np.asarray(at_rate(audio))
    return len(samples), lambda first, end: samples[first:end]


def _prepared(window: NDArray[np.float32], spec: SoundSpec) -> NDArray[np.float32]:
    if spec.normalise:
        # As transformers' Wav2Vec2FeatureExtractor does.
        window = (window - window.mean()) / np.sqrt(window.var() + np.float32(1e-7))
    return np.pad(window, (0, max(0, MIN_SAMPLES - len(window))))


class LogMelEncoder(SoundEncoder):
    """Statistics of the log-mel spectrogram of a window: it needs no weights and nothing that isn't installed.

    Of each of the 64 bands (`mien.runtime.sound`) mean, standard deviation, 10th and 90th percentile over the window,
    and the mean absolute change from step to step: 320 features. Level is kept, so how loud somebody is, and how near
    the microphone, is among them.
    """

    feature_dim = LOGMEL_STATISTICS * NUM_MELS

    def __init__(self) -> None:
        self.spec = SoundSpec(name="logmel", licence="none needed", source="statistics of the log-mel spectrogram")
        self.content = digest_of(["logmel statistics", 1, NUM_MELS, FLOOR_POWER])

    def encode_window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn one window (S,) into features (320,)."""
        logs = np.log(np.maximum(band_power(samples), FLOOR_POWER))
        low, high = np.percentile(logs, (10, 90), axis=1)
        change = np.abs(np.diff(logs, axis=1)).mean(axis=1)
        return np.concatenate([logs.mean(axis=1), logs.std(axis=1), low, high, change]).astype(np.float32)


class EgemapsEncoder(SoundEncoder):
    """eGeMAPSv02 (Eyben et al. 2016, The Geneva Minimalistic Acoustic Parameter Set), by openSMILE: 88 functionals.

    Raises:
        UserError: openSMILE isn't installed.
    """

    feature_dim = EGEMAPS_DIM

    def __init__(self) -> None:
        if find_spec("opensmile") is None:
            raise UserError(EGEMAPS_HINT)
        try:
            installed = version("opensmile")
        except PackageNotFoundError as error:
            raise UserError(EGEMAPS_HINT) from error
        self.spec = SoundSpec(
            name="egemaps", licence=EGEMAPS_LICENCE, source=f"eGeMAPSv02, openSMILE {installed} (audEERING)"
        )
        self.content = digest_of(["eGeMAPSv02", installed])
        self._program: Any = None

    def encode_window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn one window (S,) into features (88,); what isn't defined, such as the pitch of silence, is 0."""
        if self._program is None:
            import opensmile

            self._program = opensmile.Smile(
                feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
            )
        values = self._program.process_signal(samples, RATE_HZ).to_numpy(np.float32)[0]
        return np.asarray(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), np.float32)


class OnnxSoundEncoder(SoundEncoder):
    """A speech network as ONNX, run by ONNX Runtime on the CPU: `samples` (1, S) to `features` (1, D)."""

    def __init__(self, path: Path, *, spec: SoundSpec, sha256: str | None = None) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            spec: How it wants its sound.
            sha256: Digest of the file where it is known already.

        Raises:
            UserError: ONNX Runtime can't open it, or it lacks the input or the output.
        """
        self.spec, self.path = spec, path
        self._session = open_session(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if [item.name for item in inputs] != ["samples"] or "features" not in [item.name for item in outputs]:
            raise UserError(f"{path} isn't an encoder of sound: it has to turn 'samples' into 'features'.")
        self.content = sha256 or sha256_file(path)
        self.feature_dim = len(self.encode_window(np.zeros(MIN_SAMPLES, np.float32)))

    def encode_window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn one window (S,) into features (D,)."""
        (features,) = self._session.run(["features"], {"samples": samples[None]})
        return np.asarray(features, np.float32).reshape(-1)


BUILTIN_SOUND: dict[str, type[LogMelEncoder] | type[EgemapsEncoder]] = {
    "logmel": LogMelEncoder,
    "egemaps": EgemapsEncoder,
}
"""Encoders of sound that come with mien, by the name that a model's `@BACKBONE` gives."""


def listening(encoders: Sequence[AnyEncoder]) -> list[SoundEncoder]:
    """Return those of some encoders that listen."""
    return [encoder for encoder in encoders if isinstance(encoder, SoundEncoder)]


def looking(encoders: Sequence[AnyEncoder]) -> list[Encoder]:
    """Return those of some encoders that look at pictures."""
    return [encoder for encoder in encoders if not isinstance(encoder, SoundEncoder)]
