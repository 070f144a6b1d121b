"""Charts as SVG text that takes its colours from the page: one file, light and dark, no request, the same bytes.

matplotlib draws with placeholder colours, which are then replaced by CSS variables (with a light-mode fallback), so a
chart follows the page's colour scheme. Text stays text. Ids get the chart's name as a prefix, because several charts
share one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from mien.core.numbers import short_number
from mien.evaluation.overfitting import best_epoch

PX_PER_INCH = 72.0  # matplotlib's SVG unit is the point: at 72 per inch one point is one px of the page
FONT_PX = 12.5

# Placeholder -> (CSS variable, fallback). Series colours are Okabe and Ito's, told apart with any colour vision.
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES_A, SERIES_B, FILL_A, PAPER = "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07"
Span = tuple[float, float]
THEME = {
    INK: ("--ink", "#1c2530"),
    MUTED: ("--muted", "#5c6773"),
    GRID: ("--line", "#d8dde3"),
    SERIES_A: ("--series-a", "#0072b2"),
    SERIES_B: ("--series-b", "#d55e00"),
    FILL_A: ("--dot", "#56a5d6"),
    PAPER: ("--surface", "#ffffff"),
}


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
    figure, axes = _unit_square("false alarm rate (1 − specificity)", "hit rate (sensitivity)")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for curve in curves:
        axes.plot(false_alarm_rates, curve, color=FILL_A, linewidth=0.9, alpha=0.6)
    if curves:
        axes.plot(false_alarm_rates, np.mean(curves, axis=0), color=SERIES_A, linewidth=2.6)
    return _svg(figure, name=name, title=title)


def reliability_chart(series: Sequence[tuple[bool, Sequence[Mapping[str, Any]]]], *, name: str, title: str) -> str:
    """Draw how often something came true against the probability that was given for it.

    Args:
        series: (whether calibrated, bins) with per bin `mean_probability`, `observed` and `count`; empty bins are left
            out.
        name: Prefix of the ids in the SVG; unique on the page.
        title: What a screen reader says.
    """
    figure, axes = _unit_square("probability that was given", "how often it came true")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for calibrated, bins in series:
        colour = SERIES_A if calibrated else SERIES_B
        known = [row for row in bins if row.get("count") and row.get("observed") is not None]
        given = [_number(row["mean_probability"]) for row in known]
        observed = [_number(row["observed"]) for row in known]
        counts = np.array([_number(row["count"]) for row in known])
        axes.plot(given, observed, color=colour, linewidth=1.8)
        areas = 12 + 60 * counts / max(counts.max(initial=0.0), 1.0)
        axes.scatter(given, observed, s=areas, color=colour, alpha=0.85, linewidths=0, clip_on=False, zorder=3)
    return _svg(figure, name=name, title=title)


def coverage_chart(curve: Sequence[Mapping[str, Any]], *, name: str, title: str) -> str:
    """Draw the balanced accuracy of what is kept against the share that is kept.

    Each interval is drawn at its own coverage: they are made one by one, of few people by rules that change from one
    coverage to the next, so a band through their ends would show what nobody measured. A point that is a mean over
    fewer people than others is hollow: who isn't in it may be why it differs.

    Args:
        curve: Per coverage `kept` and `balanced_accuracy` (mean, low, high, n).
        name: Prefix of the ids in the SVG; unique on the page.
        title: What a screen reader says.
    """
    figure, axes = _figure(300, 220, left=44, right=12, top=8, bottom=40)
    rows = sorted(curve, key=lambda row: _number(row["kept"]))
    kept = np.array([_number(row["kept"]) for row in rows])
    scores = [row["balanced_accuracy"] or {} for row in rows]
    mean, low, high, people = (
        np.array([_number(score.get(key)) for score in scores]) for key in ("mean", "low", "high", "n")
    )
    known = ~np.isnan(low) & ~np.isnan(high)
    axes.vlines(kept[known], low[known], high[known], color=FILL_A, linewidth=5, alpha=0.45)
    axes.plot(kept, mean, color=SERIES_A, linewidth=2.2, clip_on=False)
    fewer = people < np.nanmax([0.0, *people])
    for some, inside in ((~fewer, SERIES_A), (fewer, PAPER)):
        axes.plot(
            kept[some], mean[some], marker="o", markersize=5, linestyle="", color=SERIES_A, markerfacecolor=inside,
            markeredgewidth=1.5, clip_on=False,
        )  # fmt: skip
    axes.set_xlim(0.45, 1.02)
    axes.set_ylim(min(0.5, float(np.nanmin([0.5, *low]))) - 0.02, 1.02)
    for axis, step in ((axes.xaxis, 0.1), (axes.yaxis, 0.1)):
        axis.set_major_locator(MultipleLocator(step))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value, digits=1)))
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel("share of clips that is kept", color=MUTED)
    axes.set_ylabel("balanced accuracy", color=MUTED)
    return _svg(figure, name=name, title=title)


def event_chart(
    rows: Sequence[tuple[str, Sequence[Span], Sequence[Span], Sequence[Span]]], *, name: str, title: str
) -> str:
    """Draw events over time, a row per recording: the annotated ones above, the predicted ones below.

    Args:
        rows: Per recording what it is called, when somebody looked, and the annotated and the predicted events: each
            a start and an end, s.
        name: Prefix of the ids in the SVG; unique on the page.
        title: What a screen reader says.
    """
    figure, axes = _figure(780, 46 + 30 * len(rows), left=96, right=12, top=4, bottom=42)
    for row, (_, looked, annotated, predicted) in enumerate(rows):
        for start, end in looked:
            axes.plot([start, end], [row, row], color=GRID, linewidth=1, zorder=1)
        for spans, colour, offset in ((annotated, SERIES_A, -0.3), (predicted, SERIES_B, 0.04)):
            bars = [(start, end - start) for start, end in spans]
            axes.broken_barh(bars, (row + offset, 0.26), color=colour, linewidth=0, zorder=2)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_xlim(left=0)
    axes.margins(x=0.01)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_xlabel("time, s", color=MUTED)
    return _svg(figure, name=name, title=title)


def _unit_square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Make a figure whose axes both run from 0 to 1."""
    figure, axes = _figure(300, 300, left=44, right=10, top=8, bottom=40)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value, digits=1)))
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel(xlabel, color=MUTED)
    axes.set_ylabel(ylabel, color=MUTED)
    return figure, axes


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
