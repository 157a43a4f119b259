"""Rules for single modules: each function has the signature of the reference's class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from attnjax import attention
from attnjax.attention import CBAM, ChannelGate, SpatialGate, SqueezeExcite
from attnjax.layers import BatchNorm, Conv
from attnjax.models import BasicBlock, Bottleneck
from tests.golden import adapters, timm_blocks
from tests.golden.constructors import Call, Mapped

_BLOCK = {"ours": "stage1_block0", "theirs": "layer1.0."}


def _cbam(
    gate_channels: int, reduction_ratio: int = 16, pool_types: Any = ("avg", "max"), no_spatial: bool = False
) -> Mapped:
    block = partial(CBAM, reduction_ratio, tuple(pool_types), spatial=not no_spatial)
    return Mapped(block, "attention-module", "stage1_block0/attention", "layer1.0.cbam.")


def _channel_gate(gate_channels: int, reduction_ratio: int = 16, pool_types: Any = ("avg", "max")) -> Mapped:
    block = partial(ChannelGate, reduction_ratio, tuple(pool_types))
    return Mapped(block, "attention-module", "stage1_block0/attention/channel_gate", "layer1.0.cbam.ChannelGate.")


def _spatial_gate() -> Mapped:
    return Mapped(SpatialGate, "attention-module", "stage1_block0/attention/spatial_gate", "layer1.0.cbam.SpatialGate.")


def _basic_conv(
    in_planes: int,
    out_planes: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
    bn: bool = True,
    bias: bool = False,
) -> Mapped:
    conv = partial(Conv, out_planes, kernel_size, stride, padding, dilation, groups, bias)
    norm = partial(BatchNorm, momentum=0.99) if bn else None
    return Mapped(partial(adapters.ConvNormAct, conv, norm, nn.relu if relu else None))


def _block(
    block: type[BasicBlock] | type[Bottleneck], attention_of: Callable[..., Any], source: str
) -> Callable[..., Mapped]:
    def rule(inplanes: int, planes: int, stride: int = 1, downsample: Call | None = None, **options: Any) -> Mapped:
        attention = attention_of(**options)
        return Mapped(partial(block, planes * block.expansion, stride, attention=attention), source, **_BLOCK)

    return rule


def _use_cbam(use_cbam: bool = False) -> Any:
    return partial(CBAM, reduction=16) if use_cbam else None


def _se(reduction: int = 16, groups: int = 1, base_width: int = 64, dilation: int = 1, norm_layer: Any = None) -> Any:
    del groups, base_width, dilation, norm_layer  # the released code takes and ignores them
    return partial(SqueezeExcite, reduction=reduction, use_bias=False)


def _cifar_se(inplanes: int, planes: int, stride: int = 1, reduction: int = 16) -> Mapped:
    block = partial(BasicBlock, planes, stride, attention=_se(reduction))
    return Mapped(block, "senet.pytorch", **_BLOCK)


def _se_layer(channel: int, reduction: int = 16) -> Mapped:
    return Mapped(_se(reduction), "senet.pytorch", "stage1_block0/attention", "layer1.0.se.")


def _bam(gate_channel: int) -> Mapped:
    return Mapped(attention.BAM, "attention-module", "stage1_attention", "bam1.")


def _bam_channel(gate_channel: int, reduction_ratio: int = 16, num_layers: int = 1) -> Mapped:
    branch = partial(attention.BAMChannelBranch, reduction_ratio, num_layers)
    return Mapped(
        partial(adapters.Broadcast, branch, "channel_branch"),
        "attention-module",
        "stage1_attention",
        "bam1.channel_att.",
    )


def _bam_spatial(
    gate_channel: int, reduction_ratio: int = 16, dilation_conv_num: int = 2, dilation_val: int = 4
) -> Mapped:
    dilation = {"dilation": dilation_val} if dilation_conv_num else {}
    branch = partial(attention.BAMSpatialBranch, reduction_ratio, num_dilated=dilation_conv_num, **dilation)
    return Mapped(
        partial(adapters.Broadcast, branch, "spatial_branch"),
        "attention-module",
        "stage1_attention",
        "bam1.spatial_att.",
    )


_KERNELS, _GROUPS = (3, 5, 7, 9), (1, 4, 8, 16)


def _psa(
    inplans: int, planes: int, conv_kernels: Any = _KERNELS, stride: int = 1, conv_groups: Any = _GROUPS
) -> Mapped:
    block = partial(attention.PyramidSqueezeAttention, planes, conv_kernels, conv_groups, stride)
    return Mapped(block, "epsanet", "stage1_block0/conv2", "layer1.0.conv2.")


def _epsa_block(
    inplanes: int,
    planes: int,
    stride: int = 1,
    downsample: Call | None = None,
    norm_layer: Any = None,
    conv_kernels: Any = _KERNELS,
    conv_groups: Any = _GROUPS,
) -> Mapped:
    psa = partial(attention.PyramidSqueezeAttention, kernels=conv_kernels, groups=conv_groups)
    return Mapped(partial(Bottleneck, 4 * planes, stride, spatial_conv=psa), "epsanet", **_BLOCK)


def _se_weight(channels: int, reduction: int = 16) -> Mapped:
    return Mapped(partial(adapters.PooledGate, reduction), "epsanet", "stage1_block0/conv2", "layer1.0.conv2.se.")


def _ggam(channels: int, reduction: int) -> Mapped:
    return Mapped(partial(attention.ChannelSpatialAttention, reduction), "ggam", "attention", "se_module.")


def _ggam_channel(channels: int, reduction: int) -> Mapped:
    return Mapped(partial(SqueezeExcite, reduction), "ggam", "attention", "se_module.")


def _max_pool(kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False) -> Mapped:
    options = {"padding": padding} | ({"ceil_mode": True} if ceil_mode else {})
    return Mapped(partial(adapters.MaxPool, kernel_size, stride or kernel_size, options))


def _upsample(size: int | tuple[int, int]) -> Mapped:
    return Mapped(partial(adapters.Resize, (size, size) if isinstance(size, int) else size))


def _ran_unit(input_channels: int, output_channels: int, stride: int = 1) -> Mapped:
    return Mapped(
        partial(attention.ResidualUnit, output_channels, stride), "ran-pytorch", "stage1_unit0", "residual_block1."
    )


def _ran(pools: int, skip: str = "port", source: str = "ran-pytorch") -> Callable[..., Mapped]:
    def rule(in_channels: int, out_channels: int, *sizes: Any, **named_sizes: Any) -> Mapped:
        del in_channels, out_channels, sizes, named_sizes  # ours are the input's
        block = partial(attention.ResidualAttention, pools=pools, pool="padded", skip=skip)
        return Mapped(block, source, "stage1_attention0", "attention_module1.")

    return rule


RELEASED: dict[str, Callable[..., Mapped]] = {
    "jc_cbam.CBAM": _cbam,
    "jc_cbam.ChannelGate": _channel_gate,
    "jc_cbam.SpatialGate": _spatial_gate,
    "jc_cbam.ChannelPool": lambda: Mapped(adapters.ChannelPool),
    "jc_cbam.BasicConv": _basic_conv,
    "jc_resnet.BasicBlock": _block(BasicBlock, _use_cbam, "attention-module"),
    "jc_resnet.Bottleneck": _block(Bottleneck, _use_cbam, "attention-module"),
    "jc_bam.BAM": _bam,
    "jc_bam.ChannelGate": _bam_channel,
    "jc_bam.SpatialGate": _bam_spatial,
    "eps.PSAModule": _psa,
    "eps.EPSABlock": _epsa_block,
    "eps_se.SEWeightModule": _se_weight,
    "cars_sp_CAM.py: SEModule": _ggam_channel,
    "cars_sp_CAM.py: Spatial_SEModule": _ggam,
    "rbl.ResidualBlock": _ran_unit,
    "att.AttentionModule_pre": _ran(3, skip="skip"),
    "att.AttentionModule_stage0": _ran(4),
    "att.AttentionModule_stage1": _ran(3),
    "att.AttentionModule_stage2": _ran(2),
    "att.AttentionModule_stage3": _ran(1),
    "att.AttentionModule_stage1_cifar": _ran(2, source="ran-pytorch-cifar"),
    "att.AttentionModule_stage2_cifar": _ran(1, source="ran-pytorch-cifar"),
    "att.AttentionModule_stage3_cifar": _ran(0, source="ran-pytorch-cifar"),
    "nn.MaxPool2d": _max_pool,
    "nn.UpsamplingBilinear2d": _upsample,
    "mk_sem.SELayer": _se_layer,
    "mk_se.SEBasicBlock": _block(BasicBlock, _se, "senet.pytorch"),
    "mk_se.SEBottleneck": _block(Bottleneck, _se, "senet.pytorch"),
    "mk_se.CifarSEBasicBlock": _cifar_se,
}


RULES = RELEASED | timm_blocks.RULES
