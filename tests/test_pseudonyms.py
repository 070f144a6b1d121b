"""Hashed ids: nobody can tell who is who without the key, and everything that belongs together stays together."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat

import onnxruntime
import pandas as pd
import pytest
from typer.testing import CliRunner

from media_fixtures import write_video
from mien.cli.main import app
from mien.core.errors import UserError
from mien.core.storage import read_json
from mien.crossval.compare import plan_comparison, run_comparison
from mien.data import pseudonyms as pseudonyms_module
from mien.data.dataset import NOT_STATED
from mien.data.layouts import read_study_file
from mien.data.prepare import prepare
from mien.data.pseudonyms import KEY_FILE, Pseudonyms, is_pseudonym, make_pseudonyms, read_pseudonyms
from mien.data.settings import PrepareConfig
from mien.data.study import find_study, pseudonyms_of
from mien.export.run import export_bundle
from mien.purge.run import find_purge, run_purge
from mien.runtime.bundle import Bundle
from mien.training.final import plan_training, train_bundle

CONFIG = PrepareConfig(fps=5, crop="none", size_px=16, context_width_px=32, workers=1, detector="mtcnn")
LICENCE = "consent form v3, research only"
HASHED = "name: S\nlabel_source: human\nhash_ids: true\n"
HEADER = "Respondent Name,Stimulus Name,Expression Type,Expression Onset,Expression Offset"


def write_plain(root, *, hashed: bool, videos: bool = False):
    """Three people, one of them filmed twice and in the group of another; all rate themselves but Cia."""
    root.mkdir(parents=True, exist_ok=True)
    rows = ["media,participant,recording,group,age"]
    for number, name in enumerate(("Cia Cruz", "Ann Alba", "Bob Berg", "ann_alba")):
        stem = f"{name.split()[0].split('_')[0].title()}-{number}"
        path = root / f"{stem}.mp4"
        write_video(path, times_s=[i / 12.5 for i in range(10)]) if videos else path.touch()
        group = "Ann Alba" if name == "Bob Berg" else "site 1" if name == "Cia Cruz" else ""
        rows.append(f"{stem}.mp4,{name},{stem},{group},{20 + number}")
    (root / "recordings.csv").write_text("\n".join(rows) + "\nlost.mp4,Bob Berg,Bob-lost,Ann Alba,22\n")
    (root / "study.yaml").write_text(HASHED if hashed else HASHED.replace("hash_ids: true\n", ""))
    (root / "annotations.csv").write_text(
        "recording,onset_s,offset_s,label,annotator\nAnn-1,0,0.2,Smile,Ann Alba\nBob-2,0.1,0.4,Smile,bob_berg\n"
        "Ann-3,0.3,0.5,Smile,Ann Alba\nCia-0,0.1,0.3,Smile,coder\n"
    )
    (root / "coded.csv").write_text("recording,from_s,to_s\nAnn-1,0,0.6\nAnn-3,0,0.7\nBob-2,0,0.8\nCia-0,0,0.5\n")
    (root / "segments.csv").write_text("recording,onset_s,offset_s,segment\nBob-2,0,0.3,rest\nAnn-1,0,0.2,rest\n")
    affdex = "frame, timestamp, confidence, success, AU12_r, AU12_c\n" + "".join(
        f"{i + 1}, {i / 12.5:.3f}, 0.98, 1, {i / 5:.2f}, {int(i > 5)}.00\n" for i in range(10)
    )
    (root / "Bob-2.csv").write_text(affdex)
    return root


def everything(*roots) -> str:
    """All that any file of folders holds, tables and binary files as text, with the files' names."""
    parts = []
    for path in sorted(path for root in roots for path in root.rglob("*")):
        if path.suffix == ".parquet":
            parts.append(pd.read_parquet(path).to_csv())
        elif path.is_file():
            parts.append(path.read_bytes().decode("latin-1"))
        parts.append(str(path))
    return "\n".join(parts)


def answers(study, table: str) -> dict[str, list]:
    """What a table says, by the media file of the recording: that is what both studies share."""
    rows = getattr(study, table)
    found = {}
    for recording in study.recordings:
        own = rows[rows["recording_id"] == recording.recording_id]
        columns = [name for name in own if name not in ("recording_id", "annotator")]
        found[recording.path.name] = own[columns].fillna("-").to_numpy().tolist()
    return found


def test_the_same_key_gives_the_same_ids_and_another_one_others(tmp_path):
    first, second = write_plain(tmp_path / "a", hashed=True), write_plain(tmp_path / "b", hashed=True)
    ids = [recording.recording_id for recording in find_study(first).recordings]
    assert ids == sorted(ids) and all(map(is_pseudonym, ids))
    assert [recording.recording_id for recording in find_study(first).recordings] == ids
    assert not set(ids) & {recording.recording_id for recording in find_study(second).recordings}
    shutil.copy(first / KEY_FILE, second / KEY_FILE)
    assert [recording.recording_id for recording in find_study(second).recordings] == ids
    assert stat.S_IMODE((first / KEY_FILE).stat().st_mode) == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}\n", (first / KEY_FILE).read_text())


def test_an_id_has_one_pseudonym_however_it_is_spelled():
    names = Pseudonyms(bytes(32))
    # Both digests are those of `openssl dgst -sha256 -mac HMAC` for "ar 2298" and "r1".
    assert names.person("AR 2298") == names.person("ar_2298") == "p81cd04373103"
    assert names.recording("r1", participant_id="AR 2298") == "p81cd04373103-9105ffee"
    assert names.person("AR 2299") != names.person("AR 2298")
    assert "00" * 32 not in repr(names)


def test_what_belongs_together_stays_together(tmp_path):
    plain, hashed = (find_study(write_plain(tmp_path / name, hashed=name == "h")) for name in ("p", "h"))
    for table in ("annotations", "coded", "segments"):
        assert answers(plain, table) == answers(hashed, table)
        assert any(answers(hashed, table).values())
    by_file = {recording.path.name: recording for recording in hashed.recordings}
    signals = {r.path.name for r in hashed.recordings if r.recording_id in hashed.signals}
    assert signals == {r.path.name for r in plain.recordings if r.recording_id in plain.signals} == {"Bob-2.mp4"}
    ann, again, bob, cia = (by_file[f"{name}.mp4"] for name in ("Ann-1", "Ann-3", "Bob-2", "Cia-0"))
    assert ann.participant_id == again.participant_id == ann.group == bob.group
    assert len({ann.participant_id, bob.participant_id, cia.participant_id, cia.group}) == 4
    assert ann.recording_id.startswith(ann.participant_id) and ann.recording_id != again.recording_id
    assert dict(bob.attributes) == {"age": 22.0}
    by_people = hashed.annotations[hashed.annotations["source"] == "human"]
    raters = dict(zip(by_people["recording_id"], by_people["annotator"], strict=True))
    assert raters[ann.recording_id] == ann.participant_id and raters[bob.recording_id] == bob.participant_id
    assert raters[cia.recording_id] == "coder"
    # The order of rows would tell who comes first in the alphabet.
    assert hashed.annotations["recording_id"].is_monotonic_increasing


def test_the_annotator_who_is_a_participant_is_still_the_one_asked_for(tmp_path):
    root = write_plain(tmp_path, hashed=True)
    (root / "study.yaml").write_text(HASHED + "annotator: ann alba\n")
    study = find_study(root)
    assert study.annotator == pseudonyms_of(root)["Ann Alba"] in set(study.annotations["annotator"])


@pytest.mark.parametrize("layout", ["ravdess", "imotions"])
def test_other_layouts(tmp_path, layout):
    if layout == "ravdess":
        for name in ("03-01-05-01-01-01-11", "03-01-03-01-02-01-11", "03-01-05-01-01-01-12"):
            (tmp_path / f"{name}.wav").touch()
        raw = ["11", "12"]
    else:
        for name in ("RespCam_AR  2298_Screen recording 1_(21,FEMALE,1029)", "Screen recording 1 - AR 2298"):
            (tmp_path / f"{name}.mp4").touch()
        (tmp_path / "RespCam_BB_1_Screen recording 1_(0,MALE,7).mp4").touch()
        table = [HEADER, "AR_2298,Screen recording 1,Smile,1000,2000", "BB 1,Screen recording 1,Joy,0,500"]
        (tmp_path / "FEAExpressionTable.csv").write_text("\n".join(table))
        raw = ["AR 2298", "BB 1"]
    plain = find_study(tmp_path)
    (tmp_path / "study.yaml").write_text("hash_ids: true\n")
    study = find_study(tmp_path)
    assert answers(study, "annotations") == answers(plain, "annotations")
    assert sorted(pseudonyms_of(tmp_path)) == raw
    assert {r.participant_id for r in study.recordings} == set(pseudonyms_of(tmp_path).values())
    assert all(r.group in ("", r.participant_id) and is_pseudonym(r.recording_id) for r in study.recordings)


def test_prepare_goes_on_under_the_same_ids_only(tmp_path):
    plain = prepare(write_plain(tmp_path / "p", hashed=False, videos=True), out=tmp_path / "P", config=CONFIG)
    root, out = write_plain(tmp_path / "h", hashed=True, videos=True), tmp_path / "H"
    assert prepare(root, out=out, config=CONFIG, dry_run=True).num_recordings == 4
    assert not (root / KEY_FILE).exists(), "a dry run writes nothing"
    hashed = prepare(root, out=out, config=CONFIG)
    for name in ("annotations", "coded", "segments"):
        both = []
        for dataset in (plain, hashed):
            media = dataset.recordings.set_index("recording_id")["media"]
            table = getattr(dataset, name)
            table = table.assign(media=table["recording_id"].map(media)).drop(columns=["recording_id"])
            both.append(table.drop(columns=["annotator"], errors="ignore").sort_values(["media", *table.columns[:2]]))
        assert both[0]["media"].notna().all() and len(both[0])
        pd.testing.assert_frame_equal(both[0].reset_index(drop=True), both[1].reset_index(drop=True))
    targets = [[(t.name, t.kind, t.prevalence, t.num_participants) for t in d.targets()] for d in (plain, hashed)]
    assert targets[0] == targets[1]
    # Killed before its tables: nothing is decoded again.
    made = {path: path.stat().st_mtime_ns for path in out.glob("recordings/*/crops.npy")}
    (out / "dataset.json").unlink()
    assert prepare(root, out=out, config=CONFIG).content_hash == hashed.content_hash
    assert {path: path.stat().st_mtime_ns for path in out.glob("recordings/*/crops.npy")} == made and len(made) == 4
    # Other ids would leave the old ones in audits, attempts and caches.
    (root / KEY_FILE).write_text("ab" * 32 + "\n")
    with pytest.raises(UserError, match=r"ids hashed with another key \(participants.key\)"):
        prepare(root, out=out, config=CONFIG)
    with pytest.raises(UserError, match="only one of both hashed"):
        prepare(tmp_path / "h", out=tmp_path / "P", config=CONFIG)


def raw_ids(study) -> set[str]:
    """Whatever would give one of the drawn people away: ids as they are spelled anywhere, and names of files."""
    names = set()
    for recording in study.recordings:
        names |= {recording.participant_id, recording.participant_id.replace(" ", "_"), recording.recording_id}
        names |= {recording.participant_id.replace(" ", "-"), recording.path.name, recording.path.stem}
    return names


@pytest.fixture(scope="module")
def lab(drawn_study, tmp_path_factory):
    """A drawn study under hashed ids: dataset, comparison with its report, bundle and export."""
    root = tmp_path_factory.mktemp("hashed")
    shutil.copytree(drawn_study, root / "study")
    with (root / "study" / "study.yaml").open("a") as file:
        file.write(f"hash_ids: true\nlicence: {LICENCE}\n")
    prepare(root / "study", out=root / "dataset", config=PrepareConfig(fps=2.0, size_px=96, workers=1))
    plan = plan_comparison(root / "dataset", target="Smile", models="linear_probe@hog", out=root / "run", folds=2)
    run_comparison(plan, command="mien compare (test)")
    train_bundle(plan_training(root / "dataset", target="Smile", model="linear_probe@hog", out=root / "bundle"))
    (root / "export").mkdir()
    export_bundle(root / "bundle", out=root / "export" / "model.onnx")
    return root


def test_run_report_bundle_and_export_name_nobody(lab, drawn_study):
    raw, key = raw_ids(find_study(drawn_study)), (lab / "study" / KEY_FILE).read_text().strip()
    assert len(raw) >= 4 * 6
    made = everything(lab / "run", lab / "bundle", lab / "export")
    assert [name for name in sorted(raw) if name in made] == []
    assert key not in made + everything(lab / "dataset")
    # The same search finds what is there: pseudonyms, and in the lab's own dataset the media files.
    hidden = pseudonyms_of(lab / "study")
    assert all(name in made for name in hidden.values())
    assert any(name in everything(lab / "dataset") for name in raw)
    report = (lab / "run" / "report.html").read_text()
    assert "what happened stands in the dataset" in report and LICENCE in report
    result = read_json(lab / "run" / "comparison.json")
    assert len(result["failures"]) == 1 and is_pseudonym(result["failures"][0]["recording"])
    failures = pd.read_csv(lab / "dataset" / "failures.csv", dtype=str)
    assert failures["recording"].tolist() == [result["failures"][0]["recording"]]
    assert failures["reason"].iloc[0] != result["failures"][0]["reason"]


def test_licences_of_data_and_weights_stand_in_bundle_card_and_export(lab, probe_bundle):
    consent = "no person is shown; every face is drawn"
    data = {"name": "mien demonstration", "licence": LICENCE, "consent": consent, "purpose": "demonstration"}
    bundle = Bundle.open(lab / "bundle")
    assert bundle.spec.provenance["data"] == data
    assert bundle.spec.weights["licence"]
    card = (lab / "bundle" / "MODEL_CARD.md").read_text()
    assert f"| licence of the data | {LICENCE} |" in card and "| licence of the weights | none needed |" in card
    report = read_json(lab / "export" / "model.parity.json")
    assert report["data"] == data and report["licences"] == {"weights": "none needed", "data": LICENCE}
    notes = onnxruntime.InferenceSession(str(lab / "export" / "model.onnx")).get_modelmeta().custom_metadata_map
    assert notes == {"licence_weights": "none needed", "licence_data": LICENCE}
    assert Bundle.open(probe_bundle).spec.provenance["data"]["licence"] == NOT_STATED
    assert f"| licence of the data | {NOT_STATED} |" in (probe_bundle / "MODEL_CARD.md").read_text()


def test_a_person_is_purged_by_the_pseudonym_that_inspect_tells(lab, tmp_path):
    shutil.copytree(lab / "dataset", tmp_path / "dataset")
    shown = CliRunner().invoke(app, ["inspect", str(lab / "study"), "--ids", "--json"])
    people = json.loads(shown.stdout)
    assert people == pseudonyms_of(lab / "study") and len(people) >= 6
    name = next(iter(people))
    assert f"{people[name]}  {name}" in CliRunner().invoke(app, ["inspect", str(lab / "study"), "--ids"]).stdout
    with pytest.raises(UserError, match="Unknown participant"):
        find_purge(tmp_path / "dataset", name)
    run_purge(find_purge(tmp_path / "dataset", people[name]))
    assert people[name] not in everything(tmp_path / "dataset")
    twice = CliRunner().invoke(app, ["inspect", str(lab / "study"), str(lab), "--ids"])
    assert twice.exit_code == 2 and "got 2 paths" in twice.stderr


@pytest.mark.parametrize("value", ["maybe", "'yes'", "1", "[]", ""])
def test_what_is_neither_true_nor_false_is_refused(tmp_path, value):
    (tmp_path / "study.yaml").write_text(f"hash_ids: {value}\n")
    with pytest.raises(UserError, match=r"study.yaml: hash_ids: expected bool, got"):
        read_study_file(tmp_path)


def test_ids_that_are_not_hashed_are_not_told(tmp_path):
    with pytest.raises(UserError, match="no line 'hash_ids: true'"):
        pseudonyms_of(write_plain(tmp_path / "p", hashed=False))
    root = write_plain(tmp_path / "h", hashed=True)
    with pytest.raises(UserError, match=r"has no participants.key yet; `mien prepare` makes it"):
        pseudonyms_of(root)
    assert not (root / KEY_FILE).exists()


@pytest.mark.parametrize("text", [b"", b"secret", b"ab" * 31 + b"zz", b"\xff\xfe"])
def test_a_damaged_key_is_never_replaced(tmp_path, text):
    root = write_plain(tmp_path, hashed=True)
    (root / KEY_FILE).write_bytes(text)
    with pytest.raises(UserError, match=r"(?i)participants.key.*restore it"):
        find_study(root)
    assert (root / KEY_FILE).read_bytes() == text


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    root, real = write_plain(tmp_path, hashed=True), os.open

    def read_only(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(pseudonyms_module.os, "open", read_only)
    with pytest.raises(UserError, match=r"can't be written to .*participants.key: Permission denied. Make the folder"):
        find_study(root)
    assert all(is_pseudonym(r.recording_id) for r in find_study(root, keep_key=False).recordings)


def test_of_two_processes_the_second_takes_the_key_of_the_first(tmp_path, monkeypatch):
    first = make_pseudonyms(tmp_path)
    answers_of_read = iter([None, first])
    monkeypatch.setattr(pseudonyms_module, "read_pseudonyms", lambda _: next(answers_of_read))
    assert make_pseudonyms(tmp_path) == first
    monkeypatch.undo()
    assert read_pseudonyms(tmp_path) == first


def test_ids_that_would_be_one_are_refused(tmp_path, monkeypatch):
    root = write_plain(tmp_path, hashed=True)
    monkeypatch.setattr(pseudonyms_module, "PERSON_DIGITS", 0)
    with pytest.raises(UserError, match="'Ann Alba' and 'Bob Berg' have the same pseudonym, p, by chance"):
        find_study(root)
