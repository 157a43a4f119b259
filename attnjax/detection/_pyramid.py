"""Feature pyramids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax.layers import Conv, VarianceScaling, resize_nearest

LATERAL_INIT = VarianceScaling(1.0, "fan_in", "uniform")


class FeaturePyramid(nn.Module):
    """Feature pyramid network: a map of the same width for each map of a backbone, and coarser ones.

    P_i = conv3x3(M_i) with M_i = conv1x1(C_i) + M_{i+1}, resized to the nearest pixel, from the coarsest map on.

    Submodules: `lateral{i}` and `output{i}` for each level i, and `p{i}` for the two coarser ones of convolutions.

    Args:
      channels: width of all maps.
      first_level: log2 of the stride of the first map.
      extra: coarser maps after the last: `"pool"` is one, every second pixel of it (Faster R-CNN); `"conv"` are two,
        each by a 3x3 convolution of stride 2 (RetinaNet); `"none"`.
      extra_from: what the first of two coarser maps is made of: `"input"`, the last map of the backbone (the paper,
        mmdetection), or `"output"`, the last of the pyramid (torchvision's `retinanet_resnet50_fpn`).
      extra_activation: whether a ReLU comes before the second of them (the paper, torchvision) or not (mmdetection).
      dtype: compute type.
      param_dtype: type of the parameters.

    Call with the backbone's maps (b, h_i, w_i, c_i), finest first.

    Returns:
      A list of maps (b, h_i, w_i, channels), finest first.

    Raises:
      ValueError: an argument is none of those above, or has no effect.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import FeaturePyramid
      >>> maps = [jnp.zeros((1, 8, 8, 64)), jnp.zeros((1, 4, 4, 128))]
      >>> pyramid = FeaturePyramid(32, extra="pool")
      >>> [p.shape for p in pyramid.init_with_output(jax.random.key(0), maps)[0]]
      [(1, 8, 8, 32), (1, 4, 4, 32), (1, 2, 2, 32)]

    References:
      Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; Lin et al., "Focal Loss for Dense Object
      Detection", ICCV 2017.
    """

    channels: int = 256
    first_level: int = 2
    extra: Literal["none", "pool", "conv"] = "none"
    extra_from: Literal["input", "output"] = "input"
    extra_activation: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_choice("extra", self.extra, ("none", "pool", "conv"))
        check_choice("extra_from", self.extra_from, ("input", "output"))
        if self.extra != "conv":
            check_effect(self, f"extra={self.extra!r}", "extra_from", "extra_activation")
        super().__post_init__()

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        options = {"use_bias": True, "kernel_init": LATERAL_INIT, "dtype": self.dtype, "param_dtype": self.param_dtype}
        last = self.first_level + len(maps) - 1
        merged, outputs = None, []
        for level, of_backbone in zip(range(last, self.first_level - 1, -1), reversed(maps), strict=True):
            lateral = Conv(self.channels, 1, name=f"lateral{level}", **options)(of_backbone)
            if merged is not None:
                lateral = lateral + resize_nearest(merged, (lateral.shape[1], lateral.shape[2]))
            merged = lateral
            outputs.append(Conv(self.channels, 3, name=f"output{level}", **options)(merged))
        outputs.reverse()
        if self.extra == "pool":
            outputs.append(outputs[-1][:, ::2, ::2])
        elif self.extra == "conv":
            coarser = maps[-1] if self.extra_from == "input" else outputs[-1]
            for level in (last + 1, last + 2):
                if level == last + 2 and self.extra_activation:
                    coarser = nn.relu(coarser)
                coarser = Conv(self.channels, 3, 2, name=f"p{level}", **options)(coarser)
                outputs.append(coarser)
        return outputs
