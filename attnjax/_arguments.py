"""Errors for arguments of modules: constructors that are none, and values without effect."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection
from typing import Any

import flax.linen as nn

from attnjax._partial import Partial


def check_constructor(name: str, value: Any, example: str, *, train: bool = True) -> None:
    """Checks that an argument makes modules, which are called with `train` if that is True.

    Raises:
      ValueError: it is a string, a module that is made already, or no callable, or its modules do not take `train`.
    """
    if isinstance(value, nn.Module):
        made = type(value).__name__
        raise ValueError(f"{name}={made}(...) is a module, not its constructor: pass {_constructor(value)}")
    if not callable(value):
        raise ValueError(f"{name}={value!r} is not a constructor: pass one such as {example}")
    made = getattr(value, "func", value)
    if not train or not (isinstance(made, type) and issubclass(made, nn.Module)):
        return
    parameters = inspect.signature(made.__call__).parameters
    if "train" not in parameters and all(item.kind is not item.VAR_KEYWORD for item in parameters.values()):
        raise ValueError(f"{name}={made.__name__} must have __call__(self, x, *, train), not ({', '.join(parameters)})")


def check_effect(module: nn.Module, reason: str, *names: str) -> None:
    """Checks that fields which have no effect for this reason are left at their defaults.

    Raises:
      ValueError: one of them is not.
    """
    for field in dataclasses.fields(module):
        value, default = getattr(module, field.name, None), field.default
        if field.name in names and value != default:
            raise ValueError(f"{field.name}={_shown(value)} has no effect with {reason}: leave it {_shown(default)}")


def check_keywords(name: str, constructor: Any, unused: Collection[str], reason: str) -> None:
    """Checks that a constructor has not been given beforehand what has no effect for this reason.

    Raises:
      ValueError: it has.
    """
    for keyword, value in getattr(constructor, "keywords", {}).items():
        if keyword in unused:
            raise ValueError(f"{name} has {keyword}={_shown(value)}, which has no effect: {reason}")


def _constructor(module: nn.Module) -> Any:
    fields = [field for field in dataclasses.fields(module) if field.init and field.name not in ("parent", "name")]
    given = {field.name: getattr(module, field.name) for field in fields}
    changed = {field.name: given[field.name] for field in fields if given[field.name] != field.default}
    return Partial(type(module), **changed) if changed else type(module).__name__


def _shown(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
