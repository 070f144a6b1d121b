"""Which export describes which recording, and what becomes of it: annotations, segments, and where signals lie.

Intervals and segments are small and read at once. Signals are large: what is kept is where they are read from when the
recording's turn comes (`SignalSource`), so that memory doesn't grow with the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from mien.annotations.affdex import affdex_intervals
from mien.annotations.exports import Export, interval_table
from mien.annotations.formats import read_export
from mien.annotations.tables import normalise_id, read_number, read_raw_table
from mien.core.errors import MediaError, UserError
from mien.core.progress import progress
from mien.core.types import Problem, Recording
from mien.data.layouts import CODED_COLUMNS, SEGMENT_COLUMNS, SignalSource, annotation_table, empty_table
from mien.media.times import frame_times

CLOCK_FILE = "clock.csv"
PREDICTED_BY = "mien "
"""What the annotator of predictions that `mien predict --elan` wrote begins with."""
EVERY_RECORDING = "*"

OPEN_END = float("inf")
"""End of coded time that lasts as long as its recording."""


@dataclass
class StudyExports:
    """What a study's exports say of its recordings, on the recordings' clocks.

    Attributes:
        label_source: Who annotated, where it isn't a tool.
        shifts_s: What is added to an export's times, by recording id.
        problems: What was left out, and why.
        signals: Where each recording's signals lie, by recording id.
    """

    label_source: str
    shifts_s: Mapping[str, float]
    problems: list[Problem]
    signals: dict[str, tuple[SignalSource, ...]] = field(default_factory=dict)
    _annotations: list[pd.DataFrame] = field(default_factory=list)
    _segments: list[pd.DataFrame] = field(default_factory=list)
    _coded: list[tuple[str, str, str, str]] = field(default_factory=list)

    def annotations(self, *others: pd.DataFrame) -> pd.DataFrame:
        """Return all annotations (`layouts.annotation_table`), those of `others` first; the same row counts once.

        A scheme has one source: where a tool codes what people coded too, its scheme is called `Smile (OpenFace)`. Else
        it would have a vote among the coders, and a target that is "as annotated by human coders" would be partly a
        tool's.
        """
        parts = [part for part in (*others, *self._annotations) if len(part)]
        if not parts:
            return annotation_table([])
        table = annotation_table(pd.concat(parts, ignore_index=True)).drop_duplicates(ignore_index=True)
        num_sources = table["scheme"].map(table.groupby("scheme")["source"].nunique())
        shared = (num_sources > 1) & (table["source"] != self.label_source)
        named = [_of_tool(*pair) for pair in zip(table["scheme"], table["source"], strict=True)]
        return table.assign(scheme=table["scheme"].where(~shared, pd.Series(named, index=table.index)))

    def segments(self, *others: pd.DataFrame) -> pd.DataFrame:
        """Return all segments (`SEGMENT_COLUMNS`), those of `others` first; the same row counts once."""
        parts = [part for part in (*others, *self._segments) if len(part)]
        if not parts:
            return empty_table(SEGMENT_COLUMNS)
        return pd.concat(parts, ignore_index=True)[list(SEGMENT_COLUMNS)].drop_duplicates(ignore_index=True)

    def coded(self, given: pd.DataFrame, *, annotations: pd.DataFrame) -> pd.DataFrame:
        """Return what was looked at (`CODED_COLUMNS`).

        An export that codes something and found none of it in a recording says that somebody looked: without this
        table the recording would count as not annotated. Where the study has its own table, or nothing of the kind
        happened, it stays as it is.

        Args:
            given: What the study says itself.
            annotations: All annotations of the study.
        """
        silent = {name for name, *_ in self._coded} - set(annotations["recording_id"])
        if len(given) or not silent:
            return given
        sources = annotations.groupby("scheme")["source"].agg(set).to_dict()
        looked = [
            (
                name,
                0.0,
                OPEN_END,
                annotator,
                label if source in sources.get(label, {source}) else _of_tool(label, source),
            )
            for name, annotator, label, source in dict.fromkeys(self._coded)
        ]
        known = {name for name, *_ in self._coded}
        pairs = annotations[["recording_id", "annotator"]].drop_duplicates().itertuples(index=False)
        looked += [(name, 0.0, OPEN_END, annotator, "") for name, annotator in pairs if name not in known]
        return pd.DataFrame(looked, columns=list(CODED_COLUMNS))

    def add(
        self,
        export: Export,
        *,
        recordings_of: Callable[[str, str], Sequence[Recording]],
        shift_s: float = 0.0,
        starts_s: Mapping[tuple[str, str], float] | None = None,
        media: Path | None = None,
    ) -> None:
        """Add what an export says of the recordings that its parts match.

        Args:
            export: The export.
            recordings_of: Recordings that a part (respondent, stimulus) of it describes.
            shift_s: Added to its times besides what the study's `clock.csv` says.
            starts_s: When each stimulus starts on the export's clock, by respondent and stimulus: a recording that is
                named after the stimulus starts then.
            media: The recording's file where all of the export is of one; its names needn't be asked for again then.
        """
        source = f"tool:{export.annotator}" if export.tool and export.annotator else self.label_source
        intervals = export.intervals.rename(columns={"label": "scheme"}).assign(source=source)
        if export.annotator:
            intervals["annotator"] = intervals["annotator"].replace("", export.annotator)
        # Predictions that went to an annotation tool and came back as they were: nobody has looked at them.
        untouched = intervals["annotator"].str.startswith(PREDICTED_BY)
        intervals["source"] = intervals["source"].where(~untouched, "tool:" + intervals["annotator"])
        # Which face counts is the study's to say: a tool's numbers of faces mean nothing to others.
        intervals = intervals.assign(face="")

        def moved_s(part: tuple[str, str], recording: Recording) -> float:
            own_clock = key_of(part[1]) == key_of(recording.session)
            start_s = (starts_s or {}).get(part, 0.0) if own_clock else 0.0
            return shift_s - start_s + self.shifts_s.get(recording.recording_id, 0.0)

        for table, target in ((intervals, self._annotations), (export.segments, self._segments)):
            for (respondent, stimulus), rows in table.groupby(["respondent", "stimulus"], sort=False):
                part = (str(respondent), str(stimulus))
                for recording in recordings_of(*part):
                    times = {name: rows[name] + moved_s(part, recording) for name in ("onset_s", "offset_s")}
                    target.append(rows.assign(recording_id=recording.recording_id, **times))
        self._add_coded(export, source=source, recordings_of=recordings_of)
        for respondent, stimulus in dict.fromkeys((signal.respondent, signal.stimulus) for signal in export.signals):
            for recording in recordings_of(respondent, stimulus):
                name = recording.recording_id
                place = SignalSource(
                    export.path,
                    None if media else respondent,
                    None if media else stimulus,
                    shift_s=moved_s((respondent, stimulus), recording),
                    media=media,
                )
                if place not in self.signals.get(name, ()):
                    self.signals[name] = (*self.signals.get(name, ()), place)

    def _add_coded(
        self, export: Export, *, source: str, recordings_of: Callable[[str, str], Sequence[Recording]]
    ) -> None:
        parts = list(zip(export.intervals["respondent"], export.intervals["stimulus"], strict=True))
        parts += [(signal.respondent, signal.stimulus) for signal in export.signals]
        for respondent, stimulus in dict.fromkeys(parts or [("", "")]):
            for recording in recordings_of(str(respondent), str(stimulus)):
                name = recording.recording_id
                self._coded += [(name, export.annotator, label, source) for label in export.labels]


def _of_tool(scheme: str, source: str) -> str:
    """Return what a tool's scheme is called where another source has one of that name."""
    return f"{scheme} ({source.removeprefix('tool:')})"


def key_of(text: str) -> str:
    """Return a name of a participant or stimulus as it is compared: white space, underscores and case don't count."""
    return normalise_id(text).casefold()


def read_exports(paths: Sequence[Path], *, problems: list[Problem]) -> Iterator[Export]:
    """Yield what each export holds; one that can't be read is reported and left out."""
    with progress("exports", total=len(paths)) as advance:
        for path in paths:
            export = _try_read(path, recording=None, problems=problems)
            if export is not None:
                yield export
            advance(path.name)


def read_export_of(recording: Recording, path: Path, *, problems: list[Problem]) -> Export | None:
    """Return what an export of one recording holds, None where it can't be read (it is reported)."""
    export = _try_read(path, recording=recording, problems=problems)
    if export is None:
        return None
    export = _of_media(export, media=recording.path)
    return _of_participant(export, participant=recording.participant_id, problems=problems)


def read_with_frames(path: Path, *, media: Path) -> Export:
    """Return what an export of one media file holds; where it numbers frames, these give it their times.

    Raises:
        UserError: The export can't be read.
        MediaError: The frames are needed and can't be decoded.
    """
    export = read_export(path, media=media.name)
    if not export.needs_frame_times:
        return export
    return read_export(path, media=media.name, frame_times_s=frame_times(media))


def _try_read(path: Path, *, recording: Recording | None, problems: list[Problem]) -> Export | None:
    try:
        export = read_export(path) if recording is None else read_with_frames(path, media=recording.path)
    except (UserError, MediaError) as error:
        advice = "Correct or export it again; leave it if it isn't an export of this study."
        problems.append(Problem(path.name, "annotations", str(error), advice))
        return None
    problems.extend(export.problems)
    return with_affdex_intervals(export)


def with_affdex_intervals(export: Export) -> Export:
    """Return an export whose raw AFFDEX channels are intervals, too, as iMotions' own thresholds make them.

    A rating is no class, so that the intervals carry none: one means that the expression was there.
    """
    found = affdex_intervals(export.signals)
    if not any(signal.source == "AFFDEX" for signal in export.signals) or len(export.intervals):
        return export
    return replace(export, intervals=interval_table(found.assign(value=None)), annotator="AFFDEX", tool=True)


def _of_media(export: Export, *, media: Path) -> Export:
    """Return the rows of one media file, where an export covers several."""
    named = export.intervals["media"].map(lambda text: key_of(Path(text.replace("\\", "/")).stem))
    if named.nunique() < 2 or key_of(media.stem) not in set(named):
        return export
    return replace(export, intervals=export.intervals[named == key_of(media.stem)])


def _of_participant(export: Export, *, participant: str, problems: list[Problem]) -> Export:
    """Return the rows of one participant, where an export names several: those of the others are of other faces."""
    names = {key_of(name) for name in export.intervals["respondent"]} - {""}
    if len(names) < 2:
        return export
    if key_of(participant) not in names:
        reason = f"it names {', '.join(sorted(names))}, none of whom is {participant}, the participant of its recording"
        advice = "Name the participant in recordings.csv as the export does."
        problems.append(Problem(export.path.name, "annotations", reason, advice))
        return replace(export, intervals=interval_table([]), labels=())
    own = export.intervals["respondent"].map(key_of).isin(["", key_of(participant)])
    return replace(export, intervals=export.intervals[own])


def match_respondents(
    recordings: Sequence[Recording], parts: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], list[Recording]]:
    """Match parts of exports to recordings by participant, and by stimulus where one of the two sides has several.

    Args:
        recordings: The study's.
        parts: Respondent and stimulus as the exports write them.

    Returns:
        Recordings by part; parts that match none have an empty list. A part without a stimulus is of all recordings
        of its respondent where these are of one session.
    """
    wanted = list(dict.fromkeys(parts))
    sessions: dict[str, set[str]] = {}
    stimuli: dict[str, set[str]] = {}
    own: dict[str, list[Recording]] = {}
    for recording in recordings:
        person = key_of(recording.participant_id)
        sessions.setdefault(person, set()).add(key_of(recording.session))
        own.setdefault(person, []).append(recording)
    for respondent, stimulus in wanted:
        stimuli.setdefault(key_of(respondent), set()).add(key_of(stimulus))
    matched: dict[tuple[str, str], list[Recording]] = {}
    for respondent, stimulus in wanted:
        person = key_of(respondent)
        same = [recording for recording in own.get(person, ()) if key_of(recording.session) == key_of(stimulus)]
        if not same and len(sessions.get(person, ())) == 1 and (len(stimuli[person]) == 1 or not stimulus):
            same = own[person]
        matched[respondent, stimulus] = same
    return matched


def read_clock_file(root: Path, *, recordings: Sequence[Recording], problems: list[Problem]) -> dict[str, float]:
    """Read `clock.csv`: what is added to the times of exports, because an export and its video start apart.

    Args:
        root: The study's folder.
        recordings: The study's: a row names one by its id, or all of a participant, or `*` for every other one.
        problems: Where rows that name nothing are reported.

    Returns:
        Seconds by recording id; empty without the file.

    Raises:
        UserError: The file lacks a column.
    """
    path = root / CLOCK_FILE
    if not path.is_file():
        return {}
    named: dict[str, list[str]] = {}
    for recording in recordings:
        for name in {key_of(recording.recording_id), key_of(recording.participant_id)}:
            named.setdefault(name, []).append(recording.recording_id)
    table = read_raw_table(path, wanted={name: (name,) for name in ("recording", "export_offset_s")})
    everywhere, own = 0.0, dict[str, float]()
    for row in table.rows:
        shift_s = read_number(row.cells["export_offset_s"], separator=table.separator)
        ids = named.get(key_of(row.cells["recording"]), [])
        if shift_s == shift_s and row.cells["recording"] == EVERY_RECORDING:
            everywhere = shift_s
        elif shift_s == shift_s and ids:
            own.update(dict.fromkeys(ids, shift_s))
        else:
            reason = f"line {row.line} names no recording of the study, or its export_offset_s isn't a number; left out"
            advice = f"Name a recording or participant of the study, or {EVERY_RECORDING} for all; give seconds."
            problems.append(Problem(CLOCK_FILE, "annotations", reason, advice))
    return {r.recording_id: own.get(r.recording_id, everywhere) for r in recordings}
