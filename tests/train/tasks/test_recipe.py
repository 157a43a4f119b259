"""What the settings of a run make of learning rates, optimizers, sharding and batch norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.training import adamw, lamb, sgd
from tests.train.support import replace, small
from train.config import Config, DataConfig, ParallelConfig
from train.config.errors import UserError
from train.tasks.recipe import Run, make_layout, norm_options

CONFIG = replace(small(), {"data.batch_size": 32})
DEVICE = {"parallel.batch_norm": "device"}
PMAP = {"parallel.engine": "pmap"}
PARTS = {"parallel.accumulate": 2}


def run_of(changes: dict[str, Any]) -> Run:
    return Run(replace(small(), changes), tuple("0123456789"), (8, 8, 1), 1437)


@pytest.mark.parametrize(
    ("changes", "steps", "at", "expected"),
    [
        ({"schedule.kind": "constant"}, 100, [0, 99], [0.4, 0.4]),
        ({"schedule.kind": "cosine", "schedule.warmup": 0.1}, 100, [0, 5, 10, 55, 100], [0, 0.2, 0.4, 0.2, 0]),
        ({"schedule.kind": "step"}, 100, [49, 50, 74, 75], [0.4, 0.04, 0.04, 0.004]),
        (
            {"schedule.kind": "step", "schedule.warmup": 0.1, "schedule.milestones": (0.3, 0.6, 0.9)},
            200,
            [10, 59, 60, 119, 120, 180],
            [0.2, 0.4, 0.04, 0.04, 0.004, 0.0004],
        ),
        ({"schedule.kind": "cosine"}, 1, [0], [0.4]),
    ],
)
def test_times_of_the_schedule_are_fractions_of_the_duration(
    changes: dict[str, Any], steps: int, at: list[int], expected: list[float]
):
    settings = {"schedule.warmup": 0.0, **changes, "total_steps": steps, "optimizer.learning_rate": 0.4}
    schedule = run_of(settings).schedule()
    assert [float(schedule(step)) for step in at] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"optimizer.momentum": 0.8, "optimizer.nesterov": True, "optimizer.clip_norm": 0.5},
            sgd(0.1, 0.8, nesterov=True, weight_decay=0.3, clip_norm=0.5),
        ),
        (
            {"optimizer.kind": "adamw", "optimizer.second_moment": 0.95, "optimizer.scaled_module": "conv"},
            adamw(0.1, 0.9, 0.95, weight_decay=0.3, rate_factors={"conv": 0.1}),
        ),
        (
            {"optimizer.kind": "lamb", "optimizer.decay_norm_and_bias": False},
            lamb(0.1, 0.9, 0.999, weight_decay=0.3, decay_norm_and_bias=False),
        ),
    ],
)
def test_the_optimizer_is_the_one_of_the_settings(changes: dict[str, Any], expected: Any):
    settings = {
        "optimizer.learning_rate": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": False,
        "optimizer.weight_decay": 0.3,
        "schedule.kind": "constant",
        "schedule.warmup": 0.0,
    }
    params = {"conv": {"kernel": jnp.array([[1.0, -2.0]])}, "bn": {"scale": jnp.array([1.0, 2.0])}}
    grads = jax.tree.map(lambda leaf: leaf + 1, params)
    with jax.numpy_dtype_promotion("standard"):
        results = []
        for optimizer in (run_of(settings | changes).optimizer(), expected):
            state = optimizer.init(params)
            for _ in range(2):
                updates, state = optimizer.update(grads, state, params)
            results.append(updates)
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 12}, "data.batch_size=12 cannot be divided evenly among 8 devices: use 8"),
        (
            PARTS | {"data.batch_size": 8},
            "data.batch_size=8 cannot be divided evenly among 8 devices in 2 parts: use 16",
        ),
        ({"parallel.shard_parameters": 3}, "parallel.shard_parameters=3 does not divide the 8 devices"),
        (
            {"data.mixup": 0.1, "data.batch_size": 24},
            "data.mixup and data.cutmix mix neighbouring images: the number on each device, 3, must be even",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        make_layout(replace(CONFIG, changes))
    assert str(error.value) == message


def test_a_layout_is_on_the_devices_given():
    assert make_layout(replace(CONFIG, {"data.batch_size": 12}), jax.devices()[:3]).num_devices == 3


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


def test_an_evaluation_takes_batches_that_gradients_would_not_be_accumulated_over():
    config = Config(data=DataConfig(batch_size=64), parallel=ParallelConfig(accumulate=4), total_steps=1)
    run = Run(config, ("a", "b"), (8, 8, 1), 10).with_batches_of(7)
    assert (run.config.data.batch_size, run.config.parallel.accumulate) == (7, 1)
