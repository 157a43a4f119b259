"""A run in its folder, between the steps of the loop: where it begins, what it saves and tells."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import grain
import jax

from train.config.errors import NotFiniteError
from train.data import Reader, training_iterator
from train.evaluate import Evaluation
from train.hosts.processes import gather, on_first
from train.layout import Layout
from train.metrics import Metrics
from train.runs.checkpoint import Checkpoints, Restored
from train.runs.consistency import check_shared
from train.runs.lock import lock_holder, locked
from train.runs.record import Run, check_claim, checkpoint_folder, claim
from train.runs.report import Report, Silence, is_finished
from train.state import TrainState


@dataclasses.dataclass(frozen=True)
class Place:
    """A run and its folder, which is taken.

    Attributes:
      run: what it is.
      workdir: its folder.
      checkpoints: what it has saved.
      finished: whether it had come to its end before.
    """

    run: Run
    workdir: str
    checkpoints: Checkpoints
    finished: bool

    def beginning(self, layout: Layout, like: TrainState) -> Restored:
        """What the newest whole checkpoint holds, or the state before the first step."""
        restored = self.checkpoints.restore_newest(like)
        return restored or Restored(layout.put_state(self.run.fresh_state()), Metrics.zero().sums(), None, [])


@contextlib.contextmanager
def taken(run: Run, workdir: str, origin: str) -> Iterator[Place]:
    """Takes a run's folder, which processes share.

    Args:
      run: the run.
      workdir: its folder.
      origin: which copy of the data this is.

    Raises:
      UserError: the folder belongs to another run, is in use, or cannot be written to.
    """
    with contextlib.ExitStack() as stack:

        def take() -> tuple[bool, str]:
            check_claim(run, workdir)  # before anything is written there
            stack.enter_context(locked(workdir))
            finished = is_finished(workdir, run.total_steps)
            if not finished:
                claim(run, workdir, origin)
            return finished, lock_holder(workdir)

        finished, holder = on_first("take the work directory", take)
        check_shared(workdir, holder)
        kept = (run.config.keep_last_checkpoints, run.config.keep_best_checkpoints)
        checkpoints = Checkpoints(checkpoint_folder(workdir), *kept)
        stack.enter_context(contextlib.closing(checkpoints))
        yield Place(run, workdir, checkpoints, finished)


@dataclasses.dataclass(frozen=True)
class Member:
    """A run that the loop trains, alone or with others.

    Attributes:
      run: what it is.
      reader: of its training images.
      images: batches of them, from where it stands.
      checkpoints: what it saves.
      report: what it tells.
      label: what errors begin with, where it is one of many.
    """

    run: Run
    reader: Reader
    images: grain.DatasetIterator
    checkpoints: Checkpoints
    report: Report | Silence
    label: str | None

    @classmethod
    def at(cls, step: int, place: Place, reader: Reader, report: Report | Silence, label: str | None) -> Member:
        """A run that goes on from a step."""
        images = training_iterator(reader, place.run.config.seed, (jax.process_index(), jax.process_count()))
        images.set_state({"next_index": step})
        return cls(place.run, reader, images, place.checkpoints, report, label)

    def save(self, step: int, state: TrainState, sums: Metrics, result: Evaluation | None) -> None:
        """Tells the figures on the test images, if there are some, and begins to save the state."""
        if result is not None:
            self.report.evaluation(step, result)
        self.checkpoints.save(step, state, sums.sums(), result.accuracy if result else None)

    def stop(self, step: int) -> None:
        """Ends before the end, for SIGTERM."""
        self.checkpoints.wait()
        kept = f"saved at step {step} of {self.run.total_steps}" if step else "nothing to save yet"
        self.report.say(f"SIGTERM: {kept}; the same command goes on from there")

    def checked(self, metrics: Metrics) -> Metrics:
        """Fetches the sums.

        Raises:
          NotFiniteError: something was not finite.
        """
        sums: Metrics = jax.device_get(metrics)
        if sums.bad_step < 0:
            return sums
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
        where = "" if self.label is None else f"{self.label}: "
        raise NotFiniteError(
            f"{where}loss, gradient or parameters are not finite at step {int(sums.bad_step) + 1} ({kept}): lower "
            "optimizer.learning_rate, or set schedule.warmup or optimizer.clip_norm, with another --workdir",
            self.run.config.seed,
        )

    def finish(self, result: Evaluation, test: Reader) -> None:
        """Waits for the last checkpoint and writes what a finished run leaves."""
        self.checkpoints.wait()
        unreadable = gather("unreadable images", sorted(self.reader.unreadable | test.unreadable))
        self.report.finish(result, self.run.class_names, sorted(set().union(*unreadable)))
