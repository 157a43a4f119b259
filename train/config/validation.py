"""Dataclasses that validate their fields when they are constructed, and their form as dictionaries."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from train.config.errors import UserError, nearest

_T = TypeVar("_T")


class Validated:
    """Base of dataclasses that check every field against its annotation, and then their own rules, on construction."""

    _prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            annotation = hints[field.name]
            self._require(_fits(getattr(self, field.name), annotation), field.name, f"of type {_spell(annotation)}")
        self.validate()

    def validate(self) -> None:
        """Raises UserError if values are out of range or contradict each other."""

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise UserError(f"{self._prefix}{name}={getattr(self, name)!r} must be {allowed}")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
        return named and all(_fits(item, arguments[1]) for item in value.values())
    if annotation is Any:
        return _is_plain(value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _is_plain(value: Any) -> bool:
    """Whether a value survives a round trip through JSON, apart from tuples."""
    if isinstance(value, Mapping):
        return _fits(value, Mapping[str, Any])
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _spell(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " or ".join(repr(option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(map(_spell, typing.get_args(annotation)))
    if typing.get_origin(annotation) is Mapping:
        return f"dict from str to {_spell(typing.get_args(annotation)[1])}"
    if annotation is Any:
        return "None, bool, int, float, str, tuple or dict"
    if annotation is float:
        return "float, and finite"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


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
