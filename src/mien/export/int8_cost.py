"""What int8 costs and gains: score on people who weren't trained on, and time, against the float32 graph."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.evaluation.intervals import participant_interval
from mien.evaluation.scores import participant_scores
from mien.export.graph import LOGITS, PROBABILITIES, SingleGraph
from mien.export.int8 import WEIGHT_BITS
from mien.export.recording_clips import Inputs, RecordingClips, recording_clips, rows_of, run_graph
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import open_session

GRAPHS = ("float32", "int8")
WORTHWHILE_LOSS, WORTHWHILE_GAIN = 0.01, 1.0
"""Balanced accuracy and speed beyond which int8 isn't advised: a hundredth is what models are often apart."""
ROUNDS, TIMED_ROWS = 9, 16
"""Each graph in turn, so that what else the machine does falls on both; the median of the rounds' ratios is told."""


@dataclass(frozen=True)
class BothGraphs:
    """The float32 graph and its int8 version.

    Attributes:
        float32: The file.
        int8: The file.
        graph: What both take.
    """

    float32: Path
    int8: Path
    graph: SingleGraph

    def sessions(self) -> dict[str, Any]:
        """Open both."""
        return {name: open_session(getattr(self, name)) for name in GRAPHS}


def check_int8(bundle: Bundle, *, graph: SingleGraph) -> None:
    """Refuse what int8 can't be made of, or not be judged on, before anything is compared.

    Raises:
        UserError: A target of channels or of numbers, or a built-in encoder with a linear head.
    """
    scheme = bundle.spec.labels
    if scheme.kind not in ("binary", "multiclass"):
        raise UserError(f"int8 is measured for one binary or multiclass target; {scheme.target!r} is {scheme.kind}.")
    if graph.start != "windows" and not list(bundle.path.glob("*encoder.onnx")):
        what = "the spectrogram's statistics" if graph.start == "sound" else "histograms of gradients"
        raise UserError(
            f"{bundle.spec.label} as a graph is {what}, which int8 would spoil, and a linear head: nothing would get "
            "smaller or faster. Leave --int8 out."
        )


def cost_of_int8(bundle: Bundle, dataset: Dataset, *, both: BothGraphs, people: Sequence[str]) -> dict[str, Any]:
    """Score both graphs participant by participant, and time them.

    Returns:
        `precision`, `weight_bits`, `max_abs_diff_logit`, `max_abs_diff_prob` (of int8 against float32), `score`,
        `speed`, `advice` (empty where int8 is worth it) and `bytes_float32` of the report.
    """
    scheme, sessions = bundle.spec.labels, both.sessions()
    targets = build_clips(dataset, target=scheme.target).table.set_index(["recording_id", "frame"])
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in GRAPHS}
    worst = np.zeros(2)
    timed: Inputs | None = None
    for clips in recording_clips(bundle, dataset, graph=both.graph, people=people):
        timed = clips.inputs if timed is None else timed
        answers = {
            name: run_graph(session, clips.inputs, outputs=(LOGITS, PROBABILITIES), one_by_one=both.graph.one_by_one)
            for name, session in sessions.items()
        }
        gaps = [float(np.abs(small - plain).max()) for plain, small in zip(*answers.values(), strict=True)]
        worst = np.maximum(worst, gaps)
        for name, (_, said) in answers.items():
            tables[name].append(_labelled(clips, said, targets=targets, scheme=scheme).assign(model=name))
    if timed is None or not sum(len(part) for part in tables["int8"]):
        raise UserError(f"None of {', '.join(people)} has a labelled clip, so what int8 costs can't be measured.")
    score, speed = _score(tables, scheme=scheme), measure_speed(sessions, timed, graph=both.graph)
    return {
        "precision": "int8",
        "weight_bits": WEIGHT_BITS,
        "max_abs_diff_logit": float(worst[0]),
        "max_abs_diff_prob": float(worst[1]),
        "score": score,
        "speed": speed,
        "advice": advice_on(score, speed),
        "bytes_float32": both.float32.stat().st_size,
    }


def advice_on(score: dict[str, Any], speed: dict[str, Any]) -> str:
    """Say where int8 isn't worth its price; empty where it is."""
    reasons = []
    if score["loss"]["mean"] > WORTHWHILE_LOSS:
        reasons.append(f"it loses {score['loss']['mean']:.3f} of balanced accuracy")
    if speed["faster"] < WORTHWHILE_GAIN:
        reasons.append(f"here it takes {1 / speed['faster']:.2f} times as long")
    return f"Keep float32 unless size is all that counts: {' and '.join(reasons)}." if reasons else ""


def _labelled(
    clips: RecordingClips, said: NDArray[np.float32], *, targets: pd.DataFrame, scheme: LabelScheme
) -> pd.DataFrame:
    """Return the predictions table of a recording's labelled clips."""
    rows = pd.DataFrame({"recording_id": clips.recording_id, "frame": clips.frames})
    known = rows.merge(targets.reset_index(), on=["recording_id", "frame"], how="left").drop(columns="participant_id")
    table = known.assign(fold=0, participant_id=clips.participant_id)
    for column, output in enumerate(scheme.output_names):
        table[f"prob_{output}"] = said[:, column]
    return table[table["target"].notna()]


def _score(tables: dict[str, list[pd.DataFrame]], *, scheme: LabelScheme) -> dict[str, Any]:
    per_person = {
        name: participant_scores(pd.concat(parts), scheme).set_index("participant_id")["balanced_accuracy"]
        for name, parts in tables.items()
    }
    loss = (per_person["float32"] - per_person["int8"]).dropna().to_numpy(np.float64)
    return {
        "metric": "balanced accuracy per participant",
        "participants": len(loss),
        **{name: float(per_person[name].mean()) for name in GRAPHS},
        "loss": asdict(participant_interval(loss, folds=None, bounds=(-1.0, 1.0))),
    }


def measure_speed(sessions: dict[str, Any], inputs: Inputs, *, graph: SingleGraph) -> dict[str, Any]:
    """Time both graphs in turn on some rows of a recording, on this machine with ONNX Runtime's own threads.

    Returns:
        `rows` per run, `float32_ms` and `int8_ms` (medians of a run), and `faster`: the median over rounds of the time
        of float32 over that of int8; below 1 int8 is slower here.
    """
    few = {name: values[:TIMED_ROWS] for name, values in inputs.items()}
    batches = list(rows_of(few)) if graph.one_by_one else [few]
    for session in sessions.values():
        _seconds(session, batches)  # the first run plans and allocates
    times = np.array([[_seconds(sessions[name], batches) for name in order] for order in _orders()])
    times[1::2] = times[1::2, ::-1]
    return {
        "rows": len(next(iter(few.values()))),
        **{f"{name}_ms": float(np.median(times[:, column]) * 1e3) for column, name in enumerate(GRAPHS)},
        "faster": float(np.median(times[:, 0] / times[:, 1])),
    }


def _orders() -> Iterator[tuple[str, ...]]:
    """Yield which graph comes first, round by round: what follows the other finds a warm or a full cache."""
    for number in range(ROUNDS):
        yield GRAPHS if number % 2 == 0 else GRAPHS[::-1]


def _seconds(session: Any, batches: Sequence[Inputs]) -> float:
    started = time.perf_counter()
    for batch in batches:
        session.run([LOGITS], batch)
    return time.perf_counter() - started
