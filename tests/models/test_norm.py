"""The batch norm that a net is given reaches all of it, whichever way the batch is split; and what gradients keep."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.ad_checkpoint import print_saved_residuals

import attnjax
from attnjax.attention import BAM, CBAM, ResidualAttention, ResidualUnit, SelectiveKernel, SqueezeExcite
from attnjax.layers import BatchNorm
from attnjax.models import VGG, BasicBlock, Bottleneck, GGAMNet, MobileNet, ResidualAttentionNet, ResNet
from tests.kinds import only_in_full

_resnet = partial(ResNet, (1, 1), num_classes=3, widths=(8, 16), stem="cifar", stem_width=8)
_module = partial(ResidualAttention, p=0, t=1, post=0, bottom=1, pools=1)
NETS = {
    "cbam": partial(_resnet, BasicBlock, attention=partial(CBAM, reduction=4)),
    "bam": partial(_resnet, BasicBlock, attention=partial(BAM, reduction=4, dilation=1), attention_placement="stage"),
    "sk": partial(_resnet, Bottleneck, spatial_conv=SelectiveKernel, spatial_norm=False),
    "ran": partial(
        *(ResidualAttentionNet, ResidualUnit, _module, (1, 0), 3),
        **{"widths": (8, 16), "stage_units": (1, 1), "stem": "cifar", "stem_width": 8},
    ),
}
"""Small nets, with batch norm in the backbone, in gates, in branches, in a convolution's place and in masks."""


class _Recorded(nn.Module):
    """Stands for a batch norm, and has its state elsewhere."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        self.variable("recorded", "is_here", jnp.zeros, ())
        return x


def recorded(*, dtype: Any, param_dtype: Any, name: str | None = None, **options: Any) -> nn.Module:
    assert set(options) <= {"momentum", "epsilon", "scale_init"}
    return _Recorded(name=name)


def state_of(model: nn.Module, side: int) -> dict[str, set[tuple[str, ...]]]:
    """Paths of the modules that have state, by its collection."""
    x = jnp.zeros((1, side, side, 3))
    tree = jax.eval_shape(lambda key: model.init(key, x, train=False), jax.random.key(0))
    return {name: {path[:-1] for path in flatten_dict(values)} for name, values in tree.items() if name != "params"}


@pytest.mark.parametrize("name", NETS)
def test_norms_are_where_they_were(name: str) -> None:
    assert state_of(NETS[name](norm=recorded), 8) == {"recorded": state_of(NETS[name](), 8)["batch_stats"]}


def test_attention_takes_the_norm_only_where_it_has_a_parameter_for_it() -> None:
    class Scale(nn.Module):
        dtype: Any
        param_dtype: Any
        norm: str = "none"

        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            return 2 * x

    def squeeze(**options: Any) -> nn.Module:
        assert set(options) == {"dtype", "param_dtype", "name"}
        return SqueezeExcite(4, **options)

    for attention in (Scale, squeeze, partial(squeeze)):
        state = state_of(_resnet(BasicBlock, attention=attention, norm=recorded), 8)
        assert set(state) == {"recorded"}


def test_a_batch_norm_given_beforehand_stays() -> None:
    attention = partial(CBAM, reduction=4, batch_norm=BatchNorm)
    state = state_of(_resnet(BasicBlock, attention=attention, norm=recorded), 8)
    assert state["batch_stats"] == {(f"stage{i}_block0", "attention", "spatial_gate", "bn") for i in (1, 2)}
    assert len(state["recorded"]) == 6


def test_types_of_a_norm_given_beforehand_stay_in_attention_too() -> None:
    norm = partial(BatchNorm, param_dtype=jnp.bfloat16)
    tree = attnjax.init(NETS["cbam"](norm=norm), jax.random.key(0), (1, 8, 8, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree["batch_stats"])} == {jnp.dtype(jnp.bfloat16)}


Result = tuple[jax.Array, Any, Any]


def _step(net: Callable[..., nn.Module], variables: Any, images: jax.Array, **norm: Any) -> Result:
    """Logits, batch statistics afterwards, and the gradient of a mean loss."""
    kind = jnp.float64
    model = net(norm=partial(BatchNorm, **norm), dtype=kind, param_dtype=kind)

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, after = model.apply(tree, images, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sum(jnp.square(logits), -1)), (logits, after["batch_stats"])

    gradient, (logits, after) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, after, gradient


def _variables(net: Callable[..., nn.Module], shape: tuple[int, ...]) -> Any:
    """Noise everywhere, so that no gate is at its starting value; statistics stay positive."""
    tree = attnjax.init(net(dtype=jnp.float64, param_dtype=jnp.float64), jax.random.key(0), shape)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.1 * np.abs(rng.standard_normal(leaf.shape))), tree)


@pytest.mark.parametrize("name", ["cbam", *map(only_in_full, ("bam", "sk")), "ran"])
def test_groups_are_devices_and_a_named_axis_is_the_global_batch(name: str) -> None:
    devices = 4
    with jax.enable_x64(True):
        net, shape = NETS[name], (8, 8, 8, 3)
        variables = _variables(net, shape)
        images = jnp.asarray(np.random.default_rng(1).standard_normal(shape))
        parts = images.reshape(devices, -1, *shape[1:])

        def mapped(**norm: Any) -> Result:
            run = jax.pmap(partial(_step, net, **norm), "data", in_axes=(None, 0), devices=jax.devices()[:devices])
            logits, after, gradient = jax.device_get(run(variables, parts))
            mean = partial(jax.tree.map, lambda leaf: leaf.mean(0))
            return logits.reshape(-1, logits.shape[-1]), mean(after), mean(gradient)

        together, grouped = (jax.jit(partial(_step, net, groups=groups))(variables, images) for groups in (1, devices))
        same = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9))
        same(mapped(), grouped)
        same(mapped(axis_name="data"), together)
        assert np.abs(together[0] - grouped[0]).max() > 1e-3


MARKED = {
    "ResNet": (NETS["bam"](), "s bs bs"),
    "ResidualAttentionNet": (NETS["ran"](), "s bs s"),
    "MobileNet": (MobileNet(3, 0.25), "s s bs bs bbbbbs bs"),
    "VGG": (VGG((2, 1), 3, (8, 8)), "bs s"),
    "GGAMNet": (GGAMNet(partial(VGG, (2, 1), widths=(8, 8)), num_classes=3), "bs s"),
}
"""A net of each class, and the marks of its maps in order: b for blocks, s for the stem and for a stage's last one."""


@pytest.mark.parametrize("kept", [("block", "stage"), ("stage",)], ids="-".join)
@pytest.mark.parametrize("name", MARKED)
def test_gradients_keep_the_named_maps_alone(
    name: str, kept: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    net, marks = MARKED[name]
    images = jnp.ones((2, 32, 32, 3))
    variables = attnjax.init(net, jax.random.key(0), images.shape)

    def loss(params: Any) -> jax.Array:
        tree = {"params": params, "batch_stats": variables["batch_stats"]}
        return jnp.sum(net.apply(tree, images, train=True, mutable=["batch_stats"])[0])

    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    print_saved_residuals(jax.checkpoint(loss, policy=policy), variables["params"])
    lines = capsys.readouterr().out.splitlines()
    computed = [line for line in lines if "from the argument" not in line and "from a constant" not in line]
    named = [re.search(r" named '(\w+)' from ", line) for line in computed]
    expected = [{"b": "block", "s": "stage"}[mark] for mark in marks.replace(" ", "")]
    assert [match and match[1] for match in named] == [mark for mark in expected if mark in kept]
