"""Efficient Channel Attention (Wang et al., CVPR 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax.attention._gated import Gated, Values, constant_layer, open_logit
from attnjax.layers import Constant, global_pool, torch_default


class EfficientChannelAttention(Gated):
    """Scales each channel by a gate computed from its neighbours among the pooled channels.

    s = sigmoid(conv_k(pool(x))), y = s x, with one kernel of k taps for all channels, where k is the odd number at or
    above |log2(c) + beta| / gamma, rounded down first.

    Args:
      kernel_size: taps k, odd; None derives them from the channels, as the paper and timm do. 3 is the fewest then.
      gamma, beta: of the rule for k.
      circular: whether the channels wrap around (timm's circular form) instead of being padded with zeros.
      use_bias: whether the convolution has a bias. Released: no.
      hidden: None, or the features of a layer put before the convolution (an option of timm); both then have biases.
      activation: nonlinearity of the hidden features.
      gate_fn: squashing function of the logits.
      dtype: compute type; None takes the input's. Pooling and gate are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, 1, 1, c) is `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: `kernel_size` is even or not positive, or `hidden` is not positive.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import EfficientChannelAttention
      >>> attnjax.count_parameters(EfficientChannelAttention(), (1, 8, 8, 256))
      5

    References:
      Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020; official
      code, BangguWu/ECANet, whose ResNets state k per stage instead: pass `kernel_size`.
    """

    kernel_size: int | None = None
    gamma: float = 2.0
    beta: float = 1.0
    circular: bool = False
    use_bias: bool = False
    hidden: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.kernel_size is not None:
            check_effect(self, f"kernel_size={self.kernel_size}", "gamma", "beta")
        if self.hidden is None:
            check_effect(self, "hidden=None", "activation")
        else:
            check_effect(self, f"hidden={self.hidden}", "use_bias")
        super().__post_init__()

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate, (b, 1, 1, c), float32 or wider."""
        del train
        taps = self._taps(x.shape[-1])
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden={self.hidden} must be at least 1")
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        pooled = global_pool(x, "avg")
        y = pooled[..., None]
        if self.hidden is None:
            y = _ChannelConv(1, taps, self.circular, self.use_bias, name="conv", **dtypes)(y)
        else:
            y = self.activation(_ChannelConv(self.hidden, 1, use_bias=True, name="conv", **dtypes)(y))
            y = _ChannelConv(1, taps, self.circular, use_bias=True, name="conv2", **dtypes)(y)
        return self.sow_gate(self.gate_fn(y[..., 0].astype(pooled.dtype))[:, None, None, :])

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)

    def identity_parameters(self) -> Values:
        if self.hidden is None:
            return constant_layer("conv", open_logit(self.gate_fn), self.use_bias)
        return constant_layer("conv2", open_logit(self.gate_fn))

    def _taps(self, channels: int) -> int:
        if self.kernel_size is None:
            taps = int(abs(math.log2(channels) + self.beta) / self.gamma)
            return max(3, taps + (taps + 1) % 2)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd and positive")
        return self.kernel_size


class _ChannelConv(nn.Module):
    """Convolution along the channels, (b, c, i) -> (b, c, features), as one product with c windows."""

    features: int
    kernel_size: int
    circular: bool = False
    use_bias: bool = False
    kernel_init: Any = torch_default
    bias_init: Any = Constant(0.0)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype).astype(self.dtype)
        reach, channels = self.kernel_size // 2, x.shape[1]
        mode = "wrap" if self.circular else "constant"
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (reach, reach), (0, 0)), mode)
        windows = jnp.stack([padded[:, tap : tap + channels] for tap in range(self.kernel_size)], axis=2)
        y = jnp.einsum("bcki,kio->bco", windows, kernel)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)[None, None]
        return y
