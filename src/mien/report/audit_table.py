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
    """Return the checks in their order, each with `overridden`."""
    checks = (audit or {}).get("checks") or []
    return [Nullable({**check, "overridden": check["name"] in overrides}) for check in checks]


def _item(check: Mapping[str, Any], overrides: Collection[str]) -> AuditItem:
    name, severity = str(check["name"]), str(check["severity"])
    value = _short_value(name, check.get("measured"))
    return AuditItem(
        name,
        SHORT_NAMES.get(name, name.replace("-", " ")),
        value if len(value) <= MAX_VALUE else "",
        "" if severity == "ok" else severity,
        name in overrides,
    )


def _short_value(name: str, value: Any) -> str:
    """Write the one number that says most: the worst of several."""
    if isinstance(value, Mapping):
        if name == "copies":  # how many, not how alike
            return measured(sum(item for item in value.values() if isinstance(item, int)))
        numbers = [item for item in value.values() if isinstance(item, int | float)]
        numbers += [abs(item["value"]) for item in value.values() if isinstance(item, Mapping) and "value" in item]
        if not numbers:
            return ""
        value = max(numbers)
    if name == "clock" and isinstance(value, int | float):
        return f"±{1000 * value:.0f} ms" if value < 1 else f"±{value:.1f} s"
    return "" if value is None else measured(value)
