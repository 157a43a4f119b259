"""What a training step changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = dict[str, Any]
"""Collections of a net by name: `params` and, where it has them, `batch_stats`."""


class TrainState(flax.struct.PyTreeNode):
    """What a training step changes.

    Attributes:
      step: steps taken, int32 ().
      variables: `params` and, where the net has them, `batch_stats`.
      opt_state: state of the optimizer.
      ema: exponential moving average of the variables, or None.

    Example:
      >>> import jax, optax, attnjax
      >>> from attnjax.training import TrainState
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
      >>> state = TrainState.create(variables, optax.sgd(0.1), ema=True)
      >>> state.step.item(), state.eval_variables is state.ema
      (0, True)
    """

    step: jax.Array
    variables: Variables
    opt_state: optax.OptState
    ema: Variables | None

    @classmethod
    def create(
        cls, variables: Mapping[str, Any], optimizer: optax.GradientTransformation, *, ema: bool = False
    ) -> TrainState:
        """The state before the first step.

        Args:
          variables: of the net, as `attnjax.init` makes them.
          optimizer: any of optax's.
          ema: whether to keep an average of the variables; the training step says how.
        """
        variables = dict(variables)
        average = jax.tree.map(jnp.copy, variables) if ema else None
        return cls(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), average)

    @property
    def eval_variables(self) -> Variables:
        """The variables to evaluate and to predict with: the average where there is one."""
        return self.variables if self.ema is None else self.ema


class Sums(flax.struct.PyTreeNode):
    """Sums over the examples of training steps, and the first step that went wrong.

    Attributes:
      totals: sums by name, see `Aux`.
      first_nonfinite: the first step whose loss, gradient or result was not finite, counted from 0; -1 where all were,
        int32 ().

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import Sums
      >>> sums = Sums({"loss": jnp.float32(6), "count": jnp.int32(4)}, jnp.int32(-1))
      >>> float(sums["loss"]) / int(sums["count"])
      1.5
    """

    totals: dict[str, jax.Array]
    first_nonfinite: jax.Array

    def __getitem__(self, name: str) -> jax.Array:
        return self.totals[name]
