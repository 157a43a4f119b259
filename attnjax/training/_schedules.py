"""Learning-rate schedules."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import optax


def constant_schedule(peak: float, *, warmup: int = 0) -> optax.Schedule:
    """Constant learning rate after a linear warm-up from 0.

    Args:
      peak: peak learning rate.
      warmup: number of warm-up steps.

    Raises:
      ValueError: `warmup` is negative.

    Example:
      >>> from attnjax.training import constant_schedule
      >>> [float(constant_schedule(0.5, warmup=2)(step)) for step in (0, 1, 2, 9)]
      [0.0, 0.25, 0.5, 0.5]
    """
    return _with_warmup(optax.constant_schedule(peak), peak, warmup)


def cosine_schedule(peak: float, steps: int, *, warmup: int = 0) -> optax.Schedule:
    """Cosine decay to 0 after a linear warm-up from 0.

    Args:
      peak: peak learning rate.
      steps: total number of training steps, warm-up included.
      warmup: number of warm-up steps.

    Raises:
      ValueError: `warmup` is not from 0 to `steps`.

    Example:
      >>> from attnjax.training import cosine_schedule
      >>> [round(float(cosine_schedule(1.0, 10, warmup=2)(step)), 4) for step in (0, 2, 6, 10)]
      [0.0, 1.0, 0.5, 0.0]

    References:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    if warmup > steps:
        raise ValueError(f"warmup={warmup} must be from 0 to steps={steps}")
    return _with_warmup(optax.cosine_decay_schedule(peak, max(1, steps - warmup)), peak, warmup)


def step_schedule(peak: float, milestones: Sequence[int], *, factor: float = 0.1, warmup: int = 0) -> optax.Schedule:
    """Step decay: multiplies the learning rate by a factor at each milestone, after a linear warm-up from 0.

    Args:
      peak: peak learning rate.
      milestones: steps at which the learning rate drops.
      factor: factor at each milestone.
      warmup: number of warm-up steps.

    Raises:
      ValueError: `warmup` is negative, or a milestone comes before its end.

    Example:
      >>> from attnjax.training import step_schedule
      >>> [round(float(step_schedule(1.0, [3, 6])(step)), 4) for step in (0, 3, 6)]
      [1.0, 0.1, 0.01]
    """
    drops: dict[int, float] = {}
    for milestone in milestones:
        if milestone < warmup:
            raise ValueError(f"milestones={tuple(milestones)} must be at least warmup={warmup}")
        drops[milestone - warmup] = drops.get(milestone - warmup, 1.0) * factor
    return _with_warmup(optax.piecewise_constant_schedule(peak, drops), peak, warmup)


def _with_warmup(main: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    if warmup < 0:
        raise ValueError(f"warmup={warmup} must be at least 0")
    if warmup:
        main = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])
    return lambda step: main(jnp.asarray(step, jnp.float32))
