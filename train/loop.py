"""The training loop. Its order is a contract.

evaluate(old state) -> save(state, position of the images) -> next(batch) -> step -> log. The images move on only after
the save, so that a resumed run is the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial

import grain
import jax

from train.checkpoint import Checkpoints
from train.config import Config
from train.data import Dataset, Reader, image_shape, open_dataset, training_iterator
from train.errors import UserError
from train.evaluate import Evaluation, Evaluator
from train.metrics import Metrics
from train.parallel import Layout
from train.report import Report, is_finished
from train.run import Run, check_claim, claim
from train.state import TrainState
from train.step import train_step


def train(config: Config, workdir: str) -> Evaluation:
    """Trains, or resumes, the run in a folder to its end.

    Args:
      config: the settings.
      workdir: the run's folder. Where it holds the same run, it is resumed; only durations, intervals and the number
        of devices may differ.

    Returns:
      The figures of the last state on the test images.

    Raises:
      UserError: settings, data or folder do not allow it, or the loss is no longer finite.
    """
    layout = Layout.of_local_devices(config.data.batch_size)
    dataset = open_dataset(config.data)
    run = describe(config, dataset)
    check_claim(run, workdir)
    finished = is_finished(workdir, config.steps(run.num_examples))
    if not finished:
        claim(run, workdir)
    training, test = (Reader(split, config.data, run.image_shape) for split in (dataset.train, dataset.test))
    folder = os.path.join(workdir, "checkpoints")
    keep = (config.keep_last_checkpoints, config.keep_best_checkpoints)
    with contextlib.closing(Checkpoints(folder, *keep)) as checkpoints:
        state, images = _start(run, layout, checkpoints, training)
        evaluator = Evaluator(run.model(), config, test, layout, len(run.class_names))
        total = config.steps(run.num_examples)
        if finished:
            print(f"{workdir} is finished at step {total}")
            return evaluator(state.evaluated)
        with contextlib.closing(Report(workdir, int(state.step), total)) as report:
            return _train(run, layout, checkpoints, evaluator, report, state, images, (training, test))


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
) -> tuple[TrainState, grain.DatasetIterator]:
    """State and training images at the last checkpoint, or at the beginning."""
    images = training_iterator(training, run.config.seed)
    if not checkpoints.steps():
        return layout.put(run.fresh_state()), images
    state, position = checkpoints.restore(checkpoints.find("last"), run.abstract_state(layout))
    images.set_state(position)
    return state, images


def _train(
    run: Run,
    layout: Layout,
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    report: Report,
    state: TrainState,
    images: grain.DatasetIterator,
    readers: tuple[Reader, Reader],
) -> Evaluation:
    config, schedule = run.config, run.schedule()
    start, total = int(state.step), config.steps(run.num_examples)
    report.start(run)

    step_fn = jax.jit(
        partial(train_step, run.model(), run.optimizer(), config),
        in_shardings=(layout.replicated, layout.replicated, layout.split),
        out_shardings=layout.replicated,
        donate_argnums=(0, 1),
    )

    def evaluate_and_save(step: int) -> Evaluation | None:
        evaluation = None
        if step == total or step % config.evaluate_every_steps == 0:
            evaluation = evaluator(state.evaluated)
            report.evaluation(step, evaluation)
        checkpoints.save(state, images.get_state(), evaluation.accuracy if evaluation else None)
        return evaluation

    metrics, speed = layout.put(Metrics.zero()), _Speed(config.data.batch_size, start)
    for step in range(start, total):
        due = (config.evaluate_every_steps, config.checkpoint_every_steps)
        if step > start and any(step % every == 0 for every in due):
            _check_finite(metrics, checkpoints)
            evaluate_and_save(step)
            speed.restart(step)
        state, metrics = step_fn(state, metrics, layout.put_batch(next(images)))
        report.tick()
        if (step + 1) % config.log_every_steps == 0 or step + 1 == total:
            _check_finite(metrics, checkpoints)
            figures = _figures(metrics) | {"learning_rate": float(jax.device_get(schedule(step)))}
            report.training(step + 1, figures | {"images_per_second": speed(step + 1)})
            metrics = layout.put(Metrics.zero())
        elif step == start:
            jax.block_until_ready(metrics)
            report.compiled()
            speed.restart(step + 1)

    result = evaluate_and_save(total)
    assert result is not None
    checkpoints.wait()
    unreadable = sorted(set.union(*(reader.unreadable for reader in readers)))
    report.finish(result, run.class_names, unreadable)
    return result


def _figures(metrics: Metrics) -> dict[str, float]:
    sums = jax.device_get(metrics)
    return {"loss": float(sums.loss) / int(sums.count), "accuracy": int(sums.correct) / int(sums.count)}


def _check_finite(metrics: Metrics, checkpoints: Checkpoints) -> None:
    bad_step = int(jax.device_get(metrics.bad_step))
    if bad_step < 0:
        return
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
