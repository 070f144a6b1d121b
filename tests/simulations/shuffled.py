"""Shuffled labels: the whole chain from features to the permitted claim, on labels that mean nothing.

What is counted is claims, not p-values: a comparison of a linear probe that permits any sentence at all. Labels are
shifted circularly within recordings, or given to other participants. The second keeps their times: where people react
to the same stimulus, a face that moves then predicts even a stranger's label, and only what sees no face (here: the
time) tells that the face adds nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mien.audit.nuisances import NUISANCE_C, time_features
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.crossval.evidence import chance_tests, paired_difference
from mien.data.clips import ClipIndex
from mien.data.splits import make_folds
from mien.evaluation.grouped import out_of_fold
from mien.evaluation.probe import ProbeConfig
from mien.evaluation.scores import participant_scores, summarise_model
from mien.evaluation.verdict import Evidence, Verdict, decide
from mien.runtime.baseline import PersonalBaseline

from .rows import Row

SEED = 808
PARTICIPANTS = 30
FRAMES = 40
FEATURES = 24
FOLDS = 5
SCHEME = LabelScheme("Smile", "binary", ("not Smile", "Smile"), "human")
PROBE, TIME = "linear_probe", "time"


def shuffled_claims(rounds: int) -> list[Row]:
    """Share of studies with shuffled labels that permit a claim; as they are, nearly all must."""
    generator = np.random.default_rng(SEED)
    counts: dict[str, list[bool]] = {"as they are": [], "circularly": [], "over participants": []}
    naive = []
    for number in range(rounds):
        features, clips = drawn_features(generator)
        for how, found in counts.items():
            labelled = clips if how == "as they are" else shuffled(clips, how=how, seed=number)
            splits = make_folds(labelled, folds=FOLDS, seed=number)
            tables = probe_and_time(features, labelled, splits=splits, baseline="recording")
            found.append(verdict_of(tables, clips=labelled, splits=splits, seed=number).permitted_claim is not None)
            if how == "over participants":
                alone = verdict_of({PROBE: tables[PROBE]}, clips=labelled, splits=splits, seed=number)
                naive.append(alone.permitted_claim is not None)
    setting = f"P = {PARTICIPANTS}, a shared stimulus"
    rows = [
        Row(setting, f"labels shuffled {how}: claims", float(np.mean(counts[how])), rounds, "≤ .10", 0, 0.10)
        for how in ("circularly", "over participants")
    ]
    true = float(np.mean(counts["as they are"]))
    alone_rate = float(np.mean(naive))
    return [
        *rows,
        Row(setting, "naive: over participants, held against chance alone", alone_rate, rounds, "> .2", 0.2, 1),
        Row(setting, "labels as they are: claims", true, rounds, "nearly always", 0.9, 1),
    ]


def probe_and_time(
    features: np.ndarray, clips: ClipIndex, *, splits: list[Split], baseline: str
) -> dict[str, pd.DataFrame]:
    """Predictions of the probe, and of a probe that knows the time alone."""
    table = clips.table
    frames = table[["recording_id", "participant_id", "frame", "target"]].assign(
        pts_s=table["start_s"], row=np.arange(len(table)), segment=""
    )
    times = np.concatenate([time_features(rows["pts_s"].to_numpy()) for _, rows in frames.groupby("recording_id")])
    given = {"clips": clips, "splits": splits}
    return {
        PROBE: out_of_fold(
            features, frames, baseline=PersonalBaseline.parse(baseline), C=ProbeConfig().C, model=PROBE, **given
        ),
        TIME: out_of_fold(times, frames, baseline=PersonalBaseline(), C=NUISANCE_C, model=TIME, **given),
    }


def verdict_of(tables: Mapping[str, pd.DataFrame], *, clips: ClipIndex, splits: list[Split], seed: int) -> Verdict:
    """Score, test and decide as `mien compare` does; all tables but the probe's are references that see no face."""
    scores = pd.concat([participant_scores(table, clips.scheme) for table in tables.values()], ignore_index=True)
    summaries = {str(name): summarise_model(rows, folds=len(splits)) for name, rows in scores.groupby("model")}
    references = {name: summaries[name]["balanced_accuracy"]["mean"] for name in tables if name != PROBE}
    above = None
    if references:
        strongest = max(references, key=lambda name: references[name])
        above = paired_difference(scores, a=PROBE, b=strongest, folds=len(splits))
    chance = chance_tests(tables[PROBE], scheme=clips.scheme, names=[PROBE], seed=seed)
    return decide(
        Evidence(
            scheme=clips.scheme,
            participants=int(summaries[PROBE]["independent"]["n"]),
            label=PROBE,
            score=summaries[PROBE]["balanced_accuracy"],
            chance=chance[PROBE],
            references=references,
            above_references=above,
        )
    )


def shuffled(clips: ClipIndex, *, how: str, seed: int) -> ClipIndex:
    """Return clips whose labels mean nothing.

    `circularly`: each recording's labels are turned by a random number of clips. `over participants`: each recording
    gets the labels of another one (repeated or cut to its length).
    """
    generator = np.random.default_rng([seed, 1])
    table = clips.table.copy()
    rows_of = list(table.groupby("recording_id", sort=True).indices.values())
    labels = table["target"].to_numpy().copy()
    given = [labels[rows] for rows in rows_of]
    if how == "circularly":
        new = [np.roll(own, generator.integers(len(own))) for own in given]
    else:
        order = generator.permutation(len(given))
        new = [np.resize(given[other], len(own)) for other, own in zip(order, given, strict=True)]
    for rows, values in zip(rows_of, new, strict=True):
        labels[rows] = values
    return dataclasses.replace(clips, table=table.assign(target=labels))


def drawn_features(generator: np.random.Generator) -> tuple[np.ndarray, ClipIndex]:
    """Features (N, D) of people who differ, drift, and smile about when the same stimulus is funny; and their clips."""
    parts, rows = [], []
    direction = generator.normal(size=FEATURES)
    funny = generator.choice(np.arange(4, FRAMES - 12), size=2, replace=False)
    for person in range(PARTICIPANTS):
        smiles = np.zeros(FRAMES, dtype=np.int64)
        for moment in funny:
            onset = max(0, int(moment + generator.integers(-4, 5)))
            smiles[onset : onset + generator.integers(4, 9)] = 1
        noise = np.zeros((FRAMES, FEATURES))
        for frame in range(1, FRAMES):
            noise[frame] = 0.8 * noise[frame - 1] + 0.6 * generator.normal(size=FEATURES)
        parts.append(generator.normal(size=FEATURES) * 2 + noise + np.outer(smiles, direction) * 1.5)
        name = f"p{person:02d}"
        rows.append(
            pd.DataFrame(
                {
                    "recording_id": name,
                    "participant_id": name,
                    "group": name,
                    "frame": np.arange(FRAMES),
                    "start_s": np.arange(FRAMES) * 0.5,
                    "end_s": np.arange(FRAMES) * 0.5 + 0.5,
                    "target": smiles,
                }
            )
        )
    table = pd.concat(rows, ignore_index=True)
    names = table["recording_id"] + "@" + table["start_s"].map("{:.3f}".format)
    table = table.assign(clip_id=names, source_id=names, face_found=True, segment="", segment_id="")
    excluded = pd.DataFrame(columns=["reason", "count", "recordings"])
    return np.concatenate(parts), ClipIndex(SCHEME, table, excluded)
