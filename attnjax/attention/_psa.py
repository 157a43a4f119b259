"""Pyramid squeeze attention, the module of EPSANet (Zhang, Zu, Lu, Zou and Meng, ACCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.attention._gate_mlp import GateMLP
from attnjax.attention._gated import Gated
from attnjax.layers import Conv, global_pool, torch_default


class PyramidSqueezeAttention(Gated):
    """Convolves at several scales and weighs the scales against each other, channel by channel.

    F_i = conv_i(x) to features / s channels, for s kernels; z_i = sigmoid(MLP(mean of F_i over h, w)) with one MLP
    for all i; w = softmax of z over the scales; y = concatenation of w_i F_i. As z lies in (0, 1), the weights lie in
    [1 / (1 + (s - 1) e), e / (e + s - 1)]: with four scales in [0.109, 0.475].

    Args:
      features: output channels; None is c.
      kernels: side of each scale's kernel, odd.
      groups: groups of each scale's convolution. Paper's large nets: (32, 32, 32, 32).
      stride: step of all convolutions.
      reduction: channels per hidden feature of the MLP, which has max(1, features // s // reduction) of them.
      order: the branches' order in the output: `"reversed"`, the last kernel first (released code and its weights), or
        `"paper"`, the first kernel first.
      split_input: whether x is first split into s parts, one for each convolution. The paper's text says so; its
        released code gives all of x to each, and its authors point to the code.
      dtype: compute type; None takes the input's. Pooling and weights are float32 or wider.
      param_dtype: type of the parameters.

    Returns:
      (b, h', w', features) of the input's type, with h' = (h - 1) // stride + 1. The weights (b, s, 1, 1, features / s)
      with the scales in the order of `kernels` are `method="gate"`, and sown as `intermediates/gate`.

    Raises:
      ValueError: there are fewer than two kernels, or not as many groups, a kernel is even, `features` or the
        channels do not divide as asked (the nearest numbers that do are named), `order` is unknown, or `stride` or
        `reduction` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.attention import PyramidSqueezeAttention
      >>> x = jnp.ones((2, 8, 6, 64))
      >>> block = PyramidSqueezeAttention(128, stride=2)
      >>> variables = block.init(jax.random.key(0), x, train=False)
      >>> block.apply(variables, x, train=False).shape
      (2, 4, 3, 128)

    References:
      Zhang et al., "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural Network",
      ACCV 2022; official code, murufeng/EPSANet.

    Notes:
      The MLP's biases start at 0, those of the released code at PyTorch's uniform noise. The hidden width is at least
      1, where PyTorch's integer division would leave none.
    """

    features: int | None = None
    kernels: Sequence[int] = (3, 5, 7, 9)
    groups: Sequence[int] = (1, 4, 8, 16)
    stride: int = 1
    reduction: int = 16
    order: Literal["reversed", "paper"] = "reversed"
    split_input: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def _scales(self, x: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """Returns the branches' maps and their weights, (b, s, 1, 1, features / s), float32 or wider."""
        self._check(x.shape[-1])
        dtypes = {"dtype": x.dtype if self.dtype is None else self.dtype, "param_dtype": self.param_dtype}
        scales = len(self.kernels)
        features = (x.shape[-1] if self.features is None else self.features) // scales
        inputs = jnp.split(x, scales, -1) if self.split_input else [x] * scales
        branches = [
            Conv(features, kernel, stride=self.stride, groups=groups, name=f"conv{i}", **dtypes)(part)
            for i, (part, kernel, groups) in enumerate(zip(inputs, self.kernels, self.groups, strict=True), start=1)
        ]
        mlp = GateMLP(min(self.reduction, features), kernel_init=torch_default, name="mlp", **dtypes)
        pooled = jnp.stack([global_pool(branch) for branch in branches], 1)
        squeezed = nn.sigmoid(mlp(pooled).astype(pooled.dtype))
        weights = jax.nn.softmax(squeezed, axis=1)[:, :, None, None, :]
        return branches, self.sow_gate(weights)

    def _check(self, channels: int) -> None:
        if isinstance(self.groups, int):
            raise ValueError(f"groups={self.groups} must be a sequence, with a number for each of the kernels")
        scales, features = len(self.kernels), channels if self.features is None else self.features
        if scales < 2 or len(self.groups) != scales:
            raise ValueError(
                f"kernels={tuple(self.kernels)} and groups={tuple(self.groups)} must be as many, and at least two"
            )
        if any(kernel < 1 or kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels={tuple(self.kernels)} must be odd")
        if min(self.stride, self.reduction, *self.groups) < 1:
            raise ValueError(
                f"stride={self.stride}, reduction={self.reduction} and groups={tuple(self.groups)} must be at least 1"
            )
        check_choice("order", self.order, ("reversed", "paper"))
        every_group = math.lcm(*self.groups)
        for name, number, step in (
            ("features", features, scales * every_group),
            ("input channels", channels, (scales if self.split_input else 1) * every_group),
        ):
            if number < 1 or number % step:
                raise ValueError(
                    f"{name}={number} cannot be divided over {scales} scales with groups={tuple(self.groups)}: "
                    f"use a multiple of {step}, the nearest is {max(1, round(number / step)) * step}"
                )

    def gate(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the weights of the scales, (b, s, 1, 1, features / s), float32 or wider."""
        del train
        return self._scales(x)[1]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        branches, weights = self._scales(x)
        weighted = [branch * weights[:, i].astype(branch.dtype) for i, branch in enumerate(branches)]
        return jnp.concatenate(weighted if self.order == "paper" else weighted[::-1], -1).astype(x.dtype)
