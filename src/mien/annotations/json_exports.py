"""JSON as other programs write it: one value, or one per line; whatever is wrong with it is the user's to mend."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mien.annotations.tables import read_lines
from mien.core.errors import UserError


def read_json_export(path: Path) -> Any:
    """Read a JSON file; one with a value per line gives a list.

    Raises:
        UserError: The file can't be read or isn't JSON.
    """
    lines = read_lines(path)
    try:
        try:
            return json.loads("\n".join(lines))
        except json.JSONDecodeError:
            filled = [line for line in lines if line.strip()]
            if len(filled) < 2:
                raise
            return [json.loads(line) for line in filled]
    # RecursionError: brackets nested thousands deep.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} isn't whole JSON ({error}). Export it again.") from error


def number_of(value: object) -> float:
    """Return a JSON value's number, NaN where it isn't a finite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def text_of(value: object) -> str:
    """Return a JSON value's text: empty for null, lists and objects."""
    return "" if value is None or isinstance(value, list | dict) else str(value).strip()
