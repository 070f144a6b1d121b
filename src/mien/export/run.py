"""`mien export`: writes the graph, compares it with the bundle on real clips, and measures what int8 costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.core.errors import UserError
from mien.core.progress import progress
from mien.core.storage import atomic_path, write_json
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.evaluation.intervals import participant_interval
from mien.evaluation.scores import participant_scores
from mien.export.graph import LOGITS, OPSET, PROBABILITIES, SingleGraph, save_model, single_graph
from mien.export.int8 import quantise
from mien.runtime.bundle import Bundle
from mien.runtime.encoders import open_session, view_crops
from mien.runtime.windows import cut_windows, view_recording

PARITY_PEOPLE = 3
CALIBRATION_PEOPLE = 12
MAX_LOGIT_DIFFERENCE = 1e-3
"""As for bundles: 2.5e-4 in a probability, far below what a score can show."""


@dataclass(frozen=True)
class RecordingClips:
    """What an exported graph and the bundle are both given of a recording.

    Attributes:
        recording_id: The recording.
        participant_id: Whose it is.
        frames: (N,) rows of its sampled frames that are predicted.
        inputs: What the graph takes, by name.
        logits: (N, K) what the bundle says.
    """

    recording_id: str
    participant_id: str
    frames: NDArray[np.int64]
    inputs: dict[str, NDArray[Any]]
    logits: NDArray[np.float64]


def export_bundle(bundle_path: Path, *, out: Path, int8: bool = False, dataset: Path | None = None) -> dict[str, Any]:
    """Write a bundle as one ONNX, and `<out>.parity.json` beside it.

    Args:
        bundle_path: Folder of the bundle.
        out: The file to write, ending in `.onnx`.
        int8: Quantise weights and activations, calibrated on participants of the training.
        dataset: Where real clips come from; None for the dataset that the bundle was trained on, where it still lies
            where it lay.

    Returns:
        What `<out>.parity.json` holds: `max_abs_diff_logit`, `max_abs_diff_prob`, `clips`, `opset`, `precision`,
        `takes`, `start`, `bytes`; with int8 `score` (balanced accuracy per participant of the inner split: float32,
        int8, loss with its interval) and the size of the float32 file.

    Raises:
        UserError: Not a bundle, a name that doesn't end in `.onnx`, no dataset, one of other people, or a graph that
            differs from the bundle; nothing is written then.
    """
    if out.suffix != ".onnx":
        raise UserError(f"--out {out} must end in .onnx.")
    bundle = Bundle.open(bundle_path)
    opened = Dataset.open(_dataset_path(bundle, given=dataset))
    people = _people(bundle, opened)
    graph = single_graph(bundle)
    with TemporaryDirectory(prefix="mien-export-") as folder:
        plain = Path(folder) / "model.onnx"
        save_model(graph.model, plain)
        with progress("Comparing with the bundle", total=len(people["parity"])) as advance:
            report = _parity(bundle, opened, plain, graph=graph, people=people["parity"], advance=advance)
        written = plain
        if int8:
            written = Path(folder) / "int8.onnx"
            given = (
                clips.inputs for clips in recording_clips(bundle, opened, graph=graph, people=people["calibration"])
            )
            quantise(plain, written, inputs=given)
            report |= _cost_of_int8(bundle, opened, plain, written, graph=graph, people=people["scored"])
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as temporary:
            temporary.write_bytes(written.read_bytes())
    report |= {"start": graph.start, "takes": graph.takes, "bytes": out.stat().st_size, "bundle": str(bundle_path)}
    report |= {"outputs": list(bundle.spec.labels.output_names), "licence": bundle.spec.weights.get("licence", "")}
    write_json(out.with_suffix(".parity.json"), report)
    return report


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


def _people(bundle: Bundle, dataset: Dataset) -> dict[str, list[str]]:
    """Choose who calibrates (of the training), and who is compared and scored (the inner split: no weight saw them)."""
    made_of, there = bundle.spec.provenance, set(dataset.recordings["participant_id"])
    inner = [name for name in made_of.get("validation_participants", ()) if name in there]
    trained = [name for name in made_of.get("participants", ()) if name in there and name not in inner]
    if not trained:
        raise UserError(
            f"{dataset.path} holds nobody whom the bundle was trained on. Give the dataset that it was trained on."
        )
    scored = inner or trained
    return {"calibration": trained[:CALIBRATION_PEOPLE], "parity": scored[:PARITY_PEOPLE], "scored": scored}


def recording_clips(
    bundle: Bundle, dataset: Dataset, *, graph: SingleGraph, people: Sequence[str]
) -> Iterator[RecordingClips]:
    """Yield what a graph is given of each recording of some people; recordings without anything to see are left out."""
    table = dataset.recordings
    for participant, recording_id in table[["participant_id", "recording_id"]].itertuples(index=False):
        if participant in people:
            clips = _clips_of(bundle, dataset, graph=graph, recording_id=str(recording_id), participant=participant)
            if clips is not None:
                yield clips


def _clips_of(
    bundle: Bundle, dataset: Dataset, *, graph: SingleGraph, recording_id: str, participant: str
) -> RecordingClips | None:
    pts_s = dataset.frames(recording_id)["pts_s"].to_numpy(np.float64)
    seen = np.flatnonzero(dataset.has_crop(recording_id)) if bundle.needs_pictures else np.arange(0)
    features = np.full((len(pts_s), 1), np.nan, np.float32)
    pixels = np.empty((0,), np.uint8)
    if bundle.needs_pictures:
        if not len(seen):
            return None
        crops = np.asarray(dataset.crops(recording_id)[seen])
        own = bundle.features(crops)
        features = np.full((len(pts_s), own.shape[1]), np.nan, np.float32)
        features[seen] = own
        if graph.start == "pixels":
            spec = bundle.encoder.spec
            pixels = view_crops(crops, margin=bundle.view_margin, crop=spec.crop, size_px=spec.size_px)
    audio = dataset.audio(recording_id) if bundle.needs_sound else None
    signals = dataset.signals(recording_id) if bundle.needs_signals else None
    logits = bundle.logits(features, pts_s=pts_s, audio=audio, signals=signals)
    if graph.start == "windows":
        assert bundle.sequence_head is not None
        windows = bundle.sequence_head.windows
        view = view_recording(
            windows, pts_s=pts_s, features=features, baseline=bundle.baseline, audio=audio, signals=signals
        )
        seen = np.flatnonzero(~np.isnan(logits).any(axis=1))
        cut = cut_windows(view, seen, spec=windows)
        given: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(cut[name], np.float32) for name in windows.input_names
        }
    else:
        given = {"pixels": pixels} if graph.start == "pixels" else {"raw": features[seen]}
    return RecordingClips(recording_id, participant, seen, given, logits[seen]) if len(seen) else None


def _parity(
    bundle: Bundle, dataset: Dataset, path: Path, *, graph: SingleGraph, people: Sequence[str], advance: Any
) -> dict[str, Any]:
    session, scheme = open_session(path), bundle.spec.labels
    numbers = scheme.kind == "continuous"
    worst, worst_probability, count = 0.0, 0.0, 0
    for clips in recording_clips(bundle, dataset, graph=graph, people=people):
        logits = session.run([LOGITS], clips.inputs)[0]
        scale = max(1.0, float(np.abs(clips.logits).max())) if numbers else 1.0
        worst = max(worst, float(np.abs(logits - clips.logits).max()) / scale)
        if not numbers:
            said = session.run([PROBABILITIES], clips.inputs)[0]
            gap = float(np.abs(said - scheme.probabilities(clips.logits)).max())
            worst_probability = max(worst_probability, gap)
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


def _cost_of_int8(
    bundle: Bundle, dataset: Dataset, plain: Path, small: Path, *, graph: SingleGraph, people: Sequence[str]
) -> dict[str, Any]:
    """Score both graphs on the inner split, participant by participant."""
    scheme = bundle.spec.labels
    if scheme.kind not in ("binary", "multiclass"):
        raise UserError(f"int8 is measured for one binary or multiclass target; {scheme.target!r} is {scheme.kind}.")
    sessions = {"float32": open_session(plain), "int8": open_session(small)}
    targets = build_clips(dataset, target=scheme.target).table.set_index(["recording_id", "frame"])
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in sessions}
    gaps: dict[str, float] = {"logit": 0.0, "prob": 0.0}
    for clips in recording_clips(bundle, dataset, graph=graph, people=people):
        answers = {name: session.run([LOGITS, PROBABILITIES], clips.inputs) for name, session in sessions.items()}
        for key, index in (("logit", 0), ("prob", 1)):
            gaps[key] = max(gaps[key], float(np.abs(answers["int8"][index] - answers["float32"][index]).max()))
        rows = pd.DataFrame({"recording_id": clips.recording_id, "frame": clips.frames})
        known = rows.merge(targets.reset_index(), on=["recording_id", "frame"], how="left").drop(
            columns="participant_id"
        )
        for name, (_, said) in answers.items():
            table = known.assign(model=name, fold=0, participant_id=clips.participant_id)
            for column, output in enumerate(scheme.output_names):
                table[f"prob_{output}"] = said[:, column]
            tables[name].append(table[table["target"].notna()])
    per_person = {
        name: participant_scores(pd.concat(parts), scheme).set_index("participant_id")["balanced_accuracy"]
        for name, parts in tables.items()
    }
    loss = (per_person["float32"] - per_person["int8"]).dropna().to_numpy(np.float64)
    return {
        "precision": "int8",
        "max_abs_diff_logit": gaps["logit"],
        "max_abs_diff_prob": gaps["prob"],
        "score": {
            "metric": "balanced accuracy per participant",
            "participants": len(loss),
            "float32": float(per_person["float32"].mean()),
            "int8": float(per_person["int8"].mean()),
            "loss": asdict(participant_interval(loss, folds=None, bounds=(-1.0, 1.0))),
        },
        "bytes_float32": plain.stat().st_size,
    }
