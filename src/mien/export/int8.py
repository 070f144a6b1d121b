"""Post-training quantisation to int8, calibrated on clips of the training."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.export.graph import LOGITS

QUANTISED = ("Conv", "MatMul", "Gemm")
"""Where weights and time are; normalisation, baseline and probabilities stay float32, and so does the last product,
which makes the logits: it is small, and 256 levels would be all that they have."""
WEIGHT_BITS = 7
"""Of 8: see `quantise`."""


def quantise(source: Path, target: Path, *, inputs: Iterable[dict[str, NDArray[Any]]]) -> None:
    """Write a graph with int8 weights and activations (ONNX Runtime, QDQ).

    Weights have a scale per channel, activations one between the lowest and the highest value that was seen. Weights
    take 7 of the 8 bits: x86 processors without VNNI add pairs of products in 16 bits, which overflow with 8 (ONNX
    Runtime's guide to quantisation), so that the file would say something else there than where its loss was measured.

    Args:
        source: A float32 graph.
        target: The file to write.
        inputs: What the ranges of activations are measured on: batches of clips of training participants.

    Raises:
        UserError: The graph has nothing to quantise, or no clip to measure on.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Clips(CalibrationDataReader):  # type: ignore[misc]
        """Hands the clips to ONNX Runtime, batch by batch."""

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Return the next batch, None after the last."""
            return next(given, None)

    rest = iter(inputs)
    first = next(rest, None)
    if first is None:
        raise UserError("No clip of a training participant to calibrate int8 on. Give the dataset of the training.")
    given = itertools.chain([first], rest)
    prepared = source.with_name("prepared.onnx")
    with _quiet():
        # Without it, batch norms stay beside their convolutions and cost what int8 gains.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Clips(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=WEIGHT_BITS < 8,
            nodes_to_exclude=_makers_of_logits(prepared),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
        )
    if target.stat().st_size == 0 or not _has_int8(target):
        raise UserError("The graph has no convolution or matrix product before its last that int8 could make smaller.")


def _makers_of_logits(path: Path) -> list[str]:
    """Return the name of the node that makes the logits, after giving every node of a file one."""
    from onnx import load, save

    model = load(str(path))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    save(model, str(path))
    return [node.name for node in model.graph.node if LOGITS in node.output]


def _has_int8(path: Path) -> bool:
    from onnx import TensorProto, load

    return any(tensor.data_type == TensorProto.INT8 for tensor in load(str(path)).graph.initializer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which logs and prints its steps."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        root.setLevel(level)
