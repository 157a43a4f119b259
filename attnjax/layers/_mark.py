"""Names for maps inside of a net."""

from __future__ import annotations

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name


class Mark(nn.Module):
    """Returns its input: a module without parameters whose only purpose is its name.

    A net gives its maps the names of its `features` with it, so that `attnjax.explain` finds them by their path.

    Args:
      label: what `jax.checkpoint`'s policies know the map by.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import Mark
      >>> [step.params for step in jax.make_jaxpr(lambda x: Mark("stage").apply({}, x))(jnp.ones(2)).eqns]
      [{'name': 'stage'}]
    """

    label: str

    def __call__(self, x: jax.Array) -> jax.Array:
        return checkpoint_name(x, self.label)
