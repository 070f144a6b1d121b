"""The built-in encoder of pictures (`mien.runtime.encoders.HogEncoder`) as a graph: OpenCV's HOG in plain operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from mien.export.onnx_parts import FLAT, floats, make_part

PIXELS = "pixels"

SIDE, BLOCK, STRIDE, CELL, BINS = 96, 32, 16, 16, 9
"""Of `HogEncoder`: window, block, block stride and cell, px, and orientations."""

BLOCKS, CELLS = (SIDE - BLOCK) // STRIDE + 1, BLOCK // CELL
BLOCK_VALUES = CELLS * CELLS * BINS

GREY, GREY_UNIT = (9798.0, 19235.0, 3735.0), 32768.0
"""OpenCV's weights of red, green and blue: 15-bit integers, and half a unit is added before the fraction goes."""

ARCTANGENT = (0.9997878412794807, -0.3258083974640975, 0.1555786518463281, -0.04432655554792128)
"""OpenCV's odd polynomial (c, c^3, c^5, c^7) for angles up to 45 degrees; it is off by up to 1e-4, and so is HOG."""

SIGMA_PX = 8.0  # of a block's Gaussian weights: an eighth of its width and height together
LARGEST_SHARE = 0.2  # values of a block are cut there, and normalised again (L2-Hys)


def hog_part() -> ModelProto:
    """Build `pixels` (N, 96, 96, 3) uint8 RGB to `FLAT` (N, 900), in OpenCV's order: blocks, cells, orientations.

    Histograms of oriented gradients (Dalal and Triggs 2005, CVPR): each pixel gives its gradient's size to the two
    orientations and the four cells beside it. So a histogram is a convolution, with the cells' weights, of maps of the
    orientations.
    """
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    nodes = [*_grey_nodes(), *_gradient_nodes(), *_angle_nodes(), *_orientation_nodes(), *_block_nodes()]
    terms = {f"arctangent_{power}": np.float32(value) for power, value in zip((1, 3, 5, 7), ARCTANGENT, strict=True)}
    return make_part(
        "hog", nodes, [pixels], [floats(FLAT, "batch", BLOCKS * BLOCKS * BLOCK_VALUES)],
        grey_weights=np.array(GREY, np.float32)[:, None], grey_unit=np.float32(GREY_UNIT), half=np.float32(0.5),
        border=np.array([0, 1, 1, 0, 0, 1, 1, 0], np.int64), rows_columns=np.array([1, 2], np.int64),
        left=np.array([1, 0], np.int64), left_end=np.array([-1, -2], np.int64),
        right=np.array([1, 2], np.int64), right_end=np.array([-1, np.iinfo(np.int64).max], np.int64),
        above=np.array([0, 1], np.int64), above_end=np.array([-2, -1], np.int64),
        below=np.array([2, 1], np.int64), below_end=np.array([np.iinfo(np.int64).max, -1], np.int64),
        tiny=np.float32(np.finfo(np.float64).eps), zero=np.float32(0), one=np.float32(1), quarter=np.float32(np.pi / 2),
        whole=np.float32(np.pi), turn=np.float32(2 * np.pi), per_bin=np.float32(BINS / np.pi),
        bins=np.arange(BINS, dtype=np.float32), num_bins=np.float32(BINS), half_bins=np.float32(BINS / 2),
        cells=_cell_weights(), few=np.float32(0.1 * BLOCK_VALUES), least=np.float32(1e-3),
        most=np.float32(LARGEST_SHARE), values=np.array([2], np.int64),
        apart=np.array([-1, BINS, CELLS, CELLS, BLOCKS, BLOCKS], np.int64),
        by_block=np.array([-1, BLOCKS * BLOCKS, BLOCK_VALUES], np.int64), **terms,
    )  # fmt: skip


def _node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def _grey_nodes() -> list[Any]:
    """Integers up to 2^23 are exact in float32, so the grey is OpenCV's to the last bit."""
    return [
        _node("Cast", PIXELS, "colours", to=TensorProto.FLOAT),
        _node("MatMul", "colours grey_weights", "grey_sum"),
        _node("Div", "grey_sum grey_unit", "grey_exact"),
        _node("Add", "grey_exact half", "grey_above"),
        _node("Floor", "grey_above", "grey"),
        _node("Pad", "grey border", "padded", mode="reflect"),
    ]


def _gradient_nodes() -> list[Any]:
    sides = [_node("Slice", f"padded {name} {name}_end rows_columns", f"at_{name}")
             for name in ("left", "right", "above", "below")]  # fmt: skip
    return [
        *sides,
        _node("Sub", "at_right at_left", "dx"),
        _node("Sub", "at_below at_above", "dy"),
        _node("Mul", "dx dx", "dx_square"),
        _node("Mul", "dy dy", "dy_square"),
        _node("Add", "dx_square dy_square", "square"),
        _node("Sqrt", "square", "size"),
    ]


def _angle_nodes() -> list[Any]:
    """From the angle within 45 degrees to that of the whole turn, 0 to 2 pi."""
    return [
        _node("Abs", "dx", "width"),
        _node("Abs", "dy", "height"),
        _node("Min", "width height", "shorter"),
        _node("Max", "width height", "longer"),
        _node("Add", "longer tiny", "longer_safe"),
        _node("Div", "shorter longer_safe", "ratio"),
        _node("Mul", "ratio ratio", "ratio_square"),
        _node("Mul", "ratio_square arctangent_7", "sum_7"),
        _node("Add", "sum_7 arctangent_5", "sum_5"),
        _node("Mul", "sum_5 ratio_square", "sum_5_times"),
        _node("Add", "sum_5_times arctangent_3", "sum_3"),
        _node("Mul", "sum_3 ratio_square", "sum_3_times"),
        _node("Add", "sum_3_times arctangent_1", "sum_1"),
        _node("Mul", "sum_1 ratio", "within_45"),
        _node("Less", "width height", "is_steep"),
        _node("Sub", "quarter within_45", "steep"),
        _node("Where", "is_steep steep within_45", "within_90"),
        _node("Less", "dx zero", "is_left"),
        _node("Sub", "whole within_90", "mirrored"),
        _node("Where", "is_left mirrored within_90", "within_180"),
        _node("Less", "dy zero", "is_up"),
        _node("Sub", "turn within_180", "upward"),
        _node("Where", "is_up upward within_180", "angle"),
    ]


def _orientation_nodes() -> list[Any]:
    """Give each pixel's gradient to the two orientations beside its own, of 9 that go round: (N, 9, 96, 96)."""
    return [
        _node("Mul", "angle per_bin", "place_whole"),
        _node("Sub", "place_whole half", "place"),
        _node("Sub", "place bins", "behind"),
        _node("Add", "behind half_bins", "behind_half"),
        _node("Div", "behind_half num_bins", "rounds_exact"),
        _node("Floor", "rounds_exact", "rounds"),
        _node("Mul", "rounds num_bins", "full_rounds"),
        _node("Sub", "behind_half full_rounds", "within_round"),
        _node("Sub", "within_round half_bins", "signed"),
        _node("Abs", "signed", "distance"),
        _node("Sub", "one distance", "nearness"),
        _node("Max", "nearness zero", "share"),
        _node("Mul", "share size", "maps_last"),
        _node("Transpose", "maps_last", "maps", perm=[0, 3, 1, 2]),
    ]


def _block_nodes() -> list[Any]:
    """Sum over cells, and normalise by block: L2, cut at `LARGEST_SHARE`, L2 again."""
    return [
        _node("Conv", "maps cells", "histograms", strides=[STRIDE, STRIDE], group=BINS),
        _node("Reshape", "histograms apart", "histograms_apart"),
        # Bin, cell across, cell down, block down, block across, to OpenCV's order.
        _node("Transpose", "histograms_apart", "in_order", perm=[0, 5, 4, 2, 3, 1]),
        _node("Reshape", "in_order by_block", "blocks"),
        _node("ReduceL2", "blocks values", "length", keepdims=1),
        _node("Add", "length few", "length_safe"),
        _node("Div", "blocks length_safe", "shares"),
        _node("Min", "shares most", "shares_cut"),
        _node("ReduceL2", "shares_cut values", "length_cut", keepdims=1),
        _node("Add", "length_cut least", "length_cut_safe"),
        _node("Div", "shares_cut length_cut_safe", "features"),
        _node("Flatten", "features", FLAT, axis=1),
    ]


def _cell_weights() -> NDArray[np.float32]:
    """Return how much a pixel of a block counts in each cell: (9 * 4, 1, 32, 32), of all bins alike."""
    place = (np.arange(BLOCK) + 0.5) / CELL - 0.5
    nearness = np.maximum(0.0, 1.0 - np.abs(place[None] - np.arange(CELLS)[:, None]))
    gauss = np.exp(-((np.arange(BLOCK) - BLOCK / 2) ** 2) / (2 * SIGMA_PX**2))
    along = nearness * gauss
    kernels = np.einsum("ax,by->abyx", along, along).reshape(CELLS * CELLS, 1, BLOCK, BLOCK)
    return np.tile(kernels, (BINS, 1, 1, 1)).astype(np.float32)
