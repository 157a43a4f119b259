"""Backbones, the table of named nets, and the figures of a net that need no run."""

from attnjax.models._blocks import BasicBlock, Bottleneck, PreActBasicBlock
from attnjax.models._ggam_net import GGAMNet
from attnjax.models._info import ModelInfo, Result
from attnjax.models._init import count_macs, count_parameters, init
from attnjax.models._mobilenet import MobileNet, SeparableBlock
from attnjax.models._ran import InceptionUnit, ResidualAttentionNet, resnext_unit
from attnjax.models._registry import create_model, list_models, model_constructor, model_info
from attnjax.models._resnet import ResNet
from attnjax.models._vgg import VGG

__all__ = [
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "GGAMNet",
    "InceptionUnit",
    "MobileNet",
    "ModelInfo",
    "PreActBasicBlock",
    "ResNet",
    "ResidualAttentionNet",
    "Result",
    "SeparableBlock",
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "list_models",
    "model_constructor",
    "model_info",
    "resnext_unit",
]
