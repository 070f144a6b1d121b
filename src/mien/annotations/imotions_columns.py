"""Which column of an iMotions sensor export is what, and in which rows a sensor's columns are fresh.

Exports carry every column forward into all rows; a sensor's values are new only in rows whose `EventSource` names it.
Taking every row would count each sample as often as other sensors reported meanwhile. The rule, in this order:

1. Several `EventSource` columns (8 and later): each owns the columns to its right up to the next one, and is filled in
   (and not 0) where its sensor reported.
2. One `EventSource` with names, joined by `|` (5.x to 7.x; `Combined Event Source`): a column belongs to the source
   that its name ends with in brackets, or to that of its family (`ET`, FACET, AFFDEX, skin conductance, ...).
3. One `EventSource` with a single value in the whole file: all rows are fresh.
4. Else (codes that the file explains nowhere): a carried column changes only in rows of its own source, so a column
   belongs to those values of `EventSource` in whose rows it changes at all; all rows with these values are fresh,
   unchanged samples included. A column that never changes goes with its neighbour to the left. This is inferred, so it
   is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mien.annotations.imotions import units_per_second
from mien.annotations.imotions_preamble import TIME_NAMES, Preamble
from mien.annotations.tables import normalise_id
from mien.core.channels import find_channel
from mien.core.errors import UserError
from mien.core.types import Problem

EVENT_SOURCE = "eventsource"
COMBINED_SOURCE = "combined event source"
OWNER_SHARE = 0.1
"""A source owns a column where the column changes in at least this share of its rows, as a share of the most faithful
source's: rows that two sensors share make a column change now and then beside a value that isn't its own."""

ROLES: Mapping[str, tuple[str, ...]] = {
    "respondent": ("respondent name", "name", "respondent"),
    "stimulus": ("stimulusname", "stimulus name", "sourcestimuliname", "source stimuli name", "stimulusid"),
    "slide_type": ("slidetype",),
    "slide_event": ("slideevent",),
    "age": ("age",),
    "gender": ("gender",),
    "utc": ("utctimestamp",),
}
"""Columns about the row, by what they say; the first that is there counts."""

BOOKKEEPING = {
    *("row", "rownumber", "studyname", "study name", "exportdate", "stimuliblock", "mediatime", "timesignal"),
    *("et timesignal", "stimtype", "duration", "collectionphase", "inputeventsource", "data", "samplenumber"),
    *("frameno", "frametime", "livemarker", "keystroke", "markertext", "scenetype", "sceneoutput", "sceneparent"),
    *("seqno", "eeg timestamp", "unixtime", "gsr quality", "event group", "event label", "event text", "event index"),
}
"""Counters, clocks and marks: neither about the respondent nor measured. `MediaTime` restarts with every stimulus."""

ANNOTATION = re.compile(r"annotation|postmarker|.*\bannotations?\b.*\bactive", re.IGNORECASE)

AFFDEX_ONLY = {
    *("engagement", "valence", "inner brow raise", "lip corner depressor", "lid tighten", "blink", "blinkrate"),
    *("pitch", "yaw", "roll", "interocular distance", "number of faces"),
}


@dataclass(frozen=True)
class Family:
    """A kind of sensor, how its columns are called and how `EventSource` names it."""

    name: str
    columns: re.Pattern[str]
    tokens: re.Pattern[str]


FAMILIES = (
    Family(
        "ET",
        re.compile(r"(ET_|Interpolated ?)?(Gaze|Pupil|Distance|Camera|Validity|Fixation|Saccade)|ET_", re.IGNORECASE),
        re.compile(r"ET\b(?!_)|.*eye ?track", re.IGNORECASE),
    ),
    Family(
        "FACET",
        re.compile(
            r".* (Evidence|Intensity|Probability|Degrees)$|FaceRect|NoOfFaces|(LEFT|RIGHT)_EYE_|NOSE_TIP|7 [XY]$"
        ),
        re.compile(r".*(facet|emotient)", re.IGNORECASE),
    ),
    Family(
        "GSR", re.compile(r"GSR|EDA\b|skin cond", re.IGNORECASE), re.compile(r".*(shimmer|gsr|eda\b)", re.IGNORECASE)
    ),
    Family("ECG", re.compile(r"ECG|.* ECG ", re.IGNORECASE), re.compile(r".*(ecg|exg)", re.IGNORECASE)),
    Family("PPG", re.compile(r".*(PPG|IBI)\b", re.IGNORECASE), re.compile(r".*(shimmer|ppg|empatica)", re.IGNORECASE)),
)
AFFDEX_TOKENS = re.compile(r".*aff(dex|ectiva|raw)", re.IGNORECASE)


@dataclass(frozen=True)
class SensorColumn:
    """A column that holds a channel.

    Attributes:
        position: From 0.
        name: Of the channel.
        unit: As the export gives it.
        source: Its sensor, as far as its own name and the preamble say; empty where they don't.
        event: Position of the `EventSource` that is filled in where it is fresh; None where one serves all columns.
    """

    position: int
    name: str
    unit: str
    source: str
    event: int | None = None


@dataclass(frozen=True)
class Columns:
    """What the columns of an export are.

    Attributes:
        time: Position of the time that counts.
        per_second: Its units per second.
        wall_clock: Whether times are dates (`20171004_182228807`).
        utc: Whether these dates are UTC.
        roles: Positions by `ROLES`.
        annotations: Positions of columns in which people's marks are active.
        event: Position of the one `EventSource` for all columns, None where there is none or several.
        sensors: Channels.
    """

    time: int
    per_second: float
    wall_clock: bool
    utc: bool
    roles: Mapping[str, int]
    annotations: tuple[int, ...]
    event: int | None
    sensors: tuple[SensorColumn, ...]


@dataclass(frozen=True)
class Group:
    """Channels that are fresh in the same rows.

    Attributes:
        source: The sensor.
        columns: Its channels.
        event: Position of the `EventSource` to look at, None where every row is fresh.
        is_fresh: Whether a text in that column says that this sensor reported.
    """

    source: str
    columns: tuple[SensorColumn, ...]
    event: int | None
    is_fresh: Callable[[str], bool]


def read_columns(preamble: Preamble) -> Columns | None:
    """Say what each column is; None where there is no time, so that nothing in the file is a series.

    Raises:
        UserError: The unit of the time isn't known.
    """
    keys = [_plain(name) for name in preamble.header]
    time = next((keys.index(name) for name in TIME_NAMES if name in keys), None)
    if time is None:
        return None
    roles = {role: found for role, names in ROLES.items() for found in [_first(keys, names)] if found is not None}
    wall_clock = any(re.fullmatch(r"\d{8}_\d{9}", row[time]) for row in preamble.sample if time < len(row))
    if wall_clock and "utc" in roles:
        time = roles["utc"]
    unit = preamble.about(time, "units", "unit") or _bracketed(preamble.header[time])
    events = [position for position, key in enumerate(keys) if key == EVENT_SOURCE]
    single = next((keys.index(name) for name in (COMBINED_SOURCE, EVENT_SOURCE) if name in keys), None)
    annotations = tuple(at for at, name in enumerate(preamble.header) if ANNOTATION.fullmatch(name))
    taken = {time, *roles.values(), *events, *annotations, *([single] if single is not None else [])}
    sensors = [
        _sensor_column(preamble, position, event=_owner(events, position) if len(events) > 1 else None)
        for position, key in enumerate(keys)
        if key and position not in taken and key not in (*BOOKKEEPING, *TIME_NAMES) and not _is_clock(key)
    ]
    return Columns(
        time=time,
        per_second=1.0 if wall_clock else units_per_second(unit, path=preamble.path),
        wall_clock=wall_clock,
        utc=wall_clock and "utc" in roles,
        roles=roles,
        annotations=annotations,
        event=None if len(events) > 1 else single,
        sensors=_unique_names(sensors),
    )


def unexplained(columns: Columns, *, values: Sequence[str]) -> tuple[SensorColumn, ...]:
    """Return channels of which the names of the sources don't say whose they are (rule 4)."""
    if columns.event is None or len(values) < 2:
        return ()
    tokens = _tokens(values)
    return tuple(column for column in columns.sensors if not _named_owners(column, tokens))


def make_groups(
    columns: Columns, *, values: Sequence[str], change_shares: Mapping[int, Mapping[str, float]], path: str
) -> tuple[list[Group], list[Problem]]:
    """Return the channels by the rows in which they are fresh.

    Args:
        columns: The export's.
        values: What its `EventSource` says in any row.
        change_shares: In which share of the rows with each value of `EventSource` a column changes, by position; for
            channels that are `unexplained`.
        path: Name of the file, for the problems.
    """
    if columns.event is None or len(values) < 2:
        alone = next(iter(values), "")
        named = [column if column.source else replace(column, source=_source_name(alone)) for column in columns.sensors]
        return _grouped([(column, column.event, frozenset[str]()) for column in named]), []
    tokens = _tokens(values)
    owned: list[tuple[SensorColumn, int | None, frozenset[str]]] = []
    inferred: dict[frozenset[str], list[str]] = {}
    for column in columns.sensors:
        names = _named_owners(column, tokens)
        if names:
            owners = frozenset(value for value in values if names & set(_split(value)))
        else:
            owners = _changing_in(change_shares.get(column.position, {})) or (
                owned[-1][2] if owned else frozenset(values)
            )
            inferred.setdefault(owners, []).append(column.name)
        shortest = min(owners, key=lambda value: (len(value), value))
        source = column.source or _source_name(shortest)
        owned.append((replace(column, source=source), columns.event, owners))
    return _grouped(owned), _report_inferred(inferred, path=path)


def _grouped(owned: Sequence[tuple[SensorColumn, int | None, frozenset[str]]]) -> list[Group]:
    by_rows: dict[tuple[int | None, frozenset[str], str], list[SensorColumn]] = {}
    for column, event, owners in owned:
        by_rows.setdefault((event, owners, column.source), []).append(column)
    return [
        Group(source, tuple(members), event, owners.__contains__ if owners else _is_set)
        for (event, owners, source), members in by_rows.items()
    ]


def _is_set(text: str) -> bool:
    """Say whether a sensor's own `EventSource` says that it reported: empty, 0 and False say that it didn't."""
    return text.strip().lower() not in {"", "0", "0.0", "false", "nan"}


def _report_inferred(inferred: Mapping[frozenset[str], Sequence[str]], *, path: str) -> list[Problem]:
    if not inferred:
        return []
    told = "; ".join(
        f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} in rows with {' or '.join(sorted(owners))}"
        for owners, names in inferred.items()
    )
    return [
        Problem(
            recording=path,
            stage="annotations",
            reason=f"nothing in the file says which columns its EventSource values stand for; taken as fresh: {told}, "
            "because they change in these rows only",
            advice="Check it against the sensors' sampling rates, or export each sensor into a file of its own.",
        )
    ]


def _changing_in(shares: Mapping[str, float]) -> frozenset[str]:
    most = max(shares.values(), default=0.0)
    return frozenset(value for value, share in shares.items() if share > 0 and share >= OWNER_SHARE * most)


def _split(value: str) -> list[str]:
    return [_undoubled(token.strip()) for token in value.split("|") if token.strip()]


def _tokens(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(token for value in values for token in _split(value)))


def _undoubled(name: str) -> str:
    """Return a source's name once: Shimmer's comes as `Shimmer Sensor Shimmer Sensor`."""
    half = len(name) // 2
    return name[:half] if len(name) % 2 and name[half] == " " and name[:half] == name[half + 1 :] else name


def _named_owners(column: SensorColumn, tokens: Sequence[str]) -> set[str]:
    """Return the tokens of `EventSource` that name the column's sensor."""
    same = {token for token in tokens if column.source and column.source.lower() == _source_name(token).lower()}
    if same:
        return same
    family = next((family for family in FAMILIES if family.name == column.source), None)
    pattern = AFFDEX_TOKENS if column.source == "AFFDEX" else family.tokens if family else None
    return {token for token in tokens if pattern is not None and pattern.match(token)}


def _source_name(text: str) -> str:
    """Return a sensor's name: `AFFDEX`, `FACET` and `ET` however an export spells them, else as it is."""
    name = _undoubled(text.strip())
    if AFFDEX_TOKENS.match(name):
        return "AFFDEX"
    known = next((family.name for family in FAMILIES[:2] if family.tokens.match(name)), None)
    return known or (f"EventSource {name}" if re.fullmatch(r"\d+", name) else name)


def _sensor_column(preamble: Preamble, position: int, *, event: int | None) -> SensorColumn:
    parts = re.fullmatch(r"(?P<name>.*?)(?P<brackets>(\s*\([^()]*\))*)", preamble.header[position])
    assert parts is not None, "the pattern fits every text without a line break"
    name, inner = parts["name"], re.findall(r"\(([^()]+)\)", parts["brackets"])
    unit = preamble.about(position, "units", "unit")
    source = preamble.about(position, "device", "sensor")
    if inner and preamble.layout == "text":
        # 6.x and 7.x: `GSR CAL (kOhms) (Shimmer Sensor)`.
        source = source or inner.pop()
    unit = unit or next(iter(inner), "")
    channel = find_channel(name)
    source = _source_name(source) if source else _family_of(name) or preamble.source
    unit = "" if unit.lower() == "no units" else unit
    return SensorColumn(position, channel.name if channel else name.strip(), unit, source, event)


def _family_of(name: str) -> str:
    if find_channel(name) is not None or normalise_id(name).lower() in AFFDEX_ONLY:
        return "AFFDEX"
    return next((family.name for family in FAMILIES if family.columns.match(name)), "")


def _unique_names(sensors: Sequence[SensorColumn]) -> tuple[SensorColumn, ...]:
    """Tell channels apart that a source names alike: by unit (`GSR CAL` in kOhms and µSiemens), else by number."""
    seen: set[tuple[str, str]] = set()
    unique = []
    for column in sensors:
        names = (column.name, f"{column.name} ({column.unit})", *(f"{column.name} {n}" for n in range(2, len(sensors))))
        name = next(name for name in names if (name, column.source) not in seen)
        seen.add((name, column.source))
        unique.append(replace(column, name=name))
    return tuple(unique)


def _owner(events: Sequence[int], position: int) -> int | None:
    return max((event for event in events if event < position), default=None)


def _is_clock(key: str) -> bool:
    """Say whether a column is a device's own clock: `Timestamp RAW`, `System Timestamp CAL (mSecs) (Shimmer)`."""
    return re.match(r"(system )?timestamp (raw|cal)\b", key) is not None


def _first(keys: Sequence[str], names: Sequence[str]) -> int | None:
    return next((keys.index(name) for name in names if name in keys), None)


def _plain(name: str) -> str:
    return normalise_id(re.sub(r"[\[(].*?[\])]", "", name)).lower()


def _bracketed(name: str) -> str:
    found = re.search(r"[\[(](.*?)[\])]", name)
    return found.group(1) if found else ""


def no_time(preamble: Preamble) -> Problem:
    """Return the problem of a table in which nothing has a time."""
    names = ", ".join(name for name in preamble.header[:6] if name)
    return Problem(
        recording=preamble.path.name,
        stage="annotations",
        reason=f"no column is called Timestamp, so nothing in it is a series; it has {names}, ...",
        advice="It may be a table of metrics, which isn't read; export the sensors' data to have their signals.",
    )


def check_readable(columns: Columns, *, preamble: Preamble) -> None:
    """Refuse an export that has a time and nothing else.

    Raises:
        UserError: There is neither a channel nor a stimulus.
    """
    if not columns.sensors and "stimulus" not in columns.roles and not columns.annotations:
        raise UserError(
            f"{preamble.path.name} has no column with a channel or stimulus beside its Timestamp. Columns found: "
            f"{', '.join(preamble.header)}. Export it again with the sensors' columns."
        )
