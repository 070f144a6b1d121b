"""ELAN files: every annotation has the time that ELAN shows; what is written comes back."""

import math
from pathlib import Path

import pandas as pd
import pytest

from mien.annotations.elan import read_elan, write_elan
from mien.core.errors import UserError

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">'
TYPES = (
    '<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="plain" TIME_ALIGNABLE="true"/>'
    '<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="sub" CONSTRAINTS="Symbolic_Subdivision"/>'
    '<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="assoc" CONSTRAINTS="Symbolic_Association" CONTROLLED_VOCABULARY_REF="V"/>'
    '<CONTROLLED_VOCABULARY CV_ID="V"><CV_ENTRY_ML CVE_ID="c1"><CVE_VALUE LANG_REF="eng">low</CVE_VALUE>'
    '<CVE_VALUE LANG_REF="nld">laag</CVE_VALUE></CV_ENTRY_ML></CONTROLLED_VOCABULARY>'
)


def slots(*times_ms: int | None) -> str:
    given = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="t{number}"' + ("/>" if time is None else f' TIME_VALUE="{time}"/>')
        for number, time in enumerate(times_ms)
    )
    return f"<TIME_ORDER>{given}</TIME_ORDER>"


def aligned(name: str, begin: int, end: int, text: str = "") -> str:
    return (
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="{name}" TIME_SLOT_REF1="t{begin}" TIME_SLOT_REF2="t{end}">'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
    )


def referring(name: str, parent: str, text: str = "", previous: str = "", entry: str = "") -> str:
    more = (f' PREVIOUS_ANNOTATION="{previous}"' if previous else "") + (f' CVE_REF="{entry}"' if entry else "")
    return (
        f'<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="{name}" ANNOTATION_REF="{parent}"{more}>'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>"
    )


def tier(name: str, *annotations: str, kind: str = "plain", **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<TIER TIER_ID="{name}" LINGUISTIC_TYPE_REF="{kind}"{more}>{"".join(annotations)}</TIER>'


def eaf(path: Path, *parts: str, header: str = '<HEADER TIME_UNITS="milliseconds"/>') -> Path:
    path.write_text(f"{HEAD}{header}{''.join(parts)}{TYPES}</ANNOTATION_DOCUMENT>", encoding="utf-8")
    return path


def rows(export, *columns: str) -> list[tuple[object, ...]]:
    table = export.intervals
    table = table.assign(value=table["value"].where(table["value"].notna(), None))
    return list(table[list(columns)].itertuples(index=False, name=None))


TIMES = ("label", "onset_s", "offset_s", "value")


def test_slots_without_time_lie_between_their_neighbours_on_the_tier(tmp_path):
    """In the file's order other tiers' slots stand between them, as in ELAN's own sample."""
    path = eaf(
        tmp_path / "a.eaf",
        slots(1000, None, None, 1000, 1200, 4000),
        tier("words", aligned("a1", 0, 1, "one"), aligned("a2", 1, 2, "two"), aligned("a3", 2, 5, "three")),
        tier("other", aligned("a4", 3, 4, "x")),
    )
    assert rows(read_elan(path), *TIMES) == [
        ("words", 1.0, 2.0, "one"),
        ("words", 2.0, 3.0, "two"),
        ("words", 3.0, 4.0, "three"),
        ("other", 1.0, 1.2, None),
    ]


def test_slots_at_a_tiers_edge_take_the_nearest_times_of_the_file(tmp_path):
    path = eaf(tmp_path / "a.eaf", slots(1000, None, None, 4000), tier("t", aligned("a1", 1, 2, "v")))
    assert rows(read_elan(path), *TIMES) == [("t", 2.0, 3.0, "v")]


def test_an_annotation_without_any_time_is_reported(tmp_path):
    path = eaf(tmp_path / "a.eaf", slots(None, None), tier("t", aligned("a1", 0, 1, "v"), aligned("a2", 7, 8, "v")))
    export = read_elan(path)
    assert not len(export.intervals)
    assert "2 annotations of the tier 't' with a time that isn't a number" in export.problems[0].reason


def test_symbolic_tiers_take_their_time_from_the_parent(tmp_path):
    """Subdivision shares it in the order of the chain, association takes it whole, also two levels down."""
    path = eaf(
        tmp_path / "a.eaf",
        slots(1000, 4000),
        tier("pos", referring("p1", "w2", entry="c1"), kind="assoc"),
        tier(
            "words",
            referring("w2", "s", "b", "w1"),
            referring("w3", "s", "c", "w2"),
            referring("w1", "s", "a"),
            kind="sub",
        ),
        tier("text", aligned("s", 0, 1, "a b c")),
    )
    assert rows(read_elan(path), *TIMES) == [
        ("pos", 2.0, 3.0, "low"),
        ("words", 2.0, 3.0, "b"),
        ("words", 3.0, 4.0, "c"),
        ("words", 1.0, 2.0, "a"),
        ("text", 1.0, 4.0, "a b c"),
    ]


def test_annotations_that_refer_in_a_circle_are_reported(tmp_path):
    circle = tier("loop", referring("x", "y", "v"), referring("y", "x", "v"), referring("z", "nobody", "v"), kind="sub")
    export = read_elan(eaf(tmp_path / "a.eaf", slots(0, 1), circle))
    assert not len(export.intervals)
    assert "3 annotations" in export.problems[0].reason


@pytest.mark.parametrize(
    ("units", "seconds"),
    [("milliseconds", 0.025), ("PAL-frames", 1.0), ("PAL-50-frames", 0.5), ("NTSC-frames", 0.834166667)],
)
def test_time_units(tmp_path, units, seconds):
    path = eaf(
        tmp_path / "a.eaf", slots(0, 25), tier("t", aligned("a", 0, 1, "v")), header=f'<HEADER TIME_UNITS="{units}"/>'
    )
    assert read_elan(path).intervals["offset_s"].tolist() == pytest.approx([seconds])


def test_an_unknown_time_unit_is_refused(tmp_path):
    path = eaf(tmp_path / "a.eaf", slots(0, 25), header='<HEADER TIME_UNITS="fortnights"/>')
    with pytest.raises(UserError, match="counts time in 'fortnights'; known: milliseconds"):
        read_elan(path)


TWO_MEDIA = (
    '<HEADER TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/x/cam one.mp4" TIME_ORIGIN="500"/>'
    '<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/x/screen%202.mp4" TIME_ORIGIN="1500"/></HEADER>'
)


def test_media_offset_is_added_to_the_time_of_annotations(tmp_path):
    """ELAN plays a file whose offset is 500 ms from its 500th millisecond on."""
    path = eaf(tmp_path / "a.eaf", slots(0, 2000), tier("t", aligned("a", 0, 1, "v")), header=TWO_MEDIA)
    export = read_elan(path)
    assert export.media == ("cam one.mp4", "screen 2.mp4")
    assert rows(export, "onset_s", "offset_s") == [(0.5, 2.5)]
    assert "times are those of cam one.mp4" in export.problems[0].reason
    chosen = read_elan(path, media="folder/Screen 2.mp4")
    assert rows(chosen, "onset_s", "offset_s") == [(1.5, 3.5)]
    assert not chosen.problems


def test_a_tier_per_scheme_with_values_or_without(tmp_path):
    path = eaf(
        tmp_path / "a.eaf",
        slots(0, 1000, 2000, 3000),
        tier("Smile@P01", aligned("a1", 0, 1), aligned("a2", 1, 2), aligned("a3", 2, 3, "broad?")),
        tier("Joy", aligned("b1", 0, 1, "x"), aligned("b2", 2, 3, "joy"), PARTICIPANT="P 2", ANNOTATOR="Ann"),
        tier("Valence", aligned("c1", 0, 1, "positive"), aligned("c2", 1, 2), aligned("c3", 2, 3, "negative")),
        tier("Anger"),
    )
    export = read_elan(path)
    assert rows(export, "label", "onset_s", "value", "respondent", "annotator") == [
        ("Smile", 0.0, None, "P01", ""),
        ("Smile", 1.0, None, "P01", ""),
        ("Smile", 2.0, None, "P01", ""),
        ("Joy", 0.0, None, "P 2", "Ann"),
        ("Joy", 2.0, None, "P 2", "Ann"),
        ("Valence", 0.0, "positive", "", ""),
        ("Valence", 2.0, "negative", "", ""),
    ]
    assert export.labels == ("Smile", "Joy", "Valence", "Anger")
    reasons = " ".join(problem.reason for problem in export.problems)
    assert "1 annotation of 'Smile' with a text, where most have none: read as notes" in reasons
    assert "1 annotation without a value in 'Valence', whose others have one, left out" in reasons


def test_a_tier_per_coder_names_what_was_seen(tmp_path):
    path = eaf(
        tmp_path / "a.eaf",
        slots(0, 1000, 2000),
        tier("Anna@P01", aligned("a1", 0, 1, "Smile"), aligned("a2", 1, 2), ANNOTATOR="anna"),
        tier("Coder 2@P01", aligned("b1", 1, 2, "Joy")),
        tier("Coderswitch", aligned("c1", 1, 2, "French")),
    )
    export = read_elan(path)
    assert rows(export, "label", "value", "annotator", "respondent") == [
        ("Smile", None, "anna", "P01"),
        ("Joy", None, "Coder 2", "P01"),
        ("Coderswitch", "French", "", ""),
    ]
    assert "without text in the coder's tier" in export.problems[0].reason
    forced = read_elan(path, text="label")
    assert forced.intervals["label"].tolist() == ["Smile", "Joy", "French"]
    assert set(read_elan(path, text="value").intervals["label"]) == {"Anna", "Coder 2", "Coderswitch"}


def test_tiers_of_segments(tmp_path):
    path = eaf(
        tmp_path / "a.eaf",
        slots(0, 1000, 2000),
        tier("Questions@P01", aligned("a1", 0, 1, "Q1"), aligned("a2", 1, 2)),
        tier("stimulus", aligned("b1", 1, 2, "clip.mp4")),
    )
    export = read_elan(path)
    assert list(export.segments.itertuples(index=False, name=None)) == [
        ("P01", "", 0.0, 1.0, "Q1"),
        ("", "clip.mp4", 1.0, 2.0, "clip.mp4"),
    ]
    assert "without text in the tier of segments" in export.problems[0].reason


def test_points_and_reversed_annotations_are_reported(tmp_path):
    path = eaf(tmp_path / "a.eaf", slots(1000, 0), tier("t", aligned("a", 0, 1, "v"), aligned("b", 0, 0, "w")))
    export = read_elan(path)
    assert rows(export, *TIMES) == [("t", 1.0, 1.0, "w")]
    assert [problem.reason.split(":")[0] for problem in export.problems] == [
        "1 annotation of the tier 't' with an end before the start, left out",
        "1 point event without duration",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "isn't a whole ELAN file"),
        (HEAD, "isn't a whole ELAN file: no element found"),
        ("<html></html>", "begins with <html>"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>', "declares a document type"),
        ('<?xml version="1.0" encoding="klingon"?><ANNOTATION_DOCUMENT/>', "isn't a whole ELAN file"),
    ],
)
def test_what_isnt_elan_is_refused_with_advice(tmp_path, text, message):
    path = tmp_path / "a.eaf"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_elan(path)


def test_a_file_that_isnt_there(tmp_path):
    with pytest.raises(UserError, match="Can't read"):
        read_elan(tmp_path / "none.eaf")


INTERVALS = pd.DataFrame(
    {
        "label": ["Smile", "Valence", "Smile", "Task", "Head@rest", "Smile"],
        "onset_s": [0.1234, 0.0, 2.0, 1.0, 0.5, 1.0009],
        "offset_s": [1.0009, 3.25, 2.5, 1.0001, 0.75, 1.5],
        "value": [None, "yes", None, math.nan, None, None],
        "confidence": [0.91, None, 0.5, None, None, 1.0],
    }
)


def test_what_was_written_comes_back(tmp_path):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out/P 1.eaf"
    media = tmp_path / "study/P 1 & ä.mp4"
    write_elan(path, INTERVALS, media=media, annotator="mien <1>", labels=["Joy"])
    export = read_elan(path)
    assert export.format == "ELAN 3.0"
    assert export.media == ("P 1 & ä.mp4",)
    assert export.annotator == "mien <1>"
    assert export.labels == ("Joy", "Valence", "Smile", "Head@rest", "Task")
    assert not export.problems
    back = export.intervals.sort_values(["label", "onset_s"], ignore_index=True)
    given = INTERVALS.sort_values(["label", "onset_s"], ignore_index=True)
    assert back["label"].tolist() == given["label"].tolist()
    assert back["value"].fillna("").tolist() == given["value"].fillna("").tolist()
    for column, within in (("onset_s", 0.001), ("offset_s", 0.001), ("confidence", 1e-6)):
        assert back[column].tolist() == pytest.approx(given[column].tolist(), abs=within, nan_ok=True), column
    text = path.read_text(encoding="utf-8")
    assert 'RELATIVE_MEDIA_URL="../study/P 1 &amp; ä.mp4"' in text
    assert 'MIME_TYPE="video/mp4"' in text


def test_a_second_round_changes_nothing(tmp_path):
    once, twice = tmp_path / "once.eaf", tmp_path / "twice.eaf"
    write_elan(once, INTERVALS, media=tmp_path / "v.mp4", annotator="a")
    write_elan(twice, read_elan(once).intervals, media=tmp_path / "v.mp4", annotator="a")
    pd.testing.assert_frame_equal(read_elan(once).intervals, read_elan(twice).intervals)


def test_what_a_coder_adds_in_a_written_tier_counts(tmp_path):
    """Presence stays presence, whatever people type; participants and choices for values are kept."""
    path = tmp_path / "a.eaf"
    table = pd.DataFrame(
        {"label": ["Smile", "V"], "onset_s": [0, 1], "offset_s": [1, 2], "value": ["", "low"], "respondent": "P1"}
    )
    write_elan(path, table, media=tmp_path / "v.webm", annotator="m", vocabularies={"V": ["low", "high"]})
    text = path.read_text()
    assert 'TIER_ID="Smile@P1"' in text and 'PARTICIPANT="P1"' in text and ">high</CVE_VALUE>" in text
    path.write_text(
        text.replace("<ANNOTATION_VALUE />", "<ANNOTATION_VALUE>smile</ANNOTATION_VALUE>").replace(
            ">low</ANN", ">high</ANN"
        )
    )
    assert rows(read_elan(path), "label", "value", "respondent") == [("Smile", None, "P1"), ("V", "high", "P1")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": [""]}, "has no label"),
        ({"offset_s": [math.inf]}, "has no place in ELAN"),
        ({"onset_s": [3.0]}, "has no place in ELAN"),
        ({"onset_s": [-2.0], "offset_s": [-1.0]}, "has no place in ELAN"),
        ({"onset_s": [0.0, 0.5], "offset_s": [1.0, 2.0], "label": "Smile"}, "overlap at 0.5 s"),
        (
            {"onset_s": [0, 1], "offset_s": [1, 2], "label": "Smile", "value": ["a", ""]},
            "1 of the 2 intervals of Smile",
        ),
    ],
)
def test_what_elan_cant_hold_is_refused(tmp_path, changed, message):
    table = pd.DataFrame(
        {"label": ["Smile"], "onset_s": [0.0], "offset_s": [1.0], **changed}
        if "label" not in changed or len(changed) < 3
        else changed
    )
    with pytest.raises(UserError, match=message):
        write_elan(tmp_path / "a.eaf", table, media=tmp_path / "v.mp4", annotator="m")
    assert not (tmp_path / "a.eaf").exists()


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(UserError, match="lack the column 'offset_s'"):
        write_elan(tmp_path / "a.eaf", INTERVALS[["label", "onset_s"]], media=tmp_path / "v.mp4", annotator="m")


def test_characters_that_xml_cant_hold_are_marked(tmp_path):
    table = pd.DataFrame({"label": ["a\x00b"], "onset_s": [-0.02], "offset_s": [1.0]})
    write_elan(tmp_path / "a.eaf", table, media=tmp_path / "v.mp4", annotator="\x07")
    assert rows(read_elan(tmp_path / "a.eaf"), "label", "onset_s") == [("a\ufffdb", 0.0)]


@pytest.mark.real
@pytest.mark.parametrize("version", ["2.7", "3.0"])
def test_elans_own_samples(shared_data, version):
    export = read_elan(shared_data / f"exports/elan_praat/elan_sample_{version}.eaf")
    assert export.format == f"ELAN {version}"
    assert export.media == ("r03_v20_s5.wav",)
    counts = export.intervals["label"].value_counts()
    assert counts.to_dict() == {
        "words-timesub": 1995,
        "words-symsub": 1995,
        "gestures": 1197,
        "gest_included": 1197,
        "text": 399,
        "words-pos": 3,
    }
    by_label = export.intervals.groupby("label")
    # Words fill their sentence without a gap, those with slots as those without.
    for label in ("words-timesub", "words-symsub"):
        words = by_label.get_group(label).reset_index(drop=True)
        sentences = by_label.get_group("text").reset_index(drop=True)
        assert words["onset_s"][::5].tolist() == pytest.approx(sentences["onset_s"].tolist())
        assert words["offset_s"][4::5].tolist() == pytest.approx(sentences["offset_s"].tolist())
        inner = words[words.index % 5 != 4]
        assert inner["offset_s"].tolist() == pytest.approx(words["onset_s"][inner.index + 1].tolist())
    third = by_label.get_group("words-timesub").iloc[10:15]
    assert third["onset_s"].tolist() == pytest.approx([8.0, 8.6, 9.2, 9.8, 10.4])
    assert "1992 annotations without a value in 'words-pos'" in export.problems[0].reason
