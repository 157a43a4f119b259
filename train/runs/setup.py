"""Builds what a run needs before its folder is opened, data, net and step, and validates them together."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import attnjax
from attnjax.training import (
    PMAP_AXIS,
    Layout,
    ParallelStep,
    Sums,
    TrainState,
    TrainStep,
    jit_step,
    make_train_step,
    pmap_step,
)
from train.config import Config, flatten
from train.config.errors import UserError
from train.data import Dataset
from train.hosts.processes import check_same
from train.runs.evaluation import Evaluator
from train.runs.initial_weights import start_from
from train.tasks.recipe import Run, make_layout, norm_images, norm_options
from train.tasks.task import Objective, Task


@dataclasses.dataclass(frozen=True)
class Program:
    """The net of a run and its training step; building them needs no images.

    Attributes:
      task: the task to train.
      run: the run's settings and data description.
      layout: sharding of arrays on devices.
      model: the net.
      objective: its losses and preprocessing.
      step: the pure training step.
      state: shapes, dtypes and shardings of the state.
      zero_sums: the sums before the first step.
    """

    task: Task
    run: Run
    layout: Layout
    model: nn.Module
    objective: Objective
    step: TrainStep
    state: TrainState
    zero_sums: Sums

    @classmethod
    def create(cls, task: Task, run: Run, layout: Layout) -> Program:
        """Builds the net, the optimizer and the step, and traces the loss.

        Raises:
          UserError: the net does not accept its options or image shape, the optimizer does not fit the net, or the net
            cannot be trained with these settings.
        """
        config = run.config
        model = task.model(run, norm_options(config, layout.num_devices))
        objective, keep = task.objective(run, model), config.parallel.rematerialize
        optimizer = run.optimizer(objective.frozen)
        step = make_train_step(
            model,
            optimizer,
            objective.loss,
            preprocess=objective.preprocess,
            mix=objective.mix,
            accumulate=config.parallel.accumulate,
            rematerialize=None if keep == "none" else keep,
            ema=config.ema_decay,
            axis_name=PMAP_AXIS if config.parallel.engine == "pmap" else None,
        )
        state = layout.abstract(abstract_state(task, run, model))
        try:
            zero_sums = step.init(state, task.abstract_batch(run), jax.random.key(0))
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{config.model.name} cannot be trained with these settings: {reason}") from error
        return cls(task, run, layout, model, objective, step, state, zero_sums)

    def compiled(self) -> ParallelStep:
        """The training step compiled for all devices by `parallel.engine`."""
        if self.run.config.parallel.engine == "pmap":
            return pmap_step(self.step, self.layout)
        return jit_step(self.step, self.layout, self.state)

    def fresh_state(self, seed: int) -> TrainState:
        """The initial state, from a seed and, if given, a file of weights."""
        config = self.run.config
        variables = attnjax.init(self.model, jax.random.key(seed), (1, *self.run.image_shape))
        if config.model.weights is not None:
            variables = start_from(config.model.weights, variables)
        state = TrainState.create(variables, self.step.optimizer, ema=config.ema_decay is not None)
        return self.layout.put_state(state)


@dataclasses.dataclass(frozen=True)
class Setup:
    """Data, program and evaluator, which runs that differ only in their seed share.

    Attributes:
      program: net and training step.
      dataset: the images of both splits.
      test_images: the test images as the task reads them.
    """

    program: Program
    dataset: Dataset
    test_images: Any

    @classmethod
    def create(cls, config: Config, task: Task) -> Setup:
        """Opens the data and checks settings, data and devices against each other, in all processes.

        Raises:
          UserError: they do not fit.
        """
        layout = make_layout(config)
        if config.parallel.batch_norm == "device":  # resolved now: another number of devices would change the run
            parallel = dataclasses.replace(config.parallel, batch_norm=norm_images(config, layout.num_devices))
            config = dataclasses.replace(config, parallel=parallel)
        dataset = task.open(config)
        run = task.define(config, dataset)
        check_same(_identity(run, dataset))
        return cls(Program.create(task, run, layout), dataset, task.test_images(run, dataset))

    @property
    def run(self) -> Run:
        """The run's settings and data description."""
        return self.program.run

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Evaluates variables on the test images."""
        program = self.program
        return Evaluator.create(
            program.task, self.run, program.model, program.objective, self.test_images, program.layout
        )


class Trainer:
    """The training state and sums of a run, in the layout of its compiled step.

    Args:
      step: the compiled training step.
      program: the run's program.
      seed: the run's seed.
      state: initial state; its buffers are donated.
      sums: initial sums.
    """

    def __init__(self, step: ParallelStep, program: Program, seed: int, state: TrainState, sums: Sums) -> None:
        self._step, self._program = step, program
        self._seed = step.pack(program.layout.put(np.uint32(seed)))
        self._state = step.pack(state)
        self._sums = step.pack(program.layout.put(sums))

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
        self._sums = self._step.pack(self._program.layout.put(self._program.zero_sums))


def abstract_state(task: Task, run: Run, model: nn.Module | None = None) -> TrainState:
    """Shapes and dtypes of a run's state, computed from its settings without allocating it.

    Raises:
      UserError: the net does not accept its options or image shape, or the optimizer does not fit the net.
    """
    model = task.model(run) if model is None else model
    image, config = jax.ShapeDtypeStruct((1, *run.image_shape), jnp.float32), run.config
    try:
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{config.model.name} does not accept this size of images or these model.options: {reason}"
        ) from error
    try:
        optimizer = run.optimizer(task.objective(run, model).frozen)
        create = partial(TrainState.create, optimizer=optimizer, ema=config.ema_decay is not None)
        return jax.eval_shape(create, variables)
    except ValueError as error:
        reason = str(error).removeprefix("rate_factors: ")
        raise UserError(f"optimizer.scaled_module: {reason}") from error


def _identity(run: Run, dataset: Dataset) -> dict[str, Any]:
    """The values that must be the same in all processes."""
    values = flatten(run.config) | {
        "training images": len(dataset.train),
        "test images": len(dataset.test),
        "devices of a process": jax.local_device_count(),
        "jax": jax.__version__,
    }
    return values | {f"class {label}": name for label, name in enumerate(run.class_names)}
