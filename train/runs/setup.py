"""Everything that a run is made of before its folder is opened: data, net, steps, and whether they fit each other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
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
    make_eval_step,
    make_train_step,
    pmap_step,
)
from train.config import Config, flatten
from train.config.errors import UserError
from train.data import Dataset
from train.runs.consistency import check_same
from train.runs.evaluation import Evaluator
from train.runs.weights import start_from
from train.tasks.classification import CLASSIFICATION
from train.tasks.run import Run
from train.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Program:
    """The net of a run and its training step, which need no images.

    Attributes:
      task: what is trained.
      run: what defines it.
      layout: where arrays lie.
      model: the net.
      step: the pure training step.
      state: shapes, types and shardings of the state.
    """

    task: Task
    run: Run
    layout: Layout
    model: nn.Module
    step: TrainStep
    state: TrainState

    @classmethod
    def create(cls, task: Task, run: Run, layout: Layout) -> Program:
        """Builds the net, the optimizer and the step.

        Raises:
          UserError: the net refuses its options or images of this shape, or the optimizer the net.
        """
        config = run.config
        model = task.model(run, norm_options(config, layout.num_devices))
        optimizer, objective, keep = run.optimizer(), task.objective(run, model), config.parallel.rematerialize
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
        return cls(task, run, layout, model, step, layout.abstract(abstract_state(task, run, model)))

    def compiled(self) -> ParallelStep:
        """The training step on all devices, by the engine that the settings name."""
        if self.run.config.parallel.engine == "pmap":
            return pmap_step(self.step, self.layout)
        return jit_step(self.step, self.layout, self.state)

    @functools.cached_property
    def zero_sums(self) -> Sums:
        """Sums of no steps."""
        return self.step.init(self.state, self.task.abstract_batch(self.run), jax.random.key(0))

    def fresh_state(self) -> TrainState:
        """The state before the first step; the seed of the run decides it, or a file of weights."""
        config = self.run.config
        variables = attnjax.init(self.model, jax.random.key(config.seed), (1, *self.run.image_shape))
        if config.model.weights is not None:
            variables = start_from(config.model.weights, variables)
        state = TrainState.create(variables, self.step.optimizer, ema=config.ema_decay is not None)
        return self.layout.put_state(state)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run is made of before its folder is opened. Runs that differ in their seed alone have it in common.

    Attributes:
      program: net and training step.
      dataset: the images.
      test_images: those of the test.
      evaluator: evaluates variables on them.
    """

    program: Program
    dataset: Dataset
    test_images: Any
    evaluator: Evaluator

    @classmethod
    def create(cls, config: Config, task: Task = CLASSIFICATION) -> Setup:
        """Opens the images and checks that settings, images and devices fit each other, in all processes.

        Raises:
          UserError: they do not.
        """
        layout = make_layout(config)
        if config.parallel.batch_norm == "device":  # on other devices it would be another run
            parallel = dataclasses.replace(config.parallel, batch_norm=norm_images(config, layout.num_devices))
            config = dataclasses.replace(config, parallel=parallel)
        dataset = task.open(config)
        run = task.define(config, dataset)
        check_same(_identity(run, dataset))
        program = Program.create(task, run, layout)
        images = task.test_images(run, dataset)
        objective = task.objective(run, program.model)
        step = make_eval_step(program.model, objective.evaluation_loss, preprocess=objective.preprocess)
        batches = partial(task.evaluation_batches, run, images, (jax.process_index(), jax.process_count()))
        return cls(program, dataset, images, Evaluator(task, run, step, batches, layout))

    @property
    def run(self) -> Run:
        """What defines the run."""
        return self.program.run

    def with_seed(self, seed: int) -> Setup:
        """The same with another seed."""
        run = dataclasses.replace(self.run, config=dataclasses.replace(self.run.config, seed=seed))
        return dataclasses.replace(self, program=dataclasses.replace(self.program, run=run))


def make_layout(config: Config, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Where the arrays of a run lie, on the devices of all processes or on those given.

    Raises:
      UserError: the batch or the parameters cannot be divided among the devices.
    """
    n, parts = len(devices or jax.devices()), config.parallel.accumulate
    shards, size = config.parallel.shard_parameters, config.data.batch_size
    if size % (n * parts):
        among = f"{n} devices" + (f" in {parts} parts" if parts > 1 else "")
        near = max(1, size // (n * parts)) * n * parts
        raise UserError(f"data.batch_size={size} cannot be divided among {among}: take {near}")
    if n % shards:
        raise UserError(f"parallel.shard_parameters={shards} does not divide the {n} devices")
    images = size // (n * parts)
    if (config.data.mixup or config.data.cutmix) and images % 2:
        raise UserError(f"data.mixup and data.cutmix mix neighbours: {images} images on each device must be even")
    return Layout.create(devices, shards)


def norm_images(config: Config, num_devices: int) -> int:
    """Images that a batch norm takes its statistics over, as `parallel.batch_norm` says."""
    images, asked = config.data.batch_size // config.parallel.accumulate, config.parallel.batch_norm
    if asked == "global":
        return images
    return images // num_devices if asked == "device" else asked


def norm_options(config: Config, num_devices: int) -> dict[str, Any]:
    """The arguments of batch norm that `parallel.batch_norm` asks for.

    Raises:
      UserError: the images cannot be divided so.
    """
    parallel = config.parallel
    images = config.data.batch_size // parallel.accumulate
    on_device = images // num_devices
    together = norm_images(config, num_devices)
    if parallel.engine == "pmap" and together == images:
        return {"axis_name": PMAP_AXIS}
    whole, where = (on_device, "of a device") if parallel.engine == "pmap" else (images, "of a batch")
    if whole % together:
        where += " part" if parallel.accumulate > 1 else ""
        instead = "or parallel.engine='jit'" if parallel.engine == "pmap" else "or 'global'"
        raise UserError(
            f"parallel.batch_norm={together} does not divide the {whole} images {where}: take a divisor, {instead}"
        )
    return {"groups": whole // together}


def abstract_state(task: Task, run: Run, model: nn.Module | None = None) -> TrainState:
    """Shapes and types of the state of a run, computed from its settings alone.

    Raises:
      UserError: the net refuses its options or images of this shape, or the optimizer the net.
    """
    model = task.model(run) if model is None else model
    image, config = jax.ShapeDtypeStruct((1, *run.image_shape), jnp.float32), run.config
    try:
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        see = "see data.image_size and model.options"
        raise UserError(f"{config.model.name} does not work like this, {see}: {reason}") from error
    try:
        create = partial(TrainState.create, optimizer=run.optimizer(), ema=config.ema_decay is not None)
        return jax.eval_shape(create, variables)
    except ValueError as error:
        reason = str(error).removeprefix("rate_factors: ")
        raise UserError(f"optimizer.scaled_module: {reason}") from error


def _identity(run: Run, dataset: Dataset) -> dict[str, Any]:
    """What all processes must have alike."""
    alike = flatten(run.config) | {
        "training images": len(dataset.train),
        "test images": len(dataset.test),
        "devices of a process": jax.local_device_count(),
        "jax": jax.__version__,
    }
    return alike | {f"class {label}": name for label, name in enumerate(run.class_names)}
