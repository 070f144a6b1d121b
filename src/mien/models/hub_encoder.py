"""A Hugging Face vision backbone as a frozen encoder: `linear_probe@DIRECTORY` or `linear_probe@OWNER/NAME`.

Features are the class token where the backbone has one (ViT, DeiT, BEiT, DINOv2), else the mean over positions or over
the last feature map (Swin, ResNet, ConvNeXt). Weights are read from this machine only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import WeightsError
from mien.core.storage import digest_of, read_json, sha256_file
from mien.models.backbones import WEIGHTS_FILE, find_folder_or_cache, pixel_statistics, quiet_transformers
from mien.models.pretrained import provenance
from mien.runtime.encoders import ENCODE_BATCH, EncoderSpec, normalise_pixels

DEFAULT_SIZE_PX = 224


class HubBackbone(nn.Module):
    """Normalised pixels (N, 3, S, S) to features (N, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.has_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (N, D)."""
        hidden: Tensor = self.model(pixels).last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.has_class_token else hidden.mean(dim=1)


class HubEncoder:
    """A frozen Hugging Face backbone with the interface of every encoder.

    Attributes:
        spec: How it wants its pixels.
        digest: Digest of weights and spec.
        module: The network, in eval mode.
        weights_note: `pretrained`, or `random init` where the folder says so.
    """

    def __init__(self, module: HubBackbone, *, spec: EncoderSpec, digest: str, weights_note: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.spec = spec
        self.digest = digest
        self.weights_note = weights_note

    @staticmethod
    def open(backbone: str) -> HubEncoder:
        """Open a backbone.

        Args:
            backbone: A local folder, or an id whose weights lie in the weights directory or the Hugging Face cache.

        Raises:
            WeightsError: It isn't on this machine, or can't be loaded.
        """
        folder = find_folder_or_cache(backbone)
        facts = provenance(folder)
        module, size_px = _load(folder)
        mean, std = pixel_statistics(folder, family=str(read_json(folder / "config.json").get("model_type")))
        spec = EncoderSpec(
            name=folder.name if Path(backbone).is_dir() else backbone.replace("/", "--"),
            size_px=size_px,
            mean=mean,
            std=std,
            licence=facts["licence"],
            source=facts["source"],
        )
        digest = digest_of([sha256_file(folder / WEIGHTS_FILE), spec.to_json()])
        return HubEncoder(module, spec=spec, digest=digest, weights_note=facts["weights"])

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (N, size, size, 3) into features (N, D)."""
        starts = range(0, max(1, len(pixels)), ENCODE_BATCH)
        return np.concatenate([self._run(pixels[start : start + ENCODE_BATCH]) for start in starts])

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(pixels) == 0:
            # One blank picture tells the width, so that "no frames" has the right shape.
            return self._run(np.zeros((1, self.spec.size_px, self.spec.size_px, 3), np.uint8))[:0]
        with torch.inference_mode():
            features: Tensor = self.module(torch.from_numpy(normalise_pixels(pixels, self.spec)))
        return np.asarray(features.float().numpy())


def _load(folder: Path) -> tuple[HubBackbone, int]:
    from transformers import AutoModel

    try:
        with quiet_transformers():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            backbone = HubBackbone(model).eval()
            size_px = int(getattr(model.config, "image_size", None) or DEFAULT_SIZE_PX)
            with torch.inference_mode():
                backbone(torch.zeros(1, 3, size_px, size_px))
    except Exception as error:  # transformers raises whatever the architecture's code raises
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{folder} can't be used as a frozen image backbone ({type(error).__name__}: {reason}). It has to be a "
            "vision model that transformers' AutoModel loads, with safetensors."
        ) from error
    return backbone, size_px
