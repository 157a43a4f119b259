"""Modules of the references that are parts of ours, or that give their gate where ours gives the gated map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import attnjax.layers
from attnjax.attention._gate_mlp import GateMLP
from attnjax.layers import Conv, global_pool, max_along, max_pool


class ConvNormAct(nn.Module):
    """A convolution, a norm and an activation, the last two optional."""

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None = None
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(name="conv")(x)
        if self.norm is not None:
            x = self.norm(name="bn")(x, train=train)
        return x if self.activation is None else self.activation(x)


class ChannelPool(nn.Module):
    """CBAM's descriptor: largest and mean value over channels."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return jnp.concatenate([max_along(x, -1), jnp.mean(x, -1, keepdims=True)], -1)


class MaxPool(nn.Module):
    """`max_pool` as a module."""

    window: int
    stride: int
    options: dict[str, Any]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return max_pool(x, self.window, self.stride, **self.options)


class Resize(nn.Module):
    """Bilinear resize with aligned corners, as a module."""

    size: tuple[int, int]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return attnjax.layers.resize_bilinear(x, self.size)


class Broadcast(nn.Module):
    """A branch of BAM, repeated over the map as the reference's branches are."""

    branch: Callable[..., nn.Module]
    place: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return jnp.broadcast_to(self.branch(name=self.place)(x, train=train), x.shape)


class PooledGate(nn.Module):
    """The gate (b, 1, 1, c) that EPSANet's SEWeightModule gives, and that PSA applies to each of its scales."""

    reduction: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return nn.sigmoid(GateMLP(min(self.reduction, x.shape[-1]), name="mlp")(global_pool(x)))[:, None, None, :]


class OneConvolution(nn.Module):
    """A backbone of one 3x3 convolution and a ReLU."""

    width: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        self.conv1 = Conv(self.width, 3, dtype=self.dtype, param_dtype=self.param_dtype)

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        del train, freeze_batch_norm
        return OrderedDict(conv1=nn.relu(self.conv1(x)))
