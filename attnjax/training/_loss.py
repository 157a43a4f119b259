"""The interface between losses and the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
"""Arrays by name with first axis b, such as `image` (b, h, w, c) and `label` (b,)."""

Mix = Callable[[jax.Array, Batch], Batch]
"""Random augmentation of a batch, `mix(key, batch)`, such as `Mixup`."""


class Aux(NamedTuple):
    """Auxiliary output of a loss.

    Attributes:
      outputs: outputs of the net, such as logits (b, n).
      updates: collections changed by the forward pass, such as `batch_stats`; empty in evaluation.
      sums: sums over the examples of the batch, by name, such as `loss`, `correct` and `count`. They are added over the
        parts of a batch, devices and steps, so that the ratio of any two of them is exact.

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
    """A loss of a net on a batch: any callable of this form, preferably a frozen dataclass.

    It returns a mean over its batch, and its docstring names the denominator, such as the number of images or
    matched boxes. The training step may call it on a part of a batch (`accumulate`, or one device of `pmap`) and
    averages the parts with equal weights; if the denominator differs between parts, that is not the mean over the whole
    batch.

    Args:
      model: the net.
      variables: `params` and, if the net has any, `batch_stats`.
      batch: arrays by name, after `preprocess` and `mix`. Examples where an optional `mask`, bool (b,), is False are
        ignored.
      train: whether this is a training step; if so, `updates` holds the new `batch_stats`.
      rngs: PRNG keys of the forward pass, such as `dropout`.

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
      ...         counts = batch.get("mask", jnp.ones(errors.shape, bool))
      ...         sums = {"loss": jnp.where(counts, errors, 0).sum(), "count": counts.sum()}
      ...         return sums["loss"] / jnp.maximum(sums["count"], 1), Aux(outputs, updates, sums)
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


def mask_of(batch: Batch) -> jax.Array:
    """Which examples of a batch count, by its `mask`; all if it has none.

    Args:
      batch: arrays by name, with `label`, (b, ...), and optionally `mask`.

    Returns:
      bool (b,).

    Raises:
      ValueError: `mask` has another shape or dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.training import mask_of
      >>> mask_of({"label": jnp.zeros(2, int)}).tolist()
      [True, True]
    """
    size = len(batch["label"])
    mask = batch.get("mask", jnp.ones(size, bool))
    if mask.shape != (size,) or mask.dtype != bool:
        raise ValueError(f"mask is {mask.dtype}{list(mask.shape)}, but must be bool[{size}]")
    return mask
