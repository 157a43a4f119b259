"""Arguments of attention blocks that would have no effect."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import pytest

from attnjax.attention import (
    BAM,
    CBAM,
    BAMSpatialBranch,
    ChannelGate,
    ChannelSpatialAttention,
    CoordinateAttention,
    EfficientChannelAttention,
    GatherExcite,
    GlobalContext,
    ResidualAttention,
    SelectiveKernel,
    SqueezeExcite,
)


@pytest.mark.parametrize(
    ("block", "argument", "others"),
    [
        (CBAM, {"kernel_size": 3}, {"spatial": False}),
        (CBAM, {"arrangement": "parallel"}, {"spatial": False}),
        (CBAM, {"descriptor": "conv"}, {"spatial": False}),
        (CBAM, {"spatial_norm": "none"}, {"spatial": False}),
        (CBAM, {"reduction": 4}, {"hidden": 8}),
        (ChannelGate, {"divisor": 8}, {"hidden": 8}),
        (SqueezeExcite, {"reduction": 4}, {"hidden": 8}),
        (CoordinateAttention, {"min_hidden": 4}, {"hidden": 8}),
        (CoordinateAttention, {"min_hidden": 4}, {"divisor": 8}),
        (SelectiveKernel, {"min_hidden": 4}, {"features": 32, "divisor": 8}),
        (EfficientChannelAttention, {"gamma": 1.0}, {"kernel_size": 3}),
        (EfficientChannelAttention, {"beta": 2.0}, {"kernel_size": 3}),
        (EfficientChannelAttention, {"use_bias": True}, {"hidden": 4}),
        (EfficientChannelAttention, {"activation": nn.silu}, {}),
        (GatherExcite, {"pool": "avg_max"}, {"parametrised": True}),
        (GatherExcite, {"padded": True}, {}),
        (GatherExcite, {"padded": True}, {"parametrised": True, "extent": 2}),
        (GatherExcite, {"reduction": 4}, {}),
        (GatherExcite, {"activation": nn.silu}, {"parametrised": True}),
        (GlobalContext, {"gate_fn": nn.tanh}, {}),
        (GlobalContext, {"reduction": 4}, {"hidden": 8}),
        (ChannelSpatialAttention, {"epsilon": 1e-3}, {}),
        (BAM, {"dilation": 2}, {"num_dilated": 0}),
        (BAMSpatialBranch, {"dilation": 2}, {"num_dilated": 0}),
        (ResidualAttention, {"skip": "port"}, {"mask": "local"}),
        (ResidualAttention, {"bottom": 3}, {"mask": "local"}),
        (ResidualAttention, {"pool": "padded"}, {"mask": "local"}),
    ],
)
def test_a_block_refuses_an_argument_without_effect(
    block: type[nn.Module], argument: dict[str, Any], others: dict[str, Any]
) -> None:
    block(**others)
    (name,) = argument
    with pytest.raises(ValueError, match=rf"^{name}=.* has no effect with [^\n]*$"):
        block(**argument, **others)
