"""Expression tables that iMotions exports (`FEAExpressionTable*.csv`): one row per detected expression."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mien.annotations.tables import (
    RawTable,
    check_interval,
    normalise_id,
    read_number,
    read_raw_table,
    report_rows,
)
from mien.core.errors import UserError
from mien.core.types import Problem

__all__ = [
    "EXPRESSION_COLUMNS",
    "UNITS_PER_SECOND",
    "normalise_id",
    "read_expression_table",
    "table_units_per_second",
    "units_per_second",
]

EXPRESSION_COLUMNS = {
    "respondent": ("Respondent Name", "Respondent", "Participant"),
    "stimulus": ("Stimulus Name", "Stimulus", "Source Stimuli Name"),
    "label": ("Expression Type", "Expression", "Expression Name"),
    "onset_s": ("Expression Onset", "Onset"),
    "offset_s": ("Expression Offset", "Offset"),
}
"""Names that the needed columns have in exports; the first is the current one."""

UNITS_PER_SECOND = {
    "ms": 1e3,
    "msec": 1e3,
    "milliseconds": 1e3,
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "us": 1e6,
    "µs": 1e6,
    "microseconds": 1e6,
}
"""How often the units that exports name go into a second; they name none where it is milliseconds."""


def read_expression_table(path: Path, *, problems: list[Problem] | None = None) -> pd.DataFrame:
    """Read an iMotions expression table, whatever its version's preamble, separator and line ends.

    Times are milliseconds unless the column's name (`Expression Onset (s)`) or a preamble line (`Time unit`) says
    otherwise.

    Args:
        path: The table.
        problems: Where rows that were left out are reported.

    Returns:
        Columns respondent (as written), stimulus, label, onset_s, offset_s (s); rows in the table's order.

    Raises:
        UserError: The file can't be read, lacks a column, or has an unknown time unit.
    """
    table = read_raw_table(path, wanted=EXPRESSION_COLUMNS)
    per_second = table_units_per_second(table, column="onset_s")
    kept: list[tuple[str, str, str, float, float]] = []
    bad: dict[str, list[int]] = {}
    for row in table.rows:
        onset, offset = (read_number(row.cells[name], separator=table.separator) for name in ("onset_s", "offset_s"))
        respondent, label = row.cells["respondent"], row.cells["label"]
        reason = check_interval(onset, offset)
        if not respondent or not label:
            reason = "no respondent" if not respondent else "no expression type"
        if reason:
            bad.setdefault(reason, []).append(row.line)
            continue
        kept.append((respondent, row.cells["stimulus"], label, onset / per_second, offset / per_second))
    if problems is not None:
        problems.extend(report_rows(path, rows=bad))
    return pd.DataFrame(kept, columns=list(EXPRESSION_COLUMNS)).astype({"onset_s": "float64", "offset_s": "float64"})


def units_per_second(unit: str, *, path: Path) -> float:
    """Return how often a unit of time goes into a second; without a name it is milliseconds.

    Raises:
        UserError: The unit isn't known.
    """
    plain = unit.strip().lower() or "ms"
    if plain not in UNITS_PER_SECOND:
        raise UserError(
            f"{path.name} gives its times in {unit!r}; known units: {', '.join(UNITS_PER_SECOND)}. "
            "Export it again in milliseconds."
        )
    return UNITS_PER_SECOND[plain]


def table_units_per_second(table: RawTable, *, column: str) -> float:
    """Return the unit of a table's times, from the column's name (`Peak Time (s)`) or a preamble line (`Time unit`).

    Raises:
        UserError: The unit isn't known.
    """
    in_header = re.search(r"[(\[](.*?)[)\]]", table.header[table.columns.index(column)])
    in_preamble = [
        cells[1] for cells in table.preamble if len(cells) > 1 and cells[0].strip("#: ").lower() == "time unit"
    ]
    unit = in_header.group(1) if in_header else next(iter(in_preamble), "ms")
    return units_per_second(unit, path=table.path)
