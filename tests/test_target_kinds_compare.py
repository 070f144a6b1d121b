"""Comparisons of several channels and of numbers: views, tests over all channels, verdicts, and what a run writes."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from channel_datasets import ARM, LEVEL, RARE, add_schemes
from mien.cli.model_commands import show_scores
from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.core.numbers import short_number
from mien.core.types import Split
from mien.crossval.compare import plan_comparison, run_comparison
from mien.crossval.plan import write_plan
from mien.crossval.selection import choose_over_channels
from mien.data.attempts import count_configurations, record_attempts
from mien.evaluation.channel_verdict import ChannelVerdict, decide_channel, decide_channels
from mien.evaluation.continuous_chance import ccc_against_chance
from mien.evaluation.scores import participant_scores, summarise_model
from mien.evaluation.verdict import Evidence, refuse
from mien.evaluation.views import (
    check_answers,
    continuous_findings,
    mean_over_channels,
    multilabel_findings,
    view_predictions,
)
from mien.models.choice import parse_models
from mien.report.channels import channel_context
from mien.report.page import nullable
from mien.report.wording import display_names
from mien.training.config import TrainConfig
from mien.training.settings import FitSettings
from report_runs import Page, rewritten, text_of

NOTHING = re.compile(r"\bnan\b|\bNone\b(?! was given)")
TINY = FitSettings(training=TrainConfig(image_size=32, epochs=1, batch_size=16))
BOTH = LabelScheme("A,B", "multilabel", ("A", "B"), "human")
NUMBER = LabelScheme("V", "continuous", ("V",), "human")


def predictions(scheme, *, people=6, clips=20, skill=2.0, seed=0, model="m"):
    """Labels in runs of five clips, answers that follow them by `skill`; what somebody showed first is unknown."""
    generator = np.random.default_rng(seed)
    parts = []
    for person in range(people):
        rows = pd.DataFrame(
            {"clip_id": [f"r{person}@{i}" for i in range(clips)], "start_s": np.arange(clips, dtype=float)}
        )
        rows["end_s"] = rows["start_s"] + 1
        rows = rows.assign(model=model, fold=person % 2, recording_id=f"r{person}", participant_id=f"p{person}")
        rows = rows.assign(group=f"p{person}", segment_id="", face_found=True, run="x", target=0)
        for number, name in enumerate(scheme.channels):
            shown = (np.arange(clips) // 5 + person + number) % 2
            noise = generator.normal(0, 1, clips)
            if scheme.kind == "continuous":
                rows[f"target_{name}"] = shown + 0.1 * np.sin(np.arange(clips)) + 10.0 * person
                rows[f"value_{name}"] = rows[f"logit_{name}"] = skill * shown + noise
            else:
                rows[f"target_{name}"] = shown.astype(float)
                rows[f"logit_{name}"] = skill * (2 * shown - 1) + noise
                rows[f"prob_{name}"] = 1 / (1 + np.exp(-rows[f"logit_{name}"]))
            rows.loc[0, f"target_{name}"] = np.nan
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


SPLITS = [
    Split(0, train=("p1",), validation=("p3", "p5"), test=("p0", "p2", "p4"), seed=0),
    Split(1, train=("p0",), validation=("p2", "p4"), test=("p1", "p3", "p5"), seed=0),
]


def inner_of(table):
    """What the inner split of each fold would be predicted: the same answers, in the other fold."""
    inner = table.assign(fold=1 - table["fold"])
    validated = {0: ("p3", "p5"), 1: ("p2", "p4")}
    keep = [person in validated[fold] for person, fold in zip(inner["participant_id"], inner["fold"], strict=True)]
    return inner[keep].reset_index(drop=True)


class TestViews:
    def test_a_channel_has_its_own_probability_and_only_known_labels(self):
        table = predictions(BOTH)
        view = view_predictions(table, scheme=BOTH, channel="B")
        assert len(view) == len(table) - 6
        assert view["prob_B"].tolist() == table.loc[view.index, "prob_B"].tolist()
        assert view["target"].tolist() == table.loc[view.index, "target_B"].tolist()
        assert not {"prob_A", "target_A", "target_B"} & set(view)
        assert summarise_model(participant_scores(view, BOTH.view("B")), folds=2)["balanced_accuracy"]["n"] == 6

    def test_a_number_becomes_its_place_within_the_person(self):
        table = predictions(NUMBER)
        view = view_predictions(table, scheme=NUMBER, channel="V")
        output = NUMBER.view("V").output_names[0]
        for person, rows in view.groupby("participant_id"):
            values = table.loc[rows.index, "value_V"]
            np.testing.assert_allclose(rows[f"prob_{output}"], (rankdata(values) - 0.5) / len(rows))
            labels = table.loc[rows.index, "target_V"]
            assert rows["target"].tolist() == (labels > labels.median()).astype(int).tolist(), person
            assert roc_auc_score(rows["target"], rows[f"prob_{output}"]) == roc_auc_score(rows["target"], values)
            says = (rows[f"prob_{output}"] >= 0.5).sum()
            assert abs(says - len(rows) / 2) <= 1, "half of the moments lie above the own median"

    def test_one_number_throughout_has_no_skill(self):
        table = predictions(NUMBER).assign(value_V=3.0)
        scheme = NUMBER.view("V")
        scores = participant_scores(view_predictions(table, scheme=NUMBER, channel="V"), scheme)
        assert scores["balanced_accuracy"].tolist() == [0.5] * 6
        assert scores["auroc"].tolist() == [0.5] * 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"prob_B": 1.5}, "clips with a label of 'B' have a probability"),
            ({"prob_A": np.nan}, "clips with a label of 'A' have a probability"),
        ],
    )
    def test_answers_that_cannot_be_scored(self, change, message):
        with pytest.raises(UserError, match=message):
            check_answers(predictions(BOTH).assign(**change), scheme=BOTH)
        check_answers(predictions(BOTH), scheme=BOTH)
        with pytest.raises(UserError, match="lack the columns prob_B"):
            check_answers(predictions(BOTH).drop(columns="prob_B"), scheme=BOTH)
        with pytest.raises(UserError, match="isn't a finite number"):
            check_answers(predictions(NUMBER).assign(value_V=np.inf), scheme=NUMBER)
        with pytest.raises(UserError, match=r"Unknown channel 'C'\. Known: A, B"):
            view_predictions(predictions(BOTH), scheme=BOTH, channel="C")

    def test_mean_over_channels_is_over_those_that_are_defined(self):
        table = predictions(BOTH)
        table.loc[table["participant_id"] == "p0", "target_B"] = 0.0  # p0 never shows B
        scores = {
            name: participant_scores(view_predictions(table, scheme=BOTH, channel=name), BOTH.view(name))
            for name in "AB"
        }
        mean = mean_over_channels(scores).set_index("participant_id")
        a, b = (scores[name].set_index("participant_id")["balanced_accuracy"] for name in "AB")
        assert np.isnan(b["p0"]) and mean.loc["p0", "balanced_accuracy"] == a["p0"]
        assert mean.loc["p1", "balanced_accuracy"] == pytest.approx((a["p1"] + b["p1"]) / 2)
        summary = summarise_model(mean.reset_index(), folds=2)
        assert summary["balanced_accuracy"]["n"] == 6
        with pytest.raises(UserError, match="one label per participants"):
            mean_over_channels({"A": scores["A"].assign(scored_per="participants")})


class TestOwnScores:
    def test_thresholds_come_from_the_inner_split_alone(self):
        table = predictions(BOTH, skill=1.0)
        inner = inner_of(table)
        found = multilabel_findings(table, inner, channels=("A", "B"), splits=SPLITS)
        other = table.assign(prob_A=1 - table["prob_A"])
        again = multilabel_findings(other, inner, channels=("A", "B"), splits=SPLITS)
        assert found["channels"]["A"]["thresholds"] == again["channels"]["A"]["thresholds"]
        assert found["channels"]["A"]["f1"]["mean"] > again["channels"]["A"]["f1"]["mean"]
        assert found["channels_scored"] == 2 and found["macro_f1"]["n"] == 6
        moved = inner.assign(prob_A=inner["prob_A"] / 4)
        lower = multilabel_findings(table, moved, channels=("A", "B"), splits=SPLITS)["channels"]["A"]["thresholds"]
        np.testing.assert_allclose(lower, np.array(found["channels"]["A"]["thresholds"]) / 4)

    def test_a_fold_whose_inner_split_never_shows_a_channel_has_no_threshold(self):
        table = predictions(BOTH)
        inner = inner_of(table)
        inner.loc[inner["fold"] == 0, "target_B"] = 0.0
        found = multilabel_findings(table, inner, channels=("A", "B"), splits=SPLITS)
        assert np.isnan(found["channels"]["B"]["thresholds"]).tolist() == [True, False]
        assert found["channels"]["B"]["f1"]["n"] == 3, "the people of the other fold"

    def test_within_people_beside_pooled_and_the_persons_mean(self):
        table = predictions(NUMBER)
        level = table.assign(value_V=table.groupby("participant_id")["target_V"].transform("mean"))
        within = continuous_findings(table, channels=("V",), folds=2)["V"]
        knows_people = continuous_findings(level, channels=("V",), folds=2)["V"]
        assert within["ccc_pooled"]["mean"] < 0.1 < 0.9 < knows_people["ccc_pooled"]["mean"]
        assert knows_people["ccc_within"]["mean"] == 0.0
        assert knows_people["ccc_pooled"]["mean"] == pytest.approx(within["person_mean"]["ccc_pooled"]["mean"])

    def test_shifts_find_what_follows_and_not_what_knows_the_person(self):
        table = predictions(NUMBER, skill=3.0, people=8)
        assert ccc_against_chance(table, channel="V", seed=0).p < 0.01
        level = table.assign(value_V=table["participant_id"].str[1:].astype(float) * 10)
        assert ccc_against_chance(level, channel="V", seed=0).p == 1.0, "every shift ties with it"
        few = ccc_against_chance(table[table["participant_id"] < "p4"], channel="V", seed=0)
        assert few.p is None and "at least 6" in few.p_note
        still = ccc_against_chance(table.assign(target_V=1.0), channel="V", seed=0)
        assert still.p is None and "moves within nobody" in still.p_note

    def test_shifts_keep_their_level(self):
        """60 models without anything to find: p at most .05 in few of them."""
        table, generator = predictions(NUMBER, people=8), np.random.default_rng(0)
        drawn = [table.assign(value_V=generator.normal(size=len(table))) for _ in range(60)]
        ps = [ccc_against_chance(each, channel="V", seed=seed, draws=199).p for seed, each in enumerate(drawn)]
        assert np.mean(np.array(ps) <= 0.05) <= 0.12

    def test_one_model_is_chosen_per_fold_for_all_channels(self):
        good = predictions(BOTH, model="linear_probe@hog")
        bad = predictions(BOTH, skill=0.0, model="improved_cnn")
        inner = pd.concat([bad, good], ignore_index=True)
        choices = parse_models("improved_cnn,linear_probe@hog", default_baseline="none")
        views = {name: view_predictions(inner, scheme=BOTH, channel=name) for name in "AB"}
        chosen = choose_over_channels(views, schemes={n: BOTH.view(n) for n in "AB"}, folds=[0, 1], choices=choices)
        assert [item["model"] for item in chosen] == ["linear_probe@hog"] * 2


class TestVerdict:
    def evidence(self, name, *, p=0.001, low=0.86, participants=30):
        return Evidence(
            scheme=LabelScheme(name, "binary", (f"not {name}", name), "tool:AFFDEX"),
            participants=participants,
            label="the model",
            score={"mean": 0.9, "low": low, "high": 0.94},
            chance={"p": p, "p_holm": p, "p_note": "", "null_mean": 0.5},
            references={"nuisances": 0.6},
            above_references={"mean": 0.3, "low": 0.2, "high": 0.4},
        )

    def decided(self, *channels):
        return decide_channels(channels, label="the model", selected=None, num_models=1)

    def test_supported_only_where_every_channel_is(self):
        a = decide_channel("A", self.evidence("A"), participants_with_positive=30)
        b = decide_channel("B", self.evidence("B"), participants_with_positive=30)
        both = self.decided(a, b)
        assert both.verdict == "supported"
        assert "agrees with AFFDEX on A (balanced accuracy .90" in both.permitted_claim
        assert "on B (" in both.permitted_claim and "nuisances .60" in both.permitted_claim
        lost = decide_channel("B", self.evidence("B", p=0.4), participants_with_positive=30)
        one = self.decided(a, lost)
        assert one.verdict == "exploratory"
        assert "on A (" in one.permitted_claim and "on B (" not in one.permitted_claim
        assert "Of 2 channels, only these" in one.permitted_claim
        assert any(reason.startswith("B: No model was shown to be above chance") for reason in one.reasons)

    def test_rare_and_refused_channels_do_not_weigh_on_the_others_but_are_named(self):
        a = decide_channel("A", self.evidence("A"), participants_with_positive=30)
        rare = decide_channel("R", self.evidence("R"), participants_with_positive=4)
        assert rare.too_rare and not rare.holds
        refused = ChannelVerdict("X", refuse(["the label never varies."]))
        verdict = self.decided(a, rare, refused)
        assert verdict.verdict == "supported"
        assert "Of 3 channels, only these" in verdict.permitted_claim
        b = decide_channel("B", self.evidence("B", p=0.4), participants_with_positive=30)
        reasons = self.decided(a, b, rare, refused).reasons
        assert "Too rare, shown by fewer than 5 people: R." in reasons
        assert "Refused by the audit and dropped before any fit: X." in reasons
        nothing = self.decided(rare, refused)
        assert (nothing.verdict, nothing.permitted_claim) == ("exploratory", None)
        assert self.decided(refused).verdict == "refused"

    def test_what_all_share_is_said_once(self):
        channels = [
            decide_channel(n, self.evidence(n, participants=12), participants_with_positive=9) for n in ("A", "B")
        ]
        assert self.decided(*channels).reasons == ("12 independent participants; 20 are needed.",)
        lost = [
            decide_channel(n, self.evidence(n, p=0.4 + i / 100, low=0.7, participants=12), participants_with_positive=9)
            for i, n in enumerate("ABCDEF")
        ]
        assert self.decided(*lost).reasons == (
            "No channel was shown to hold.",
            "12 independent participants; 20 are needed.",
            "The interval is wider than ±.05.",
            "Not shown to hold: A, B, C, D, E, F.",
        )


def test_trying_a_list_counts_for_each_of_its_targets(tmp_path):
    given = {"settings": {}, "seed": 0}
    record_attempts(tmp_path, target="Smile,Speaking", run_id="1", models=["m"], **given)
    record_attempts(tmp_path, target="Smile", run_id="2", models=["n"], **given)
    counts = {name: count_configurations(tmp_path, name) for name in ("Smile", "Speaking", "Joy", "Speaking,Joy")}
    assert counts == {"Smile": 2, "Speaking": 1, "Joy": 0, "Speaking,Joy": 1}


# --- whole comparisons


@pytest.fixture(scope="module")
def dataset(drawn_dataset, tmp_path_factory):
    return add_schemes(drawn_dataset, tmp_path_factory.mktemp("channels") / "d")


def run(dataset, out, *, target, models, **given):
    plan = plan_comparison(dataset.path, target=target, models=models, out=out, folds=3, settings=TINY, **given)
    run_comparison(plan, command="mien compare (test)")
    return json.loads((out / "comparison.json").read_text())


@pytest.fixture(scope="module")
def multilabel(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(dataset, out, target=f"Smile,{ARM},Speaking,{RARE}", models="linear_probe@hog,improved_cnn"), out


@pytest.fixture(scope="module")
def continuous(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(dataset, out, target=LEVEL, models="linear_probe@hog"), out


def test_every_channel_is_judged_as_a_binary_target(multilabel):
    result, _ = multilabel
    assert (result["kind"], result["target"]) == ("multilabel", f"Smile,{ARM},Speaking,{RARE}")
    by_name = {row["name"]: row for row in result["channels"]}
    assert list(by_name) == ["Smile", ARM, "Speaking", RARE]
    smile = by_name["Smile"]
    assert [model["name"] for model in smile["models"]] == ["linear_probe@hog", "improved_cnn"]
    for model in smile["models"]:
        assert {"mean", "low", "high"} <= set(model["balanced_accuracy"])
        assert model["chance"]["p_holm"] is None or model["chance"]["p_holm"] >= model["chance"]["p"]
        assert model["confusion"] is not None and model["calibration"] is not None
    assert {"majority", "prior", "nuisances", "face hidden", "peer"} <= set(smile["baselines"])
    assert smile["leakage_gap"]["frame_split"] is not None
    assert (by_name[RARE]["too_rare"], by_name[RARE]["participants_with_positive"]) == (True, 1)
    assert by_name[RARE]["permitted_claim"] is None
    assert result["averaged_over"] == [name for name in ("Smile", "Speaking") if not by_name[name]["too_rare"]]


def test_a_refused_channel_has_no_score_anywhere(multilabel):
    result, out = multilabel
    arm = next(row for row in result["channels"] if row["name"] == ARM)
    assert (arm["verdict"], arm["refused"], arm["models"], arm["baselines"]) == ("refused", True, [], {})
    assert "constant-label" in arm["verdict_reasons"][0]
    table = pd.read_parquet(out / "predictions.parquet")
    assert not [name for name in table if ARM in name]
    assert ARM not in set(pd.read_csv(out / "scores.csv", keep_default_na=False)["channel"])
    assert ARM not in json.dumps(result["multilabel"])
    page = (out / "report.html").read_text()
    text = text_of(page)
    assert "Channels that the audit refused" in text
    assert f"{ARM} refused" in text and "dropped before any fit" in text
    assert "1 refused" in text


def test_tests_are_corrected_over_all_channels_and_models(multilabel):
    result, _ = multilabel
    tests = [model["chance"] for row in result["channels"] for model in row["models"]]
    known = [test for test in tests if test["p"] is not None]
    smallest = min(known, key=lambda test: test["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, smallest["p"] * len(known)))
    assert len(known) > 2, "more than one channel's models were tested"


def test_the_mean_over_channels_stands_at_the_top(multilabel):
    result, out = multilabel
    scores = pd.read_csv(out / "scores.csv", keep_default_na=False, na_values=[""])
    whole = scores[scores["channel"].isna() & (scores["model"] == "improved_cnn")].set_index("participant_id")
    parts = scores[scores["channel"].isin(result["averaged_over"]) & (scores["model"] == "improved_cnn")]
    expected = parts.groupby("participant_id")["balanced_accuracy"].mean()
    pd.testing.assert_series_equal(
        whole["balanced_accuracy"].sort_index(), expected.sort_index(), check_names=False, check_exact=False
    )
    top = next(model for model in result["models"] if model["name"] == "improved_cnn")
    assert top["balanced_accuracy"]["mean"] == pytest.approx(expected.mean())
    assert (top["confusion"], top["chance"]) == (None, None)
    assert top["device"] and top["fit_seconds"] > 0
    assert set(result["multilabel"]) == {"linear_probe@hog", "improved_cnn", "selected"}
    macro = result["multilabel"]["improved_cnn"]
    assert RARE in macro["too_rare"] and macro["channels_scored"] == 2
    assert {"ap_minus_prevalence", "f1", "all_positive", "all_negative"} <= set(macro["channels"]["Smile"])


def test_the_page_shows_every_channel(multilabel):
    result, out = multilabel
    page = (out / "report.html").read_text()
    parsed, text = Page(page), text_of(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "Channel by channel" in text and "Macro-F1" in text and "Always “there”: F1" in text
    assert "mean over 2 channels" in text
    assert "too rare" in text
    assert page.count('class="model channel"') == 4
    assert 'class="dot"' in page
    ap = result["multilabel"][result["recommended"]["name"]]["channels"]["Smile"]["ap_minus_prevalence"]["mean"]
    assert f"AP {short_number(ap, signed=True)}" in text
    assert "Which classes are confused" not in text
    assert not NOTHING.search(text)


def test_events_of_a_channel_stand_with_it(multilabel):
    result, out = multilabel
    score = {"mean": 0.87, "low": 0.8, "high": 0.9, "p_holm": 0.01}
    events = {"iou": 0.5, "f1": [score | {"iou": 0.5}], "false_alarms_per_minute": {"mean": 0.4}}
    events |= {f"{edge}_error_s": {"absolute": score | {"mean": 0.16}} for edge in ("onset", "offset")}
    changed = json.loads(json.dumps(result))
    changed["channels"][0]["models"][1]["events"] = events
    context = channel_context(nullable(changed), names=display_names(changed["models"]), scores=None)
    pages = {page["channel"]["name"]: page["events"] for page in context["channel_pages"]}
    assert pages["Smile"]["rows"][0]["label"] == "improved_cnn" and pages["Speaking"] is None
    page = rewritten(out, channels=changed["channels"])
    assert "Events of Smile" in page and "Events of Speaking" not in page
    assert ".87" in text_of(page)


def test_the_terminal_shows_every_channel(multilabel, capsys):
    result, _ = multilabel
    show_scores(result)
    shown = capsys.readouterr().out
    assert "mean over" in shown and "AP above prevalence" in shown
    assert f"{ARM}: refused, dropped before any fit" in shown
    assert "macro-F1" in shown


def test_same_seed_same_bytes_and_it_goes_on(multilabel, dataset):
    result, out = multilabel
    before = (out / "predictions.parquet").read_bytes()
    fits = {path: path.stat().st_mtime_ns for path in out.glob("folds/*/*/fit.json")}
    again = run(dataset, out, target=result["target"], models="linear_probe@hog,improved_cnn")
    assert (out / "predictions.parquet").read_bytes() == before
    assert all(path.stat().st_mtime_ns == written for path, written in fits.items())
    assert again["channels"] == result["channels"]
    with pytest.raises(UserError, match=r"holds another comparison .*overrides"):
        run(dataset, out, target=result["target"], models="linear_probe@hog,improved_cnn", overrides=["constant-label"])


def test_numbers_are_judged_within_people(continuous):
    result, out = continuous
    assert (result["kind"], result["averaged_over"]) == ("continuous", [LEVEL])
    found = result["continuous"]["linear_probe@hog"][LEVEL]
    assert found["ccc_within"]["n"] == 6
    assert found["person_mean"]["ccc_within"]["mean"] == 0.0
    assert found["person_mean"]["ccc_pooled"]["mean"] > 0.8, "levels differ a lot between these people"
    assert found["chance"]["method"].startswith("circular shifts") and found["chance"]["p"] is not None
    row = result["channels"][0]
    assert row["asks"] == f"{LEVEL} above the own median"
    assert row["models"][0]["calibration"] is None, "ranks aren't probabilities"
    text = text_of((out / "report.html").read_text())
    assert "CCC within people" in text and "Each person’s mean: pooled" in text
    assert not NOTHING.search(text)


def test_a_plan_of_a_list_is_followed(dataset, tmp_path):
    write_plan(dataset.path, target=" Smile, Joy", models="linear_probe", folds=3, settings=TINY)
    plan = plan_comparison(
        dataset.path, target="Smile,Joy", models="linear_probe", out=tmp_path / "r", folds=3, settings=TINY
    )
    reason = plan.confirmatory.reason
    assert "follows plan" in reason or "had been run on" in reason, reason
    (dataset.path / "plan.json").unlink()
