"""Residual networks with attention as a constructor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from attnjax._arguments import check_effect, check_keywords
from attnjax._choice import check_choice
from attnjax.layers import BatchNorm, Constant, Conv, Mark, global_pool, max_pool, torch_default, with_defaults
from attnjax.models._blocks import PLACEMENTS, SHORTCUTS, Bottleneck, Placement, check_constructors, check_images


class ResNet(nn.Module):
    """ResNet, ResNeXt or wide ResNet with any attention block.

    Submodules: `conv1`, `bn1` (up to `conv3`, `bn3` in a deep stem), `stage{i}_block{j}`, `stage{i}_attention` and
    `fc`, with i from 1 and j from 0. Nets of pre-activation blocks have no `bn1` but `bn_final`, before the pool.

    Args:
      stage_sizes: blocks of each stage; every stage but the first halves the map.
      block: `BasicBlock`, `Bottleneck`, `PreActBasicBlock` or a `Partial` of one with further arguments.
      num_classes: outputs of the classifier; 0 leaves it out, so that the net returns pooled features.
      attention: constructor of an attention block, such as `Partial(CBAM, reduction=16)`, or None. It is called with
        `name` and those of `dtype`, `param_dtype` and `batch_norm` (the net's norm) that are among its parameters; its
        module with `(x, train=train)`, see `attnjax.attention.Gated`.
      attention_placement: `"branch"` puts one on the residual branch of each block, before the addition (SE, CBAM);
        `"stage"` puts one at the end of each stage (BAM); `"3x3"`, `"pre"`, `"post"`, `"identity"`: see `BasicBlock`.
      attention_stages: the stages that get attention, counted from 1; None is all of them.
      widths: width of each stage; its output channels are `block.expansion` times as many.
      groups, width_per_group: ResNeXt's cardinality and its width in a stage of width 64 (bottlenecks only).
      stem: `"imagenet"` is a 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2; `"deep"` has three 3x3
        convolutions instead, the first of stride 2; `"cifar"` is one 3x3 convolution.
      stem_width: channels of the stem; of each of its convolutions where it is deep.
      stem_pool: the stem's max-pool: `"padded"` by 1 on all sides (PyTorch nets), `"ceil"` (Caffe nets), or `"none"`,
        where a deep stem's last convolution strides instead.
      stride_at: where a bottleneck strides, see `Bottleneck`.
      spatial_conv, spatial_norm, shortcut, activation: see `BasicBlock`. `spatial_conv` is called as `attention` is.
      dropout_rate: share of the pooled features dropped in training, from the `dropout` stream of random numbers.
      conv, norm: constructors of convolutions and norms, called with `dtype`, `param_dtype` and `name`; norms also with
        what an attention block asks of its own, such as `momentum`.
      dtype: compute type.
      param_dtype: type of parameters and statistics. Types, and the `batch_norm`, that a constructor is given
        beforehand stay.

    Call with `(x, train=..., freeze_batch_norm=False)`: x is (b, h, w, c) and floating, of any size and any number of
    channels. `freeze_batch_norm` makes batch norm use and keep its running statistics in training (fine-tuning): blocks
    are then called with `train=False`; dropout stays.

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
      >>> from attnjax.attention import CBAM
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = ResNet((1, 1), BasicBlock, 10, attention=Partial(CBAM, reduction=4), widths=(16, 32),
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

      Outputs are named for `jax.checkpoint`: those of the stem and the stages `"stage"`, those of blocks `"block"`.
      Under the policy `jax.checkpoint_policies.save_only_these_names("stage")` only the former are kept for gradients.
    """

    stage_sizes: Sequence[int]
    block: Callable[..., nn.Module] = Bottleneck
    num_classes: int = 1000
    attention: Callable[..., nn.Module] | None = None
    attention_placement: Placement | Literal["stage"] = "branch"
    attention_stages: Sequence[int] | None = None
    widths: Sequence[int] = (64, 128, 256, 512)
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["imagenet", "deep", "cifar"] = "imagenet"
    stem_width: int | Sequence[int] = 64
    stem_pool: Literal["padded", "ceil", "none"] = "padded"
    stride_at: Literal["1x1", "3x3"] = "3x3"
    spatial_conv: Callable[..., nn.Module] | None = None
    spatial_norm: bool = True
    shortcut: Literal["1x1", "3x3", "avg_1x1"] = "1x1"
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout_rate: float = 0.0
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        self._check_values()
        self._check_effects()
        super().__post_init__()

    def setup(self) -> None:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv, norm = with_defaults(self.conv, dtypes), with_defaults(self.norm, dtypes)
        for index, (width, kernel, stride) in enumerate(self._stem(), start=1):
            setattr(self, f"conv{index}", conv(width, kernel, stride=stride))
            if not self._block.pre_activation:
                setattr(self, f"bn{index}", norm())
        stages = []
        for i, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True), start=1):
            attention = None
            if self.attention is not None and i in self._attention_stages():
                attention = with_defaults(self.attention, dtypes, batch_norm=self.norm)
            after_stage = self.attention_placement == "stage"
            names = [f"stage{i}_block{j}" for j in range(size)]
            for j, name in enumerate(names):
                stride = 2 if i > 1 and j == 0 else 1
                options = self._block_options(width, dtypes, None if after_stage else attention)
                setattr(self, name, self.block(width * self._block.expansion, stride, conv, norm, **options))
            if attention is not None and after_stage:
                names.append(f"stage{i}_attention")
                setattr(self, names[-1], attention())
            stages.append(tuple(names))
        self._stages = tuple(stages)
        maps = ("stem", *(f"stage{i}" for i in range(1, len(stages) + 1)))
        self._marks = {name: Mark("stage", name=name) for name in maps}
        if self._block.pre_activation:
            self.bn_final = norm()
        if self.num_classes:
            self.dropout = nn.Dropout(self.dropout_rate)
            self.fc = nn.Dense(self.num_classes, kernel_init=torch_default, bias_init=Constant(0.0), **dtypes)

    @property
    def _block(self) -> Any:
        """The block's class."""
        return getattr(self.block, "func", self.block)

    @nn.nowrap
    def _stem(self) -> list[tuple[int, int, int]]:
        """Width, kernel size and stride of the stem's convolutions."""
        if self.stem == "deep":
            last = 2 if self.stem_pool == "none" else 1
            return list(zip(self._stem_widths(), (3, 3, 3), (2, 1, last), strict=True))
        return [(self._stem_widths()[0], *((7, 2) if self.stem == "imagenet" else (3, 1)))]

    @nn.nowrap
    def _stem_widths(self) -> tuple[int, ...]:
        count = 3 if self.stem == "deep" else 1
        return (self.stem_width,) * count if isinstance(self.stem_width, int) else tuple(self.stem_width)

    @nn.nowrap
    def _attention_stages(self) -> Sequence[int]:
        every = range(1, len(self.stage_sizes) + 1)
        return every if self.attention_stages is None else self.attention_stages

    @nn.nowrap
    def _block_options(self, width: int, dtypes: dict[str, Any], attention: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"attention": attention, "activation": self.activation, "shortcut": self.shortcut}
        if attention is not None:
            options["attention_placement"] = self.attention_placement
        if self.spatial_conv is not None:
            options["spatial_conv"] = with_defaults(self.spatial_conv, dtypes, batch_norm=self.norm)
            options["spatial_norm"] = self.spatial_norm
        if issubclass(self._block, Bottleneck):
            inner = width * self.width_per_group // 64 * self.groups
            options |= {"width": inner, "groups": self.groups, "stride_at": self.stride_at}
        return options

    @nn.nowrap
    def _check_values(self) -> None:
        check_constructors(self)
        if not hasattr(self._block, "expansion"):
            raise ValueError(f"block={self.block} must be BasicBlock, Bottleneck, PreActBasicBlock or derived from one")
        choices = {
            "attention_placement": (*PLACEMENTS, "stage"),
            "stem": ("imagenet", "deep", "cifar"),
            "stem_pool": ("padded", "ceil", "none"),
            "stride_at": ("1x1", "3x3"),
            "shortcut": SHORTCUTS,
        }
        for field, allowed in choices.items():
            check_choice(field, getattr(self, field), allowed)
        if self.stem_pool == "none" and self.stem != "deep":
            raise ValueError(f"stem_pool='none' needs stem='deep', got stem={self.stem!r}")
        if len(self._stem_widths()) != (3 if self.stem == "deep" else 1):
            raise ValueError(f"stem_width={self.stem_width} must give one width for each convolution of {self.stem!r}")
        if len(self.stage_sizes) != len(self.widths):
            raise ValueError(f"stage_sizes={tuple(self.stage_sizes)} and widths={tuple(self.widths)} differ in length")
        inner = min(self.widths) * self.width_per_group // 64 * self.groups
        if self.num_classes < 0 or min(*self._stem_widths(), inner, *self.stage_sizes) < 1:
            raise ValueError(
                f"num_classes={self.num_classes}, stem_width={self.stem_width}, stage_sizes={tuple(self.stage_sizes)}, "
                f"widths={tuple(self.widths)} and width_per_group={self.width_per_group} must leave at least one block "
                "and channel everywhere"
            )
        if not set(self._attention_stages()) <= set(range(1, len(self.stage_sizes) + 1)):
            raise ValueError(f"attention_stages={self.attention_stages} must lie in 1..{len(self.stage_sizes)}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate={self.dropout_rate} must lie in [0, 1)")

    @nn.nowrap
    def _check_effects(self) -> None:
        if self.attention is None:
            check_effect(self, "attention=None", "attention_placement", "attention_stages")
        elif not self._attention_stages():
            raise ValueError(f"attention_stages={self.attention_stages} leaves the attention without effect")
        if self.spatial_conv is None:
            check_effect(self, "spatial_conv=None", "spatial_norm")
        if not issubclass(self._block, Bottleneck):
            check_effect(self, f"block={self._block.__name__}", "groups", "width_per_group", "stride_at")
        if self._block.pre_activation:
            check_effect(self, f"block={self._block.__name__}", "shortcut", "spatial_conv")
        if len(self.stage_sizes) < 2:
            check_effect(self, "a single stage, which does not stride", "stride_at", "shortcut")
        if self.stem == "cifar":
            check_effect(self, "stem='cifar'", "stem_pool")
        if not self.num_classes:
            check_effect(self, "num_classes=0", "dropout_rate")
        own = {"conv", "norm", *self._block_options(64, {}, self.attention)}
        check_keywords("block", self.block, own, "the net sets it, by its own arguments")

    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        """Returns the outputs of `stem`, `stage1`, ... by name, in order."""
        check_images(x)
        if self.stem != "cifar" and self.stem_pool == "ceil" and min(x.shape[1:3]) < 3:
            raise ValueError(f"stem_pool='ceil' needs images of at least 3x3 pixels, got {x.shape[1]}x{x.shape[2]}")
        train = train and not freeze_batch_norm
        x = x.astype(self.dtype)
        for index in range(1, len(self._stem()) + 1):
            x = getattr(self, f"conv{index}")(x)
            if not self._block.pre_activation:
                x = self.activation(getattr(self, f"bn{index}")(x, train=train))
        if self.stem != "cifar" and self.stem_pool != "none":
            x = max_pool(x, 3, 2, padding=1) if self.stem_pool == "padded" else max_pool(x, 3, 2, ceil_mode=True)
        x = self._marks["stem"](x)
        outputs = OrderedDict(stem=x)  # jit sorts the keys of a plain dict
        for i, names in enumerate(self._stages, start=1):
            for name in names:
                x = checkpoint_name(getattr(self, name)(x, train=train), "block")
            outputs[f"stage{i}"] = x = self._marks[f"stage{i}"](x)
        return outputs

    def __call__(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> jax.Array:
        x = self.features(x, train=train, freeze_batch_norm=freeze_batch_norm)[f"stage{len(self._stages)}"]
        if self._block.pre_activation:
            x = self.activation(self.bn_final(x, train=train and not freeze_batch_norm))
        pooled = global_pool(x)
        if not self.num_classes:
            return pooled
        return self.fc(self.dropout(pooled, deterministic=not train)).astype(pooled.dtype)
