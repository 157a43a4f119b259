"""The training loop. Its order is a contract.

evaluate(old state) -> save(state) -> next(batch) -> step -> log. The step says where the images stand, and the sums of
metrics are saved beside it, so that a resumed run is the run. Every process runs it; process 0 alone writes reports and
speaks. Several runs that differ in their seed alone may go through it together, in one step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from train.config import Config
from train.evaluate import Evaluation, Evaluator
from train.hosts.processes import failing_together, is_first, standing
from train.metrics import Metrics
from train.parallel import Step, training_step
from train.runs.checkpoint import Restored
from train.runs.preemption import Reached, preemption
from train.runs.report import Report, Silence
from train.runs.session import Member, taken
from train.runs.setup import Shared
from train.state import TrainState


def train(config: Config, workdir: str) -> Evaluation | None:
    """Trains, or resumes, the run in a folder to its end.

    Args:
      config: the settings.
      workdir: the run's folder. Where it holds the same run, it is resumed; only durations, intervals and the ways to
        spread the same computation may differ, see `train.config.MAY_CHANGE`. Processes share it.

    Returns:
      The figures of the last state on the test images; None where SIGTERM ended the run before its end.

    Raises:
      UserError: settings, data or folder do not allow it, or the loss is no longer finite.
    """
    with preemption() as reached:
        shared = Shared.of(config)
        results = train_seeds(shared, training_step(shared.run, shared.layout), {config.seed: workdir}, reached)
        return None if results is None else results[0]


def train_seeds(
    shared: Shared,
    take_step: Step,
    workdirs: Mapping[int, str],
    reached: Reached,
    labels: Mapping[int, str] | None = None,
) -> list[Evaluation] | None:
    """Trains, or resumes, runs together. The newest whole checkpoints of all are of the same step.

    Args:
      shared: what they have in common.
      take_step: the step of all of them, in the order of `workdirs`.
      workdirs: the folder of the run with each seed.
      reached: says whether to end now.
      labels: what the lines on standard output begin with, see `Report`.

    Returns:
      The figures of the last states on the test images; None where the runs have ended before their end.

    Raises:
      UserError: a folder does not allow it, or a loss is no longer finite.
    """
    with contextlib.ExitStack() as stack:
        origin = shared.dataset.origin
        places = [stack.enter_context(taken(shared.with_seed(seed), workdirs[seed], origin)) for seed in workdirs]
        stack.enter_context(failing_together())
        begins = [place.beginning(shared.layout, shared.like) for place in places]
        step, total = int(begins[0].state.step), shared.run.total_steps
        if step == total and all(place.finished for place in places):
            if is_first():
                print(*(f"{place.workdir} is finished at step {total}" for place in places), sep="\n")
            return _evaluate(shared.evaluator, [begin.state for begin in begins], reached)
        evaluated = all(begin.accuracy is not None for begin in begins) and step < total
        if labels is None:
            print(standing(shared.run.config.data.batch_size), flush=True)
        members = []
        for seed, place, begin in zip(workdirs, places, begins, strict=True):
            label = labels[seed] if labels else None
            report = Report(place.workdir, step, total, evaluated, label) if is_first() else Silence()
            stack.enter_context(contextlib.closing(report))
            for line in begin.told:
                report.say(line)
            members.append(Member.at(step, place, shared.training(seed), report, label))
        return _Loop(shared, take_step, members, reached).train(begins, evaluated)


class _PreemptedError(Exception):
    """SIGTERM came during an evaluation."""


def _evaluate(evaluator: Evaluator, states: Sequence[TrainState], reached: Reached) -> list[Evaluation] | None:
    """The figures of states; None where SIGTERM comes before the end."""

    def check() -> None:
        if reached():
            raise _PreemptedError

    try:
        return [evaluator(state.evaluated, check) for state in states]
    except _PreemptedError:
        return None


@dataclasses.dataclass(frozen=True)
class _Loop:
    shared: Shared
    take_step: Step
    members: Sequence[Member]
    reached: Reached

    def train(self, begins: Sequence[Restored], evaluated: bool) -> list[Evaluation] | None:
        """Trains from states on; `evaluated` says whether their figures on the test images stand."""
        run, members, take_step = self.shared.run, self.members, self.take_step
        config, total, start = run.config, run.total_steps, int(begins[0].state.step)
        schedule, speed = run.schedule(), _Speed(config.data.batch_size * len(members), start)
        for member in members:
            member.report.start(member.run, bar=member is members[0])
        state = take_step.enter([begin.state for begin in begins])
        metrics = self._enter([Metrics.of(begin.sums) for begin in begins])
        for step in range(start, total + 1):
            stop, results = self.reached(), None
            due = self._evaluates_at(step) and (step > start or not evaluated)
            if step and (stop or due or step % config.checkpoint_every_steps == 0):
                results = self._evaluate_and_save(step, state, self._checked(metrics), due and not stop)
                stop = stop or (due and results is None)
                speed.restart(step)
            if stop:
                for member in members:
                    member.stop(step)
                return None
            if step == total:
                break
            state, metrics = take_step(state, metrics, [next(member.images) for member in members])
            for member in members:
                member.report.tick()
            if step == start:
                jax.block_until_ready(metrics)
                for member in members:
                    member.report.compiled()
            if (step + 1) % config.log_every_steps == 0 or step + 1 == total:
                rate = float(jax.device_get(schedule(step)))
                self._log(step + 1, self._checked(metrics), rate, speed(step + 1))
                metrics = self._enter([Metrics.zero()] * len(members))
            elif step == start:
                speed.restart(step + 1)
        assert results is not None
        for member, result in zip(members, results, strict=True):
            member.finish(result, self.shared.test)
        return results

    def _enter(self, sums: Sequence[Metrics]) -> Any:
        return self.take_step.enter([self.shared.layout.put(each) for each in sums])

    def _evaluates_at(self, step: int) -> bool:
        run = self.shared.run
        return step == run.total_steps or (step > 0 and step % run.config.evaluate_every_steps == 0)

    def _evaluate_and_save(
        self, step: int, state: Any, sums: Sequence[Metrics], evaluate: bool
    ) -> list[Evaluation] | None:
        states = self.take_step.leave(state)
        results = _evaluate(self.shared.evaluator, states, self.reached) if evaluate else None
        for place, member in enumerate(self.members):
            member.save(step, states[place], sums[place], results[place] if results else None)
        return results

    def _checked(self, metrics: Any) -> list[Metrics]:
        pairs = zip(self.members, self.take_step.leave(metrics), strict=True)
        return [member.checked(sums) for member, sums in pairs]

    def _log(self, step: int, sums: Sequence[Metrics], rate: float, speed: float) -> None:
        guided = self.shared.run.config.ggam.weight > 0
        for member, each in zip(self.members, sums, strict=True):
            member.checkpoints.check()
            told = {"learning_rate": rate, "images_per_second": speed}
            member.report.training(step, each.figures(guided=guided) | told)


class _Speed:
    """Images per second since the last call or restart."""

    def __init__(self, batch_size: int, step: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._time = step, time.perf_counter()

    def __call__(self, step: int) -> float:
        speed = (step - self._step) * self._batch_size / (time.perf_counter() - self._time)
        self.restart(step)
        return round(speed, 1)
