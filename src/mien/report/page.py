"""What the pages have in common: the templates, their filters, and JSON whose absent keys are null."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mien.core import numbers
from mien.core.labels import annotated_by
from mien.report import wording


class Nullable(dict[str, Any]):
    """A mapping whose absent keys are None: `comparison.json` grows, and older runs lack its newer keys."""

    def __missing__(self, key: str) -> None:
        return None


def nullable(value: Any) -> Any:
    """Turn every mapping within JSON data to one whose absent keys are None."""
    if isinstance(value, dict):
        return Nullable({key: nullable(item) for key, item in value.items()})
    return [nullable(item) for item in value] if isinstance(value, list) else value


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page: a template of this package, filled in and escaped.

    Args:
        template: File name of the template.
        context: What it shows; a name that it needs and that isn't there is an error.
    """
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mien.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": numbers.short_number,
        "brackets": numbers.brackets,
        "with_interval": numbers.with_interval,
        "breakable": wording.breakable,
        "count": wording.count,
        "decimal": wording.decimal,
        "scaled": wording.scaled,
        "duration": wording.duration,
        "prose": wording.prose,
        "p_value": wording.p_value,
        "measured": wording.measured,
        "annotated_by": annotated_by,
    }
    return environment
