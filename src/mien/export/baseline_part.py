"""The personal baseline (`mien.runtime.baseline`) within one batch, as a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from mien.core.errors import UserError
from mien.export.onnx_parts import floats, make_part
from mien.runtime.baseline import PersonalBaseline

FEATURES, PERSONAL, TIMES = "features", "personal", "pts_s"

ONE_RECORDING = "of ONE recording, all of them in one batch, in order of time"


def batch_rule(baseline: PersonalBaseline, *, rows: str) -> str:
    """Say what one batch has to be; `rows` names what its rows are, such as "the frames with a face"."""
    if baseline.kind == "none":
        return "any batch"
    times = f"; {TIMES} (N,) float64: when each was taken, s" if baseline.kind == "first" else ""
    return f"a batch is {rows} {ONE_RECORDING}{times}"


def baseline_part(baseline: PersonalBaseline, *, width: int) -> ModelProto:
    """Build `features` (N, D), and for `first` also `pts_s` (N,) float64 seconds, to `personal` (N, D).

    Raises:
        UserError: The baseline is over a named segment of a study, which no input of a new recording holds.
    """
    if baseline.kind == "segment":
        raise UserError(
            f"The personal baseline {baseline} is over a named segment of a study's segments.csv, which a new "
            "recording doesn't have, so it can't be part of one ONNX. Export a model with the baseline none, "
            "recording, running or first:SECONDS."
        )
    inputs = [floats(FEATURES, "batch", width)]
    if baseline.kind == "first":
        # float32 would move a frame that lies on the end of the stretch to the other side of it.
        inputs.append(helper.make_tensor_value_info(TIMES, TensorProto.DOUBLE, ["batch"]))
    nodes, constants = _NODES[baseline.kind](baseline)
    return make_part("baseline", nodes, inputs, [floats(PERSONAL, "batch", width)], **constants)


Nodes = tuple[list[Any], dict[str, Any]]


def _none(_: PersonalBaseline) -> Nodes:
    return [helper.make_node("Identity", [FEATURES], [PERSONAL])], {}


def _recording(_: PersonalBaseline) -> Nodes:
    nodes = [
        helper.make_node("ReduceMean", [FEATURES, "rows"], ["own"], keepdims=1),
        helper.make_node("Sub", [FEATURES, "own"], [PERSONAL]),
    ]
    return nodes, {"rows": np.array([0], np.int64)}


def _running(_: PersonalBaseline) -> Nodes:
    """Subtract the mean of all rows so far, the present one included."""
    nodes = [
        helper.make_node("CumSum", [FEATURES, "axis"], ["sums"]),
        helper.make_node("Slice", [FEATURES, "from", "to", "columns"], ["column"]),
        helper.make_node("Mul", ["column", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("CumSum", ["ones", "axis"], ["counts"]),
        helper.make_node("Div", ["sums", "counts"], ["own"]),
        helper.make_node("Sub", [FEATURES, "own"], [PERSONAL]),
    ]
    return nodes, {
        "axis": np.array(0, np.int64), "from": np.array([0], np.int64), "to": np.array([1], np.int64),
        "columns": np.array([1], np.int64), "none": np.float32(0), "one": np.float32(1),
    }  # fmt: skip


def _first(baseline: PersonalBaseline) -> Nodes:
    """Subtract the mean of the rows of the first seconds, counted from the first row."""
    nodes = [
        helper.make_node("ReduceMin", [TIMES, "rows"], ["first_s"], keepdims=1),
        helper.make_node("Add", ["first_s", "seconds"], ["end_s"]),
        helper.make_node("Less", [TIMES, "end_s"], ["is_early"]),
        helper.make_node("Cast", ["is_early"], ["early"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["early", "columns"], ["weights"]),
        helper.make_node("Mul", [FEATURES, "weights"], ["chosen"]),
        helper.make_node("ReduceSum", ["chosen", "rows"], ["sums"], keepdims=1),
        helper.make_node("ReduceSum", ["weights", "rows"], ["count"], keepdims=1),
        helper.make_node("Div", ["sums", "count"], ["own"]),
        helper.make_node("Sub", [FEATURES, "own"], [PERSONAL]),
    ]
    constants = {"rows": np.array([0], np.int64), "columns": np.array([1], np.int64)}
    return nodes, {**constants, "seconds": np.float64(baseline.seconds)}


_NODES = {"none": _none, "recording": _recording, "running": _running, "first": _first}
