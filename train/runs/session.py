"""An open run: its folder, checkpoints and report, and the state it starts from."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import functools
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from attnjax.training import Sums, TrainState
from train.config.errors import NotFiniteError, UserError
from train.hosts.processes import CollectiveError, failing_together, gather, is_first, on_first
from train.runs.checkpoint import Checkpoints, Restored
from train.runs.record import check_claim, checkpoint_folder, claim
from train.runs.report import NullReport, Report, is_finished
from train.runs.setup import Setup
from train.tasks.recipe import Run


@dataclasses.dataclass(frozen=True)
class Session:
    """A run whose folder this process has locked.

    Attributes:
      setup: data, program and evaluator.
      run: the run's settings and data description.
      workdir: the run's folder.
      checkpoints: the run's checkpoints.
      restored: the restored or initial state; the loop donates its buffers.
      start: the step at which the run starts or resumes.
      finished: whether the run had already finished.
      report: writes progress and metrics.
      label: prefix of the run's log lines, if it is one of several.
    """

    setup: Setup
    run: Run
    workdir: str
    checkpoints: Checkpoints
    restored: Restored
    start: int
    finished: bool
    report: Report | NullReport
    label: str | None

    @property
    def evaluated(self) -> bool:
        """Whether the restored state has already been evaluated on the test images."""
        return self.restored.score is not None and self.start < self.run.total_steps

    @functools.cached_property
    def images(self) -> Any:
        """The training images."""
        return self.setup.program.task.training_images(self.run, self.setup.dataset)

    def batches(self) -> Any:
        """An iterator over this process's rows of the batches, from the start step on."""
        process = (jax.process_index(), jax.process_count())
        batches = self.setup.program.task.training_batches(self.run, self.images, process)
        batches.set_state({"next_index": self.start})
        return batches

    def sums(self) -> Sums:
        """The restored sums; zeros for a new run."""
        zero, stored = self.setup.program.zero_sums, self.restored.sums
        if not stored:
            return zero
        if stored.keys() != zero.totals.keys():
            kept, expected = (", ".join(sorted(names)) for names in (stored, zero.totals))
            raise UserError(f"the checkpoint of step {self.start} has the sums {kept}; the loss has {expected}")
        totals = {name: np.asarray(stored[name], total.dtype) for name, total in zero.totals.items()}
        return zero.replace(totals=totals)

    def save(self, step: int, state: TrainState, sums: Sums, evaluation: Any) -> None:
        """Reports the evaluation, if any, and starts saving the state."""
        score = None
        if evaluation is not None:
            self.report.evaluation(step, evaluation)
            score = evaluation.figures()[self.setup.program.task.score]
        totals = {name: np.asarray(total).tolist() for name, total in sums.totals.items()}
        self.checkpoints.save(step, state, totals, score)

    def stop(self, step: int) -> None:
        """Stops early because of SIGTERM."""
        self.checkpoints.wait()
        kept = f"saved at step {step} of {self.run.total_steps}" if step else "nothing to save yet"
        self.report.say(f"SIGTERM: {kept}; the same command resumes from there")

    def check(self, sums: Sums) -> None:
        """Raises NotFiniteError if a loss, gradient or parameter was not finite."""
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
        """Waits for the last checkpoint and writes the results of the finished run."""
        self.checkpoints.wait()
        unreadable = gather("unreadable images", sorted(self.images.unreadable | self.setup.test_images.unreadable))
        self.report.finish(self.run, evaluation, sorted(set().union(*unreadable)))


@contextlib.contextmanager
def open_session(setup: Setup, run: Run, workdir: str, label: str | None = None) -> Iterator[Session]:
    """Claims the folder of a run, which all processes share, and restores the newest checkpoint.

    Args:
      setup: data, program and evaluator.
      run: the run, that of the setup or one with another seed.
      workdir: the run's folder.
      label: prefix of the run's log lines, if it is one of several.

    Raises:
      UserError: the folder belongs to another run, is in use, or is not writable.
    """
    with contextlib.ExitStack() as stack:

        def claim_folder() -> tuple[bool, str]:
            check_claim(run, workdir)  # before writing to the folder
            stack.enter_context(locked(workdir))
            finished = is_finished(workdir, run.total_steps)
            if not finished:
                claim(run, workdir, setup.dataset.origin)
            return finished, lock_holder(workdir)

        finished, holder = on_first("claim the work directory", claim_folder)
        _check_same_folder(workdir, holder)
        kept = (run.config.keep_last_checkpoints, run.config.keep_best_checkpoints)
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(checkpoint_folder(workdir), *kept)))
        stack.enter_context(failing_together())
        restored = checkpoints.restore_newest(setup.program.state)
        restored = restored or Restored(setup.program.fresh_state(run.config.seed), {}, None, [])
        start = int(restored.state.step)
        session = Session(setup, run, workdir, checkpoints, restored, start, finished, NullReport(), label)
        if is_first() and not (finished and session.start == run.total_steps):
            report = Report(workdir, setup.program.task, session.start, run.total_steps, session.evaluated, label)
            session = dataclasses.replace(session, report=stack.enter_context(contextlib.closing(report)))
        for line in restored.messages:
            session.report.say(line)
        yield session


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Holds a lock on WORKDIR/lock; the kernel releases it when the process ends, however it ends.

    Args:
      workdir: the run's folder, created if missing.

    Raises:
      UserError: another process holds the lock, or the folder is not writable.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        file = open(os.path.join(workdir, "lock"), "ab+", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise UserError(f"cannot write to work directory {workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock_holder(workdir) or "another process"
            raise UserError(
                f"{workdir} is in use by {holder}: wait until it ends, or choose another --workdir"
            ) from None
        except OSError as error:  # a file system without locks
            print(
                f"note: {workdir} cannot be locked ({error.strerror}): make sure that no other run uses it",
                file=sys.stderr,
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode())
        yield


def lock_holder(workdir: str) -> str:
    """The process that holds or last held a work directory; empty if none has."""
    with contextlib.suppress(OSError), open(os.path.join(workdir, "lock")) as file:
        return file.read().strip()
    return ""


def _check_same_folder(workdir: str, holder: str) -> None:
    """Checks that all processes see the lock that process 0 holds.

    Raises:
      CollectiveError: some do not; the message names them.
    """
    seen = gather("work directory", [workdir, lock_holder(workdir) == holder])
    blind = [f"{folder} of process {process}" for process, (folder, sees) in enumerate(seen) if not sees]
    if blind:
        raise CollectiveError(
            f"work directory {seen[0][0]} of process 0 is not {', nor '.join(blind)}: all processes must share it"
        )
