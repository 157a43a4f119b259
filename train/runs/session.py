"""A run in its folder between the steps of the loop: where it begins, what it saves and reports."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from attnjax.training import Sums, TrainState
from train.config.errors import NotFiniteError
from train.hosts.processes import failing_together, gather, is_first, on_first
from train.runs.checkpoint import Checkpoints, Restored
from train.runs.consistency import check_same_folder
from train.runs.lock import lock_holder, locked
from train.runs.record import check_claim, checkpoint_folder, claim
from train.runs.report import Report, Silence, is_finished
from train.runs.setup import Setup
from train.tasks.run import Run


@dataclasses.dataclass(frozen=True)
class Session:
    """A run whose folder this process holds, from where it begins to where it stops.

    Attributes:
      setup: what the run is made of.
      workdir: its folder.
      checkpoints: what it has saved.
      restored: what it begins with; the loop uses its state up.
      start: the step that it begins at.
      finished: whether it had come to its end before.
      report: what it tells.
      label: what its lines begin with, where it is one of many.
    """

    setup: Setup
    workdir: str
    checkpoints: Checkpoints
    restored: Restored
    start: int
    finished: bool
    report: Report | Silence
    label: str | None

    @property
    def run(self) -> Run:
        """What defines the run."""
        return self.setup.run

    @property
    def evaluated(self) -> bool:
        """Whether the state that it begins with has its figures on the test images."""
        return self.restored.score is not None and self.start < self.run.total_steps

    @functools.cached_property
    def images(self) -> Any:
        """The training images."""
        return self.setup.program.task.training_images(self.run, self.setup.dataset)

    def batches(self) -> Any:
        """Batches from the first step on, an iterator: the rows of this process."""
        process = (jax.process_index(), jax.process_count())
        batches = self.setup.program.task.training_batches(self.run, self.images, process)
        batches.set_state({"next_index": self.start})
        return batches

    def sums(self) -> Sums:
        """The sums that it begins with."""
        zero, stored = self.setup.program.zero_sums, self.restored.sums
        totals = {name: np.asarray(stored.get(name, 0), total.dtype) for name, total in zero.totals.items()}
        return zero.replace(totals=totals)

    def save(self, step: int, state: TrainState, sums: Sums, evaluation: Any) -> None:
        """Tells the figures on the test images, if there are some, and begins to save the state."""
        score = None
        if evaluation is not None:
            self.report.evaluation(step, evaluation)
            score = evaluation.figures()[self.setup.program.task.score]
        totals = {name: np.asarray(total).tolist() for name, total in sums.totals.items()}
        self.checkpoints.save(step, state, totals, score)

    def stop(self, step: int) -> None:
        """Ends before the end, for SIGTERM."""
        self.checkpoints.wait()
        kept = f"saved at step {step} of {self.run.total_steps}" if step else "nothing to save yet"
        self.report.say(f"SIGTERM: {kept}; the same command goes on from there")

    def check(self, sums: Sums) -> None:
        """Raises NotFiniteError where a loss, gradient or result was not finite."""
        if sums.first_nonfinite < 0:
            return
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
        where = "" if self.label is None else f"{self.label}: "
        raise NotFiniteError(
            f"{where}loss, gradient or parameters are not finite at step {int(sums.first_nonfinite) + 1} ({kept}): "
            "lower optimizer.learning_rate, or set schedule.warmup or optimizer.clip_norm, with another --workdir",
            self.run.config.seed,
        )

    def finish(self, evaluation: Any) -> None:
        """Waits for the last checkpoint and writes what a finished run leaves."""
        self.checkpoints.wait()
        unreadable = gather("unreadable images", sorted(self.images.unreadable | self.setup.test_images.unreadable))
        self.report.finish(self.run, evaluation, sorted(set().union(*unreadable)))


@contextlib.contextmanager
def open_session(setup: Setup, workdir: str, label: str | None = None) -> Iterator[Session]:
    """Claims the folder of a run, which processes share, and reads where the run stands.

    Args:
      setup: what the run is made of.
      workdir: its folder.
      label: what its lines begin with, where it is one of many.

    Raises:
      UserError: the folder belongs to another run, is in use, or cannot be written to.
    """
    run = setup.run
    with contextlib.ExitStack() as stack:

        def take() -> tuple[bool, str]:
            check_claim(run, workdir)  # before anything is written there
            stack.enter_context(locked(workdir))
            finished = is_finished(workdir, run.total_steps)
            if not finished:
                claim(run, workdir, setup.dataset.origin)
            return finished, lock_holder(workdir)

        finished, holder = on_first("claim the work directory", take)
        check_same_folder(workdir, holder)
        kept = (run.config.keep_last_checkpoints, run.config.keep_best_checkpoints)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(checkpoint_folder(workdir), *kept)))
        stack.enter_context(failing_together())
        restored = checkpoints.restore_newest(setup.program.state)
        restored = restored or Restored(setup.program.fresh_state(), {}, None, [])
        start = int(restored.state.step)
        session = Session(setup, workdir, checkpoints, restored, start, finished, Silence(), label)
        if is_first() and not (finished and session.start == run.total_steps):
            report = Report(workdir, setup.program.task, session.start, run.total_steps, session.evaluated, label)
            session = dataclasses.replace(session, report=stack.enter_context(contextlib.closing(report)))
        for line in restored.messages:
            session.report.say(line)
        yield session
