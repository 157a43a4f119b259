"""The nets of timm that our ResNet can be: from a timm name to a constructor of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from attnjax import attention
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, Bottleneck, ResNet

Architecture = tuple[Callable[..., nn.Module], str]
"""A constructor, called with `num_classes`, `dtype` and so on, and the source whose names the weights have."""

_SIZES: Mapping[str, tuple[int, ...]] = {
    "10": (1, 1, 1, 1),
    "14": (1, 1, 1, 1),
    "18": (2, 2, 2, 2),
    "26": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "269": (3, 30, 48, 8),
}
_BASIC = ("10", "18", "34")
_STEMS = {"d": (32, 32, 64), "c": (32, 32, 64), "t": (24, 32, 64), "s": (64, 64, 128)}
_KNOWN = (
    "resnet, resnext and wide_resnet with the prefixes se, eca, sk and legacy_se, and the gc, se and eca_ nets of the "
    "sizes 26ts, 50t and 50ts"
)


def architecture(name: str, attn_layer: str | None = None) -> Architecture:
    """Finds the net that timm calls `name`.

    Args:
      name: timm's name, without what follows the dot.
      attn_layer: timm's name of the attention block, where it is not the one in the net's name.

    Raises:
      ValueError: it is none that we have.
    """
    for pattern, build in _FAMILIES.items():
        match = re.fullmatch(pattern, name)
        if match and match["depth"] in {*_SIZES, "light", "154"}:
            constructor, source = build(match)
            if attn_layer is not None:
                constructor = partial(constructor, attention=attention_block(attn_layer))
            return constructor, source
    raise ValueError(f"timm's {name!r} is not a net of attnjax: known are {_KNOWN}")


def attention_block(name: str) -> Callable[..., nn.Module]:
    """The constructor of the block that timm calls `name`, with timm's defaults.

    Raises:
      ValueError: it is none that we have.
    """
    context = partial(attention.GlobalContext, reduction=8, divisor=1, epsilon=1e-6)
    cbam = partial(attention.CBAM, reduction=16, divisor=1, use_bias=False, spatial_norm=BatchNorm)
    blocks: dict[str, Callable[..., nn.Module]] = {
        "se": partial(attention.SqueezeExcite, reduction=16, divisor=8),
        "ese": attention.EffectiveSqueezeExcite,
        "eca": attention.EfficientChannelAttention,
        "ceca": partial(attention.EfficientChannelAttention, circular=True),
        "coord": partial(attention.CoordinateAttention, reduction=24, divisor=8),
        "ge": partial(attention.GatherExcite, extent=0, parametrised=False, use_mlp=True, reduction=16, divisor=1),
        "gc": partial(context, add=False, scale=True),
        "gca": partial(context, add=True, scale=False),
        "cbam": partial(cbam, descriptor="pool_mean_first"),
        "lcbam": partial(cbam, pools=("avg_max",), descriptor="pool_average"),
    }
    if name not in blocks:
        raise ValueError(f"timm's attn_layer={name!r} is not one of {', '.join(blocks)}")
    return blocks[name]


def _resnet(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = _widths(match)
    if match["suffix"]:
        options |= {"stem": "deep", "stem_width": _STEMS[match["suffix"]]}
    if match["suffix"] in ("d", "t"):
        options["shortcut"] = "avg_1x1"
    if match["attention"]:
        options["attention"] = attention_block(match["attention"])
    if match["wide"]:
        options["width_per_group"] = 128
    return partial(_plain(match["depth"]), **options), "timm"


def _light(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = {"stage_sizes": (1, 1, 11, 3), "shortcut": "avg_1x1", "attention": attention_block("eca")}
    return partial(ResNet, **options), "timm"


def _selective(match: re.Match[str]) -> Architecture:
    wide = match["groups"] is not None
    basic = match["depth"] in _BASIC
    kernels = partial(
        attention.SelectiveKernel,
        reduction=8 if basic else 16,
        divisor=16 if basic else 32 if wide else 8,
        split=not wide,
    )
    options: dict[str, Any] = {"spatial_conv": kernels, "spatial_norm": False} | _widths(match)
    if match["suffix"]:
        options |= {"stem": "deep", "stem_width": _STEMS["d"], "shortcut": "avg_1x1"}
    return partial(_plain(match["depth"]), **options), "timm"


def _legacy(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = {"attention": partial(attention.SqueezeExcite, reduction=16), "stem_pool": "ceil"}
    if match["depth"] in _BASIC:
        options["block"] = partial(BasicBlock, branch_activation=True)
    elif match["groups"] is None:
        options["stride_at"] = "1x1"
    return partial(_plain(match["depth"]), **options | _widths(match)), "cadene"


def _senet(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = {
        "stage_sizes": (3, 8, 36, 3),
        "block": partial(Bottleneck, reduce_first=2),
        "attention": partial(attention.SqueezeExcite, reduction=16),
        "groups": 64,
        "width_per_group": 4,
        "stem": "deep",
        "stem_width": (64, 64, 128),
        "stem_pool": "ceil",
        "shortcut": "3x3",
    }
    return partial(ResNet, **options), "cadene"


def _byobnet(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = {"stem": "deep", "stem_width": _STEMS["t"], "attention_placement": "3x3"}
    if match["family"] == "resnext":
        options["block"] = partial(Bottleneck, group_size=32)
    else:
        options["stem_pool"] = "none"
    if match["suffix"] == "ts":
        options["activation"] = nn.silu
    if match["attention"]:
        name = match["attention"].rstrip("_")
        options["attention"] = attention_block("gca" if name == "gc" else name)
    return partial(_plain(match["depth"]), **options), "timm-byobnet"


def _plain(depth: str) -> partial[ResNet]:
    return partial(ResNet, stage_sizes=_SIZES[depth], block=BasicBlock if depth in _BASIC else Bottleneck)


def _widths(match: re.Match[str]) -> dict[str, Any]:
    return {} if match["groups"] is None else {"groups": int(match["groups"]), "width_per_group": int(match["width"])}


_GROUPS = r"(?:_(?P<groups>\d+)x(?P<width>\d+)d)?"
_FAMILIES: Mapping[str, Callable[[re.Match[str]], Architecture]] = {
    r"ecaresnet(?P<depth>light)": _light,
    r"(?P<attention>se|eca)?(?P<wide>)resne(?:xt|t)(?P<depth>\d+)(?P<suffix>[dcts]?)" + _GROUPS: _resnet,
    r"(?P<attention>)(?P<wide>wide)_resnet(?P<depth>50|101)(?P<suffix>)_2" + _GROUPS: _resnet,
    r"skresne(?:xt|t)(?P<depth>\d+)(?P<suffix>d?)" + _GROUPS: _selective,
    r"legacy_seresne(?:xt|t)(?P<depth>\d+)" + _GROUPS: _legacy,
    r"legacy_senet(?P<depth>154)": _senet,
    r"(?P<attention>gc|se|eca_)?(?P<family>resnext)(?P<depth>26|50)(?P<suffix>ts)": _byobnet,
    r"(?P<attention>gc)(?P<family>resnet)(?P<depth>50)(?P<suffix>t)": _byobnet,
}
