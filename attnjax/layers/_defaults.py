"""What a net tells the constructors that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn


def with_defaults(
    constructor: Callable[..., nn.Module], defaults: dict[str, Any], **where_taken: Any
) -> partial[nn.Module]:
    """Adds keywords to a constructor, but for those that it has been given beforehand in a `partial`.

    Args:
      constructor: of a module: a class, a function or a partial of either.
      defaults: keywords that every such constructor takes, such as `dtype` and `param_dtype`.
      **where_taken: keywords that are added only where the constructor names them among its parameters (`**kwargs` is
        no such name), such as the `batch_norm` of attention blocks.

    Example:
      >>> from functools import partial
      >>> import jax.numpy as jnp
      >>> from attnjax.attention import BAM, GlobalContext
      >>> from attnjax.layers import BatchNorm, with_defaults
      >>> defaults, norm = {"dtype": jnp.bfloat16}, partial(BatchNorm, groups=8)
      >>> [list(with_defaults(block, defaults, batch_norm=norm).keywords) for block in (BAM, GlobalContext)]
      [['dtype', 'batch_norm'], ['dtype']]
    """
    names = inspect.signature(constructor).parameters
    taken = {name: value for name, value in where_taken.items() if name in names}
    return partial(constructor, **defaults | taken | getattr(constructor, "keywords", {}))
