"""What a run has learnt so far."""

from __future__ import annotations

import hashlib
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict

import attnjax
from train.runs.weights import start_from

Variables = dict[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes.

    Attributes:
      step: steps done, int32 ().
      variables: `params` and `batch_stats`.
      opt_state: the optimiser's.
      ema: average of the variables, or None.
    """

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState
    ema: Variables | None

    @property
    def evaluated(self) -> Variables:
        """The variables that evaluation and prediction use: the average where there is one."""
        return self.variables if self.ema is None else self.ema


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int,
    average: bool,
    weights: str | None = None,
) -> TrainState:
    """A state before the first step, with start weights from a file or fresh ones, which the seed fixes.

    Raises:
      UserError: the file does not fit the net.
    """
    variables = attnjax.init(model, jax.random.key(seed), (1, *image_shape))
    if weights is not None:
        variables = start_from(weights, variables)
    ema = jax.tree.map(jnp.copy, variables) if average else None
    return TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), ema)


def digest(variables: Variables) -> str:
    """SHA-256 over parameters and batch statistics: path, type, shape and bytes of each, by sorted path."""
    sha = hashlib.sha256()
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    for path in sorted(flat):
        value = np.ascontiguousarray(jax.device_get(flat[path]))
        sha.update(f"{path} {value.dtype} {value.shape}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()
