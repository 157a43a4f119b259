"""Sums and counts on the device, and the figures made of them."""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp


class Metrics(flax.struct.PyTreeNode):
    """Sums over examples. Figures are made on the host, so that every example counts once.

    Attributes:
      loss: sum of losses, float32 ().
      correct: right answers, int32 ().
      top5: examples whose class is among the five most probable ones, int32 (); counted in evaluation only.
      count: examples, int32 ().
      bad_step: the first step whose loss, gradient or result was not finite, or -1, int32 ().
      kl: sum of GGAM's guidance losses, without their factor, float32 (); 0 where there are none.
    """

    loss: jax.Array
    correct: jax.Array
    top5: jax.Array
    count: jax.Array
    bad_step: jax.Array
    kl: jax.Array

    @classmethod
    def zero(cls) -> Metrics:
        """No examples."""
        whole = {"correct": 0, "top5": 0, "count": 0, "bad_step": -1}
        numbers = {name: jnp.asarray(value, jnp.int32) for name, value in whole.items()}
        return cls(loss=jnp.zeros(()), kl=jnp.zeros(()), **numbers)

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Metrics:
        """What `sums` gave; what it lacks is as in `zero`."""
        zero = cls.zero()
        return zero.replace(**{name: jnp.asarray(value, getattr(zero, name).dtype) for name, value in sums.items()})

    def sums(self) -> dict[str, float]:
        """The values by name, on the host."""
        return {name: value.item() for name, value in vars(jax.device_get(self)).items()}

    def figures(self, *, guided: bool = False) -> dict[str, float]:
        """Loss and accuracy of what was counted, and the guidance loss if there is one, on the host."""
        sums = {"loss": self.loss, "accuracy": self.correct} | ({"kl": self.kl} if guided else {})
        return {name: float(value) / int(self.count) for name, value in sums.items()}


class GuidedMetrics(Metrics):
    """Those of an evaluation of a net with GGAM's attention.

    Attributes:
      correlation: sum of the correlations of S and W over the channels, float32 ().
    """

    correlation: jax.Array

    @classmethod
    def zero(cls) -> GuidedMetrics:
        """No examples."""
        return cls(**vars(Metrics.zero()), correlation=jnp.zeros(()))
