"""Models of stretches of time: what each modality, and each moment of it, adds to an answer.

Both by masking: the model's own masks say that a modality (or a part of it) isn't known, which is how it was trained
to go without. Only the bundle is asked, so every sequence network is explained alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme, annotated_by
from mien.core.numbers import with_interval
from mien.core.storage import atomic_path
from mien.data.dataset import sample_ends
from mien.evaluation.intervals import Interval, participant_interval
from mien.explain.drawing import DPI, LINE_CHARACTERS, Shown, heading, wrapped
from mien.explain.frames import answer_probabilities, directions, most_confident
from mien.explain.inputs import video_answers
from mien.predict.beside import read_beside, sampled_times
from mien.runtime.bundle import Bundle
from mien.runtime.windows import INPUTS, VIDEO, Inputs, RecordingView, WindowSpec, cut_windows, view_recording

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
        parts = _moments(inputs, modality=modality)
        over_time[modality] = np.stack([before - _scores(head, part, chosen=chosen) for part in parts], axis=1)
        if modality == VIDEO:
            offsets_s[modality] = (np.arange(len(parts)) - windows.sequence_length // 2) / fps
        else:
            offsets_s[modality] = ((np.arange(len(parts)) + 0.5) / len(parts) - 0.5) * windows.context_s
    return Importance(whole, over_time, offsets_s)


def _scores(head: Head, inputs: Inputs, *, chosen: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((head.logits(inputs).astype(np.float64) * chosen).sum(axis=1))


def _moments(inputs: Inputs, *, modality: str) -> list[Inputs]:
    """Return the windows without each moment of a modality in turn; what isn't known is 0 (`cut_windows`)."""
    values, mask = INPUTS[modality]
    parts: list[Inputs] = []
    if modality == VIDEO:
        for frame in range(inputs[mask].shape[1]):
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
    bundle: Bundle, source: Path, *, folder: Path, count: int, signals: Path | None
) -> dict[str, Any]:
    """Explain a sequence model on one recording: a PNG per frame into `folder`.

    Args:
        bundle: Its head is a `SequenceHead`.
        source: A video, or for a model that only listens a sound file.
        folder: Where PNGs go.
        count: How many frames, the most confident of each answer in turn.
        signals: Sensor export of the recording.

    Returns:
        What of `explanations.json` depends on the kind of the model.

    Raises:
        UserError: The recording has nothing of what the model looks at.
    """
    scheme = bundle.spec.labels
    head = bundle.sequence_head
    assert head is not None, "a bundle that looks at stretches of time"
    view = _view(bundle, source, signals=signals)
    logits = head.recording_logits(view)
    rows = np.flatnonzero(~np.isnan(logits).any(axis=1))
    if not len(rows):
        raise UserError(f"{source.name} has no moment from which {bundle.spec.label} predicts anything.")
    answers = scheme.predicted(scheme.probabilities(logits[rows]))
    probabilities = answer_probabilities(logits[rows], answers=answers, scheme=scheme)
    picked = most_confident(answers, probabilities, count=count)
    inputs = cut_windows(view, rows[picked], spec=head.windows)
    found = importance(
        head,
        inputs,
        windows=head.windows,
        chosen=directions(answers[picked], scheme=scheme),
        fps=bundle.spec.sampling.fps,
    )
    gains = {name: _interval(values) for name, values in found.whole.items()}
    sanity = _sanity(gains, num_frames=len(picked))
    frames = []
    for number, row in enumerate(rows[picked]):
        time_s, answer = float(view.pts_s[row]), scheme.classes[answers[picked][number]]
        name = f"{int(row):06d}-{time_s:.3f}s.png"
        probability = float(probabilities[picked][number])
        title = heading(answer=answer, probability=probability, time_s=time_s)
        shown = Shown(title, CAPTION, f"{sanity['verdict']}\n{_annotated(scheme)}; {bundle.spec.label}")
        write_chart(folder / name, found, number=number, shown=shown)
        frames.append(
            {
                "recording": source.stem,
                "time_s": time_s,
                "answer": answer,
                "probability": probability,
                "png": name,
                "modalities": {key: values[number] for key, values in found.whole.items()},
                "over_time": {
                    key: {"offset_s": found.offsets_s[key], "loss": values[number]}
                    for key, values in found.over_time.items()
                },
            }
        )
    return {"method": METHOD, "class_specific": True, "caption": CAPTION, "frames": frames, "sanity": sanity}


def _annotated(scheme: LabelScheme) -> str:
    return f"{scheme.target}, {annotated_by(scheme.label_source)}"


def _view(bundle: Bundle, source: Path, *, signals: Path | None) -> RecordingView:
    windows, fps = bundle.spec.windows, bundle.spec.sampling.fps
    assert windows is not None, "a sequence head has its windows"
    with contextlib.ExitStack() as stack:
        if bundle.needs_pictures:
            seen = stack.enter_context(video_answers(bundle, source))
            pts_s, features = seen.table["pts_s"].to_numpy(np.float64), seen.features
        else:
            pts_s, features = sampled_times(source, fps=fps).pts_s, None
        end_s = float(sample_ends(pts_s, fps=fps)[-1]) if len(pts_s) else 0.0
        beside = read_beside(bundle, source, end_s=end_s, signals=signals)
        return view_recording(
            windows,
            pts_s=pts_s,
            features=features,
            baseline=bundle.baseline,
            audio=beside.audio,
            signals=beside.signals,
        )


def _interval(values: NDArray[np.float64]) -> Interval:
    return participant_interval(values, folds=None, bounds=(-UNBOUNDED, UNBOUNDED))


def _sanity(gains: dict[str, Interval], *, num_frames: int) -> dict[str, Any]:
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
    return {
        "spearman_randomised": None,
        "randomised": "not tested: masking is an experiment on the model, not a map read off its inside",
        "passes": None,
        "deletion_gain": None,
        "insertion_gain": None,
        "modalities": facts,
        "over": "frames",
        "n": num_frames,
        "explains": bool(needed),
        "verdict": f"{verdict}Over {num_frames} frames of one recording.",
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
