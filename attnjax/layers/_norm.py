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
      groups: parts of the batch that are normalised apart in training, each of b / groups consecutive examples, as if
        each lay on a device of its own; running statistics take the mean over the parts.
      axis_name: name of a `pmap`, `shard_map` or `vmap` axis over which the batch goes on; None is no such axis.
      scale_init, bias_init: initializers of the affine parameters, each of shape (c,).
      dtype: type of the result; None takes the input's.
      param_dtype: type of parameters and statistics.

    Returns:
      An array of the input's shape (..., c). Statistics are computed in float32 or wider.

    Raises:
      ValueError: in training there is only one value per channel, so that its variance is not defined, or the examples
        cannot be divided into `groups`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import BatchNorm
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = BatchNorm().init(jax.random.key(0), x, train=False)
      >>> y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
      >>> y.ravel().round(3).tolist(), round(float(updates["batch_stats"]["var"][0]), 3)
      ([-1.0, 1.0], 1.1)
      >>> x = jnp.array([[1.0], [3.0], [10.0], [50.0]])
      >>> y, _ = BatchNorm(groups=2).apply(variables, x, train=True, mutable=["batch_stats"])
      >>> y.ravel().round(3).tolist()
      [-1.0, 1.0, -1.0, 1.0]

    References:
      Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    Notes:
      Flax's own BatchNorm keeps the biased running variance, and takes both moments in one pass over the input, which
      cancels in float32 where the mean is large against the deviation. Here the variance is taken around the mean.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    axis_name: str | None = None
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

        shape, out_dtype = x.shape, x.dtype if self.dtype is None else self.dtype
        x = x.astype(at_least_float32(x.dtype))
        if train and not self.is_initializing():
            x = self._grouped(x)
            mean, var, count = self._moments(x)
            running_mean.value = self._running(running_mean.value, mean)
            running_var.value = self._running(running_var.value, var * (count / (count - 1)))
        else:
            mean, var = (self._row(running.value, x) for running in (running_mean, running_var))
        gain = jax.lax.rsqrt(var + self.epsilon) * self._row(scale, x)
        y = (x - mean) * gain + self._row(bias, x)
        return y.reshape(shape).astype(out_dtype)

    def _grouped(self, x: jax.Array) -> jax.Array:
        """(b, ..., c) -> (groups, b / groups, ..., c), or itself if all of it is one group."""
        if self.groups == 1:
            return x
        if self.groups < 1 or x.shape[0] % self.groups:
            raise ValueError(f"groups={self.groups} does not divide the {x.shape[0]} examples of the batch")
        return x.reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])

    def _moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean and variance of each group, with axes of length 1, and over how many values they are taken."""
        first = 0 if self.groups == 1 else 1
        axes, part = tuple(range(first, x.ndim - 1)), x.shape[first:]
        count = math.prod(part[:-1])
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
        if count == 1:
            raise ValueError(f"batch norm in training needs more than one value per channel, got shape {part}")

        def mean_of(values: jax.Array) -> jax.Array:
            mean = jnp.mean(values, axes, keepdims=True)
            return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)

        mean = mean_of(x)
        return mean, mean_of(jnp.square(x - mean)), count

    def _row(self, vector: jax.Array, x: jax.Array) -> jax.Array:
        """(c,) -> (1, ..., 1, c), to go with x."""
        return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + vector.shape)

    def _running(self, old: jax.Array, batch: jax.Array) -> jax.Array:
        batch = jnp.mean(batch, tuple(range(batch.ndim - 1)))
        return self.momentum * old + (1 - self.momentum) * batch.astype(old.dtype)
