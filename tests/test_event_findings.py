"""Events of a comparison, of a bundle and of `mien predict`: from annotation intervals to the CSV and the page."""

from __future__ import annotations

import dataclasses
import json
import shlex

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from doc_commands import ROOT
from doc_commands import commands as commands_of
from mien.annotations.elan import read_elan
from mien.cli.main import app
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.crossval.event_findings import EVENTS_FILE, TABLE_COLUMNS, event_findings, write_events
from mien.data.dataset import Dataset
from mien.evaluation.event_detection import EventSettings
from mien.predict.timeline_events import EVENT_FILE_COLUMNS, announce_events, timeline_events
from mien.predict.timeline_events import write_events as write_csv
from mien.predict.timeline_page import timeline_page
from mien.report.events import event_context, read_events
from mien.report.page import nullable, render
from mien.runtime.bundle import Bundle, ModelSpec, Sampling

SCHEME = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "synthetic")
MODELS = ("good", "noise")


def made_samples(dataset, *, fps):
    parts = []
    for recording_id in dataset.recordings["recording_id"]:
        times = np.arange(0.0, 6.0, 1 / fps)
        part = pd.DataFrame({"frame": np.arange(len(times)), "pts_s": times, "end_s": times + 1 / fps})
        parts.append(part.assign(recording_id=str(recording_id), face_found=True))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def sampled(drawn_dataset):
    """The drawn people, as if sampled at another rate."""

    def make(fps):
        dataset = Dataset(drawn_dataset.path, info=drawn_dataset.info)
        dataset.__dict__["samples"] = made_samples(dataset, fps=fps)
        return dataset

    return make


def predictions_of(dataset):
    """Test and inner predictions of a good model and of noise, two folds."""
    people = dict(zip(dataset.recordings["recording_id"], dataset.recordings["participant_id"], strict=True))
    names = sorted(set(people.values()))
    smiles = dataset.annotations[dataset.annotations["scheme"] == "Smile"]
    table = dataset.samples.rename(columns={"pts_s": "start_s"}).assign(target=0)
    table["participant_id"] = table["recording_id"].map(people)
    table["fold"] = table["participant_id"].map({name: index % 2 for index, name in enumerate(names)})
    for row in smiles.itertuples():
        times = table["start_s"]
        inside = (table["recording_id"] == row.recording_id) & (times >= row.onset_s) & (times < row.offset_s)
        table.loc[inside, "target"] = 1
    generator = np.random.default_rng(0)
    good = np.clip(table["target"] + generator.normal(0, 0.1, len(table)), 0, 1)
    noise = np.repeat(generator.random(len(table) // 4 + 1), 4)[: len(table)]
    test = pd.concat(
        [table.assign(model=name, prob_Smile=values) for name, values in zip(MODELS, (good, noise), strict=True)]
    )
    return test.reset_index(drop=True), test.assign(fold=1 - test["fold"]).reset_index(drop=True)


SPLITS = [Split(fold, train=(), validation=(), test=(), seed=0) for fold in range(2)]


def find(dataset, *, scheme=SCHEME):
    test, inner = predictions_of(dataset)
    return event_findings(
        dataset, scheme=scheme, splits=SPLITS, predictions=test, inner=inner, names=MODELS, seed=0, draws=99
    )


class TestComparison:
    def test_good_model_finds_the_events_and_noise_does_not(self, sampled, tmp_path):
        dataset = sampled(10.0)
        found = find(dataset)
        assert found.reason is None
        good, noise = (found.by_model[name] for name in MODELS)
        assert good["f1"][2]["mean"] > 0.9
        assert good["f1"][2]["p_holm"] <= 0.03
        assert noise["f1"][2]["mean"] < 0.5
        assert good["onset_error_s"]["absolute"]["mean"] <= 0.2
        assert {item["fold"] for item in good["settings"]} == {0, 1}
        assert all(EventSettings.from_json(item).on >= 0.3 for item in good["settings"])
        assert 0.5 <= good["edge_coverage"]["onset"]["mean"] <= 1.0
        write_events(tmp_path, [found])
        table = read_events(tmp_path)
        assert list(table.columns) == list(TABLE_COLUMNS)
        annotated = table[table["kind"] == "annotated"].sort_values(["recording_id", "onset_s"])
        expected = dataset.annotations.query("scheme == 'Smile'").sort_values(["recording_id", "onset_s"])
        assert annotated["onset_s"].to_numpy() == pytest.approx(expected["onset_s"].to_numpy(), abs=1e-3)
        assert set(table.loc[table["kind"] == "predicted", "model"]) == set(MODELS)

    def test_settings_of_a_fold_come_from_its_inner_split(self, sampled):
        """Were test people among those that settings are chosen on, spoiling their predictions would change them."""
        dataset = sampled(5.0)
        test, inner = predictions_of(dataset)
        given = {"scheme": SCHEME, "splits": SPLITS, "inner": inner, "names": MODELS[:1], "seed": 0, "draws": 1}
        plain = event_findings(dataset, predictions=test, **given).by_model["good"]
        spoiled = event_findings(dataset, predictions=test.assign(prob_Smile=0.01), **given).by_model["good"]
        assert plain["settings"] == spoiled["settings"]
        assert spoiled["f1"][2]["mean"] == 0.0

    def test_too_few_samples_and_other_targets_have_no_events(self, sampled, tmp_path):
        (tmp_path / EVENTS_FILE).write_text("of an earlier run")
        slow = find(sampled(2.0))
        assert "sampled 2 times per second" in slow.reason
        assert dict(slow.by_model) == {}
        write_events(tmp_path, [slow])
        assert not (tmp_path / EVENTS_FILE).exists()
        other = dataclasses.replace(SCHEME, target="Valence above the own median")
        assert "isn't annotated as intervals" in find(sampled(10.0), scheme=other).reason

    def test_section_of_the_report(self, sampled, tmp_path):
        found = find(sampled(10.0))
        write_events(tmp_path, [found])
        models = [{"name": name, "events": found.by_model[name]} for name in MODELS]
        comparison = nullable(json.loads(json.dumps({"target": "Smile", "unit": "frame", "models": models})))
        names = {"good": "good <b>", "noise": "noise"}
        context = event_context(comparison, names=names, table=read_events(tmp_path))
        page = render("events.html.j2", context)
        assert "good &lt;b&gt;" in page and "<b>" + f"{found.by_model['good']['f1'][2]['mean']:.2f}".lstrip("0") in page
        assert 'role="img"' in page and page.count("<tr>") == 2 + 2 + 2 * len(SPLITS)
        reason = nullable({"target": "Smile", "unit": "frame", "models": [{"name": "good"}], "no_events": "Too <few>."})
        assert "Too &lt;few&gt;." in render("events.html.j2", event_context(reason, names=names, table=None))
        once = nullable({**reason, "unit": "participant"})
        assert render("events.html.j2", event_context(once, names=names, table=None)).strip() == ""


def spec(**changes):
    values = {
        "name": "linear_probe@hog",
        "label": "linear_probe@hog",
        "modalities": ("video",),
        "labels": SCHEME,
        "sampling": Sampling(10.0, "face", "main", 96, 1.6, "mtcnn"),
        "encoder": None,
        "builtin_encoder": None,
        "baseline": "none",
    }
    return ModelSpec(**{**values, **changes})


def timeline(values, *, fps=10.0):
    starts = np.arange(len(values)) / fps
    table = pd.DataFrame({"recording_id": "v", "start_s": starts, "end_s": starts + 1 / fps, "face_found": True})
    return table.assign(prob_Smile=np.asarray(values, float), logit_Smile=0.0)


SMILE = [0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1]


class TestPrediction:
    def test_events_of_a_timeline_by_the_bundles_own_settings(self):
        own = {"Smile": EventSettings(on=0.95, off=0.9).to_json()}
        assert timeline_events(timeline(SMILE), spec=spec(events=own)).table.empty
        found = timeline_events(timeline(SMILE), spec=spec()).table
        assert list(found.columns) == list(EVENT_FILE_COLUMNS)
        assert found["label"].tolist() == ["Smile"]
        assert found["onset_s"].tolist() == pytest.approx([0.15])

    def test_each_channel_has_its_own(self):
        scheme = LabelScheme("Smile,Nod", "multilabel", ("Smile", "Nod"), "synthetic")
        table = timeline(SMILE).assign(prob_Nod=[0.9] * 4 + [0.1] * 6)
        own = {"Nod": EventSettings(min_duration_s=0.5).to_json(), "Smile": EventSettings().to_json()}
        found = timeline_events(table, spec=spec(labels=scheme, events=own)).table
        assert found["label"].tolist() == ["Smile"]
        assert timeline_events(table, spec=spec(labels=scheme)).table["label"].tolist() == ["Nod", "Smile"]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"sampling": Sampling(1.0, "face", "main", 96, 1.6, "mtcnn")}, "1 frames per second.*--fps 5 or more"),
            ({"labels": LabelScheme("Mood", "multiclass", ("a", "b", "c"), "human")}, "Mood has 3 classes"),
            ({"labels": dataclasses.replace(SCHEME, unit="recording")}, "describes a recording"),
        ],
    )
    def test_bundles_without_events_say_why_once(self, changes, reason, capsys, tmp_path):
        found = timeline_events(timeline(SMILE), spec=spec(**changes))
        assert found.table is None
        assert pd.Series([found.reason]).str.contains(reason).all()
        announce_events(spec(**changes))
        assert found.reason in capsys.readouterr().err
        path = tmp_path / "v.events.csv"
        path.write_text("of another bundle")
        assert write_csv(path, found, video=path) is None
        assert not path.exists()
        assert capsys.readouterr().err == ""

    def test_video_with_too_few_frames_says_so(self, capsys, tmp_path):
        found = timeline_events(timeline(SMILE, fps=3.0), spec=spec())
        assert found.table is None
        write_csv(tmp_path / "v.events.csv", found, video=tmp_path / "v.mp4")
        assert "v.mp4: No events: 10 sampled frames, fewer than 5 per second" in capsys.readouterr().err

    def test_ranges_that_promise_less_are_announced(self, capsys):
        def said(**inner):
            announce_events(spec(events={"Smile": EventSettings().to_json() | {"inner": inner}}))
            return capsys.readouterr().err

        announce_events(spec())
        assert "Events of Smile are made with the default settings" in capsys.readouterr().err
        assert "default settings" in said(note="nobody smiled")
        assert said(edge_coverage=0.9, edge_participants=9, note="") == ""
        few = said(edge_coverage=5 / 6, edge_participants=5, note="")
        assert "fitted on 5 people: they promise 83 % of a new person's true edges, not 90 %" in few
        assert "those of an earlier mien" in said(note="")

    def test_page_draws_and_lists_them(self):
        found = timeline_events(timeline(SMILE), spec=spec())
        page = timeline_page(timeline(SMILE), spec=spec(), title="v", events=found)
        assert "<h2>Events</h2>" in page and "<td>0.15</td>" in page and "Bars: events" in page
        none = timeline_events(timeline([0.1] * 10), spec=spec())
        assert "None was found" in timeline_page(timeline([0.1] * 10), spec=spec(), title="v", events=none)
        slow = timeline_events(timeline(SMILE, fps=3.0), spec=spec())
        assert "fewer than 5 per second" in timeline_page(timeline(SMILE), spec=spec(), title="v", events=slow)

    def test_earlier_bundles_open(self):
        values = json.loads(json.dumps(spec().to_json()))
        del values["events"]
        assert ModelSpec.from_json(values).events == {}
        own = {"Smile": EventSettings().to_json()}
        assert ModelSpec.from_json(json.loads(json.dumps(spec(events=own).to_json()))).events == own


@pytest.mark.slow
def test_commands_of_the_document_run(drawn_study, tmp_path, monkeypatch):
    """Word for word, on a smaller drawn study."""
    commands = commands_of(ROOT / "docs/events.md")
    assert [shlex.split(command)[1] for command in commands] == ["prepare", "compare", "train", "predict"]
    (tmp_path / "demo/newcomer").mkdir(parents=True)
    (tmp_path / "demo/study").symlink_to(drawn_study)
    video = next(path for path in sorted(drawn_study.rglob("*.mp4")) if path.stat().st_size > 20_000)
    (tmp_path / "demo/newcomer/video.mp4").symlink_to(video)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.stderr}"
    model = json.loads((tmp_path / "run10/comparison.json").read_text())["models"][0]
    assert [row["iou"] for row in model["events"]["f1"]] == [0.1, 0.25, 0.5]
    assert len(model["events"]["settings"]) == 5
    assert 'id="events"' in (tmp_path / "run10/report.html").read_text()
    bundle = Bundle.open(tmp_path / "bundle10")
    assert EventSettings.from_json(bundle.spec.events["Smile"])
    assert bundle.spec.events["Smile"]["inner"]["edge_participants"] > 0
    table = pd.read_csv(tmp_path / "predictions10/video.events.csv")
    assert list(table.columns) == list(EVENT_FILE_COLUMNS)
    assert (table["onset_s"] < table["offset_s"]).all()
    elan = read_elan(tmp_path / "predictions10/video.eaf").intervals
    assert len(table) and elan["onset_s"].tolist() == table["onset_s"].tolist()
    assert elan["offset_s"].tolist() == table["offset_s"].tolist()
