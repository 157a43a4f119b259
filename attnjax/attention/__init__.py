"""Attention blocks, one file per paper: (b, h, w, c) -> (b, h, w, c)."""

from attnjax.attention._cbam import CBAM, ChannelGate, SpatialGate
from attnjax.attention._se import SqueezeExcite

__all__ = ["CBAM", "ChannelGate", "SpatialGate", "SqueezeExcite"]
