"""The label scheme of 50 channels, and channels turned into intervals."""

from pathlib import Path

import numpy as np
import pytest

from mien.annotations.affdex import affdex_intervals
from mien.annotations.exports import INTERVAL_COLUMNS
from mien.annotations.thresholds import intervals_from_channels
from mien.core.channels import BEHAVIOURS, CHANNELS, EMOTIONAL, PHYSICAL, SENSOR, find_channel
from mien.core.errors import UserError
from mien.core.types import Signal

CHANNEL_LIST = Path(__file__).parents[2] / "shared/CHANNELS.md"


def signal(values, *, times_s=None, name="Smile", source="AFFDEX", face=""):
    times = np.arange(len(values)) * 0.1 if times_s is None else np.asarray(times_s, dtype=float)
    return Signal(name, "", times, np.asarray(values, dtype=np.float32), source, "AR 1", "Video", face)


def spans(table):
    return [(round(onset, 6), round(offset, 6)) for onset, offset in zip(table.onset_s, table.offset_s, strict=True)]


def test_the_scheme_has_the_channels_of_the_study():
    assert (len(CHANNELS), len(PHYSICAL), len(EMOTIONAL), len(BEHAVIOURS), len(SENSOR)) == (50, 33, 17, 28, 5)
    groups = {group: sum(channel.group == group for channel in CHANNELS) for group in {c.group for c in CHANNELS}}
    assert groups == {"head": 11, "eyes and brows": 4, "mouth": 8, "other": 5, "sensor": 5, "emotional": 17}
    assert len({channel.name for channel in CHANNELS}) == 50


def test_the_scheme_names_every_channel_of_the_list():
    if not CHANNEL_LIST.is_file():
        pytest.skip("the list of channels isn't here")
    text = " ".join(CHANNEL_LIST.read_text(encoding="utf-8").split())
    missing = [channel.name for channel in (*BEHAVIOURS, *EMOTIONAL) if channel.name not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Brow Furrow", "Brow Furrow"),
        ("browFurrow", "Brow Furrow"),
        (" BROW_FURROW ", "Brow Furrow"),
        ("AU04", "Brow Furrow"),
        ("au4", "Brow Furrow"),
        ("AU45", None),
        ("AU12_r", "Smile"),
        ("AU43", "Eye Closure"),
        ("Lip  Tighten", "Lip Tighten"),
        ("Lid Tighten", None),
        ("gsr_peak_count", "GSR Peak Count"),
        ("adaptiveEngagement", "Adaptive Engagement"),
        ("Engagement", None),
        ("Joy Evidence", None),
        ("", None),
    ],
)
def test_spellings_of_vendors(text, name):
    channel = find_channel(text)
    assert (channel.name if channel else None) == name


def test_intervals_are_half_open_and_end_at_the_first_sample_below():
    table = intervals_from_channels([signal([0, 50, 80, 49, 50, 10])], threshold=50)
    assert spans(table) == [(0.1, 0.3), (0.4, 0.5)]
    assert list(table.columns) == list(INTERVAL_COLUMNS)
    assert table.value.tolist() == [80.0, 50.0]
    assert set(table.label) == {"Smile"} and set(table.respondent) == {"AR 1"} and set(table.annotator) == {"AFFDEX"}


def test_a_gap_in_time_ends_an_interval():
    times_s = [0.0, 0.1, 0.2, 5.0, 5.1, 5.2]
    assert spans(intervals_from_channels([signal([60] * 6, times_s=times_s)], threshold=50)) == [(0.0, 0.3), (5.0, 5.3)]
    assert spans(intervals_from_channels([signal([60] * 6, times_s=times_s)], threshold=50, max_gap_s=10)) == [
        (0.0, 5.3)
    ]


def test_short_intervals_are_dropped_and_one_of_just_the_minimum_kept():
    values = [0, 60, 0, 60, 60, 60, 0]
    times_s = np.arange(7) * 33.3 / 1000
    table = intervals_from_channels([signal(values, times_s=times_s)], threshold=50, min_duration_s=0.0999)
    assert spans(table) == [(0.0999, 0.1998)]
    assert len(intervals_from_channels([signal(values, times_s=times_s)], threshold=50)) == 2


def test_hysteresis_holds_an_interval_open_but_begins_none():
    values = [35, 40, 60, 35, 60, 10, 35, 35]
    assert spans(intervals_from_channels([signal(values)], threshold=50, release=30)) == [(0.2, 0.5)]
    assert len(intervals_from_channels([signal(values)], threshold=50)) == 2


def test_thresholds_per_channel_leave_out_those_that_are_not_named():
    channels = [signal([0, 2, 2, 0], name="AU12"), signal([3, 3, 3, 3], name="AU04")]
    table = intervals_from_channels(channels, threshold={"AU12": 1.0})
    assert table.label.tolist() == ["AU12"] and spans(table) == [(0.1, 0.3)]


def test_what_has_no_interval():
    assert len(intervals_from_channels([], threshold=1)) == 0
    assert len(intervals_from_channels([signal([99])], threshold=1)) == 0
    assert len(intervals_from_channels([signal([0, 0, 0])], threshold=1)) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": float("nan")},
        {"threshold": 50, "release": 60},
        {"threshold": 50, "min_duration_s": -1},
        {"threshold": 50, "max_gap_s": 0},
    ],
)
def test_wrong_numbers_are_refused(options):
    with pytest.raises(UserError, match="got"):
        intervals_from_channels([signal([1, 2])], **options)


def test_affdex_valence_is_three_channels_and_what_is_no_expression_is_left_out():
    channels = [
        signal([0, 70, 70, 0, -70, 0], name="Valence"),
        signal([90] * 6, name="Engagement"),
        signal([90] * 6, name="Pitch"),
        signal([90] * 6, name="Joy", source="FACET"),
        signal([0, 0, 55, 0, 0, 0], name="Joy"),
    ]
    table = affdex_intervals(channels)
    found = {(label, span) for label, span in zip(table.label, spans(table), strict=True)}
    assert found == {
        ("Positive Valence", (0.1, 0.3)),
        ("Negative Valence", (0.4, 0.5)),
        ("Neutral Valence", (0.0, 0.1)),
        ("Neutral Valence", (0.3, 0.4)),
        ("Neutral Valence", (0.5, 0.6)),
        ("Joy", (0.2, 0.3)),
    }
    assert set(affdex_intervals(channels, threshold={"Joy": 60}).label) == {
        "Positive Valence",
        "Negative Valence",
        "Neutral Valence",
    }
    assert len(affdex_intervals(channels[1:4])) == 0


@pytest.mark.parametrize("threshold", [0, 101, {"Joy": -1}])
def test_affdex_thresholds_lie_in_its_range(threshold):
    with pytest.raises(UserError, match="AFFDEX's range"):
        affdex_intervals([signal([1, 2])], threshold=threshold)
