"""The log of what was tried, and the plan that a comparison follows or doesn't."""

from __future__ import annotations

import json

import pytest

from media_fixtures import write_video
from mien.core.errors import UserError
from mien.crossval.plan import PLAN_FILE, Confirmatory, check_plan, plan_lines, read_plan, write_plan
from mien.data.attempts import (
    ATTEMPTS_FILE,
    COLUMNS,
    count_configurations,
    count_runs,
    read_attempts,
    record_attempts,
)
from mien.data.prepare import PrepareConfig, prepare
from mien.models.choice import parse_model, parse_models
from mien.training.settings import FitSettings

CONFIG = PrepareConfig(fps=2, crop="none", size_px=16, context_width_px=16, workers=1, detector="mtcnn")
SETTINGS = FitSettings()
MODELS = "linear_probe@hog+recording,improved_cnn"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eight people in four dyads, each positive in their second second."""
    base = tmp_path_factory.mktemp("plan")
    root = base / "S"
    root.mkdir()
    (root / "study.yaml").write_text("name: S\nlabel_source: human\n")
    rows = [f"v.mp4,P{index},r{index},d{index // 2}" for index in range(8)]
    (root / "recordings.csv").write_text("\n".join(["media,participant,recording,group", *rows]))
    labels = [f"r{index},1,2,{name}" for index in range(8) for name in ("Smile", "Frown")]
    (root / "annotations.csv").write_text("\n".join(["recording,onset_s,offset_s,label", *labels]))
    write_video(root / "v.mp4", times_s=[index / 2 for index in range(6)])
    return prepare(root, out=base / "D", config=CONFIG)


@pytest.fixture
def dataset_path(prepared):
    """The dataset's folder as if nothing had been tried or planned."""
    for name in (ATTEMPTS_FILE, PLAN_FILE):
        (prepared.path / name).unlink(missing_ok=True)
    return prepared.path


def record(path, *, run_id="r1", models=("vit_scratch+none", "improved_cnn+none"), target="Smile", **changes):
    given = {"settings": {"epochs": 2}, "seed": 0} | changes
    return record_attempts(path, target=target, run_id=run_id, models=models, **given)


class TestAttempts:
    def test_a_resumed_run_adds_nothing(self, tmp_path):
        assert (record(tmp_path, when="2025-01-01"), record(tmp_path, when="2025-01-02")) == (2, 0)
        table = read_attempts(tmp_path)
        assert tuple(table) == COLUMNS
        assert table[["target", "run_id", "model", "seed", "when"]].values.tolist() == [
            ["Smile", "r1", "vit_scratch+none", "0", "2025-01-01"],
            ["Smile", "r1", "improved_cnn+none", "0", "2025-01-01"],
        ]

    def test_configurations_are_models_with_settings_whatever_the_seed(self, tmp_path):
        assert (count_configurations(tmp_path, "Smile"), count_runs(tmp_path, "Smile")) == (0, 0)
        record(tmp_path)
        record(tmp_path, run_id="r2", seed=1)
        assert (count_configurations(tmp_path, "Smile"), count_runs(tmp_path, "Smile")) == (2, 2)
        record(tmp_path, run_id="r3", models=["vit_scratch+none"], settings={"epochs": 9})
        record(tmp_path, run_id="r4", models=["vit_scratch+recording"])
        record(tmp_path, run_id="r5", models=["vit_scratch+none"], target="Frown")
        assert (count_configurations(tmp_path, "Smile"), count_runs(tmp_path, "Smile")) == (4, 4)
        assert count_configurations(tmp_path, "Frown") == 1

    def test_before_a_time(self, tmp_path):
        record(tmp_path, when="2025-01-01T10:00:00.000+00:00")
        record(tmp_path, run_id="r2", when="2025-01-02T10:00:00.000+00:00")
        assert count_runs(tmp_path, "Smile", before="2025-01-02T09:00:00.000+00:00") == 1

    def test_lines_are_only_added(self, tmp_path):
        record(tmp_path)
        before = (tmp_path / ATTEMPTS_FILE).read_text()
        record(tmp_path, run_id="r2")
        assert (tmp_path / ATTEMPTS_FILE).read_text().startswith(before)

    def test_a_line_that_a_kill_cut_off_does_not_count_and_spoils_no_other(self, tmp_path):
        record(tmp_path, target='a "b", c')
        path = tmp_path / ATTEMPTS_FILE
        path.write_text(path.read_text().rstrip("\n") + '\n"a ""b"", c",r2,vit')
        assert count_runs(tmp_path, 'a "b", c') == 1
        record(tmp_path, target='a "b", c', run_id="r3")
        assert read_attempts(tmp_path)["run_id"].tolist() == ["r1", "r1", "r3", "r3"]

    def test_two_runs_that_began_the_file_together(self, tmp_path):
        record(tmp_path)
        path = tmp_path / ATTEMPTS_FILE
        path.write_text(path.read_text() + path.read_text())
        assert len(read_attempts(tmp_path)) == 2

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        with pytest.raises(UserError, match=r"Can't write .*attempts\.csv"):
            record(tmp_path / "absent")

    def test_a_name_says_what_defaults_filled_in(self):
        assert parse_model("linear_probe+first:3").full_name == "linear_probe@hog+first:3"
        assert parse_model("vit_scratch", default_baseline="recording").full_name == "vit_scratch+recording"


def plan(path, **changes):
    given = {"target": "Smile", "models": MODELS, "folds": 3, "seed": 1} | changes
    return write_plan(path, **given)


def check(path, **changes) -> Confirmatory:
    given = {"target": "Smile", "models": parse_models(MODELS), "folds": 3, "seed": 1, "settings": SETTINGS} | changes
    return check_plan(path, **given)


class TestPlan:
    def test_a_run_that_follows_it_is_confirmatory(self, dataset_path):
        assert plan(dataset_path) == dataset_path / PLAN_FILE
        found = check(dataset_path)
        written = read_plan(dataset_path / PLAN_FILE)
        assert (found.is_, found.plan) == (True, written.hash)
        assert written.hash in found.reason
        assert found.to_json().keys() == {"is", "plan", "reason"}
        assert written.models == ("improved_cnn+none", "linear_probe@hog+recording")
        # The order of the models and where a baseline is named don't matter.
        assert check(dataset_path, models=parse_models("improved_cnn,linear_probe+recording")).is_
        # What this run tried afterwards doesn't, either: it may be resumed.
        record(dataset_path)
        assert check(dataset_path).is_

    @pytest.mark.parametrize(
        ("changes", "differs"),
        [
            ({"target": "Frown"}, "the target"),
            ({"models": parse_models("improved_cnn")}, "the models and their baselines"),
            ({"models": parse_models(MODELS, default_baseline="recording")}, "the models and their baselines"),
            ({"folds": 4}, "the number of folds"),
            ({"seed": 2}, "the seed"),
            ({"settings": FitSettings(epochs=3)}, "the settings of the fits"),
            ({"metric": "f1"}, "the metric"),
            ({"alpha": 0.01}, "the level"),
        ],
    )
    def test_another_run_is_not(self, dataset_path, changes, differs):
        plan(dataset_path)
        found = check(dataset_path, **changes)
        assert not found.is_
        assert found.reason.endswith(f"what differs: {differs}.")
        assert found.plan == read_plan(dataset_path / PLAN_FILE).hash

    def test_a_plan_made_after_the_data_were_looked_at_says_so(self, dataset_path):
        record(dataset_path)
        record(dataset_path, run_id="r2")
        record(dataset_path, run_id="r3", target="Frown")
        written = read_plan(plan(dataset_path))
        assert (written.runs_before, written.configurations_before) == (2, 2)
        assert "2 comparisons (2 configurations) had been run" in plan_lines(written)[1]
        found = check(dataset_path)
        assert (found.is_, found.plan) == (False, written.hash)
        assert found.reason == f"2 comparisons had been run on 'Smile' before plan {written.hash} was written."
        # Even where the log is gone, the plan remembers.
        (dataset_path / ATTEMPTS_FILE).unlink()
        assert not check(dataset_path).is_

    def test_without_a_plan(self, dataset_path):
        found = check(dataset_path)
        assert (found.is_, found.plan) == (False, None)
        assert "exploratory" in found.reason

    def test_a_plan_for_other_data(self, dataset_path):
        path = plan(dataset_path)
        info = json.loads((dataset_path / "dataset.json").read_text())
        (dataset_path / "dataset.json").write_text(json.dumps({**info, "content_hash": "other"}))
        try:
            assert "the data (the dataset was prepared again" in check(dataset_path).reason
        finally:
            (dataset_path / "dataset.json").write_text(json.dumps(info))
        assert check(dataset_path).is_
        assert path.is_file()

    @pytest.mark.parametrize(
        ("key", "value"),
        [("smallest_difference", 0.2), ("runs_before", 1), ("created", "2020-01-01T00:00:00.000+00:00"), ("seed", 7)],
    )
    def test_an_edited_plan_is_refused(self, dataset_path, key, value):
        path = plan(dataset_path)
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
        for read in (lambda: read_plan(path), lambda: check(dataset_path), lambda: plan(dataset_path)):
            with pytest.raises(UserError, match=r"plan\.json was edited after it was written.*Restore the original"):
                read()

    def test_what_is_no_plan(self, tmp_path):
        (tmp_path / "plan.json").write_text('{"target": "Smile"}')
        with pytest.raises(UserError, match="isn't a plan of this mien"):
            read_plan(tmp_path / "plan.json")

    def test_it_is_never_written_over_unless_asked(self, dataset_path):
        path = plan(dataset_path)
        first = read_plan(path)
        before = path.read_text()
        plan(dataset_path)  # the same plan: it stays as it was, with its time
        assert path.read_text() == before
        with pytest.raises(UserError, match=rf"holds another plan \({first.hash} .*--replace"):
            plan(dataset_path, seed=2)
        assert path.read_text() == before
        second = read_plan(plan(dataset_path, seed=2, replace=True))
        assert (second.seed, second.replaces) == (2, (first.hash,))
        third = read_plan(plan(dataset_path, smallest_difference=0.1, replace=True))
        assert third.replaces == (first.hash, second.hash)

    def test_it_says_what_can_be_found_with_so_many_groups(self, dataset_path):
        written = read_plan(plan(dataset_path))
        assert (written.participants, written.folds) == (4, 3)  # eight people in four dyads
        assert written.detectable_difference > 0.2
        (about, found) = plan_lines(written)
        assert "With 4 independent participants a true difference of" in found
        assert "the smallest one of interest, 0.05, would mostly be missed" in found
        assert written.hash in about
        assert (
            "mostly be missed"
            not in plan_lines(read_plan(plan(dataset_path, smallest_difference=0.9, replace=True)))[1]
        )

    def test_loo_counts_groups(self, dataset_path):
        assert read_plan(plan(dataset_path, folds="loo")).folds == 4

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"metric": "accuracy_of_frames"}, "Unknown metric"),
            ({"target": "Smyle"}, "Unknown target 'Smyle'"),
            ({"models": "resnet"}, "Unknown model"),
            ({"folds": 9}, "9 folds need at least"),
            ({"smallest_difference": 0.0}, "smallest difference is 0"),
            ({"alpha": 0.7}, "alpha 0.7"),
        ],
    )
    def test_wrong_input(self, dataset_path, changes, message):
        with pytest.raises(UserError, match=message):
            plan(dataset_path, **changes)
        assert not (dataset_path / PLAN_FILE).exists()
