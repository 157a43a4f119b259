"""ECA, GatherExcite, GlobalContext, SelectiveKernel, Coordinate, Triplet and SimAM; gates opened for fine-tuning."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import attnjax
from attnjax import Partial
from attnjax.attention import (
    BAM,
    CBAM,
    ChannelGate,
    ChannelSpatialAttention,
    CoordinateAttention,
    EffectiveSqueezeExcite,
    EfficientChannelAttention,
    GatherExcite,
    GlobalContext,
    PyramidSqueezeAttention,
    SelectiveKernel,
    SimAM,
    SpatialGate,
    SqueezeExcite,
    TripletAttention,
    identity_start,
)
from attnjax.attention._gate_mlp import hidden_width

SHAPE = (2, 7, 5, 32)


def images(shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def noisy(block: nn.Module, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    """Variables with noise in every leaf."""
    leaves, tree = jax.tree.flatten(attnjax.init(block, jax.random.key(0), shape))
    rng = np.random.default_rng(1)
    return tree.unflatten(
        [jnp.asarray(0.1 + 0.3 * np.abs(rng.standard_normal(leaf.shape)), jnp.float32) for leaf in leaves]
    )


def sown(block: nn.Module, variables: dict[str, Any], x: jax.Array, name: str = "gate") -> jax.Array:
    _, state = block.apply(variables, x, train=False, mutable=["intermediates"])
    return state["intermediates"][name][0]


@pytest.mark.parametrize(
    ("channels", "reduction", "divisor", "keep", "width"),
    [
        (40, 16, None, 0.0, 2),
        (40, 16, 1, 0.0, 3),
        (32, 16, 8, 0.0, 8),
        (8, 16, 8, 0.0, 8),
        (72, 5, 4, 0.0, 16),
        (100, 9, 4, 0.9, 12),
        (80, 8, 8, 0.0, 8),
        (80, 8, 8, 0.9, 16),
        (90, 8, 8, 0.9, 16),
    ],
)
def test_hidden_width_is_rounded_as_timm_does(
    channels: int, reduction: float, divisor: int | None, keep: float, width: int
) -> None:
    assert hidden_width(channels, reduction, divisor, keep) == width


@pytest.mark.parametrize(
    ("channels", "taps"), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7), (16384, 7)]
)
def test_taps_of_eca_grow_with_the_channels(channels: int, taps: int) -> None:
    assert attnjax.count_parameters(EfficientChannelAttention(), (1, 2, 2, channels)) == taps


@pytest.mark.parametrize("circular", [False, True])
def test_eca_is_its_equation(circular: bool) -> None:
    x, block = images(), EfficientChannelAttention(kernel_size=5, circular=circular)
    variables = noisy(block)
    kernel = np.asarray(variables["params"]["conv"]["kernel"]).ravel()
    pooled = np.pad(np.mean(x, (1, 2)), ((0, 0), (2, 2)), "wrap" if circular else "constant")
    logits = sum(kernel[tap] * pooled[:, tap : tap + 32] for tap in range(5))
    np.testing.assert_allclose(sown(block, variables, x)[:, 0, 0], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_gather_excite_pools_cells_and_spreads_them() -> None:
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    block = GatherExcite(extent=2, gate_fn=lambda logits: logits)
    cells = sown(block, {}, x)
    assert cells.shape == (1, 3, 3, 1)
    assert [cells[0, 0, 0, 0], cells[0, 1, 1, 0], cells[0, 2, 2, 0]] == [3.0, 12.0, 21.0]
    spread = block.apply({}, x, train=False) / jnp.where(x == 0, 1, x)
    np.testing.assert_allclose(spread[0, 4, :, 0], np.asarray(cells)[0, 2, [0, 0, 1, 1, 2], 0], rtol=1e-6)


def test_gather_excite_with_layers_and_no_extent_is_squeeze_excite() -> None:
    variables = noisy(SqueezeExcite())
    out = GatherExcite(use_mlp=True).apply(variables, images(), train=False)
    np.testing.assert_allclose(out, SqueezeExcite().apply(variables, images(), train=False), rtol=1e-6)


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        (GatherExcite(), 0),
        (GatherExcite(extent=8, parametrised=True), 3 * (9 + 2) * 32),
        (GatherExcite(parametrised=True), (7 * 5 + 2) * 32),
        (GatherExcite(parametrised=True, use_mlp=True), (7 * 5 + 2) * 32 + 2 * 32 * 2 + 2 + 32),
        (GlobalContext(), 33 + 2 * 32 * 2 + 2 + 2 * 2 + 32),
        (GlobalContext(scale=True, attention=False), 2 * (2 * 32 * 2 + 2 + 2 * 2 + 32)),
        (SelectiveKernel(32), 2 * (9 * 32 * 32 + 64) + 3 * 32 * 32 + 64),
        (SelectiveKernel(64, groups=32, dilate=False), 9 * 64 + 25 * 64 + 2 * 128 + 3 * 64 * 32 + 64),
        (SelectiveKernel(32, divisor=8, split=True), 2 * (9 * 16 * 32 + 64) + 3 * 32 * 8 + 16),
        (CoordinateAttention(), 3 * 32 * 8 + 8 + 2 * 8 + 2 * 32),
        (CoordinateAttention(24, divisor=8, use_bias=False), 3 * 32 * 8 + 2 * 8),
        (TripletAttention(), 300),
        (TripletAttention(spatial=False, kernel_size=3), 2 * (2 * 9 + 2)),
        (EffectiveSqueezeExcite(), 32 * 32 + 32),
        (EfficientChannelAttention(hidden=4), 2 * 4 + 4 * 3 + 1),
    ],
)
def test_parameter_counts(block: nn.Module, parameters: int) -> None:
    assert attnjax.count_parameters(block, SHAPE) == parameters


def test_a_fresh_additive_global_context_is_the_identity() -> None:
    variables = attnjax.init(GlobalContext(), jax.random.key(0), SHAPE)
    np.testing.assert_array_equal(GlobalContext().apply(variables, images(), train=False), images())


def test_the_attention_of_global_context_is_a_distribution_and_uniform_it_is_the_mean() -> None:
    block = GlobalContext(scale=True)
    variables = noisy(block)
    np.testing.assert_allclose(sown(block, variables, images(), "attention").sum((1, 2, 3)), [1, 1], rtol=1e-5)
    params = dict(variables["params"])
    params["attention_conv"] = jax.tree.map(jnp.zeros_like, params["attention_conv"])
    uniform = block.apply({"params": params}, images(), train=False)
    del params["attention_conv"]
    mean = GlobalContext(scale=True, attention=False).apply({"params": params}, images(), train=False)
    np.testing.assert_allclose(uniform, mean, rtol=2e-5, atol=1e-5)


def test_weights_of_selective_kernels_sum_to_one_and_mix_the_branches() -> None:
    block = SelectiveKernel(16, (3, 5, 7), stride=2, dilate=False)
    variables = noisy(block)
    weights = sown(block, variables, images())
    assert weights.shape == (2, 1, 1, 3, 16)
    np.testing.assert_allclose(weights.sum(-2), np.ones((2, 1, 1, 16)), rtol=1e-6)
    params = dict(variables["params"])
    params["fc_select"] = {"kernel": jnp.zeros_like(params["fc_select"]["kernel"])}
    even = block.apply({**variables, "params": params}, images(), train=False)
    assert even.shape == (2, 4, 3, 16)
    branches = []
    for index in range(3):
        chosen = jnp.zeros((32, 3, 16)).at[:, index].set(1e4).reshape(32, 48)
        chosen_params = {**params, "fc_select": {"kernel": chosen}}
        branches.append(block.apply({**variables, "params": chosen_params}, images(), train=False))
    np.testing.assert_allclose(even, sum(branches) / 3, rtol=1e-4)


def test_split_selective_kernels_see_their_share_of_the_channels() -> None:
    block = SelectiveKernel(8, split=True)
    variables = noisy(block)
    params = dict(variables["params"])
    params["fc_select"] = {"kernel": jnp.zeros_like(params["fc_select"]["kernel"]).at[:, :8].set(1e4)}
    first_half = images().at[..., 16:].multiply(2.0)
    run = lambda x: block.apply({**variables, "params": params}, x, train=False)  # noqa: E731
    np.testing.assert_allclose(run(first_half), run(images()), rtol=1e-5)


def test_turning_the_image_swaps_two_branches_of_triplet_attention() -> None:
    block, x = TripletAttention(), images()
    variables = noisy(block)
    turned = {}
    for collection, leaves in variables.items():
        turned[collection] = {"hw": leaves["hw"], "cw": leaves["hc"], "hc": leaves["cw"]}
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, turned)
    out = block.apply(turned, x.swapaxes(1, 2), train=False).swapaxes(1, 2)
    np.testing.assert_allclose(out, block.apply(variables, x, train=False), rtol=1e-5, atol=1e-6)


def test_simam_is_its_equation_and_one_pixel_is_a_constant_map() -> None:
    x = jnp.asarray([1.0, 1.0, 1.0, 5.0]).reshape(1, 2, 2, 1)  # mean 2, d = 1, 1, 1, 9 and v = 12 / 3
    y = np.array([1, 1, 1, 9]) / (4 * (4 + 0.5)) + 0.5
    np.testing.assert_allclose(sown(SimAM(e_lambda=0.5), {}, x).ravel(), 1 / (1 + np.exp(-y)), rtol=1e-6)
    for constant in (x[:, :1, :1], jnp.full((1, 2, 3, 1), 2.0)):
        np.testing.assert_allclose(sown(SimAM(), {}, constant), 1 / (1 + np.exp(-0.5)), rtol=1e-6)


def wave(shape: tuple[int, ...], start: int) -> np.ndarray:
    return np.cos(start + 0.7 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


def waves(names: list[str], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Leaves from a formula; `names` are in the order of the released code's state dict, counters included."""
    leaves = {}
    for index, name in enumerate(names):
        if name:
            shape = shapes[name]
            torch_shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
            value = wave(torch_shape, index)
            value = 1 + 0.5 * value if name.endswith("/var") else value
            leaves[name] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T)
    return unflatten_dict(leaves, sep="/")


def batch_norm(name: str) -> list[str]:
    return [f"params/{name}/scale", f"params/{name}/bias", f"batch_stats/{name}/mean", f"batch_stats/{name}/var", ""]


COORDINATE = ["params/conv1/kernel", "params/conv1/bias", *batch_norm("bn1")] + [
    f"params/{name}/{leaf}" for name in ("conv_h", "conv_w") for leaf in ("kernel", "bias")
]
TRIPLET = [
    name for branch in ("cw", "hc", "hw") for name in (f"params/{branch}/conv/kernel", *batch_norm(f"{branch}/bn"))
]


@pytest.mark.parametrize(
    ("block", "names", "train", "out", "dx", "running_var"),
    [
        (
            CoordinateAttention(),
            COORDINATE,
            False,
            [0.150584, 0.008815, 0.06348, 0.460005, -0.001913, 0.149397],
            [-0.26464, -0.023014, 0.123928, 0.032701, -0.002479, 0.152617],
            [1.141831, 1.417356, 1.496593],
        ),
        (
            CoordinateAttention(),
            COORDINATE,
            True,
            [0.084928, 0.014889, 0.120347, 0.296535, -0.001097, 0.301714],
            [0.194062, 2.104844, 1.036341, -0.184338, 2.398933, 2.565982],
            [1.045473, 1.27712, 1.352427],
        ),
        (
            TripletAttention(),
            TRIPLET,
            False,
            [0.280405, 0.284943, 0.371775, 0.700971, -0.057849, 0.525549],
            [-0.439723, 0.683948, -0.506142, 0.223934, -0.173766, -0.242018],
            [0.673178],
        ),
        (
            TripletAttention(),
            TRIPLET,
            True,
            [0.177668, 0.207847, 0.249665, 0.450672, -0.037885, 0.324284],
            [-0.265211, 0.458092, -0.314954, 0.168096, -0.025631, -0.04478],
            [0.689741],
        ),
        (
            TripletAttention(spatial=False),
            TRIPLET[:12],
            False,
            [0.256139, 0.325808, 0.423754, 0.6558, -0.071333, 0.581058],
            [-0.343446, 0.869779, -0.482104, 0.216083, -0.144018, -0.249504],
            [0.673178],
        ),
    ],
)
def test_released_code_gives_the_same_numbers(
    block: nn.Module, names: list[str], train: bool, out: list[float], dx: list[float], running_var: list[float]
) -> None:
    torch_x = wave((2, 8, 4, 3), 1) + wave((2, 8, 4, 3), 2) ** 2
    x, cotangent = (jnp.asarray(a.transpose(0, 2, 3, 1)) for a in (torch_x, wave((2, 8, 4, 3), 3)))
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), x)
    variables = waves(names, {path: leaf.shape for path, leaf in flatten_dict(shapes, sep="/").items()})

    def loss(x: jax.Array) -> Any:
        y, state = block.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sum(y * cotangent), (y, state)

    (_, (y, state)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    for ours, theirs in ((y, out), (grad, dx)):
        np.testing.assert_allclose(np.asarray(ours).transpose(0, 3, 1, 2).ravel()[::32], theirs, rtol=2e-5, atol=2e-6)
    (first, *_) = (leaf for path, leaf in flatten_dict(state["batch_stats"]).items() if path[-1] == "var")
    np.testing.assert_allclose(first[:3], running_var, rtol=1e-5)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (EfficientChannelAttention(kernel_size=4), "kernel_size=4 must be odd and positive"),
        (EfficientChannelAttention(hidden=0), "hidden=0 must be at least 1"),
        (GatherExcite(extent=-1), r"extent=-1 must be 0 \(the whole map\) or positive"),
        (GatherExcite(extent=6, parametrised=True), "extent=6 must be 0 or a power of two where parametrised: 4 works"),
        (GatherExcite(pool="max"), "pool='max' is not one of 'avg', 'avg_max': did you mean 'avg_max'?"),
        (GlobalContext(add=False), "add=False and scale=False leave nothing to do"),
        (GlobalContext(reduction=64), "reduction=64 leaves no hidden feature for 32 channels: use 1 to 32"),
        (SelectiveKernel(32, (3, 4)), r"kernels=\(3, 4\) must be odd sizes of 3 or more"),
        (SelectiveKernel(32, ()), r"kernels=\(\) must be odd"),
        (SelectiveKernel(32, (3, 5, 7), split=True), "that 3 branches share evenly, got 32: 33 would do"),
        (SelectiveKernel(48, groups=5), "groups=5 must divide the 32 channels of a branch and features=48: 4 works"),
        (SelectiveKernel(32, hidden=0), "hidden=0 must be at least 1"),
        (SelectiveKernel(32, reduction=0.5), "reduction=0.5 must be at least 1"),
        (CoordinateAttention(hidden=0), "hidden=0 must be at least 1"),
        (CoordinateAttention(reduction=0.5), "reduction=0.5 must be at least 1"),
        (SqueezeExcite(hidden=0), "hidden=0 must be at least 1"),
        (SqueezeExcite(divisor=0), "divisor=0 must be at least 1"),
        (SqueezeExcite(norm="group"), "norm='group' is not one of 'none', 'batch', 'layer'"),
        (TripletAttention(kernel_size=4), "kernel_size=4 must be odd"),
        (SimAM(e_lambda=0.0), "e_lambda=0.0 must be positive"),
    ],
)
def test_wrong_arguments_are_named(block: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), images())


OPENED: dict[str, nn.Module] = {
    "SE": SqueezeExcite(),
    "SE hard sigmoid": SqueezeExcite(gate_fn=nn.hard_sigmoid),
    "SE relu": SqueezeExcite(gate_fn=nn.relu),
    "effective SE": EffectiveSqueezeExcite(),
    "CBAM": CBAM(),
    "CBAM tanh, channel": CBAM(gate_fn=nn.tanh, spatial=False),
    "channel gate": ChannelGate(),
    "spatial gate": SpatialGate(),
    "BAM": BAM(),
    "BAM deeper": BAM(num_layers=2),
    "BAM sum": BAM(fuse="sum", norm_placement="end"),
    "ECA with bias": EfficientChannelAttention(use_bias=True),
    "ECA hidden": EfficientChannelAttention(hidden=4),
    "GE theta": GatherExcite(extent=4, parametrised=True),
    "GE theta, whole map": GatherExcite(parametrised=True),
    "GE theta plus": GatherExcite(parametrised=True, use_mlp=True),
    "GC": GlobalContext(scale=True),
    "coordinate": CoordinateAttention(),
    "triplet": TripletAttention(),
    "triplet without spatial": TripletAttention(spatial=False),
}


@pytest.mark.parametrize("block", OPENED.values(), ids=OPENED)
def test_identity_start_hands_the_input_through_and_can_still_learn(block: nn.Module) -> None:
    before = noisy(block)
    variables = identity_start(block, before, SHAPE)
    assert jax.tree.structure(variables) == jax.tree.structure(before)
    y = block.apply(variables, images(), train=False)
    np.testing.assert_allclose(y, images(), rtol=0.01)

    def loss(params: Any) -> jax.Array:
        out, _ = block.apply({**variables, "params": params}, images(), train=True, mutable=["batch_stats"])
        return jnp.sum(out * images((2, 7, 5, 32)) ** 2)

    grads = flatten_dict(jax.jit(jax.grad(loss))(variables["params"]))
    old = flatten_dict(before["params"])
    for path, leaf in flatten_dict(variables["params"]).items():
        if np.any(leaf != old[path]):
            assert np.abs(grads[path]).max() > 0, path


def test_identity_start_of_a_net_changes_its_gates_only() -> None:
    net = attnjax.create_model("cbam_resnet18_cifar")
    before = attnjax.init(net, jax.random.key(0), (1, 16, 16, 3))
    flat, old = flatten_dict(identity_start(net, before, (1, 16, 16, 3))), flatten_dict(before)
    changed = {path[2:] for path, leaf in flat.items() if np.any(leaf != old[path])}
    gates = [
        ("channel_gate", "mlp", "fc2", "kernel"),
        ("channel_gate", "mlp", "fc2", "bias"),
        ("spatial_gate", "bn", "bias"),
    ]
    assert changed == {("attention", *gate) for gate in gates}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (SqueezeExcite(use_bias=False), r"the model \(SqueezeExcite\) has no bias that could open its gate"),
        (SqueezeExcite(gate_fn=nn.silu), "has a gate that is not one of sigmoid, hard_sigmoid, tanh, relu"),
        (CBAM(spatial_norm="none"), "has no batch norm that could open its spatial gate"),
        (EfficientChannelAttention(), "has no bias"),
        (GatherExcite(), "has no parameter"),
        (SimAM(), "has no parameter"),
        (CoordinateAttention(skip=True), "adds its input to a gated one"),
        (SelectiveKernel(32), r"\(SelectiveKernel\) is no rescaling of its input"),
        (PyramidSqueezeAttention(32, groups=(1, 2, 4, 8)), "is no rescaling"),
        (ChannelSpatialAttention(), "is no rescaling"),
    ],
)
def test_blocks_that_cannot_start_as_the_identity_say_why(block: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identity_start(block, attnjax.init(block, jax.random.key(0), SHAPE), SHAPE)


class Own(nn.Module):
    """A user's block, which is no `Gated`."""

    opening: tuple[tuple[str, float], ...] = (("fc/kernel", 0.0), ("fc/bias", 7.0))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="fc")(x))

    def identity_parameters(self) -> dict[str, float]:
        return dict(self.opening)


class Silent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="fc")(x))


@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenet", "ggam_resnet20_cifar"])
def test_a_users_block_says_itself_how_its_gate_opens(name: str) -> None:
    net = attnjax.create_model(name, attention=Own)
    before = attnjax.init(net, jax.random.key(0), (1, 32, 32, 3))
    flat, old = flatten_dict(identity_start(net, before, (1, 32, 32, 3))), flatten_dict(before)
    changed = {path[-3:] for path, leaf in flat.items() if np.any(leaf != old[path])}
    assert {path[1:] for path in changed} == {("fc", "kernel"), ("fc", "bias")}
    assert all(path[0].endswith("attention") for path in changed)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (Silent, "identity_parameters"),
        (Partial(Own, opening=(("fc/bais", 7.0),)), "fc/bias"),
        (None, "no attention block"),
    ],
)
def test_nets_whose_blocks_do_not_say_it_are_refused(attention: Any, message: str) -> None:
    net = attnjax.create_model("resnet20_cifar", attention=attention)
    variables = attnjax.init(net, jax.random.key(0), (1, 8, 8, 3))
    with pytest.raises(ValueError, match=message):
        identity_start(net, variables, (1, 8, 8, 3))
