"""A Hugging Face speech network as a frozen encoder: `linear_probe@DIRECTORY` or `linear_probe@OWNER/NAME`.

WavLM, HuBERT, wav2vec 2.0 and kin: raw sound at 16 kHz in. Features are the mean of the hidden states over all layers
and over the window: what tells emotion lies in the middle layers (Yang et al. 2021, SUPERB, whose probe learns a weight
per layer; nothing is learned here). Weights are read from this machine only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import UserError, WeightsError
from mien.core.storage import digest_of, read_json, sha256_file
from mien.models.backbones import WEIGHTS_FILE, find_folder_or_cache, quiet_transformers
from mien.models.onnx_writer import export_sound_encoder
from mien.models.pretrained import provenance
from mien.runtime.sound import RATE_HZ
from mien.runtime.sound_encoders import BUILTIN_SOUND, MIN_SAMPLES, SoundEncoder, SoundSpec

SPEECH_FAMILIES = (
    "wavlm",
    "hubert",
    "wav2vec2",
    "wav2vec2-conformer",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
    "sew",
)
"""`model_type` in config.json of the networks that take samples as they are."""

PREPROCESSOR = "preprocessor_config.json"


class SpeechBackbone(nn.Module):
    """Samples (N, S) at 16 kHz to features (N, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor) -> Tensor:
        """Return features (N, D): the mean over layers and time."""
        hidden = self.model(samples, output_hidden_states=True).hidden_states
        layers: Tensor = torch.stack(tuple(hidden))
        return layers.mean(dim=(0, 2))


class HubSoundEncoder(SoundEncoder):
    """A frozen speech network with the interface of every encoder that listens.

    Attributes:
        module: The network, in eval mode.
        weights_note: `pretrained`, or `random init` where the folder says so.
    """

    def __init__(self, module: SpeechBackbone, *, spec: SoundSpec, content: str, weights_note: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.spec = spec
        self.content = content
        self.weights_note = weights_note
        self.feature_dim = int(module.model.config.hidden_size)

    @staticmethod
    def open(backbone: str) -> HubSoundEncoder:
        """Open a speech network.

        Args:
            backbone: A local folder, or an id whose weights lie in the weights directory or the Hugging Face cache.

        Raises:
            WeightsError: It isn't on this machine, can't be loaded, or wasn't trained on sound at 16 kHz.
        """
        folder = find_folder_or_cache(backbone)
        facts, wanted = provenance(folder), _preprocessing(folder)
        rate_hz = int(wanted.get("sampling_rate", RATE_HZ))
        if rate_hz != RATE_HZ:
            raise WeightsError(f"{folder} wants sound at {rate_hz} Hz; mien keeps it at {RATE_HZ} Hz. Use another one.")
        spec = SoundSpec(
            name=folder.name if Path(backbone).is_dir() else backbone.replace("/", "--"),
            normalise=bool(wanted.get("do_normalize", True)),
            licence=facts["licence"],
            source=facts["source"],
        )
        content = digest_of([sha256_file(folder / WEIGHTS_FILE), read_json(folder / "config.json"), "mean of layers"])
        return HubSoundEncoder(_load(folder), spec=spec, content=content, weights_note=facts["weights"])

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def encode_window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn one window (S,) into features (D,)."""
        with torch.inference_mode():
            features: Tensor = self.module(torch.from_numpy(samples)[None])
        return np.asarray(features[0].float().numpy())

    def export(self, path: Path) -> None:
        """Write the network as ONNX: `samples` (1, S) of any length to `features` (1, D)."""
        export_sound_encoder(self.module, path, min_samples=MIN_SAMPLES)


def is_sound_backbone(backbone: str | None) -> bool:
    """Return whether a model's `@BACKBONE` listens: a built-in encoder of sound, or a speech network that is here."""
    if backbone is None or backbone.endswith(".onnx"):
        return False
    if backbone in BUILTIN_SOUND:
        return True
    try:
        folder = find_folder_or_cache(backbone)
        return read_json(folder / "config.json").get("model_type") in SPEECH_FAMILIES
    except (WeightsError, UserError):
        # Not here, or no configuration: who opens it says so.
        return False


def open_sound_encoder(backbone: str) -> SoundEncoder:
    """Open a built-in encoder of sound, or a speech network.

    Raises:
        UserError: openSMILE isn't installed.
        WeightsError: Nothing is found under that name, or it doesn't listen.
    """
    if backbone in BUILTIN_SOUND:
        return BUILTIN_SOUND[backbone]()
    if not is_sound_backbone(backbone):
        find_folder_or_cache(backbone)  # says what is missing where nothing is there
        raise WeightsError(
            f"{backbone} isn't a speech network (config.json: model_type one of {', '.join(SPEECH_FAMILIES)}). "
            f"Encoders of sound that come with mien: {', '.join(BUILTIN_SOUND)}."
        )
    return HubSoundEncoder.open(backbone)


def _preprocessing(folder: Path) -> dict[str, Any]:
    path = folder / PREPROCESSOR
    return read_json(path) if path.is_file() else {}


def _load(folder: Path) -> SpeechBackbone:
    from transformers import AutoModel

    try:
        with quiet_transformers():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            backbone = SpeechBackbone(model).eval()
            with torch.inference_mode():
                backbone(torch.zeros(1, MIN_SAMPLES))
    except Exception as error:  # transformers raises whatever the architecture's code raises
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise WeightsError(
            f"{folder} can't be used as a frozen speech network ({type(error).__name__}: {reason}). It has to be one "
            "that transformers' AutoModel loads, with safetensors."
        ) from error
    return backbone
