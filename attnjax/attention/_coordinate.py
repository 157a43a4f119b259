"""Coordinate attention (Hou, Zhou and Feng, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.attention._gate_mlp import check_width, narrow_width
from attnjax.attention._gated import Gated, Values, constant_layer, open_logit
from attnjax.layers import BatchNorm, Constant, at_least_float32, torch_default, with_defaults


class CoordinateAttention(Gated):
    """Scales each value by a gate of its row and one of its column, which know where in the image they are.

    Row means (b, h, c) and column means (b, w, c) go through one layer f = hard_swish(bn(W1 .)) together, then apart:
    y = sigmoid(W_h f(rows)) sigmoid(W_w f(columns)) x.

    Args:
      reduction: channels per hidden feature; 32 in the released code.
      min_hidden: fewest hidden features, 8 in the released code.
      hidden: hidden features, instead of both.
      divisor: round c / reduction to a multiple of this, at least itself, as timm does (8 there, with a reduction of
        24 in all); None is the larger of c // reduction and `min_hidden`.
      use_bias: whether the three layers have biases. Released code: yes; timm: no.
      norm: whether there is a batch norm.
      activation: nonlinearity of the hidden features.
      gate_fn: squashing function of both gates.
      skip: add the input to the result (an option of timm).
      dtype: compute type; None takes the input's. Pooling and gates are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norm, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, h, w, c) of the input's type. The product of the gates (b, h, w, c) is sown as `intermediates/gate`.

    Raises:
      ValueError: `hidden` or `divisor` is not positive, or `reduction` is below 1.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import CoordinateAttention
      >>> attnjax.count_parameters(CoordinateAttention(), (1, 8, 6, 64))
      1688

    References:
      Hou, Zhou and Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021; official code,
      houqb/CoordAttention.
    """

    reduction: float = 32
    min_hidden: int = 8
    hidden: int | None = None
    divisor: int | None = None
    use_bias: bool = True
    norm: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.hard_swish
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    skip: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        check_width(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels, rows = x.shape[-1], x.shape[1]
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        wide = at_least_float32(x.dtype)

        def dense(features: int, name: str) -> nn.Dense:
            bias: dict[str, Any] = {"use_bias": self.use_bias, "bias_init": Constant(0.0)}
            return nn.Dense(features, kernel_init=torch_default, name=name, **bias, **dtypes)

        lines = jnp.concatenate([jnp.mean(x.astype(wide), 2), jnp.mean(x.astype(wide), 1)], 1)
        width = narrow_width(channels, self.reduction, self.min_hidden, self.hidden, self.divisor)
        y = dense(width, "conv1")(lines)
        if self.norm:
            y = with_defaults(self.batch_norm, dtypes)(name="bn1")(y, train=train)
        y = self.activation(y)
        gate_h = self.gate_fn(dense(channels, "conv_h")(y[:, :rows]).astype(wide))
        gate_w = self.gate_fn(dense(channels, "conv_w")(y[:, rows:]).astype(wide))
        gate = self.sow_gate(gate_h[:, :, None, :] * gate_w[:, None, :, :])
        y = x * gate.astype(x.dtype)
        return y + x if self.skip else y

    def identity_parameters(self) -> Values:
        if self.skip:
            raise ValueError("adds its input to a gated one: skip=True")
        logit = open_logit(self.gate_fn)
        return constant_layer("conv_h", logit, self.use_bias) | constant_layer("conv_w", logit, self.use_bias)
