"""timm's names of nets that our ResNet can represent, and their constructors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from attnjax import attention
from attnjax._choice import check_choice
from attnjax._partial import Partial
from attnjax.layers import BatchNorm
from attnjax.models import Bottleneck, ResNet
from attnjax.models._architectures import (
    caffe,
    caffe_1x1,
    eca_d,
    legacy,
    r18,
    r34,
    r50,
    r101,
    r152,
    se,
    se_timm,
    senet154,
    sk,
    sk_timm,
    sk_timm_basic,
)

Architecture = tuple[Callable[..., nn.Module], str]
"""A constructor, called with `num_classes`, `dtype` and so on, and the source whose names the weights have."""

_DEPTHS: Mapping[str, Partial[ResNet]] = {
    "10": Partial(r18, stage_sizes=(1, 1, 1, 1)),
    "14": Partial(r50, stage_sizes=(1, 1, 1, 1)),
    "18": r18,
    "26": Partial(r50, stage_sizes=(2, 2, 2, 2)),
    "34": r34,
    "50": r50,
    "101": r101,
    "152": r152,
    "200": Partial(r50, stage_sizes=(3, 24, 36, 3)),
    "269": Partial(r50, stage_sizes=(3, 30, 48, 8)),
}
_BASIC = ("10", "18", "34")
_STEMS = {"d": (32, 32, 64), "c": (32, 32, 64), "t": (24, 32, 64), "s": (64, 64, 128)}
_KNOWN = (
    "resnet, resnext and wide_resnet with the prefixes se, eca, sk and legacy_se, and the gc, se and eca_ nets of the "
    "sizes 26ts, 50t and 50ts"
)


def architecture(name: str, attn_layer: str | None = None) -> Architecture:
    """Returns the constructor of the net that timm calls `name`.

    Args:
      name: timm's name, without the tag after the dot.
      attn_layer: timm's name of the attention block, if it differs from that of the net's name.

    Raises:
      ValueError: it is not supported.
    """
    for pattern, build in _FAMILIES.items():
        match = re.fullmatch(pattern, name)
        if match:
            constructor, source = build(match)
            if attn_layer is not None:
                constructor = Partial(constructor, attention=attention_block(attn_layer))
            return constructor, source
    raise ValueError(f"timm's {name!r} is not a net of attnjax: known are {_KNOWN}")


def attention_block(name: str) -> Callable[..., nn.Module]:
    """Returns the constructor of the block that timm calls `name`, with timm's defaults.

    Raises:
      ValueError: it is not supported.
    """
    context = Partial(attention.GlobalContext, reduction=8, divisor=1, epsilon=1e-6)
    cbam = Partial(attention.CBAM, reduction=16, divisor=1, use_bias=False, spatial_norm=BatchNorm)
    blocks: dict[str, Callable[..., nn.Module]] = {
        "se": se_timm["attention"],
        "ese": attention.EffectiveSqueezeExcite,
        "eca": attention.EfficientChannelAttention,
        "ceca": Partial(attention.EfficientChannelAttention, circular=True),
        "coord": Partial(attention.CoordinateAttention, reduction=24, divisor=8),
        "ge": Partial(attention.GatherExcite, extent=0, parametrised=False, use_mlp=True, reduction=16, divisor=1),
        "gc": Partial(context, add=False, scale=True),
        "gca": Partial(context, add=True, scale=False),
        "cbam": Partial(cbam, descriptor="pool_mean_first"),
        "lcbam": Partial(cbam, pools=("avg_max",), descriptor="pool_average"),
    }
    check_choice("timm's attn_layer", name, blocks)
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
    return Partial(_DEPTHS[match["depth"]], **options), "timm"


def _light(match: re.Match[str]) -> Architecture:
    return Partial(r50, stage_sizes=(1, 1, 11, 3), **eca_d), "timm"


def _selective(match: re.Match[str]) -> Architecture:
    form = sk if match["groups"] else sk_timm_basic if match["depth"] in _BASIC else sk_timm
    options = form | _widths(match)
    if match["suffix"]:
        options |= {"stem": "deep", "stem_width": _STEMS["d"], "shortcut": "avg_1x1"}
    return Partial(_DEPTHS[match["depth"]], **options), "timm"


def _legacy(match: re.Match[str]) -> Architecture:
    form = legacy if match["depth"] in _BASIC else caffe if match["groups"] else caffe_1x1
    return Partial(_DEPTHS[match["depth"]], **se | form | _widths(match)), "cadene"


def _senet(match: re.Match[str]) -> Architecture:
    return (Partial(senet154, **se, **caffe), "cadene") if match["legacy"] else (Partial(senet154, **se_timm), "timm")


def _byobnet(match: re.Match[str]) -> Architecture:
    options: dict[str, Any] = {"stem": "deep", "stem_width": _STEMS["t"], "attention_placement": "3x3"}
    if match["family"] == "resnext":
        options["block"] = Partial(Bottleneck, group_size=32)
    else:
        options["stem_pool"] = "none"
    if match["suffix"] == "ts":
        options["activation"] = nn.silu
    if match["attention"]:
        name = match["attention"].rstrip("_")
        options["attention"] = attention_block("gca" if name == "gc" else name)
    return Partial(_DEPTHS[match["depth"]], **options), "timm-byobnet"


def _widths(match: re.Match[str]) -> dict[str, Any]:
    return {} if not match["groups"] else {"groups": int(match["groups"]), "width_per_group": int(match["width"])}


_GROUPS = r"_(?P<groups>\d+)x(?P<width>\d+)d"
_NO_GROUPS = r"(?P<groups>)(?P<width>)"
_BLOCK = r"(?P<attention>se|eca)?"
_SUFFIX = r"(?P<suffix>[dcts]?)"
_FAMILIES: Mapping[str, Callable[[re.Match[str]], Architecture]] = {
    r"(?P<legacy>legacy_)?senet154": _senet,
    r"ecaresnetlight": _light,
    rf"{_BLOCK}(?P<wide>)resnet(?P<depth>{'|'.join(_DEPTHS)}){_SUFFIX}{_NO_GROUPS}": _resnet,
    rf"{_BLOCK}(?P<wide>)resnext(?P<depth>26|50|101){_SUFFIX}{_GROUPS}": _resnet,
    rf"(?P<attention>)(?P<wide>wide)_resnet(?P<depth>50|101)(?P<suffix>)_2{_NO_GROUPS}": _resnet,
    rf"skresnet(?P<depth>18|34|50)(?P<suffix>d?){_NO_GROUPS}": _selective,
    rf"skresnext(?P<depth>50)(?P<suffix>){_GROUPS}": _selective,
    rf"legacy_seresnet(?P<depth>18|34|50|101|152){_NO_GROUPS}": _legacy,
    rf"legacy_seresnext(?P<depth>26|50|101){_GROUPS}": _legacy,
    r"(?P<attention>gc)(?P<family>resnext)(?P<depth>26|50)(?P<suffix>ts)": _byobnet,
    r"(?P<attention>se|eca_)?(?P<family>resnext)(?P<depth>26)(?P<suffix>ts)": _byobnet,
    r"(?P<attention>gc)(?P<family>resnet)(?P<depth>50)(?P<suffix>t)": _byobnet,
}
