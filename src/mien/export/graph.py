"""One ONNX of all that a bundle computes: pixels or sound, personal baseline, head, probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, load, numpy_helper

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.evaluation.calibration import Calibration
from mien.export.baseline_part import FEATURES, PERSONAL, TIMES, baseline_part, batch_rule
from mien.export.hog_part import PIXELS, hog_part
from mien.export.onnx_parts import FLAT, at_shared_opset, floats, join_parts, make_part
from mien.export.sound_part import SOUND, logmel_part, normalising_part
from mien.runtime.bundle import SOUND_FILE, Bundle
from mien.runtime.encoders import EncoderSpec
from mien.runtime.sound_encoders import SoundSpec

LOGITS, PROBABILITIES, CALIBRATED = "logits", "probabilities", "calibrated"
LOGMEL = "logmel"

Start = Literal["pixels", "sound", "windows"]


@dataclass(frozen=True)
class SingleGraph:
    """A bundle as one graph.

    Attributes:
        model: The graph, with the outputs `logits` (N, K), unless the target is of numbers `probabilities`, and where
            all outputs of the bundle are calibrated `calibrated`, all (N, K).
        start: What it takes: `pixels` (N, S, S, 3) uint8 RGB, the crop as the encoder sees it; `sound` (N, S), the
            window as the encoder of sound hears it; `windows` for a sequence network (see `bundle.json`, `windows`).
            The first two come with `pts_s` (N,) where the baseline needs it.
        takes: The same in words, with the size, and what one batch has to be.
        one_by_one: Whether a batch is one row.
    """

    model: ModelProto
    start: Start
    takes: str
    one_by_one: bool = False

    @property
    def needs_times(self) -> bool:
        """Whether the graph is given the time of each row."""
        return TIMES in [item.name for item in self.model.graph.input]


def single_graph(bundle: Bundle) -> SingleGraph:
    """Join encoder, personal baseline and head of a bundle.

    The personal baselines are computed within the batch, which then has to hold all of one recording.

    Raises:
        UserError: The personal baseline is over a named segment; what the model hears is made by openSMILE, or by a
            speech network under a personal baseline; or the encoder's ONNX is of a version that can't be joined.
    """
    spec = bundle.spec
    head = at_shared_opset(load(str(bundle.path / "head.onnx")), what="head.onnx")
    width = int(head.graph.input[0].type.tensor_type.shape.dim[-1].dim_value)
    ending = _ending(head, labels=spec.labels, calibration=spec.calibration)
    if bundle.sequence_head is not None:
        return SingleGraph(ending, "windows", _windows_in_words(bundle))
    if not bundle.needs_pictures:
        assert spec.sound is not None, "a model of one moment looks, or it listens"
        return _listening(bundle, spec.sound, ending=ending, width=width)
    rule = batch_rule(bundle.baseline, rows="the frames with a face")
    joined = join_parts(baseline_part(bundle.baseline, width=width), ending, names=[(PERSONAL, FEATURES)])
    assert spec.encoder is not None, "a model of one moment that looks has an encoder"
    encoder = bundle.path / "encoder.onnx"
    if encoder.is_file():
        looks = join_parts(
            _pixels_part(spec.encoder),
            _flat(at_shared_opset(load(str(encoder)), what="encoder.onnx"), output=spec.encoder.output_name),
            names=[("normalised", spec.encoder.input_name)],
        )
    else:
        assert spec.builtin_encoder == "hog", "the one built-in encoder of pictures"
        looks = hog_part()
    whole = join_parts(looks, joined, names=[(FLAT, FEATURES)])
    checker.check_model(whole)
    size = spec.encoder.size_px
    return SingleGraph(whole, "pixels", f"pixels (N, {size}, {size}, 3) uint8 RGB, cut as bundle.json says; {rule}")


def _listening(bundle: Bundle, sound: SoundSpec, *, ending: ModelProto, width: int) -> SingleGraph:
    """Join what listens: the built-in statistics of the spectrogram, or a speech network, one window at a time."""
    window = f"windows of {sound.window_s:g} s (of a shorter recording all of it) at 16 kHz, -1 to 1"
    network = bundle.path / SOUND_FILE
    if not network.is_file():
        if sound.name != LOGMEL:
            raise UserError(
                f"{bundle.spec.label} listens to {sound.name}, which openSMILE computes and no ONNX can. Use the "
                "bundle itself, or export a model of linear_probe@logmel."
            )
        hears = logmel_part()
        joined = join_parts(baseline_part(bundle.baseline, width=width), ending, names=[(PERSONAL, FEATURES)])
        whole = join_parts(hears, joined, names=[(FLAT, FEATURES)])
        rule = batch_rule(bundle.baseline, rows="the moments that can be heard")
        return SingleGraph(whole, "sound", f"sound (N, S): {window}; {rule}")
    if bundle.baseline.kind != "none":
        raise UserError(
            f"{bundle.spec.label} listens through a speech network, whose ONNX takes one window at a time, while the "
            f"personal baseline {bundle.baseline} needs all of a recording at once. Use the bundle itself, or export a "
            "model without a baseline."
        )
    speech = _flat(at_shared_opset(load(str(network)), what=SOUND_FILE), output=FEATURES)
    if sound.normalise:
        hears = join_parts(normalising_part(), speech, names=[("normalised", "samples")])
    else:
        renamed = make_part("sound", [helper.make_node("Identity", [SOUND], ["kept"])],
                            [floats(SOUND, 1, "samples")], [floats("kept", 1, "samples")])  # fmt: skip
        hears = join_parts(renamed, speech, names=[("kept", "samples")])
    whole = join_parts(hears, ending, names=[(FLAT, FEATURES)])
    return SingleGraph(whole, "sound", f"sound (1, S): ONE of the {window}", one_by_one=True)


def _windows_in_words(bundle: Bundle) -> str:
    assert bundle.sequence_head is not None
    spec = bundle.spec
    names = ", ".join(bundle.sequence_head.windows.input_names)
    heard = "" if spec.sound is None else f"; audio is {spec.sound.name}'s features, step by step"
    subtracted = "" if bundle.baseline.kind == "none" else f"; features minus the baseline {bundle.baseline}"
    return f"windows as bundle.json says ({names}){heard}{subtracted}"


def _pixels_part(spec: EncoderSpec) -> ModelProto:
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
    return make_part(
        "normalise", nodes, [pixels], [floats("normalised", *shape)], **order,
        scale=np.float32(spec.scale), mean=np.asarray(spec.mean, np.float32), std=np.asarray(spec.std, np.float32),
    )  # fmt: skip


def _flat(model: ModelProto, *, output: str) -> ModelProto:
    """Let an encoder end in `FLAT` (N, D), whatever the shape of its features, and in nothing else."""
    graph = model.graph
    graph.node.append(helper.make_node("Flatten", [output], [FLAT], axis=1))
    del graph.output[:]
    graph.output.append(floats(FLAT, "batch", "width"))
    return model


def _ending(head: ModelProto, *, labels: LabelScheme, calibration: dict[str, dict[str, Any]]) -> ModelProto:
    """Let a head end in `logits`, `probabilities` and, where all is calibrated, `calibrated`; numbers have none."""
    if labels.kind == "continuous":
        return head
    graph = head.graph
    kind = ("Softmax", {"axis": 1}) if labels.kind == "multiclass" else ("Sigmoid", {})
    graph.node.append(helper.make_node(kind[0], [LOGITS], [PROBABILITIES], **kind[1]))
    graph.output.append(floats(PROBABILITIES, "batch", labels.num_outputs))
    maps = _calibrations(labels, calibration)
    if maps is not None:
        slopes, intercepts = maps
        graph.initializer.extend(
            numpy_helper.from_array(values.astype(np.float32), name=name)
            for name, values in (("calibration_slope", slopes), ("calibration_intercept", intercepts))
        )
        graph.node.extend(
            [
                helper.make_node("Mul", [LOGITS, "calibration_slope"], ["steep_logits"]),
                helper.make_node("Add", ["steep_logits", "calibration_intercept"], ["moved_logits"]),
                helper.make_node(kind[0], ["moved_logits"], [CALIBRATED], **kind[1]),
            ]
        )
        graph.output.append(floats(CALIBRATED, "batch", labels.num_outputs))
    return head


def _calibrations(labels: LabelScheme, stored: dict[str, dict[str, Any]]) -> tuple[Any, Any] | None:
    """Return slopes and intercepts (K,) of all outputs; None where any output has no calibration."""
    outputs = (labels.target,) if labels.kind == "multiclass" else labels.output_names
    maps = [Calibration.from_json(stored[name]) for name in outputs if name in stored]
    if len(maps) < len(outputs) or any(one.note for one in maps):
        return None
    slopes = [one.slope for one in maps for _ in one.intercepts]
    return np.array(slopes), np.array([value for one in maps for value in one.intercepts])
