"""Looks named nets up in the table."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from typing import Any, cast

import flax.linen as nn

from attnjax.models._info import ModelInfo, Net
from attnjax.models.zoo import TABLE

_NETS = {net.info.name: net for net in TABLE}


def _find(name: str) -> Net:
    if name not in _NETS:
        near = difflib.get_close_matches(str(name).lower(), _NETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see attnjax.list_models()"
        raise ValueError(f"unknown model {name!r}: {hint}")
    return _NETS[name]


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Builds a named net.

    Args:
      name: one of `list_models()`.
      **arguments: arguments of the net's class that replace the named net's, such as `num_classes` (0 leaves out the
        classifier), `dtype` (compute type), `attention`, `stem` or `stride_at`; see `attnjax.models.ResNet`.

    Returns:
      A Linen module. Make its variables with `attnjax.init`.

    Raises:
      ValueError: the name or an argument is unknown; the message gives the nearest ones.

    Example:
      >>> import jax.numpy as jnp
      >>> import attnjax
      >>> attnjax.create_model("cbam_resnet50", num_classes=10, dtype=jnp.bfloat16).num_classes
      10
    """
    net = _find(name)
    allowed = [
        field.name
        for field in dataclasses.fields(cast(Any, net.constructor.func))
        if field.name not in ("parent", "name")
    ]
    for argument in arguments:
        if argument not in allowed:
            near = difflib.get_close_matches(argument, allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}"
            raise ValueError(f"unknown argument {argument!r} of model {name!r}: {hint}")
    return net.constructor(**arguments)


def list_models(pattern: str = "*") -> list[str]:
    """Lists the named nets whose name matches a shell-style pattern, in the table's order.

    Example:
      >>> import attnjax
      >>> attnjax.list_models("cbam_resnext*")
      ['cbam_resnext50_32x4d', 'cbam_resnext101_32x4d']
    """
    return fnmatch.filter(_NETS, pattern)


def model_info(name: str) -> ModelInfo:
    """Tells what is known of a named net.

    Raises:
      ValueError: the name is unknown; the message gives the nearest ones.

    Example:
      >>> import attnjax
      >>> attnjax.model_info("resnet50").macs
      4089184256
    """
    return _find(name).info
