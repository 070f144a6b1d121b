"""The channels of a comparison on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.cli.tables import table_console
from mien.report.channels import verdict_word


def show_channels(result: Mapping[str, Any]) -> None:
    """Print what each model does on each channel; nothing for a target without channels.

    Args:
        result: `comparison.json`.
    """
    channels = result.get("channels") or []
    judged = [channel for channel in channels if not channel["refused"]]
    if judged:
        _show_judged(result, judged)
    for channel in channels:
        if channel["refused"]:
            table_console().print(
                f"{channel['name']}: refused, dropped before any fit. {channel['verdict_reasons'][0]}"
            )


def _show_judged(result: Mapping[str, Any], judged: list[Mapping[str, Any]]) -> None:
    from rich.table import Table

    rated = "continuous" in result
    own = result["continuous" if rated else "multilabel"]
    headings = ("CCC within people", "CCC pooled", "person's mean, pooled") if rated else (
        "AP above prevalence",
        "F1, inner thresholds",
        "always there: F1",
    )  # fmt: skip
    table = Table("channel", "model", "balanced accuracy", *headings, "p (Holm)", "verdict")
    for channel in judged:
        for model in channel["models"]:
            found = own[model["name"]]
            scores = found[channel["name"]] if rated else found["channels"][channel["name"]]
            test = scores["chance"] if rated else model["chance"]
            shown = (
                (_text(scores["ccc_within"]), _text(scores["ccc_pooled"]), _text(scores["person_mean"]["ccc_pooled"]))
                if rated
                else (_text(scores["ap_minus_prevalence"]), _text(scores["f1"]), _number(scores["all_positive"]["f1"]))
            )
            first = model is channel["models"][0]
            table.add_row(
                _named(channel, rated=rated) if first else "",
                model["label"],
                _text(model["balanced_accuracy"]),
                *shown,
                "none" if test["p_holm"] is None else f"{test['p_holm']:.4f}",
                verdict_word(channel) if first else "",
            )
    table_console().print(table)
    if not rated:
        labels = {model["name"]: model["label"] for model in result["models"]}
        for name, found in own.items():
            over = f"over {found['channels_scored']} channels (always there: {_number(found['macro_f1_all_positive'])})"
            table_console().print(f"{labels.get(name, name)}: macro-F1 {_text(found['macro_f1'])} {over}")


def _named(channel: Mapping[str, Any], *, rated: bool) -> str:
    if rated:  # half of the time is above the own median, by definition
        return str(channel["name"])
    return f"{channel['name']} ({100 * channel['prevalence']:.0f} %)"


def _text(score: Mapping[str, float | None]) -> str:
    if score["mean"] is None:
        return "undefined"
    low, high = score["low"], score["high"]
    return f"{score['mean']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
