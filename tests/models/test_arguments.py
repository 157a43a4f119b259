"""Arguments of nets and residual blocks that would have no effect, and constructors that are none."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import attnjax
from attnjax import Partial
from attnjax.attention import CBAM, ResidualAttention
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, Bottleneck, PreActBasicBlock


@pytest.mark.parametrize(
    ("name", "argument", "others"),
    [
        ("resnet18", {"stride_at": "1x1"}, {}),
        ("resnet18", {"groups": 2}, {}),
        ("resnet18", {"width_per_group": 128}, {}),
        ("resnet18", {"attention_placement": "3x3"}, {}),
        ("resnet18", {"attention_stages": (1,)}, {}),
        ("cbam_resnet18", {"attention_stages": ()}, {}),
        ("resnet18", {"spatial_norm": False}, {}),
        ("resnet18", {"dropout_rate": 0.5}, {"num_classes": 0}),
        ("resnet20_cifar", {"stem_pool": "ceil"}, {}),
        ("resnet50", {"stride_at": "1x1"}, {"stage_sizes": (2,), "widths": (64,)}),
        ("resnet50", {"shortcut": "avg_1x1"}, {"stage_sizes": (2,), "widths": (64,)}),
        ("preact_resnet20_cifar", {"shortcut": "3x3"}, {}),
        ("resnet18", {"block": Partial(BasicBlock, attention=CBAM)}, {}),
        ("resnet50", {"block": {"stride_at": "1x1"}}, {}),
        ("ggam_resnet20_cifar", {"backbone": {"num_classes": 5}}, {}),
        ("ggam_resnet20_cifar", {"backbone": {"dropout_rate": 0.5}}, {}),
        ("attention56_cifar", {"stem_pool": "padded"}, {}),
        ("attention56_cifar", {"stage_modules": (1, 1, 0)}, {}),
        ("preact_resnet164_cifar", {"attention": ResidualAttention}, {}),
    ],
)
def test_a_net_refuses_an_argument_without_effect(name: str, argument: dict[str, Any], others: dict[str, Any]) -> None:
    attnjax.create_model(name, **others)
    with pytest.raises(ValueError, match="effect") as caught:
        attnjax.create_model(name, **argument, **others)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        (BasicBlock, {"attention_placement": "pre"}),
        (BasicBlock, {"attention": CBAM, "attention_placement": "stage"}),
        (BasicBlock, {"shortcut": "5x5"}),
        (Bottleneck, {"stride_at": "7x7"}),
        (Bottleneck, {"groups": 4, "group_size": 4}),
        (PreActBasicBlock, {"attention": CBAM, "attention_placement": "pre"}),
        (PreActBasicBlock, {"shortcut": "avg_1x1"}),
        (PreActBasicBlock, {"spatial_norm": False}),
    ],
)
def test_a_residual_block_refuses_wrong_arguments_and_those_without_effect(
    block: type[nn.Module], arguments: dict[str, Any]
) -> None:
    block(16, attention=arguments.get("attention"))
    with pytest.raises(ValueError, match=list(arguments)[-1] if "groups" not in arguments else "groups"):
        block(16, **arguments)


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x


@pytest.mark.parametrize("given", ["cbam", CBAM(reduction=4), 3, NoTrain], ids=["string", "module", "number", "train"])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("resnet18", "attention"),
        ("resnet18", "norm"),
        ("resnet18", "block"),
        ("resnet18", "spatial_conv"),
        ("mobilenet", "attention"),
        ("attention56", "attention"),
        ("attention56", "unit"),
        ("ggam_resnet50", "attention"),
        ("ggam_resnet50", "backbone"),
    ],
)
def test_what_is_no_constructor_is_refused_at_once(name: str, argument: str, given: Any) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        attnjax.create_model(name, **{argument: given})
    assert "\n" not in str(caught.value)
    if isinstance(given, nn.Module):
        assert repr(Partial(CBAM, reduction=4)) in str(caught.value)


def test_a_block_needs_none_of_the_fields_that_a_net_sets() -> None:
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            return x / 2

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            return BatchNorm(name="inner")(x, train=train)

    for name in ("resnet20_cifar", "mobilenet", "ggam_resnet20_cifar"):
        net = attnjax.create_model(name, num_classes=3, attention=Half, norm=Norm)
        variables = jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
        assert any("inner" in path for path in paths)
