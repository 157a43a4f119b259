"""The pre-activation bottleneck of the Residual Attention Network (Wang et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers import BatchNorm, Conv, with_defaults


class ResidualUnit(nn.Module):
    """The network's pre-activation bottleneck, (b, h, w, c) -> (b, h / stride, w / stride, features).

    With a = relu(bn1(x)): y = conv3(relu(bn3(conv2(relu(bn2(conv1(a))))))) + shortcut, where conv2 is 3x3 and strides,
    the others are 1x1, and the inner width is features / 4. The shortcut is x itself, or a strided 1x1 convolution of a
    where the unit strides or changes the number of channels.

    Args:
      features: output channels, a multiple of 4.
      stride: step of conv2 and of the shortcut.
      dtype: compute type; None takes the input's.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      An array of the input's type.

    Raises:
      ValueError: `features` is no multiple of 4.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import ResidualUnit
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = ResidualUnit(32, stride=2).init(jax.random.key(0), x, train=False)
      >>> ResidualUnit(32, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 32)

    References:
      He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016; Wang et al., CVPR 2017; official prototxts,
      fwang91/residual-attention-network.
    """

    features: int
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.features % 4 or self.features < 4:
            near = max(4, 4 * round(self.features / 4))
            raise ValueError(f"features={self.features} must be a positive multiple of 4; the nearest is {near}")
        inner, kind = self.features // 4, x.dtype
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = with_defaults(self.batch_norm, dtypes)
        active = nn.relu(norm(name="bn1")(x, train=train))
        y = Conv(inner, 1, name="conv1", **dtypes)(active)
        y = nn.relu(norm(name="bn2")(y, train=train))
        y = Conv(inner, 3, stride=self.stride, name="conv2", **dtypes)(y)
        y = nn.relu(norm(name="bn3")(y, train=train))
        y = Conv(self.features, 1, name="conv3", **dtypes)(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, 1, stride=self.stride, name="downsample_conv", **dtypes)(active)
        return (x.astype(y.dtype) + y).astype(kind)
