"""What the audit says of labels: who gave them, whether they vary, what one describes, how many people there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mien.audit.labels import (
    check_constant_label,
    check_few_participants,
    check_label_source_given,
    check_label_varies,
    with_unit,
)
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.clips import ClipIndex
from mien.data.study import find_study

BINARY = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")


def index(targets_of, *, scheme=BINARY, groups=None, recordings=1):
    """Clips of participants given as {name: targets}, cut into equally long recordings."""
    rows = []
    for name, targets in targets_of.items():
        for part, own in enumerate(np.array_split(np.asarray(targets), recordings)):
            for number, target in enumerate(own):
                clip = f"{name}-{part}@{number}"
                rows.append((clip, f"{name}-{part}", name, (groups or {}).get(name, name), number, int(target)))
    columns = ["clip_id", "recording_id", "participant_id", "group", "frame", "target"]
    table = pd.DataFrame(rows, columns=columns)
    return ClipIndex(scheme, table, pd.DataFrame(columns=["reason", "count", "recordings"]))


def people(count, targets):
    return {f"p{number:02d}": targets(number) for number in range(count)}


class TestLabelSource:
    @pytest.mark.parametrize("source", ["", "unknown", "tool:", "me"])
    def test_who_annotated_must_be_known(self, source):
        check = check_label_source_given(LabelScheme("Smile", "binary", ("no", "yes"), source))
        assert check.severity == "fail"
        assert "study.yaml" in check.advice and "'label_source: human'" in check.advice

    @pytest.mark.parametrize("source", ["human", "self-report", "stimulus", "synthetic", "tool:AFFDEX", "attribute"])
    def test_a_known_source_passes(self, source):
        assert check_label_source_given(LabelScheme("Smile", "binary", ("no", "yes"), source)).severity == "ok"

    def test_a_tool_makes_a_score_agreement_with_it(self):
        check = check_label_source_given(LabelScheme("Smile", "binary", ("no", "yes"), "tool:AFFDEX"))
        assert "agreement with AFFDEX" in check.detail

    @pytest.mark.parametrize("text", ["name: S\n", "name: S\nlabel_source: unknown\n"])
    def test_prepare_refuses_a_study_that_does_not_say(self, tmp_path, text):
        (tmp_path / "study.yaml").write_text(text)
        (tmp_path / "recordings.csv").write_text("media,participant\na.mp4,A\n")
        (tmp_path / "a.mp4").write_text("")
        with pytest.raises(UserError, match="label_source"):
            find_study(tmp_path)


class TestLabelVaries:
    def test_a_label_that_never_varies_fails(self):
        assert check_label_varies(index(people(5, lambda _: [1, 1, 1]))).severity == "fail"

    def test_a_class_of_two_people_warns_and_is_named(self):
        check = check_label_varies(index(people(8, lambda number: [0, 0, int(number < 2)])))
        assert check.severity == "warn" and check.advice.startswith("Smile:")
        assert check.evidence["participants"] == {"not Smile": 8, "Smile": 2}

    def test_a_label_that_varies_passes_and_says_in_whom(self):
        check = check_label_varies(index(people(8, lambda number: [0, 0, int(number < 5)])))
        assert check.severity == "ok" and "5 of 8 participants show more than one class" in check.detail


class TestConstantLabel:
    def test_constant_per_participant_becomes_the_participants(self):
        clips = index(people(12, lambda number: [number % 2] * 6))
        found = check_constant_label(clips)
        assert (found.unit, found.refuses_baseline, found.check.severity) == ("participant", True, "warn")
        assert found.check.measured == 1.0
        assert with_unit(clips, found.unit).scheme.unit == "participant"

    def test_constant_per_recording_becomes_the_recordings(self):
        clips = index(people(6, lambda _: [0] * 4 + [1] * 4), recordings=2)
        found = check_constant_label(clips)
        assert (found.unit, found.refuses_baseline) == ("recording", True)

    @pytest.mark.parametrize(("varying", "unit"), [(1, "participant"), (2, "frame")])
    def test_the_rule_is_more_than_nine_in_ten(self, varying, unit):
        # 19 of 20 are .95, 18 of 20 are .90, which isn't more than .9.
        clips = index(people(20, lambda number: [number % 2] * 5 + [(number + int(number < varying)) % 2]))
        found = check_constant_label(clips)
        assert found.unit == unit
        kept = with_unit(clips, found.unit)
        assert kept.table["participant_id"].nunique() == (19 if unit == "participant" else 20)
        if unit == "participant":
            assert kept.excluded.iloc[-1].tolist() == ["label varies within a participant", 6, 1]
            assert (kept.table.groupby("participant_id")["target"].nunique() == 1).all()

    def test_a_rare_event_stays_an_event(self):
        # 39 of 40 never show it: that they are all alike says nothing of what one label describes.
        found = check_constant_label(index(people(40, lambda number: [0] * 5 + [int(number == 3)])))
        assert (found.unit, found.refuses_baseline, found.check.severity) == ("frame", False, "warn")
        assert "varies in 1 participant only" in found.check.detail

    def test_a_label_that_varies_keeps_its_unit(self):
        clips = index(people(10, lambda _: [0, 1, 0]))
        found = check_constant_label(clips)
        assert (found.unit, found.refuses_baseline, found.check.severity) == ("frame", False, "ok")
        assert with_unit(clips, found.unit) is clips

    @pytest.mark.parametrize("unit", ["recording", "participant"])
    def test_what_the_study_says_is_kept_and_still_refuses_a_baseline(self, unit):
        scheme = LabelScheme("Mood", "binary", ("low", "high"), "self-report", unit)
        found = check_constant_label(index(people(10, lambda number: [number % 2] * 3), scheme=scheme))
        assert (found.unit, found.refuses_baseline, found.check.severity) == (unit, True, "ok")

    def test_one_clip_per_person_says_nothing_of_variation(self):
        found = check_constant_label(index(people(10, lambda number: [number % 2])))
        assert found.unit == "frame" and found.check.severity == "not checked"


class TestFewParticipants:
    @pytest.mark.parametrize(("count", "severity"), [(1, "fail"), (2, "fail"), (3, "warn"), (19, "warn"), (20, "ok")])
    def test_severity(self, count, severity):
        assert check_few_participants(index(people(count, lambda _: [0, 1]))).severity == severity

    def test_the_smallest_p_is_named(self):
        check = check_few_participants(index(people(5, lambda _: [0, 1])))
        assert check.measured["smallest_p"] == 0.0625
        assert "below 0.062" in check.detail and "6 are needed" in check.advice

    def test_labels_of_people_have_the_floor_of_permuted_people(self):
        scheme = LabelScheme("Group", "binary", ("a", "b"), "human", "participant")
        check = check_few_participants(index(people(10, lambda number: [number % 2] * 2), scheme=scheme))
        assert check.measured["smallest_p"] == pytest.approx(1 / 252)

    def test_groups_are_what_counts(self):
        dyads = {f"p{number:02d}": f"d{number // 2}" for number in range(4)}
        check = check_few_participants(index(people(4, lambda _: [0, 1]), groups=dyads))
        assert check.severity == "fail" and "2 independent groups" in check.detail
