"""Initializers that are plain values, so that `attnjax.init` can draw them with NumPy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Constant:
    """Fills a parameter with one value.

    Args:
      value: the value.

    Example:
      >>> import jax
      >>> from attnjax.layers import Constant
      >>> Constant(1.0)(jax.random.key(0), (2,)).tolist()
      [1.0, 1.0]
    """

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        del key
        return jnp.full(shape, self.value, dtype)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the same values as a NumPy array (float64)."""
        del rng
        return np.full(shape, self.value)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Zero-mean noise of variance `scale / fan`, as `jax.nn.initializers.variance_scaling`.

    The last axis of the shape counts the outputs, the one before it the inputs of a group, and all
    others the receptive field. Grouped kernels therefore have PyTorch's fans.

    Args:
      scale: numerator of the variance.
      mode: which fan divides it, `"fan_in"` or `"fan_out"`.
      distribution: `"normal"` or `"uniform"`.

    Example:
      >>> import jax
      >>> from attnjax.layers import VarianceScaling
      >>> VarianceScaling(2.0, "fan_out", "normal")(jax.random.key(0), (3, 3, 8, 16)).shape
      (3, 3, 8, 16)
    """

    scale: float
    mode: Literal["fan_in", "fan_out"]
    distribution: Literal["normal", "uniform"]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.nn.initializers.variance_scaling(self.scale, self.mode, self.distribution)(key, shape, dtype)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws from the same distribution with NumPy (float32)."""
        receptive_field = math.prod(shape[:-2])
        fan = receptive_field * (shape[-2] if self.mode == "fan_in" else shape[-1])
        deviation = np.float32(math.sqrt(self.scale / fan))
        if self.distribution == "normal":
            return rng.standard_normal(shape, np.float32) * deviation
        return (2 * rng.random(shape, np.float32) - 1) * np.float32(math.sqrt(3)) * deviation


@dataclasses.dataclass(frozen=True)
class Normal:
    """Zero-mean Gaussian noise of one standard deviation, whatever the shape.

    Args:
      deviation: the standard deviation.

    Example:
      >>> import jax
      >>> from attnjax.layers import Normal
      >>> Normal(0.01)(jax.random.key(0), (3, 3, 8, 16)).shape
      (3, 3, 8, 16)
    """

    deviation: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.deviation, dtype)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws from the same distribution with NumPy (float32)."""
        return rng.standard_normal(shape, np.float32) * np.float32(self.deviation)


he_normal_fan_out = VarianceScaling(2.0, "fan_out", "normal")
"""He initialisation over the outputs, what the CBAM, BAM and torchvision ResNets use for convolutions."""

torch_default = VarianceScaling(1 / 3, "fan_in", "uniform")
"""U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the default of PyTorch's `Linear` and `Conv2d`."""
