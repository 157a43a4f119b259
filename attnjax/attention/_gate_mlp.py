"""The two-layer bottleneck that SE, CBAM and their kin put between pooled channels and their gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers import Constant, VarianceScaling


class GateMLP(nn.Module):
    """`fc2(activation(fc1(x)))` with `c // reduction` hidden features, (b, c) -> (b, c) logits of type `dtype`."""

    reduction: int = 16
    use_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Any = VarianceScaling(2.0, "fan_in", "normal")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if not 1 <= self.reduction <= channels:
            raise ValueError(
                f"reduction={self.reduction} leaves no hidden feature for {channels} channels: use 1 to {channels}"
            )

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                bias_init=Constant(0.0),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )

        return dense(channels, "fc2")(self.activation(dense(channels // self.reduction, "fc1")(x)))
