"""What a check says: a measured value beside its threshold, how bad that is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mien.core.errors import unknown_name

Severity = Literal["ok", "warn", "fail", "not checked"]
AuditVerdict = Literal["pass", "warn", "fail"]

CHECK_NAMES = (
    "label-source",
    "label-varies",
    "copies",
    "same-person",
    "contradictory-labels",
    "split-overlap",
    "augmentation-lineage",
    "constant-label",
    "few-participants",
    "clock",
    "label-in-pixels",
    "overlays",
    "nuisances",
    "stimulus-locking",
    "leakage-gap",
    "time-correlation",
)
"""All checks in the order in which they are shown; what `--override` takes."""

NEVER_OVERRIDDEN = ("label-varies", "few-participants")
"""Without two classes that people share, or people to train and test on, there is nothing that an override could go on
with."""

CHECK_TITLES = {
    "label-source": "who annotated",
    "label-varies": "the target varies",
    "copies": "copies across participants",
    "same-person": "one person under two ids",
    "contradictory-labels": "contradictory labels on copies",
    "split-overlap": "overlap between splits",
    "augmentation-lineage": "augmentation before the split",
    "constant-label": "label constant per participant or recording",
    "few-participants": "number of participants",
    "clock": "clock",
    "label-in-pixels": "label drawn in the pixels",
    "overlays": "overlays on the face",
    "nuisances": "nuisances",
    "stimulus-locking": "stimulus locking",
    "leakage-gap": "leakage gap",
    "time-correlation": "correlation in time",
}
"""What a person reads for each check."""


@dataclass(frozen=True)
class Check:
    """One check of the audit.

    Attributes:
        name: One of `CHECK_NAMES`.
        severity: `ok`, `warn`, `fail` (stops training unless the user overrides this check by name), or `not checked`.
        measured: The measured value: a number, a text, a mapping of numbers; None where nothing was measured.
        threshold: What it is held against; None where the value is only shown.
        detail: What was measured on what, in one or two sentences, with what was sampled and what was left out.
        advice: What the user can do; empty for `ok`.
        evidence: More for the page and for scripts, JSON-able: tables, pairs of frames.
    """

    name: str
    severity: Severity
    measured: Any
    threshold: Any
    detail: str
    advice: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.name in CHECK_NAMES, f"unknown check {self.name}"
        assert self.advice or self.severity == "ok", f"{self.name} is {self.severity} without advice"

    @property
    def title(self) -> str:
        """What a person reads."""
        return CHECK_TITLES[self.name]


def verdict_of(checks: Sequence[Check]) -> AuditVerdict:
    """Return the worst severity of all checks; `not checked` alone is no warning.

    >>> verdict_of([Check("clock", "ok", 0.0, 0.1, "fine")])
    'pass'
    """
    severities = {check.severity for check in checks}
    return "fail" if "fail" in severities else "warn" if "warn" in severities else "pass"


def refusals_among(checks: Sequence[Check], *, overrides: Sequence[str]) -> list[Check]:
    """Return the checks that refuse: those that fail and aren't, or can't be (`NEVER_OVERRIDDEN`), overridden."""
    seen = [name for name in overrides if name not in NEVER_OVERRIDDEN]
    return [check for check in checks if check.severity == "fail" and check.name not in seen]


def refusal_reason(check: Check) -> str:
    """Return what is said of a check that refuses, with what to do."""
    said = f"{check.title} ({check.name}): {check.detail} {check.advice}"
    return said if check.name in NEVER_OVERRIDDEN else f"{said} To go on in spite of it: --override {check.name}."


def check_overrides(names: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides without repetitions.

    Raises:
        UserError: A name that no check has.
    """
    for name in names:
        if name not in CHECK_NAMES:
            raise unknown_name("check to override", got=name, allowed=CHECK_NAMES)
    return tuple(dict.fromkeys(names))


def check_json(check: Check) -> dict[str, Any]:
    """Return a check as `audit.json` holds it."""
    return {"title": check.title, **asdict(check)}
