"""Image classification, the task of `python -m train`."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np

import attnjax
from attnjax.layers import BatchNorm
from attnjax.losses import GGAM, CrossEntropy
from attnjax.models import GGAMNet
from attnjax.training import Mixup, Normalize
from train.config import Config
from train.config.atomic import replacing
from train.config.errors import UserError
from train.data import (
    Batch,
    Dataset,
    Reader,
    evaluation_batches,
    image_shape,
    open_dataset,
    training_iterator,
    with_label_noise,
)
from train.tasks.recipe import Run
from train.tasks.task import Column, Objective, mean


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics over all test images.

    Attributes:
      loss: mean cross-entropy, without smoothing.
      accuracy: top-1 accuracy.
      top5_accuracy: top-5 accuracy.
      count: number of images.
      confusion: confusion matrix, int (true class, predicted class).
      kl: mean of GGAM's guidance loss, unweighted; None for nets without GGAM's attention.
      correlation: mean over the images of the correlation of S and W over the channels; None for other nets.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    count: int
    confusion: np.ndarray
    kl: float | None = None
    correlation: float | None = None

    def figures(self) -> dict[str, float]:
        """The metrics by name, as reported."""
        values = {name: getattr(self, name) for name in ("loss", "accuracy", "top5_accuracy", "kl", "correlation")}
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Classification:
    """Image classification; see `train.tasks.task.Task` for the methods."""

    score: ClassVar[str] = "accuracy"
    headlines: ClassVar[Mapping[str, str]] = {"loss": "loss", "accuracy": "top-1"}
    columns: ClassVar[Sequence[Column]] = (
        Column("error", "accuracy", "top-1 error, %", 2, lambda accuracy: 100 * (1 - accuracy)),
        Column("loss", "loss", "loss", 4),
        Column("kl", "kl", "guidance loss", 4),
        Column("correlation", "correlation", "correlation of S and W", 2),
    )
    outputs: ClassVar[Sequence[str] | None] = None

    def open(self, config: Config) -> Dataset:
        return open_dataset(config.data)

    def define(self, config: Config, dataset: Dataset) -> Run:
        classes, data = len(dataset.class_names), config.data
        if config.model.num_classes not in (None, classes):
            raise UserError(f"model.num_classes={config.model.num_classes}, but {data.source} has {classes} classes")
        shape = image_shape(dataset.train, data)
        for name in ("mean", "std"):
            if len(getattr(data, name)) not in (1, shape[-1]):
                raise UserError(f"data.{name}={getattr(data, name)} does not fit {shape[-1]} channels")
        return Run(config, dataset.class_names, shape, len(dataset.train))

    def image_shape(self, config: Config) -> tuple[int, int, int]:
        size = config.data.image_size
        if size is None:
            raise UserError("set data.image_size: the data set is not opened here")
        return size, size, config.data.channels or 3

    def model(self, run: Run, norm: Mapping[str, Any] | None = None) -> nn.Module:
        settings = run.config.model
        return attnjax.create_model(
            settings.name,
            num_classes=len(run.class_names),
            dtype=jnp.dtype(settings.dtype),
            norm=attnjax.Partial(BatchNorm, **(norm or {})),
            **settings.options,
        )

    def objective(self, run: Run, model: nn.Module) -> Objective:
        config, data = run.config, run.config.data
        loss: Any = CrossEntropy(config.label_smoothing)
        evaluation_loss: Any = CrossEntropy()
        if isinstance(model, GGAMNet) and model.attention is not None:
            size = data.batch_size if config.ggam.reduction == "sum" else None
            evaluation_loss = GGAM(**dataclasses.asdict(config.ggam), smoothing=config.label_smoothing, batch_size=size)
            loss = evaluation_loss if config.ggam.weight > 0 else loss
        mixes = data.mixup or data.cutmix
        mix = Mixup(len(run.class_names), mixup=data.mixup, cutmix=data.cutmix) if mixes else None
        return Objective(loss, evaluation_loss, Normalize(data.mean, data.std), mix)

    def abstract_batch(self, run: Run) -> dict[str, jax.ShapeDtypeStruct]:
        size = run.config.data.batch_size
        return {
            "image": jax.ShapeDtypeStruct((size, *run.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        }

    def training_images(self, run: Run, dataset: Dataset) -> Reader:
        data, seed = run.config.data, run.config.seed
        train = dataset.train
        if data.label_noise:
            train = with_label_noise(train, data.label_noise, len(run.class_names), seed)
        return Reader(train, data, run.image_shape)

    def test_images(self, run: Run, dataset: Dataset) -> Reader:
        return Reader(dataset.test, run.config.data, run.image_shape)

    def training_batches(self, run: Run, images: Reader, process: tuple[int, int]) -> grain.DatasetIterator:
        return training_iterator(images, run.config.seed, process)

    def evaluation_batches(self, run: Run, images: Reader, process: tuple[int, int]) -> Iterator[Batch]:
        return evaluation_batches(images, process)

    def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
        names = {"loss": "loss", "accuracy": "correct", "kl": "kl"}
        return {name: mean(sums, total) for name, total in names.items() if total in sums}

    def evaluation(
        self, run: Run, images: Any, sums: Mapping[str, Any], outputs: Sequence[tuple[Any, Batch]]
    ) -> Evaluation:
        return Evaluation(
            loss=mean(sums, "loss"),
            accuracy=mean(sums, "correct"),
            top5_accuracy=mean(sums, "top5"),
            count=int(sums["count"]),
            confusion=np.asarray(sums["confusion"]),
            **{name: mean(sums, name) for name in ("kl", "correlation") if name in sums},
        )

    def lines(self, evaluation: Evaluation) -> list[str]:
        lines = [f"test_loss={evaluation.loss:.4f} on {evaluation.count} images"]
        if evaluation.kl is not None:
            lines.append(f"test_kl={evaluation.kl:.3g}, test_correlation={evaluation.correlation:.4f}")
        if len(evaluation.confusion) > 5:
            lines.append(f"test_top5_accuracy={evaluation.top5_accuracy:.4f}")
        return [*lines, f"test_accuracy={evaluation.accuracy:.4f}"]

    def write(self, workdir: str, run: Run, evaluation: Evaluation) -> None:
        from train.tasks.plots import draw_confusion

        names, confusion = run.class_names, evaluation.confusion
        with replacing(os.path.join(workdir, "confusion.csv")) as path, open(path, "w", errors="replace") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["true", *names])
            table.writerows([name, *row] for name, row in zip(names, confusion.tolist(), strict=True))
        draw_confusion(confusion, names, os.path.join(workdir, "confusion.png"))


CLASSIFICATION = Classification()
