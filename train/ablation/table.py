"""The table of an ablation, read from the folders of its runs."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from matplotlib.figure import Figure

import attnjax
from train.config.atomic import replacing
from train.runs.record import origins, read_run
from train.runs.report import read_metrics
from train.tasks.plots import save
from train.tasks.recipe import Run
from train.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a finished run.

    Attributes:
      error: test error, %.
      loss: test loss.
      training_loss: mean training loss of the last log interval.
      kl, correlation: GGAM's guidance loss, and the correlation of S and W, on the test images; None for other nets.
      step: milliseconds per step, input pipeline included and compilation excluded: the median over the log lines. For
        seeds trained together, the time of their common step divided by their number.
    """

    error: float
    loss: float
    training_loss: float
    kl: float | None
    correlation: float | None
    step: float

    @classmethod
    def read(cls, workdir: str) -> Outcome:
        """Reads the results from the folder of a finished run."""
        with open(os.path.join(workdir, "summary.json")) as file:
            summary = json.load(file)
        records = [record for record in read_metrics(workdir) if record["split"] == "train"]
        size = read_run(workdir).config.data.batch_size
        times = [1000 * size / record["images_per_second"] for record in records]
        return cls(
            error=100 * (1 - summary["test_accuracy"]),
            loss=summary["test_loss"],
            training_loss=records[-1]["loss"],
            kl=summary.get("test_kl"),
            correlation=summary.get("test_correlation"),
            step=statistics.median(times),
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant and its finished seeds."""

    variant: str
    run: Run
    parameters: int
    macs: int
    outcomes: Sequence[Outcome]
    published: str
    origins: Sequence[str]

    @classmethod
    def read(cls, variant: str, task: Task, workdirs: Sequence[str], published: str) -> Row:
        """Reads the row from the folders of a variant's finished runs, at least one."""
        run = read_run(workdirs[0])
        outcomes = [Outcome.read(workdir) for workdir in workdirs]
        machines = [origin for workdir in workdirs for origin in origins(workdir)]
        return cls(variant, run, *_counts(task.model(run), (1, *run.image_shape)), outcomes, published, machines)

    def figures(self, name: str) -> list[float]:
        """A metric of all seeds; empty if unknown."""
        return [value for outcome in self.outcomes if (value := getattr(outcome, name)) is not None]


@functools.cache
def _counts(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Number of parameters and of multiply-accumulates."""
    return attnjax.count_parameters(model, shape), attnjax.count_macs(model, shape)


_FIGURES = {
    "error": ("test error, %", 2),
    "loss": ("test loss", 4),
    "training_loss": ("last training loss", 4),
    "kl": ("guidance loss", 4),
    "correlation": ("correlation of S and W", 2),
    "step": ("step, ms", 1),
}
"""Heading and number of decimals, by metric."""


def about(title: str, rows: Sequence[Row], seeds: str) -> list[str]:
    """The lines above the table: data, steps and seeds; where and when the runs started and resumed."""
    runs = [row.run for row in rows]
    data = {f"{run.config.data.source}, {run.num_examples} training images of {_size(run)}" for run in runs}
    steps = {f"{run.total_steps} steps of {run.config.data.batch_size}" for run in runs}
    return [
        f"{title}: {' or '.join(sorted(data))}; {' or '.join(sorted(steps))}; {seeds}.",
        *sorted({origin for row in rows for origin in row.origins}),
    ]


def _size(run: Run) -> str:
    return "x".join(map(str, run.image_shape))


def write_table(folder: str, rows: Sequence[Row], head: Sequence[str], source: str) -> list[str]:
    """Writes table.md, table.csv and plot.png, and returns the lines of table.md.

    Args:
      folder: output folder.
      rows: the variants.
      head: lines above the table, see `about`.
      source: source of the published results; empty if there are none.
    """
    names = [name for name in _FIGURES if any(row.figures(name) for row in rows)]
    lines = markdown(rows, names, head, source)
    with replacing(os.path.join(folder, "table.md")) as path, open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    with replacing(os.path.join(folder, "table.csv")) as path, open(path, "w", encoding="utf-8") as file:
        records = [_record(row, names, source) for row in rows]
        table = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(records)
    save(plot(rows, head[0]), os.path.join(folder, "plot.png"))
    return lines


def markdown(rows: Sequence[Row], names: Sequence[str], head: Sequence[str], source: str) -> list[str]:
    """The lines of the table in Markdown: means, and standard deviations over two or more seeds."""
    columns = ["variant", "parameters", "MACs", "seeds", *(_FIGURES[name][0] for name in names)]
    columns += [f"published ({source})"] * bool(source)
    lines = [*head, "", *_cells([columns, ["---"] * len(columns)])]
    for row in rows:
        cells = [row.variant, f"{row.parameters:,}", f"{row.macs:,}", str(len(row.outcomes))]
        cells += [_mean_and_deviation(row.figures(name), _FIGURES[name][1]) for name in names]
        lines += _cells([cells + [row.published] * bool(source)])
    return lines


def _cells(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]


def _mean_and_deviation(values: Sequence[float], decimals: int) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{decimals}f}"
    return f"{mean} +- {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else mean


def _record(row: Row, names: Sequence[str], source: str) -> Mapping[str, Any]:
    record: dict[str, Any] = {"variant": row.variant, "parameters": row.parameters, "macs": row.macs}
    record["seeds"] = len(row.outcomes)
    for name in names:
        values = row.figures(name)
        record[f"{name}_mean"] = statistics.mean(values) if values else ""
        record[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else ""
    return record | {"published": row.published, "source": source}


def plot(rows: Sequence[Row], title: str) -> Figure:
    """Plots the test error of each variant: every seed, mean and standard deviation."""
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows):
        values = row.figures("error")
        spread = statistics.stdev(values) if len(values) > 1 else None
        axis.plot(values, [y + 0.18] * len(values), "o", color="0.55", alpha=0.6, markersize=4)
        axis.errorbar(statistics.mean(values), y, xerr=spread, fmt="D", color="C0", capsize=4, markersize=5)
    labels = [f"{row.variant}, n = {len(row.outcomes)}" for row in rows]
    axis.set_yticks(range(len(rows)), labels, parse_math=False)
    axis.set(xlabel="test error, %: seeds, mean and standard deviation", ylim=(len(rows) - 0.5, -0.5))
    axis.set_title(title, fontsize=9, parse_math=False, wrap=True)
    axis.grid(axis="x", alpha=0.3)
    return figure
