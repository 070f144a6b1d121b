"""Plain studies, written by hand: `study.yaml`, `recordings.csv` and optionally three tables of intervals.

Exports of annotation tools and sensors belong to a recording where their file has its name or its media's, or where
the column `exports` of `recordings.csv` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mien.annotations.formats import FORMATS
from mien.annotations.tables import Row, normalise_id, read_intervals, read_number, read_raw_table
from mien.core.errors import UserError
from mien.core.types import Camera, Problem, Recording
from mien.data.exports import StudyExports, key_of, read_clock_file, read_export_of
from mien.data.layouts import (
    AUDIO_SUFFIXES,
    CODED_COLUMNS,
    LABEL_SOURCES,
    SEGMENT_COLUMNS,
    Attribute,
    ParticipantIds,
    Study,
    StudyFile,
    annotation_table,
    empty_table,
    list_files,
    typed_attributes,
    unique_id,
)

RECORDING_COLUMNS = ("media", "participant", "recording", "session", "camera", "group", "exports", "start_utc")
OWN_TABLES = frozenset({"recordings.csv", "annotations.csv", "coded.csv", "segments.csv", "clock.csv"})
EXPORT_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json"}.union(*(item.suffixes for item in FORMATS)))
FACES = ("", "main", "left", "right")

IdsByName = dict[str, list[str]]


def is_plain(root: Path) -> bool:
    """Return whether a folder lists its recordings itself."""
    return (root / "recordings.csv").is_file()


def missing_recordings(root: Path) -> UserError:
    """Return the error for a plain study without its first table."""
    return UserError(
        f"{root}: study.yaml is here, but recordings.csv is missing. Write one, with a row per recording and the "
        "columns media (its file, counted from this folder) and participant."
    )


def find_plain_study(root: Path, *, facts: StudyFile | None) -> Study:
    """Read a plain study's tables.

    Args:
        root: The study's folder.
        facts: Its `study.yaml`.

    Raises:
        UserError: There is no `study.yaml` or no label source in it, a table lacks columns, or recordings and
            groups contradict each other.
    """
    if facts is None or not facts.label_source:
        raise UserError(
            f"{root / 'study.yaml'} must say who annotated: a line 'label_source: ...' with one of {LABEL_SOURCES}."
        )
    if not is_plain(root):
        raise missing_recordings(root)
    problems: list[Problem] = []
    recordings, ids, listed = _read_recordings(root, problems=problems)
    annotations = _read_annotations(root, ids=ids, source=facts.label_source, problems=problems)
    exports = _read_exports(root, recordings=recordings, listed=listed, source=facts.label_source, problems=problems)
    annotations = exports.annotations(annotations)
    _refuse_shared_names(recordings, annotations=annotations)
    return Study(
        root=root,
        name=facts.name or root.resolve().name,
        layout="plain",
        label_source=facts.label_source,
        purpose=facts.purpose,
        consent=facts.consent,
        unit=facts.unit,
        recordings=tuple(recordings),
        annotations=annotations,
        coded=exports.coded(_read_coded(root, ids=ids, problems=problems), annotations=annotations),
        segments=exports.segments(_read_segments(root, ids=ids, problems=problems)),
        problems=tuple(problems),
        signals=exports.signals,
    )


@dataclass(frozen=True)
class _Listed:
    """What `recordings.csv` says of a recording besides the recording itself.

    Attributes:
        name: Its name there.
        exports: Its exports, as listed.
        start_utc_s: When it starts, s since 1970 (UTC); None where it doesn't say.
    """

    name: str
    exports: tuple[str, ...]
    start_utc_s: float | None


def _read_exports(
    root: Path,
    *,
    recordings: Sequence[Recording],
    listed: Mapping[str, _Listed],
    source: str,
    problems: list[Problem],
) -> StudyExports:
    """Read the exports of each recording."""
    shifts_s = read_clock_file(root, recordings=recordings, problems=problems)
    found = StudyExports(label_source=source, shifts_s=shifts_s, problems=problems)
    by_stem = _exports_by_stem(root)
    for recording in recordings:
        own = listed[recording.recording_id]
        stems = {key_of(own.name), key_of(recording.path.stem)}
        paths = [path for stem in sorted(stems) for path in by_stem.get(stem, [])]
        for name in own.exports:
            path = _find_media(root, name)
            if path is None:
                reason = f"recordings.csv lists the export {name}, which isn't there"
                problems.append(Problem(recording.recording_id, "annotations", reason, "Correct the path."))
            elif path not in paths:
                paths.append(path)
        for path in paths:
            _add_export(found, recording, path, start_utc_s=own.start_utc_s)
    return found


def _add_export(found: StudyExports, recording: Recording, path: Path, *, start_utc_s: float | None) -> None:
    export = read_export_of(recording, path, problems=found.problems)
    if export is None:
        return
    shift_s = 0.0
    if export.start_utc_s is not None:
        if start_utc_s is None:
            reason = f"{path.name} gives its times in UTC, and nothing says when the recording starts; left out"
            advice = "Add the column start_utc to recordings.csv, such as 2026-03-01T14:05:09.25Z."
            found.problems.append(Problem(recording.recording_id, "annotations", reason, advice))
            return
        shift_s = export.start_utc_s - start_utc_s
    found.add(export, recordings_of=lambda _who, _what: [recording], shift_s=shift_s, media=recording.path)


def _exports_by_stem(root: Path) -> dict[str, list[Path]]:
    """Return the files below the study that could be an export, by the name that their recording has."""
    files = list_files(root, suffixes=EXPORT_SUFFIXES)
    own = {root / name for name in OWN_TABLES}
    found: dict[str, list[Path]] = {}
    for path in files:
        if path not in own:
            found.setdefault(key_of(path.stem), []).append(path)
    return found


def _start_utc(text: str, *, line: int, name: str, problems: list[Problem]) -> float | None:
    """Return a cell of start_utc as seconds since 1970; a time without a zone is UTC."""
    if not text:
        return None
    seconds = read_number(text)
    if seconds == seconds:
        return seconds
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        reason = f"line {line} of recordings.csv has the start_utc {text!r}, which is no time"
        advice = "Write it as 2026-03-01T14:05:09.25Z, or in seconds since 1970."
        problems.append(Problem(name, "annotations", reason, advice))
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _read_recordings(root: Path, *, problems: list[Problem]) -> tuple[list[Recording], IdsByName, dict[str, _Listed]]:
    """Return the recordings, their ids by what other tables may call them, and what else is listed of each, by id."""
    path = root / "recordings.csv"
    table = read_raw_table(
        path,
        wanted={name: (name,) for name in RECORDING_COLUMNS[:2]},
        optional={name: (name,) for name in RECORDING_COLUMNS[2:]},
    )
    if not table.rows:
        raise UserError(
            f"{path} has no rows below its header. Write one per recording: media (its file, counted from {root}) and "
            "participant."
        )
    attributes = typed_attributes(
        [{name: cell for name, cell in row.cells.items() if name not in RECORDING_COLUMNS} for row in table.rows]
    )
    stems = [Path(row.cells["media"].replace("\\", "/")).stem for row in table.rows]
    participants, taken = ParticipantIds(), set[str]()
    recordings: list[Recording] = []
    ids: IdsByName = {}
    listed: dict[str, _Listed] = {}
    views: dict[str, tuple[str, set[str]]] = {}
    for row, values, stem in zip(table.rows, attributes, stems, strict=True):
        media, camera = row.cells["media"], row.cells.get("camera", "")
        if not media or not row.cells["participant"]:
            reason = f"line {row.line} of recordings.csv has no {'media' if not media else 'participant'}"
            problems.append(Problem(media or path.name, "find", reason, "Fill in the cell."))
            continue
        name = row.cells.get("recording", "") or (stem if stems.count(stem) == 1 else _without_suffix(media))
        participant = participants(row.cells["participant"])
        _check_views(name, camera=camera, participant=participant, views=views)
        recording_id = unique_id((name, camera if len(views[name][1]) > 1 else ""), taken=taken)
        for alias in {normalise_id(name), normalise_id(media)}:
            ids.setdefault(alias, []).append(recording_id)
        found = _find_media(root, media)
        if found is None:
            reason = f"recordings.csv names {media} (line {row.line}), which isn't there"
            advice = f"Put the file there (paths count from {root}), or correct the path."
            problems.append(Problem(recording_id, "find", reason, advice))
            continue
        named = tuple(item.strip() for item in row.cells.get("exports", "").split(";") if item.strip())
        starts = _start_utc(row.cells.get("start_utc", ""), line=row.line, name=recording_id, problems=problems)
        listed[recording_id] = _Listed(name, exports=named, start_utc_s=starts)
        group = normalise_id(row.cells.get("group", "")) or participant
        recordings.append(_recording(row, recording_id, participant, found, group=group, attributes=values))
    _refuse_split_people(recordings)
    return recordings, ids, listed


def _recording(
    row: Row, recording_id: str, participant: str, path: Path, *, group: str, attributes: Mapping[str, Attribute]
) -> Recording:
    return Recording(
        recording_id=recording_id,
        participant_id=participant,
        path=path,
        camera=_camera(row.cells.get("camera", ""), path=path),
        session=normalise_id(row.cells.get("session", "")),
        group=group,
        attributes=attributes,
    )


def _camera(text: str, *, path: Path) -> Camera:
    if text.lower() == "screen":
        return "screen"
    return "audio" if text.lower() == "audio" or path.suffix.lower() in AUDIO_SUFFIXES else "camera"


def _without_suffix(media: str) -> str:
    return str(Path(media.replace("\\", "/")).with_suffix("")).replace("/", "-")


def _find_media(root: Path, media: str) -> Path | None:
    # Tables written on Windows separate folders by backslashes.
    candidates = (root / media, root / media.replace("\\", "/"))
    return next((path for path in candidates if path.exists()), None)


def _check_views(name: str, *, camera: str, participant: str, views: dict[str, tuple[str, set[str]]]) -> None:
    """Several rows may show one recording from several cameras; anything else that shares a name is a mistake."""
    person, cameras = views.setdefault(name, (participant, set()))
    if person != participant:
        raise UserError(
            f"recordings.csv lists the recording {name!r} for two participants, {person} and {participant}. "
            "Give each person's recording a name of its own; 'group' keeps people apart who mustn't be split."
        )
    if camera in cameras:
        what = f"with the camera {camera!r} twice" if camera else "twice"
        raise UserError(f"recordings.csv lists the recording {name!r} {what}. Give each row its own name or camera.")
    cameras.add(camera)


def _refuse_split_people(recordings: Sequence[Recording]) -> None:
    groups: dict[str, str] = {}
    for recording in recordings:
        group = groups.setdefault(recording.participant_id, recording.group)
        if group != recording.group:
            raise UserError(
                f"recordings.csv puts {recording.participant_id} into the groups {group!r} and {recording.group!r}. "
                "A person belongs to one group, else they could be trained on and tested on: give both rows the same."
            )


def _refuse_shared_names(recordings: Sequence[Recording], *, annotations: pd.DataFrame) -> None:
    columns = {name for recording in recordings for name in recording.attributes}
    shared = sorted(columns & set(annotations["scheme"]))
    if shared:
        raise UserError(
            f"{shared[0]!r} is a column of recordings.csv and a label of annotations.csv. Rename one: both are targets."
        )


def _read_annotations(root: Path, *, ids: IdsByName, source: str, problems: list[Problem]) -> pd.DataFrame:
    path = root / "annotations.csv"
    if not path.is_file():
        return annotation_table([])
    optional = ("value", "annotator", "face", "confidence")
    table = read_intervals(
        path, start="onset_s", end="offset_s", text=("recording", "label"), optional=optional, problems=problems
    )
    strange = sorted(set(table["face"].str.lower()) - set(FACES))
    if strange:
        raise UserError(f"annotations.csv: face is {strange[0]!r}; allowed: main, left, right, or empty.")
    table = _with_ids(table, path=path, ids=ids, problems=problems)
    return annotation_table(
        table.rename(columns={"label": "scheme"}).assign(
            source=source,
            value=pd.Series([value or None for value in table["value"]], dtype="object"),
            confidence=[read_number(text) for text in table["confidence"]],
            face=table["face"].str.lower(),
        )
    )


def _read_coded(root: Path, *, ids: IdsByName, problems: list[Problem]) -> pd.DataFrame:
    path = root / "coded.csv"
    if not path.is_file():
        return empty_table(CODED_COLUMNS)
    optional = ("annotator", "label")
    table = read_intervals(path, start="from_s", end="to_s", text=("recording",), optional=optional, problems=problems)
    return _with_ids(table, path=path, ids=ids, problems=problems)[list(CODED_COLUMNS)]


def _read_segments(root: Path, *, ids: IdsByName, problems: list[Problem]) -> pd.DataFrame:
    path = root / "segments.csv"
    if not path.is_file():
        return empty_table(SEGMENT_COLUMNS)
    text = ("recording", "segment")
    table = read_intervals(path, start="onset_s", end="offset_s", text=text, optional=("stimulus",), problems=problems)
    return _with_ids(table, path=path, ids=ids, problems=problems)[list(SEGMENT_COLUMNS)]


def _with_ids(table: pd.DataFrame, *, path: Path, ids: IdsByName, problems: list[Problem]) -> pd.DataFrame:
    """Return each row once per recording (view) that it describes; rows of unknown recordings are reported."""
    names = table["recording"].map(normalise_id)
    for name, count in table["recording"][~names.isin(list(ids))].value_counts(sort=False).items():
        rows = f"1 row of {path.name} names" if count == 1 else f"{count} rows of {path.name} name"
        reason = f"{rows} the recording {name!r}, which recordings.csv doesn't list"
        problems.append(Problem(path.name, "annotations", reason, "Use the same names in both tables."))
    listed = pd.Series([ids.get(name, []) for name in names], dtype="object")
    matched = table.assign(recording_id=listed).explode("recording_id")
    return matched.dropna(subset="recording_id").reset_index(drop=True)
