"""Backbones, the table of named nets, and what can be told of a net without running it."""

from attnjax.models._init import count_macs, count_parameters, init
from attnjax.models._resnet import BasicBlock, Bottleneck, ResNet
from attnjax.models.zoo import ModelInfo, Result, create_model, list_models, model_info

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ModelInfo",
    "ResNet",
    "Result",
    "count_macs",
    "count_parameters",
    "create_model",
    "init",
    "list_models",
    "model_info",
]
