"""The optimiser and its schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config import OptimizerConfig, ScheduleConfig


def make_schedule(config: ScheduleConfig, peak: float, steps: int) -> optax.Schedule:
    """Learning rate by step, over a duration in steps."""
    warmup = round(config.warmup * steps)
    rest = steps - warmup
    if config.kind == "cosine":
        main = optax.cosine_decay_schedule(peak, max(1, rest))
    elif config.kind == "step":
        drops: dict[int, float] = {}
        for milestone in config.milestones:
            step = round(milestone * steps) - warmup
            drops[step] = drops.get(step, 1.0) * config.factor
        main = optax.piecewise_constant_schedule(peak, drops)
    else:
        main = optax.constant_schedule(peak)
    if warmup:
        main = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])
    return lambda step: main(jnp.asarray(step, jnp.float32))


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD as PyTorch's: clip, add the decay to the gradient, momentum, learning rate."""
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    decay = optax.add_decayed_weights(config.weight_decay, None if config.decay_norm_and_bias else _decays)
    return optax.chain(clip, decay, optax.sgd(schedule, config.momentum, config.nesterov))


def _decays(params: Any) -> Any:
    """True for kernels, False for the scales of norms and for biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias"), params)
