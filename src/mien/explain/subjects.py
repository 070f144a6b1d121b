"""What computes the answer that is explained: the bundle itself, its network in PyTorch, and randomised ones.

Perturbed pictures go through the bundle's own ONNX, which is what predicts. Gradients need PyTorch: the network is
rebuilt from `bundle.json` and `model.safetensors`, and counts only if its logits are the bundle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import nn

from mien.core.errors import UserError, WeightsError
from mien.core.storage import read_json
from mien.explain.frames import ExplainedFrame
from mien.models.backbones import FAMILY, PretrainedEncoder, find_weights, fit_positions, quiet_transformers
from mien.models.choice import ModelChoice, parse_model
from mien.models.classifier import Classifier, Triple
from mien.models.maps import FindMaps, MapParts
from mien.models.pretrained import make_head
from mien.models.registry import MODELS, PRETRAINED, build_model
from mien.runtime.bundle import MANIFEST, Bundle

WEIGHTS = "model.safetensors"
# As for a bundle when it is written: float32 sums in another order.
MAX_LOGIT_DIFFERENCE = 1e-3
BATCH = 16


class BundleSubject:
    """The bundle's encoder and head, as prediction runs them."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, D) of pictures (N, S, S, 3)."""
        return self._bundle.encoder.encode(pixels)

    def logits(self, personal: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) of features (N, D)."""
        return self._bundle.head.logits(personal).astype(np.float64)


class RandomisedProbe:
    """A linear probe whose coefficients are drawn anew; its frozen encoder is left as it is.

    Coefficients are normal with the spread of the trained ones, per output, so that logits keep their size.
    """

    def __init__(self, bundle: Bundle, *, seed: int) -> None:
        self._encoder = bundle.encoder
        arrays = load_arrays(weights_file(bundle))
        if bundle.column is not None:
            arrays |= {name: arrays[name][[bundle.column]] for name in ("coef", "intercept")}
        self._mean, self._scale, self._intercept = (arrays[name] for name in ("mean", "scale", "intercept"))
        coef = arrays["coef"]
        self._coef = np.random.default_rng(seed).normal(0.0, coef.std(axis=1, keepdims=True), coef.shape)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, D) of pictures (N, S, S, 3)."""
        return self._encoder.encode(pixels)

    def logits(self, personal: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) of features (N, D)."""
        return np.asarray((personal - self._mean) / self._scale @ self._coef.T + self._intercept, np.float64)


class NetworkSubject:
    """A network in PyTorch, in eval mode on the CPU, without gradients of its parameters.

    Attributes:
        classifier: The network.
        parts: Where its maps are; None where its entry in the registry doesn't say it.
    """

    def __init__(self, classifier: Classifier, *, maps: FindMaps | None) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.parts: MapParts | None = None if maps is None else maps(classifier.encoder)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (N, D) of pictures (N, S, S, 3)."""
        blocks = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        with torch.no_grad():
            parts = [self.classifier.encoder(self.normalised(block)).numpy() for block in blocks]
        return np.concatenate(parts).astype(np.float32)

    def logits(self, personal: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (N, num_outputs) of features (N, D)."""
        with torch.no_grad():
            logits: torch.Tensor = self.classifier.head(torch.from_numpy(np.asarray(personal, np.float32)))
        return logits.numpy().astype(np.float64)

    def normalised(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Return what the encoder takes (N, 3, S, S) of pictures (N, S, S, 3)."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        return self.classifier.normalise(tensor)


def open_bundle(path: Path, *, channel: str | None = None) -> Bundle:
    """Open a bundle for explaining.

    Args:
        path: Its folder.
        channel: Of a bundle of several channels, the one whose answers are explained.

    Raises:
        UserError: It isn't one, is damaged, predicts numbers, or has channels of which none is named (or not this one).
    """
    bundle = Bundle.open(path)
    labels = bundle.spec.labels
    if labels.kind == "continuous":
        raise UserError(
            f"`mien explain` explains what is there or not, and classes; {labels.target!r} is a number, which has no "
            "answer whose reasons could be drawn."
        )
    if channel is not None:
        return bundle.view(channel)
    if labels.channels:
        raise UserError(
            f"The bundle has the channels {', '.join(labels.channels)}; say with --channel whose answers are to be "
            "explained."
        )
    return bundle


def weights_file(bundle: Bundle) -> Path:
    """Return the file of a bundle's trained weights.

    Raises:
        UserError: It isn't there.
    """
    path = bundle.path / WEIGHTS
    if not path.is_file():
        raise UserError(f"{bundle.path} lacks {WEIGHTS}, without which nothing but prediction works; copy it again.")
    return path


def is_probe(bundle: Bundle) -> bool:
    """Say whether a bundle's model is a linear probe, whose frozen encoder gives no gradients."""
    return parse_model(bundle.spec.name).is_probe


@dataclass(frozen=True)
class NetworkBuilder:
    """Builds a bundle's network, with the trained weights or with others.

    Attributes:
        bundle: The bundle.
        config_folder: Backbone whose config.json says the network's shape; None where its name says it.
        num_outputs: Of the network as it was trained; the bundle may be the view of one channel.
    """

    bundle: Bundle
    config_folder: Path | None
    num_outputs: int

    @staticmethod
    def of(bundle: Bundle) -> NetworkBuilder:
        """Find out how the bundle's weights are shaped.

        Raises:
            UserError: They don't fit the network that the bundle names.
        """
        with safe_open(weights_file(bundle), framework="np") as file:
            wanted = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
        choice = parse_model(bundle.spec.name)
        outputs = bundle.spec.labels.num_outputs if bundle.column is None else _num_trained(bundle)
        for folder in _config_folders(choice):
            builder = NetworkBuilder(bundle, folder, outputs)
            with torch.device("meta"):
                state = builder.build(seed=0).state_dict()
            if {name: tuple(tensor.shape) for name, tensor in state.items()} == wanted:
                return builder
        hint = "" if choice.name not in PRETRAINED else (
            " A network on another backbone than the default one needs that backbone's config.json where it was in "
            "training; copy its folder there."
        )  # fmt: skip
        raise UserError(f"{bundle.path}/{WEIGHTS} doesn't fit {bundle.spec.name}; copy the bundle again.{hint}")

    def trained(self) -> NetworkSubject:
        """Return the trained network."""
        classifier = self.build(seed=0)
        classifier.load_state_dict(load_tensors(weights_file(self.bundle)))
        return self._subject(classifier)

    def randomised(self, *, seed: int) -> NetworkSubject:
        """Return the network with freshly drawn weights, all of them: encoder and head."""
        return self._subject(self.build(seed=seed))

    def _subject(self, classifier: Classifier) -> NetworkSubject:
        if self.bundle.column is not None:
            classifier.head = nn.Sequential(classifier.head, _OneOutput(self.bundle.column))
        return NetworkSubject(classifier, maps=MODELS[parse_model(self.bundle.spec.name).name].maps)

    def build(self, *, seed: int) -> Classifier:
        """Build the network with weights drawn from a seed."""
        choice = parse_model(self.bundle.spec.name)
        pixels = self.bundle.encoder.spec
        outputs, size = self.num_outputs, pixels.size_px
        if self.config_folder is None:
            classifier = build_model(
                choice.name,
                num_outputs=outputs,
                image_size=size,
                random_init=MODELS[choice.name].pretrained,
                seed=seed,
            ).classifier
        else:
            wanted = PRETRAINED[choice.name]
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                encoder = shaped_encoder(self.config_folder, family=FAMILY[wanted.architecture])
                fit_positions(encoder, image_size=size)
                head = make_head(encoder.feature_dim, width=wanted.head_width, num_outputs=outputs)
            classifier = Classifier(encoder, head)
        # Of the bundle, which may have another normalisation than the architecture's default.
        classifier.pixel_mean = _triple(pixels.mean)
        classifier.pixel_std = _triple(pixels.std)
        return classifier


class _OneOutput(nn.Module):
    """Gives one of several outputs (N, C) alone, (N, 1)."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the output (N, 1)."""
        return logits[:, self.column : self.column + 1]


def _num_trained(bundle: Bundle) -> int:
    """Return how many channels the bundle of a view was trained on."""
    return len(read_json(bundle.path / MANIFEST)["spec"]["labels"]["classes"])


def shaped_encoder(folder: Path, *, family: str) -> PretrainedEncoder:
    """Return a backbone of the shape that a folder's config.json gives, with random weights."""
    from transformers import AutoConfig, AutoModel

    options = {"add_pooling_layer": False} if family == "vit" else {}
    with quiet_transformers():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return PretrainedEncoder(AutoModel.from_config(config, **options), family=family)


def _config_folders(choice: ModelChoice) -> list[Path | None]:
    if choice.name not in PRETRAINED:
        return [None]
    try:
        folder = find_weights(PRETRAINED[choice.name], backbone=choice.backbone)
    except WeightsError:
        return [None]
    # The folder's first where one was named: it need not be the default architecture.
    return [None, folder] if choice.backbone is None else [folder, None]


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue


def check_same_answers(subject: NetworkSubject, *, frames: Sequence[ExplainedFrame], bundle: Bundle) -> float:
    """Compare a rebuilt network with the bundle's ONNX on the frames that are explained.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        UserError: It exceeds `MAX_LOGIT_DIFFERENCE`: the weights aren't the ones that predict.
    """
    features = subject.features(np.stack([frame.pixels for frame in frames]))
    logits = subject.logits(features - np.stack([frame.reference for frame in frames]))
    gap = float(np.abs(logits - np.stack([frame.logits for frame in frames])).max())
    if not gap <= MAX_LOGIT_DIFFERENCE:
        raise UserError(
            f"The network rebuilt from {bundle.path}/{WEIGHTS} differs from the bundle's ONNX by {gap:.3g} in a logit "
            f"(allowed: {MAX_LOGIT_DIFFERENCE:g}), so its gradients would explain another model. Train the bundle "
            "again, or use --method occlusion, which asks the ONNX alone."
        )
    return gap
