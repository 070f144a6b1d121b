"""iMotions' tables of events: fixations and peaks of skin conductance, and the sensor features per second."""

import numpy as np
import pytest

from mien.annotations.imotions_tables import read_fixations, read_gsr_peaks
from mien.core.errors import UserError


def write(path, *lines, newline="\n", encoding="utf-8"):
    path.write_bytes(newline.join(lines).encode(encoding))
    return path


def reasons(export):
    return [problem.reason for problem in export.problems]


FIXATIONS = (
    "iMotions,9.3.11",
    "Time unit,ms",
    "",
    "Respondent Name,Stimulus Name,Fixation Start,Fixation End,Fixation Duration,Fixation Dispersion",
    "AR  1,Video,100,300,200,0.5",
    "AR  1,Video,400,800,400,1.5",
    "AR  1,Video,2900,3400,500,",
    "BB 2,Video,1500,1600,100,2",
    "BB 2,Video,1700,1600,100,2",
    "BB 2,Video,x,1600,100,2",
    ",Video,1,2,1,2",
)


def features(export, respondent):
    return {
        s.name: list(zip(s.times_s.tolist(), np.round(s.values, 4).tolist(), strict=True))
        for s in export.signals
        if s.respondent == respondent
    }


def test_fixations_are_events_and_features_per_second(tmp_path):
    export = read_fixations(write(tmp_path / "FixationTable.csv", *FIXATIONS, encoding="utf-8-sig"))
    assert features(export, "AR  1") == {
        "Fixation Density": [(0.5, 2), (1.5, 0), (2.5, 1), (3.5, 0)],
        "Average Fixation Duration": [(0.5, 300), (2.5, 500)],
        "Gaze Dispersion": [(0.5, 1.0)],
    }
    assert features(export, "BB 2")["Fixation Density"] == [(0.5, 0), (1.5, 1)]
    assert len(export.intervals) == 4 and set(export.intervals.label) == {"Fixation"}
    assert sum(value for _, value in features(export, "AR  1")["Fixation Density"]) == 3
    assert reasons(export) == [
        "1 row with an end before the start (line 9), left out",
        "1 row with a time that isn't a number (line 10), left out",
        "1 row with no respondent (line 11), left out",
    ]


def test_gsr_peaks_are_events_and_features_per_second(tmp_path):
    lines = ("Time unit;s", "Respondent Name;Stimulus Name;Peak Time;Peak Amplitude", "A;V;0,5;0,25", "A;V;2,5;0,5")
    export = read_gsr_peaks(write(tmp_path / "GSRPeakTable.csv", *lines, "A;V;2,75;1", "A;V;3;", encoding="utf-8"))
    assert features(export, "A") == {
        "GSR Peak Count": [(0.5, 1), (1.5, 0), (2.5, 2)],
        "Average GSR Peak Amplitude": [(0.5, 0.25), (2.5, 0.75)],
    }
    assert export.intervals[["onset_s", "offset_s", "value"]].to_numpy().tolist() == [
        [0.5, 0.5, 0.25],
        [2.5, 2.5, 0.5],
        [2.75, 2.75, 1.0],
    ]
    assert reasons(export) == ["1 row with an amplitude that isn't a number (line 6), left out"]


def test_tables_of_events_without_rows_or_columns(tmp_path):
    assert read_fixations(write(tmp_path / "f.csv", *FIXATIONS[:4])).signals == ()
    with pytest.raises(UserError, match="Peak Amplitude"):
        read_gsr_peaks(write(tmp_path / "g.csv", "Respondent Name,Stimulus Name,Peak Time", "A,V,1"))


@pytest.mark.real
def test_the_real_tables(shared_data):
    folder = shared_data / "smile_study/Analysis"
    fixations, peaks = (
        read_fixations(folder / "Eye Tracking/FixationTable.csv"),
        read_gsr_peaks(folder / "GSR/GSRPeakTable.csv"),
    )
    for export, count, name in ((fixations, 4756, "Fixation Density"), (peaks, 638, "GSR Peak Count")):
        assert reasons(export) == [] and len(export.intervals) == count
        counts = [s for s in export.signals if s.name == name]
        assert len(counts) == 72 and sum(s.values.sum() for s in counts) == count
