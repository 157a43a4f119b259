"""Residual Attention Networks: stages of residual units and attention modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from attnjax._arguments import check_effect
from attnjax._choice import check_choice
from attnjax._partial import Partial
from attnjax.layers import BatchNorm, Constant, Conv, Mark, global_pool, max_pool, torch_default, with_defaults
from attnjax.models._blocks import Bottleneck, check_constructors, check_images


def resnext_unit(
    features: int,
    stride: int = 1,
    *,
    groups: int = 32,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    batch_norm: Callable[..., nn.Module] = BatchNorm,
    name: str | None = None,
) -> nn.Module:
    """AttentionNeXt's unit: a `Bottleneck` of inner width features / 2 in groups, that ends in a relu.

    Args:
      features: output channels.
      stride: step of the unit.
      groups: groups of the 3x3 convolution.
      dtype: compute type; None takes the input's.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of its batch norms, called with `dtype`, `param_dtype` and `name`.
      name: the module's name.

    Example:
      >>> from attnjax.models import resnext_unit
      >>> resnext_unit(256).width
      128
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    conv, norm = Partial(Conv, **dtypes), with_defaults(batch_norm, dtypes)
    return Bottleneck(features, stride, conv, norm, width=features // 2, groups=groups, name=name)


class InceptionUnit(nn.Module):
    """AttentionInception's unit, our reading of it: (b, h, w, c) -> (b, h / stride, w / stride, features).

    Three branches, 1x1, 1x1-3x3 and 1x1-3x3-3x3, each convolution with norm and relu, are concatenated and brought to
    features by a 1x1 convolution with norm; then come the shortcut (a 1x1 convolution with norm where the unit strides
    or changes the number of channels) and a relu.

    Args:
      features: output channels, a multiple of 64. In sixty-fourths of it, the branches' convolutions are 8 | 8, 8 |
        6, 7, 8 wide.
      stride: step of each branch's last convolution and of the shortcut.
      dtype: compute type; None takes the input's.
      param_dtype: type of parameters and statistics.
      batch_norm: constructor of its batch norms, called with `dtype`, `param_dtype` and `name`.

    Returns:
      An array of the compute type.

    Raises:
      ValueError: `features` is no multiple of 64.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.models import InceptionUnit
      >>> x = jnp.ones((1, 8, 8, 16))
      >>> variables = InceptionUnit(64, stride=2).init(jax.random.key(0), x, train=False)
      >>> InceptionUnit(64, stride=2).apply(variables, x, train=False).shape
      (1, 4, 4, 64)

    References:
      Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", AAAI 2017;
      Wang et al., CVPR 2017, table 7.

    Notes:
      The paper names the unit and no more. The branches are those of Inception-ResNet-A; norm replaces the bias and the
      scaling of its last convolution; the width gives AttentionInception-56 about its published size, 31.9 M.
    """

    features: int
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32
    batch_norm: Callable[..., nn.Module] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.features % 64 or self.features < 64:
            near = max(64, 64 * round(self.features / 64))
            raise ValueError(f"features={self.features} must be a positive multiple of 64; the nearest is {near}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = with_defaults(self.batch_norm, dtypes)
        x = x if self.dtype is None else x.astype(self.dtype)

        def convolve(name: str, x: jax.Array, features: int, kernel: int, stride: int = 1) -> jax.Array:
            y = Conv(features, kernel, stride=stride, name=f"{name}_conv", **dtypes)(x)
            return norm(name=f"{name}_bn")(y, train=train)

        branches = []
        for index, widths in enumerate(((8,), (8, 8), (6, 7, 8)), start=1):
            y = x
            for i, width in enumerate(widths, start=1):
                stride = self.stride if i == len(widths) else 1
                y = convolve(f"branch{index}_{i}", y, self.features * width // 64, 1 if i == 1 else 3, stride)
                y = nn.relu(y)
            branches.append(y)
        y = convolve("join", jnp.concatenate(branches, -1), self.features, 1)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = convolve("downsample", x, self.features, 1, self.stride)
        return nn.relu(x + y)


_STEMS = {"imagenet": (7, 2), "cifar": (3, 1), "cifar_5x5": (5, 1)}
"""Kernel size and stride of each stem's convolution."""


class ResidualAttentionNet(nn.Module):
    """Residual Attention Network: each stage is residual units, the first of which strides, then attention modules.

    Submodules: `conv1`, `bn1`, `stage{i}_unit{j}`, `stage{i}_attention{j}`, `bn_final` and `fc`, with i from 1 and j
    from 0. Trailing units are a last stage without modules.

    Args:
      unit: constructor of residual units, such as `ResidualUnit`, called with features, stride and those of `dtype`,
        `param_dtype` and `batch_norm` (the net's norm) that are among its parameters; its module with
        `(x, train=train)`.
      attention: constructor of attention modules, or one for each stage (None where it has no modules), such as
        `Partial(ResidualAttention, pools=3)`, or None without modules; called as `unit` is, but for features and
        stride, and its module as a unit's. Where a module has an attribute `smallest_map`, inputs that leave it a
        smaller map are refused.
      stage_modules: attention modules of each stage; (1, 1, 1, 0) is Attention-56.
      num_classes: outputs of the classifier; 0 leaves it out, so that the net returns pooled features.
      widths: output channels of each stage.
      stage_units: residual units of each stage.
      strides: step of each stage's first unit; None is 1, then 2.
      stem: `"imagenet"` is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2; `"cifar"` a 3x3 convolution;
        `"cifar_5x5"` a 5x5 convolution and a 2x2 max-pool of stride 2 (the port's first CIFAR net).
      stem_width: channels of the stem.
      stem_pool: the ImageNet stem's max-pool: `"ceil"` (official) or `"padded"` by 1 on all sides (port).
      pre_activation: whether norm and relu come before the last pool: yes where units end in a plain sum.
      norm: constructor of the batch norms, called with `dtype`, `param_dtype` and `name`.
      dtype: compute type.
      param_dtype: type of parameters and statistics. Types, and the `batch_norm`, that a constructor is given
        beforehand stay.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any size from
    `smallest_input` on and any number of channels. `freeze_batch_norm` makes batch norm use and keep its running
    statistics in training (fine-tuning).

    Returns:
      (b, n) logits in float32 or wider, or (b, c) features where num_classes is 0. `method="features"` takes the same
      arguments and gives an ordered dict of the outputs (b, h', w', c') of `stem` and `stage1`, `stage2`, ...

    Raises:
      ValueError: an argument is none of those above or has no effect beside the others, which the constructor says;
        or x has not 4 axes, is not floating or is too small.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import attnjax
      >>> from attnjax import Partial
      >>> from attnjax.attention import ResidualAttention, ResidualUnit
      >>> from attnjax.models import ResidualAttentionNet
      >>> attention = tuple(Partial(ResidualAttention, pools=pools) for pools in (2, 1))
      >>> model = ResidualAttentionNet(ResidualUnit, attention, (1, 1), 10, widths=(16, 32), stage_units=(1, 1),
      ...                              stem="cifar", stem_width=8)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 16, 16, 3))
      >>> model.apply(variables, jnp.ones((2, 16, 16, 3)), train=False).shape
      (2, 10)

    References:
      Wang et al., "Residual Attention Network for Image Classification", CVPR 2017; official prototxts,
      fwang91/residual-attention-network; the port is tengshaofeng/ResidualAttentionNetwork-pytorch.

    Notes:
      The paper gives its CIFAR nets two units in each stage and does not say where the second one stands: here it
      follows the first. The official nets pool 7x7 maps; here the last pool is global, as tests at 320 pixels need.
      Outputs are named for `jax.checkpoint` as in `ResNet`; units and attention modules are blocks.
    """

    unit: Callable[..., nn.Module]
    attention: Callable[..., nn.Module] | Sequence[Callable[..., nn.Module] | None] | None
    stage_modules: Sequence[int] = (1, 1, 1, 0)
    num_classes: int = 1000
    widths: Sequence[int] = (256, 512, 1024, 2048)
    stage_units: Sequence[int] = (1, 1, 1, 3)
    strides: Sequence[int] | None = None
    stem: Literal["imagenet", "cifar", "cifar_5x5"] = "imagenet"
    stem_width: int = 64
    stem_pool: Literal["ceil", "padded"] = "ceil"
    pre_activation: bool = True
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        self._check()
        super().__post_init__()

    def setup(self) -> None:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kernel, stride = _STEMS[self.stem]
        self.conv1 = Conv(self.stem_width, kernel, stride=stride, **dtypes)
        norm = with_defaults(self.norm, dtypes)
        self.bn1 = norm()
        stages = []
        for i, (units, modules) in enumerate(zip(self.stage_units, self.stage_modules, strict=True), start=1):
            names = [f"stage{i}_unit{j}" for j in range(units)]
            for j, name in enumerate(names):
                stride = 1 if j else self._strides()[i - 1]
                unit = with_defaults(self.unit, dtypes, batch_norm=self.norm)
                setattr(self, name, unit(self.widths[i - 1], stride))
            for j in range(modules):
                names.append(f"stage{i}_attention{j}")
                setattr(self, names[-1], with_defaults(self._attentions()[i - 1], dtypes, batch_norm=self.norm)())
            stages.append(tuple(names))
        self._stages = tuple(stages)
        maps = ("stem", *(f"stage{i}" for i in range(1, len(stages) + 1)))
        self._marks = {name: Mark("stage", name=name) for name in maps}
        if self.pre_activation:
            self.bn_final = norm()
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, kernel_init=torch_default, bias_init=Constant(0.0), **dtypes)

    @nn.nowrap
    def _strides(self) -> Sequence[int]:
        return (1, *(2 for _ in self.widths[1:])) if self.strides is None else self.strides

    @nn.nowrap
    def _attentions(self) -> Sequence[Any]:
        """The constructor of each stage's modules, or None."""
        return self.attention if isinstance(self.attention, list | tuple) else (self.attention,) * len(self.widths)

    @nn.nowrap
    def _check(self) -> None:
        check_constructors(self)
        for field, allowed in (("stem", tuple(_STEMS)), ("stem_pool", ("ceil", "padded"))):
            check_choice(field, getattr(self, field), allowed)
        stages: dict[str, Sequence[Any]] = {
            "stage_modules": self.stage_modules,
            "stage_units": self.stage_units,
            "strides": self._strides(),
            "attention": self._attentions(),
        }
        for field, value in stages.items():
            if len(value) != len(self.widths):
                raise ValueError(f"{field} has {len(value)} stages and widths={tuple(self.widths)} {len(self.widths)}")
        if self.num_classes < 0 or min(self.stem_width, *self.widths, *self.stage_units, *self._strides()) < 1:
            raise ValueError(
                f"num_classes={self.num_classes}, stem_width={self.stem_width}, widths={tuple(self.widths)}, "
                f"stage_units={tuple(self.stage_units)} and strides={tuple(self._strides())} must leave at least one "
                "unit, channel and step everywhere"
            )
        for i, (modules, attention) in enumerate(zip(self.stage_modules, self._attentions(), strict=True), start=1):
            if modules < 0 or (modules and attention is None):
                raise ValueError(f"stage_modules={tuple(self.stage_modules)} needs an attention for stage {i}")
            own = attention is not self.attention or not any(self.stage_modules)  # not that of other stages
            if not modules and attention is not None and own:
                raise ValueError(f"attention={attention} has no effect in stage {i}, which has no modules: use None")
        if self.stem != "imagenet":
            check_effect(self, f"stem={self.stem!r}", "stem_pool")

    @property
    def smallest_input(self) -> int:
        """Side in pixels of the smallest image that leaves every attention module the map it needs."""
        side = 1
        for names, stride in zip(reversed(self._stages), reversed(self._strides()), strict=True):
            side = max(side, *(getattr(getattr(self, name), "smallest_map", 1) for name in names))
            side = (side - 1) * stride + 1
        if self.stem == "cifar_5x5" or (self.stem == "imagenet" and self.stem_pool == "ceil"):
            side = 2 * side
        elif self.stem == "imagenet":
            side = 2 * side - 1
        return (side - 1) * _STEMS[self.stem][1] + 1

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the outputs of `stem`, `stage1`, ... by name, in order."""
        check_images(x)
        smallest = self.smallest_input
        if min(x.shape[1:3]) < smallest:
            raise ValueError(f"images must have at least {smallest}x{smallest} pixels, got {x.shape[1]}x{x.shape[2]}")
        train = train and not freeze_batch_norm
        x = nn.relu(self.bn1(self.conv1(x.astype(self.dtype)), train=train))
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2, ceil_mode=True) if self.stem_pool == "ceil" else max_pool(x, 3, 2, padding=1)
        elif self.stem == "cifar_5x5":
            x = max_pool(x, 2, 2)
        x = self._marks["stem"](x)
        outputs = OrderedDict(stem=x)  # jit sorts the keys of a plain dict
        for i, names in enumerate(self._stages, start=1):
            for name in names:
                x = checkpoint_name(getattr(self, name)(x, train=train), "block")
            outputs[f"stage{i}"] = x = self._marks[f"stage{i}"](x)
        return outputs

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        x = self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)[f"stage{len(self._stages)}"]
        if self.pre_activation:
            x = nn.relu(self.bn_final(x, train=train and not freeze_batch_norm))
        pooled = global_pool(x)
        return self.fc(pooled).astype(pooled.dtype) if self.num_classes else pooled
