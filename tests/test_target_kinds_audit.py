"""The audit of targets of several channels: what refuses one channel stops neither the others nor hides itself."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import mien.audit.run as audit_module
from channel_datasets import ARM, LEVEL, RARE, add_schemes
from mien.audit.channels import check_channel_folds, combined_checks, splits_of
from mien.audit.check import CHECK_NAMES, Check
from mien.audit.run import audit_json, audit_people
from mien.cli.main import app
from mien.core.types import Split
from mien.data.clips import build_clips

SCORE = re.compile(r"\b0?\.\d{2,}\b")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def dataset(drawn_dataset, tmp_path_factory):
    return add_schemes(drawn_dataset, tmp_path_factory.mktemp("channels") / "d")


def people_audit(dataset, target, *, overrides=()):
    return audit_people(dataset, clips=build_clips(dataset, target=target), overrides=overrides)


@pytest.fixture(scope="module")
def audit(dataset):
    return people_audit(dataset, f"Smile,{ARM},Speaking,Attention,{RARE}")


class TestChannels:
    def test_t3_and_what_never_varies_refuse_their_channel_alone(self, audit):
        assert audit.kept == ("Smile", "Speaking", RARE)
        assert audit.refusals == []
        assert audit.clips.scheme.channels == audit.kept
        assert f"target_{ARM}" not in audit.clips.table
        dropped = audit.dropped()
        assert set(dropped) == {ARM, "Attention"}
        assert "constant-label" in dropped[ARM][0] and "--override constant-label" in dropped[ARM][0]
        assert "label-varies" in dropped["Attention"][0] and "--override" not in dropped["Attention"][0]

    def test_each_check_holds_the_worst_channel_and_names_it(self, audit):
        checks = {check.name: check for check in audit.checks}
        assert checks["constant-label"].severity == checks["label-varies"].severity == "fail"
        assert f"{ARM} (fail)" in checks["constant-label"].detail
        assert checks["constant-label"].measured[ARM] == 1.0
        assert checks["constant-label"].evidence["channels"]["fail"] == [ARM]
        assert checks["label-source"].severity == "ok"
        assert checks["label-source"].measured == "synthetic", "the same everywhere, said once"
        assert checks["copies"] == next(check for check in audit.channels["Smile"].checks if check.name == "copies")

    def test_an_override_keeps_the_channel_but_not_one_without_two_classes(self, dataset):
        audit = people_audit(dataset, f"Smile,{ARM},Attention", overrides=("constant-label", "label-varies"))
        assert audit.kept == ("Smile", ARM)
        assert audit.channels[ARM].clips.scheme.unit == "frame"

    def test_a_fail_about_people_refuses_all(self, dataset, monkeypatch):
        copies = audit_module.check_copies

        def failing(*arguments, **given):
            found = copies(*arguments, **given)
            check = Check("copies", "fail", 1, 0, "Two ids, one person.", "Give one id.")
            return dataclasses.replace(found, check=check)

        monkeypatch.setattr(audit_module, "check_copies", failing)
        audit = people_audit(dataset, "Smile,Speaking")
        assert audit.kept == ()
        assert [check.name for check in audit.refusals] == ["copies"]
        assert people_audit(dataset, "Smile,Speaking", overrides=("copies",)).kept == ("Smile", "Speaking")

    def test_t6_copies_that_contradict_each_other_in_one_channel_refuse_that_channel(self, dataset, monkeypatch):
        """Pictures that are the same: labelled alike in one channel, differently in the other."""
        table = build_clips(dataset, target="Smile,Speaking").table
        first, second = sorted(table["recording_id"].unique())[:2]
        one, other = table[table["recording_id"] == first], table[table["recording_id"] == second]
        pairs = one.merge(other, how="cross", suffixes=("_a", "_b"))
        pairs = pairs.rename(columns={"recording_id_a": "recording_a", "recording_id_b": "recording_b"})
        pairs = pairs[pairs["target_Smile_a"] == pairs["target_Smile_b"]]
        assert (pairs["target_Speaking_a"] != pairs["target_Speaking_b"]).any()
        copies = audit_module.check_copies

        def found(*arguments, **given):
            return dataclasses.replace(copies(*arguments, **given), pairs=pairs.assign(kind="face"))

        monkeypatch.setattr(audit_module, "check_copies", found)
        audit = people_audit(dataset, "Smile,Speaking")
        assert audit.kept == ("Smile",)
        assert "contradictory-labels" in audit.dropped()["Speaking"][0]
        check = next(check for check in audit.checks if check.name == "contradictory-labels")
        assert check.severity == "fail" and check.evidence["pairs"]

    def test_a_number_that_only_differs_between_people_is_refused(self, drawn_dataset, tmp_path):
        path = tmp_path / "d"
        still = add_schemes(drawn_dataset, path)
        table = pd.read_parquet(path / "annotations.parquet")
        numbers = {name: f"{1.5 * place:.1f}" for place, name in enumerate(sorted(table["recording_id"].unique()))}
        chosen = table["scheme"] == LEVEL
        table.loc[chosen, "value"] = table.loc[chosen, "recording_id"].map(numbers)
        table.to_parquet(path / "annotations.parquet")
        audit = people_audit(still, LEVEL)
        assert audit.kept == ()
        assert {check.name for check in audit.refusals} >= {"label-varies"}


class TestParts:
    def test_worst_first(self):
        ok = Check("nuisances", "ok", {"nuisances": 0.51, "nuisances+recording": 0.53}, 0.55, "fine.")
        warn = Check("nuisances", "warn", {"nuisances": 0.70}, 0.55, "light alone reaches .70.", "Record evenly.")
        unseen = Check("nuisances", "not checked", None, 0.55, "too few.", "Add people.")
        [check] = combined_checks({"A": [ok], "B": [warn], "C": [unseen]})
        assert (check.severity, check.advice) == ("warn", "Record evenly.")
        assert check.measured == {"A": 0.53, "B": 0.70, "C": None}
        assert check.detail.startswith("B (warn): light alone") and "ok in 1 of 3 channels (A)." in check.detail

    def test_folds_of_a_channel_leave_out_who_has_no_label_of_it(self, audit):
        view = audit.channels["Smile"].clips
        people = sorted(view.table["participant_id"].unique())
        splits = [
            Split(0, train=tuple(people[2:5]), validation=tuple(people[5:]), test=tuple(people[:2]), seed=0),
            Split(1, train=tuple(people[:2]), validation=tuple(people[2:4]), test=tuple(people[4:]), seed=0),
        ]
        some = dataclasses.replace(view, table=view.table[view.table["participant_id"].isin(people[2:5])])
        reduced = splits_of(some, splits)
        assert [split.fold for split in reduced] == [1], "the first fold tests nobody of them"
        assert (reduced[0].train, reduced[0].validation, reduced[0].test) == ((), tuple(people[2:4]), (people[4],))
        assert check_channel_folds(view, splits_of(view, splits)) is None
        refused = check_channel_folds(some, reduced)
        assert refused.severity == "fail" and "only 1 of the folds" in refused.detail
        last = dataclasses.replace(view, table=view.table[view.table["participant_id"].isin(people[4:])])
        both = [splits[1], dataclasses.replace(splits[0], test=(people[4],), train=(), validation=(people[5],))]
        assert "in fold 1 all of them are tested" in check_channel_folds(last, splits_of(last, both)).detail

    def test_audit_json_has_every_channel_with_its_own_checks(self, audit, dataset):
        found = audit_json(audit, dataset=dataset)
        assert found["verdict"] == "warn", "two channels fail, three go on"
        assert [check["name"] for check in found["checks"]] == list(CHECK_NAMES)
        assert list(found["channels"]) == ["Smile", ARM, "Speaking", "Attention", RARE]
        arm = found["channels"][ARM]
        assert arm["refused"] and arm["verdict"] == "fail" and len(arm["reasons"]) == 1
        names = {check["name"] for check in arm["checks"]}
        assert "constant-label" in names and "copies" not in names, "people are checked once"
        json.dumps(found)


@pytest.fixture(scope="module")
def audited(dataset):
    result = call("audit", dataset.path, "--target", f"Smile,{ARM}", "--folds", 3, "--json")
    return result, dataset.path


def test_mien_audit_of_channels(audited):
    result, path = audited
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["channels"][ARM]["refused"] and not found["channels"]["Smile"]["refused"]
    smile = {check["name"]: check for check in found["channels"]["Smile"]["checks"]}
    assert smile["nuisances"]["evidence"]["scores"], "the content checks were made for what is kept"
    arm = {check["name"]: check["severity"] for check in found["channels"][ARM]["checks"]}
    assert arm["nuisances"] == arm["label-in-pixels"] == "not checked", "and not for what was refused before"
    page = (path / "audit.html").read_text()
    assert "Channel by channel" in page
    assert f"dropped before any fit: {ARM}" in page
    assert "Smile: nuisances" in page


def test_a_refused_comparison_of_channels_prints_no_score(drawn_dataset, tmp_path):
    path = tmp_path / "d"
    two_arms = add_schemes(drawn_dataset, path)
    table = pd.read_parquet(path / "annotations.parquet")
    arms = table[table["scheme"] == ARM]
    table = pd.concat([table, arms.assign(scheme="Site")], ignore_index=True)
    table.to_parquet(path / "annotations.parquet")
    out = tmp_path / "run"
    arguments = ("--target", f"{ARM},Site", "--models", "linear_probe", "--out", out)
    result = call("compare", two_arms.path, *arguments)
    assert result.exit_code == 3, result.stderr
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["verdict"] == "refused"
    assert [(row["name"], row["refused"], row["models"]) for row in comparison["channels"]] == [
        (ARM, True, []),
        ("Site", True, []),
    ]
    assert not (out / "scores.csv").exists() and not (out / "folds").exists()
    report = (out / "report.html").read_text()
    assert "Channels that the audit refused" in report
    body = re.sub(r"<style>.*?</style>", "", report, flags=re.DOTALL)
    body = re.sub(r"<table class=\"text checks\">.*?</table>", "", body, flags=re.DOTALL)
    assert not SCORE.search(re.sub(r"<[^>]+>", " ", body).partition("Settings, versions")[0])


def test_finite_numbers_only(audited):
    """Whatever a channel lacks is null in the file, not NaN, which isn't JSON."""
    result, _ = audited
    json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert np.isfinite(json.loads(result.stdout)["participants"])
