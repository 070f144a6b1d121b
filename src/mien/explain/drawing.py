"""Maps as pictures: the crop beside its overlay with a colour bar and a caption, and the overlay on whole frames."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mien.core.numbers import short_number
from mien.core.storage import atomic_path
from mien.explain.methods import Method
from mien.explain.perturbation import enlarged

SHOWN_PX = 320
"""Side of a crop in the picture: an encoder's 64 px would be a stamp."""
WIDTH_IN, DPI = 7.6, 100
LINE_CHARACTERS, FRAME_CHARACTERS = 124, 84
"""What fits in a line under a crop, and under a whole frame of any width."""
OPACITY = 0.6
"""Of the strongest places; weak ones let the face through."""
SIGNED_COLOURS, RISING_COLOURS = "RdBu_r", "inferno"


@dataclass(frozen=True)
class Shown:
    """What stands beside a map.

    Attributes:
        heading: The answer with its probability and time.
        caption: What the map is.
        footer: Its sanity scores, and who annotated.
    """

    heading: str
    caption: str
    footer: str


def heading(*, answer: str, probability: float, time_s: float | None, empty: bool = False) -> str:
    """Write a picture's first line.

    >>> heading(answer="Smile", probability=0.974, time_s=12.0)
    'Smile .97 at 12.00 s'
    """
    when = "" if time_s is None else f" at {time_s:.2f} s"
    nothing = ": the map is the same everywhere, so it shows nothing" if empty else ""
    return f"{answer} {short_number(probability)}{when}{nothing}"


def picture_name(recording_id: str, *, row: int, time_s: float | None) -> str:
    """Return the name of a frame's PNG; a picture, which has no time, has no number either.

    >>> picture_name("Übung 1/a", row=7, time_s=3.5)
    'Übung_1_a-000007-3.500s.png'
    """
    safe = re.sub(r"[^\w.-]+", "_", recording_id).strip("._") or "recording"
    return f"{safe}.png" if time_s is None else f"{safe}-{row:06d}-{time_s:.3f}s.png"


def scaled(values: NDArray[np.floating], *, signed: bool) -> NDArray[np.float64]:
    """Scale a map to -1..1 around 0 where its sign means something, else to 0..1; a constant one to 0.

    >>> scaled(np.array([[1.0, 3.0]]), signed=False).tolist()
    [[0.0, 1.0]]
    """
    array = np.asarray(values, np.float64)
    if signed:
        peak = float(np.abs(array).max())
        return array / peak if peak > 0 else array * 0.0
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else array * 0.0


def overlay(rgb: NDArray[np.uint8], values: NDArray[np.floating], *, signed: bool) -> NDArray[np.uint8]:
    """Lay a scaled map over a square picture (S, S, 3), the more opaque the stronger it is."""
    size = rgb.shape[0]
    strength = np.clip(enlarged(values, size_px=size), -1.0, 1.0)
    colours = mpl.colormaps[SIGNED_COLOURS if signed else RISING_COLOURS]
    painted = np.asarray(colours((strength + 1) / 2 if signed else strength))[..., :3] * 255.0
    opacity = OPACITY * np.abs(strength)[..., None]
    return np.asarray(np.round((1 - opacity) * rgb + opacity * painted), np.uint8)


def write_picture(
    path: Path, *, pixels: NDArray[np.uint8], values: NDArray[np.floating], method: Method, shown: Shown
) -> None:
    """Write a PNG: the crop, the overlay, a colour bar and the caption.

    Args:
        path: The file.
        pixels: (S, S, 3) as the encoder sees it.
        values: (g, g) map.
        method: How it was made.
        shown: The text.
    """
    crop = np.asarray(cv2.resize(pixels, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_LINEAR), np.uint8)
    levels = scaled(values, signed=method.signed)
    footer = "\n".join(wrapped(shown.footer.split("\n"), characters=LINE_CHARACTERS))
    height_in = 4.6 + 0.17 * footer.count("\n")
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    FigureCanvasAgg(figure)
    side_in, gap_in = 3.2, 0.15
    bottom = (height_in - 0.72 - side_in) / height_in
    for number, picture in enumerate((crop, overlay(crop, levels, signed=method.signed))):
        left = (0.2 + number * (side_in + gap_in)) / WIDTH_IN
        axes = figure.add_axes((left, bottom, side_in / WIDTH_IN, side_in / height_in))
        axes.imshow(picture)
        axes.set_axis_off()
    _colour_bar(figure, method=method, bottom=bottom, height=side_in / height_in)
    figure.text(0.2 / WIDTH_IN, 1 - 0.12 / height_in, shown.heading, fontsize=12, weight="bold", va="top")
    figure.text(0.2 / WIDTH_IN, 1 - 0.42 / height_in, shown.caption, fontsize=9, va="top")
    figure.text(0.2 / WIDTH_IN, bottom - 0.1 / height_in, footer, fontsize=8, color="#444444", va="top")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _colour_bar(figure: Figure, *, method: Method, bottom: float, height: float) -> None:
    low, names = (-1.0, ["against", "0", "for"]) if method.signed else (0.0, ["low", "high"])
    gradient = np.linspace(low, 1.0, 256)[:, None]
    axes = figure.add_axes((6.85 / WIDTH_IN, bottom, 0.14 / WIDTH_IN, height))
    axes.imshow(
        gradient,
        aspect="auto",
        origin="lower",
        cmap=SIGNED_COLOURS if method.signed else RISING_COLOURS,
        extent=(0.0, 1.0, low, 1.0),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(np.linspace(low, 1.0, len(names)).tolist(), names, fontsize=8)


def wrapped(lines: Sequence[str], *, characters: int) -> list[str]:
    """Break lines that are too long.

    >>> wrapped(["a bc", "d"], characters=3)
    ['a', 'bc', 'd']
    """
    return [part for line in lines for part in textwrap.wrap(line, characters)]


class FrameCaption:
    """Lines of text as pixels, drawn once per text: whole frames of a video share most of them."""

    def __init__(self, *, width_px: int) -> None:
        self._width_px = width_px
        self._drawn: dict[tuple[str, ...], NDArray[np.uint8]] = {}

    def draw(self, lines: tuple[str, ...]) -> NDArray[np.uint8]:
        """Return the lines as a strip (h, width_px, 3) uint8, dark on white."""
        if lines not in self._drawn:
            self._drawn.clear()  # one at a time: a long video has many
            self._drawn[lines] = self._render(lines)
        return self._drawn[lines]

    def _render(self, lines: tuple[str, ...]) -> NDArray[np.uint8]:
        size_px = max(10.0, self._width_px / 52)
        height_px = round(size_px * 1.5 * len(lines) + size_px * 0.6)
        figure = Figure(figsize=(self._width_px / DPI, height_px / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        for number, line in enumerate(lines):
            top = 1 - size_px * (0.3 + 1.5 * number) / height_px
            options: dict[str, Any] = {"weight": "bold"} if number == 0 else {}
            figure.text(0.01, top, line, fontsize=size_px * 72 / DPI, va="top", **options)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
        return np.array(drawn[:height_px, : self._width_px], np.uint8)
