"""The report of a plausible run: complete, self-contained, escaped, and tolerant of what a run doesn't know yet."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme, annotated_by
from mien.core.storage import read_json, write_csv, write_json, write_parquet
from mien.evaluation.baselines import TRIVIAL_KINDS
from mien.evaluation.prevalence import prevalence_sweep
from mien.evaluation.scores import participant_scores, summarise_model
from mien.report import charts
from mien.report.comparison_report import write_comparison_report
from mien.report.wording import display_name, headline_of, report_title
from report_runs import (
    AWKWARD_ID,
    Page,
    clips_table,
    make_run,
    read_scores,
    rewritten,
    text_of,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return write_comparison_report(run).read_text(encoding="utf-8")


class TestPage:
    def test_every_model_and_baseline_is_in_every_section(self, page):
        text = text_of(page)
        for label in ("linear_probe@hog", "improved_cnn", "vit_pretrained (random init)"):
            assert text.count(label) >= 6, label
        for kind in TRIVIAL_KINDS:
            assert text.count(kind) >= 2, kind

    def test_the_headline_says_what_was_predicted_and_that_nothing_was_audited(self, page):
        text = text_of(page)
        assert "Smile: agreement with AFFDEX" in text
        assert "as coded by AFFDEX (a tool, not a person)" in text
        assert "NOT AUDITED: neither the audit" in text
        assert "With 12 participants it could at most be exploratory" in text
        assert "Permits: no claim." in text
        assert "audit: not run" in text
        assert "synthetic" not in text

    def test_scores_are_the_ones_of_the_run(self, page, run):
        text = text_of(page)
        for model in read_json(run / "comparison.json")["models"]:
            score = model["balanced_accuracy"]
            written = [f"{score[key]:.2f}".removeprefix("0") for key in ("mean", "low", "high")]
            assert f"{written[0]} [{written[1]}, {written[2]}]" in text
            assert score["n"] == 11  # one participant of 12 has no positives
        assert text.count("11 of 12 people") == 1, "said once, above the column"

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
        assert re.search(r"Per participant \d+ s median; \d+ s positive", text)
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
        assert "– 0 of 12 people" in text
        assert "None" not in text

    def test_only_comparison_json(self, run, tmp_path):
        write_json(tmp_path / "comparison.json", read_json(run / "comparison.json"))
        text = text_of(write_comparison_report(tmp_path).read_text(encoding="utf-8"))
        assert "no predictions.parquet" in text
        assert "no scores.csv" in text

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
        assert "balanced accuracy over participants" in text
        assert "Positive participants 5 of 10" in text
        assert re.search(r"Per participant \d+ s median Positive participants", text)
        assert "Clopper and Pearson" in text
        assert "averaged over participants" not in text
        # 9 of 10 are right: exact binomial .55 to 1.00.
        assert ".90 [.55, 1.00]" in text
        assert "[" not in text_of(re.findall(r'<tr class="trivial">.*?</tr>', page, re.DOTALL)[0]), "no interval"
        assert "one curve over 10 participants, each counted once" in text
        assert (text.count(" right"), text.count(" wrong")) >= (9, 1)
        assert page.count(">right</td>") == 9
        assert page.count(">wrong</td>") == 1
        assert 'class="mean"' in page
        assert 'class="dot"' not in page, "nobody has a balanced accuracy of their own"
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
        history = [{"train_loss": 0.5, "validation_loss": 0.6, "phase": "all"}] * 3
        svg = charts.learning_curves({0: history}, name="curve", title='"quoted" <title> $x_1$')
        assert ">loss</text>" in svg
        assert 'aria-label="&quot;quoted&quot; &lt;title&gt; $x_1$"' in svg

    def test_reliability_leaves_empty_bins_out(self):
        full = {"count": 8, "mean_probability": 0.25, "observed": 0.5}
        empty = {"count": 0, "mean_probability": None, "observed": None}
        svg = charts.reliability_chart([(False, [full, empty]), (True, [full])], name="r", title="t")
        assert len(re.findall("<use [^>]*fill-opacity: 0.85", svg)) == 2
        assert "nan" not in svg

    def test_coverages_have_their_own_intervals_and_means_over_fewer_people_are_hollow(self):
        scores = ((1.0, 0.8, 0.7, 12), (0.8, 0.9, 0.3, 12), (0.5, 1.0, None, 9))  # kept, mean, low, people
        curve = [
            {"kept": kept, "balanced_accuracy": {"mean": mean, "low": low, "high": low and 1.0, "n": people}}
            for kept, mean, low, people in scores
        ]
        svg = charts.coverage_chart(curve, name="c", title="t")
        hollow, filled = (len(re.findall(f"<use [^>]*fill: var\\(--{name},", svg)) for name in ("surface", "series-a"))
        assert (hollow, filled) == (1, 2)
        bars = re.search('<g id="c-LineCollection_1">(.*?)</g>', svg, flags=re.DOTALL)[1]
        assert bars.count("<path") == 2  # of two coverages; no band between them
        assert "c-FillBetween" not in svg and "c-PolyCollection" not in svg and "nan" not in svg

    def test_colours_come_from_the_page(self):
        svg = charts.roc_chart(np.array([0.0, 1.0]), [np.array([0.0, 1.0])], name="roc", title="t")
        assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {fallback for _, fallback in charts.THEME.values()}
        assert "var(--series-a, #0072b2)" in svg


class TestWording:
    @pytest.mark.parametrize(
        ("verdict", "tone", "word"),
        [
            (None, "open", "NOT AUDITED"),
            ("exploratory", "exploratory", "EXPLORATORY"),
            ("supported", "supported", "SUPPORTED"),
            ("refused", "refused", "REFUSED"),
        ],
    )
    def test_verdicts(self, verdict, tone, word):
        headline = headline_of({"verdict": verdict, "participants": 72})
        assert (headline.tone, headline.word) == (tone, word)
        assert headline.permits.startswith("no claim. ")

    def test_a_claim_that_is_not_permitted_has_its_reason_beside_it(self):
        reasons = ["No model was shown to be above chance.", "12 independent participants; 20 are needed."]
        headline = headline_of({"verdict": "exploratory", "verdict_reasons": reasons})
        assert headline.permits == f"no claim. {reasons[0]}"
        assert headline.why == reasons[1]
        permitted = headline_of(
            {"verdict": "exploratory", "verdict_reasons": reasons[1:], "permitted_claim": "It works."}
        )
        assert (permitted.permits, permitted.why) == ("It works.", reasons[1])

    def test_what_is_not_permitted_comes_from_the_comparison(self):
        assert headline_of({"not_permitted": ["a", "b"]}).not_permitted == "a; b."
        assert "felt emotion" in headline_of({}).not_permitted

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
