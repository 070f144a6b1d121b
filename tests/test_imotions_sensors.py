"""iMotions' sensor exports: fresh samples only, whatever the layout."""

import numpy as np
import pytest

from mien.annotations.imotions_sensors import read_imotions_sensors
from mien.annotations.imotions_tables import read_gsr_peaks
from mien.annotations.thresholds import intervals_from_channels
from mien.core.errors import UserError

TEXT_PREAMBLE = (
    "#Study : Test",
    "#Date : 20171006 11:12:32",
    "#Version : 6.1.2667.3",
    "#TestRunDate : 20171005 11:27:18.071 (-04:00)",
    "",
)
TEXT_HEADER = (
    "StudyName\tName\tAge\tGender\tStimulusName\tSlideType\tEventSource\tTimestamp\tMediaTime\tAnnotation\tPupilLeft\t"
    "NoOfFaces\tJoy Evidence\tGSR CAL (kOhms) (Shimmer Sensor)\tGSR CAL (µSiemens) (Shimmer Sensor)\tGSR Quality"
)
GSR = "Shimmer Sensor Shimmer Sensor"
TEXT_ROWS = (
    # stimulus, slide type, source, time, annotation, pupil, faces, joy, kOhm, µS: carried forward as iMotions does
    ("A", "TestImage", "ET", 0, "", 3.0, "", "", "", ""),
    ("A", "TestImage", "Emotient FACET", 10, "", 3.0, 1, -1.5, "", ""),
    ("A", "TestImage", GSR, 20, "Question 1", 3.0, 1, -1.5, 100, 10.0),
    ("A", "TestImage", f"ET|{GSR}", 30, "Question 1", 3.0, 1, -1.5, 100, 10.0),
    ("A", "TestImage", "Emotient FACET", 40, "Question 1|Look", 3.0, -1, "", 100, 10.0),
    ("A", "TestImage", "ET", 50, "Look", 3.25, -1, "", 100, 10.0),
    ("B", "BlackInterslide", "ET", 60, "", 3.5, -1, "", 100, 10.0),
    ("B", "TestVideo", "Emotient FACET", 70, "", 3.5, 1, -0.5, 100, 10.0),
    ("B", "TestVideo", "ET", 80, "", 3.5, 1, -0.5, 100, 10.0),
)


def text_lines(rows=TEXT_ROWS, *, name="AR  2298", separator="\t"):
    for stimulus, slide, source, time, mark, *values in rows:
        cells = ("Test", name, 22, "MALE", stimulus, slide, source, time, "", mark, *values, "VALID")
        yield separator.join(map(str, cells))


def write(path, *lines, newline="\n", encoding="utf-8"):
    path.write_bytes(newline.join(lines).encode(encoding))
    return path


def samples(export, name, stimulus=None):
    """Return the samples of a channel as (time in ms, value), over all stimuli unless one is given."""
    chosen = [s for s in export.signals if s.name == name and stimulus in (None, s.stimulus)]
    return [
        (round(float(time) * 1000, 3), round(float(value), 4))
        for signal in chosen
        for time, value in zip(signal.times_s, signal.values, strict=True)
    ]


def segments(export):
    return [
        (row.segment, row.stimulus, round(row.onset_s, 4), round(row.offset_s, 4))
        for row in export.segments.itertuples()
    ]


def reasons(export):
    return [problem.reason for problem in export.problems]


@pytest.fixture
def text_export(tmp_path):
    return read_imotions_sensors(write(tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *text_lines(), newline="\r\n"))


def test_only_the_sensors_that_reported_have_samples(text_export):
    assert samples(text_export, "PupilLeft") == [(0, 3), (30, 3), (50, 3.25), (60, 3.5), (80, 3.5)]
    assert samples(text_export, "Joy Evidence") == [(10, -1.5), (70, -0.5)]
    assert samples(text_export, "NoOfFaces") == [(10, 1), (40, -1), (70, 1)]
    assert samples(text_export, "GSR CAL") == [(20, 100), (30, 100)]
    assert samples(text_export, "GSR CAL (µSiemens)") == [(20, 10), (30, 10)]
    # A naive join of all rows would have 9 samples of the pupil and 7 of the conductance.
    assert reasons(text_export) == []


def test_sources_units_and_the_person(text_export):
    sources = {signal.name: (signal.source, signal.unit) for signal in text_export.signals}
    assert sources == {
        "PupilLeft": ("ET", ""),
        "NoOfFaces": ("FACET", ""),
        "Joy Evidence": ("FACET", ""),
        "GSR CAL": ("Shimmer Sensor", "kOhms"),
        "GSR CAL (µSiemens)": ("Shimmer Sensor", "µSiemens"),
    }
    assert text_export.attributes == {"age": 22.0, "gender": "male"}
    assert {signal.respondent for signal in text_export.signals} == {"AR  2298"}
    assert text_export.format == "iMotions sensors 6.1.2667.3"
    assert (text_export.annotator, text_export.tool) == ("FACET", True)
    assert text_export.start_utc_s == pytest.approx(1507217238.071)


def test_stimuli_and_marks_are_segments_and_interslides_are_none(text_export):
    assert segments(text_export) == [
        ("A", "A", 0.0, 0.06),
        ("B", "B", 0.07, 0.09),
        ("Question 1", "A", 0.02, 0.04),
        ("Question 1", "A", 0.04, 0.05),
        ("Look", "A", 0.04, 0.05),
        ("Look", "A", 0.05, 0.06),
    ]
    assert samples(text_export, "PupilLeft", stimulus="") == [(60, 3.5)]
    assert samples(text_export, "PupilLeft", stimulus="B") == [(80, 3.5)]


def test_several_respondents_stay_apart_and_have_no_common_age(tmp_path):
    path = write(
        tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *text_lines(), *text_lines(TEXT_ROWS[:3], name="BB 1")
    )
    export = read_imotions_sensors(path)
    pupils = {(s.respondent, s.stimulus): s.times_s.size for s in export.signals if s.name == "PupilLeft"}
    assert pupils == {("AR  2298", "A"): 3, ("AR  2298", ""): 1, ("AR  2298", "B"): 1, ("BB 1", "A"): 1}
    assert export.attributes == {}


def test_windows_code_page_and_age_zero(tmp_path):
    lines = [line.replace("\t22\t", "\t0\t") for line in text_lines()]
    path = write(tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *lines, encoding="cp1252")
    export = read_imotions_sensors(path)
    assert [s.unit for s in export.signals if s.name == "GSR CAL (µSiemens)"] == ["µSiemens"]
    assert export.attributes == {"gender": "male"}


def test_times_that_are_dates_count_from_the_test_run(tmp_path):
    lines = [
        line.replace(f"\t{row[3]}\t\t", f"\t20171005_112718{row[3] + 71:03d}\t\t", 1)
        for row, line in zip(TEXT_ROWS, text_lines(), strict=True)
    ]
    export = read_imotions_sensors(write(tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *lines))
    assert samples(export, "PupilLeft") == [(0, 3), (30, 3), (50, 3.25), (60, 3.5), (80, 3.5)]
    without = read_imotions_sensors(write(tmp_path / "u.txt", TEXT_HEADER, *lines))
    assert samples(without, "Joy Evidence") == [(10, -1.5), (70, -0.5)]
    assert reasons(without) == [
        "times are dates and the preamble has no #TestRunDate, so they count from the first row"
    ]


def test_samples_of_one_packet_are_averaged_and_counted(tmp_path):
    rows = [("A", "TestImage", "ET", 0, "", 3, "", "", "", ""), ("A", "TestImage", "ET", 0, "", 4, "", "", "", "")]
    export = read_imotions_sensors(write(tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *text_lines(rows)))
    assert samples(export, "PupilLeft") == [(0, 3.5)]
    assert "1 of 2 samples" in reasons(export)[0]


HEADER_LINES = (
    "#HEADER",
    "Respondent Name,AJ 8030",
    "Respondent Age,25",
    "Respondent Gender,FEMALE",
    "#METADATA",
    "FieldName,Timestamp,EventSource,GSR Conductance CAL,Smile",
    "DataType,Double,Integer,Double,Double",
    "Units,ms,,microSiemens,",
    "#DATA",
    "Row,Timestamp,EventSource,GSR Conductance CAL,Smile",
)
CODED_ROWS = (
    # conductance is code 1, the face code 4, both in one row 5; carried forward; conductance often repeats its value
    "0,0,1,2.5,",
    "1,10,4,2.5,20",
    "2,20,1,2.5,20",
    "3,30,1,2.75,20",
    "4,40,5,2.5,60",
    "5,50,4,2.5,70",
    "6,60,1,2.5,70",
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_codes_without_a_key_are_told_apart_by_their_changes(tmp_path, encoding, newline):
    path = write(tmp_path / "s.csv", *HEADER_LINES, *CODED_ROWS, newline=newline, encoding=encoding)
    export = read_imotions_sensors(path)
    # Unchanged samples of the sensor itself count, carried ones don't.
    assert samples(export, "GSR Conductance CAL") == [(0, 2.5), (20, 2.5), (30, 2.75), (40, 2.5), (60, 2.5)]
    assert samples(export, "Smile") == [(10, 20), (40, 60), (50, 70)]
    assert "nothing in the file says" in reasons(export)[0]
    assert {(s.name, s.unit, s.source, s.respondent) for s in export.signals} == {
        ("GSR Conductance CAL", "microSiemens", "GSR", "AJ 8030"),
        ("Smile", "", "AFFDEX", "AJ 8030"),
    }
    assert export.attributes == {"age": 25.0, "gender": "female"}
    table = intervals_from_channels(export.signals, threshold={"Smile": 50})
    assert [(row.onset_s, round(row.offset_s, 3)) for row in table.itertuples()] == [(0.04, 0.07)]


def test_one_code_in_the_whole_file_means_that_every_row_is_fresh(tmp_path):
    rows = [f"{number},{number * 31.25},3,2.5,10" for number in range(4)]
    export = read_imotions_sensors(write(tmp_path / "s.csv", *HEADER_LINES, *rows))
    assert len(samples(export, "GSR Conductance CAL")) == 4
    assert reasons(export) == []


CURRENT_LINES = (
    "#INFO,",
    "#Study name,Test",
    "#Respondent Name,R3,0b9c",
    "#Respondent Age,0",
    "#Respondent Gender,MALE",
    "#iMotions version,10.0.37173.5",
    "#Recording time,Date: 05.12.2025,Time: 22:20:22.911 +01:00,Unix time: 1764969622911",
    "#Sensor info,Affectiva AFFDEX,Manufacturer: Affectiva",
    "#METADATA,",
    "#Device,,,,,,Affectiva AFFDEX,Affectiva AFFDEX,Affectiva AFFDEX,Shimmer GSR 1,Shimmer GSR 1,Shimmer GSR 2,"
    "Shimmer GSR 2",
    "#Unit,,ms,,,,,,,,microSiemens,,microSiemens",
    "#DATA,",
    "Row,Timestamp,EventSource,SlideEvent,SourceStimuliName,Respondent Annotations active,EventSource,SampleNumber,"
    "Brow Furrow,EventSource,GSR Conductance CAL,EventSource,GSR Conductance CAL",
)
CURRENT_ROWS = (
    "1,0,1,StartSlide,Talk,,,,,,,,",
    "2,5,1,StartMedia,Talk,,,,,,,,",
    "3,10,,,,Q1,1,0,12.5,,,,",
    "4,20,,,,Q1,,,,1,2.5,1,7.5",
    "5,30,,,,,1,1,12.5,1,2.5,,7.5",
    "6,40,1,EndMedia,Talk,,,,12.5,,2.5,,7.5",
    "7,50,,,,,1,2,99,,2.5,,7.5",
)


def test_each_event_source_owns_the_columns_to_its_right(tmp_path):
    export = read_imotions_sensors(write(tmp_path / "s.csv", *CURRENT_LINES, *CURRENT_ROWS, encoding="utf-8-sig"))
    assert samples(export, "Brow Furrow") == [(10, 12.5), (30, 12.5), (50, 99)]
    by_source = {s.source: s.times_s.tolist() for s in export.signals if s.name == "GSR Conductance CAL"}
    assert by_source == {"Shimmer GSR 1": [0.02, 0.03], "Shimmer GSR 2": [0.02]}
    assert segments(export) == [("Talk", "Talk", 0.005, 0.04), ("Q1", "Talk", 0.01, 0.03)]
    assert [s.stimulus for s in export.signals if s.name == "Brow Furrow"] == ["Talk", ""]
    assert (export.annotator, export.tool, export.attributes) == ("AFFDEX", True, {"gender": "male"})
    assert export.start_utc_s == pytest.approx(1764969622.911)
    assert export.format == "iMotions sensors 10.0.37173.5"
    assert reasons(export) == []


def test_a_combined_event_source_names_devices(tmp_path):
    lines = [
        "#HEADER",
        "#Device,,,Affectiva AFFDEX,Shimmer (GSR)",
        "#METADATA",
        "#Device,,,Affectiva AFFDEX,Shimmer (GSR)",
        "#DATA",
        "Row,Timestamp,Combined Event Source,Joy,GSR Conductance CAL",
        "0,0,Affectiva AFFDEX,10,",
        "1,10,Shimmer (GSR),10,3",
        "2,20,Affectiva AFFDEX|Shimmer (GSR),10,3",
        "3,30,SlideEvents,10,3",
    ]
    export = read_imotions_sensors(write(tmp_path / "s.csv", *lines))
    assert samples(export, "Joy") == [(0, 10), (20, 10)]
    assert samples(export, "GSR Conductance CAL") == [(10, 3), (20, 3)]


@pytest.mark.parametrize("num_lines", [0, 1, 25, 300])
def test_preambles_of_any_length(tmp_path, num_lines):
    more = [f'Setting {number},"a, b"' if number % 3 else "" for number in range(num_lines)]
    path = write(tmp_path / "s.csv", HEADER_LINES[0], *more, *HEADER_LINES[1:], *CODED_ROWS)
    assert len(samples(read_imotions_sensors(path), "GSR Conductance CAL")) == 5


def test_semicolons_and_decimal_commas(tmp_path):
    rows = ["Row;Timestamp;Smile", "0;0,5;12,5", "1;1,5;n/a", "2;2,5;13,25"]
    export = read_imotions_sensors(write(tmp_path / "s.csv", "#METADATA;", "#DATA;", *rows))
    assert samples(export, "Smile") == [(0.5, 12.5), (2.5, 13.25)]
    assert reasons(export) == []


def test_quoted_cells_with_separators(tmp_path):
    rows = ['"Row","Timestamp","SourceStimuliName","Smile"', '"0","1","A, ""b""","1.5"', '"1","2","A, ""b""","2.5"']
    export = read_imotions_sensors(write(tmp_path / "s.csv", "#DATA", *rows))
    assert samples(export, "Smile", stimulus='A, "b"') == [(1, 1.5), (2, 2.5)]


def test_wrong_cells_and_a_row_cut_short_are_reported_and_the_rest_is_read(tmp_path):
    rows = ["0,0,3,2.5,1", "1,10,3,oops,2", "2,x,3,2.5,3", "3,30,3,2.75,4", "4,40,3"]
    export = read_imotions_sensors(write(tmp_path / "s.csv", *HEADER_LINES, *rows))
    assert samples(export, "GSR Conductance CAL") == [(0, 2.5), (30, 2.75)]
    assert samples(export, "Smile") == [(0, 1), (10, 2), (30, 4)]
    assert reasons(export) == [
        "1 row with another number of cells than the header (cut short?), left out",
        "1 cell of 'Timestamp' that aren't numbers, left out",
        "1 cell of 'GSR Conductance CAL' that aren't numbers, left out",
        "1 rows without a time, left out",
    ]


def test_a_wrong_cell_that_comes_late_is_found_too(tmp_path):
    rows = [f"{n},{n * 10},3,{'late' if n == 90 else 1.5},2" for n in range(100)]
    export = read_imotions_sensors(write(tmp_path / "s.csv", *HEADER_LINES, *rows))
    assert len(samples(export, "GSR Conductance CAL")) == 99
    assert reasons(export) == ["1 cell of 'GSR Conductance CAL' that aren't numbers, left out"]


@pytest.mark.parametrize(("unit", "last_ms"), [("ms", 60), ("s", 60000), ("µs", 0.06), ("", 60)])
def test_time_units(tmp_path, unit, last_ms):
    lines = [line.replace("Units,ms", f"Units,{unit}") for line in HEADER_LINES]
    export = read_imotions_sensors(write(tmp_path / "s.csv", *lines, *CODED_ROWS))
    assert samples(export, "GSR Conductance CAL")[-1][0] == pytest.approx(last_ms, abs=0.001)


def test_bytes_that_mean_nothing_in_any_code_page_are_read(tmp_path):
    path = write(tmp_path / "s.csv", "#DATA", "Row,Timestamp,SourceStimuliName,Smile", "0,1,A,2")
    path.write_bytes(path.read_bytes().replace(b",A,", b",A\x81\xb5,"))
    assert [(s.stimulus, s.values.tolist()) for s in read_imotions_sensors(path).signals] == [("A\x81µ", [2.0])]


def test_what_can_not_be_read_is_refused_with_advice(tmp_path):
    with pytest.raises(UserError, match="'frames'; known units"):
        lines = [line.replace("Units,ms", "Units,frames") for line in HEADER_LINES]
        read_imotions_sensors(write(tmp_path / "s.csv", *lines, *CODED_ROWS))
    for content in ("", "#HEADER\nRespondent Name,x\n", "#METADATA\n#DATA\n"):
        with pytest.raises(UserError, match="Export it again"):
            read_imotions_sensors(write(tmp_path / "e.csv", content))
    with pytest.raises(UserError, match="no column with a channel"):
        read_imotions_sensors(write(tmp_path / "n.csv", "#DATA", "Row,Timestamp", "0,1"))
    with pytest.raises(UserError, match="Can't read"):
        read_imotions_sensors(tmp_path / "none.csv")


def test_tables_without_time_or_rows_have_no_signals_and_say_so(tmp_path):
    metrics = read_imotions_sensors(write(tmp_path / "m.csv", '"startMs","fixCount"', "93.5,9"))
    assert metrics.signals == () and "startMs, fixCount" in reasons(metrics)[0]
    empty = read_imotions_sensors(write(tmp_path / "e.csv", *HEADER_LINES))
    assert empty.signals == () and reasons(empty) == ["no number in any channel"]


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    """The same file, in blocks of a few rows and at once: carried states pass from block to block."""
    text = write(tmp_path / "t.txt", *TEXT_PREAMBLE, TEXT_HEADER, *text_lines())
    current = write(tmp_path / "c.csv", *CURRENT_LINES, *CURRENT_ROWS)
    coded = write(tmp_path / "s.csv", *HEADER_LINES, *CODED_ROWS)
    whole = [read_imotions_sensors(path) for path in (text, current, coded)]
    monkeypatch.setattr("mien.annotations.imotions_blocks.BLOCK_BYTES", 150)
    for path, expected in zip((text, current, coded), whole, strict=True):
        export = read_imotions_sensors(path)
        assert segments(export) == segments(expected)
        assert reasons(export) == reasons(expected)
        for one, other in zip(export.signals, expected.signals, strict=True):
            assert (one.name, one.source, one.stimulus) == (other.name, other.source, other.stimulus)
            np.testing.assert_array_equal(one.times_s, other.times_s)
            np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.real
def test_real_text_exports(shared_data):
    """Sensors by name, and by the changes of their columns where names are taken away, are fresh in the same rows."""
    path = shared_data / "exports/imotions/pyfeat_iMotions_Test_v5.txt"
    export = read_imotions_sensors(path)
    counts = {}
    for signal in export.signals:
        counts[signal.name] = counts.get(signal.name, 0) + signal.times_s.size
    # 255 rows name ET, 254 FACET, 10 both; four rows of ET share their time with another.
    assert counts["PupilLeft"] == 261 and counts["NoOfFaces"] == 264
    # A row is a row of FACET with a face: 222 + 8; the file has 462 filled cells, the others are carried.
    assert counts["Joy Evidence"] == 230
    assert [row[:1] for row in segments(export)] == [("Emotient_Baseline",), ("screen_data",)]
    newer = read_imotions_sensors(path.with_name("pyfeat_iMotions_Test_v6.txt"))
    assert {s.times_s.size for s in newer.signals} == {304, 519}
    assert newer.attributes == {"gender": "male"}


@pytest.mark.real
def test_changes_tell_what_names_tell(shared_data, tmp_path):
    path = shared_data / "exports/imotions/pyfeat_iMotions_Test_v5.txt"
    named = read_imotions_sensors(path)
    text = path.read_text(encoding="utf-8")
    for name, code in (("\tET|Emotient FACET\t", "\t9\t"), ("\tEmotient FACET\t", "\t8\t"), ("\tET\t", "\t1\t")):
        text = text.replace(name, code)
    coded_path = tmp_path / "coded.txt"
    coded_path.write_text(text, encoding="utf-8")
    coded = read_imotions_sensors(coded_path)
    assert "EventSource values stand for" in coded.problems[0].reason
    by_name = {(s.name, s.stimulus): s for s in coded.signals}
    differing = [
        s.name
        for s in named.signals
        if (s.name, s.stimulus) not in by_name or not np.array_equal(s.times_s, by_name[s.name, s.stimulus].times_s)
    ]
    assert differing == []


@pytest.mark.real
@pytest.mark.slow
def test_real_sensor_files_of_the_smile_study(shared_data):
    folder = shared_data / "smile_study/Analysis"
    exports = [read_imotions_sensors(path) for path in sorted((folder / "Sensor Data").glob("*.csv"))]
    assert len(exports) == 72 and all(not export.problems for export in exports)
    conductance = {export.signals[0].respondent: export.signals[0] for export in exports}
    assert {(s.name, s.unit, s.source) for s in conductance.values()} == {
        ("GSR Conductance CAL", "microSiemens", "GSR")
    }
    assert {round(1 / np.median(np.diff(s.times_s))) for s in conductance.values()} == {32}
    peaks = read_gsr_peaks(folder / "GSR/GSRPeakTable.csv")
    assert not peaks.problems and set(peaks.intervals.respondent) == set(conductance)
    rises = [
        np.interp(
            [row.onset_s - 1, row.onset_s], conductance[row.respondent].times_s, conductance[row.respondent].values
        )
        for row in peaks.intervals.itertuples()
        if row.onset_s > 1
    ]
    # Conductance rises in the second before a peak; half of all seconds do.
    assert np.mean([after > before for before, after in rises]) > 0.7
