"""Nets small enough to follow by hand, and batches for them."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from attnjax.attention import CBAM, ChannelSpatialAttention
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, GGAMNet, ResNet

CLASSES = 3


class Net(nn.Module):
    """A convolution, a batch norm and a classifier; perhaps dropout."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="fc")(x.mean((1, 2)))


GUIDED_NET = GGAMNet(
    partial(ResNet, (1,), BasicBlock, widths=(8,), stem="cifar", stem_width=8),
    partial(ChannelSpatialAttention, reduction=2),
    CLASSES,
    hidden=4,
)


def float_type() -> Any:
    """float64 where that is the test's type."""
    return np.float64 if jax.config.jax_enable_x64 else np.float32


def cbam_net(norm: dict[str, Any], width: int = 64, blocks: int = 1) -> ResNet:
    """Blocks with CBAM, of the test's type."""
    types: dict[str, Any] = {"dtype": float_type(), "param_dtype": float_type(), "norm": partial(BatchNorm, **norm)}
    attention = partial(CBAM, reduction=4)
    return ResNet(
        (blocks,), BasicBlock, 10, attention=attention, widths=(width,), stem="cifar", stem_width=width, **types
    )


def ggam_net(norm: dict[str, Any]) -> GGAMNet:
    """The same with GGAM's attention behind it."""
    types: dict[str, Any] = {"dtype": float_type(), "param_dtype": float_type(), "norm": partial(BatchNorm, **norm)}
    backbone = partial(ResNet, (1,), BasicBlock, widths=(16,), stem="cifar", stem_width=16)
    return GGAMNet(backbone, partial(ChannelSpatialAttention, reduction=4), 10, hidden=8, **types)


def batch_of(number: int, size: int = 8, classes: int = CLASSES) -> dict[str, jax.Array]:
    """Noise as uint8 images of 8x8x1, and labels."""
    rng = np.random.default_rng(number)
    images = rng.integers(0, 256, (size, 8, 8, 1), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray(rng.integers(0, classes, size, np.int32))}
