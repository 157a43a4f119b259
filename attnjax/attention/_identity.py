"""A start for fine-tuning in which attention blocks hand their input through."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict


def identity_start(model: nn.Module, variables: Mapping[str, Any], input_shape: Sequence[int]) -> dict[str, Any]:
    """Opens the gates of all attention blocks, so that each returns its input to within 1 %.

    A freshly initialised gate is near 1/2: put into a trained net, it halves every branch. Here the last layer before
    a gate gets a kernel (or a norm's scale) of 0 and a bias that opens it, as the block's `identity_parameters` says.
    Everything else is left as it is. The gradient is small but not 0 there, so that training closes gates where that
    pays.

    Args:
      model: a net with attention blocks, or one block, called with `(x, train=False)`. A block is any module that has
        the method `identity_parameters`, see `Gated`.
      variables: its variables. They are not changed.
      input_shape: shape of x, with any batch size.

    Returns:
      The variables with the blocks' last layers filled.

    Raises:
      ValueError: a block has no bias that could open its gate, its squashing function is none of sigmoid, hard_sigmoid,
        tanh and relu, it is no rescaling of its input (selective kernels, PSA, RAN's modules, GGAM), it has no
        `identity_parameters` or they name none of its parameters; or there is no block.

    Example:
      >>> import jax, jax.numpy as jnp, attnjax
      >>> from attnjax.attention import CBAM, identity_start
      >>> x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
      >>> variables = identity_start(CBAM(), attnjax.init(CBAM(), jax.random.key(1), x.shape), x.shape)
      >>> bool(jnp.abs(CBAM().apply(variables, x, train=False) / x - 1).max() < 0.01)
      True
    """
    flat = flatten_dict(dict(variables), sep="/")
    blocks = _blocks(model, input_shape)
    if not blocks:
        raise ValueError(f"identity start: {type(model).__name__} has no attention block with identity_parameters")
    for path, block in blocks.items():
        name = f"{'/'.join(path) or 'the model'} ({type(block).__name__})"
        if not hasattr(type(block), "identity_parameters"):
            raise ValueError(f"identity start: {name} has no method identity_parameters that says how its gate opens")
        try:
            values = block.identity_parameters()
        except ValueError as error:
            raise ValueError(f"identity start: {name} {error}") from None
        for leaf, value in values.items():
            key = "/".join(("params", *path, leaf))
            if key not in flat:
                near = difflib.get_close_matches(key, flat, n=1)
                hint = f": did its identity_parameters mean {near[0]!r}?" if near else ""
                raise ValueError(f"identity start: {name} has no parameter {leaf!r}{hint}")
            flat[key] = jnp.full_like(flat[key], value)
    return unflatten_dict(flat, sep="/")


def _blocks(model: nn.Module, input_shape: Sequence[int]) -> dict[tuple[str, ...], nn.Module]:
    """The attention blocks by their paths, without the blocks that they are made of."""
    found: dict[tuple[str, ...], nn.Module] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        inside = any(module.path[:length] in found for length in range(len(module.path)))
        named = module.path and re.search(r"attention\d*$", module.path[-1])  # how nets name blocks of any class
        if (named or hasattr(type(module), "identity_parameters")) and not inside:
            found[module.path] = module.clone(parent=None)
        return call(*args, **kwargs)

    def trace(key: jax.Array) -> Any:
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros(tuple(input_shape), jnp.float32), train=False)

    jax.eval_shape(trace, jax.random.key(0))
    return found
