"""Heads of detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers import Constant, Conv, Normal, VarianceScaling

SMALL = Normal(0.01)


class RetinaHead(nn.Module):
    """RetinaNet's head: two towers of 3x3 convolutions, shared by all maps, for classes and boxes.

    Submodules: `class_conv{i}`, `class_logits`, `box_conv{i}` and `box_deltas`.

    Args:
      num_classes: n; there is no background.
      num_anchors: a, anchors of a position.
      channels: width of the towers.
      depth: convolutions of a tower.
      prior: probability of each class at the start.
      dtype: compute type.
      param_dtype: type of the parameters.

    Call with maps (b, h_i, w_i, c).

    Returns:
      Logits (b, k, n) and differences to anchors (b, k, 4), by map, row, column and anchor.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import RetinaHead
      >>> (logits, deltas), _ = RetinaHead(80, 9, 16).init_with_output(jax.random.key(0), [jnp.zeros((1, 4, 6, 16))])
      >>> logits.shape, deltas.shape
      ((1, 216, 80), (1, 216, 4))

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    num_classes: int
    num_anchors: int
    channels: int = 256
    depth: int = 4
    prior: float = 0.01
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        options = _options(self, SMALL)
        self._class_convs, self._box_convs = (
            [Conv(self.channels, 3, name=f"{kind}_conv{index}", **options) for index in range(self.depth)]
            for kind in ("class", "box")
        )
        bias = Constant(-math.log((1 - self.prior) / self.prior))
        self.class_logits = Conv(self.num_anchors * self.num_classes, 3, bias_init=bias, **options)
        self.box_deltas = Conv(self.num_anchors * 4, 3, **options)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits, deltas = [], []
        for x in maps:
            for_classes = for_boxes = x
            for of_classes, of_boxes in zip(self._class_convs, self._box_convs, strict=True):
                for_classes, for_boxes = nn.relu(of_classes(for_classes)), nn.relu(of_boxes(for_boxes))
            logits.append(_of_anchors(self.class_logits(for_classes), self.num_classes))
            deltas.append(_of_anchors(self.box_deltas(for_boxes), 4))
        return jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)


class RPNHead(nn.Module):
    """Head of a region proposal network, shared by all maps: a 3x3 convolution, objectness and differences to anchors.

    Submodules: `conv`, `objectness` and `box_deltas`.

    Args:
      num_anchors: a, anchors of a position.
      channels: width of the convolution.
      dtype: compute type.
      param_dtype: type of the parameters.

    Call with maps (b, h_i, w_i, c).

    Returns:
      Logits of being an object (b, k) and differences to anchors (b, k, 4), by map, row, column and anchor.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import RPNHead
      >>> (logits, deltas), _ = RPNHead(3, 16).init_with_output(jax.random.key(0), [jnp.zeros((1, 4, 6, 16))])
      >>> logits.shape, deltas.shape
      ((1, 72), (1, 72, 4))

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015.
    """

    num_anchors: int
    channels: int = 256
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        options = _options(self, SMALL)
        self.conv = Conv(self.channels, 3, **options)
        self.objectness = Conv(self.num_anchors, 1, **options)
        self.box_deltas = Conv(self.num_anchors * 4, 1, **options)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits, deltas = [], []
        for x in maps:
            hidden = nn.relu(self.conv(x))
            logits.append(_of_anchors(self.objectness(hidden), 1)[..., 0])
            deltas.append(_of_anchors(self.box_deltas(hidden), 4))
        return jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)


class BoxHead(nn.Module):
    """Classes and boxes of pooled regions, by two hidden layers.

    Submodules: `fc1`, `fc2`, `class_logits` and `box_deltas`.

    Args:
      num_classes: n, without background.
      hidden: features of the hidden layers.
      background_first: whether the background is class 0 and has a box of its own, which nothing uses (torchvision), or
        is class n and has none (mmdetection).
      dtype: compute type.
      param_dtype: type of the parameters.

    Call with pooled regions (..., ph, pw, c).

    Returns:
      Logits (..., n + 1) and differences to the regions (..., m, 4), m = n + 1 if background_first, else n.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import BoxHead
      >>> (logits, deltas), _ = BoxHead(80, 64).init_with_output(jax.random.key(0), jnp.zeros((2, 5, 7, 7, 16)))
      >>> logits.shape, deltas.shape
      ((2, 5, 81), (2, 5, 80, 4))

    References:
      Girshick, "Fast R-CNN", ICCV 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017.
    """

    num_classes: int
    hidden: int = 1024
    background_first: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden_init = VarianceScaling(1.0, "fan_in", "uniform")
        x = regions.reshape(*regions.shape[:-3], math.prod(regions.shape[-3:]))
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.hidden, kernel_init=hidden_init, name=name, **dtypes)(x))
        logits = nn.Dense(self.num_classes + 1, kernel_init=SMALL, name="class_logits", **dtypes)(x)
        boxes = self.num_classes + self.background_first
        deltas = nn.Dense(4 * boxes, kernel_init=Normal(0.001), name="box_deltas", **dtypes)(x)
        return logits, deltas.reshape(*deltas.shape[:-1], boxes, 4)


class MaskHead(nn.Module):
    """A mask of each class in pooled regions: 3x3 convolutions, a transposed one that doubles the sides, a 1x1 one.

    Submodules: `conv{i}`, `upsample` and `mask_logits`.

    Args:
      num_masks: m, masks of a region: the classes, and the background where it is class 0.
      widths: of the convolutions.
      upsample_width: of the transposed convolution; None is the last of `widths`.
      dtype: compute type.
      param_dtype: type of the parameters.

    Call with pooled regions (..., ph, pw, c).

    Returns:
      Logits (..., 2 ph, 2 pw, m).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import MaskHead
      >>> MaskHead(80, (16, 16)).init_with_output(jax.random.key(0), jnp.zeros((2, 5, 14, 14, 16)))[0].shape
      (2, 5, 28, 28, 80)

    References:
      He et al., "Mask R-CNN", ICCV 2017.
    """

    num_masks: int
    widths: Sequence[int] = (256, 256, 256, 256)
    upsample_width: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, regions: jax.Array) -> jax.Array:
        options = _options(self, VarianceScaling(2.0, "fan_out", "normal"))
        x = regions.reshape(-1, *regions.shape[-3:])
        for index, width in enumerate(self.widths):
            x = nn.relu(Conv(width, 3, name=f"conv{index}", **options)(x))
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.relu(Upsample(self.upsample_width or self.widths[-1], name="upsample", **dtypes)(x))
        x = Conv(self.num_masks, 1, name="mask_logits", **options)(x)
        return x.reshape(*regions.shape[:-3], *x.shape[1:])


class Upsample(nn.Module):
    """Transposed 2x2 convolution of stride 2: out[2i + p, 2j + q] = W[p, q] in[i, j] + bias.

    Args:
      features: output channels.
      dtype: compute type.
      param_dtype: type of the parameters; the kernel is (2, 2, c, features).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import Upsample
      >>> Upsample(3).init_with_output(jax.random.key(0), jnp.zeros((1, 7, 7, 8)))[0].shape
      (1, 14, 14, 3)
    """

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        kernel_init = VarianceScaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", kernel_init, (2, 2, c, self.features), self.param_dtype)
        bias = self.param("bias", Constant(0.0), (self.features,), self.param_dtype)
        blocks = jnp.einsum("bhwc,pqcf->bhpwqf", x.astype(self.dtype), kernel.astype(self.dtype))
        return blocks.reshape(b, 2 * h, 2 * w, self.features) + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def _options(module: Any, kernel_init: Any) -> dict[str, Any]:
    return {
        "use_bias": True,
        "kernel_init": kernel_init,
        "dtype": module.dtype,
        "param_dtype": module.param_dtype,
    }


def _of_anchors(x: jax.Array, values: int) -> jax.Array:
    """(b, h, w, a * values) -> (b, h * w * a, values)."""
    return x.reshape(len(x), -1, values)
