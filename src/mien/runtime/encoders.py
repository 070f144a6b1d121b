"""Encoders: uint8 crops in, features out. An encoder owns its resizing and its normalisation.

Three kinds, one interface: the built-in `hog`, any ONNX extractor with its sidecar, and (in `mien.models`, with torch)
a Hugging Face backbone. A crop holds more than the face (the dataset's margin); each encoder looks at its part.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError, WeightsError
from mien.core.storage import digest_of, sha256_file
from mien.core.weights import WEIGHTS_VARIABLE, find_onnx

DEFAULT_CROP = 1.15
ENCODE_BATCH = 32


@dataclass(frozen=True)
class EncoderSpec:
    """How an encoder wants its pixels.

    Attributes:
        name: Name for tables, such as "hog" or "improved_cnn".
        size_px: Side of the square input.
        crop: Side of the square that it looks at, as a multiple of the face box's longer side.
        layout: Axis order of the input tensor.
        channels: Colour order of the input tensor.
        scale: Factor that pixels 0..255 are multiplied with before `mean` and `std`.
        mean: Per-channel mean, subtracted after scaling.
        std: Per-channel standard deviation, divided by last.
        input_name: Name of the ONNX input.
        output_name: Name of the ONNX output that holds the features.
        licence: Licence of the weights.
        source: Where the weights come from.
    """

    name: str
    size_px: int
    crop: float = DEFAULT_CROP
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    input_name: str = "pixels"
    output_name: str = "features"
    licence: str = ""
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON-able mapping."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> EncoderSpec:
        """Return the spec that `to_json` wrote."""
        return EncoderSpec(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


class Encoder(Protocol):
    """Pixels to features."""

    @property
    def spec(self) -> EncoderSpec:
        """How this encoder wants its pixels."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever the features of the same crop would."""
        ...

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (N, size, size, 3) into features (N, D)."""
        ...


def view_crops(crops: NDArray[np.uint8], *, margin: float | None, crop: float, size_px: int) -> NDArray[np.uint8]:
    """Cut the centre that an encoder looks at out of crops with a margin, and resize it.

    Args:
        crops: (N, S, S, 3) RGB.
        margin: Side of the crops as a multiple of the face box; None where a crop is a whole picture or panel,
            which is then looked at as a whole.
        crop: Side of the wanted square as a multiple of the face box; at most the margin.
        size_px: Side of the result.

    Returns:
        (N, size_px, size_px, 3) uint8.

    >>> view_crops(np.zeros((2, 32, 32, 3), np.uint8), margin=1.6, crop=0.8, size_px=16).shape
    (2, 16, 16, 3)
    """
    side = crops.shape[1]
    seen = side if margin is None else max(1, round(side * min(1.0, crop / margin)))
    start = (side - seen) // 2
    result = np.empty((len(crops), size_px, size_px, 3), np.uint8)
    interpolation = cv2.INTER_AREA if seen >= size_px else cv2.INTER_LINEAR
    for row, picture in enumerate(crops):
        centre = picture[start : start + seen, start : start + seen]
        result[row] = cv2.resize(centre, (size_px, size_px), interpolation=interpolation)
    return result


def normalise_pixels(pixels: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.float32]:
    """Turn RGB pixels (N, S, S, 3) into the float32 input tensor that `spec` describes."""
    ordered = pixels if spec.channels == "RGB" else pixels[..., ::-1]
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    scaled = np.asarray((ordered.astype(np.float32) * np.float32(spec.scale) - mean) / std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if spec.layout == "NCHW" else scaled)


class HogEncoder:
    """Histograms of oriented gradients (Dalal & Triggs 2005): 96 px grey, block 32, stride 16, cell 16, 9 bins.

    It needs no weights, and on faces cut by a good detector it is a baseline that small networks must earn the right to
    replace. 900 features.
    """

    spec = EncoderSpec(name="hog", size_px=96, licence="none needed", source="Dalal & Triggs 2005, OpenCV")
    digest = digest_of(["hog", 96, 32, 16, 16, 9, DEFAULT_CROP])

    def __init__(self) -> None:
        self._descriptor = cv2.HOGDescriptor((96, 96), (32, 32), (16, 16), (16, 16), 9)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (N, 96, 96, 3) into features (N, 900)."""
        if len(pixels) == 0:
            return np.empty((0, self._descriptor.getDescriptorSize()), np.float32)
        grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels]
        return np.stack([np.asarray(self._descriptor.compute(picture)).ravel() for picture in grey])


class OnnxEncoder:
    """An ONNX feature extractor, run by ONNX Runtime on the CPU."""

    def __init__(self, path: Path, *, spec: EncoderSpec, sha256: str | None = None) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            spec: How it wants its pixels.
            sha256: Digest of the file where it is known already.

        Raises:
            UserError: ONNX Runtime can't open it, or it lacks the input or output that the spec names.
        """
        self.spec = spec
        self.path = path
        self._session = open_session(path)
        inputs = [item.name for item in self._session.get_inputs()]
        outputs = [item.name for item in self._session.get_outputs()]
        if spec.input_name not in inputs or spec.output_name not in outputs:
            raise UserError(
                f"{path.name} has inputs {inputs} and outputs {outputs}, but its sidecar names input "
                f"{spec.input_name!r} and features {spec.output_name!r}. Correct {path.name}.json."
            )
        self.digest = digest_of([sha256 or sha256_file(path), spec.to_json()])

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn RGB pixels (N, size, size, 3) into features (N, D)."""
        parts = [
            self._run(pixels[start : start + ENCODE_BATCH]) for start in range(0, max(1, len(pixels)), ENCODE_BATCH)
        ]
        return np.concatenate(parts)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(pixels) == 0:
            # One blank picture tells the width, so that "no frames" has the right shape.
            blank = np.zeros((1, self.spec.size_px, self.spec.size_px, 3), np.uint8)
            return self._run(blank)[:0]
        tensor = normalise_pixels(pixels, self.spec)
        (features,) = self._session.run([self.spec.output_name], {self.spec.input_name: tensor})
        return np.asarray(features, np.float32).reshape(len(pixels), -1)


def open_session(path: Path) -> Any:
    """Open an ONNX file with ONNX Runtime on the CPU.

    Raises:
        UserError: The file is missing or isn't a model.
    """
    import onnxruntime

    if not path.is_file():
        raise UserError(f"No ONNX file at {path}.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own untyped exceptions
        raise UserError(f"{path} can't be opened as an ONNX model: {str(error).splitlines()[0]}") from error


def read_sidecar(path: Path) -> EncoderSpec:
    """Read `<model>.onnx.json`, which says how an ONNX extractor wants its pixels.

    Raises:
        UserError: No sidecar, or a key that is missing or has another type than needed.
    """
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        raise UserError(
            f"{path.name} needs a sidecar {sidecar.name} beside it, that says how it wants its pixels: "
            '{"input": {"name", "layout", "size", "channels", "scale", "mean", "std"}, "features": OUTPUT, '
            '"crop": 1.15, "licence", "source"}.'
        )
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8"))
        wanted = values["input"]
        for key, allowed in (("layout", ("NCHW", "NHWC")), ("channels", ("RGB", "BGR"))):
            if wanted[key] not in allowed:
                raise UserError(f"{sidecar}: {key} is {wanted[key]!r}; allowed: {', '.join(allowed)}.")
        return EncoderSpec(
            name=path.stem,
            size_px=int(wanted["size"]),
            crop=float(values.get("crop", DEFAULT_CROP)),
            layout=wanted["layout"],
            channels=wanted["channels"],
            scale=float(wanted["scale"]),
            mean=tuple(map(float, wanted["mean"])),
            std=tuple(map(float, wanted["std"])),
            input_name=str(wanted["name"]),
            output_name=str(values["features"]),
            licence=str(values.get("licence", "")),
            source=str(values.get("source", "")),
        )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{sidecar} can't be used: {type(error).__name__} {error}.") from error


def find_encoder(backbone: str) -> Encoder | None:
    """Return the built-in encoder, the ONNX file or the weights folder that `backbone` names; None where none does.

    Args:
        backbone: `hog`, a path ending in `.onnx`, or the name of a folder in the weights directory that holds an ONNX.

    Raises:
        UserError: An ONNX path that isn't there or can't be opened.
    """
    if backbone == "hog":
        return HogEncoder()
    path = Path(backbone) if backbone.endswith(".onnx") else find_onnx(backbone)
    if path is None:
        return None
    if not path.is_file():
        raise WeightsError(f"No ONNX file at {path}. Give its path, or put it in a folder of {WEIGHTS_VARIABLE}.")
    if any(path.with_name(name + ".data").exists() for name in (path.name, path.stem)):
        raise UserError(f"{path.name} keeps its weights in a second file; save it as one ONNX file.")
    return OnnxEncoder(path, spec=read_sidecar(path))
