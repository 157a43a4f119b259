"""Rules for timm's blocks: each function has the signature of timm's class."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from attnjax import attention
from attnjax.attention._gate_mlp import hidden_width
from attnjax.convert._timm import attention_block
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, Bottleneck
from tests.golden.constructors import Call, Mapped, Symbol, UnknownConstructor

Layer = Symbol | str | None

_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
    "mish": jax.nn.mish,
    "elu": nn.elu,
    "leakyrelu": nn.leaky_relu,
    "sigmoid": nn.sigmoid,
    "hardsigmoid": nn.hard_sigmoid,
    "hardswish": nn.hard_swish,
    "tanh": nn.tanh,
    "identity": lambda x: x,
}
_RELU, _NORM = Symbol("nn.ReLU"), Symbol("nn.BatchNorm2d")


def _function(layer: Layer) -> Callable[[jax.Array], jax.Array]:
    name = (layer.name.rpartition(".")[2] if isinstance(layer, Symbol) else str(layer)).lower().replace("_", "")
    if name not in _FUNCTIONS:
        raise UnknownConstructor(f"no function for the layer {layer}")
    return _FUNCTIONS[name]


def _needs_batch_norm(norm_layer: Layer) -> None:
    if norm_layer != _NORM:
        raise UnknownConstructor(f"no rule for norm_layer={norm_layer}")


def _place(ours: str = "", theirs: str = "") -> dict[str, str]:
    return {"source": "timm", "ours": f"stage1_block0/attention{ours}", "theirs": f"layer1.0.se.{theirs}"}


def _hidden(rd_ratio: float, rd_channels: int | None, rd_divisor: int) -> dict[str, Any]:
    return {"hidden": rd_channels} if rd_channels else {"reduction": 1 / rd_ratio, "divisor": rd_divisor}


def _pool(add_maxpool: bool) -> str:
    return "avg_max" if add_maxpool else "avg"


def _se(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    add_maxpool: bool = False,
    bias: bool = True,
    act_layer: Layer = _RELU,
    norm_layer: Layer = None,
    gate_layer: Layer = "sigmoid",
) -> Mapped:
    if norm_layer is not None:
        _needs_batch_norm(norm_layer)
    block = partial(
        attention.SqueezeExcite,
        **_hidden(rd_ratio, rd_channels, rd_divisor),
        pool=_pool(add_maxpool),
        use_bias=bias,
        activation=_function(act_layer),
        norm="none" if norm_layer is None else "batch",
        gate_fn=_function(gate_layer),
    )
    return Mapped(block, **_place())


def _ese(channels: int, add_maxpool: bool = False, gate_layer: Layer = "hard_sigmoid", **_: Any) -> Mapped:
    gate = _function(gate_layer)
    return Mapped(partial(attention.EffectiveSqueezeExcite, pool=_pool(add_maxpool), gate_fn=gate), **_place())


def _kernel(channels: int | None, kernel_size: int, gamma: float, beta: float) -> dict[str, Any]:
    """timm works out the size where it knows the channels, and takes it as given elsewhere."""
    return {"kernel_size": None, "gamma": gamma, "beta": beta} if channels else {"kernel_size": kernel_size}


def _eca(
    channels: int | None = None,
    kernel_size: int = 3,
    gamma: float = 2,
    beta: float = 1,
    act_layer: Layer = None,
    gate_layer: Layer = "sigmoid",
    rd_ratio: float = 1 / 8,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    use_mlp: bool = False,
) -> Mapped:
    options = _kernel(channels, kernel_size, gamma, beta)
    if use_mlp:
        assert channels is not None
        options["hidden"] = rd_channels or hidden_width(channels, 1 / rd_ratio, rd_divisor, keep=0.9)
        options["activation"] = _function(act_layer or _RELU)
    return Mapped(partial(attention.EfficientChannelAttention, gate_fn=_function(gate_layer), **options), **_place())


def _ceca(
    channels: int | None = None,
    kernel_size: int = 3,
    gamma: float = 2,
    beta: float = 1,
    act_layer: Layer = None,
    gate_layer: Layer = "sigmoid",
) -> Mapped:
    block = partial(
        attention.EfficientChannelAttention,
        **_kernel(channels, kernel_size, gamma, beta),
        circular=True,
        use_bias=act_layer is not None,
        gate_fn=_function(gate_layer),
    )
    return Mapped(block, **_place())


def _gather_excite(
    channels: int,
    feat_size: tuple[int, int] | None = None,
    extra_params: bool = False,
    extent: int = 0,
    use_mlp: bool = True,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 1,
    add_maxpool: bool = False,
    act_layer: Layer = _RELU,
    norm_layer: Layer = _NORM,
    gate_layer: Layer = "sigmoid",
) -> Mapped:
    _needs_batch_norm(norm_layer)
    block = partial(
        attention.GatherExcite,
        extent=extent,
        parametrised=extra_params,
        use_mlp=use_mlp,
        **(_hidden(rd_ratio, rd_channels, rd_divisor) if use_mlp else {}),
        **({} if extra_params else {"pool": _pool(add_maxpool)}),
        **({"activation": _function(act_layer)} if use_mlp or (extra_params and extent > 2) else {}),
        gate_fn=_function(gate_layer),
        **({"padded": True} if extra_params and not extent else {}),
    )
    return Mapped(block, **_place())


def _global_context(
    channels: int,
    use_attn: bool = True,
    fuse_add: bool = False,
    fuse_scale: bool = True,
    init_last_zero: bool = False,
    rd_ratio: float = 1 / 8,
    rd_channels: int | None = None,
    rd_divisor: int = 1,
    act_layer: Layer = _RELU,
    gate_layer: Layer = "sigmoid",
) -> Mapped:
    block = partial(
        attention.GlobalContext,
        attention=use_attn,
        add=fuse_add,
        scale=fuse_scale,
        **_hidden(rd_ratio, rd_channels, rd_divisor),
        epsilon=1e-6,
        activation=_function(act_layer),
        **({"gate_fn": _function(gate_layer)} if fuse_scale else {}),
    )
    return Mapped(block, **_place())


def _selective_kernel(
    in_channels: int,
    out_channels: int | None = None,
    kernel_size: int | tuple[int, ...] | None = None,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    keep_3x3: bool = True,
    split_input: bool = True,
    act_layer: Layer = _RELU,
    norm_layer: Layer = _NORM,
) -> Mapped:
    _needs_batch_norm(norm_layer)
    kernels = kernel_size or (3, 5)
    features = out_channels or in_channels
    block = partial(
        attention.SelectiveKernel,
        features,
        kernels=(kernels, kernels) if isinstance(kernels, int) else kernels,
        stride=stride,
        dilation=dilation,
        groups=min(features, groups),
        **_hidden(rd_ratio, rd_channels, rd_divisor),
        dilate=keep_3x3,
        split=split_input,
        activation=_function(act_layer),
    )
    return Mapped(block, "timm", "stage1_block0/conv1", "layer1.0.conv1.")


def _channel_options(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 1,
    act_layer: Layer = _RELU,
    gate_layer: Layer = "sigmoid",
    mlp_bias: bool = False,
) -> dict[str, Any]:
    hidden = _hidden(rd_ratio, rd_channels, rd_divisor)
    return {**hidden, "use_bias": mlp_bias, "activation": _function(act_layer), "gate_fn": _function(gate_layer)}


def _channel_attention(*args: Any, **kwargs: Any) -> Mapped:
    options = _channel_options(*args, **kwargs)
    return Mapped(partial(attention.ChannelGate, **options), **_place("/channel_gate", "channel."))


def _light_channel_attention(*args: Any, **kwargs: Any) -> Mapped:
    options = _channel_options(*args, **kwargs) | {"pools": ("avg_max",), "gate_fn": nn.sigmoid}
    return Mapped(partial(attention.ChannelGate, **options), **_place("/channel_gate", "channel."))


def _spatial_attention(descriptor: str) -> Callable[..., Mapped]:
    def rule(kernel_size: int = 7, gate_layer: Layer = "sigmoid") -> Mapped:
        gate = _function(gate_layer)
        block = partial(attention.SpatialGate, kernel_size, descriptor=descriptor, norm=BatchNorm, gate_fn=gate)
        return Mapped(block, **_place("/spatial_gate", "spatial."))

    return rule


def _cbam(light: bool) -> Callable[..., Mapped]:
    def rule(
        channels: int,
        rd_ratio: float = 1 / 16,
        rd_channels: int | None = None,
        rd_divisor: int = 1,
        spatial_kernel_size: int = 7,
        act_layer: Layer = _RELU,
        gate_layer: Layer = "sigmoid",
        mlp_bias: bool = False,
    ) -> Mapped:
        options = _channel_options(channels, rd_ratio, rd_channels, rd_divisor, act_layer, gate_layer, mlp_bias)
        if light:
            del options["gate_fn"]  # timm takes and ignores it
            options |= {"pools": ("avg_max",), "descriptor": "pool_average"}
        else:
            options["descriptor"] = "pool_mean_first"
        block = partial(attention.CBAM, kernel_size=spatial_kernel_size, spatial_norm=BatchNorm, **options)
        return Mapped(block, **_place())

    return rule


def _coordinate(
    channels: int,
    rd_ratio: float = 1 / 16,
    rd_channels: int | None = None,
    rd_divisor: int = 8,
    se_factor: float = 2 / 3,
    bias: bool = False,
    act_layer: Layer = "hard_swish",
    norm_layer: Layer = _NORM,
    gate_layer: Layer = "sigmoid",
    has_skip: bool = False,
) -> Mapped:
    block = partial(
        attention.CoordinateAttention,
        **_hidden(rd_ratio * se_factor, rd_channels, rd_divisor),
        use_bias=bias,
        norm=norm_layer is not None,
        activation=_function(act_layer),
        gate_fn=_function(gate_layer),
        skip=has_skip,
    )
    return Mapped(block, **_place())


def _attention_of(layer: Any) -> Any:
    """The block that `attn_layer=SEModule`, `attn_layer='se'` or a partial of it asks for, or None."""
    if layer is None:
        return None
    if isinstance(layer, str):
        return attention_block(layer)
    name = layer.name if isinstance(layer, Symbol) else layer.args[0].name
    options = layer.kwargs if isinstance(layer, Call) else {}
    if f"timm: {name}" not in RULES:
        raise UnknownConstructor(f"no rule for attn_layer={layer}")
    return RULES[f"timm: {name}"](64, **options).build


def _basic(
    inplanes: int,
    planes: int,
    stride: int = 1,
    downsample: Call | None = None,
    cardinality: int = 1,
    base_width: int = 64,
    act_layer: Layer = _RELU,
    norm_layer: Layer = _NORM,
    attn_layer: Any = None,
    sk_kwargs: dict[str, Any] | None = None,
    *,
    selective: bool = False,
) -> Mapped:
    _needs_batch_norm(norm_layer)
    options = _block_options(act_layer, attn_layer, downsample) | _selective_options(selective, sk_kwargs)
    return Mapped(partial(BasicBlock, planes, stride, **options), "timm", "stage1_block0", "layer1.0.")


def _bottleneck(
    inplanes: int,
    planes: int,
    stride: int = 1,
    downsample: Call | None = None,
    cardinality: int = 1,
    base_width: int = 64,
    reduce_first: int = 1,
    act_layer: Layer = _RELU,
    norm_layer: Layer = _NORM,
    attn_layer: Any = None,
    sk_kwargs: dict[str, Any] | None = None,
    *,
    selective: bool = False,
) -> Mapped:
    _needs_batch_norm(norm_layer)
    options = _block_options(act_layer, attn_layer, downsample) | _selective_options(selective, sk_kwargs)
    options |= {"width": math.floor(planes * base_width / 64) * cardinality, "groups": cardinality}
    block = partial(Bottleneck, 4 * planes, stride, reduce_first=reduce_first, **options)
    return Mapped(block, "timm", "stage1_block0", "layer1.0.")


def _block_options(act_layer: Layer, attn_layer: Any, downsample: Call | None) -> dict[str, Any]:
    averaged = downsample is not None and any(
        isinstance(part, Call) and "Pool" in part.name for part in downsample.args
    )
    return {
        "activation": _function(act_layer),
        "attention": _attention_of(attn_layer),
        "shortcut": "avg_1x1" if averaged else "1x1",
    }


def _selective_options(selective: bool, sk_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    if not selective:
        return {}
    options = dict(_selective_kernel(8, **(sk_kwargs or {})).build.keywords)  # type: ignore[attr-defined]
    for given_by_the_block in ("stride", "groups"):
        options.pop(given_by_the_block)
    return {"spatial_conv": partial(attention.SelectiveKernel, **options), "spatial_norm": False}


def _legacy(block: Any, **fixed: Any) -> Callable[..., Mapped]:
    def rule(
        inplanes: int,
        planes: int,
        groups: int,
        reduction: int,
        stride: int = 1,
        downsample: Call | None = None,
        base_width: int | None = None,
    ) -> Mapped:
        options = dict(fixed, attention=partial(attention.SqueezeExcite, reduction=reduction))
        if block is Bottleneck:
            options["groups"] = groups
            options["width"] = planes * options.pop("wider", 1)
        if options.pop("resnext", False):
            options["width"] = math.floor(planes * ((base_width or 4) / 64)) * groups
        if downsample is not None and downsample.args[0].args[2:3] == (3,):
            options["shortcut"] = "3x3"
        return Mapped(
            partial(block, planes * block.expansion, stride, **options), "cadene", "stage1_block0", "layer1.0."
        )

    return rule


RULES: dict[str, Callable[..., Mapped]] = {
    "timm: SEModule": _se,
    "timm: SqueezeExcite": _se,
    "timm: EffectiveSEModule": _ese,
    "timm: EffectiveSqueezeExcite": _ese,
    "timm: EcaModule": _eca,
    "timm: EfficientChannelAttn": _eca,
    "timm: CecaModule": _ceca,
    "timm: CircularEfficientChannelAttn": _ceca,
    "timm: GatherExcite": _gather_excite,
    "timm: GlobalContext": _global_context,
    "timm: SelectiveKernel": _selective_kernel,
    "timm: SelectiveKernelBasic": partial(_basic, selective=True),
    "timm: SelectiveKernelBottleneck": partial(_bottleneck, selective=True),
    "timm: ChannelAttn": _channel_attention,
    "timm: LightChannelAttn": _light_channel_attention,
    "timm: SpatialAttn": _spatial_attention("pool_mean_first"),
    "timm: LightSpatialAttn": _spatial_attention("pool_average"),
    "timm: CbamModule": _cbam(light=False),
    "timm: LightCbamModule": _cbam(light=True),
    "timm: CoordAttn": _coordinate,
    "timm: TBasic": _basic,
    "timm: BasicBlock": _basic,
    "timm: TBottle": _bottleneck,
    "timm: Bottleneck": _bottleneck,
    "timm: legacy.SEResNetBlock": _legacy(BasicBlock, branch_activation=True),
    "timm: legacy.SEResNetBottleneck": _legacy(Bottleneck, stride_at="1x1"),
    "timm: legacy.SEResNeXtBottleneck": _legacy(Bottleneck, resnext=True),
    "timm: legacy.SEBottleneck": _legacy(Bottleneck, reduce_first=2, wider=4),
}
