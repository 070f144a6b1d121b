"""Annotations of a recording beside its prediction: a description, never evidence (it is one recording)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.annotations.exports import Export
from mien.core.channels import FACE_TOOLS
from mien.core.errors import UserError, unknown_name
from mien.core.labels import LabelScheme
from mien.core.storage import sha256_file
from mien.core.types import Recording, Signal
from mien.data.dataset import Dataset
from mien.data.exports import StudyExports, key_of, read_with_frames, with_affdex_intervals
from mien.data.layouts import CODED_COLUMNS, empty_table
from mien.data.ratings import ToolRatings, label_numbers, tool_channels
from mien.data.signals import signals_of
from mien.data.study import find_study
from mien.data.targets import TargetSpec, TargetTables, find_target, label_samples, usable
from mien.media.signals import resample
from mien.predict.recording import counted

DATASET_FILE = "dataset.json"
RATINGS_HZ = 30.0
"""Grid of a tool's ratings, which are one per frame of most cameras; samples are means over it."""

TRUTH_COLUMNS = ("recording_id", "channel", "start_s", "end_s", "truth", "predicted", "calibrated", "abstained")
"""Columns of `<name>.truth.csv`; `predicted` is a probability, or for numbers the number."""

NO_EVIDENCE = "One recording describes; it is no evidence of how good the model is. That is `mien compare`'s to say."


def annotations_of(path: Path, *, video: Path, is_alone: bool = True) -> TargetTables:
    """Read what is annotated of a video, as targets are made of it.

    Args:
        path: An export of any known format, on the video's clock; a dataset, or a study, that has the video.
        video: The video.
        is_alone: Whether no other video is asked for: then an export that names none is this one's.

    Raises:
        UserError: It can't be read, or has nothing of this video.
        MediaError: Frames are needed and can't be decoded.
    """
    if path.is_dir():
        tables = _of_dataset(path, video=video) if (path / DATASET_FILE).is_file() else _of_study(path, video=video)
    else:
        tables = _of_export(path, video=video, is_alone=is_alone)
    if not len(tables.annotations) and not len(tables.coded) and not tables.rated:
        raise UserError(f"{path} has no annotation of {video.name}.")
    return tables


def add_truth(timeline: pd.DataFrame, tables: TargetTables, *, labels: LabelScheme) -> pd.DataFrame:
    """Return a timeline with `truth_<name>` beside the answer of each output, NaN where nobody says anything.

    Args:
        timeline: As `predict_timeline` returns it.
        tables: From `annotations_of`.
        labels: What is predicted.

    Returns:
        With 1 where the class or channel is annotated and 0 where it isn't, or the annotated number.

    Raises:
        UserError: What is predicted isn't annotated, or is something else there.
    """
    recording_id = str(tables.recordings["recording_id"].iloc[0])
    samples = pd.DataFrame(
        {
            "recording_id": recording_id,
            "frame": np.arange(len(timeline)),
            "pts_s": timeline["start_s"].to_numpy(),
            "end_s": timeline["end_s"].to_numpy(),
            "face_found": timeline["face_found"].to_numpy(),
        }
    )
    tables = dataclasses.replace(tables, samples=samples, needs_face=False)
    names = labels.channels or (labels.target,)
    there = {*tables.annotations["scheme"], *tables.coded["label"], *tables.rated} - {""}
    known = [name for name in names if name in there]
    if not known:
        raise unknown_name("annotation", got=", ".join(names), allowed=sorted(there))
    columns: dict[str, NDArray[np.float64]] = {}
    for name in known:
        columns |= _truth_of(tables, name, labels=labels)
    return timeline.assign(**columns)


def truth_table(timeline: pd.DataFrame, *, labels: LabelScheme) -> pd.DataFrame:
    """Return truth beside prediction, a row per channel (or class) and sampled frame: `TRUTH_COLUMNS`."""
    parts = []
    for name, column in zip(labels.output_names, labels.output_columns, strict=True):
        if f"truth_{name}" in timeline:
            part = timeline[["recording_id", "start_s", "end_s", "abstained"]].assign(
                channel=name, truth=timeline[f"truth_{name}"], predicted=timeline[column], calibrated=np.nan
            )
            if f"calibrated_{name}" in timeline:
                part["calibrated"] = timeline[f"calibrated_{name}"]
            parts.append(part)
    return pd.concat(parts, ignore_index=True)[list(TRUTH_COLUMNS)]


def agreement(timeline: pd.DataFrame, *, labels: LabelScheme) -> list[dict[str, Any]]:
    """Describe how prediction and annotation of one recording go together, per channel or class.

    Returns:
        `channel`, `frames` (that are annotated and count), and of classes `annotated` and `predicted` (shares),
        `both`, `only_annotated`, `only_predicted`, `neither` (frames); of numbers `correlation`, None where either is
        constant.
    """
    counts = counted(timeline)
    answers = timeline[list(labels.output_columns)].to_numpy(dtype=np.float64)
    told = np.zeros(answers.shape, bool)
    if labels.kind != "continuous" and counts.any():
        codes = labels.predicted(answers[counts])
        told[counts] = codes == 1 if labels.channels else codes[:, None] == _codes_of(labels)
    found = []
    for place, name in enumerate(labels.output_names):
        if f"truth_{name}" not in timeline:
            continue
        truth = timeline[f"truth_{name}"].to_numpy(dtype=np.float64)
        rows = counts & np.isfinite(truth)
        facts = {"channel": name, "frames": int(rows.sum())}
        if labels.kind == "continuous":
            found.append({**facts, "correlation": _correlation(truth[rows], answers[rows, place])})
            continue
        annotated, predicted = truth[rows] == 1, told[rows, place]
        found.append({**facts, **_fourfold(annotated, predicted)})
    return found


def agreement_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say in a line per channel what `agreement` found."""
    lines = []
    for row in rows:
        if not row["frames"]:
            lines.append(f"{row['channel']}: no frame is annotated and counts.")
        elif "correlation" in row:
            value = "undefined" if row["correlation"] is None else f"{row['correlation']:.2f}"
            lines.append(f"{row['channel']}: correlation with the annotation {value} over {row['frames']} frames.")
        else:
            lines.append(
                f"{row['channel']}: annotated in {100 * row['annotated']:.0f} %, predicted in "
                f"{100 * row['predicted']:.0f} % of {row['frames']} frames; both in {row['both']}, annotated only "
                f"{row['only_annotated']}, predicted only {row['only_predicted']}, neither {row['neither']}."
            )
    return lines


def _codes_of(labels: LabelScheme) -> NDArray[np.int64]:
    """Return the class code of each output."""
    return np.array([1]) if labels.kind == "binary" else np.arange(len(labels.classes))


def _fourfold(annotated: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "annotated": float(annotated.mean()) if len(annotated) else None,
        "predicted": float(predicted.mean()) if len(annotated) else None,
        "both": int((annotated & predicted).sum()),
        "only_annotated": int((annotated & ~predicted).sum()),
        "only_predicted": int((~annotated & predicted).sum()),
        "neither": int((~annotated & ~predicted).sum()),
    }


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _truth_of(tables: TargetTables, name: str, *, labels: LabelScheme) -> dict[str, NDArray[np.float64]]:
    if name in {*tables.annotations["scheme"], *tables.rated}:
        spec = find_target(tables, name)
    else:  # somebody looked for it, and it never occurred
        spec = TargetSpec(name, "binary", (f"not {name}", name), "annotation", tables.unit, presence=True)
    if labels.kind == "continuous":
        if spec.kind != "continuous":
            raise UserError(f"{name} is annotated as {spec.kind}, and predicted as a number.")
        return {f"truth_{name}": label_numbers(tables, spec)[0]}
    if spec.kind == "continuous":
        raise UserError(f"{name} is annotated as a number, and predicted as {labels.kind}.")
    codes = label_samples(tables, spec)
    known = usable(tables, codes, spec=spec)

    def is_class(text: str) -> NDArray[np.float64]:
        if text not in spec.classes:
            return np.where(known, 0.0, np.nan)
        return np.where(known, (codes == spec.classes.index(text)).astype(np.float64), np.nan)

    if labels.kind == "multilabel":
        return {f"truth_{name}": is_class(name)}
    return {f"truth_{text}": is_class(text) for text in labels.output_names}


def _of_dataset(path: Path, *, video: Path) -> TargetTables:
    dataset = Dataset.open(path)
    own = dataset.recordings[dataset.recordings["media"].map(lambda media: Path(media).name) == video.name]
    if len(own) != 1:
        own = dataset.recordings[dataset.recordings["sha256"] == sha256_file(video)]
    if len(own) != 1:
        raise UserError(f"{path} has {len(own)} recordings that are {video.name}.")
    name = str(own["recording_id"].iloc[0])
    tables = dataset.tables()
    return dataclasses.replace(
        tables,
        recordings=own,
        annotations=_rows_of(tables.annotations, name),
        coded=_rows_of(tables.coded, name),
        segments=_rows_of(tables.segments, name),
    )


def _of_study(path: Path, *, video: Path) -> TargetTables:
    study = find_study(path, media="all", keep_key=False)
    own = [item for item in study.recordings if item.path.resolve() == video.resolve()]
    own = own or [item for item in study.recordings if item.path.name == video.name]
    if len(own) != 1:
        raise UserError(f"The study {path} has {len(own)} recordings that are {video.name}.")
    name = own[0].recording_id
    annotations = _rows_of(study.annotations, name).copy()
    return TargetTables(
        recordings=pd.DataFrame([{"recording_id": name, "participant_id": own[0].participant_id}]),
        annotations=annotations,
        coded=_rows_of(study.coded, name),
        segments=_rows_of(study.segments, name),
        samples=pd.DataFrame(),
        attributes=(),
        unit=study.unit,
        needs_face=False,
        annotator=study.annotator,
        ratings=_ratings_of([signal for source in study.signals.get(name, ()) for signal in signals_of(source)]),
    )


def _of_export(path: Path, *, video: Path, is_alone: bool) -> TargetTables:
    export = _of_video(with_affdex_intervals(read_with_frames(path, media=video)), video=video, is_alone=is_alone)
    recording = Recording(recording_id=video.stem, participant_id=video.stem, path=video, camera="camera")
    exports = StudyExports(label_source="human", shifts_s={}, problems=[])
    exports.add(export, recordings_of=lambda *_: [recording], media=video)
    annotations = exports.annotations()
    return TargetTables(
        recordings=pd.DataFrame([{"recording_id": video.stem, "participant_id": video.stem}]),
        annotations=annotations,
        coded=exports.coded(empty_table(CODED_COLUMNS), annotations=annotations),
        samples=pd.DataFrame(),
        attributes=(),
        unit="frame",
        needs_face=False,
        ratings=_ratings_of(export.signals),
    )


def _ratings_of(signals: Sequence[Signal]) -> ToolRatings:
    """Return what a tool rated at every frame: numbers, beside the intervals that are made of some of them."""
    rated = [signal for signal in signals if signal.source in FACE_TOOLS and len(signal.times_s)]
    if not rated:
        return ToolRatings()
    end_s = max(float(signal.times_s[-1]) for signal in rated) + 1.0 / RATINGS_HZ
    # Whose recording it is is known: exports spell one person in several ways, or name nobody.
    own = [dataclasses.replace(signal, respondent="", stimulus="") for signal in rated]
    table = resample(own, start_s=0.0, end_s=max(end_s, 0.0), rate_hz=RATINGS_HZ)
    return ToolRatings(tools=tool_channels(dict(zip(table.names, table.sources, strict=True))), read=lambda _: table)


def _of_video(export: Export, *, video: Path, is_alone: bool) -> Export:
    """Return what an export says of a video and its person, where it says something of several.

    Raises:
        UserError: It is of several, or several videos are predicted, and no name in it is in the video's.
    """
    rows = export.intervals
    # An export that is named after a video is that video's: tools that rate frames write it so.
    has_names = key_of(export.path.stem) == key_of(video.stem)
    stems = rows["media"].map(lambda name: key_of(Path(str(name).replace("\\", "/")).stem))
    if stems.nunique() > 1 or (not is_alone and stems.any()):
        rows, has_names = rows[stems == key_of(video.stem)], True
        if not len(rows):
            raise UserError(f"{export.path.name} names media files, none of which is {video.name}.")
    names = sorted({*(str(name) for name in rows["respondent"]), *(item.respondent for item in export.signals)} - {""})
    own = names
    if len(names) > 1 or (not is_alone and names and not has_names):
        own = [name for name in names if re.search(rf"\b{re.escape(key_of(name))}\b", key_of(video.stem))]
        if len(own) != 1:
            raise UserError(
                f"{export.path.name} is of {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}, and the name of "
                f"{video.name} doesn't say which of these it shows. Name the video after one, or give an export of "
                "this one alone."
            )
        rows, has_names = rows[rows["respondent"] == own[0]], True
    if not is_alone and not has_names:
        raise UserError(
            f"{export.path.name} doesn't say which of the videos it is of. Predict that video alone, or give a dataset "
            "or a study."
        )
    signals = tuple(item for item in export.signals if item.respondent in ("", *own))
    return dataclasses.replace(export, intervals=rows, signals=signals)


def _rows_of(table: pd.DataFrame, recording_id: str) -> pd.DataFrame:
    return table[table["recording_id"] == recording_id].reset_index(drop=True)
