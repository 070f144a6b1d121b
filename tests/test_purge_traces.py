"""Where a person could be left: failures, what killed writers left, outputs of other commands, merged ids."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mien.cli.main import app
from mien.core.storage import digest_of, read_json, sha256_file, write_csv, write_json, write_parquet
from mien.purge.results import mark_bundle, purge_run
from mien.purge.run import find_purge, run_purge
from mien.purge.scrub import Person, scrub, scrub_table
from mien.runtime.bundle import Bundle

PEOPLE = {"LK 0346": "LK-0346_s_cam", "AR 2298": "AR-2298_s_cam", "12": "12_s_cam", "3": "3_s_cam"}
FAILED_FILE = "RespCam_QX 0001_s_(24,FEMALE,1966).mp4"


def write_dataset(path, *, study="Smiles"):
    """A dataset of four people and one more whose only recording failed, without anything that is to be learnt."""
    rows = [
        {
            "recording_id": recording,
            "participant_id": name,
            "group": name,
            "media": f"cams/RespCam_{name}_s_(31,MALE).mp4",
        }
        for name, recording in PEOPLE.items()
    ]
    write_parquet(path / "recordings.parquet", pd.DataFrame(rows))
    failures = [
        ("QX-0001_s_cam", "video", f"{FAILED_FILE} has no readable index", "Export it again."),
        ("RespCam_LK 0346_two_(31,MALE).mp4", "find", "RespCam_LK 0346_two_(31,MALE).mp4 is empty", "Copy it again."),
        ("AR-2298_s_cam", "annotations", "the table names AR 2298 and LK 0346", "Correct it."),
        ("12_two_cam", "video", "RespCam_12_two_(40,MALE).mp4 is empty (0 bytes); 12 of 40 frames", "Copy it again."),
    ]
    write_csv(path / "failures.csv", pd.DataFrame(failures, columns=["recording", "stage", "reason", "advice"]))
    info = {"format": 2, "study": {"name": study}, "content_hash": "0" * 64, "num_failures": len(failures)}
    write_json(path / "dataset.json", info)
    for recording in PEOPLE.values():
        write_crops(path / "recordings" / recording)
    # The two sat together.
    write_json(path / "recordings" / "3_s_cam" / "recording.json", {"participant_id": "3", "group": "LK 0346"})
    return path


def write_crops(folder):
    folder.mkdir(parents=True)
    np.save(folder / "crops.npy", np.zeros((1, 2, 2, 3), np.uint8))


def purge(dataset, name, *arguments):
    """What the command answers as JSON."""
    answer = CliRunner().invoke(app, ["purge", str(dataset), name, "--yes", "--json", *arguments])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def text_below(root):
    """All names and texts below a folder, tables as well."""
    parts = []
    for path in sorted(root.rglob("*")):
        parts.append(str(path.relative_to(root)))
        if path.suffix == ".parquet":
            parts.append(pd.read_parquet(path).to_csv())
        elif path.suffix in (".json", ".csv", ".md", ".html"):
            parts.append(path.read_text())
    return "\n".join(parts)


def write_run(folder, **facts):
    """A run as far as a purge looks at it, refused by its audit so that it has no scores."""
    write_json(folder / "run.json", {"run_id": folder.name, **facts})
    write_csv(folder / "scores.csv", pd.DataFrame([{"participant_id": name, "score": 0.5} for name in PEOPLE]))
    return folder


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "lab" / "dataset")


def test_failures_lose_the_files_of_a_person(dataset):
    purge(dataset, "LK 0346")
    left = pd.read_csv(dataset / "failures.csv", dtype=str)
    assert left["recording"].tolist() == ["QX-0001_s_cam", "AR-2298_s_cam", "12_two_cam"]
    assert left["reason"][1] == "the table names AR 2298 and (removed)"
    assert "0346" not in text_below(dataset)
    assert read_json(dataset / "dataset.json")["num_failures"] == 3
    assert read_json(dataset / "recordings" / "3_s_cam" / "recording.json")["group"].startswith("removed-")


def test_a_person_of_whom_nothing_could_be_prepared_can_leave(dataset):
    write_json(
        dataset.parent / "run" / "comparison.json",
        {"failures": [{"recording": "QX-0001_s_cam", "reason": f"{FAILED_FILE} has no index"}]},
    )
    found = find_purge(dataset, "QX 0001")
    assert found.person.recording_ids == ("QX-0001_s_cam",)
    assert purge(dataset, "QX 0001")["recordings"] == ["QX-0001_s_cam"]
    left = text_below(dataset)
    assert "0001_s" not in left and "QX" not in left and "1966" not in left
    assert len(pd.read_parquet(dataset / "recordings.parquet")) == len(PEOPLE)
    assert CliRunner().invoke(app, ["purge", str(dataset), "QX 0001", "--yes"]).exit_code == 2


def test_a_number_is_known_in_file_names_and_counts_stay(dataset):
    purge(dataset, "12")
    left = pd.read_csv(dataset / "failures.csv", dtype=str)
    assert "12_two_cam" not in left["recording"].tolist() and len(left) == 3


def test_failed_files_leave_the_run_as_well():
    person = Person("QX 0001", ("QX-0001_s_cam",), files=(FAILED_FILE,), others=("AR 2298", "AR-2298_s_cam"))
    value = {
        "failures": [{"recording": "QX-0001_s_cam", "reason": "x"}, {"recording": "AR-2298_s_cam", "reason": "y"}],
        "exclusions": [
            {"reason": f"{FAILED_FILE} has no index", "count": 1, "unit": "file (QX-0001_s_cam)"},
            {"reason": "no face", "count": 4, "unit": "clips"},
        ],
        "note": f"Look at {FAILED_FILE}, and at QX-0001_s_cam-000012-12.012s.png.",
    }
    assert scrub(value, person=person) == {
        "failures": [{"recording": "AR-2298_s_cam", "reason": "y"}],
        "exclusions": [{"reason": "no face", "count": 4, "unit": "clips"}],
        "note": "Look at (removed), and at (removed)-000012-12.012s.png.",
    }


def test_what_killed_writers_left_goes(dataset):
    name, cache = "AR-2298_s_cam", dataset / "cache" / "features"
    hidden = dataset / "recordings" / f".{name}.a1b2c3d4.old"
    write_crops(hidden)
    write_crops(dataset / "recordings" / f".{name}.e5f6a7b8")
    cache.mkdir(parents=True)
    for file in (cache / f".{name}@1.npy.x1y2z3w4.npy", cache / f"{name}@1.npy", dataset / f".{name}.q1w2e3r4.parquet"):
        file.touch()
    kept = cache / "LK-0346_s_cam@1.npy"
    kept.touch()
    assert str(hidden) in purge(dataset, "AR 2298", "--dry-run")["files"] and hidden.is_dir()
    purge(dataset, "AR 2298")
    assert not [path for path in dataset.rglob("*") if "2298" in path.name] and kept.is_file()


def test_leftovers_of_runs_and_bundles_go(dataset):
    run = write_run(dataset.parent / "run", dataset_hash="0" * 64)
    hidden = write_run(dataset.parent / ".run.a1b2c3d4.old", dataset_hash="0" * 64)
    (run / ".scores.csv.q1w2e3r4.csv").touch()
    other = write_run(dataset.parent / "elsewhere" / ".other.a1b2c3d4.old", dataset_hash="1" * 64)
    purge(dataset, "AR 2298")
    assert not hidden.exists() and other.is_dir()
    assert sorted(path.name for path in run.iterdir()) == ["run.json", "scores.csv"]


def test_runs_are_found_again_after_another_person_left(dataset, tmp_path, monkeypatch):
    run = write_run(tmp_path / "lab" / "run", dataset="elsewhere/dataset", dataset_hash="0" * 64)
    assert purge(dataset, "LK 0346")["runs"] == [str(run)]
    first = read_json(dataset / "dataset.json")
    assert first["previous_hashes"] == ["0" * 64] and first["content_hash"] != "0" * 64
    monkeypatch.chdir("/")
    assert purge(dataset, "AR 2298")["runs"] == [str(run)]
    assert pd.read_csv(run / "scores.csv", dtype=str)["participant_id"].tolist() == ["12", "3"]
    assert read_json(dataset / "dataset.json")["previous_hashes"] == ["0" * 64, first["content_hash"]]


def test_a_relative_path_is_that_of_the_run_not_of_today(dataset, tmp_path, monkeypatch):
    run = write_run(tmp_path / "lab" / "runs" / "one", dataset="dataset", dataset_hash="5" * 64)
    write_dataset(tmp_path / "today" / "dataset")
    monkeypatch.chdir(tmp_path / "today")
    assert purge(dataset, "AR 2298", "--dry-run")["runs"] == [str(run)]
    own = purge(tmp_path / "today" / "dataset", "AR 2298", "--dry-run", "--search", str(tmp_path))
    assert own["runs"] == []


def test_numbers_are_ids_where_people_are_meant():
    person = Person("12", ("12_s_cam",), others=("3", "14", "3_s_cam"))
    value = {
        "text": "participants 3, 12 and 14 of 12 clips; in 12 of 12; ids: 12, 14; 12 s",
        "people": [{"participant": 12, "n": 1}, {"participant": 3, "n": 12}],
        "participants": [12, 3],
        "merged": [[12, 3], ["12", "14"]],
        "pairs": [{"participant_a": "3", "participant_b": "12"}],
        "worst": "12",
        "participant": 14,
        "recordings": 12,
        "held_out": {"12": {"n": 1}, "3": {"n": 2}},
        "clips_per_recording": 12,
        "num_participants": [12, 40],
        "counts": [12, 3],
        "classes": ["12", "3"],
        "confusion": {"12": 1, "7": 2},
        "by": {"12": 0.1, "3": 0.2},
        "groups": [{"attribute": "years", "group": "12", "n": 12}],
        "epoch": 12,
    }
    assert scrub(value, person=person) == {
        "text": "participants 3, (removed) and 14 of 12 clips; in 12 of 12; ids: (removed), 14; 12 s",
        "people": [{"participant": 3, "n": 12}],
        "participants": [3],
        "merged": [[3], ["14"]],
        "pairs": [],
        "worst": "(removed)",
        "participant": 14,
        "recordings": 12,
        "held_out": {"3": {"n": 2}},
        "clips_per_recording": 12,
        "num_participants": [12, 40],
        "counts": [12, 3],
        "classes": ["12", "3"],
        "confusion": {"12": 1, "7": 2},
        "by": {"3": 0.2},
        "groups": [{"attribute": "years", "group": "12", "n": 12}],
        "epoch": 12,
    }
    assert "12" not in json.dumps(scrub({"participant": 12, "x": 1}, person=person))
    kept = [
        {"settings": {"clips_per_recording": 12, "minutes_per_participant": "12"}, "participants": {"12": 4, "3": 5}}
    ]
    assert scrub(kept, person=Person("12", ("12",), others=("3",))) == kept


def test_ids_that_contain_the_persons_stay_and_spellings_go():
    person = Person("P1", ("P1_a",), others=("P1_b", "P10", "P1-2", "Anna-Lena"))
    text = "P1 and p1 and P1_a and X_P1_y.mp4, but P1_b, P10, P1-2, P1-3"
    assert person.scrub_text(text) == (
        "(removed) and (removed) and (removed) and X_(removed)_y.mp4, but P1_b, P10, P1-2, P1-3"
    )
    assert Person("Anna", ()).scrub_text("Anna, Anna-Lena and an anna") == "(removed), Anna-Lena and an anna"
    assert Person("AR 2298", ()).scrub_text("ar_2298 AR-2298 AR 22980") == "(removed) (removed) AR 22980"


def test_a_group_that_is_called_after_the_person_keeps_together(tmp_path):
    person = Person("P1", ("P1_a",), others=("P2", "P2_a"))
    table = pd.DataFrame(
        {
            "recording_id": ["P1_a", "P2_a", "P3_a"],
            "participant_id": ["P1", "P2", "P3"],
            "group": ["P1", "P1", None],
            "note": ["", "sat beside P1", None],
            "value": [1.0, np.nan, 2.0],
        }
    )
    write_parquet(tmp_path / "t.parquet", table)
    assert scrub_table(tmp_path / "t.parquet", person=person) == 1
    left = pd.read_parquet(tmp_path / "t.parquet")
    assert left["participant_id"].tolist() == ["P2", "P3"]
    assert left["group"][0] == person.alias and left["note"][0] == "sat beside (removed)"
    missing = left[["group", "note", "value"]].isna().to_numpy().tolist()
    assert missing == [[False, False, True], [True, True, False]]
    assert scrub({"group": "P1"}, person=person) == {"group": person.alias} and "P1" not in person.alias


def test_a_purge_that_was_killed_counts_once(dataset, monkeypatch):
    run = write_run(dataset.parent / "run", dataset_hash="0" * 64)
    write_json(run / "comparison.json", {"verdict": "refused"})
    monkeypatch.setattr("mien.purge.results.write_comparison_report", lambda _: None)
    import mien.purge.dataset as module

    whole = module.scrub_table

    def killed(path, *, person):
        if path.name == "recordings.parquet":
            raise KeyboardInterrupt
        return whole(path, person=person)

    with monkeypatch.context() as patch:
        patch.setattr(module, "scrub_table", killed)
        with pytest.raises(KeyboardInterrupt):
            run_purge(find_purge(dataset, "AR 2298"))
    first = read_json(dataset / "dataset.json")
    run_purge(find_purge(dataset, "AR 2298"))
    assert read_json(dataset / "dataset.json") == first and first["removed_participants"] == 1
    assert read_json(run / "comparison.json")["removed_participants"] == 1
    run_purge(find_purge(dataset, "LK 0346"))
    assert read_json(dataset / "dataset.json")["removed_participants"] == 2
    assert read_json(run / "comparison.json")["removed_participants"] == 2
    assert "2298" not in text_below(dataset.parent)


def write_explanations(folder, *, source, kind, rows):
    folder.mkdir(parents=True)
    for row in rows:
        (folder / row["png"]).write_bytes(b"png")
    write_json(folder / "explanations.json", {"input": str(source), "input_kind": kind, "video": None, "frames": rows})


def test_explanations_of_the_person_go(dataset):
    lab = dataset.parent
    rows = [{"recording": name, "png": f"{name}-000001-1.000s.png"} for name in PEOPLE.values()]
    write_explanations(lab / "maps", source=dataset, kind="dataset", rows=rows)
    alone = [{"recording": "x", "png": "x-000001-1.000s.png"}]
    write_explanations(lab / "video", source="cams/RespCam_AR 2298_s_(31,MALE).mp4", kind="video", rows=alone)
    write_explanations(lab / "other", source="cams/other.mp4", kind="video", rows=alone)
    shown = purge(dataset, "AR 2298")
    assert len(shown["outputs"]) == 3
    assert len(list((lab / "maps").glob("*.png"))) == 3 and not list((lab / "video").iterdir())
    assert len(read_json(lab / "maps" / "explanations.json")["frames"]) == 3
    assert len(list((lab / "other").iterdir())) == 2
    assert "2298" not in text_below(lab)


def test_predictions_of_the_person_go_and_what_is_not_miens_is_named(dataset):
    out = dataset.parent / "predicted"
    out.mkdir()
    stem, endings = "RespCam_AR 2298_s_(31,MALE)", (".timeline.csv", ".html", ".eaf", ".mp4", ".mp4.part")
    for ending in endings:
        (out / f"{stem}{ending}").write_text("x")
    (out / "other.timeline.csv").write_text("x")
    digest = sha256_file(out / f"{stem}.eaf")
    stamp = {"video": [f"{stem}.mp4", 1, 2], "files": {"elan": digest, "annotated": "0" * 64, "timeline": digest}}
    write_json(out / f"{stem}.predicted.json", stamp)
    write_json(out / "other.predicted.json", {"video": ["other.mp4", 1, 2], "path": "/x/other.mp4", "files": {}})
    failed = [{"recording": f"{stem}.mp4", "reason": "cut"}, {"recording": "other.mp4", "reason": "cut"}]
    write_csv(out / "failures.csv", pd.DataFrame(failed))
    shown = purge(dataset, "AR 2298")
    assert shown["kept"] == [str(out / f"{stem}.mp4")] and len(shown["outputs"]) == 4
    left = sorted(path.name for path in out.iterdir())
    assert left == [
        f"{stem}.mp4",
        f"{stem}.mp4.part",
        "failures.csv",
        "other.predicted.json",
        "other.timeline.csv",
    ]
    assert pd.read_csv(out / "failures.csv")["recording"].tolist() == ["other.mp4"]


@pytest.fixture
def bundle(probe_bundle, dataset):
    """A bundle of the dataset, whose audit took AR 2298 and LK 0346 for one person."""
    path = dataset.parent / "models" / "probe"
    shutil.copytree(probe_bundle, path)
    manifest = read_json(path / "bundle.json")
    made_of = manifest["spec"]["provenance"]
    made_of |= {"participants": ["12", "3", "AR 2298"], "dataset_hash": "0" * 64, "study": "Smiles"}
    made_of["audit"]["merged_participants"] = [["AR 2298", "LK 0346"]]
    write_json(path / "bundle.json", manifest)
    return path


def test_a_merged_participant_is_counted_under_their_own_id(bundle, dataset):
    assert purge(dataset, "LK 0346")["same_person"] == ["AR 2298"]
    made_of = Bundle.open(bundle).spec.provenance
    assert made_of["removed_participants"] == 1 and made_of["participants"] == ["12", "3", "AR 2298"]
    assert "withdrew" in (bundle / "MODEL_CARD.md").read_text() and "0346" not in text_below(bundle)
    # The dataset has another hash now, and LK 0346 isn't in the training's list.
    assert purge(dataset, "AR 2298")["bundles"] == [str(bundle)]
    assert Bundle.open(bundle).spec.provenance["removed_participants"] == 2


def test_the_same_id_in_another_study_is_somebody_else(bundle, dataset, tmp_path):
    other = write_dataset(tmp_path / "other" / "dataset", study="Frowns")
    write_json(other / "dataset.json", read_json(other / "dataset.json") | {"content_hash": "1" * 64})
    assert purge(other, "AR 2298", "--dry-run", "--search", str(tmp_path))["bundles"] == []
    again = write_dataset(tmp_path / "again" / "dataset")
    write_json(again / "dataset.json", read_json(again / "dataset.json") | {"content_hash": "2" * 64})
    assert purge(again, "LK 0346", "--dry-run", "--search", str(tmp_path))["bundles"] == [str(bundle)]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_bundle_opens_wherever_its_marking_is_killed(bundle, dataset, monkeypatch, writes):
    import mien.purge.results as module

    person, whole = find_purge(dataset, "AR 2298").person, module.write_text
    cards = []

    def killed(path, text):
        if len(cards) == writes:
            raise KeyboardInterrupt
        cards.append(path)
        whole(path, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            mark_bundle(bundle, person)
    assert Bundle.open(bundle).spec.provenance["removed_participants"] == 1
    assert purge(dataset, "AR 2298")["bundles"] == [str(bundle)]
    manifest = read_json(bundle / "bundle.json")
    assert manifest["files"]["MODEL_CARD.md"] == sha256_file(bundle / "MODEL_CARD.md")
    assert "\n1 of the participants" in (bundle / "MODEL_CARD.md").read_text()


def test_exports_of_a_bundle_are_named_and_its_checkpoints_go(bundle, dataset):
    lab = dataset.parent
    checkpoint = bundle.with_name(".checkpoint-probe")
    checkpoint.mkdir()
    for name, of in (("probe", "models/probe"), ("other", "models/other")):
        write_json(lab / "onnx" / f"{name}.parity.json", {"bundle": of})
    shown = purge(dataset, "AR 2298")
    assert shown["exports"] == [str(lab / "onnx" / "probe.onnx")] and not checkpoint.exists()
    said = CliRunner().invoke(app, ["purge", str(dataset), "LK 0346", "--yes"]).stderr
    assert "make them again from the new bundles" in said and "--search" in said


def test_what_cannot_be_read_stops_nothing(dataset):
    broken = dataset.parent / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    (broken / "x.predicted.json").write_text("[1]")
    (broken / "bundle.json").write_text('{"spec": 3}')
    (broken / "explanations.json").write_bytes(b"\xff\xfe")
    answer = CliRunner().invoke(app, ["purge", str(dataset), "AR 2298", "--yes"])
    assert answer.exit_code == 0 and "broken/run.json can't be read" in answer.stderr


def test_a_run_without_scores_is_purged(dataset):
    run = write_run(dataset.parent / "run", dataset_hash="0" * 64, splits=[{"test": ["3", "AR 2298"]}])
    purge_run(run, find_purge(dataset, "AR 2298").person)
    assert read_json(run / "run.json")["splits"] == [{"test": ["3"]}]


def test_digests_of_people_differ():
    assert Person("P1", ()).digest != Person("P2", ()).digest == digest_of(["removed", "P2"])
