"""Residual Attention Networks: depth, sizes, stems, units and errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import attnjax
from attnjax.attention import ResidualAttention, ResidualUnit, SqueezeExcite
from attnjax.models import InceptionUnit, ResidualAttentionNet, resnext_unit
from tests.kinds import only_in_full

_attention = partial(ResidualAttention, t=1, bottom=1, post=0)


def pools(*counts: int | None, **options: Any) -> tuple[Any, ...]:
    return tuple(None if count is None else partial(_attention, pools=count, **options) for count in counts)


small = partial(
    ResidualAttentionNet,
    attention=pools(2, 1),
    stage_modules=(1, 1),
    num_classes=5,
    widths=(8, 16),
    stage_units=(1, 1),
    stem="cifar",
    stem_width=8,
)
_narrow = partial(resnext_unit, groups=2)
_after = {"pre_activation": False}
NETS: dict[str, ResidualAttentionNet] = {
    "Attention": small(ResidualUnit),
    "AttentionNeXt": small(_narrow, attention=pools(2, 1, unit=_narrow, **_after), **_after),
    "SE after a pooled stem": small(ResidualUnit, attention=SqueezeExcite, stem="cifar_5x5", widths=(16, 16)),
    "AttentionInception": small(
        InceptionUnit,
        attention=pools(None, 1, unit=InceptionUnit, **_after),
        stage_modules=(0, 1),
        widths=(64, 64),
        **_after,
    ),
    "ImageNet stem": small(ResidualUnit, attention=pools(1, None), stage_modules=(1, 0), stem="imagenet"),
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
SHAPE = (2, 18, 13, 3)


def images(shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


@pytest.fixture(scope="module")
def variables() -> dict[int, dict[str, Any]]:
    return {id(net): attnjax.init(net, jax.random.key(0), SHAPE) for net in NETS.values()}


@every_net
def test_logits_are_float32_and_an_image_does_not_depend_on_its_batch(net: nn.Module, variables: Any) -> None:
    logits = jax.jit(partial(net.apply, train=False))(variables[id(net)], images())
    chex.assert_shape(logits, (2, 5))
    assert logits.dtype == jnp.float32
    alone = jax.jit(partial(net.clone(dtype=jnp.bfloat16).apply, train=False))(variables[id(net)], images()[1:])
    assert alone.dtype == jnp.float32
    assert np.abs(alone - logits[1:]).max() < 0.1 * np.abs(logits).max()


@every_net
def test_finite_gradients_reach_every_parameter(net: nn.Module, variables: Any) -> None:
    tree = variables[id(net)]

    @jax.jit
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits, _ = net.apply({**tree, "params": params}, images(), train=True, mutable=["batch_stats"])
            return jnp.sum(logits**2)

        return jax.grad(loss)(params)

    grads = gradient(jax.tree.map(lambda leaf: leaf + 0.1, tree["params"]))  # no unit of a gate is dead
    chex.assert_tree_all_finite(grads)
    dead = {"/".join(path) for path, leaf in flatten_dict(grads).items() if not np.abs(leaf).max() > 0}
    assert dead == set()


def test_features_are_the_stages_in_order_and_feed_the_classifier(variables: Any) -> None:
    net = NETS["AttentionNeXt"]
    tree = variables[id(net)]
    maps = jax.jit(partial(net.apply, train=False, method="features"))(tree, images())
    assert [(name, value.shape) for name, value in maps.items()] == [
        ("stem", (2, 18, 13, 8)),
        ("stage1", (2, 18, 13, 8)),
        ("stage2", (2, 9, 7, 16)),
    ]
    logits = jax.jit(partial(net.apply, train=False))(tree, images())
    fc = tree["params"]["fc"]
    np.testing.assert_allclose(
        logits, maps["stage2"].mean((1, 2)) @ fc["kernel"] + fc["bias"][None], rtol=1e-4, atol=1e-5
    )
    headless = {**tree, "params": {name: leaf for name, leaf in tree["params"].items() if name != "fc"}}
    pooled = jax.jit(partial(net.clone(num_classes=0).apply, train=False))(headless, images())
    np.testing.assert_allclose(pooled, maps["stage2"].mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_frozen_batch_norm_trains_with_its_running_statistics(variables: Any) -> None:
    net = NETS["Attention"]
    tree = variables[id(net)]
    train = jax.jit(partial(net.apply, train=True, freeze_batch_norm=True, mutable=["batch_stats"]))
    frozen, after = train(tree, images())
    np.testing.assert_allclose(frozen, jax.jit(partial(net.apply, train=False))(tree, images()), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(after["batch_stats"], tree["batch_stats"])


def names(net: ResidualAttentionNet, size: int) -> dict[str, tuple[int, ...]]:
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))
    return {path: leaf.shape for path, leaf in flatten_dict(shapes["params"], sep="/").items()}


def trunk_depth(parameters: dict[str, Any]) -> int:
    """Layers on the longest way that avoids the masks: three a unit, the stem and the classifier."""
    units = {path.rpartition("/conv1/")[0] for path in parameters if "/conv1/" in path}
    return 2 + 3 * sum("mask_" not in unit for unit in units)


@pytest.mark.parametrize("modules", [1, 2, only_in_full(6)])
def test_depth_is_36_m_plus_20(modules: int) -> None:
    attention = [partial(ResidualAttention, pools=count) for count in (3, 2, 1)]
    cifar = partial(ResidualAttentionNet, ResidualUnit, attention, (modules,) * 3, 10, stem="cifar", stem_width=16)
    net = cifar(widths=(64, 128, 256), stage_units=(2, 2, 2))
    parameters = names(net, 32)
    assert trunk_depth(parameters) == 36 * modules + 20
    count = sum(int(np.prod(shape)) for shape in parameters.values())
    assert count == {1: 1_030_394, 2: 1_841_274, 6: 5_084_794}[modules]


def test_imagenet_nets_take_224_and_320_pixels() -> None:
    attention = [*(partial(ResidualAttention, pools=count) for count in (3, 2, 1)), None]
    net = ResidualAttentionNet(ResidualUnit, attention)
    parameters = names(net, 224)
    assert trunk_depth(parameters) == 56
    assert sum(int(np.prod(shape)) for shape in parameters.values()) == 31_810_728
    assert parameters == names(net, 320)
    assert net.bind({}).smallest_input == 31


@pytest.mark.parametrize(
    ("options", "smallest"),
    [
        ({}, 4),
        ({"attention": pools(1, 3)}, 15),
        ({"attention": pools(1, 3), "strides": (1, 1)}, 8),
        ({"attention": pools(2, 1, pool="padded")}, 1),
        ({"stem": "imagenet"}, 15),
        ({"stem": "imagenet", "stem_pool": "padded"}, 13),
        ({"stem": "cifar_5x5"}, 8),
    ],
)
def test_the_smallest_image_works_and_a_smaller_one_is_refused(options: dict[str, Any], smallest: int) -> None:
    net = small(ResidualUnit, **options)
    assert net.bind({}).smallest_input == smallest
    names(net, smallest)
    if smallest > 1:
        with pytest.raises(
            ValueError, match=rf"at least {smallest}x{smallest} pixels, got {smallest - 1}x{smallest - 1}"
        ):
            names(net, smallest - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "tiny"}, "stem='tiny' is not one of 'imagenet', 'cifar', 'cifar_5x5'"),
        ({"stem_pool": "same"}, "stem_pool='same' is not one of 'ceil', 'padded'"),
        ({"stage_units": (1,)}, r"stage_units has 1 stages and widths=\(8, 16\) 2"),
        ({"attention": pools(1)}, r"attention has 1 stages and widths=\(8, 16\) 2"),
        ({"stage_units": (1, 0)}, r"stage_units=\(1, 0\) and strides=\(1, 2\) must leave at least one unit"),
        ({"attention": pools(1, None)}, r"stage_modules=\(1, 1\) needs an attention for stage 2"),
        ({"num_classes": -1}, "num_classes=-1, stem_width=8"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names(small(ResidualUnit, **options), 16)


@pytest.mark.parametrize("x", [jnp.zeros((8, 8, 3)), jnp.zeros((1, 8, 8, 3), jnp.uint8)], ids=["rank", "uint8"])
def test_wrong_inputs_are_named(x: jax.Array) -> None:
    with pytest.raises(ValueError, match=r"expected floating images of shape \(b, h, w, c\), got"):
        jax.eval_shape(lambda x: NETS["Attention"].init(jax.random.key(0), x, train=False), x)


def test_features_of_an_inception_unit_must_be_a_multiple_of_64() -> None:
    with pytest.raises(ValueError, match="features=100 must be a positive multiple of 64; the nearest is 128"):
        jax.eval_shape(lambda: InceptionUnit(100).init(jax.random.key(0), images(), train=False))
