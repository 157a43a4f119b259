"""Evaluates variables on the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils

from attnjax.training import EvalStep, Layout, make_eval_step
from train.data import Batch
from train.tasks.recipe import Run
from train.tasks.task import Objective, Task

Batches = Callable[[tuple[int, int]], Iterator[Batch]]


class Evaluator:
    """Evaluates variables on the test images; compiles once.

    Args:
      task: turns sums and outputs into metrics.
      images: the test images as the task reads them.
      step: evaluation step of one batch.
      batches: takes the index of this process and the number of processes, and returns an iterator over its rows of
        every batch, each with a `mask`; the number of rows is divisible by the number of devices.
      layout: sharding of batches and variables.
    """

    def __init__(self, task: Task, images: Any, step: EvalStep, batches: Batches, layout: Layout) -> None:
        self._task, self._images, self._eval_step, self._batches, self._layout = task, images, step, batches, layout

        def counted(variables: Any, sums: Any, batch: Any) -> Any:
            sums, outputs = step(variables, sums, batch)
            return sums, None if task.outputs is None else outputs

        shardings = (layout.replicated, layout.split)
        self._step = jax.jit(counted, out_shardings=shardings, donate_argnums=1)
        self._zeros: dict[str, jax.Array] | None = None

    @classmethod
    def create(
        cls, task: Task, run: Run, model: nn.Module, objective: Objective, images: Any, layout: Layout
    ) -> Evaluator:
        """The evaluator of a net on images as the task reads them."""
        step = make_eval_step(model, objective.evaluation_loss, preprocess=objective.preprocess)
        return cls(task, images, step, partial(task.evaluation_batches, run, images), layout)

    def __call__(
        self,
        run: Run,
        variables: Mapping[str, Any],
        *,
        preempted: Callable[[], bool] = lambda: False,
        after_batch: Callable[[], object] = lambda: None,
    ) -> Any:
        """Returns the task's evaluation, None if preempted; every image counts once on any number of devices.

        Args:
          run: the run that is evaluated.
          variables: parameters and batch statistics.
          preempted: called before each batch; whether to stop the evaluation.
          after_batch: called after each batch, such as to show progress.
        """
        sums, outputs = None, []
        for rows in self._batches((jax.process_index(), jax.process_count())):
            if preempted():
                return None
            batch = self._layout.put_batch(rows)
            sums = self._layout.put(self._zero_sums(variables, batch)) if sums is None else sums
            sums, given = self._step(variables, sums, batch)
            if self._task.outputs is not None:
                kept = {name: rows[name] for name in (*self._task.outputs, "mask")}
                outputs.append(_unmasked(*_on_host(given, kept)))
            after_batch()
        return self._task.evaluation(run, self._images, jax.device_get(sums), outputs)

    def _zero_sums(self, variables: Mapping[str, Any], batch: Any) -> dict[str, jax.Array]:
        if self._zeros is None:
            self._zeros = self._eval_step.init(variables, batch)
        return self._zeros


def _on_host(outputs: Any, rows: Batch) -> tuple[Any, Any]:
    """Outputs and batch, gathered from all processes."""
    if jax.process_count() == 1:
        return jax.device_get(outputs), rows
    return multihost_utils.process_allgather(outputs, tiled=True), multihost_utils.process_allgather(rows, tiled=True)


def _unmasked(outputs: Any, batch: Any) -> tuple[Any, Any]:
    mask = np.asarray(batch["mask"])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[mask], (outputs, dict(batch)))
