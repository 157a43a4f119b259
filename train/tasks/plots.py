"""Plots of metrics, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from train.config.atomic import replacing
from train.tasks.task import Column


def draw_curves(records: Sequence[Mapping[str, Any]], score: Column, path: str) -> None:
    """Plots loss, score and learning rate by step, from the records of metrics.jsonl."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for split in ("train", "test"):
        part = [record for record in records if record["split"] == split]
        steps = [record["step"] for record in part]
        axes[0].plot(steps, [record["loss"] for record in part], ".-", label=split)
        scored = [record for record in part if score.figure in record]
        values = [score.convert(record[score.figure]) for record in scored]
        axes[1].plot([record["step"] for record in scored], values, ".-", label=split)
        if split == "train":
            axes[2].plot(steps, [record["learning_rate"] for record in part], ".-")
    for axis, heading in zip(axes, ("loss", score.title, "learning rate"), strict=True):
        axis.set(title=heading, xlabel="step", xlim=(0, 1.03 * max(record["step"] for record in records)))
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_ylim(-0.1, 120)
    axes[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].legend()
    axes[1].legend()
    save(figure, path)


def draw_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str) -> None:
    """Plots a confusion matrix, normalised by true class."""
    n = len(class_names)
    side = min(12.0, 4 + 0.35 * n)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
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
    save(figure, path)


def save(figure: Figure, path: str) -> None:
    """Writes a PNG file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
