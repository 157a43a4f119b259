"""Checkpoints: Orbax reads and writes them; this module verifies, selects and removes them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from attnjax.training import TrainState
from train.config.errors import UserError, reason
from train.hosts.processes import is_first, on_first
from train.runs import checksums

_UNFINISHED = ocp.utils.TMP_DIR_SUFFIX
_REMOVED = ".removed"


def checkpoint_steps(folder: str) -> list[int]:
    """Steps of the checkpoints in a folder, in ascending order, damaged ones included."""
    if not os.path.isdir(folder):
        return []
    return sorted(int(name) for name in os.listdir(folder) if re.fullmatch(r"0|[1-9][0-9]*", name))


def newest_intact(folder: str) -> tuple[int | None, list[tuple[int, str]]]:
    """The newest step with an intact checkpoint, and the damage of each newer one."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(checkpoint_steps(folder)):
        damage = checksums.damage(os.path.join(folder, str(step)))
        if damage is None:
            return step, damaged
        damaged.append((step, damage))
    return None, damaged


class Restored(NamedTuple):
    """Contents of a checkpoint.

    Attributes:
      state: the training state; its step is also the position in the training data.
      sums: sums of the metrics since the last log line, by name.
      score: score on the test images; None if it was not evaluated.
      messages: one line for each damaged checkpoint that was set aside.
    """

    state: TrainState
    sums: dict[str, Any]
    score: float | None
    messages: list[str]


class Checkpoints:
    """The checkpoints of a run, written asynchronously and atomically.

    Each checkpoint is a folder named after its step. The SHA-256 of its files is written before the folder gets its
    final name, so that later damage is detected.

    Args:
      folder: folder of the checkpoints.
      keep_last: number of newest checkpoints to keep.
      keep_best: number of checkpoints with the highest score to keep, which may be among the newest.
      read_only: change nothing in the folder, such as unfinished checkpoints of another process.
    """

    def __init__(self, folder: str, keep_last: int = 1, keep_best: int = 1, *, read_only: bool = False) -> None:
        self._folder = os.path.abspath(folder)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._newest = max(self.steps(), default=-1)
        self._begun: tuple[int, float | None] | None = None
        sealed = ocp.options.AsyncOptions(post_finalization_callback=self._seal)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=sealed)
        if not read_only and is_first():
            os.makedirs(self._folder, exist_ok=True)
            for name in os.listdir(self._folder):
                if name.endswith((_UNFINISHED, _REMOVED)):
                    shutil.rmtree(os.path.join(self._folder, name))

    def steps(self) -> list[int]:
        """Steps of the checkpoints, in ascending order, damaged ones included."""
        return checkpoint_steps(self._folder)

    def save(self, step: int, state: TrainState, sums: dict[str, Any], score: float | None) -> None:
        """Starts saving the state of a step; if that step is already saved, only updates its score.

        Raises:
          UserError: this save cannot start, or the previous one failed.
        """
        self.wait()
        if step > self._newest:
            self._begun = (step, score)
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), metrics=ocp.args.JsonSave(sums))
            with self._errors_of(step):
                self._orbax.save(self._path(step), args=items)
        elif score is not None and is_first():
            checksums.add_metadata(self._path(step), {"score": score})
            self._remove_old()

    def check(self) -> None:
        """Raises UserError if the save in progress has failed."""
        if self._begun is not None:
            with self._errors_of(self._begun[0]):
                self._orbax.check_for_errors()

    def wait(self) -> None:
        """Waits for the save in progress, then removes checkpoints that are no longer kept.

        Raises:
          UserError: the save failed.
        """
        if self._begun is None:
            return
        with self._errors_of(self._begun[0]):
            self._orbax.wait_until_finished()
        self._newest, self._begun = self._begun[0], None
        if is_first():
            self._remove_old()

    def close(self) -> None:
        """Waits for the save in progress and closes Orbax."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def find(self, which: str) -> int:
        """Returns the step of `last`, `best` or a step in digits; there must be at least one checkpoint.

        Raises:
          UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if which == "last":
            return steps[-1]
        if which == "best":
            return next(iter(self._best_first(steps)), steps[-1])
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"checkpoint={which!r} must be best, last or one of the kept steps {steps}")
        return int(which)

    def restore(self, step: int, like: TrainState) -> Restored:
        """Reads a checkpoint into the shapes, dtypes and shardings of `like`.

        Raises:
          UserError: the checkpoint is damaged or incompatible.
        """

        def check() -> float | None:
            if damage := checksums.damage(self._path(step)):
                intact, _ = newest_intact(self._folder)
                other = "none is intact" if intact is None else f"step {intact} is the newest intact one"
                raise UserError(f"checkpoint {self._path(step)} is damaged ({damage}): {other}")
            return self._score(step)

        score = on_first("check the checkpoint", check)
        return Restored(*self._read(step, like), score, [])

    def restore_newest(self, like: TrainState) -> Restored | None:
        """Reads the newest intact checkpoint, which process 0 finds, and renames damaged newer ones.

        Returns:
          Its contents; None if there is no checkpoint.

        Raises:
          UserError: all checkpoints are damaged, or the newest intact one is incompatible.
        """

        def find() -> tuple[int | None, float | None, list[tuple[int, str]]]:
            step, damaged = newest_intact(self._folder)
            if step is None and damaged:
                each = ", ".join(f"{bad} ({damage})" for bad, damage in damaged)
                raise UserError(f"all checkpoints in {self._folder} are damaged: {each}; remove them to start over")
            return step, None if step is None else self._score(step), damaged

        step, score, damaged = on_first("find the newest intact checkpoint", find)
        if step is None:
            return None
        state, sums = self._read(step, like)
        if is_first():
            for bad, _ in damaged:
                os.rename(self._path(bad), self._free_name(bad))
        self._newest = step
        messages = [
            f"checkpoint {bad} is damaged ({damage}) and was set aside: step {step} is used" for bad, damage in damaged
        ]
        return Restored(state, sums, score, messages)

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), metrics=ocp.args.JsonRestore())
        try:
            restored = self._orbax.restore(self._path(step), args=items)
            return restored["state"], restored["metrics"]
        except Exception as error:  # Orbax raises many kinds
            raise UserError(f"checkpoint {self._path(step)} cannot be read: {error}") from error

    def _path(self, step: int) -> str:
        return os.path.join(self._folder, str(step))

    def _free_name(self, step: int) -> str:
        names = (f"{self._path(step)}.damaged{count}" for count in itertools.count(1))
        return next(name for name in names if not os.path.exists(name))

    @contextlib.contextmanager
    def _errors_of(self, step: int) -> Iterator[None]:
        """Turns any error of a save into a UserError."""
        try:
            yield
        except Exception as error:  # Orbax raises many kinds
            self._begun = None
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # Orbax leaves them
            intact, _ = newest_intact(self._folder)
            kept = (
                "there is no intact checkpoint yet"
                if intact is None
                else f"the last intact checkpoint is step {intact}"
            )
            what = f"cannot save the checkpoint of step {step} in {self._folder}"
            raise UserError(f"{what}: {reason(error)}; {kept}") from error

    def _seal(self) -> None:
        """Writes the checksums of a checkpoint before its final rename; called in Orbax's thread."""
        assert self._begun is not None
        step, score = self._begun
        checksums.seal(self._path(step) + _UNFINISHED, ("state", "metrics"), {"score": score})

    def _score(self, step: int) -> float | None:
        return checksums.metadata(self._path(step)).get("score")

    def _best_first(self, steps: list[int]) -> list[int]:
        measured = [(score, step) for step in steps if (score := self._score(step)) is not None]
        return [step for _, step in sorted(measured, reverse=True)]

    def _remove_old(self) -> None:
        steps = self.steps()
        for step in set(steps) - {*steps[-self._keep_last :], *self._best_first(steps)[: self._keep_best]}:
            self._remove(step)

    def _remove(self, step: int) -> None:
        """Renames the folder before deleting it, so that a kill leaves no partial checkpoint."""
        os.rename(self._path(step), self._path(step) + _REMOVED)
        shutil.rmtree(self._path(step) + _REMOVED)
