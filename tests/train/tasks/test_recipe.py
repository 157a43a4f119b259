"""What the settings of a run make of learning rates and optimizers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.training import adamw, lamb, sgd
from tests.train.support import replace, small
from train.tasks.recipe import Run


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
