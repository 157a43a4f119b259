"""Constructors that the table of named nets shares: depths, widths, stems, and what each paper adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from attnjax._partial import Partial
from attnjax.attention import (
    BAM,
    CBAM,
    ChannelSpatialAttention,
    EfficientChannelAttention,
    PyramidSqueezeAttention,
    ResidualAttention,
    ResidualUnit,
    SelectiveKernel,
    SqueezeExcite,
)
from attnjax.models._blocks import BasicBlock, Bottleneck, PreActBasicBlock
from attnjax.models._ran import ResidualAttentionNet
from attnjax.models._resnet import ResNet

Options = dict[str, Any]

r18 = Partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
r34 = Partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
r50 = Partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck)
r101 = Partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck)
r152 = Partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck)
rx50 = Partial(r50, groups=32, width_per_group=4)
rx101 = Partial(r101, groups=32, width_per_group=4)
w18_1_5 = Partial(r18, widths=(96, 192, 384, 768))
w18_2_0 = Partial(r18, widths=(128, 256, 512, 1024))

r50d = Partial(r50, stem="deep", stem_width=(32, 32, 64), shortcut="avg_1x1")
r101d = Partial(r101, stem="deep", stem_width=(32, 32, 64), shortcut="avg_1x1")
senet154 = Partial(
    ResNet,
    stage_sizes=(3, 8, 36, 3),
    block=Partial(Bottleneck, reduce_first=2),
    groups=64,
    width_per_group=4,
    stem="deep",
    stem_width=(64, 64, 128),
    shortcut="3x3",
)
legacy: Options = {"block": Partial(BasicBlock, branch_activation=True), "stem_pool": "ceil"}

se: Options = {"attention": Partial(SqueezeExcite, reduction=16)}
cbam: Options = {"attention": Partial(CBAM, reduction=16)}
bam: Options = {"attention": Partial(BAM, reduction=16), "attention_placement": "stage", "attention_stages": (1, 2, 3)}
se_timm: Options = {"attention": Partial(SqueezeExcite, reduction=16, divisor=8)}
se_moskomule: Options = {"attention": Partial(SqueezeExcite, reduction=16, use_bias=False)}
small_epsa: Options = {"spatial_conv": Partial(PyramidSqueezeAttention, groups=(1, 4, 8, 16))}
large_epsa: Options = {
    "spatial_conv": Partial(PyramidSqueezeAttention, kernels=(3, 5, 5, 7), groups=(32, 32, 32, 32)),
    "width_per_group": 128,
}
large_epsa_k3579 = large_epsa | {"spatial_conv": Partial(PyramidSqueezeAttention, groups=(32, 32, 32, 32))}
eca: Options = {"attention": EfficientChannelAttention}
eca_d: Options = {"attention": EfficientChannelAttention, "shortcut": "avg_1x1"}
sk: Options = {"spatial_conv": SelectiveKernel, "spatial_norm": False}
sk_timm: Options = {"spatial_conv": Partial(SelectiveKernel, divisor=8, split=True), "spatial_norm": False}
sk_timm_basic: Options = {
    "spatial_conv": Partial(SelectiveKernel, reduction=8, divisor=16, split=True),
    "spatial_norm": False,
}
ggam: Options = {"attention": Partial(ChannelSpatialAttention, reduction=16)}
caffe: Options = {"stem_pool": "ceil"}
caffe_1x1: Options = {"stem_pool": "ceil", "stride_at": "1x1"}
cifar_stem: Options = {"stem": "cifar"}


def ran(*modules: int, **options: Any) -> Partial[ResidualAttentionNet]:
    """The ImageNet net of the paper with these numbers of modules in its stages, by the official prototxts."""
    attention = tuple(Partial(ResidualAttention, pools=pools) for pools in (3, 2, 1))
    return Partial(ResidualAttentionNet, **_ran_options(attention, modules) | options)


def post_activation(unit: Callable[..., nn.Module], *modules: int) -> Partial[ResidualAttentionNet]:
    """The same of units that end in a relu."""
    options: Options = {"unit": unit, "pre_activation": False}
    attention = tuple(Partial(ResidualAttention, pools=pools, **options) for pools in (3, 2, 1))
    return Partial(ResidualAttentionNet, **_ran_options(attention, modules) | options)


def ran_port(*modules: int, pools: tuple[int, ...] = (3, 2, 1), **options: Any) -> Partial[ResidualAttentionNet]:
    """The same as in the PyTorch port: padded pools and further additions in the mask."""
    attention = tuple(Partial(ResidualAttention, pools=n, pool="padded", skip="port") for n in pools)
    stem: Options = {} if "stem" in options else {"stem_pool": "padded"}
    return Partial(ResidualAttentionNet, **_ran_options(attention, modules) | stem | options)


def _ran_options(attention: tuple[Any, ...], modules: tuple[int, ...]) -> dict[str, Any]:
    return {"unit": ResidualUnit, "attention": (*attention, None), "stage_modules": (*modules, 0)}


def ran_cifar(modules: int, **options: Any) -> Partial[ResidualAttentionNet]:
    """The CIFAR net of depth 36 modules + 20, in the widths that fit the paper's parameter counts."""
    attention = tuple(Partial(ResidualAttention, pools=pools, **options) for pools in (3, 2, 1))
    return Partial(
        ResidualAttentionNet,
        unit=ResidualUnit,
        attention=attention if modules else None,
        stage_modules=(modules,) * 3,
        widths=(64, 128, 256),
        stage_units=(2, 2, 2),
        stem="cifar",
        stem_width=16,
    )


def small(blocks_per_stage: int, block: type[BasicBlock] | type[PreActBasicBlock] = BasicBlock) -> Partial[ResNet]:
    """The CIFAR ResNet of depth 6 blocks_per_stage + 2."""
    return Partial(
        ResNet,
        stage_sizes=(blocks_per_stage,) * 3,
        block=block,
        widths=(16, 32, 64),
        stem="cifar",
        stem_width=16,
    )
