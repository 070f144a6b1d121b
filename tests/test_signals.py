"""Sensor signals: Empatica sessions, and any signals on one grid of times."""

import numpy as np
import pytest

from mien.annotations.empatica import read_empatica
from mien.core.errors import UserError
from mien.core.types import Signal
from mien.media.signals import resample

START = 1551453301.0


def signal(times_s, values, *, name="GSR", source="Shimmer", unit="", respondent="A", stimulus=""):
    times, samples = np.asarray(times_s, dtype=float), np.asarray(values, dtype=np.float32)
    return Signal(name, unit, times, samples, source, respondent, stimulus)


def column(signals, **options):
    table = resample(signals if isinstance(signals, list) else [signals], **options)
    return [None if np.isnan(value) else round(float(value), 4) for value in table.values[:, 0]]


def test_a_finer_grid_follows_the_line_between_samples_and_stops_at_its_ends():
    values = column(signal([1, 2, 3], [0, 10, 0]), start_s=0.5, end_s=4, rate_hz=2)
    assert values == [None, 0, 5, 10, 5, 0, None]


def test_the_grid_is_half_open_and_exact():
    table = resample([signal([0, 10], [0, 1])], start_s=2.0, end_s=3.0, rate_hz=10, max_gap_s=20)
    assert table.times_s.tolist() == pytest.approx([2.0 + number / 10 for number in range(10)])
    assert table.values.dtype == np.float32 and table.values.shape == (10, 1)
    assert resample([], start_s=0, end_s=1, rate_hz=4).values.shape == (4, 0)
    assert resample([signal([0], [1])], start_s=1, end_s=1, rate_hz=4).values.shape == (0, 1)


def test_nothing_is_made_up_within_gaps():
    times_s = [0, 0.1, 0.2, 5.0, 5.1, 5.2]
    known = column(signal(times_s, [1] * 6), start_s=0, end_s=6, rate_hz=10)
    assert [number for number, value in enumerate(known) if value is not None] == [0, 1, 2, 50, 51, 52]
    assert None not in column(signal(times_s, [1] * 6), start_s=0, end_s=5.2, rate_hz=10, max_gap_s=5)


def test_a_lone_sample_is_known_at_its_own_time_only():
    assert column(signal([0.5], [7]), start_s=0, end_s=1, rate_hz=4) == [None, None, 7, None]
    assert column(signal([0, 0.1, 0.2, 9, 20, 20.1, 20.2], [1] * 7), start_s=8, end_s=11, rate_hz=1) == [None, 1, None]


def test_a_coarser_grid_does_not_alias():
    """A wave above the grid's Nyquist rate vanishes instead of turning into a slow one; a slow one stays."""
    times_s = np.arange(0, 20, 1 / 128)
    fast = column(signal(times_s, np.sin(2 * np.pi * 7 * times_s)), start_s=1, end_s=19, rate_hz=8)
    picked = np.interp(np.arange(1, 19, 1 / 8), times_s, np.sin(2 * np.pi * 7 * times_s))
    assert np.abs(picked).max() > 0.9
    assert np.abs(fast).max() < 0.2
    slow = column(signal(times_s, np.sin(2 * np.pi * 0.5 * times_s)), start_s=1, end_s=19, rate_hz=8)
    np.testing.assert_allclose(slow, np.sin(2 * np.pi * 0.5 * np.arange(1, 19, 1 / 8)), atol=0.01)


def test_means_are_those_of_the_line_whatever_the_sampling():
    rng = np.random.default_rng(3)
    times_s = np.sort(rng.uniform(0, 10, 400))
    even = column(signal(times_s, 1000 + 2 * times_s), start_s=1, end_s=9, rate_hz=2, max_gap_s=1)
    np.testing.assert_allclose(even, 1000 + 2 * np.arange(1, 9, 0.5), rtol=1e-6)
    # Many samples on one side of an interval don't pull its mean there.
    bunched = np.concatenate([np.linspace(0, 0.5, 50), np.linspace(0.6, 2, 15)])
    assert column(signal(bunched, bunched), start_s=1, end_s=1.5, rate_hz=1) == [1.0]


def test_a_mean_needs_half_of_its_interval():
    times_s = np.arange(0, 2.01, 0.1)
    values = column(signal(times_s, np.ones(times_s.size)), start_s=-1, end_s=5, rate_hz=1)
    assert values == [None, 1, 1, 1, None, None]


def test_features_per_second_are_held_over_their_second():
    density = signal([0.5, 1.5, 3.5], [2, 0, 1], name="Fixation Density")
    assert column(density, start_s=0, end_s=4.5, rate_hz=2) == [2, 2, 0, 0, None, None, 1, 1, None]
    assert column(density, start_s=0, end_s=4, rate_hz=1) == [2, 0, None, 1]


def test_parts_of_one_channel_join_and_namesakes_are_told_apart():
    parts = [signal([0, 1], [0, 1], stimulus="A"), signal([2, 3], [2, 3], stimulus="B")]
    table = resample([*parts, signal([0, 3], [9, 9], source="E4", unit="µS")], start_s=0, end_s=3.5, rate_hz=1)
    assert table.names == ("GSR (Shimmer)", "GSR (E4, µS)")
    assert table.values[:, 0].tolist() == [0, 1, 2, 3]
    assert resample(parts, start_s=0, end_s=1, rate_hz=1).names == ("GSR",)


@pytest.mark.parametrize(
    "options",
    [
        {"start_s": 0, "end_s": 1, "rate_hz": 0},
        {"start_s": 1, "end_s": 0, "rate_hz": 1},
        {"start_s": 0, "end_s": float("nan"), "rate_hz": 1},
        {"start_s": 0, "end_s": 1, "rate_hz": 1, "max_gap_s": 0},
    ],
)
def test_wrong_grids_are_refused(options):
    with pytest.raises(UserError, match="got"):
        resample([signal([0, 1], [0, 1])], **options)


def test_signals_of_several_people_are_refused():
    with pytest.raises(UserError, match="several respondents: A, B"):
        resample([signal([0], [1]), signal([0], [1], respondent="B")], start_s=0, end_s=1, rate_hz=1)


def session(folder, **files):
    folder.mkdir(exist_ok=True)
    defaults = {
        "ACC": f"{START}, {START}, {START}\n32.0, 32.0, 32.0\n-64,32,16\n0,0,64\n",
        "BVP": f"{START}\n64.0\n" + "1.5\n" * 65,
        "EDA": f"{START}\n4.0\n0.1\n0.2\n0.3\n",
        "TEMP": f"{START}\n4.0\n33.5\n33.75\n",
        "HR": f"{START + 10}\n1.0\n80\n81\n",
        "IBI": f"{START}, IBI\n1.5,0.75\n2.25,0.75\n",
        "tags": f"{START + 2}\n{START + 5}\n",
    }
    for name, text in {**defaults, **files}.items():
        if text is not None:
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def by_name(export):
    return {s.name: s for s in export.signals}


def reasons(export):
    return {problem.recording.split("/")[-1]: problem.reason for problem in export.problems}


def test_a_session_of_the_wristband(tmp_path):
    export = read_empatica(session(tmp_path / "e4"))
    found = by_name(export)
    assert export.start_utc_s == START
    assert [(s.name, s.unit) for s in export.signals] == [
        ("ACC x", "g"),
        ("ACC y", "g"),
        ("ACC z", "g"),
        ("BVP", ""),
        ("EDA", "microSiemens"),
        ("TEMP", "degrees Celsius"),
        ("HR", "beats per minute"),
        ("IBI", "s"),
    ]
    assert found["ACC x"].values.tolist() == [-1.0, 0.0] and found["ACC z"].values.tolist() == [0.25, 1.0]
    assert found["EDA"].times_s.tolist() == [0, 0.25, 0.5]
    assert found["HR"].times_s.tolist() == [10, 11]
    assert found["IBI"].times_s.tolist() == [1.5, 2.25] and found["IBI"].values.tolist() == [0.75, 0.75]
    rows = export.segments[["segment", "onset_s", "offset_s"]].to_numpy().tolist()
    assert rows == [["tag 1", 2.0, 5.0], ["tag 2", 5.0, 11.0]]


def test_the_clock_starts_with_the_earliest_file(tmp_path):
    export = read_empatica(session(tmp_path / "e4", EDA=f"{START - 3}\n4\n0.1\n0.2\n"))
    assert export.start_utc_s == START - 3
    assert by_name(export)["EDA"].times_s[0] == 0 and by_name(export)["TEMP"].times_s[0] == 3


def test_odd_files_are_reported_and_the_rest_is_read(tmp_path):
    export = read_empatica(
        session(
            tmp_path / "e4",
            ACC=f"{START}, {START}, {START}\n32, 32, 32\n64,0,0\nx,0,0\n64,0,0\n64,",
            BVP="",
            TEMP=f"{START}\n0\n33.5\n",
            HR="not a time\n1\n80\n",
            EDA=f"{START}\n4\n",
            IBI=f"{START}, IBI\n2,0.75\n1,0.75\n3,0.75\n",
            tags=f"{START + 0.01}\n{START + 999}\nx\n",
        )
    )
    assert by_name(export)["ACC x"].times_s.tolist() == [0, 2 / 32]  # the place of the wrong row stays
    assert by_name(export)["IBI"].times_s.tolist() == [2, 3]
    found = reasons(export)
    assert found["ACC.csv"] == "2 of 4 rows can't be read (its last row among them: cut short?), left out"
    assert found["BVP.csv"] == "it is empty"
    assert found["TEMP.csv"] == "its second row isn't a rate in Hz"
    assert found["HR.csv"] == "its first row isn't a start in seconds since 1970"
    assert found["EDA.csv"] == "it has no samples"
    assert found["IBI.csv"] == "1 beats aren't later than the one before, left out"
    assert found["tags.csv"] == "1 tags outside the recording, left out"
    assert set(by_name(export)) == {"ACC x", "ACC y", "ACC z", "IBI"}


def test_missing_files_and_folders(tmp_path):
    few = dict.fromkeys(("ACC", "BVP", "TEMP", "HR", "IBI", "tags"))
    export = read_empatica(session(tmp_path / "e4", **few))
    assert set(by_name(export)) == {"EDA"} and export.segments.empty
    assert sorted(problem.reason for problem in export.problems)[0] == "ACC.csv isn't there"
    with pytest.raises(UserError, match="isn't a folder"):
        read_empatica(tmp_path / "none")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="none of the files"):
        read_empatica(tmp_path / "other")


@pytest.mark.real
def test_the_real_session(shared_data):
    export = read_empatica(shared_data / "exports/empatica_e4")
    found = by_name(export)
    assert export.start_utc_s == START
    rates = {name: round(1 / float(np.median(np.diff(s.times_s)))) for name, s in found.items() if name != "IBI"}
    assert rates == {"ACC x": 32, "ACC y": 32, "ACC z": 32, "BVP": 64, "EDA": 4, "TEMP": 4, "HR": 1}
    assert found["HR"].times_s[0] == 10.0
    assert len(export.segments) == 4
    # The wrist was still: gravity is one g.
    gravity = np.sqrt(sum(found[f"ACC {axis}"].values ** 2 for axis in "xyz"))
    assert abs(float(np.median(gravity)) - 1) < 0.1
    assert "cut short" in reasons(export)["empatica_e4"]
