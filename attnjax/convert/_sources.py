"""Sources of weights: for each family of PyTorch code, its names of our leaves."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn

Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Patterns of `re.sub`, applied in order to a leaf's path such as `stage1_block0/attention/mlp/fc1/weight`."""

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_OURS = re.compile(
    r"(^|\.)(stage\d\w*|attention\d*|channel_(gate|branch)|spatial_(gate|branch)|downsample_\w+|conv\d\.(conv\d|mlp)|path\d_\w+"
    r"|backbone|head_\w+|bn_final|block\d+|(pre|trunk|post)\d|mask_\w+)\."
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A family of PyTorch code.

    Attributes:
      name: name of the source, as in `source` arguments.
      about: short description of the code.
      rules: returns the rules for a net, from the paths of its leaves and its module.
      linear: pattern of the names of `nn.Linear` matrices; other matrices are stored as 1x1 convolutions.
      head: pattern of the names of the classifier.
      dead: pattern of names that the code never uses and our nets do not have.
      parts: pattern of the start of names that the source has, too, though they are ours.
      automatic: whether the source may be detected; not if `dead` matches names that other code uses.
    """

    name: str
    about: str
    rules: Callable[[Collection[str], nn.Module], Rules]
    linear: str = ""
    head: str = r"^fc\."
    dead: str = r"(?!)"
    parts: str = r"(?!)"
    automatic: bool = True

    def names(self, paths: Collection[str], model: nn.Module) -> dict[str, str]:
        """Returns the PyTorch name of each of our leaves, given as `collection/module/.../leaf`."""
        renamed = {path: _rename_leaf(path) for path in paths}
        rules = [(re.compile(pattern), new) for pattern, new in self.rules(set(renamed.values()), model)]
        names = {}
        for path, name in renamed.items():
            for pattern, new in rules:
                name = pattern.sub(new, name)
            names[path] = name.replace("/", ".")
        return names

    def head_classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Returns how many classes the classifier of a state dict has, None if there is no classifier."""
        rows = [shape[0] for name, shape in shapes.items() if re.search(self.head, name) and len(shape) > 1]
        return rows[-1] if rows else None

    def check(self, names: Mapping[str, str]) -> None:
        """Checks that the rules turned every path into a unique name of the source.

        Raises:
          ValueError: a path was not renamed, or two names are the same.
        """
        counts = collections.Counter(names.values())
        for path, name in names.items():
            if _OURS.search(re.sub(self.parts, "", name)) or counts[name] > 1:
                raise ValueError(f"source={self.name!r} ({self.about}) has no name for {path}")


def _rename_leaf(path: str) -> str:
    _, *modules, leaf = path.split("/")
    return "/".join([*modules, _LEAVES.get(leaf, leaf)])


def _shortcut(model: nn.Module) -> Any:
    return getattr(getattr(model, "backbone", model), "shortcut", "1x1")


_BLOCKS: Rules = [(r"(^|/)stage(\d+)_block(\d+)/", r"\1layer\2.\3/")]
_SHORTCUTS: Rules = [(r"/downsample_conv/", "/downsample.0/"), (r"/downsample_bn/", "/downsample.1/")]


def _has_attention(model: nn.Module, block: str) -> bool:
    used = getattr(model, "attention", model)
    return getattr(getattr(used, "func", used), "__name__", type(used).__name__) == block


def _resnet(paths: Collection[str], model: nn.Module) -> Rules:
    return [*_BLOCKS, *_SHORTCUTS]


def _attention_module(paths: Collection[str], model: nn.Module) -> Rules:
    def hidden(match: re.Match[str]) -> str:
        start, number = match[1], int(match[2])
        last = f"{match.string[: match.start()]}{start}bn{number}/weight" not in paths
        return f"{start}gate_c/gate_c_fc_{'final' if last else number - 1}/"

    def counted(name: str) -> Callable[[re.Match[str]], str]:
        return lambda match: f"{name}_{int(match[1]) - 1}/"

    bam: Rules = [
        (r"(channel_branch/)fc(\d+)/", hidden),
        (r"(channel_branch/)bn(\d+)/", r"\1gate_c/gate_c_bn_\2/"),
        (r"channel_branch/", "channel_att/"),
        (r"spatial_branch/", "spatial_att/gate_s/"),
        (r"(?<=gate_s/)reduce_conv/", "gate_s_conv_reduce0/"),
        (r"(?<=gate_s/)reduce_bn/", "gate_s_bn_reduce0/"),
        (r"(?<=gate_s/)dilated_conv(\d+)/", counted("gate_s_conv_di")),
        (r"(?<=gate_s/)dilated_bn(\d+)/", counted("gate_s_bn_di")),
        (r"(?<=gate_s/)final_conv/", "gate_s_conv_final/"),
        (r"^stage(\d+)_attention/", r"bam\1/"),
    ]
    cbam: Rules = [
        (r"/attention/channel_gate/mlp/fc1/", "/cbam/ChannelGate/mlp.1/"),
        (r"/attention/channel_gate/mlp/fc2/", "/cbam/ChannelGate/mlp.3/"),
        (r"/attention/spatial_gate/", "/cbam/SpatialGate/spatial/"),
    ]
    return [*bam, *cbam, *_resnet(paths, model)]


def _epsanet(paths: Collection[str], model: nn.Module) -> Rules:
    return [(r"/conv2/conv(\d+)/", r"/conv2/conv_\1/"), (r"/conv2/mlp/", "/conv2/se/"), *_resnet(paths, model)]


_SENET: Rules = [(r"/attention/mlp/fc1/", "/se/fc.0/"), (r"/attention/mlp/fc2/", "/se/fc.2/")]


def _senet_pytorch(paths: Collection[str], model: nn.Module) -> Rules:
    return [(r"^bn_final/", "bn1/"), *_SENET, *_resnet(paths, model)]


def _cadene(paths: Collection[str], model: nn.Module) -> Rules:
    return [
        (r"/attention/mlp/", "/se_module/"),
        (r"^(conv\d|bn\d)/", r"layer0/\1/"),
        (r"^fc/", "last_linear/"),
        *_resnet(paths, model),
    ]


def _timm(paths: Collection[str], model: nn.Module) -> Rules:
    rules: Rules = []
    if "conv3/weight" in paths:  # the deep stem is a sequence whose activations count too
        rules += [(r"^conv1/", "conv1.0/"), (r"^bn1/", "conv1.1/"), (r"^conv2/", "conv1.3/")]
        rules += [(r"^bn2/", "conv1.4/"), (r"^conv3/", "conv1.6/"), (r"^bn3/", "bn1/")]
    if _shortcut(model) == "avg_1x1":  # the average pool comes first
        rules += [(r"/downsample_conv/", "/downsample.1/"), (r"/downsample_bn/", "/downsample.2/")]
    if any("/path0_conv/" in path for path in paths):  # selective kernels, and convolutions that hold their norms
        rules += [(r"/path(\d+)_(conv|bn)/", r"/paths.\1.\2/"), (r"/(fc_reduce|fc_select)/", r"/attn.\1/")]
        rules += [(r"(/conv\d/)bn/", r"\1attn.bn/")]
        rules += [(r"(block\d+/conv\d/)(?=weight$)", r"\1conv/"), (r"(block\d+/)bn(\d)/", r"\1conv\2/bn/")]
    return [*rules, *_timm_attention(model, "se"), *_resnet(paths, model)]


def _timm_byobnet(paths: Collection[str], model: nn.Module) -> Rules:
    return [
        (r"^conv(\d)/", r"stem.conv\1.conv/"),
        (r"^bn(\d)/", r"stem.conv\1.bn/"),
        *_timm_attention(model, "attn"),
        (r"^stage(\d+)_block(\d+)/", lambda match: f"stages.{int(match[1]) - 1}.{match[2]}/"),
        (r"/(conv|bn)([13])/", r"/conv\2_1x1.\1/"),
        (r"/(conv|bn)2/", r"/conv2_kxk.\1/"),
        (r"/downsample_(conv|bn)/", r"/shortcut.\1/"),
        (r"^fc/", "head.fc/"),
    ]


def _timm_attention(model: nn.Module, name: str) -> Rules:
    return [
        (r"/attention/channel_gate/mlp/", f"/{name}/channel/"),
        (r"/attention/spatial_gate/", f"/{name}/spatial/conv/"),
        (r"/attention/attention_conv/", f"/{name}/conv_attn/"),
        (r"/attention/(add|scale)_mlp/", rf"/{name}/mlp_\1/"),
        (r"/attention/gather_conv(\d+)/", rf"/{name}/gather.conv\1/"),
        (r"/attention/gather_bn(\d+)/", rf"/{name}/gather.norm\1/"),
        (r"/attention/mlp/norm/", f"/{name}/bn/"),
        (r"/attention/mlp/", f"/{name}/mlp/" if _has_attention(model, "GatherExcite") else f"/{name}/"),
        (r"/attention/", f"/{name}/"),
    ]


def _ggam(paths: Collection[str], model: nn.Module) -> Rules:
    return [
        *_vgg(paths, "backbone/"),
        (r"^backbone/conv1/", "features.0/"),
        (r"^backbone/bn1/", "features.1/"),
        (r"^backbone/stage(\d+)_block(\d+)/", lambda match: f"features.{int(match[1]) + 3}.{match[2]}/"),
        (r"^attention/mlp/", "se_module/"),
        (r"^head_bn1/", "classifier.0/"),
        (r"^head_fc1/", "classifier.1/"),
        (r"^head_bn2/", "classifier.2/"),
        (r"^fc/", "classifier.4/"),
        *_SHORTCUTS,
    ]


def _detection(paths: Collection[str], model: nn.Module) -> Rules:
    first = min((int(found[1]) for path in paths if (found := re.match(r"pyramid/lateral(\d+)/", path))), default=0)
    kinds = {"lateral": "inner", "output": "layer"}

    def of_pyramid(match: re.Match[str]) -> str:
        return f"backbone/fpn/{kinds[match[1]]}_blocks.{int(match[2]) - first}.0/"

    backbone = [
        (pattern.replace("^", "^backbone/", 1), f"backbone/{new}")
        if pattern[0] == "^" and isinstance(new, str)
        else (pattern, new)
        for pattern, new in [*_epsanet(paths, model), *_SENET, *_attention_module(paths, model)]
    ]
    return [
        *backbone,
        (r"^backbone/(?!fpn/)", "backbone/body/"),
        (r"^pyramid/(lateral|output)(\d+)/", of_pyramid),
        (r"^pyramid/p(\d)/", r"backbone/fpn/extra_blocks.p\1/"),
        (r"^head/class_conv(\d+)/", r"head/classification_head.conv.\1.0/"),
        (r"^head/class_logits/", "head/classification_head.cls_logits/"),
        (r"^head/box_conv(\d+)/", r"head/regression_head.conv.\1.0/"),
        (r"^head/box_deltas/", "head/regression_head.bbox_reg/"),
        (r"^rpn/conv/", "rpn/head.conv.0.0/"),
        (r"^rpn/objectness/", "rpn/head.cls_logits/"),
        (r"^rpn/box_deltas/", "rpn/head.bbox_pred/"),
        (r"^box_head/fc1/", "roi_heads/box_head.fc6/"),
        (r"^box_head/fc2/", "roi_heads/box_head.fc7/"),
        (r"^box_head/class_logits/", "roi_heads/box_predictor.cls_score/"),
        (r"^box_head/box_deltas/", "roi_heads/box_predictor.bbox_pred/"),
        (r"^mask_head/conv(\d+)/", r"roi_heads/mask_head.\1.0/"),
        (r"^mask_head/upsample/", "roi_heads/mask_predictor.conv5_mask/"),
        (r"^mask_head/mask_logits/", "roi_heads/mask_predictor.mask_fcn_logits/"),
    ]


_RAN_HEAD = {"bn1": 0, "conv1": 2, "bn2": 3, "conv2": 5}


def _ran(paths: Collection[str], model: nn.Module) -> Rules:
    def depth(match: re.Match[str]) -> int:
        levels = re.compile(rf"{match.string[: match.start()]}/mask_down(\d+)_")
        return max(int(found[1]) for path in paths if (found := levels.match(path)))

    def down(match: re.Match[str]) -> str:
        unit = f".{int(match[2]) - 1}" if int(match[1]) == depth(match) else ""
        return f"/softmax{match[1]}_blocks{unit}/"

    return [
        (r"/mask_down(\d+)_(\d+)/", down),
        (r"/mask_up(\d+)_1/", lambda match: f"/softmax{2 * depth(match) - int(match[1])}_blocks/"),
        (r"/mask_(bn\d|conv\d)/", lambda match: f"/softmax{2 * depth(match)}_blocks.{_RAN_HEAD[match[1]]}/"),
        *_ran_units(paths),
    ]


def _ran_cifar(paths: Collection[str], model: nn.Module) -> Rules:
    def down(match: re.Match[str]) -> str:
        lowest = f"{match.string[: match.start()]}/mask_down{match[1]}_2/conv1/weight" in paths
        return f"/middle_2r_blocks.{int(match[2]) - 1}/" if lowest else f"/down_residual_blocks{match[1]}/"

    return [
        (r"/mask_down(\d+)_(\d+)/", down),
        (r"/mask_up(\d+)_1/", r"/up_residual_blocks\1/"),
        (r"/mask_(bn\d|conv\d)/", lambda match: f"/conv1_1_blocks.{_RAN_HEAD[match[1]]}/"),
        *_ran_units(paths),
    ]


def _ran_units(paths: Collection[str]) -> Rules:
    stages = max((int(match[1]) for path in paths if (match := re.match(r"stage(\d+)_", path))), default=1)
    first = 0 if stages == 5 else 1  # the net for 448 pixels has a stage more, and counts from 0

    def unit(match: re.Match[str]) -> str:
        return f"residual_block{int(match[1]) + int(match[2]) + first - 1}/"

    def module(match: re.Match[str]) -> str:
        number = f"_{int(match[2]) + 1}" if match[2] != "0" else ""
        return f"attention_module{int(match[1]) + first - 1}{number}/"

    return [
        (r"^conv1/", "conv1.0/"),
        (r"^bn1/", "conv1.1/"),
        (r"^bn_final/", "mpool2.0/"),
        (r"/downsample_conv/", "/conv4/"),
        (r"/pre1/", "/first_residual_blocks/"),
        (r"/trunk(\d+)/", lambda match: f"/trunk_branches.{int(match[1]) - 1}/"),
        (r"/post1/", "/last_blocks/"),
        (r"/mask_skip(\d)\d?/", r"/skip\1_connection_residual_block/"),
        (r"^stage(\d+)_unit(\d+)/", unit),
        (r"^stage(\d+)_attention(\d+)/", module),
    ]


def _torchvision(paths: Collection[str], model: nn.Module) -> Rules:
    return [*_vgg(paths, ""), *_resnet(paths, model)]


def _vgg(paths: Collection[str], prefix: str) -> Rules:
    """VGG's layers count in one sequence: three for each convolution, and one for each stage's pool."""

    def layer(match: re.Match[str]) -> str:
        stage, number = int(match[1]), int(match[3])
        pattern = re.compile(rf"{prefix}stage(\d+)_conv\d+/weight")
        before = sum(int(found[1]) < stage for path in paths if (found := pattern.fullmatch(path)))
        return f"features.{3 * (before + number - 1) + stage - 1 + (match[2] == 'bn')}/"

    return [(rf"^{prefix}stage(\d+)_(conv|bn)(\d+)/", layer)]


_RAN_DEAD = r"(^|\.)conv4\.weight$"  # made by every block, used by those that change the shape

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in [
        Source("torchvision", "torchvision's ResNets and VGGs", _torchvision, ".*", head=r"^(fc|classifier\.\d)\."),
        Source("attention-module", "CBAM and BAM, Jongchan/attention-module", _attention_module, linear=".*"),
        Source("epsanet", "EPSANet, murufeng/EPSANet", _epsanet, linear=r"^fc\."),
        Source("senet.pytorch", "SE without biases, moskomule/senet.pytorch", _senet_pytorch, linear=r"\bfc\."),
        Source("cadene", "official SENets as timm's legacy_se*", _cadene, r"^last_linear\.", r"^last_linear\."),
        Source("timm", "timm's ResNet family", _timm, linear=r"^fc\."),
        Source("timm-byobnet", "timm's nets of flexible blocks", _timm_byobnet, r"^head\.", r"^head\.fc\."),
        Source("ran-pytorch", "RAN, tengshaofeng/ResidualAttentionNetwork-pytorch", _ran, ".*", dead=_RAN_DEAD),
        Source("ran-pytorch-cifar", "RAN for 32x32 images of the same code", _ran_cifar, ".*", dead=_RAN_DEAD),
        Source(
            "ran-pytorch-pre",
            "RAN, the first net of the same code",
            _ran,
            ".*",
            dead=_RAN_DEAD + r"|^attention_module(2_2|3_2|3_3)\.",
            automatic=False,
        ),
        Source(
            "ggam",
            "GGAM, PRIS-CV/CAM-Guided-Attention",
            _ggam,
            r"^classifier\.",
            r"^classifier\.4\.",
            r"^s_se_module\.",
        ),
        Source(
            "torchvision-detection",
            "torchvision's RetinaNet, Faster and Mask R-CNN; backbones also of EPSANet and Jongchan/attention-module",
            _detection,
            linear=r"roi_heads\.box_|\bfc\.|\.ChannelGate\.|gate_c_fc",
            head=r"(?!)",
            parts=r"^(backbone\.(body|fpn)|roi_heads\.mask_(head|predictor\.\w+))\.",
        ),
    ]
}


def list_sources() -> dict[str, str]:
    """Lists the supported PyTorch sources: descriptions by name, as in `source` arguments.

    Example:
      >>> from attnjax.convert import list_sources
      >>> list_sources()["epsanet"]
      'EPSANet, murufeng/EPSANet'
    """
    return {name: source.about for name, source in SOURCES.items()}


def find_source(name: str) -> Source:
    """Looks up a source by name.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}: sources are {', '.join(SOURCES)}")
    return SOURCES[name]
