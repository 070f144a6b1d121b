"""What a comparison permits to claim, and what it doesn't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mien.core.labels import LabelScheme
from mien.evaluation.verdict import Evidence, agreement, decide, refuse

SCHEME = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "tool:AFFDEX")
GOOD = Evidence(
    scheme=SCHEME,
    participants=72,
    label="linear_probe@hog",
    score={"mean": 0.84, "low": 0.80, "high": 0.87},
    chance={"p": 0.0002, "p_holm": 0.001, "p_note": "", "null_mean": 0.5},
    references={"nuisances": 0.66, "face hidden": 0.52},
    above_references={"mean": 0.18, "low": 0.1, "high": 0.26},
    selected={"mean": 0.83, "low": 0.79, "high": 0.86},
    num_models=6,
)


def test_a_good_comparison_is_supported_and_says_beside_what():
    verdict = decide(GOOD)
    assert verdict.verdict == "supported" and verdict.reasons == ()
    assert verdict.permitted_claim == (
        "In people and for the stimuli of this study, linear_probe@hog agrees with AFFDEX on Smile: balanced accuracy "
        ".84 [.80, .87]; chance .50, nuisances .66, face hidden .52. Choosing the best of 6 models really gives .83 "
        "[.79, .86]."
    )
    assert any("felt emotion" in text for text in verdict.not_permitted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"participants": 19}, "19 independent participants; 20 are needed"),
        ({"score": {"mean": 0.84, "low": 0.74, "high": 0.90}}, "The interval is wide"),
        ({"score": {"mean": 0.84, "low": None, "high": None}}, "The interval is wide (unknown"),
        ({"overrides": ("clock",)}, "Overridden by the user: clock"),
    ],
)
def test_what_is_missing_makes_it_exploratory(change, reason):
    verdict = decide(replace(GOOD, **change))
    assert verdict.verdict == "exploratory"
    assert reason in " ".join(verdict.reasons)
    assert verdict.permitted_claim is not None


@pytest.mark.parametrize(
    "chance",
    [
        {"p": 0.01, "p_holm": 0.06, "p_note": "", "null_mean": 0.5},
        {"p": None, "p_holm": None, "p_note": "5 participants: at least 6 are needed.", "null_mean": 0.5},
        None,
    ],
)
def test_nothing_above_chance_permits_no_claim(chance):
    """However high the score: a null result, or too few people to test, permits nothing."""
    verdict = decide(replace(GOOD, chance=chance))
    assert verdict.permitted_claim is None
    assert verdict.verdict == "exploratory"
    assert verdict.reasons


@pytest.mark.parametrize("low", [-0.02, 0.0, None])
def test_a_model_that_sees_no_more_than_nuisances_permits_no_claim(low):
    verdict = decide(replace(GOOD, above_references={"mean": 0.01, "low": low, "high": 0.04}))
    assert verdict.permitted_claim is None
    assert "wasn't shown to see more than what sees no face" in verdict.reasons[0]
    assert "nuisances (.66)" in verdict.reasons[0]


def test_an_interval_that_holds_chance_permits_no_claim():
    verdict = decide(replace(GOOD, score={"mean": 0.54, "low": 0.49, "high": 0.59}))
    assert verdict.permitted_claim is None
    assert "holds chance" in verdict.reasons[0]


def test_labels_that_follow_the_stimulus_limit_the_claim():
    assert "these stimuli only" in decide(replace(GOOD, stimulus_locked=True)).permitted_claim


def test_a_synthetic_study_says_nothing_about_people():
    assert "nothing about people" in decide(replace(GOOD, synthetic=True)).permitted_claim


@pytest.mark.parametrize("source", ["human", "tool:AFFDEX", "self-report", "stimulus", "synthetic", "attribute"])
def test_a_claim_never_says_what_a_person_feels(source):
    text = agreement(replace(SCHEME, label_source=source))
    assert text.startswith("agrees with") and "feel" not in text


def test_a_refusal_permits_nothing():
    verdict = refuse(["copies"])
    assert (verdict.verdict, verdict.permitted_claim, verdict.reasons) == ("refused", None, ("copies",))
