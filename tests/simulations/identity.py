"""T3: features that hold who somebody is and nothing else, and a label that is drawn per participant."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mien.core.labels import LabelScheme
from mien.evaluation.chance import against_chance

from .classifier import ridge_predictions
from .estimators import rejected
from .rows import Row

SEED = 303
PARTICIPANTS = 20
FRAMES = 20
FEATURES = 64
NOISE = 0.5
FOLDS = 5
SCHEME = LabelScheme("Drawn", "binary", ("not Drawn", "Drawn"), "synthetic", unit="participant")


def identity_only(rounds: int) -> list[Row]:
    """T3: mixing a person's frames over folds scores identity; grouped folds and the test against chance don't."""
    generator = np.random.default_rng(SEED)
    scores: dict[str, list[float]] = {"frame": [], "grouped": []}
    honest, naive = [], []
    for number in range(rounds):
        features, labels, people = identity_features(generator)
        predicted = {
            "frame": _cross_validated(StratifiedKFold(FOLDS, shuffle=True, random_state=number), features, labels),
            "grouped": _cross_validated(
                StratifiedGroupKFold(FOLDS, shuffle=True, random_state=number), features, labels, people
            ),
        }
        for name, said in predicted.items():
            scores[name].append(float((said == labels).mean()))
        table = predictions_table(people, labels=labels, predicted=predicted["grouped"])
        honest.append(against_chance(table, SCHEME, seed=number).p)
        hits = int((predicted["grouped"] == labels).sum())
        naive.append(binomtest(hits, labels.size, alternative="greater").pvalue)
    setting = f"P = {PARTICIPANTS}"

    def mean(name: str, expected: str, low: float, high: float) -> Row:
        spread = float(np.std(scores[name], ddof=1) / np.sqrt(rounds))
        return Row(setting, f"{name} 5-fold: accuracy", np.mean(scores[name]), rounds, expected, low, high, spread)

    return [
        mean("frame", "about 1.000", 0.99, 1),
        mean("grouped", "at chance, or a little below", 0.40, 0.51),
        Row(setting, "against_chance on grouped folds: p ≤ .05", rejected(honest), rounds, "≤ .06", 0, 0.06),
        Row(setting, "naive: binomial over frames, grouped folds", rejected(naive), rounds, "> .2", 0.2, 1),
    ]


def identity_features(generator):
    """Features (N, D), labels (N,) of which half the participants have each, participants (N,)."""
    offsets = generator.normal(size=(PARTICIPANTS, 1, FEATURES))
    features = offsets + NOISE * generator.normal(size=(PARTICIPANTS, FRAMES, FEATURES))
    labels = np.repeat(generator.permutation(np.arange(PARTICIPANTS) % 2), FRAMES)
    return features.reshape(-1, FEATURES), labels, np.repeat(np.arange(PARTICIPANTS), FRAMES)


def predictions_table(people, *, labels, predicted):
    """The predictions table of one recording per participant, certain of what it says."""
    names = [f"p{person:03d}" for person in people]
    starts = np.concatenate([np.arange(count, dtype=float) for count in np.bincount(people)])
    return pd.DataFrame(
        {
            "model": "m", "fold": 0, "recording_id": names, "participant_id": names, "start_s": starts,
            "end_s": starts + 1, "target": pd.array(labels, dtype="Int64"), "prob_Drawn": predicted.astype(float),
        }
    )  # fmt: skip


def _cross_validated(splitter, features, labels, people=None):
    fold_of = np.empty(len(labels), dtype=np.int64)
    for fold, (_, test) in enumerate(splitter.split(features, labels, people)):
        fold_of[test] = fold
    return ridge_predictions(features, labels, fold_of)
