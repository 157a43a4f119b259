"""The folder of a run: config.json, and loading the trained net."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import linen as nn

from attnjax.training import Layout, TrainState
from train.config import MAY_CHANGE, Config, flatten, from_dict
from train.config.atomic import replacing
from train.config.errors import UserError
from train.data import Dataset
from train.hosts.processes import on_first
from train.runs.checkpoint import Checkpoints, checkpoint_steps
from train.runs.provenance import git_commit, processor, versions
from train.runs.setup import abstract_state
from train.tasks.recipe import Run
from train.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A trained net; unpacks to `model, variables, class_names`.

    Attributes:
      model: the net; call `model.apply(variables, preprocess(images), train=False)`.
      variables: its parameters and batch statistics; their moving average if the run keeps one.
      class_names: names of the classes, by label.
      preprocess: turns uint8 images (b, h, w, c) of the run's size into the net's input.
    """

    model: nn.Module
    variables: dict[str, Any]
    class_names: tuple[str, ...]
    preprocess: Callable[[jax.Array], jax.Array]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.variables, self.class_names))


def load_run(workdir: str, task: Task, checkpoint: str = "last") -> LoadedRun:
    """Loads the trained net of a run.

    Args:
      workdir: the run's folder.
      task: the task of the run.
      checkpoint: `last`, `best` (the highest score of the task) or a step.

    Returns:
      Model, variables, class names and preprocessing.

    Raises:
      UserError: the folder does not hold a run, or has no such checkpoint.
    """
    run = read_run(workdir)
    model = task.model(run)
    state = load_state(task, run, workdir, checkpoint, Layout.create(jax.local_devices()[:1]))
    preprocess = task.objective(run, model).preprocess
    return LoadedRun(model, state.eval_variables, run.class_names, preprocess)


def load_state(task: Task, run: Run, workdir: str, checkpoint: str, layout: Layout) -> TrainState:
    """Loads the state of a run from the checkpoint `last`, `best` or a step."""
    with contextlib.closing(Checkpoints(checkpoint_folder(workdir), read_only=True)) as checkpoints:

        def find() -> int:
            if not checkpoints.steps():
                raise UserError(f"{workdir} has no checkpoint yet")
            return checkpoints.find(checkpoint)

        return checkpoints.restore(
            on_first("find the checkpoint", find), layout.abstract(abstract_state(task, run))
        ).state


def open_dataset_of(run: Run, task: Task) -> Dataset:
    """Opens the data set of a run again.

    Raises:
      UserError: it is missing, or its classes have changed.
    """
    dataset = task.open(run.config)
    if dataset.class_names != run.class_names:
        raise UserError(f"{run.config.data.source} has classes {dataset.class_names}, the run has {run.class_names}")
    return dataset


def read_run(workdir: str) -> Run:
    """Reads config.json.

    Raises:
      UserError: the file is missing or invalid.
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
        raise UserError(f"{path} is not a valid config.json of a run: {error!r}") from error


def _read_record(workdir: str) -> dict[str, Any]:
    path = os.path.join(workdir, "config.json")
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{workdir} is not the folder of a run: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a valid config.json of a run: {error}") from error


def origins(workdir: str) -> list[str]:
    """Machine, versions and date of the start of a run and of each resumption.

    Raises:
      UserError: the folder does not hold a run.
    """
    stored = _read_record(workdir)
    lines = []
    for part in (stored, *stored.get("resumed", [])):
        devices = ", ".join(sorted(set(part["devices"])))
        packages = ", ".join(f"{name} {part['versions'][name]}" for name in ("jax", "flax") if name in part["versions"])
        lines.append(f"{part.get('machine') or 'unknown machine'}, device {devices}, {packages}; {part['date'][:10]}")
    return lines


def check_claim(run: Run, workdir: str) -> None:
    """Checks that a folder is unused or belongs to the same run. A folder without checkpoints is unused.

    Raises:
      UserError: the folder belongs to another run, or its config.json is invalid.
    """
    if os.path.exists(os.path.join(workdir, "config.json")):
        stored, steps = read_run(workdir), checkpoint_steps(checkpoint_folder(workdir))
        if steps:
            _check_same(stored, run, workdir)
            if steps[-1] > run.total_steps:
                raise UserError(f"{workdir} is already at step {steps[-1]}, beyond the end at step {run.total_steps}")


def claim(run: Run, workdir: str, data: str) -> None:
    """Writes config.json: the settings, and versions, commit, devices and data of the start and of each resumption.

    Raises:
      UserError: the folder belongs to another run, or is not writable.
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
            f"{workdir} belongs to another run ({'; '.join(changes)}): use its settings, or choose another --workdir"
        )


def checkpoint_folder(workdir: str) -> str:
    """Folder of a run's checkpoints."""
    return os.path.join(workdir, "checkpoints")
