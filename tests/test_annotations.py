"""Tables of annotations: the same rows whatever the export's shape, and wrong rows reported, not fatal."""

from pathlib import Path

import pandas as pd
import pytest

from mien.annotations.imotions import read_expression_table
from mien.annotations.tables import normalise_id, read_intervals
from mien.core.errors import UserError
from mien.core.types import Problem

SHARED = Path(__file__).parents[2] / "shared/data"

HEADER = "Respondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset,Expression Duration"
ROWS = (
    "AR  2298,Video 1,Smile,2236,5873,3637",
    '"Lee, Ann",Video 1,Joy,10,20.5,10.5',
    "AR  2298,Video 1,Smile,9000,9500,500",
)
EXPECTED = [
    ("AR  2298", "Video 1", "Smile", 2.236, 5.873),
    ("Lee, Ann", "Video 1", "Joy", 0.01, 0.0205),
    ("AR  2298", "Video 1", "Smile", 9.0, 9.5),
]


def write(path: Path, *lines: str, newline: str = "\n", encoding: str = "utf-8") -> Path:
    path.write_bytes(newline.join(lines).encode(encoding))
    return path


def read(path: Path, problems: list[Problem] | None = None) -> list[tuple[object, ...]]:
    return list(read_expression_table(path, problems=problems).itertuples(index=False, name=None))


@pytest.mark.parametrize("num_preamble", [0, 1, 6, 40])
def test_a_preamble_of_any_length(tmp_path, num_preamble):
    preamble = [f'Setting {number},"a, b"' if number % 2 else "" for number in range(num_preamble)]
    assert read(write(tmp_path / "t.csv", *preamble, HEADER, *ROWS)) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, newline):
    path = write(tmp_path / "t.csv", "iMotions,9.3", "", HEADER, *ROWS, "", newline=newline, encoding=encoding)
    assert read(path) == EXPECTED


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_other_separators(tmp_path, separator):
    lines = [line.replace("Lee, Ann", "Lee# Ann").replace(",", separator) for line in (HEADER, *ROWS)]
    path = write(tmp_path / "t.csv", *(line.replace("Lee# Ann", "Lee, Ann") for line in lines))
    assert read(path) == EXPECTED


def test_a_decimal_comma_counts_where_semicolons_separate(tmp_path):
    path = write(tmp_path / "t.csv", HEADER.replace(",", ";"), "A;V;Smile;1500,5;2000;0")
    assert read(path) == [("A", "V", "Smile", 1.5005, 2.0)]


@pytest.mark.parametrize(
    ("preamble", "header", "onset_s"),
    [
        ("Time unit,s", HEADER, 3.0),
        ("Time unit,ms", HEADER, 0.003),
        ("Time unit,us", HEADER, 0.000003),
        ("", HEADER.replace("Onset", "Onset (s)"), 3.0),
    ],
)
def test_the_time_unit_is_read(tmp_path, preamble, header, onset_s):
    assert read(write(tmp_path / "t.csv", preamble, header, "A,V,Smile,3,4,1")) == [
        ("A", "V", "Smile", onset_s, pytest.approx(onset_s / 3 * 4))
    ]


def test_an_unknown_time_unit_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'frames'.*known units"):
        read_expression_table(write(tmp_path / "t.csv", "Time unit,frames", HEADER, *ROWS))


def test_wrong_rows_are_left_out_and_reported_with_their_lines(tmp_path):
    bad = (
        "A,V,Smile,200,100,0",
        "A,V,Smile,x,100,0",
        "A,V,Smile,5",
        ",V,Smile,1,2,1",
        "A,V,Smile,inf,2,1",
        "A,V,,1,2,1",
    )
    problems: list[Problem] = []
    assert read(write(tmp_path / "t.csv", "x,y", HEADER, *bad, *ROWS), problems) == EXPECTED
    found = {problem.reason for problem in problems}
    assert found == {
        "1 row with an end before the start (line 3), left out",
        "3 rows with a time that isn't a number (line 4, 5, 7), left out",
        "1 row with no respondent (line 6), left out",
        "1 row with no expression type (line 8), left out",
    }
    assert {(problem.recording, problem.stage) for problem in problems} == {("t.csv", "annotations")}


def test_missing_columns_are_named_with_those_found(tmp_path):
    path = write(tmp_path / "FEA.csv", "a,b", "Respondent Name,Stimulus Name,Onset", "A,V,1")
    with pytest.raises(UserError) as error:
        read_expression_table(path)
    message = str(error.value)
    assert "FEA.csv" in message
    assert "Columns found: Respondent Name, Stimulus Name, Onset." in message
    assert "Expression Type" in message and "Expression Offset" in message


def test_an_empty_table_and_a_missing_file(tmp_path):
    assert read(write(tmp_path / "t.csv", HEADER)) == []
    with pytest.raises(UserError, match="no row that names"):
        read_expression_table(write(tmp_path / "empty.csv"))
    with pytest.raises(UserError, match="Can't read"):
        read_expression_table(tmp_path / "none.csv")


def test_ids_are_normalised():
    assert {normalise_id(text) for text in ("AR  2298", "AR_2298", " AR 2298\t", "AR__ 2298")} == {"AR 2298"}


def test_plain_intervals(tmp_path):
    path = write(
        tmp_path / "annotations.csv", "label,recording,onset_s,offset_s,value", "Smile,r1,0.5,1,", "Joy,r1,2,1,x"
    )
    problems: list[Problem] = []
    table = read_intervals(
        path,
        start="onset_s",
        end="offset_s",
        text=("recording", "label"),
        optional=("value", "annotator"),
        problems=problems,
    )
    assert table.to_dict("records") == [
        {"recording": "r1", "label": "Smile", "onset_s": 0.5, "offset_s": 1.0, "value": "", "annotator": ""}
    ]
    assert [problem.reason for problem in problems] == ["1 row with an end before the start (line 3), left out"]


@pytest.mark.real
def test_the_real_table_is_what_pandas_reads():
    path = SHARED / "smile_study/Analysis/Facial Coding/FEAExpressionTable.csv"
    if not path.is_file():
        pytest.skip("the shared smile study isn't here")
    problems: list[Problem] = []
    table = read_expression_table(path, problems=problems)
    reference = pd.read_csv(path, skiprows=6)
    assert problems == []
    assert len(table) == len(reference) == 1432
    assert table["respondent"].tolist() == reference["Respondent Name"].tolist()
    assert table["label"].tolist() == reference["Expression Type"].tolist()
    assert table["onset_s"].tolist() == (reference["Expression Onset"] / 1000).tolist()
    assert table["offset_s"].tolist() == (reference["Expression Offset"] / 1000).tolist()
