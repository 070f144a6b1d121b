"""Post-training quantisation to int8, calibrated on clips of the training."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError

QUANTISED = ("Conv", "MatMul", "Gemm")
"""Where weights and time are; normalisation, baseline and probabilities stay float32."""


def quantise(source: Path, target: Path, *, inputs: Iterable[dict[str, NDArray[Any]]]) -> None:
    """Write a graph with int8 weights and activations (ONNX Runtime, QDQ, a scale per channel).

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

        def __init__(self) -> None:
            self._given: Iterator[dict[str, NDArray[Any]]] = iter(inputs)
            self.count = 0

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            """Return the next batch, None after the last."""
            batch = next(self._given, None)
            self.count += batch is not None
            return batch

    clips = Clips()
    prepared = source.with_name("prepared.onnx")
    with _quiet():
        # Without it, batch norms stay beside their convolutions and cost what int8 gains.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            clips,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
        )
    if not clips.count:
        raise UserError("No clip of a training participant to calibrate int8 on. Give the dataset of the training.")
    if target.stat().st_size == 0 or not _has_int8(target):
        raise UserError("The graph has no convolution or matrix product that int8 could make smaller.")


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
