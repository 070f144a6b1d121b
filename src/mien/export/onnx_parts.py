"""Pieces of one ONNX: small graphs with named ends, joined into one at a shared opset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, compose, helper, load, numpy_helper, save, version_converter

from mien.core.errors import UserError

OPSET = 18
IR_VERSION = 10
FLAT = "mien_features"
"""What every encoder ends in, (N, D); a name that no backbone of others has inside."""


def make_part(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> ModelProto:
    """Build a graph of nodes; constants become its initialisers, by name."""
    tensors = [numpy_helper.from_array(np.asarray(value), name=key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="mien"
    )


def floats(name: str, *shape: str | int) -> Any:
    """Return what a float32 input or output is called, and its shape; a text is a size that may vary."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def join_parts(first: ModelProto, second: ModelProto, *, names: list[tuple[str, str]]) -> ModelProto:
    """Join two graphs; their inner names get a prefix, inputs and outputs of the whole keep theirs.

    Args:
        first: What comes first.
        second: What follows.
        names: Pairs of an output of the first and the input of the second that it becomes.
    """
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


def at_shared_opset(model: ModelProto, *, what: str) -> ModelProto:
    """Return a model at the opset and IR version that all parts share.

    Raises:
        UserError: It can't be converted; `what` names it.
    """
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


def save_model(model: ModelProto, path: Path) -> None:
    """Write a graph, checked."""
    checker.check_model(model)
    save(model, str(path))


def save_with_notes(source: Path, target: Path, *, notes: Mapping[str, str]) -> None:
    """Write a graph with notes in its metadata, which runtimes show and don't compute with."""
    model = load(str(source))
    helper.set_model_props(model, dict(notes))
    save(model, str(target))
