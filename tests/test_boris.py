"""BORIS exports: intervals on the clock of the media file, whichever version wrote them."""

from pathlib import Path

import pytest

from mien.annotations.boris import read_boris
from mien.core.errors import UserError

TABULAR_7 = """Observation id\tobs 1
\t
Media file(s)\t
Player #1\tv.mp4
Observation date\t2016-11-27 01:57:26
Time offset (s)\t0.5
\t
Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment\tStatus
3.5\tC:\\study\\v.mp4\t60.0\t25.0\tAnn\tsmile\t\t\tSTART
7.5\tC:\\study\\v.mp4\t60.0\t25.0\tAnn\tsmile\t\t\tSTOP
4.5\tC:\\study\\v.mp4\t60.0\t25.0\tNo focal subject\tsmile\t\t\tSTART
5.0\tC:\\study\\v.mp4\t60.0\t25.0\tNo focal subject\tsmile\t\t\tSTOP
9.5\tC:\\study\\v.mp4\t60.0\t25.0\tAnn\tblink\t\t\tPOINT
"""

HEADER_8 = (
    "Observation id,Observation date,Description,Observation duration,Observation type,Source,Time offset (s),"
    "Media duration (s),FPS,Subject,Behavior,Behavioral category,Modifier #1,Modifier #2,Behavior type,Time,"
    "Media file name,Image index,Image file path,Comment"
)

AGGREGATED_8 = (
    "Observation id,Observation date,Description,Observation type,Source,Time offset (s),Coding duration,"
    "Media duration (s),FPS (frame/s),Subject,Observation duration by subject by observation,Behavior,"
    "Behavioral category,Behavior type,Start (s),Stop (s),Duration (s),Media file name,Comment start,Comment stop"
)

AGGREGATED_7 = (
    "Observation id\tObservation date\tDescription\tMedia file\tTotal length\tFPS\tSubject\tBehavior\t"
    "Behavioral category\tModifiers\tBehavior type\tStart (s)\tStop (s)\tDuration (s)\tComment start\tComment stop"
)


def row_8(behavior: str, status: str, time_s: float, *, media: str = "a.mp4", modifiers: str = ",", **more: str) -> str:
    given = {"source": "player #1:d/a.mp4", "length": "20.000", "observation": "o1", **more}
    return (
        f"{given['observation']},2024-01-01 10:00:00,,30,Media file(s),{given['source']},0,{given['length']},25.000,P1,"
        f"{behavior},,{modifiers},{status},{time_s},{media},12,NA,"
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(export, *columns: str) -> list[tuple[object, ...]]:
    table = export.intervals.assign(value=export.intervals["value"].fillna(""))
    return list(table[list(columns)].itertuples(index=False, name=None))


def test_tabular_events_of_version_7(tmp_path):
    export = read_boris(write(tmp_path / "a.tsv", TABULAR_7))
    assert rows(export, "respondent", "label", "onset_s", "offset_s") == [
        ("Ann", "smile", 3.0, 7.0),
        ("", "smile", 4.0, 4.5),
        ("Ann", "blink", 9.0, 9.0),
    ]
    assert export.media == ("v.mp4",)
    assert [problem.reason for problem in export.problems] == ["1 point event without duration: no frame lies in them"]


def test_tabular_events_of_version_8(tmp_path):
    lines = [
        row_8("smile", "START", 1.5, modifiers="strong,left"),
        row_8("smile", "STOP", 2.0, modifiers="strong,left"),
    ]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert export.format == "BORIS tabular events"
    assert rows(export, "label", "onset_s", "offset_s", "value", "media") == [("smile", 1.5, 2.0, "strong|left", "")]


def test_states_with_other_modifiers_overlap(tmp_path):
    lines = [
        row_8("look", "START", 1, modifiers="left,"),
        row_8("look", "START", 2, modifiers="right,"),
        row_8("look", "STOP", 3, modifiers="left,"),
        row_8("look", "STOP", 4, modifiers="right,"),
    ]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert rows(export, "onset_s", "offset_s", "value") == [(1.0, 3.0, "left"), (2.0, 4.0, "right")]


def test_one_state_ends_where_the_next_begins(tmp_path):
    lines = [row_8("a", "START", 1), row_8("a", "START", 2), row_8("a", "STOP", 2), row_8("a", "STOP", 3)]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert rows(export, "onset_s", "offset_s") == [(1.0, 2.0), (2.0, 3.0)]
    assert not export.problems


def test_a_start_without_stop_ends_with_its_media_file(tmp_path):
    lines = [row_8("a", "START", 15), row_8("b", "START", 5, length="NA"), row_8("c", "STOP", 6)]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert rows(export, "label", "onset_s", "offset_s") == [("a", 15.0, 20.0)]
    reasons = " ".join(problem.reason for problem in export.problems)
    assert "1 states without STOP: they end where their media file does" in reasons
    assert "a START without STOP, of a media file of unknown length (line 3)" in reasons
    assert "a STOP without START (line 4)" in reasons


def test_aggregated_events_of_version_8_on_the_clock_of_each_file(tmp_path):
    """The second file of the queue begins at 20 s; the observation's offset of 100 s was added to every time."""
    start = "o1,2024,,Media file,player #1:a.mp4;b.mp4|player #2:c.mp4,100,50,20.000;30.000|50.000,25,P1,9"
    lines = [f"{start},smile,,STATE,101,103,2,a.mp4,,", f"{start},smile,,STATE,125,126.5,1.5,b.mp4,,"]
    export = read_boris(write(tmp_path / "a.csv", AGGREGATED_8, *lines))
    assert export.format == "BORIS aggregated events"
    assert rows(export, "onset_s", "offset_s", "media") == [(1.0, 3.0, "a.mp4"), (5.0, 6.5, "b.mp4")]
    assert not export.problems


def test_version_7_cant_tell_where_the_second_file_begins(tmp_path):
    line = "o 2\t2016\t\t{}\t539.9\t25.0\tNo focal subject\ts\t\t{}\tSTATE\t{}\t{}\t6\t\t"
    lines = [line.format("v1.mp4", "m", 1.8, 8.1), line.format("v2.mp4", "", 227.7, 253.4)]
    export = read_boris(write(tmp_path / "a.tsv", AGGREGATED_7, *lines))
    assert rows(export, "onset_s", "offset_s", "value", "media") == [(1.8, 8.1, "", "o 2"), (227.7, 253.4, "", "o 2")]
    reasons = [problem.reason for problem in export.problems]
    assert reasons[0].startswith("o 2 plays several media files without their lengths")
    assert reasons[1].startswith("some intervals of s have a value and some have none")


def test_several_observations_keep_their_media(tmp_path):
    lines = [
        row_8("a", "START", 1),
        row_8("a", "START", 1, observation="o2", source="player #1:b.mp4", media="b.mp4"),
        row_8("a", "STOP", 3, observation="o2", source="player #1:b.mp4", media="b.mp4"),
        row_8("a", "STOP", 2),
        row_8("a", "START", 1, observation="live", source="NA", media="NA"),
        row_8("a", "STOP", 4, observation="live", source="NA", media="NA"),
    ]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert sorted(rows(export, "media", "offset_s")) == [("a.mp4", 2.0), ("b.mp4", 3.0), ("live", 4.0)]
    assert export.media == ("a.mp4", "b.mp4")


def test_wrong_rows_are_reported(tmp_path):
    lines = [
        row_8("a", "START", 1),
        row_8("a", "STOP", 2),
        row_8("", "START", 3),
        row_8("a", "PAUSE", 3),
        row_8("a", "POINT", "x"),
        row_8("a", "POINT", 1.7e9),
    ]
    export = read_boris(write(tmp_path / "a.csv", HEADER_8, *lines))
    assert rows(export, "onset_s", "offset_s") == [(1.0, 2.0)]
    reasons = " ".join(problem.reason for problem in export.problems)
    for what in ("no behaviour", "none of START, STOP, POINT", "isn't a number", "after the end of its media file"):
        assert what in reasons


def test_another_table_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no export of BORIS events\. Needed: Behavior, Start"):
        read_boris(write(tmp_path / "a.csv", "Behavior,Total number of occurences", "a,3"))
