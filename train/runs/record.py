"""A run's folder: its settings, and what it has learnt."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import attnjax
from attnjax.layers import BatchNorm
from train.config import MAY_CHANGE, Config, flatten, from_dict
from train.config.errors import UserError
from train.config.files import replacing
from train.hosts.processes import on_first
from train.layout import Layout
from train.optimizer import make_optimizer, make_schedule
from train.runs.checkpoint import Checkpoints, checkpoint_steps
from train.runs.provenance import git_commit, processor, versions
from train.state import TrainState, Variables, create_state
from train.step import normalize


@dataclasses.dataclass(frozen=True)
class Run:
    """What config.json says of a run.

    Attributes:
      config: its settings.
      class_names: names of the classes, by label.
      image_shape: height, width and channels of the images that the net sees.
      num_examples: training images.
    """

    config: Config
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_examples: int

    def model(self, **norm: Any) -> nn.Module:
        """The net, without its variables; the arguments are those of its batch norms."""
        return attnjax.create_model(
            self.config.model.name,
            num_classes=len(self.class_names),
            dtype=jnp.dtype(self.config.model.dtype),
            norm=partial(BatchNorm, **norm),
            **self.config.model.options,
        )

    @property
    def total_steps(self) -> int:
        """Steps from the beginning to the end."""
        return self.config.steps(self.num_examples)

    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        return make_schedule(self.config.schedule, self.config.optimizer.learning_rate, self.total_steps)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser with its schedule."""
        return make_optimizer(self.config.optimizer, self.schedule())

    def fresh_state(self) -> TrainState:
        """The state before the first step."""
        config, average = self.config, self.config.ema_decay is not None
        return create_state(
            self.model(), self.optimizer(), self.image_shape, config.seed, average, config.model.weights
        )

    def abstract_state(self) -> TrainState:
        """Shapes and types of the state, computed from the settings alone.

        Raises:
          UserError: the net refuses its options, or images of this shape.
        """
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        try:
            variables = jax.eval_shape(partial(self.model().init, train=False), jax.random.key(0), image)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            see = "see data.image_size and model.options"
            raise UserError(f"{self.config.model.name} does not work like this, {see}: {reason}") from error
        opt_state = jax.eval_shape(self.optimizer().init, variables["params"])
        ema = None if self.config.ema_decay is None else variables
        step: Any = jax.ShapeDtypeStruct((), jnp.int32)
        return TrainState(step, variables, opt_state, ema)


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained net; unpacks to `model, variables, class_names`.

    Attributes:
      model: the net; call `model.apply(variables, preprocess(images), train=False)`.
      variables: its parameters and batch statistics (the averaged ones, where the run averages).
      class_names: names of the classes, by label.
      preprocess: turns uint8 images (b, h, w, c) of the size that the net sees into what it takes.
    """

    model: nn.Module
    variables: Variables
    class_names: tuple[str, ...]
    preprocess: Callable[[jax.Array], jax.Array]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.variables, self.class_names))


def load_run(workdir: str, checkpoint: str = "last") -> LoadedRun:
    """Loads the net that a run has trained.

    Args:
      workdir: the run's folder.
      checkpoint: `last`, `best` (the highest test accuracy) or a step.

    Returns:
      Model, variables, class names and preprocessing.

    Raises:
      UserError: the folder is no run, or has no such checkpoint.
    """
    run = read_run(workdir)
    state = load_state(run, workdir, checkpoint, Layout.of_one_device())
    return LoadedRun(run.model(), state.evaluated, run.class_names, partial(normalize, run.config.data))


def load_state(run: Run, workdir: str, checkpoint: str, layout: Layout) -> TrainState:
    """Loads a run's state from the checkpoint `last`, `best` or a step."""
    with contextlib.closing(Checkpoints(checkpoint_folder(workdir), read_only=True)) as checkpoints:

        def find() -> int:
            if not checkpoints.steps():
                raise UserError(f"{workdir} has no checkpoint yet")
            return checkpoints.find(checkpoint)

        return checkpoints.restore(on_first("find the checkpoint", find), layout.abstract(run.abstract_state())).state


def read_run(workdir: str) -> Run:
    """Reads config.json.

    Raises:
      UserError: it is not there or was not written by this program.
    """
    stored = _read_record(workdir)
    path = os.path.join(workdir, "config.json")
    try:
        height, width, channels = (int(side) for side in stored["image_shape"])
        return Run(
            from_dict(Config, stored["config"]),
            tuple(str(name) for name in stored["class_names"]),
            (height, width, channels),
            int(stored["num_examples"]),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the config.json of a run: {error!r}") from error


def _read_record(workdir: str) -> dict[str, Any]:
    path = os.path.join(workdir, "config.json")
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{workdir} is no run: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the config.json of a run: {error}") from error


def origins(workdir: str) -> list[str]:
    """Machine, versions and date of the start of a run and of each time it resumed.

    Raises:
      UserError: the folder has no run.
    """
    stored = _read_record(workdir)
    told = []
    for part in (stored, *stored.get("resumed", [])):
        devices = ", ".join(sorted(set(part["devices"])))
        packages = ", ".join(f"{name} {part['versions'][name]}" for name in ("jax", "flax") if name in part["versions"])
        told.append(f"{part.get('machine') or 'unknown machine'}, device {devices}, {packages}; {part['date'][:10]}")
    return told


def check_claim(run: Run, workdir: str) -> None:
    """Checks that a folder is free for the run, or the run's own. One without a checkpoint is free.

    Raises:
      UserError: the folder belongs to another run, or to something else that has a config.json.
    """
    if os.path.exists(os.path.join(workdir, "config.json")):
        stored, steps = read_run(workdir), checkpoint_steps(checkpoint_folder(workdir))
        if steps:
            _check_same(stored, run, workdir)
            if steps[-1] > run.total_steps:
                raise UserError(f"{workdir} is at step {steps[-1]} already, beyond the end at step {run.total_steps}")


def claim(run: Run, workdir: str, data: str) -> None:
    """Writes config.json: the settings, and versions, commit, devices and data of the start and of every resumption.

    Raises:
      UserError: the folder belongs to another run, or cannot be written to.
    """
    check_claim(run, workdir)
    now = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": processor(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "data": data,
    }
    record = {**dataclasses.asdict(run), **now, "resumed": []}
    if checkpoint_steps(checkpoint_folder(workdir)):
        stored = _read_record(workdir)
        start = {name: stored.get(name) for name in now}
        record |= {**start, "resumed": [*stored.get("resumed", []), now]}
    try:
        os.makedirs(workdir, exist_ok=True)
        with replacing(os.path.join(workdir, "config.json")) as path, open(path, "w") as file:
            json.dump(record, file, indent=2)
    except OSError as error:
        raise UserError(f"cannot write to work directory {workdir}: {error.strerror}") from error


def _check_same(stored: Run, run: Run, workdir: str) -> None:
    old, new = flatten(stored.config), flatten(run.config)
    changes = [f"{k} is {old[k]!r} there, {new[k]!r} here" for k in new if k not in MAY_CHANGE and old[k] != new[k]]
    for name in ("class_names", "image_shape", "num_examples"):
        if getattr(stored, name) != getattr(run, name):
            changes.append(f"{name} of the data: {getattr(stored, name)} there, {getattr(run, name)} here")
    if changes:
        raise UserError(
            f"{workdir} belongs to another run ({'; '.join(changes)}): take its settings, or another --workdir"
        )


def checkpoint_folder(workdir: str) -> str:
    """Where a run keeps its checkpoints."""
    return os.path.join(workdir, "checkpoints")
