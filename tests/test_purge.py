"""A person who withdraws is nowhere any more, and everything that is left still works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.errors import RefusedError, UserError
from mien.core.purpose import check_purpose, refused_setting
from mien.crossval.compare import plan_comparison, run_comparison
from mien.data.dataset import Dataset
from mien.purge.run import find_purge, run_purge
from mien.purge.scrub import Person, scrub
from mien.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def lab(drawn_dataset, probe_bundle, tmp_path_factory):
    """A lab's folder: a dataset, a run on it, a bundle."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(drawn_dataset.path, root / "dataset")
    shutil.copytree(probe_bundle, root / "models" / "probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        named = Path("dataset")
        run_comparison(plan_comparison(named, target="Smile", models="linear_probe@hog", out=Path("run"), folds=2))
    return root


def everything(root) -> str:
    """All text that any file of a folder holds, parquet as well."""
    parts = []
    for path in sorted(root.rglob("*")):
        if path.suffix == ".parquet":
            parts.append(pd.read_parquet(path).to_csv())
        elif path.is_file() and path.suffix in (".json", ".csv", ".html", ".md", ".yaml"):
            parts.append(path.read_text())
        parts.append(path.name)
    return "\n".join(parts)


@pytest.mark.slow
def test_a_person_leaves_everything(lab, tmp_path):
    root = tmp_path / "lab"
    shutil.copytree(lab, root)
    # A run knows its dataset by path; this one lies elsewhere now, as its hash says.
    before = Dataset.open(root / "dataset")
    name = sorted(before.recordings["participant_id"].unique())[1]
    assert name in everything(root)
    found = find_purge(root / "dataset", name)
    assert [path.name for path in found.runs] == ["run"] and [path.name for path in found.bundles] == ["probe"]
    run_purge(found)
    left = everything(root)
    assert name not in left
    assert not any(recording_id in left for recording_id in found.person.recording_ids)
    after = Dataset.open(root / "dataset")
    assert after.content_hash != before.content_hash
    assert len(after.recordings) == len(before.recordings) - len(found.person.recording_ids)
    assert not list((root / "run").rglob("weights.safetensors"))
    assert json.loads((root / "run/comparison.json").read_text())["removed_participants"] == 1
    assert Bundle.open(root / "models/probe").spec.provenance["removed_participants"] == 1
    assert "withdrew" in (root / "models/probe/MODEL_CARD.md").read_text()
    # What is left is a dataset like any other.
    again = plan_comparison(root / "dataset", target="Smile", models="linear_probe@hog", out=root / "again", folds=2)
    run_comparison(again)
    with pytest.raises(UserError, match="Unknown participant"):
        find_purge(root / "dataset", name)


@pytest.mark.slow
def test_a_run_says_where_its_dataset_is_wherever_it_was_called(lab):
    assert json.loads((lab / "run/run.json").read_text())["dataset"] == str((lab / "dataset").resolve())


def test_a_purge_that_was_killed_goes_on(lab, tmp_path):
    shutil.copytree(lab / "dataset", tmp_path / "dataset")
    name = str(pd.read_parquet(tmp_path / "dataset/recordings.parquet")["participant_id"].iloc[0])
    found = find_purge(tmp_path / "dataset", name)
    for path in found.files[:1]:
        shutil.rmtree(path)  # as far as the first one came
    run_purge(find_purge(tmp_path / "dataset", name))
    assert name not in everything(tmp_path / "dataset")


def test_a_dry_run_says_and_changes_nothing(lab):
    name = str(pd.read_parquet(lab / "dataset/recordings.parquet")["participant_id"].iloc[0])
    before = everything(lab)
    answer = CliRunner().invoke(app, ["purge", str(lab / "dataset"), name, "--dry-run", "--json"])
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["participant"] == name
    shown = CliRunner().invoke(app, ["purge", str(lab / "dataset"), name, "--dry-run"])
    assert f"{name}: 1 recording in " in shown.stderr
    assert everything(lab) == before


def test_unknown_names_and_folders_are_refused(lab, tmp_path):
    assert CliRunner().invoke(app, ["purge", str(lab / "dataset"), "nobody", "--yes"]).exit_code == 2
    assert CliRunner().invoke(app, ["purge", str(tmp_path), "nobody", "--yes"]).exit_code == 2


def test_texts_and_lists_lose_the_person_and_numbers_stay():
    person = Person("7", ("7_a",))
    value = {
        "ids": ["7", "8"],
        "text": "participant 7 has 7 of 12 clips; 7_a is short",
        "rows": [{"participant_id": "7", "n": 1}, {"participant_id": "8", "n": 7}],
        "7": {"x": 1},
    }
    assert scrub(value, person=person) == {
        "ids": ["8"],
        "text": "participant (removed) has 7 of 12 clips; (removed) is short",
        "rows": [{"participant_id": "8", "n": 7}],
    }


@pytest.mark.parametrize(
    "purpose", ["hiring", "job interviews", "Employee monitoring", "proctoring of exams", "students"]
)
def test_refused_purposes(purpose):
    with pytest.raises(RefusedError, match=r"AI Act"):
        check_purpose(purpose, where="study.yaml")


@pytest.mark.parametrize(
    "purpose", ["", "research", "usability sessions", "research with student volunteers", "demonstration"]
)
def test_purposes_that_are_taken(purpose):
    assert refused_setting(purpose) is None


@pytest.mark.slow
def test_what_explain_predict_and_export_wrote_of_a_person_goes(lab, drawn_study, tmp_path):
    root = tmp_path / "lab"
    shutil.copytree(lab, root)
    bundle, name = str(root / "models/probe"), "ZW 9714"
    (video,) = drawn_study.rglob(f"*{name}*.mp4")
    other = next(path for path in sorted(drawn_study.rglob("*.mp4")) if path != video and path.stat().st_size > 10_000)
    for command in (
        ["predict", bundle, str(video), str(other), "--out", str(root / "predicted"), "--elan"],
        ["explain", bundle, str(root / "dataset"), "--out", str(root / "maps"), "--frames", "40"],
        ["export", bundle, "--out", str(root / "onnx/model.onnx"), "--dataset", str(root / "dataset")],
    ):
        answer = CliRunner().invoke(app, command)
        assert answer.exit_code == 0, answer.output
    assert name in everything(root / "predicted") and "ZW-9714" in everything(root / "maps")
    answer = CliRunner().invoke(app, ["purge", str(root / "dataset"), name, "--yes", "--json"])
    assert json.loads(answer.stdout)["exports"] == [str(root / "onnx/model.onnx")]
    left = everything(root)
    assert name not in left and "ZW-9714" not in left
    assert len(list((root / "predicted").glob("*.timeline.csv"))) == 1 and list((root / "maps").glob("*.png"))
