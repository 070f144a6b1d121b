"""A target of several channels on the page: its channels on the first screen, and what each model does on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from mien.core.numbers import brackets, short_number, with_interval
from mien.report import strips
from mien.report.differences import reference_of
from mien.report.events import event_context
from mien.report.first_page import first_page, score_values
from mien.report.page import Nullable

MAX_ROWS = 10
"""Channels on the first screen; with more, the rest folds away."""

MAX_OPEN = 4
"""Channels whose rows of all models are open at once."""


@dataclass(frozen=True)
class ChannelRow:
    """A channel on the first screen, as the recommended model does on it.

    Attributes:
        name: The channel.
        anchor: Where the page says more of it.
        verdict: `holds`, `no claim`, `too rare` or `refused`.
        score: Balanced accuracy with its interval; empty for a refused channel, which has none.
        people: "11 of 12 people" where the score isn't defined for all.
        beside: What stands beside it: the kind's own score, or why the channel is refused.
        strip: A dot per participant; empty for a refused channel.
    """

    name: str
    anchor: str
    verdict: str
    score: str
    people: str
    beside: str
    strip: Markup


def scores_of(scores: pd.DataFrame | None, channel: str | None) -> pd.DataFrame | None:
    """Return the rows of one channel of `scores.csv`; of each participant's mean over channels where it is None.

    The file of a target without channels has no such column, and is returned as it is.
    """
    if scores is None or "channel" not in scores:
        return scores
    named = scores["channel"].fillna("").astype(str)
    return scores[named == (channel or "")].drop(columns="channel")


def channel_context(
    comparison: Mapping[str, Any], *, names: Mapping[str, str], scores: pd.DataFrame | None
) -> dict[str, Any]:
    """Return what the templates show of the channels; empty lists for a target without any.

    Args:
        comparison: `comparison.json`, absent keys null.
        names: What each model is called on the page.
        scores: `scores.csv`, None where the run has none.
    """
    channels: Sequence[Mapping[str, Any]] = comparison["channels"] or []
    shown = reference_of(comparison) if comparison["models"] else None
    judged = [channel for channel in channels if not channel["refused"]]
    rows, scale = _rows(comparison, channels, shown=shown, scores=scores) if judged else ([], None)
    return {
        "channels": channels,
        "judged": judged,
        "refused_channels": [channel for channel in channels if channel["refused"]],
        "channel_rows": rows[:MAX_ROWS],
        "more_channels": rows[MAX_ROWS:],
        "channel_axis": "" if scale is None else strips.axis(scale),
        "shown_model": names.get(shown or "", ""),
        "averaged": comparison["averaged_over"] or [],
        "kind_table": _kind_table(comparison, judged, names=names),
        "macro_rows": _macro_rows(comparison, names=names),
        "channel_pages": [
            _page(comparison, channel, names=names, scores=scores) | {"open": len(judged) <= MAX_OPEN}
            for channel in judged
        ],
    }


def _page(
    comparison: Mapping[str, Any], channel: Mapping[str, Any], *, names: Mapping[str, str], scores: pd.DataFrame | None
) -> dict[str, Any]:
    """What the first screen and the section of events would show of a comparison of this channel alone."""
    alone = Nullable(
        {
            **channel,
            "target": channel["asks"],
            "unit": comparison["unit"],
            "recommended": comparison["recommended"],
        }
    )
    own = scores_of(scores, str(channel["name"]))
    events = event_context(alone, names=names, table=None)["events"]
    return {"channel": channel, "events": events, "first": first_page(alone, names=names, scores=own)}


def verdict_word(channel: Mapping[str, Any]) -> str:
    """Say in one or two words what may be claimed of a channel.

    >>> verdict_word({"refused": False, "too_rare": False, "verdict": "exploratory", "permitted_claim": None})
    'no claim'
    """
    if channel["refused"]:
        return "refused"
    if channel["too_rare"]:
        return "too rare"
    return str(channel["verdict"]) if channel["permitted_claim"] else "no claim"


def own_score(comparison: Mapping[str, Any], channel: str, model: str | None) -> str:
    """Write the score that belongs to the kind of target: what stands beside balanced accuracy."""
    multilabel = ((comparison["multilabel"] or {}).get(model) or {}).get("channels") or {}
    if channel in multilabel:
        found = multilabel[channel]
        above = found["ap_minus_prevalence"]
        share = short_number(found["prevalence"])
        return f"AP {short_number(above['mean'], signed=True)} {brackets(above)} above prevalence {share}"
    follows = ((comparison["continuous"] or {}).get(model) or {}).get(channel)
    return f"CCC within people {with_interval(follows['ccc_within'])}" if follows else ""


def _rows(
    comparison: Mapping[str, Any],
    channels: Sequence[Mapping[str, Any]],
    *,
    shown: str | None,
    scores: pd.DataFrame | None,
) -> tuple[list[ChannelRow], strips.Scale]:
    values = {
        str(channel["name"]): score_values(scores_of(scores, str(channel["name"]))).get(shown or "", [])
        for channel in channels
    }
    found = {
        str(channel["name"]): next((m["balanced_accuracy"] for m in channel["models"] if m["name"] == shown), None)
        or {}
        for channel in channels
    }
    ends = [score.get(key) for score in found.values() for key in ("mean", "low")]
    scale = strips.Scale.of([*ends, *(value for own in values.values() for value in own)])
    rows = []
    for index, channel in enumerate(channels):
        name = str(channel["name"])
        score, word = found[name], verdict_word(channel)
        if word == "refused":
            reasons = channel["verdict_reasons"] or []
            why = "; ".join(str(reason).partition(":")[0] for reason in reasons)
            rows.append(
                ChannelRow(name, f"channel-{index}", word, "", "", f"dropped before any fit: {why}", Markup(""))
            )
            continue
        mean, low, high = (score.get(key) for key in ("mean", "low", "high"))
        text = with_interval({"mean": mean, "low": low, "high": high})
        title = f"{name}: balanced accuracy {text}"
        strip = strips.dot_strip(values[name], mean=mean, low=low, high=high, scale=scale, kind="model", title=title)
        n, of = score.get("n"), comparison["participants"]
        people = "" if n is None or of in (None, n) else f"{n} of {of} people"
        beside = "; ".join(filter(None, [own_score(comparison, name, shown), _strongest(channel)]))
        rows.append(ChannelRow(name, f"channel-{index}", word, text, people, beside, strip))
    return rows, scale


def _strongest(channel: Mapping[str, Any]) -> str:
    """The best of what sees no face, as a landmark."""
    faceless = {
        name: row["balanced_accuracy"]["mean"]
        for name, row in (channel["baselines"] or {}).items()
        if str(name).partition("+")[0] in ("nuisances", "face hidden", "peer") and row["balanced_accuracy"]
    }
    known = {name: mean for name, mean in faceless.items() if mean is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name])
    return f"{best} {short_number(known[best])}"


def _kind_table(
    comparison: Mapping[str, Any], judged: Sequence[Mapping[str, Any]], *, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One row per channel and model: what the kind's own scores say, beside the trivial predictors."""
    key = "multilabel" if comparison["multilabel"] else "continuous"
    own = comparison[key] or {}
    models = [name for name in [*names, "selected"] if own.get(name)]
    rows: list[dict[str, Any]] = []
    for channel in judged:
        name = str(channel["name"])
        tests = {str(model["name"]): model for model in channel["models"]}
        for number, model in enumerate(models):
            scores = own[model]["channels"][name] if key == "multilabel" else own[model][name]
            rows.append(
                Nullable(
                    {
                        "channel": channel,
                        "first": number == 0,
                        "span": len(models),
                        "model": names.get(model, model),
                        "scores": scores,
                        "balanced_accuracy": (tests.get(model) or channel["selected"] or {}).get("balanced_accuracy"),
                        # The selected pipeline isn't tested: it is one of the models in each fold.
                        "test": None if model not in tests else scores.get("chance") or tests[model]["chance"],
                    }
                )
            )
    return rows


def _macro_rows(comparison: Mapping[str, Any], *, names: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    own = comparison["multilabel"] or {}
    return [(names.get(name, name), own[name]) for name in [*names, "selected"] if own.get(name)]
