"""SimAM (Yang, Zhang, Li and Xie, ICML 2021)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.attention._gated import Gated, Values
from attnjax.layers import at_least_float32


class SimAM(Gated):
    """Scales each value by how far it is from the mean of its channel's map; there are no parameters.

    y = sigmoid(d / (4 (v + e_lambda)) + 1/2) x, with d = (x - mean(x))^2 and v = sum(d) / (h w - 1) for each image and
    channel.

    Args:
      e_lambda: lambda of the paper's energy, added to the variance v. Released: 1e-4, and 0.1 for ImageNet.
      dtype: compute type; None takes the input's. The gate is float32 or wider.
      param_dtype: taken from nets as by every block, and without effect: there are no parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, h, w, c) is sown as `intermediates/gate`. Where a map is one pixel,
      d and v are 0, and the gate is sigmoid(1/2), as of any constant map.

    Raises:
      ValueError: `e_lambda` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.attention import SimAM
      >>> x = jnp.asarray([1.0, 1.0, 1.0, 5.0]).reshape(1, 2, 2, 1)
      >>> [round(float(value), 2) for value in SimAM().apply({}, x, train=False).ravel()]
      [0.64, 0.64, 0.64, 3.72]

    References:
      Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021;
      official code, ZjjConan/SimAM, which divides 0 by 0 where a map is one pixel.
    """

    e_lambda: float = 1e-4
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        if not self.e_lambda > 0:
            raise ValueError(f"e_lambda={self.e_lambda} must be positive")
        wide = x.astype(at_least_float32(x.dtype if self.dtype is None else self.dtype))
        squares = jnp.square(wide - wide.mean((1, 2), keepdims=True))
        others = max(1, x.shape[1] * x.shape[2] - 1)
        variance = squares.sum((1, 2), keepdims=True) / others
        gate = self.sow_gate(nn.sigmoid(squares / (4 * (variance + self.e_lambda)) + 0.5))
        return x * gate.astype(x.dtype)

    def identity_parameters(self) -> Values:
        raise ValueError("has no parameter that could open its gate")
