"""Equal settings make equal nets, so that a jitted function with the net as a static argument is traced once."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax import Partial
from attnjax.attention import CBAM, ResidualAttention
from attnjax.layers import BatchNorm
from attnjax.models import ResNet

FAMILIES = [
    "cbam_resnet20_cifar",
    "preact_resnet20_cifar",
    "bam_resnet18_cifar",
    "se_resnext50_32x4d",
    "senet154",
    "epsanet50_small",
    "sk_resnet18_timm",
    "cbam_mobilenet",
    "attention56_cifar",
    "attentionnext56",
    "ggam_vgg16",
    "ggam_resnet20_cifar",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_nets_are_traced_once(name: str) -> None:
    settings: dict[str, Any] = {"num_classes": 7, "norm": Partial(BatchNorm, groups=2), "dtype": jnp.bfloat16}
    nets = [attnjax.create_model(name, **settings) for _ in range(2)]

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def classes(net: Any) -> jax.Array:
        return jnp.zeros(net.num_classes)

    assert [classes(net).shape for net in nets] == [(7,), (7,)]


@pytest.mark.parametrize("name", attnjax.list_models())
def test_named_nets_are_equal_to_themselves_alone(name: str) -> None:
    one, other = (attnjax.create_model(name) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != attnjax.create_model(name, num_classes=3)


def test_sequences_and_mappings_of_a_config_file_make_the_same_net() -> None:
    from_file = {"stage_sizes": [1, 1, 1], "widths": [4, 8, 16], "attention": {"reduction": 2, "pools": ["avg"]}}
    written = {"stage_sizes": (1, 1, 1), "widths": (4, 8, 16), "attention": {"pools": ("avg",), "reduction": 2}}
    one, other = (attnjax.create_model("cbam_resnet20_cifar", **options) for options in (from_file, written))
    assert one == other
    assert hash(one) == hash(other)


def test_partials_are_equal_by_value() -> None:
    inner = [Partial(BatchNorm, groups=2), functools.partial(BatchNorm, groups=2)]
    forms = [
        Partial(CBAM, 8, pools=["avg"], dtype=jnp.bfloat16, batch_norm=inner[0], options={"a": 1, "b": (2, [3])}),
        Partial(
            Partial(CBAM, 8, pools=("max",)),
            options={"b": [2, (3,)], "a": 1},
            batch_norm=inner[1],
            dtype=np.dtype("bfloat16"),
            pools=("avg",),
        ),
    ]
    forms += [pickle.loads(pickle.dumps(form)) for form in forms] + [copy.deepcopy(forms[0])]
    assert len(set(forms)) == 1
    others = [CBAM, Partial(CBAM), Partial(CBAM, 4), Partial(CBAM, reduction=8), Partial(BatchNorm, 8)]
    assert len({*forms, *others}) == 6
    assert Partial(CBAM, 8) != functools.partial(CBAM, 8)


def test_a_partial_is_called_and_read_like_one_of_functools_and_cannot_change() -> None:
    block = Partial(ResidualAttention, pools=2, dtype=jnp.float32)
    assert (block.func, block.args, block.keywords) == (ResidualAttention, (), {"pools": 2, "dtype": jnp.float32})
    assert block(pools=1).pools == 1
    block.keywords["pools"] = 5
    assert block().pools == 2
    with pytest.raises(AttributeError):
        block.pools = 3


def test_the_repr_of_a_partial_is_the_code_that_makes_it() -> None:
    partial = Partial(
        ResNet, (1, 1), norm=Partial(BatchNorm, groups=2), dtype=jnp.bfloat16, widths=[8, 16], stem="cifar"
    )
    names = {"Partial": Partial, "ResNet": ResNet, "BatchNorm": BatchNorm, "jnp": jnp}
    assert eval(repr(partial), names) == partial
    assert repr(partial).startswith("Partial(ResNet, (1, 1), norm=Partial(BatchNorm, groups=2), dtype=jnp.bfloat16,")


def test_partials_of_functools_still_make_nets() -> None:
    net = attnjax.create_model("resnet20_cifar", attention=functools.partial(CBAM, reduction=4))
    same = attnjax.create_model("resnet20_cifar", attention=Partial(CBAM, reduction=4))
    assert attnjax.count_parameters(net, (1, 8, 8, 3)) == attnjax.count_parameters(same, (1, 8, 8, 3))
