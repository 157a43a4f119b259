"""What a net passes on to the constructors that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from attnjax._partial import Partial


def with_defaults(
    constructor: Callable[..., nn.Module], defaults: dict[str, Any], **where_named: Any
) -> Partial[nn.Module]:
    """Adds keywords to a constructor, except those that it was given beforehand in a `Partial`.

    Args:
      constructor: of a module: a class, a function or a partial of either.
      defaults: keywords such as `dtype` and `param_dtype`, added where the constructor names them among its parameters
        or has `**kwargs`.
      **where_named: keywords that are added only where the constructor names them, such as the `batch_norm` of
        attention blocks.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax import Partial
      >>> from attnjax.attention import BAM, GlobalContext
      >>> from attnjax.layers import BatchNorm, with_defaults
      >>> defaults, norm = {"dtype": jnp.bfloat16}, Partial(BatchNorm, groups=8)
      >>> [with_defaults(block, defaults, batch_norm=norm) for block in (BAM, GlobalContext)]  # doctest: +ELLIPSIS
      [Partial(BAM, dtype=jnp.bfloat16, batch_norm=...), Partial(GlobalContext, dtype=jnp.bfloat16)]
    """
    parameters = inspect.signature(constructor).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        defaults = {name: value for name, value in defaults.items() if name in parameters}
    named = {name: value for name, value in where_named.items() if name in parameters}
    return Partial(constructor, **defaults | named | getattr(constructor, "keywords", {}))
