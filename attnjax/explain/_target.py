"""The target of an explanation: a score per image, computed from the net's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.layers import at_least_float32

Target = Any
"""None, classes or a callable; see `grad_cam`."""


def scores(outputs: Any, target: Target, batch: int) -> jax.Array:
    """The score of each image, (b,).

    Raises:
      ValueError: the target does not fit the outputs.
    """
    if callable(target):
        values = target(outputs)
        if getattr(values, "shape", None) != (batch,):
            raise ValueError(f"target must give one number per image, ({batch},), got {_shape(values)}")
        return values
    logits = _logits(outputs)
    return jnp.take_along_axis(logits, classes(logits, target)[:, None], axis=-1)[:, 0]


def probabilities(outputs: Any, target: Target, batch: int) -> jax.Array:
    """The probability of each image's class, (b,); for a callable target, its value."""
    if not callable(target):
        logits = _logits(outputs)
        outputs = jax.nn.softmax(logits.astype(at_least_float32(logits.dtype)))
    return scores(outputs, target, batch)


def classes(outputs: Any, target: Target) -> jax.Array:
    """The class of each image, (b,): the given ones, or the predictions."""
    batch, count = _logits(outputs).shape
    if target is None:
        return jnp.argmax(outputs, axis=-1)
    given = target if isinstance(target, jax.Array) else np.asarray(target)
    if not jnp.issubdtype(given.dtype, jnp.integer) or given.shape not in ((), (batch,)):
        raise ValueError(f"target must be None, an integer, ({batch},) integers or a callable, got {_shape(given)}")
    if not isinstance(given, jax.core.Tracer) and not np.all((np.asarray(given) >= 0) & (np.asarray(given) < count)):
        raise ValueError(f"target={np.asarray(given).tolist()} must lie in 0..{count - 1}")
    return jnp.broadcast_to(given, (batch,))


def fixed(outputs: Any, target: Target) -> Target:
    """The target with the predicted class fixed, for running the net on changed inputs."""
    return classes(outputs, None) if target is None else target


def scorer(target: Target, batch: int) -> Callable[[Any], jax.Array]:
    """`scores` as a function of the outputs."""
    return lambda outputs: scores(outputs, target, batch)


def _logits(outputs: Any) -> jax.Array:
    if getattr(outputs, "ndim", None) != 2:
        raise ValueError(f"target must be a callable for a net that gives {_shape(outputs)} and no logits (b, n)")
    return outputs


def _shape(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
