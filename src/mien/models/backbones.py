"""Pretrained backbones: where their weights lie on this machine (never the network), and how they are loaded."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (the name that PyTorch's own documentation uses)
from torch import Tensor, nn

from mien.core.errors import UserError, WeightsError
from mien.core.storage import read_json
from mien.core.weights import WEIGHTS_VARIABLE, find_folder, weights_directory
from mien.models.classifier import HALF, IMAGENET_MEAN, IMAGENET_STD, RANDOM_INIT, Triple
from mien.models.maps import MapParts

Architecture = Literal["resnet50", "vit_base"]
FAMILY = {"resnet50": "resnet", "vit_base": "vit"}
WEIGHTS_FILE = "model.safetensors"
# What a configuration says of its file, and not of the network.
NOT_SHAPE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id")
TINY: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "vit": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
    },
}


@dataclass(frozen=True)
class Pretrained:
    """A pretrained architecture of the registry: where its weights come from and what head it gets.

    Attributes:
        name: Name in the registry, and of its folder in the weights directory.
        architecture: The network.
        hub_id: Hugging Face id of the default weights.
        head_width: Width of the head's hidden layer.
    """

    name: str
    architecture: Architecture
    hub_id: str
    head_width: int


RESNET50 = Pretrained("resnet50_pretrained", "resnet50", "microsoft/resnet-50", 512)
VIT_BASE = Pretrained("vit_pretrained", "vit_base", "google/vit-base-patch16-224", 256)


class PretrainedEncoder(nn.Module):
    """A Hugging Face backbone: normalised pixels (N, 3, S, S) to features (N, D).

    ResNet's features are its pooled maps, a vision transformer's its class token after the last norm.
    """

    def __init__(self, model: Any, *, family: str) -> None:
        super().__init__()
        self.model = model
        self.family = family

    @property
    def feature_dim(self) -> int:
        """D, length of the features."""
        config = self.model.config
        return int(config.hidden_sizes[-1] if self.family == "resnet" else config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (N, D)."""
        output = self.model(pixels)
        features: Tensor = (
            output.pooler_output.flatten(1) if self.family == "resnet" else output.last_hidden_state[:, 0]
        )
        return features

    def stages(self) -> list[nn.Module]:
        """Return the stages from the pixels to the features; together they hold every parameter."""
        if self.family == "resnet":
            return [self.model.embedder, *self.model.encoder.stages]
        return [self.model.embeddings, *self.blocks, self.model.layernorm]

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks from the pixels' side to the features': transformer layers, or residual blocks of all stages."""
        if self.family == "resnet":
            return [block for stage in self.model.encoder.stages for block in stage.layers]
        # transformers 5.2x moved the layers of a ViT from `encoder.layer` up to the model.
        layers = self.model.layers if hasattr(self.model, "layers") else self.model.encoder.layer
        return list(layers)

    def frozen_part(self, num_open: int) -> list[nn.Module]:
        """Return the modules before the boundary: everything, where no block is open.

        Args:
            num_open: The last blocks that are trained. A transformer's last norm is trained with them.
        """
        self._check_open(num_open)
        if num_open == 0:
            return [self.model]
        stem = self.model.embedder if self.family == "resnet" else self.model.embeddings
        return [stem, *self.blocks[: len(self.blocks) - num_open]]

    def to_boundary(self, pixels: Tensor, *, num_open: int) -> Tensor:
        """Return what the open blocks are given: tokens (N, T, D), maps (N, C, H, W), or features (N, D) for none.

        Args:
            pixels: (N, 3, S, S), normalised.
            num_open: The last blocks that are trained.
        """
        if num_open == 0:
            features: Tensor = self(pixels)
            return features
        activations = pixels
        for module in self.frozen_part(num_open):
            activations = _hidden(module(activations))
        return activations

    def from_boundary(self, activations: Tensor, *, num_open: int) -> Tensor:
        """Return the features (N, D) of what `to_boundary` gave: together they are `forward`."""
        self._check_open(num_open)
        if num_open == 0:
            return activations
        *first, last = self.blocks[len(self.blocks) - num_open :]
        for block in first:
            activations = _hidden(block(activations))
        if self.family == "resnet":
            pooled: Tensor = self.model.pooler(_hidden(last(activations))).flatten(1)
            return pooled
        # The norm looks at each token by itself, and only the class token is read.
        normed: Tensor = self.model.layernorm(_class_token(last, activations))
        return normed

    @property
    def shape_facts(self) -> dict[str, Any]:
        """Return what decides the features beside the weights: the configuration without names and versions."""
        values = self.model.config.to_diff_dict()
        return {key: value for key, value in values.items() if key not in NOT_SHAPE}

    def _check_open(self, num_open: int) -> None:
        if not 0 <= num_open <= len(self.blocks):
            raise UserError(
                f"This backbone has {len(self.blocks)} blocks, so unfreeze must be head, last:1 to "
                f"last:{len(self.blocks)}, gradual or all; got last:{num_open}."
            )

    def enable_gradient_checkpointing(self) -> bool:
        """Recompute activations in the backward pass; False for ResNet, whose BatchNorm would count twice."""
        if self.family == "resnet":
            return False
        # transformers renamed it within version 5.
        if hasattr(self.model, "activation_checkpointing_enable"):
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        return True


def find_maps(encoder: nn.Module) -> MapParts:
    """Return a ResNet's last stage, or a transformer's attention and its last layer's first norm (as `vit_scratch`)."""
    assert isinstance(encoder, PretrainedEncoder), "the encoder of a pretrained model"
    if encoder.family == "resnet":
        return MapParts(encoder.stages()[-1])
    layers = encoder.blocks
    encoder.model.set_attn_implementation("eager")  # the fused kernels don't give their weights
    # Before transformers 5.2x the module that computes attention lay within the one that projects it.
    outer = [layer.get_submodule("attention") for layer in layers]
    inner: tuple[nn.Module, ...] = tuple(getattr(module, "attention", module) for module in outer)
    norm = layers[-1].get_submodule("layernorm_before")
    return MapParts(norm, has_tokens=True, attentions=inner, read_attention=_read_eager_attention)


def _read_eager_attention(_: nn.Module, _args: tuple[Any, ...], output: Any) -> tuple[Any, Tensor]:
    assert isinstance(output, tuple) and isinstance(output[1], Tensor), "eager attention gives its weights"
    return output, output[1]


def _class_token(layer: Any, tokens: Tensor) -> Tensor:
    """Return the class token (N, D) of what a transformer's layer makes of tokens (N, T, D).

    Nobody reads what the last layer makes of the others: they are looked at (keys and values), and neither look nor go
    through the perceptron, which is five sixths of the layer's work.
    """
    attention = layer.attention
    if not hasattr(attention, "q_proj"):  # before transformers 5.2x its parts had other names: the same, slower
        return _hidden(layer(tokens))[:, 0]

    def heads(projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:2], -1, attention.head_dim).transpose(1, 2)

    normed = layer.layernorm_before(tokens)
    mixed = F.scaled_dot_product_attention(
        heads(attention.q_proj(normed[:, :1])),
        heads(attention.k_proj(normed)),
        heads(attention.v_proj(normed)),
        dropout_p=attention.attention_dropout if attention.training else 0.0,
        scale=attention.scaling,
    )
    token = tokens[:, :1] + layer.dropout(attention.o_proj(mixed.transpose(1, 2).flatten(2)))
    token = token + layer.dropout(layer.mlp(layer.layernorm_after(token)))
    first: Tensor = token[:, 0]
    return first


def _hidden(output: Any) -> Tensor:
    """Return the hidden states of a block, which some versions of transformers wrap in a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _model_class(family: str) -> tuple[Any, Any, dict[str, Any]]:
    # transformers takes seconds to import: only those who build a pretrained model pay for it.
    from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

    if family == "resnet":
        return ResNetConfig, ResNetModel, {}
    return ViTConfig, ViTModel, {"add_pooling_layer": False}


def random_encoder(architecture: Architecture, *, tiny: bool = False) -> PretrainedEncoder:
    """Build the real architecture with random weights, drawn from torch's global generator."""
    family = FAMILY[architecture]
    config_class, model_class, options = _model_class(family)
    config = config_class(**(TINY[family] if tiny else {}))
    return PretrainedEncoder(model_class(config, **options), family=family)


def find_weights(wanted: Pretrained, *, backbone: str | None = None) -> Path:
    """Return the local folder of a pretrained model's backbone.

    Args:
        wanted: The model of the registry.
        backbone: A local folder or a hub id; None for the model's own.

    Raises:
        WeightsError: Nothing complete was found; the message names the places, the command and the other option.
    """
    otherwise = f" Or go on with --random-init: the model is then called '{wanted.name} ({RANDOM_INIT})' everywhere."
    if backbone is not None:
        return find_folder_or_cache(backbone, otherwise=otherwise)
    return find_folder_or_cache(wanted.hub_id, folder_name=wanted.name, otherwise=otherwise)


def find_folder_or_cache(backbone: str, *, folder_name: str = "", otherwise: str = "") -> Path:
    """Return the local folder of a backbone: the folder itself, one of the weights directory, or a cached one.

    Args:
        backbone: A local folder, or a Hugging Face id OWNER/NAME, looked for in the weights directory and in the
            Hugging Face cache.
        folder_name: Its name in the weights directory; empty for NAME.
        otherwise: What else the user can do, a closing sentence of the message.

    Raises:
        WeightsError: Nothing complete was found; the message names the places and the command.
    """
    if Path(backbone).is_dir():
        return _complete(Path(backbone))
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", backbone):
        raise WeightsError(
            f"Backbone {backbone!r} is neither a folder on this machine nor a Hugging Face id (OWNER/NAME)."
        )
    folder_name = folder_name or backbone.split("/")[1]
    folder = find_folder(folder_name) or _cached(backbone)
    if folder is None:
        root = weights_directory()
        where = f"{root}/{folder_name}" if root else f"the weights directory ({WEIGHTS_VARIABLE} isn't set)"
        command = f"hf download {backbone} --local-dir {root or 'WEIGHTS_DIR'}/{folder_name}"
        raise WeightsError(
            f"No weights for {backbone} on this machine: looked in {where} and in the Hugging Face cache. On a "
            f"connected machine run `{command}`, bring the folder here and name its parent with --weights-dir or "
            f"{WEIGHTS_VARIABLE}.{otherwise}"
        )
    return _complete(folder)


def _complete(folder: Path) -> Path:
    missing = [name for name in ("config.json", WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"{folder} has no {' and no '.join(missing)}; a backbone is a folder as `hf download` writes it, with its "
            "weights as safetensors. Fetch it again, or name another folder."
        )
    return folder


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(hub_id, name) for name in ("config.json", WEIGHTS_FILE)]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(found) else None


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_encoder(folder: Path, *, family: str, image_size: int) -> PretrainedEncoder:
    """Load a backbone from a folder as `hf download` writes it.

    Args:
        folder: Holds config.json and model.safetensors.
        family: The architecture that is wanted, `resnet` or `vit`.
        image_size: Side of the pictures, px; a transformer's positions are interpolated to it.

    Raises:
        WeightsError: The folder holds another architecture, or weights that don't fill it.
    """
    came = read_json(folder / "config.json").get("model_type")
    if came != family:
        raise WeightsError(f"{folder} holds a {came!r} backbone, this model needs {family!r}; name another folder.")
    _, model_class, options = _model_class(family)
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, **options}
    try:
        # Weights are read even where a caller's `torch.device("meta")` only asks whether they can be.
        with quiet_transformers(), torch.device("cpu"):
            model, report = model_class.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{folder} can't be loaded as a {family}: {error} Fetch it again.") from error
    # transformers fills what is missing with random numbers and only warns.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise WeightsError(f"{folder}/{WEIGHTS_FILE} lacks {len(missing)} tensors ({missing[0]}, ...). Fetch it again.")
    encoder = PretrainedEncoder(model, family=family)
    fit_positions(encoder, image_size=image_size)
    return encoder


def fit_positions(encoder: PretrainedEncoder, *, image_size: int) -> None:
    """Interpolate a transformer's learned positions to another picture size, once (bicubic, as DeiT does it).

    Raises:
        UserError: The size isn't a multiple of the patch.
    """
    if encoder.family != "vit":
        return
    model, patch = encoder.model, encoder.model.config.patch_size
    if image_size < patch or image_size % patch:
        raise UserError(f"The image size must be a multiple of {patch} px, the backbone's patch; got {image_size}.")
    old = model.embeddings.position_embeddings
    grid, wanted = math.isqrt(old.shape[1] - 1), image_size // patch
    if grid != wanted:
        first, rest = old.detach()[:, :1], old.detach()[:, 1:]
        maps = rest.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=(wanted, wanted), mode="bicubic", align_corners=False)
        positions = torch.cat((first, maps.flatten(2).transpose(1, 2)), dim=1)
        model.embeddings.position_embeddings = nn.Parameter(positions)
        # Which of the two checks the size depends on transformers' version.
        model.embeddings.image_size = (image_size, image_size)
        model.embeddings.patch_embeddings.image_size = (image_size, image_size)
        model.embeddings.patch_embeddings.num_patches = wanted * wanted
        model.config.image_size = image_size


def pixel_statistics(folder: Path | None, *, family: str) -> tuple[Triple, Triple]:
    """Return the mean and std of RGB in 0..1: of preprocessor_config.json, else what the family was trained on."""
    path = folder / "preprocessor_config.json" if folder is not None else None
    if path is not None and path.is_file():
        values = read_json(path)
        if "image_mean" in values and "image_std" in values:
            return _triple(values["image_mean"]), _triple(values["image_std"])
    return (IMAGENET_MEAN, IMAGENET_STD) if family == "resnet" else (HALF, HALF)


def _triple(values: list[float]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue
