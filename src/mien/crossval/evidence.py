"""From the predictions of a comparison to what it shows: chance, differences, the recommended model, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mien.audit.run import Audit
from mien.core.labels import LabelScheme
from mien.core.types import Split
from mien.crossval.comparison import ComparedModels
from mien.crossval.selection import SELECTED
from mien.crossval.setup import Comparison
from mien.data.coders import coder_ratings
from mien.data.targets import find_target, target_names
from mien.evaluation.abstention import risk_coverage
from mien.evaluation.calibration import calibration_scores, fit_calibration
from mien.evaluation.ceiling import coder_facts
from mien.evaluation.chance import against_chance
from mien.evaluation.comparisons import compare_paired, holm
from mien.evaluation.groups import scores_by_group
from mien.evaluation.prevalence import summarise_sweep
from mien.evaluation.recommendation import Candidate, best_probe, recommend_after
from mien.evaluation.scores import summarise_model
from mien.evaluation.units import independent_means
from mien.evaluation.verdict import Evidence, Verdict, decide
from mien.models.choice import ModelChoice


def chance_tests(
    predictions: pd.DataFrame, *, scheme: LabelScheme, names: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Test each model against chance; `p_holm` is corrected for the number of models.

    Args:
        predictions: The predictions table.
        scheme: The target.
        names: The models.
        seed: Seed of the draws.

    Returns:
        Per model what `against_chance` finds, and p_holm.
    """
    found = {
        name: asdict(against_chance(predictions[predictions["model"] == name], scheme, seed=seed)) for name in names
    }
    corrected = holm([found[name]["p"] for name in names])
    return {name: {**found[name], "p_holm": p} for name, p in zip(names, corrected, strict=True)}


def paired_difference(scores: pd.DataFrame, *, a: str, b: str, folds: int) -> dict[str, Any]:
    """Compare two rows of the score table over the people for whom both are defined.

    Where each participant has one label there is no balanced accuracy per participant: whether the label was met is
    compared instead, and `metric` says so.

    Args:
        scores: Rows of `participant_scores` of all models.
        a: The one whose score counts positive.
        b: The other.
        folds: K of the cross-validation.
    """
    first, second = scores[scores["model"] == a], scores[scores["model"] == b]
    metric = "balanced_accuracy" if first["scored_per"].iloc[0] == "participant mean" else "accuracy"
    differences = (independent_means(first, metric) - independent_means(second, metric)).dropna()
    fold_of = first.drop_duplicates("participant_id").set_index("participant_id")["fold"]
    per_person = first.set_index("participant_id")[metric] - second.set_index("participant_id")[metric]
    per_fold = per_person.groupby(fold_of).mean().dropna()
    found = asdict(compare_paired(differences.to_numpy(dtype=np.float64), folds=folds))
    return {
        "a": a,
        "b": b,
        "metric": metric,
        **found,
        "per_fold": [{"fold": int(str(fold)), "mean": float(value)} for fold, value in per_fold.items()],
        "fold_mean": float(per_fold.mean()) if len(per_fold) else None,
        "fold_sd": float(per_fold.std(ddof=1)) if len(per_fold) > 1 else None,
    }


def differences_to(
    reference: str,
    *,
    recommended: str,
    scores: pd.DataFrame,
    names: Sequence[str],
    labels: Mapping[str, str],
    folds: int,
) -> list[dict[str, Any]]:
    """Compare every other model with the reference and with the recommended one, corrected by Holm for all of them.

    The reference was named before the scores were seen; the recommended model wasn't, so its differences to the rest
    are flattered: the selected pipeline stands beside it for that reason.
    """
    pairs = [(name, reference) for name in names if name != reference]
    pairs += [
        (name, recommended) for name in names if name not in (recommended, reference) and recommended != reference
    ]
    rows = [
        paired_difference(scores, a=a, b=b, folds=folds) | {"a_label": labels[a], "b_label": labels[b]}
        for a, b in pairs
    ]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def recommend(
    choices: Sequence[ModelChoice], *, scores: pd.DataFrame, labels: Mapping[str, str], folds: int
) -> dict[str, Any]:
    """Recommend a model: a network has to beat the best probe by the corrected test (`recommend_after`).

    Returns:
        name, label, why, text, reasons.
    """
    candidates = [
        Candidate(
            choice.text,
            label=labels[choice.text],
            is_probe=choice.is_probe,
            mean=_mean_score(scores[scores["model"] == choice.text]),
        )
        for choice in choices
    ]
    probe = best_probe(candidates)
    if probe is None:
        return recommend_after(candidates, to_probe={}).to_json()
    others = [candidate.name for candidate in candidates if not candidate.is_probe]
    rows = [paired_difference(scores, a=name, b=probe.name, folds=folds) for name in others]
    corrected = holm([row["p"] for row in rows])
    to_probe = {row["a"]: row | {"p_holm": p} for row, p in zip(rows, corrected, strict=True)}
    return recommend_after(candidates, to_probe=to_probe).to_json()


def calibrate(
    predictions: pd.DataFrame, inner: pd.DataFrame, *, scheme: LabelScheme, splits: Sequence[Split], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Calibrate one model's probabilities per fold on that fold's inner split, and score them.

    Args:
        predictions: Test predictions of one model.
        inner: Its predictions of the inner splits, by weights that never saw them.
        scheme: The target.
        splits: The folds.
        seed: Seed of the bootstrap of the calibration error.

    Returns:
        Calibrated probabilities, columns calibrated_<output>, a row per prediction; and `calibration_scores` before
        (`raw`) and after (`calibrated`; None where no fold had enough participants), with `folds`: the map of each.
    """
    logit_names = [f"logit_{name}" for name in scheme.output_names]
    names = [f"calibrated_{name}" for name in scheme.output_names]
    calibrated = np.full((len(predictions), scheme.num_outputs), np.nan)
    prior = np.full((len(predictions), len(scheme.classes)), 1.0 / len(scheme.classes))
    maps = []
    for split in splits:
        own = inner[inner["fold"] == split.fold]
        found = fit_calibration(
            own[logit_names].to_numpy(dtype=np.float64),
            _targets(own),
            own["participant_id"].to_numpy(dtype=object),
        )
        rows = (predictions["fold"] == split.fold).to_numpy()
        calibrated[rows] = found.apply(predictions.loc[rows, logit_names].to_numpy(dtype=np.float64))
        if own["target"].notna().any():  # a channel that nobody of a fold's inner split has a label of
            prior[rows] = _class_shares(own, scheme)
        maps.append({"fold": split.fold, **found.to_json()})
    people = predictions["participant_id"].to_numpy(dtype=object)
    raw = predictions[[f"prob_{name}" for name in scheme.output_names]].to_numpy(dtype=np.float64)
    given: dict[str, Any] = {"folds": len(splits), "seed": seed, "prior": prior}
    any_fitted = any(not item["note"] for item in maps)
    scored = {
        "raw": calibration_scores(raw, _targets(predictions), people, **given),
        "calibrated": calibration_scores(calibrated, _targets(predictions), people, **given) if any_fitted else None,
        "folds": maps,
    }
    return pd.DataFrame(calibrated, columns=names, index=predictions.index), scored


def abstention_of(predictions: pd.DataFrame, *, scheme: LabelScheme, folds: int) -> dict[str, Any] | None:
    """Return the risk-coverage curve of one model; None where one label describes more than a clip."""
    if scheme.unit in ("recording", "participant"):
        return None
    return risk_coverage(
        _targets(predictions),
        predictions[[f"prob_{name}" for name in scheme.output_names]].to_numpy(dtype=np.float64),
        predictions["participant_id"].to_numpy(dtype=object),
        scheme=scheme,
        folds=folds,
    )


def groups_of(
    scores: pd.DataFrame, *, attributes: pd.DataFrame, folds: int, chance: float | None
) -> list[dict[str, Any]]:
    """Return one model's scores by group of people; `chance` is what it would score by luck, None where unknown."""
    return scores_by_group(scores, attributes, folds=folds, chance=chance)


def coders_of(comparison: Comparison) -> dict[str, Any] | None:
    """Return how far the target's coders agree, by the models' metric and participants; None where there is one."""
    tables = comparison.dataset.tables()
    if comparison.clips.scheme.target not in target_names(tables):
        return None  # a number's view, above the own median or not, is nothing that a coder said
    ratings = coder_ratings(tables, find_target(tables, comparison.clips.scheme.target))
    return coder_facts(ratings, scheme=comparison.clips.scheme, clips=comparison.clips.table)


def _mean_score(scores: pd.DataFrame) -> float:
    mean = summarise_model(scores, folds=None)["balanced_accuracy"]["mean"]
    return float(mean) if mean is not None and math.isfinite(mean) else float("-inf")


def _targets(table: pd.DataFrame) -> np.ndarray:
    return table["target"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)


def _class_shares(inner: pd.DataFrame, scheme: LabelScheme) -> np.ndarray:
    """Share of each class (K,) in the inner split, each participant weighing 1."""
    known = inner[inner["target"].notna()]
    dummies = np.eye(len(scheme.classes))[known["target"].to_numpy(dtype=np.int64)]
    return np.asarray(pd.DataFrame(dummies).groupby(known["participant_id"].to_numpy(dtype=str)).mean().mean())


def sweeps_of(fits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Average the resampled prevalence sweeps of the folds over participants, for models that have one."""
    found = {}
    for name, facts in fits.items():
        rows = [row for fit in facts for row in fit.get("resampled_sweep") or []]
        if rows:
            table = pd.DataFrame(rows)
            found[name] = summarise_sweep(table)
    return found


def verdict_on(
    recommended: Mapping[str, Any],
    *,
    models: ComparedModels,
    chance: Mapping[str, Mapping[str, Any]],
    audit: Audit,
    comparison: Comparison,
) -> Verdict:
    """Decide what may be claimed of the recommended model."""
    return decide(evidence_on(recommended, models=models, chance=chance, audit=audit, comparison=comparison))


def evidence_on(
    recommended: Mapping[str, Any],
    *,
    models: ComparedModels,
    chance: Mapping[str, Mapping[str, Any]],
    audit: Audit,
    comparison: Comparison,
) -> Evidence:
    """Gather what a verdict on the recommended model is decided on."""
    folds = len(comparison.splits)
    by_model = {str(name): rows for name, rows in models.scores.groupby("model")}
    name = str(recommended["name"])
    summary = summarise_model(by_model[name], folds=folds)
    baseline = next(str(choice.baseline) for choice in models.choices if choice.text == name)
    faceless = {each: _mean_score(by_model[each]) for each in audit.faceless_references(baseline) if each in by_model}
    strongest = max(faceless, key=lambda each: faceless[each], default=None)
    return Evidence(
        scheme=comparison.clips.scheme,
        participants=int(summary["independent"]["n"]),
        label=models.labels[name],
        score=summary["balanced_accuracy"],
        chance=chance[name],
        references=faceless,
        above_references=None
        if strongest is None
        else paired_difference(models.scores, a=name, b=strongest, folds=folds),
        selected=summarise_model(by_model[SELECTED], folds=folds)["balanced_accuracy"]
        if SELECTED in by_model
        else None,
        num_models=len(models.choices),
        overrides=audit.overrides,
        stimulus_locked=audit.stimulus_locked,
        synthetic=comparison.dataset.is_synthetic,
    )
