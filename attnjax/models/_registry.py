"""Looks named nets up in the table."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from attnjax._choice import nearest
from attnjax._partial import Partial
from attnjax.models._info import ModelInfo, Net
from attnjax.models.zoo import TABLE

_NETS = {net.info.name: net for net in TABLE}


def _find(name: str) -> Net:
    if name not in _NETS:
        near = nearest(str(name).lower(), _NETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see attnjax.list_models()"
        raise ValueError(f"unknown model {name!r}: {hint}")
    return _NETS[name]


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Builds a named net.

    Args:
      name: one of `list_models()`.
      **arguments: arguments of the net's class that replace the named net's, such as `num_classes` (0 leaves out the
        classifier), `dtype` (compute type), `attention`, `stem` or `stride_at`; see `attnjax.models.ResNet`. Where the
        named net has a constructor, a mapping changes arguments of that constructor and keeps the others; where it has
        a sequence of them, as Residual Attention nets have, arguments of each. Mappings may hold mappings.

    Returns:
      A Linen module. Make its variables with `attnjax.init`.

    Raises:
      ValueError: the name or an argument, also one inside a mapping, is unknown; the message gives the nearest ones.
        Or there is a mapping where the net has no constructor.

    Example:
      >>> import jax.numpy as jnp
      >>> import attnjax
      >>> attnjax.create_model("cbam_resnet50", num_classes=10, dtype=jnp.bfloat16).num_classes
      10
      >>> attnjax.create_model("cbam_resnet50", attention={"kernel_size": 3}).attention.keywords
      {'reduction': 16, 'kernel_size': 3}
    """
    return model_constructor(name, **arguments)()


def model_constructor(name: str, **arguments: Any) -> Partial[nn.Module]:
    """The constructor that `create_model` calls, with the arguments, such as for the backbone of another net.

    Raises:
      ValueError: as `create_model`.

    Example:
      >>> from attnjax.models import model_constructor
      >>> constructor = model_constructor("cbam_resnet50", num_classes=0)
      >>> constructor.func.__name__, constructor.keywords["stage_sizes"]
      ('ResNet', (3, 4, 6, 3))
    """
    return _changed(_find(name).constructor, arguments, f"model {name!r}")


def _changed(constructor: Callable[..., Any], changes: Mapping[str, Any], what: str) -> Partial[Any]:
    """The constructor with other arguments; `what` it makes is for errors."""
    parameters = inspect.signature(constructor).parameters
    allowed = [argument for argument in parameters if argument not in ("parent", "name")]
    values = {}
    for argument, value in changes.items():
        if argument not in allowed:
            near = nearest(argument, allowed)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}"
            raise ValueError(f"unknown argument {argument!r} of {what}: {hint}")
        if isinstance(value, Mapping):
            value = _changed_each(parameters[argument].default, value, f"{argument} of {what}")
        values[argument] = tuple(value) if isinstance(value, list) else value
    return Partial(constructor, **values)


def _changed_each(current: Any, changes: Mapping[str, Any], what: str) -> Any:
    if isinstance(current, tuple) and any(current):
        return tuple(None if each is None else _changed_each(each, changes, what) for each in current)
    if not callable(current) or current is inspect.Parameter.empty:
        raise ValueError(f"{what} is {current!r}, no constructor whose arguments {dict(changes)} could change")
    return _changed(current, changes, what)


def list_models(pattern: str = "*") -> list[str]:
    """Lists the named nets whose name matches a shell-style pattern, in the table's order.

    Example:
      >>> import attnjax
      >>> attnjax.list_models("cbam_resnext*")
      ['cbam_resnext50_32x4d', 'cbam_resnext101_32x4d']
    """
    return fnmatch.filter(_NETS, pattern)


def model_info(name: str) -> ModelInfo:
    """Returns what is known about a named net.

    Raises:
      ValueError: the name is unknown; the message gives the nearest ones.

    Example:
      >>> import attnjax
      >>> attnjax.model_info("resnet50").macs
      4089184256
    """
    return _find(name).info
