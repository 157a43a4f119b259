"""Residual networks with attention as a constructor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax.layers import BatchNorm, Constant, Conv, global_pool, max_pool, torch_default


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, (b, h, w, c) -> (b, h / stride, w / stride, features).

    Args:
      features: output channels.
      stride: step of the first convolution and of the shortcut.
      conv, norm: constructors, called with `name` and, for `conv`, features, kernel_size and stride.
      attention: constructor of a block put on the residual branch after the last norm, or None.

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

    features: int
    stride: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    attention: Callable[..., nn.Module] | None = None

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = self.conv(self.features, 3, stride=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.features, 3, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        return _join(self, x, y, train)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut, (b, h, w, c) -> (b, h / stride, w / stride, features).

    Args:
      features: output channels, four times the width of a plain bottleneck.
      stride: step of the block.
      conv, norm, attention: as in `BasicBlock`.
      width: channels of the 3x3 convolution; None is features // 4.
      groups: groups of the 3x3 convolution (ResNeXt).
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
      He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    features: int
    stride: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    attention: Callable[..., nn.Module] | None = None
    width: int | None = None
    groups: int = 1
    stride_at: Literal["1x1", "3x3"] = "3x3"

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.stride_at not in ("1x1", "3x3"):
            raise ValueError(f"stride_at={self.stride_at!r} is not '1x1' or '3x3'")
        width = self.features // self.expansion if self.width is None else self.width
        first, second = (self.stride, 1) if self.stride_at == "1x1" else (1, self.stride)
        y = self.conv(width, 1, stride=first, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(width, 3, stride=second, groups=self.groups, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(self.features, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        return _join(self, x, y, train)


def _join(block: BasicBlock | Bottleneck, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
    """Puts attention on the branch, adds the shortcut (a projection where shapes differ) and rectifies."""
    if block.attention is not None:
        branch = block.attention(name="attention")(branch, train=train)
    if x.shape != branch.shape:
        x = block.conv(block.features, 1, stride=block.stride, name="downsample_conv")(x)
        x = block.norm(name="downsample_bn")(x, train=train)
    return nn.relu(x + branch)


def _with_defaults(constructor: Callable[..., nn.Module], defaults: dict[str, Any]) -> partial[nn.Module]:
    """Adds keywords, but for those that a partial constructor already has."""
    return partial(constructor, **defaults | getattr(constructor, "keywords", {}))


class ResNet(nn.Module):
    """ResNet, ResNeXt or wide ResNet with any attention block.

    Submodules: `conv1`, `bn1`, `stage{i}_block{j}`, `stage{i}_attention` and `fc`, with i from 1 and j from 0.

    Args:
      stage_sizes: blocks of each stage; every stage but the first halves the map.
      block: `BasicBlock`, `Bottleneck` or a subclass of one.
      num_classes: outputs of the classifier; 0 leaves it out, so that the net returns pooled features.
      attention: constructor of an attention block, such as `partial(CBAM, reduction=16)`, or None. It is called with
        `dtype`, `param_dtype` and `name`, and its module with `(x, train=train)`.
      attention_placement: `"branch"` puts one on the residual branch of each block, before the addition (SE, CBAM);
        `"stage"` puts one at the end of each stage (BAM).
      attention_stages: the stages that get attention, counted from 1; None is all of them.
      widths: width of each stage; its output channels are `block.expansion` times as many.
      groups, width_per_group: ResNeXt's cardinality and its width in a stage of width 64 (bottlenecks only).
      stem: `"imagenet"` is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2; `"cifar"` a 3x3 convolution.
      stem_width: channels of the stem.
      stem_pool: the ImageNet stem's max-pool: `"padded"` by 1 on all sides (PyTorch nets) or `"ceil"` (Caffe nets).
      stride_at: where a bottleneck strides, see `Bottleneck`.
      conv, norm: constructors of convolutions and norms, called as `attention` is.
      dtype: compute type.
      param_dtype: type of parameters and statistics. Types that a constructor is given beforehand stay.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any size and any number of
    channels. `freeze_batch_norm` makes batch norm use and keep its running statistics in training (fine-tuning): blocks
    are then called with `train=False`.

    Returns:
      (b, n) logits in float32 or wider, or (b, c) features where num_classes is 0. `method="features"` takes the same
      arguments and gives an ordered dict of the outputs (b, h', w', c') of `stem` and `stage1`, `stage2`, ...

    Raises:
      ValueError: x has not 4 axes or is not floating, or an argument is none of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from functools import partial
      >>> import attnjax
      >>> from attnjax.attention import CBAM
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = ResNet((1, 1), BasicBlock, 10, attention=partial(CBAM, reduction=4), widths=(16, 32),
      ...                stem="cifar", stem_width=16)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> model.apply(variables, jnp.ones((2, 32, 32, 3)), train=False).shape
      (2, 10)
      >>> list(model.apply(variables, jnp.ones((2, 32, 32, 3)), train=False, method="features"))
      ['stem', 'stage1', 'stage2']

    References:
      He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al., "Aggregated Residual
      Transformations", CVPR 2017; Hu et al., CVPR 2018; Woo et al., ECCV 2018.

    Notes:
      A shortcut is the identity, or a strided 1x1 convolution with batch norm where shapes differ, in CIFAR nets too.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck] = Bottleneck
    num_classes: int = 1000
    attention: Callable[..., nn.Module] | None = None
    attention_placement: Literal["branch", "stage"] = "branch"
    attention_stages: Sequence[int] | None = None
    widths: Sequence[int] = (64, 128, 256, 512)
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stem_width: int = 64
    stem_pool: Literal["padded", "ceil"] = "padded"
    stride_at: Literal["1x1", "3x3"] = "3x3"
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        self._check()
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv, norm = _with_defaults(self.conv, dtypes), _with_defaults(self.norm, dtypes)
        if self.stem == "imagenet":
            self.conv1 = conv(self.stem_width, 7, stride=2)
        else:
            self.conv1 = conv(self.stem_width, 3)
        self.bn1 = norm()
        stages = []
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            attention = None
            if self.attention is not None and i in self._attention_stages():
                attention = _with_defaults(self.attention, dtypes)
            on_branch = attention if self.attention_placement == "branch" else None
            names = [f"stage{i}_block{j}" for j in range(size)]
            for j, name in enumerate(names):
                stride = 2 if i > 1 and j == 0 else 1
                setattr(self, name, self._make_block(width, stride, conv, norm, on_branch))
            if attention is not None and on_branch is None:
                names.append(f"stage{i}_attention")
                setattr(self, names[-1], attention())
            stages.append(tuple(names))
        self._stages = tuple(stages)
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, kernel_init=torch_default, bias_init=Constant(0.0), **dtypes)

    def _attention_stages(self) -> Sequence[int]:
        every = range(1, len(self.stage_sizes) + 1)
        return every if self.attention_stages is None else self.attention_stages

    def _make_block(self, width: int, stride: int, conv: Any, norm: Any, attention: Any) -> nn.Module:
        options: dict[str, Any] = {"conv": conv, "norm": norm, "attention": attention}
        if issubclass(self.block, Bottleneck):
            inner = width * self.width_per_group // 64 * self.groups
            options |= {"width": inner, "groups": self.groups, "stride_at": self.stride_at}
        return self.block(width * self.block.expansion, stride, **options)

    def _check(self) -> None:
        choices = {
            "attention_placement": ("branch", "stage"),
            "stem": ("imagenet", "cifar"),
            "stem_pool": ("padded", "ceil"),
            "stride_at": ("1x1", "3x3"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r} is not one of {allowed}")
        if len(self.stage_sizes) != len(self.widths):
            raise ValueError(f"stage_sizes={tuple(self.stage_sizes)} and widths={tuple(self.widths)} differ in length")
        inner = min(self.widths) * self.width_per_group // 64 * self.groups
        if self.num_classes < 0 or min(self.stem_width, inner, *self.stage_sizes) < 1:
            raise ValueError(
                f"num_classes={self.num_classes}, stem_width={self.stem_width}, stage_sizes={tuple(self.stage_sizes)}, "
                f"widths={tuple(self.widths)} and width_per_group={self.width_per_group} must leave at least one block "
                "and channel everywhere"
            )
        if not set(self._attention_stages()) <= set(range(1, len(self.stage_sizes) + 1)):
            raise ValueError(f"attention_stages={self.attention_stages} must lie in 1..{len(self.stage_sizes)}")
        if self.groups != 1 and not issubclass(self.block, Bottleneck):
            raise ValueError(f"groups={self.groups} needs block=Bottleneck")

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the outputs of `stem`, `stage1`, ... by name, in order."""
        if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"expected floating images of shape (b, h, w, c), got {x.dtype} {x.shape}")
        train = train and not freeze_batch_norm
        x = nn.relu(self.bn1(self.conv1(x.astype(self.dtype)), train=train))
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2, padding=1) if self.stem_pool == "padded" else max_pool(x, 3, 2, ceil_mode=True)
        outputs = OrderedDict(stem=x)  # jit sorts the keys of a plain dict
        for i, names in enumerate(self._stages, start=1):
            for name in names:
                x = getattr(self, name)(x, train=train)
            outputs[f"stage{i}"] = x
        return outputs

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        maps = self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)
        pooled = global_pool(maps[f"stage{len(self._stages)}"])
        return self.fc(pooled).astype(pooled.dtype) if self.num_classes else pooled
