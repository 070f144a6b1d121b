"""The first screen of a report, what stands in which order below it, and the page of a refusal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mien.core.storage import read_json, write_json
from mien.report.comparison_report import write_comparison_report
from mien.report.differences import RopeBar
from mien.report.strips import HEIGHT_PX, Scale, dot_strip
from report_runs import CHECKS, MODELS, NO_P, Page, check, evidence_of, make_run, read_scores, rewritten, text_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def full(run):
    """The page of a comparison with everything that the contract knows."""
    return rewritten(run, **evidence_of(run))


def first_screen(html: str) -> str:
    return text_of(html[html.index('<section class="verdict') :].partition("</section>")[0] + "</section>")


class TestFirstPage:
    def test_it_says_what_the_result_permits_in_the_order_of_the_rules(self, full):
        text = first_screen(full)
        order = [
            "SUPPORTED: no leak was found by these checks",
            "Permits: In people of this study, linear_probe agrees with AFFDEX",
            "Does not permit: a claim about felt emotion; about groups under 10 people.",
            "Participants 12 independent",
            "as coded by AFFDEX",
            "Folds 4",
            "Configurations 3 17 ever on this target",
            "Confirmatory: The run follows plan c0ffee.",
            "recommended; chance .50, p .002",
            "selected",
            "what choosing the best model really gives",
            "nuisances",
            "With people mixed across folds it would show .90: identity and neighbouring frames, not skill on new",
            "audit: 2 ok, 1 warn, 0 fail, 1 not checked — nuisances .66 warn · copies 2 · clock ±12 ms",
        ]
        places = [text.index(told) for told in order]
        assert places == sorted(places)

    def test_differences_have_the_sign_of_their_row(self, full):
        text = first_screen(full)
        assert "Δ −.06 [−.09, −.03], p .002, worse .99" in text, (
            "tested as probe minus cnn, shown in the row of the cnn"
        )
        assert "Δ −.01 [−.05, .03], no p" in text
        assert "Δ to linear_probe@hog" in text

    def test_each_family_of_baselines_has_one_row_and_the_rest_a_line(self, full):
        rows = re.findall(r'<tr class="baseline"><th scope="row">([^<]*)', full)
        assert rows == ["nuisances", "face hidden", "peer"]
        assert "For comparison: majority .50 · prior" in first_screen(full)
        assert "nuisances+recording .61" in first_screen(full)

    def test_a_dot_is_there_for_everybody_with_a_score(self, full, run):
        scores = read_scores(run)
        defined = scores[scores["model"].isin(MODELS)]["balanced_accuracy"].notna().sum()
        assert full.count('class="dot"') == defined

    def test_many_models_fold_away(self, run):
        model = read_json(run / "comparison.json")["models"][0]
        html = rewritten(run, models=[model | {"name": f"m{number}", "label": f"m{number}"} for number in range(9)])
        assert "3 more models, none of which scores higher" in first_screen(html)
        assert "Configurations 10" in first_screen(html), "nine models and the one that failed"

    def test_overrides_are_on_it(self, run):
        changed = {"verdict": "exploratory", "verdict_reasons": ["Overridden by the user: nuisances."]}
        changed["permitted_claim"] = "It works."
        checks = [check("nuisances", "fail", advice="Record evenly.")]
        html = rewritten(run, **changed, overrides=["nuisances"], audit={"verdict": "fail", "checks": checks})
        assert "EXPLORATORY: Overridden by the user: nuisances." in first_screen(html)
        assert "Overridden by the user: nuisances. This check fails" in first_screen(html)
        assert "fail overridden by the user" in text_of(html)

    def test_independent_groups_and_merged_ids_are_counted(self, run):
        assert "in 7 independent groups" in first_screen(rewritten(run, independent=7))
        html = rewritten(run, merged_participants=[["P01", "P02", "P03"]], audit={"checks": CHECKS})
        assert "3 ids count as 1" in first_screen(html)
        assert "P01 = P02 = P03" in text_of(html)

    def test_no_gap_is_no_alarm(self, run):
        gap = {"frame_split": 0.8, "participant_split": 0.8, "features": "hog"}
        assert "it would show .80, no more than with people apart" in first_screen(rewritten(run, leakage_gap=gap))


class TestEvidence:
    def test_sections_come_in_the_order_of_the_rules(self, full):
        headings = re.findall(r"<h2>([^<]*)</h2>", full)
        wanted = [
            "How well each model does on people it never saw",
            "Is one model really better than another?",
            "Is a model better than chance?",
            "The audit: what was checked",
            "Who and what is left, step by step",
            "Do the probabilities mean what they say?",
            "If a model may stay silent where it is unsure",
            "By group of people",
            "Learning curves",
            "Which classes are confused",
            "Independent of the threshold: ROC curves",
            "The models",
            "What is not in these scores",
            "Settings, versions, and how to do it again",
            "Appendix: items of reporting checklists",
        ]
        assert headings == wanted

    def test_differences(self, full):
        text = text_of(full)
        for told in ("+.06 [.03, .09]", "+.73", ".041", "+.06 SD .02", NO_P, "no network was shown to beat it"):
            assert told in text, told
        assert 'aria-label="worse .00, same .01, better .99"' in full
        table = full[full.index('<section id="differences">') :].partition("</section>")[0]
        assert table.count("note-of-p") == 1

    def test_chance(self, full):
        table = text_of(full[full.index('<section id="chance">') :].partition("</section>")[0] + "</section>")
        assert ".002 < .001 .50 .54 1,999 circular shifts of each recording's labels" in table
        assert "vit_pretrained" not in table, "it wasn't tested"

    def test_audit(self, full, run):
        text = text_of(full)
        assert "nuisances warn nuisances .66 lower bound .55 About nuisances. Record evenly." in text
        assert "same-person not checked – – About same-person. Look at recordings.csv ." in text
        assert 'id="check-clock"' in full
        assert "audit.html" not in full
        try:
            (run / "audit.html").write_text("a page")
            assert '<a href="audit.html">' in rewritten(run, **evidence_of(run))
        finally:
            (run / "audit.html").unlink()

    def test_probabilities(self, full):
        text = text_of(full)
        assert "+.041 .062 − .021" in text
        assert "1 of 1 folds kept the probabilities as they are. Not calibrated: 8 people." in text
        assert "At 80 % kept, 3 of 12 people keep less than 50 % of their time, 1 of them nothing." in text
        assert "least 30 %" in text

    def test_groups_below_ten_people_permit_no_claim(self, full):
        rows = re.findall(r"<tr[^>]*><th scope=\"row\">(?:wo)?men<.*?</tr>", full)
        assert ["no claim below 10 people" in row for row in rows] == [False, True]

    def test_the_page_of_everything_is_still_whole(self, full):
        parsed = Page(full)
        assert len(parsed.ids) == len(set(parsed.ids))
        assert set(re.findall(r'href="#([^"]+)"', full)) <= set(parsed.ids)
        assert not re.search(r"\bnan\b|\bNone\b", text_of(full))

    def test_a_baseline_that_was_drawn_anew_has_its_sweep(self, run):
        rows = [
            {"prevalence": q, "accuracy": 0.9, "f1": 0.8, "predicted_prevalence": q, "participants": 11} for q in (0, 1)
        ]
        models = read_json(run / "comparison.json")["models"]
        reweighted = [model | {"prevalence_sweep": rows} for model in models]
        assert "Not measured here for linear_probe@hog" in text_of(rewritten(run, models=reweighted))
        redrawn = [reweighted[0] | {"resampled_sweep": [row | {"sensitivity": 0.25} for row in rows]}, *models[1:]]
        text = text_of(rewritten(run, models=redrawn))
        assert "drawn anew, baseline recording" in text
        assert "finds .25" in text
        assert "Not measured here" not in text


class TestRefusal:
    SENTINEL = 0.4321

    def spoilt(self, value: Any) -> Any:
        """The same JSON with every fraction replaced, so that any of them is known again on the page."""
        if isinstance(value, dict):
            return {key: self.spoilt(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.spoilt(item) for item in value]
        return self.SENTINEL if isinstance(value, float) else value

    def refused(self, run: Path) -> str:
        checks = [
            check("copies", "fail", title="copies across participants", measured=10, advice="Give copies one id."),
            check("clock"),
        ]
        reasons = ["copies across participants (copies): About copies. Give copies one id.", "One person is left."]
        changes = self.spoilt(evidence_of(run)) | {"verdict": "refused", "verdict_reasons": reasons}
        facts = {"minutes": 3.0, "fps": 2.0, "median_seconds_per_participant": 20.0}
        facts["median_positive_seconds_per_participant"] = 5.0
        merged = {"merged_participants": [["P01", "P02", "P03", "P04", "P05"]]}
        return rewritten(run, **changes | facts | merged | {"audit": {"verdict": "fail", "checks": checks}})

    def test_no_score_is_printed_whatever_the_file_holds(self, run):
        html = self.refused(run)
        for score in (
            ".43",
            "0.4321",
            "<svg",
            "F1",
            "AUROC",
            "balanced accuracy",
            "improved_cnn",
            "agrees with AFFDEX",
        ):
            assert score not in html.replace(read_json(run / "comparison.json")["command"], ""), score

    def test_it_says_why_and_what_to_do(self, run):
        text = text_of(self.refused(run))
        assert "REFUSED: copies across participants Permits: no claim." in text
        assert "One person is left." in text
        assert text.count("Give copies one id.") == 2, "under the reasons and in the table"
        assert "P01 = P02 = P03 = P04 = P05" in text
        assert "--override copies" in text

    def test_nothing_is_read_that_holds_scores(self, tmp_path):
        facts = {"verdict": "refused", "verdict_reasons": ["Nothing to test."], "models": None}
        write_json(tmp_path / "comparison.json", facts)
        (tmp_path / "scores.csv").write_bytes(b"\xff\xfe not a table")
        (tmp_path / "predictions.parquet").write_bytes(b"not a table")
        assert "REFUSED: Nothing to test." in text_of(write_comparison_report(tmp_path).read_text(encoding="utf-8"))


class TestRope:
    @pytest.mark.parametrize(
        ("shares", "swapped", "text"),
        [
            ((0.001, 0.009, 0.99), False, "better .99"),
            ((0.001, 0.009, 0.99), True, "worse .99"),
            ((0.0, 0.001, 0.999), False, "better > .99"),
            ((0.949, 0.051, 0.0), False, "inconclusive (worse .94)"),
        ],
    )
    def test_words(self, shares, swapped, text):
        rope = dict(zip(("worse", "same", "better"), shares, strict=True))
        assert RopeBar.of(rope, swapped=swapped).text.replace("\N{NO-BREAK SPACE}", " ") == text

    def test_none_where_there_is_no_spread(self):
        assert RopeBar.of({"worse": None, "same": None, "better": None}) is None


class TestStrips:
    SCALE = Scale.of([0.5, 0.75, 1.0])

    def strip(self, values, **changes):
        shown = {"mean": 0.75, "low": 0.6, "high": 0.9, "scale": self.SCALE, "kind": "model", "title": "m"}
        return str(dot_strip(values, **(shown | changes)))

    def test_dots_lie_at_their_scores(self):
        strip = self.strip([0.5, 0.75, 1.0])
        xs = sorted(float(x) for x in re.findall(r'class="dot" cx="([\d.]+)%"', strip))
        assert len(xs) == 3
        assert xs[1] == pytest.approx((xs[0] + xs[2]) / 2, abs=0.01)
        mean = re.search(r'class="mean" x="([\d.]+)%"', strip)
        assert float(mean[1]) == pytest.approx(xs[1], abs=0.01)
        ends = re.search(r'class="bar" x1="([\d.]+)%" x2="([\d.]+)%"', strip)
        assert xs[0] < float(ends[1]) < xs[1] < float(ends[2]) < xs[2]

    def test_equal_scores_fan_out_within_the_row(self):
        heights = [float(y) for y in re.findall(r'class="dot" cx="[\d.]+%" cy="([\d.]+)"', self.strip([0.8] * 9))]
        assert len(set(heights)) == 9
        assert 0 < min(heights) < max(heights) < HEIGHT_PX["model"]

    def test_what_is_undefined_is_not_drawn(self):
        assert not re.search("dot|bar|mean", self.strip([], mean=None, low=None, high=None))

    def test_the_scale_shows_everybody(self):
        assert Scale.of([0.83, None, 0.9]).ticks[0] == 0.4
        assert Scale.of([0.27]).ticks[0] == 0.2
        assert Scale.of([]).ticks[-1] == 1.0

    def test_titles_are_escaped(self):
        assert 'aria-label="&#34;quoted&#34; &lt;b&gt;"' in self.strip([0.5], title='"quoted" <b>')
