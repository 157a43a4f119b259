"""Selective kernels (Li, Wang, Hu and Yang, CVPR 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.attention._gate_mlp import check_width, narrow_width
from attnjax.attention._gated import Gated
from attnjax.layers import BatchNorm, Conv, at_least_float32, torch_default, with_defaults


class SelectiveKernel(Gated):
    """Convolves at several scales and mixes the results with weights that each channel chooses: SKConv.

    u_i = relu(bn(conv_i(x))), z = relu(bn(W pool(sum_i u_i))), y = sum_i softmax_i(V_i z) u_i.

    Stands in place of a 3x3 convolution with its norm and activation: (b, h, w, c) -> (b, h / stride, w / stride,
    features), rounded up.

    Args:
      features: output channels.
      kernels: odd side of each branch's kernel, 3 or more.
      stride: step of all branches.
      dilation: dilation of all branches, on top of `dilate`.
      groups: groups of each branch; 32 in SKNet-50, as in ResNeXt.
      reduction: features per feature of z.
      min_hidden: fewest features of z, 32 in the paper.
      hidden: features of z, instead of both.
      divisor: round features / reduction to a multiple of this, at least itself and no lower than 90 %, as timm does
        (8 there); None is the larger of features // reduction and `min_hidden`.
      dilate: give larger kernels as dilated 3x3 ones (paper and timm); False convolves with them as they are.
      split: each branch sees its share of the channels only (timm's SK-ResNets), not all of them (paper).
      activation: nonlinearity of the branches; that of z is ReLU, as in the paper and timm.
      dtype: compute type; None takes the input's. Pooling and softmax are float32 or wider.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      (b, h', w', features) of the compute type. The weights (b, 1, 1, branches, features), which sum to 1 over the
      branches, are sown as `intermediates/gate`.

    Raises:
      ValueError: a kernel is even or below 3, the channels cannot be split evenly, `groups` does not divide channels of
        a branch and `features`, or `hidden` or `divisor` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import SelectiveKernel
      >>> x = jnp.ones((2, 7, 7, 32))
      >>> variables = SelectiveKernel(48, stride=2).init(jax.random.key(0), x, train=False)
      >>> SelectiveKernel(48, stride=2).apply(variables, x, train=False).shape
      (2, 4, 4, 48)

    References:
      Li et al., "Selective Kernel Networks", CVPR 2019; official prototxts, implus/SKNet.
    """

    features: int
    kernels: Sequence[int] = (3, 5)
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    reduction: float = 16
    min_hidden: int = 32
    hidden: int | None = None
    divisor: int | None = None
    dilate: bool = True
    split: bool = False
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    def __post_init__(self) -> None:
        check_width(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        wide = at_least_float32(x.dtype)
        self._check(x.shape[-1])
        branches = len(self.kernels)
        inputs = jnp.split(x, branches, axis=-1) if self.split else [x] * branches
        paths = [self._path(i, part, train, dtypes) for i, part in enumerate(inputs)]
        maps = jnp.stack(paths, axis=-2)

        pooled = jnp.mean(jnp.sum(maps.astype(wide), -2), (1, 2))
        dense = {"use_bias": False, "kernel_init": torch_default, **dtypes}
        width = narrow_width(self.features, self.reduction, self.min_hidden, self.hidden, self.divisor, keep=0.9)
        z = nn.Dense(width, name="fc_reduce", **dense)(pooled)
        z = nn.relu(with_defaults(self.batch_norm, dtypes)(name="bn")(z, train=train))
        logits = nn.Dense(branches * self.features, name="fc_select", **dense)(z)
        gate = self.sow_gate(jax.nn.softmax(logits.astype(wide).reshape(-1, 1, 1, branches, self.features), axis=-2))
        return jnp.sum(maps * gate.astype(maps.dtype), -2)

    def _path(self, index: int, x: jax.Array, train: bool, dtypes: dict[str, Any]) -> jax.Array:
        size, dilation = self.kernels[index], self.dilation
        if self.dilate:
            size, dilation = 3, dilation * (size - 1) // 2
        options = {"stride": self.stride, "dilation": dilation, "groups": self.groups, **dtypes}
        y = Conv(self.features, size, name=f"path{index}_conv", **options)(x)
        norm = with_defaults(self.batch_norm, dtypes)(name=f"path{index}_bn")
        return self.activation(norm(y, train=train))

    def _check(self, channels: int) -> None:
        branches = len(self.kernels)
        if not branches or any(size < 3 or size % 2 == 0 for size in self.kernels):
            raise ValueError(f"kernels={tuple(self.kernels)} must be odd sizes of 3 or more, at least one")
        if self.split and channels % branches:
            near = max(branches, round(channels / branches) * branches)
            raise ValueError(
                f"split=True needs channels that {branches} branches share evenly, got {channels}: {near} would do"
            )
        inputs = channels // branches if self.split else channels
        if self.groups < 1 or inputs % self.groups or self.features % self.groups:
            common = math.gcd(inputs, self.features)
            near = min((n for n in range(1, common + 1) if common % n == 0), key=lambda n: abs(n - self.groups))
            raise ValueError(
                f"groups={self.groups} must divide the {inputs} channels of a branch and features={self.features}: "
                f"{near} works"
            )
