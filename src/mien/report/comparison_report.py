"""`report.html` of a run: one self-contained page for a reader who knows statistics but not the software.

The page reads what `compare` wrote and computes no score of its own; `roc` draws the curves from the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mien.core.labels import annotated_by
from mien.core.storage import read_json, write_text
from mien.report import charts, wording
from mien.report.charts import StripRow
from mien.report.roc import roc_charts

WIDE_PX, NARROW_PX = 1000.0, 400.0  # the strip chart is drawn twice; the style sheet shows the one that fits

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
    context = _context(
        comparison,
        scores=_read_scores(run / "scores.csv"),
        predictions=pd.read_parquet(path) if (path := run / "predictions.parquet").is_file() else None,
        histories=_read_histories(run / "folds"),
    )
    environment = Environment(
        loader=PackageLoader("mien.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": wording.short_number,
        "breakable": wording.breakable,
        "brackets": wording.brackets,
        "count": wording.count,
        "decimal": wording.decimal,
        "scaled": wording.scaled,
        "duration": wording.duration,
    }
    page = environment.get_template("comparison.html.j2").render(context)
    report = run / "report.html"
    write_text(report, page)
    return report


def _context(
    comparison: dict[str, Any], *, scores: pd.DataFrame | None, predictions: pd.DataFrame | None, histories: Histories
) -> dict[str, Any]:
    """Everything that the template shows; absent keys of `comparison.json` count as null."""
    comparison = _nullable(comparison)
    # A refused comparison prints no score, whatever the file holds.
    refused = comparison["verdict"] == "refused"
    models = [] if refused else comparison["models"] or []
    baselines = {} if refused else {name: row for name, row in (comparison["baselines"] or {}).items() if row}
    study = comparison["study"] or _Nullable()
    names = wording.display_names(models)
    # Runs that are older than `scored_per` averaged over participants.
    per = next((model["scored_per"] for model in models if model["scored_per"]), "participant mean")
    once = per != "participant mean"
    thing = "participant" if per == "participants" else "recording" if comparison["unit"] == "recording" else "moment"
    people = _people(list(names), scores, metric="accuracy" if once else "balanced_accuracy")
    one_label = once or comparison["unit"] == "participant"
    return {
        "c": comparison,
        "study": study,
        "title": wording.report_title(comparison),
        "verdict": wording.verdict_of(comparison),
        "not_permitted": wording.NOT_PERMITTED,
        "annotated_by": annotated_by(comparison.get("label_source")),
        "synthetic": bool(study["synthetic"]) or comparison.get("label_source") == "synthetic",
        "binary": comparison.get("kind") != "multiclass",
        "classes": comparison.get("classes") or [],
        "models": models,
        "baselines": baselines,
        "names": names,
        "once": once,
        "repeated": per == "participants" and comparison["unit"] == "recording",
        "columns": wording.score_columns(thing),
        "things": "clips" if thing == "moment" else f"{thing}s",
        "sweeps": [(names[model["name"]], rows) for model in models if (rows := model["prevalence_sweep"])],
        "strips": _strip_charts(models, baselines, scores, names=names, participants=comparison.get("participants")),
        "people": people if models else [],
        "one_label": one_label,
        "positive_people": _positive_people(people) if one_label else None,
        "class_counts": _class_counts(comparison, models),
        "counted": "participants" if once else f"{thing}s" if thing != "moment" else "clips",
        "curves": _learning_charts(names, histories),
        "rocs": None if predictions is None else roc_charts(comparison, names=names, predictions=predictions),
        "facts_of_run": wording.flattened(
            {key: comparison.get(key) for key in ("dataset", "kind", "classes", "fps", "folds", "seed")}
        ),
        "versions": wording.flattened(comparison.get("versions") or {}),
        "settings": [(names[model["name"]], wording.flattened(model["settings"] or {})) for model in models],
    }


class _Nullable(dict[str, Any]):
    """A mapping whose absent keys are None: `comparison.json` grows, and older runs lack its newer keys."""

    def __missing__(self, key: str) -> None:
        return None


def _nullable(value: Any) -> Any:
    """Turn every mapping within JSON data to one whose absent keys are None."""
    if isinstance(value, dict):
        return _Nullable({key: _nullable(item) for key, item in value.items()})
    return [_nullable(item) for item in value] if isinstance(value, list) else value


def _read_scores(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    # A participant may be called "NA" or "007": ids stay text, and only an empty cell is a missing score.
    return pd.read_csv(path, dtype={"participant_id": str, "model": str}, keep_default_na=False, na_values=[""])


def _read_histories(folder: Path) -> Histories:
    """Epochs per model and fold; models that aren't trained by epochs have none."""
    histories: Histories = {}
    for path in sorted(folder.glob("*/*/fit.json")):
        fit = read_json(path)
        if history := fit.get("history"):
            model, fold = fit.get("model") or path.parent.parent.name, int(fit.get("fold", path.parent.name))
            histories.setdefault(str(model), {})[fold] = history
    return histories


def _strip_charts(
    models: Sequence[_Nullable],
    baselines: Mapping[str, _Nullable],
    scores: pd.DataFrame | None,
    *,
    names: Mapping[str, str],
    participants: int | None,
) -> list[tuple[str, Markup]]:
    """The strip chart for a wide and for a narrow page, as (class of the style sheet, SVG)."""
    rows = [
        _strip_row(names[model["name"]], model, scores, name=str(model["name"]), participants=participants)
        for model in models
    ]
    rows += [
        _strip_row(f"{name} (sees no face)", baseline, scores, name=name, participants=None, baseline=True)
        for name, baseline in baselines.items()
    ]
    if not rows:
        return []
    title = "Balanced accuracy"
    return [
        (kind, Markup(charts.strip_chart(rows, name=f"strip-{kind}", width_px=width, title=title)))
        for kind, width in (("wide", WIDE_PX), ("narrow", NARROW_PX))
    ]


def _strip_row(
    label: str,
    summary: Mapping[str, Any],
    scores: pd.DataFrame | None,
    *,
    name: str,
    participants: int | None,
    baseline: bool = False,
) -> StripRow:
    score = summary["balanced_accuracy"] or {}
    text = f"{wording.short_number(score.get('mean'))} {'' if baseline else wording.brackets(score)}".strip()
    number = score.get("n")
    if number is not None and participants is not None and number < participants:
        text += f"  ({number} of {participants} people)"
    values: list[float] = []
    if scores is not None:
        values = scores.loc[scores["model"] == name, "balanced_accuracy"].dropna().astype(float).tolist()
    low, high = (None, None) if baseline else (score.get("low"), score.get("high"))
    return StripRow(label, text, score.get("mean"), low, high, values, baseline)


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


def _class_counts(comparison: Mapping[str, Any], models: Sequence[_Nullable]) -> list[tuple[str, int, int]]:
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
