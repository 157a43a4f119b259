"""The optimiser and its schedule."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config import OptimizerConfig, ScheduleConfig
from train.config.errors import UserError


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
    """Clips the gradient, then takes a step of SGD as PyTorch has it, of AdamW or of LAMB.

    LAMB's trust ratio is for the parameters that decay: one that starts at 0 would hardly leave it.

    Raises (when the optimiser is initialised):
      UserError: the net has no submodule `scaled_module`.
    """
    chosen = None if config.decay_norm_and_bias else _decays
    decay = optax.add_decayed_weights(config.weight_decay, chosen)
    moments = (config.momentum, config.second_moment)
    if config.kind == "sgd":
        parts = [decay, optax.sgd(schedule, config.momentum, config.nesterov)]
    elif config.kind == "adamw":
        parts = [optax.scale_by_adam(*moments), decay, optax.scale_by_learning_rate(schedule)]
    else:
        trust = optax.scale_by_trust_ratio()
        trust = trust if chosen is None else optax.masked(trust, chosen)
        parts = [optax.scale_by_adam(*moments, eps=1e-6), decay, trust, optax.scale_by_learning_rate(schedule)]
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    parts = [clip, *parts]
    if config.scaled_module is not None:
        parts.append(optax.masked(optax.scale(config.scaled_by), partial(_inside, config.scaled_module)))
    return optax.chain(*parts)


def _decays(params: Any) -> Any:
    """True for kernels, False for the scales of norms and for biases."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "bias"), params)


def _inside(module: str, params: Any) -> Any:
    """True for the parameters of a submodule of the net."""
    if module not in params:
        near = difflib.get_close_matches(module, params, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(params))}"
        raise UserError(f"optimizer.scaled_module={module!r} is no submodule of the net: {hint}")
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == module, params)
