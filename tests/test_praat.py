"""Praat TextGrids: both text forms are one to Praat, and what was saved badly is read as far as it goes."""

from pathlib import Path

import pytest

from mien.annotations.praat import read_textgrid
from mien.core.errors import UserError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "Smile@P 1"
        xmin = 0
        xmax = 3.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1
            text = ""
        intervals [2]:
            xmin = 1
            xmax = 2.25
            text = "x"
        intervals [3]:
            xmin = 2.25
            xmax = 3.5
            text = "  "
    item [2]:
        class = "TextTier"
        name = "clap"
        xmin = 0
        xmax = 3.5
        points: size = 2
        points [1]:
            number = 0.5
            mark = "a ""big"" one
        in two lines"
        points [2]:
            number = 1.5
            mark = "1 2 ! 3"
"""

SHORT = """File type = "ooTextFile"
"TextGrid"
-0
3.5
<exists>
2
"IntervalTier" "Smile@P 1" -0 3.5 3 ! three intervals
-0 1 ""
1 2.25 "x"
2.25 3.5 ""
"TextTier" "clap" 0 3.5 2
0.5 "a ""big"" one
        in two lines"
1.5 "1 2 ! 3"
"""

EXPECTED = [
    ("P 1", "Smile", 1.0, 2.25, ""),
    ("", "clap", 0.5, 0.5, 'a "big" one\n        in two lines'),
    ("", "clap", 1.5, 1.5, "1 2 ! 3"),
]


def read(path: Path) -> list[tuple[object, ...]]:
    table = read_textgrid(path).intervals
    table = table.assign(value=table["value"].fillna(""))
    return list(table[["respondent", "label", "onset_s", "offset_s", "value"]].itertuples(index=False, name=None))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_both_forms_in_all_encodings(tmp_path, text, encoding):
    assert read(write(tmp_path / "a.TextGrid", text, encoding)) == EXPECTED


def test_latin_1(tmp_path):
    assert read(write(tmp_path / "a.TextGrid", SHORT.replace('"x"', '"grüß"'), "latin-1"))[0][-1] == "grüß"


def test_points_are_reported(tmp_path):
    reasons = [problem.reason for problem in read_textgrid(write(tmp_path / "a.TextGrid", SHORT)).problems]
    assert reasons == ["2 point events without duration: no frame lies in them"]


def test_tiers_of_the_same_name_stay_apart(tmp_path):
    export = read_textgrid(write(tmp_path / "a.TextGrid", SHORT.replace('"clap"', '"Smile@P 1"')))
    assert set(export.intervals["label"]) == {"Smile"} and set(export.intervals["respondent"]) == {"P 1", "P 1 (2)"}
    assert "several tiers are called 'Smile@P 1'" in export.problems[0].reason


@pytest.mark.parametrize(("lines", "kept"), [(8, 0), (9, 1), (12, 1), (13, 2), (14, 3)])
def test_a_cut_file_gives_what_it_holds(tmp_path, lines, kept):
    text = "\n".join(SHORT.split("\n")[:lines])
    export = read_textgrid(write(tmp_path / "a.TextGrid", text))
    assert len(export.intervals) == kept
    damaged = any("ends, or is damaged, in tier" in problem.reason for problem in export.problems)
    assert damaged == (lines < 14)


def test_a_number_that_is_none_costs_one_interval(tmp_path):
    export = read_textgrid(write(tmp_path / "a.TextGrid", SHORT.replace("1 2.25", "1e999 2.25")))
    assert export.intervals["label"].tolist() == ["clap", "clap"]
    assert "with a time that isn't a number" in export.problems[0].reason


def test_no_tiers(tmp_path):
    export = read_textgrid(write(tmp_path / "a.TextGrid", SHORT.split("<exists>")[0] + "<absent>\n"))
    assert not len(export.intervals) and not export.problems


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "isn't a Praat TextGrid"),
        ('File type = "ooTextFile"\nObject class = "PitchTier"\n', "isn't a Praat TextGrid"),
        ("ooBinaryFile\x08TextGrid", "binary TextGrid. Save it in Praat as text"),
        ('"Praat chronological TextGrid text file"\n0 1', "chronological TextGrid"),
        ('File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n', "ends within its head"),
    ],
)
def test_what_isnt_read_says_why(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_textgrid(write(tmp_path / "a.TextGrid", text))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [
        ("all_tiers_have_the_same_name", 3, ("Mary", "Mary (2)", "Mary (3)")),
        ("bobby_phones_elan", 13, ("phone",)),
        ("bobby_words_with_newlines", 9, ('"word"', "phrase", "tier 3")),
        ("mary", 22, ("phone", "word", "pitch")),
        ("mary_longfile", 22, ("phone", "word", "pitch")),
        ("mary_with_negative_zero", 22, ("phone", "word", "pitch")),
    ],
)
def test_real_files(shared_data, name, count, labels):
    export = read_textgrid(shared_data / f"exports/elan_praat/praat_{name}.TextGrid")
    assert (len(export.intervals), export.labels) == (count, labels)


@pytest.mark.real
def test_the_same_textgrid_in_three_spellings(shared_data):
    folder = shared_data / "exports/elan_praat"
    first, *others = (read(folder / f"praat_mary{end}.TextGrid") for end in ("", "_longfile", "_with_negative_zero"))
    assert all(other == first for other in others)
    assert first[1][1:] == ("phone", 0.38526757369599995, 0.4906833231456586, "ə")
