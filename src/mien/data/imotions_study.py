"""Studies as iMotions exports them: media and tables anywhere below the folder, known by their names.

`RespCam_<ID>_<stimulus>_(<age>,<gender>,<number>).mp4` is the face camera, `Screen recording <n> - <ID>.mp4` the
composite screen recording, `FEAExpressionTable*.csv` the annotations. Sensor exports, fixations and GSR peaks are known
by what they hold; raw AFFDEX channels count as annotations of respondents whom no expression table names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from mien.annotations.exports import Export, interval_table
from mien.annotations.formats import recognised_format
from mien.annotations.imotions import EXPRESSION_COLUMNS, read_expression_table
from mien.annotations.tables import normalise_id, read_raw_table
from mien.core.types import Camera, Problem, Recording
from mien.data.exports import StudyExports, key_of, match_respondents, read_clock_file, read_exports
from mien.data.layouts import (
    CODED_COLUMNS,
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

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
SENSORS = "iMotions sensors"
EVENT_TABLES = frozenset({"iMotions fixations", "iMotions GSR peaks"})
"""Tables of eye and skin events: they become features per second; a fixation is no expression."""

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
    shifts_s = read_clock_file(root, recordings=recordings, problems=problems)
    annotations = _match(recordings, expressions=expressions, source=source, shifts_s=shifts_s, problems=problems)
    exports = _read_others(
        root,
        recordings=recordings,
        annotated=set(expressions["person"]),
        source=source,
        shifts_s=shifts_s,
        problems=problems,
    )
    annotations = exports.annotations(annotations)
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
        coded=exports.coded(empty_table(CODED_COLUMNS), annotations=annotations),
        segments=exports.segments(),
        problems=tuple(problems),
        signals=exports.signals,
    )


def _read_others(
    root: Path,
    *,
    recordings: list[Recording],
    annotated: set[str],
    source: str,
    shifts_s: Mapping[str, float],
    problems: list[Problem],
) -> StudyExports:
    """Read sensor exports, fixations and GSR peaks, and match them to recordings by respondent."""
    found = StudyExports(label_source=source, shifts_s=shifts_s, problems=problems)
    paths = [path for path in list_files(root, suffixes=TABLE_SUFFIXES) if not _is_expression_table(path)]
    formats = {path: recognised_format(path) for path in paths}
    for export in read_exports([p for p in paths if formats[p] in {SENSORS, *EVENT_TABLES}], problems=problems):
        if formats[export.path] in EVENT_TABLES:
            export = replace(export, intervals=interval_table([]), labels=())
        # Expression tables are what the lab made of these channels, with its own thresholds.
        named = export.intervals["respondent"].map(key_of).isin(annotated)
        export = replace(export, intervals=export.intervals[~named], labels=() if named.any() else export.labels)
        matched = match_respondents(recordings, _parts(export))
        problems.extend(_strangers(export, matched=matched))
        starts_s = _stimulus_starts(export) if formats[export.path] == SENSORS else {}
        found.add(export, recordings_of=partial(_matched, matched), starts_s=starts_s)
    return found


def _stimulus_starts(export: Export) -> dict[tuple[str, str], float]:
    """Return when each stimulus of a sensor export starts on the export's clock, by respondent and stimulus.

    Sensor exports of several stimuli run on the session's clock, while a recording that is named after a stimulus, and
    the tables of expressions and fixations, start with it.
    """
    named = export.segments[export.segments["segment"] == export.segments["stimulus"]]
    starts = named.groupby(["respondent", "stimulus"], as_index=False)["onset_s"].min()
    parts = zip(starts["respondent"], starts["stimulus"], strict=True)
    return dict(zip(parts, starts["onset_s"], strict=True))


def _matched(by_part: Mapping[tuple[str, str], list[Recording]], who: str, what: str) -> list[Recording]:
    return by_part.get((who, what), [])


def _parts(export: Export) -> list[tuple[str, str]]:
    """Return respondent and stimulus of everything that an export holds."""
    tables = [zip(t["respondent"], t["stimulus"], strict=True) for t in (export.intervals, export.segments)]
    signals = [(signal.respondent, signal.stimulus) for signal in export.signals]
    return list(dict.fromkeys([*(part for table in tables for part in table), *signals]))


def _strangers(export: Export, *, matched: Mapping[tuple[str, str], Sequence[Recording]]) -> list[Problem]:
    """Return a problem where an export describes people of whom there is no recording."""
    known = {key_of(who) for (who, _), own in matched.items() if own}
    missing = list(dict.fromkeys(who for who, _ in matched if key_of(who) not in known))
    if not missing:
        return []
    names = ", ".join(repr(who) for who in missing[:5]) + (", ..." if len(missing) > 5 else "")
    reason = f"it is of {names}, of whom there is no recording" if any(missing) else "it doesn't say whose it is"
    return [
        Problem(
            export.path.name, "annotations", reason, "Export the participant's recording into the study, or leave it."
        )
    ]


def _read_expressions(root: Path, *, problems: list[Problem]) -> pd.DataFrame:
    tables = [path for path in list_files(root, suffixes=TABLE_SUFFIXES) if _is_expression_table(path)]
    read = [read_expression_table(path, problems=problems) for path in tables]
    # A study exported twice holds the same rows twice.
    rows = pd.concat(read, ignore_index=True).drop_duplicates(ignore_index=True) if read else empty_table(_EXPRESSION)
    rows["person"] = [key_of(text) for text in rows["respondent"]]
    rows["session"] = [key_of(text) for text in rows["stimulus"]]
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
        person = key_of(row.cells["respondent"])
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
    people = {*expressions["person"], *participants, *(key_of(match["who"]) for match in screens.values())}
    sessions = {*expressions["session"], *(key_of(match["session"]) for match in screens.values())}
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
        person, session = key_of(text[:cut]), key_of(text[cut + 1 :])
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
    return {**from_names.get(person, {}), **given.get(key_of(person), {})}


def _known(name: str, cell: str) -> tuple[str, str]:
    """Return age and gender as the files' names spell them, so that both say the same thing."""
    plain = name.lower()
    return (plain, cell.lower()) if plain in {"age", "gender"} else (name, cell)


def _without_unknown_age(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    # iMotions writes 0 where no age was entered.
    return {name: value for name, value in attributes.items() if not (name == "age" and value in (0.0, "0"))}


def _match(
    recordings: list[Recording],
    *,
    expressions: pd.DataFrame,
    source: str,
    shifts_s: Mapping[str, float],
    problems: list[Problem],
) -> pd.DataFrame:
    """Match expressions to recordings; what matches none is reported."""
    parts = list(expressions.groupby(["respondent", "stimulus"], sort=False))
    matched = match_respondents(recordings, [(str(who), str(what)) for (who, what), _ in parts])
    rows: list[dict[str, object]] = []
    for (who, what), part in parts:
        for recording in matched[str(who), str(what)]:
            name = recording.recording_id
            rows.extend(_annotation_rows(name, expressions=part, source=source, shift_s=shifts_s.get(name, 0.0)))
    annotated = {row["recording_id"] for row in rows}
    people = {str(person): theirs for person, theirs in expressions.groupby("person", sort=False)}
    for recording in recordings:
        theirs = people.get(key_of(recording.participant_id))
        if theirs is not None and recording.recording_id not in annotated:
            problems.append(_no_session(recording, stimuli=theirs["stimulus"].unique()))
    problems.extend(_unmatched(people, people={key_of(recording.participant_id) for recording in recordings}))
    return annotation_table(rows)


def _annotation_rows(
    recording_id: str, *, expressions: pd.DataFrame, source: str, shift_s: float
) -> list[dict[str, object]]:
    annotator = source.removeprefix("tool:") if source.startswith("tool:") else ""
    columns = (expressions[name] for name in ("label", "onset_s", "offset_s"))
    return [
        {
            "recording_id": recording_id,
            "onset_s": onset_s + shift_s,
            "offset_s": offset_s + shift_s,
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
