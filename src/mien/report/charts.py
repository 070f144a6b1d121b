"""Charts as SVG text that takes its colours from the page: one file, light and dark, no request, the same bytes.

matplotlib draws with placeholder colours, which are then replaced by CSS variables (with a light-mode fallback), so a
chart follows the page's colour scheme. Text stays text. Ids get the chart's name as a prefix, because several charts
share one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from mien.evaluation.overfitting import best_epoch
from mien.report.wording import short_number

PX_PER_INCH = 72.0  # matplotlib's SVG unit is the point: at 72 per inch one point is one px of the page
FONT_PX = 12.5
STACKED_BELOW_PX = 600.0  # narrower charts put a row's name and its numbers below each other
FAN_WITHIN = 0.012  # dots nearer than this, in score, would cover each other

# Placeholder -> (CSS variable, fallback). Series colours are Okabe and Ito's, told apart with any colour vision.
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES_A, SERIES_B, FILL_A, BASELINE = "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07"
THEME = {
    INK: ("--ink", "#1c2530"),
    MUTED: ("--muted", "#5c6773"),
    GRID: ("--line", "#d8dde3"),
    SERIES_A: ("--series-a", "#0072b2"),
    SERIES_B: ("--series-b", "#d55e00"),
    FILL_A: ("--dot", "#56a5d6"),
    BASELINE: ("--baseline", "#8a929b"),
}


@dataclass(frozen=True)
class StripRow:
    """One row of the strip chart.

    Attributes:
        label: Name of the model or baseline.
        summary: Text at the right, such as ".84 [.80, .87]".
        mean: Mean over participants, None where undefined.
        low: Lower end of the interval, None where there is none.
        high: Upper end of the interval.
        values: One score per participant for whom it is defined.
        baseline: Whether the row is a trivial predictor, drawn in grey.
    """

    label: str
    summary: str
    mean: float | None
    low: float | None
    high: float | None
    values: Sequence[float] = ()
    baseline: bool = False


def strip_chart(rows: Sequence[StripRow], *, name: str, width_px: float, title: str) -> str:
    """Draw one row per model: a dot per participant, the mean and its interval.

    Args:
        rows: From top to bottom.
        name: Prefix of the ids in the SVG; unique on the page.
        width_px: Width; the texts stand above the dots, below each other where the chart is narrow.
        title: Label of the axis, and what a screen reader says.
    """
    stacked = width_px < STACKED_BELOW_PX
    row_px, axis_px = (92.0 if stacked else 74.0), 44.0
    figure, axes = _figure(width_px, row_px * len(rows) + axis_px, left=12, right=12, top=2, bottom=axis_px)
    everything = [value for row in rows for value in (*row.values, row.mean, row.low) if value is not None]
    floor = min(0.4, *(np.floor(10 * value) / 10 for value in everything)) if everything else 0.0
    axes.set_xlim(floor - 0.02, 1.02)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value, digits=1)))
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    for index, row in enumerate(rows):
        _draw_row(axes, row, top=float(index), row_px=row_px, stacked=stacked)
        if index:
            axes.axhline(index, color=GRID, linewidth=1)
    axes.set_xlabel(title, color=MUTED)
    return _svg(figure, name=name, title=title)


def learning_curves(histories: Mapping[int, Sequence[Mapping[str, Any]]], *, name: str, title: str) -> str:
    """Draw training and validation loss of every fold over all epochs; a dot marks the epoch that was kept.

    Args:
        histories: Per fold its epochs in order, each with `train_loss`, `validation_loss` and `phase`.
        name: Prefix of the ids in the SVG; unique on the page.
        title: What a screen reader says.
    """
    figure, axes = _figure(330, 230, left=46, right=10, top=8, bottom=42)
    starts: set[int] = set()
    for _, history in sorted(histories.items()):
        epochs = np.arange(1, len(history) + 1)
        for key, colour in (("train_loss", SERIES_A), ("validation_loss", SERIES_B)):
            losses = np.array([_number(epoch.get(key)) for epoch in history])
            # One epoch is no line: a marker keeps it visible.
            axes.plot(epochs, losses, color=colour, linewidth=1.5, alpha=0.75, marker="." if len(history) == 1 else "")
        kept = best_epoch(history)
        if kept is not None:
            loss = _number(history[kept].get("validation_loss"))
            axes.plot([kept + 1], [loss], marker="o", markersize=7, color=SERIES_B, zorder=4)
        phases = [epoch.get("phase") for epoch in history]
        starts |= {index for index in range(1, len(phases)) if phases[index] != phases[index - 1]}
    for start in starts:
        axes.axvline(start + 0.5, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.margins(x=0.03)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_xlabel("epoch", color=MUTED)
    axes.set_ylabel("loss", color=MUTED)
    return _svg(figure, name=name, title=title)


def roc_chart(
    false_alarm_rates: NDArray[np.float64], curves: Sequence[NDArray[np.float64]], *, name: str, title: str
) -> str:
    """Draw one thin ROC curve per participant and their mean at equal false alarm rates.

    Args:
        false_alarm_rates: (M,) rising from 0 to 1.
        curves: Per participant the hit rates (M,) at those false alarm rates.
        name: Prefix of the ids in the SVG; unique on the page.
        title: What a screen reader says.
    """
    figure, axes = _figure(300, 300, left=44, right=10, top=8, bottom=40)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for curve in curves:
        axes.plot(false_alarm_rates, curve, color=FILL_A, linewidth=0.9, alpha=0.6)
    if curves:
        axes.plot(false_alarm_rates, np.mean(curves, axis=0), color=SERIES_A, linewidth=2.6)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value, digits=1)))
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel("false alarm rate (1 − specificity)", color=MUTED)
    axes.set_ylabel("hit rate (sensitivity)", color=MUTED)
    return _svg(figure, name=name, title=title)


def _draw_row(axes: Axes, row: StripRow, *, top: float, row_px: float, stacked: bool) -> None:
    """Draw one row between `top` and `top + 1`: texts, then the dots, then the mean with its interval."""
    strong, weak = (BASELINE, BASELINE) if row.baseline else (SERIES_A, FILL_A)
    left, right = axes.get_xlim()
    ink = MUTED if row.baseline else INK
    text: dict[str, Any] = {"va": "center", "color": ink, "parse_math": False, "fontsize": FONT_PX + 0.5}
    text_end_px = 44.0 if stacked else 26.0
    axes.text(left, top + 15 / row_px, f" {row.label}", ha="left", **text)
    where = (left, top + 34 / row_px, f" {row.summary}") if stacked else (right, top + 15 / row_px, f"{row.summary} ")
    axes.text(*where, ha="left" if stacked else "right", weight="bold", **text)
    ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
    axes.vlines(ticks, top + text_end_px / row_px, top + 1, color=GRID, linewidth=1, zorder=1)
    dots, bar = top + 1 - 30 / row_px, top + 1 - 11 / row_px
    values = np.sort(np.asarray(row.values, dtype=np.float64))
    heights = dots + _fanned(values) / row_px
    axes.scatter(values, heights, s=30, color=weak, alpha=0.75, linewidths=0, zorder=3, clip_on=False)
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [bar, bar], color=strong, linewidth=3, zorder=4)
    if row.mean is not None:
        marker, size = ("D", 7) if row.baseline else ("o", 10)
        axes.plot([row.mean], [bar], marker=marker, markersize=size, color=strong, zorder=5)


def _fanned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vertical offsets (P,), px, of sorted values (P,): near neighbours fan out around 0, so that each dot is seen."""
    offsets = np.zeros(values.size)
    bins = np.round(values / FAN_WITHIN)
    for chosen in np.unique(bins):
        members = np.flatnonzero(bins == chosen)
        step = min(6.0, 22.0 / members.size)
        offsets[members] = (np.arange(members.size) - (members.size - 1) / 2) * step
    return offsets


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _figure(
    width_px: float, height_px: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, Axes]:
    """Make a transparent figure whose axes leave the given margins, px."""
    figure = Figure(figsize=(width_px / PX_PER_INCH, height_px / PX_PER_INCH), dpi=PX_PER_INCH)
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    box = (left / width_px, bottom / height_px, 1 - (left + right) / width_px, 1 - (top + bottom) / height_px)
    axes = figure.add_axes(box)
    axes.patch.set_alpha(0.0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=FONT_PX - 1)
    axes.xaxis.label.set_fontsize(FONT_PX)
    axes.yaxis.label.set_fontsize(FONT_PX)
    return figure, axes


def _svg(figure: Figure, *, name: str, title: str) -> str:
    """Write a figure as an SVG element whose colours are CSS variables and whose ids start with `name`."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        for text in figure.findobj(mpl.text.Text):
            text.set_parse_math(False)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    # Metadata and the stylesheet (its `*` rule would reach the whole page) go; the font is the page's.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{_escaped(title)}"', 1)
    for placeholder, (variable, fallback) in THEME.items():
        svg = svg.replace(placeholder, f"var({variable}, {fallback})")
    return svg


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
