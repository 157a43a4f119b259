"""Checkpoints: Orbax writes and reads them; which of them are whole, found and kept is decided here."""

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
    """Steps that have a checkpoint in a folder, in order; damaged ones are among them."""
    if not os.path.isdir(folder):
        return []
    return sorted(int(name) for name in os.listdir(folder) if re.fullmatch(r"0|[1-9][0-9]*", name))


def newest_whole(folder: str) -> tuple[int | None, list[tuple[int, str]]]:
    """The newest whole step, and what is wrong with those after it."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(checkpoint_steps(folder)):
        damage = checksums.damage(os.path.join(folder, str(step)))
        if damage is None:
            return step, damaged
        damaged.append((step, damage))
    return None, damaged


class Restored(NamedTuple):
    """What a checkpoint gives back.

    Attributes:
      state: parameters, statistics, the optimiser's state and the step, which is the position of the images too.
      sums: of the metrics since the last log line, by name.
      score: on the test images; None where it was not measured.
      messages: a line for each damaged checkpoint that was set aside.
    """

    state: TrainState
    sums: dict[str, Any]
    score: float | None
    messages: list[str]


class Checkpoints:
    """The checkpoints of a run: written in the background, whole or not at all.

    A checkpoint is a folder named by its step. It holds the SHA-256 of its files, written before the folder gets that
    name, so that what is damaged later is not taken for whole.

    Args:
      folder: where they are.
      keep_last: how many of the newest to keep.
      keep_best: how many of those with the highest score to keep besides.
      read_only: leave the folder as it is, also what another process is writing there.
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
        """Steps that have a checkpoint, in order; damaged ones are among them."""
        return checkpoint_steps(self._folder)

    def save(self, step: int, state: TrainState, sums: dict[str, Any], score: float | None) -> None:
        """Begins to save the state of a step, see `Restored`. Where that is saved already, only the score is new.

        Raises:
          UserError: this save cannot begin, or the one before could not be written.
        """
        self.wait()
        if step > self._newest:
            self._begun = (step, score)
            items = ocp.args.Composite(state=ocp.args.StandardSave(state), metrics=ocp.args.JsonSave(sums))
            with self._errors_of(step):
                self._orbax.save(self._path(step), args=items)
        elif score is not None and is_first():
            checksums.add_facts(self._path(step), {"score": score})
            self._remove_old()

    def check(self) -> None:
        """Raises UserError where what was begun has failed by now."""
        if self._begun is not None:
            with self._errors_of(self._begun[0]):
                self._orbax.check_for_errors()

    def wait(self) -> None:
        """Waits until what was begun is written, and removes what is no longer kept.

        Raises:
          UserError: it could not be written.
        """
        if self._begun is None:
            return
        with self._errors_of(self._begun[0]):
            self._orbax.wait_until_finished()
        self._newest, self._begun = self._begun[0], None
        if is_first():
            self._remove_old()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def find(self, which: str) -> int:
        """Returns the step of `last`, `best` or a step given in digits, of one or more that there are.

        Raises:
          UserError: there is no such checkpoint.
        """
        steps = self.steps()
        if which == "last":
            return steps[-1]
        if which == "best":
            return next(iter(self._best_first(steps)), steps[-1])
        if not which.isdecimal() or int(which) not in steps:
            raise UserError(f"checkpoint={which!r} is not best, last or one of the kept steps {steps}")
        return int(which)

    def restore(self, step: int, like: TrainState) -> Restored:
        """Reads a checkpoint; `like` gives shapes, types and shardings.

        Raises:
          UserError: the checkpoint is damaged, or was written by a program that is too different.
        """

        def check() -> float | None:
            if damage := checksums.damage(self._path(step)):
                whole, _ = newest_whole(self._folder)
                other = "none is whole" if whole is None else f"step {whole} is the newest whole one"
                raise UserError(f"checkpoint {self._path(step)} is damaged ({damage}): {other}")
            return self._score(step)

        score = on_first("check the checkpoint", check)
        return Restored(*self._read(step, like), score, [])

    def restore_newest(self, like: TrainState) -> Restored | None:
        """Reads the newest whole checkpoint, which process 0 finds; damaged newer ones get another name.

        Returns:
          What it holds; None where there is no checkpoint.

        Raises:
          UserError: there are checkpoints, but none is whole, or it was written by a program that is too different.
        """

        def find() -> tuple[int | None, float | None, list[tuple[int, str]]]:
            step, damaged = newest_whole(self._folder)
            if step is None and damaged:
                each = ", ".join(f"{bad} ({damage})" for bad, damage in damaged)
                raise UserError(f"all checkpoints in {self._folder} are damaged: {each}; remove them to begin anew")
            return step, None if step is None else self._score(step), damaged

        step, score, damaged = on_first("find the newest whole checkpoint", find)
        if step is None:
            return None
        state, sums = self._read(step, like)
        if is_first():
            for bad, _ in damaged:
                os.rename(self._path(bad), self._free_name(bad))
        self._newest = step
        messages = [
            f"checkpoint {bad} is damaged ({damage}) and set aside: step {step} is used" for bad, damage in damaged
        ]
        return Restored(state, sums, score, messages)

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), metrics=ocp.args.JsonRestore())
        try:
            restored = self._orbax.restore(self._path(step), args=items)
            return restored["state"], restored["metrics"]
        except Exception as error:  # Orbax raises many kinds
            raise UserError(f"checkpoint {self._path(step)} cannot be read here: {error}") from error

    def _path(self, step: int) -> str:
        return os.path.join(self._folder, str(step))

    def _free_name(self, step: int) -> str:
        names = (f"{self._path(step)}.damaged{count}" for count in itertools.count(1))
        return next(name for name in names if not os.path.exists(name))

    @contextlib.contextmanager
    def _errors_of(self, step: int) -> Iterator[None]:
        """Turns what goes wrong in a save into one line."""
        try:
            yield
        except Exception as error:  # Orbax raises many kinds
            self._begun = None
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # Orbax leaves them
            whole, _ = newest_whole(self._folder)
            kept = "there is no whole checkpoint yet" if whole is None else f"the last whole checkpoint is step {whole}"
            what = f"cannot save the checkpoint of step {step} in {self._folder}"
            raise UserError(f"{what}: {reason(error)}; {kept}") from error

    def _seal(self) -> None:
        """Writes the checksums of a checkpoint that is complete but for its name; Orbax calls it in its thread."""
        assert self._begun is not None
        step, score = self._begun
        checksums.seal(self._path(step) + _UNFINISHED, ("state", "metrics"), {"score": score})

    def _score(self, step: int) -> float | None:
        return checksums.facts(self._path(step)).get("score")

    def _best_first(self, steps: list[int]) -> list[int]:
        measured = [(score, step) for step in steps if (score := self._score(step)) is not None]
        return [step for _, step in sorted(measured, reverse=True)]

    def _remove_old(self) -> None:
        steps = self.steps()
        for step in set(steps) - {*steps[-self._keep_last :], *self._best_first(steps)[: self._keep_best]}:
            self._remove(step)

    def _remove(self, step: int) -> None:
        """A folder loses its name before its files, so that a kill leaves no checkpoint in parts."""
        os.rename(self._path(step), self._path(step) + _REMOVED)
        shutil.rmtree(self._path(step) + _REMOVED)
