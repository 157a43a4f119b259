"""The two-layer bottleneck that SE, CBAM and their kin put between pooled channels and their gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.layers import BatchNorm, Constant, VarianceScaling, at_least_float32, with_defaults


def hidden_width(channels: int, reduction: float, divisor: int | None = None, keep: float = 0.0) -> int:
    """Hidden features of a bottleneck: `channels // reduction`, or with `divisor` the nearest multiple of it.

    The multiple is at least `divisor` itself, and the next one where the nearest is below `keep` times the quotient:
    what timm does with its `rd_divisor` and `round_limit`.

    Raises:
      ValueError: without `divisor`, `reduction` is not between 1 and the channels; with it, either is not positive.
    """
    if divisor is None:
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"reduction={reduction} leaves no hidden feature for {channels} channels: use 1 to {channels}"
            )
        return int(channels // reduction)
    if divisor < 1 or reduction <= 0:
        raise ValueError(f"divisor={divisor} must be at least 1, and reduction={reduction} positive")
    nearest = max(divisor, int(channels / reduction + divisor / 2) // divisor * divisor)
    return nearest + divisor * (nearest < keep * channels / reduction)


def narrow_width(
    channels: int,
    reduction: float,
    min_hidden: int,
    hidden: int | None = None,
    divisor: int | None = None,
    keep: float = 0.0,
) -> int:
    """`hidden` if given, else timm's `hidden_width` with `divisor`, else `channels // reduction` from `min_hidden` on.

    Raises:
      ValueError: `hidden` or `reduction` is below 1, or as in `hidden_width`.
    """
    if hidden is not None:
        if hidden < 1:
            raise ValueError(f"hidden={hidden} must be at least 1")
        return hidden
    if divisor is not None:
        return hidden_width(channels, reduction, divisor, keep)
    if reduction < 1:
        raise ValueError(f"reduction={reduction} must be at least 1")
    return max(min_hidden, int(channels // reduction))


def check_width(block: Any) -> None:
    """Checks that a block is not given widths which its `hidden` or its `divisor` outranks.

    Raises:
      ValueError: it is.
    """
    if block.hidden is not None:
        check_effect(block, f"hidden={block.hidden}", "reduction", "min_hidden", "divisor")
    elif block.divisor is not None:
        check_effect(block, f"divisor={block.divisor}", "min_hidden")


class GateMLP(nn.Module):
    """`fc2(activation(norm(fc1(x))))` with a narrow middle, (..., c) -> (..., c) logits of type `dtype`.

    The middle has `hidden` features if given, else `hidden_width(c, reduction, divisor)`. Norms are off (`"none"`),
    `"batch"` or `"layer"`. `last_init` starts fc2's kernel; None is `kernel_init`.
    """

    reduction: float = 16
    use_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Any = VarianceScaling(2.0, "fan_in", "normal")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    hidden: int | None = None
    divisor: int | None = None
    norm: Literal["none", "batch", "layer"] = "none"
    epsilon: float = 1e-5
    last_init: Any = None
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        channels = x.shape[-1]
        hidden = hidden_width(channels, self.reduction, self.divisor) if self.hidden is None else self.hidden
        if hidden < 1:
            raise ValueError(f"hidden={hidden} must be at least 1")

        def dense(features: int, name: str, kernel_init: Any) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=self.use_bias,
                kernel_init=kernel_init,
                bias_init=Constant(0.0),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )

        x = self._normalise(dense(hidden, "fc1", self.kernel_init)(x), train)
        last_init = self.kernel_init if self.last_init is None else self.last_init
        return dense(channels, "fc2", last_init)(self.activation(x))

    def _normalise(self, x: jax.Array, train: bool) -> jax.Array:
        check_choice("norm", self.norm, ("none", "batch", "layer"))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.norm == "none":
            return x
        if self.norm == "batch":
            return with_defaults(self.batch_norm, dtypes)(epsilon=self.epsilon, name="norm")(x, train=train)
        return _LayerNorm(epsilon=self.epsilon, name="norm", **dtypes)(x)


class _LayerNorm(nn.Module):
    """Normalises over the last axis, in two passes and in float32 or wider. Flax's own refuses strict float64."""

    epsilon: float = 1e-5
    scale_init: Any = Constant(1.0)
    bias_init: Any = Constant(0.0)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", self.scale_init, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", self.bias_init, (x.shape[-1],), self.param_dtype)
        wide = at_least_float32(x.dtype)
        row = (1,) * (x.ndim - 1) + (-1,)
        x = x.astype(wide) - jnp.mean(x.astype(wide), -1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.epsilon)
        return (x * scale.astype(wide).reshape(row) + bias.astype(wide).reshape(row)).astype(self.dtype)
