"""Attention blocks, one file per paper: (b, h, w, c) -> (b, h, w, c)."""

from attnjax.attention._bam import BAM, BAMChannelBranch, BAMSpatialBranch
from attnjax.attention._cbam import CBAM, ChannelGate, SpatialGate
from attnjax.attention._ggam import ChannelSpatialAttention
from attnjax.attention._psa import PyramidSqueezeAttention
from attnjax.attention._se import SqueezeExcite

__all__ = [
    "BAM",
    "BAMChannelBranch",
    "BAMSpatialBranch",
    "CBAM",
    "ChannelGate",
    "ChannelSpatialAttention",
    "PyramidSqueezeAttention",
    "SpatialGate",
    "SqueezeExcite",
]
