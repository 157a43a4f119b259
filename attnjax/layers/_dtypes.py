"""Which type to compute in."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """The type that reductions, norms and gates of arrays of this type are computed in: float32, or itself if wider.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import at_least_float32
      >>> at_least_float32(jnp.bfloat16)
      dtype('float32')
    """
    return max(jnp.dtype(dtype), jnp.dtype(jnp.float32), key=lambda kind: jnp.finfo(kind).bits)
