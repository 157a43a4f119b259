"""Batch normalisation with PyTorch's running statistics."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers._dtypes import at_least_float32
from attnjax.layers._initializers import Constant


class BatchNorm(nn.Module):
    r"""Normalises each channel over all other axes; running statistics as PyTorch keeps them.

    y = scale (x - mean) / sqrt(var + epsilon) + bias, with the batch's mean and (biased) variance in training
    and the running ones otherwise. After a training step running = momentum running + (1 - momentum) batch,
    where the batch's variance is the *unbiased* one. Under `jit` over a mesh the batch is the global batch.

    Args:
      momentum: share of the old running value that is kept: 1 minus PyTorch's momentum. 0.9 is PyTorch's default.
      epsilon: added to the variance.
      scale_init, bias_init: initializers of the affine parameters, each of shape (c,).
      dtype: type of the result; None takes the input's.
      param_dtype: type of parameters and statistics.

    Returns:
      An array of the input's shape (..., c). Statistics are computed in float32 or wider.

    Raises:
      ValueError: in training there is only one value per channel, so that its variance is not defined.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import BatchNorm
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = BatchNorm().init(jax.random.key(0), x, train=False)
      >>> y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
      >>> y.ravel().round(3).tolist(), round(float(updates["batch_stats"]["var"][0]), 3)
      ([-1.0, 1.0], 1.1)

    References:
      Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    Notes:
      Flax's own BatchNorm keeps the biased running variance, and takes both moments in one pass over the input, which
      cancels in float32 where the mean is large against the deviation. Here the variance is taken around the mean.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Any = Constant(1.0)
    bias_init: Any = Constant(0.0)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", self.bias_init, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, self.param_dtype)

        out_dtype = x.dtype if self.dtype is None else self.dtype
        wide = at_least_float32(x.dtype)
        row = (1,) * (x.ndim - 1) + channels
        x = x.astype(wide)
        mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        if train:
            count = math.prod(x.shape[:-1])
            if count == 1 and not self.is_initializing():
                raise ValueError(f"batch norm in training needs more than one value per channel, got shape {x.shape}")
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes)
            var = jnp.mean(jnp.square(x - mean.reshape(row)), axes)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value = self._running(running_mean.value, mean)
                running_var.value = self._running(running_var.value, unbiased)
        gain = jax.lax.rsqrt(var + self.epsilon) * scale.astype(wide)
        y = (x - mean.reshape(row)) * gain.reshape(row) + bias.astype(wide).reshape(row)
        return y.astype(out_dtype)

    def _running(self, old: jax.Array, batch: jax.Array) -> jax.Array:
        return self.momentum * old + (1 - self.momentum) * batch.astype(old.dtype)
