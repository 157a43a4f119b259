"""Blocks and nets against the released PyTorch code: outputs, gradients and running statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import attnjax
from attnjax.attention import CBAM, ChannelGate, SpatialGate, SqueezeExcite
from attnjax.layers import BatchNorm, Conv, max_pool
from attnjax.models import BasicBlock, Bottleneck
from tests.golden import reference
from tests.golden.reference import Fixture, our_path, sample, to_torch_layout


class ConvNormRelu(nn.Module):
    """The reference's BasicConv with a stride and groups."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nn.relu(
            BatchNorm(momentum=0.99, name="bn")(Conv(12, 3, stride=2, groups=4, name="conv")(x), train=train)
        )


class MaxPool(nn.Module):
    """The stem's pool, as a module."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return max_pool(x, 3, 2, padding=1)


Paths = dict[str, tuple[str, ...]]
"""Where an entry of the reference's state dict stands in our variables: collection, modules, leaf."""

_cbam = partial(CBAM, reduction=16)
_se_without_bias = partial(SqueezeExcite, use_bias=False)

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "block/cbam/basicconv_s2_g4": ConvNormRelu,
    "block/ran/maxpool3s2p1_14": MaxPool,
    "block/ran/maxpool3s2p1_15x13": MaxPool,
    "block/cbam/channelgate_a_14": partial(ChannelGate, pools=("avg",)),
    "block/cbam/channelgate_m_14": partial(ChannelGate, pools=("max",)),
    "block/cbam/channelgate_l_14": partial(ChannelGate, pools=("lp",)),
    "block/cbam/channelgate_e_14": partial(ChannelGate, pools=("lse",)),
    "block/cbam/channelgate_am_14": ChannelGate,
    "block/cbam/channelgate_am_15x13_r4": partial(ChannelGate, reduction=4),
    "block/cbam/channelgate_aml_14": partial(ChannelGate, pools=("avg", "max", "lp")),
    "block/cbam/channelgate_amle_14": partial(ChannelGate, pools=("avg", "max", "lp", "lse")),
    "block/cbam/spatialgate_7": SpatialGate,
    "block/cbam/spatialgate_14": SpatialGate,
    "block/cbam/cbam_a_7x7_r4": partial(CBAM, reduction=4, pools=("avg",)),
    "block/cbam/cbam_am_7x7_r8": partial(CBAM, reduction=8),
    "block/cbam/cbam_am_14x14_r16": CBAM,
    "block/cbam/cbam_am_15x13_r16": CBAM,
    "block/cbam/cbam_am_64ch_8x8": CBAM,
    "block/cbam/cbam_am_nosp_14x14_r16": partial(CBAM, spatial=False),
    "block/cbam/cbam_amle_14x14_r8": partial(CBAM, reduction=8, pools=("avg", "max", "lp", "lse")),
    "block/cbam/cbam_e_7x7_r16": partial(CBAM, pools=("lse",)),
    "block/cbam/cbam_l_14x14_r16": partial(CBAM, pools=("lp",)),
    "block/cbam/basicblock_plain_s2": partial(BasicBlock, 32, stride=2),
    "block/cbam/basicblock_cbam": partial(BasicBlock, 32, attention=_cbam),
    "block/cbam/basicblock_cbam_s2": partial(BasicBlock, 32, stride=2, attention=_cbam),
    "block/cbam/bottleneck_plain_s2": partial(Bottleneck, 64, stride=2),
    "block/cbam/bottleneck_cbam_s2": partial(Bottleneck, 64, stride=2, attention=_cbam),
    "block/se/selayer_32": _se_without_bias,
    "block/se/selayer_32_r8_odd": partial(_se_without_bias, reduction=8),
    "block/se/sebasicblock": partial(BasicBlock, 32, attention=_se_without_bias),
    "block/se/cifarsebasic_s2": partial(BasicBlock, 32, stride=2, attention=_se_without_bias),
    "block/se/sebottleneck_s2": partial(Bottleneck, 64, stride=2, attention=_se_without_bias),
    "block/timm/se_32": partial(SqueezeExcite, reduction=4),
    "block/timm/legacy_sebottleneck": partial(Bottleneck, 64, stride_at="1x1", attention=SqueezeExcite),
    "block/timm/bottleneck_resnext": partial(Bottleneck, 64, width=128, groups=32),
}

_net = attnjax.create_model
_port_se = partial(SqueezeExcite, use_bias=False)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet_cifar/resnet20": partial(_net, "resnet20_cifar"),
    "resnet_cifar/resnet56": partial(_net, "resnet56_cifar"),
    "se_cifar/se_resnet20": partial(_net, "se_resnet20_cifar", attention=_port_se),
    "se_cifar/se_resnet32": partial(_net, "se_resnet32_cifar", attention=_port_se),
    "se_imagenet/se_resnet18_64px": partial(_net, "resnet18", attention=_port_se),
    "se_imagenet/se_resnet50_64px": partial(_net, "resnet50", attention=_port_se),
    "cbam_bam_cifar/resnet18_plain_cifar100": partial(_net, "resnet18_cifar"),
    "cbam_bam_cifar/resnet18_cbam_cifar100": partial(_net, "cbam_resnet18_cifar"),
    "cbam_bam_cifar/resnet50_cbam_cifar100": partial(_net, "cbam_resnet50_cifar"),
    "cbam_bam_imagenet/resnet18_cbam_imagenet": partial(_net, "cbam_resnet18"),
    "cbam_bam_imagenet/resnet34_cbam_imagenet": partial(_net, "cbam_resnet34"),
    "cbam_bam_imagenet/resnet50_cbam_imagenet": partial(_net, "cbam_resnet50"),
    "timm/resnet18_64px": partial(_net, "resnet18"),
    "timm/resnet50": partial(_net, "resnet50"),
    "timm/resnext50_32x4d": partial(_net, "resnext50_32x4d"),
    "timm/legacy_seresnet50_64px": partial(_net, "se_resnet50"),
    "timm/legacy_seresnext50_32x4d_64px": partial(_net, "se_resnext50_32x4d"),
    "timm/seresnet50": partial(_net, "se_resnet50", stem_pool="padded", stride_at="3x3"),
    "timm/seresnext50_32x4d_64px": partial(_net, "se_resnext50_32x4d", stem_pool="padded"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every fixture of the folder that a test of this module knows."""
    folder: Path = metafunc.config.getoption("--golden")
    paths = {entry["id"]: entry["path"] for entry in json.loads((folder / "index.json").read_text())["fixtures"]}
    known = {"block": BLOCKS, "model": MODELS, "small_model": SMALL}
    for argument, names in known.items():
        if argument in metafunc.fixturenames:
            found = [name for name in names if name in paths]
            metafunc.parametrize(argument, [Fixture(folder, paths[name]) for name in found], ids=found)


def convert(fixture: Fixture, template: dict[str, Any]) -> tuple[dict[str, Any], Paths]:
    """The recipe's weights as our variables, and where each entry of the reference went."""
    shapes = {path: leaf.shape for path, leaf in flatten_dict(template).items()}
    state = {name: value for name, value in fixture.state_dict().items() if value.ndim}
    norms = {name.rpartition(".")[0] for name in state if name.endswith("running_mean")}
    paths = {name: our_path(name, name.rpartition(".")[0] in norms) for name in state}
    assert sorted(paths.values()) == sorted(shapes)
    leaves = {paths[name]: reference.from_torch_layout(state[name], shapes[paths[name]]) for name in state}
    assert {path: leaf.shape for path, leaf in leaves.items()} == shapes
    return unflatten_dict({path: jnp.asarray(leaf) for path, leaf in leaves.items()}), paths


def prepare(fixture: Fixture, model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, Any], Paths]:
    template = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros(shape))
    return convert(fixture, template)


def test_block_gives_the_reference_output_gradients_and_statistics(block: Fixture) -> None:
    model, x = BLOCKS[block.manifest["id"]](), jnp.asarray(block.images("eval"))
    variables, paths = prepare(block, model, x.shape)
    for mode in block.manifest["modes"]:
        check_block(block, model, variables, paths, x, mode)


def check_block(
    block: Fixture, model: nn.Module, variables: dict[str, Any], paths: Paths, x: jax.Array, mode: str
) -> None:
    stats = variables.get("batch_stats", {})

    @jax.jit
    def run(params: Any, x: jax.Array) -> Any:
        def loss(params: Any, x: jax.Array) -> Any:
            x = nn.relu(x) if block.manifest["input"]["relu"] else x
            inputs = {"params": params, "batch_stats": stats}
            out, updates = model.apply(inputs, x, train=mode == "train", mutable=["batch_stats"])
            return jnp.sum(out * block.cotangent()), (out, updates)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    (_, (out, updates)), (grads, dx) = run(variables.get("params", {}), x)
    block.assert_close(f"{mode}/out", reference.nchw(out), 2e-6)
    block.assert_close(f"{mode}/dx", reference.nchw(dx), 5e-6)
    flat, new_stats = flatten_dict(grads), flatten_dict(updates.get("batch_stats", {}))
    shapes = dict(block.manifest["state_dict"])
    for name, (collection, *path) in paths.items():
        if f"{mode}/grad/{name}" in block.arrays:
            value = to_torch_layout(path[-1], flat[tuple(path)], shapes[name])
            block.assert_close(f"{mode}/grad/{name}", value, 2e-5)
        if collection == "batch_stats" and mode == "train":
            block.assert_close(f"{mode}/buffer/{name}", new_stats[tuple(path)], 2e-6)


def test_model_gives_the_reference_logits(model: Fixture) -> None:
    net, x = MODELS[model.manifest["id"]](num_classes=model.manifest["num_classes"]), jnp.asarray(model.images("eval"))
    variables, _ = prepare(model, net, (1, *x.shape[1:]))
    model.assert_close("eval/logits", jax.jit(partial(net.apply, train=False))(variables, x), 2e-5)
    assert attnjax.count_macs(net, (1, *x.shape[1:])) == model.manifest["macs"]


SMALL = ["se_cifar/se_resnet20", "cbam_bam_cifar/resnet18_cbam_cifar100"]


def test_training_step_has_the_reference_loss_gradients_and_statistics(small_model: Fixture) -> None:
    fixture = small_model
    model, x = MODELS[fixture.manifest["id"]](), jnp.asarray(fixture.images("train"))
    variables, paths = prepare(fixture, model, x.shape)
    labels = jnp.asarray(fixture.manifest["train"]["labels"])

    @jax.jit
    def run(variables: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, updates = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            log_p = jax.nn.log_softmax(logits)
            return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean(), (logits, updates)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, (logits, updates)), grads = run(variables)
    fixture.assert_close("train/logits", logits, 2e-5)
    fixture.assert_close("train/loss", loss, 2e-6)
    shapes, flat = dict(fixture.manifest["state_dict"]), flatten_dict(grads)
    for name in fixture.manifest["grad_samples"]:
        value = to_torch_layout(paths[name][-1], flat[paths[name][1:]], shapes[name])
        noise = fixture.manifest["noise_float32_vs_float64"]["grad_rel_l2_samples"][name]
        fixture.assert_close(f"train/grad/{name}", sample(value), max(1e-4, 10 * noise))
    for name in fixture.manifest["buffer_samples"]:
        value = flatten_dict(updates["batch_stats"])[paths[name][1:]]
        fixture.assert_close(f"train/buffer/{name}", value, 1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
