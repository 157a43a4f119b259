"""Weights of the papers' PyTorch code, timm and torchvision, and back."""

from attnjax.convert._sources import SOURCES, Source
from attnjax.convert._torch import from_torch, to_torch

__all__ = ["SOURCES", "Source", "from_torch", "to_torch"]
