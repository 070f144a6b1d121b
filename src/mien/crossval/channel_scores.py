"""A comparison of a target of several channels: each channel judged as a binary target, then all of them together.

One model is recommended, by the mean over channels, and each channel's verdict is on that model. Tests are corrected by
Holm over all channels and models at once, so that a model of fifty channels finds no more by luck than one of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mien.audit.channels import splits_of
from mien.audit.run import Audit
from mien.core.numbers import with_interval
from mien.core.storage import write_csv, write_parquet
from mien.crossval.comparison import ComparedModels, Findings, build_comparison
from mien.crossval.event_findings import write_events
from mien.crossval.evidence import differences_to, evidence_on, groups_of, recommend
from mien.crossval.folds import collect_predictions
from mien.crossval.judge import Fitted, Measured, facts_of_tries, measure, reference_name
from mien.crossval.selection import SELECTED, choose_over_channels, selected_predictions
from mien.crossval.setup import Comparison
from mien.evaluation.channel_verdict import ChannelVerdict, decide_channel, decide_channels
from mien.evaluation.comparisons import holm
from mien.evaluation.continuous_chance import ccc_against_chance
from mien.evaluation.multilabel import MIN_POSITIVE_PARTICIPANTS
from mien.evaluation.scores import summarise_model
from mien.evaluation.verdict import refuse
from mien.evaluation.views import continuous_findings, mean_over_channels, multilabel_findings, view_predictions

ALL_CHANNELS = ""
"""In the column `channel` of scores.csv: each participant's mean over the channels that aren't too rare."""

CHANCE_OF_TWO = 0.5
"""What a mean over channels is by luck: each is judged as a binary target."""

OF_ONE_MODEL = ("settings", "history", "weights_note", "overfitting", "fit_seconds", "device")
"""What a row of a model says that is true of all its channels; it stands in the top-level `models` only."""

CHANNEL_KEYS = (
    *("label_source", "participants", "independent", "clips", "minutes", "positives", "classes", "excluded"),
    *("median_seconds_per_participant", "median_positive_seconds_per_participant"),
    *("models", "selected", "baselines", "differences", "leakage_gap", "coders", "no_events"),
)
"""What a channel's entry takes over of the comparison of a binary target."""

Tests = Mapping[str, Mapping[str, Any]]


def score_channels(comparison: Comparison, *, audit: Audit, fitted: Fitted, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write predictions and scores of a target of several channels; return `comparison.json`.

    Args:
        comparison: The comparison, with the channels that aren't refused.
        audit: Its audit.
        fitted: Its models.
        facts: `run.json`.

    Returns:
        The keys of a comparison (models, baselines, selected and differences are of each participant's mean over
        channels), and `channels`, `averaged_over` and the kind's own scores as `multilabel` or `continuous`.
    """
    predictions = collect_predictions(comparison, fitted.choices)
    inner = collect_predictions(comparison, fitted.choices, inner=True)
    measured, chosen = _measured(comparison, audit=audit, fitted=fitted, predictions=predictions, inner=inner)
    averaged = [name for name in measured if not too_rare(measured[name])] or list(measured)
    means = _averaged({name: measured[name].models.scores for name in averaged})
    _write(comparison, measured=measured, means=means, predictions=predictions)
    models = fitted.with_scores(means)
    recommended = recommend(fitted.choices, scores=means, labels=models.labels, folds=len(comparison.splits))
    own_scores = _own_scores(comparison, fitted=fitted, predictions=predictions, inner=inner, chosen=chosen)
    chance = _corrected({name: own.chance for name, own in measured.items()})
    differences = _differences(comparison, measured=measured, models=models, recommended=str(recommended["name"]))
    verdicts = _verdicts(measured, audit=audit, chance=chance, recommended=recommended, own_scores=own_scores)
    given = facts_of_tries(comparison) | {"recommended": recommended, "chosen": chosen}
    result = _whole(comparison, audit=audit, models=models, verdicts=verdicts, facts=facts, given=given)
    rows = {
        name: _channel_row(
            own, verdict=verdicts[name], chance=chance[name], differences=differences[name], facts=facts, given=given
        )
        for name, own in measured.items()
    }
    return result | {
        "target": comparison.target,
        "title": ", ".join(audit.channels),
        "channels": [rows.get(name) or _refused_row(verdicts[name]) for name in audit.channels],
        "averaged_over": averaged,
        comparison.clips.scheme.kind: own_scores,
    }


def refused_channels(comparison: Comparison, *, audit: Audit) -> dict[str, Any]:
    """Return what a refused comparison says of its channels; empty for a target without any."""
    if not audit.channels:
        return {}
    verdicts = [ChannelVerdict(name, refuse(reasons)) for name, reasons in audit.dropped().items()]
    return {
        "target": comparison.target,
        "title": ", ".join(audit.channels),
        "channels": [_refused_row(verdict) for verdict in verdicts],
    }


def too_rare(measured: Measured) -> bool:
    """Return whether so few people show a channel that a score would be about them."""
    return _positive_people(measured) < MIN_POSITIVE_PARTICIPANTS


def _measured(
    comparison: Comparison, *, audit: Audit, fitted: Fitted, predictions: pd.DataFrame, inner: pd.DataFrame
) -> tuple[dict[str, Measured], list[dict[str, Any]]]:
    """Measure every channel on its view; one choice per fold is made for all channels."""
    scheme = comparison.clips.scheme
    views = {}
    for name in scheme.channels:
        clips = audit.channels[name].clips
        assert clips is not None, "a channel has its clips"
        views[name] = dataclasses.replace(
            comparison, clips=clips, splits=splits_of(clips, comparison.splits), audit=audit.channels[name]
        )
    inner_of = {name: view_predictions(inner, scheme=scheme, channel=name) for name in views}
    chosen = []
    if len(fitted.choices) > 1:
        chosen = choose_over_channels(
            inner_of,
            schemes={name: view.clips.scheme for name, view in views.items()},
            folds=[split.fold for split in comparison.splits],
            choices=fitted.choices,
        )
    found = {
        name: measure(
            view,
            audit=audit.channels[name],
            fitted=fitted,
            predictions=view_predictions(predictions, scheme=scheme, channel=name),
            inner=inner_of[name],
            chosen=chosen,
            are_probabilities=scheme.kind == "multilabel",
        )
        for name, view in views.items()
    }
    return found, chosen


def _write(
    comparison: Comparison, *, measured: Mapping[str, Measured], means: pd.DataFrame, predictions: pd.DataFrame
) -> None:
    calibrated = [own.calibrated for own in measured.values() if own.calibrated is not None]
    joined = predictions.join(pd.concat(calibrated, axis=1)) if calibrated else predictions
    write_parquet(comparison.out / "predictions.parquet", joined)
    write_events(comparison.out, [own.events for own in measured.values()])
    tables = {ALL_CHANNELS: means} | {name: own.models.scores for name, own in measured.items()}
    written = [table.assign(channel=name)[["channel", *table.columns]] for name, table in tables.items()]
    write_csv(comparison.out / "scores.csv", pd.concat(written, ignore_index=True))


def _differences(
    comparison: Comparison, *, measured: Mapping[str, Measured], models: ComparedModels, recommended: str
) -> dict[str, list[dict[str, Any]]]:
    """Per channel every model against the reference and the recommended one, corrected over all channels."""
    names = [choice.text for choice in models.choices]
    found = {
        name: differences_to(
            reference_name(comparison, names=names),
            recommended=recommended,
            scores=own.models.scores,
            names=names,
            labels=models.labels,
            folds=len(own.comparison.splits),
        )
        for name, own in measured.items()
    }
    _correct_all([row for rows in found.values() for row in rows])
    return found


def _whole(
    comparison: Comparison,
    *,
    audit: Audit,
    models: ComparedModels,
    verdicts: Mapping[str, ChannelVerdict],
    facts: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """What is said of each participant's mean over channels, and of the whole."""
    folds, recommended = len(comparison.splits), str(given["recommended"]["name"])
    rows_of = dict(iter(models.scores.groupby("model")))
    names = [choice.text for choice in models.choices]
    attributes = comparison.dataset.recordings[["participant_id", *comparison.dataset.attributes]]
    findings = Findings(
        chance={},
        calibration={},
        abstention={},
        groups={
            name: groups_of(rows_of[name], attributes=attributes, folds=folds, chance=CHANCE_OF_TWO) for name in names
        },
        sweeps={},
        differences=differences_to(
            reference_name(comparison, names=names),
            recommended=recommended,
            scores=models.scores,
            names=names,
            labels=models.labels,
            folds=folds,
        ),
        verdict=decide_channels(
            list(verdicts.values()),
            label=models.labels[recommended],
            selected=summarise_model(rows_of[SELECTED], folds=folds)["balanced_accuracy"] if given["chosen"] else None,
            num_models=len(names),
        ),
        **given,
    )
    result = build_comparison(
        dataset=comparison.dataset,
        clips=comparison.clips,
        splits=comparison.splits,
        models=models,
        audit=audit,
        findings=findings,
        facts=facts,
    )
    return _of_the_whole(result)


def _averaged(scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean over channels of every model, and of every reference that was measured in all of them."""
    everywhere = set.intersection(*(set(table["model"]) for table in scores.values()))
    return mean_over_channels({name: table[table["model"].isin(everywhere)] for name, table in scores.items()})


def _own_scores(
    comparison: Comparison,
    *,
    fitted: Fitted,
    predictions: pd.DataFrame,
    inner: pd.DataFrame,
    chosen: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Scores that belong to the kind, per model and of the selected pipeline."""
    scheme, splits = comparison.clips.scheme, comparison.splits
    tables = dict.fromkeys(fitted.names, (predictions, inner))
    if chosen:
        tables[SELECTED] = tuple(  # type: ignore[assignment]  # two tables, as the others
            selected_predictions(table, chosen=chosen) for table in (predictions, inner)
        )
    found: dict[str, Any] = {}
    for name, pair in tables.items():
        own, own_inner = (table[table["model"] == name].reset_index(drop=True) for table in pair)
        if scheme.kind == "multilabel":
            found[name] = multilabel_findings(own, own_inner, channels=scheme.channels, splits=splits)
            continue
        found[name] = continuous_findings(own, channels=scheme.channels, folds=len(splits))
        for channel in scheme.channels:
            test = ccc_against_chance(own, channel=channel, seed=comparison.seed)
            found[name][channel] |= {"chance": dataclasses.asdict(test)}
    if scheme.kind == "continuous":
        _correct_all([row["chance"] for name in fitted.names for row in found[name].values()])
    return found


def _corrected(chance: Mapping[str, Tests]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tests against chance with `p_holm` corrected over all channels and models."""
    copied = {channel: {name: dict(test) for name, test in tests.items()} for channel, tests in chance.items()}
    _correct_all([test for tests in copied.values() for test in tests.values()])
    return copied


def _correct_all(tests: Sequence[dict[str, Any]]) -> None:
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p


def _verdicts(
    measured: Mapping[str, Measured],
    *,
    audit: Audit,
    chance: Mapping[str, Tests],
    recommended: Mapping[str, Any],
    own_scores: Mapping[str, Any],
) -> dict[str, ChannelVerdict]:
    """What may be claimed of the recommended model, channel by channel; channels that the audit refused among them."""
    name, dropped = str(recommended["name"]), audit.dropped()
    verdicts = {}
    for channel in audit.channels:
        if channel not in measured:
            verdicts[channel] = ChannelVerdict(channel, refuse(dropped[channel]))
            continue
        own, beside, test = measured[channel], "", dict(chance[channel][name])
        follows = own_scores[name].get(channel)
        if follows is not None:  # a number: it has to be followed, too
            beside = f"concordance within people {with_interval(follows['ccc_within'])}"
            test = _harder(test, follows["chance"])
        evidence = evidence_on(
            recommended, models=own.models, chance={name: test}, audit=own.audit, comparison=own.comparison
        )
        verdicts[channel] = decide_channel(
            channel, evidence, participants_with_positive=_positive_people(own), beside=beside
        )
    return verdicts


def _harder(view: dict[str, Any], follows: Mapping[str, Any]) -> dict[str, Any]:
    """Return the test of the view with the larger p of both: a claim needs both, so no correction is due for two."""
    if view["p_holm"] is None or follows["p_holm"] is None:
        return view | {"p_holm": None, "p_note": view["p_note"] or follows["p_note"]}
    return view | {"p_holm": max(view["p_holm"], follows["p_holm"])}


def _positive_people(measured: Measured) -> int:
    table = measured.comparison.clips.table
    return int(table.loc[table["target"] == 1, "participant_id"].nunique())


def _channel_row(
    measured: Measured,
    *,
    verdict: ChannelVerdict,
    chance: Tests,
    differences: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """What a binary comparison of the channel would say, without what is said once of the whole."""
    own = measured.comparison
    corrected = dataclasses.replace(measured, chance=chance)
    found = corrected.findings(differences=differences, verdict=verdict.verdict, given=given)
    result = build_comparison(
        dataset=own.dataset,
        clips=own.clips,
        splits=own.splits,
        models=measured.models,
        audit=measured.audit,
        findings=found,
        facts=facts,
    )
    people = own.clips.table.groupby("participant_id")["target"].mean()
    row = _verdict_row(verdict) | {
        "refused": False,
        "asks": own.clips.scheme.target,
        "prevalence": float(people.mean()),
        "participants_with_positive": _positive_people(measured),
        "stimulus_locked": measured.audit.stimulus_locked,
    }
    row |= {key: result[key] for key in CHANNEL_KEYS}
    row["models"] = [{key: value for key, value in model.items() if key not in OF_ONE_MODEL} for model in row["models"]]
    return row


def _refused_row(verdict: ChannelVerdict) -> dict[str, Any]:
    """A channel that was dropped before anything was fitted: its reasons, and no score."""
    none: dict[str, Any] = {"models": [], "selected": None, "baselines": {}, "differences": None, "leakage_gap": None}
    none |= {"prevalence": None, "participants_with_positive": None}
    return _verdict_row(verdict) | {"refused": True, "asks": verdict.name} | none


def _verdict_row(verdict: ChannelVerdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "verdict": verdict.verdict.verdict,
        "permitted_claim": verdict.verdict.permitted_claim,
        "verdict_reasons": list(verdict.verdict.reasons),
        "too_rare": verdict.too_rare,
    }


def _of_the_whole(result: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a mean over channels doesn't have: a confusion of two classes, one prevalence."""
    nothing = {"confusion": None, "confusion_normalised": None, "prevalence": None, "prevalence_sweep": None}
    models = [model | nothing for model in result["models"]]
    baselines = {name: row | nothing for name, row in result["baselines"].items()}
    selected = None if result["selected"] is None else result["selected"] | nothing
    return result | {"models": models, "baselines": baselines, "selected": selected}
