"""Constructor calls that are read, and those that are refused."""

from __future__ import annotations

import pytest

from tests.golden import blocks, nets
from tests.golden.constructors import Call, Symbol, UnknownConstructor, map_constructor, parse


def test_a_call_is_read_without_running_it() -> None:
    call = parse("timm: SEModule(32, rd_ratio=1/4, act_layer=nn.SiLU, sizes=[-1, 2 * 3], inner=nn.Conv2d(3, 4))")
    assert call.name == "timm: SEModule"
    assert call.args == (32,)
    assert call.kwargs == {
        "rd_ratio": 0.25,
        "act_layer": Symbol("nn.SiLU"),
        "sizes": (-1, 6),
        "inner": Call("nn.Conv2d", (3, 4)),
    }


@pytest.mark.parametrize(
    ("constructor", "message"),
    [
        ("jc_cbam.Unknown(3)", "no rule for 'jc_cbam.Unknown'"),
        ("jc_cbam.CBAM(32, unknown=3)", "unexpected keyword argument 'unknown'"),
        ("timm: SEModule(32, act_layer=nn.Unknown)", "no function for the layer"),
        ("timm: SEModule(lambda: 3)", "an argument that no rule reads"),
        ("not a call", "cannot be read as a call"),
        ("timm.create_model('vit_tiny', pretrained=False)", "is not a net of attnjax"),
        ("timm.create_model('resnet18', block_args={'attn_layer': 'halo'})", "attn_layer='halo' is not one of"),
    ],
)
def test_what_no_rule_reads_is_refused_with_its_reason(constructor: str, message: str) -> None:
    with pytest.raises(UnknownConstructor, match=message):
        map_constructor(constructor, blocks.RULES | nets.RULES)
