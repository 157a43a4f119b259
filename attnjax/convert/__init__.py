"""Weights of the papers' PyTorch code, timm and torchvision, and back."""

from attnjax.convert._files import load_variables, read_weights, save_weights
from attnjax.convert._pretrained import Pretrained, load_pretrained
from attnjax.convert._sources import list_sources
from attnjax.convert._torch import from_torch, to_torch

__all__ = [
    "Pretrained",
    "from_torch",
    "list_sources",
    "load_pretrained",
    "load_variables",
    "read_weights",
    "save_weights",
    "to_torch",
]
