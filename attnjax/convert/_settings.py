"""Settings of a net that do not show in its variables, but change its function compared to the source's code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn

Settings = dict[str, tuple[Any, ...]]
"""Allowed values by `Class.field`."""

Fields = Mapping[str, Any]

_RESNET: Settings = {
    "ResNet.stride_at": ("3x3",),
    "ResNet.stem_pool": ("padded",),
    "BasicBlock.branch_activation": (False,),
}
_CADENE: Settings = {"ResNet.stem_pool": ("ceil",), "BasicBlock.branch_activation": (True,)}
_TIMM: Settings = _RESNET | {"CBAM.descriptor": ("pool_mean_first", "pool_average")}
_JONGCHAN: Settings = _RESNET | {
    "BAM.fuse": ("product",),
    "BAM.norm_placement": ("hidden",),
    "CBAM.descriptor": ("pool",),
}
_EPSANET: Settings = _RESNET | {"PyramidSqueezeAttention.order": ("reversed",)}
_PADDED: Settings = {"ResidualAttention.pool": ("padded",), "ResidualAttentionNet.stem_pool": ("padded",)}
_PORT: Settings = _PADDED | {"ResidualAttention.skip": ("port",)}

_ANCHORS = {"rounded_anchors": (True,), "anchor_strides": ("image",), "clamp_both": (False,)}
_REGIONS = _ANCHORS | {"sampling_ratio": (2,), "aligned": (False,), "level_epsilon": ("outside",)}
_DETECTION: Settings = {f"RetinaNet.{name}": allowed for name, allowed in _ANCHORS.items()}
_DETECTION["RetinaNet.extra_activation"] = (True,)
_DETECTION |= {f"{net}.{name}": allowed for net in ("FasterRCNN", "MaskRCNN") for name, allowed in _REGIONS.items()}

SETTINGS: Mapping[str, Settings] = {
    "torchvision": _RESNET,
    "attention-module": _JONGCHAN,
    "epsanet": _EPSANET,
    "senet.pytorch": _RESNET,
    "cadene": _CADENE,
    "timm": _TIMM,
    "timm-byobnet": _TIMM | {"ResNet.stem_pool": ("padded", "none")},
    "ran-pytorch": _PORT,
    "ran-pytorch-cifar": _PORT,
    "ran-pytorch-pre": _PADDED | {"ResidualAttention.skip": ("skip",)},
    "ggam": _RESNET,
    "torchvision-detection": _EPSANET | _JONGCHAN | _DETECTION,
}
"""Settings of each source's code, where our nets can differ with the same names and shapes."""

_IDLE: Mapping[str, Callable[[Fields], bool]] = {  # where a setting has no effect
    "ResNet.stem_pool": lambda fields: fields["stem"].startswith("cifar"),
    "ResNet.stride_at": lambda fields: not _is_bottleneck(fields["block"]) or len(fields["stage_sizes"]) < 2,
    "ResidualAttentionNet.stem_pool": lambda fields: fields["stem"].startswith("cifar"),
    "ResidualAttention.pool": lambda fields: fields["pools"] < 1,
    "ResidualAttention.skip": lambda fields: fields["pools"] < 2,
    "CBAM.descriptor": lambda fields: not fields["spatial"],
}


def differences(model: nn.Module, settings: Settings) -> list[str]:
    """Describes the settings of a net that differ from the source's code, without repetitions."""
    found: dict[str, None] = {}
    for name, fields in _parts(model):
        for setting, allowed in settings.items():
            owner, _, field = setting.partition(".")
            if owner != name or field not in fields or _IDLE.get(setting, lambda _: False)(fields):
                continue
            if fields[field] not in allowed:
                found[f"{name} has {field}={fields[field]!r}, not {' or '.join(map(repr, allowed))}"] = None
    return list(found)


def _parts(value: Any) -> Iterator[tuple[str, Fields]]:
    """Yields name and fields of a module, and of all modules and module constructors in its fields."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
        return
    owner = type(value) if isinstance(value, nn.Module) else getattr(value, "func", value)
    if not (isinstance(owner, type) and issubclass(owner, nn.Module)):
        return
    declared = [field for field in dataclasses.fields(owner) if field.init and field.name not in ("parent", "name")]
    if isinstance(value, nn.Module):
        fields = {field.name: getattr(value, field.name) for field in declared}
    else:
        names = [field.name for field in declared]
        fields = {field.name: field.default for field in declared if field.default is not dataclasses.MISSING}
        fields |= dict(zip(names, getattr(value, "args", ()), strict=False)) | getattr(value, "keywords", {})
    yield owner.__name__, fields
    for field in fields.values():
        yield from _parts(field)


def _is_bottleneck(block: Any) -> bool:
    return any(base.__name__ == "Bottleneck" for base in getattr(block, "func", block).__mro__)
