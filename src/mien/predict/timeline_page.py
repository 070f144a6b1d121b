"""The page of one predicted recording: probability over time, in one self-contained file."""

from __future__ import annotations

import html
import io

import numpy as np
import pandas as pd

from mien.core.labels import annotated_by
from mien.runtime.bundle import ModelSpec

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }}
figcaption, footer {{ color: #6b7280; font-size: .9rem; }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<figure>{chart}<figcaption>{caption}</figcaption></figure>
<table>{rows}</table>
<footer>{footer}</footer>
</body></html>
"""
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")


def timeline_page(timeline: pd.DataFrame, *, spec: ModelSpec, title: str) -> str:
    """Draw a timeline.

    Args:
        timeline: From `predict_timeline`.
        spec: The model.
        title: Name of the recording.

    Returns:
        HTML with an inline SVG; it loads nothing from elsewhere.
    """
    labels = spec.labels
    with_face = timeline["face_found"]
    seconds = float((timeline["end_s"] - timeline["start_s"]).sum())
    baseline = "" if spec.baseline == "none" else f" A personal baseline ({spec.baseline}) is subtracted."
    return PAGE.format(
        title=html.escape(title),
        summary=html.escape(
            f"{labels.target}, expression {annotated_by(labels.label_source)}, predicted by {spec.label} for "
            f"{seconds:.1f} s ({len(timeline)} frames, {int(with_face.sum())} with a face)."
        ),
        chart=_chart(timeline, spec=spec),
        caption=html.escape(
            f"Probability at each sampled frame, by its presentation time. Grey: {_nothing(spec)}, so nothing is said."
            + baseline
        ),
        rows=_class_rows(timeline, spec=spec),
        footer="An expression is not a feeling: this says how alike the recording is to what the annotations name so.",
    )


def _nothing(spec: ModelSpec) -> str:
    """Say what was missing where nothing is predicted."""
    names = {"video": "face", "audio": "sound", "signals": "signal"}
    return " and ".join(f"no {names[modality]} was found" for modality in spec.modalities)


def _class_rows(timeline: pd.DataFrame, *, spec: ModelSpec) -> str:
    """Return a table row per class: mean probability, and how often it is the one that is predicted."""
    labels = spec.labels
    seen = timeline[[f"prob_{name}" for name in labels.output_names]].dropna()
    if seen.empty:
        return f"<tr><td>Nothing is predicted: {_nothing(spec)} in any sampled frame.</td></tr>"
    predicted = labels.predicted(seen.to_numpy(np.float64))
    rows = "<tr><th>class</th><th>mean probability</th><th>predicted in, of the frames with a prediction</th></tr>"
    for code, name in enumerate(labels.output_names, start=labels.kind == "binary"):
        mean, share = float(seen[f"prob_{name}"].mean()), float((predicted == code).mean())
        rows += f"<tr><td>{html.escape(name)}</td><td>{mean:.3f}</td><td>{100 * share:.1f} %</td></tr>"
    return rows


def _chart(timeline: pd.DataFrame, *, spec: ModelSpec) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mien", "font.size": 9}):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        for colour, name in zip(_colours(len(spec.labels.output_names)), spec.labels.output_names, strict=True):
            times, values = _steps(timeline, column=f"prob_{name}")
            axes.plot(times, values, color=colour, label=name, linewidth=1.4)
        missing = timeline[timeline[f"prob_{spec.labels.output_names[0]}"].isna()]
        for start, end in missing[["start_s", "end_s"]].itertuples(index=False):
            axes.axvspan(start, end, color="#8884", linewidth=0)
        if spec.labels.kind == "binary":
            axes.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
        axes.set(ylim=(-0.02, 1.02), xlabel="time (s)", ylabel="probability")
        for item in (*axes.spines.values(),):
            item.set_color("#888888")
        axes.tick_params(colors="#888888")
        axes.xaxis.label.set_color("#888888")
        axes.yaxis.label.set_color("#888888")
        axes.legend(frameon=False, labelcolor="#888888", loc="upper right")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _steps(timeline: pd.DataFrame, *, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a step line that holds each value over its interval and breaks where nothing is said."""
    times = timeline[["start_s", "end_s"]].to_numpy(np.float64).ravel()
    return times, np.repeat(timeline[column].to_numpy(np.float64), 2)


def _colours(count: int) -> list[str]:
    return [LINE_COLOURS[index % len(LINE_COLOURS)] for index in range(count)]
