"""Attention blocks, one file per paper: (b, h, w, c) -> (b, h, w, c), or (b, h', w', features) where they convolve."""

from attnjax.attention._bam import BAM, BAMChannelBranch, BAMSpatialBranch
from attnjax.attention._cbam import CBAM, ChannelGate, SpatialGate
from attnjax.attention._coordinate import CoordinateAttention
from attnjax.attention._eca import EfficientChannelAttention
from attnjax.attention._gated import Gated
from attnjax.attention._gather_excite import GatherExcite
from attnjax.attention._ggam import ChannelSpatialAttention
from attnjax.attention._global_context import GlobalContext
from attnjax.attention._identity import identity_start
from attnjax.attention._psa import PyramidSqueezeAttention
from attnjax.attention._ran import ResidualAttention
from attnjax.attention._residual_unit import ResidualUnit
from attnjax.attention._se import EffectiveSqueezeExcite, SqueezeExcite
from attnjax.attention._selective_kernel import SelectiveKernel
from attnjax.attention._simam import SimAM
from attnjax.attention._triplet import TripletAttention

__all__ = [
    "BAM",
    "CBAM",
    "BAMChannelBranch",
    "BAMSpatialBranch",
    "ChannelGate",
    "ChannelSpatialAttention",
    "CoordinateAttention",
    "EffectiveSqueezeExcite",
    "EfficientChannelAttention",
    "Gated",
    "GatherExcite",
    "GlobalContext",
    "PyramidSqueezeAttention",
    "ResidualAttention",
    "ResidualUnit",
    "SelectiveKernel",
    "SimAM",
    "SpatialGate",
    "SqueezeExcite",
    "TripletAttention",
    "identity_start",
]
