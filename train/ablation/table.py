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
from train.tasks.task import Column, Task

TRAINING = (
    Column("training_loss", "training_loss", "last training loss", 4),
    Column("step", "step", "step, ms", 1),
)
"""Metrics of the training, for all tasks.

`training_loss` is the mean of the last log interval. `step` includes the input pipeline and excludes compilation: the
median over the log lines; for seeds trained together, the time of their common step divided by their number.
"""


def read_outcome(task: Task, workdir: str) -> dict[str, float]:
    """The results of a finished run, by column."""
    with open(os.path.join(workdir, "summary.json")) as file:
        summary = json.load(file)
    records = [record for record in read_metrics(workdir) if record["split"] == "train"]
    size = read_run(workdir).config.data.batch_size
    tested = {
        column.name: column.convert(summary[f"test_{column.figure}"])
        for column in task.columns
        if f"test_{column.figure}" in summary
    }
    times = [1000 * size / record["images_per_second"] for record in records]
    return tested | {"training_loss": records[-1]["loss"], "step": statistics.median(times)}


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant and its finished seeds."""

    variant: str
    run: Run
    parameters: int
    macs: int
    outcomes: Sequence[Mapping[str, float]]
    published: str
    origins: Sequence[str]

    @classmethod
    def read(cls, variant: str, task: Task, workdirs: Sequence[str], published: str) -> Row:
        """Reads the row from the folders of a variant's finished runs, at least one."""
        run = read_run(workdirs[0])
        outcomes = [read_outcome(task, workdir) for workdir in workdirs]
        machines = [origin for workdir in workdirs for origin in origins(workdir)]
        return cls(variant, run, *_counts(task.model(run), (1, *run.image_shape)), outcomes, published, machines)

    def figures(self, name: str) -> list[float]:
        """A metric of all seeds; empty if unknown."""
        return [outcome[name] for outcome in self.outcomes if name in outcome]


@functools.cache
def _counts(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Number of parameters and of multiply-accumulates."""
    return attnjax.count_parameters(model, shape), attnjax.count_macs(model, shape)


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


def write_table(folder: str, task: Task, rows: Sequence[Row], head: Sequence[str], source: str) -> list[str]:
    """Writes table.md, table.csv and plot.png, and returns the lines of table.md.

    Args:
      folder: output folder.
      task: the task of the runs.
      rows: the variants.
      head: lines above the table, see `about`.
      source: source of the published results; empty if there are none.
    """
    tested = [column._replace(title=f"test {column.title}") for column in task.columns]
    columns = [column for column in (*tested, *TRAINING) if any(row.figures(column.name) for row in rows)]
    lines = markdown(rows, columns, head, source)
    with replacing(os.path.join(folder, "table.md")) as path, open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    with replacing(os.path.join(folder, "table.csv")) as path, open(path, "w", encoding="utf-8") as file:
        records = [_record(row, columns, source) for row in rows]
        table = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(records)
    save(plot(rows, tested[0], head[0]), os.path.join(folder, "plot.png"))
    return lines


def markdown(rows: Sequence[Row], columns: Sequence[Column], head: Sequence[str], source: str) -> list[str]:
    """The lines of the table in Markdown: means, and standard deviations over two or more seeds."""
    titles = ["variant", "parameters", "MACs", "seeds", *(column.title for column in columns)]
    titles += [f"published ({source})"] * bool(source)
    lines = [*head, "", *_cells([titles, ["---"] * len(titles)])]
    for row in rows:
        cells = [row.variant, f"{row.parameters:,}", f"{row.macs:,}", str(len(row.outcomes))]
        cells += [_mean_and_deviation(row.figures(column.name), column.decimals) for column in columns]
        lines += _cells([cells + [row.published] * bool(source)])
    return lines


def _cells(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]


def _mean_and_deviation(values: Sequence[float], decimals: int) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{decimals}f}"
    return f"{mean} +- {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else mean


def _record(row: Row, columns: Sequence[Column], source: str) -> Mapping[str, Any]:
    record: dict[str, Any] = {"variant": row.variant, "parameters": row.parameters, "macs": row.macs}
    record["seeds"] = len(row.outcomes)
    for column in columns:
        values = row.figures(column.name)
        record[f"{column.name}_mean"] = statistics.mean(values) if values else ""
        record[f"{column.name}_sd"] = statistics.stdev(values) if len(values) > 1 else ""
    return record | {"published": row.published, "source": source}


def plot(rows: Sequence[Row], score: Column, title: str) -> Figure:
    """Plots the score of each variant: every seed, mean and standard deviation."""
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(rows)), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows):
        values = row.figures(score.name)
        spread = statistics.stdev(values) if len(values) > 1 else None
        axis.plot(values, [y + 0.18] * len(values), "o", color="0.55", alpha=0.6, markersize=4)
        axis.errorbar(statistics.mean(values), y, xerr=spread, fmt="D", color="C0", capsize=4, markersize=5)
    labels = [f"{row.variant}, n = {len(row.outcomes)}" for row in rows]
    axis.set_yticks(range(len(rows)), labels, parse_math=False)
    axis.set(xlabel=f"{score.title}: seeds, mean and standard deviation", ylim=(len(rows) - 0.5, -0.5))
    axis.set_title(title, fontsize=9, parse_math=False, wrap=True)
    axis.grid(axis="x", alpha=0.3)
    return figure
