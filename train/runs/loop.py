"""The training loop of one run. Its order is a contract.

evaluate(old state) -> save(state) -> next(batch) -> step -> log. The step is also the position in the training
data, and the sums since the last log line are saved with the state, so that a resumed run equals an uninterrupted one.
Every process runs the loop; only process 0 prints and writes reports.
"""

from __future__ import annotations

from typing import Any

import jax

from attnjax.training import ParallelStep, Sums, TrainState
from train.config import Config
from train.hosts.processes import device_summary, is_first
from train.runs.preemption import Preempted, preemption
from train.runs.report import Speed
from train.runs.session import Session, open_session
from train.runs.setup import Setup, Trainer
from train.tasks.recipe import Run
from train.tasks.task import Task


def train(config: Config, workdir: str, task: Task) -> Any:
    """Trains the run in a folder to its end, resuming it if it was interrupted.

    Args:
      config: the settings.
      workdir: the run's folder, shared by all processes. A run with the same settings is resumed; only the settings in
        `train.config.MAY_CHANGE` (durations, intervals, parallelism) may differ.
      task: the task to train.

    Returns:
      The task's evaluation of the last state on the test images; None if SIGTERM stopped the run early.

    Raises:
      UserError: settings, data or folder are invalid, or the loss is not finite.
    """
    with preemption() as preempted:
        setup = Setup.create(config, task)
        return train_run(setup, setup.run, setup.program.compiled(), workdir, preempted)


def train_run(
    setup: Setup, run: Run, step: ParallelStep, workdir: str, preempted: Preempted, label: str | None = None
) -> Any:
    """Like `train`, with a setup and a compiled step, which several runs may share.

    Args:
      setup: data, program and evaluator.
      run: the run, that of the setup or one with another seed.
      step: the compiled training step.
      workdir: the run's folder.
      preempted: returns whether to save and stop now.
      label: prefix of the run's log lines, if it is one of several.
    """
    with open_session(setup, run, workdir, label) as session:
        if session.finished and session.start == run.total_steps:
            if is_first():
                print(f"{workdir} is finished at step {session.start}")
            return evaluate(session, session.restored.state, preempted)
        if label is None:
            print(device_summary(run.config.data.batch_size), flush=True)
        trainer = Trainer(step, setup.program, run.config.seed, session.restored.state, session.sums())
        loop, batches = Loop(session, trainer, preempted), session.batches()
        speed = Speed(run.config.data.batch_size, session.start)
        for number in range(session.start, run.total_steps + 1):
            if not loop.before(number, preempted()):
                break
            if loop.saved:
                speed.restart(number)
            trainer.step(next(batches))
            loop.after(number, speed)
        return loop.evaluation


class Loop:
    """Evaluates, saves and logs between the steps of one run.

    Args:
      session: the open run.
      trainer: holds the state and the sums of the run, see `Trainer`.
      preempted: returns whether to save and stop now.
      bar: whether to show a progress bar on a terminal.

    Attributes:
      evaluation: evaluation of the last state, once the run has finished.
      saved: whether the last call of `before` evaluated or saved.
    """

    def __init__(self, session: Session, trainer: Any, preempted: Preempted, bar: bool = True) -> None:
        self.evaluation: Any = None
        self.saved = False
        self._session, self._trainer, self._preempted = session, trainer, preempted
        self._config, self._total = session.run.config, session.run.total_steps
        self._schedule = session.run.schedule()
        session.report.start(session.run, bar)

    def saves(self, step: int, stop: bool) -> bool:
        """Whether a checkpoint is due before a step."""
        return step > 0 and (stop or self._evaluates(step) or step % self._config.checkpoint_every_steps == 0)

    def _evaluates(self, step: int) -> bool:
        due = step == self._total or (step > 0 and step % self._config.evaluate_every_steps == 0)
        return due and not (step == self._session.start and self._session.evaluated)

    def before(self, step: int, stop: bool) -> bool:
        """Evaluates and saves if due, or to stop; returns whether to take the step."""
        session, evaluation = self._session, None
        self.saved = self.saves(step, stop)
        if self.saved:
            state, sums = self._trainer.state(), self.sums()
            if self._evaluates(step) and not stop:
                evaluation = evaluate(session, state, self._preempted)
                stop = evaluation is None
            session.save(step, state, sums, evaluation)
        if stop:
            session.stop(step)
        elif step == self._total:
            self.evaluation = evaluation
            session.finish(evaluation)
        return not stop and step < self._total

    def stop(self, step: int) -> None:
        """Saves and stops before a step that `before` allowed but that cannot be taken."""
        if not self.saved and step > 0:
            self._session.save(step, self._trainer.state(), self.sums(), None)
        self._session.stop(step)

    def after(self, step: int, speed: Speed) -> None:
        """Logs if due; `step` is the index of the step just taken, from 0."""
        report, done = self._session.report, step + 1
        report.tick()
        first = step == self._session.start
        if first:
            self.sums()
            report.compiled()
        if done % self._config.log_every_steps == 0 or done == self._total:
            sums = self.sums()
            self._session.checkpoints.check()
            figures = self._session.setup.program.task.figures(sums.totals)
            rate = float(jax.device_get(self._schedule(step)))
            report.training(done, figures | {"learning_rate": rate, "images_per_second": speed(done)})
            self._trainer.reset()
        elif first:
            speed.restart(done)

    def sums(self) -> Sums:
        """The sums since the last log line, on the host. Raises NotFiniteError if a step was not finite."""
        sums = self._trainer.sums()
        self._session.check(sums)
        return sums


def evaluate(session: Session, state: TrainState, preempted: Preempted) -> Any:
    """Evaluates a state; returns None if SIGTERM arrives before the end."""
    return session.setup.evaluator(session.run, state.eval_variables, preempted=preempted)
