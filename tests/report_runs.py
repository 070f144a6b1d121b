"""Made-up run folders as `compare` writes them, with and without what the audit and the statistics add."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mien.core.labels import LabelScheme
from mien.core.storage import read_json, write_csv, write_json, write_parquet
from mien.core.types import Split
from mien.evaluation.baselines import TRIVIAL_KINDS, trivial_scores
from mien.evaluation.overfitting import overfitting
from mien.evaluation.scores import participant_scores, summarise_model
from mien.report.comparison_report import write_comparison_report

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


def check(name: str, severity: str = "ok", **facts: Any) -> dict[str, Any]:
    plain = {
        "title": name,
        "measured": None,
        "threshold": None,
        "detail": f"About {name}.",
        "advice": "",
        "evidence": {},
    }
    return plain | {"name": name, "severity": severity} | facts


def compared(a: str, b: str, **facts: Any) -> dict[str, Any]:
    """A row of `differences`; `mean` and the interval are of a minus b."""
    plain: dict[str, Any] = {"a": a, "b": b, "a_label": a, "b_label": b, "metric": "balanced_accuracy", "n": 11}
    plain |= {"mean": 0.061, "low": 0.031, "high": 0.091, "p": 0.001, "p_holm": 0.002, "p_note": ""}
    plain |= {"effect_size": 0.73, "detectable": 0.0412, "test": "Nadeau-Bengio", "fold_mean": 0.058, "fold_sd": 0.021}
    return plain | {"rope": {"worse": 0.001, "same": 0.009, "better": 0.99, "half_width": 0.02}} | facts


def evidence_of(run: Path) -> dict[str, Any]:
    """The keys that the audit and the statistics add to the comparison of `make_run`."""
    comparison = read_json(run / "comparison.json")
    probe, cnn, vit = comparison["models"]
    chance = {"p": 0.0005, "p_holm": 0.0015, "p_note": "", "floor": 0.0005, "null_mean": 0.501, "null_high": 0.537}
    chance |= {"draws": 1999, "method": "circular shifts of each recording's labels"}
    scores = {"mean": 0.11, "low": 0.09, "high": 0.13, "n": 12}
    calibration = {
        "brier": scores,
        "brier_skill": scores | {"mean": 0.44},
        "log_loss": scores,
        "slope": scores | {"mean": 0.77},
        "intercepts": [-0.31],
        "ece": 0.062,
        "ece_calibrated": 0.021,
        "ece_excess": 0.041,
        "reliability": [{"count": 9, "mean_probability": 0.2, "observed": 0.3}, {"count": 0, "observed": None}],
    }
    curve = [
        {
            "coverage": share,
            "kept": share,
            "balanced_accuracy": {"mean": 0.97 - share / 10, "low": 0.8, "high": 0.98, "n": 11},
            "per_participant": {"min": share - 0.2, "median": share},
            "participants_below_half": 3,
            "participants_silent": 1,
        }
        for share in (1.0, 0.8, 0.5)
    ]
    groups = [
        {"attribute": "gender", "group": name, "n": n, "balanced_accuracy": {"mean": 0.8, "low": 0.7, "high": 0.9}}
        for name, n in (("women", 10), ("men", 2))
    ]
    more = {
        "chance": chance,
        "calibration": {
            "raw": calibration,
            "calibrated": None,
            "folds": [{"fold": 0, "note": "Not calibrated: 8 people."}],
        },
        "abstention": {"curve": curve, "aurc": {"mean": 0.083}, "error_rate": 0.171, "participants": 12},
        "groups": [group | {"claim": group["n"] >= 10} for group in groups],
    }
    low = probe["balanced_accuracy"] | {"mean": 0.66}
    baselines = {name: probe | {"balanced_accuracy": low | {"mean": mean}} for name, mean in OTHERS.items()}
    return comparison | {
        "verdict": "supported",
        "permitted_claim": "In people of this study, linear_probe agrees with AFFDEX on Smile: .84 [.80, .87].",
        "verdict_reasons": [],
        "not_permitted": ["a claim about felt emotion", "about groups under 10 people"],
        "recommended": {"name": probe["name"], "label": "linear_probe@hog", "why": "no network was shown to beat it"},
        "confirmatory": {"is": True, "plan": "c0ffee", "reason": "The run follows plan c0ffee."},
        "configurations": {"this_run": 3, "on_this_target": 17},
        "models": [probe | more, cnn | more, vit],
        "selected": probe | {"chosen": [{"fold": fold, "model": "m", "label": "the probe"} for fold in range(FOLDS)]},
        "baselines": comparison["baselines"] | baselines,
        "differences": [
            compared(probe["name"], cnn["name"]),
            compared(vit["name"], probe["name"], mean=-0.01, low=-0.05, high=0.03, p=None, p_holm=None, p_note=NO_P),
        ],
        "leakage_gap": {"frame_split": 0.904, "participant_split": 0.841, "features": "hog", "baseline": "none"},
        "audit": {"verdict": "warn", "checks": CHECKS, "sampled": "copies: up to 40 frames."},
        "exclusions": [{"step": "target", "reason": "no face found", "count": 41, "unit": "frames left out"}],
        "appendix": [{"source": "REFORMS", "item": "8 Sample size", "answer": "12 participants"}],
    }


NO_P = "5 participants with both scores: at least 6 are needed for p to reach 0.05."
OTHERS = {"nuisances": 0.66, "nuisances+recording": 0.61, "face hidden": 0.52, "peer": 0.51}
CHECKS = [
    check("copies", measured={"pairs": 0, "same_media": 2, "largest_share": 0.4}),
    check("same-person", "not checked", advice="Look at `recordings.csv`."),
    check(
        "clock",
        measured={"duration": 0.3, "coded": None, "offset_export_s": {"value": -0.012}},
        threshold={"warn_s": 0.1, "fail_s": 0.5},
    ),
    check("nuisances", "warn", measured={"nuisances": 0.66}, threshold=0.55, advice="Record evenly."),
]
