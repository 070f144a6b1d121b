"""Every export is recognised by what it holds; whatever is wrong with it ends in an export or an error with advice."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mien.annotations.elan import write_elan
from mien.annotations.exports import Export
from mien.annotations.formats import FORMATS, read_export, read_head
from mien.core.errors import UserError

TEXTGRID = 'File type = "ooTextFile"\n"TextGrid"\n0\n2\n<exists>\n1\n"IntervalTier" "Smile" 0 2 2\n0 1 "x"\n1 2 ""\n'
BORIS = (
    "Observation id,Source,Time offset (s),Media duration (s),Subject,Behavior,Modifier #1,Behavior type,Time,"
    "Media file name\n"
    "o,player #1:a.mp4,0,9.0,P1,smile,m,START,1,a.mp4\no,player #1:a.mp4,0,9.0,P1,smile,m,STOP,2,a.mp4\n"
)
OPENFACE = "frame, timestamp, confidence, success, AU04_r, AU04_c\n1, 0.0, 0.9, 1, 2, 1\n2, 0.04, 0.9, 1, 0, 0\n"
PYFEAT = "frame,FaceRectX,AU01,anger,input\n0,1,0.5,0.1,a.jpg\n1,1,0.6,0.2,a.jpg\n"
AFFECTIVA = json.dumps([{"Timestamp": 0, "FileName": "v.mp4", "joy": 3.5}, {"Timestamp": 0.1, "joy": 4}])
FRAGMENTS = [{"id": "1", "stimuli": "7", "respondent": "r", "text": "note", "rangeStart": 1000.5, "rangeEnd": 2000}]
ANNOTATIONS = json.dumps([{"id": "1", "name": "Laughs", "fragments": FRAGMENTS}, {"name": "Never", "fragments": []}])
EXPRESSIONS = (
    "iMotions,9.3\n\nRespondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset\n"
    "A,V,Smile,1000,1500\n"
)
FIXATIONS = "x,y\nRespondent Name,Stimulus Name,Fixation Start,Fixation End,Fixation Dispersion\nA,V,1000,1200,0.5\n"
PEAKS = "x,y\nRespondent Name,Stimulus Name,Peak Time,Peak Amplitude\nA,V,1000,0.5\n"
SENSORS = "#HEADER\nx\n#DATA\nRowNumber,Timestamp,GSR\n0,0,1.5\n1,100,1.6\n2,200,1.7\n"
PLAIN = (
    "participant;media;onset_ms;offset_ms;label;value;coder;confidence\n"
    "P1;d/v.mp4;100;250;Smile;2;Ann;0,5\nP2;;1;;Smile;1;;\n"
)

FILES = {
    "a.TextGrid": (TEXTGRID, "Praat TextGrid", 1, 0),
    "boris.csv": (BORIS, "BORIS tabular events", 1, 0),
    "openface.csv": (OPENFACE, "OpenFace", 1, 2),
    "feat.csv": (PYFEAT, "Py-Feat", 0, 0),
    "affectiva.json": (AFFECTIVA, "Affectiva JSON", 0, 1),
    "annotations.json": (ANNOTATIONS, "iMotions annotations", 1, 0),
    "expressions.csv": (EXPRESSIONS, "iMotions expression table", 1, 0),
    "fixations.csv": (FIXATIONS, "iMotions fixations", 1, 3),
    "peaks.csv": (PEAKS, "iMotions GSR peaks", 1, 2),
    "metrics.csv": ("startMs,durationMs,fixCount\n0,1000,3\n", "iMotions table", 0, 0),
    "sensors.csv": (SENSORS, "iMotions sensors", 0, 1),
    "plain.csv": (PLAIN, "interval table", 1, 0),
}


@pytest.fixture
def folder(tmp_path):
    for name, (text, *_) in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    table = pd.DataFrame({"label": ["Smile"], "onset_s": [1.0], "offset_s": [2.0]})
    write_elan(tmp_path / "a.eaf", table, media=tmp_path / "v.mp4", annotator="m")
    session = tmp_path / "session"
    session.mkdir()
    (session / "EDA.csv").write_text("1551453301.0\n4.0\n0.1\n0.2\n0.3\n")
    (session / "HR.csv").write_text("1551453311.0\n1.0\n88\n89\n")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", ["", ".dat"])
def test_a_file_is_recognised_by_what_it_holds(folder, name, suffix):
    path = (folder / name).rename(folder / f"{name}{suffix}")
    export = read_export(path)
    _, found, num_intervals, num_signals = FILES[name]
    assert export.format.startswith(found)
    assert (len(export.intervals), len(export.signals)) == (num_intervals, num_signals)


def test_elan_and_folders_are_recognised(folder):
    assert read_export(folder / "a.eaf").format == "ELAN 3.0"
    assert {signal.name for signal in read_export(folder / "session").signals} == {"EDA", "HR"}


def test_every_format_is_met_in_these_tests(folder):
    heads = [read_head(path) for path in folder.iterdir()]
    first = {next(item.name for item in FORMATS if item.recognises(head)) for head in heads}
    assert first == {item.name for item in FORMATS}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["plain.csv", "a.TextGrid", "boris.csv", "annotations.json"])
def test_encodings(folder, name, encoding):
    text = FILES[name][0].replace("Smile", "Läch").replace("smile", "Läch").replace("Laughs", "Läch")
    (folder / name).write_bytes(text.encode(encoding))
    assert read_export(folder / name).labels[0] == "Läch"


def test_a_reader_is_told_what_it_needs(folder):
    assert read_export(folder / "feat.csv").needs_frame_times
    export = read_export(folder / "feat.csv", frame_times_s=np.array([0.5, 0.75]))
    assert [signal.times_s.tolist() for signal in export.signals] == [[0.5, 0.75]] * 2


@pytest.mark.parametrize(
    ("name", "content", "looks"),
    [
        ("a.csv", b"", "an empty file"),
        ("a.txt", b"once upon a time\nthere was", "text that begins with 'once upon a time'"),
        ("a.csv", b"height,weight\n1,2\n", "a table with the columns height, weight"),
        ("a.json", b'{"a": 1, "b": [2]}', "JSON with a, b"),
        ("a.xml", b"<?xml version='1.0'?><svg/>", "XML that begins with <svg>"),
        ("a.mp4", bytes(range(256)) * 9, "a binary file"),
        ("a.xlsx", b"PK\x03\x04\x14\x00\x06", "a binary file"),
    ],
)
def test_an_unknown_file_is_refused_with_what_it_looks_like(tmp_path, name, content, looks):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"is of no format that is read") as caught:
        read_export(tmp_path / name)
    assert looks in str(caught.value) and "Known: ELAN, Praat TextGrid" in str(caught.value)


def test_other_folders_and_absent_files(tmp_path):
    with pytest.raises(UserError, match="looks like a folder with no file"):
        read_export(tmp_path)
    with pytest.raises(UserError, match="Can't read"):
        read_export(tmp_path / "none.csv")


def test_a_damaged_file_of_a_clear_suffix_gets_its_formats_advice(tmp_path):
    path = tmp_path / "a.eaf"
    path.write_text('<?xml version="1.0"?><ANNO')
    with pytest.raises(UserError, match="isn't a whole ELAN file"):
        read_export(path)


def test_plain_tables(folder):
    export = read_export(folder / "plain.csv")
    assert export.intervals.iloc[0].to_dict() == {
        "respondent": "P1",
        "stimulus": "",
        "label": "Smile",
        "onset_s": 0.1,
        "offset_s": 0.25,
        "value": "2",
        "annotator": "Ann",
        "confidence": 0.5,
        "face": "",
        "media": "v.mp4",
    }
    assert "1 row with a time that isn't a number (line 3)" in export.problems[0].reason


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("onset,duration,trial_type", "1,2,rest", ("", "rest", 1.0, 3.0)),
        ("Start time (ms),End time (ms),Emotion,Recording", "1,2,Joy,r1", ("r1", "Joy", 0.001, 0.002)),
        ("begin,end,tier,file", "1,2,Joy,a/b.mp4", ("b.mp4", "Joy", 1.0, 2.0)),
        ("from_s,to_s,label,text", "1,2,Joy,hello", ("", "Joy", 1.0, 2.0)),
    ],
)
def test_names_of_plain_columns(tmp_path, header, row, expected):
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n{row}\n")
    found = read_export(path).intervals[["respondent", "label", "onset_s", "offset_s"]]
    assert tuple(found.iloc[0]) == expected


def test_a_plain_table_without_label(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("onset,offset,mood\n1,2,a\n")
    with pytest.raises(UserError, match=r"no column that says what was seen\. Columns found: onset, offset, mood"):
        read_export(path)


def test_annotations_of_imotions(folder):
    export = read_export(folder / "annotations.json")
    row = export.intervals.iloc[0]
    assert (row["respondent"], row["stimulus"], row["label"], row["onset_s"], row["offset_s"]) == (
        "r",
        "7",
        "Laughs",
        1.0005,
        2.0,
    )
    assert export.labels == ("Laughs", "Never")


NUM_MUTATIONS = 80
"""Per format, so that all of them take half a minute."""


NUM_MUTATIONS = 80
"""Per format, so that all of them take half a minute."""


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Return a file that was cut, lost lines, got bytes swapped or changed, or something foreign put in."""
    kind, lines, changed = rng.randrange(6), raw.split(b"\n"), bytearray(raw)
    if kind == 0:
        return raw[: rng.randrange(len(raw))]
    if kind == 1:
        del lines[rng.randrange(len(lines))]
        return b"\n".join(lines)
    if kind == 2:
        rng.shuffle(lines)
        return b"\n".join(lines)
    at = rng.randrange(len(raw))
    if kind == 3:
        changed[at:at] = rng.choice(
            [b"nan", b"1e999", b"-", b'"', b"\x00", b"<", b",,,", b"\xff\xfe", b"9" * 400, b"&a;"]
        )
    for _ in range(rng.randrange(12)):
        first, second = rng.randrange(len(raw)), rng.randrange(len(raw))
        changed[first], changed[second] = changed[second], changed[first] if kind == 4 else rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", [*FILES, "a.eaf"])
def test_damaged_files_end_in_an_export_or_an_error(folder, name):
    """Whatever a mutation leaves of intervals and signals keeps what their types promise."""
    raw, rng = (folder / name).read_bytes(), random.Random(name)
    path = folder / f"damaged{Path(name).suffix}"
    times_s = np.array([0.0, 0.5])
    num_read = 0
    for number in range(NUM_MUTATIONS):
        path.write_bytes(mutated(raw, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                export = read_export(path, frame_times_s=times_s if number % 2 else None)
            except UserError:
                continue
        assert isinstance(export, Export)
        num_read += 1
        spans = export.intervals[["onset_s", "offset_s"]].to_numpy(dtype=float)
        assert np.isfinite(spans).all() and (spans[:, 1] >= spans[:, 0]).all()
        for signal in export.signals:
            assert len(signal.times_s) == len(signal.values) > 0
            assert np.isfinite(signal.values).all() and (np.diff(signal.times_s) > 0).all()
    assert num_read > 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "form", "num_intervals", "num_signals"),
    [
        ("elan_praat/elan_sample_2.7.eaf", "ELAN 2.7", 6786, 0),
        ("elan_praat/praat_mary.TextGrid", "Praat TextGrid", 22, 0),
        ("openface_affectiva/OpenFace_Test.csv", "OpenFace", 13, 30),
        ("openface_affectiva/Feat_Test.csv", "Py-Feat", 0, 0),
        ("openface_affectiva/sample_affectiva-api-app_output.json", "Affectiva JSON", 0, 30),
        ("imotions/imotionsApi_annotations.json", "iMotions annotations", 5, 0),
        ("empatica_e4", "Empatica E4", 0, 8),
    ],
)
def test_real_exports(shared_data, name, form, num_intervals, num_signals):
    export = read_export(shared_data / "exports" / name)
    assert (export.format, len(export.intervals), len(export.signals)) == (form, num_intervals, num_signals)


@pytest.mark.real
def test_every_real_export_is_read_or_named(shared_data):
    """What isn't read is no export of a recording: two answers of an API, with lists of sensors and studies."""
    root = shared_data / "exports"
    refused: dict[str, str] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "empatica_e4"):
        try:
            read_export(path)
        except UserError as error:
            refused[path.name] = str(error)
    assert all("is of no format that is read: it looks like" in message for message in refused.values())
    assert set(refused) == {"imotionsApi_imSensorList.json", "imotionsApi_imStudy_oneofeach.json"}
