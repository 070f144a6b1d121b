"""Models of stretches of time: what each modality, and each moment of it, adds to an answer.

Both by masking: the model's own masks say that a modality (or a part of it) isn't known, which is how it was trained
to go without. Only the bundle is asked, so every sequence network is explained alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mien.core.labels import LabelScheme, annotated_by
from mien.core.numbers import with_interval
from mien.core.storage import atomic_path
from mien.evaluation.intervals import Interval, participant_interval
from mien.explain.drawing import DPI, LINE_CHARACTERS, Shown, heading, picture_name, wrapped
from mien.explain.frames import directions, most_confident
from mien.explain.stretch_inputs import Stretch
from mien.runtime.bundle import Bundle
from mien.runtime.windows import INPUTS, VIDEO, Inputs, WindowSpec

METHOD = "masking"
CAPTION = "Masking: what the answer's logit loses where a modality, or a moment of it, isn't known"
NUM_SLICES = 8
"""Moments of sound and signals in a window; frames are masked one by one."""
UNBOUNDED = 1e9
"""Logits have no bounds; what intervals are given instead is far outside of what floats32 networks give."""
COLOURS = {"video": "#0072b2", "audio": "#d55e00", "signals": "#009e73"}


class Head(Protocol):
    """What gives logits of windows."""

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return logits (N, num_outputs)."""
        ...


@dataclass(frozen=True)
class Importance:
    """What answers lose, in logits; negative where they gain. Of N windows, per modality.

    Attributes:
        whole: (N,) where the modality isn't known at all; NaN in windows that lack it anyway.
        over_time: (N, K) where one of K moments isn't known.
        offsets_s: (K,) middle of each moment, s from the frame that is predicted.
    """

    whole: dict[str, NDArray[np.float64]]
    over_time: dict[str, NDArray[np.float64]]
    offsets_s: dict[str, NDArray[np.float64]]


def importance(
    head: Head, inputs: Inputs, *, windows: WindowSpec, chosen: NDArray[np.float64], fps: float
) -> Importance:
    """Measure what windows' answers lose by masking.

    Args:
        head: What predicts.
        inputs: N windows, as `cut_windows` gives them.
        windows: How they were cut.
        chosen: (N, num_outputs): an answer's score is its logits times its row (`directions`).
        fps: Sampled frames per second.
    """
    before = _scores(head, inputs, chosen=chosen)
    whole, over_time, offsets_s = {}, {}, {}
    for modality in windows.modalities:
        values, mask = INPUTS[modality]
        known = inputs[mask].any(axis=1)
        hidden = {name: np.zeros_like(inputs[name]) for name in (values, mask)}
        lost = before - _scores(head, {**inputs, **hidden}, chosen=chosen)
        whole[modality] = np.where(known, lost, np.nan)
        parts = _moments(inputs, modality=modality, num_frames=windows.sequence_length)
        over_time[modality] = np.stack([before - _scores(head, part, chosen=chosen) for part in parts], axis=1)
        if modality == VIDEO:
            offsets_s[modality] = (np.arange(len(parts)) - windows.sequence_length // 2) / fps
        else:
            offsets_s[modality] = ((np.arange(len(parts)) + 0.5) / len(parts) - 0.5) * windows.context_s
    return Importance(whole, over_time, offsets_s)


def _scores(head: Head, inputs: Inputs, *, chosen: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((head.logits(inputs).astype(np.float64) * chosen).sum(axis=1))


def _moments(inputs: Inputs, *, modality: str, num_frames: int) -> list[Inputs]:
    """Return the windows without each moment of a modality in turn; what isn't known is 0 (`cut_windows`)."""
    values, mask = INPUTS[modality]
    parts: list[Inputs] = []
    if modality == VIDEO:
        # Behind them come frames of the whole recording: no moment of the window.
        for frame in range(num_frames):
            part = {name: inputs[name].copy() for name in (values, mask)}
            part[values][:, frame] = part[mask][:, frame] = 0.0
            parts.append({**inputs, **part})
        return parts
    for steps in np.array_split(np.arange(inputs[values].shape[2]), min(NUM_SLICES, inputs[values].shape[2])):
        changed = inputs[values].copy()
        changed[:, :, steps] = 0.0
        parts.append({**inputs, values: changed})
    return parts


def explain_stretches(
    bundle: Bundle, stretches: Sequence[Stretch], *, folder: Path, count: int, by_participant: bool
) -> dict[str, Any]:
    """Explain a sequence model on the moments of recordings: a PNG per moment into `folder`.

    Args:
        bundle: Its head is a `SequenceHead`.
        stretches: What is explained, a recording each.
        folder: Where PNGs go.
        count: How many are drawn, the most confident of each answer in turn.
        by_participant: Whether intervals are over the participants, else over the moments.

    Returns:
        What of `explanations.json` depends on the kind of the model.
    """
    scheme, head = bundle.spec.labels, bundle.sequence_head
    assert head is not None, "a bundle that looks at stretches of time"
    answers = np.concatenate([stretch.answers for stretch in stretches])
    found = importance(
        head,
        {name: np.concatenate([stretch.inputs[name] for stretch in stretches]) for name in stretches[0].inputs},
        windows=head.windows,
        chosen=directions(answers, scheme=scheme),
        fps=bundle.spec.sampling.fps,
    )
    people = [stretch.participant_id for stretch in stretches for _ in stretch.rows]
    gains = {name: _interval(values, people if by_participant else None) for name, values in found.whole.items()}
    sanity = _sanity(gains, num_moments=len(people), num_people=len(stretches) if by_participant else None)
    footer = f"{sanity['verdict']}\n{_annotated(scheme)}; {bundle.spec.label}"
    moments = [(stretch, place) for stretch in stretches for place in range(len(stretch.rows))]
    probabilities = np.concatenate([stretch.probabilities for stretch in stretches])
    frames = []
    for number in most_confident(answers, probabilities, count=count):
        stretch, place = moments[number]
        row = _moment(found, stretch, place, number=int(number), scheme=scheme)
        title = heading(answer=row["answer"], probability=row["probability"], time_s=row["time_s"])
        write_chart(folder / row["png"], found, number=int(number), shown=Shown(title, CAPTION, footer))
        frames.append(row)
    return {"method": METHOD, "class_specific": True, "caption": CAPTION, "frames": frames, "sanity": sanity}


def _moment(found: Importance, stretch: Stretch, place: int, *, number: int, scheme: LabelScheme) -> dict[str, Any]:
    """Return a moment's row of `explanations.json`."""
    time_s = float(stretch.times_s[place])
    return {
        "recording": stretch.recording_id,
        "time_s": time_s,
        "answer": scheme.classes[stretch.answers[place]],
        "probability": float(stretch.probabilities[place]),
        "png": picture_name(stretch.recording_id, row=int(stretch.rows[place]), time_s=time_s),
        "modalities": {key: values[number] for key, values in found.whole.items()},
        "over_time": {
            key: {"offset_s": found.offsets_s[key], "loss": values[number]} for key, values in found.over_time.items()
        },
    }


def _annotated(scheme: LabelScheme) -> str:
    return f"{scheme.target}, {annotated_by(scheme.label_source)}"


def _interval(values: NDArray[np.float64], people: Sequence[str] | None) -> Interval:
    """Return the mean loss with its interval over moments, or over the means of participants."""
    if people is not None:
        values = np.asarray(pd.Series(values).groupby(np.asarray(people)).mean(), np.float64)
    return participant_interval(values, folds=None, bounds=(-UNBOUNDED, UNBOUNDED))


def _sanity(gains: dict[str, Interval], *, num_moments: int, num_people: int | None) -> dict[str, Any]:
    facts = {name: {"mean": gain.mean, "low": gain.low, "high": gain.high} for name, gain in gains.items()}
    needed = [name for name, gain in gains.items() if gain.low > 0]
    words = [f"{name} {with_interval(facts[name])}" for name in needed]
    given = [name for name, gain in gains.items() if gain.n]
    rest = [f"{name} {with_interval(facts[name])}" for name in given if name not in needed]
    absent = [name for name in gains if name not in given]
    verdict = f"The answers lose logits without {', '.join(words)}. " if words else "The masks explain nothing. "
    if rest:
        verdict += f"It can't be told that they need {', '.join(rest)}. "
    if absent:
        verdict += f"Not there: {', '.join(absent)}. "
    whom = "one recording" if num_people is None else f"{num_people} participants"
    return {
        "spearman_randomised": None,
        "randomised": "not tested: masking is an experiment on the model, not a map read off its inside",
        "passes": None,
        "deletion_gain": None,
        "insertion_gain": None,
        "modalities": facts,
        "over": "frames" if num_people is None else "participants",
        "n": num_people or num_moments,
        "explains": bool(needed),
        "verdict": f"{verdict}Over {num_moments} frames of {whom}.",
    }


def write_chart(path: Path, found: Importance, *, number: int, shown: Shown) -> None:
    """Write a PNG of one window: bars per modality, and lines over time."""
    footer = wrapped(shown.footer.split("\n"), characters=LINE_CHARACTERS)
    figure = Figure(figsize=(7.6, 3.9 + 0.17 * len(footer)), dpi=DPI)
    FigureCanvasAgg(figure)
    height = figure.get_figheight()
    bottom, tall = (0.75 + 0.17 * len(footer)) / height, 2.3 / height
    names: Sequence[str] = list(found.whole)
    bars = figure.add_axes((0.12, bottom, 0.26, tall))
    bars.barh(names, [float(found.whole[name][number]) for name in names], color=[COLOURS[name] for name in names])
    bars.axvline(0, color="#444444", linewidth=0.8)
    bars.set_xlabel("logits lost without it", fontsize=8)
    lines = figure.add_axes((0.5, bottom, 0.46, tall))
    for name in (name for name in names if np.isfinite(found.whole[name][number])):
        lines.plot(found.offsets_s[name], found.over_time[name][number], ".-", color=COLOURS[name], label=name)
    lines.axhline(0, color="#444444", linewidth=0.8)
    lines.set_xlabel("moment that is masked, s from the frame", fontsize=8)
    lines.legend(fontsize=8, frameon=False)
    for axes in (bars, lines):
        axes.tick_params(labelsize=8)
    figure.text(0.03, 1 - 0.12 / height, shown.heading, fontsize=12, weight="bold", va="top")
    figure.text(0.03, 1 - 0.42 / height, shown.caption, fontsize=9, va="top")
    figure.text(0.03, (0.1 + 0.17 * len(footer)) / height, "\n".join(footer), fontsize=8, color="#444444", va="top")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
