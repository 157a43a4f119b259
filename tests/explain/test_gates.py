"""Attention maps and their statistics, by name, in nets of every kind."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.attention import (
    CBAM,
    ChannelSpatialAttention,
    GlobalContext,
    PyramidSqueezeAttention,
    ResidualAttention,
    ResidualUnit,
    SelectiveKernel,
    SqueezeExcite,
)
from attnjax.explain import attention_maps, gate_statistics, grad_cam
from attnjax.models import BasicBlock, Bottleneck, GGAMNet, ResidualAttentionNet, ResNet

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 12, 3)))
BACKBONE = partial(ResNet, (1, 1), widths=(8, 16), stem="cifar", stem_width=8)
RESNET = partial(BACKBONE, num_classes=3)
SCALES = partial(PyramidSqueezeAttention, kernels=(3, 5), groups=(1, 1))
MODULE = partial(ResidualAttention, p=0, t=1, post=0, bottom=1, pools=1)
NETS: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]]]] = {
    "cbam": (
        RESNET(BasicBlock, attention=partial(CBAM, reduction=4)),
        {
            "stage1_block0/attention/channel_gate/gate": (2, 1, 1, 8),
            "stage1_block0/attention/spatial_gate/gate": (2, 16, 12, 1),
            "stage2_block0/attention/channel_gate/gate": (2, 1, 1, 16),
            "stage2_block0/attention/spatial_gate/gate": (2, 8, 6, 1),
        },
    ),
    "psa": (
        RESNET(Bottleneck, spatial_conv=SCALES),
        {"stage1_block0/conv2/gate": (2, 2, 1, 1, 4), "stage2_block0/conv2/gate": (2, 2, 1, 1, 8)},
    ),
    "sk": (
        RESNET(Bottleneck, spatial_conv=SelectiveKernel, spatial_norm=False),
        {"stage1_block0/conv2/gate": (2, 1, 1, 2, 8), "stage2_block0/conv2/gate": (2, 1, 1, 2, 16)},
    ),
    "global context": (
        RESNET(BasicBlock, attention=partial(GlobalContext, reduction=4, scale=True), attention_stages=(2,)),
        {"stage2_block0/attention/attention": (2, 8, 6, 1), "stage2_block0/attention/gate": (2, 1, 1, 16)},
    ),
    "ran": (
        ResidualAttentionNet(
            *(ResidualUnit, MODULE, (1, 0), 3), widths=(8, 16), stage_units=(1, 1), stem="cifar", stem_width=8
        ),
        {"stage1_attention0/gate": (2, 16, 12, 8)},
    ),
    "ggam": (
        GGAMNet(partial(BACKBONE, block=BasicBlock), partial(ChannelSpatialAttention, 4), 3),
        {"attention/channel_weights": (2, 16), "attention/gate": (2, 8, 6, 1)},
    ),
    "plain": (RESNET(BasicBlock), {}),
}


@pytest.mark.parametrize("name", NETS)
def test_maps_have_the_names_of_the_gates_that_are_layers(name: str) -> None:
    net, expected = NETS[name]
    variables = attnjax.init(net, jax.random.key(0), IMAGES.shape)
    maps = jax.jit(partial(attention_maps, net))(variables, IMAGES)
    assert {key: leaf.shape for key, leaf in maps.items()} == expected
    assert list(maps) == list(expected)
    layers = [key for key, shape in expected.items() if key.endswith("/gate") and len(shape) == 4]

    def taps(images: jax.Array) -> dict[str, jax.Array]:
        return grad_cam(net, variables, images, layer=layers, method="eigen_cam").raw

    if layers:
        assert {key: leaf.shape for key, leaf in jax.eval_shape(taps, IMAGES).items()} == {
            key: expected[key][:3] for key in layers
        }


class Shared(nn.Module):
    """One block that is called twice."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        block = SqueezeExcite(2, name="block")
        return jnp.mean(block(block(x, train=train) - 1, train=train), (1, 2))


def test_calls_of_a_shared_block_have_an_index() -> None:
    images = jnp.concatenate([IMAGES, IMAGES[..., :1]], -1)
    variables = attnjax.init(Shared(), jax.random.key(0), images.shape)
    maps = attention_maps(Shared(), variables, images)
    assert list(maps) == ["block/gate[0]", "block/gate[1]"]
    assert np.abs(maps["block/gate[0]"] - maps["block/gate[1]"]).max() > 1e-4
    assert grad_cam(Shared(), variables, images, layer="block/gate[1]", target=0).map.shape == (2, 16, 12)


class Known(nn.Module):
    """A block with a gate of known values."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        gate = jnp.array([0.0, 0.04, 0.05, 0.5, 0.95, 0.96, 1.0, 0.5]).reshape(2, 2, 2, 1)
        self.sow("intermediates", "gate", gate)
        return x * gate


class Holder(nn.Module):
    """A net with a known gate."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return Known(name="block")(x, train=train)


def test_statistics_count_shut_and_open_gates() -> None:
    images = jnp.ones((2, 2, 2, 3))
    run: Any = partial(gate_statistics, Holder(), {}, images)
    (statistics,) = run().values()
    values = np.array([0.0, 0.04, 0.05, 0.5, 0.95, 0.96, 1.0, 0.5])
    np.testing.assert_allclose(statistics, (values.mean(), values.std(), 2 / 8, 2 / 8), rtol=1e-6)
    wider = run(dead=0.1, saturated=0.9)["block/gate"]
    assert (float(wider.dead), float(wider.saturated)) == (3 / 8, 3 / 8)
    with pytest.raises(ValueError, match=r"dead=0.9 must not be larger than saturated=0.1"):
        run(dead=0.9, saturated=0.1)
