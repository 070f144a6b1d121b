"""`report.html` of a run: one self-contained page for a reader who knows statistics but not the software.

The page reads what `compare` wrote and computes no score of its own; `roc` draws the curves from the predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mien.core.labels import annotated_by
from mien.core.storage import read_json, write_text
from mien.report import charts, wording
from mien.report.audit_table import check_rows
from mien.report.channels import channel_context, scores_of
from mien.report.coders import coder_context
from mien.report.differences import chance_rows, difference_rows
from mien.report.events import event_context, read_events
from mien.report.first_page import first_page, meaning_of
from mien.report.page import Nullable, nullable, render
from mien.report.reliability import reliability_context
from mien.report.roc import roc_charts

AUDIT_PAGE = "audit.html"  # beside the report, where the audit wrote one

SAID_WHEN_REFUSED = (
    *("verdict", "verdict_reasons", "not_permitted", "audit", "overrides", "merged_participants"),
    *("title", "target", "label_source", "kind", "classes", "unit", "study", "participants", "independent"),
    *("minutes", "clips", "median_seconds_per_participant", "median_positive_seconds_per_participant", "fps"),
    *("exclusions", "excluded", "failures", "command", "versions", "dataset", "seed", "channels"),
)
"""Keys of a refused comparison that are read at all; none of them holds a model's score."""

Histories = dict[str, dict[int, list[dict[str, Any]]]]


def write_comparison_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Args:
        run: A run folder: `comparison.json`, and where they exist `predictions.parquet`, `scores.csv` and
            `folds/<model>/<fold>/fit.json` (`history`: the epochs; `model` and `fold`, else taken from the path). A
            section whose file is absent says so.

    Raises:
        UserError: `comparison.json` is missing or isn't JSON.
    """
    comparison = read_json(run / "comparison.json")
    refused = comparison.get("verdict") == "refused"
    # A refused comparison prints no score: the files that hold some aren't even opened.
    predictions = run / "predictions.parquet"
    context = _context(
        comparison,
        scores=None if refused else _read_scores(run / "scores.csv"),
        predictions=pd.read_parquet(predictions) if predictions.is_file() and not refused else None,
        events=None if refused else read_events(run),
        histories={} if refused else _read_histories(run / "folds"),
        audit_page=AUDIT_PAGE if (run / AUDIT_PAGE).is_file() else "",
    )
    report = run / "report.html"
    write_text(report, render("comparison.html.j2", context))
    return report


def _context(
    comparison: dict[str, Any],
    *,
    scores: pd.DataFrame | None,
    predictions: pd.DataFrame | None,
    events: pd.DataFrame | None,
    histories: Histories,
    audit_page: str,
) -> dict[str, Any]:
    """Everything that the template shows; absent keys of `comparison.json` count as null."""
    refused = comparison.get("verdict") == "refused"
    comparison = nullable(_without_scores(comparison) if refused else comparison)
    models = comparison["models"] or []
    baselines = {name: row for name, row in (comparison["baselines"] or {}).items() if row}
    study = comparison["study"] or Nullable()
    names = wording.display_names(models)
    # Runs that are older than `scored_per` averaged over participants.
    per = next((model["scored_per"] for model in models if model["scored_per"]), "participant mean")
    once = per != "participant mean"
    thing = "participant" if per == "participants" else "recording" if comparison["unit"] == "recording" else "moment"
    whole = scores_of(scores, None)
    people = _people(list(names), whole, metric="accuracy" if once else "balanced_accuracy")
    one_label = once or comparison["unit"] == "participant"
    return {
        "c": comparison,
        "refused": refused,
        "study": study,
        "title": wording.report_title(comparison),
        "headline": wording.headline_of(comparison),
        "first": first_page(comparison, names=names, scores=whole),
        **channel_context(comparison, names=names, scores=scores),
        "configurations": _configurations(comparison, models),
        "checks": check_rows(comparison["audit"], overrides=comparison["overrides"] or ()),
        "failing": wording.refusing(comparison),
        "other_reasons": wording.other_reasons(comparison),
        "meanings": {name: meaning_of(name) for name in baselines},
        "audit_page": audit_page,
        "annotated_by": annotated_by(comparison["label_source"]),
        "synthetic": bool(study["synthetic"]) or comparison["label_source"] == "synthetic",
        "binary": comparison["kind"] in (None, "binary"),
        "classes": comparison["classes"] or [],
        "models": models,
        "selected": comparison["selected"],
        "chosen": _chosen(comparison["selected"]),
        "baselines": baselines,
        "names": names,
        "once": once,
        "repeated": per == "participants" and comparison["unit"] == "recording",
        "columns": wording.score_columns(thing),
        "things": "clips" if thing == "moment" else f"{thing}s",
        "differences": difference_rows(comparison, names=names),
        "chances": chance_rows(models, names=names),
        **reliability_context(models, names=names),
        "coders": coder_context(comparison, names=names),
        **event_context(comparison, names=names, table=events),
        "people": people if models else [],
        "one_label": one_label,
        "positive_people": _positive_people(people) if one_label else None,
        "class_counts": _class_counts(comparison, models),
        "counted": "participants" if once else f"{thing}s" if thing != "moment" else "clips",
        "curves": _learning_charts(names, histories),
        "rocs": None if predictions is None else _rocs(comparison, names=names, predictions=predictions),
        "facts_of_run": wording.flattened(
            {key: comparison[key] for key in ("dataset", "kind", "classes", "fps", "folds", "seed")}
        ),
        "versions": wording.flattened(comparison["versions"] or {}),
        "settings": [(names[model["name"]], wording.flattened(model["settings"] or {})) for model in models],
    }


def _rocs(comparison: Mapping[str, Any], *, names: Mapping[str, str], predictions: pd.DataFrame) -> Any:
    """ROC curves of a target of classes; channels have average precision instead, which rare ones need."""
    return [] if comparison["channels"] else roc_charts(comparison, names=names, predictions=predictions)


def _without_scores(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what a refused comparison may say, whatever else its file holds."""
    return {key: comparison[key] for key in SAID_WHEN_REFUSED if key in comparison}


def _chosen(selected: Mapping[str, Any] | None) -> Counter[str]:
    """In how many folds the selected pipeline took each model."""
    folds = selected["chosen"] or [] if selected else []
    return Counter(str(fold["label"] or fold["model"]) for fold in folds)


def _configurations(comparison: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> tuple[int, int | None]:
    """Configurations that were tried in this run, and on this target so far (None where nobody counted)."""
    tried = comparison["configurations"] or Nullable()
    this_run = tried["this_run"]
    if this_run is None:
        this_run = len(models) + len(comparison["failed_models"] or [])
    return int(this_run), tried["on_this_target"]


def _read_scores(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    # A participant may be called "NA" or "007": ids stay text, and only an empty cell is a missing score.
    texts: dict[str, type] = {"participant_id": str, "model": str, "channel": str}
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])


def _read_histories(folder: Path) -> Histories:
    """Epochs per model and fold; models that aren't trained by epochs have none."""
    histories: Histories = {}
    for path in sorted(folder.glob("*/*/fit.json")):
        fit = read_json(path)
        if history := fit.get("history"):
            model, fold = fit.get("model") or path.parent.parent.name, int(fit.get("fold", path.parent.name))
            histories.setdefault(str(model), {})[fold] = history
    return histories


def _people(models: Sequence[str], scores: pd.DataFrame | None, *, metric: str) -> list[dict[str, Any]]:
    """One row per participant: scored clips, positive ones, and the metric per model (None where undefined)."""
    if scores is None:
        return []
    people = []
    for participant in sorted(scores["participant_id"].unique()):
        rows = scores[scores["participant_id"] == participant]
        by_model = dict(zip(rows["model"], rows[metric].astype(float), strict=True))
        first = rows.iloc[0]
        people.append(
            {
                "id": participant,
                "clips": first["n"],
                "positives": None if pd.isna(first["positives"]) else first["positives"],
                "scores": [by_model.get(name) for name in models],
            }
        )
    return people


def _positive_people(people: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Positive participants, and all that have a label; None where the scores don't say it."""
    labelled = [person["positives"] for person in people if person["positives"] is not None and person["clips"]]
    return (sum(number > 0 for number in labelled), len(labelled)) if labelled else None


def _class_counts(comparison: Mapping[str, Any], models: Sequence[Nullable]) -> list[tuple[str, int, int]]:
    """Per class of a multiclass target its name, how often it is annotated, and that in percent of all."""
    counts = next((model["confusion"] for model in models if model["confusion"]), None)
    if comparison.get("kind") != "multiclass" or counts is None:
        return []
    totals = [sum(row) for row in counts]
    names = comparison.get("classes") or range(len(totals))
    return [
        (str(name), number, round(100 * number / max(sum(totals), 1)))
        for name, number in zip(names, totals, strict=True)
    ]


def _learning_charts(names: Mapping[str, str], histories: Histories) -> list[tuple[str, str, Markup | None]]:
    """Per model (name, label, SVG); None for a model without epochs."""
    charted = []
    for index, (name, label) in enumerate(names.items()):
        history = histories.get(name)
        title = f"Training and validation loss of {label}"
        svg = charts.learning_curves(history, name=f"curve{index}", title=title) if history else None
        charted.append((name, label, None if svg is None else Markup(svg)))
    return charted
