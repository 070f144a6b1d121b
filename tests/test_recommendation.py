"""Which model is worth training: by the number of participants, and by the corrected test."""

from __future__ import annotations

import pytest

from mien.cli.model_commands import show_estimate
from mien.evaluation.power import detectable_difference
from mien.evaluation.recommendation import (
    HEAD_BELOW,
    LAST_BELOW,
    PROBE_BELOW,
    TYPICAL_SD,
    Candidate,
    recommend_after,
    recommend_before,
)

PROBE = Candidate("linear_probe@hog", "linear_probe@hog", is_probe=True, mean=0.80)
WEAK = Candidate("linear_probe@x", "linear_probe@x", is_probe=True, mean=0.70)
NETWORK = Candidate("vit_pretrained", "vit_pretrained", is_probe=False, mean=0.90)


def row(mean: float, p_holm: float | None, note: str = "") -> dict[str, object]:
    return {"mean": mean, "p_holm": p_holm, "p_note": note, "detectable": 0.12}


@pytest.mark.parametrize(
    ("participants", "label"),
    [
        (1, "linear_probe"),
        (PROBE_BELOW - 1, "linear_probe"),
        (PROBE_BELOW, "a head on frozen features"),
        (HEAD_BELOW, "the last blocks"),
        (LAST_BELOW - 1, "the last blocks"),
        (LAST_BELOW, "the whole network"),
    ],
)
def test_before_the_data_the_number_of_participants_decides(participants, label):
    advice = recommend_before(participants, folds=5)
    assert advice.label == label and advice.model is None
    assert "linear_probe" in advice.text, "the probe is trained in any case"


def test_thresholds_are_where_the_differences_are_that_they_name():
    found = [round(detectable_difference(n, sd=TYPICAL_SD, folds=5), 2) for n in (PROBE_BELOW, HEAD_BELOW, LAST_BELOW)]
    assert found == [0.10, 0.06, 0.04]
    assert "differ by .22 " in recommend_before(6, folds=5).reasons[0]


def test_a_network_is_recommended_where_it_beats_the_best_probe():
    advice = recommend_after([WEAK, NETWORK, PROBE], to_probe={NETWORK.name: row(0.1, 0.01)})
    assert (advice.model, advice.why) == (
        NETWORK.name,
        "beats the best linear probe, linear_probe@hog, by .10 (p = .010)",
    )
    assert advice.text.startswith("Train vit_pretrained")


def test_stay_with_the_probe_where_it_isnt_shown():
    advice = recommend_after([WEAK, NETWORK, PROBE], to_probe={NETWORK.name: row(0.1, 0.06)})
    assert advice.model == PROBE.name and "nominally better" in advice.why
    assert advice.text == "Stay with the linear probe linear_probe@hog."
    assert ".10 (p = .060" in advice.reasons[0] and ".12" in advice.reasons[0]
    few = recommend_after([NETWORK, PROBE], to_probe={NETWORK.name: row(0.1, None, "4 participants: too few.")})
    assert few.reasons == ("vit_pretrained: 4 participants: too few.",)
    # A network that is significantly worse isn't recommended for its small p.
    worse = Candidate("vit_scratch", "vit_scratch", is_probe=False, mean=0.6)
    assert recommend_after([worse, PROBE], to_probe={worse.name: row(-0.2, 0.001)}).model == PROBE.name


def test_without_a_probe_nothing_says_that_a_bigger_model_is_needed():
    advice = recommend_after([NETWORK], to_probe={})
    assert advice.model == NETWORK.name and "compare linear_probe" in advice.reasons[0]
    assert set(advice.to_json()) == {"name", "label", "why", "text", "reasons"}


def test_a_dry_run_says_it(capsys):
    estimate = {"fits": 5, "folds": 5, "clips": 9, "participants": 8, "minutes_at_most": 1.0, "minutes_per_model": {}}
    show_estimate(estimate | {"recommendation": recommend_before(8, folds=5).to_json()}, as_json=False)
    said = capsys.readouterr().out
    assert "a bigger model couldn't be shown to be better. With 8 independent participants" in said


def test_probes_alone_have_a_best_one():
    advice = recommend_after([WEAK, PROBE], to_probe={})
    assert advice.model == PROBE.name and advice.text == "Train linear_probe@hog."
