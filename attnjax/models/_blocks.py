"""Residual blocks: what a ResNet's stages are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._arguments import check_constructor, check_effect
from attnjax._choice import check_choice
from attnjax.layers import BatchNorm, Conv, avg_pool

Placement = Literal["branch", "3x3", "pre", "post", "identity"]
PLACEMENTS = ("branch", "3x3", "pre", "post", "identity")
SHORTCUTS = ("1x1", "3x3", "avg_1x1")


class _Block(nn.Module):
    """What all residual blocks share: their fields, their first 3x3 convolution and their shortcut."""

    features: int
    stride: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    attention: Callable[..., nn.Module] | None = None
    attention_placement: Placement = "branch"
    spatial_conv: Callable[..., nn.Module] | None = None
    spatial_norm: bool = True
    shortcut: Literal["1x1", "3x3", "avg_1x1"] = "1x1"
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    expansion: ClassVar[int] = 1
    pre_activation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("attention_placement", self.attention_placement, PLACEMENTS)
        check_choice("shortcut", self.shortcut, SHORTCUTS)
        if self.attention is None:
            check_effect(self, "attention=None", "attention_placement")
        check_constructors(self)
        super().__post_init__()

    def _attend(self, placement: Placement, x: jax.Array, train: bool) -> jax.Array:
        if self.attention is None or placement != self.attention_placement:
            return x
        return self.attention(name="attention")(x, train=train)

    def _spatial(self, x: jax.Array, width: int, stride: int, index: int, train: bool, groups: int = 1) -> jax.Array:
        """The 3x3 convolution, or what stands in its place, with norm and activation."""
        options: dict[str, Any] = {"stride": stride, "name": f"conv{index}"}
        if groups > 1:
            options["groups"] = groups
        if self.spatial_conv is None:
            y = self.conv(width, 3, **options)(x)
        else:
            y = self.spatial_conv(width, **options)(x, train=train)
        return self._norm_act(y, index, train) if self.spatial_norm else y

    def _norm_act(self, x: jax.Array, index: int, train: bool) -> jax.Array:
        return self.activation(self.norm(name=f"bn{index}")(x, train=train))

    def _join(self, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
        """Adds the shortcut and rectifies, with attention where it is placed."""
        branch = self._attend("branch", branch, train)
        x = self._attend("identity", self._project(x, train), train)
        return self._attend("post", self.activation(x + branch), train)

    def _project(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        kernel, stride = 1, self.stride
        if self.shortcut == "avg_1x1" and stride > 1:
            x, stride = avg_pool(x, 2, stride, ceil_mode=True, count_include_pad=False), 1
        if self.shortcut == "3x3" and stride > 1:
            kernel = 3
        x = self.conv(self.features, kernel, stride=stride, name="downsample_conv")(x)
        return self.norm(name="downsample_bn")(x, train=train)


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut, (b, h, w, c) -> (b, h / stride, w / stride, features).

    Args:
      features: output channels.
      stride: step of the first convolution and of the shortcut.
      conv, norm: constructors, called with `name` and, for `conv`, features, kernel_size and stride.
      attention: constructor of an attention block, or None.
      attention_placement: where it stands: `"branch"`, after the residual branch's last norm, before the addition (all
        papers' standard); or SE's ablations: `"3x3"`, after the first 3x3 convolution; `"pre"`, before the branch;
        `"post"`, after the addition; `"identity"`, on the shortcut.
      spatial_conv: constructor of a block in place of the first 3x3 convolution (PSA in EPSANet, selective kernels),
        called with features, stride and name, and its module with `(x, train=train)`.
      spatial_norm: whether a norm and an activation follow it. Selective kernels have their own.
      shortcut: projection where shapes differ: a strided `"1x1"` convolution; `"3x3"`, where it strides (SENet-154);
        `"avg_1x1"`, a 2x2 mean before the 1x1 (ResNet-D).
      activation: nonlinearity.
      branch_activation: also rectify the branch before attention and addition, as Cadene's SE-ResNet-18 and -34 do.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.models import BasicBlock
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = BasicBlock(32, stride=2).init(jax.random.key(0), x, train=False)
      >>> BasicBlock(32, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 32)

    References:
      He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    branch_activation: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self._attend("pre", x, train)
        y = self._attend("3x3", self._spatial(y, self.features, self.stride, 1, train), train)
        y = self.norm(name="bn2")(self.conv(self.features, 3, name="conv2")(y), train=train)
        return self._join(x, self.activation(y) if self.branch_activation else y, train)


class Bottleneck(_Block):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, (b, h, w, c) -> (b, h / stride, w / stride, features).

    Args:
      features: output channels, four times the width of a plain bottleneck.
      stride: step of the block.
      conv, norm, attention, attention_placement, spatial_conv, spatial_norm, shortcut, activation: as in `BasicBlock`.
      width: channels of the 3x3 convolution; None is features // 4.
      groups: groups of the 3x3 convolution (ResNeXt).
      group_size: channels of each of these groups, instead of their number; None leaves it at `groups`.
      reduce_first: divides the width of the first convolution; 2 in SENet-154.
      stride_at: which convolution strides, `"3x3"` (the CBAM, BAM and torchvision code) or `"1x1"`, the first one
        (the first ResNets, official SE-ResNets).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.models import Bottleneck
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = Bottleneck(64, stride=2).init(jax.random.key(0), x, train=False)
      >>> Bottleneck(64, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 64)

    References:
      He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al., "Aggregated Residual
      Transformations", CVPR 2017.
    """

    width: int | None = None
    groups: int = 1
    group_size: int | None = None
    reduce_first: int = 1
    stride_at: Literal["1x1", "3x3"] = "3x3"

    expansion: ClassVar[int] = 4

    def __post_init__(self) -> None:
        check_choice("stride_at", self.stride_at, ("1x1", "3x3"))
        if self.group_size is not None:
            check_effect(self, f"group_size={self.group_size}", "groups")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width = self.features // self.expansion if self.width is None else self.width
        if self.group_size is not None and width % self.group_size:
            raise ValueError(f"group_size={self.group_size} must divide the width of the 3x3 convolution, {width}")
        groups = self.groups if self.group_size is None else width // self.group_size
        first, second = (self.stride, 1) if self.stride_at == "1x1" else (1, self.stride)
        y = self._attend("pre", x, train)
        y = self._norm_act(self.conv(width // self.reduce_first, 1, stride=first, name="conv1")(y), 1, train)
        y = self._attend("3x3", self._spatial(y, width, second, 2, train, groups), train)
        y = self.norm(name="bn3")(self.conv(self.features, 1, name="conv3")(y), train=train)
        return self._join(x, y, train)


class PreActBasicBlock(_Block):
    """Norm and activation before each of two 3x3 convolutions, and a shortcut that no norm or activation touches.

    (b, h, w, c) -> (b, h / stride, w / stride, features). The projection is a plain 1x1 convolution of the raw input.

    Args:
      features, stride, conv, norm, attention, activation: as in `BasicBlock`; attention stands on the branch.

    Raises:
      ValueError: another argument is given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.models import PreActBasicBlock
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = PreActBasicBlock(32, stride=2).init(jax.random.key(0), x, train=False)
      >>> PreActBasicBlock(32, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 32)

    References:
      He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016; this form: moskomule/senet.pytorch.
    """

    pre_activation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        others = ("attention_placement", "shortcut", "spatial_conv", "spatial_norm")
        check_effect(self, "a pre-activation block", *others)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.features, 3, stride=self.stride, name="conv1")(self._norm_act(x, 1, train))
        y = self.conv(self.features, 3, name="conv2")(self._norm_act(y, 2, train))
        y = self._attend("branch", y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, stride=self.stride, name="downsample_conv")(x)
        return x + y


def check_constructors(module: Any) -> None:
    """Refuses what makes no convolutions, norms or blocks in the fields of a net or of a residual block.

    Raises:
      ValueError: one of them is no constructor.
    """
    examples = {
        "conv": "attnjax.layers.Conv",
        "norm": "attnjax.layers.BatchNorm",
        "attention": "attnjax.attention.CBAM or Partial(CBAM, reduction=8)",
        "spatial_conv": "attnjax.attention.SelectiveKernel",
        "block": "attnjax.models.BasicBlock",
        "backbone": "attnjax.models.VGG or Partial(ResNet, stage_sizes=(3, 4, 6, 3))",
        "unit": "attnjax.attention.ResidualUnit",
    }
    for name, example in examples.items():
        given = getattr(module, name, None)
        for each in given if isinstance(given, list | tuple) else (given,):
            if each is not None:
                check_constructor(name, each, example, train=name != "conv")


def check_images(x: jax.Array) -> None:
    """Refuses what is no batch of floating images.

    Raises:
      ValueError: x has not 4 axes or is not floating.
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected floating images of shape (b, h, w, c), got {x.dtype} {x.shape}")
