"""One ONNX of all that a bundle computes: pixels, personal baseline, head, probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, checker, compose, helper, load, numpy_helper, version_converter

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.runtime.baseline import PersonalBaseline
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import EncoderSpec

OPSET = 18
IR_VERSION = 10
PIXELS, FEATURES, LOGITS, PROBABILITIES = "pixels", "features", "logits", "probabilities"

Start = Literal["pixels", "features", "windows"]


@dataclass(frozen=True)
class SingleGraph:
    """A bundle as one graph.

    Attributes:
        model: The graph, with the outputs `logits` (N, K) and, unless the target is of numbers, `probabilities`.
        start: What it takes: `pixels` (N, S, S, 3) uint8 RGB, the crop as the encoder sees it; `features` (N, D) where
            the encoder isn't an ONNX; `windows` for a sequence network (see `bundle.json`, `windows`).
        takes: The same in words, with the size, and what one batch has to be.
    """

    model: ModelProto
    start: Start
    takes: str


def single_graph(bundle: Bundle) -> SingleGraph:
    """Join encoder, personal baseline and head of a bundle.

    The baselines `recording` and `running` are computed within the batch, which then has to hold the face frames of one
    recording in order of time.

    Raises:
        UserError: The personal baseline needs times (`first:S`, `segment:NAME`), which no picture holds, or the
            encoder's ONNX is of a version that can't be joined.
    """
    spec = bundle.spec
    head = _at_opset(load(str(bundle.path / "head.onnx")), what="head.onnx")
    ending = _ending(head, labels=spec.labels)
    if bundle.sequence_head is not None:
        names = ", ".join(bundle.sequence_head.windows.input_names)
        return SingleGraph(ending, "windows", f"windows as bundle.json says ({names}); features minus the baseline")
    if not bundle.needs_pictures:
        raise UserError(
            f"{spec.label} listens, and what it makes of sound ({spec.sound.name if spec.sound else 'its features'}) "
            "isn't part of one graph. Use the bundle itself."
        )
    if bundle.baseline.kind not in ("none", "recording", "running"):
        raise UserError(
            f"The personal baseline {bundle.baseline} needs to know when each picture was taken, so it can't be part "
            "of one ONNX. Export a model with the baseline none, recording or running, or use the bundle itself."
        )
    width = _width(head)
    joined = _joined(_baseline(bundle.baseline, width=width), ending, names=[(FEATURES, FEATURES)])
    batch = "any batch" if bundle.baseline.kind == "none" else "a batch is the face frames of ONE recording, by time"
    encoder = bundle.path / "encoder.onnx"
    if not encoder.is_file() or spec.encoder is None:
        return SingleGraph(joined, "features", f"raw (N, {width}): features of {spec.builtin_encoder}; {batch}")
    pixels = _joined(
        _prelude(spec.encoder),
        _flat(_at_opset(load(str(encoder)), what="encoder.onnx"), spec=spec.encoder),
        names=[("normalised", spec.encoder.input_name)],
    )
    whole = _joined(pixels, joined, names=[("flat", "raw")])
    checker.check_model(whole)
    size = spec.encoder.size_px
    return SingleGraph(whole, "pixels", f"pixels (N, {size}, {size}, 3) uint8 RGB, cut as bundle.json says; {batch}")


def _model(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name=key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="mien"
    )


def _floats(name: str, *shape: str | int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _prelude(spec: EncoderSpec) -> ModelProto:
    """Build `normalise_pixels` as a graph."""
    size = spec.size_px
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", size, size, 3])
    nodes = [helper.make_node("Cast", [PIXELS], ["cast"], to=TensorProto.FLOAT)]
    last = "cast"
    if spec.channels == "BGR":
        nodes.append(helper.make_node("Gather", [last, "order"], ["ordered"], axis=3))
        last = "ordered"
    nodes += [
        helper.make_node("Mul", [last, "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["divided"]),
    ]
    channels_first = spec.layout == "NCHW"
    kind = ("Transpose", {"perm": [0, 3, 1, 2]}) if channels_first else ("Identity", {})
    nodes.append(helper.make_node(kind[0], ["divided"], ["normalised"], **kind[1]))
    shape = ("batch", 3, size, size) if channels_first else ("batch", size, size, 3)
    order = {"order": np.array([2, 1, 0], np.int64)} if spec.channels == "BGR" else {}
    return _model(
        "normalise", nodes, [pixels], [_floats("normalised", *shape)], **order,
        scale=np.float32(spec.scale), mean=np.asarray(spec.mean, np.float32), std=np.asarray(spec.std, np.float32),
    )  # fmt: skip


def _flat(model: ModelProto, *, spec: EncoderSpec) -> ModelProto:
    """Let an encoder end in `flat` (N, D), whatever the shape of its features, and in nothing else."""
    graph = model.graph
    graph.node.append(helper.make_node("Flatten", [spec.output_name], ["flat"], axis=1))
    del graph.output[:]
    graph.output.append(_floats("flat", "batch", "width"))
    return model


def _baseline(baseline: PersonalBaseline, *, width: int) -> ModelProto:
    """Build the personal baseline within a batch: `raw` (N, D) to `features` (N, D)."""
    if baseline.kind == "none":
        nodes = [helper.make_node("Identity", ["raw"], [FEATURES])]
        constants: dict[str, Any] = {}
    elif baseline.kind == "recording":
        nodes = [
            helper.make_node("ReduceMean", ["raw", "first_axis"], ["own"], keepdims=1),
            helper.make_node("Sub", ["raw", "own"], [FEATURES]),
        ]
        constants = {"first_axis": np.array([0], np.int64)}
    else:  # running: the mean of all frames so far, this one included
        nodes = [
            helper.make_node("CumSum", ["raw", "axis"], ["sums"]),
            helper.make_node("Slice", ["raw", "from", "to", "columns"], ["column"]),
            helper.make_node("Mul", ["column", "none"], ["zeros"]),
            helper.make_node("Add", ["zeros", "one"], ["ones"]),
            helper.make_node("CumSum", ["ones", "axis"], ["counts"]),
            helper.make_node("Div", ["sums", "counts"], ["own"]),
            helper.make_node("Sub", ["raw", "own"], [FEATURES]),
        ]
        constants = {
            "axis": np.array(0, np.int64), "from": np.array([0], np.int64), "to": np.array([1], np.int64),
            "columns": np.array([1], np.int64), "none": np.float32(0), "one": np.float32(1),
        }  # fmt: skip
    return _model("baseline", nodes, [_floats("raw", "batch", width)], [_floats(FEATURES, "batch", width)], **constants)


def _ending(head: ModelProto, *, labels: LabelScheme) -> ModelProto:
    """Let a head end in `logits` and `probabilities`; numbers have none."""
    if labels.kind == "continuous":
        return head
    kind = ("Softmax", {"axis": 1}) if labels.kind == "multiclass" else ("Sigmoid", {})
    head.graph.node.append(helper.make_node(kind[0], [LOGITS], [PROBABILITIES], **kind[1]))
    head.graph.output.append(_floats(PROBABILITIES, "batch", labels.num_outputs))
    return head


def _joined(first: ModelProto, second: ModelProto, *, names: list[tuple[str, str]]) -> ModelProto:
    """Join two graphs; their inner names get a prefix, inputs and outputs of the whole keep theirs."""
    whole = compose.merge_models(
        first, second, io_map=names, prefix1="a_", prefix2="b_",
        producer_name="mien",
    )  # fmt: skip
    joints = {"a_": {old for old, _ in names}, "b_": {new for _, new in names}}
    back = {
        f"{prefix}{item.name}": item.name
        for prefix, graph in (("a_", first.graph), ("b_", second.graph))
        for item in (*graph.input, *graph.output)
        if item.name not in joints[prefix]
    }
    for node in whole.graph.node:
        node.input[:] = [back.get(name, name) for name in node.input]
        node.output[:] = [back.get(name, name) for name in node.output]
    for item in (*whole.graph.input, *whole.graph.output):
        item.name = back.get(item.name, item.name)
    return _declared(whole)


def _declared(model: ModelProto) -> ModelProto:
    """Let a model import the operator sets that it uses, each once: joining leaves repetitions."""
    versions = {item.domain: item.version for item in model.opset_import}
    used = {node.domain for node in model.graph.node} | {""}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, versions[domain]) for domain in sorted(used))
    return model


def _at_opset(model: ModelProto, *, what: str) -> ModelProto:
    """Return a model at the opset and IR version that all parts share."""
    versions = {item.domain: item.version for item in model.opset_import}
    if versions.get("", 0) != OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises untyped errors
            raise UserError(
                f"{what} is of ONNX opset {versions.get('')}, which can't be turned into {OPSET} "
                f"({str(error).splitlines()[0]}). Save the backbone with opset {OPSET} and train the bundle again."
            ) from error
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(d, OPSET if d == "" else v) for d, v in {**versions, "": OPSET}.items()
    )
    model.ir_version = IR_VERSION
    del model.graph.value_info[:]
    return model


def _width(head: ModelProto) -> int:
    return int(head.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def save_model(model: ModelProto, path: Path) -> None:
    """Write a graph, checked."""
    from onnx import save

    checker.check_model(model)
    save(model, str(path))
