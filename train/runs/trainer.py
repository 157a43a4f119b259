"""The state of one run between its steps."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from attnjax.training import ParallelStep, Sums, TrainState
from train.runs.setup import Setup


class Trainer:
    """The training state and sums of a run, in the layout of its compiled step.

    Args:
      step: the compiled training step.
      setup: the run's setup.
      state: initial state; its buffers are donated.
      sums: initial sums.
    """

    def __init__(self, step: ParallelStep, setup: Setup, state: TrainState, sums: Sums) -> None:
        self._step, self._setup = step, setup
        self._seed = step.pack(setup.program.layout.put(np.uint32(setup.run.config.seed)))
        self._state = step.pack(state)
        self._sums = step.pack(setup.program.layout.put(sums))

    def step(self, batch: Any) -> None:
        """Takes a step on this process's rows of a batch."""
        self._state, self._sums = self._step(self._state, self._sums, batch, self._seed)

    def state(self) -> TrainState:
        """The state, sharded as the layout says; the next step donates its buffers."""
        return self._step.unpack(self._state)

    def sums(self) -> Sums:
        """The sums since the last `reset`, on the host."""
        return jax.device_get(self._step.unpack(self._sums))

    def reset(self) -> None:
        """Sets the sums to zero."""
        self._sums = self._step.pack(self._setup.program.layout.put(self._setup.program.zero_sums))
