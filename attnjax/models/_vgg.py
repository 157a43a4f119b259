"""VGG with batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from attnjax.layers import BatchNorm, Constant, Conv, Mark, global_pool, max_pool, torch_default, with_defaults
from attnjax.models._blocks import check_constructors, check_images


class VGG(nn.Module):
    """VGG with batch norm, 16 layers by default: the convolutions of torchvision's `vgg16_bn`, and a single classifier.

    Submodules: `stage{i}_conv{j}` and `stage{i}_bn{j}`, with i and j from 1, and `fc`.

    Args:
      stage_sizes: 3x3 convolutions of each stage, which ends in a 2x2 max-pool. VGG-13 is (2, 2, 2, 2, 2), VGG-19
        (2, 2, 4, 4, 4).
      num_classes: outputs of the classifier; 0 leaves it out, so that the net returns pooled features.
      widths: channels of each stage.
      conv, norm: constructors of convolutions, which have biases, and norms, called with `dtype`, `param_dtype` and
        `name`.
      dtype: compute type.
      param_dtype: type of parameters and statistics. Types that a constructor is given beforehand stay.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any number of channels and
    of at least 32x32 pixels (2 to the power of the stages). `freeze_batch_norm` makes batch norm use and keep its
    running statistics in training (fine-tuning).

    Returns:
      (b, n) logits in float32 or wider, or (b, c) features where num_classes is 0. `method="features"` takes the same
      arguments and gives an ordered dict of `stage1`, ..., `stage5`, the outputs of each stage's last ReLU, and `pool`,
      the last stage's pooled map, which is torchvision's `features`.

    Raises:
      ValueError: x has not 4 axes, is not floating or is too small, or an argument is none of those above.

    Example:
      >>> import attnjax
      >>> from attnjax.models import VGG
      >>> attnjax.count_parameters(VGG(num_classes=0), (1, 224, 224, 3))
      14723136

    References:
      Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

    Notes:
      The classifier is a mean over the map and one dense layer, where the paper has three dense layers on a 7x7 map
      (123.6 million parameters more). Outputs are named for `jax.checkpoint` as in `ResNet`; a block is a convolution
      with its norm and ReLU.
    """

    stage_sizes: Sequence[int] = (2, 2, 3, 3, 3)
    num_classes: int = 1000
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_constructors(self)
        if len(self.stage_sizes) != len(self.widths):
            raise ValueError(f"stage_sizes={tuple(self.stage_sizes)} and widths={tuple(self.widths)} differ in length")
        if self.num_classes < 0 or min(*self.stage_sizes, *self.widths) < 1:
            raise ValueError(
                f"num_classes={self.num_classes}, stage_sizes={tuple(self.stage_sizes)} and "
                f"widths={tuple(self.widths)} must leave at least one convolution and channel everywhere"
            )
        super().__post_init__()

    def setup(self) -> None:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv, norm = with_defaults(self.conv, {"use_bias": True, **dtypes}), with_defaults(self.norm, dtypes)
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            for j in range(1, size + 1):
                setattr(self, f"stage{i}_conv{j}", conv(width, 3))
                setattr(self, f"stage{i}_bn{j}", norm())
        marks = {f"stage{i}": Mark("stage", name=f"stage{i}") for i in range(1, len(self.widths) + 1)}
        self._marks = marks | {"pool": Mark("pool", name="pool")}
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, kernel_init=torch_default, bias_init=Constant(0.0), **dtypes)

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the outputs of `stage1`, ..., and `pool` by name, in order."""
        check_images(x)
        smallest = 2 ** len(self.stage_sizes)
        if min(x.shape[1:3]) < smallest:
            raise ValueError(f"images must have at least {smallest}x{smallest} pixels, got {x.shape[1]}x{x.shape[2]}")
        train = train and not freeze_batch_norm
        outputs: OrderedDict[str, jax.Array] = OrderedDict()
        x = x.astype(self.dtype)
        for i, size in enumerate(self.stage_sizes, start=1):
            for j in range(1, size + 1):
                x = getattr(self, f"stage{i}_conv{j}")(x)
                x = nn.relu(getattr(self, f"stage{i}_bn{j}")(x, train=train))
                x = checkpoint_name(x, "block")
            outputs[f"stage{i}"] = x = self._marks[f"stage{i}"](x)
            x = max_pool(x, 2, 2)
        outputs["pool"] = self._marks["pool"](x)
        return outputs

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        pooled = global_pool(self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)["pool"])
        return self.fc(pooled).astype(pooled.dtype) if self.num_classes else pooled
