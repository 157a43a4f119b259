"""Sums and counts on the device, and the figures made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


class Metrics(flax.struct.PyTreeNode):
    """Sums over examples. Figures are made on the host, so that every example counts once.

    Attributes:
      loss: sum of losses, float32 ().
      correct: right answers, int32 ().
      top5: examples whose class is among the five most probable ones, int32 (); counted in evaluation only.
      count: examples, int32 ().
      bad_step: the first step whose loss, gradient or result was not finite, or -1, int32 ().
    """

    loss: jax.Array
    correct: jax.Array
    top5: jax.Array
    count: jax.Array
    bad_step: jax.Array

    @classmethod
    def zero(cls) -> Metrics:
        """No examples."""
        return cls(jnp.zeros(()), *(jnp.asarray(value, jnp.int32) for value in (0, 0, 0, -1)))

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Metrics:
        """What `sums` gave."""
        return cls(**{name: jnp.asarray(sums[name], zero.dtype) for name, zero in vars(cls.zero()).items()})

    def sums(self) -> dict[str, float]:
        """The values by name, on the host."""
        return {name: value.item() for name, value in vars(jax.device_get(self)).items()}

    def figures(self) -> dict[str, float]:
        """Loss and accuracy of what was counted, on the host."""
        return {"loss": float(self.loss) / int(self.count), "accuracy": int(self.correct) / int(self.count)}


def class_targets(labels: jax.Array, num_classes: int, smoothing: float, dtype: Any = jnp.float32) -> jax.Array:
    """Targets of labels (b,), (1 - smoothing) onehot + smoothing / n, (b, n)."""
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes, dtype=dtype), smoothing)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each example, (b, n) and (b,) -> (b,), see `class_targets`."""
    targets = class_targets(labels, logits.shape[-1], smoothing, logits.dtype)
    return optax.softmax_cross_entropy(logits, targets)
