"""`mien export`: writes the graph, compares it with the bundle on real clips, and measures what int8 costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.progress import progress
from mien.core.storage import atomic_path, write_json
from mien.data.dataset import NOT_STATED, Dataset
from mien.export.graph import CALIBRATED, LOGITS, PROBABILITIES, SingleGraph, single_graph
from mien.export.int8 import quantise
from mien.export.int8_cost import BothGraphs, check_int8, cost_of_int8
from mien.export.onnx_parts import OPSET, save_model, save_with_notes
from mien.export.recording_clips import Inputs, RecordingClips, recording_clips, rows_of, run_graph
from mien.predict.recording import calibrated
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import open_session

PARITY_PEOPLE = 3
CALIBRATION_PEOPLE = 12
MAX_LOGIT_DIFFERENCE = 1e-3
"""As for bundles: 2.5e-4 in a probability, far below what a score can show."""


def export_bundle(bundle_path: Path, *, out: Path, int8: bool = False, dataset: Path | None = None) -> dict[str, Any]:
    """Write a bundle as one ONNX, and `<out>.parity.json` beside it.

    Args:
        bundle_path: Folder of the bundle.
        out: The file to write, ending in `.onnx`.
        int8: Quantise weights and activations, calibrated on participants of the training.
        dataset: Where real clips come from; None for the dataset that the bundle was trained on, where it still lies
            where it lay.

    Returns:
        What `<out>.parity.json` holds: `max_abs_diff_logit`, `max_abs_diff_prob` (calibrated ones too), `clips`,
        `opset`, `precision`, `takes`, `start`, `inputs`, `outputs`, `bytes`, `licences` (of weights and data; in the
        file's metadata as well), `data` (name, licence, consent, purpose of the study); with int8 `score` (balanced
        accuracy per participant who wasn't trained on: float32, int8, loss with its interval), `speed`, `weight_bits`,
        `advice` and `bytes_float32`.

    Raises:
        UserError: Not a bundle, a name that doesn't end in `.onnx`, no dataset, one of other people, a model that one
            graph can't hold, or a graph that differs from the bundle; nothing is written then.
    """
    if out.suffix != ".onnx":
        raise UserError(f"--out {out} must end in .onnx.")
    bundle = Bundle.open(bundle_path)
    opened = Dataset.open(_dataset_path(bundle, given=dataset))
    people = choose_people(bundle, opened)
    graph = single_graph(bundle)
    if int8:
        check_int8(bundle, graph=graph)
    with TemporaryDirectory(prefix="mien-export-") as folder:
        plain = Path(folder) / "model.onnx"
        save_model(graph.model, plain)
        with progress("Comparing with the bundle", total=len(people.parity)) as advance:
            report = _parity(bundle, opened, plain, graph=graph, people=people.parity, advance=advance)
        written = plain
        if int8:
            written = Path(folder) / "int8.onnx"
            shown = recording_clips(bundle, opened, graph=graph, people=people.calibration)
            quantise(plain, written, inputs=_batches(shown, one_by_one=graph.one_by_one))
            both = BothGraphs(float32=plain, int8=written, graph=graph)
            report |= cost_of_int8(bundle, opened, both=both, people=people.scored)
            report["score"]["people"] = people.who
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as temporary:
            # The file travels without its report.
            save_with_notes(written, temporary, notes={f"licence_{of}": text for of, text in _licences(bundle).items()})
    report |= {"start": graph.start, "takes": graph.takes, "bytes": out.stat().st_size, "bundle": str(bundle_path)}
    report["inputs"] = {item.name: _shape(item) for item in graph.model.graph.input}
    report |= {"outputs": list(bundle.spec.labels.output_names), "licences": _licences(bundle)}
    report["data"] = bundle.spec.provenance.get("data", {})
    write_json(out.with_suffix(".parity.json"), report)
    return report


def _licences(bundle: Bundle) -> dict[str, str]:
    """Return the licences of a bundle's weights and of the data behind it; bundles of before say nothing of these."""
    known = {"weights": bundle.spec.weights, "data": bundle.spec.provenance.get("data", {})}
    return {of: str(facts.get("licence") or NOT_STATED) for of, facts in known.items()}


def _dataset_path(bundle: Bundle, *, given: Path | None) -> Path:
    stored = bundle.spec.provenance.get("dataset")
    path = given or (Path(stored) if stored else None)
    if path is None or not (path / "dataset.json").is_file():
        where = f" (it was {stored})" if stored else ""
        raise UserError(
            f"The dataset that {bundle.path} was trained on isn't here{where}. An export is compared with the bundle "
            "on real clips: give the dataset with --dataset."
        )
    return path


@dataclass(frozen=True)
class ExportPeople:
    """Who of a dataset is used for what.

    Attributes:
        calibration: Participants of the training, on whom ranges of activations are measured.
        parity: Of the scored, on whom the graph is compared with the bundle.
        scored: Whom no weight was fitted on.
        who: What the scored are: `never seen` by the training, its `inner split` (which said when to stop), or, where
            the dataset holds neither, `trained on`.
    """

    calibration: tuple[str, ...]
    parity: tuple[str, ...]
    scored: tuple[str, ...]
    who: str


def choose_people(bundle: Bundle, dataset: Dataset) -> ExportPeople:
    """Choose who calibrates and who is scored.

    Raises:
        UserError: The dataset holds nobody of the training.
    """
    made_of, there = bundle.spec.provenance, sorted(set(dataset.recordings["participant_id"]))
    inner = [name for name in made_of.get("validation_participants", ()) if name in there]
    known = set(made_of.get("participants", ()))
    trained = [name for name in there if name in known and name not in inner]
    if not trained:
        raise UserError(
            f"{dataset.path} holds nobody whom the bundle was trained on. Give the dataset that it was trained on."
        )
    # Who was found to be the same person as somebody of the training was seen under another name.
    for same in made_of.get("audit", {}).get("merged_participants", ()):
        known |= set(same)
    unseen = [name for name in there if name not in known]
    kinds = {"never seen": unseen, "inner split": inner, "trained on": trained}
    who, scored = next((who, names) for who, names in kinds.items() if names)
    return ExportPeople(tuple(trained[:CALIBRATION_PEOPLE]), tuple(scored[:PARITY_PEOPLE]), tuple(scored), who)


def _batches(shown: Iterator[RecordingClips], *, one_by_one: bool) -> Iterator[Inputs]:
    for clips in shown:
        yield from rows_of(clips.inputs) if one_by_one else (clips.inputs,)


def _shape(item: Any) -> list[int | str]:
    """Return the shape of a graph's input: sizes, and names of those that may vary."""
    return [size.dim_param or int(size.dim_value) for size in item.type.tensor_type.shape.dim]


def _parity(
    bundle: Bundle, dataset: Dataset, path: Path, *, graph: SingleGraph, people: Sequence[str], advance: Any
) -> dict[str, Any]:
    session, numbers = open_session(path), bundle.spec.labels.kind == "continuous"
    names = [name for name in (LOGITS, PROBABILITIES, CALIBRATED) if name in [o.name for o in session.get_outputs()]]
    worst, worst_probability, count = 0.0, 0.0, 0
    for clips in recording_clips(bundle, dataset, graph=graph, people=people):
        answers = run_graph(session, clips.inputs, outputs=names, one_by_one=graph.one_by_one)
        said = dict(zip(names, answers, strict=True))
        scale = max(1.0, float(np.abs(clips.logits).max())) if numbers else 1.0
        worst = max(worst, _gap(said[LOGITS], clips.logits) / scale)
        if not numbers:
            worst_probability = max(
                worst_probability, _gap(said[PROBABILITIES], bundle.spec.labels.probabilities(clips.logits))
            )
        if CALIBRATED in said:
            worst_probability = max(
                worst_probability, _gap(said[CALIBRATED], calibrated(clips.logits, spec=bundle.spec))
            )
        count += len(clips.frames)
        advance(clips.recording_id)
    if not count:
        raise UserError(f"No clip of {', '.join(people)} can be predicted, so the export can't be compared.")
    if not worst <= MAX_LOGIT_DIFFERENCE:
        raise UserError(
            f"The exported graph differs from the bundle by {worst:.3g} in a logit (allowed: "
            f"{MAX_LOGIT_DIFFERENCE:g}); nothing was written. Please report it with the model's name."
        )
    return {
        "max_abs_diff_logit": worst,
        "max_abs_diff_prob": None if numbers else worst_probability,
        "clips": count,
        "opset": OPSET,
        "precision": "float32",
    }


def _gap(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.abs(one - other).max())
