"""Rules for whole nets: each function has the signature of the reference's constructor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attnjax.attention import (
    BAM,
    CBAM,
    ChannelSpatialAttention,
    PyramidSqueezeAttention,
    ResidualAttention,
    ResidualUnit,
    SqueezeExcite,
)
from attnjax.convert._timm import architecture
from attnjax.models import BasicBlock, Bottleneck, GGAMNet, PreActBasicBlock, ResidualAttentionNet, ResNet
from tests.golden.adapters import OneConvolution
from tests.golden.constructors import Call, Mapped, UnknownConstructor

_SIZES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_ATTENTION: dict[str | None, dict[str, Any]] = {
    None: {},
    "CBAM": {"attention": partial(CBAM, reduction=16)},
    "BAM": {"attention": BAM, "attention_placement": "stage", "attention_stages": (1, 2, 3)},
}
_SE = {"attention": partial(SqueezeExcite, reduction=16, use_bias=False)}


def _plain(depth: int) -> partial[ResNet]:
    return partial(ResNet, _SIZES[depth], BasicBlock if depth in (18, 34) else Bottleneck)


def _residual_net(network_type: str, depth: int, num_classes: int, att_type: str | None) -> Mapped:
    stem = "imagenet" if network_type == "ImageNet" else "cifar"
    return Mapped(
        partial(_plain(depth), num_classes=num_classes, stem=stem, **_ATTENTION[att_type]), "attention-module"
    )


def _se_resnet(depth: int) -> Callable[..., Mapped]:
    def rule(num_classes: int = 1000) -> Mapped:
        return Mapped(partial(_plain(depth), num_classes=num_classes, **_SE), "senet.pytorch")

    return rule


def _cifar(depth: int, block: Any = BasicBlock, **attention: Any) -> Callable[..., Mapped]:
    def rule(num_classes: int = 10, reduction: int = 16) -> Mapped:
        options = {"attention": partial(attention["attention"], reduction=reduction)} if attention else {}
        size = ((depth - 2) // 6,) * 3
        net = partial(ResNet, size, block, num_classes, widths=(16, 32, 64), stem="cifar", stem_width=16, **options)
        return Mapped(net, "senet.pytorch")

    return rule


def _epsanet(depth: int) -> Callable[..., Mapped]:
    def rule(num_classes: int = 1000) -> Mapped:
        net = partial(_plain(depth), num_classes=num_classes, spatial_conv=PyramidSqueezeAttention)
        return Mapped(net, "epsanet")

    return rule


def _epsanet_described(
    expansion: int,
    conv_kernels: tuple[int, ...],
    conv_groups: tuple[int, ...],
    widths: tuple[int, ...],
    layers: tuple[int, ...],
    num_classes: int = 1000,
) -> Mapped:
    kernels = partial(PyramidSqueezeAttention, kernels=conv_kernels, groups=conv_groups)
    outputs = tuple(width * expansion // Bottleneck.expansion for width in widths)
    width_per_group = 64 * Bottleneck.expansion // expansion
    net = partial(
        ResNet, layers, Bottleneck, num_classes, widths=outputs, width_per_group=width_per_group, spatial_conv=kernels
    )
    return Mapped(net, "epsanet")


def _ran(
    pools: tuple[int, ...],
    modules: tuple[int, ...],
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    source: str = "ran-pytorch",
    skip: str = "port",
    **stem: Any,
) -> Callable[..., Mapped]:
    attention = tuple(partial(ResidualAttention, pools=depth, pool="padded", skip=skip) for depth in pools)
    net = partial(
        ResidualAttentionNet,
        ResidualUnit,
        (*attention, None),
        (*modules, 0),
        num_classes=10,
        widths=widths,
        stage_units=(*(1 for _ in pools), 3),
        strides=strides,
        **stem or {"stem_pool": "padded"},
    )
    return lambda: Mapped(net, source)


_IMAGENET = {"pools": (3, 2, 1), "widths": (256, 512, 1024, 2048), "strides": (1, 2, 2, 2)}
_CIFAR = {
    "pools": (2, 1, 0),
    "modules": (1, 2, 3),
    "widths": (128, 256, 512, 1024),
    "strides": (1, 2, 2, 1),
    "source": "ran-pytorch-cifar",
    "stem_width": 32,
}
_RAN: dict[str, Callable[..., Mapped]] = {
    "56": _ran(modules=(1, 1, 1), **_IMAGENET),
    "92": _ran(modules=(1, 2, 3), **_IMAGENET),
    "448input": _ran((4, 3, 2, 1), (1, 1, 2, 3), (128, 256, 512, 1024, 2048), (1, 2, 2, 2, 2)),
    "92_32input": _ran(stem="cifar_5x5", **_CIFAR),
    "92_32input_update": _ran(stem="cifar", **_CIFAR),
}


def _timm(
    model_name: str,
    pretrained: bool = False,
    block_args: dict[str, str] | None = None,
    drop_rate: float | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
) -> Mapped:
    del in_chans  # ours are the input's
    if set(block_args or {}) - {"attn_layer"} or pretrained:
        raise UnknownConstructor(f"no rule for block_args={block_args} or pretrained={pretrained}")
    try:
        net, source = architecture(model_name, (block_args or {}).get("attn_layer"))
    except ValueError as error:
        raise UnknownConstructor(str(error)) from error
    return Mapped(partial(net, num_classes=num_classes, dropout_rate=drop_rate or 0.0), source)


def _ggam(backbone: Call, feature_size: int, classes_num: int) -> Mapped:
    convolution, *rest = backbone.args
    if [part.name for part in (convolution, *rest)] != ["Conv2d", "ReLU", "Identity", "Identity"]:
        raise UnknownConstructor(f"no rule for the backbone {backbone}")
    net = partial(GGAMNet, partial(OneConvolution, convolution.args[1]), ChannelSpatialAttention)
    return Mapped(partial(net, classes_num, feature_size), "ggam")


RULES: dict[str, Callable[..., Mapped]] = {
    "cars_sp_CAM.py: model_bn": _ggam,
    "MODELS.model_resnet.ResidualNet": _residual_net,
    "models.epsanet.epsanet50": _epsanet(50),
    "models.epsanet.epsanet101": _epsanet(101),
    "EPSANet of EPSABlock": _epsanet_described,
    "timm.create_model": _timm,
    "model.residual_attention_network_pre.ResidualAttentionModel": _ran(
        (3, 3, 3), (1, 1, 1), (256, 512, 1024, 2048), (1, 2, 2, 2), "ran-pytorch-pre", skip="skip"
    ),
    **{f"model.residual_attention_network.ResidualAttentionModel_{name}": rule for name, rule in _RAN.items()},
    **{f"senet.se_resnet.se_resnet{depth}": _se_resnet(depth) for depth in _SIZES},
    **{f"senet.se_resnet.se_resnet{depth}": _cifar(depth, **_SE) for depth in (20, 32, 56)},
    **{f"senet.baseline.resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
    **{f"senet.baseline.preact_resnet{depth}": _cifar(depth, PreActBasicBlock) for depth in (20, 32, 44, 56, 110)},
}
