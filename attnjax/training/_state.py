"""The state of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = dict[str, Any]
"""Collections of a net by name: `params` and, if it has any, `batch_stats`."""


class TrainState(flax.struct.PyTreeNode):
    """Step, variables and optimizer state; updated by the training step.

    Attributes:
      step: number of steps taken, int32 ().
      variables: `params` and, if the net has any, `batch_stats`.
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
        """Creates the state before the first step.

        Args:
          variables: variables of the net, such as from `attnjax.init`.
          optimizer: any optax transformation.
          ema: whether to keep a moving average of the variables; its decay is an argument of `make_train_step`.
        """
        variables = dict(variables)
        average = jax.tree.map(jnp.copy, variables) if ema else None
        return cls(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), average)

    @property
    def eval_variables(self) -> Variables:
        """The variables for evaluation and prediction: the moving average if there is one."""
        return self.variables if self.ema is None else self.ema


class Sums(flax.struct.PyTreeNode):
    """Sums over the examples of training steps, and the first step that was not finite.

    Attributes:
      totals: sums by name, see `Aux`.
      first_nonfinite: the first step, counted from 0, whose loss, gradient or new variables were not finite; -1 if all
        were finite, int32 ().

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
