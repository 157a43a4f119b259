"""The protocol of attention blocks, and the values of parameters that open a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

Values = dict[str, float]
"""What to fill parameters with, by their paths below a block, such as `fc/bias`."""

_OPEN = {nn.sigmoid: 7.0, nn.hard_sigmoid: 2.995, nn.tanh: 4.0, nn.relu: 1.0}
"""Logit at which a squashing function is within 0.001 of 1 and still has a slope."""


class Gated(nn.Module):
    """Base class of attention blocks that multiply their input, or parts of it, by a gate.

    Any Linen module can be a net's attention block. The protocol, with or without this class:

    - It is called with `(x, *, train)`, x of shape (b, h, w, c), and returns an array of that shape and type.
    - Of the fields `dtype` (compute type; None takes the input's), `param_dtype` and `batch_norm` (constructor of norms
      called with `train`), a net sets those that the block has.
    - It passes its gate through `sow_gate`, so that `attnjax.explain.attention_maps` can read it.
    - `identity_parameters` says which parameters open the gate, for `identity_start`. A block that is no `Gated` may
      have this method too.

    Example:
      >>> from typing import Any
      >>> import attnjax, flax.linen as nn, jax, jax.numpy as jnp
      >>> from attnjax.attention import Gated, identity_start
      >>> class ChannelScale(Gated):
      ...     dtype: Any = None
      ...     param_dtype: Any = jnp.float32
      ...
      ...     @nn.compact
      ...     def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
      ...         fc = nn.Dense(x.shape[-1], dtype=self.dtype, param_dtype=self.param_dtype, name="fc")
      ...         gate = self.sow_gate(nn.sigmoid(fc(x.mean((1, 2))))[:, None, None, :])
      ...         return x * gate.astype(x.dtype)
      ...
      ...     def identity_parameters(self) -> dict[str, float]:
      ...         return {"fc/kernel": 0.0, "fc/bias": 7.0}
      >>> model = attnjax.create_model("resnet20_cifar", stage_sizes=(1, 1, 1), attention=ChannelScale)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 8, 8, 3))
      >>> variables = identity_start(model, variables, (1, 8, 8, 3))
      >>> maps = attnjax.explain.attention_maps(model, variables, jnp.ones((2, 8, 8, 3)))
      >>> round(float(maps["stage1_block0/attention/gate"].min()), 3)
      0.999
    """

    def sow_gate(self, gate: jax.Array) -> jax.Array:
        """Sows the gate as `intermediates/gate` and returns it. `nn.intercept_methods` can read or replace it here."""
        self.sow("intermediates", "gate", gate)
        return gate

    def identity_parameters(self) -> Values:
        """Returns the values of parameters, by their paths below the block, with which it returns its input.

        Raises:
          ValueError: there are none, for the reason that the message gives.
        """
        raise ValueError("is no rescaling of its input, or has no identity_parameters of its own")


def open_logit(gate_fn: Callable[..., Any]) -> float:
    """The logit that opens a gate.

    Raises:
      ValueError: its squashing function is none of sigmoid, hard_sigmoid, tanh and relu.
    """
    if gate_fn not in _OPEN:
        raise ValueError("has a gate that is not one of sigmoid, hard_sigmoid, tanh, relu")
    return _OPEN[gate_fn]


def constant_layer(name: str, value: float, use_bias: bool = True) -> Values:
    """Values with which a dense layer or a convolution returns `value` for any input.

    Raises:
      ValueError: it has no bias.
    """
    if not use_bias:
        raise ValueError("has no bias that could open its gate: use_bias=True")
    return {f"{name}/kernel": 0.0, f"{name}/bias": value}


def constant_norm(name: str, value: float) -> Values:
    """Values with which a norm returns `value` for any input."""
    return {f"{name}/scale": 0.0, f"{name}/bias": value}


def below(name: str, values: Values) -> Values:
    """The values of a submodule, by their paths below the block that contains it."""
    return {f"{name}/{path}": value for path, value in values.items()}
