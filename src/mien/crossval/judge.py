"""What the predictions of one target show, before anything is corrected for how many were tested.

A target of several channels is measured channel by channel on its binary views (`mien.crossval.channel_scores`); any
other is measured once. The code is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mien.audit.run import Audit
from mien.crossval.comparison import ComparedModels, Findings
from mien.crossval.event_findings import EventFindings, event_findings
from mien.crossval.evidence import (
    abstention_of,
    calibrate,
    chance_tests,
    coders_of,
    groups_of,
    sweeps_of,
)
from mien.crossval.selection import SELECTED, selected_predictions
from mien.crossval.setup import Comparison
from mien.data.attempts import count_configurations
from mien.evaluation.baselines import trivial_scores
from mien.evaluation.scores import participant_scores
from mien.evaluation.verdict import Verdict
from mien.models.choice import ModelChoice


@dataclass(frozen=True)
class Fitted:
    """The models of a comparison that were fitted.

    Attributes:
        choices: Those that didn't fail.
        fits: Per model its `fit.json`s, in order of the folds.
        failed: The others, with the reason.
    """

    choices: Sequence[ModelChoice]
    fits: Mapping[str, Sequence[Mapping[str, Any]]]
    failed: Sequence[Mapping[str, str]]

    @property
    def names(self) -> list[str]:
        """Names of the models, as the user wrote them."""
        return [choice.text for choice in self.choices]

    def labels(self) -> dict[str, str]:
        """Return each model's short name, or its full one where two share the short one."""
        short = [choice.label for choice in self.choices]
        labels = {each.text: each.label if short.count(each.label) == 1 else each.text for each in self.choices}
        notes = {name: str(facts[0]["model_facts"].get("weights_note", "")) for name, facts in self.fits.items()}
        return {
            name: f"{label} (random init)" if notes[name] == "random init" else label for name, label in labels.items()
        }

    def with_scores(self, scores: pd.DataFrame) -> ComparedModels:
        """Return the models with a table of scores; what is in it and is no model is a baseline."""
        others = [name for name in dict.fromkeys(scores["model"]) if name not in self.names and name != SELECTED]
        return ComparedModels(
            self.choices, scores, self.fits, self.failed, self.labels(), {name: name for name in others}
        )


@dataclass(frozen=True)
class Measured:
    """What the models' predictions of one target show.

    Attributes:
        comparison: The comparison, with the clips and folds of this target.
        audit: The audit of this target, with its reference models.
        models: The models with a row of scores per participant.
        calibrated: Columns calibrated_<output>, a row per prediction; None where probabilities aren't calibrated.
        calibration: Per model what `calibrate` says; empty where probabilities aren't calibrated.
        chance: Per model its test against chance, corrected for the number of models.
        abstention: Per model.
        groups: Per model.
        sweeps: Per model with a personal baseline.
        events: What the models' events are worth.
    """

    comparison: Comparison
    audit: Audit
    models: ComparedModels
    calibrated: pd.DataFrame | None
    calibration: Mapping[str, Any]
    chance: Mapping[str, Mapping[str, Any]]
    abstention: Mapping[str, Any]
    groups: Mapping[str, Any]
    sweeps: Mapping[str, Any]
    events: EventFindings

    def findings(
        self, *, differences: Sequence[Mapping[str, Any]], verdict: Verdict, given: Mapping[str, Any]
    ) -> Findings:
        """Put together what was found of this target.

        Args:
            differences: Every model against the reference and the recommended one.
            verdict: What may be claimed.
            given: `recommended`, `chosen` and what `facts_of_tries` returns.
        """
        return Findings(
            chance=self.chance,
            calibration=self.calibration,
            abstention=self.abstention,
            groups=self.groups,
            sweeps=self.sweeps,
            differences=differences,
            verdict=verdict,
            coders=coders_of(self.comparison),
            events=self.events.by_model,
            no_events=self.events.reason,
            **given,
        )


def reference_name(comparison: Comparison, *, names: Sequence[str]) -> str:
    """Return the model that the others are held against; the first where the reference failed."""
    return comparison.reference.text if comparison.reference.text in names else names[0]


def facts_of_tries(comparison: Comparison) -> dict[str, Any]:
    """Say whether a plan was followed, and how many configurations were tried: `confirmatory`, `configurations`."""
    assert comparison.confirmatory is not None, "a comparison that is scored was planned with its folds"
    return {
        "confirmatory": comparison.confirmatory.to_json(),
        "configurations": {
            "this_run": len(comparison.choices),
            "on_this_target": count_configurations(comparison.dataset.path, comparison.target),
        },
    }


def measure(
    comparison: Comparison,
    *,
    audit: Audit,
    fitted: Fitted,
    predictions: pd.DataFrame,
    inner: pd.DataFrame,
    chosen: Sequence[dict[str, Any]],
    are_probabilities: bool = True,
) -> Measured:
    """Score the models of one target, and all that they are held against.

    Args:
        comparison: The comparison, with the clips and folds of this target.
        audit: The audit of this target.
        fitted: The models.
        predictions: Test predictions of all models.
        inner: Their predictions of the inner splits.
        chosen: Which model the selected pipeline took in each fold.
        are_probabilities: Whether `prob_<output>` says how probable something is; ranks of numbers don't, so they are
            neither calibrated nor a reason to stay silent.
    """
    scheme, splits, names = comparison.clips.scheme, comparison.splits, fitted.names
    calibrated, calibration = [], {}
    for name in names if are_probabilities else ():
        own, own_inner = (table[table["model"] == name] for table in (predictions, inner))
        table, calibration[name] = calibrate(own, own_inner, scheme=scheme, splits=splits, seed=comparison.seed)
        calibrated.append(table)
    scores = score_table(comparison, audit=audit, predictions=predictions, chosen=chosen)
    attributes = comparison.dataset.recordings[["participant_id", *comparison.dataset.attributes]]
    rows_of = dict(iter(scores.groupby("model")))
    by_model = {str(name): own for name, own in predictions.groupby("model")} if are_probabilities else {}
    chance = chance_tests(predictions, scheme=scheme, names=names, seed=comparison.seed)
    return Measured(
        comparison,
        audit,
        fitted.with_scores(scores),
        calibrated=pd.concat(calibrated) if calibrated else None,
        calibration=calibration,
        chance=chance,
        abstention={name: abstention_of(own, scheme=scheme, folds=len(splits)) for name, own in by_model.items()},
        groups={
            name: groups_of(
                rows_of[name], attributes=attributes, folds=len(splits), chance=chance[name].get("null_mean")
            )
            for name in names
        },
        sweeps=sweeps_of(fitted.fits) if are_probabilities else {},
        events=event_findings(
            comparison.dataset,
            scheme=scheme,
            splits=splits,
            predictions=predictions,
            inner=inner,
            names=names,
            seed=comparison.seed,
        ),
    )


def score_table(
    comparison: Comparison, *, audit: Audit, predictions: pd.DataFrame, chosen: Sequence[dict[str, Any]]
) -> pd.DataFrame:
    """Return rows per model and participant: the models, the selected pipeline, and all that they are held against."""
    clips = comparison.clips
    tables = [participant_scores(predictions, clips.scheme)]
    if chosen:
        tables.append(participant_scores(selected_predictions(predictions, chosen=chosen), clips.scheme))
    # A probe may be written without its backbone; the audit's is written with it.
    there = {choice.full_name.removesuffix("+none") for choice in comparison.choices}
    references = audit.references[~audit.references["model"].isin(there)]
    if len(references):
        tables.append(participant_scores(references, clips.scheme))
    tables.append(
        trivial_scores(clips=clips.table, splits=comparison.splits, scheme=clips.scheme, seed=comparison.seed)
    )
    return pd.concat(tables, ignore_index=True)
