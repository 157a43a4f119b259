"""Gather-Excite (Hu, Shen, Albanie, Sun and Vedaldi, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.attention._gate_mlp import GateMLP, check_width
from attnjax.attention._gated import Gated, Values, constant_layer, constant_norm, open_logit
from attnjax.layers import (
    BatchNorm,
    Conv,
    at_least_float32,
    avg_pool,
    global_pool,
    max_pool,
    resize_nearest,
    torch_default,
    with_defaults,
)


class GatherExcite(Gated):
    """Scales each value by a gate computed from its surroundings: by default GE-theta-minus.

    y = sigmoid(upsample(excite(gather(x)))) x: gather takes means or depthwise convolutions over `extent` x `extent`
    cells, excite is nothing or two 1x1 layers, upsampling is nearest-neighbour.

    Args:
      extent: side of the cells in pixels; 0 is the whole map.
      parametrised: gather with depthwise convolutions and batch norms (GE-theta): log2(extent) of 3x3 and stride 2 with
        activations between them, or one as large as the map, which fixes the map's size.
      use_mlp: excite with two layers as in SE (GE-theta-plus, with `parametrised`; SE itself, without).
      reduction, hidden, divisor, activation: of these layers, see `SqueezeExcite`.
      pool: means (`"avg"`, paper) or `"avg_max"`, halfway between means and maxima (an option of timm).
      padded: pad the convolution as large as the map by half of that, as timm does: it then gives a map, not a value.
      gate_fn: squashing function of the logits.
      dtype: compute type; None takes the input's. Pooling and gate are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, h, w, c) of the input's type. The gate (b, h', w', c) is sown as `intermediates/gate` before upsampling:
      h' = h / extent rounded up, or 1.

    Raises:
      ValueError: `extent` is negative, or no power of two above 1 where `parametrised` needs one, or `pool` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.attention import GatherExcite
      >>> GatherExcite(extent=4).apply({}, jnp.zeros((2, 15, 13, 32)), train=False).shape
      (2, 15, 13, 32)

    References:
      Hu et al., "Gather-Excite: Exploiting Feature Context in Convolutional Neural Networks", NeurIPS 2018; official
      prototxts, hujie-frank/GENet.

    Notes:
      Means are taken over windows of 2 extent - 1 pixels, at a stride of extent, of the pixels that exist.
    """

    extent: int = 0
    parametrised: bool = False
    use_mlp: bool = False
    reduction: float = 16
    hidden: int | None = None
    divisor: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: str = "avg"
    padded: bool = False
    gate_fn: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        if self.parametrised:
            check_effect(self, "parametrised=True", "pool")
        if not self.parametrised or self.extent:
            check_effect(self, f"parametrised={self.parametrised} and extent={self.extent}", "padded")
        if self.use_mlp:
            check_width(self)
        else:
            check_effect(self, "use_mlp=False", "reduction", "hidden", "divisor")
            if not self.parametrised or self.extent < 4:
                check_effect(self, "use_mlp=False and no more than one convolution", "activation")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.extent < 0:
            raise ValueError(f"extent={self.extent} must be 0 (the whole map) or positive")
        wide = at_least_float32(x.dtype)
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        y = self._convolve(x, train, dtypes) if self.parametrised else self._pool(x.astype(wide))
        if self.use_mlp:
            options = {"hidden": self.hidden, "divisor": self.divisor, "name": "mlp", **dtypes}
            y = GateMLP(self.reduction, activation=self.activation, **options)(y, train=train)
        gate = self.sow_gate(self.gate_fn(y.astype(wide)))
        if gate.shape[1:3] != (1, 1):
            gate = resize_nearest(gate, (x.shape[1], x.shape[2]))
        return x * gate.astype(x.dtype)

    def identity_parameters(self) -> Values:
        if self.use_mlp:
            return constant_layer("mlp/fc2", open_logit(self.gate_fn))
        if not self.parametrised:
            raise ValueError("has no parameter that could open its gate: parametrised=False, use_mlp=False")
        return constant_norm(f"gather_bn{max(1, self.extent.bit_length() - 1)}", open_logit(self.gate_fn))

    def _pool(self, x: jax.Array) -> jax.Array:
        check_choice("pool", self.pool, ("avg", "avg_max"))
        if self.extent == 0:
            return global_pool(x, self.pool)[:, None, None, :]
        window, padding = 2 * self.extent - 1, self.extent - 1
        means = avg_pool(x, window, self.extent, padding, count_include_pad=False)
        if self.pool == "avg":
            return means
        return 0.5 * means + 0.5 * max_pool(x, window, self.extent, padding)

    def _convolve(self, x: jax.Array, train: bool, dtypes: dict[str, Any]) -> jax.Array:
        norm = with_defaults(self.batch_norm, dtypes)
        if self.extent == 0:
            x = _MapConv(self.padded, name="gather_conv1", **dtypes)(x)
            return norm(name="gather_bn1")(x, train=train)
        count = self.extent.bit_length() - 1
        if count == 0 or self.extent != 1 << count:
            near = max(2, 1 << count)
            raise ValueError(f"extent={self.extent} must be 0 or a power of two where parametrised: {near} works")
        channels = x.shape[-1]
        for index in range(1, count + 1):
            x = Conv(channels, 3, stride=2, groups=channels, name=f"gather_conv{index}", **dtypes)(x)
            x = norm(name=f"gather_bn{index}")(x, train=train)
            x = self.activation(x) if index < count else x
        return x


class _MapConv(nn.Module):
    """Depthwise convolution with a kernel of the map's size."""

    padded: bool = False
    kernel_init: Any = torch_default
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, channels = x.shape[1:]
        kernel = self.param("kernel", self.kernel_init, (height, width, 1, channels), self.param_dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if not self.padded:
            return jnp.einsum("bhwc,hwc->bc", x, kernel[:, :, 0])[:, None, None, :]
        pads = tuple(((size - 1) // 2,) * 2 for size in (height, width))
        axes = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), pads, dimension_numbers=axes, feature_group_count=channels
        )
