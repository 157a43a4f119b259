"""What a loss is to the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

Batch = Mapping[str, jax.Array]
"""Arrays by name whose first axis is b, such as `image` (b, h, w, c) and `label` (b,)."""

Mix = Callable[[jax.Array, Batch], Batch]
"""Changes a batch at random, by a key: `mix(key, batch)`. See `Mixup`."""


class Aux(NamedTuple):
    """What a loss returns besides its value.

    Attributes:
      outputs: what the net has returned, such as logits (b, n).
      updates: collections that the pass has changed, such as `batch_stats`; empty in evaluation.
      sums: sums over the examples of the batch, by name, such as `loss`, `correct` and `count`. They are added up over
        parts of a batch, devices and steps, so that every quotient of two of them is exact.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import Aux
      >>> Aux(outputs=jnp.zeros((2, 10)), updates={}, sums={"count": jnp.int32(2)}).sums["count"].item()
      2
    """

    outputs: Any
    updates: Mapping[str, Any]
    sums: dict[str, jax.Array]


class Loss(Protocol):
    """A loss of a net on a batch: any callable of this form, best a frozen dataclass.

    It returns the mean over its batch by a denominator that its docstring names, such as the number of images or of
    matched boxes. The training step may call it on a part of a batch (`accumulate`, or one of the devices of `pmap`):
    all parts weigh equally, so that a denominator that differs between parts makes another mean than that of the whole.

    Args:
      model: the net.
      variables: `params` and, where the net has them, `batch_stats`.
      batch: arrays by name, after `preprocess` and `mix`. Where it has a `mask`, bool (b,), the others do not count.
      train: whether this is a step of training; if so, `updates` has the new `batch_stats`.
      rngs: keys for the pass, such as `dropout`.

    Returns:
      The loss, (), and an `Aux`.

    Example:
      >>> import dataclasses, jax.numpy as jnp
      >>> from attnjax.training import Aux
      >>> @dataclasses.dataclass(frozen=True)
      ... class SquaredError:
      ...     def __call__(self, model, variables, batch, *, train, rngs=None):
      ...         outputs, updates = model.apply(
      ...             variables, batch["image"], train=train, mutable=["batch_stats"] if train else [], rngs=rngs
      ...         )
      ...         errors = jnp.square(outputs - batch["target"]).mean(-1)
      ...         return errors.mean(), Aux(outputs, updates, {"loss": errors.sum(), "count": jnp.int32(len(errors))})
    """

    def __call__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        batch: Batch,
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]: ...
