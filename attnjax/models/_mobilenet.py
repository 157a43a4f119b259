"""MobileNet (the first one) with attention as a constructor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from attnjax.layers import BatchNorm, Constant, Conv, Mark, global_pool, torch_default, with_defaults
from attnjax.models._blocks import check_constructors, check_images

_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
"""Output channels, at a width multiplier of 1, and stride of each block."""
_STAGE_ENDS = (1, 3, 5, 11, 13)
"""The last block of each stage, counted from 1: the next one halves the map."""


class SeparableBlock(nn.Module):
    """A 3x3 convolution within each channel, then a 1x1 one across them, each with norm, ReLU and attention.

    (b, h, w, c) -> (b, h', w', features) with h' = (h - 1) // stride + 1.

    Args:
      features: output channels.
      stride: step of the 3x3 convolution.
      conv, norm: constructors, called with `name` and, for `conv`, features, kernel_size, stride and groups.
      attention: constructor of the two attention blocks, or None.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.models import SeparableBlock
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = SeparableBlock(32, stride=2).init(jax.random.key(0), x, train=False)
      >>> SeparableBlock(32, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 32)

    References:
      Howard et al., "MobileNets", 2017.
    """

    features: int
    stride: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    attention: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def finish(y: jax.Array, name: str) -> jax.Array:
            y = nn.relu(self.norm(name=f"{name}_bn")(y, train=train))
            return y if self.attention is None else self.attention(name=f"{name}_attention")(y, train=train)

        c = x.shape[-1]
        x = finish(self.conv(c, 3, stride=self.stride, groups=c, name="depthwise_conv")(x), "depthwise")
        return finish(self.conv(self.features, 1, name="pointwise_conv")(x), "pointwise")


class MobileNet(nn.Module):
    """MobileNet of any width, with any attention block after each depthwise and each pointwise convolution.

    Submodules: `conv1`, `bn1`, `block{i}` with i from 1 to 13 (each `depthwise_conv`, `depthwise_bn`,
    `depthwise_attention`, `pointwise_conv`, `pointwise_bn`, `pointwise_attention`) and `fc`.

    Args:
      num_classes: outputs of the classifier; 0 leaves it out, so that the net returns pooled features.
      width_multiplier: factor of all widths, 32 to 1024 at 1.0; fractions of a channel are cut off.
      attention: constructor of an attention block, such as `Partial(CBAM, reduction=16)`, or None, as in `ResNet`.
      conv, norm: constructors of convolutions and norms, as in `ResNet`.
      dtype: compute type.
      param_dtype: type of parameters and statistics. Types, and the `batch_norm`, that a constructor is given
        beforehand stay.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any size and any number of
    channels. `freeze_batch_norm` makes batch norm use and keep its running statistics in training (fine-tuning): blocks
    are then called with `train=False`.

    Returns:
      (b, n) logits in float32 or wider, or (b, c) features where num_classes is 0. `method="features"` takes the same
      arguments and gives an ordered dict of the last maps of each size: `stem` and `stage1`, ..., `stage5`, of which
      the first two have stride 2 and the last has 32.

    Raises:
      ValueError: x has not 4 axes or is not floating, `num_classes` is negative, or `width_multiplier` leaves no
        channel.

    Example:
      >>> import attnjax
      >>> from attnjax.models import MobileNet
      >>> attnjax.count_parameters(MobileNet(), (1, 224, 224, 3))
      4231976

    References:
      Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017; with
      attention: Woo et al., "CBAM", ECCV 2018, table 4 (no code was released).

    Notes:
      That attention comes after both convolutions, and that widths are cut, follows from the CBAM paper's parameter
      counts. That it comes after the ReLU does not show in them; it is as in later mobile nets. Outputs are named for
      `jax.checkpoint` as in `ResNet`.
    """

    num_classes: int = 1000
    width_multiplier: float = 1.0
    attention: Callable[..., nn.Module] | None = None
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_constructors(self)
        if self.num_classes < 0:
            raise ValueError(f"num_classes={self.num_classes} must not be negative")
        if self.width_multiplier < 1 / 32:
            raise ValueError(f"width_multiplier={self.width_multiplier} leaves no channel: use at least 1/32 = 0.03125")
        super().__post_init__()

    def setup(self) -> None:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv, norm = with_defaults(self.conv, dtypes), with_defaults(self.norm, dtypes)
        attention = None if self.attention is None else with_defaults(self.attention, dtypes, batch_norm=self.norm)
        self.conv1, self.bn1 = conv(int(32 * self.width_multiplier), 3, stride=2), norm()
        for i, (width, stride) in enumerate(_BLOCKS, start=1):
            block = SeparableBlock(int(width * self.width_multiplier), stride, conv, norm, attention)
            setattr(self, f"block{i}", block)
        maps = ("stem", *(f"stage{i}" for i in range(1, len(_STAGE_ENDS) + 1)))
        self._marks = {name: Mark("stage", name=name) for name in maps}
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, kernel_init=torch_default, bias_init=Constant(0.0), **dtypes)

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the outputs of `stem`, `stage1`, ..., `stage5` by name, in order."""
        check_images(x)
        train = train and not freeze_batch_norm
        x = nn.relu(self.bn1(self.conv1(x.astype(self.dtype)), train=train))
        x = self._marks["stem"](x)
        outputs = OrderedDict(stem=x)
        for i in range(1, len(_BLOCKS) + 1):
            x = checkpoint_name(getattr(self, f"block{i}")(x, train=train), "block")
            if i in _STAGE_ENDS:
                name = f"stage{len(outputs)}"
                outputs[name] = x = self._marks[name](x)
        return outputs

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        pooled = global_pool(self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)["stage5"])
        return self.fc(pooled).astype(pooled.dtype) if self.num_classes else pooled
