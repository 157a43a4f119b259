"""Checkpoints: Orbax behind save, restore and steps."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from train.errors import UserError
from train.state import TrainState, Variables


class Checkpoints:
    """The checkpoints of a run: written in the background, whole or not at all.

    Args:
      folder: where they are.
      keep_last: how many of the newest to keep.
      keep_best: how many of those with the highest accuracy to keep besides.
      read_only: leave the folder as it is, also what another process is writing there.
    """

    def __init__(self, folder: str, keep_last: int = 1, keep_best: int = 1, *, read_only: bool = False) -> None:
        policies = [
            preservation_policy.LatestN(keep_last),
            preservation_policy.BestN(get_metric_fn=_accuracy, n=keep_best, keep_checkpoints_without_metrics=False),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=_accuracy,
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, position: dict[str, int], accuracy: float | None) -> None:
        """Begins to save the state and the position of the training images, unless that step is saved already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position))
            self._manager.save(step, args=items, metrics=None if accuracy is None else {"accuracy": accuracy})

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, int]]:
        """Reads state and position; `like` gives shapes, types and shardings.

        Raises:
          UserError: the checkpoint is damaged.
        """
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
            return restored["state"], restored["data"]
        except Exception as error:  # Orbax raises many kinds for a damaged file
            path = self._manager.directory / str(step)
            raise UserError(f"checkpoint {path} cannot be read ({error}): remove it to use the one before") from error

    def find(self, which: str) -> int:
        """Returns the step of `last`, `best` or a step given in digits, of one or more that there are.

        Raises:
          UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self._manager.best_step()
            return steps[-1] if best is None else best
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"checkpoint={which!r} is not best, last or one of the kept steps {steps}")
        return int(which)

    def wait(self) -> None:
        """Waits until what was begun is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["accuracy"]


def digest(variables: Variables) -> str:
    """SHA-256 over parameters and batch statistics: path, type, shape and bytes of each, by sorted path."""
    sha = hashlib.sha256()
    flat: dict[str, Any] = flatten_dict(variables, sep="/")
    for path in sorted(flat):
        value = np.ascontiguousarray(jax.device_get(flat[path]))
        sha.update(f"{path} {value.dtype} {value.shape}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()
