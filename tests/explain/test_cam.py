"""Class activation maps against numbers worked out by hand, loops, and other nets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.attention import CBAM, PyramidSqueezeAttention
from attnjax.explain import CAM, METHODS, grad_cam
from attnjax.models import VGG, BasicBlock, Bottleneck, GGAMNet, ResNet
from tests.kinds import only_in_full

NET = ResNet((1, 1), BasicBlock, 5, partial(CBAM, reduction=4), widths=(8, 16), stem="cifar", stem_width=8)


class Other(nn.Module):
    """A net of someone else: no `train`, no `features`, a convolution that is called twice, a head beside the score."""

    @nn.compact
    def __call__(self, x: jax.Array, scale: float = 1.0) -> dict[str, jax.Array]:
        x = nn.relu(nn.Conv(6, (3, 3), name="conv1")(x))
        again = nn.Conv(6, (3, 3), name="again")
        x = nn.relu(again(nn.relu(again(x))))
        beside = nn.Conv(1, (1, 1), name="beside")(x)
        fixed = nn.Conv(6, (1, 1), name="fixed")(jax.lax.stop_gradient(x))
        pooled = jnp.mean(x, (1, 2))
        logits = nn.Dense(4, name="fc")(pooled + jnp.mean(jax.lax.stop_gradient(fixed), (1, 2)))
        return {"logits": scale * logits, "map": beside}


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def of_class(index: int) -> Callable[[dict[str, jax.Array]], jax.Array]:
    return lambda outputs: outputs["logits"][:, index]


@pytest.fixture(scope="module")
def variables() -> Any:
    """Noise everywhere, so that no gate is at its starting value."""
    tree = attnjax.init(NET, jax.random.key(0), (1, 16, 12, 3))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + 0.1 * np.abs(rng.standard_normal(leaf.shape)).astype(np.float32), tree)


@pytest.fixture(scope="module")
def other() -> Any:
    return jax.jit(Other().init)(jax.random.key(0), jnp.zeros((1, 8, 6, 3)))


LIKE_ANOTHER = {"grad_cam++", "hires_cam", "xgrad_cam", "grad_cam_elementwise", "eigen_cam"}
"""Methods of the same operations as another: mapped with --full alone."""


@pytest.mark.parametrize("method", [only_in_full(name) if name in LIKE_ANOTHER else name for name in METHODS])
def test_a_mapped_call_equals_the_loop(method: str, variables: Any) -> None:
    images, target = noise(3, 16, 12, 3), jnp.array([1, 0, 4])

    def one(image: jax.Array, index: jax.Array) -> CAM:
        cam = grad_cam(NET, variables, image[None], layer=("stage1", "stage2"), target=index, method=method)
        return jax.tree.map(lambda leaf: leaf[0], cam)

    mapped = jax.jit(jax.vmap(one))(images, target)
    run = jax.jit(one)
    loop = [run(image, index) for image, index in zip(images, target, strict=True)]
    batch = jax.jit(partial(grad_cam, NET, layer=("stage1", "stage2"), method=method))(variables, images, target=target)
    assert mapped.map.shape == (3, 16, 12)
    assert method == "full_grad" or {k: v.shape for k, v in mapped.raw.items()} == {
        "stage1": (3, 16, 12),
        "stage2": (3, 8, 6),
    }
    assert float(mapped.map.min()) == 0
    np.testing.assert_allclose(mapped.map.max((1, 2)), 1, atol=1e-4)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, mapped, jax.tree.map(lambda *leaves: np.stack(leaves), *loop))
    jax.tree.map(close, mapped, batch)


def test_grad_cam_of_a_linear_head_is_the_class_activation_map_in_float64() -> None:
    with jax.enable_x64(True):
        net = NET.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        images = noise(2, 16, 12, 3)
        tree = attnjax.init(net, jax.random.key(0), images.shape)
        maps = net.apply(tree, images, train=False, method="features")["stage2"]
        weights = tree["params"]["fc"]["kernel"][:, jnp.array([3, 1])].T
        run = partial(grad_cam, net, layer="stage2", target=np.array([3, 1]))
        cam = jax.jit(run)(tree, images)
        _, h, w, _ = maps.shape
        expected = jnp.einsum("bhwc,bc->bhw", maps, weights) / (h * w)
        assert cam.map.dtype == jnp.float64
        np.testing.assert_allclose(cam.raw["stage2"], expected, rtol=1e-12, atol=1e-14)
        ablated = jax.jit(partial(run, method="ablation_cam"))(tree, images)
        score = net.apply(tree, images, train=False)[jnp.arange(2), jnp.array([3, 1])]
        lost = jnp.mean(maps, (1, 2)) * weights / score[:, None]
        expected = jnp.einsum("bhwc,bc->bhw", maps, lost)
        np.testing.assert_allclose(ablated.raw["stage2"], expected, rtol=1e-9, atol=1e-12)


def test_no_target_is_the_largest_logit(variables: Any) -> None:
    images = noise(3, 16, 12, 3)
    predicted = NET.apply(variables, images, train=False).argmax(-1)
    run = jax.jit(partial(grad_cam, NET, variables, images, layer="stage2"))
    np.testing.assert_allclose(run().map, run(target=predicted).map, atol=1e-5)
    assert np.abs(run().map - run(target=(predicted + 1) % 5).map).max() > 1e-3


def test_images_have_their_own_gradients(variables: Any) -> None:
    images = noise(2, 16, 12, 3)
    changed = images.at[1].set(3.0)
    run = jax.jit(partial(grad_cam, NET, variables, layer="stage2", target=2))
    first, second = (run(x).raw["stage2"] for x in (images, changed))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-7)
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_a_net_of_another_author_with_a_module_called_twice(other: Any) -> None:
    images = noise(2, 8, 6, 3)
    run = partial(grad_cam, Other(), other, images, target=of_class(1))
    once, twice = run(layer="again[0]"), run(layer="again[1]")
    assert np.abs(once.raw["again[0]"] - twice.raw["again[1]"]).max() > 1e-3
    maps = nn.relu(nn.Conv(6, (3, 3)).apply({"params": other["params"]["conv1"]}, images))
    np.testing.assert_allclose(run(layer="conv1", scale=2.0).raw["conv1"], 2 * run(layer="conv1").raw["conv1"], 1e-5)
    conv = nn.Conv(6, (3, 3))
    inner = conv.apply({"params": other["params"]["again"]}, maps)
    np.testing.assert_allclose(once.raw["again[0]"], _by_hand(other, inner), rtol=1e-4, atol=1e-6)
    several = run(layer=["again[0]", "again[1]", "conv1"])
    np.testing.assert_allclose(several.raw["again[1]"], twice.raw["again[1]"], rtol=1e-5, atol=1e-7)
    mean = (once.map + twice.map + run(layer="conv1").map) / 3
    low, high = mean.min((1, 2), keepdims=True), mean.max((1, 2), keepdims=True)
    np.testing.assert_allclose(several.map, (mean - low) / (high - low), atol=1e-5)


def _by_hand(tree: Any, inner: jax.Array) -> jax.Array:
    """Grad-CAM at the first call of `again` of class 1, from its result."""

    def logit(inner: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(6, (3, 3)).apply({"params": tree["params"]["again"]}, nn.relu(inner)))
        return jnp.sum(jnp.mean(x, (1, 2)) @ tree["params"]["fc"]["kernel"][:, 1])

    weights = jnp.mean(jax.grad(logit)(inner), (1, 2), keepdims=True)
    return jnp.sum(weights * inner, -1)


class Checkpointed(nn.Module):
    """A convolution inside of `nn.remat`."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return jnp.mean(nn.relu(nn.remat(nn.Conv)(4, (3, 3), name="conv")(x)), (1, 2))


def test_layers_inside_of_a_checkpoint_are_read_too() -> None:
    images = noise(2, 8, 6, 3)
    tree = Checkpointed().init(jax.random.key(0), images, train=False)
    raw = grad_cam(Checkpointed(), tree, images, layer="conv", target=3).raw["conv"]
    maps = nn.Conv(4, (3, 3)).apply({"params": tree["params"]["conv"]}, images)[..., 3]
    np.testing.assert_allclose(raw, maps * jnp.mean(maps > 0, (1, 2), keepdims=True) / 48, rtol=1e-4, atol=1e-7)


class Scanned(nn.Module):
    """A convolution inside of `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = nn.scan(
            lambda conv, x, _: (conv(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        return jnp.mean(layers(nn.Conv(3, (1, 1), name="conv"), x, None)[0], (1, 2))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("beside", "layer='beside' has no influence on the score"),
        ("fixed", "layer='fixed' has no influence"),
        ("again", r"layer='again' is called 2 times: use again\[0\] to again\[1\]"),
        ("again[2]", r"called 2 times"),
        ("conv1[1]", r"layer='conv1\[1\]' is called 1 times: use conv1\[0\]"),
        ("fc", r"layer='fc' returns \(2, 4\), not a floating map \(b=2, h, w, c\)"),
        ("conv2", "unknown layer='conv2': did you mean conv1"),
        (None, "layer=None"),
    ],
)
def test_layers_that_cannot_be_explained_are_errors(other: Any, layer: str | None, message: str) -> None:
    for run in (grad_cam, jax.jit(grad_cam, static_argnums=0, static_argnames=("layer", "target"))):
        with pytest.raises(ValueError, match=message):
            run(Other(), other, noise(2, 8, 6, 3), layer=layer, target=of_class(0))


def test_other_errors_name_what_is_wrong(variables: Any, other: Any) -> None:
    images = noise(2, 16, 12, 3)
    run = partial(grad_cam, NET, variables)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"method": "gradcam"}, "method='gradcam' is not one of .*: did you mean 'grad_cam'"),
        ({"layer": ()}, r"layer=\(\): method='grad_cam' needs a layer"),
        ({"method": "full_grad", "eigen_smooth": True}, "eigen_smooth=True needs a method that weighs channels"),
        ({"layer": "stage9"}, "unknown layer='stage9': did you mean stage"),
        ({"layer": "attention"}, "layer='attention' is the end of 2 paths, such as stage1_block0/attention"),
        ({"layer": "stage1_block0/attention/gate"}, "did you mean stage1_block0/attention or"),
        ({"target": 5}, r"target=5 must lie in 0\.\.4"),
        ({"target": [1, -1]}, r"target=\[1, -1\] must lie in 0\.\.4"),
        ({"target": np.array([1, 2, 3])}, r"target must be None, an integer, \(2,\) integers or a callable"),
        ({"target": 0.5}, "target must be None"),
        ({"target": lambda outputs: outputs}, r"target must give one number per image, \(2,\), got float32\[2, 5\]"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            run(images, **({"layer": "stage2"} | arguments))
    with pytest.raises(ValueError, match=r"images must be floating with axes \(b, h, w, c\), got float32\[16, 12, 3\]"):
        run(images[0], layer="stage2")
    with pytest.raises(ValueError, match="target must be a callable for a net that gives dict"):
        grad_cam(Other(), other, images, layer="conv1")
    scanned = Scanned()
    tree = scanned.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=r"layer='conv' is called inside of nn.scan or nn.vmap"):
        grad_cam(scanned, tree, images, layer="conv[0]")


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_zeros_stay_zero(method: str, variables: Any) -> None:
    del variables
    zeros = jax.tree.map(jnp.zeros_like, attnjax.init(NET, jax.random.key(0), (1, 16, 12, 3)))
    cam = jax.jit(partial(grad_cam, NET, layer="stage2", method=method))(zeros, noise(2, 16, 12, 3))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(cam))


def test_gates_are_layers(variables: Any) -> None:
    images = noise(2, 16, 12, 3)
    name = "stage2_block0/attention/spatial_gate/gate"
    cam = jax.jit(partial(grad_cam, NET, layer=name, target=1, method="hires_cam"))(variables, images)
    assert cam.raw[name].shape == (2, 8, 6)
    _, state = jax.jit(partial(NET.apply, train=False, mutable=["intermediates"]))(variables, images)
    gate = state["intermediates"]["stage2_block0"]["attention"]["spatial_gate"]["gate"][0]
    ratio = cam.raw[name] / gate[..., 0]  # the gradient: how much an open gate would add to the logit
    step = 1e-2

    @jax.jit
    def logit(factor: float) -> jax.Array:
        def scale(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            y = call(*args, **kwargs)
            here = context.module.path == ("stage2_block0", "attention", "spatial_gate")
            return y + factor if here and context.method_name == "sow_gate" else y

        with nn.intercept_methods(scale):
            return NET.apply(variables, images, train=False)[:, 1]

    np.testing.assert_allclose(ratio.sum((1, 2)), (logit(step) - logit(-step)) / (2 * step), rtol=1e-2)


def test_weights_of_scales_are_no_map() -> None:
    net = ResNet((1,), Bottleneck, 3, widths=(8,), stem="cifar", stem_width=8)
    net = net.clone(spatial_conv=partial(PyramidSqueezeAttention, kernels=(3, 5), groups=(1, 1)))
    tree = attnjax.init(net, jax.random.key(0), (1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"layer='stage1_block0/conv2/gate' .*\(1, 2, 1, 1, 4\)"):
        grad_cam(net, tree, noise(1, 8, 8, 3), layer="conv2/gate")


@pytest.mark.parametrize(
    ("net", "side"),
    [
        (NET, 16),
        (VGG((1, 1), 3, (4, 8)), 16),
        (GGAMNet(partial(VGG, (1, 1), widths=(4, 8)), num_classes=3), 16),
        (attnjax.create_model("mobilenet", num_classes=3), 32),
        only_in_full(attnjax.create_model("attention56", num_classes=3), 32),
    ],
    ids=lambda value: type(value).__name__,
)
def test_keys_of_features_are_layers(net: nn.Module, side: int) -> None:
    images = jnp.zeros((1, max(side, 32 if side > 16 else side), side, 3))
    tree = jax.eval_shape(lambda key: net.init(key, images, train=False), jax.random.key(0))
    maps = jax.eval_shape(partial(net.apply, train=False, method="features"), tree, images)

    def explain(tree: Any) -> CAM:
        return grad_cam(net, tree, images, layer=list(maps), method="hires_cam")

    raw = jax.eval_shape(explain, tree).raw
    assert {name: leaf.shape for name, leaf in raw.items()} == {name: leaf.shape[:3] for name, leaf in maps.items()}


def test_smoothing_is_the_mean_over_mirrored_and_scaled_images(variables: Any) -> None:
    images = noise(2, 16, 12, 3)
    run = jax.jit(partial(grad_cam, NET, variables, layer="stage2", target=1))
    smooth = jax.jit(partial(grad_cam, NET, variables, layer="stage2", target=1, aug_smooth=True))(images)
    maps = [run(images * factor).map for factor in (0.9, 1.0, 1.1)]
    maps += [run(images[:, :, ::-1] * factor).map[:, :, ::-1] for factor in (0.9, 1.0, 1.1)]
    np.testing.assert_allclose(smooth.map, np.mean(maps, 0), atol=1e-5)
    np.testing.assert_allclose(smooth.raw["stage2"], run(images).raw["stage2"], rtol=1e-4, atol=1e-6)


def test_bfloat16_nets_are_explained_in_float32(variables: Any) -> None:
    images = noise(2, 16, 12, 3)
    net = NET.clone(dtype=jnp.bfloat16)
    for method in ("grad_cam", "eigen_grad_cam", "ablation_cam", "score_cam", "full_grad"):
        cam = jax.jit(partial(grad_cam, net, layer="stage2", method=method, target=1))(variables, images)
        assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(cam)), method
