"""The report of a plausible run: complete, self-contained, escaped, and tolerant of what a run doesn't know yet."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme, annotated_by
from mien.core.storage import read_json, write_csv, write_json, write_parquet
from mien.core.types import Split
from mien.evaluation.baselines import TRIVIAL_KINDS, trivial_scores
from mien.evaluation.overfitting import overfitting
from mien.evaluation.prevalence import prevalence_sweep
from mien.evaluation.scores import participant_scores, summarise_model
from mien.report import charts
from mien.report.comparison_report import write_comparison_report
from mien.report.wording import display_name, report_title, verdict_of

CLASSES = ("not <b>Smile</b>", "Smile & co")
SCHEME = LabelScheme("Smile", "binary", CLASSES, "tool:AFFDEX")
FOLDS = 4
MODELS = {"linear_probe@hog+recording": 2.2, "improved_cnn": 1.3, "vit_pretrained": 0.9}  # name: separation of classes
FACTS = {
    "linear_probe@hog+recording": {"label": "linear_probe@hog", "baseline": "recording", "parameters": 1765},
    "improved_cnn": {
        "parameters": 1_699_841,
        "trainable_parameters": 1_699_841,
        "frozen_parameters": 0,
        "size_mb": 6.8,
    },
    "vit_pretrained": {"parameters": 85_995_777, "weights_note": "random init: google/vit-base is not on this machine"},
}
AWKWARD_ID = 'P "01" <b>&'


def clips_table(num_participants: int) -> pd.DataFrame:
    """Clips at 2 per second: bouts of the target, one participant without any, one with an awkward id."""
    generator = np.random.default_rng(7)
    rows = []
    for p in range(num_participants):
        name = AWKWARD_ID if p == 0 else "NA" if p == 1 else f"P{p + 1:02d}"
        length = int(generator.integers(36, 64))
        positive = np.zeros(length, dtype=int)
        if p != num_participants - 1:
            for start in generator.integers(0, length - 9, size=2):
                positive[start : start + int(generator.integers(5, 10))] = 1
        rows += [
            [f"r{p}-{i}", f"r{p}", name, i / 2, i / 2 + 0.5, positive[i], True] for i in range(length)
        ]  # fmt: skip
    columns = ["clip_id", "recording_id", "participant_id", "start_s", "end_s", "target", "face_found"]
    return pd.DataFrame(rows, columns=columns).astype({"target": "Int64"})


def make_splits(participants: list[str]) -> list[Split]:
    splits = []
    for fold in range(FOLDS):
        test = participants[fold::FOLDS]
        others = [name for name in participants if name not in test]
        splits.append(Split(fold, train=tuple(others[2:]), validation=tuple(others[:2]), test=tuple(test), seed=0))
    return splits


def model_predictions(name: str, clips: pd.DataFrame, splits: list[Split]) -> pd.DataFrame:
    generator = np.random.default_rng(len(name))
    offsets = {person: generator.normal(0, 0.8) for person in clips["participant_id"].unique()}
    fold_of = {person: split.fold for split in splits for person in split.test}
    target = clips["target"].to_numpy(dtype=float)
    shift = clips["participant_id"].map(offsets).to_numpy(dtype=float)
    logits = MODELS[name] * (2 * target - 1) + shift + generator.normal(0, 1.3, len(clips))
    table = clips.assign(model=name, fold=clips["participant_id"].map(fold_of))
    output = SCHEME.output_names[0]
    return table.assign(**{f"logit_{output}": logits, f"prob_{output}": 1 / (1 + np.exp(-logits))})


def epochs(name: str, fold: int) -> list[dict[str, Any]]:
    if name.startswith("linear_probe"):
        return []
    generator = np.random.default_rng([fold, len(name)])
    history = []
    for epoch in range(16 + 2 * fold):
        train = 0.60 * np.exp(-epoch / 9) + 0.16 + generator.normal(0, 0.008)
        validation = train + 0.02 + generator.normal(0, 0.012)
        if name == "vit_pretrained":
            validation += 0.02 * epoch
        phase = "head" if epoch < 8 else "all"
        history.append({"phase": phase, "epoch": epoch, "train_loss": train, "validation_loss": validation})
    return history


def make_run(run: Path, *, num_participants: int = 12) -> Path:
    """Write a run folder as `compare` does, from made-up predictions."""
    clips = clips_table(num_participants)
    splits = make_splits(clips["participant_id"].unique().tolist())
    tables = [model_predictions(name, clips, splits) for name in MODELS]
    predictions = pd.concat(tables, ignore_index=True)
    trivial = trivial_scores(clips=clips, splits=splits, scheme=SCHEME, seed=0, draws=5)
    scores = pd.concat([participant_scores(predictions, SCHEME), trivial], ignore_index=True)
    write_parquet(run / "predictions.parquet", predictions)
    write_csv(run / "scores.csv", scores)
    models = []
    for name in MODELS:
        histories = {fold: epochs(name, fold) for fold in range(FOLDS)}
        for fold, history in histories.items():
            write_json(run / "folds" / name / str(fold) / "fit.json", {"history": history})
        facts = {"name": name, "label": name, "device": "cpu", "fit_seconds": 200.0, "flops": 4.1e8, "memory_mb": 310}
        summary = summarise_model(scores[scores["model"] == name], folds=FOLDS)
        settings = {"weight_decay": 0.01, "phases": {"head": {"epochs": 8, "rate": 0.001}}}
        models.append(facts | FACTS[name] | summary | {"overfitting": overfitting(histories), "settings": settings})
    baselines = {kind: summarise_model(scores[scores["model"] == kind], folds=FOLDS) for kind in TRIVIAL_KINDS}
    write_json(run / "comparison.json", comparison_of(clips, models=models, baselines=baselines))
    return run


def read_scores(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "scores.csv", dtype={"participant_id": str}, keep_default_na=False, na_values=[""])


def comparison_of(clips: pd.DataFrame, *, models: list[Any], baselines: dict[str, Any]) -> dict[str, Any]:
    per_person = clips.groupby("participant_id")["target"]
    return {
        "verdict": None,
        "permitted_claim": None,
        "participants": clips["participant_id"].nunique(),
        "label_source": SCHEME.label_source,
        "target": "Smile",
        "title": "Smile",
        "study": {"name": "Interviews <2024>", "purpose": "research", "consent": "written", "synthetic": False},
        "kind": "binary",
        "classes": list(CLASSES),
        "folds": FOLDS,
        "seed": 0,
        "clips": len(clips),
        "minutes": len(clips) / 120,
        "positives": int(clips["target"].sum()),
        "median_seconds_per_participant": float(per_person.size().median() / 2),
        "median_positive_seconds_per_participant": float(per_person.sum().median() / 2),
        "fps": 2.0,
        "models": models,
        "baselines": baselines,
        "differences": None,
        "leakage_gap": None,
        "excluded": [{"reason": "no face found", "count": 41}, {"reason": "not coded", "count": 1203}],
        "failures": [
            {
                "recording": "LE 3299 <screen>",
                "stage": "decode",
                "reason": "The file ends after 3 of 21 minutes",
                "advice": "Export the recording again.",
            }
        ],
        "failed_models": [{"name": "resnet50_pretrained", "reason": "No weights on this machine"}],
        "command": "mien compare DATASET --target Smile --models linear_probe@hog+recording,improved_cnn --folds 4",
        "versions": {"mien": "0.1.0", "python": "3.11.9"},
        "dataset": {"hash": "0f3a9c", "format": "imotions"},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return write_comparison_report(run).read_text(encoding="utf-8")


def rewritten(run: Path, **changes: object) -> str:
    """Return the report of a run whose comparison.json has other values; the file is put back."""
    original = read_json(run / "comparison.json")
    try:
        write_json(run / "comparison.json", copy.deepcopy(original) | changes)
        return write_comparison_report(run).read_text(encoding="utf-8")
    finally:
        write_json(run / "comparison.json", original)


class Page(HTMLParser):
    """Visible text, tags, ids and addresses of a page; raises where tags aren't closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[key] for key in ("src", "href", "xlink:href", "action") if key in values]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(html.replace("<wbr>", "")).text))


class TestPage:
    def test_every_model_and_baseline_is_in_every_section(self, page):
        text = text_of(page)
        for label in ("linear_probe@hog", "improved_cnn", "vit_pretrained (random init)"):
            assert text.count(label) >= 6, label
        for kind in TRIVIAL_KINDS:
            assert f"{kind} (sees no face)" in text

    def test_the_headline_says_what_was_predicted_and_that_nothing_was_audited(self, page):
        text = text_of(page)
        assert "Smile: agreement with AFFDEX" in text
        assert "as coded by AFFDEX (a tool, not a person)" in text
        assert "Not audited: exploratory" in text
        assert "With 12 participants it could at most be exploratory" in text
        assert "no claim yet." in text
        assert "synthetic" not in text

    def test_scores_are_the_ones_of_the_run(self, page, run):
        text = text_of(page)
        for model in read_json(run / "comparison.json")["models"]:
            score = model["balanced_accuracy"]
            written = [f"{score[key]:.2f}".removeprefix("0") for key in ("mean", "low", "high")]
            assert f"{written[0]} [{written[1]}, {written[2]}]" in text
            assert score["n"] == 11  # one participant of 12 has no positives
        assert "(11 of 12 people)" in text

    def test_failures_exclusions_and_settings_are_told(self, page):
        text = text_of(page)
        for told in (
            "no face found",
            "1,203",
            "LE 3299 <screen>",
            "Export the recording again.",
            "resnet50_pretrained",
        ):
            assert told in text, told
        for told in ("phases.head.rate", "dataset.hash", "mien compare DATASET", "1,699,841", "410.0 M", "3 min 20 s"):
            assert told in text, told

    def test_overfitting_is_flagged_and_probes_have_no_curve(self, page, run):
        flagged = [
            m["name"] for m in read_json(run / "comparison.json")["models"] if (m["overfitting"] or {}).get("detected")
        ]
        assert 0 < len(flagged) == text_of(page).count("overfitting Validation loss")
        assert text_of(page).count("so it has no learning curve") == 1
        assert "at the end of the epoch, without dropout and augmentation" in text_of(page)

    def test_it_is_one_file_without_requests(self, page):
        assert set(re.findall(r"https?://[^\"' <]*", page)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }
        assert all(address.startswith("#") for address in Page(page).addresses)
        assert "<script" not in page
        assert "@import" not in page
        assert set(re.findall(r"url\((.)", page)) <= {"#"}

    def test_names_are_escaped(self, page):
        text = text_of(page)
        assert "<b>Smile" not in page
        for told in (AWKWARD_ID, "not <b>Smile</b>", "Smile & co", "Interviews <2024>"):
            assert told in text, told

    def test_names_break_at_their_joints_only(self, page):
        assert '<th scope="row">linear_probe@<wbr>hog</th>' in page
        css = page[page.index("<style>") : page.index("</style>")]
        for rule in re.findall(r"[^{}]*\{[^{}]*overflow-wrap: anywhere[^{}]*\}", css):
            assert ".scores" not in rule, rule
            assert ".confusion" not in rule, rule

    def test_headline_and_notes_of_a_binary_comparison(self, page):
        text = text_of(page)
        assert "Positive clips" in text
        assert "s of it positive" in text
        assert "Positive participants" not in text
        assert "per class" not in text
        assert "Picking the best of several models by these very scores flatters it" in text
        assert "Loss while training" in text
        assert "believable" not in text

    def test_participant_ids_stay_text(self, page):
        assert ">NA</th>" in page

    def test_ids_are_unique_and_references_resolve(self, page):
        parsed = Page(page)
        assert len(parsed.ids) == len(set(parsed.ids)) > 0
        references = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page))
        assert references <= set(parsed.ids)
        assert references

    def test_the_same_run_gives_the_same_bytes(self, page, run):
        assert write_comparison_report(run).read_text(encoding="utf-8") == page


class TestTolerance:
    def test_null_keys(self, run):
        original = read_json(run / "comparison.json")
        bare = [{"name": model["name"]} for model in original["models"]]
        nulls = {key: None for key in original if key not in ("models", "kind", "classes")}
        text = text_of(rewritten(run, **nulls, models=bare))
        assert "Comparison of models" in text
        assert "improved_cnn" in text
        assert "Nothing was excluded, and nothing failed." in text
        assert "None" not in text
        assert "nan" not in text

    def test_null_scores(self, run):
        models = read_json(run / "comparison.json")["models"]
        empty = {"mean": None, "low": None, "high": None, "n": 0}
        model = models[0] | dict.fromkeys(("balanced_accuracy", "f1", "auroc"), empty) | {"prevalence": None}
        text = text_of(rewritten(run, models=[model | {"confusion": [[3, 1], [0, 0]], "overfitting": None}]))
        assert "– (0 of 12 people)" in text
        assert "None" not in text

    def test_only_comparison_json(self, run, tmp_path):
        write_json(tmp_path / "comparison.json", read_json(run / "comparison.json"))
        text = text_of(write_comparison_report(tmp_path).read_text(encoding="utf-8"))
        assert "no predictions.parquet" in text
        assert "no scores.csv" in text

    def test_a_refused_comparison_prints_no_score(self, run):
        html = rewritten(run, verdict="refused", reasons=["Copies of one person under 5 ids."])
        assert "Copies of one person under 5 ids." in html
        assert "<svg" not in html
        assert "F1" not in html

    def test_no_run(self, tmp_path):
        with pytest.raises(UserError, match=r"comparison\.json"):
            write_comparison_report(tmp_path)

    def test_synthetic_studies_say_so(self, run):
        assert "This study is synthetic:" in text_of(rewritten(run, study={"name": "demo", "synthetic": True}))
        assert "This study is synthetic:" in text_of(rewritten(run, study=None, label_source="synthetic"))

    def test_multiclass(self, tmp_path):
        scheme = LabelScheme("Mood", "multiclass", ("calm", "glad", "sad"), "human")
        generator = np.random.default_rng(0)
        clips = clips_table(4).assign(model="m", fold=0)
        clips["target"] = pd.array(generator.integers(0, 3, len(clips)), dtype="Int64")
        clips[[f"prob_{name}" for name in scheme.classes]] = generator.dirichlet([1, 1, 1], len(clips))
        scores = participant_scores(clips, scheme)
        write_parquet(tmp_path / "predictions.parquet", clips)
        write_csv(tmp_path / "scores.csv", scores)
        model = {"name": "m"} | summarise_model(scores, folds=2)
        facts = {
            "kind": "multiclass",
            "classes": list(scheme.classes),
            "target": "Mood",
            "participants": 4,
            "models": [model],
        }
        write_json(tmp_path / "comparison.json", facts)
        text = text_of(write_comparison_report(tmp_path).read_text(encoding="utf-8"))
        assert "4 participants with two or more classes" in text
        counts = clips["target"].value_counts()
        for code, name in enumerate(scheme.classes):
            assert f"{name}: {counts[code]} ({100 * counts[code] / len(clips):.0f} %)" in text
        assert "Clips per class" in text
        assert "Positive clips" not in text
        assert "Picking the best" not in text, "one model has no rival"
        assert "Loss while training" not in text, "no model has a curve"
        assert "False alarms" not in text
        assert "calm glad sad" in text

    def test_one_label_per_participant(self, run, tmp_path):
        scheme = LabelScheme("Arm", "binary", ("drug", "placebo"), "self-report", unit="participant")
        clips = clips_table(10).assign(model="m", fold=0)
        number = clips["recording_id"].str[1:].astype(int)
        clips["target"] = (number % 2).astype("Int64")
        clips["prob_placebo"] = np.where(number < 8, 0.9 * (number % 2), 0.6)  # the last two are called placebo
        scores = participant_scores(clips, scheme)
        write_parquet(tmp_path / "predictions.parquet", clips)
        write_csv(tmp_path / "scores.csv", scores)
        original = read_json(run / "comparison.json")
        facts = {"kind": "binary", "classes": list(scheme.classes), "unit": "participant", "participants": 10}
        models = [{"name": "m"} | summarise_model(scores, folds=2)]
        baselines = {"majority": models[0]}
        write_json(tmp_path / "comparison.json", original | facts | {"models": models, "baselines": baselines})
        page = write_comparison_report(tmp_path).read_text(encoding="utf-8")
        text = text_of(page)
        assert "Each participant has one label, so each counts once" in text
        assert "The unit is the participant" in text
        assert "Positive participants 5 of 10" in text
        assert "Positive clips" not in text
        assert "s of it positive" not in text
        assert "Clopper and Pearson" in text
        assert "averaged over participants" not in text
        # 9 of 10 are right: exact binomial .55 to 1.00.
        assert ".90 [.55, 1.00]" in text
        assert "[" not in text_of(re.findall(r'<tr class="trivial">.*?</tr>', page, re.DOTALL)[0]), "no interval"
        assert "one curve over 10 participants, each counted once" in text
        assert (text.count(" right"), text.count(" wrong")) >= (9, 1)
        assert page.count(">right</td>") == 9
        assert page.count(">wrong</td>") == 1
        strip = page[page.index('class="strip wide"') : page.index("</figure>")]
        means = r'<use [^>]*style="fill: var\(--(series-a|baseline)[^>]*>'
        assert "<use" not in re.sub(means, "", strip), "no participant's dot"
        assert "nan" not in text

    def test_other_prevalences_are_shown_where_the_run_has_them(self, run, page):
        assert "rarer or more frequent" not in page
        scores = read_scores(run)
        original = read_json(run / "comparison.json")["models"]
        models = [
            model | {"prevalence_sweep": prevalence_sweep(scores[scores["model"] == model["name"]])}
            for model in original
        ]
        text = text_of(rewritten(run, models=models))
        assert "0 % positive 10 % positive 30 % positive 70 % positive 100 % positive" in text
        row = models[1]["prevalence_sweep"][1]
        written = [f"{row[key]:.2f}".removeprefix("0") for key in ("accuracy", "f1", "predicted_prevalence")]
        assert f"{written[0]} F1 {written[1]} says {written[2]}" in text
        assert "11 participants" in text

    def test_models_that_share_a_label_are_told_apart(self, run):
        first, second, third = read_json(run / "comparison.json")["models"]
        models = [
            first | {"name": "probe@a/model.onnx", "label": "probe@model", "settings": {"c": 0.125}},
            second | {"name": "probe@b/model.onnx", "label": "probe@model", "settings": {"c": 0.625}},
            third,
        ]
        text = text_of(rewritten(run, models=models))
        for told in ("Settings of probe@a/model.onnx", "Settings of probe@b/model.onnx", "0.125", "0.625"):
            assert told in text, told
        assert "probe@model" not in text
        for name in ("probe@a/model.onnx", "probe@b/model.onnx"):
            assert text.count(name) >= 6, name  # strip, table, curves, confusion, ROC, models
        assert "vit_pretrained (random init)" in text


class TestCharts:
    def test_text_stays_text_and_is_escaped(self):
        row = charts.StripRow("a <b> & $x_1$", ".80 [.70, .90]", 0.8, 0.7, 0.9, [0.7, 0.9])
        svg = charts.strip_chart([row], name="strip", width_px=400, title='"quoted" <title>')
        assert "a &lt;b&gt; &amp; $x_1$" in svg
        assert 'aria-label="&quot;quoted&quot; &lt;title&gt;"' in svg

    def test_dots_lie_at_their_scores(self):
        values = [0.5, 0.75, 1.0]
        svg = charts.strip_chart(
            [charts.StripRow("m", "", 0.75, None, None, values)], name="s", width_px=400, title="t"
        )
        xs = sorted(float(x) for x in re.findall(r'<use [^>]*\bx="([\d.]+)"[^>]*fill-opacity', svg))
        assert len(xs) == 3
        assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.01)

    def test_colours_come_from_the_page(self):
        svg = charts.roc_chart(np.array([0.0, 1.0]), [np.array([0.0, 1.0])], name="roc", title="t")
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {fallback for _, fallback in charts.THEME.values()}
        assert "var(--series-a, #0072b2)" in svg


class TestWording:
    @pytest.mark.parametrize(
        ("verdict", "tone"),
        [(None, "open"), ("exploratory", "exploratory"), ("supported", "supported"), ("refused", "refused")],
    )
    def test_verdicts(self, verdict, tone):
        assert verdict_of({"verdict": verdict, "participants": 72}).tone == tone

    def test_nobody_feels(self, page):
        assert not re.search(r"the person feels|\bhappy\b|true emotion", text_of(page))
        for source in ("human", "self-report", "stimulus", "synthetic", "tool:X", None, "peers"):
            assert annotated_by(source).startswith("as ")

    def test_titles_and_names(self):
        assert (
            report_title({"title": "Smile (agreement with AFFDEX)", "label_source": "tool:AFFDEX"}).count("AFFDEX") == 1
        )
        assert report_title({"title": "Smile", "label_source": "human"}) == "Smile"
        assert display_name({"name": "m", "weights_note": "Random init, no weights"}) == "m (random init)"
        assert (
            display_name({"name": "m", "label": "m (random init)", "weights_note": "random init"}) == "m (random init)"
        )
