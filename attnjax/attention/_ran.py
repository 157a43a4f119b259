"""Attention module of the Residual Attention Network (Wang et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.attention._gated import Gated
from attnjax.attention._residual_unit import ResidualUnit
from attnjax.layers import BatchNorm, Conv, at_least_float32, max_pool, resize_bilinear, with_defaults

_EPSILON = 1e-6


class ResidualAttention(Gated):
    """Attention module: a trunk of residual units weighted by a soft mask from an encoder-decoder beside it.

    z = pre(x), T = trunk(z), y = post((1 + M) T) with M = gate(up(down(z))).

    The mask branch pools z `pools` times, each level with `r` units (the lowest with `bottom`), then climbs back: at
    each level the map is resized to that level's size, added to a skip unit's output and passed through `r` units. A
    last resize leads to T's size; two 1x1 convolutions and `mask_norm` make the mask. All sizes follow the input.

    Args:
      unit: constructor of the residual units, called with features, `name`, `dtype`, `param_dtype` and, if that is one
        of its parameters, `batch_norm`; its module with `(x, train=train)`.
      p, t, r, post: units before the branches, in the trunk, at each level of the mask, and after the fusion.
      bottom: units at the mask's lowest level; None is 2 r (official).
      pools: how often the mask branch halves the map; 3, 2 and 1 in the stages of the ImageNet nets.
      learning: `"attention"` is (1 + M) T; `"naive"` is M T (the paper's ablation).
      mask_norm: f1, f2 or f3 of the paper: `"mixed"`, the sigmoid of each value; `"channel"`, x / |x| over the channels
        of a position; `"spatial"`, the sigmoid of each channel after normalising it over its map. `"tanh"` is what the
        AttentionNeXt prototxts of commit a80220a have; those of 2ca5c35 and df8f62c have the sigmoid.
      mask: `"encoder_decoder"`, or `"local"`: three units at full resolution in place of it (the paper's ablation).
      pool: the mask's 3x3 max-pool of stride 2: `"ceil"` (official Caffe nets: no padding, an even size n gives n / 2,
        an odd one (n - 1) / 2) or `"padded"` by 1 on all sides (PyTorch port: (n + 1) // 2).
      skip: what is added when the mask climbs: `"skip"`, the skip unit's output (official); `"port"`, also that unit's
        input and, after the last resize, T, as in the port.
      pre_activation: whether units end in a plain sum, as `ResidualUnit`; then norm and relu come before the mask's
        first 1x1 convolution too. No for units that end in a relu (AttentionNeXt).
      dtype: compute type; None takes the input's. The mask is float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the mask's batch norms, as in `ResidualUnit`, and those of the units.

    Returns:
      (b, h, w, c) of the input's type. The mask (b, h, w, c) is sown as `intermediates/gate`.

    Raises:
      ValueError: the map is smaller than `smallest_map`, or an argument is not one of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import ResidualAttention
      >>> x = jnp.ones((1, 14, 9, 16))
      >>> variables = ResidualAttention(pools=2).init(jax.random.key(0), x, train=False)
      >>> ResidualAttention(pools=2).apply(variables, x, train=False).shape
      (1, 14, 9, 16)
      >>> sorted(variables["params"])[:4]
      ['mask_bn1', 'mask_bn2', 'mask_conv1', 'mask_conv2']

    References:
      Wang et al., "Residual Attention Network for Image Classification", CVPR 2017; official prototxts,
      fwang91/residual-attention-network; the port is tengshaofeng/ResidualAttentionNetwork-pytorch.

    Notes:
      The official `Interp` layer takes only its size from its second input; the port adds that input.
      With `pools=0` the mask is `bottom` units at full resolution, and the port adds nothing. `"channel"` masks are
      signed. 1e-6 is added to squared norms and variances.
    """

    unit: Callable[..., nn.Module] = ResidualUnit
    p: int = 1
    t: int = 2
    r: int = 1
    post: int = 1
    bottom: int | None = None
    pools: int = 3
    learning: Literal["attention", "naive"] = "attention"
    mask_norm: Literal["mixed", "channel", "spatial", "tanh"] = "mixed"
    mask: Literal["encoder_decoder", "local"] = "encoder_decoder"
    pool: Literal["ceil", "padded"] = "ceil"
    skip: Literal["skip", "port"] = "skip"
    pre_activation: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        if self.mask == "local":
            check_effect(self, "mask='local'", "r", "bottom", "pool", "skip")
        super().__post_init__()

    @property
    def smallest_map(self) -> int:
        """Side in pixels of the smallest map that the pools can halve."""
        return 2**self._levels if self.pool == "ceil" else 1

    @property
    def _levels(self) -> int:
        return 0 if self.mask == "local" else self.pools

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        self._check(x)
        kind = x.dtype
        x = self._units("pre{}", self.p, x if self.dtype is None else x.astype(self.dtype), train)
        trunk = self._units("trunk{}", self.t, x, train)
        gate = self.sow_gate(self._gate(self._mask(x, trunk, train), train))
        weight = gate if self.learning == "naive" else 1 + gate
        return self._units("post{}", self.post, trunk * weight.astype(trunk.dtype), train).astype(kind)

    def _units(self, name: str, count: int, x: jax.Array, train: bool) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        unit = with_defaults(self.unit, dtypes, batch_norm=self.batch_norm)
        for i in range(1, count + 1):
            x = unit(x.shape[-1], name=name.format(i))(x, train=train)
        return x

    def _mask(self, x: jax.Array, trunk: jax.Array, train: bool) -> jax.Array:
        """What the mask's head sees, of the trunk's size."""
        lowest = 2 * self.r if self.bottom is None else self.bottom
        if not self._levels:
            return self._units("mask_down1_{}", 3 if self.mask == "local" else lowest, x, train)
        downs = []
        for level in range(1, self._levels + 1):
            x = max_pool(x, 3, 2, ceil_mode=True) if self.pool == "ceil" else max_pool(x, 3, 2, padding=1)
            x = self._units(f"mask_down{level}_{{}}", lowest if level == self._levels else self.r, x, train)
            downs.append(x)
        for level in range(self._levels - 1, 0, -1):
            down = downs[level - 1]
            x = resize_bilinear(x, (down.shape[1], down.shape[2])) + self._units(f"mask_skip{level}", 1, down, train)
            x = self._units(f"mask_up{level}_{{}}", self.r, x + down if self.skip == "port" else x, train)
        x = resize_bilinear(x, (trunk.shape[1], trunk.shape[2]))
        return x + trunk if self.skip == "port" else x

    def _gate(self, x: jax.Array, train: bool) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = with_defaults(self.batch_norm, dtypes)
        channels = x.shape[-1]
        if self.pre_activation:
            x = nn.relu(norm(name="mask_bn1")(x, train=train))
        x = Conv(channels, 1, name="mask_conv1", **dtypes)(x)
        x = nn.relu(norm(name="mask_bn2")(x, train=train))
        x = Conv(channels, 1, name="mask_conv2", **dtypes)(x)
        x = x.astype(at_least_float32(x.dtype))
        if self.mask_norm == "tanh":
            return jnp.tanh(x)
        if self.mask_norm == "channel":
            return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + _EPSILON)
        if self.mask_norm == "spatial":
            x = x - jnp.mean(x, (-3, -2), keepdims=True)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), (-3, -2), keepdims=True) + _EPSILON)
        return nn.sigmoid(x)

    def _check(self, x: jax.Array) -> None:
        choices = {
            "learning": ("attention", "naive"),
            "mask_norm": ("mixed", "channel", "spatial", "tanh"),
            "mask": ("encoder_decoder", "local"),
            "pool": ("ceil", "padded"),
            "skip": ("skip", "port"),
        }
        for field, allowed in choices.items():
            check_choice(field, getattr(self, field), allowed)
        for field in ("p", "t", "r", "post", "pools", "bottom"):
            if (getattr(self, field) or 0) < 0:
                raise ValueError(f"{field}={getattr(self, field)} must not be negative")
        if min(x.shape[-3:-1]) < self.smallest_map:
            raise ValueError(
                f"pools={self.pools} with pool={self.pool!r} needs maps of at least "
                f"{self.smallest_map}x{self.smallest_map}, got {x.shape[-3]}x{x.shape[-2]}"
            )
