"""Convolution with PyTorch's padding."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax

from attnjax.layers._convolve import Window, convolve
from attnjax.layers._initializers import Constant, he_normal_fan_out


class Conv(nn.Module):
    """2-D convolution, padded symmetrically as PyTorch's `Conv2d`.

    (b, h, w, c) -> (b, h', w', features) with h' = (h + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1.
    XLA's `SAME` pads a strided convolution of an even size on one side only and gives other numbers.

    Args:
      features: output channels.
      kernel_size: side of the square kernel.
      stride: step of the window.
      padding: zeros on each side; None is `dilation * (kernel_size - 1) // 2`, which keeps the size at stride 1.
      dilation: spacing of the kernel's taps.
      groups: groups of channels that do not see each other; must divide `c` and `features`.
      use_bias: whether to add a bias.
      kernel_init, bias_init: initializers; the kernel has shape (kernel_size, kernel_size, c / groups, features).
      dtype: compute type; None takes the input's.
      param_dtype: type of the parameters.

    Returns:
      An array of the compute type.

    Raises:
      ValueError: `groups` does not divide the channels, or the kernel does not fit into the padded input.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import Conv
      >>> x = jnp.ones((1, 8, 8, 3))
      >>> variables = Conv(16, 3, stride=2).init(jax.random.key(0), x)
      >>> Conv(16, 3, stride=2).apply(variables, x).shape
      (1, 4, 4, 16)
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Any = he_normal_fan_out
    bias_init: Any = Constant(0.0)
    dtype: Any = None
    param_dtype: Any = jax.numpy.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        both = math.gcd(channels, self.features)
        if self.groups < 1 or both % self.groups:
            works = [count for count in range(1, both + 1) if both % count == 0]
            raise ValueError(
                f"groups={self.groups} must divide the input channels ({channels}) and features={self.features}: "
                f"the nearest that does is {min(works, key=lambda count: abs(count - self.groups))}"
            )
        reach = self.dilation * (self.kernel_size - 1)
        padding = reach // 2 if self.padding is None else self.padding
        if min(x.shape[-3:-1]) + 2 * padding <= reach:
            raise ValueError(
                f"kernel_size={self.kernel_size} with dilation={self.dilation} and padding={padding} needs an input "
                f"of at least {reach + 1 - 2 * padding} pixels a side, got {x.shape[-3]}x{x.shape[-2]}"
            )
        shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        dtype = x.dtype if self.dtype is None else self.dtype
        window = Window(self.stride, padding, self.dilation, self.groups)
        y = convolve(x.astype(dtype), kernel.astype(dtype), window)
        return y if bias is None else y + bias.astype(dtype).reshape(1, 1, 1, -1)
