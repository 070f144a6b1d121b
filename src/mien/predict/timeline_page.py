"""The page of one predicted recording: probability over time, in one self-contained file."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.labels import annotated_by
from mien.predict.recording import counted, nothing_there
from mien.predict.timeline_events import TimelineEvents
from mien.runtime.bundle import ModelSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }}
figcaption, footer {{ color: #6b7280; font-size: .9rem; }}
.note {{ border-left: .25rem solid #b45309; padding-left: .8rem; }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{notes}
<figure>{chart}<figcaption>{caption}</figcaption></figure>
<table>{rows}</table>
{beside}
{events}
<footer>{footer}</footer>
</body></html>
"""
EVENT_ROW = 0.07  # height of a row of events, where the probabilities are 1 high
CHANNEL_HEIGHT = 1.2  # inches of a channel's own panel
LEGEND_COLUMNS = 6
NEXT_WITHIN = 1.75
"""Frames at most so many intervals apart follow each other: a camera's frames lie beside the sampled instants."""

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")


def timeline_page(
    timeline: pd.DataFrame,
    *,
    spec: ModelSpec,
    title: str,
    events: TimelineEvents | None = None,
    beside: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """Draw a timeline.

    Args:
        timeline: From `predict_timeline`.
        spec: The model.
        title: Name of the recording.
        events: Its events; None: the page says nothing of them.
        beside: How it goes together with the annotation, where `truth_*` of it is drawn, too.
        notes: What is wrong with the recording.

    Returns:
        HTML with an inline SVG; it loads nothing from elsewhere.
    """
    labels = spec.labels
    with_face = timeline["face_found"]
    seconds = float(_lasts_s(timeline, fps=spec.sampling.fps).sum())
    found = pd.DataFrame() if events is None or events.table is None else events.table
    baseline = "" if spec.baseline == "none" else f" A personal baseline ({spec.baseline}) is subtracted."
    return PAGE.format(
        title=html.escape(title),
        summary=html.escape(
            f"{', '.join(labels.channels) or labels.target}, expression {annotated_by(labels.label_source)}, predicted "
            f"by {spec.label} for "
            f"{seconds:.1f} s ({len(timeline)} frames, {int(with_face.sum())} with a face)."
        ),
        notes="".join(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        beside=_beside(beside),
        chart=_chart(timeline, spec=spec, events=found),
        caption=html.escape(
            f"{'Number' if labels.kind == 'continuous' else 'Probability'} at each sampled frame, by its presentation "
            f"time. {_abstentions(timeline, spec=spec)}"
            + baseline
            + (" Bands under the lines: as annotated." if beside else "")
            + ("" if found.empty else " Bars: events; the thin lines at their ends: where onset and offset may lie.")
        ),
        rows=_class_rows(timeline, spec=spec),
        events="" if events is None else _event_rows(events, counted_at_all=bool(counted(timeline).any())),
        footer="An expression is not a feeling: this says how alike the recording is to what the annotations name so.",
    )


def _abstentions(timeline: pd.DataFrame, *, spec: ModelSpec) -> str:
    """Say how much of a timeline doesn't count, and why."""
    if "abstained" not in timeline:
        return f"Grey: {nothing_there(spec)} was found, so nothing is said."
    counts = counted(timeline)
    if counts.all():
        return "No frame is left out."
    lasts_s = _lasts_s(timeline, fps=spec.sampling.fps)
    by_reason = lasts_s[~counts].groupby(timeline.loc[~counts, "abstained"]).sum().sort_values(ascending=False)
    share = 100 * float(lasts_s[~counts].sum() / lasts_s.sum())
    reasons = "; ".join(f"{reason}: {seconds:.1f} s" for reason, seconds in by_reason.items())
    told = f"Grey, hatched: {share:.0f} % of the time, which counts for neither events nor the table ({reasons})."
    if timeline.loc[~counts, list(spec.labels.output_columns)].notna().to_numpy().any():
        told += " A thin line there: what the model says of a face that is seen worse than any that it was trained on."
    return told


def _lasts_s(timeline: pd.DataFrame, *, fps: float) -> pd.Series[float]:
    """Return how long each sampled frame stands (N,), s: until the next one, where no frames are missing between them.

    Frames of a camera aren't exactly 1 / `fps` apart, and `end_s` is no later than that: of 24 frames per second, ten
    of which are sampled, a tenth of the time would be nobody's.
    """
    starts_s = timeline["start_s"]
    step_s = (starts_s.shift(-1) - starts_s).fillna(np.inf)
    lasts_s: pd.Series[float] = (timeline["end_s"] - starts_s).where(step_s > NEXT_WITHIN / fps, step_s)
    return lasts_s


def _beside(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return "<h2>Beside the annotation</h2>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _class_rows(timeline: pd.DataFrame, *, spec: ModelSpec) -> str:
    """Return a table row per class or channel: mean probability, how often it is predicted; of numbers the range."""
    labels = spec.labels
    seen = timeline.loc[counted(timeline), list(labels.output_columns)].dropna()
    if seen.empty:
        return f"<tr><td>No sampled frame counts: {html.escape(_main_reason(timeline, spec=spec))}.</td></tr>"
    if labels.kind == "continuous":
        rows = "<tr><th>channel</th><th>mean</th><th>lowest</th><th>highest</th></tr>"
        for name, column in zip(labels.output_names, labels.output_columns, strict=True):
            numbers = (float(seen[column].mean()), float(seen[column].min()), float(seen[column].max()))
            cells = "".join(f"<td>{number:.3g}</td>" for number in numbers)
            rows += f"<tr><td>{html.escape(name)}</td>{cells}</tr>"
        return rows
    predicted = labels.predicted(seen.to_numpy(np.float64))
    what = "channel" if labels.channels else "class"
    rows = f"<tr><th>{what}</th><th>mean probability</th><th>predicted in, of the frames that count</th></tr>"
    for code, name in enumerate(labels.output_names, start=labels.kind == "binary"):
        told = predicted[:, code] == 1 if labels.channels else predicted == code
        mean, share = float(seen[f"prob_{name}"].mean()), float(told.mean())
        rows += f"<tr><td>{html.escape(name)}</td><td>{mean:.3f}</td><td>{100 * share:.1f} %</td></tr>"
    return rows


def _main_reason(timeline: pd.DataFrame, *, spec: ModelSpec) -> str:
    reasons = timeline["abstained"] if "abstained" in timeline else pd.Series([], dtype=object)
    return nothing_there(spec) if reasons.empty else str(reasons.value_counts().index[0])


def _event_rows(events: TimelineEvents, *, counted_at_all: bool) -> str:
    """Return the list of events, or why there is none."""
    if events.table is None:
        return f"<p>{html.escape(events.reason)}</p>"
    if events.table.empty:
        why = "None was found." if counted_at_all else "None can be found: no sampled frame counts."
        return f"<h2>Events</h2><p>{why}</p>"
    headings = ("onset (s)", "between", "offset (s)", "between", "label", "confidence")
    rows = "<tr>" + "".join(f"<th>{heading}</th>" for heading in headings) + "</tr>"
    for row in events.table.to_dict("records"):
        cells = [f"{row['onset_s']:.2f}", f"{row['onset_low_s']:.2f} and {row['onset_high_s']:.2f}"]
        cells += [f"{row['offset_s']:.2f}", f"{row['offset_low_s']:.2f} and {row['offset_high_s']:.2f}"]
        cells += [html.escape(str(row["label"])), f"{row['confidence']:.2f}"]
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<h2>Events</h2><table>{rows}</table>"


def _draw_events(axes: Axes, events: pd.DataFrame, *, colours: Mapping[str, str]) -> float:
    """Draw a row of bars per label above the probabilities; return the height that is needed."""
    labels = [name for name in colours if len(events) and (events["label"] == name).any()]
    for row, name in enumerate(labels):
        y = 1.07 + EVENT_ROW * row
        own = events[events["label"] == name]
        spans = [(row["onset_s"], row["offset_s"] - row["onset_s"]) for row in own.to_dict("records")]
        axes.broken_barh(spans, (y - 0.02, 0.04), color=colours[name], linewidth=0)
        for edge in ("onset", "offset"):
            axes.hlines([y] * len(own), own[f"{edge}_low_s"], own[f"{edge}_high_s"], color=colours[name], linewidth=0.8)
    return (1.05 if labels else 1.02) + EVENT_ROW * len(labels)


def _chart(timeline: pd.DataFrame, *, spec: ModelSpec, events: pd.DataFrame) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = spec.labels.output_names
    colours = dict(zip(names, _colours(len(names)), strict=True))
    # Classes exclude each other and share one panel; each channel has its own.
    panels = [{name: colours[name]} for name in names] if spec.labels.channels else [colours]
    height = 2.8 if len(panels) == 1 else 0.6 + CHANNEL_HEIGHT * len(panels)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mien", "font.size": 9, "hatch.linewidth": 0.7}):
        figure = Figure(figsize=(9, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(every, panels, strict=True):
            _draw_panel(axes, timeline, spec=spec, colours=panel, events=events)
        every[-1].set_xlabel("time (s)")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _draw_panel(
    axes: Axes, timeline: pd.DataFrame, *, spec: ModelSpec, colours: Mapping[str, str], events: pd.DataFrame
) -> None:
    """Draw what is said of some outputs over time."""
    labels = spec.labels
    axes.patch.set_alpha(0)
    columns = dict(zip(labels.output_names, labels.output_columns, strict=True))
    believed = counted(timeline)
    for name, colour in colours.items():
        for rows, width, label in ((believed, 1.4, name), (~believed, 0.5, None)):
            times, values = _steps(timeline[columns[name]].where(rows), timeline=timeline)
            axes.plot(times, values, color=colour, label=label, linewidth=width)
    _draw_truth(axes, timeline, colours=colours, is_number=labels.kind == "continuous")
    silent = ~believed | timeline[columns[next(iter(colours))]].isna().to_numpy()
    for start, end in _stretches(timeline, rows=silent):
        # One span of both is drawn in SVG with the ground's opacity: the hatching would hardly be seen.
        axes.axvspan(start, end, facecolor="#8882", linewidth=0)
        axes.axvspan(start, end, facecolor="none", edgecolor="#8889", hatch="//", linewidth=0)
    if labels.kind == "continuous":
        axes.set(ylabel="number")
    else:
        if labels.kind in ("binary", "multilabel"):
            axes.axhline(0.5, color="#888888", linewidth=0.8, linestyle=":")
        top = _draw_events(axes, events, colours=colours)
        axes.set(ylim=(-0.02, top), yticks=[0, 0.5, 1] if labels.channels else [0, 0.25, 0.5, 0.75, 1])
        axes.set(ylabel="probability")
    for item in (*axes.spines.values(),):
        item.set_color("#888888")
    axes.tick_params(colors="#888888")
    axes.xaxis.label.set_color("#888888")
    axes.yaxis.label.set_color("#888888")
    # Above the panel: within it, it would lie on bars and lines.
    axes.legend(
        frameon=False,
        labelcolor="#888888",
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
        ncols=LEGEND_COLUMNS,
    )


def _draw_truth(axes: Axes, timeline: pd.DataFrame, *, colours: Mapping[str, str], is_number: bool) -> None:
    """Draw what is annotated: bands under the lines, of numbers a dashed line."""
    for row, (name, colour) in enumerate(colours.items()):
        if f"truth_{name}" not in timeline:
            continue
        truth = timeline[f"truth_{name}"]
        if is_number:
            axes.plot(*_steps(truth, timeline=timeline), color=colour, linewidth=1.0, linestyle="--")
            continue
        height = 1.0 / len(colours)
        for start, end in _stretches(timeline, rows=(truth == 1).to_numpy()):
            axes.axvspan(start, end, row * height, (row + 1) * height, color=colour, alpha=0.15, linewidth=0)


def _stretches(timeline: pd.DataFrame, *, rows: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Return from when to when rows (N,) are true in a row, s."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rows.astype(np.int8), [0]])))
    starts, ends = timeline["start_s"].to_numpy(np.float64), timeline["end_s"].to_numpy(np.float64)
    return [(float(starts[a]), float(ends[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _steps(values: pd.Series[float], *, timeline: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a step line that holds each value over its interval and breaks where there is none."""
    times = timeline[["start_s", "end_s"]].to_numpy(np.float64).ravel()
    return times, np.repeat(values.to_numpy(np.float64), 2)


def _colours(count: int) -> list[str]:
    return [LINE_COLOURS[index % len(LINE_COLOURS)] for index in range(count)]
