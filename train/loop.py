"""The training loop. Its order is a contract.

evaluate(old state) -> save(state, position of the images) -> next(batch) -> step -> log. The images move on only after
the save, so that a resumed run is the run. Every process runs it; process 0 alone writes reports and speaks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import grain
import jax

from train.checkpoint import Checkpoints
from train.config import Config, flatten
from train.data import Dataset, Reader, image_shape, open_dataset, training_iterator, with_label_noise
from train.errors import UserError
from train.evaluate import Evaluation, Evaluator
from train.hosts import SharedError, failing_together, gather, is_first, on_first, standing
from train.layout import Layout
from train.lock import lock_holder, locked
from train.metrics import Metrics
from train.parallel import Step, training_step
from train.preemption import preemption
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
    layout = Layout.of(config)
    dataset = open_dataset(config.data)
    run = describe(config, dataset)
    check_agreement(run, dataset)
    take_step = training_step(run, layout)
    noisy = with_label_noise(dataset.train, config.data.label_noise, len(run.class_names), config.seed)
    training, test = (Reader(split, config.data, run.image_shape) for split in (noisy, dataset.test))
    with contextlib.ExitStack() as stack:

        def take() -> tuple[bool, str]:
            check_claim(run, workdir)  # before anything is written there
            stack.enter_context(locked(workdir))
            finished = is_finished(workdir, run.total_steps)
            if not finished:
                claim(run, workdir)
            return finished, lock_holder(workdir)

        finished, holder = on_first("take the work directory", take)
        check_shared(workdir, holder)
        kept = (config.keep_last_checkpoints, config.keep_best_checkpoints)
        checkpoints = Checkpoints(checkpoint_folder(workdir), *kept)
        stack.enter_context(contextlib.closing(checkpoints))
        stack.enter_context(failing_together())
        state, images, notes = _start(run, layout, checkpoints, training)
        evaluator = Evaluator(run.model(), config, test, layout, len(run.class_names))
        if finished and int(state.step) == run.total_steps:
            if is_first():
                print(f"{workdir} is finished at step {run.total_steps}")
            return evaluator(state.evaluated)
        report = Report(workdir, int(state.step), run.total_steps) if is_first() else Silence()
        stack.enter_context(contextlib.closing(report))
        print(standing(config.data.batch_size), flush=True)
        for note in notes:
            report.say(note)
        return _Loop(run, layout, take_step, checkpoints, evaluator, report, (training, test)).train(state, images)


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


def check_agreement(run: Run, dataset: Dataset) -> None:
    """Checks that all processes are about to do the same.

    Raises:
      UserError: they are not; it names a process and what differs.
    """
    mine = flatten(run.config) | {
        "class names": run.class_names,
        "training images": len(dataset.train),
        "test images": len(dataset.test),
        "devices of a process": jax.local_device_count(),
        "jax": jax.__version__,
    }
    first, *others = gather("settings", mine)
    for process, other in enumerate(others, 1):
        for name in first:
            if other[name] != first[name]:
                told = f"{name} is {first[name]!r} in process 0 and {other[name]!r} in process {process}"
                raise SharedError(f"all processes need the same: {told}")


def check_shared(workdir: str, holder: str) -> None:
    """Checks that all processes see the lock that process 0 has taken.

    Raises:
      UserError: they do not; it names them.
    """
    seen = gather("work directory", lock_holder(workdir) == holder)
    blind = [str(process) for process, sees in enumerate(seen) if not sees]
    if blind:
        raise SharedError(
            f"work directory {workdir} of process 0 is not that of process {', '.join(blind)}: all need to share it"
        )


def _start(
    run: Run, layout: Layout, checkpoints: Checkpoints, training: Reader
) -> tuple[TrainState, grain.DatasetIterator, list[str]]:
    """State and training images at the newest whole checkpoint or at the beginning, and what is to be told of it."""
    images = training_iterator(training, run.config.seed, (jax.process_index(), jax.process_count()))
    restored = checkpoints.restore_newest(layout.abstract(run.abstract_state()))
    if restored is None:
        return layout.put_state(run.fresh_state()), images, []
    state, position, notes = restored
    images.set_state(position)
    return state, images, notes


@dataclasses.dataclass(frozen=True)
class _Loop:
    run: Run
    layout: Layout
    take_step: Step
    checkpoints: Checkpoints
    evaluator: Evaluator
    report: Report | Silence
    readers: tuple[Reader, Reader]

    def train(self, state: TrainState, images: grain.DatasetIterator) -> Evaluation | None:
        config, report, take_step = self.run.config, self.report, self.take_step
        start, total = int(state.step), self.run.total_steps
        report.start(self.run)

        def zero() -> Any:
            return take_step.enter(self.layout.put(Metrics.zero()))

        def checked_sums() -> Metrics:
            sums = jax.device_get(take_step.leave(metrics))
            _check_finite(sums, self.checkpoints)
            return sums

        state, metrics = take_step.enter(state), zero()
        speed, schedule = _Speed(config.data.batch_size, start), self.run.schedule()
        with preemption() as reached:
            for step in range(start, total):
                stop = reached(step)
                due = (config.evaluate_every_steps, config.checkpoint_every_steps)
                if step > start and (stop or any(step % every == 0 for every in due)):
                    checked_sums()
                    self._evaluate_and_save(take_step.leave(state), step, images)
                    speed.restart(step)
                if stop:
                    self.checkpoints.wait()
                    kept = f"saved at step {step} of {total}" if step else "nothing to save yet"
                    report.say(f"SIGTERM: {kept}; the same command goes on from there")
                    return None
                state, metrics = take_step(state, metrics, next(images))
                report.tick()
                if (step + 1) % config.log_every_steps == 0 or step + 1 == total:
                    figures = checked_sums().figures() | {"learning_rate": float(jax.device_get(schedule(step)))}
                    report.training(step + 1, figures | {"images_per_second": speed(step + 1)})
                    metrics = zero()
                elif step == start:
                    jax.block_until_ready(metrics)
                    report.compiled()
                    speed.restart(step + 1)

        result = self._evaluate_and_save(take_step.leave(state), total, images)
        assert result is not None
        self.checkpoints.wait()
        unreadable = gather("unreadable images", sorted(set.union(*(reader.unreadable for reader in self.readers))))
        report.finish(result, self.run.class_names, sorted(set().union(*unreadable)))
        return result

    def _evaluate_and_save(self, state: TrainState, step: int, images: grain.DatasetIterator) -> Evaluation | None:
        evaluation = None
        if step == self.run.total_steps or step % self.run.config.evaluate_every_steps == 0:
            evaluation = self.evaluator(state.evaluated)
            self.report.evaluation(step, evaluation)
        self.checkpoints.save(state, images.get_state(), evaluation.accuracy if evaluation else None)
        return evaluation


def _check_finite(metrics: Metrics, checkpoints: Checkpoints) -> None:
    bad_step = int(metrics.bad_step)
    if bad_step < 0:
        return
    checkpoints.wait()
    steps = checkpoints.steps()
    kept = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
    raise UserError(
        f"loss, gradient or parameters are not finite at step {bad_step + 1} ({kept}): lower optimizer.learning_rate, "
        "or set schedule.warmup or optimizer.clip_norm, with another --workdir"
    )


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
