"""BAM, pyramid squeeze attention and GGAM's attention: their equations, invariants and errors."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.attention import BAM, BAMChannelBranch, BAMSpatialBranch, ChannelSpatialAttention, PyramidSqueezeAttention
from attnjax.layers import Conv

SHAPE = (2, 9, 6, 32)


def images(shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def init(block: nn.Module, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """Fresh variables, with noise on the biases."""
    variables = attnjax.init(block, jax.random.key(1), shape)
    rng = np.random.default_rng(0)
    noise = [jnp.asarray(0.1 * rng.random(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(variables["params"])]
    params = jax.tree.unflatten(jax.tree.structure(variables["params"]), noise)
    return variables | {"params": jax.tree.map(jnp.add, variables["params"], params)}


def sigmoid(x: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x)))


def sown(block: nn.Module, variables: dict[str, Any], x: jax.Array) -> dict[str, Any]:
    _, updates = block.apply(variables, x, train=False, mutable=["intermediates"])
    return {name: values[0] for name, values in updates["intermediates"].items()}


def branch_logits(variables: dict[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of BAM's two branches by themselves."""
    parts = ({kind: tree[f"{name}_branch"] for kind, tree in variables.items()} for name in ("channel", "spatial"))
    channel, spatial = parts
    return BAMChannelBranch().apply(channel, x, train=False), BAMSpatialBranch().apply(spatial, x, train=False)


@pytest.mark.parametrize(("fuse", "combine"), [("product", np.multiply), ("sum", np.add)])
def test_bam_joins_the_logits_of_its_branches(fuse: Any, combine: Any) -> None:
    block, x = BAM(fuse=fuse), images()
    variables = init(block)
    gate = sigmoid(combine(*(np.asarray(logits) for logits in branch_logits(variables, x))))
    np.testing.assert_allclose(block.apply(variables, x, train=False), (1 + gate) * x, rtol=1e-5)
    np.testing.assert_allclose(block.apply(variables, x, train=False, method="gate"), gate, rtol=1e-5)
    np.testing.assert_array_equal(sown(block, variables, x)["gate"].shape, SHAPE)


def test_bam_channel_branch_is_its_equation_on_maps_that_are_not_square() -> None:
    x, block = images(), BAMChannelBranch(reduction=4)
    variables = init(block)
    p = variables["params"]
    hidden = np.asarray(x).mean((1, 2)) @ p["fc1"]["kernel"] + p["fc1"]["bias"][None]
    hidden = hidden / np.sqrt(1 + 1e-5) * p["bn1"]["scale"][None] + p["bn1"]["bias"][None]
    logits = np.maximum(hidden, 0) @ p["fc2"]["kernel"] + p["fc2"]["bias"][None]
    np.testing.assert_allclose(block.apply(variables, x, train=False)[:, 0, 0], logits, rtol=1e-4, atol=1e-5)
    turned = block.apply(variables, x.swapaxes(1, 2), train=False)
    np.testing.assert_allclose(turned[:, 0, 0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dilation", "num_dilated"), [(4, 2), (2, 1), (1, 3)])
def test_bam_spatial_branch_sees_as_far_as_its_dilation(dilation: int, num_dilated: int) -> None:
    block, x = BAMSpatialBranch(2, dilation, num_dilated), images((1, 25, 25, 32))
    variables = init(block)
    gradient = jax.grad(lambda x: block.apply(variables, x, train=False)[0, 12, 12, 0])(x)
    seen = np.argwhere(np.abs(gradient).max((0, 3)) > 0) - 12
    assert np.abs(seen).max() == dilation * num_dilated
    assert set((seen % dilation).ravel().tolist()) == {0}


def test_paper_form_of_bam_has_one_norm_at_the_end_of_each_branch() -> None:
    variables = attnjax.init(BAM(fuse="sum", norm_placement="end"), jax.random.key(0), SHAPE)
    stats = variables["batch_stats"]
    assert {branch: list(norms) for branch, norms in stats.items()} == {
        "channel_branch": ["bn"],
        "spatial_branch": ["bn"],
    }
    assert stats["channel_branch"]["bn"]["mean"].shape == (32,)
    assert stats["spatial_branch"]["bn"]["mean"].shape == (1,)


def test_bam_parameters_are_those_of_bam_resnet50() -> None:
    assert sum(attnjax.count_parameters(BAM(), (1, 7, 7, c)) for c in (256, 512, 1024)) == 25_915_099 - 25_557_032


def test_bam_names_its_layers() -> None:
    params = attnjax.init(BAM(num_layers=2), jax.random.key(0), SHAPE)["params"]
    assert sorted(params["channel_branch"]) == ["bn1", "bn2", "fc1", "fc2", "fc3"]
    dilated = ["dilated_bn1", "dilated_bn2", "dilated_conv1", "dilated_conv2"]
    assert sorted(params["spatial_branch"]) == [*dilated, "final_conv", "reduce_bn", "reduce_conv"]


def test_bam_needs_two_images_in_training() -> None:
    block = BAM()
    variables = init(block)
    with pytest.raises(ValueError, match="more than one value per channel"):
        block.apply(variables, images()[:1], train=True, mutable=["batch_stats"])


def scales(x: jax.Array, params: Any, kernels: Any, groups: Any, split: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The pyramid's maps (s, b, h, w, c) and weights (s, b, c), from its parameters."""
    parts = jnp.split(x, len(kernels), -1) if split else [x] * len(kernels)
    maps = []
    for i, (part, kernel, group) in enumerate(zip(parts, kernels, groups, strict=True), start=1):
        weights = {"params": params[f"conv{i}"]}
        maps.append(Conv(params[f"conv{i}"]["kernel"].shape[-1], kernel, groups=group).apply(weights, part))
    branches = np.stack(maps)
    fc1, fc2 = params["mlp"]["fc1"], params["mlp"]["fc2"]
    hidden = np.maximum(branches.mean((2, 3)) @ fc1["kernel"] + fc1["bias"][None, None], 0)
    z = np.exp(sigmoid(hidden @ fc2["kernel"] + fc2["bias"][None, None]))
    return branches, z / z.sum(0)


@pytest.mark.parametrize("split", [False, True])
def test_psa_is_its_equation_and_released_order_is_reversed(split: bool) -> None:
    options = {"kernels": (3, 5, 3, 7), "groups": (1, 2, 4, 8), "reduction": 2, "split_input": split}
    released, paper = PyramidSqueezeAttention(**options), PyramidSqueezeAttention(order="paper", **options)
    variables, x = init(released), images()
    branches, weights = scales(x, variables["params"], options["kernels"], options["groups"], split)
    weighted = branches * weights[:, :, None, None]
    expected = {"released": weighted[::-1], "paper": weighted}
    for name, block in {"released": released, "paper": paper}.items():
        y = np.concatenate(list(expected[name]), -1)
        np.testing.assert_allclose(block.apply(variables, x, train=False), y, rtol=1e-4, atol=1e-5)
        gate = block.apply(variables, x, train=False, method="gate")
        np.testing.assert_allclose(gate[:, :, 0, 0], weights.swapaxes(0, 1), rtol=1e-4)


def test_psa_weights_sum_to_one_over_scales() -> None:
    block, x = PyramidSqueezeAttention(), 100 * images((2, 8, 8, 64))
    gate = sown(block, init(block, x.shape), x)["gate"]
    assert gate.shape == (2, 4, 1, 1, 16)
    np.testing.assert_allclose(gate.sum(1), np.ones((2, 1, 1, 16)), rtol=1e-6)
    assert gate.std() > 1e-3


def test_psa_weights_reach_their_bounds_and_no_further() -> None:
    """The first scale sees much and the others nothing; half of the channels then gain and half lose."""
    block, x = PyramidSqueezeAttention(), jnp.ones((1, 4, 4, 64))
    sign = jnp.where(jnp.arange(16) < 8, 1.0, -1.0)
    params = jax.tree.map(jnp.zeros_like, attnjax.init(block, jax.random.key(0), x.shape)["params"])
    params["conv1"]["kernel"] += 1.0
    params["mlp"]["fc1"]["kernel"] += 1.0
    params["mlp"]["fc2"] = {"kernel": sign[None], "bias": -50 * sign}
    first = block.apply({"params": params}, x, train=False, method="gate")[0, 0, 0, 0]
    largest, smallest = np.e / (np.e + 3), 1 / (1 + 3 * np.e)
    np.testing.assert_allclose(first, np.repeat([largest, smallest], 8), rtol=1e-6)
    np.testing.assert_allclose([smallest, largest], [0.109, 0.475], atol=5e-4)


@pytest.mark.parametrize(
    ("block", "channels", "parameters"),
    [
        (PyramidSqueezeAttention(64), 64, 16 * (9 * 64 + 25 * 16 + 49 * 8 + 81 * 4) + 16 + 1 + 16 + 16),
        (PyramidSqueezeAttention(128, groups=(32,) * 4), 128, 32 * 4 * (9 + 25 + 49 + 81) + 2 * 64 + 2 + 32),
        (PyramidSqueezeAttention(64, (3, 5), (1, 2), split_input=True), 32, 32 * (9 * 16 + 25 * 8) + 2 * 64 + 2 + 32),
        (PyramidSqueezeAttention(16, (3, 3), (1, 1)), 4, 8 * 2 * 9 * 4 + 8 + 1 + 8 + 8),
    ],
)
def test_psa_parameter_counts(block: nn.Module, channels: int, parameters: int) -> None:
    assert attnjax.count_parameters(block, (1, 8, 8, channels)) == parameters


@pytest.mark.parametrize(("size", "out"), [((14, 14), (7, 7)), ((15, 13), (8, 7)), ((1, 1), (1, 1))])
def test_psa_strides_as_a_padded_convolution(size: tuple[int, int], out: tuple[int, int]) -> None:
    block = PyramidSqueezeAttention(64, stride=2)
    y = jax.eval_shape(lambda x: block.init_with_output(jax.random.key(0), x, train=False), images((1, *size, 64)))
    assert y[0].shape == (1, *out, 64)


def test_ggam_is_its_equation_with_each_norm() -> None:
    x, block = nn.relu(images()), ChannelSpatialAttention(reduction=4)
    variables = init(block)
    fc1, fc2 = variables["params"]["mlp"]["fc1"], variables["params"]["mlp"]["fc2"]
    hidden = np.maximum(np.asarray(x).mean((1, 2)) @ fc1["kernel"] + fc1["bias"][None], 0)
    z = np.exp(hidden @ fc2["kernel"] + fc2["bias"][None])
    weights = z / z.sum(-1, keepdims=True)
    mask = (np.asarray(x) * weights[:, None, None]).sum(-1, keepdims=True)
    expected = {
        "sigmoid": sigmoid(mask),
        "sum": mask / mask.sum((1, 2), keepdims=True),
        "softmax": np.exp(mask) / np.exp(mask).sum((1, 2), keepdims=True),
    }
    for norm, gate in expected.items():
        form = ChannelSpatialAttention(reduction=4, spatial_norm=norm)
        seen = sown(form, variables, x)
        np.testing.assert_allclose(seen["channel_weights"], weights, rtol=1e-5)
        np.testing.assert_allclose(seen["gate"], gate, rtol=1e-5)
        np.testing.assert_allclose(form.apply(variables, x, train=False), x * gate, rtol=1e-5, atol=1e-6)
        apart = form.apply(variables, x, train=False, method="channel_weights")
        np.testing.assert_array_equal(apart, seen["channel_weights"])


def test_ggam_map_of_zeros_gives_zeros_and_finite_gradients() -> None:
    block = ChannelSpatialAttention(spatial_norm="sum")
    variables, x = init(block), jnp.zeros(SHAPE)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), x)
    gradient = jax.grad(lambda x: block.apply(variables, x, train=False).sum())(x)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (BAM(reduction=64), "reduction=64 leaves no hidden feature for 32 channels: use 1 to 32"),
        (BAM(fuse="max"), "fuse='max' is not one of 'product', 'sum'"),
        (BAM(norm_placement="none"), "norm_placement='none' is not one of 'hidden', 'end'"),
        (BAM(dilation=0), "dilation=0 must be at least 1"),
        (BAM(num_layers=-1), "num_layers=-1 must not be negative"),
        (BAMSpatialBranch(num_dilated=-2), "num_dilated=-2 must not be negative"),
        (PyramidSqueezeAttention(), r"features=32 .* groups=\(1, 4, 8, 16\): use a multiple of 64, the nearest is 64"),
        (PyramidSqueezeAttention(150), "features=150 .* use a multiple of 64, the nearest is 128"),
        (PyramidSqueezeAttention(64, groups=(1, 2, 4, 64)), "features=64 .* multiple of 256, the nearest is 256"),
        (PyramidSqueezeAttention(64, groups=(1, 1, 1, 3)), "features=64 .* multiple of 12, the nearest is 60"),
        (PyramidSqueezeAttention(64, split_input=True), "input channels=32 .* multiple of 64, the nearest is 64"),
        (PyramidSqueezeAttention(48, groups=(12,) * 4), "input channels=32 .* multiple of 12, the nearest is 36"),
        (PyramidSqueezeAttention(64, kernels=(3,), groups=(1,)), r"kernels=\(3,\) and groups=\(1,\) must be as many"),
        (PyramidSqueezeAttention(64, kernels=(3, 5)), r"groups=\(1, 4, 8, 16\) must be as many"),
        (PyramidSqueezeAttention(64, kernels=(3, 5, 7, 8)), r"kernels=\(3, 5, 7, 8\) must be odd"),
        (PyramidSqueezeAttention(64, stride=0), "stride=0, .* must be at least 1"),
        (PyramidSqueezeAttention(64, order="straight"), "order='straight' is not one of 'reversed', 'paper'"),
        (ChannelSpatialAttention(reduction=33), "reduction=33 leaves no hidden feature for 32 channels"),
        (ChannelSpatialAttention(spatial_norm="l1"), "spatial_norm='l1' is not one of 'sigmoid', 'sum', 'softmax'"),
    ],
)
def test_wrong_arguments_are_named(block: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), images())
