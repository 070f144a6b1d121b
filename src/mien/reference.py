"""The reference of commands and of the Python verbs, as Markdown, from what they say of themselves.

`python -m mien.reference > docs/reference.md` writes it; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

import mien.api
from mien.cli.main import app

HEAD = """# Reference

Made by `make reference` from the commands and functions themselves; `mien COMMAND --help` says the same. What each
command writes, and how to read it, is in the pages by task that the [README](../README.md) lists.

Exit statuses: 0 done, 1 a bug in mien (the traceback is in a log file), 2 wrong input or option, 3 refused by the rules
of evidence.
"""


def reference_page() -> str:
    """Return the page."""
    root: Any = typer.main.get_command(app)
    parts = [HEAD, "## Commands\n"]
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        for label, each in [(f"{name} {sub}", item) for sub, item in inner.items()] if inner else [(name, command)]:
            parts.append(_command(label, each))
    parts.append("## From Python\n")
    for name, function in inspect.getmembers(mien.api, inspect.isfunction):
        if function.__module__ == "mien.api" and not name.startswith("_"):
            parts.append(_function(f"mien.api.{name}", function))
    parts.append(f"### mien.api.Model\n\nWhat `load` and `train` return. {inspect.getdoc(mien.api.Model)}\n")
    for name, function in inspect.getmembers(mien.api.Model, inspect.isfunction):
        if not name.startswith("_"):
            parts.append(_function(f"mien.api.Model.{name}", function))
    return "\n".join(parts)


def _command(label: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and item.name != "help"]
    shown = " ".join(item.name.upper() + ("..." if item.nargs == -1 else "") for item in arguments)
    lines = [f"### mien {label} {shown}".rstrip(), "", inspect.cleandoc(command.help or ""), ""]
    rows = [(f"`{item.name.upper()}`", _said(item), "") for item in arguments]
    rows += [(_option(item), _said(item), _default(item)) for item in options]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _option(parameter: Any) -> str:
    takes = "" if parameter.is_flag else f" {_type_name(parameter)}"
    return " ".join(f"`{name}{takes}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _type_name(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    return "NAME" if _choices(parameter) else "NUMBER" if kind in (int, float) else "PATH" if kind is Path else "TEXT"


def _choices(parameter: Any) -> list[str]:
    kind = parameter.type_descriptor.annotation
    return [str(item.value) for item in kind] if inspect.isclass(kind) and issubclass(kind, Enum) else []


def _said(parameter: Any) -> str:
    said = (parameter.help or "").replace("|", "\\|").replace("\n", " ")
    choices = _choices(parameter)
    return said + (f" One of: {', '.join(choices)}." if choices else "")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _function(name: str, function: Any) -> str:
    # Annotations are texts; defaults keep their quotes.
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    short = name.rpartition(".")[2]
    return f"### {name}\n\n```\n{short}{signature}\n```\n\n{inspect.getdoc(function) or ''}\n"


if __name__ == "__main__":
    print(reference_page(), end="")
