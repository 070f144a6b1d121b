"""Writes a bundle, and checks it: ONNX against PyTorch on real crops of the dataset. One that differs isn't written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.storage import (
    atomic_directory,
    check_output_folder,
    remove_leftovers,
    sha256_file,
    write_json,
    write_text,
)
from mien.core.weights import find_onnx
from mien.models.hub_encoder import HubEncoder
from mien.models.hub_sound_encoder import HubSoundEncoder
from mien.models.onnx_writer import (
    OPSET,
    ParityError,
    export_encoder,
    export_head,
    export_sequence_head,
    write_linear_head,
)
from mien.runtime.bundle import BUNDLE_FORMAT, MANIFEST, SOUND_FILE, Bundle, ModelSpec, Sampling
from mien.runtime.encoders import Encoder, EncoderSpec, HogEncoder, OnnxEncoder
from mien.runtime.material import Material
from mien.runtime.seen_quality import Ranges
from mien.runtime.sound_encoders import SoundEncoder, SoundSpec
from mien.training.model_card import model_card
from mien.training.model_fit import FittedNetwork, FittedProbe
from mien.training.sequence_fit import FittedSequence

Fitted = FittedProbe | FittedNetwork | FittedSequence

PARITY_RECORDINGS = 3
PARITY_BLOCK = 64  # crops in memory at a time
# float32 sums in another order: 1e-4 in a logit is 2.5e-5 in a probability.
MAX_LOGIT_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class UseFacts:
    """What a bundle carries for its use on new recordings.

    Attributes:
        events: Settings of events by output.
        calibration: Maps from logits to calibrated probabilities by output.
        seen_quality: How well faces could be seen in the training.
    """

    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen_quality: Ranges = field(default_factory=dict)


def write_bundle(
    fitted: Fitted,
    *,
    out: Path,
    label: str,
    provenance: dict[str, Any],
    use: UseFacts | None = None,
) -> dict[str, Any]:
    """Write a bundle and check it.

    Args:
        fitted: The model.
        out: Folder of the bundle; a bundle that is there is replaced.
        label: Short name for tables.
        provenance: Dataset, participants, settings, seed.
        use: What it carries for new recordings; None: nothing.

    Returns:
        What `parity.json` holds.

    Raises:
        UserError: The folder holds something that isn't a bundle.
        ParityError: ONNX and PyTorch differ.
    """
    check_output_folder(out, marker=MANIFEST, what="bundle")
    remove_leftovers(out.parent, of=out.name)
    with atomic_directory(out) as folder:
        spec = _write_model(fitted, folder, label=label, provenance=provenance)
        spec = replace(spec, **vars(use or UseFacts()))
        detector = find_onnx("yunet")
        if spec.sampling.detector == "yunet" and detector is not None:
            # 230 KB that make the bundle whole: crops depend on the detector.
            shutil.copyfile(detector, folder / "face_detector.onnx")
        _write_manifest(folder, spec=spec)
        parity = check_parity(fitted, Bundle.open(folder))
        write_json(folder / "parity.json", parity)
        write_text(folder / "MODEL_CARD.md", model_card(spec, facts=fitted.facts(), parity=parity))
        _write_manifest(folder, spec=spec)
    return parity


def check_parity(fitted: Fitted, bundle: Bundle) -> dict[str, Any]:
    """Compare a bundle with the model that it was made of, on whole recordings of the dataset.

    Raises:
        ParityError: The largest difference of a logit exceeds `MAX_LOGIT_DIFFERENCE`; of numbers, so many of the
            largest.
    """
    material = fitted.material
    participants = sorted(material.clips.table["participant_id"].unique())[:PARITY_RECORDINGS]
    rows, expected = fitted.predict(participants)
    actual = np.concatenate(
        [
            _bundle_logits(bundle, material, str(name), frames=group["frame"].to_numpy())
            for name, group in rows.groupby("recording_id", sort=False)
        ]
    )
    # Where there is nothing to predict from (no sound, for a model that listens), a bundle says nothing.
    said = ~np.isnan(actual).any(axis=1)
    rows, expected, actual = rows[said], expected[said], actual[said]
    if not len(rows):
        raise ParityError(
            f"The bundle predicts none of the clips of {', '.join(participants)}, so it can't be checked; these "
            f"recordings have nothing of what the model looks at ({', '.join(bundle.spec.modalities)})."
        )
    scheme = bundle.spec.labels
    logit_gap = float(np.abs(actual - expected).max())
    # Numbers have a unit of their own, and no probability.
    numbers = scheme.kind == "continuous"
    allowed = MAX_LOGIT_DIFFERENCE * (max(1.0, float(np.abs(expected).max())) if numbers else 1.0)
    parity = {
        "max_abs_diff_logit": logit_gap,
        "max_abs_diff_prob": None
        if numbers
        else float(np.abs(scheme.probabilities(actual) - scheme.probabilities(expected)).max()),
        "clips": len(rows),
        "opset": OPSET,
        "precision": "float32",
    }
    if not logit_gap <= allowed:
        raise ParityError(
            f"The exported model differs from the trained one by {logit_gap:.3g} in a logit (allowed: "
            f"{allowed:g}); no bundle was written. Please report it with the model's name."
        )
    return parity


def _bundle_logits(
    bundle: Bundle, material: Material, recording_id: str, *, frames: NDArray[np.int64]
) -> NDArray[np.float64]:
    dataset = material.dataset
    table = dataset.frames(recording_id)
    pts_s = table["pts_s"].to_numpy()
    logits = bundle.logits(
        _bundle_features(bundle, material, recording_id),
        pts_s=pts_s,
        audio=dataset.audio(recording_id) if bundle.needs_sound else None,
        signals=dataset.signals(recording_id) if bundle.needs_signals else None,
    )
    return logits[frames]


def _bundle_features(bundle: Bundle, material: Material, recording_id: str) -> NDArray[np.float32]:
    dataset = material.dataset
    num_frames = len(dataset.frames(recording_id))
    if not bundle.needs_pictures:
        return np.empty((num_frames, 0), np.float32)
    if not dataset.has_pictures(recording_id):
        return np.full((num_frames, 1), np.nan, np.float32)
    crops = dataset.crops(recording_id)
    seen = np.flatnonzero(dataset.has_crop(recording_id))
    blocks = [seen[start : start + PARITY_BLOCK] for start in range(0, len(seen), PARITY_BLOCK)]
    features = np.concatenate([bundle.features(np.asarray(crops[block])) for block in blocks])
    whole = np.full((num_frames, features.shape[1]), np.nan, np.float32)
    whole[seen] = features
    return whole


def _write_model(fitted: Fitted, folder: Path, *, label: str, provenance: dict[str, Any]) -> ModelSpec:
    dataset, choice = fitted.material.dataset, fitted.choice
    encoder: EncoderSpec | None
    if isinstance(fitted, FittedProbe):
        encoder = _write_probe(fitted, folder)
    elif isinstance(fitted, FittedSequence):
        encoder = _write_sequence(fitted, folder)
    else:
        encoder = _write_network(fitted, folder)
    windows = fitted.windows if isinstance(fitted, FittedSequence) else None
    listener = _write_listener(fitted, folder)
    fitted.save_weights(folder / "model.safetensors")
    return ModelSpec(
        name=choice.text,
        label=label,
        modalities=_modalities(fitted),
        labels=fitted.material.clips.scheme,
        sampling=Sampling(
            fps=dataset.fps,
            crop=dataset.crop,
            face=dataset.face,
            size_px=dataset.size_px,
            margin=float(dataset.info["config"]["margin"]),
            detector=dataset.detector,
            detect_every=dataset.info["config"]["detect_every"],
            audio_rate_hz=int(dataset.info["config"]["audio_rate_hz"]),
            pictures=int(dataset.info.get("pictures", 1)),
        ),
        encoder=encoder,
        builtin_encoder=None if encoder is None or (folder / "encoder.onnx").is_file() else encoder.name,
        baseline=str(choice.baseline),
        weights=_weights(encoder, None if listener is None else listener.spec),
        provenance={"mien": version("mien"), **provenance},
        windows=windows,
        sound=None if listener is None else listener.spec,
    )


def _modalities(fitted: Fitted) -> tuple[str, ...]:
    if isinstance(fitted, FittedSequence):
        return fitted.windows.modalities
    return ("audio",) if isinstance(fitted, FittedProbe) and isinstance(fitted.encoder, SoundEncoder) else ("video",)


def _weights(encoder: EncoderSpec | None, sound: SoundSpec | None) -> dict[str, str]:
    """Return source and licence of what the model stands on; of two encoders both."""
    used = [spec for spec in (encoder, sound) if spec is not None]
    if not used:
        return {"licence": "none needed"}
    return {name: "; ".join(dict.fromkeys(getattr(spec, name) for spec in used)) for name in ("source", "licence")}


def _write_listener(fitted: Fitted, folder: Path) -> SoundEncoder | None:
    """Write the encoder of sound where it isn't built in, and return it; None where the model has none."""
    if isinstance(fitted, FittedNetwork):
        return None
    listener = fitted.sound_encoder if isinstance(fitted, FittedSequence) else fitted.encoder
    if isinstance(listener, HubSoundEncoder):
        listener.export(folder / SOUND_FILE)
    return listener if isinstance(listener, SoundEncoder) else None


def _write_probe(fitted: FittedProbe, folder: Path) -> EncoderSpec | None:
    probe = fitted.probe
    write_linear_head(
        folder / "head.onnx", mean=probe.mean, scale=probe.scale, coef=probe.coef, intercept=probe.intercept
    )
    return None if isinstance(fitted.encoder, SoundEncoder) else _write_frozen(fitted.encoder, folder)


def _write_sequence(fitted: FittedSequence, folder: Path) -> EncoderSpec | None:
    export_sequence_head(fitted.network, folder / "head.onnx", windows=fitted.windows)
    return None if fitted.encoder is None else _write_frozen(fitted.encoder, folder)


def _write_frozen(encoder: Encoder, folder: Path) -> EncoderSpec:
    if isinstance(encoder, OnnxEncoder):
        shutil.copyfile(encoder.path, folder / "encoder.onnx")
    elif isinstance(encoder, HubEncoder):
        export_encoder(encoder.module, folder / "encoder.onnx", image_size=encoder.spec.size_px)
    else:
        assert isinstance(encoder, HogEncoder)
    return encoder.spec


def _write_network(fitted: FittedNetwork, folder: Path) -> EncoderSpec:
    built = fitted.built
    classifier = built.classifier.eval().cpu()
    export_encoder(classifier.encoder, folder / "encoder.onnx", image_size=built.image_size)
    export_head(classifier.head, folder / "head.onnx", feature_dim=built.feature_dim)
    return EncoderSpec(
        name=built.name,
        size_px=built.image_size,
        crop=fitted.crop,
        mean=tuple(map(float, built.pixel_mean)),
        std=tuple(map(float, built.pixel_std)),
        licence=built.licence,
        source=built.source,
    )


def _write_manifest(folder: Path, *, spec: ModelSpec) -> None:
    files = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST and not path.name.startswith("."))
    write_json(
        folder / MANIFEST,
        {
            "format": BUNDLE_FORMAT,
            "mien": version("mien"),
            "spec": spec.to_json(),
            "files": {name: sha256_file(folder / name) for name in files},
        },
    )
