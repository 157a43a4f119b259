"""MobileNet, VGG and GGAM's net: their sizes, maps, gradients, frozen batch norm and errors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
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
from attnjax.attention import ChannelSpatialAttention, SqueezeExcite
from attnjax.layers import Conv, global_pool
from attnjax.models import VGG, BasicBlock, GGAMNet, MobileNet, ResNet
from tests.kinds import only_in_full

SHAPE = (2, 32, 40, 3)
_backbone = partial(ResNet, (1, 1), BasicBlock, widths=(16, 32), stem="cifar", stem_width=16)
NETS: dict[str, nn.Module] = {
    "MobileNet": MobileNet(5, 0.25, partial(SqueezeExcite, reduction=4)),
    "VGG": VGG((1, 1, 2), 5, widths=(8, 16, 16)),
    "GGAM, ResNet": GGAMNet(_backbone, ChannelSpatialAttention, 5, hidden=8),
    "GGAM, VGG": GGAMNet(partial(VGG, (1, 1), widths=(8, 16)), ChannelSpatialAttention, 5, hidden=8),
    "GGAM, no attention": GGAMNet(_backbone, None, 5, hidden=8),
}
every_net = pytest.mark.parametrize("name", NETS)
every_small_net = pytest.mark.parametrize("name", [only_in_full("MobileNet"), *list(NETS)[1:]])


def images(shape: tuple[int, ...] = SHAPE, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape, dtype)


@pytest.fixture(scope="module")
def variables() -> dict[str, dict[str, Any]]:
    return {name: attnjax.init(net, jax.random.key(0), SHAPE) for name, net in NETS.items()}


def test_vgg16_has_torchvisions_convolutions() -> None:
    assert attnjax.count_parameters(VGG(num_classes=0), (1, 32, 32, 3)) == 14_723_136
    assert attnjax.count_parameters(VGG(), (1, 32, 32, 3)) == 14_723_136 + 513_000
    head = 2 * 512 + 512 * 512 + 512 + 2 * 512 + 512 * 200 + 200
    net = GGAMNet(VGG, ChannelSpatialAttention, 200)
    assert attnjax.count_parameters(net, (1, 448, 448, 3)) == 14_723_136 + 2 * 512 * 32 + 32 + 512 + head


def shapes(net: nn.Module, size: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    def run(x: jax.Array) -> Any:
        return net.init_with_output(jax.random.key(0), x, train=False, method="features")[0]

    return {name: leaf.shape[1:] for name, leaf in jax.eval_shape(run, jnp.zeros((1, *size, 3))).items()}


def test_features_are_the_maps_by_size_in_order() -> None:
    assert list(shapes(MobileNet(), (224, 192)).items()) == [
        ("stem", (112, 96, 32)),
        ("stage1", (112, 96, 64)),
        ("stage2", (56, 48, 128)),
        ("stage3", (28, 24, 256)),
        ("stage4", (14, 12, 512)),
        ("stage5", (7, 6, 1024)),
    ]
    vgg = [("stage1", (448, 448, 64)), ("stage2", (224, 224, 128)), ("stage3", (112, 112, 256))]
    vgg += [("stage4", (56, 56, 512)), ("stage5", (28, 28, 512)), ("pool", (14, 14, 512))]
    assert list(shapes(VGG(), (448, 448)).items()) == vgg
    ggam = GGAMNet(VGG, ChannelSpatialAttention)
    assert list(shapes(ggam, (448, 448)).items()) == [*vgg, ("attention", (14, 14, 512))]


@every_net
def test_logits_are_float32_and_an_image_does_not_depend_on_its_batch(name: str, variables: Any) -> None:
    run = jax.jit(partial(NETS[name].apply, train=False))
    logits = run(variables[name], images())
    chex.assert_shape(logits, (2, 5))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(run(variables[name], images()[1:]), logits[1:], rtol=1e-4, atol=1e-5)


@every_small_net
def test_bfloat16_is_near_and_keeps_float32_state(name: str, variables: Any) -> None:
    low = NETS[name].clone(dtype=jnp.bfloat16)
    # Not jitted: XLA of jaxlib 0.11.2 fuses bfloat16 convolutions wrongly on CPUs and gives NaN.
    near, after = low.apply(variables[name], images(), train=False, mutable=["batch_stats"])
    exact = jax.jit(partial(NETS[name].apply, train=False))(variables[name], images())
    assert near.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}
    assert np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


@every_net
def test_finite_gradients_reach_every_parameter_and_training_every_statistic(name: str, variables: Any) -> None:
    """With frozen statistics, since batch norm in training leaves no gradient to a bias before it."""
    tree = variables[name] | {"params": jax.tree.map(lambda leaf: leaf + 0.01, variables[name]["params"])}

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(tree: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.sum(
                NETS[name].apply({**tree, "params": params}, images(), train=True, freeze_batch_norm=True) ** 2
            )

        return jax.grad(loss)(tree["params"]), NETS[name].apply(tree, images(), train=True, mutable=["batch_stats"])[1]

    gradient, after = step(tree)
    for path, leaf in flatten_dict(gradient, sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    before = flatten_dict(tree["batch_stats"], sep="/")
    for path, leaf in flatten_dict(after["batch_stats"], sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != before[path]), path


@every_net
def test_frozen_batch_norm_trains_as_evaluation_and_keeps_its_state(name: str, variables: Any) -> None:
    apply = partial(NETS[name].apply, mutable=["batch_stats"])
    frozen, after = jax.jit(partial(apply, train=True, freeze_batch_norm=True))(variables[name], images())
    evaluated, _ = jax.jit(partial(apply, train=False))(variables[name], images())
    chex.assert_trees_all_equal(after["batch_stats"], variables[name]["batch_stats"])
    np.testing.assert_allclose(frozen, evaluated, rtol=1e-5, atol=1e-6)


@every_small_net
def test_float64_is_float64_throughout(name: str, variables: Any) -> None:
    with jax.enable_x64(True):
        wide = NETS[name].clone(dtype=jnp.float64, param_dtype=jnp.float64)
        tree = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables[name])
        logits = jax.jit(partial(wide.apply, train=False))(tree, images().astype(jnp.float64))
        low = jax.jit(partial(NETS[name].apply, train=False))(variables[name], images())
        assert logits.dtype == jnp.float64
        assert 0 < np.abs(np.asarray(logits) - np.asarray(low)).max() < 1e-3 * np.abs(low).max()


def test_mobilenet_attends_after_both_convolutions_of_a_block() -> None:
    block = attnjax.init(MobileNet(0, 0.25, partial(SqueezeExcite, reduction=4)), jax.random.key(0), SHAPE)["params"][
        "block13"
    ]
    names = ["attention", "bn", "conv"]
    assert sorted(block) == [f"{kind}_{name}" for kind in ("depthwise", "pointwise") for name in names]
    assert block["depthwise_conv"]["kernel"].shape == (3, 3, 1, 256)
    assert block["pointwise_attention"]["mlp"]["fc1"]["kernel"].shape == (256, 64)


def test_no_classes_give_features(variables: Any) -> None:
    for name, width in {"MobileNet": 256, "VGG": 16, "GGAM, VGG": 8}.items():
        net = NETS[name].clone(num_classes=0)
        params = {key: value for key, value in variables[name]["params"].items() if key != "fc"}
        features = jax.eval_shape(partial(net.apply, train=False), variables[name] | {"params": params}, images())
        assert features.shape == (2, width)


def test_ggam_head_of_its_attended_map_gives_its_logits(variables: Any) -> None:
    net, tree = NETS["GGAM, ResNet"], variables["GGAM, ResNet"]
    run = partial(net.apply, tree, train=False)
    maps, seen = run(images(), method="features", mutable=["intermediates"])
    np.testing.assert_allclose(run(maps["attention"], method="head"), run(images()), rtol=1e-5, atol=1e-6)
    gates = seen["intermediates"]["attention"]
    np.testing.assert_allclose(gates["channel_weights"][0].sum(-1), np.ones(2), rtol=1e-5)
    np.testing.assert_allclose(maps["stage2"] * gates["gate"][0], maps["attention"], rtol=1e-6)


def test_ggam_head_is_its_equation(variables: Any) -> None:
    tree = variables["GGAM, no attention"]
    d = images((2, 4, 3, 32))
    p = tree["params"]

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt(1 + 1e-5) * p[name]["scale"][None] + p[name]["bias"][None]

    y = norm(norm(global_pool(d, "max"), "head_bn1") @ p["head_fc1"]["kernel"], "head_bn2")
    logits = np.where(y > 0, y, np.expm1(y)) @ p["fc"]["kernel"]
    found = NETS["GGAM, no attention"].apply(tree, d, train=False, method="head")
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


class OneConvolution(nn.Module):
    """The smallest backbone that GGAMNet takes."""

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def features(self, x: jax.Array, *, train: bool, freeze_batch_norm: bool = False) -> OrderedDict[str, jax.Array]:
        del train, freeze_batch_norm
        return OrderedDict(map=nn.relu(Conv(16, dtype=self.dtype, param_dtype=self.param_dtype, name="conv")(x)))


def test_ggam_takes_any_module_with_features() -> None:
    net = GGAMNet(OneConvolution, ChannelSpatialAttention, 5, hidden=8)
    tree = attnjax.init(net, jax.random.key(0), (1, 7, 9, 3))
    assert list(tree["params"]["backbone"]) == ["conv"]
    assert net.apply(tree, images((1, 7, 9, 3)), train=False).shape == (1, 5)


def test_ggam_needs_two_images_in_training(variables: Any) -> None:
    net = NETS["GGAM, ResNet"]
    with pytest.raises(ValueError, match="more than one value per channel"):
        net.apply(variables["GGAM, ResNet"], images()[:1], train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("net", [MobileNet(5), NETS["GGAM, ResNet"]])
def test_an_image_may_be_as_small_as_a_pixel(net: nn.Module) -> None:
    def run(x: jax.Array) -> Any:
        return net.init_with_output(jax.random.key(0), x, train=False)[0]

    assert jax.eval_shape(run, images((1, 1, 1, 3))).shape == (1, 5)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (lambda: MobileNet(width_multiplier=0.02), SHAPE, "width_multiplier=0.02 leaves no channel: use at least 1/32"),
        (lambda: MobileNet(-1), SHAPE, "num_classes=-1 must not be negative"),
        (lambda: MobileNet(), SHAPE[1:], r"expected floating images of shape \(b, h, w, c\)"),
        (lambda: VGG(), (1, 32, 31, 3), "images must have at least 32x32 pixels, got 32x31"),
        (lambda: VGG((1, 1), widths=(8,)), SHAPE, r"stage_sizes=\(1, 1\) and widths=\(8,\) differ in length"),
        (lambda: VGG((1, 0), widths=(8, 8)), SHAPE, "must leave at least one convolution and channel everywhere"),
        (lambda: GGAMNet(VGG), (1, 16, 16, 3), "images must have at least 32x32 pixels, got 16x16"),
        (lambda: GGAMNet(VGG, hidden=0), SHAPE, "hidden=0 at least 1"),
        (lambda: GGAMNet(VGG, num_classes=-3), SHAPE, "num_classes=-3 must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(net: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: net().init(jax.random.key(0), x, train=False), jnp.zeros(shape))
