"""A switch between our ways to compute convolutions and XLA's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_NATIVE = jax.make_user_context(default_value=False)
"""Part of the keys of JAX's caches, so that a jitted function is traced apart in and out of the context."""


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
    """Within this context all convolutions are XLA's own.

    Outside of it `Conv` computes those convolutions in another way for which XLA is slow: on CPUs grouped, depthwise
    and 1x1 ones and those of small maps, on TPUs a few channels to one. The numbers agree up to rounding. The choice
    falls where a function is traced; under `jax.jit` a function is traced apart in and out of the context.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import Conv, native_convolutions
      >>> conv, x = Conv(16, 1), jnp.ones((1, 8, 8, 4))
      >>> variables = conv.init(jax.random.key(0), x)
      >>> "dot_general" in str(jax.make_jaxpr(conv.apply)(variables, x))
      True
      >>> with native_convolutions():
      ...     "dot_general" in str(jax.make_jaxpr(conv.apply)(variables, x))
      False
    """
    with _NATIVE(True):
        yield


def are_native() -> bool:
    """Whether this is called within `native_convolutions`."""
    return _NATIVE.value
