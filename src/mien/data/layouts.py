"""What every layout of a study gives, and what the layouts share: media files, ids, attributes, `study.yaml`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from mien.annotations.tables import normalise_id
from mien.core.config import build_config, load_yaml_mapping
from mien.core.errors import UserError
from mien.core.labels import Unit
from mien.core.types import MediaChoice, Problem, Recording

Layout = Literal["imotions", "plain", "ravdess"]
Attribute = str | float

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".wmv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".wma"})

LABEL_SOURCES = "human, tool:NAME (such as tool:AFFDEX), self-report, stimulus, synthetic"

ANNOTATION_COLUMNS = ("recording_id", "onset_s", "offset_s", "scheme", "value", "annotator", "source", "confidence")
"""The columns of `annotations.parquet`; a study has `face` besides."""

CODED_COLUMNS = ("recording_id", "from_s", "to_s", "annotator", "label")
SEGMENT_COLUMNS = ("recording_id", "onset_s", "offset_s", "segment", "stimulus")


@dataclass(frozen=True)
class StudyFile:
    """What `study.yaml` says.

    Attributes:
        name: Name of the study.
        purpose: What it is for.
        consent: What the participants consented to.
        label_source: Who annotated: `human`, `tool:NAME`, `self-report`, `stimulus` or `synthetic`.
        unit: What one label describes.
        annotator: The coder whose labels are the target; empty: what most coders say.
        licence: What others may do with the data.
        hash_ids: Whether pseudonyms stand for participants and recordings in all that is made of the study.
    """

    name: str = ""
    purpose: str = ""
    consent: str = ""
    label_source: str = ""
    unit: Unit = "frame"
    annotator: str = ""
    licence: str = ""
    hash_ids: bool = False


@dataclass(frozen=True)
class SignalSource:
    """Where a recording's signals are read from.

    Attributes:
        path: The export.
        respondent: Whose signals of it; None for all, where the export describes one recording.
        stimulus: Those of which stimulus; None for all.
        shift_s: Added to the export's times to get the recording's.
        media: The recording's file where all of the export describes one recording, else None.
    """

    path: Path
    respondent: str | None
    stimulus: str | None
    shift_s: float = 0.0
    media: Path | None = None


@dataclass(frozen=True)
class Study:
    """A study as found on disk, before anything is decoded.

    Attributes:
        root: Its folder.
        name: Its name; the folder's where `study.yaml` gives none.
        layout: How its files are named.
        label_source: Who annotated it.
        purpose: What it is for, as `study.yaml` says.
        consent: What the participants consented to, as `study.yaml` says.
        unit: What one label describes.
        recordings: The recordings to use, sorted by id.
        annotations: `ANNOTATION_COLUMNS` and `face` (empty: whichever face was chosen); an offset of infinity means
            the recording's end.
        coded: `CODED_COLUMNS`: what was looked at; time outside is missing. Empty where the study doesn't say.
        segments: `SEGMENT_COLUMNS`: questions, tasks, rest. Empty where the study has none.
        problems: What was left out, and why.
        annotator: The coder whose labels are the target; empty: what most coders say.
        signals: Where the signals of recordings are read from, by recording id.
        licence: What others may do with the data, as `study.yaml` says.
        ids_key: Fingerprint of the key that the ids were made with; empty where they are the study's own.
    """

    root: Path
    name: str
    layout: Layout
    label_source: str
    purpose: str
    consent: str
    unit: Unit
    recordings: tuple[Recording, ...]
    annotations: pd.DataFrame
    coded: pd.DataFrame
    segments: pd.DataFrame
    problems: tuple[Problem, ...]
    annotator: str = ""
    signals: Mapping[str, tuple[SignalSource, ...]] = field(default_factory=dict)
    licence: str = ""
    ids_key: str = ""


def list_files(root: Path, *, suffixes: Iterable[str]) -> list[Path]:
    """Return the files below `root` that have one of the suffixes, sorted; hidden ones (macOS copies) don't count."""
    wanted = set(suffixes)
    files = (path for path in root.rglob("*") if path.suffix.lower() in wanted and path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return sorted(visible, key=lambda path: path.relative_to(root).as_posix())


def file_safe(text: str) -> str:
    """Return text as a readable file name: letters, digits, `_`, `.` and `-` only.

    >>> file_safe("AR  2298"), file_safe("Frage 3: Größe?"), file_safe("...")
    ('AR-2298', 'Frage-3-Größe', 'x')
    """
    # A leading dot would hide the folder and mark it as a leftover of a killed run.
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w.-]+", "-", text)).strip(".-_") or "x"


def unique_id(parts: Iterable[str], *, taken: set[str]) -> str:
    """Return a recording id from its parts and add it to `taken`; where it is taken already, a number follows.

    Ids that differ in case alone count as the same, because some file systems can't tell them apart.
    """
    base = "_".join(file_safe(part) for part in parts if part)
    candidate, number = base, 2
    while candidate.casefold() in taken:
        candidate, number = f"{base}-{number}", number + 1
    taken.add(candidate.casefold())
    return candidate


class ParticipantIds:
    """Participants by their normalised id, spelled as they were first met: `ar_2298` is `AR 2298`.

    >>> ids = ParticipantIds()
    >>> ids("AR  2298"), ids("ar_2298")
    ('AR 2298', 'AR 2298')
    """

    def __init__(self) -> None:
        self._spelling: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """Return the participant's id."""
        normalised = normalise_id(text)
        return self._spelling.setdefault(normalised.casefold(), normalised)


def typed_attributes(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Attribute]]:
    """Return attributes as numbers where all of a column's values are numbers; empty ones are absent.

    Codes such as `01` stay text, because 01 and 1 may be different things.

    >>> typed_attributes([{"age": "21", "site": "01"}, {"age": "", "site": "02"}])
    [{'age': 21.0, 'site': '01'}, {'site': '02'}]
    """
    columns = dict.fromkeys(name for row in rows for name in row)
    numeric = {name for name in columns if _all_numbers(row[name] for row in rows if row.get(name))}
    return [
        {name: float(value) if name in numeric else value for name, value in row.items() if value and name}
        for row in rows
    ]


def choose_media(recordings: Iterable[Recording], *, media: MediaChoice) -> tuple[Recording, ...]:
    """Return the recordings to use, sorted by id.

    Args:
        recordings: All that were found.
        media: `auto` leaves out the screen recordings of participants who have a camera recording.
    """
    found = sorted(recordings, key=lambda recording: recording.recording_id)
    if media == "all":
        return tuple(found)
    if media != "auto":
        return tuple(recording for recording in found if recording.camera == media)
    with_camera = {recording.participant_id for recording in found if recording.camera == "camera"}
    return tuple(r for r in found if r.camera != "screen" or r.participant_id not in with_camera)


def read_study_file(root: Path) -> StudyFile | None:
    """Read `study.yaml`, None where there is none.

    Raises:
        UserError: It isn't YAML, has an unknown key, or a value that isn't allowed.
    """
    path = root / "study.yaml"
    if not path.is_file():
        return None
    given = load_yaml_mapping(path)
    values: dict[str, object] = {key: _as_text(value) for key, value in given.items() if value is not None}
    if "hash_ids" in given:
        # Not as text, and not left out where it is empty: who asks for pseudonyms by half has to be told.
        values["hash_ids"] = given["hash_ids"]
    facts = build_config(StudyFile, values, where="study.yaml")
    if facts.label_source:
        check_label_source(facts.label_source)
    return facts


def check_label_source(source: str) -> None:
    """Check who annotated.

    Raises:
        UserError: It is none of the allowed values.
    """
    named_tool = source.startswith("tool:") and source.removeprefix("tool:").strip()
    if not named_tool and source not in {"human", "self-report", "stimulus", "synthetic"}:
        raise UserError(f"study.yaml: label_source is {source!r}; allowed: {LABEL_SOURCES}.")


def annotation_table(rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
    """Return annotations as a table with every column (`ANNOTATION_COLUMNS` and `face`), whichever the rows fill in."""
    table = pd.DataFrame(rows, columns=[*ANNOTATION_COLUMNS, "face"])
    times = {"onset_s": "float64", "offset_s": "float64", "confidence": "float64"}
    return table.astype({**times, "recording_id": "object", "scheme": "object", "value": "object"}).fillna(
        {"annotator": "", "source": "", "face": ""}
    )


def empty_table(columns: Sequence[str]) -> pd.DataFrame:
    """Return a table without rows."""
    return pd.DataFrame({name: pd.Series(dtype="float64" if name.endswith("_s") else "object") for name in columns})


def _all_numbers(values: Iterable[str]) -> bool:
    texts = list(values)
    try:
        finite = all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False
    return bool(texts) and finite and not any(re.match(r"[+-]?0\d", text) for text in texts)


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"  # YAML reads an unquoted yes as true
    return " ".join(str(value).split())
