"""Settings as dictionaries: flat, by their names on the command line, and nested, as JSON stores them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from train.config.errors import UserError, nearest

_T = TypeVar("_T")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the settings by their names on the command line, such as `optimizer.momentum`."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def from_dict(cls: type[_T], values: Mapping[str, Any]) -> _T:
    """Builds a config from the result of `dataclasses.asdict`, also after a round trip through JSON.

    Raises:
      UserError: a setting is unknown (the message gives the nearest), or a value does not fit.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        named = [f"{name}{nearest(name, hints)}" for name in unknown]
        raise UserError(f"unknown settings of {cls.__name__}: {', '.join(named)}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(typing.cast(Any, hints[name]), value)
        else:
            arguments[name] = _with_tuples(value)
    return cls(**arguments)


def _with_tuples(value: Any) -> Any:
    """Replaces lists by tuples, which JSON does not tell apart."""
    if isinstance(value, Mapping):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
