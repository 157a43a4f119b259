"""The training loop. Its order is a contract.

evaluate(old state) -> save(state) -> next(batch) -> step -> log. The step says where the images stand, and the sums of
metrics are saved beside it, so that a resumed run is the run. Every process runs it; process 0 alone writes reports and
speaks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import grain
import jax

from train.agreement import check_agreement, check_shared
from train.checkpoint import Checkpoints, Restored
from train.config import Config
from train.data import Dataset, Reader, image_shape, open_dataset, training_iterator, with_label_noise
from train.errors import UserError
from train.evaluate import Evaluation, Evaluator
from train.hosts import failing_together, gather, is_first, on_first, standing
from train.layout import Layout
from train.lock import lock_holder, locked
from train.metrics import Metrics
from train.parallel import Step, norm_images, training_step
from train.preemption import Reached, preemption
from train.report import Report, Silence, is_finished
from train.run import Run, check_claim, checkpoint_folder, claim
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
    with contextlib.ExitStack() as stack:
        reached = stack.enter_context(preemption())
        layout = Layout.of(config)
        if config.parallel.batch_norm == "device":  # on other devices it would be another run
            parallel = dataclasses.replace(config.parallel, batch_norm=norm_images(config, layout.num_devices))
            config = dataclasses.replace(config, parallel=parallel)
        dataset = open_dataset(config.data)
        run = describe(config, dataset)
        check_agreement(run, dataset)
        take_step = training_step(run, layout)
        noisy = with_label_noise(dataset.train, config.data.label_noise, len(run.class_names), config.seed)
        training, test = (Reader(split, config.data, run.image_shape) for split in (noisy, dataset.test))

        def take() -> tuple[bool, str]:
            check_claim(run, workdir)  # before anything is written there
            stack.enter_context(locked(workdir))
            finished = is_finished(workdir, run.total_steps)
            if not finished:
                claim(run, workdir, dataset.origin)
            return finished, lock_holder(workdir)

        finished, holder = on_first("take the work directory", take)
        check_shared(workdir, holder)
        kept = (config.keep_last_checkpoints, config.keep_best_checkpoints)
        checkpoints = Checkpoints(checkpoint_folder(workdir), *kept)
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(failing_together())
        begin, images = _start(run, layout, checkpoints, training)
        step = int(begin.state.step)
        evaluator = Evaluator(run.model(), config, test, layout, len(run.class_names))
        if finished and step == run.total_steps:
            if is_first():
                print(f"{workdir} is finished at step {run.total_steps}")
            return _evaluate(evaluator, begin.state, reached)
        evaluated = begin.accuracy is not None and step < run.total_steps
        report = Report(workdir, step, run.total_steps, evaluated) if is_first() else Silence()
        stack.enter_context(contextlib.closing(report))
        print(standing(config.data.batch_size), flush=True)
        for line in begin.told:
            report.say(line)
        loop = _Loop(run, layout, take_step, checkpoints, evaluator, report, (training, test), reached)
        return loop.train(begin, evaluated, images)


def describe(config: Config, dataset: Dataset) -> Run:
    """Checks that the settings fit the data, and says what the run is."""
    classes = len(dataset.class_names)
    if config.model.num_classes not in (None, classes):
        raise UserError(f"model.num_classes={config.model.num_classes}, but {config.data.source} has {classes} classes")
    shape = image_shape(dataset.train, config.data)
    for name in ("mean", "std"):
        if len(getattr(config.data, name)) not in (1, shape[-1]):
            raise UserError(f"data.{name}={getattr(config.data, name)} does not fit {shape[-1]} channels")
    return Run(config, dataset.class_names, shape, len(dataset.train))


def _start(
    run: Run, layout: Layout, checkpoints: Checkpoints, training: Reader
) -> tuple[Restored, grain.DatasetIterator]:
    """What the newest whole checkpoint holds, or the beginning; and the training images from there on."""
    images = training_iterator(training, run.config.seed, (jax.process_index(), jax.process_count()))
    restored = checkpoints.restore_newest(layout.abstract(run.abstract_state()))
    if restored is None:
        return Restored(layout.put_state(run.fresh_state()), Metrics.zero().sums(), None, []), images
    images.set_state({"next_index": int(restored.state.step)})
    return restored, images


class _PreemptedError(Exception):
    """SIGTERM came during an evaluation."""


def _evaluate(evaluator: Evaluator, state: TrainState, reached: Reached) -> Evaluation | None:
    """The figures of a state; None where SIGTERM comes before the end."""

    def check() -> None:
        if reached():
            raise _PreemptedError

    try:
        return evaluator(state.evaluated, check)
    except _PreemptedError:
        return None


@dataclasses.dataclass(frozen=True)
class _Loop:
    run: Run
    layout: Layout
    take_step: Step
    checkpoints: Checkpoints
    evaluator: Evaluator
    report: Report | Silence
    readers: tuple[Reader, Reader]
    reached: Reached

    def train(self, begin: Restored, evaluated: bool, images: grain.DatasetIterator) -> Evaluation | None:
        """Trains from a state on; `evaluated` says whether its figures on the test images stand."""
        config, report, take_step = self.run.config, self.report, self.take_step
        start, total = int(begin.state.step), self.run.total_steps
        schedule, speed = self.run.schedule(), _Speed(config.data.batch_size, start)
        report.start(self.run)

        def enter(sums: Metrics) -> Any:
            return take_step.enter(self.layout.put(sums))

        state, metrics = take_step.enter(begin.state), enter(Metrics.of(begin.sums))
        for step in range(start, total + 1):
            stop, result = self.reached(), None
            due = self._evaluates_at(step) and (step > start or not evaluated)
            if step and (stop or due or step % config.checkpoint_every_steps == 0):
                sums = self._checked(take_step.leave(metrics))
                result = self._evaluate_and_save(step, take_step.leave(state), sums, due and not stop)
                stop = stop or (due and result is None)
                speed.restart(step)
            if stop:
                self.checkpoints.wait()
                kept = f"saved at step {step} of {total}" if step else "nothing to save yet"
                report.say(f"SIGTERM: {kept}; the same command goes on from there")
                return None
            if step == total:
                break
            state, metrics = take_step(state, metrics, next(images))
            report.tick()
            if step == start:
                jax.block_until_ready(metrics)
                report.compiled()
            if (step + 1) % config.log_every_steps == 0 or step + 1 == total:
                self.checkpoints.check()
                sums = self._checked(take_step.leave(metrics))
                figures = sums.figures(guided=config.ggam.weight > 0)
                figures["learning_rate"] = float(jax.device_get(schedule(step)))
                report.training(step + 1, figures | {"images_per_second": speed(step + 1)})
                metrics = enter(Metrics.zero())
            elif step == start:
                speed.restart(step + 1)
        assert result is not None
        self._finish(result)
        return result

    def _evaluates_at(self, step: int) -> bool:
        return step == self.run.total_steps or (step > 0 and step % self.run.config.evaluate_every_steps == 0)

    def _evaluate_and_save(self, step: int, state: TrainState, sums: Metrics, evaluate: bool) -> Evaluation | None:
        result = _evaluate(self.evaluator, state, self.reached) if evaluate else None
        if result is not None:
            self.report.evaluation(step, result)
        self.checkpoints.save(step, state, sums.sums(), result.accuracy if result else None)
        return result

    def _checked(self, metrics: Metrics) -> Metrics:
        """Fetches the sums.

        Raises:
          UserError: something was not finite.
        """
        sums: Metrics = jax.device_get(metrics)
        if sums.bad_step < 0:
            return sums
        self.checkpoints.wait()
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
        raise UserError(
            f"loss, gradient or parameters are not finite at step {int(sums.bad_step) + 1} ({kept}): lower "
            "optimizer.learning_rate, or set schedule.warmup or optimizer.clip_norm, with another --workdir"
        )

    def _finish(self, result: Evaluation) -> None:
        self.checkpoints.wait()
        unreadable = gather("unreadable images", sorted(set.union(*(reader.unreadable for reader in self.readers))))
        self.report.finish(result, self.run.class_names, sorted(set().union(*unreadable)))


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
