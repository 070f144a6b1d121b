"""The audit in a report: one line for the first screen, and the table of all checks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mien.report.page import Nullable
from mien.report.wording import measured

SEVERITIES = ("ok", "warn", "fail", "not checked")
SHORT_NAMES = {"split-overlap": "overlap", "label-in-pixels": "face hidden", "time-correlation": "correlation in time"}
USUAL = ("copies", "split-overlap", "clock", "label-in-pixels", "nuisances")
"""What the line names even where it is ok, in this order: what most often makes a score untrue."""

BY_BOUND = ("label-in-pixels", "nuisances", "stimulus-locking")
"""Checks of a score, of which the lower bound over participants is held against the threshold."""

CLOCK_OFFSETS = ("offset_export_s", "offset_sound_s")
"""What the clock check measures of clocks, under these names in `measured`."""

MAX_ITEMS = 8
MAX_VALUE = 14
"""Longest value, in characters, that stands in the line; longer ones are in the table."""


@dataclass(frozen=True)
class AuditItem:
    """One check in the line of the first screen.

    Attributes:
        name: Its name, which the table's row is called by.
        title: What a person reads.
        value: What was measured, where it is short.
        severity: Its severity, empty where it is ok.
        overridden: Whether the user overrode it.
    """

    name: str
    title: str
    value: str
    severity: str
    overridden: bool


@dataclass(frozen=True)
class AuditLine:
    """The audit in one line.

    Attributes:
        counts: (severity, number) of every severity, in the order of `SEVERITIES`.
        items: The checks that are named: what fails, what warns, then the usual ones.
    """

    counts: tuple[tuple[str, int], ...]
    items: tuple[AuditItem, ...]


def audit_line(audit: Mapping[str, Any] | None, *, overrides: Collection[str]) -> AuditLine | None:
    """Return the audit in one line; None where there was none.

    Args:
        audit: `audit.json`, or that part of `comparison.json`.
        overrides: Names of the checks that the user overrode.
    """
    checks: Sequence[Mapping[str, Any]] = (audit or {}).get("checks") or []
    if not checks:
        return None
    counts = tuple((name, sum(check["severity"] == name for check in checks)) for name in SEVERITIES)
    by_name = {str(check["name"]): check for check in checks}
    bad = [str(check["name"]) for severity in ("fail", "warn") for check in checks if check["severity"] == severity]
    usual = [name for name in USUAL if name in by_name and by_name[name]["severity"] == "ok"]
    chosen = [*bad, *usual][: max(MAX_ITEMS, len(bad))]
    return AuditLine(counts, tuple(_item(by_name[name], overrides) for name in chosen))


def check_rows(audit: Mapping[str, Any] | None, *, overrides: Collection[str]) -> list[dict[str, Any]]:
    """Return the checks in their order, each with `overridden` and `bound`: whether a lower bound was measured."""
    checks = (audit or {}).get("checks") or []
    return [
        Nullable(
            {
                **check,
                "overridden": check["name"] in overrides,
                "bound": check["name"] in BY_BOUND and check.get("measured") is not None,
            }
        )
        for check in checks
    ]


def _item(check: Mapping[str, Any], overrides: Collection[str]) -> AuditItem:
    name, severity = str(check["name"]), str(check["severity"])
    value = _short_value(name, check.get("measured"), beside=check.get("threshold"))
    return AuditItem(
        name,
        SHORT_NAMES.get(name, name.replace("-", " ")),
        value if len(value) <= MAX_VALUE else "",
        "" if severity == "ok" else severity,
        name in overrides,
    )


def _short_value(name: str, value: Any, *, beside: Any) -> str:
    """Write the one number that says most: the worst of several."""
    if name == "clock":
        return _clock_value(value)
    if isinstance(value, Mapping):
        if name == "copies":  # how many pairs, not how alike; one may be found by its pictures and by its file
            return measured(max((item for item in value.values() if isinstance(item, int)), default=0))
        numbers = [item for item in value.values() if isinstance(item, int | float)]
        if not numbers:
            return ""
        value = max(numbers)
    return "" if value is None else measured(value, beside)


def _clock_value(value: Any) -> str:
    """Write how far the clocks of export or sound and picture are apart; nothing where neither was measured.

    What is measured beside it (a last annotation, a gap between samples) is no offset, and its largest isn't one.
    """
    if isinstance(value, Mapping):
        offsets = [value[name] for name in CLOCK_OFFSETS if isinstance(value.get(name), Mapping)]
        value = max((abs(float(offset["value"])) for offset in offsets), default=None)
    if not isinstance(value, int | float):
        return ""
    return f"±{1000 * value:.0f} ms" if value < 1 else f"±{value:.1f} s"
