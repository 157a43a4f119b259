"""Convolutional Block Attention Module (Woo, Park, Lee and Kweon, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax._partial import Partial
from attnjax.attention._gate_mlp import GateMLP, check_width
from attnjax.attention._gated import Gated, Values, below, constant_layer, constant_norm, open_logit
from attnjax.layers import (
    BatchNorm,
    Constant,
    Conv,
    at_least_float32,
    global_pool,
    max_along,
    torch_default,
    with_defaults,
)


class ChannelGate(Gated):
    """Scales each channel by a gate: what is in the map.

    M_c = sigmoid(sum over pools of MLP(pool(x))) with one MLP for all pools, y = M_c x.

    Args:
      reduction: channels per hidden feature of the MLP.
      pools: which kinds of `attnjax.layers.global_pool` to add up: `"avg"`, `"max"`, `"lp"` (sum-type, p = 2), `"lse"`
        (log-sum-exp); `("avg_max",)` is timm's light form.
      use_bias, hidden, divisor, activation, gate_fn: as in `SqueezeExcite`. timm has no bias.
      dtype, param_dtype: compute type (None: the input's; the gate is float32 or wider) and that of the parameters.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, 1, 1, c) is `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: `pools` is empty or names an unknown pool, or there is no hidden feature.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import ChannelGate
      >>> attnjax.count_parameters(ChannelGate(), (2, 8, 8, 64))
      580

    References: those of `CBAM`; section 3 and table 1.
    """

    reduction: float = 16
    pools: Sequence[str] = ("avg", "max")
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    hidden: int | None = None
    divisor: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid

    def __post_init__(self) -> None:
        check_width(self)
        super().__post_init__()

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate, (b, 1, 1, c), float32 or wider."""
        del train
        if not self.pools:
            raise ValueError("pools=() must name at least one pool")
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        shape: dict[str, Any] = {"hidden": self.hidden, "divisor": self.divisor, "kernel_init": torch_default}
        mlp = GateMLP(self.reduction, self.use_bias, self.activation, name="mlp", **shape, **dtypes)
        logits: Any = sum(mlp(p).astype(p.dtype) for p in [global_pool(x, pool) for pool in self.pools])
        return self.sow_gate(self.gate_fn(logits)[:, None, None, :])

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)

    def identity_parameters(self) -> Values:
        return constant_layer("mlp/fc2", open_logit(self.gate_fn) / len(self.pools), self.use_bias)


class SpatialGate(Gated):
    """Scales each position by a gate: where in the map.

    M_s = sigmoid(norm(f(descriptor(x)))) with a convolution f (without bias) to one channel, y = M_s x.

    Args:
      kernel_size: side of f's kernel, 7 (paper and released) or 3 (its ablation).
      descriptor: `"pool"` is the largest and the mean value over channels, in this order (released code);
        `"pool_mean_first"` the other order (timm); `"pool_average"` one map halfway between them (timm's light form);
        `"conv"` a learned 1x1 convolution to one channel (the paper's ablation, without bias).
      norm: `"batch_norm"` (released: momentum 0.99, PyTorch's 0.01, and a scale that starts at 0, so that a fresh gate
        is 0.5 everywhere), `"none"` (the paper's equation), or a constructor such as `BatchNorm` (timm).
      gate_fn: squashing function.
      dtype, param_dtype: as in `ChannelGate`.
      batch_norm: constructor of the released norm, called with `dtype`, `param_dtype`, `name`, `momentum` and
        `scale_init`.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, h, w, 1) is `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: `kernel_size` is even, or `descriptor` or `norm` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import SpatialGate
      >>> x = jnp.ones((2, 8, 8, 64))
      >>> variables = SpatialGate().init(jax.random.key(0), x, train=False)
      >>> SpatialGate().apply(variables, x, train=False, method="gate")[0, 0, 0].item()
      0.5

    References: those of `CBAM`; section 3 and table 2.
    """

    kernel_size: int = 7
    descriptor: Literal["pool", "pool_mean_first", "pool_average", "conv"] = "pool"
    norm: Literal["batch_norm", "none"] | Callable[..., nn.Module] = "batch_norm"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate, (b, h, w, 1), float32 or wider."""
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd")
        check_choice("descriptor", self.descriptor, ("pool", "pool_mean_first", "pool_average", "conv"))
        if not callable(self.norm):
            check_choice("norm", self.norm, ("batch_norm", "none"))
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        wide = at_least_float32(x.dtype)
        if self.descriptor == "conv":
            x = Conv(1, 1, name="descriptor_conv", **dtypes)(x)
        else:
            maps = [max_along(x, -1), jnp.mean(x.astype(wide), -1, keepdims=True).astype(x.dtype)]
            maps = maps if self.descriptor == "pool" else maps[::-1]
            x = (maps[0] + maps[1]) / 2 if self.descriptor == "pool_average" else jnp.concatenate(maps, -1)
        logits = Conv(1, self.kernel_size, name="conv", **dtypes)(x)
        if self.norm != "none":
            released = Partial(self.batch_norm, momentum=0.99, scale_init=Constant(0.0))
            norm = with_defaults(self.norm if callable(self.norm) else released, dtypes)
            logits = norm(name="bn")(logits, train=train)
        return self.sow_gate(self.gate_fn(logits.astype(wide)))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * self.gate(x, train=train).astype(x.dtype)

    def identity_parameters(self) -> Values:
        if self.norm == "none":
            raise ValueError("has no batch norm that could open its spatial gate: norm='none'")
        return constant_norm("bn", open_logit(self.gate_fn))


class CBAM(nn.Module):
    """Channel gate, then spatial gate: the released CBAM, with every option of the paper's ablations and timm's forms.

    y = M_s(x') x' with x' = M_c(x) x.

    Args:
      reduction, pools, use_bias, hidden, divisor, activation: the channel gate's, see `ChannelGate` (table 1).
      arrangement: `"channel_first"` (paper and released), `"spatial_first"`, or `"parallel"`, where both gates
        see the input: y = M_c(x) M_s(x) x (table 3). No code was released for the last two.
      spatial: whether there is a spatial gate at all.
      kernel_size, descriptor, spatial_norm: the spatial gate's kernel_size, descriptor and norm, see `SpatialGate`.
      gate_fn: squashing function of both gates.
      dtype, param_dtype, batch_norm: as in `SpatialGate`.

    Returns:
      (b, h, w, c) of the input's type. Parameters: 2 c (c // reduction) + c // reduction + c + 100 by default.

    Raises:
      ValueError: an argument is not one of those above, or there is no hidden feature.

    Example:
      >>> import attnjax
      >>> from attnjax.attention import CBAM
      >>> attnjax.count_parameters(CBAM(reduction=16), (2, 8, 8, 64))
      680

    References:
      Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018; official code, Jongchan/attention-module.
    """

    reduction: float = 16
    pools: Sequence[str] = ("avg", "max")
    arrangement: Literal["channel_first", "spatial_first", "parallel"] = "channel_first"
    spatial: bool = True
    kernel_size: int = 7
    descriptor: Literal["pool", "pool_mean_first", "pool_average", "conv"] = "pool"
    spatial_norm: Literal["batch_norm", "none"] | Callable[..., nn.Module] = "batch_norm"
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    hidden: int | None = None
    divisor: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        check_width(self)
        if not self.spatial:
            check_effect(self, "spatial=False", "arrangement", "kernel_size", "descriptor", "spatial_norm")
        super().__post_init__()

    def _channel_gate(self, **options: Any) -> ChannelGate:
        mlp: dict[str, Any] = {"hidden": self.hidden, "divisor": self.divisor, "activation": self.activation}
        same = {"gate_fn": self.gate_fn, "dtype": self.dtype, "param_dtype": self.param_dtype}
        return ChannelGate(self.reduction, self.pools, self.use_bias, **mlp, **same, **options)

    def _spatial_gate(self, **options: Any) -> SpatialGate:
        same = {"gate_fn": self.gate_fn, "dtype": self.dtype, "param_dtype": self.param_dtype}
        norms: dict[str, Any] = {"norm": self.spatial_norm, "batch_norm": self.batch_norm}
        return SpatialGate(self.kernel_size, self.descriptor, **norms, **same, **options)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice("arrangement", self.arrangement, ("channel_first", "spatial_first", "parallel"))
        channel = self._channel_gate(name="channel_gate")
        if not self.spatial:
            return channel(x, train=train)
        spatial = self._spatial_gate(name="spatial_gate")
        if self.arrangement == "channel_first":
            return spatial(channel(x, train=train), train=train)
        if self.arrangement == "spatial_first":
            return channel(spatial(x, train=train), train=train)
        gate = channel.gate(x, train=train) * spatial.gate(x, train=train)
        return x * gate.astype(x.dtype)

    def identity_parameters(self) -> Values:
        values = below("channel_gate", self._channel_gate(parent=None).identity_parameters())
        if self.spatial:
            values |= below("spatial_gate", self._spatial_gate(parent=None).identity_parameters())
        return values
