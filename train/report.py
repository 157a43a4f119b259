"""What is seen of a run: progress, metrics.jsonl, TensorBoard events, and pictures at the end."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tqdm import tqdm

from train.checkpoint import checkpoint_steps
from train.evaluate import Evaluation
from train.files import replacing
from train.run import Run, checkpoint_folder

matplotlib.use("Agg")


class Report:
    """Tells of a run on standard output and in its folder.

    Args:
      workdir: the run's folder.
      step: the step that the run starts or resumes at; what the files tell of later steps is taken back.
      total_steps: the step it ends at.
      evaluated: whether what they tell of the test images at this very step stands.
    """

    def __init__(self, workdir: str, step: int, total_steps: int, evaluated: bool = False) -> None:
        self._workdir, self._total = workdir, total_steps
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

    def start(self, run: Run) -> None:
        """Says what is trained, and where the run goes on; on a terminal the progress bar begins."""
        step, total = self._first_step, self._total
        if step:
            self.say(f"{self._workdir} resumes at step {step} of {total}")
        config, (height, width, channels) = run.config, run.image_shape
        self.say(
            f"{config.model.name} on {config.data.source}: {run.num_examples} training images of "
            f"{height}x{width}x{channels}, {len(run.class_names)} classes, {total} steps of {config.data.batch_size}"
        )
        if config.data.batch_size > run.num_examples:
            self.say("a batch is larger than the data set: it has images several times")
        if _is_terminal():
            self._bar = tqdm(total=total, initial=step, unit="step", file=sys.stdout)
            self._bar.set_postfix_str("compiling")

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar where there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def compiled(self) -> None:
        """Says how long it took up to the end of the first step; time is counted from here on."""
        self.say(f"first step after {time.perf_counter() - self._started:.0f} s, most of it compilation")
        self._started, self._first_step = time.perf_counter(), self._first_step + 1
        if self._bar is not None:
            self._bar.set_postfix_str("")

    def tick(self) -> None:
        """Moves the progress bar on by a step."""
        if self._bar is not None:
            self._bar.update()

    def training(self, step: int, figures: dict[str, float]) -> None:
        """Tells the figures since the last call; loss, accuracy and images_per_second are among them."""
        self._record(step, "train", figures)
        text = (
            f"loss {figures['loss']:.4f}, top-1 {figures['accuracy']:.4f}, {figures['images_per_second']:.0f} images/s"
        )
        if self._bar is None:
            print(f"step {step}/{self._total}: {text}{self._remaining(step)}", flush=True)
        else:
            self._bar.set_postfix_str(text)

    def evaluation(self, step: int, result: Evaluation) -> None:
        """Tells the figures on the test images."""
        self._record(
            step, "test", {"loss": result.loss, "accuracy": result.accuracy, "top5_accuracy": result.top5_accuracy}
        )
        self.say(f"step {step}/{self._total}: test loss {result.loss:.4f}, test top-1 {result.accuracy:.4f}")

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

    def finish(self, result: Evaluation, class_names: tuple[str, ...], unreadable: list[str]) -> None:
        """Ends the progress bar, writes summary.json, curves.png, confusion.csv and confusion.png, and says where."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        seconds = time.perf_counter() - self._opened
        summary = {
            "steps": self._total,
            "resumed_at_step": self._resumed_at,
            "test_accuracy": result.accuracy,
            "test_loss": result.loss,
            "test_images": result.count,
            "seconds": round(seconds, 1),
            "unreadable_images": unreadable,
        }
        with replacing(os.path.join(self._workdir, "summary.json")) as path, open(path, "w") as file:
            json.dump(summary, file, indent=2)
        with replacing(os.path.join(self._workdir, "confusion.csv")) as path, open(path, "w", errors="replace") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["true", *class_names])
            table.writerows([name, *row] for name, row in zip(class_names, result.confusion.tolist(), strict=True))
        _draw_curves(self._workdir)
        _draw_confusion(self._workdir, result.confusion, class_names)
        if unreadable:
            self.say(f"{len(unreadable)} unreadable images skipped, see summary.json")
        self.say(f"steps {self._resumed_at} to {self._total} took {seconds:.0f} s, the run lies in {self._workdir}")

    def close(self) -> None:
        """Closes files and progress bar."""
        self._jsonl.close()
        self._events.close()
        if self._bar is not None:
            self._bar.close()


class Silence:
    """The report of a process that is not the first: it says and writes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; what is no record, such as a line cut short by a kill, is passed over."""
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
    """Whether a run of that duration has come to its end, pictures and all."""
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


def _draw_curves(workdir: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    records = read_metrics(workdir)
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for split in ("train", "test"):
        part = [record for record in records if record["split"] == split]
        steps = [record["step"] for record in part]
        axes[0].plot(steps, [record["loss"] for record in part], ".-", label=split)
        axes[1].plot(steps, [100 * (1 - record["accuracy"]) for record in part], ".-", label=split)
        if split == "train":
            axes[2].plot(steps, [record["learning_rate"] for record in part], ".-")
    for axis, title in zip(axes, ("loss", "top-1 error, %", "learning rate"), strict=True):
        axis.set(title=title, xlabel="step", xlim=(0, 1.03 * max(record["step"] for record in records)))
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_ylim(-0.1, 120)
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].legend()
    axes[1].legend()
    _save(figure, os.path.join(workdir, "curves.png"))


def _draw_confusion(workdir: str, confusion: np.ndarray, class_names: tuple[str, ...]) -> None:
    import matplotlib.pyplot as plt

    n = len(class_names)
    side = min(12.0, 4 + 0.35 * n)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(title="Confusion on the test images", xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
    if n <= 40:
        crowded = n * max(map(len, class_names)) > 40
        names = [name.encode(errors="replace").decode() for name in class_names]
        axis.set_xticks(range(n), names, rotation=90 if crowded else 0, parse_math=False)
        axis.set_yticks(range(n), names, parse_math=False)
    if n <= 20:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, ax=axis, shrink=0.8, label="share of the true class")
    _save(figure, os.path.join(workdir, "confusion.png"))


def _save(figure: Any, path: str) -> None:
    import matplotlib.pyplot as plt

    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
