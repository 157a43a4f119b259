"""Output of a run: progress, metrics.jsonl, TensorBoard events, and plots at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tqdm import tqdm

from train.config.atomic import replacing
from train.runs.checkpoint import checkpoint_steps
from train.runs.record import checkpoint_folder
from train.tasks.plots import draw_curves
from train.tasks.recipe import Run
from train.tasks.task import Evaluation, Task


class Report:
    """Reports a run on standard output and in its folder.

    Args:
      workdir: the run's folder.
      task: names the metrics to print.
      step: the step at which the run starts or resumes; records of later steps are removed from metrics.jsonl.
      total_steps: the last step.
      evaluated: whether to keep the test record of `step` itself.
      label: prefix of the run's log lines, if it is one of several; such a run prints little more than evaluations.
    """

    def __init__(
        self,
        workdir: str,
        task: Task,
        step: int,
        total_steps: int,
        evaluated: bool = False,
        label: str | None = None,
    ) -> None:
        self._workdir, self._task, self._total, self._label = workdir, task, total_steps, label
        self._jsonl_path = os.path.join(workdir, "metrics.jsonl")
        self._rewind(step, evaluated)
        self._jsonl = open(self._jsonl_path, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._events = EventFileWriter(os.path.join(workdir, "tensorboard"))
        restart = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=step + 1, session_log=restart))
        self._bar: tqdm[Any] | None = None
        self._opened = self._started = time.perf_counter()
        self._resumed_at = self._first_step = step

    def _rewind(self, step: int, evaluated: bool) -> None:
        records = [record for record in read_metrics(self._workdir) if record["step"] <= step]
        if not evaluated:
            records = [record for record in records if (record["step"], record["split"]) != (step, "test")]
        with replacing(self._jsonl_path) as path, open(path, "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def start(self, run: Run, bar: bool = True) -> None:
        """Prints what is trained and the step at which it resumes; starts the progress bar on a terminal."""
        step, total = self._first_step, self._total
        if step:
            self.say(f"{self._workdir} resumes at step {step} of {total}")
        config, (height, width, channels) = run.config, run.image_shape
        self._detail(
            f"{config.model.name} on {config.data.source}: {run.num_examples} training images of "
            f"{height}x{width}x{channels}, {len(run.class_names)} classes, {total} steps of {config.data.batch_size}"
        )
        if config.data.batch_size > run.num_examples:
            self._detail("a batch is larger than the data set: it repeats images")
        if bar and _is_terminal():
            self._bar = tqdm(total=total, initial=step, unit="step", file=sys.stdout)
            self._bar.set_postfix_str("compiling")

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(text if self._label is None else f"{self._label}: {text}", flush=True)

    def _detail(self, text: str) -> None:
        if self._label is None:
            self.say(text)

    def compiled(self) -> None:
        """Prints the time up to the end of the first step, and restarts the clock."""
        self._detail(f"first step after {time.perf_counter() - self._started:.0f} s, most of it compilation")
        self._started, self._first_step = time.perf_counter(), self._first_step + 1
        if self._bar is not None:
            self._bar.set_postfix_str("")

    def tick(self) -> None:
        """Advances the progress bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def training(self, step: int, figures: dict[str, float]) -> None:
        """Logs the training metrics since the last call, which include images_per_second."""
        self._record(step, "train", figures)
        text = f"{self._headlines(figures)}, {figures['images_per_second']:.0f} images/s"
        if self._bar is None:
            self._detail(f"step {step}/{self._total}: {text}{self._remaining(step)}")
        else:
            self._bar.set_postfix_str(text)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Logs the metrics on the test images."""
        self._record(step, "test", evaluation.figures())
        self.say(f"step {step}/{self._total}: {self._headlines(evaluation.figures(), 'test ')}")

    def _headlines(self, figures: Mapping[str, float], split: str = "") -> str:
        names = self._task.headlines
        return ", ".join(f"{split}{names[name]} {figures[name]:.4f}" for name in names if name in figures)

    def _record(self, step: int, split: str, figures: dict[str, float]) -> None:
        self._jsonl.write(json.dumps({"step": step, "split": split, **figures}) + "\n")
        values = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in figures.items()]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _remaining(self, step: int) -> str:
        done = step - self._first_step
        if done == 0:
            return ""
        seconds = (time.perf_counter() - self._started) / done * (self._total - step)
        return f", {tqdm.format_interval(seconds)} left"

    def finish(self, run: Run, evaluation: Evaluation, unreadable: list[str]) -> None:
        """Closes the progress bar and writes the task's files, curves.png and summary.json."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        seconds = time.perf_counter() - self._opened
        summary = {
            "steps": self._total,
            "resumed_at_step": self._resumed_at,
            **{f"test_{name}": value for name, value in evaluation.figures().items()},
            "test_images": evaluation.count,
            "seconds": round(seconds, 1),
            "unreadable_images": unreadable,
        }
        curves = os.path.join(self._workdir, "curves.png")
        draw_curves(read_metrics(self._workdir), self._task.columns[0], curves)
        self._task.write(self._workdir, run, evaluation)
        with replacing(os.path.join(self._workdir, "summary.json")) as path, open(path, "w") as file:
            json.dump(summary, file, indent=2)
        if unreadable:
            self.say(f"{len(unreadable)} unreadable images skipped, see summary.json")
        self._detail(f"steps {self._resumed_at} to {self._total} took {seconds:.0f} s; results are in {self._workdir}")

    def close(self) -> None:
        """Closes files and progress bar."""
        self._jsonl.close()
        self._events.close()
        if self._bar is not None:
            self._bar.close()


class NullReport:
    """The report of processes other than the first: prints and writes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Reads metrics.jsonl and skips invalid lines, such as one cut short by a kill."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, errors="replace") as file:
        return [record for record in map(_parse, file) if isinstance(record, dict) and {"step", "split"} <= set(record)]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def is_finished(workdir: str, total_steps: int) -> bool:
    """Whether a run of `total_steps` has finished and written its results."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.exists(path) or total_steps not in checkpoint_steps(checkpoint_folder(workdir)):
        return False
    with open(path, errors="replace") as file:
        summary = _parse(file.read())
    return isinstance(summary, dict) and summary.get("steps") == total_steps


def _is_terminal() -> bool:
    """Whether standard output is a terminal with room for a progress bar."""
    try:
        return sys.stdout.isatty() and min(os.get_terminal_size(sys.stdout.fileno())) > 0
    except OSError:
        return False


class Speed:
    """Images per second since the last reading or restart.

    Args:
      images: images per step.
      step: first step.
    """

    def __init__(self, images: int, step: int) -> None:
        self._images, self._rate = images, 0.0
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts measuring at a step."""
        self._step, self._time = step, time.perf_counter()

    def __call__(self, step: int) -> float:
        """The rate up to a step; repeated readings at the same step return the same value."""
        if step != self._step:
            self._rate = round((step - self._step) * self._images / (time.perf_counter() - self._time), 1)
            self.restart(step)
        return self._rate
