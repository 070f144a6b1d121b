"""Configurations are small frozen dataclasses; a key that isn't a field is an error, never ignored."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mien.core.errors import UserError, unknown_name

ConfigT = TypeVar("ConfigT")


def build_config(cls: type[ConfigT], values: Mapping[str, Any], *, where: str = "configuration") -> ConfigT:
    """Build a frozen dataclass from a mapping, checking every key and every type.

    Args:
        cls: A dataclass; nested dataclass fields are built from nested mappings.
        values: What the user wrote.
        where: Name of the source, used in messages.

    Raises:
        UserError: A key that isn't a field, or a value of another type than the field's.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_name(f"key in {where}", got=str(key), allowed=fields)
        built[key] = _convert(hints[key], value, where=f"{where}: {key}")
    return cls(**built)


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a mapping, got {value!r}.")
        return build_config(hint, value, where=where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if value not in args:
            raise UserError(f"{where}: got {value!r}, allowed: {', '.join(map(repr, args))}.")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, where=where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {value!r}.")
        return tuple(_convert(args[0], item, where=where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise UserError(f"{where}: expected {hint.__name__}, got {value!r}.")
    return value


def load_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UserError: The file isn't there, isn't YAML, or holds something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} isn't valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'key: value' lines, got a {type(values).__name__}.")
    return values
