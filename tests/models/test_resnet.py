"""ResNets with attention: placement, stems, frozen batch norm, and conformance on small nets."""

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
from attnjax.attention import CBAM, SqueezeExcite
from attnjax.layers import BatchNorm, Conv
from attnjax.models import BasicBlock, Bottleneck, PreActBasicBlock, ResNet

small = partial(ResNet, (1, 1), num_classes=5, widths=(16, 32), stem="cifar", stem_width=16)
NETS: dict[str, ResNet] = {
    "plain": small(BasicBlock),
    "SE on branches": small(BasicBlock, attention=SqueezeExcite),
    "CBAM on branches": small(BasicBlock, attention=CBAM),
    "CBAM after stages": small(Bottleneck, attention=CBAM, attention_placement="stage"),
    "SE in stage 2": small(Bottleneck, attention=SqueezeExcite, attention_stages=(2,), stride_at="1x1"),
    "ImageNet stem, ceil": small(BasicBlock, attention=CBAM, stem="imagenet", stem_pool="ceil"),
    "ResNeXt": small(Bottleneck, attention=CBAM, groups=4, width_per_group=32),
    "deep stem, ResNet-D": small(Bottleneck, stem="deep", stem_width=(8, 8, 16), shortcut="avg_1x1"),
    "SENet": small(partial(Bottleneck, reduce_first=2), attention=SqueezeExcite, shortcut="3x3", groups=2),
    "pre-activation": small(PreActBasicBlock, attention=SqueezeExcite),
    "deep stem without pool, SiLU": small(
        partial(Bottleneck, group_size=8),
        stem="deep",
        stem_pool="none",
        attention_placement="3x3",
        attention=SqueezeExcite,
        activation=nn.silu,
    ),
    "SE before": small(BasicBlock, attention=partial(SqueezeExcite, reduction=4), attention_placement="pre"),
    "SE after": small(BasicBlock, attention=SqueezeExcite, attention_placement="post"),
    "SE on shortcuts": small(
        partial(BasicBlock, branch_activation=True), attention=SqueezeExcite, attention_placement="identity"
    ),
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
SHAPE = (2, 16, 12, 3)


def images(shape: tuple[int, ...] = SHAPE, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape, dtype)


@pytest.fixture(scope="module")
def variables() -> dict[int, dict[str, Any]]:
    return {id(net): attnjax.init(net, jax.random.key(0), SHAPE) for net in NETS.values()}


@every_net
def test_logits_are_float32_and_an_image_does_not_depend_on_its_batch(net: ResNet, variables: Any) -> None:
    run = jax.jit(partial(net.apply, train=False))
    logits = run(variables[id(net)], images())
    chex.assert_shape(logits, (2, 5))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(run(variables[id(net)], images()[1:]), logits[1:], rtol=1e-4, atol=1e-5)


@every_net
def test_vmap_equals_the_loop(net: ResNet, variables: Any) -> None:
    run = partial(net.apply, variables[id(net)], train=False)
    stack = images((2, 1, 8, 8, 3))
    mapped = jax.jit(jax.vmap(run))(stack)
    looped = jnp.stack([jax.jit(run)(x) for x in stack])
    np.testing.assert_allclose(mapped, looped, rtol=1e-4, atol=1e-5)


@every_net
def test_bfloat16_is_near_and_keeps_float32_state(net: ResNet, variables: Any) -> None:
    low = net.clone(dtype=jnp.bfloat16)
    near, after = jax.jit(partial(low.apply, train=True, mutable=["batch_stats"]))(variables[id(net)], images())
    exact, _ = jax.jit(partial(net.apply, train=True, mutable=["batch_stats"]))(variables[id(net)], images())
    assert near.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}
    assert np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


@every_net
def test_finite_gradients_reach_every_parameter(net: ResNet, variables: Any) -> None:
    tree = variables[id(net)]

    @jax.jit
    @chex.assert_max_traces(n=1)
    def gradient(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits, _ = net.apply({**tree, "params": params}, images(), train=True, mutable=["batch_stats"])
            return jnp.sum(logits**2)

        return jax.grad(loss)(params)

    noisy = jax.tree.map(lambda leaf: leaf + 0.1, tree["params"])
    gradient(noisy)
    grads = gradient(noisy)
    chex.assert_tree_all_finite(grads)
    dead = {"/".join(path) for path, leaf in flatten_dict(grads).items() if not np.abs(leaf).max() > 0}
    assert dead == set()


def test_attention_goes_where_it_is_put() -> None:
    def names(net: ResNet) -> set[str]:
        tree = jax.eval_shape(lambda: net.init(jax.random.key(0), images(), train=False))["params"]
        return {"/".join(path[: path.index(p) + 1]) for path in flatten_dict(tree) for p in path if "attention" in p}

    assert names(NETS["plain"]) == set()
    assert names(NETS["CBAM on branches"]) == {"stage1_block0/attention", "stage2_block0/attention"}
    assert names(NETS["CBAM after stages"]) == {"stage1_attention", "stage2_attention"}
    assert names(NETS["SE in stage 2"]) == {"stage2_block0/attention"}


def test_features_are_the_stages_in_order_and_feed_the_classifier(variables: Any) -> None:
    net = NETS["CBAM on branches"]
    features = jax.jit(partial(net.apply, train=False, method="features"))
    maps = features(variables[id(net)], images())
    assert [(name, value.shape) for name, value in maps.items()] == [
        ("stem", (2, 16, 12, 16)),
        ("stage1", (2, 16, 12, 16)),
        ("stage2", (2, 8, 6, 32)),
    ]
    fc = variables[id(net)]["params"]["fc"]
    logits = maps["stage2"].mean(axis=(1, 2)) @ fc["kernel"] + fc["bias"][None]
    np.testing.assert_allclose(net.apply(variables[id(net)], images(), train=False), logits, rtol=1e-5, atol=1e-5)
    headless = net.clone(num_classes=0)
    pooled = headless.apply(attnjax.init(headless, jax.random.key(0), SHAPE), images(), train=False)
    np.testing.assert_allclose(pooled, maps["stage2"].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_frozen_batch_norm_trains_with_its_running_statistics(variables: Any) -> None:
    net = NETS["CBAM on branches"]
    tree = variables[id(net)]
    frozen, after = net.apply(tree, images(), train=True, freeze_batch_norm=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(frozen, net.apply(tree, images(), train=False))
    chex.assert_trees_all_equal(after["batch_stats"], tree["batch_stats"])
    moving, _ = net.apply(tree, images(), train=True, mutable=["batch_stats"])
    assert np.abs(moving - frozen).max() > 1e-3


def test_placements_are_their_equations() -> None:
    """SE's ablation, with a gate that doubles its input in place of the attention block."""

    class Double(nn.Module):
        dtype: Any = None
        param_dtype: Any = None

        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            return 2 * x

    x = images((1, 6, 6, 8))
    plain = BasicBlock(8)
    tree = attnjax.init(plain, jax.random.key(0), x.shape)
    params, stats = (tree[name] for name in ("params", "batch_stats"))

    def block(place: str, x: jax.Array) -> jax.Array:
        net = plain.clone(attention=Double, attention_placement=place)
        return net.apply({"params": params, "batch_stats": stats}, x, train=False)

    def half(index: int, x: jax.Array) -> jax.Array:
        y = Conv(8, 3).apply({"params": params[f"conv{index}"]}, x)
        bn = {"params": params[f"bn{index}"], "batch_stats": stats[f"bn{index}"]}
        return BatchNorm().apply(bn, y, train=False)

    def branch(x: jax.Array) -> jax.Array:
        return half(2, nn.relu(half(1, x)))

    expected = {
        "branch": nn.relu(x + 2 * branch(x)),
        "3x3": nn.relu(x + half(2, 2 * nn.relu(half(1, x)))),
        "pre": nn.relu(x + branch(2 * x)),
        "post": 2 * nn.relu(x + branch(x)),
        "identity": nn.relu(2 * x + branch(x)),
    }
    for place, value in expected.items():
        np.testing.assert_allclose(block(place, x), value, rtol=1e-5, atol=1e-5, err_msg=place)


def test_dropout_is_for_training_and_stays_when_batch_norm_is_frozen(variables: Any) -> None:
    plain = NETS["plain"]
    net, tree = plain.clone(dropout_rate=0.5), variables[id(plain)]
    exact = plain.apply(tree, images(), train=False)
    np.testing.assert_array_equal(net.apply(tree, images(), train=False), exact)
    rngs = {"dropout": jax.random.key(1)}
    dropped = net.apply(tree, images(), train=True, freeze_batch_norm=True, rngs=rngs)
    assert np.abs(dropped - exact).max() > 1e-3
    with pytest.raises(ValueError, match=r"dropout_rate=1.0 must lie in \[0, 1\)"):
        net.clone(dropout_rate=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "tiny"}, "stem='tiny' is not one of 'imagenet', 'deep', 'cifar'"),
        ({"attention_placement": "block"}, "attention_placement='block' is not one of"),
        ({"stride_at": "7x7"}, "stride_at='7x7' is not one of"),
        ({"widths": (16,)}, r"stage_sizes=\(1, 1\) and widths=\(16,\) differ in length"),
        ({"attention_stages": (3,)}, r"attention_stages=\(3,\) must lie in 1\.\.2"),
        ({"num_classes": -1}, "num_classes=-1, stem_width=16"),
        ({"stem_pool": "none"}, "stem_pool='none' needs stem='deep', got stem='cifar'"),
        ({"stem": "deep", "stem_width": (8, 8)}, r"stem_width=\(8, 8\) must give one width for each convolution"),
        ({"shortcut": "5x5"}, "shortcut='5x5' is not one of"),
        ({"widths": (16, 0)}, r"widths=\(16, 0\) and width_per_group=64 must leave at least one block"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(BasicBlock).clone(**options)


@pytest.mark.parametrize("x", [jnp.zeros((8, 8, 3)), jnp.zeros((1, 8, 8, 3), jnp.uint8)], ids=["rank", "uint8"])
def test_wrong_inputs_are_named(x: jax.Array) -> None:
    with pytest.raises(ValueError, match=r"expected floating images of shape \(b, h, w, c\), got"):
        jax.eval_shape(lambda x: NETS["plain"].init(jax.random.key(0), x, train=False), x)


def test_arguments_of_a_constructor_outrank_those_of_the_net() -> None:
    seen = []

    class Probe(nn.Module):
        dtype: Any
        param_dtype: Any

        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            seen.append(self.dtype)
            return x

    for attention in (Probe, partial(Probe, dtype=jnp.float32)):
        net = small(BasicBlock, attention=attention, attention_stages=(1,), dtype=jnp.bfloat16)
        jax.eval_shape(lambda net=net: net.init(jax.random.key(0), images(), train=False))
    assert seen == [jnp.bfloat16, jnp.float32]


def test_named_nets_take_other_stages_and_blocks() -> None:
    tiny = attnjax.create_model("cbam_resnet50", stage_sizes=(1, 1, 1, 1), block=BasicBlock, num_classes=3)
    assert attnjax.count_parameters(tiny, (1, 64, 64, 3)) < 6e6
