"""Bottleneck Attention Module (Park, Woo, Lee and Kweon, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.attention._gate_mlp import hidden_width
from attnjax.attention._gated import Gated, Values, below, constant_layer, constant_norm
from attnjax.layers import BatchNorm, Constant, Conv, at_least_float32, global_pool, torch_default, with_defaults


class BAMChannelBranch(nn.Module):
    """Logits for each channel from the pooled map, (b, h, w, c) -> (b, 1, 1, c).

    M_c = fc(relu(norm(fc(mean over h, w)))), with c // reduction hidden features.

    Args:
      reduction: channels per hidden feature.
      num_layers: hidden layers. Released code and paper: 1.
      norm_placement: `"hidden"` puts a batch norm after each hidden layer (released code); `"end"` puts a single one
        after the last layer (paper).
      dtype: compute type; None takes the input's. Pooling and norms are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, 1, 1, c) of the input's type.

    Raises:
      ValueError: `reduction` is larger than c, `num_layers` is negative, `norm_placement` is unknown, or there is a
        single image in training, whose batch statistics are not defined.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import BAMChannelBranch
      >>> x = jnp.ones((2, 8, 6, 64))
      >>> variables = BAMChannelBranch().init(jax.random.key(0), x, train=False)
      >>> BAMChannelBranch().apply(variables, x, train=False).shape
      (2, 1, 1, 64)

    References:
      Park et al., "BAM", BMVC 2018, section 3; official code, Jongchan/attention-module.

    Notes:
      The released code pools over an h by h window, which is the mean over h and w only for square maps.
    """

    reduction: int = 16
    num_layers: int = 1
    norm_placement: Literal["hidden", "end"] = "hidden"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        hidden = hidden_width(x.shape[-1], self.reduction)
        _check_layers("num_layers", self.num_layers, self.norm_placement)
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        norm = with_defaults(self.batch_norm, dtypes)

        def dense(features: int, i: int) -> nn.Dense:
            inits: dict[str, Any] = {"kernel_init": torch_default, "bias_init": Constant(0.0)}
            return nn.Dense(features, name=f"fc{i}", **inits, **dtypes)

        y = global_pool(x)
        for i in range(1, self.num_layers + 1):
            y = dense(hidden, i)(y)
            if self.norm_placement == "hidden":
                y = norm(name=f"bn{i}")(y, train=train)
            y = nn.relu(y)
        y = dense(x.shape[-1], self.num_layers + 1)(y)
        if self.norm_placement == "end":
            y = norm(name="bn")(y, train=train)
        return y[:, None, None, :].astype(x.dtype)


class BAMSpatialBranch(nn.Module):
    """Logits for each position from dilated convolutions, (b, h, w, c) -> (b, h, w, 1).

    M_s = f1(f3(... f3(f1(x)))): a 1x1 convolution to c // reduction channels, 3x3 dilated ones, a 1x1 one to a single
    channel, with ReLU between them.

    Args:
      reduction: channels per channel of the branch.
      dilation: spacing of the 3x3 kernels' taps.
      num_dilated: 3x3 convolutions. Released code and paper: 2.
      norm_placement: as in `BAMChannelBranch`.
      dtype: compute type; None takes the input's. Norms are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, h, w, 1) of the input's type.

    Raises:
      ValueError: `reduction` is larger than c, `dilation` is not positive, `num_dilated` is negative, or
        `norm_placement` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import BAMSpatialBranch
      >>> x = jnp.ones((2, 8, 6, 64))
      >>> variables = BAMSpatialBranch().init(jax.random.key(0), x, train=False)
      >>> BAMSpatialBranch().apply(variables, x, train=False).shape
      (2, 8, 6, 1)

    References:
      Park et al., "BAM", BMVC 2018, section 3; official code, Jongchan/attention-module.

    Notes:
      The paper's equation of this branch shows no ReLU; as in the released code there is one after each convolution
      but the last, with either `norm_placement`.
    """

    reduction: int = 16
    dilation: int = 4
    num_dilated: int = 2
    norm_placement: Literal["hidden", "end"] = "hidden"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        if not self.num_dilated:
            check_effect(self, "num_dilated=0", "dilation")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        hidden = hidden_width(x.shape[-1], self.reduction)
        _check_layers("num_dilated", self.num_dilated, self.norm_placement)
        if self.dilation < 1:
            raise ValueError(f"dilation={self.dilation} must be at least 1")
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        norm = with_defaults(self.batch_norm, dtypes)

        def step(y: jax.Array, kernel_size: int, dilation: int, layer: str) -> jax.Array:
            options = {"dilation": dilation, "use_bias": True, "name": layer.format("conv"), **dtypes}
            y = Conv(hidden, kernel_size, **options)(y)
            if self.norm_placement == "hidden":
                y = norm(name=layer.format("bn"))(y, train=train)
            return nn.relu(y)

        y = step(x, 1, 1, "reduce_{}")
        for i in range(1, self.num_dilated + 1):
            y = step(y, 3, self.dilation, f"dilated_{{}}{i}")
        y = Conv(1, 1, use_bias=True, name="final_conv", **dtypes)(y)
        if self.norm_placement == "end":
            y = norm(name="bn")(y, train=train)
        return y.astype(x.dtype)


class BAM(Gated):
    """Raises each value by a gate made of a channel branch and a spatial branch, side by side.

    y = (1 + M) x with M = sigmoid(M_c M_s) (released code) or sigmoid(M_c + M_s) (paper).

    Args:
      reduction: channels per hidden feature of both branches.
      dilation: dilation of the spatial branch.
      fuse: `"product"`, what the released code and weights have, or `"sum"`, the paper's form.
      num_layers: hidden layers of the channel branch.
      num_dilated: dilated convolutions of the spatial branch.
      norm_placement: `"hidden"`, batch norms after all hidden layers (released code), or `"end"`, one at the end of
        each branch (paper). The paper's module is `BAM(fuse="sum", norm_placement="end")`.
      dtype: compute type; None takes the input's. Pooling, norms and gate are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, h, w, c) of the input's type. The gate M (b, h, w, c), without the 1, is `method="gate"`, and sown as
      `intermediates/gate`.

    Raises:
      ValueError: an argument is not one of those above, `reduction` is larger than c, or there is a single image in
        training (the channel branch has one value per channel and image).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import BAM
      >>> x = jnp.ones((2, 8, 6, 64))
      >>> variables = BAM().init(jax.random.key(0), x, train=False)
      >>> BAM().apply(variables, x, train=False).shape
      (2, 8, 6, 64)

    References:
      Park et al., "BAM: Bottleneck Attention Module", BMVC 2018; official code, Jongchan/attention-module.
    """

    reduction: int = 16
    dilation: int = 4
    fuse: Literal["product", "sum"] = "product"
    num_layers: int = 1
    num_dilated: int = 2
    norm_placement: Literal["hidden", "end"] = "hidden"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        if not self.num_dilated:
            check_effect(self, "num_dilated=0", "dilation")
        super().__post_init__()

    @nn.compact
    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the gate M, (b, h, w, c), float32 or wider."""
        check_choice("fuse", self.fuse, ("product", "sum"))
        options = {
            "norm_placement": self.norm_placement,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "batch_norm": self.batch_norm,
        }
        channel = BAMChannelBranch(self.reduction, self.num_layers, name="channel_branch", **options)
        spatial = BAMSpatialBranch(self.reduction, self.dilation, self.num_dilated, name="spatial_branch", **options)
        wide = at_least_float32(x.dtype)
        m_c, m_s = channel(x, train=train).astype(wide), spatial(x, train=train).astype(wide)
        return self.sow_gate(nn.sigmoid(m_c * m_s if self.fuse == "product" else m_c + m_s))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * (1 + self.gate(x, train=train)).astype(x.dtype)

    def identity_parameters(self) -> Values:
        logits = (3.0, -3.0) if self.fuse == "product" else (-3.5, -3.5)
        if self.norm_placement == "end":
            channel, spatial = (constant_norm("bn", logit) for logit in logits)
        else:
            channel = constant_layer(f"fc{self.num_layers + 1}", logits[0])
            spatial = constant_layer("final_conv", logits[1])
        return below("channel_branch", channel) | below("spatial_branch", spatial)


def _check_layers(name: str, layers: int, norm_placement: str) -> None:
    if layers < 0:
        raise ValueError(f"{name}={layers} must not be negative")
    check_choice("norm_placement", norm_placement, ("hidden", "end"))
