"""Krippendorff's alpha against published examples and a direct computation; one coder against another as a model."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from mien.core.errors import UserError
from mien.core.labels import LabelScheme
from mien.data.coders import MAJORITY, CoderRatings
from mien.evaluation.agreement import krippendorff_alpha
from mien.evaluation.ceiling import coder_facts, one_against_another
from mien.evaluation.intervals import participant_interval
from mien.evaluation.scores import participant_scores, summarise_model

NAN = float("nan")
# Krippendorff 2011, section C: four observers, twelve units, missing ratings.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
SMILE = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")


def letters(text: str) -> list[float]:
    return [float(ord(letter)) for letter in text.replace(" ", "")]


def direct(ratings: np.ndarray, *, level: str) -> float:
    """Alpha pair by pair, as the definition says it: no tables, no moments."""
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pool = np.concatenate(units)
    values, counts = np.unique(pool, return_counts=True)

    def squared(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = sorted((a, b))
        between = counts[(values >= low) & (values <= high)].sum()
        return (between - (counts[values == a][0] + counts[values == b][0]) / 2) ** 2

    within = sum(squared(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2))
    among = sum(squared(a, b) for a, b in itertools.permutations(pool, 2)) / (len(pool) - 1)
    return 1 - within / among


class TestAlpha:
    @pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
    def test_four_coders_with_missing_ratings(self, level, published):
        found = krippendorff_alpha(PUBLISHED, level=level)
        assert round(found.alpha.mean, 3) == published
        assert (found.num_units, found.share) == (11, 0.8)  # one unit has a single rating
        assert np.isnan(found.alpha.low), "without participants nothing is known of its spread"

    def test_two_coders(self):
        binary = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
        assert round(krippendorff_alpha(binary).alpha.mean, 3) == 0.095
        classes = np.array([letters("aabbdcccedda"), letters("babbbccceddd")])
        assert round(krippendorff_alpha(classes).alpha.mean, 3) == 0.692

    @pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
    def test_it_is_the_definition_pair_by_pair(self, level):
        rng = np.random.default_rng(3)
        for num_coders in (2, 3, 5):
            ratings = rng.integers(0, 4, size=(num_coders, 30)).astype(float)
            ratings[1] = np.where(rng.random(30) < 0.6, ratings[0], ratings[1])
            ratings[rng.random(ratings.shape) < 0.3] = NAN
            people = rng.integers(0, 5, size=30).astype(str).astype(object)
            found = krippendorff_alpha(ratings + 1e6, level=level, participants=people)
            assert found.alpha.mean == pytest.approx(direct(ratings, level=level), abs=1e-9)
            order = rng.permutation(30)
            again = krippendorff_alpha((ratings + 1e6)[::-1, order], level=level, participants=people[order])
            assert again.alpha.low == pytest.approx(found.alpha.low, abs=1e-9)

    def test_each_class_against_the_rest(self):
        per_value = krippendorff_alpha(PUBLISHED).per_value
        for value in (1.0, 4.0):
            one = np.where(np.isnan(PUBLISHED), NAN, value == PUBLISHED)
            assert per_value[value].mean == pytest.approx(krippendorff_alpha(one).alpha.mean)

    @pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
    def test_one_class_alone_and_nothing_shared_are_undefined_not_perfect(self, level):
        same = krippendorff_alpha(np.ones((2, 20)), level=level)
        assert np.isnan(same.alpha.mean)
        assert same.share == 1.0
        apart = krippendorff_alpha(np.array([[1.0, 0.0, NAN], [NAN, NAN, 1.0]]), level=level)
        assert np.isnan(apart.alpha.mean)
        assert (apart.alpha.n, apart.num_units) == (0, 0)

    def test_the_interval_is_over_people_not_frames(self):
        rng = np.random.default_rng(5)
        few, many = (coder_table(rng, people=people, frames=60) for people in (6, 60))
        found = [krippendorff_alpha(t.codes, participants=t.table["group"].to_numpy()).alpha for t in (few, many)]
        assert found[1].high - found[1].low < 0.5 * (found[0].high - found[0].low)
        # Every frame ten times over: ten times the frames, nobody new.
        again = np.repeat(few.codes, 10, axis=1)
        wide = krippendorff_alpha(again, participants=np.repeat(few.table["group"].to_numpy(), 10)).alpha
        assert wide.high - wide.low == pytest.approx(found[0].high - found[0].low, rel=0.05)
        assert found[0].n == 6

    def test_the_interval_covers(self):
        """Of two coders who hit .9 and .8 of either class at a prevalence of .3, as many intervals hold as are said."""
        rng = np.random.default_rng(11)
        true = krippendorff_alpha(coder_table(rng, people=3000, frames=60).codes).alpha.mean
        tables = [coder_table(rng, people=8, frames=60) for _ in range(150)]
        found = [krippendorff_alpha(t.codes, participants=t.table["group"].to_numpy()).alpha for t in tables]
        assert 0.87 <= np.mean([interval.low <= true <= interval.high for interval in found]) <= 0.99

    def test_full_agreement_has_no_spread_to_speak_of(self):
        codes = np.tile([0.0, 1.0, 1.0, 0.0], 5)
        alpha = krippendorff_alpha(np.array([codes, codes]), participants=np.repeat(list("abcde"), 4)).alpha
        assert alpha.mean == 1.0
        assert np.isnan([alpha.low, alpha.high]).all()

    def test_what_cannot_be_rated_says_why(self):
        with pytest.raises(UserError, match="Unknown level of ratings 'ratio'"):
            krippendorff_alpha(PUBLISHED, level="ratio")
        with pytest.raises(UserError, match="infinite"):
            krippendorff_alpha(np.array([[1.0, np.inf], [1.0, 1.0]]))
        with pytest.raises(UserError, match=r"participants \(3,\); needed: \(coders, units\)"):
            krippendorff_alpha(PUBLISHED, participants=np.array(list("abc")))
        many = np.tile(np.arange(300.0), (2, 1))
        with pytest.raises(UserError, match="300 different values; classes and ranks have at most 256"):
            krippendorff_alpha(many, level="ordinal")
        assert krippendorff_alpha(many, level="interval").alpha.mean == 1.0


def coder_table(
    rng: np.random.Generator, *, people: int, frames: int, hits: tuple[float, ...] = (0.9, 0.8), prevalence=0.3
) -> CoderRatings:
    """Coders who each hit a share of either class, by chance."""
    truth = rng.random(people * frames) < prevalence
    codes = [np.where(rng.random(len(truth)) < hit, truth, ~truth).astype(float) for hit in hits]
    names = np.repeat([f"p{person:04d}" for person in range(people)], frames).astype(object)
    table = pd.DataFrame({"recording_id": names, "participant_id": names, "group": names, "segment_id": ""})
    return CoderRatings(tuple("ABCDE"[: len(hits)]), np.array(codes), table.assign(seconds=0.5), 7, MAJORITY)


def as_predictions(ratings: CoderRatings, *, true: int, predicted: int) -> pd.DataFrame:
    """One coder as a model's predictions, another as the target."""
    both = np.isfinite(ratings.codes[[true, predicted]]).all(axis=0)
    start_s = np.arange(len(ratings.table)) * 0.5
    clips = ratings.table.assign(
        model="coder", fold=0, clip_id=start_s, start_s=start_s, end_s=start_s + 0.5, target=ratings.codes[true]
    )
    return clips.assign(prob_Smile=ratings.codes[predicted])[both]


class TestCeiling:
    def test_planted_hit_rates_give_the_ceiling(self):
        ratings = coder_table(np.random.default_rng(0), people=40, frames=400)
        found = one_against_another(ratings, num_classes=2, once=False)
        # P(B=1|A=1) with both drawn from the truth, and so on, in both directions.
        a, b = (np.array([[hit, 1 - hit], [1 - hit, hit]]) for hit in (0.9, 0.8))
        joint = a.T @ np.diag([0.7, 0.3]) @ b
        expected = np.mean([np.mean(np.diag(t) / t.sum(axis=1)) for t in (joint, joint.T)])
        assert found.mean == pytest.approx(expected, abs=0.01)
        assert found.low < found.mean < found.high
        assert found.n == 40

    def test_it_is_the_models_own_metric(self):
        ratings = coder_table(np.random.default_rng(1), people=9, frames=30, hits=(0.9, 0.8, 0.7))
        ratings.codes[1, :45] = NAN  # B never saw the first person
        pairs = list(itertools.permutations(range(3), 2))
        scores = [participant_scores(as_predictions(ratings, true=a, predicted=b), SMILE) for a, b in pairs]
        by_person = pd.concat([one.set_index("participant_id")["balanced_accuracy"] for one in scores], axis=1)
        expected = participant_interval(by_person.mean(axis=1).to_numpy(), folds=None)
        found = one_against_another(ratings, num_classes=2, once=False)
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))

    def test_where_a_person_has_one_label_all_are_scored_together(self):
        rng = np.random.default_rng(2)
        ratings = coder_table(rng, people=30, frames=1)
        scheme = LabelScheme("Smile", "binary", SMILE.classes, "human", unit="participant")
        directions = [
            summarise_model(participant_scores(as_predictions(ratings, true=a, predicted=b), scheme), folds=None)
            for a, b in ((0, 1), (1, 0))
        ]
        found = one_against_another(ratings, num_classes=2, once=True)
        assert found.mean == pytest.approx(np.mean([d["balanced_accuracy"]["mean"] for d in directions]))
        assert found.low < found.mean < found.high
        clips = ratings.table.assign(target=ratings.codes[0])
        facts = coder_facts(ratings, scheme=scheme, clips=clips)
        assert facts["ceiling"]["balanced_accuracy"]["mean"] == found.mean

    def test_groups_are_what_is_independent(self):
        ratings = coder_table(np.random.default_rng(4), people=12, frames=40)
        pairs = ratings.table["participant_id"].str[1:].astype(int) // 2
        grouped = CoderRatings(**{**vars(ratings), "table": ratings.table.assign(group=pairs.astype(str))})
        assert one_against_another(grouped, num_classes=2, once=False).n == 6
        facts = coder_facts(grouped, scheme=SMILE, clips=grouped.table.assign(target=0))
        assert facts["ceiling"]["participants"] == 12
        assert facts["ceiling"]["minutes"] == pytest.approx(12 * 40 * 0.5 / 60)

    def test_facts_of_three_coders_of_whom_two_never_met(self):
        ratings = coder_table(np.random.default_rng(6), people=8, frames=40, hits=(0.9, 0.8, 0.8))
        ratings.codes[1, 160:] = NAN
        ratings.codes[2, :160] = NAN
        facts = coder_facts(ratings, scheme=SMILE, clips=ratings.table.assign(target=0))
        by_pair = {(pair["a"], pair["b"]): pair for pair in facts["pairs"]}
        assert by_pair["A", "B"]["participants"] == by_pair["A", "C"]["participants"] == 4
        assert (by_pair["B", "C"]["participants"], by_pair["B", "C"]["minutes"]) == (0, 0.0)
        assert np.isnan(by_pair["B", "C"]["balanced_accuracy"]["mean"])
        assert np.isnan(by_pair["B", "C"]["alpha"]["value"])
        assert facts["ceiling"]["balanced_accuracy"]["n"] == 8
        assert facts["per_class"] == {}, "of two classes both have the same"
        assert coder_facts(None, scheme=SMILE, clips=ratings.table.assign(target=0)) is None

    def test_several_classes_have_an_alpha_each(self):
        rng = np.random.default_rng(7)
        ratings = coder_table(rng, people=6, frames=50)
        first = rng.integers(0, 3, size=300)
        # The second coder can't tell `low` from `mid`, and always knows `high`.
        second = np.where(first == 2, 2, rng.integers(0, 2, size=300))
        three = CoderRatings(**{**vars(ratings), "codes": np.array([first, second], dtype=float)})
        scheme = LabelScheme("valence", "multiclass", ("low", "mid", "high"), "human")
        per_class = coder_facts(three, scheme=scheme, clips=three.table.assign(target=0))["per_class"]
        assert per_class["high"]["value"] == 1.0
        assert all(per_class[name]["value"] < 0.5 for name in ("low", "mid"))
