"""The training loop of one run. Its order is a contract.

evaluate(old state) -> save(state) -> next(batch) -> step -> log. The step says where the images stand, and the sums of
the steps since the last report are saved beside it, so that a resumed run is the run. Every process runs it; process 0
alone writes reports and speaks.
"""

from __future__ import annotations

import time
from typing import Any

import jax

from attnjax.training import ParallelStep, Sums, TrainState
from train.config import Config
from train.hosts.processes import device_summary, is_first
from train.runs.evaluation import Evaluator
from train.runs.preemption import Reached, preemption
from train.runs.session import Session, open_session
from train.runs.setup import Setup
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Task


def train(config: Config, workdir: str, task: Task = CLASSIFICATION) -> Any:
    """Trains, or resumes, the run in a folder to its end.

    Args:
      config: the settings.
      workdir: the run's folder. Where it holds the same run, it is resumed; only durations, intervals and the ways to
        spread the same computation may differ, see `train.config.MAY_CHANGE`. Processes share it.
      task: what is trained.

    Returns:
      The task's evaluation of the last state on the test images; None where SIGTERM ended the run before its end.

    Raises:
      UserError: settings, data or folder do not allow it, or the loss is no longer finite.
    """
    with preemption() as reached:
        setup = Setup.create(config, task)
        return train_run(setup, setup.program.compiled(), workdir, reached)


def train_run(setup: Setup, step: ParallelStep, workdir: str, reached: Reached, label: str | None = None) -> Any:
    """As `train`, with a setup and its compiled step, which several runs may share.

    Args:
      setup: what the run is made of.
      step: its training step.
      workdir: its folder.
      reached: says whether to end now.
      label: what its lines begin with, where it is one of many.
    """
    with open_session(setup, workdir, label) as session:
        if session.finished and session.start == session.run.total_steps:
            if is_first():
                print(f"{workdir} is finished at step {session.start}")
            return evaluate(setup.evaluator, session.restored.state, reached)
        if label is None:
            print(device_summary(session.run.config.data.batch_size), flush=True)
        trainer = Trainer(step, setup, session.restored.state, session.sums())
        loop, batches = Loop(session, trainer, reached), session.batches()
        speed = Speed(session.run.config.data.batch_size, session.start)
        for number in range(session.start, session.run.total_steps + 1):
            if not loop.before(number):
                break
            if loop.saved:
                speed.restart(number)
            trainer.take(next(batches))
            loop.after(number, speed)
        return loop.evaluation


class Trainer:
    """The state of a run and its sums, in the form of its compiled step.

    Args:
      step: takes the steps.
      setup: of the run.
      state: to begin with; it is used up.
      sums: to begin with.
    """

    def __init__(self, step: ParallelStep, setup: Setup, state: TrainState, sums: Sums) -> None:
        self._step, self._setup, self._seed = step, setup, setup.run.config.seed
        self._state = step.pack(state)
        self._sums = step.pack(setup.program.layout.put(sums))

    def take(self, batch: Any) -> None:
        """Takes a step, on the rows of this process."""
        self._state, self._sums = self._step(self._state, self._sums, batch, self._seed)

    def state(self) -> TrainState:
        """The state, as the layout says; the next step uses it up."""
        return self._step.unpack(self._state)

    def sums(self) -> Sums:
        """The sums of the steps since `reset`, on the host."""
        return jax.device_get(self._step.unpack(self._sums))

    def reset(self) -> None:
        """Begins the sums anew."""
        self._sums = self._step.pack(self._setup.program.layout.put(self._setup.program.zero_sums))


class Loop:
    """What happens around the steps of one run.

    Args:
      session: the run in its folder.
      trainer: has the state and the sums of the run, see `Trainer`.
      reached: says whether to end now.
      bar: whether there may be a progress bar.

    Attributes:
      evaluation: of the last state, once the run has come to its end.
      saved: whether the last `before` has evaluated or saved.
    """

    def __init__(self, session: Session, trainer: Any, reached: Reached, bar: bool = True) -> None:
        self.evaluation: Any = None
        self.saved = False
        self._session, self._trainer, self._reached = session, trainer, reached
        self._config, self._total = session.run.config, session.run.total_steps
        self._schedule = session.run.schedule()
        session.report.start(session.run, bar)

    def before(self, step: int) -> bool:
        """Evaluates and saves, where it is time to; returns whether to take the step."""
        session, stop, evaluation = self._session, self._reached(), None
        due = step == self._total or (step > 0 and step % self._config.evaluate_every_steps == 0)
        due = due and not (step == session.start and session.evaluated)
        self.saved = step > 0 and (stop or due or step % self._config.checkpoint_every_steps == 0)
        if self.saved:
            state, sums = self._trainer.state(), self._sums()
            if due and not stop:
                evaluation = evaluate(session.setup.evaluator, state, self._reached)
                stop = evaluation is None
            session.save(step, state, sums, evaluation)
        if stop:
            session.stop(step)
        elif step == self._total:
            self.evaluation = evaluation
            session.finish(evaluation)
        return not stop and step < self._total

    def stop(self, step: int) -> None:
        """Saves and ends before the end, where `before` said that the step is to be taken and it cannot be."""
        if not self.saved and step > 0:
            self._session.save(step, self._trainer.state(), self._sums(), None)
        self._session.stop(step)

    def after(self, step: int, speed: Speed) -> None:
        """Reports, where it is time to; `step` is the number of the step that was taken, from 0."""
        report, done = self._session.report, step + 1
        report.tick()
        first = step == self._session.start
        if first:
            self._sums()
            report.compiled()
        if done % self._config.log_every_steps == 0 or done == self._total:
            sums = self._sums()
            self._session.checkpoints.check()
            figures = self._session.setup.program.task.figures(sums.totals)
            rate = float(jax.device_get(self._schedule(step)))
            report.training(done, figures | {"learning_rate": rate, "images_per_second": speed(done)})
            self._trainer.reset()
        elif first:
            speed.restart(done)

    def _sums(self) -> Sums:
        sums = self._trainer.sums()
        self._session.check(sums)
        return sums


class _PreemptedError(Exception):
    """SIGTERM came during an evaluation."""


def evaluate(evaluator: Evaluator, state: TrainState, reached: Reached) -> Any:
    """The figures of a state; None where SIGTERM comes before the end."""

    def check() -> None:
        if reached():
            raise _PreemptedError

    try:
        return evaluator(state.eval_variables, check)
    except _PreemptedError:
        return None


class Speed:
    """Images a second since the last reading or restart.

    Args:
      images: of a step.
      step: that it begins at.
    """

    def __init__(self, images: int, step: int) -> None:
        self._images, self._rate = images, 0.0
        self.restart(step)

    def restart(self, step: int) -> None:
        """Counts from a step on."""
        self._step, self._time = step, time.perf_counter()

    def __call__(self, step: int) -> float:
        """The rate up to a step; a second reading at the same step is the first."""
        if step != self._step:
            self._rate = round((step - self._step) * self._images / (time.perf_counter() - self._time), 1)
            self.restart(step)
        return self._rate
