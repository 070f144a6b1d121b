"""`mien plan`: what will be compared, written down and hashed before the data are looked at (EVALUATION.md, section 5).

A comparison that follows a plan is confirmatory; any other is exploratory, however it came out. So is one whose plan
was written after a score on the target had been seen: of a comparison, of a training, or of an audit's probe. The hash
shows that a plan wasn't edited afterwards; cite it (a preregistration, a mail to a colleague), because whoever holds
the files can write another plan with another hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mien.core.errors import NothingToLearnError, RefusedError, UserError, unknown_name
from mien.core.storage import digest_of, read_json, to_jsonable, write_json
from mien.data.attempts import count_configurations, count_runs, describe_runs, utc_now
from mien.data.clips import build_clips
from mien.data.dataset import Dataset
from mien.data.splits import make_folds
from mien.evaluation.power import ALPHA, detectable_difference
from mien.evaluation.scores import INTERVAL_METRICS
from mien.models.choice import ModelChoice, needs_of, parse_models
from mien.training.checks import check_model
from mien.training.settings import FitSettings

PLAN_FILE = "plan.json"
ASSUMED_SD = 0.10
"""Spread of the differences between participants for which the detectable difference is given: EVALUATION.md's."""

# What a run has to share with a plan, in the words of a message.
_PLANNED = {
    "target": "the target",
    "metric": "the metric",
    "models": "the models and their baselines",
    "folds": "the number of folds",
    "seed": "the seed",
    "settings": "the settings of the fits",
    "alpha": "the level",
    "dataset_hash": "the data (the dataset was prepared again, with other content)",
}


@dataclass(frozen=True)
class Plan:
    """What will be compared.

    Attributes:
        target: The target.
        metric: The one metric that decides; one of `INTERVAL_METRICS`.
        models: Models with backbone and personal baseline (`ModelChoice.full_name`), sorted.
        folds: Number of folds.
        seed: Seed of the comparison.
        settings: How models are fitted (`FitSettings.to_json`).
        smallest_difference: Smallest difference of the metric that would matter.
        alpha: Level of the tests, two-sided, after Holm's correction.
        dataset_hash: Content of the dataset.
        participants: Participants, or groups where these hold several, with usable clips.
        detectable_difference: Difference that is found with 80 % power, at a spread of `ASSUMED_SD`; None for fewer
            than 2 participants.
        created: UTC time, ISO 8601.
        runs_before: Comparisons, trainings and audits that had been run on the target before.
        configurations_before: Configurations that had been tried on it before.
        replaces: Hashes of the plans that this one replaced, oldest first.
        mien: Version that wrote it.
        looks_before: The same runs in words, such as "1 audit"; empty where there were none, and in plans of versions
            that counted comparisons alone.
    """

    target: str
    metric: str
    models: tuple[str, ...]
    folds: int
    seed: int
    settings: Mapping[str, Any]
    smallest_difference: float
    alpha: float
    dataset_hash: str
    participants: int
    detectable_difference: float | None
    created: str
    runs_before: int
    configurations_before: int
    replaces: tuple[str, ...]
    mien: str
    looks_before: str = ""

    @property
    def hash(self) -> str:
        """Digest of everything above."""
        # Plans from before there was `looks_before` keep their hash.
        return digest_of({key: value for key, value in asdict(self).items() if key != "looks_before" or value})

    def runs(self) -> str:
        """Say what had been run on the target before the plan was written."""
        count = self.runs_before
        return self.looks_before or ("1 comparison" if count == 1 else f"{count} comparisons")

    def same_as(self, other: Plan) -> bool:
        """Return whether another plan says the same, whenever it was written."""
        names = (*_PLANNED, "smallest_difference")
        return digest_of([getattr(self, name) for name in names]) == digest_of([getattr(other, name) for name in names])


@dataclass(frozen=True)
class Confirmatory:
    """Whether a comparison follows a plan.

    Attributes:
        is_: Whether it does, and nothing had been tried before the plan.
        plan: Hash of the plan; None where there is none.
        reason: One or two sentences.
    """

    is_: bool
    plan: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return what `comparison.json` holds: is, plan, reason."""
        return {"is": self.is_, "plan": self.plan, "reason": self.reason}


def write_plan(
    dataset_path: Path,
    *,
    target: str,
    models: str | Sequence[str],
    baseline: str = "none",
    folds: int | Literal["loo"] = 5,
    seed: int = 0,
    settings: FitSettings | None = None,
    metric: str = "balanced_accuracy",
    smallest_difference: float = 0.05,
    alpha: float = ALPHA,
    out: Path | None = None,
    replace: bool = False,
) -> Path:
    """Write a plan; where the same one is there already it stays, with the time at which it was written.

    Args:
        dataset_path: What `mien prepare` wrote.
        target: Name of the target.
        models: Models as `NAME[@BACKBONE][+BASELINE]`, a list or separated by commas.
        baseline: Personal baseline of the models that don't name their own.
        folds: Number of folds, or `loo`.
        seed: Seed of the comparison.
        settings: How models are fitted; the defaults where None.
        metric: The one metric that decides.
        smallest_difference: Smallest difference of it that would matter, above 0 and below 1.
        alpha: Level of the tests.
        out: The plan's file; `DATASET/plan.json` where None.
        replace: Write over another plan; its hash stays in `replaces`.

    Returns:
        Path of the plan.

    Raises:
        UserError: An unknown target, model or metric, weights that can't be had, folds that the data don't allow, a
            difference or level out of range, a plan that was edited, or another plan without `replace`.
        RefusedError: A target that never varies.
    """
    if metric not in INTERVAL_METRICS:
        raise unknown_name("metric", got=metric, allowed=INTERVAL_METRICS)
    if not 0.0 < smallest_difference < 1.0 or not 0.0 < alpha < 0.5:
        raise UserError(
            f"The smallest difference is {smallest_difference:g} and alpha {alpha:g}; allowed: above 0 and below 1, "
            "above 0 and below .5."
        )
    dataset = Dataset.open(dataset_path)
    choices = parse_models(models, default_baseline=baseline)
    settings = settings or FitSettings()
    for choice in choices:  # a plan that can't be followed is none
        check_model(choice, dataset=dataset, settings=settings)
    try:
        clips = build_clips(dataset, target=target, needs=needs_of(choices))
    except NothingToLearnError as error:  # what `mien compare` refuses by its audit
        raise RefusedError([str(error)]) from error
    target = clips.scheme.target  # `all` and a list with spaces are written as what they mean
    num_folds = len(make_folds(clips, folds=folds, seed=seed))
    participants = int(clips.table["group"].nunique())
    detectable = detectable_difference(participants, sd=ASSUMED_SD, folds=num_folds, alpha=alpha)
    path = dataset.path / PLAN_FILE if out is None else Path(out)
    there = read_plan(path) if path.exists() else None
    plan = Plan(
        target=target,
        metric=metric,
        models=_names(choices),
        folds=num_folds,
        seed=seed,
        settings=to_jsonable(settings.to_json()),
        smallest_difference=float(smallest_difference),
        alpha=float(alpha),
        dataset_hash=dataset.content_hash,
        participants=participants,
        detectable_difference=None if math.isnan(detectable) else round(detectable, 4),
        created=utc_now(),
        runs_before=count_runs(dataset.path, target),
        configurations_before=count_configurations(dataset.path, target),
        replaces=() if there is None else (*there.replaces, there.hash),
        mien=version("mien"),
        looks_before=describe_runs(dataset.path, target),
    )
    if there is not None and there.same_as(plan):
        return path
    if there is not None and not replace:
        raise UserError(
            f"{path} holds another plan ({there.hash} of {there.created}, target {there.target!r}). Follow it, or "
            "replace it (--replace); the new plan will name the one that it replaced."
        )
    write_json(path, {**asdict(plan), "hash": plan.hash})
    return path


def read_plan(path: Path) -> Plan:
    """Read a plan and verify its hash.

    Raises:
        UserError: It isn't a plan, or it isn't as it was written.
    """
    values = read_json(path)
    names = {field.name for field in fields(Plan)}
    if isinstance(values, dict):
        values.setdefault("looks_before", "")
    if not isinstance(values, dict) or set(values) != names | {"hash"}:
        raise UserError(f"{path} isn't a plan of this mien. `mien plan` writes one.")
    given = values.pop("hash")
    plan = Plan(**{**values, "models": tuple(values["models"]), "replaces": tuple(values["replaces"])})
    if plan.hash != given:
        raise UserError(
            f"{path} was edited after it was written: its content has the hash {plan.hash}, the plan says {given}. "
            "Restore the original, or remove the file and write a new plan with `mien plan`."
        )
    return plan


def plan_lines(plan: Plan) -> list[str]:
    """Return what a person should know of a plan, a line each."""
    lines = [
        f"Plan {plan.hash} of {plan.created}: {', '.join(plan.models)} on {plan.target!r}, {plan.folds} folds, "
        f"seed {plan.seed}; {plan.metric} decides, at alpha {plan.alpha:g}."
    ]
    if plan.runs_before:
        lines.append(
            f"{plan.runs()} ({_configurations(plan.configurations_before)}) had been run on this target before: the "
            "outcome has been looked at, so no comparison that follows this plan is confirmatory."
        )
    if plan.detectable_difference is None:
        return [*lines, "Too few participants to say which difference could be found."]
    found = (
        f"With {plan.participants} independent participants a true difference of {plan.detectable_difference:.3f} is "
        f"found in 80 % of studies (where differences between people have an sd of {ASSUMED_SD:.2f})"
    )
    if plan.detectable_difference > plan.smallest_difference:
        found += f"; the smallest one of interest, {plan.smallest_difference:g}, would mostly be missed"
    return [*lines, f"{found}."]


def check_plan(
    dataset_path: Path,
    *,
    target: str,
    models: Sequence[ModelChoice],
    folds: int,
    seed: int,
    settings: FitSettings,
    metric: str = "balanced_accuracy",
    alpha: float = ALPHA,
    path: Path | None = None,
) -> Confirmatory:
    """Say whether a comparison is confirmatory.

    It is where a plan was written before anybody saw a score on the target (`attempts.csv` says: of comparisons,
    trainings and audits), and where target, metric, models, baselines, folds, seed, settings, level and data are those
    of the plan.

    Args:
        dataset_path: The dataset.
        target: The run's target.
        models: The run's models.
        folds: The run's number of folds.
        seed: The run's seed.
        settings: How the run's models are fitted.
        metric: What decides in the run.
        alpha: The run's level.
        path: The plan's file; `DATASET/plan.json` where None.

    Raises:
        UserError: The plan was edited after it was written, or isn't a plan.
    """
    dataset = Dataset.open(dataset_path)
    path = dataset.path / PLAN_FILE if path is None else Path(path)
    if not path.is_file():
        return Confirmatory(False, None, "No plan was written before (`mien plan`), so this comparison is exploratory.")
    plan = read_plan(path)
    run = {
        "target": target,
        "metric": metric,
        "models": _names(models),
        "folds": folds,
        "seed": seed,
        "settings": settings.to_json(),
        "alpha": alpha,
        "dataset_hash": dataset.content_hash,
    }
    other = [words for name, words in _PLANNED.items() if digest_of([run[name]]) != digest_of([getattr(plan, name)])]
    if other:
        reason = f"The run isn't the one that plan {plan.hash} describes; what differs: {', '.join(other)}."
        return Confirmatory(False, plan.hash, reason)
    logged = count_runs(dataset.path, target, before=plan.created)
    if logged or plan.runs_before:
        # Where the log is gone, the plan remembers.
        runs = describe_runs(dataset.path, target, before=plan.created) if logged >= plan.runs_before else plan.runs()
        reason = f"{runs} had been run on {target!r} before plan {plan.hash} was written."
        return Confirmatory(False, plan.hash, reason)
    reason = f"The run follows plan {plan.hash}, written on {plan.created} before any score on {target!r} was seen."
    return Confirmatory(True, plan.hash, reason)


def _names(choices: Sequence[ModelChoice]) -> tuple[str, ...]:
    return tuple(sorted(choice.full_name for choice in choices))


def _configurations(count: int) -> str:
    return "1 configuration" if count == 1 else f"{count} configurations"
