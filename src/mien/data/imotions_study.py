"""Studies as iMotions exports them: media and tables anywhere below the folder, known by their names.

`RespCam_<ID>_<stimulus>_(<age>,<gender>,<number>).mp4` is the face camera, `Screen recording <n> - <ID>.mp4` the
composite screen recording, `FEAExpressionTable*.csv` the annotations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mien.annotations.imotions import EXPRESSION_COLUMNS, read_expression_table
from mien.annotations.tables import normalise_id, read_raw_table
from mien.core.types import Camera, Problem, Recording
from mien.data.layouts import (
    CODED_COLUMNS,
    SEGMENT_COLUMNS,
    VIDEO_SUFFIXES,
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

NAMES = (
    "RespCam_<ID>_<stimulus>_(<age>,<gender>,<number>).mp4",
    "Screen recording <n> - <ID>.mp4",
)
DEFAULT_LABEL_SOURCE = "tool:AFFDEX"
"""The expression tables are what the AFFDEX classifier says of a face."""

_CAMERA = re.compile(r"RespCam_(?P<who>.+?)(?:_\((?P<age>[^,()]*),(?P<gender>[^,()]*)(?:,[^()]*)?\))?", re.IGNORECASE)
_SCREEN = re.compile(r"(?P<session>Screen recording\s*\d*)\s+-\s+(?P<who>.+)", re.IGNORECASE)
_EXPRESSION = tuple(EXPRESSION_COLUMNS)
_PARTICIPANT_COLUMN = (
    "respondent",
    "respondent name",
    "respondent id",
    "participant",
    "participant id",
    "participant name",
    "id",
)


@dataclass(frozen=True)
class _MediaName:
    path: Path
    who: str
    session: str
    camera: Camera
    attributes: Mapping[str, Attribute]


def is_imotions(path: Path) -> bool:
    """Return whether a file is named like a recording of an iMotions study."""
    return bool(_CAMERA.fullmatch(path.stem) or _SCREEN.fullmatch(path.stem))


def find_imotions_study(root: Path, *, facts: StudyFile | None) -> Study:
    """Find all recordings, participants and expression tables of an iMotions study.

    Args:
        root: The study's folder.
        facts: Its `study.yaml`; without a label source there, the expression tables count as `tool:AFFDEX`.

    Raises:
        UserError: An expression table lacks columns.
    """
    problems: list[Problem] = []
    expressions = _read_expressions(root, problems=problems)
    given = _read_participants(root, problems=problems)
    names = _read_names(root, expressions=expressions, participants=given, problems=problems)
    recordings = _make_recordings(names, given=given)
    source = (facts.label_source if facts else "") or DEFAULT_LABEL_SOURCE
    annotations = _match(recordings, expressions=expressions, source=source, problems=problems)
    return Study(
        root=root,
        name=(facts.name if facts else "") or root.resolve().name,
        layout="imotions",
        label_source=source,
        purpose=facts.purpose if facts else "",
        consent=facts.consent if facts else "",
        unit=facts.unit if facts else "frame",
        recordings=tuple(recordings),
        annotations=annotations,
        coded=empty_table(CODED_COLUMNS),
        segments=empty_table(SEGMENT_COLUMNS),
        problems=tuple(problems),
    )


def _read_expressions(root: Path, *, problems: list[Problem]) -> pd.DataFrame:
    tables = [path for path in list_files(root, suffixes={".csv", ".tsv", ".txt"}) if _is_expression_table(path)]
    read = [read_expression_table(path, problems=problems) for path in tables]
    # A study exported twice holds the same rows twice.
    rows = pd.concat(read, ignore_index=True).drop_duplicates(ignore_index=True) if read else empty_table(_EXPRESSION)
    rows["person"] = [_key(text) for text in rows["respondent"]]
    rows["session"] = [_key(text) for text in rows["stimulus"]]
    return rows


def _is_expression_table(path: Path) -> bool:
    return path.name.lower().startswith("feaexpressiontable")


def _read_participants(root: Path, *, problems: list[Problem]) -> dict[str, dict[str, Attribute]]:
    """Return attributes by participant key, from `participants.csv` where there is one."""
    path = next((p for p in list_files(root, suffixes={".csv", ".tsv"}) if p.stem.lower() == "participants"), None)
    if path is None:
        return {}
    table = read_raw_table(path, wanted={"respondent": _PARTICIPANT_COLUMN})
    attributes = typed_attributes(
        [dict(_known(name, cell) for name, cell in row.cells.items() if name != "respondent") for row in table.rows]
    )
    by_person: dict[str, dict[str, Attribute]] = {}
    for row, values in zip(table.rows, attributes, strict=True):
        person = _key(row.cells["respondent"])
        if person in by_person:
            reason = f"line {row.line} names {row.cells['respondent']!r} again; the first row counts"
            problems.append(Problem(path.name, "find", reason, "Keep one row per participant."))
            continue
        by_person[person] = _without_unknown_age(values)
    return by_person


def _read_names(
    root: Path, *, expressions: pd.DataFrame, participants: Iterable[str], problems: list[Problem]
) -> list[_MediaName]:
    files = list_files(root, suffixes=VIDEO_SUFFIXES)
    screens = {path: match for path in files if (match := _SCREEN.fullmatch(path.stem))}
    people = {*expressions["person"], *participants, *(_key(match["who"]) for match in screens.values())}
    sessions = {*expressions["session"], *(_key(match["session"]) for match in screens.values())}
    names = []
    for path in files:
        if path in screens:
            screen = screens[path]
            names.append(_MediaName(path, screen["who"], normalise_id(screen["session"]), "screen", {}))
        elif camera := _CAMERA.fullmatch(path.stem):
            who, session = split_name(camera["who"], people=people, sessions=sessions)
            names.append(_MediaName(path, who, normalise_id(session), "camera", _name_attributes(camera)))
        else:
            reason = f"{path.name} is named neither {NAMES[0]} nor {NAMES[1]}"
            advice = "Rename it if it shows a participant; leave it if it doesn't (a stimulus, for instance)."
            problems.append(Problem(path.name, "find", reason, advice))
    return names


def split_name(text: str, *, people: Iterable[str], sessions: Iterable[str]) -> tuple[str, str]:
    """Split `<ID>_<stimulus>`, either of which may hold underscores, with the help of the names that are known.

    Args:
        text: The part of a camera file's name after `RespCam_`.
        people: Known participants, normalised and lower case.
        sessions: Known stimuli, normalised and lower case.

    >>> split_name("AR_2298_Screen recording 1", people=["ar 2298"], sessions=[])
    ('AR_2298', 'Screen recording 1')
    """
    known_people, known_sessions = set(people), set(sessions)
    cuts = [index for index, letter in enumerate(text) if letter == "_" and 0 < index < len(text) - 1]
    if not cuts:
        return text, ""

    def merit(cut: int) -> tuple[bool, bool, bool, int]:
        person, session = _key(text[:cut]), _key(text[cut + 1 :])
        return person in known_people, session in known_sessions, session.startswith("screen recording"), -cut

    cut = max(cuts, key=merit)
    return text[:cut], text[cut + 1 :]


def _name_attributes(match: re.Match[str]) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    age, gender = (match["age"] or "").strip(), (match["gender"] or "").strip().lower()
    if age.isdecimal():
        attributes["age"] = float(age)
    if gender:
        attributes["gender"] = gender
    return _without_unknown_age(attributes)


def _make_recordings(names: Iterable[_MediaName], *, given: Mapping[str, Mapping[str, Attribute]]) -> list[Recording]:
    ids, taken = ParticipantIds(), set[str]()
    from_names: dict[str, Mapping[str, Attribute]] = {}
    recordings = []
    for name in names:
        participant = ids(name.who)
        if name.attributes:
            from_names.setdefault(participant, name.attributes)
        recordings.append(
            Recording(
                recording_id=unique_id((participant, name.session.lower(), name.camera), taken=taken),
                participant_id=participant,
                path=name.path,
                camera=name.camera,
                session=name.session,
                group=participant,
            )
        )
    # A screen recording's name has no age and gender, the same person's camera file does.
    return [replace(recording, attributes=_attributes(recording, from_names, given)) for recording in recordings]


def _attributes(
    recording: Recording,
    from_names: Mapping[str, Mapping[str, Attribute]],
    given: Mapping[str, Mapping[str, Attribute]],
) -> dict[str, Attribute]:
    person = recording.participant_id
    return {**from_names.get(person, {}), **given.get(_key(person), {})}


def _known(name: str, cell: str) -> tuple[str, str]:
    """Return age and gender as the files' names spell them, so that both say the same thing."""
    plain = name.lower()
    return (plain, cell.lower()) if plain in {"age", "gender"} else (name, cell)


def _without_unknown_age(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    # iMotions writes 0 where no age was entered.
    return {name: value for name, value in attributes.items() if not (name == "age" and value in (0.0, "0"))}


def _match(
    recordings: list[Recording], *, expressions: pd.DataFrame, source: str, problems: list[Problem]
) -> pd.DataFrame:
    """Match expressions to recordings by participant, and by stimulus where one of the two sides has several."""
    by_person = {str(person): rows for person, rows in expressions.groupby("person", sort=False)}
    sessions: dict[str, set[str]] = {}
    for recording in recordings:
        sessions.setdefault(_key(recording.participant_id), set()).add(_key(recording.session))
    rows: list[dict[str, object]] = []
    for recording in recordings:
        person = _key(recording.participant_id)
        if person not in by_person:
            continue
        theirs = by_person[person]
        matched = theirs[theirs["session"] == _key(recording.session)]
        if matched.empty and len(sessions[person]) == 1 and theirs["session"].nunique() == 1:
            matched = theirs
        if matched.empty:
            problems.append(_no_session(recording, stimuli=theirs["stimulus"].unique()))
        rows.extend(_annotation_rows(recording.recording_id, expressions=matched, source=source))
    problems.extend(_unmatched(by_person, people=sessions))
    return annotation_table(rows)


def _annotation_rows(recording_id: str, *, expressions: pd.DataFrame, source: str) -> list[dict[str, object]]:
    annotator = source.removeprefix("tool:") if source.startswith("tool:") else ""
    columns = (expressions[name] for name in ("label", "onset_s", "offset_s"))
    return [
        {
            "recording_id": recording_id,
            "onset_s": onset_s,
            "offset_s": offset_s,
            "scheme": label,
            "annotator": annotator,
            "source": source,
        }
        for label, onset_s, offset_s in zip(*columns, strict=True)
    ]


def _no_session(recording: Recording, *, stimuli: Iterable[str]) -> Problem:
    named = ", ".join(map(repr, stimuli))
    return Problem(
        recording.recording_id,
        "annotations",
        f"the expression tables name the stimuli {named} for {recording.participant_id}, not {recording.session!r}",
        "Use the same stimulus name in the table and in the file's name; until then this recording isn't annotated.",
    )


def _unmatched(by_person: Mapping[str, pd.DataFrame], *, people: Iterable[str]) -> list[Problem]:
    known = set(people)
    return [
        Problem(
            normalise_id(rows["respondent"].iloc[0]),
            "annotations",
            f"{len(rows)} rows of the expression tables name this participant, of whom there is no recording",
            "Export the participant's recording into the study, or leave the rows.",
        )
        for person, rows in by_person.items()
        if person not in known
    ]


def _key(text: str) -> str:
    return normalise_id(text).casefold()
