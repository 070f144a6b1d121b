"""Writes encoders and heads as ONNX, and checks each file against PyTorch before it counts as written."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.core.errors import MienError
from mien.core.storage import atomic_path
from mien.models.sequence_parts import SequenceNetwork, example_inputs
from mien.runtime.windows import WindowSpec

OPSET = 18
# ONNX Runtime and PyTorch sum in another order; on features of size 1..10 float32 then differs by about 1e-5.
TOLERANCE = 1e-4
CHECKED_BATCHES = (1, 5)
INPUT, SAMPLES, FEATURES, LOGITS = "pixels", "samples", "features", "logits"
CHECKED_LENGTHS = (1, 3.7)
"""Sounds on which an encoder of any length is checked, as multiples of its shortest."""


class ParityError(MienError):
    """An exported file that doesn't compute what the network computes."""


def export_encoder(encoder: nn.Module, path: Path, *, image_size: int) -> float:
    """Write an encoder: `pixels` (N, 3, S, S) float32, normalised, to `features` (N, D).

    Args:
        encoder: The network; it is left as it was.
        path: The file to write.
        image_size: S, px.

    Returns:
        The largest absolute difference to PyTorch on random pictures, batches of 1 and 5.

    Raises:
        ParityError: The difference exceeds 1e-4 (relative to features larger than 1); nothing is written.
    """
    return _export(encoder, path, shapes=[(3, image_size, image_size)], names=[INPUT], output=FEATURES)


def export_sound_encoder(encoder: nn.Module, path: Path, *, min_samples: int) -> float:
    """Write an encoder of sound: `samples` (1, S) float32 of any length to `features` (1, D).

    Args:
        encoder: The network; it is left as it was.
        path: The file to write.
        min_samples: The shortest S.

    Returns:
        The largest absolute difference to PyTorch on random sounds of two lengths.

    Raises:
        ParityError: The difference exceeds 1e-4 (relative to features larger than 1); nothing is written.
    """
    lengths = [round(times * min_samples) for times in CHECKED_LENGTHS]
    free = {1: torch.export.Dim("samples", min=min_samples)}
    with atomic_path(path) as temporary:
        frozen = _write(encoder, temporary, examples=(torch.zeros(1, 10 * min_samples),), names=[SAMPLES],
                        output=FEATURES, dynamic=(free,))  # fmt: skip
        return max(_check(frozen, temporary, shapes=[(n,)], names=[SAMPLES], batches=(1,)) for n in lengths)


def export_head(head: nn.Module, path: Path, *, feature_dim: int) -> float:
    """Write a head: `features` (N, D) float32 to `logits` (N, num_outputs); see `export_encoder`."""
    return _export(head, path, shapes=[(feature_dim,)], names=[FEATURES], output=LOGITS)


def export_sequence_head(network: SequenceNetwork, path: Path, *, windows: WindowSpec) -> float:
    """Write a sequence network: the inputs of its modalities (`mien.runtime.windows`) to `logits` (N, num_outputs).

    Checked like `export_encoder`, on random windows of which parts are masked.
    """
    shapes = [tuple(values.shape[1:]) for values in example_inputs(windows, num=1).values()]
    return _export(network, path, shapes=shapes, names=network.input_names, output=LOGITS)


def _export(
    module: nn.Module, path: Path, *, shapes: Sequence[tuple[int, ...]], names: Sequence[str], output: str
) -> float:
    examples = tuple(torch.zeros(2, *shape) for shape in shapes)
    batch = torch.export.Dim("batch")
    with atomic_path(path) as temporary:
        dynamic = tuple({0: batch} for _ in shapes)
        frozen = _write(module, temporary, examples=examples, names=names, output=output, dynamic=dynamic)
        return _check(frozen, temporary, shapes=shapes, names=names)


def _write(
    module: nn.Module,
    path: Path,
    *,
    examples: tuple[Tensor, ...],
    names: Sequence[str],
    output: str,
    dynamic: tuple[dict[int, Any], ...],
) -> nn.Module:
    """Write a file, and return the copy of the network that it was made of."""
    # A copy: eval mode and the CPU are for the file, not for the caller's network.
    frozen = copy.deepcopy(module).cpu().eval()
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            frozen,
            examples,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=[output],
            dynamic_shapes=dynamic,
            # One file: a bundle's files are copied and hashed one by one.
            external_data=False,
            verbose=False,
        )
    _forget_origin(path)
    return frozen


def _forget_origin(path: Path) -> None:
    """Take out which line of which file each node came from: it names folders of this machine."""
    import onnx

    model = onnx.load(str(path))
    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    del model.metadata_props[:]
    onnx.save(model, str(path))


def _check(
    module: nn.Module,
    path: Path,
    *,
    shapes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    batches: Sequence[int] = CHECKED_BATCHES,
) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in batches:
        given = [
            _random(batch, shape, name=name, generator=generator) for shape, name in zip(shapes, names, strict=True)
        ]
        with torch.no_grad():
            expected: Tensor = module(*given)
        difference = np.abs(
            session.run(None, {name: part.numpy() for name, part in zip(names, given, strict=True)})[0]
            - expected.numpy()
        ).max()
        scale = max(1.0, float(expected.abs().max()))
        if not difference <= TOLERANCE * scale:
            raise ParityError(
                f"The ONNX of {type(module).__name__} differs from PyTorch by {difference:.2g} at batch {batch} "
                f"(allowed: {TOLERANCE * scale:.2g}); it wasn't written. Please report the model and torch's version."
            )
        worst = max(worst, float(difference))
    return worst


def _random(batch: int, shape: tuple[int, ...], *, name: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(batch, *shape, generator=generator)
    # A mask holds 0 and 1.
    return (values > 0).float() if name.endswith("mask") else values


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports each of its steps on stdout, in logs and as warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_linear_head(
    path: Path,
    *,
    mean: NDArray[np.floating],
    scale: NDArray[np.floating],
    coef: NDArray[np.floating],
    intercept: NDArray[np.floating],
) -> None:
    """Write a linear probe's head: logits = ((features - mean) / scale) @ coef.T + intercept.

    Args:
        path: The file to write.
        mean: (D,) mean of the training features.
        scale: (D,) what they are divided by.
        coef: (num_outputs, D).
        intercept: (num_outputs,).
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save

    constants = {"mean": mean, "scale": scale, "weight": np.asarray(coef).T, "bias": intercept}
    num_features, num_outputs = constants["weight"].shape
    nodes = [
        helper.make_node("Sub", [FEATURES, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standardised"]),
        helper.make_node("Gemm", ["standardised", "weight", "bias"], [LOGITS]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear_probe",
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", num_features])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", num_outputs])],
        [numpy_helper.from_array(np.ascontiguousarray(v, dtype=np.float32), name=k) for k, v in constants.items()],
    )
    # IR version 10 belongs to opset 18 runtimes; onnx's default is newer than some onnxruntime can read.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10, producer_name="mien"
    )
    checker.check_model(model)
    with atomic_path(path) as temporary:
        save(model, str(temporary))


def count_parameters(path: Path) -> int:
    """Return how many numbers an ONNX file's initialisers hold, running statistics of batch norm counted too.

    Integer tables (int64, int32) are shapes and indices and don't count; int8 weights do.
    """
    from onnx import TensorProto, load

    shapes_only = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
    graph = load(str(path), load_external_data=False).graph
    return sum(math.prod(t.dims) for t in graph.initializer if t.data_type not in shapes_only)
