"""Every engine, and every number of devices, takes the same steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from attnjax.attention import CBAM, ChannelSpatialAttention
from attnjax.layers import BatchNorm
from attnjax.models import BasicBlock, GGAMNet, ResNet
from tests.train.support import replace, small
from train.config import Config, ModelConfig
from train.config.errors import UserError
from train.layout import Layout
from train.metrics import Metrics
from train.parallel import norm_options, training_step
from train.runs.record import Run
from train.state import TrainState
from train.step import train_step

STEPS = 20
CONFIG: Config = replace(
    small(),
    {
        "data.batch_size": 32,
        "optimizer.learning_rate": 1e-4,
        "schedule.warmup": 0.0,
        "total_steps": STEPS,
        "ema_decay": 0.5,
    },
)
DEVICE = {"parallel.batch_norm": "device"}
PMAP = {"parallel.engine": "pmap"}
PARTS = {"parallel.accumulate": 2}
GUIDED = {"model": ModelConfig("ggam_resnet20_cifar"), "ggam.weight": 1.0}
FLOWING = {**GUIDED, "ggam.stop_gradient": False, "ggam.beta_norm": "softmax", "ggam.reduction": "sum"}
MIXED = {"data.mixup": 0.2, "data.cutmix": 1.0, "label_smoothing": 0.1}


class TinyRun(Run):
    """Trains a net of one block, in float64 where that is the test's type."""

    def model(self, **norm: Any) -> nn.Module:
        types: dict[str, Any] = {"dtype": _kind(), "param_dtype": _kind(), "norm": functools.partial(BatchNorm, **norm)}
        if self.config.ggam.weight:
            backbone = functools.partial(ResNet, (1,), BasicBlock, widths=(16,), stem="cifar", stem_width=16)
            return GGAMNet(backbone, functools.partial(ChannelSpatialAttention, reduction=4), 10, hidden=8, **types)
        return ResNet(
            (1,),
            BasicBlock,
            10,
            attention=functools.partial(CBAM, reduction=4),
            widths=(64,),
            stem="cifar",
            stem_width=64,
            **types,
        )


def tiny_run(config: Config) -> TinyRun:
    return TinyRun(config, tuple("0123456789"), (8, 8, 1), 320)


def _kind() -> Any:
    return np.float64 if jax.config.jax_enable_x64 else np.float32


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def run_steps(
    devices: int, changes: dict[str, Any], count: int = STEPS, order: Any = slice(None)
) -> tuple[np.ndarray, TrainState]:
    """The losses of some steps on random images, each batch in an order, and the state after them."""
    config = replace(CONFIG, changes)
    layout = Layout.of(config, jax.devices()[:devices])
    run = tiny_run(config)
    step = training_step(run, layout)
    state, rng, losses = step.enter([layout.put_state(run.fresh_state())]), np.random.default_rng(0), []
    for _ in range(count):
        batch = {"image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8), "label": rng.integers(0, 10, 32, np.int32)}
        batch = {name: rows[order] for name, rows in batch.items()}
        state, metrics = step(state, step.enter([layout.put(Metrics.zero())]), [batch])
        losses.append(jax.device_get(step.leave(metrics)[0]).figures()["loss"])
    return np.asarray(losses), jax.device_get(step.leave(state)[0])


@functools.cache
def alone(*changes: tuple[str, Any]) -> tuple[np.ndarray, TrainState]:
    """What one device does, in float64."""
    return run_steps(1, dict(changes))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        ({}, {}),
        ({}, PMAP),
        ({}, {"parallel.shard_parameters": 4}),
        ({}, {"parallel.rematerialize": "block"}),
        ({}, {"parallel.rematerialize": "stage"} | PMAP),
        ({"parallel.batch_norm": 4}, DEVICE),
        ({"parallel.batch_norm": 4}, DEVICE | PMAP),
        ({"parallel.batch_norm": 2}, {"parallel.batch_norm": 2} | PMAP),
        (PARTS, PARTS | PMAP),
        (MIXED, MIXED),
        (MIXED, MIXED | PMAP),
        (PARTS | {"parallel.batch_norm": 2}, PARTS | DEVICE),
        (GUIDED, GUIDED | PMAP | {"parallel.rematerialize": "block"}),
        (FLOWING | PARTS, FLOWING | PARTS | PMAP),
        (FLOWING | MIXED, FLOWING | MIXED),
    ],
)
def test_eight_devices_take_the_steps_of_one(reference: dict[str, Any], changes: dict[str, Any]):
    one, many = alone(*reference.items()), run_steps(8, changes)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-9)
    assert jax.tree.structure(many[1]) == jax.tree.structure(one[1])
    for a, b in zip(jax.tree.leaves(many[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_the_parts_of_a_batch_add_up_to_the_step_of_the_whole():
    evens_then_odds = [*range(0, 32, 2), *range(1, 32, 2)]
    whole = run_steps(1, {"parallel.batch_norm": 16}, order=evens_then_odds)
    losses, state = alone(*PARTS.items())
    np.testing.assert_allclose(losses, whole[0], rtol=1e-9)
    params = [jax.tree.leaves(state.variables["params"]) for state in (state, whole[1])]
    for a, b in zip(*params, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kept", "convolutions"), [("none", 11), ("block", 15), ("stage", 15)])
def test_rematerialisation_computes_convolutions_again(kept: str, convolutions: int):
    config = replace(CONFIG, {"parallel.rematerialize": kept})
    run = tiny_run(config)
    batch = {"image": np.zeros((32, 8, 8, 1), np.uint8), "label": np.zeros(32, np.int32)}
    step = functools.partial(train_step, run.model(), run.optimizer(), config)
    text = jax.jit(step).lower(run.abstract_state(), Metrics.zero(), batch).as_text()
    assert text.count("stablehlo.convolution(") == convolutions


@pytest.mark.parametrize("changes", [{}, PMAP])
def test_eight_devices_take_the_steps_of_one_in_float32(changes: dict[str, Any]):
    np.testing.assert_allclose(run_steps(8, changes)[0], run_steps(1, {})[0], rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("changes", [DEVICE, PARTS])
def test_statistics_of_parts_of_a_batch_are_other_statistics(changes: dict[str, Any]):
    assert np.abs(run_steps(8, changes, 1)[0] - alone()[0][0]) > 1e-4


def test_sharded_parameters_lie_in_parts_on_the_devices_and_small_ones_whole():
    config = replace(CONFIG, {"parallel.shard_parameters": 4})
    layout = Layout.of(config, jax.devices())
    run = tiny_run(config)
    state = layout.put_state(run.fresh_state())
    kernel = state.variables["params"]["stage1_block0"]["conv2"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 16, 64)}
    assert {len(leaf.addressable_shards) for leaf in jax.tree.leaves(state)} == {8}
    for leaf in jax.tree.leaves(state):
        parts = leaf.size // leaf.addressable_shards[0].data.size
        assert parts == (4 if leaf.size >= 2**14 else 1)
    step = training_step(run, layout)
    batch = {"image": np.zeros((32, 8, 8, 1), np.uint8), "label": np.zeros(32, np.int32)}
    after, _ = step(state, layout.put(Metrics.zero()), [batch])
    assert jax.tree.map(lambda leaf: leaf.sharding, after) == layout.shardings(after)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 12}, "data.batch_size=12 cannot be divided among 8 devices: take 8"),
        (PARTS | {"data.batch_size": 8}, "data.batch_size=8 cannot be divided among 8 devices in 2 parts: take 16"),
        ({"parallel.shard_parameters": 3}, "parallel.shard_parameters=3 does not divide the 8 devices"),
        (
            {"data.mixup": 0.1, "data.batch_size": 24},
            "data.mixup and data.cutmix mix neighbours: 3 images on each device must be even",
        ),
    ],
)
def test_a_layout_says_what_cannot_be_divided(changes: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        Layout.of(replace(CONFIG, changes))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"groups": 1}),
        (DEVICE, {"groups": 8}),
        ({"parallel.batch_norm": 2}, {"groups": 16}),
        (PARTS | DEVICE, {"groups": 8}),
        (PMAP, {"axis_name": "device"}),
        (PMAP | {"parallel.batch_norm": 32}, {"axis_name": "device"}),
        (PMAP | DEVICE, {"groups": 1}),
        (PMAP | {"parallel.batch_norm": 2}, {"groups": 2}),
    ],
)
def test_batch_norm_takes_the_images_that_the_settings_say(changes: dict[str, Any], options: dict[str, Any]):
    assert norm_options(replace(CONFIG, changes), 8) == options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel.batch_norm": 5}, "parallel.batch_norm=5 does not divide the 32 images of a batch"),
        (PMAP | {"parallel.batch_norm": 8}, "parallel.batch_norm=8 does not divide the 4 images of a device"),
        (PARTS | {"parallel.batch_norm": 32}, "does not divide the 16 images of a batch part"),
    ],
)
def test_batch_norm_says_what_cannot_be_divided(changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        norm_options(replace(CONFIG, changes), 8)
